/* http_exchange.c -- see dynamo/http.h and http_internal.h. What any thread may do with an exchange.
 *
 * An answer is bytes in `pending`: first the header (`raw` bytes), then body. The conn takes the whole buffer
 * at a time, so a chunk is whatever gathered since the last send.
 */
#include <stdio.h>

#include "net/http_internal.h"

static void flush_posted(dyn_task *task)
{
    dyn_http_exchange *self = DYN__CONTAINER(task, dyn_http_exchange, task);
    pthread_mutex_lock(&self->lock);
    self->posted = false;
    dyn__http_conn *conn = self->conn;
    bool more = self->roomy;
    self->roomy = false;
    pthread_mutex_unlock(&self->lock);
    if (conn != NULL) dyn__http_conn_pump(conn);
    if (conn != NULL && more && self->conn == conn) dyn__http_conn_more(conn);
    dyn__http_exchange_unref(self);
}

dyn_http_exchange *dyn__http_exchange_new(dyn_http_server *server)
{
    dyn_http_exchange *self = dyn__malloc(sizeof(*self));
    if (self == NULL) return NULL;
    memset(self, 0, offsetof(dyn_http_exchange, head));
    pthread_mutex_init(&self->lock, NULL);
    atomic_init(&self->handles, 0);
    atomic_init(&self->refs, 1);
    atomic_init(&self->watch_bits, DYN__HTTP_WATCH_OFF);
    atomic_fetch_add_explicit(&server->refs, 1, memory_order_relaxed);
    self->server = server;
    self->task.run = flush_posted;
    dyn__http_fields_init(&self->head);
    return self;
}

void dyn__http_exchange_unref(dyn_http_exchange *self)
{
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    dyn_http_server *server = self->server;
    atomic_fetch_sub_explicit(&server->body_bytes, self->body_charged, memory_order_relaxed);
    dyn_buf_unref(self->body);
    dyn__http_let_go(self->held);
    dyn__http_fields_free(&self->head);
    dyn__bytes_free(&self->inbox);
    dyn__bytes_free(&self->extra);
    dyn__bytes_free(&self->pending);
    dyn_mailbox_unref(self->watch_box);
    pthread_mutex_destroy(&self->lock);
    dyn__free(self);
    dyn__http_server_unref(server);
}

/* ---- references -------------------------------------------------------------------------------- */

dyn_http_exchange *dyn_http_exchange_ref(dyn_http_exchange *self)
{
    atomic_fetch_add_explicit(&self->handles, 1, memory_order_relaxed);
    return self;
}

void dyn_http_exchange_unref(dyn_http_exchange *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->handles, 1, memory_order_acq_rel) != 1) return;
    pthread_mutex_lock(&self->lock);
    bool ended = self->ended, begun = self->begun, here = self->conn != NULL;
    pthread_mutex_unlock(&self->lock);
    if (here && !ended && begun) dyn_http_abort(self);
    if (here && !ended && !begun) dyn__http_refuse(self, 500, "the handler gave no answer");
    dyn__http_exchange_unref(self);
}

/* ---- the request ------------------------------------------------------------------------------- */

const char *dyn_http_method(const dyn_http_exchange *self)
{
    return self->method;
}
const char *dyn_http_path(const dyn_http_exchange *self, size_t *length)
{
    if (length != NULL) *length = self->path_length;
    return self->head.arena.data + self->path;
}
const char *dyn_http_query(const dyn_http_exchange *self, size_t *length)
{
    if (length != NULL) *length = self->query_length;
    return self->query_length != 0 ? self->head.arena.data + self->query : "";
}
const char *dyn_http_header(const dyn_http_exchange *self, const char *name, size_t *length)
{
    return dyn__http_fields_find(&self->head, name, length);
}
size_t dyn_http_header_count(const dyn_http_exchange *self)
{
    return self->head.count;
}
const char *dyn_http_header_at(const dyn_http_exchange *self, size_t n, size_t *name_length, const char **value,
                               size_t *value_length)
{
    return dyn__http_fields_at(&self->head, n, name_length, value, value_length);
}
const uint8_t *dyn_http_body(const dyn_http_exchange *self, size_t *length)
{
    if (length != NULL) *length = self->body_length;
    return self->body != NULL ? dyn_buf_data(self->body) : (const uint8_t *)"";
}
const char *dyn_http_request_id(const dyn_http_exchange *self)
{
    return self->request_id;
}
const char *dyn_http_peer(const dyn_http_exchange *self)
{
    return self->peer;
}
uint64_t dyn_http_started_ns(const dyn_http_exchange *self)
{
    return self->started_ns;
}
dyn_loop *dyn_http_loop(const dyn_http_exchange *self)
{
    return self->server->loop;
}

