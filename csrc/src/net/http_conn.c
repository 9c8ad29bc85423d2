/* http_conn.c -- one connection: bytes in, one exchange at a time, bytes out. Loop thread only.
 *
 *   socket -> [TLS] -> read() -> [stash] -> take_head | take_body -> dispatch
 *   pump: out, pending -> bufs -> [TLS: sealed] -> one send
 *
 * See http_internal.h for the picture and I1..I5.
 */
#include "net/http_internal.h"

static void run_stash(dyn__http_conn *self);
static void resume_reading(dyn__http_conn *self);
static void feed(dyn__http_conn *self, const char *data, size_t length);
static void send_on(dyn__http_conn *self);
static void finish(dyn__http_conn *self);

#define MS(ms) ((uint64_t)(ms) * 1000000)
enum { LINGER_MS = 2000, MAX_LINGERING = 256, SEAL = 256 * 1024 }; /* SEAL: bytes for TLS at a time */

/* ---- closing ----------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    dyn__http_conn *self = DYN__CONTAINER(handle, dyn__http_conn, tcp);
    dyn_http_server *server = self->server;
    dyn__bytes_free(&self->stash);
    dyn__bytes_free(&self->out);
    dyn__bytes_free(&self->out_flight);
    dyn__bytes_free(&self->flight);
    dyn__bytes_free(&self->sealed);
    dyn__http_let_go(self->held);
    dyn_tls_free(self->tls);
    dyn__free(self);
    dyn__http_server_conn_gone(server);
}

/* The exchange leaves its conn: complete, or cut. */
static void detach(dyn__http_conn *self, bool complete)
{
    dyn_http_exchange *x = self->x;
    if (x == NULL) return;
    self->x = NULL;
    dyn__http_route *route = x->route;
    x->route = NULL;
    if (!complete) dyn__http_tell_closed(x);
    if (x->live) dyn__http_body_ends(x, DYN_EBROKEN); /* unless it ended before */
    pthread_mutex_lock(&x->lock);
    x->conn = NULL;
    x->in_flight = 0;
    dyn__bytes_free(&x->pending);
    dyn__http_held *held = x->held;
    x->held = NULL;
    pthread_mutex_unlock(&x->lock);
    dyn__http_let_go(held);
    if (x->events != NULL && x->events->on_done != NULL) x->events->on_done(x->events_user);
    if (route != NULL) dyn__http_route_unref(route);
    dyn__http_exchange_unref(x);
}

/* TLS's last words, as far as the kernel takes them at once; without them an answer that is cut is seen to be cut. */
static void say_goodbye(dyn__http_conn *self)
{
    const char *data;
    dyn_tls_goodbye(self->tls);
    size_t length = dyn_tls_pending(self->tls, &data);
    uv_buf_t buf = uv_buf_init((char *)(uintptr_t)data, (unsigned)length);
    if (length > 0) uv_try_write((uv_stream_t *)&self->tcp, &buf, 1);
}

void dyn__http_conn_close(dyn__http_conn *self)
{
    dyn_http_server *server = self->server;
    if (self->closing) return;
    self->closing = true;
    if (self->dirty) {
        dyn__http_conn **at = &server->dirty;
        while (*at != self) at = &(*at)->next_dirty;
        *at = self->next_dirty;
        self->dirty = false;
    }
    if (self->next != NULL) self->next->prev = self->prev;
    if (self->prev != NULL)
        self->prev->next = self->next;
    else
        server->all = self->next;
    if (self->state == DYN__LINGER) server->lingering--;
    if (self->state == DYN__BUSY) atomic_fetch_add_explicit(&server->cut, 1, memory_order_relaxed);
    detach(self, false);
    if (self->tls != NULL && self->state == DYN__IDLE && !self->writing) say_goodbye(self);
    uv_close((uv_handle_t *)&self->tcp, on_closed);
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
    (void)request;
    (void)status;
}

/* Say that nothing more comes, and read off what the client still sends: closing with unread bytes would reset the
 * connection, and the reset may overtake the answer. */
static void linger(dyn__http_conn *self)
{
    if (self->eof || self->server->lingering >= MAX_LINGERING) {
        dyn__http_conn_close(self);
        return;
    }
    self->state = DYN__LINGER;
    self->server->lingering++;
    self->since_ns = dyn_now_ns() + MS(LINGER_MS);
    dyn__bytes_empty(&self->stash, 0);
    if (self->tls != NULL) {
        dyn_tls_goodbye(self->tls);
        send_on(self);
        if (self->closing) return;
    }
    if (uv_shutdown(&self->shutdown, (uv_stream_t *)&self->tcp, on_shutdown) != 0)
        dyn__http_conn_close(self);
    else
        resume_reading(self);
}

/* ---- reading ----------------------------------------------------------------------------------- */

