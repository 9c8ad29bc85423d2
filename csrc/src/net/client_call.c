/* client_call.c -- one request and its answer, as far as they go without waiting; and waiting in the caller's thread.
 *
 *   step:  link opens -> [ send what is left | read, head, body ] -> stop, or EAGAIN
 *
 * Sending and reading go on side by side: a server may answer before it has read everything, and then stop reading.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>

#include "net/client_internal.h"

enum { SHORT_BODY = 8 * 1024, LARGE = 64 * 1024, CONGESTED = 256 * 1024, LOOK_UP_MS = 200 };

/* ---- making one -------------------------------------------------------------------------------- */

static bool is_token(const char *text, size_t length)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && (c == 0 || strchr(marks, c) == NULL)) return false;
    }
    return length > 0;
}

int dyn_http_header_check(const char *name, size_t name_length, const char *value, size_t value_length)
{
    static const char *const ours[] = {"host",    "content-length", "transfer-encoding", "connection", "upgrade", "te",
                                       "trailer", "expect",         "keep-alive"};
    int shown = name_length < 64 ? (int)name_length : 64;
    if (!is_token(name, name_length))
        return dyn__fail(DYN_EINVAL, "the header name \"%.*s\": must be letters, digits and dashes", shown, name);
    for (size_t i = 0; i < DYN__COUNT(ours); i++)
        if (strlen(ours[i]) == name_length && strncasecmp(ours[i], name, name_length) == 0)
            return dyn__fail(DYN_EINVAL, "the header %s is set by the client itself", ours[i]);
    if (value_length > 16 * 1024)
        return dyn__fail(DYN_EINVAL, "the value of header %.*s has %zu bytes: must be at most 16384", shown, name,
                         value_length);
    for (size_t i = 0; i < value_length; i++) {
        unsigned char c = (unsigned char)value[i];
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return dyn__fail(DYN_EINVAL, "the value of header %.*s has the control character 0x%02x at %zu", shown,
                             name, c, i);
    }
    return DYN_OK;
}

static int check_request(const dyn_http_request *r)
{
    if (r->method == NULL || !is_token(r->method, strlen(r->method)))
        return dyn__fail(DYN_EINVAL, "the method \"%.40s\": must be a word", r->method != NULL ? r->method : "");
    if (r->path == NULL || r->path[0] != '/')
        return dyn__fail(DYN_EINVAL, "the path \"%.100s\": must begin with /", r->path != NULL ? r->path : "");
    for (const char *c = r->path; *c != 0; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f || *c == '#')
            return dyn__fail(DYN_EINVAL,
                             "the path \"%.100s\" has a blank, #, control character or byte that is not "
                             "ASCII: percent-encode it",
                             r->path);
    if (r->headers_length > 0 && (r->headers_length < 2 || memcmp(r->headers + r->headers_length - 2, "\r\n", 2) != 0 ||
                                  memmem(r->headers, r->headers_length, "\r\n\r\n", 4) != NULL))
        return dyn__fail(DYN_EINVAL, "header lines must end with CR LF, and none may be empty");
    if ((r->flags & DYN_HTTP_CALL_SEND_LATER) && (r->length > 0 || r->piece_count > 0))
        return dyn__fail(DYN_EINVAL, "a request has a body of %zu bytes or one that follows, not both", r->length);
    if (r->length > 0 && r->piece_count > 0)
        return dyn__fail(DYN_EINVAL, "a request has a body of %zu bytes or one in pieces, not both", r->length);
    return DYN_OK;
}