/* ---- the answer -------------------------------------------------------------------------------- */

/* With the lock held; it is given back. Have the loop thread look at the conn. */
static void post_and_unlock(dyn_http_exchange *self)
{
    bool post = !self->posted;
    self->posted = true;
    if (post) atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&self->lock);
    if (post) dyn_loop_post(self->server->loop, &self->task);
}

/* With the lock held; it is given back. Have the conn send what is pending: at the end of this turn when we are the
 * loop thread, by a posted task else. */
static void unlock_and_flush(dyn_http_exchange *self)
{
    dyn__http_conn *conn = self->conn;
    if (conn != NULL && !dyn_loop_here(self->server->loop)) {
        post_and_unlock(self);
        return;
    }
    pthread_mutex_unlock(&self->lock);
    if (conn != NULL) dyn__http_conn_touch(conn);
}

static bool is_plain(const char *text)
{
    for (; *text != 0; text++)
        if (((unsigned char)*text < 0x20 && *text != '\t') || *text == 0x7f) return false;
    return true;
}
static bool is_token(const char *text)
{
    if (*text == 0) return false;
    for (; *text != 0; text++) {
        unsigned char c = (unsigned char)*text;
        bool word = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        if (!word && strchr("!#$%&'*+-.^_`|~", c) == NULL) return false;
    }
    return true;
}

int dyn_http_set_header(dyn_http_exchange *self, const char *name, const char *value)
{
    static const char *const ours[] = {"content-length", "transfer-encoding", "connection", "date", "keep-alive"};
    if (!is_token(name) || !is_plain(value))
        return dyn__fail(
            DYN_EINVAL, "header field \"%.60s\": its name must be a token, its value without control characters", name);
    for (size_t i = 0; i < DYN__COUNT(ours); i++)
        if (strcasecmp(name, ours[i]) == 0)
            return dyn__fail(DYN_EINVAL, "the server writes the header field %s itself", ours[i]);
    size_t name_length = strlen(name), value_length = strlen(value);
    int rc = DYN_EBUSY;
    pthread_mutex_lock(&self->lock);
    if (!self->begun && (rc = dyn__bytes_need(&self->extra, name_length + value_length + 4)) == DYN_OK) {
        dyn__bytes_put(&self->extra, name, name_length);
        dyn__bytes_put(&self->extra, ": ", 2);
        dyn__bytes_put(&self->extra, value, value_length);
        dyn__bytes_put(&self->extra, "\r\n", 2);
    }
    pthread_mutex_unlock(&self->lock);
    return rc;
}

/* The header into `pending`, with room for `more` behind it. With the lock held. length < 0: not known. */
static int put_header(dyn_http_exchange *self, int status, const char *type, int64_t length, size_t more)
{
    dyn_http_server *server = self->server;
    const char *origin = server->limits.allow_origin, *line;
    size_t type_length = type != NULL ? strlen(type) : 0, origin_length = origin != NULL ? strlen(origin) : 0;
    size_t id_length = strlen(self->request_id);
    if (status < 200 || status > 599) return dyn__fail(DYN_EINVAL, "status %d: must be 200 to 599", status);
    if (type != NULL && !is_plain(type))
        return dyn__fail(DYN_EINVAL, "a content type must not have control characters");
    if (self->begun) return DYN_EBUSY;
    if (self->conn == NULL) return DYN_ECLOSED;
    if (dyn__bytes_need(&self->pending, 512 + type_length + origin_length + id_length + self->extra.length + more) < 0)
        return DYN_ENOMEM;

    dyn__bytes *out = &self->pending;
    char number[64];
    size_t line_length = dyn__http_status_line(status, &line);
    bool bodiless = status == 204 || status == 304;
    bool stream = length < 0;
    self->chunked = stream && !bodiless && !self->http_1_0;
    self->no_body = self->is_head || bodiless;
    if (self->close_after || (stream && self->http_1_0 && !bodiless) ||
        atomic_load_explicit(&server->stopping, memory_order_relaxed))
        self->keep_alive = false;
#define PUT(text) dyn__bytes_put(out, text, sizeof(text) - 1)
    if (line != NULL)
        dyn__bytes_put(out, line, line_length);
    else
        dyn__bytes_put(out, number, (size_t)snprintf(number, sizeof(number), "HTTP/1.1 %d Status\r\n", status));
    PUT("Date: ");
    dyn__http_date(server, number);
    dyn__bytes_put(out, number, 29);
    if (type != NULL) {
        PUT("\r\nContent-Type: ");
        dyn__bytes_put(out, type, type_length);
    }
    if (self->chunked) PUT("\r\nTransfer-Encoding: chunked");
    if (!stream && !bodiless)
        dyn__bytes_put(out, number,
                       (size_t)snprintf(number, sizeof(number), "\r\nContent-Length: %lld", (long long)length));
    if (stream && type != NULL && strncmp(type, "text/event-stream", 17) == 0) PUT("\r\nCache-Control: no-cache");
    if (!self->keep_alive)
        PUT("\r\nConnection: close");
    else if (self->http_1_0)
        PUT("\r\nConnection: keep-alive");
    if (id_length != 0) {
        PUT("\r\nx-request-id: ");
        dyn__bytes_put(out, self->request_id, id_length);
    }
    if (origin != NULL) {
        PUT("\r\nAccess-Control-Allow-Origin: ");
        dyn__bytes_put(out, origin, origin_length);
        if (strcmp(origin, "*") != 0) PUT("\r\nVary: Origin");
    }
    PUT("\r\n");
    dyn__bytes_put(out, self->extra.data, self->extra.length);
    PUT("\r\n");
#undef PUT
    self->raw = out->length;
    self->begun = true;
    self->status = status;
    atomic_fetch_add_explicit(&server->answers[status / 100], 1, memory_order_relaxed);
    return DYN_OK;
}

