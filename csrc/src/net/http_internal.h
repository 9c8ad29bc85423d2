/* http_internal.h -- the parts of the HTTP server and who owns what.
 *
 *   server --all--> conn --x--> exchange <--handles-- the route's handler, on any thread
 *                    |             |
 *              out, flight      pending   (bytes of the answer, under the exchange's lock)
 *
 *   states of a conn:  idle -> head -> body -> busy -> idle ...            busy: its exchange is with the route
 *                        any of them -> linger -> closed                   linger: answered, reading off what still
 *                        comes
 *   On a live route `body` and `busy` are one: busy, with conn->live as long as the body comes.
 *
 * I1  A conn has an exchange exactly in the states head, body and busy.
 * I2  exchange->conn is set and cleared on the loop thread, under exchange->lock; who holds the lock and sees it
 *     knows that the conn lives.
 * I3  At most one uv_write is under way on a conn (conn->writing); what gathers meanwhile is sent by the next one.
 * I4  exchange->refs counts the conn, the route's handles together, and a posted task. The memory goes with the last.
 * I5  The next request of a conn is parsed only after the answer to the one before is in the kernel or in conn->out.
 */
#ifndef DYN_NET_HTTP_INTERNAL_H
#define DYN_NET_HTTP_INTERNAL_H

#include <pthread.h>
#include <uv.h>

#include "common/common.h"
#include "dynamo/http.h"
#include "net/http_parse.h"

/* A growing run of bytes. */
typedef struct dyn__bytes {
    char *data;
    size_t length, room;
} dyn__bytes;
int dyn__bytes_need(dyn__bytes *self, size_t more);   /* room for `more` after length; DYN_ENOMEM */
void dyn__bytes_empty(dyn__bytes *self, size_t keep); /* length 0; the memory goes too when it is more than `keep` */
void dyn__bytes_free(dyn__bytes *self);
static inline void dyn__bytes_put(dyn__bytes *self, const void *data, size_t length) /* after need() */
{
    if (length == 0) return;
    memcpy(self->data + self->length, data, length);
    self->length += length;
}

typedef struct dyn__http_conn dyn__http_conn;

typedef struct dyn__http_route {
    char method[16];
    char *path;
    size_t path_length;
    unsigned flags;
    bool gone;     /* removed; lives while an exchange refers to it */
    uint32_t refs; /* loop thread only */
    dyn_http_handler handler;
    void *user;
    dyn_mailbox *box; /* or by mail */
    void *owner;
    dyn_mail *last; /* for the owner when the route goes */
    dyn_buf *body;  /* or a fixed answer */
    size_t body_length;
    int status;
    char *type;
    dyn_metrics *metrics; /* or a scrape */
} dyn__http_route;

struct dyn_http_server {
    atomic_size_t refs; /* the user, each conn, each open handle, each exchange */
    dyn_loop *loop;
    dyn_http_settings limits; /* no zeros any more; the two strings are ours */
    size_t api_key_length;
    /* loop thread only */
    dyn__http_conn *all, *dirty;
    dyn__http_route **routes;
    size_t route_count, route_room;
    struct dyn__http_listener *listeners;
    uv_timer_t sweep;
    uv_prepare_t before_poll;
    uv_check_t after_poll;
    bool handles_open;
    uint64_t stop_at_ns; /* 0: no deadline */
    void (*on_stopped)(void *user);
    void *on_stopped_user;
    uint64_t random[2];
    uint32_t lingering;
    char *read_space; /* READ_SPACE bytes, shared by all conns: it is empty between reads */
    /* any thread */
    atomic_bool stopping;
    atomic_size_t body_bytes;
    atomic_uint connections;
    _Atomic uint64_t accepted, refused, requests, answers[6], malformed, timed_out, cut, bytes_in, bytes_out,
        bad_handshakes;
    pthread_mutex_t date_lock;
    int64_t date_second;
    char date[32];
};
enum { DYN__HTTP_READ_SPACE = 64 * 1024, DYN__HTTP_STASH_MAX = 32 * 1024, DYN__HTTP_KEEP = 64 * 1024 };

