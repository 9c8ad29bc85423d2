/* call.c -- see dynamo/service.h for the contract: pools and calls, the caller's side.
 *
 *   pool --by "host:port"--> connection --ids--> call --> callbacks on the loop thread, or mails
 *
 * I1  A call is in the ids of its connection exactly while it is not over; ids hold one reference, which
 *     the end (callback or mail) takes over and gives back.
 * I2  Callbacks come on the loop thread only, so an end that is decided elsewhere travels there as a task.
 * I3  `over`, `owed`, `unread`, `heard_ns`, `deadline_ns` and `inflight` are guarded by the connection's lock.
 * I4  A call is only quiet while `unread` is 0: who reads slowly must not find its worker late.
 */
#include <stdio.h>

#include "service/conn.h"

struct dyn_call {
    atomic_size_t refs;
    dyn__conn *conn; /* a reference */
    dyn_pool *pool;  /* a reference */
    uint64_t id;
    dyn_call_events events;
    void *user;
    dyn_mailbox *mailbox; /* a reference; NULL: callbacks */
    void *owner;
    uint64_t deadline_ns; /* 0: none */
    uint64_t heard_ns;    /* when it began, or something came or was consumed last */
    uint64_t quiet_ns;    /* longest time since; 0: any */
    size_t window, owed;  /* owed: consumed, not yet given back as credit */
    size_t unread;        /* came, not yet consumed */
    bool manual, over;
    atomic_bool deaf; /* killed or late: no more items */
    dyn_failure failure;
    char *words; /* what failure points to */
    dyn_task end_task;
    dyn_call_mail end_mail;
};

struct dyn_pool {
    atomic_size_t refs;
    dyn__plane *plane;
    pthread_mutex_t lock; /* guards all below */
    bool closed;
    dyn__conn **conns; /* references; those that can take calls */
    size_t count, room;
    atomic_uint_fast64_t calls, failed;
    atomic_uint inflight;
};

/* ---- the end of a call ---- */

static void on_mail_dropped(dyn_mail *mail)
{
    dyn_call_mail *self = DYN__CONTAINER(mail, dyn_call_mail, mail);
    dyn_call *call = self->call;
    if (self->kind == DYN_CALL_ITEMS) dyn__free(self);
    dyn_call_unref(call);
}

static void call_end(dyn_task *task)
{
    dyn_call *self = DYN__CONTAINER(task, dyn_call, end_task);
    int rc = self->failure.code;
    self->events.on_end(self->user, rc, rc == DYN_OK ? NULL : &self->failure);
    dyn_call_unref(self);
}

static void keep_failure(dyn_call *self, int code, dyn_slice type, dyn_slice text, dyn_slice trace)
{
    self->failure = (dyn_failure){code, "", dyn_strerror(code), ""};
    if (code == DYN_OK) return;
    char *at = self->words = dyn__malloc(type.size + text.size + trace.size + 3);
    if (at == NULL) return; /* the code says enough */
    dyn_slice parts[3] = {type, text, trace};
    const char *kept[3];
    for (int i = 0; i < 3; i++) {
        kept[i] = at;
        if (parts[i].size > 0) memcpy(at, parts[i].data, parts[i].size);
        at += parts[i].size;
        *at++ = '\0';
    }
    self->failure.type = kept[0], self->failure.trace = kept[2];
    if (text.size > 0) self->failure.text = kept[1];
}

/* Who took the call out of ids ends it, with the reference that ids had. Without the lock. */
static void finish(dyn_call *self, int code, dyn_slice type, dyn_slice text, dyn_slice trace)
{
    dyn_pool *pool = self->pool;
    keep_failure(self, code, type, text, trace);
    atomic_fetch_sub_explicit(&pool->inflight, 1, memory_order_relaxed);
    if (code != DYN_OK) atomic_fetch_add_explicit(&pool->failed, 1, memory_order_relaxed);
    if (self->mailbox != NULL)
        dyn_mailbox_put(self->mailbox, &self->end_mail.mail);
    else if (dyn_loop_here(pool->plane->loop))
        call_end(&self->end_task);
    else
        dyn_loop_post(pool->plane->loop, &self->end_task);
}

static void finish_text(dyn_call *self, int code, const char *text)
{
    finish(self, code, (dyn_slice){0}, (dyn_slice){(const uint8_t *)text, strlen(text)}, (dyn_slice){0});
}