/* Where plain bytes go: the rest of a long body where it belongs at once. */
static uv_buf_t space(dyn__http_conn *self)
{
    dyn_http_exchange *x = self->x;
    if (self->state == DYN__BODY && !self->body_chunked && !self->discard && self->stash.length == 0 &&
        self->body_left >= DYN__HTTP_READ_SPACE)
        return uv_buf_init((char *)dyn_buf_data(x->body) + x->body_length,
                           (unsigned)(self->body_left > 1u << 30 ? 1u << 30 : self->body_left));
    return uv_buf_init(self->server->read_space, DYN__HTTP_READ_SPACE);
}

static void on_space(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    dyn__http_conn *self = DYN__CONTAINER(handle, dyn__http_conn, tcp);
    char *room;
    size_t size;
    (void)suggested;
    if (self->tls == NULL || self->state == DYN__LINGER)
        *buf = space(self);
    else if (dyn_tls_room(self->tls, &room, &size) == DYN_OK)
        *buf = uv_buf_init(room, (unsigned)size);
    else
        *buf = uv_buf_init(NULL, 0); /* on_read() is told UV_ENOBUFS */
}

/* The client sends no more. `clean`: it said so, and may still read what is written all the same. */
static void ended(dyn__http_conn *self, bool clean)
{
    if (self->reading) uv_read_stop((uv_stream_t *)&self->tcp);
    self->eof = true;
    self->reading = false;
    if (clean && self->live && self->stash.length > 0) return; /* the rest may be there: run_stash() */
    if (clean && self->state == DYN__BUSY && !self->live)
        dyn__http_tell_closed(self->x);
    else
        dyn__http_conn_close(self);
}

/* No TLS: the connection is of no use. Plain HTTP is told why, whatever else gets TLS's alert. */
static void not_shaken(dyn__http_conn *self, bool plain)
{
    static const char sorry[] =
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 116\r\nConnection: close\r\n\r\n"
        "{\"error\":{\"message\":\"this port speaks TLS: use "
        "https://\",\"type\":\"invalid_request_error\",\"param\":null,"
        "\"code\":\"tls\"}}\n";
    atomic_fetch_add_explicit(&self->server->bad_handshakes, 1, memory_order_relaxed);
    if (plain) {
        uv_buf_t buf = uv_buf_init((char *)(uintptr_t)sorry, sizeof(sorry) - 1);
        uv_try_write((uv_stream_t *)&self->tcp, &buf, 1);
        dyn_tls_free(self->tls);
        self->tls = NULL;
    }
    linger(self);
}

/* What TLS makes of the bytes that came. */
static void unseal(dyn__http_conn *self)
{
    int rc = DYN_OK;
    if (!self->shaken) {
        rc = dyn_tls_handshake(self->tls);
        self->shaken = rc == DYN_OK;
        if (rc < 0 && rc != DYN_EAGAIN) {
            dyn_error_clear();
            not_shaken(self, false);
            return;
        }
    }
    while (rc == DYN_OK && !self->closing && self->state != DYN__LINGER) {
        uv_buf_t buf = space(self);
        size_t got;
        if ((rc = dyn_tls_read(self->tls, buf.base, buf.len, &got)) == DYN_OK) dyn__http_conn_read(self, buf.base, got);
    }
    if (self->closing || self->state == DYN__LINGER) return;
    if (rc != DYN_EAGAIN) {
        dyn_error_clear();
        ended(self, rc == DYN_ECLOSED);
    } else if (!self->writing)
        send_on(self); /* the handshake's next step, a ticket, an answer to a new key */
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    dyn__http_conn *self = DYN__CONTAINER(stream, dyn__http_conn, tcp);
    if (got == 0) return;
    if (got < 0) {
        ended(self, got == UV_EOF);
        return;
    }
    atomic_fetch_add_explicit(&self->server->bytes_in, (size_t)got, memory_order_relaxed);
    if (self->state == DYN__LINGER) return;
    if (self->tls == NULL) {
        dyn__http_conn_read(self, buf->base, (size_t)got);
        return;
    }
    if (self->first && !self->shaken && buf->base[0] >= 'A' && buf->base[0] <= 'Z') {
        not_shaken(self, true);
        return;
    }
    dyn_tls_fed(self->tls, (size_t)got);
    unseal(self);
}

static void resume_reading(dyn__http_conn *self)
{
    if (self->reading || self->closing || self->eof) return;
    if (uv_read_start((uv_stream_t *)&self->tcp, on_space, on_read) != 0)
        dyn__http_conn_close(self);
    else
        self->reading = true;
}

static bool may_parse(const dyn__http_conn *self)
{
    return !self->closing &&
           (self->state <= DYN__BODY || (self->live && (self->discard || !dyn__http_inbox_full(self->x))));
}

void dyn__http_conn_read(dyn__http_conn *self, const char *data, size_t length)
{
    if (self->state == DYN__LINGER) return;
    feed(self, data, length);
}

