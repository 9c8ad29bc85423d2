/* server.c -- see dynamo/service.h for the contract: the worker's side.
 *
 *   listener --accept--> connection --REQUEST path--> endpoint --> callback on the loop thread, or mail
 *                            |ids
 *                            v
 *                         stream --send--> [ held while there is no credit ] --> out of the connection
 *
 * I1  A stream is in the ids of its connection until its END or ERROR is in `out`, or it was killed.
 * I2  held is empty unless credit <= 0; what is held goes before anything newer.
 * I3  DYN_STREAM_FULL is set exactly while credit <= 0 and the stream is not over.
 * I4  credit, held, over, last_held, told and the state bits are guarded by the connection's lock (state may
 *     be read without).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/conn.h"

enum { MAX_PATH = 1024, MAX_TEXT = 64 << 10, HELD_WINDOWS = 4 };

struct dyn_endpoint {
    atomic_size_t refs;
    dyn_server *server; /* NULL once stopped; guarded by the server's lock */
    dyn_server *home;   /* a reference, for its lock */
    char *path;
    dyn_endpoint_events events;
    void *user;
    dyn_mailbox *mailbox; /* a reference; NULL: callbacks */
    void *owner;
    dyn_endpoint_hook hook;
    void *hook_user;
    dyn_endpoint *next;
    atomic_uint_fast64_t requests, refused, failed, items, bytes_in, bytes_out, duration_ns;
    atomic_uint inflight;
};

struct dyn_stream {
    atomic_size_t refs;     /* ids, a change under way, and one for all holders together */
    atomic_size_t holders;  /* the handler's references: the last one to go ends the stream */
    dyn__conn *conn;        /* a reference */
    dyn_endpoint *endpoint; /* a reference */
    uint64_t id, began_ns;
    atomic_uint state;
    int64_t credit, window;
    dyn_bytes held; /* whole frames */
    size_t held_from;
    bool over;      /* its handler said the last word */
    bool last_held; /* and that word is in held */
    bool told;      /* a change is on its way */
    void *user;
    dyn_stream_mail request_mail, change_mail;
    dyn_task change_task;
    dyn_slice payload;
    size_t header_count;
    dyn_pair headers[]; /* followed by the bytes of headers and payload */
};

struct dyn_server {
    atomic_size_t refs;
    dyn__plane *plane;
    int fd;
    uint16_t port;
    uv_poll_t poll; /* loop thread */
    bool polling;
    pthread_mutex_t lock; /* guards all below */
    bool closed, draining;
    dyn_endpoint *endpoints;
};

static void server_unref(dyn_server *self)
{
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    pthread_mutex_destroy(&self->lock);
    dyn__plane_unref(self->plane);
    dyn__free(self);
}

static void stream_keep(dyn_stream *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
}

static void stream_drop(dyn_stream *self)
{
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    dyn_bytes_free(&self->held);
    dyn__conn_unref(self->conn);
    dyn_endpoint_unref(self->endpoint);
    dyn__free(self);
}

/* ---- refusing, ending ---- */

static dyn_slice cut(const char *text)
{
    size_t size = text == NULL ? 0 : strlen(text);
    return (dyn_slice){(const uint8_t *)text, size < MAX_TEXT ? size : MAX_TEXT};
}

static int refuse(dyn__conn *conn, uint64_t id, int code, const char *text, dyn_cork *cork)
{
    dyn_error_frame error = {.code = (uint64_t)-code, .text = cut(text)};
    dyn__conn_lock(conn);
    int rc = dyn_error_write(&conn->out, id, &error);
    dyn__conn_push(conn, cork);
    return rc;
}