/* Decide here that it is over, and tell the worker.  false: it was over already. */
static bool cut_off(dyn_call *self, dyn_cork *cork)
{
    dyn__conn *conn = self->conn;
    atomic_store_explicit(&self->deaf, true, memory_order_relaxed);
    dyn__conn_lock(conn);
    if (self->over) {
        dyn__conn_unlock(conn);
        return false;
    }
    self->over = true;
    dyn__ids_take(&conn->ids, self->id);
    int rc = dyn_frame_write(&conn->out, DYN_FRAME_KILL, self->id, NULL, 0);
    dyn__conn_push(conn, cork);
    if (rc < 0) dyn__conn_break(conn, DYN_ENOMEM, "no memory to cancel a call");
    return true;
}

/* ---- what comes in; the reading thread ---- */

static void leave_if_done(dyn__conn *conn, bool done)
{
    if (done) dyn__conn_break(conn, DYN_EBROKEN, "the worker asked to go elsewhere");
}

static dyn_call *find(dyn__conn *conn, uint64_t id, bool take, size_t came)
{
    dyn__conn_lock(conn);
    dyn_call *call = take ? dyn__ids_take(&conn->ids, id) : dyn__ids_get(&conn->ids, id);
    if (call != NULL && take)
        call->over = true;
    else if (call != NULL)
        dyn_call_ref(call)->unread += came;
    bool done = take && conn->leaving && conn->ids.count == 0;
    dyn__conn_unlock(conn);
    leave_if_done(conn, done);
    return call;
}

static void credit(dyn_call *self, size_t bytes, dyn_cork *cork)
{
    dyn__conn *conn = self->conn;
    dyn__conn_lock(conn);
    self->owed += bytes;
    self->unread -= bytes < self->unread ? bytes : self->unread;
    self->heard_ns = dyn_now_ns();
    if (self->over || self->owed < self->window / 2) {
        dyn__conn_unlock(conn);
        return;
    }
    int rc = dyn_credit_write(&conn->out, self->id, self->owed);
    if (rc == DYN_OK) self->owed = 0;
    dyn__conn_push(conn, cork);
}

static int items_came(dyn__conn *conn, const dyn_frame *frame, dyn_cork *cork)
{
    dyn_slice body = {frame->body, frame->size}, item;
    if (!dyn_items_valid(body)) return dyn__fail(DYN_EPROTO, "items that are cut off");
    dyn_call *call = find(conn, frame->stream, false, frame->size);
    if (call == NULL) return DYN_OK; /* killed meanwhile */
    if (call->mailbox != NULL) {
        dyn_call_mail *mail = dyn__malloc(sizeof(*mail) + body.size);
        if (mail == NULL) {
            dyn_call_unref(call);
            return DYN_ENOMEM;
        }
        uint8_t *bytes = (uint8_t *)(mail + 1);
        memcpy(bytes, body.data, body.size);
        *mail = (dyn_call_mail){{NULL, call->owner, on_mail_dropped}, call, DYN_CALL_ITEMS, {bytes, body.size}};
        dyn_mailbox_put(call->mailbox, &mail->mail); /* with the reference of find() */
        return DYN_OK;
    }
    while (dyn_items_next(&body, &item) && !atomic_load_explicit(&call->deaf, memory_order_relaxed))
        call->events.on_item(call->user, item.data, item.size);
    if (!call->manual) credit(call, frame->size, cork);
    dyn_call_unref(call);
    return DYN_OK;
}

static int on_frame(dyn__conn *conn, const dyn_frame *frame, dyn_cork *cork)
{
    switch (frame->type) {
    case DYN_FRAME_ITEMS: return items_came(conn, frame, cork);
    case DYN_FRAME_END: {
        dyn_call *call = find(conn, frame->stream, true, 0);
        if (call != NULL) finish(call, DYN_OK, (dyn_slice){0}, (dyn_slice){0}, (dyn_slice){0});
        return DYN_OK;
    }
    case DYN_FRAME_ERROR: {
        dyn_error_frame error;
        int rc = dyn_error_read(frame, &error);
        if (rc < 0) return rc;
        dyn_call *call = find(conn, frame->stream, true, 0);
        int code = error.code >= 1 && error.code <= 1000 ? -(int)error.code : DYN_EREMOTE;
        if (call != NULL) finish(call, code, error.type, error.text, error.trace);
        return DYN_OK;
    }
    case DYN_FRAME_GOAWAY: {
        dyn__conn_lock(conn);
        conn->leaving = true;
        bool done = conn->ids.count == 0;
        dyn__conn_unlock(conn);
        conn->plane->side->on_gone(conn); /* no new calls on it */
        leave_if_done(conn, done);
        return DYN_OK;
    }
    default: return dyn__fail(DYN_EPROTO, "a frame of type %d at the caller's side", frame->type);
    }
}