/* ---- the head ---------------------------------------------------------------------------------- */

static int refusal_of(int rc)
{
    return rc == DYN_OK ? 0 : rc == DYN_EPROTO ? 400 : rc == DYN_ELIMIT ? 431 : 503;
}

static int on_url(void *user, const char *data, size_t length)
{
    dyn__http_conn *self = user;
    if (self->x->head.arena.length + length > self->server->limits.max_url_bytes) return 414;
    return refusal_of(dyn__http_fields_text(&self->x->head, data, length));
}

static int on_name(void *user, const char *data, size_t length)
{
    dyn__http_conn *self = user;
    return refusal_of(dyn__http_fields_name(&self->x->head, data, length, self->server->limits.max_headers));
}

static int on_value(void *user, const char *data, size_t length)
{
    dyn__http_conn *self = user;
    return refusal_of(dyn__http_fields_value(&self->x->head, data, length));
}

static int on_body(void *user, const char *data, size_t length);

static void start_exchange(dyn__http_conn *self)
{
    self->x = dyn__http_exchange_new(self->server);
    if (self->x == NULL) {
        dyn__http_conn_close(self);
        return;
    }
    self->x->conn = self;
    memcpy(self->x->peer, self->peer, sizeof(self->peer));
    self->state = DYN__HEAD;
    self->since_ns = dyn_now_ns();
    self->gate = 0;
    self->head_bytes = 0;
    self->discard = self->last_sent = false;
    self->body_overhead = 0;
    dyn__http_parser_reset(&self->parser);
}

/* Refuse the request that is being read, and with it the connection. */
static void refuse(dyn__http_conn *self, int status, const char *message)
{
    dyn_http_server *server = self->server;
    dyn_http_exchange *x = self->x;
    atomic_fetch_add_explicit(&server->malformed, 1, memory_order_relaxed);
    if (status == 408) atomic_fetch_add_explicit(&server->timed_out, 1, memory_order_relaxed);
    self->state = DYN__BUSY;
    x->close_after = true;
    dyn__http_refuse(x, status, message);
}

static const char *why(int status)
{
    switch (status) {
    case 414: return "the request target is over the limit of this server";
    case 431: return "the header is over the limit of this server";
    case 501: return "this method is not known here";
    case 503: return "the server is out of memory for this request";
    case 505: return "only HTTP/1.0 and HTTP/1.1 are spoken here";
    case 413: return "the body is over the limit of this server";
    case 401: return "this server needs the header \"Authorization: Bearer <key>\" with its key";
    case 404: return "there is nothing at this path";
    case 405: return "this path is not for this method";
    default: return "the request is not well-formed HTTP";
    }
}

