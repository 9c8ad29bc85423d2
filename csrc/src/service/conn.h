/* service/conn.h -- one connection, from either end, and the plane that keeps a set of them.
 *
 *   any thread --lock, append--> out --flush--> send(2)         who appends to an idle connection sends
 *                                 |  would block
 *                                 +--visit--> loop thread waits for room and sends on
 *   loop thread: uv_poll readable --recv--> frames --> side->on_frame
 *
 * The lock of a connection also guards its streams (both sides). It is never held over a system call or a
 * callback. Order of locks: pool, then connection.
 */
#ifndef DYN_SRC_SERVICE_CONN_H
#define DYN_SRC_SERVICE_CONN_H

#include <pthread.h>
#include <uv.h>

#include "common/common.h"
#include "dynamo/service.h"
#include "service/ids.h"

typedef struct dyn__conn dyn__conn;
typedef struct dyn__plane dyn__plane;

enum dyn__conn_state {
    DYN__CONN_NEW,        /* the loop thread has not seen it yet */
    DYN__CONN_CONNECTING, /* also: resolving its name */
    DYN__CONN_OPEN,
    DYN__CONN_BROKEN, /* nothing more goes in or out; the loop thread will bury it */
    DYN__CONN_GONE,   /* buried */
};

/* What the two ends do differently. on_frame and on_lost run on the reading thread, on_gone on the loop thread. */
typedef struct dyn__side {
    int (*on_frame)(dyn__conn *conn, const dyn_frame *frame, dyn_cork *cork);  /* negative breaks the connection */
    void (*on_lost)(dyn__conn *conn, void *entry, int code, const char *text); /* an entry of ids, already taken out */
    void (*on_gone)(dyn__conn *conn);
    void (*on_tick)(dyn__conn *conn, uint64_t now_ns);
} dyn__side;

struct dyn__plane {
    atomic_size_t refs;
    dyn_loop *loop; /* a reference */
    dyn_service_options options;
    const dyn__side *side;
    void *owner;      /* the pool or server; valid until closed */
    dyn_cork *cork;   /* of the loop thread */
    uint8_t *scratch; /* what the loop thread receives into */
    uv_timer_t timer;
    uint64_t last_tick_ns;
    int handles;       /* open libuv handles of ours; loop thread */
    bool closing;      /* loop thread */
    uv_sem_t *closed;  /* whom to tell when handles is 0 */
    dyn__conn *conns;  /* doubly linked; loop thread */
    atomic_uint count; /* of conns */
    atomic_uint_fast64_t bytes_in, bytes_out;
};

struct dyn__conn {
    atomic_size_t refs;
    dyn__plane *plane; /* a reference */
    dyn_task visit;    /* "loop thread, look at me" */
    atomic_bool visiting;
    uv_poll_t poll;
    bool polling; /* poll is open; loop thread */
    int fd;       /* closed with the last reference, so that no number is used again under a sender */
    dyn__conn *next, *before;
    atomic_uint_fast64_t heard_ns; /* when the peer last said something */
    uint64_t pinged_ns, born_ns;
    char *address; /* client: "host:port"; NULL at a server */
    uv_getaddrinfo_t *resolving;
    bool greeted; /* its HELLO came; reading thread */
    dyn_bytes in; /* an incomplete frame; reading thread */

    pthread_mutex_t lock; /* guards all below */
    enum dyn__conn_state state;
    int why; /* code and text of BROKEN */
    char why_text[160];
    dyn_bytes out, sending; /* what waits; what a flush is at, from `sent` on */
    size_t sent;
    bool flushing, blocked;
    dyn_cork *cork;
    size_t peer_max_frame;
    dyn__ids ids;
    uint64_t next_id;
    bool leaving; /* GOAWAY: close when ids is empty */
};

int dyn__plane_new(dyn__plane **out, dyn_loop *loop, const dyn_service_options *options, const dyn__side *side,
                   void *owner);
dyn__plane *dyn__plane_ref(dyn__plane *self);
void dyn__plane_unref(dyn__plane *self);
/* Break all connections, close the timer; returns when the loop thread knows nothing of the plane any more
 * (on the loop thread itself: at once).  also: run there first. */
void dyn__plane_close(dyn__plane *self, void (*also)(void *owner));

/* A libuv handle of the plane was opened, was closed; loop thread. */
void dyn__handle_opened(dyn__plane *self);
void dyn__handle_closed(dyn__plane *self);

/* A connection of fd (taken), or one to address (copied) when fd is -1. One reference for the caller. */
int dyn__conn_new(dyn__conn **out, dyn__plane *plane, int fd, const char *address);
dyn__conn *dyn__conn_ref(dyn__conn *self);
void dyn__conn_unref(dyn__conn *self);
void dyn__conn_visit(dyn__conn *self); /* make the loop thread look at it */
void dyn__conn_lock(dyn__conn *self);
void dyn__conn_unlock(dyn__conn *self);
/* After something was appended to `out`: unlock, then send it or leave it to the cork. */
void dyn__conn_push(dyn__conn *self, dyn_cork *cork);
/* The rest of the conversation is off. Any thread, without the lock; the first reason stays. */
void dyn__conn_break(dyn__conn *self, int why, const char *text);

#endif
