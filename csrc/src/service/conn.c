/* conn.c -- see service/conn.h.
 *
 *   NEW --visit--> CONNECTING --writable--> OPEN --break--> BROKEN --visit--> GONE
 *                      \___________break____________________/
 *
 * I1  At most one thread is in flush() of a connection; bytes leave in the order in which they were appended.
 * I2  `sent` < sending.size exactly while blocked after a short write; then `out` waits behind it.
 * I3  Every entry of ids is told about its loss exactly once, or was taken out by its own end before.
 * I4  The loop thread holds one reference from the first visit to the close callback of `poll`.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/conn.h"
#include "service/cork.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

enum {
    SCRATCH = 256 << 10,
    READ_BUDGET = 1 << 20, /* of one connection in one turn, so that the others get theirs */
    TICK_MS = 100,
};

static void on_visit(dyn_task *task);
static void bury(dyn__conn *self);

/* ---- the plane ---- */

static void fill_options(dyn_service_options *self, const dyn_service_options *given)
{
    if (given != NULL) *self = *given;
#define OR(field, value) \
    if (self->field == 0) self->field = (value)
    OR(max_frame, DYN_WIRE_MAX_FRAME);
    OR(window, 256 << 10);
    OR(max_streams, 16384);
    OR(max_connections, 4096);
    OR(max_requests, 16384);
    OR(max_backlog, 256u << 20);
    OR(keep_room, 1 << 20);
    OR(connect_timeout_ms, 3000);
    OR(ping_ms, 5000);
    OR(dead_ms, 15000);
#undef OR
}

int dyn__plane_new(dyn__plane **out, dyn_loop *loop, const dyn_service_options *options, const dyn__side *side,
                   void *owner)
{
    dyn__plane *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    self->scratch = dyn__malloc(SCRATCH);
    if (self->scratch == NULL || dyn_cork_new(&self->cork) < 0) {
        dyn__free(self->scratch);
        dyn__free(self);
        return DYN_ENOMEM;
    }
    atomic_init(&self->refs, 1);
    self->loop = dyn_loop_ref(loop);
    fill_options(&self->options, options);
    self->side = side, self->owner = owner;
    *out = self;
    return DYN_OK;
}

