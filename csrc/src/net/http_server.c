/* http_server.c -- see dynamo/http.h and http_internal.h: listening, routes, stopping.
 *
 * Handles on the loop: one timer that sweeps for what is late, and a prepare and a check handle that send what conns
 * gathered in this turn. They are open from the first listen to the stop.
 */
#include <netdb.h>
#include <stdio.h>

#include "net/http_internal.h"

typedef struct dyn__http_listener {
    uv_tcp_t tcp;
    dyn_http_server *server; /* a reference */
    struct dyn__http_listener *next;
    bool waiting; /* a socket is there that could not be taken */
} listener;

/* ---- making and unmaking ----------------------------------------------------------------------- */

static uint64_t or_default(uint64_t value, uint64_t fallback)
{
    return value != 0 ? value : fallback;
}

int dyn_http_server_new(dyn_http_server **out, dyn_loop *loop, const dyn_http_settings *settings)
{
    static const dyn_http_settings none;
    dyn_http_settings limits = settings != NULL ? *settings : none;
    const char *key = limits.api_key, *origin = limits.allow_origin;
#define DEFAULT(member, value) limits.member = or_default(limits.member, value)
    DEFAULT(max_connections, 4096);
    DEFAULT(max_header_bytes, 32 << 10);
    DEFAULT(max_headers, 100);
    DEFAULT(max_url_bytes, 8 << 10);
    DEFAULT(max_body_bytes, 45 << 20);
    DEFAULT(max_total_body_bytes, (size_t)1 << 30);
    DEFAULT(max_pending_bytes, 4 << 20);
    DEFAULT(body_window_bytes, 64 << 10);
    DEFAULT(low_water_bytes, limits.max_pending_bytes / 2 < 64 << 10 ? limits.max_pending_bytes / 2 : 64 << 10);
    DEFAULT(header_timeout_ms, 10000);
    DEFAULT(body_timeout_ms, 30000);
    DEFAULT(idle_timeout_ms, 75000);
    DEFAULT(write_timeout_ms, 30000);
#undef DEFAULT
    if (limits.max_header_bytes > 16 << 20 || limits.max_url_bytes > 16 << 20)
        return dyn__fail(DYN_EINVAL, "header limit %u, url limit %u: at most 16 MiB", limits.max_header_bytes,
                         limits.max_url_bytes);
    if (limits.low_water_bytes > limits.max_pending_bytes)
        return dyn__fail(DYN_EINVAL, "low_water_bytes %zu is over max_pending_bytes %zu", limits.low_water_bytes,
                         limits.max_pending_bytes);
    if (limits.max_body_bytes > (size_t)1 << 40)
        return dyn__fail(DYN_EINVAL, "max_body_bytes %zu: at most 1 TiB", limits.max_body_bytes);
    for (const char *at = key; at != NULL && *at != 0; at++)
        if (*at <= ' ' || *at > '~') return dyn__fail(DYN_EINVAL, "the api key may have visible ASCII characters only");
    for (const char *at = origin; at != NULL && *at != 0; at++)
        if (*at <= ' ' || *at > '~')
            return dyn__fail(DYN_EINVAL, "allow_origin may have visible ASCII characters only");
    if (limits.tls != NULL && !dyn__tls_is_server(limits.tls))
        return dyn__fail(DYN_EINVAL, "the TLS context is a client's: make one for a server, with a certificate");
    if (key != NULL && *key == 0) return dyn__fail(DYN_EINVAL, "the api key is empty: leave it out to have none");

    dyn_http_server *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    atomic_init(&self->refs, 1);
    pthread_mutex_init(&self->date_lock, NULL);
    self->date_second = -1;
    self->loop = dyn_loop_ref(loop);
    limits.api_key = limits.allow_origin = NULL;
    self->limits = limits;
    if (limits.tls != NULL) dyn_tls_context_ref(limits.tls);
    if (uv_random(NULL, NULL, self->random, sizeof(self->random), 0, NULL) != 0) self->random[0] = dyn_now_ns();
    self->random[0] |= 1;
    if ((self->read_space = dyn__malloc(DYN__HTTP_READ_SPACE)) == NULL) goto no_memory;
    if (key != NULL && (self->limits.api_key = dyn__strdup(key)) == NULL) goto no_memory;
    if (origin != NULL && (self->limits.allow_origin = dyn__strdup(origin)) == NULL) goto no_memory;
    self->api_key_length = key != NULL ? strlen(key) : 0;
    *out = self;
    return DYN_OK;
no_memory:
    dyn__http_server_unref(self);
    return DYN_ENOMEM;
}