/* The handler is done with it; the books are closed. */
static void settle(dyn_stream *self, int code)
{
    dyn_endpoint *endpoint = self->endpoint;
    uint64_t took = dyn_now_ns() - self->began_ns;
    atomic_fetch_sub_explicit(&endpoint->inflight, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&endpoint->duration_ns, took, memory_order_relaxed);
    if (code != DYN_OK) atomic_fetch_add_explicit(&endpoint->failed, 1, memory_order_relaxed);
    if (endpoint->hook != NULL) endpoint->hook(endpoint->hook_user, code, took);
}

static void change_dropped(dyn_mail *mail)
{
    dyn_stream_mail *self = DYN__CONTAINER(mail, dyn_stream_mail, mail);
    dyn_stream *stream = self->stream;
    dyn__conn_lock(stream->conn);
    stream->told = false;
    dyn__conn_unlock(stream->conn);
    stream_drop(stream);
}

static void change_run(dyn_task *task)
{
    dyn_stream *self = DYN__CONTAINER(task, dyn_stream, change_task);
    dyn__conn_lock(self->conn);
    self->told = false;
    bool wanted = !self->over;
    dyn__conn_unlock(self->conn);
    if (wanted) self->endpoint->events.on_change(self->endpoint->user, self);
    stream_drop(self);
}

/* With the lock: should the handler hear of a change? Then tell() without it. */
static bool to_tell(dyn_stream *self)
{
    if (self->over || self->told || (self->endpoint->mailbox == NULL && self->endpoint->events.on_change == NULL))
        return false;
    self->told = true;
    stream_keep(self);
    return true;
}

static void tell(dyn_stream *self)
{
    if (self->endpoint->mailbox != NULL)
        dyn_mailbox_put(self->endpoint->mailbox, &self->change_mail.mail);
    else
        dyn_loop_post(self->conn->plane->loop, &self->change_task);
}

static void add_state(dyn_stream *self, unsigned bits)
{
    atomic_fetch_or_explicit(&self->state, bits, memory_order_release);
}

/* It was taken out of ids by a KILL or a broken connection; gives the reference of ids back. */
static void killed(dyn_stream *self)
{
    dyn__conn_lock(self->conn);
    add_state(self, DYN_STREAM_KILLED | DYN_STREAM_STOPPED);
    dyn_bytes_free(&self->held);
    self->held_from = 0;
    bool telling = to_tell(self);
    dyn__conn_unlock(self->conn);
    if (telling) tell(self);
    stream_drop(self);
}

/* ---- what comes in; the reading thread ---- */

static void request_dropped(dyn_mail *mail)
{
    dyn_stream *stream = DYN__CONTAINER(mail, dyn_stream_mail, mail)->stream;
    if (stream == NULL) return; /* taken */
    dyn_stream_fail(stream, &(dyn_failure){DYN_EUNAVAIL, "", "the worker is going away", ""}, NULL);
    dyn_stream_unref(stream);
}

static dyn_endpoint *find_endpoint(dyn_server *self, dyn_slice path)
{
    pthread_mutex_lock(&self->lock);
    dyn_endpoint *at = self->endpoints;
    while (at != NULL && (strlen(at->path) != path.size || memcmp(at->path, path.data, path.size) != 0)) at = at->next;
    if (at != NULL) atomic_fetch_add_explicit(&at->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&self->lock);
    return at;
}

static dyn_slice copy(uint8_t **at, dyn_slice from)
{
    dyn_slice to = {*at, from.size};
    if (from.size > 0) memcpy(*at, from.data, from.size);
    *at += from.size;
    return to;
}