dyn__plane *dyn__plane_ref(dyn__plane *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn__plane_unref(dyn__plane *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    dyn_loop *loop = self->loop;
    dyn_cork_free(self->cork);
    dyn__free(self->scratch);
    dyn__free(self);
    dyn_loop_unref(loop);
}

void dyn__handle_opened(dyn__plane *self)
{
    self->handles++;
    dyn__plane_ref(self);
}

void dyn__handle_closed(dyn__plane *self)
{
    self->handles--;
    bool last = self->handles == 0 && self->closing;
    uv_sem_t *closed = last ? self->closed : NULL;
    dyn__plane_unref(self); /* before the post: who waits for it gives the last reference back, on its own thread */
    if (closed != NULL) uv_sem_post(closed);
}

static void on_timer_closed(uv_handle_t *handle)
{
    dyn__handle_closed(handle->data);
}

static void on_tick(uv_timer_t *timer)
{
    dyn__plane *self = timer->data;
    uint64_t now = dyn_now_ns();
    /* A tick that comes seconds late says that this process slept, not that its peers died. */
    bool slept = now - self->last_tick_ns > UINT64_C(2000000000);
    self->last_tick_ns = now;
    for (dyn__conn *conn = self->conns, *next; conn != NULL; conn = next) {
        next = conn->next;
        if (slept) atomic_store_explicit(&conn->heard_ns, now, memory_order_relaxed);
        uint64_t heard = atomic_load_explicit(&conn->heard_ns, memory_order_relaxed);
        uint64_t silent_ms = now > heard ? (now - heard) / 1000000 : 0;
        dyn__conn_lock(conn);
        enum dyn__conn_state state = conn->state;
        bool ping = state == DYN__CONN_OPEN && silent_ms >= self->options.ping_ms &&
                    now - conn->pinged_ns >= self->options.ping_ms * UINT64_C(1000000);
        if (ping) {
            conn->pinged_ns = now;
            int rc = dyn_frame_write(&conn->out, DYN_FRAME_PING, 0, NULL, 0);
            (void)rc; /* without memory there is another tick */
            dyn__conn_push(conn, self->cork);
        } else {
            dyn__conn_unlock(conn);
        }
        if (state == DYN__CONN_CONNECTING &&
            now - conn->born_ns >= self->options.connect_timeout_ms * UINT64_C(1000000)) {
            char text[160];
            snprintf(text, sizeof text, "no connection to %.80s within %u ms", conn->address,
                     self->options.connect_timeout_ms);
            dyn__conn_break(conn, DYN_ECONN, text);
        } else if (state == DYN__CONN_OPEN && silent_ms >= self->options.dead_ms) {
            char text[160];
            snprintf(text, sizeof text, "no sign of life for %u ms", (unsigned)silent_ms);
            dyn__conn_break(conn, DYN_EBROKEN, text);
        } else if (self->side->on_tick != NULL) {
            self->side->on_tick(conn, now);
        }
    }
    dyn_cork_flush(self->cork);
    if (self->conns == NULL) uv_timer_stop(timer); /* the next connection starts it again */
}

/* The timer exists from the first connection on; it runs while there is one. */
static void start_ticking(dyn__plane *self)
{
    if (self->timer.data == NULL) {
        uv_timer_init(dyn_loop_uv(self->loop), &self->timer);
        self->timer.data = self;
        dyn__handle_opened(self);
    }
    if (uv_is_active((uv_handle_t *)&self->timer)) return;
    self->last_tick_ns = dyn_now_ns();
    uv_timer_start(&self->timer, on_tick, TICK_MS, TICK_MS);
}

struct closing {
    dyn__plane *plane;
    void (*also)(void *owner);
    uv_sem_t *closed;
};

static int close_here(void *arg)
{
    struct closing *closing = arg;
    dyn__plane *self = closing->plane;
    if (closing->also != NULL) closing->also(self->owner);
    self->closing = true;
    while (self->conns != NULL) {
        dyn__conn *conn = dyn__conn_ref(self->conns);
        dyn__conn_break(conn, DYN_ECANCELED, "this side was closed");
        bury(conn);
        dyn__conn_unref(conn);
    }
    if (self->timer.data != NULL && !uv_is_closing((uv_handle_t *)&self->timer))
        uv_close((uv_handle_t *)&self->timer, on_timer_closed);
    if (self->handles > 0) {
        self->closed = closing->closed;
        return 1;
    }
    return 0;
}

void dyn__plane_close(dyn__plane *self, void (*also)(void *owner))
{
    uv_sem_t closed;
    struct closing closing = {self, also, NULL};
    if (!dyn_loop_here(self->loop) && uv_sem_init(&closed, 0) == 0) closing.closed = &closed;
    int pending = dyn_loop_run(self->loop, close_here, &closing);
    if (closing.closed == NULL) return;
    if (pending == 1) uv_sem_wait(&closed);
    uv_sem_destroy(&closed);
}

/* ---- a connection: life ---- */

static void set_socket(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
#ifdef SO_NOSIGPIPE
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof one);
#endif
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

int dyn__conn_new(dyn__conn **out, dyn__plane *plane, int fd, const char *address)
{
    dyn__conn *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) goto no_memory;
    *self = (dyn__conn){.fd = fd, .state = DYN__CONN_NEW, .next_id = 1, .visit.run = on_visit, .blocked = true};
    self->peer_max_frame = plane->options.max_frame;
    self->born_ns = dyn_now_ns();
    atomic_init(&self->refs, 1);
    atomic_init(&self->visiting, false);
    atomic_init(&self->heard_ns, self->born_ns);
    if (address != NULL && (self->address = dyn__strdup(address)) == NULL) goto no_memory;
    if (dyn_hello_write(&self->out, plane->options.max_frame) < 0) goto no_memory;
    pthread_mutex_init(&self->lock, NULL);
    if (fd >= 0) set_socket(fd);
    self->plane = dyn__plane_ref(plane);
    *out = self;
    return DYN_OK;
no_memory:
    if (self != NULL) {
        dyn__free(self->address);
        dyn__free(self);
    }
    if (fd >= 0) close(fd);
    return DYN_ENOMEM;
}