static int write_head(dyn_http_call *self, const dyn_http_request *r)
{
    const dyn_http_client *client = self->client;
    dyn__bytes *head = &self->head;
    char size[64];
    size_t length = r->length;
    for (size_t i = 0; i < r->piece_count; i++) length += r->pieces[i].length;
    bool bare = length == 0 && (strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0);
    int n = r->flags & DYN_HTTP_CALL_SEND_LATER ? snprintf(size, sizeof(size), "Transfer-Encoding: chunked\r\n\r\n")
            : bare                              ? snprintf(size, sizeof(size), "\r\n")
                                                : snprintf(size, sizeof(size), "Content-Length: %zu\r\n\r\n", length);
    size_t method = strlen(r->method), prefix = strlen(client->prefix), path = strlen(r->path),
           host = strlen(client->host_line), with = length <= SHORT_BODY ? length : 0;
    if (dyn__bytes_need(head, method + prefix + path + host + r->headers_length + (size_t)n + with + 16) < 0)
        return DYN_ENOMEM;
    dyn__bytes_put(head, r->method, method);
    dyn__bytes_put(head, " ", 1);
    dyn__bytes_put(head, client->prefix, prefix);
    dyn__bytes_put(head, r->path, path);
    dyn__bytes_put(head, " HTTP/1.1\r\n", 11);
    dyn__bytes_put(head, client->host_line, host);
    dyn__bytes_put(head, r->headers, r->headers_length);
    dyn__bytes_put(head, size, (size_t)n);
    self->body = (dyn_http_piece){r->body, r->length};
    self->pieces = r->piece_count > 0 ? r->pieces : &self->body;
    self->piece_count = r->piece_count > 0 ? r->piece_count : 1;
    self->body_length = length;
    if (with == 0) return DYN_OK;
    for (size_t i = 0; i < self->piece_count; i++) dyn__bytes_put(head, self->pieces[i].data, self->pieces[i].length);
    self->piece_count = self->body_length = 0; /* it is part of the head now */
    return DYN_OK;
}

