/* http_client.h -- an HTTP/1.1 client with kept-alive connections (area net).
 *
 *   client: where to, and the idle connections that threads share
 *   call:   one request and the answer to it
 *             dyn_http_call_run()   in this thread, which owns the socket meanwhile: no other thread is woken
 *             dyn_http_hub_start()  many at once in an event loop: one descriptor says that there is news
 *
 *   OPEN --head of a large or streamed answer--> HEAD --bytes--> MORE ... --> DONE | FAILED
 *
 * A small answer goes from OPEN to DONE at once.
 * Units    bytes and milliseconds.
 * Errors   DYN_EINVAL what was asked for cannot be; DYN_ECONN no connection (no such host, refused, certificate);
 *          DYN_ETIMEDOUT; DYN_EBROKEN the connection broke under way; DYN_EPROTO the answer is not HTTP; DYN_ELIMIT the
 *          answer is over a limit of the settings; DYN_ECANCELED; DYN_ENOMEM. Any status of an answer is DYN_OK.
 * Threads  a client: any thread. A call: one thread at a time. A hub and its calls: one thread.
 * Fork     a child that uses a client starts with no connections; the parent's are left alone. A hub and calls under
 *          way belong to the parent.
 */
#ifndef DYNAMO_HTTP_CLIENT_H
#define DYNAMO_HTTP_CLIENT_H

#include "dynamo/common.h"
#include "dynamo/http_piece.h"
#include "dynamo/tls.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_http_client dyn_http_client;
typedef struct dyn_http_call dyn_http_call;
typedef struct dyn_http_hub dyn_http_hub;

/* ---- the client -------------------------------------------------------------------------------- */

/* 0 or NULL means the default that is noted. */
typedef struct dyn_http_client_settings {
    size_t max_response_bytes; /* 256 MiB of body that a call gathers */
    uint32_t max_header_bytes; /* 64 KiB of head in an answer */
    uint32_t max_headers;      /* 100 fields */
    uint32_t max_idle;         /* 100 connections that nobody uses, for threads, and as many for each hub */
    uint32_t max_connections;  /* 100 at one time for each hub: further calls wait their turn */
    uint32_t idle_timeout_ms;  /* 60 s; then an idle connection is not used again */
    size_t window_bytes;       /* 1 MiB of a streamed answer that waits for its reader; then the socket is not read */
    dyn_tls_context *tls;      /* for https; a reference is taken. NULL: the system's store, TLS 1.2 or 1.3 */
} dyn_http_client_settings;

/* Make a client for one server; nothing is connected yet. One reference.
 * url       "http://host:port/prefix" or https. No user, query or fragment. Copied.
 * settings  borrowed for the call; NULL: all defaults.
 * errors    DYN_ENOMEM, DYN_EINVAL. */
DYN_API int dyn_http_client_new(dyn_http_client **out, const char *url, const dyn_http_client_settings *settings);
DYN_API dyn_http_client *dyn_http_client_ref(dyn_http_client *self);
DYN_API void dyn_http_client_unref(dyn_http_client *self); /* NULL is allowed */
/* Close idle connections. Calls that follow connect anew. */
DYN_API void dyn_http_client_close_idle(dyn_http_client *self);

typedef struct dyn_http_client_stats {
    uint64_t opened, reused; /* connections made; calls that found one */
    uint64_t calls, failed;  /* done, whatever the status; ended without an answer */
    uint32_t idle;           /* connections that threads share and nobody uses */
} dyn_http_client_stats;
DYN_API void dyn_http_client_stats_read(const dyn_http_client *self, dyn_http_client_stats *out);

/* May this be a header field of a request? Names are tokens, values have no control characters; Host, Content-Length,
 * Transfer-Encoding, Connection, Upgrade, TE, Trailer and Expect are the client's own.
 * Lengths are given because a NUL is one of the things to be refused.   errors  DYN_EINVAL with the reason. */
DYN_API int dyn_http_header_check(const char *name, size_t name_length, const char *value, size_t value_length);

/* ---- a call ------------------------------------------------------------------------------------ */

enum dyn_http_call_flags {
    DYN_HTTP_CALL_IDEMPOTENT = 1, /* may be sent again when a kept-alive connection turns out to be dead */
    DYN_HTTP_CALL_STREAM = 2,     /* stop at the head, then at each piece of the body that is there */
    DYN_HTTP_CALL_STOP_LARGE = 4, /* stop at the head when it announces more than 64 KiB: see dyn_http_call_into() */
    DYN_HTTP_CALL_SEND_LATER = 8, /* the body follows by dyn_http_call_send(), chunked */
};
typedef struct dyn_http_request {
    const char *method;  /* "POST" */
    const char *path;    /* behind the client's URL; begins with '/' */
    const char *headers; /* lines "Name: value\r\n" whose parts passed dyn_http_header_check(); NULL: none */
    size_t headers_length;
    const void *body; /* borrowed until the call is done or freed; NULL when length is 0 */
    size_t length;
    const dyn_http_piece *pieces; /* or in pieces, the list and what it names borrowed so; then length is 0 */
    size_t piece_count;
    uint32_t timeout_ms; /* for all of it, from the first connect to the last byte; 0: none */
    unsigned flags;
} dyn_http_request;