/* A stream with one reference, which holds copies of all that came. endpoint: taken on success. */
static dyn_stream *new_stream(dyn__conn *conn, dyn_endpoint *endpoint, uint64_t id, const dyn_request_frame *request)
{
    size_t size = request->payload.size + 1;
    for (size_t i = 0; i < request->header_count; i++)
        size += request->headers[i].key.size + request->headers[i].value.size;
    dyn_stream *self = dyn__malloc(sizeof(*self) + request->header_count * sizeof(dyn_pair) + size);
    if (self == NULL) return NULL;
    uint64_t window = request->window < INT64_MAX / 2 ? request->window : INT64_MAX / 2;
    *self = (dyn_stream){
        .conn = dyn__conn_ref(conn),
        .endpoint = endpoint,
        .id = id,
        .began_ns = dyn_now_ns(),
        .credit = (int64_t)window,
        .window = (int64_t)window,
        .header_count = request->header_count,
        .request_mail = {{NULL, endpoint->owner, request_dropped}, self, DYN_STREAM_REQUEST},
        .change_mail = {{NULL, endpoint->owner, change_dropped}, self, DYN_STREAM_CHANGE},
        .change_task.run = change_run,
    };
    atomic_init(&self->refs, 1);
    atomic_init(&self->holders, 1);
    atomic_init(&self->state, window == 0 ? DYN_STREAM_FULL : 0);
    uint8_t *at = (uint8_t *)(self->headers + request->header_count);
    for (size_t i = 0; i < request->header_count; i++) {
        self->headers[i].key = copy(&at, request->headers[i].key);
        self->headers[i].value = copy(&at, request->headers[i].value);
    }
    self->payload = copy(&at, request->payload);
    return self;
}

/* One more request runs at this endpoint, unless there are too many. */
static bool admit(dyn_endpoint *self, uint32_t most)
{
    if (atomic_fetch_add_explicit(&self->inflight, 1, memory_order_relaxed) < most) return true;
    atomic_fetch_sub_explicit(&self->inflight, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&self->refused, 1, memory_order_relaxed);
    return false;
}

static int request_came(dyn__conn *conn, const dyn_frame *frame, dyn_cork *cork)
{
    dyn_pair headers[DYN_WIRE_MAX_HEADERS];
    dyn_request_frame request;
    int rc = dyn_request_read(frame, headers, &request);
    if (rc < 0) return rc;
    if (frame->stream == 0) return dyn__fail(DYN_EPROTO, "a request on stream 0");
    dyn_server *server = conn->plane->owner;
    dyn_endpoint *endpoint = find_endpoint(server, request.path);
    if (endpoint == NULL) {
        char text[256];
        snprintf(text, sizeof text, "no endpoint %.*s at this worker",
                 (int)(request.path.size < 200 ? request.path.size : 200), (const char *)request.path.data);
        return refuse(conn, frame->stream, DYN_ENOENT, text, cork);
    }
    if (!admit(endpoint, server->plane->options.max_requests)) {
        char text[512];
        snprintf(
            text, sizeof text,
            "endpoint %.200s: %u requests are running, as many as it takes: ask another worker, or this one later; "
            "the worker's max_requests (DYN_TCP_MAX_REQUESTS) says how many",
            endpoint->path, server->plane->options.max_requests);
        dyn_endpoint_unref(endpoint);
        return refuse(conn, frame->stream, DYN_EOVERLOAD, text, cork);
    }
    dyn_stream *stream = new_stream(conn, endpoint, frame->stream, &request);
    if (stream == NULL) {
        atomic_fetch_sub_explicit(&endpoint->inflight, 1, memory_order_relaxed);
        dyn_endpoint_unref(endpoint);
        return refuse(conn, frame->stream, DYN_EOVERLOAD, "the worker has no memory for this request", cork);
    }
    dyn__conn_lock(conn);
    bool open = conn->state == DYN__CONN_OPEN;
    bool twice = dyn__ids_get(&conn->ids, frame->stream) != NULL;
    bool many = conn->ids.count >= conn->plane->options.max_streams;
    rc = !open || twice || many ? DYN_OK : dyn__ids_put(&conn->ids, frame->stream, stream);
    bool in = open && !twice && !many && rc == DYN_OK;
    if (in) stream_keep(stream); /* of ids */
    dyn__conn_unlock(conn);
    if (!in) {
        atomic_fetch_sub_explicit(&endpoint->inflight, 1, memory_order_relaxed);
        stream->over = true; /* it never began */
        dyn_stream_unref(stream);
        if (twice) return dyn__fail(DYN_EPROTO, "a second request on a stream that is open");
        if (!open) return DYN_OK;
        return refuse(conn, frame->stream, DYN_EOVERLOAD, "too many requests are open on this connection", cork);
    }
    atomic_fetch_add_explicit(&endpoint->requests, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&endpoint->bytes_in, request.payload.size, memory_order_relaxed);
    if (endpoint->mailbox != NULL)
        dyn_mailbox_put(endpoint->mailbox, &stream->request_mail.mail);
    else
        endpoint->events.on_request(endpoint->user, stream);
    return DYN_OK;
}

