/* service.h -- calls between processes: a worker serves endpoints, a caller streams their answers.
 *
 *   caller process                                   worker process
 *   dyn_pool --(one connection per address)--------> dyn_server
 *     dyn_call  : one request, its items               dyn_endpoint : a path that is served
 *                                                      dyn_stream   : one request being answered
 *
 * An address is "host:port/path", as discovery advertises it; the path is what dyn_server_serve() was
 * given. Payloads and items are opaque bytes here (msgpack by agreement of both ends).
 *
 * Threads  every function may be called from any thread unless it says otherwise. What is to be sent is
 *          written by the calling thread when nothing waits before it; the loop thread writes what would
 *          block, reads, connects, accepts, answers pings and notices dead peers without any of Python.
 * Results  arrive in one of two ways, chosen at the start: callbacks on the loop thread, or mails in a
 *          dyn_mailbox. Callbacks must be short and must not block.
 * Errors   a dyn_error code; a call that has started reports its end exactly once.
 * Bounds   each stream has a window of credit in bytes, which counts items with the sizes before them (wire.h): a slow
 *          reader stops its own producer only. A server takes so many connections, each so many streams, and each
 *          endpoint so many requests at one time; what comes beyond is refused with DYN_EOVERLOAD, so that
 *          its caller can go elsewhere.
 */
#ifndef DYNAMO_SERVICE_H
#define DYNAMO_SERVICE_H

#include "dynamo/loop.h"
#include "dynamo/mailbox.h"
#include "dynamo/wire.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_pool dyn_pool;
typedef struct dyn_call dyn_call;
typedef struct dyn_server dyn_server;
typedef struct dyn_endpoint dyn_endpoint;
typedef struct dyn_stream dyn_stream;
typedef struct dyn_cork dyn_cork;

typedef struct dyn_service_options { /* 0 in a field means its default */
    uint32_t max_frame;              /* largest frame taken or sent, bytes; 64 MiB */
    uint32_t window;                 /* credit of a stream, bytes; 256 KiB */
    uint32_t max_streams;            /* open streams of one connection; 16384 */
    uint32_t max_connections;        /* of a server; 4096 */
    uint32_t max_requests;           /* running requests of one endpoint of a server; 16384 */
    uint32_t max_backlog;            /* unsent bytes of one connection before it counts as broken; 256 MiB */
    uint32_t keep_room;              /* buffers of a connection over so many bytes go back when empty; 1 MiB */
    uint32_t connect_timeout_ms;     /* 3000 */
    uint32_t ping_ms;                /* silence after which a ping goes out; 5000 */
    uint32_t dead_ms;                /* silence after which the peer counts as dead; 15000 */
} dyn_service_options;

/* Why a stream ended badly. Texts are zero-terminated, never NULL, borrowed for the callback, or while the
 * mail's call lives. */
typedef struct dyn_failure {
    int code;          /* a dyn_error */
    const char *type;  /* "ValueError": the class of the remote exception; "" when the failure is local */
    const char *text;  /* one sentence */
    const char *trace; /* the remote traceback or "" */
} dyn_failure;

/* ---- corks: what one turn of a program has to say leaves in one write per connection --------------
 * A function that takes a cork leaves its bytes unsent when one is given; dyn_cork_flush() sends them. NULL:
 * send now. A cork belongs to one thread. */
DYN_API int dyn_cork_new(dyn_cork **out);
DYN_API void dyn_cork_free(dyn_cork *self); /* flushes; NULL is allowed */
DYN_API bool dyn_cork_dirty(const dyn_cork *self);
DYN_API void dyn_cork_flush(dyn_cork *self);

/* ---- the caller's side -------------------------------------------------------------------------- */
/* A pool of connections.  loop: a reference is kept.  options: borrowed, may be NULL.
 * errors  DYN_ENOMEM, DYN_EIO. */
DYN_API int dyn_pool_new(dyn_pool **out, dyn_loop *loop, const dyn_service_options *options);
DYN_API dyn_pool *dyn_pool_ref(dyn_pool *self);
/* Close all connections: calls that are under way end with DYN_ECANCELED, later ones are refused with
 * DYN_ECLOSED. Waits for the loop thread, so that no callback runs afterwards (called on the loop thread
 * itself: callbacks come before it returns). */
DYN_API void dyn_pool_close(dyn_pool *self);
DYN_API void dyn_pool_unref(dyn_pool *self); /* the last one closes; NULL is allowed */