/* Make a call; nothing is sent yet. The time runs from here.
 * errors  DYN_ENOMEM, DYN_EINVAL (a method, path or header line that cannot be). */
DYN_API int dyn_http_call_new(dyn_http_call **out, dyn_http_client *client, const dyn_http_request *request);
/* Give the call up at whatever point it is; its connection is kept only when the answer was complete. NULL is allowed.
 * Of a hub: on the hub's thread. */
DYN_API void dyn_http_call_free(dyn_http_call *self);

enum dyn_http_call_phase {
    DYN_HTTP_CALL_OPEN,
    DYN_HTTP_CALL_HEAD,
    DYN_HTTP_CALL_MORE,
    DYN_HTTP_CALL_DONE,
    DYN_HTTP_CALL_FAILED
};
DYN_API enum dyn_http_call_phase dyn_http_call_phase_of(const dyn_http_call *self);
/* Go on in this thread until the next stop: HEAD, MORE or DONE.
 * errors  those of the head of this file; DYN_EAGAIN: time to look for signals, then call
 *         again (a signal came, or nothing for a while). */
DYN_API int dyn_http_call_run(dyn_http_call *self);
/* Of a FAILED call: its code, and its sentence for dyn_error_detail(). */
DYN_API int dyn_http_call_error(const dyn_http_call *self);
/* From now on the call has this much time; 0: no end. For streams, whose time is that between two items. */
DYN_API void dyn_http_call_set_timeout(dyn_http_call *self, uint32_t timeout_ms);

/* The answer: from HEAD on; borrowed until the call is freed. */
DYN_API int dyn_http_call_status(const dyn_http_call *self);
/* name  in lower case. NULL when absent; of several fields the first. `length` may be NULL. */
DYN_API const char *dyn_http_call_header(const dyn_http_call *self, const char *name, size_t *length);
DYN_API size_t dyn_http_call_header_count(const dyn_http_call *self);
DYN_API const char *dyn_http_call_header_at(const dyn_http_call *self, size_t n, size_t *name_length,
                                            const char **value, size_t *value_length);
/* What Content-Length says; SIZE_MAX when the answer does not say. */
DYN_API size_t dyn_http_call_length(const dyn_http_call *self);
/* In HEAD with a known length: let the body go straight to `memory`, which has room for exactly that length and lives
 * until the call is done or freed.   errors  DYN_EBUSY. */
DYN_API int dyn_http_call_into(dyn_http_call *self, void *memory);
/* The bytes of the body that are there and not consumed. With DYN_HTTP_CALL_STREAM they are handed out as they come.
 * Borrowed until the next call that is not const. */
DYN_API const uint8_t *dyn_http_call_body(const dyn_http_call *self, size_t *length);
DYN_API void dyn_http_call_consume(dyn_http_call *self, size_t length);

/* With DYN_HTTP_CALL_SEND_LATER: append to the request's body, or end it. Bytes are copied.
 * errors  DYN_EBUSY (ended), DYN_ENOMEM; FAILED calls: their code. A call that has its answer takes them and sends
 *         nothing. */
DYN_API int dyn_http_call_send(dyn_http_call *self, const void *data, size_t length);
DYN_API int dyn_http_call_send_end(dyn_http_call *self);
DYN_API size_t dyn_http_call_unsent(const dyn_http_call *self);
/* Go on in this thread until no more than `left` bytes are unsent, or the answer is done, or a window of it waits to be
 * consumed. errors  as dyn_http_call_run(). */
DYN_API int dyn_http_call_flush(dyn_http_call *self, size_t left);

/* ---- many calls at once ------------------------------------------------------------------------ */

/* errors  DYN_ENOMEM, or the code of a refused descriptor. */
DYN_API int dyn_http_hub_new(dyn_http_hub **out);
/* Calls that are under way fail with DYN_ECANCELED; free them afterwards all the same. NULL is allowed. */
DYN_API void dyn_http_hub_free(dyn_http_hub *self);
/* Readable (poll, epoll, add_reader) when there is something to do. Borrowed: never read it, never close it. */
DYN_API int dyn_http_hub_fd(const dyn_http_hub *self);
/* Start a call; what can be sent at once is sent at once. The caller frees the call, after its end or before.
 * user    for whoever takes the news.
 * errors  none: what goes wrong is news. */
DYN_API void dyn_http_hub_start(dyn_http_hub *self, dyn_http_call *call, void *user);
/* Do what there is to do, without waiting. */
DYN_API void dyn_http_hub_turn(dyn_http_hub *self);
/* The next call that came to HEAD, MORE, DONE or FAILED, or has sent enough; NULL: no more. After into(), consume()
 * or send() a call goes on by itself. */
DYN_API dyn_http_call *dyn_http_hub_news(dyn_http_hub *self);
DYN_API void *dyn_http_call_user(const dyn_http_call *self);
/* Go on with a call after into(), consume() or send(). */
DYN_API void dyn_http_hub_go_on(dyn_http_hub *self, dyn_http_call *call);
/* Close idle connections of a client in this hub. */
DYN_API void dyn_http_hub_close_idle(dyn_http_hub *self, const dyn_http_client *client);

#ifdef __cplusplus
}
#endif
#endif
