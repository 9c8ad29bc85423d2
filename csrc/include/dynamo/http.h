/* http.h -- an HTTP/1.1 server on the loop thread (area net).
 *
 *   bytes -> [TLS] -> gate + parser -> [ exchange ] -> route: a C handler on the loop thread, or mail to Python
 *                                  |
 *            socket <- one send <- pending bytes <- respond | begin, write ..., end   (any thread)
 *
 * An exchange is one request and the answer to it. It is made by the server, handed to the route, and
 * answered exactly once: by dyn_http_respond(), or by begin, any number of writes, and end.
 *
 * Units    bytes and milliseconds.
 * Errors   int results are DYN_OK or a negative enum dyn_error. What a client does wrong is answered with
 *          a status and a JSON body {"error": {"message", "type", "param", "code"}}; routes never see it.
 * Threads  server calls: any thread. An exchange's request part is read-only once it is handed out and may be
 *          read by any thread; its answer part may be called from any thread, by one at a time
 *          if the order of the bytes matters. Callbacks come on the loop thread and must not block.
 * Bounds   every buffer, time and count that a client can drive has a limit in dyn_http_settings.
 */
#ifndef DYNAMO_HTTP_H
#define DYNAMO_HTTP_H

#include "dynamo/common.h"
#include "dynamo/http_piece.h"
#include "dynamo/loop.h"
#include "dynamo/mailbox.h"
#include "dynamo/metrics.h"
#include "dynamo/tls.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_http_server dyn_http_server;
typedef struct dyn_http_exchange dyn_http_exchange;

/* ---- the server -------------------------------------------------------------------------------- */

/* 0 or NULL means the default that is noted; DYN_HTTP_NEVER in a time means no limit. */
#define DYN_HTTP_NEVER UINT32_MAX
typedef struct dyn_http_settings {
    uint32_t max_connections;    /* 4096; more are told 503 */
    uint32_t max_header_bytes;   /* 32 KiB with the request line; more: 431 */
    uint32_t max_headers;        /* 100 fields; more: 431 */
    uint32_t max_url_bytes;      /* 8 KiB; more: 414 */
    size_t max_body_bytes;       /* 45 MiB; more: 413 */
    size_t max_total_body_bytes; /* 1 GiB in all bodies that are held at one time; more: 503 */
    size_t body_window_bytes;    /* 64 KiB of a live body that its handler has not read; then the socket is not read */
    size_t max_pending_bytes;    /* 4 MiB of answer that the client has not read; then write says DYN_EAGAIN */
    size_t low_water_bytes;      /* 64 KiB, at most half of the above: more pending is congestion, see on_drain */
    uint32_t
        header_timeout_ms;    /* 10 s from the first byte of a request to the end of its header: 408. From connecting to
                                  * the end of the TLS handshake and the first byte: the connection is closed. */
    uint32_t body_timeout_ms; /* 30 s for a body, and 1 ms more for each byte that came: 408 */
    uint32_t idle_timeout_ms; /* 75 s between requests */
    uint32_t write_timeout_ms; /* 30 s in which the client read nothing of what was pending */
    const char *api_key;       /* none: every request needs "Authorization: Bearer <key>", else 401. Copied. */
    dyn_tls_context *tls;      /* none: plain HTTP. Made for a server. A reference is taken. */
    const char *allow_origin;  /* none: no CORS. "*" or one origin: CORS headers and preflights. Copied. */
} dyn_http_settings;

/* Make a server that listens nowhere yet.
 * loop      a reference is taken.    settings  borrowed for the call; NULL: all defaults.
 * errors    DYN_ENOMEM, DYN_EINVAL (a limit that contradicts another, an api_key with odd bytes, a client's TLS). */
DYN_API int dyn_http_server_new(dyn_http_server **out, dyn_loop *loop, const dyn_http_settings *settings);
/* Listen. May be called more than once, for several addresses.
 * host   an address or a name; NULL: 127.0.0.1.     port  0: any free one.
 * bound  receives the port; may be NULL.
 * errors DYN_EINVAL (no such host), DYN_EBUSY (the port is taken), DYN_EACCES, DYN_EIO, DYN_ECLOSED (stopped). */