dyn__conn *dyn__conn_ref(dyn__conn *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn__conn_unref(dyn__conn *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    assert(self->ids.count == 0);
    if (self->fd >= 0) close(self->fd);
    dyn_bytes_free(&self->in);
    dyn_bytes_free(&self->out);
    dyn_bytes_free(&self->sending);
    dyn__ids_free(&self->ids);
    pthread_mutex_destroy(&self->lock);
    dyn__free(self->address);
    dyn__plane *plane = self->plane;
    dyn__free(self);
    dyn__plane_unref(plane);
}

void dyn__conn_lock(dyn__conn *self)
{
    pthread_mutex_lock(&self->lock);
}

void dyn__conn_unlock(dyn__conn *self)
{
    pthread_mutex_unlock(&self->lock);
}

void dyn__conn_visit(dyn__conn *self)
{
    if (atomic_exchange_explicit(&self->visiting, true, memory_order_acq_rel)) return;
    dyn__conn_ref(self);
    dyn_loop_post(self->plane->loop, &self->visit);
}

void dyn__conn_break(dyn__conn *self, int why, const char *text)
{
    dyn__conn_lock(self);
    bool first = self->state < DYN__CONN_BROKEN;
    if (first) {
        self->state = DYN__CONN_BROKEN;
        self->why = why;
        snprintf(self->why_text, sizeof self->why_text, "%s", text);
    }
    dyn__conn_unlock(self);
    if (first) dyn__conn_visit(self);
}

static void on_poll_closed(uv_handle_t *handle)
{
    dyn__conn *self = handle->data;
    dyn__plane *plane = self->plane; /* the handle's reference keeps it */
    dyn__conn_unref(self);
    dyn__handle_closed(plane);
}

/* Loop thread: the end of a connection that is BROKEN (or that nobody will ever visit again). */
static void bury(dyn__conn *self)
{
    dyn__conn_lock(self);
    if (self->state == DYN__CONN_GONE) {
        dyn__conn_unlock(self);
        return;
    }
    assert(self->state == DYN__CONN_BROKEN);
    self->state = DYN__CONN_GONE;
    dyn__ids ids = self->ids;
    self->ids = (dyn__ids){0};
    dyn__conn_unlock(self);

    dyn__plane *plane = self->plane;
    for (size_t i = 0; i < ids.room; i++)
        if (ids.slots[i].id != 0) plane->side->on_lost(self, ids.slots[i].value, self->why, self->why_text);
    dyn__ids_free(&ids);
    plane->side->on_gone(self);
    if (self->resolving != NULL) uv_cancel((uv_req_t *)self->resolving);
    if (self->before == NULL && plane->conns != self) return; /* it was never listed */
    if (self->next != NULL) self->next->before = self->before;
    *(self->before != NULL ? &self->before->next : &plane->conns) = self->next;
    atomic_fetch_sub_explicit(&plane->count, 1, memory_order_relaxed);
    if (self->polling) {
        uv_poll_stop(&self->poll);
        uv_close((uv_handle_t *)&self->poll, on_poll_closed);
    }
    if (self->fd >= 0) shutdown(self->fd, SHUT_RDWR);
    if (!self->polling) dyn__conn_unref(self);
}

/* ---- sending ---- */

static void flush(dyn__conn *self)
{
    dyn__conn_lock(self);
    if (self->flushing || self->blocked || self->state != DYN__CONN_OPEN) {
        dyn__conn_unlock(self);
        return;
    }
    self->flushing = true;
    int failed = 0;
    bool blocked = false;
    while (failed == 0 && !blocked) {
        if (self->sent == self->sending.size) { /* I2 */
            if (self->sending.room > self->plane->options.keep_room) dyn_bytes_free(&self->sending);
            self->sending.size = self->sent = 0;
            if (self->out.size == 0) break;
            dyn_bytes empty = self->sending;
            self->sending = self->out, self->out = empty;
        }
        dyn__conn_unlock(self);
        ssize_t n = send(self->fd, self->sending.data + self->sent, self->sending.size - self->sent,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        int err = errno;
        dyn__conn_lock(self);
        if (n >= 0) {
            self->sent += (size_t)n;
            atomic_fetch_add_explicit(&self->plane->bytes_out, (uint_fast64_t)n, memory_order_relaxed);
        } else if (err == EAGAIN || err == EWOULDBLOCK || err == ENOBUFS) {
            blocked = true;
        } else if (err != EINTR) {
            failed = err;
        }
    }
    self->flushing = false;
    self->blocked = blocked;
    dyn__conn_unlock(self);
    if (failed != 0)
        dyn__conn_break(self, DYN_EBROKEN, strerror(failed));
    else if (blocked)
        dyn__conn_visit(self); /* it waits for room */
}

void dyn__conn_push(dyn__conn *self, dyn_cork *cork)
{
    bool too_much = self->out.size > self->plane->options.max_backlog && self->state < DYN__CONN_BROKEN;
    bool later = cork != NULL && (self->cork == cork || dyn__cork_add(cork, self));
    if (later) self->cork = cork;
    bool idle = self->flushing || self->blocked || self->out.size == 0;
    dyn__conn_unlock(self);
    if (too_much)
        dyn__conn_break(self, DYN_EBROKEN, "the other side does not read: too much waits to be sent");
    else if (!later && !idle)
        flush(self);
}

/* ---- receiving; the loop thread ---- */

static int take_frame(dyn__conn *self, const dyn_frame *frame, dyn_cork *cork)
{
    if (!self->greeted) {
        uint64_t max_frame;
        int rc = dyn_hello_read(frame, &max_frame);
        if (rc < 0) return rc;
        self->greeted = true;
        dyn__conn_lock(self);
        if (max_frame < self->peer_max_frame) self->peer_max_frame = (size_t)max_frame;
        dyn__conn_unlock(self);
        return DYN_OK;
    }
    switch (frame->type) {
    case DYN_FRAME_PING: {
        if (frame->size > 64) return dyn__fail(DYN_EPROTO, "a ping of %zu bytes", frame->size);
        dyn__conn_lock(self);
        int rc = dyn_frame_write(&self->out, DYN_FRAME_PONG, 0, frame->body, frame->size);
        dyn__conn_push(self, cork);
        return rc;
    }
    case DYN_FRAME_PONG: return DYN_OK; /* that it came is all there is to it */
    default: return self->plane->side->on_frame(self, frame, cork);
    }
}

/* Take all whole frames; *need says how long the next one is known to be. */
static int take_frames(dyn__conn *self, dyn_slice *rest, size_t *need, dyn_cork *cork)
{
    for (;;) {
        dyn_frame frame;
        size_t used;
        int rc = dyn_frame_read(rest->data, rest->size, self->plane->options.max_frame, &frame, &used);
        if (rc == DYN_EAGAIN) {
            *need = used;
            return DYN_OK;
        }
        if (rc < 0 || (rc = take_frame(self, &frame, cork)) < 0) return rc;
        rest->data += used, rest->size -= used;
    }
}

static bool alive(dyn__conn *self)
{
    dyn__conn_lock(self);
    bool open = self->state == DYN__CONN_OPEN;
    dyn__conn_unlock(self);
    return open;
}

static void receive(dyn__conn *self)
{
    dyn__plane *plane = self->plane;
    size_t total = 0, need = 0;
    int rc = DYN_OK;
    bool more = true;
    const char *text = NULL;
    while (more && total < READ_BUDGET && alive(self)) {
        dyn_bytes *in = &self->in;
        bool direct = in->size > 0; /* behind what is there, else into the scratch */
        size_t room = SCRATCH;
        if (direct) {
            if (need > in->size && need - in->size > room) room = need - in->size;
            if ((rc = dyn_bytes_reserve(in, room)) < 0) break;
        }
        ssize_t n = recv(self->fd, direct ? in->data + in->size : plane->scratch, room, MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK) break;
            rc = DYN_EBROKEN, text = strerror(errno);
            break;
        }
        if (n == 0) {
            rc = DYN_EBROKEN, text = "the other side closed the connection";
            break;
        }
        more = (size_t)n == room;
        total += (size_t)n;
        atomic_fetch_add_explicit(&plane->bytes_in, (uint_fast64_t)n, memory_order_relaxed);
        atomic_store_explicit(&self->heard_ns, dyn_now_ns(), memory_order_relaxed);
        if (direct) in->size += (size_t)n;
        dyn_slice rest = direct ? (dyn_slice){in->data, in->size} : (dyn_slice){plane->scratch, (size_t)n};
        if ((rc = take_frames(self, &rest, &need, plane->cork)) < 0) break;
        if (direct) {
            if (rest.size > 0) memmove(in->data, rest.data, rest.size);
            in->size = rest.size;
            if (in->size == 0 && in->room > self->plane->options.keep_room) dyn_bytes_free(in);
        } else if ((rc = dyn_bytes_append(in, rest.data, rest.size)) < 0) {
            break;
        }
    }
    if (rc < 0) {
        if (text == NULL) text = dyn_error_detail()[0] != '\0' ? dyn_error_detail() : dyn_strerror(rc);
        dyn__conn_break(self, rc == DYN_ENOMEM ? DYN_ENOMEM : DYN_EBROKEN, text);
        dyn_error_clear();
    }
    dyn_cork_flush(plane->cork);
}

/* ---- the loop thread looks after it ---- */

static void on_ready(uv_poll_t *poll, int status, int events);

static void listen_for(dyn__conn *self)
{
    dyn__conn_lock(self);
    int events = self->state == DYN__CONN_CONNECTING ? UV_WRITABLE
                 : self->state == DYN__CONN_OPEN     ? UV_READABLE | (self->blocked ? UV_WRITABLE : 0)
                                                     : 0;
    dyn__conn_unlock(self);
    if (events != 0 && self->polling) uv_poll_start(&self->poll, events, on_ready);
}

static void opened(dyn__conn *self)
{
    dyn__conn_lock(self);
    if (self->state < DYN__CONN_OPEN) self->state = DYN__CONN_OPEN;
    self->blocked = false;
    dyn__conn_unlock(self);
    atomic_store_explicit(&self->heard_ns, dyn_now_ns(), memory_order_relaxed);
    listen_for(self);
    flush(self);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    dyn__conn *self = poll->data;
    dyn__conn_lock(self);
    enum dyn__conn_state state = self->state;
    dyn__conn_unlock(self);
    if (state == DYN__CONN_CONNECTING) {
        int err = 0;
        socklen_t size = sizeof err;
        if (getsockopt(self->fd, SOL_SOCKET, SO_ERROR, &err, &size) < 0) err = errno;
        if (status < 0 || err != 0) {
            char text[160];
            snprintf(text, sizeof text, "no connection to %.80s: %s", self->address,
                     err != 0 ? strerror(err) : uv_strerror(status));
            dyn__conn_break(self, DYN_ECONN, text);
            return;
        }
        opened(self);
        return;
    }
    if (state != DYN__CONN_OPEN) return;
    if (status < 0) {
        receive(self); /* says what happened */
        if (alive(self)) dyn__conn_break(self, DYN_EBROKEN, uv_strerror(status));
        return;
    }
    if (events & UV_WRITABLE) {
        dyn__conn_lock(self);
        self->blocked = false;
        dyn__conn_unlock(self);
        flush(self);
        listen_for(self);
    }
    if (events & UV_READABLE) receive(self);
}

/* A socket to wait on, or a broken connection. */
static void connect_to(dyn__conn *self, const struct sockaddr *address, socklen_t size)
{
    char text[160];
    self->fd = socket(address->sa_family, SOCK_STREAM, 0);
    if (self->fd >= 0) set_socket(self->fd);
    if (self->fd < 0 || (connect(self->fd, address, size) < 0 && errno != EINPROGRESS && errno != EINTR)) {
        snprintf(text, sizeof text, "no connection to %.80s: %s", self->address, strerror(errno));
        dyn__conn_break(self, DYN_ECONN, text);
        return;
    }
    int rc = uv_poll_init_socket(dyn_loop_uv(self->plane->loop), &self->poll, self->fd);
    if (rc < 0) {
        dyn__conn_break(self, DYN_ECONN, uv_strerror(rc));
        return;
    }
    self->poll.data = self, self->polling = true;
    dyn__handle_opened(self->plane);
    listen_for(self);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    dyn__conn *self = request->data;
    self->resolving = NULL;
    dyn__conn_lock(self);
    bool wanted = self->state == DYN__CONN_CONNECTING;
    dyn__conn_unlock(self);
    if (wanted && status == 0 && found != NULL) {
        connect_to(self, found->ai_addr, found->ai_addrlen);
    } else if (wanted) {
        char text[160];
        snprintf(text, sizeof text, "the name in %.80s is unknown: %s", self->address, uv_strerror(status));
        dyn__conn_break(self, DYN_ECONN, text);
    }
    uv_freeaddrinfo(found);
    dyn__free(request);
    dyn__plane *plane = self->plane;
    dyn__conn_unref(self);
    dyn__handle_closed(plane);
}

/* "1.2.3.4:80", "[::1]:80", "name:80" -> a socket address, or a name to look up. */
static void resolve(dyn__conn *self)
{
    const char *colon = strrchr(self->address, ':');
    char host[256];
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    size_t size = (size_t)(colon - self->address);
    const char *from = self->address;
    if (size >= 2 && from[0] == '[' && from[size - 1] == ']') from++, size -= 2;
    if (size >= sizeof host) size = sizeof host - 1;
    memcpy(host, from, size);
    host[size] = '\0';
    unsigned port = (unsigned)strtoul(colon + 1, NULL, 10);
    v4.sin_port = htons((uint16_t)port), v6.sin6_port = htons((uint16_t)port);
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        connect_to(self, (struct sockaddr *)&v4, sizeof v4);
        return;
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        connect_to(self, (struct sockaddr *)&v6, sizeof v6);
        return;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    uv_getaddrinfo_t *request = dyn__malloc(sizeof(*request));
    int rc = UV_ENOMEM;
    if (request != NULL) {
        request->data = self;
        rc = uv_getaddrinfo(dyn_loop_uv(self->plane->loop), request, on_resolved, host, colon + 1, &hints);
    }
    if (rc != 0) {
        dyn__free(request);
        dyn__conn_break(self, DYN_ECONN, uv_strerror(rc));
        return;
    }
    self->resolving = request;
    dyn__conn_ref(self);
    dyn__handle_opened(self->plane);
}

static void first_visit(dyn__conn *self)
{
    dyn__plane *plane = self->plane;
    self->next = plane->conns;
    if (plane->conns != NULL) plane->conns->before = self;
    plane->conns = dyn__conn_ref(self);
    atomic_fetch_add_explicit(&plane->count, 1, memory_order_relaxed);
    start_ticking(plane);
    if (self->fd < 0) {
        resolve(self);
        return;
    }
    int rc = uv_poll_init_socket(dyn_loop_uv(plane->loop), &self->poll, self->fd);
    if (rc < 0) {
        dyn__conn_break(self, DYN_EIO, uv_strerror(rc));
        return;
    }
    self->poll.data = self, self->polling = true;
    dyn__handle_opened(plane);
    opened(self);
}

static void on_visit(dyn_task *task)
{
    dyn__conn *self = DYN__CONTAINER(task, dyn__conn, visit);
    atomic_store_explicit(&self->visiting, false, memory_order_release);
    dyn__conn_lock(self);
    enum dyn__conn_state state = self->state;
    if (state == DYN__CONN_NEW) self->state = DYN__CONN_CONNECTING;
    dyn__conn_unlock(self);
    if (state == DYN__CONN_NEW && self->plane->closing) {
        dyn__conn_break(self, DYN_ECANCELED, "this side was closed");
        bury(self);
    } else if (state == DYN__CONN_NEW) {
        first_visit(self);
    } else if (state == DYN__CONN_BROKEN) {
        bury(self);
    } else if (state == DYN__CONN_OPEN) {
        listen_for(self);
    }
    dyn__conn_unref(self);
}