int dyn_http_respond(dyn_http_exchange *self, int status, const char *type, const void *body, size_t length)
{
    pthread_mutex_lock(&self->lock);
    int rc = put_header(self, status, type, (int64_t)length, length);
    if (rc < 0) {
        pthread_mutex_unlock(&self->lock);
        return rc;
    }
    if (!self->no_body) dyn__bytes_put(&self->pending, body, length);
    self->raw = self->pending.length; /* all raw */
    self->chunked = false;
    self->ended = true;
    unlock_and_flush(self);
    return DYN_OK;
}

void dyn__http_let_go(dyn__http_held *held)
{
    if (held == NULL) return;
    held->release(held->user);
    dyn__free(held);
}

int dyn_http_respond_pieces(dyn_http_exchange *self, int status, const char *type, const dyn_http_piece *pieces,
                            size_t count, void (*release)(void *user), void *user)
{
    size_t length = 0, used = 0;
    if (count > 1 << 24) return dyn__fail(DYN_EINVAL, "%zu pieces: at most 2^24", count);
    dyn__http_held *held = dyn__malloc(sizeof(*held) + (DYN__HTTP_HELD_FRONT + count) * sizeof(held->bufs[0]));
    if (held == NULL) return DYN_ENOMEM;
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].length == 0) continue;
        uv_buf_t *buf = &held->bufs[DYN__HTTP_HELD_FRONT + used++];
        buf->base = (char *)(uintptr_t)pieces[i].data;
        buf->len = pieces[i].length;
        length += pieces[i].length;
    }
    *held = (dyn__http_held){release, user, used};
    pthread_mutex_lock(&self->lock);
    int rc = put_header(self, status, type, (int64_t)length, 0);
    if (rc < 0) {
        pthread_mutex_unlock(&self->lock);
        dyn__free(held);
        return rc;
    }
    self->chunked = false;
    self->ended = true;
    bool unwanted = self->no_body;
    if (!unwanted) self->held = held;
    unlock_and_flush(self);
    if (unwanted) dyn__http_let_go(held);
    return DYN_OK;
}

int dyn_http_fail(dyn_http_exchange *self, int status, const char *message, const char *type, const char *param,
                  const char *code)
{
    dyn__bytes body = {0};
    int rc = dyn__http_error_body(&body, status, message, type, param, code);
    if (rc == DYN_OK) rc = dyn_http_respond(self, status, "application/json", body.data, body.length);
    dyn__bytes_free(&body);
    return rc;
}

int dyn__http_refuse(dyn_http_exchange *self, int status, const char *message)
{
    int rc = dyn_http_fail(self, status, message, NULL, NULL, NULL);
    if (rc == DYN_ENOMEM) dyn_http_abort(self); /* no memory for a sentence: the client sees the end */
    return rc;
}

int dyn_http_begin(dyn_http_exchange *self, int status, const char *type)
{
    pthread_mutex_lock(&self->lock);
    int rc = put_header(self, status, type, -1, 0);
    if (rc < 0) {
        pthread_mutex_unlock(&self->lock);
        return rc;
    }
    unlock_and_flush(self);
    return DYN_OK;
}