DYN_API int dyn_http_server_listen(dyn_http_server *self, const char *host, uint16_t port, uint16_t *bound);
/* Stop gracefully: accept nothing more, close idle connections, let running exchanges end until `deadline_ms`
 * is over, then cut them. `done(user)` runs once on the loop thread when the last connection is closed; NULL: nobody
 * asks. A second call may only shorten the time, and its `done` is refused with DYN_EBUSY if another one waits. */
DYN_API int dyn_http_server_stop(dyn_http_server *self, uint32_t deadline_ms, void (*done)(void *user), void *user);
/* Cut every connection and give the server back. When this returns no handler of it runs or will run; exchanges that
 * are still held stay valid and say DYN_ECLOSED. NULL is allowed. */
DYN_API void dyn_http_server_free(dyn_http_server *self);

typedef struct dyn_http_stats {
    uint64_t accepted, refused;    /* connections in all; those turned away with 503 */
    uint64_t requests;             /* handed to a route */
    uint64_t answers[6];           /* by first digit of the status; [0] unused */
    uint64_t malformed, timed_out; /* answered 4xx by the server itself; of these 408 */
    uint64_t cut;                  /* connections lost or closed with an answer unfinished */
    uint64_t bytes_in, bytes_out;  /* of the sockets; TLS counts */
    uint64_t bad_handshakes;       /* TLS connections that never came to a request */
    uint32_t connections;          /* now */
    size_t body_bytes;             /* now, in bodies of requests */
} dyn_http_stats;
DYN_API void dyn_http_server_stats(const dyn_http_server *self, dyn_http_stats *out);

/* ---- routes ------------------------------------------------------------------------------------ */

enum dyn_http_route_flags {
    DYN_HTTP_PREFIX = 1,  /* every path that begins with this one */
    DYN_HTTP_OPEN = 2,    /* needs no api key */
    DYN_HTTP_REPLACE = 4, /* takes the place of a route of the same method, path and kind, if there is one */
    DYN_HTTP_LIVE = 8,    /* the handler is called when the header is complete: the body follows, dyn_http_read() */
};
/* A handler: on the loop thread. It has one reference to x: dyn_http_exchange_unref() when done, now or later. */
typedef void (*dyn_http_handler)(void *user, dyn_http_exchange *x);
/* Send requests for `method` (upper case; "*": any) and `path` to a handler. An exact path wins over a prefix, a
 * long prefix over a short one; one path may have one of each kind. GET routes answer HEAD as well; the body is left out by the server.
 * user     borrowed until the route is removed or the server freed.
 * errors   DYN_ENOMEM, DYN_EINVAL, DYN_EEXIST, DYN_ECLOSED. */
DYN_API int dyn_http_route(dyn_http_server *self, const char *method, const char *path, unsigned flags,
                           dyn_http_handler handler, void *user);
/* The same, but the exchange goes by mail: `dyn_mail.owner` is `owner`, dyn_http_from_mail() gives the exchange and its
 * reference. When the route goes (removed, server freed) a last mail comes, for which dyn_http_from_mail()
 * gives NULL: after it `owner` is not used again.
 * box      a reference is taken. */
DYN_API int dyn_http_route_mail(dyn_http_server *self, const char *method, const char *path, unsigned flags,
                                dyn_mailbox *box, void *owner);
/* Take a route away: the one for the path alone, or with DYN_HTTP_PREFIX in `flags` the one for all paths that begin
 * so; both may be there. Requests that are on their way still arrive.   errors  DYN_ENOENT. */
DYN_API int dyn_http_unroute(dyn_http_server *self, const char *method, const char *path, unsigned flags);
/* The exchange in a mail from a route, one reference, new; NULL: that was the route's last mail. Takes the mail. */
DYN_API dyn_http_exchange *dyn_http_from_mail(dyn_mail *mail);

/* ---- an exchange: the request ------------------------------------------------------------------ */

DYN_API dyn_http_exchange *dyn_http_exchange_ref(dyn_http_exchange *self);
/* Give a reference back. If the last one goes before the answer is complete, the server completes it:
 * 500 when nothing was begun, else the connection is cut. NULL is allowed. */
DYN_API void dyn_http_exchange_unref(dyn_http_exchange *self);