static void on_lost(dyn__conn *conn, void *entry, int code, const char *text)
{
    dyn_call *call = entry;
    dyn__conn_lock(conn);
    call->over = true;
    dyn__conn_unlock(conn);
    finish_text(call, code, text);
}

static void on_gone(dyn__conn *conn)
{
    dyn_pool *pool = conn->plane->owner;
    pthread_mutex_lock(&pool->lock);
    size_t i = 0;
    while (i < pool->count && pool->conns[i] != conn) i++;
    bool there = i < pool->count;
    if (there) pool->conns[i] = pool->conns[--pool->count];
    pthread_mutex_unlock(&pool->lock);
    if (there) dyn__conn_unref(conn);
}

static bool is_late(const dyn_call *self, uint64_t now)
{
    return self->deadline_ns != 0 && self->deadline_ns <= now;
}

static bool is_quiet(const dyn_call *self, uint64_t now)
{
    return self->quiet_ns != 0 && self->unread == 0 && now > self->heard_ns && now - self->heard_ns >= self->quiet_ns;
}

static void on_tick(dyn__conn *conn, uint64_t now)
{
    for (;;) {
        dyn_call *late = NULL;
        const char *why = "the deadline of the call is over";
        dyn__conn_lock(conn);
        for (size_t i = 0; i < conn->ids.room && late == NULL; i++) {
            dyn_call *call = conn->ids.slots[i].id != 0 ? conn->ids.slots[i].value : NULL;
            if (call == NULL || (!is_late(call, now) && !is_quiet(call, now))) continue;
            if (!is_late(call, now)) why = "the worker was silent for too long";
            late = dyn_call_ref(call);
        }
        dyn__conn_unlock(conn);
        if (late == NULL) return;
        if (cut_off(late, conn->plane->cork)) finish_text(late, DYN_ETIMEDOUT, why);
        dyn_call_unref(late);
    }
}

static const dyn__side caller_side = {on_frame, on_lost, on_gone, on_tick};

/* ---- starting ---- */

/* The connection to "host:port", a reference; made when there is none. */
static int conn_to(dyn_pool *self, const char *address, size_t size, dyn__conn **out)
{
    int rc = DYN_OK;
    dyn__conn *conn = NULL;
    char host[300];
    if (size >= sizeof host) return dyn__fail(DYN_EINVAL, "an address of %zu bytes", size);
    memcpy(host, address, size);
    host[size] = '\0';
    pthread_mutex_lock(&self->lock);
    if (self->closed) {
        rc = dyn__fail(DYN_ECLOSED, "the pool is closed");
        goto done;
    }
    for (size_t i = 0; i < self->count && conn == NULL; i++)
        if (strcmp(self->conns[i]->address, host) == 0) conn = self->conns[i];
    if (conn == NULL) {
        if (self->count == self->room) {
            size_t room = self->room == 0 ? 8 : self->room * 2;
            dyn__conn **conns = dyn__realloc(self->conns, room * sizeof(dyn__conn *));
            if (conns == NULL) {
                rc = DYN_ENOMEM;
                goto done;
            }
            self->conns = conns, self->room = room;
        }
        if ((rc = dyn__conn_new(&conn, self->plane, -1, host)) < 0) goto done;
        self->conns[self->count++] = conn;
        dyn__conn_visit(conn); /* under the lock, so that closing the pool comes behind it */
    }
    dyn__conn_ref(conn);
done:
    pthread_mutex_unlock(&self->lock);
    *out = conn;
    return rc;
}

static void retire(dyn_pool *self, dyn__conn *conn)
{
    (void)self;
    on_gone(conn);
}