/* Answers that leave the connection in order: the body is read off first, as long as it is short enough. */
static int refuse_later(dyn__http_conn *self)
{
    dyn_http_exchange *x = self->x;
    dyn_http_server *server = self->server;
    char allow[128] = "";
    x->route = dyn__http_find(server, x->method, x->head.arena.data + x->path, x->path_length, allow);
    if (x->route != NULL) x->route->refs++;
    bool preflight = server->limits.allow_origin != NULL && strcmp(x->method, "OPTIONS") == 0 &&
                     dyn_http_header(x, "access-control-request-method", NULL) != NULL;
    if (preflight && (x->route != NULL || allow[0] != 0)) {
        dyn_http_set_header(x, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        dyn_http_set_header(x, "Access-Control-Allow-Headers", "authorization, content-type, x-request-id");
        dyn_http_set_header(x, "Access-Control-Max-Age", "600");
        return 204;
    }
    if (server->limits.api_key != NULL && (x->route == NULL || !(x->route->flags & DYN_HTTP_OPEN))) {
        size_t length = 0;
        const char *given = dyn_http_header(x, "authorization", &length);
        bool bearer = given != NULL && length > 7 && strncasecmp(given, "bearer ", 7) == 0;
        if (!dyn__http_key_matches(bearer ? given + 7 : "", bearer ? length - 7 : 0, server->limits.api_key,
                                   server->api_key_length)) {
            dyn_http_set_header(x, "WWW-Authenticate", "Bearer");
            return 401;
        }
    }
    if (x->route != NULL) return 0;
    if (allow[0] == 0) return 404;
    dyn_http_set_header(x, "Allow", allow);
    return 405;
}

/* The body of a live request is over, one way or another. */
static void live_done(dyn__http_conn *self, int how)
{
    dyn_http_exchange *x = self->x;
    self->live = false;
    if (how != DYN_ECLOSED) { /* nobody knows where the next request begins */
        pthread_mutex_lock(&x->lock);
        x->close_after = true;
        x->keep_alive = false;
        pthread_mutex_unlock(&x->lock);
    }
    dyn__http_body_ends(x, how);
    if (self->discard)
        finish(self); /* the answer is out already */
    else if (self->eof)
        dyn__http_tell_closed(x);
}

static void message_done(dyn__http_conn *self)
{
    dyn_http_exchange *x = self->x;
    if (self->live) {
        live_done(self, DYN_ECLOSED);
        return;
    }
    self->state = DYN__BUSY;
    if (x->body != NULL) dyn_buf_data(x->body)[x->body_length] = 0;
    if (self->refusal == 0) {
        dyn__http_dispatch(x);
        return;
    }
    atomic_fetch_add_explicit(&self->server->malformed, self->refusal != 204, memory_order_relaxed);
    if (self->refusal == 204)
        dyn_http_respond(x, 204, NULL, NULL, 0);
    else
        dyn__http_refuse(x, self->refusal, why(self->refusal));
}

/* Charge `more` bytes of body to the server. */
static bool charge(dyn_http_exchange *x, size_t more)
{
    size_t held = atomic_fetch_add_explicit(&x->server->body_bytes, more, memory_order_relaxed);
    x->body_charged += more;
    return held + more <= x->server->limits.max_total_body_bytes;
}

static void head_done(dyn__http_conn *self)
{
    dyn_http_exchange *x = self->x;
    enum dyn__http_body body;
    uint64_t size = 0;
    bool wants_100 = false;
    const char *message = NULL;
    int status = refusal_of(dyn__http_fields_end(&x->head));
    if (status == 0) status = dyn__http_check_head(self, &body, &size, &wants_100, &message);
    if (status != 0) {
        refuse(self, status, message != NULL ? message : why(status));
        return;
    }
    self->refusal = refuse_later(self);
    self->discard = self->refusal != 0;
    x->live = !self->discard && x->route->flags & DYN_HTTP_LIVE;
    if (size > self->server->limits.max_body_bytes && !x->live) {
        refuse(self, 413, why(413));
        return;
    }
    if (body == DYN__NO_BODY) {
        if (x->live) x->body_end = DYN_ECLOSED;
        message_done(self);
        return;
    }
    if (self->discard && wants_100) { /* the client has not sent the body yet, and need not */
        refuse(self, self->refusal, why(self->refusal));
        return;
    }
    self->state = DYN__BODY;
    self->since_ns = x->started_ns;
    self->body_chunked = body == DYN__CHUNKED;
    self->body_left = size;
    if (x->live && !charge(x, self->server->limits.body_window_bytes)) {
        refuse(self, 503, why(503));
        return;
    }
    if (!self->discard && !x->live && body == DYN__SIZED) {
        if (!charge(x, size) || dyn_buf_new(&x->body, (size_t)size + 1) < 0) {
            refuse(self, 503, "too many request bodies are held at this time; try again");
            return;
        }
        x->body_room = size;
    }
    if (wants_100) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        if (dyn__bytes_need(&self->out, sizeof(go_on)) == DYN_OK) dyn__bytes_put(&self->out, go_on, sizeof(go_on) - 1);
        dyn__http_conn_touch(self);
    }
    if (!x->live) return;
    self->state = DYN__BUSY;
    self->live = true;
    dyn__http_dispatch(x);
}

/* Returns how many bytes were used. */
static size_t take_head(dyn__http_conn *self, const char *data, size_t length)
{
    size_t blank = 0;
    if (self->state == DYN__IDLE) {
        while (blank < length && (data[blank] == '\r' || data[blank] == '\n')) blank++; /* as RFC 9112 2.2 asks */
        if (blank == length) return length;
        start_exchange(self);
        if (self->closing) return length;
    }
    data += blank;
    length -= blank;
    ptrdiff_t head = dyn__http_gate(&self->gate, data, length);
    if (head < 0) {
        refuse(self, 400, "lines must end in CR LF and not begin with a blank");
        return blank;
    }
    self->head_bytes += (size_t)head;
    bool over = self->head_bytes > self->server->limits.max_header_bytes;
    int status = over && self->x->head.count > 0 ? 431 : dyn__http_parse_head(&self->parser, data, (size_t)head);
    if (status == 0 && over) status = self->x->head.count > 0 ? 431 : 414;
    bool complete = self->gate == DYN__HTTP_HEAD_END;
    if (status == 0 && complete != self->parser.head_done) status = 400;
    if (status == 501 && (data[0] < 'A' || data[0] > 'Z')) status = 400;
    if (status != 0)
        refuse(self, status, why(status));
    else if (complete)
        head_done(self);
    return blank + (size_t)head;
}

/* ---- the body ---------------------------------------------------------------------------------- */

/* Five bytes and the length's digits frame a chunk; more than this is padding, not framing. */
static bool padded(const dyn__http_conn *self, uint64_t overhead)
{
    return overhead > self->server->limits.max_header_bytes + 16 * self->body_left;
}