/* With the lock: move held frames out as far as the credit goes.  errors  DYN_ENOMEM */
static int release_held(dyn_stream *self)
{
    dyn__conn *conn = self->conn;
    while (self->held_from < self->held.size) {
        dyn_frame frame;
        size_t used = 0;
        int rc = dyn_frame_read(self->held.data + self->held_from, self->held.size - self->held_from, SIZE_MAX, &frame,
                                &used);
        assert(rc == DYN_OK);
        if (frame.type == DYN_FRAME_ITEMS && self->credit <= 0) break;
        rc = dyn_bytes_append(&conn->out, self->held.data + self->held_from, used);
        if (rc < 0) return rc;
        if (frame.type == DYN_FRAME_ITEMS) self->credit -= (int64_t)frame.size;
        self->held_from += used;
    }
    if (self->held_from == self->held.size) {
        dyn_bytes_free(&self->held);
        self->held_from = 0;
    }
    return DYN_OK;
}

static int credit_came(dyn__conn *conn, const dyn_frame *frame, dyn_cork *cork)
{
    uint64_t bytes;
    int rc = dyn_credit_read(frame, &bytes);
    if (rc < 0) return rc;
    dyn__conn_lock(conn);
    dyn_stream *stream = dyn__ids_get(&conn->ids, frame->stream);
    if (stream == NULL) {
        dyn__conn_unlock(conn);
        return DYN_OK;
    }
    if (bytes > (uint64_t)(INT64_MAX / 2) || stream->credit > INT64_MAX / 2) {
        dyn__conn_unlock(conn);
        return dyn__fail(DYN_EPROTO, "a credit of %llu bytes", (unsigned long long)bytes);
    }
    stream->credit += (int64_t)bytes;
    rc = release_held(stream);
    bool telling = false, gone = false;
    if (stream->last_held && stream->held.size == 0) {
        dyn__ids_take(&conn->ids, stream->id); /* I1 */
        gone = true;
    } else if (stream->credit > 0 && (atomic_load(&stream->state) & DYN_STREAM_FULL)) {
        atomic_fetch_and_explicit(&stream->state, ~(unsigned)DYN_STREAM_FULL, memory_order_release);
        telling = to_tell(stream);
    }
    dyn__conn_push(conn, cork);
    if (telling) tell(stream);
    if (gone) stream_drop(stream);
    return rc;
}

static int on_frame(dyn__conn *conn, const dyn_frame *frame, dyn_cork *cork)
{
    switch (frame->type) {
    case DYN_FRAME_REQUEST: return request_came(conn, frame, cork);
    case DYN_FRAME_CREDIT: return credit_came(conn, frame, cork);
    case DYN_FRAME_STOP: {
        dyn__conn_lock(conn);
        dyn_stream *stream = dyn__ids_get(&conn->ids, frame->stream);
        bool telling = false;
        if (stream != NULL) {
            add_state(stream, DYN_STREAM_STOPPED);
            telling = to_tell(stream);
        }
        dyn__conn_unlock(conn);
        if (telling) tell(stream); /* with the reference of to_tell() */
        return DYN_OK;
    }
    case DYN_FRAME_KILL: {
        dyn__conn_lock(conn);
        dyn_stream *stream = dyn__ids_take(&conn->ids, frame->stream);
        dyn__conn_unlock(conn);
        if (stream != NULL) killed(stream);
        return DYN_OK;
    }
    default: return dyn__fail(DYN_EPROTO, "a frame of type %d at the worker's side", frame->type);
    }
}