typedef struct dyn_call_request {
    const char *address;     /* "host:port/path", zero-terminated */
    const dyn_pair *headers; /* header_count of them, at most DYN_WIRE_MAX_HEADERS */
    size_t header_count;
    dyn_slice payload;
    uint32_t deadline_ms; /* for the whole call, 0: none; kept to within 100 ms */
    uint32_t quiet_ms;    /* longest wait for an item while all that came is consumed; 0: any; within 100 ms */
    uint32_t window;      /* credit of this stream; 0: the pool's */
    bool manual_credit;   /* items count as consumed only when dyn_call_consumed() says so */
} dyn_call_request;

/* What happens to a call, on the loop thread. */
typedef struct dyn_call_events {
    /* An item. bytes: borrowed for the callback. */
    void (*on_item)(void *user, const uint8_t *bytes, size_t size);
    /* The end, exactly once, and nothing after it. rc is DYN_OK and failure NULL when the handler finished. */
    void (*on_end)(void *user, int rc, const dyn_failure *failure);
} dyn_call_events;

/* Start a call.
 * request  borrowed; its bytes are copied into what is sent.
 * out      receives a new reference, to be passed to dyn_call_unref(), or is NULL when the caller wants none.
 *          A callback may come before this returns.
 * errors   DYN_EINVAL (address, headers), DYN_ELIMIT (payload, streams), DYN_ECLOSED, DYN_ENOMEM: nothing
 *          was started. That nobody listens is no error here: the call ends with DYN_ECONN. */
DYN_API int dyn_call_start(dyn_pool *pool, const dyn_call_request *request, const dyn_call_events *events, void *user,
                           dyn_cork *cork, dyn_call **out);

enum dyn_call_mail_kind { DYN_CALL_ITEMS = 1, DYN_CALL_END = 2 };
/* The mail of a call that was started with a mailbox. */
typedef struct dyn_call_mail {
    dyn_mail mail;  /* owner: as given at the start */
    dyn_call *call; /* borrowed while the mail lives */
    int kind;
    dyn_slice items; /* DYN_CALL_ITEMS: take them with dyn_items_next() */
} dyn_call_mail;
/* The same with mails: items come as they were sent together, credit is always manual. Free a mail with
 * mail->drop(mail); what dyn_call_failure() says of an ended call lives as long as the call. */
DYN_API int dyn_call_start_mail(dyn_pool *pool, const dyn_call_request *request, dyn_mailbox *mailbox, void *owner,
                                void *user, dyn_cork *cork, dyn_call **out);
DYN_API void *dyn_call_user(const dyn_call *self);
/* For the thread that takes the mails. */
DYN_API void dyn_call_set_user(dyn_call *self, void *user);
/* How it ended. Only after on_end or its mail; failure->code is DYN_OK when it ended well. */
DYN_API const dyn_failure *dyn_call_failure(const dyn_call *self);

DYN_API dyn_call *dyn_call_ref(dyn_call *self);
DYN_API void dyn_call_unref(dyn_call *self); /* does not end the call; NULL is allowed */
/* Give back credit for `bytes` that were consumed, counted as the window counts them: dyn_items_cost() of each item,
 * or the items.size of a DYN_CALL_ITEMS mail. Who gives back less sees the stream stand still one day. */
DYN_API void dyn_call_consumed(dyn_call *self, size_t bytes, dyn_cork *cork);
DYN_API void dyn_call_stop(dyn_call *self, dyn_cork *cork); /* ask the handler to finish; items still come */
/* From now on it may take so long: then it is dropped, and its end comes with DYN_ETIMEDOUT. */
DYN_API void dyn_call_limit(dyn_call *self, uint32_t ms);
/* Drop it now: no more items, the end comes with DYN_ECANCELED, the handler is cancelled. */
DYN_API void dyn_call_kill(dyn_call *self, dyn_cork *cork);

typedef struct dyn_pool_stats {
    uint64_t calls, failed, bytes_in, bytes_out;
    uint32_t connections, inflight;
} dyn_pool_stats;
DYN_API void dyn_pool_get_stats(dyn_pool *self, dyn_pool_stats *out);

/* ---- the worker's side -------------------------------------------------------------------------- */
/* Listen.
 * host    an IP address to bind, zero-terminated ("127.0.0.1", "0.0.0.0", "::1").
 * port    0: any free one.
 * errors  DYN_EINVAL (not an address), DYN_EIO (in use, not allowed), DYN_ENOMEM. */
DYN_API int dyn_server_new(dyn_server **out, dyn_loop *loop, const char *host, uint16_t port,
                           const dyn_service_options *options);
DYN_API uint16_t dyn_server_port(const dyn_server *self);
/* Accept nothing more and tell callers to go elsewhere; what runs goes on. */
DYN_API void dyn_server_drain(dyn_server *self);
/* Close all; streams end as killed. Waits for the loop thread. Endpoints and streams that are still referred
 * to stay valid and refuse. NULL is allowed. */
DYN_API void dyn_server_free(dyn_server *self);