static int on_body(void *user, const char *data, size_t length) /* chunked */
{
    dyn__http_conn *self = user;
    dyn_http_exchange *x = self->x;
    /* Looked at before each piece of body and behind the last: what is refused must not hang on how the bytes came. */
    uint64_t seen = (uint64_t)(data - self->chunks_at) - (self->body_left - self->chunks_body);
    if (padded(self, self->body_overhead + seen)) return 400;
    self->body_left += length; /* chunked: what came so far */
    if (self->live && self->discard) return 0;
    if (self->live) return dyn__http_inbox_put(x, data, length) < 0 ? 503 : 0;
    if (self->body_left > self->server->limits.max_body_bytes) return 413;
    if (self->discard) return 0;
    if (length > x->body_room - x->body_length) {
        size_t room = x->body_room < 4096 ? 4096 : x->body_room * 2;
        while (room < x->body_length + length) room *= 2;
        dyn_buf *bigger;
        if (!charge(x, room - x->body_room) || dyn_buf_new(&bigger, room + 1) < 0) return 503;
        if (x->body != NULL) memcpy(dyn_buf_data(bigger), dyn_buf_data(x->body), x->body_length);
        dyn_buf_unref(x->body);
        x->body = bigger;
        x->body_room = room;
    }
    memcpy(dyn_buf_data(x->body) + x->body_length, data, length);
    x->body_length += length;
    return 0;
}

/* Refused when it is announced, not when it has come. */
static int on_chunk(void *user, uint64_t size)
{
    const dyn__http_conn *self = user;
    if (self->live) return 0;
    return size > self->server->limits.max_body_bytes - self->body_left ? 413 : 0;
}

static size_t take_body(dyn__http_conn *self, const char *data, size_t length)
{
    dyn_http_exchange *x = self->x;
    if (!self->body_chunked) {
        size_t used = length < self->body_left ? length : (size_t)self->body_left;
        if (self->live && !self->discard) {
            if (dyn__http_inbox_put(x, data, used) < 0) {
                live_done(self, DYN_EBROKEN);
                return used;
            }
        } else if (!self->discard) {
            uint8_t *to = dyn_buf_data(x->body) + x->body_length;
            if ((const char *)to != data) memcpy(to, data, used);
            x->body_length += used;
        }
        self->body_left -= used;
        if (self->body_left == 0) message_done(self);
        return used;
    }
    size_t used;
    self->chunks_at = data;
    self->chunks_body = self->body_left;
    int status = dyn__http_parse_chunks(&self->parser, data, length, &used);
    self->body_overhead += used - (self->body_left - self->chunks_body);
    if (status == 0 && padded(self, self->body_overhead)) status = 400;
    if (status != 0 && self->live) {
        live_done(self, status == 503 ? DYN_ENOMEM : DYN_EPROTO);
        return used;
    }
    if (status != 0) {
        refuse(self, status, why(status));
        return used;
    }
    if (self->parser.message_done) message_done(self);
    return used;
}

/* ---- from one request to the next -------------------------------------------------------------- */

/* The exchange's answer is complete in the kernel, or in `out`. */
static void finish(dyn__http_conn *self)
{
    bool keep = self->x->keep_alive && !atomic_load_explicit(&self->server->stopping, memory_order_relaxed);
    detach(self, true);
    self->state = DYN__IDLE;
    self->first = false;
    self->since_ns = dyn_now_ns();
    if (!keep) {
        if (!self->writing && self->out.length == 0)
            linger(self);
        else
            self->last_answer = true; /* linger when `out` is gone */
        return;
    }
}

/* Several small requests in one read, answered at once by handlers of the loop thread: gather their answers in
 * `out`. */
static void absorb(dyn__http_conn *self)
{
    dyn_http_exchange *x = self->x;
    if (self->state != DYN__BUSY || self->live || self->closing || self->writing || self->out.length > DYN__HTTP_KEEP)
        return;
    pthread_mutex_lock(&x->lock);
    bool whole =
        x->ended && !x->aborted && x->keep_alive && x->raw == x->pending.length && !x->chunked && x->held == NULL;
    if (whole && (whole = dyn__bytes_need(&self->out, x->pending.length) == DYN_OK))
        dyn__bytes_put(&self->out, x->pending.data, x->pending.length);
    pthread_mutex_unlock(&x->lock);
    if (!whole) return;
    finish(self);
    if (!self->closing) dyn__http_conn_touch(self);
}

/* Parse while the state lets us; the rest waits in the stash. */
static size_t parse(dyn__http_conn *self, const char *data, size_t length)
{
    size_t at = 0;
    self->consuming = true;
    while (at < length && may_parse(self) && !self->last_answer) {
        size_t left = length - at, window = self->server->limits.body_window_bytes;
        if (self->live)
            at += take_body(self, data + at, left < window ? left : window);
        else
            at += self->state == DYN__BODY ? take_body(self, data + at, left) : take_head(self, data + at, left);
        if (at < length) absorb(self);
    }
    self->consuming = false;
    return at;
}