/* All of these are borrowed while a reference lives, and NUL-terminated. */
DYN_API const char *dyn_http_method(const dyn_http_exchange *self);
DYN_API const char *dyn_http_path(const dyn_http_exchange *self, size_t *length);  /* as sent, without the query */
DYN_API const char *dyn_http_query(const dyn_http_exchange *self, size_t *length); /* after '?'; "" when none */
/* name  in lower case. NULL when absent; of several fields the first. `length` may be NULL. */
DYN_API const char *dyn_http_header(const dyn_http_exchange *self, const char *name, size_t *length);
DYN_API size_t dyn_http_header_count(const dyn_http_exchange *self);
/* The nth field in the order of arrival, its name in lower case. n < dyn_http_header_count(). */
DYN_API const char *dyn_http_header_at(const dyn_http_exchange *self, size_t n, size_t *name_length, const char **value,
                                       size_t *value_length);
/* The whole body; a NUL follows it. Aligned to 64 bytes. Never NULL. Empty on a live route. */
DYN_API const uint8_t *dyn_http_body(const dyn_http_exchange *self, size_t *length);
DYN_API const char *dyn_http_request_id(const dyn_http_exchange *self); /* x-request-id, or one that the server made */
DYN_API const char *dyn_http_peer(const dyn_http_exchange *self);       /* "127.0.0.1:1234" */
DYN_API uint64_t dyn_http_started_ns(const dyn_http_exchange *self);    /* dyn_now_ns() when its header was complete */
DYN_API dyn_loop *dyn_http_loop(const dyn_http_exchange *self);         /* borrowed */

/* ---- an exchange: a body that comes while the handler runs (DYN_HTTP_LIVE) ---------------------- */

/* Take what is there of the body: 1 to `size` bytes. Any thread, one at a time. What is not taken is bounded by
 * body_window_bytes, and neither the length of the whole nor its time is: who answers ends it. An answer may be
 * begun and ended before the body is.
 * errors  DYN_EAGAIN: nothing now; on_body, DYN_HTTP_EVENT_BODY tell when that has changed; DYN_ECLOSED: that was all;
 *         DYN_EBROKEN: the client left before the end of it; DYN_EPROTO: it is malformed. */
DYN_API int dyn_http_read(dyn_http_exchange *self, void *to, size_t size, size_t *got);

/* ---- an exchange: the answer ------------------------------------------------------------------- */

/* Add a header field to the answer, before respond or begin. Content-Length, Transfer-Encoding, Connection and Date
 * are the server's own.   errors  DYN_EINVAL (control characters, a field of the server's), DYN_ENOMEM, DYN_EBUSY
 * (begun). */
DYN_API int dyn_http_set_header(dyn_http_exchange *self, const char *name, const char *value);
/* Answer completely.
 * type   the Content-Type; NULL: none.     body  borrowed for the call.
 * errors DYN_ECLOSED (the client is gone), DYN_EBUSY (answered already), DYN_EINVAL (status not 200..599),
 * DYN_ENOMEM. */
DYN_API int dyn_http_respond(dyn_http_exchange *self, int status, const char *type, const void *body, size_t length);
/* The same without a copy: the body is these pieces, one after the other.
 * pieces   the list is borrowed for the call, the bytes of each until `release(user)`. That is called once, on any
 *          thread, when the kernel has the last of them or nobody wants them any more; not when this fails.
 * errors   as dyn_http_respond(). */
DYN_API int dyn_http_respond_pieces(dyn_http_exchange *self, int status, const char *type, const dyn_http_piece *pieces,
                                    size_t count, void (*release)(void *user), void *user);
/* Answer with {"error": {...}} in OpenAI's shape; `type` NULL: chosen by status; `param` and `code` may be NULL. */
DYN_API int dyn_http_fail(dyn_http_exchange *self, int status, const char *message, const char *type, const char *param,
                          const char *code);

/* Begin an answer of unknown length (chunked, or to the end of the connection for HTTP/1.0). The header leaves with the
 * first flush, at once when nothing follows in this turn of the loop. errors as dyn_http_respond(). */
DYN_API int dyn_http_begin(dyn_http_exchange *self, int status, const char *type);
/* Append bytes. What gathers while the socket is busy, or within one turn of the loop, goes out in one send and one
 * chunk.
 * data   borrowed for the call.
 * errors DYN_EAGAIN: max_pending_bytes are pending, nothing was taken, wait for on_drain; DYN_ECLOSED: the client is
 *        gone, stop; DYN_EBUSY: not begun, or ended; DYN_ENOMEM. */