/* May bytes be added? With the lock held. */
static int may_write(dyn_http_exchange *self, size_t length)
{
    if (!self->begun || self->ended) return DYN_EBUSY;
    if (self->conn == NULL) return DYN_ECLOSED;
    if (self->pending.length + self->in_flight >= self->server->limits.max_pending_bytes) {
        self->want_drain = true;
        return DYN_EAGAIN;
    }
    return dyn__bytes_need(&self->pending, length);
}

static void wrote(dyn_http_exchange *self)
{
    if (self->no_body) self->pending.length = self->raw;
    if (self->pending.length + self->in_flight > self->server->limits.low_water_bytes) self->want_drain = true;
}

int dyn_http_write(dyn_http_exchange *self, const void *data, size_t length)
{
    pthread_mutex_lock(&self->lock);
    int rc = may_write(self, length);
    if (rc < 0 || length == 0) {
        pthread_mutex_unlock(&self->lock);
        return rc;
    }
    dyn__bytes_put(&self->pending, data, length);
    wrote(self);
    unlock_and_flush(self);
    return DYN_OK;
}

int dyn_http_reserve(dyn_http_exchange *self, size_t length, char **room)
{
    pthread_mutex_lock(&self->lock);
    int rc = may_write(self, length);
    if (rc < 0) {
        pthread_mutex_unlock(&self->lock);
        return rc;
    }
    *room = self->pending.data + self->pending.length;
    return DYN_OK; /* the lock stays held: commit gives it back */
}

void dyn_http_commit(dyn_http_exchange *self, size_t used)
{
    assert(used <= self->pending.room - self->pending.length);
    self->pending.length += used;
    wrote(self);
    unlock_and_flush(self);
}

int dyn_http_end(dyn_http_exchange *self)
{
    pthread_mutex_lock(&self->lock);
    int rc = !self->begun || self->ended ? DYN_EBUSY : self->conn == NULL ? DYN_ECLOSED : DYN_OK;
    if (self->begun) self->ended = true;
    unlock_and_flush(self);
    return rc;
}

void dyn_http_abort(dyn_http_exchange *self)
{
    pthread_mutex_lock(&self->lock);
    if (!self->ended) self->begun = self->ended = self->aborted = true;
    unlock_and_flush(self);
}

/* Read one thing of a const exchange under its lock. */
#define GETTER(result, name, expression)                                   \
    result name(const dyn_http_exchange *self)                             \
    {                                                                      \
        pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&self->lock; \
        pthread_mutex_lock(lock);                                          \
        result value = (expression);                                       \
        pthread_mutex_unlock(lock);                                        \
        return value;                                                      \
    }
GETTER(size_t, dyn_http_pending, self->pending.length + self->in_flight)
size_t dyn_http_share(const dyn_http_exchange *self)
{
    enum { ALL = 128 << 20, MOST = 1 << 20, LEAST = 128 << 10 };
    const dyn_http_server *server = self->server;
    size_t connections = atomic_load_explicit(&server->connections, memory_order_relaxed);
    size_t share = ALL / (connections > 0 ? connections : 1);
    share = share > MOST ? MOST : share < LEAST ? LEAST : share;
    if (share > server->limits.max_pending_bytes / 2) share = server->limits.max_pending_bytes / 2;
    return share > server->limits.low_water_bytes ? share : server->limits.low_water_bytes;
}

GETTER(bool, dyn_http_congested, self->want_drain)
GETTER(bool, dyn_http_closed, self->closed)
GETTER(bool, dyn_http_begun, self->begun)

/* ---- a live body ------------------------------------------------------------------------------- */

static void tell_body(dyn_http_exchange *self);

int dyn__http_inbox_put(dyn_http_exchange *self, const char *data, size_t length)
{
    pthread_mutex_lock(&self->lock);
    if (self->inbox_used == self->inbox.length) self->inbox_used = self->inbox.length = 0;
    int rc = dyn__bytes_need(&self->inbox, length);
    if (rc == DYN_OK) dyn__bytes_put(&self->inbox, data, length);
    bool wanted = self->want_body && rc == DYN_OK && length > 0;
    if (wanted) self->want_body = false;
    pthread_mutex_unlock(&self->lock);
    if (wanted) tell_body(self);
    return rc;
}

bool dyn__http_inbox_full(dyn_http_exchange *self)
{
    pthread_mutex_lock(&self->lock);
    bool full = self->inbox.length - self->inbox_used >= self->server->limits.body_window_bytes;
    if (full) self->stalled = true;
    pthread_mutex_unlock(&self->lock);
    return full;
}