static void feed(dyn__http_conn *self, const char *data, size_t length)
{
    size_t used = 0;
    if (self->stash.length == 0) used = parse(self, data, length);
    if (self->closing || used == length || self->state == DYN__LINGER) return;
    if (dyn__bytes_need(&self->stash, length - used) < 0) {
        dyn__http_conn_close(self);
        return;
    }
    dyn__bytes_put(&self->stash, data + used, length - used);
    if (self->stash.length > DYN__HTTP_STASH_MAX && self->reading) {
        uv_read_stop((uv_stream_t *)&self->tcp);
        self->reading = false;
    }
}

void dyn__http_conn_more(dyn__http_conn *self)
{
    if (self->live) run_stash(self);
}

static void run_stash(dyn__http_conn *self)
{
    if (self->consuming) return; /* parse() goes on by itself */
    if (self->stash.length > 0 && may_parse(self) && !self->last_answer) {
        size_t used = parse(self, self->stash.data + self->stash_used, self->stash.length - self->stash_used);
        self->stash_used += used;
        if (self->closing || self->state == DYN__LINGER) return;
        if (self->stash_used == self->stash.length) {
            dyn__bytes_empty(&self->stash, 0);
            self->stash_used = 0;
        }
    }
    if (self->eof && may_parse(self))
        dyn__http_conn_close(self);
    else if (may_parse(self) && self->stash.length == 0)
        resume_reading(self);
}

/* ---- writing ----------------------------------------------------------------------------------- */

void dyn__http_conn_touch(dyn__http_conn *self)
{
    if (self->dirty || self->closing) return;
    self->dirty = true;
    self->next_dirty = self->server->dirty;
    self->server->dirty = self;
}

/* Everything taken is in the kernel. */
static void all_sent(dyn__http_conn *self)
{
    dyn_http_exchange *x = self->x;
    dyn__bytes_empty(&self->flight, DYN__HTTP_KEEP);
    dyn__bytes_empty(&self->out_flight, DYN__HTTP_KEEP);
    if (self->last_answer && self->out.length == 0 && x == NULL) {
        linger(self);
        return;
    }
    if (x == NULL || self->state != DYN__BUSY) return;
    if (self->last_sent && self->live) { /* answered before the request is over: read off the rest of it, for a while */
        if (self->discard) return;
        self->discard = true;
        self->since_ns = dyn_now_ns();
        dyn__http_conn_more(self);
        return;
    }
    if (self->last_sent) {
        finish(self);
        if (!self->closing) run_stash(self);
        return;
    }
    pthread_mutex_lock(&x->lock);
    x->in_flight = 0;
    bool drained = x->want_drain && x->pending.length <= self->server->limits.low_water_bytes;
    if (drained) x->want_drain = false;
    pthread_mutex_unlock(&x->lock);
    if (drained) dyn__http_tell_drain(x);
}

static void on_written(uv_write_t *request, int status)
{
    dyn__http_conn *self = DYN__CONTAINER(request, dyn__http_conn, write);
    self->writing = false;
    if (self->closing) return;
    if (status < 0) {
        dyn__http_conn_close(self);
        return;
    }
    dyn__bytes_empty(&self->sealed, DYN__HTTP_KEEP);
    send_on(self);
    if (!self->closing) dyn__http_conn_pump(self);
}

static const char last_chunk[] = "\r\n0\r\n\r\n";

static void add(dyn__http_conn *self, const char *data, size_t length)
{
    if (length == 0) return;
    self->bufs[self->buf_count].base = (char *)(uintptr_t)data; /* uv_buf_init() takes 32 bits of length */
    self->bufs[self->buf_count++].len = length;
}

/* A body that lies elsewhere, behind what is in bufs. */
static void add_held(dyn__http_conn *self, dyn__http_held *held)
{
    size_t front = DYN__HTTP_HELD_FRONT - self->buf_count;
    assert(self->buf_at == 0 && self->buf_count <= DYN__HTTP_HELD_FRONT);
    memcpy(held->bufs + front, self->bufs, self->buf_count * sizeof(*self->bufs));
    self->bufs = held->bufs;
    self->buf_at = front;
    self->buf_count = DYN__HTTP_HELD_FRONT + held->count;
    self->held = held;
}

/* All of bufs is sent. */
static void empty_bufs(dyn__http_conn *self)
{
    dyn__http_held *held = self->held;
    self->held = NULL;
    self->bufs = self->own_bufs;
    self->buf_at = self->buf_count = 0;
    dyn__http_let_go(held);
}

/* Chunk framing around `data`. */
static void add_chunk(dyn__http_conn *self, const char *data, size_t length, bool last)
{
    static const char hex[] = "0123456789abcdef";
    char *at = self->chunk_head + sizeof(self->chunk_head);
    if (length == 0) {
        if (last) add(self, last_chunk + 2, 5);
        return;
    }
    *--at = '\n', *--at = '\r';
    for (size_t left = length; left != 0; left >>= 4) *--at = hex[left & 15];
    add(self, at, (size_t)(self->chunk_head + sizeof(self->chunk_head) - at));
    add(self, data, length);
    add(self, last_chunk, last ? 7 : 2);
}

