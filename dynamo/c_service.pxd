# Mirrors dynamo/service.h.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from dynamo.c_loop cimport dyn_loop
from dynamo.c_mailbox cimport dyn_mail, dyn_mailbox
from dynamo.c_wire cimport dyn_pair, dyn_slice


cdef extern from "dynamo/service.h" nogil:
    ctypedef struct dyn_pool:
        pass
    ctypedef struct dyn_call:
        pass
    ctypedef struct dyn_server:
        pass
    ctypedef struct dyn_endpoint:
        pass
    ctypedef struct dyn_stream:
        pass
    ctypedef struct dyn_cork:
        pass
    ctypedef struct dyn_service_options:
        uint32_t max_frame
        uint32_t window
        uint32_t max_streams
        uint32_t max_connections
        uint32_t max_requests
        uint32_t max_backlog
        uint32_t keep_room
        uint32_t connect_timeout_ms
        uint32_t ping_ms
        uint32_t dead_ms
    ctypedef struct dyn_failure:
        int code
        const char *type
        const char *text
        const char *trace
    int dyn_cork_new(dyn_cork **out)
    void dyn_cork_free(dyn_cork *self)
    bint dyn_cork_dirty(const dyn_cork *self)
    void dyn_cork_flush(dyn_cork *self)

    int dyn_pool_new(dyn_pool **out, dyn_loop *loop, const dyn_service_options *options)
    dyn_pool *dyn_pool_ref(dyn_pool *self)
    void dyn_pool_close(dyn_pool *self)
    void dyn_pool_unref(dyn_pool *self)
    ctypedef struct dyn_call_request:
        const char *address
        const dyn_pair *headers
        size_t header_count
        dyn_slice payload
        uint32_t deadline_ms
        uint32_t quiet_ms
        uint32_t window
        bint manual_credit
    ctypedef struct dyn_call_events:
        void (*on_item)(void *user, const uint8_t *bytes, size_t size) noexcept nogil
        void (*on_end)(void *user, int rc, const dyn_failure *failure) noexcept nogil
    int dyn_call_start(dyn_pool *pool, const dyn_call_request *request, const dyn_call_events *events, void *user,
                       dyn_cork *cork, dyn_call **out)
    enum dyn_call_mail_kind:
        DYN_CALL_ITEMS
        DYN_CALL_END
    ctypedef struct dyn_call_mail:
        dyn_mail mail
        dyn_call *call
        int kind
        dyn_slice items
    int dyn_call_start_mail(dyn_pool *pool, const dyn_call_request *request, dyn_mailbox *mailbox, void *owner,
                            void *user, dyn_cork *cork, dyn_call **out)
    void *dyn_call_user(const dyn_call *self)
    void dyn_call_set_user(dyn_call *self, void *user)
    const dyn_failure *dyn_call_failure(const dyn_call *self)
    dyn_call *dyn_call_ref(dyn_call *self)
    void dyn_call_unref(dyn_call *self)
    void dyn_call_consumed(dyn_call *self, size_t bytes, dyn_cork *cork)
    void dyn_call_stop(dyn_call *self, dyn_cork *cork)
    void dyn_call_kill(dyn_call *self, dyn_cork *cork)
    ctypedef struct dyn_pool_stats:
        uint64_t calls
        uint64_t failed
        uint64_t bytes_in
        uint64_t bytes_out
        uint32_t connections
        uint32_t inflight
    void dyn_pool_get_stats(dyn_pool *self, dyn_pool_stats *out)

    int dyn_server_new(dyn_server **out, dyn_loop *loop, const char *host, uint16_t port,
                       const dyn_service_options *options)
    uint16_t dyn_server_port(const dyn_server *self)
    void dyn_server_drain(dyn_server *self)
    void dyn_server_free(dyn_server *self)
    ctypedef struct dyn_endpoint_events:
        void (*on_request)(void *user, dyn_stream *stream) noexcept nogil
        void (*on_change)(void *user, dyn_stream *stream) noexcept nogil
    int dyn_server_serve(dyn_server *self, const char *path, const dyn_endpoint_events *events, void *user,
                         dyn_endpoint **out)
    enum dyn_stream_mail_kind:
        DYN_STREAM_REQUEST
        DYN_STREAM_CHANGE
    ctypedef struct dyn_stream_mail:
        dyn_mail mail
        dyn_stream *stream
        int kind
    int dyn_server_serve_mail(dyn_server *self, const char *path, dyn_mailbox *mailbox, void *owner,
                              dyn_endpoint **out)
    void dyn_endpoint_stop(dyn_endpoint *self)
    void dyn_endpoint_unref(dyn_endpoint *self)
    ctypedef struct dyn_endpoint_stats:
        uint64_t requests
        uint64_t refused
        uint64_t failed
        uint64_t items
        uint64_t bytes_in
        uint64_t bytes_out
        uint64_t duration_ns
        uint32_t inflight
    void dyn_endpoint_get_stats(const dyn_endpoint *self, dyn_endpoint_stats *out)
    ctypedef void (*dyn_endpoint_hook)(void *user, int code, uint64_t duration_ns) noexcept nogil
    void dyn_endpoint_set_hook(dyn_endpoint *self, dyn_endpoint_hook hook, void *user)

    dyn_stream *dyn_stream_ref(dyn_stream *self)
    void dyn_stream_unref(dyn_stream *self)
    dyn_slice dyn_stream_payload(const dyn_stream *self)
    size_t dyn_stream_header_count(const dyn_stream *self)
    dyn_pair dyn_stream_header(const dyn_stream *self, size_t index)
    void *dyn_stream_user(const dyn_stream *self)
    void dyn_stream_set_user(dyn_stream *self, void *user)
    enum dyn_stream_state_bits "dyn_stream_state":
        DYN_STREAM_STOPPED
        DYN_STREAM_KILLED
        DYN_STREAM_FULL
    unsigned dyn_stream_state(const dyn_stream *self)
    int dyn_stream_send(dyn_stream *self, const void *item, size_t size, dyn_cork *cork)
    int dyn_stream_send_items(dyn_stream *self, dyn_slice items, size_t count, dyn_cork *cork)
    int dyn_stream_end(dyn_stream *self, dyn_cork *cork)
    int dyn_stream_fail(dyn_stream *self, const dyn_failure *failure, dyn_cork *cork)