void dyn__http_server_unref(dyn_http_server *self)
{
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    dyn_loop *loop = self->loop;
    pthread_mutex_destroy(&self->date_lock);
    dyn__free((char *)(uintptr_t)self->limits.api_key);
    dyn__free((char *)(uintptr_t)self->limits.allow_origin);
    dyn_tls_context_unref(self->limits.tls);
    dyn__free(self->read_space);
    dyn__free(self->routes);
    dyn__free(self);
    dyn_loop_unref(loop);
}

/* ---- the turn of the loop ---------------------------------------------------------------------- */

static void send_gathered(dyn_http_server *self)
{
    while (self->dirty != NULL) {
        dyn__http_conn *conn = self->dirty;
        self->dirty = conn->next_dirty;
        conn->dirty = false;
        dyn__http_conn_pump(conn);
    }
}
static void on_before_poll(uv_prepare_t *handle)
{
    send_gathered(DYN__CONTAINER(handle, dyn_http_server, before_poll));
}
static void on_after_poll(uv_check_t *handle)
{
    send_gathered(DYN__CONTAINER(handle, dyn_http_server, after_poll));
}

static void close_all_conns(dyn_http_server *self)
{
    while (self->all != NULL) dyn__http_conn_close(self->all);
}

static void on_handle_closed(uv_handle_t *handle)
{
    dyn__http_server_unref(handle->data);
}

static void on_listener_closed(uv_handle_t *handle)
{
    listener *gone = DYN__CONTAINER(handle, listener, tcp);
    dyn_http_server *self = gone->server;
    dyn__free(gone);
    dyn__http_server_unref(self);
}

/* When stopping and nothing is left: give the handles back and say so. */
static void maybe_stopped(dyn_http_server *self)
{
    if (!atomic_load(&self->stopping) || self->all != NULL || atomic_load(&self->connections) != 0) return;
    if (self->handles_open) {
        self->handles_open = false;
        uv_close((uv_handle_t *)&self->sweep, on_handle_closed);
        uv_close((uv_handle_t *)&self->before_poll, on_handle_closed);
        uv_close((uv_handle_t *)&self->after_poll, on_handle_closed);
    }
    void (*done)(void *user) = self->on_stopped;
    self->on_stopped = NULL;
    if (done != NULL) done(self->on_stopped_user);
}

void dyn__http_server_conn_gone(dyn_http_server *self)
{
    atomic_fetch_sub_explicit(&self->connections, 1, memory_order_relaxed);
    maybe_stopped(self);
    dyn__http_server_unref(self);
}

static void on_sweep(uv_timer_t *timer)
{
    dyn_http_server *self = DYN__CONTAINER(timer, dyn_http_server, sweep);
    uint64_t now = dyn_now_ns();
    for (listener *each = self->listeners; each != NULL; each = each->next)
        if (each->waiting) dyn__http_conn_accept(self, (uv_stream_t *)&each->tcp, &each->waiting);
    for (dyn__http_conn *conn = self->all, *next; conn != NULL; conn = next) {
        next = conn->next;
        if (!conn->closing) dyn__http_conn_sweep(conn, now);
    }
    if (self->stop_at_ns != 0 && now >= self->stop_at_ns) close_all_conns(self);
}

static void on_connection(uv_stream_t *stream, int status)
{
    listener *from = DYN__CONTAINER(stream, listener, tcp);
    if (status == 0) dyn__http_conn_accept(from->server, stream, &from->waiting);
}

/* ---- listening --------------------------------------------------------------------------------- */