static void skip_sent(dyn__http_conn *self, size_t sent)
{
    while (sent > 0) {
        uv_buf_t *buf = &self->bufs[self->buf_at];
        size_t part = sent < buf->len ? sent : buf->len;
        buf->base += part;
        buf->len -= part;
        sent -= part;
        if (buf->len == 0) self->buf_at++;
    }
}

/* Encrypt some of bufs. */
static int seal(dyn__http_conn *self)
{
    size_t done = 0;
    int rc = DYN_OK;
    for (size_t i = self->buf_at; self->shaken && i < self->buf_count && done < SEAL && rc == DYN_OK; i++) {
        size_t part = self->bufs[i].len < SEAL - done ? self->bufs[i].len : SEAL - done;
        rc = dyn_tls_write(self->tls, self->bufs[i].base, part);
        done += part;
    }
    skip_sent(self, done);
    dyn__tls_take(self->tls, &self->sealed);
    return rc;
}

/* Send what is in bufs, and what TLS has to say. Not while `writing`. */
static void send_on(dyn__http_conn *self)
{
    for (;;) {
        uv_buf_t sealed, *bufs = self->bufs + self->buf_at;
        size_t n = self->buf_count - self->buf_at;
        if (self->tls != NULL) {
            if (seal(self) < 0) {
                dyn_error_clear();
                dyn__http_conn_close(self);
                return;
            }
            sealed = uv_buf_init(self->sealed.data, (unsigned)self->sealed.length);
            bufs = &sealed;
            n = sealed.len > 0;
        }
        if (n == 0) {
            empty_bufs(self);
            if (self->state != DYN__LINGER) all_sent(self);
            return;
        }
        size_t total = 0;
        for (size_t i = 0; i < n; i++) total += bufs[i].len;
        atomic_fetch_add_explicit(&self->server->bytes_out, total, memory_order_relaxed);
        int sent = uv_try_write((uv_stream_t *)&self->tcp, bufs, (unsigned)n);
        if (sent == UV_EAGAIN) sent = 0;
        if (sent < 0) {
            dyn__http_conn_close(self);
            return;
        }
        bool all = (size_t)sent == total;
        if (self->tls != NULL) {
            sealed.base += sent;
            sealed.len -= (size_t)sent;
            if (all) dyn__bytes_empty(&self->sealed, DYN__HTTP_KEEP);
        } else {
            skip_sent(self, (size_t)sent);
            bufs = self->bufs + self->buf_at;
            n = self->buf_count - self->buf_at;
        }
        if (all) continue;
        if (uv_write(&self->write, (uv_stream_t *)&self->tcp, bufs, (unsigned)n, on_written) != 0) {
            dyn__http_conn_close(self);
            return;
        }
        if (self->tls == NULL) self->buf_at = self->buf_count; /* libuv has its own list of them */
        self->writing = true;
        self->stuck_at = SIZE_MAX;
        self->stuck_since_ns = dyn_now_ns();
        return;
    }
}

/* Send what there is. */
void dyn__http_conn_pump(dyn__http_conn *self)
{
    if (self->closing || self->writing || self->state == DYN__LINGER) return;

    dyn_http_exchange *x = self->state == DYN__BUSY ? self->x : NULL;
    dyn__bytes swap = self->out;
    self->out = self->out_flight;
    self->out_flight = swap;
    add(self, self->out_flight.data, self->out_flight.length);
    if (x != NULL && !self->last_sent) {
        pthread_mutex_lock(&x->lock);
        bool is_last = x->ended, aborted = x->aborted, chunked = x->chunked && !x->no_body;
        size_t raw = x->raw;
        swap = x->pending;
        x->pending = self->flight;
        self->flight = swap;
        dyn__http_held *held = x->held;
        x->held = NULL;
        x->raw = 0;
        x->in_flight = self->flight.length;
        pthread_mutex_unlock(&x->lock);
        if (aborted) {
            dyn__http_let_go(held);
            dyn__http_conn_close(self);
            return;
        }
        size_t more = self->flight.length - raw;
        const char *body = more > 0 ? self->flight.data + raw : "";
        add(self, self->flight.data, raw);
        if (chunked)
            add_chunk(self, body, more, is_last);
        else
            add(self, body, more);
        if (held != NULL) add_held(self, held);
        self->last_sent = is_last;
    }
    if (self->buf_count > 0 || self->last_sent || self->last_answer) send_on(self);
}

/* ---- time and birth ---------------------------------------------------------------------------- */

static bool over(uint64_t now, uint64_t since, uint32_t limit_ms)
{
    return limit_ms != DYN_HTTP_NEVER && now > since && now - since > MS(limit_ms);
}