/* The fields of a head, of a request or an answer: http_fields.c. Names in lower case. */
typedef struct dyn__http_field {
    uint32_t name, name_length, value, value_length; /* offsets into the arena */
} dyn__http_field;
typedef struct dyn__http_fields {
    dyn__bytes arena; /* what came before the first field, then names and values, each with a NUL */
    dyn__http_field *list;
    size_t count, room;
    bool in_name; /* the last piece was of a name */
    dyn__http_field list_inside[20];
    char arena_inside[1024]; /* so it may not be moved */
} dyn__http_fields;
void dyn__http_fields_init(dyn__http_fields *self);
void dyn__http_fields_reset(dyn__http_fields *self);
void dyn__http_fields_free(dyn__http_fields *self);
/* Pieces as the parser has them.  errors  DYN_ENOMEM, DYN_ELIMIT (over `most` fields), DYN_EPROTO (no name). */
int dyn__http_fields_text(dyn__http_fields *self, const char *data, size_t length); /* to the arena as it is */
int dyn__http_fields_name(dyn__http_fields *self, const char *data, size_t length, size_t most);
int dyn__http_fields_value(dyn__http_fields *self, const char *data, size_t length);
int dyn__http_fields_end(dyn__http_fields *self); /* the head is complete */
/* As dyn_http_header() and dyn_http_header_at() say. */
const char *dyn__http_fields_find(const dyn__http_fields *self, const char *name, size_t *length);
const char *dyn__http_fields_at(const dyn__http_fields *self, size_t n, size_t *name_length, const char **value,
                                size_t *value_length);

/* The body of an answer that lies in its owner's memory. */
typedef struct dyn__http_held {
    void (*release)(void *user);
    void *user;
    size_t count;
    uv_buf_t bufs[]; /* HELD_FRONT empty ones for what goes before it, then `count` */
} dyn__http_held;
enum { DYN__HTTP_HELD_FRONT = 2 };
void dyn__http_let_go(dyn__http_held *held); /* NULL is allowed */

struct dyn_http_exchange {
    atomic_size_t handles, refs;
    dyn_http_server *server; /* a reference */
    dyn_mail mail;           /* to the route */
    dyn_task task;           /* to the loop thread; posted when `posted` */

    /* the request; fixed once handed out */
    const char *method;
    uint32_t path, path_length, query, query_length;
    dyn_buf *body;
    size_t body_length, body_room;
    size_t body_charged; /* of server->body_bytes */
    dyn__http_route *route;
    uint64_t started_ns;
    char request_id[129];
    char peer[64];
    bool http_1_0, is_head, keep_alive;
    bool live;        /* of a live route: what follows, up to `stalled`, is under the lock */
    dyn__bytes inbox; /* [inbox_used, length) came and was not read */
    size_t inbox_used;
    int body_end;   /* 0: more may come; else what a read of an empty inbox gives */
    bool want_body; /* a read found nothing */
    bool stalled;   /* the inbox was full: the conn waits until it is read */

    /* the answer; under the lock */
    pthread_mutex_t lock;
    dyn__http_conn *conn;
    dyn__bytes extra;   /* fields that the route added, as lines */
    dyn__bytes pending; /* [0, raw) the header, the rest body */
    size_t raw;
    dyn__http_held *held; /* goes behind `pending`, until the conn takes it */
    size_t in_flight;     /* bytes in the conn's hands; `pending` of the public header is both */
    int status;
    bool begun, ended, aborted, chunked, no_body, close_after;
    bool closed; /* the client left, as far as we know */
    bool posted, want_drain, reserved;
    bool roomy; /* what is posted says that the inbox has room */
    dyn_mailbox *watch_box;
    dyn_mail watch_mail;
    atomic_uint watch_bits;

    /* loop thread only */
    const dyn_http_events *events;
    void *events_user;
    bool tail_sent;

    dyn__http_fields head; /* the url is in front of it */
};
enum { DYN__HTTP_WATCH_OFF = 1u << 30 };

