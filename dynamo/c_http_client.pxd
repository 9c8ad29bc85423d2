# Mirrors dynamo/http_client.h.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dynamo.c_http_piece cimport dyn_http_piece
from dynamo.c_tls cimport dyn_tls_context


cdef extern from "dynamo/http_client.h" nogil:
    ctypedef struct dyn_http_client:
        pass
    ctypedef struct dyn_http_call:
        pass
    ctypedef struct dyn_http_hub:
        pass
    ctypedef struct dyn_http_client_settings:
        size_t max_response_bytes
        uint32_t max_header_bytes
        uint32_t max_headers
        uint32_t max_idle
        uint32_t max_connections
        uint32_t idle_timeout_ms
        size_t window_bytes
        dyn_tls_context *tls
    int dyn_http_client_new(dyn_http_client **out, const char *url, const dyn_http_client_settings *settings)
    dyn_http_client *dyn_http_client_ref(dyn_http_client *self)
    void dyn_http_client_unref(dyn_http_client *self)
    void dyn_http_client_close_idle(dyn_http_client *self)
    ctypedef struct dyn_http_client_stats:
        uint64_t opened
        uint64_t reused
        uint64_t calls
        uint64_t failed
        uint32_t idle
    void dyn_http_client_stats_read(const dyn_http_client *self, dyn_http_client_stats *out)
    int dyn_http_header_check(const char *name, size_t name_length, const char *value, size_t value_length)

    enum:
        DYN_HTTP_CALL_IDEMPOTENT
        DYN_HTTP_CALL_STREAM
        DYN_HTTP_CALL_STOP_LARGE
        DYN_HTTP_CALL_SEND_LATER
    ctypedef struct dyn_http_request:
        const char *method
        const char *path
        const char *headers
        size_t headers_length
        const void *body
        size_t length
        const dyn_http_piece *pieces
        size_t piece_count
        uint32_t timeout_ms
        unsigned flags
    int dyn_http_call_new(dyn_http_call **out, dyn_http_client *client, const dyn_http_request *request)
    void dyn_http_call_free(dyn_http_call *self)
    enum dyn_http_call_phase:
        DYN_HTTP_CALL_OPEN
        DYN_HTTP_CALL_HEAD
        DYN_HTTP_CALL_MORE
        DYN_HTTP_CALL_DONE
        DYN_HTTP_CALL_FAILED
    dyn_http_call_phase dyn_http_call_phase_of(const dyn_http_call *self)
    int dyn_http_call_run(dyn_http_call *self)
    int dyn_http_call_error(const dyn_http_call *self)
    void dyn_http_call_set_timeout(dyn_http_call *self, uint32_t timeout_ms)
    int dyn_http_call_status(const dyn_http_call *self)
    const char *dyn_http_call_header(const dyn_http_call *self, const char *name, size_t *length)
    size_t dyn_http_call_header_count(const dyn_http_call *self)
    const char *dyn_http_call_header_at(const dyn_http_call *self, size_t n, size_t *name_length, const char **value,
                                        size_t *value_length)
    size_t dyn_http_call_length(const dyn_http_call *self)
    int dyn_http_call_into(dyn_http_call *self, void *memory)
    const uint8_t *dyn_http_call_body(const dyn_http_call *self, size_t *length)
    void dyn_http_call_consume(dyn_http_call *self, size_t length)
    int dyn_http_call_send(dyn_http_call *self, const void *data, size_t length)
    int dyn_http_call_send_end(dyn_http_call *self)
    size_t dyn_http_call_unsent(const dyn_http_call *self)
    int dyn_http_call_flush(dyn_http_call *self, size_t left)

    int dyn_http_hub_new(dyn_http_hub **out)
    void dyn_http_hub_free(dyn_http_hub *self)
    int dyn_http_hub_fd(const dyn_http_hub *self)
    void dyn_http_hub_start(dyn_http_hub *self, dyn_http_call *call, void *user)
    void dyn_http_hub_turn(dyn_http_hub *self)
    dyn_http_call *dyn_http_hub_news(dyn_http_hub *self)
    void *dyn_http_call_user(const dyn_http_call *self)
    void dyn_http_hub_go_on(dyn_http_hub *self, dyn_http_call *call)
    void dyn_http_hub_close_idle(dyn_http_hub *self, const dyn_http_client *client)
