# Mirrors dynamo/http.h.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from dynamo.c_http_piece cimport dyn_http_piece
from dynamo.c_loop cimport dyn_loop
from dynamo.c_mailbox cimport dyn_mail, dyn_mailbox
from dynamo.c_metrics cimport dyn_metrics
from dynamo.c_tls cimport dyn_tls_context


cdef extern from "dynamo/http.h" nogil:
    const uint32_t DYN_HTTP_NEVER
    ctypedef struct dyn_http_server:
        pass
    ctypedef struct dyn_http_exchange:
        pass
    ctypedef struct dyn_http_settings:
        uint32_t max_connections
        uint32_t max_header_bytes
        uint32_t max_headers
        uint32_t max_url_bytes
        size_t max_body_bytes
        size_t max_total_body_bytes
        size_t body_window_bytes
        size_t max_pending_bytes
        size_t low_water_bytes
        uint32_t header_timeout_ms
        uint32_t body_timeout_ms
        uint32_t idle_timeout_ms
        uint32_t write_timeout_ms
        const char *api_key
        dyn_tls_context *tls
        const char *allow_origin
    int dyn_http_server_new(dyn_http_server **out, dyn_loop *loop, const dyn_http_settings *settings)
    int dyn_http_server_listen(dyn_http_server *self, const char *host, uint16_t port, uint16_t *bound)
    int dyn_http_server_stop(dyn_http_server *self, uint32_t deadline_ms, void (*done)(void *user) noexcept nogil,
                             void *user)
    void dyn_http_server_free(dyn_http_server *self)
    ctypedef struct dyn_http_stats:
        uint64_t accepted
        uint64_t refused
        uint64_t requests
        uint64_t answers[6]
        uint64_t malformed
        uint64_t timed_out
        uint64_t cut
        uint64_t bytes_in
        uint64_t bytes_out
        uint64_t bad_handshakes
        uint32_t connections
        size_t body_bytes
    void dyn_http_server_stats(const dyn_http_server *self, dyn_http_stats *out)

    enum:
        DYN_HTTP_PREFIX
        DYN_HTTP_OPEN
        DYN_HTTP_REPLACE
        DYN_HTTP_LIVE
        DYN_HTTP_EVENT_CLOSED
        DYN_HTTP_EVENT_DRAIN
        DYN_HTTP_EVENT_BODY
    ctypedef void (*dyn_http_handler)(void *user, dyn_http_exchange *x) noexcept nogil
    int dyn_http_route(dyn_http_server *self, const char *method, const char *path, unsigned flags,
                       dyn_http_handler handler, void *user)
    int dyn_http_route_mail(dyn_http_server *self, const char *method, const char *path, unsigned flags,
                            dyn_mailbox *box, void *owner)
    int dyn_http_route_static(dyn_http_server *self, const char *path, unsigned flags, int status,
                              const char *type, const void *body, size_t length)
    int dyn_http_route_metrics(dyn_http_server *self, const char *path, unsigned flags, dyn_metrics *metrics)
    int dyn_http_unroute(dyn_http_server *self, const char *method, const char *path, unsigned flags)
    dyn_http_exchange *dyn_http_from_mail(dyn_mail *mail)

    dyn_http_exchange *dyn_http_exchange_ref(dyn_http_exchange *self)
    void dyn_http_exchange_unref(dyn_http_exchange *self)
    const char *dyn_http_method(const dyn_http_exchange *self)
    const char *dyn_http_path(const dyn_http_exchange *self, size_t *length)
    const char *dyn_http_query(const dyn_http_exchange *self, size_t *length)
    const char *dyn_http_header(const dyn_http_exchange *self, const char *name, size_t *length)
    size_t dyn_http_header_count(const dyn_http_exchange *self)
    const char *dyn_http_header_at(const dyn_http_exchange *self, size_t n, size_t *name_length, const char **value,
                                   size_t *value_length)
    const uint8_t *dyn_http_body(const dyn_http_exchange *self, size_t *length)
    const char *dyn_http_request_id(const dyn_http_exchange *self)
    const char *dyn_http_peer(const dyn_http_exchange *self)
    uint64_t dyn_http_started_ns(const dyn_http_exchange *self)
    dyn_loop *dyn_http_loop(const dyn_http_exchange *self)

    int dyn_http_read(dyn_http_exchange *self, void *to, size_t size, size_t *got)

    int dyn_http_set_header(dyn_http_exchange *self, const char *name, const char *value)
    int dyn_http_respond(dyn_http_exchange *self, int status, const char *type, const void *body, size_t length)
    int dyn_http_respond_pieces(dyn_http_exchange *self, int status, const char *type, const dyn_http_piece *pieces,
                                size_t count, void (*release)(void *user) noexcept nogil, void *user)
    int dyn_http_fail(dyn_http_exchange *self, int status, const char *message, const char *type, const char *param,
                      const char *code)
    int dyn_http_begin(dyn_http_exchange *self, int status, const char *type)
    int dyn_http_write(dyn_http_exchange *self, const void *data, size_t length)
    int dyn_http_reserve(dyn_http_exchange *self, size_t length, char **room)
    void dyn_http_commit(dyn_http_exchange *self, size_t used)
    int dyn_http_end(dyn_http_exchange *self)
    void dyn_http_abort(dyn_http_exchange *self)
    size_t dyn_http_pending(const dyn_http_exchange *self)
    bint dyn_http_closed(const dyn_http_exchange *self)
    bint dyn_http_congested(const dyn_http_exchange *self)
    bint dyn_http_begun(const dyn_http_exchange *self)
    ctypedef struct dyn_http_events:
        void (*on_drain)(void *user) noexcept nogil
        void (*on_closed)(void *user) noexcept nogil
        void (*on_done)(void *user) noexcept nogil
        void (*on_body)(void *user) noexcept nogil
    int dyn_http_watch(dyn_http_exchange *self, const dyn_http_events *events, void *user)
    int dyn_http_watch_mail(dyn_http_exchange *self, dyn_mailbox *box, void *owner)
    unsigned dyn_http_event_from_mail(dyn_mail *mail)
    bint dyn_http_unwatch_mail(dyn_http_exchange *self)
    const char *dyn_http_reason(int status)