static void on_lost(dyn__conn *conn, void *entry, int code, const char *text)
{
    (void)conn, (void)code, (void)text;
    killed(entry);
}

static void on_gone(dyn__conn *conn)
{
    (void)conn;
}

static const dyn__side worker_side = {on_frame, on_lost, on_gone, NULL};

/* ---- a stream ---- */

dyn_stream *dyn_stream_ref(dyn_stream *self)
{
    if (atomic_fetch_add_explicit(&self->holders, 1, memory_order_relaxed) == 0) stream_keep(self);
    return self;
}

void dyn_stream_unref(dyn_stream *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->holders, 1, memory_order_acq_rel) != 1) return;
    dyn_stream_fail(self, &(dyn_failure){DYN_EBROKEN, "", "the handler went away without an answer", ""}, NULL);
    stream_drop(self);
}

dyn_slice dyn_stream_payload(const dyn_stream *self)
{
    return self->payload;
}

size_t dyn_stream_header_count(const dyn_stream *self)
{
    return self->header_count;
}

dyn_pair dyn_stream_header(const dyn_stream *self, size_t index)
{
    return self->headers[index];
}

void *dyn_stream_user(const dyn_stream *self)
{
    return self->user;
}

void dyn_stream_set_user(dyn_stream *self, void *user)
{
    self->user = user;
}

unsigned dyn_stream_state(const dyn_stream *self)
{
    return atomic_load_explicit(&self->state, memory_order_acquire);
}

/* With the lock: may the handler say something? */
static int may_speak(const dyn_stream *self)
{
    if (self->over) return DYN_ECLOSED;
    if (atomic_load_explicit(&self->state, memory_order_relaxed) & DYN_STREAM_KILLED) return DYN_ECANCELED;
    return DYN_OK;
}

int dyn_stream_send_items(dyn_stream *self, dyn_slice items, size_t count, dyn_cork *cork)
{
    dyn__conn *conn = self->conn;
    dyn__conn_lock(conn);
    int rc = may_speak(self);
    if (rc == DYN_OK && items.size + 16 > conn->peer_max_frame)
        rc = dyn__fail(DYN_ELIMIT, "%zu bytes of items: the caller takes %zu", items.size, conn->peer_max_frame);
    if (rc == DYN_OK && self->held.size - self->held_from > (size_t)self->window * HELD_WINDOWS)
        rc = dyn__fail(DYN_EOVERLOAD, "%zu bytes wait for a reader that does not read: wait until it is no more full",
                       self->held.size - self->held_from);
    bool hold = self->credit <= 0; /* I2 */
    if (rc == DYN_OK)
        rc = dyn_frame_write(hold ? &self->held : &conn->out, DYN_FRAME_ITEMS, self->id, items.data, items.size);
    if (rc < 0) {
        dyn__conn_unlock(conn);
        return rc;
    }
    if (!hold) self->credit -= (int64_t)items.size;
    bool full = self->credit <= 0;
    if (full) add_state(self, DYN_STREAM_FULL);
    dyn__conn_push(conn, cork);
    atomic_fetch_add_explicit(&self->endpoint->items, count, memory_order_relaxed);
    atomic_fetch_add_explicit(&self->endpoint->bytes_out, items.size, memory_order_relaxed);
    return full;
}