/* "host:port/path": a port that is a number, and where the path begins. */
static const char *path_in(const char *address)
{
    const char *slash = strchr(address, '/');
    const char *colon = slash;
    while (colon != NULL && colon > address && *colon != ':') colon--;
    if (slash == NULL || colon == NULL || *colon != ':' || colon == address) return NULL;
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    return end == slash && end > colon + 1 && port >= 1 && port <= 65535 ? slash + 1 : NULL;
}

static int start(dyn_pool *pool, const dyn_call_request *request, dyn_call *call, dyn_cork *cork)
{
    const char *path = path_in(request->address);
    if (path == NULL || *path == '\0')
        return dyn__fail(DYN_EINVAL, "address \"%.100s\": must be host:port/path", request->address);
    if (request->payload.size > pool->plane->options.max_frame)
        return dyn__fail(DYN_ELIMIT, "a request of %zu bytes: at most %u; DYN_TCP_MAX_MESSAGE_SIZE allows more",
                         request->payload.size, pool->plane->options.max_frame);
    dyn_request_frame frame = {
        .window = call->window,
        .deadline_ms = request->deadline_ms,
        .path = {(const uint8_t *)path, strlen(path)},
        .headers = request->headers,
        .header_count = request->header_count,
        .payload = request->payload,
    };
    for (int attempt = 0;; attempt++) {
        dyn__conn *conn = NULL;
        int rc = conn_to(pool, request->address, (size_t)(path - 1 - request->address), &conn);
        if (rc < 0) return rc;
        dyn__conn_lock(conn);
        if (conn->state >= DYN__CONN_BROKEN || conn->leaving) { /* it broke a moment ago: another one */
            dyn__conn_unlock(conn);
            retire(pool, conn);
            dyn__conn_unref(conn);
            if (attempt < 3) continue;
            return dyn__fail(DYN_ECONN, "connections to %.100s break as fast as they are made", request->address);
        }
        if (conn->ids.count >= pool->plane->options.max_streams) {
            dyn__conn_unlock(conn);
            dyn__conn_unref(conn);
            return dyn__fail(DYN_ELIMIT, "%u calls are under way to one worker", pool->plane->options.max_streams);
        }
        size_t before = conn->out.size;
        if (request->payload.size > conn->peer_max_frame)
            rc = dyn__fail(DYN_ELIMIT,
                           "a request of %zu bytes: the worker takes %zu; its DYN_TCP_MAX_MESSAGE_SIZE "
                           "allows more",
                           request->payload.size, conn->peer_max_frame);
        else
            rc = dyn_request_write(&conn->out, conn->next_id, &frame);
        if (rc == DYN_OK && (rc = dyn__ids_put(&conn->ids, conn->next_id, call)) < 0) conn->out.size = before;
        if (rc < 0) {
            dyn__conn_unlock(conn);
            dyn__conn_unref(conn);
            return rc;
        }
        call->id = conn->next_id++;
        call->conn = conn;
        dyn_call_ref(call); /* of ids (I1) */
        atomic_fetch_add_explicit(&pool->inflight, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&pool->calls, 1, memory_order_relaxed);
        dyn__conn_push(conn, cork);
        return DYN_OK;
    }
}

static int start_call(dyn_pool *pool, const dyn_call_request *request, const dyn_call *as, dyn_cork *cork,
                      dyn_call **out)
{
    dyn_call *call = dyn__malloc(sizeof(*call));
    if (call == NULL) return DYN_ENOMEM;
    *call = *as;
    atomic_init(&call->refs, 1);
    atomic_init(&call->deaf, false);
    call->pool = dyn_pool_ref(pool);
    call->window = request->window != 0 ? request->window : pool->plane->options.window;
    call->manual = request->manual_credit;
    call->end_task.run = call_end;
    call->end_mail = (dyn_call_mail){{NULL, call->owner, on_mail_dropped}, call, DYN_CALL_END, {NULL, 0}};
    call->heard_ns = dyn_now_ns();
    call->quiet_ns = request->quiet_ms * UINT64_C(1000000);
    if (request->deadline_ms != 0) call->deadline_ns = dyn_now_ns() + request->deadline_ms * UINT64_C(1000000);
    if (call->mailbox != NULL) dyn_mailbox_ref(call->mailbox);
    if (out != NULL) *out = dyn_call_ref(call); /* before a callback can come */
    int rc = start(pool, request, call, cork);
    if (rc < 0 && out != NULL) {
        dyn_call_unref(call);
        *out = NULL;
    }
    dyn_call_unref(call);
    return rc;
}