void dyn__http_conn_sweep(dyn__http_conn *self, uint64_t now)
{
    const dyn_http_settings *limits = &self->server->limits;
    if (self->writing) {
        size_t queued = uv_stream_get_write_queue_size((uv_stream_t *)&self->tcp);
        if (queued != self->stuck_at) {
            self->stuck_at = queued;
            self->stuck_since_ns = now;
        } else if (over(now, self->stuck_since_ns, limits->write_timeout_ms)) {
            dyn__http_conn_close(self);
            return;
        }
    }
    uint64_t came;
    switch (self->state) {
    case DYN__IDLE:
        if (over(now, self->since_ns, limits->idle_timeout_ms) ||
            (self->first && over(now, self->since_ns, limits->header_timeout_ms)))
            dyn__http_conn_close(self);
        break;
    case DYN__HEAD:
        if (over(now, self->since_ns, limits->header_timeout_ms)) refuse(self, 408, "the header took too long");
        break;
    case DYN__BODY:
        came = self->body_chunked ? self->body_left : self->x->body_length;
        if (over(now, self->since_ns + MS(came), limits->body_timeout_ms)) refuse(self, 408, "the body took too long");
        break;
    case DYN__BUSY:
        if (!self->live || !self->discard || !over(now, self->since_ns, LINGER_MS)) break;
        live_done(self, DYN_EBROKEN);
        break;
    case DYN__LINGER:
        if (now > self->since_ns) dyn__http_conn_close(self);
        break;
    default: break;
    }
}

static void name_peer(dyn__http_conn *self)
{
    struct sockaddr_storage address;
    int length = sizeof(address);
    char host[46] = "";
    if (uv_tcp_getpeername(&self->tcp, (struct sockaddr *)&address, &length) != 0) return;
    uint16_t port = ntohs(((struct sockaddr_in *)&address)->sin_port); /* the same place in both families */
    bool six = address.ss_family == AF_INET6;
    if (six)
        uv_ip6_name((struct sockaddr_in6 *)&address, host, sizeof(host));
    else
        uv_ip4_name((struct sockaddr_in *)&address, host, sizeof(host));
    snprintf(self->peer, sizeof(self->peer), six ? "[%s]:%u" : "%s:%u", host, port);
}

/* A conn without a socket yet, in the server's list; NULL: no memory. */
dyn__http_conn *dyn__http_conn_new(dyn_http_server *server)
{
    dyn__http_conn *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return NULL;
    dyn_tls_context *tls = server->limits.tls;
    if ((tls != NULL && dyn_tls_new(&self->tls, tls, NULL) < 0) ||
        uv_tcp_init(dyn_loop_uv(server->loop), &self->tcp) != 0) {
        dyn_tls_free(self->tls);
        dyn__free(self);
        return NULL;
    }
    self->server = server;
    self->bufs = self->own_bufs;
    atomic_fetch_add_explicit(&server->refs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&server->connections, 1, memory_order_relaxed);
    self->next = server->all;
    if (server->all != NULL) server->all->prev = self;
    server->all = self;
    self->first = true;
    self->since_ns = dyn_now_ns();
    self->parser.user = self;
    self->parser.on_url = on_url;
    self->parser.on_name = on_name;
    self->parser.on_value = on_value;
    self->parser.on_body = on_body;
    self->parser.on_chunk = on_chunk;
    return self;
}

void dyn__http_conn_accept(dyn_http_server *server, uv_stream_t *listener, bool *again)
{
    static const char full[] =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 119\r\n"
        "Retry-After: 1\r\nConnection: close\r\n\r\n"
        "{\"error\":{\"message\":\"too many connections; try again\",\"type\":\"service_unavailable\","
        "\"param\":null,\"code\":\"connections\"}}\n";
    dyn__http_conn *self = dyn__http_conn_new(server);
    *again = self == NULL; /* libuv holds the socket until somebody takes it: the next sweep tries */
    if (self == NULL) return;
    if (uv_accept(listener, (uv_stream_t *)&self->tcp) != 0) {
        dyn__http_conn_close(self);
        return;
    }
    uv_tcp_nodelay(&self->tcp, 1);
    name_peer(self);
    atomic_fetch_add_explicit(&server->accepted, 1, memory_order_relaxed);
    resume_reading(self);
    if (!self->closing &&
        atomic_load_explicit(&server->connections, memory_order_relaxed) > server->limits.max_connections) {
        atomic_fetch_add_explicit(&server->refused, 1, memory_order_relaxed);
        uv_buf_t buf = uv_buf_init((char *)(uintptr_t)full, sizeof(full) - 1);
        if (self->tls != NULL) { /* it would take a handshake to say so */
            dyn__http_conn_close(self);
            return;
        }
        uv_try_write((uv_stream_t *)&self->tcp, &buf, 1);
        linger(self);
    }
}