int dyn_stream_send(dyn_stream *self, const void *item, size_t size, dyn_cork *cork)
{
    uint8_t small[1024];
    dyn_bytes body = {small, 0, sizeof small};
    if (size <= sizeof small - DYN_WIRE_VARINT_MAX) {
        dyn_items_add(&body, item, size);
        return dyn_stream_send_items(self, (dyn_slice){body.data, body.size}, 1, cork);
    }
    body = (dyn_bytes){0};
    int rc = dyn_items_add(&body, item, size);
    if (rc == DYN_OK) rc = dyn_stream_send_items(self, (dyn_slice){body.data, body.size}, 1, cork);
    dyn_bytes_free(&body);
    return rc;
}

/* END when error is NULL. */
static int last_word(dyn_stream *self, const dyn_error_frame *error, int code, dyn_cork *cork)
{
    dyn__conn *conn = self->conn;
    dyn__conn_lock(conn);
    int rc = may_speak(self);
    if (rc == DYN_ECLOSED) {
        dyn__conn_unlock(conn);
        return rc;
    }
    bool gone = false;
    int written = DYN_OK;
    if (rc == DYN_OK) {
        self->last_held = self->held.size > 0;
        dyn_bytes *to = self->last_held ? &self->held : &conn->out;
        written = error == NULL ? dyn_frame_write(to, DYN_FRAME_END, self->id, NULL, 0)
                                : dyn_error_write(to, self->id, error);
        gone = !self->last_held && dyn__ids_take(&conn->ids, self->id) != NULL;
    }
    self->over = true;
    dyn__conn_push(conn, cork);
    if (written < 0) dyn__conn_break(conn, DYN_ENOMEM, "no memory to end a stream");
    settle(self, rc < 0 ? rc : code);
    if (gone) stream_drop(self);
    return rc;
}

int dyn_stream_end(dyn_stream *self, dyn_cork *cork)
{
    return last_word(self, NULL, DYN_OK, cork);
}

int dyn_stream_fail(dyn_stream *self, const dyn_failure *failure, dyn_cork *cork)
{
    dyn_error_frame error = {(uint64_t)(failure->code < 0 ? -failure->code : -DYN_EREMOTE), cut(failure->type),
                             cut(failure->text), cut(failure->trace)};
    return last_word(self, &error, failure->code < 0 ? failure->code : DYN_EREMOTE, cork);
}

/* ---- endpoints ---- */

static int serve(dyn_server *self, const char *path, const dyn_endpoint *as, dyn_endpoint **out)
{
    size_t size = strlen(path);
    if (size == 0 || size > MAX_PATH)
        return dyn__fail(DYN_EINVAL, "a path of %zu bytes: must have 1 to %d", size, MAX_PATH);
    dyn_endpoint *endpoint = dyn__malloc(sizeof(*endpoint));
    if (endpoint == NULL) return DYN_ENOMEM;
    *endpoint = *as;
    if ((endpoint->path = dyn__strdup(path)) == NULL) {
        dyn__free(endpoint);
        return DYN_ENOMEM;
    }
    atomic_init(&endpoint->refs, 1); /* the caller's; the list borrows it, stop() takes it out */
    endpoint->server = endpoint->home = self;
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    if (endpoint->mailbox != NULL) dyn_mailbox_ref(endpoint->mailbox);
    int rc = DYN_OK;
    pthread_mutex_lock(&self->lock);
    for (dyn_endpoint *at = self->endpoints; at != NULL && rc == DYN_OK; at = at->next)
        if (strcmp(at->path, path) == 0) rc = DYN_EEXIST;
    if (self->closed) rc = DYN_ECLOSED;
    if (rc == DYN_OK) {
        atomic_fetch_add_explicit(&endpoint->refs, 1, memory_order_relaxed); /* the list's */
        endpoint->next = self->endpoints;
        self->endpoints = endpoint;
    } else {
        endpoint->server = NULL;
    }
    pthread_mutex_unlock(&self->lock);
    if (rc < 0) {
        dyn_endpoint_unref(endpoint);
        return rc == DYN_EEXIST ? dyn__fail(rc, "endpoint %.200s: it is served already", path) : rc;
    }
    *out = endpoint;
    return DYN_OK;
}