/* What happens to the streams of an endpoint, on the loop thread. */
typedef struct dyn_endpoint_events {
    /* A request. stream: a new reference. */
    void (*on_request)(void *user, dyn_stream *stream);
    /* Its state changed: see dyn_stream_state(). Not after dyn_stream_end() or _fail(). May be NULL. */
    void (*on_change)(void *user, dyn_stream *stream);
} dyn_endpoint_events;
/* Serve a path.
 * out     receives a new reference.
 * errors  DYN_EEXIST, DYN_EINVAL (empty or longer than 1024), DYN_ECLOSED, DYN_ENOMEM. */
DYN_API int dyn_server_serve(dyn_server *self, const char *path, const dyn_endpoint_events *events, void *user,
                             dyn_endpoint **out);
enum dyn_stream_mail_kind { DYN_STREAM_REQUEST = 1, DYN_STREAM_CHANGE = 2 };
typedef struct dyn_stream_mail {
    dyn_mail mail;      /* owner: as given to dyn_server_serve_mail() */
    dyn_stream *stream; /* REQUEST: a new reference, passed on with the mail. CHANGE: borrowed until drop */
    int kind;
} dyn_stream_mail;
/* The same with mails. A REQUEST mail that is dropped without being marked as taken (stream = NULL) refuses
 * the request. */
DYN_API int dyn_server_serve_mail(dyn_server *self, const char *path, dyn_mailbox *mailbox, void *owner,
                                  dyn_endpoint **out);
/* Serve it no more: new requests are refused with DYN_ENOENT; running ones go on. */
DYN_API void dyn_endpoint_stop(dyn_endpoint *self);
DYN_API void dyn_endpoint_unref(dyn_endpoint *self); /* NULL is allowed; stops it too */

typedef struct dyn_endpoint_stats {
    uint64_t requests; /* that were taken */
    uint64_t refused;  /* beyond max_requests */
    uint64_t failed, items, bytes_in, bytes_out;
    uint64_t duration_ns; /* sum over finished requests */
    uint32_t inflight;
} dyn_endpoint_stats;
DYN_API void dyn_endpoint_get_stats(const dyn_endpoint *self, dyn_endpoint_stats *out);
/* Called at each end of a request, on the thread that ended it; set before the first request. */
typedef void (*dyn_endpoint_hook)(void *user, int code, uint64_t duration_ns);
DYN_API void dyn_endpoint_set_hook(dyn_endpoint *self, dyn_endpoint_hook hook, void *user);

DYN_API dyn_stream *dyn_stream_ref(dyn_stream *self);
/* Give a reference back. A stream that nobody ended fails then: the handler went away. NULL is allowed. */
DYN_API void dyn_stream_unref(dyn_stream *self);
DYN_API dyn_slice dyn_stream_payload(const dyn_stream *self); /* borrowed while the stream lives */
DYN_API size_t dyn_stream_header_count(const dyn_stream *self);
DYN_API dyn_pair dyn_stream_header(const dyn_stream *self, size_t index);
DYN_API void *dyn_stream_user(const dyn_stream *self);          /* NULL at first */
DYN_API void dyn_stream_set_user(dyn_stream *self, void *user); /* for the thread that gets its events */

enum dyn_stream_state {
    DYN_STREAM_STOPPED = 1, /* the caller asked to finish soon */
    DYN_STREAM_KILLED = 2,  /* the caller left, or the connection broke: nothing more can be sent */
    DYN_STREAM_FULL = 4,    /* no credit: wait for a change before sending more */
};
DYN_API unsigned dyn_stream_state(const dyn_stream *self);
/* Send one item, or several in one frame.
 * result  0, or 1 when the item was taken but the window is full now: a change will be reported when there is
 *         room again. Who sends on regardless is refused after four windows.
 * errors  DYN_ECANCELED (killed), DYN_ECLOSED (ended), DYN_ELIMIT (larger than a frame), DYN_EOVERLOAD,
 *         DYN_ENOMEM. */
DYN_API int dyn_stream_send(dyn_stream *self, const void *item, size_t size, dyn_cork *cork);
/* items   a body made with dyn_items_add(), borrowed; count of its items. */
DYN_API int dyn_stream_send_items(dyn_stream *self, dyn_slice items, size_t count, dyn_cork *cork);
/* The last word. Later ones are refused with DYN_ECLOSED.  errors  DYN_ECLOSED, DYN_ECANCELED. */
DYN_API int dyn_stream_end(dyn_stream *self, dyn_cork *cork);
/* failure  borrowed; code DYN_EREMOTE for a handler's exception. Texts over 64 KiB are cut. */
DYN_API int dyn_stream_fail(dyn_stream *self, const dyn_failure *failure, dyn_cork *cork);

#ifdef __cplusplus
}
#endif
#endif