void dyn__http_body_ends(dyn_http_exchange *self, int how)
{
    pthread_mutex_lock(&self->lock);
    bool wanted = self->want_body && self->body_end == 0;
    if (self->body_end == 0) self->body_end = how;
    self->want_body = false;
    pthread_mutex_unlock(&self->lock);
    if (wanted) tell_body(self);
}

int dyn_http_read(dyn_http_exchange *self, void *to, size_t size, size_t *got)
{
    int rc = DYN_OK;
    pthread_mutex_lock(&self->lock);
    size_t there = self->inbox.length - self->inbox_used, take = there < size ? there : size;
    if (take > 0) {
        memcpy(to, self->inbox.data + self->inbox_used, take);
        self->inbox_used += take;
        *got = take;
    } else if (!self->live || self->body_end != 0)
        rc = self->live ? self->body_end : DYN_ECLOSED;
    else {
        self->want_body = true;
        rc = DYN_EAGAIN;
    }
    if (self->stalled && self->conn != NULL && there - take <= self->server->limits.body_window_bytes / 2) {
        self->stalled = false;
        self->roomy = true;
        post_and_unlock(self);
    } else
        pthread_mutex_unlock(&self->lock);
    switch (rc) {
    case DYN_EBROKEN: return dyn__fail(rc, "the client left before the end of its request");
    case DYN_EPROTO: return dyn__fail(rc, "the chunks of the request are malformed");
    default: return rc;
    }
}

/* ---- watching ---------------------------------------------------------------------------------- */

int dyn_http_watch(dyn_http_exchange *self, const dyn_http_events *events, void *user)
{
    assert(dyn_loop_here(self->server->loop));
    if (self->events != NULL) return DYN_EBUSY;
    if (self->conn == NULL) return DYN_ECLOSED;
    self->events = events;
    self->events_user = user;
    return DYN_OK;
}

static void drop_watch_mail(dyn_mail *mail)
{
    (void)mail; /* it is part of the exchange */
}

int dyn_http_watch_mail(dyn_http_exchange *self, dyn_mailbox *box, void *owner)
{
    int rc = DYN_OK;
    pthread_mutex_lock(&self->lock);
    if (atomic_load(&self->watch_bits) != DYN__HTTP_WATCH_OFF || self->watch_box != NULL)
        rc = DYN_EBUSY;
    else {
        self->watch_box = dyn_mailbox_ref(box);
        self->watch_mail = (dyn_mail){.owner = owner, .drop = drop_watch_mail};
        atomic_store(&self->watch_bits, 0);
    }
    pthread_mutex_unlock(&self->lock);
    return rc;
}

/* One mail is under way exactly while some event bit is set: who sets the first one posts it. */
static void tell(dyn_http_exchange *self, unsigned bit)
{
    unsigned old = atomic_load(&self->watch_bits);
    do {
        if (old & DYN__HTTP_WATCH_OFF) return;
    } while (!atomic_compare_exchange_weak(&self->watch_bits, &old, old | bit));
    if (old == 0) dyn_mailbox_put(self->watch_box, &self->watch_mail);
}

unsigned dyn_http_event_from_mail(dyn_mail *mail)
{
    dyn_http_exchange *self = DYN__CONTAINER(mail, dyn_http_exchange, watch_mail);
    return atomic_fetch_and(&self->watch_bits, DYN__HTTP_WATCH_OFF) & ~(unsigned)DYN__HTTP_WATCH_OFF;
}

bool dyn_http_unwatch_mail(dyn_http_exchange *self)
{
    unsigned old = atomic_fetch_or(&self->watch_bits, DYN__HTTP_WATCH_OFF);
    return (old & ~(unsigned)DYN__HTTP_WATCH_OFF) == 0;
}

void dyn__http_tell_closed(dyn_http_exchange *self)
{
    pthread_mutex_lock(&self->lock);
    bool first = !self->closed;
    self->closed = true;
    pthread_mutex_unlock(&self->lock);
    if (!first) return;
    if (self->events != NULL && self->events->on_closed != NULL) self->events->on_closed(self->events_user);
    tell(self, DYN_HTTP_EVENT_CLOSED);
}

void dyn__http_tell_drain(dyn_http_exchange *self)
{
    if (self->events != NULL && self->events->on_drain != NULL) self->events->on_drain(self->events_user);
    tell(self, DYN_HTTP_EVENT_DRAIN);
}

static void tell_body(dyn_http_exchange *self)
{
    if (self->events != NULL && self->events->on_body != NULL) self->events->on_body(self->events_user);
    tell(self, DYN_HTTP_EVENT_BODY);
}