static int open_handles(dyn_http_server *self)
{
    uv_loop_t *uv = dyn_loop_uv(self->loop);
    const dyn_http_settings *l = &self->limits;
    if (self->handles_open) return DYN_OK;
    /* A quarter of the shortest time, between 10 ms and 1 s. */
    uint32_t shortest = l->header_timeout_ms;
    if (l->body_timeout_ms < shortest) shortest = l->body_timeout_ms;
    if (l->idle_timeout_ms < shortest) shortest = l->idle_timeout_ms;
    if (l->write_timeout_ms < shortest) shortest = l->write_timeout_ms;
    uint64_t period = shortest / 4 < 10 ? 10 : shortest / 4 > 1000 ? 1000 : shortest / 4;
    uv_timer_init(uv, &self->sweep);
    uv_prepare_init(uv, &self->before_poll);
    uv_check_init(uv, &self->after_poll);
    self->sweep.data = self->before_poll.data = self->after_poll.data = self;
    atomic_fetch_add_explicit(&self->refs, 3, memory_order_relaxed);
    uv_timer_start(&self->sweep, on_sweep, period, period);
    uv_prepare_start(&self->before_poll, on_before_poll);
    uv_check_start(&self->after_poll, on_after_poll);
    self->handles_open = true;
    return DYN_OK;
}

struct listen_call {
    dyn_http_server *self;
    const struct sockaddr *address;
    const char *host;
    unsigned asked;
    uint16_t *bound;
};

static int from_uv(int rc)
{
    switch (rc) {
    case UV_ENOMEM: return DYN_ENOMEM;
    case UV_EADDRINUSE: return DYN_EBUSY;
    case UV_EACCES: return DYN_EACCES;
    case UV_EADDRNOTAVAIL: return DYN_EINVAL;
    default: return DYN_EIO;
    }
}

static int listen_here(void *arg)
{
    struct listen_call *call = arg;
    dyn_http_server *self = call->self;
    struct sockaddr_storage got;
    int length = sizeof(got);
    if (atomic_load(&self->stopping)) return dyn__fail(DYN_ECLOSED, "this server was stopped");
    listener *made = dyn__calloc(1, sizeof(*made));
    if (made == NULL) return DYN_ENOMEM;
    if (open_handles(self) < 0 || uv_tcp_init(dyn_loop_uv(self->loop), &made->tcp) != 0) {
        dyn__free(made);
        return DYN_EIO;
    }
    made->server = self;
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    int rc = uv_tcp_bind(&made->tcp, call->address, 0);
    if (rc == 0) rc = uv_listen((uv_stream_t *)&made->tcp, 1024, on_connection);
    if (rc == 0) rc = uv_tcp_getsockname(&made->tcp, (struct sockaddr *)&got, &length);
    if (rc != 0) {
        uv_close((uv_handle_t *)&made->tcp, on_listener_closed);
        return dyn__fail(from_uv(rc), "cannot listen on %s port %u: %s", call->host, call->asked, uv_strerror(rc));
    }
    if (call->bound != NULL) *call->bound = ntohs(((struct sockaddr_in *)&got)->sin_port);
    made->next = self->listeners;
    self->listeners = made;
    return DYN_OK;
}

int dyn_http_server_listen(dyn_http_server *self, const char *host, uint16_t port, uint16_t *bound)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    char service[8];
    if (host == NULL || *host == 0) host = "127.0.0.1";
    snprintf(service, sizeof(service), "%u", port);
    int rc = getaddrinfo(host, service, &hints, &found);
    if (rc != 0) return dyn__fail(DYN_EINVAL, "no address for host \"%.100s\": %s", host, gai_strerror(rc));
    struct listen_call call = {.self = self, .address = found->ai_addr, .host = host, .asked = port, .bound = bound};
    rc = dyn_loop_run(self->loop, listen_here, &call);
    freeaddrinfo(found);
    return rc;
}

/* ---- stopping ---------------------------------------------------------------------------------- */

struct stop_call {
    dyn_http_server *self;
    uint32_t deadline_ms;
    void (*done)(void *user);
    void *user;
    bool cut;
};

static void drop_routes(dyn_http_server *self);