int dyn_server_serve(dyn_server *self, const char *path, const dyn_endpoint_events *events, void *user,
                     dyn_endpoint **out)
{
    dyn_endpoint as = {.events = *events, .user = user};
    return serve(self, path, &as, out);
}

int dyn_server_serve_mail(dyn_server *self, const char *path, dyn_mailbox *mailbox, void *owner, dyn_endpoint **out)
{
    dyn_endpoint as = {.mailbox = mailbox, .owner = owner};
    return serve(self, path, &as, out);
}

void dyn_endpoint_stop(dyn_endpoint *self)
{
    dyn_server *home = self->home;
    pthread_mutex_lock(&home->lock);
    bool listed = self->server != NULL;
    if (listed) {
        dyn_endpoint **at = &home->endpoints;
        while (*at != self) at = &(*at)->next;
        *at = self->next;
        self->server = NULL;
    }
    pthread_mutex_unlock(&home->lock);
    if (listed) dyn_endpoint_unref(self);
}

void dyn_endpoint_unref(dyn_endpoint *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    dyn_mailbox_unref(self->mailbox);
    dyn__free(self->path);
    dyn_server *home = self->home;
    dyn__free(self);
    server_unref(home);
}

void dyn_endpoint_get_stats(const dyn_endpoint *self, dyn_endpoint_stats *out)
{
    *out = (dyn_endpoint_stats){
        .requests = atomic_load(&self->requests),
        .refused = atomic_load(&self->refused),
        .failed = atomic_load(&self->failed),
        .items = atomic_load(&self->items),
        .bytes_in = atomic_load(&self->bytes_in),
        .bytes_out = atomic_load(&self->bytes_out),
        .duration_ns = atomic_load(&self->duration_ns),
        .inflight = atomic_load(&self->inflight),
    };
}

void dyn_endpoint_set_hook(dyn_endpoint *self, dyn_endpoint_hook hook, void *user)
{
    self->hook = hook, self->hook_user = user;
}

/* ---- the listener ---- */

static void on_acceptable(uv_poll_t *poll, int status, int events)
{
    dyn_server *self = poll->data;
    (void)status, (void)events;
    for (int taken = 0; taken < 64; taken++) {
        int fd = accept(self->fd, NULL, NULL);
        if (fd < 0) {
            /* Out of descriptors: the connection waits in the backlog, and we come back when one is free. */
            if (errno == EMFILE || errno == ENFILE)
                dyn_log(DYN_LOG_WARN, "service", "no file descriptor for a new connection");
            return;
        }
        if (atomic_load(&self->plane->count) >= self->plane->options.max_connections) {
            dyn_log(DYN_LOG_WARN, "service", "refused a connection: %u are open", self->plane->options.max_connections);
            close(fd);
            continue;
        }
        dyn__conn *conn;
        if (dyn__conn_new(&conn, self->plane, fd, NULL) < 0) continue;
        dyn__conn_visit(conn);
        dyn__conn_unref(conn);
    }
}

static void on_listener_closed(uv_handle_t *handle)
{
    dyn_server *self = handle->data;
    dyn__plane *plane = self->plane;
    close(self->fd);
    server_unref(self);
    dyn__handle_closed(plane);
}

static void stop_listening(void *owner)
{
    dyn_server *self = owner;
    if (!self->polling) return;
    self->polling = false;
    uv_poll_stop(&self->poll);
    shutdown(self->fd, SHUT_RDWR);
    uv_close((uv_handle_t *)&self->poll, on_listener_closed);
}

static int start_listening(void *arg)
{
    dyn_server *self = arg;
    if (uv_poll_init_socket(dyn_loop_uv(self->plane->loop), &self->poll, self->fd) != 0) return DYN_EIO;
    self->poll.data = self, self->polling = true;
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    dyn__handle_opened(self->plane);
    if (uv_poll_start(&self->poll, UV_READABLE, on_acceptable) == 0) return DYN_OK;
    stop_listening(self);
    return DYN_EBUSY;
}