struct dyn__http_conn {
    uv_tcp_t tcp;
    uv_write_t write;
    uv_shutdown_t shutdown;
    dyn_http_server *server; /* a reference */
    dyn__http_conn *next, *prev, *next_dirty;
    dyn_http_exchange *x; /* a reference */
    enum { DYN__IDLE, DYN__HEAD, DYN__BODY, DYN__BUSY, DYN__LINGER } state;
    dyn__http_parser parser;
    int gate;
    bool first, reading, writing, closing, dirty, consuming, eof, last_sent;
    bool last_answer; /* close when `out` is gone */
    bool discard;     /* the body is read off, not kept: the answer is known */
    int refusal;      /* that answer's status, when discard */
    size_t head_bytes;
    bool live;              /* busy, and the body still comes */
    uint64_t body_left;     /* Content-Length: still to come */
    uint64_t body_overhead; /* chunked: bytes that were not body */
    const char *chunks_at;  /* what the parser has now, and body_left when it got that */
    uint64_t chunks_body;
    bool body_chunked;
    uint64_t since_ns; /* when the state began; linger: ends */
    size_t stuck_at;   /* uv's queue size when the last sweep looked */
    uint64_t stuck_since_ns;
    dyn__bytes stash; /* read, not parsed yet */
    size_t stash_used;
    dyn__bytes out, out_flight, flight; /* whole answers and 100s; those in the kernel's queue; a taken `pending` */
    uv_buf_t own_bufs[8], *bufs;        /* what is being sent, out of these: [buf_at, buf_count) is left of it */
    size_t buf_at, buf_count;
    dyn__http_held *held; /* bufs are in it; released when they are sent */
    char chunk_head[24];
    dyn_tls *tls;      /* NULL: plain */
    bool shaken;       /* its handshake is over */
    dyn__bytes sealed; /* what TLS made of bufs; in the kernel's hands while `writing` */
    char peer[64];
};

/* http_exchange.c */
dyn_http_exchange *dyn__http_exchange_new(dyn_http_server *server); /* one reference; NULL: no memory */
void dyn__http_exchange_unref(dyn_http_exchange *self);             /* of I4, not a handle */
void dyn__http_tell_closed(dyn_http_exchange *self);
void dyn__http_tell_drain(dyn_http_exchange *self);
int dyn__http_inbox_put(dyn_http_exchange *self, const char *data, size_t length); /* live; DYN_ENOMEM */
bool dyn__http_inbox_full(dyn_http_exchange *self);                                /* then `stalled` is set */
void dyn__http_body_ends(dyn_http_exchange *self, int how);
/* Answer from inside, with no handle. */
int dyn__http_refuse(dyn_http_exchange *self, int status, const char *message);
/* http_conn.c; loop thread */
dyn__http_conn *dyn__http_conn_new(dyn_http_server *server);
void dyn__http_conn_accept(dyn_http_server *server, uv_stream_t *listener, bool *again);
void dyn__http_conn_pump(dyn__http_conn *self);
void dyn__http_conn_touch(dyn__http_conn *self); /* pump it at the end of this turn */
void dyn__http_conn_more(dyn__http_conn *self);  /* an inbox that was full has room */
void dyn__http_conn_close(dyn__http_conn *self);
void dyn__http_conn_sweep(dyn__http_conn *self, uint64_t now);
void dyn__http_conn_read(dyn__http_conn *self, const char *data, size_t length); /* as if it had come from the socket */
/* tls.c */
bool dyn__tls_is_server(const dyn_tls_context *self);
void dyn__tls_take(dyn_tls *self, dyn__bytes *out); /* what is pending, into *out, whose empty memory it gets */
/* http_head.c */
/* Look at a complete head: 0, or the status and message of a refusal. Sets the exchange's path, body, keep-alive;
 * *body: what follows. */
enum dyn__http_body { DYN__NO_BODY, DYN__SIZED, DYN__CHUNKED };
int dyn__http_check_head(dyn__http_conn *conn, enum dyn__http_body *body, uint64_t *size, bool *wants_100,
                         const char **message);
/* http_server.c */
void dyn__http_server_unref(dyn_http_server *server);
void dyn__http_server_conn_gone(dyn_http_server *server);
/* NULL when there is none; then `allow` (128 bytes) lists the methods that this path has. Borrowed. */
dyn__http_route *dyn__http_find(dyn_http_server *server, const char *method, const char *path, size_t length,
                                char *allow);
void dyn__http_route_unref(dyn__http_route *route);
void dyn__http_dispatch(dyn_http_exchange *x);
/* http_text.c */
void dyn__http_date(dyn_http_server *server, char out[30]);
size_t dyn__http_status_line(int status, const char **line); /* "HTTP/1.1 200 OK\r\n" */
int dyn__http_error_body(dyn__bytes *out, int status, const char *message, const char *type, const char *param,
                         const char *code);
bool dyn__http_key_matches(const char *given, size_t length, const char *key, size_t key_length);

#endif