static int stop_here(void *arg)
{
    struct stop_call *call = arg;
    dyn_http_server *self = call->self;
    if (call->done != NULL) {
        if (self->on_stopped != NULL) return dyn__fail(DYN_EBUSY, "somebody waits for the stop of this server already");
        self->on_stopped = call->done;
        self->on_stopped_user = call->user;
    }
    atomic_store(&self->stopping, true);
    for (listener *next; self->listeners != NULL; self->listeners = next) {
        next = self->listeners->next;
        uv_close((uv_handle_t *)&self->listeners->tcp, on_listener_closed);
    }
    if (call->deadline_ms != DYN_HTTP_NEVER) {
        uint64_t at = dyn_now_ns() + (uint64_t)call->deadline_ms * 1000000;
        if (self->stop_at_ns == 0 || at < self->stop_at_ns) self->stop_at_ns = at;
    }
    if (self->handles_open && !call->cut) uv_timer_start(&self->sweep, on_sweep, 0, 20);
    for (dyn__http_conn *conn = self->all, *next; conn != NULL; conn = next) {
        next = conn->next;
        if (call->cut || (conn->state == DYN__IDLE && conn->out.length == 0 && !conn->writing))
            dyn__http_conn_close(conn);
    }
    if (call->cut) drop_routes(self);
    maybe_stopped(self);
    return DYN_OK;
}

int dyn_http_server_stop(dyn_http_server *self, uint32_t deadline_ms, void (*done)(void *user), void *user)
{
    struct stop_call call = {.self = self, .deadline_ms = deadline_ms, .done = done, .user = user};
    return dyn_loop_run(self->loop, stop_here, &call);
}

void dyn_http_server_free(dyn_http_server *self)
{
    if (self == NULL) return;
    struct stop_call call = {.self = self, .cut = true};
    dyn_loop_run(self->loop, stop_here, &call);
    dyn__http_server_unref(self);
}

void dyn_http_server_stats(const dyn_http_server *self, dyn_http_stats *out)
{
#define GET(member) atomic_load_explicit(&((dyn_http_server *)(uintptr_t)self)->member, memory_order_relaxed)
    *out = (dyn_http_stats){
        .accepted = GET(accepted),
        .refused = GET(refused),
        .requests = GET(requests),
        .malformed = GET(malformed),
        .timed_out = GET(timed_out),
        .cut = GET(cut),
        .bytes_in = GET(bytes_in),
        .bytes_out = GET(bytes_out),
        .bad_handshakes = GET(bad_handshakes),
        .connections = GET(connections),
        .body_bytes = GET(body_bytes),
    };
    for (size_t i = 0; i < DYN__COUNT(out->answers); i++) out->answers[i] = GET(answers[i]);
#undef GET
}

/* ---- routes ------------------------------------------------------------------------------------ */

void dyn__http_route_unref(dyn__http_route *route)
{
    if (--route->refs > 0) return;
    dyn_mailbox_unref(route->box);
    dyn__free(route->last);
    dyn_buf_unref(route->body);
    dyn_metrics_unref(route->metrics);
    dyn__free(route->type);
    dyn__free(route->path);
    dyn__free(route);
}

static void drop_last(dyn_mail *mail)
{
    dyn__free(mail);
}
static void drop_request(dyn_mail *mail)
{
    dyn_http_exchange_unref(DYN__CONTAINER(mail, dyn_http_exchange, mail));
}

dyn_http_exchange *dyn_http_from_mail(dyn_mail *mail)
{
    if (mail->drop == drop_request) return DYN__CONTAINER(mail, dyn_http_exchange, mail);
    mail->drop(mail);
    return NULL;
}

static void retire(dyn__http_route *route)
{
    route->gone = true;
    if (route->box != NULL) dyn_mailbox_put(route->box, route->last);
    route->last = NULL;
    dyn__http_route_unref(route);
}

static void drop_routes(dyn_http_server *self)
{
    while (self->route_count > 0) retire(self->routes[--self->route_count]);
}

static bool fits(const dyn__http_route *route, const char *path, size_t length)
{
    if (route->flags & DYN_HTTP_PREFIX)
        return length >= route->path_length && memcmp(path, route->path, route->path_length) == 0;
    return length == route->path_length && memcmp(path, route->path, length) == 0;
}

