/* Any bytes as the answer to a request, whole and in pieces: both must come to the same end, within the limits. */
#include <sys/socket.h>
#include <unistd.h>

#include "net/client_internal.h"

enum { MAX_BODY = 3000, MAX_HEAD = 1500, MAX_FIELDS = 12 };

typedef struct outcome {
    int rc, status;
    size_t fields, length;
    uint64_t hash;
} outcome;

static dyn_http_client *client;
static int ended_fd;

static outcome feed(const uint8_t *data, size_t size, size_t piece, unsigned flags)
{
    dyn_http_request request = {.method = "GET", .path = "/", .flags = flags};
    dyn_http_call *call;
    dyn__link *link;
    if (dyn_http_call_new(&call, client, &request) < 0 || dyn__link_new(&link, client, NULL) < 0) abort();
    link->phase = DYN__READY;
    dyn__call_attach(call, link);
    call->send_over = true;
    call->hungry = true;
    outcome end = {.rc = DYN_EAGAIN, .hash = 1469598103934665603u};
    for (size_t at = 0; end.rc == DYN_EAGAIN || (end.rc == DYN_OK && call->phase < DYN_HTTP_CALL_DONE);) {
        if (at < size) {
            size_t n = size - at < piece ? size - at : piece;
            if (link->in_from > 0) { /* as fill() does when it must */
                memmove(link->in, link->in + link->in_from, link->in_to - link->in_from);
                link->in_to -= link->in_from, link->in_from = 0;
            }
            if (n > sizeof(link->in) - link->in_to) abort(); /* it leaves more than a head and a piece unread */
            memcpy(link->in + link->in_to, data + at, n);
            link->in_to += n, at += n;
        } else { /* the end of the connection */
            if (link->fd < 0) link->fd = dup(ended_fd);
            link->readable = true;
        }
        do {
            end.rc = dyn__call_step(call);
            if (call->phase == DYN_HTTP_CALL_MORE && (flags & DYN_HTTP_CALL_STREAM)) {
                size_t have;
                const uint8_t *body = dyn_http_call_body(call, &have);
                for (size_t i = 0; i < have; i++) end.hash = (end.hash ^ body[i]) * 1099511628211u;
                end.length += have;
                dyn_http_call_consume(call, have);
                call->hungry = true;
            }
        } while (end.rc == DYN_OK && call->phase < DYN_HTTP_CALL_DONE);
        if (call->link == NULL) link = NULL;
        if (link == NULL) break;
    }
    end.status = call->headed ? call->status : 0;
    end.fields = call->headed ? call->fields.count : 0;
    if (call->phase == DYN_HTTP_CALL_DONE) {
        size_t have;
        const uint8_t *body = dyn_http_call_body(call, &have);
        for (size_t i = 0; i < have; i++) end.hash = (end.hash ^ body[i]) * 1099511628211u;
        end.length += have;
        if (!(flags & DYN_HTTP_CALL_STREAM) && end.length > MAX_BODY) abort();
        for (size_t i = 0; i < end.fields; i++) {
            size_t name_length, value_length;
            const char *value, *name = dyn_http_call_header_at(call, i, &name_length, &value, &value_length);
            if (name[name_length] != 0 || value[value_length] != 0 || memchr(value, '\n', value_length)) abort();
        }
    }
    dyn_http_call_free(call);
    dyn_http_client_close_idle(client);
    return end;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (client == NULL) {
        int ends[2];
        dyn_http_client_settings limits = {
            .max_response_bytes = MAX_BODY, .max_header_bytes = MAX_HEAD, .max_headers = MAX_FIELDS, .max_idle = 1};
        if (dyn_http_client_new(&client, "http://127.0.0.1:1", &limits) < 0) abort();
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) abort();
        close(ends[1]);
        ended_fd = ends[0];
    }
    if (size < 2 || size > 8192) return 0;
    unsigned flags = data[0] & 128 ? DYN_HTTP_CALL_STREAM : 0;
    size_t piece = data[0] % 64 + 1;
    outcome whole = feed(data + 1, size - 1, size, flags), pieces = feed(data + 1, size - 1, piece, flags);
    if (whole.rc != pieces.rc) abort();
    if (whole.rc == DYN_OK && memcmp(&whole, &pieces, sizeof(whole)) != 0) abort();
    return 0;
}