int dyn_http_call_new(dyn_http_call **out, dyn_http_client *client, const dyn_http_request *request)
{
    int rc = check_request(request);
    if (rc < 0) return rc;
    dyn_http_call *self = dyn__malloc(sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    memset(self, 0, sizeof(*self));
    self->client = dyn_http_client_ref(client);
    self->flags = request->flags;
    dyn__http_fields_init(&self->fields);
    self->is_head = strcmp(request->method, "HEAD") == 0;
    dyn_http_call_set_timeout(self, request->timeout_ms);
    dyn__reply_reset(self);
    if ((rc = write_head(self, request)) < 0)
        dyn_http_call_free(self);
    else
        *out = self;
    return rc;
}

static void release(dyn_http_call *self, bool keep)
{
    dyn__link *link = self->link;
    self->link = NULL;
    if (link == NULL) return;
    link->call = NULL;
    if (self->hub != NULL)
        dyn__hub_release(self, link, keep);
    else if (keep)
        dyn__client_keep(self->client, link);
    else
        dyn__link_free(link);
}

void dyn_http_call_free(dyn_http_call *self)
{
    if (self == NULL) return;
    release(self, false);
    if (self->hub != NULL) dyn__hub_forget(self);
    dyn__bytes_free(&self->head);
    dyn__bytes_free(&self->later);
    dyn__http_fields_free(&self->fields);
    dyn__bytes_free(&self->reply);
    dyn_http_client_unref(self->client);
    dyn__free(self);
}

/* ---- ends -------------------------------------------------------------------------------------- */

int dyn__call_fail(dyn_http_call *self, int rc)
{
    const char *detail = dyn_error_detail();
    if (self->phase >= DYN_HTTP_CALL_DONE) return self->rc;
    snprintf(self->why, sizeof(self->why), "%s", detail[0] != 0 && rc != DYN_ENOMEM ? detail : dyn_strerror(rc));
    self->rc = rc;
    self->phase = DYN_HTTP_CALL_FAILED;
    atomic_fetch_add_explicit(&self->client->failed, 1, memory_order_relaxed);
    release(self, false);
    return dyn__fail(rc, "%s", self->why);
}

int dyn_http_call_error(const dyn_http_call *self)
{
    return self->phase == DYN_HTTP_CALL_FAILED ? dyn__fail(self->rc, "%s", self->why) : DYN_OK;
}

int dyn__call_timed_out(dyn_http_call *self)
{
    const dyn__link *link = self->link;
    const char *where = link == NULL                ? "waiting for a connection to"
                        : link->phase != DYN__READY ? "connecting to"
                        : self->headed              ? "receiving the answer of"
                        : self->send_over           ? "waiting for the answer of"
                                                    : "sending to";
    dyn__fail(DYN_ETIMEDOUT, "Request timed out after %ums, %s %s", self->timeout_ms, where, self->client->url);
    return dyn__call_fail(self, DYN_ETIMEDOUT);
}

static int finish(dyn_http_call *self)
{
    dyn__link *link = self->link;
    const char *data;
    bool keep = self->keep && self->send_over && !self->send_broke && !link->ended && link->in_from == link->in_to &&
                (link->tls == NULL || dyn_tls_pending(link->tls, &data) == 0);
    self->phase = DYN_HTTP_CALL_DONE;
    atomic_fetch_add_explicit(&self->client->calls, 1, memory_order_relaxed);
    release(self, keep);
    return DYN_OK;
}

/* The connection ended or broke. Was it a kept-alive one that was dead before the server saw this request? */
static int lost(dyn_http_call *self, int rc)
{
    dyn__link *link = self->link;
    bool untouched = !self->headed && link->in_from == link->in_to && self->scanned == 0;
    if (link->used && untouched && !self->retried && !(self->flags & DYN_HTTP_CALL_SEND_LATER) &&
        (self->flags & DYN_HTTP_CALL_IDEMPOTENT || self->sent == 0)) {
        release(self, false);
        self->retried = true;
        self->sent = self->piece = self->piece_sent = 0;
        self->send_over = self->send_broke = false;
        dyn__reply_reset(self);
        return DYN__FRESH;
    }
    if (rc == DYN_ECLOSED) {
        rc = DYN_EBROKEN;
        if (!self->headed)
            dyn__fail(rc, "the connection to %s was closed without an answer%s", self->client->url,
                      link->used ? " (it was a kept-alive one: whether the request was carried out is not known)" : "");
        else if (self->framing == DYN__REPLY_SIZED)
            dyn__fail(rc, "the connection to %s was closed %llu bytes before the end of the answer", self->client->url,
                      (unsigned long long)self->left);
        else
            dyn__fail(rc, "the connection to %s was closed before the end of the answer", self->client->url);
    }
    return dyn__call_fail(self, rc);
}

/* ---- sending ----------------------------------------------------------------------------------- */

/* What is not sent yet, as far as `room` goes. */
static int gather(dyn_http_call *self, struct iovec *out, int room)
{
    int count = 0;
    size_t from = self->piece_sent, i = self->piece;
    if (self->sent < self->head.length)
        out[count++] = (struct iovec){self->head.data + self->sent, self->head.length - self->sent};
    for (; i < self->piece_count && count < room; i++, from = 0)
        if (self->pieces[i].length > from)
            out[count++] =
                (struct iovec){(char *)(uintptr_t)self->pieces[i].data + from, self->pieces[i].length - from};
    size_t later = self->later.length - self->later_sent;
    if (i == self->piece_count && count < room && later > 0)
        out[count++] = (struct iovec){self->later.data + self->later_sent, later};
    return count;
}

/* Of that, so many bytes went. */
static void count_sent(dyn_http_call *self, size_t taken)
{
    size_t fixed = self->head.length + self->body_length - self->sent, here = taken < fixed ? taken : fixed;
    size_t of_head = self->sent < self->head.length ? self->head.length - self->sent : 0;
    self->sent += here;
    self->later_sent += taken - here;
    for (size_t left = here > of_head ? here - of_head : 0; left > 0;) {
        size_t rest = self->pieces[self->piece].length - self->piece_sent, step = left < rest ? left : rest;
        self->piece_sent += step;
        left -= step;
        if (step == rest) self->piece++, self->piece_sent = 0;
    }
    if (self->later_sent == self->later.length) {
        self->later_sent = 0;
        dyn__bytes_empty(&self->later, CONGESTED);
    }
}

static int send_some(dyn_http_call *self)
{
    dyn__link *link = self->link;
    int rc = DYN_OK;
    while (!self->send_over) {
        struct iovec pieces[64];
        size_t taken;
        int count = gather(self, pieces, DYN__COUNT(pieces));
        if (count == 0) {
            if (self->later_over || !(self->flags & DYN_HTTP_CALL_SEND_LATER)) self->send_over = true;
            break;
        }
        if ((rc = dyn__link_write(link, pieces, count, &taken)) < 0) break;
        count_sent(self, taken);
    }
    if (rc == DYN_OK) rc = dyn__link_flush(link);
    if (rc < 0 && rc != DYN_EAGAIN && rc != DYN_ENOMEM) {
        /* The server may have answered before it stopped to read: its words are worth more than "broken pipe". */
        snprintf(self->why, sizeof(self->why), "%s", dyn_error_detail());
        self->send_over = self->send_broke = true;
        link->ended = false;
        link->readable = true;
        rc = DYN_OK;
    }
    return rc;
}

int dyn_http_call_send(dyn_http_call *self, const void *data, size_t length)
{
    if (self->phase == DYN_HTTP_CALL_FAILED) return dyn_http_call_error(self);
    if (self->later_over || !(self->flags & DYN_HTTP_CALL_SEND_LATER))
        return dyn__fail(DYN_EBUSY, "the body of this request is complete");
    if (length == 0 || self->send_over || self->phase == DYN_HTTP_CALL_DONE)
        return DYN_OK; /* an empty chunk is the end */
    char size[24];
    size_t n = (size_t)snprintf(size, sizeof(size), "%zx\r\n", length);
    if (self->later_sent > CONGESTED) {
        memmove(self->later.data, self->later.data + self->later_sent, self->later.length - self->later_sent);
        self->later.length -= self->later_sent;
        self->later_sent = 0;
    }
    if (length > SIZE_MAX - 64 || dyn__bytes_need(&self->later, n + length + 2) < 0) return DYN_ENOMEM;
    dyn__bytes_put(&self->later, size, n);
    dyn__bytes_put(&self->later, data, length);
    dyn__bytes_put(&self->later, "\r\n", 2);
    self->congested |= self->later.length - self->later_sent > CONGESTED;
    return DYN_OK;
}

int dyn_http_call_send_end(dyn_http_call *self)
{
    if (self->phase == DYN_HTTP_CALL_FAILED) return dyn_http_call_error(self);
    if (self->later_over || !(self->flags & DYN_HTTP_CALL_SEND_LATER))
        return dyn__fail(DYN_EBUSY, "the body of this request is complete");
    if (!self->send_over) {
        if (dyn__bytes_need(&self->later, 5) < 0) return DYN_ENOMEM;
        dyn__bytes_put(&self->later, "0\r\n\r\n", 5);
    }
    self->later_over = true;
    return DYN_OK;
}

size_t dyn_http_call_unsent(const dyn_http_call *self)
{
    if (self->send_over || self->phase >= DYN_HTTP_CALL_DONE) return 0;
    return self->head.length + self->body_length - self->sent + self->later.length - self->later_sent;
}

/* ---- receiving --------------------------------------------------------------------------------- */

/* Read into link->in. */
static int fill(dyn__link *link)
{
    size_t got;
    if (link->in_from == link->in_to) link->in_from = link->in_to = 0;
    if (link->in_from > 0 && link->in_to == sizeof(link->in)) {
        memmove(link->in, link->in + link->in_from, link->in_to - link->in_from);
        link->in_to -= link->in_from;
        link->in_from = 0;
    }
    int rc = dyn__link_read(link, link->in + link->in_to, sizeof(link->in) - link->in_to, &got);
    if (rc == DYN_OK) link->in_to += got;
    return rc;
}

/* The rest of a long body goes where it belongs, not through link->in. */
static int read_straight(dyn_http_call *self)
{
    enum { PIECE = 1 << 20 };
    size_t got, want = self->left < PIECE ? (size_t)self->left : PIECE;
    char *to;
    if (self->into != NULL) {
        want = (size_t)self->left;
        to = self->into + self->into_length;
    } else {
        if (dyn__bytes_need(&self->reply, want) < 0) return DYN_ENOMEM;
        to = self->reply.data + self->reply.length;
    }
    int rc = dyn__link_read(self->link, to, want, &got);
    if (rc < 0) return rc;
    self->left -= got;
    if (self->into != NULL)
        self->into_length += got;
    else
        self->reply.length += got;
    return DYN_OK;
}

/* One step of the body. DYN_OK: something came, or the end (*over). */
static int body_step(dyn_http_call *self, bool *over)
{
    dyn__link *link = self->link;
    size_t there = link->in_to - link->in_from;
    int rc = DYN_OK;
    switch (self->framing) {
    case DYN__NO_REPLY_BODY: *over = true; return DYN_OK;
    case DYN__REPLY_SIZED:
        if (self->left > 0 && there > 0) {
            size_t take = there < self->left ? there : (size_t)self->left;
            if ((rc = dyn__reply_put(self, link->in + link->in_from, take)) < 0) return rc;
            link->in_from += take;
            self->left -= take;
        } else if (self->left > 0) {
            bool straight = self->into != NULL || (!(self->flags & DYN_HTTP_CALL_STREAM) && self->left >= LARGE / 4);
            rc = straight ? read_straight(self) : fill(link);
        }
        *over = self->left == 0;
        return rc;
    case DYN__REPLY_CHUNKED:
        if (there == 0 && (rc = fill(link)) < 0) return rc;
        rc = dyn__reply_chunks(self);
        *over = self->parser.message_done;
        return rc;
    case DYN__REPLY_TO_END:
        if (there > 0) {
            rc = dyn__reply_put(self, link->in + link->in_from, there);
            link->in_from = link->in_to = 0;
            return rc;
        }
        rc = fill(link);
        *over = rc == DYN_ECLOSED;
        return *over ? DYN_OK : rc;
    }
    return DYN_EINVAL;
}

static size_t unconsumed(const dyn_http_call *self)
{
    return self->reply.length - self->consumed;
}

/* Read on until a stop. */
static int receive(dyn_http_call *self)
{
    int rc;
    if (!self->headed) {
        while ((rc = dyn__reply_head(self)) == DYN_EAGAIN)
            if ((rc = fill(self->link)) < 0) return rc;
        if (rc < 0) return rc;
        self->headed = true;
        size_t limit = self->client->limits.max_response_bytes;
        bool stream = self->flags & DYN_HTTP_CALL_STREAM, sized = self->framing == DYN__REPLY_SIZED;
        if (!stream && sized && self->length > limit)
            return dyn__fail(DYN_ELIMIT,
                             "the answer of %s has %llu bytes, over the limit of %zu: raise max_response_bytes",
                             self->client->url, (unsigned long long)self->length, limit);
        if (stream || (self->flags & DYN_HTTP_CALL_STOP_LARGE && sized && self->length > LARGE)) {
            self->phase = DYN_HTTP_CALL_HEAD;
            return DYN_OK;
        }
    }
    for (bool over = false;;) {
        size_t before = self->reply.length - self->consumed;
        if (self->flags & DYN_HTTP_CALL_STREAM && !self->hungry && before >= self->client->limits.window_bytes)
            return DYN_EAGAIN;
        if ((rc = body_step(self, &over)) < 0) return rc;
        if (over) return finish(self);
        if (self->flags & DYN_HTTP_CALL_STREAM && unconsumed(self) > before) {
            self->phase = DYN_HTTP_CALL_MORE;
            self->hungry = false;
            return DYN_OK;
        }
    }
}

int dyn__call_step(dyn_http_call *self)
{
    int rc;
    if (self->phase == DYN_HTTP_CALL_DONE) return DYN_OK;
    if (self->phase == DYN_HTTP_CALL_FAILED) return dyn_http_call_error(self);
    if (self->link->phase != DYN__READY && (rc = dyn__link_open(self->link, self->deadline_ns)) < 0)
        return rc == DYN_EAGAIN ? rc : dyn__call_fail(self, rc);
    rc = send_some(self);
    if (rc < 0 && rc != DYN_EAGAIN) return dyn__call_fail(self, rc);
    rc = receive(self);
    if (rc == DYN_OK || rc == DYN_EAGAIN) return rc;
    if (self->send_broke && rc != DYN_ENOMEM && rc != DYN_EPROTO && rc != DYN_ELIMIT) {
        dyn__fail(DYN_EBROKEN, "%s", self->why);
        rc = DYN_EBROKEN;
    }
    return rc == DYN_ECLOSED || rc == DYN_EBROKEN ? lost(self, rc) : dyn__call_fail(self, rc);
}

/* ---- waiting in the caller's thread ------------------------------------------------------------ */

void dyn__call_attach(dyn_http_call *self, dyn__link *link)
{
    self->link = link;
    link->call = self;
    link->readable = false;
    link->writable = link->phase == DYN__READY;
}

uint64_t dyn__call_wakes_ns(const dyn_http_call *self)
{
    const dyn__link *link = self->link;
    bool trying = link != NULL && link->phase == DYN__CONNECT && link->attempt_ends_ns < self->deadline_ns;
    return trying ? link->attempt_ends_ns : self->deadline_ns;
}

/* DYN_OK: look again. DYN_EAGAIN: a signal, or LOOK_UP_MS without one: a signal that comes just before poll() would
 * otherwise be noticed when the call is over. */
static int wait_here(dyn_http_call *self)
{
    dyn__link *link = self->link;
    struct pollfd ready = {.fd = link->fd, .events = dyn__link_wants(link, dyn_http_call_unsent(self) > 0)};
    uint64_t now = dyn_now_ns(), wakes = dyn__call_wakes_ns(self);
    if (wakes < now) wakes = now;
    if (now >= self->deadline_ns) return dyn__call_timed_out(self);
    int ms = LOOK_UP_MS;
    if (wakes - now < LOOK_UP_MS * UINT64_C(1000000)) ms = (int)((wakes - now + 999999) / 1000000);
    int n = poll(&ready, 1, ms);
    if ((n < 0 && errno == EINTR) || (n == 0 && ms == LOOK_UP_MS)) return DYN_EAGAIN;
    if (n < 0) return dyn__call_fail(self, dyn__fail(DYN_EIO, "poll: %s", strerror(errno)));
    link->readable |= (ready.revents & (POLLIN | POLLHUP | POLLERR)) != 0;
    link->writable |= (ready.revents & (POLLOUT | POLLHUP | POLLERR)) != 0;
    return DYN_OK;
}

static int drive(dyn_http_call *self, bool flushing, size_t left)
{
    int rc;
    if (self->hub != NULL) return dyn__fail(DYN_EBUSY, "this call belongs to a hub");
    self->hungry = !flushing;
    for (bool fresh = false;;) {
        if (self->phase < DYN_HTTP_CALL_DONE && self->link == NULL) {
            dyn__link *link;
            if ((rc = dyn__client_link(self->client, &link, fresh)) < 0) return dyn__call_fail(self, rc);
            dyn__call_attach(self, link);
        }
        if ((rc = dyn__call_step(self)) == DYN__FRESH) {
            fresh = true;
            continue;
        }
        if (rc != DYN_EAGAIN && !(flushing && rc == DYN_OK)) return rc;
        if (flushing && (self->phase == DYN_HTTP_CALL_DONE || dyn_http_call_unsent(self) <= left ||
                         unconsumed(self) >= self->client->limits.window_bytes))
            return DYN_OK;
        if (rc == DYN_EAGAIN && (rc = wait_here(self)) != DYN_OK) return rc;
    }
}

int dyn_http_call_run(dyn_http_call *self)
{
    return drive(self, false, 0);
}

int dyn_http_call_flush(dyn_http_call *self, size_t left)
{
    /* Who sends without ever waiting must hear the answer all the same. */
    if (self->link != NULL && self->link->phase == DYN__READY && self->hub == NULL) self->link->readable = true;
    return drive(self, true, left);
}

void dyn_http_call_set_timeout(dyn_http_call *self, uint32_t timeout_ms)
{
    self->timeout_ms = timeout_ms;
    self->deadline_ns = timeout_ms == 0 ? UINT64_MAX : dyn_now_ns() + timeout_ms * UINT64_C(1000000);
}

/* ---- what came --------------------------------------------------------------------------------- */

enum dyn_http_call_phase dyn_http_call_phase_of(const dyn_http_call *self)
{
    return self->phase;
}

void *dyn_http_call_user(const dyn_http_call *self)
{
    return self->user;
}

int dyn_http_call_status(const dyn_http_call *self)
{
    return self->status;
}

const char *dyn_http_call_header(const dyn_http_call *self, const char *name, size_t *length)
{
    return dyn__http_fields_find(&self->fields, name, length);
}

size_t dyn_http_call_header_count(const dyn_http_call *self)
{
    return self->fields.count;
}

const char *dyn_http_call_header_at(const dyn_http_call *self, size_t n, size_t *name_length, const char **value,
                                    size_t *value_length)
{
    return dyn__http_fields_at(&self->fields, n, name_length, value, value_length);
}

size_t dyn_http_call_length(const dyn_http_call *self)
{
    return self->headed && self->length <= SIZE_MAX ? (size_t)self->length : SIZE_MAX;
}

int dyn_http_call_into(dyn_http_call *self, void *memory)
{
    if (self->phase != DYN_HTTP_CALL_HEAD || self->framing != DYN__REPLY_SIZED || self->reply.length > 0)
        return dyn__fail(DYN_EBUSY, "the body goes elsewhere, or its length is not known");
    self->into = memory;
    self->flags &= ~(unsigned)DYN_HTTP_CALL_STREAM;
    return DYN_OK;
}

const uint8_t *dyn_http_call_body(const dyn_http_call *self, size_t *length)
{
    *length = unconsumed(self);
    return (const uint8_t *)(self->reply.data != NULL ? self->reply.data + self->consumed : "");
}

void dyn_http_call_consume(dyn_http_call *self, size_t length)
{
    assert(length <= unconsumed(self));
    self->consumed += length;
    if (self->consumed == self->reply.length) {
        self->consumed = 0;
        dyn__bytes_empty(&self->reply, self->client->limits.window_bytes);
    }
}