DYN_API int dyn_http_write(dyn_http_exchange *self, const void *data, size_t length);
/* The same without the copy: room for `length` bytes in the pending buffer, to be filled and committed (the part
 * that was used) before any other call on this exchange; commit must follow a reserve that gave DYN_OK. errors as
 * dyn_http_write(). */
DYN_API int dyn_http_reserve(dyn_http_exchange *self, size_t length, char **room);
DYN_API void dyn_http_commit(dyn_http_exchange *self, size_t used);
/* The answer is complete. errors DYN_EBUSY, DYN_ECLOSED. */
DYN_API int dyn_http_end(dyn_http_exchange *self);
/* Cut the connection, so that the client sees that the answer is not whole. Nothing when the answer is complete
 * already. */
DYN_API void dyn_http_abort(dyn_http_exchange *self);

DYN_API size_t dyn_http_pending(const dyn_http_exchange *self); /* bytes that the kernel has not taken yet */
/* How many bytes an answer had better leave pending when the others do the same: what a slow client has not read yet
 * need not hold up who makes the answer, as long as the memory of the server allows. 1 MiB (or half of
 * max_pending_bytes) with few connections, 128 KiB with a thousand; at least low_water_bytes. */
DYN_API size_t dyn_http_share(const dyn_http_exchange *self);
/* Did a write leave more than low_water_bytes pending, and on_drain is still to come? Then it is time to wait. */
DYN_API bool dyn_http_congested(const dyn_http_exchange *self);
/* Has the client left? True also when it only closed its sending side: writing still works then, and an answer
 * that is written all the same reaches a client that waits for it. */
DYN_API bool dyn_http_closed(const dyn_http_exchange *self);
DYN_API bool dyn_http_begun(const dyn_http_exchange *self);

/* What happens to an exchange, told on the loop thread. Members may be NULL. */
typedef struct dyn_http_events {
    void (*on_drain)(void *user);  /* after congestion: no more than low_water_bytes are pending */
    void (*on_closed)(void *user); /* the client left before the answer was complete; at most once */
    void (*on_done)(void *user);   /* exactly once, the last: the exchange left its connection, complete or not */
    void (*on_body)(void *user);   /* after dyn_http_read() gave DYN_EAGAIN: it gives something else now */
} dyn_http_events;
/* Watch an exchange. On the loop thread only (a handler does it before it returns). Comes too late for what was before:
 * ask dyn_http_closed() after it.  events  borrowed until on_done (static, as a rule).  errors  DYN_EBUSY,
 * DYN_ECLOSED. */
DYN_API int dyn_http_watch(dyn_http_exchange *self, const dyn_http_events *events, void *user);

/* The same by mail, from any thread: DYN_HTTP_EVENT_* bits gather, and one mail with `owner` tells of them. */
enum dyn_http_event_bits { DYN_HTTP_EVENT_CLOSED = 1, DYN_HTTP_EVENT_DRAIN = 2, DYN_HTTP_EVENT_BODY = 4 };
/* box     a reference is taken.   owner  borrowed until the watch ends.
 * errors  DYN_EBUSY (a watch is on). */
DYN_API int dyn_http_watch_mail(dyn_http_exchange *self, dyn_mailbox *box, void *owner);
/* What a mail of that watch tells: bits. Takes the mail. The exchange must still be held. */
DYN_API unsigned dyn_http_event_from_mail(dyn_mail *mail);
/* End the watch. True: no mail is under way and none will come. False: one more mail comes, and is the last. */
DYN_API bool dyn_http_unwatch_mail(dyn_http_exchange *self);

/* ---- helpers ----------------------------------------------------------------------------------- */

/* A ready answer to GET: served on the loop thread without a handler. Bytes are copied.   errors as
 * dyn_http_route(). */
DYN_API int dyn_http_route_static(dyn_http_server *self, const char *path, unsigned flags, int status, const char *type,
                                  const void *body, size_t length);
/* The metrics of a registry as Prometheus text at GET `path`, made on the loop thread. A reference to it is taken.
 * errors as dyn_http_route(). */
DYN_API int dyn_http_route_metrics(dyn_http_server *self, const char *path, unsigned flags, dyn_metrics *metrics);
DYN_API const char *dyn_http_reason(int status); /* "Not Found"; static; "Unknown" for others */

#ifdef __cplusplus
}
#endif
#endif