dyn__http_route *dyn__http_find(dyn_http_server *self, const char *method, const char *path, size_t length, char *allow)
{
    dyn__http_route *best = NULL;
    bool head = strcmp(method, "HEAD") == 0;
    size_t used = 0;
    for (size_t i = 0; i < self->route_count; i++) {
        dyn__http_route *route = self->routes[i];
        if (!fits(route, path, length)) continue;
        if (route->method[0] != '*' && strcmp(route->method, method) != 0 &&
            !(head && strcmp(route->method, "GET") == 0)) {
            bool get = strcmp(route->method, "GET") == 0;
            if (strstr(allow, route->method) == NULL && used + sizeof(route->method) + 10 < 128)
                used += (size_t)snprintf(allow + used, 128 - used, "%s%s%s", used ? ", " : "", route->method,
                                         get ? ", HEAD" : "");
            continue;
        }
        bool exact = !(route->flags & DYN_HTTP_PREFIX);
        if (best == NULL || (exact && (best->flags & DYN_HTTP_PREFIX)) ||
            (!exact && (best->flags & DYN_HTTP_PREFIX) && route->path_length > best->path_length))
            best = route;
    }
    return best;
}

static void scrape(dyn_metrics *metrics, dyn_http_exchange *x)
{
    dyn_buf *text;
    size_t length;
    if (dyn_metrics_text(metrics, &text, &length) < 0) {
        dyn__http_refuse(x, 503, "no memory for the metrics");
        return;
    }
    dyn_http_respond(x, 200, DYN_METRICS_CONTENT_TYPE, dyn_buf_data(text), length);
    dyn_buf_unref(text);
}

/* Hand the exchange out, and let go of its route: a mail in a box must not keep that box alive. */
void dyn__http_dispatch(dyn_http_exchange *x)
{
    dyn__http_route *route = x->route;
    x->route = NULL;
    if (!route->gone) atomic_fetch_add_explicit(&x->server->requests, 1, memory_order_relaxed);
    if (route->gone)
        dyn__http_refuse(x, 404, "there is nothing at this path any more");
    else if (route->body != NULL)
        dyn_http_respond(x, route->status, route->type, dyn_buf_data(route->body), route->body_length);
    else if (route->metrics != NULL)
        scrape(route->metrics, x);
    else {
        atomic_store_explicit(&x->handles, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&x->refs, 1, memory_order_relaxed);
        if (route->box != NULL) {
            x->mail = (dyn_mail){.owner = route->owner, .drop = drop_request};
            dyn_mailbox_put(route->box, &x->mail);
        } else
            route->handler(route->user, x);
    }
    dyn__http_route_unref(route);
}

struct route_call {
    dyn_http_server *self;
    const char *method, *path;
    unsigned flags;
    dyn__http_route *route; /* to add */
};

/* Is this the route that the call names? An exact path and a prefix are two, even where they are spelt alike. */
static bool named(const dyn__http_route *route, const struct route_call *call)
{
    return ((route->flags ^ call->flags) & DYN_HTTP_PREFIX) == 0 && strcmp(route->method, call->method) == 0 &&
           strcmp(route->path, call->path) == 0;
}

static int add_here(void *arg)
{
    struct route_call *call = arg;
    dyn_http_server *self = call->self;
    if (atomic_load(&self->stopping)) return dyn__fail(DYN_ECLOSED, "this server was stopped");
    for (size_t i = 0; i < self->route_count; i++) {
        dyn__http_route *each = self->routes[i];
        if (!named(each, call)) continue;
        if (!(call->flags & DYN_HTTP_REPLACE))
            return dyn__fail(DYN_EEXIST, "%s %.200s has a route already: take it away first, or replace it",
                             call->method, call->path);
        self->routes[i] = call->route;
        retire(each);
        return DYN_OK;
    }
    if (self->route_count == self->route_room) {
        size_t room = self->route_room == 0 ? 16 : 2 * self->route_room;
        dyn__http_route **routes = dyn__realloc(self->routes, room * sizeof(*routes));
        if (routes == NULL) return DYN_ENOMEM;
        self->routes = routes;
        self->route_room = room;
    }
    self->routes[self->route_count++] = call->route;
    return DYN_OK;
}