static int bind_to(dyn_server *self, const char *host, uint16_t port)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr *address = (struct sockaddr *)&v4;
    socklen_t size = sizeof v4;
    int one = 1;
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1)
        address = (struct sockaddr *)&v6, size = sizeof v6;
    else if (inet_pton(AF_INET, host, &v4.sin_addr) != 1)
        return dyn__fail(DYN_EINVAL, "host \"%.100s\": must be an IP address", host);
    self->fd = socket(address->sa_family, SOCK_STREAM, 0);
    if (self->fd < 0) return dyn__fail(DYN_EIO, "no socket: %s", strerror(errno));
    fcntl(self->fd, F_SETFL, fcntl(self->fd, F_GETFL) | O_NONBLOCK);
    fcntl(self->fd, F_SETFD, FD_CLOEXEC);
    setsockopt(self->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(self->fd, address, size) < 0 || listen(self->fd, 1024) < 0)
        return dyn__fail(DYN_EIO, "cannot listen on %.100s port %u: %s", host, port, strerror(errno));
    if (getsockname(self->fd, address, &size) < 0) return dyn__fail(DYN_EIO, "getsockname: %s", strerror(errno));
    self->port = ntohs(address->sa_family == AF_INET ? v4.sin_port : v6.sin6_port);
    return DYN_OK;
}

int dyn_server_new(dyn_server **out, dyn_loop *loop, const char *host, uint16_t port,
                   const dyn_service_options *options)
{
    dyn_server *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    self->fd = -1;
    atomic_init(&self->refs, 1);
    int rc = dyn__plane_new(&self->plane, loop, options, &worker_side, self);
    if (rc < 0) {
        dyn__free(self);
        return rc;
    }
    pthread_mutex_init(&self->lock, NULL);
    if ((rc = bind_to(self, host, port)) == DYN_OK) {
        rc = dyn_loop_run(loop, start_listening, self);
        if (rc == DYN_OK) {
            *out = self;
            return DYN_OK;
        }
        if (rc == DYN_EBUSY) self->fd = -1, rc = DYN_EIO; /* the close callback has it */
    }
    if (self->fd >= 0) close(self->fd);
    server_unref(self);
    return rc;
}

uint16_t dyn_server_port(const dyn_server *self)
{
    return self->port;
}

static int drain_here(void *arg)
{
    dyn_server *self = arg;
    stop_listening(self);
    for (dyn__conn *conn = self->plane->conns; conn != NULL; conn = conn->next) {
        dyn__conn_lock(conn);
        int rc = dyn_frame_write(&conn->out, DYN_FRAME_GOAWAY, 0, "draining", 8);
        (void)rc; /* without it callers learn of the end when it comes */
        dyn__conn_push(conn, NULL);
    }
    return DYN_OK;
}

void dyn_server_drain(dyn_server *self)
{
    pthread_mutex_lock(&self->lock);
    bool first = !self->draining && !self->closed;
    self->draining = true;
    pthread_mutex_unlock(&self->lock);
    if (first) dyn_loop_run(self->plane->loop, drain_here, self);
}

void dyn_server_free(dyn_server *self)
{
    if (self == NULL) return;
    pthread_mutex_lock(&self->lock);
    self->closed = true;
    pthread_mutex_unlock(&self->lock);
    dyn__plane_close(self->plane, stop_listening);
    for (;;) { /* no stream comes any more: let go of the endpoints */
        pthread_mutex_lock(&self->lock);
        dyn_endpoint *endpoint = self->endpoints;
        if (endpoint != NULL) self->endpoints = endpoint->next, endpoint->server = NULL;
        pthread_mutex_unlock(&self->lock);
        if (endpoint == NULL) break;
        dyn_endpoint_unref(endpoint);
    }
    server_unref(self);
}