int dyn_call_start(dyn_pool *pool, const dyn_call_request *request, const dyn_call_events *events, void *user,
                   dyn_cork *cork, dyn_call **out)
{
    dyn_call as = {.events = *events, .user = user};
    return start_call(pool, request, &as, cork, out);
}

int dyn_call_start_mail(dyn_pool *pool, const dyn_call_request *request, dyn_mailbox *mailbox, void *owner, void *user,
                        dyn_cork *cork, dyn_call **out)
{
    dyn_call as = {.mailbox = mailbox, .owner = owner, .user = user};
    return start_call(pool, request, &as, cork, out);
}

/* ---- a call under way ---- */

void *dyn_call_user(const dyn_call *self)
{
    return self->user;
}

void dyn_call_set_user(dyn_call *self, void *user)
{
    self->user = user;
}

const dyn_failure *dyn_call_failure(const dyn_call *self)
{
    return &self->failure;
}

dyn_call *dyn_call_ref(dyn_call *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_call_unref(dyn_call *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    dyn__conn_unref(self->conn);
    dyn_mailbox_unref(self->mailbox);
    dyn__free(self->words);
    dyn_pool *pool = self->pool;
    dyn__free(self);
    dyn_pool_unref(pool);
}

void dyn_call_consumed(dyn_call *self, size_t bytes, dyn_cork *cork)
{
    credit(self, bytes, cork);
}

void dyn_call_stop(dyn_call *self, dyn_cork *cork)
{
    dyn__conn *conn = self->conn;
    dyn__conn_lock(conn);
    if (self->over) {
        dyn__conn_unlock(conn);
        return;
    }
    int rc = dyn_frame_write(&conn->out, DYN_FRAME_STOP, self->id, NULL, 0);
    dyn__conn_push(conn, cork);
    if (rc < 0) dyn__conn_break(conn, DYN_ENOMEM, "no memory to stop a call");
}

void dyn_call_limit(dyn_call *self, uint32_t ms)
{
    uint64_t end = dyn_now_ns() + ms * UINT64_C(1000000);
    dyn__conn_lock(self->conn);
    if (self->deadline_ns == 0 || self->deadline_ns > end) self->deadline_ns = end;
    dyn__conn_unlock(self->conn);
}

void dyn_call_kill(dyn_call *self, dyn_cork *cork)
{
    if (cut_off(self, cork)) finish_text(self, DYN_ECANCELED, "the call was cancelled by its caller");
}

/* ---- the pool ---- */

int dyn_pool_new(dyn_pool **out, dyn_loop *loop, const dyn_service_options *options)
{
    dyn_pool *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    int rc = dyn__plane_new(&self->plane, loop, options, &caller_side, self);
    if (rc < 0) {
        dyn__free(self);
        return rc;
    }
    atomic_init(&self->refs, 1);
    pthread_mutex_init(&self->lock, NULL);
    *out = self;
    return DYN_OK;
}

dyn_pool *dyn_pool_ref(dyn_pool *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_pool_close(dyn_pool *self)
{
    pthread_mutex_lock(&self->lock);
    bool first = !self->closed;
    self->closed = true;
    pthread_mutex_unlock(&self->lock);
    if (first) dyn__plane_close(self->plane, NULL);
}

void dyn_pool_unref(dyn_pool *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    dyn_pool_close(self);
    assert(self->count == 0);
    dyn__free(self->conns);
    pthread_mutex_destroy(&self->lock);
    dyn__plane_unref(self->plane);
    dyn__free(self);
}

void dyn_pool_get_stats(dyn_pool *self, dyn_pool_stats *out)
{
    *out = (dyn_pool_stats){
        .calls = atomic_load(&self->calls),
        .failed = atomic_load(&self->failed),
        .bytes_in = atomic_load(&self->plane->bytes_in),
        .bytes_out = atomic_load(&self->plane->bytes_out),
        .connections = atomic_load(&self->plane->count),
        .inflight = atomic_load(&self->inflight),
    };
}