/* template_: everything but method, path and the count. What it owns is taken. */
static int add(dyn_http_server *self, const char *method, const char *path, dyn__http_route template_)
{
    int rc = DYN_ENOMEM;
    dyn__http_route *route = dyn__malloc(sizeof(*route));
    if (route == NULL) {
        dyn_mailbox_unref(template_.box);
        dyn_buf_unref(template_.body);
        dyn_metrics_unref(template_.metrics);
        dyn__free(template_.type);
        return DYN_ENOMEM;
    }
    *route = template_;
    route->refs = 1;
    route->path = NULL;
    if (strlen(method) >= sizeof(route->method) || *method == 0 || path[0] != '/' || (route->flags & ~15u)) {
        rc = dyn__fail(DYN_EINVAL, "route %.20s %.200s: needs a method, a path that begins with '/', and known flags",
                       method, path);
        goto fail;
    }
    strcpy(route->method, method);
    if (route->box != NULL) { /* made now, so that taking the route away cannot fail */
        if ((route->last = dyn__malloc(sizeof(*route->last))) == NULL) goto fail;
        *route->last = (dyn_mail){.owner = route->owner, .drop = drop_last};
    }
    if ((route->path = dyn__strdup(path)) == NULL) goto fail;
    route->path_length = strlen(path);
    struct route_call call = {self, method, path, route->flags, route};
    if ((rc = dyn_loop_run(self->loop, add_here, &call)) < 0) goto fail;
    return DYN_OK;
fail:
    dyn__http_route_unref(route);
    return rc;
}

int dyn_http_route(dyn_http_server *self, const char *method, const char *path, unsigned flags,
                   dyn_http_handler handler, void *user)
{
    return add(self, method, path, (dyn__http_route){.flags = flags, .handler = handler, .user = user});
}

int dyn_http_route_mail(dyn_http_server *self, const char *method, const char *path, unsigned flags, dyn_mailbox *box,
                        void *owner)
{
    return add(self, method, path, (dyn__http_route){.flags = flags, .box = dyn_mailbox_ref(box), .owner = owner});
}

int dyn_http_route_static(dyn_http_server *self, const char *path, unsigned flags, int status, const char *type,
                          const void *body, size_t length)
{
    dyn__http_route route = {.flags = flags, .status = status, .body_length = length};
    if (status < 200 || status > 599) return dyn__fail(DYN_EINVAL, "status %d: must be 200 to 599", status);
    if (dyn_buf_new(&route.body, length) < 0) return DYN_ENOMEM;
    if (length > 0) memcpy(dyn_buf_data(route.body), body, length);
    if (type != NULL && (route.type = dyn__strdup(type)) == NULL) {
        dyn_buf_unref(route.body);
        return DYN_ENOMEM;
    }
    return add(self, "GET", path, route);
}

int dyn_http_route_metrics(dyn_http_server *self, const char *path, unsigned flags, dyn_metrics *metrics)
{
    return add(self, "GET", path, (dyn__http_route){.flags = flags, .metrics = dyn_metrics_ref(metrics)});
}

static int remove_here(void *arg)
{
    struct route_call *call = arg;
    dyn_http_server *self = call->self;
    for (size_t i = 0; i < self->route_count; i++) {
        dyn__http_route *route = self->routes[i];
        if (!named(route, call)) continue;
        self->routes[i] = self->routes[--self->route_count];
        retire(route);
        return DYN_OK;
    }
    return dyn__fail(DYN_ENOENT, "%.20s %.200s has no %s", call->method, call->path,
                     call->flags & DYN_HTTP_PREFIX ? "prefix route" : "route of its own");
}

int dyn_http_unroute(dyn_http_server *self, const char *method, const char *path, unsigned flags)
{
    struct route_call call = {self, method, path, flags, NULL};
    return dyn_loop_run(self->loop, remove_here, &call);
}
