/* events/source.h -- inside events: one source of a subscriber. sub.c has the thread, source.c what a message means.
 *
 *            SUB socket (live)                 DEALER socket (replay)
 *                 |                                   |
 *        number == next: use it              number == next: use it
 *        number >  next: hold it, ask ------> from next - 1 on
 *        number <  next: seen, or restart    next - 1 differs from what we had: restart
 *                                            a snapshot: clear, rebuild; its number + 1 is next
 *
 * While a replay runs the SUB socket is not read: what is published meanwhile waits in its queue.
 *
 * I1  Batches are handed on in the order of their numbers, each once between two restarts.
 * I2  `held` is in use only while a replay runs.
 * I3  Everything belongs to the subscriber's thread, except what is atomic and, under the subscriber's lock,
 *     `leaving` and the list.
 */
#ifndef DYN_SRC_EVENTS_SOURCE_H
#define DYN_SRC_EVENTS_SOURCE_H

#include <stdatomic.h>
#include <zmq.h>

#include "events/plane.h"

enum { DYN__MAX_FRAMES = 6, DYN__MAX_RANKS = 1024 };

/* A message; live ones have 3 frames (engine) or 4 (plane). */
struct dyn__message {
    zmq_msg_t frame[DYN__MAX_FRAMES];
    int count; /* DYN__MAX_FRAMES + 1: there were more */
};
void dyn__message_init(struct dyn__message *self);
void dyn__message_close(struct dyn__message *self);
/* Receive one, without waiting. DYN_EAGAIN: none is there. */
int dyn__message_recv(struct dyn__message *self, void *socket);

struct dyn__rank {
    uint64_t worker;
    uint32_t rank;
};

struct dyn_event_source {
    dyn_event_source *next;
    void *live, *replay, *monitor; /* sockets; replay is NULL while none runs */
    dyn_event_source_options o;
    char *endpoint, *replay_endpoint, *topic; /* what o's texts point at */
    dyn_event_decoder *decoder;
    dyn_event scratch;

    bool known, live_known;
    uint64_t next_sequence, last_live;      /* to come; the last that came live */
    uint64_t publisher;                     /* PLANE */
    uint64_t last_hash;                     /* of the payload of next_sequence - 1 */
    double last_time;                       /* when that was published, by the publisher's clock */
    struct dyn__rank ranks[DYN__MAX_RANKS]; /* that have said something since the last clearing */
    unsigned rank_count;
    unsigned complaints, silences;

    struct dyn__message held;
    bool snapshot;        /* of the replay that runs: parts of one came, the batch that ends it did not yet */
    bool told;            /* of the replay that runs: it has brought a snapshot */
    unsigned asked_again; /* because the ring went on under a replay; 0 once one has ended well */
    bool holding, verify, verified,
        answered;          /* of the replay that runs; answered: a replay has brought something once */
    uint64_t replay_until; /* dyn_now_ns() when it is given up */
    uint64_t idle_since, added_at, connect_warned;
    bool fresh; /* no catch-up since the subscription stands */

    bool leaving, gone;
    atomic_uint_fast64_t expected_at; /* dyn_now_ns() of the first expectation that nothing answered, or 0 */
    /* what other threads may read */
    atomic_bool connected, silent, replaying, seen_any;
    atomic_uint_fast64_t a_next, batches, events, blocks, loads, gaps, lost, restarts, replays, replayed,
        replay_failures, snapshots, malformed, refused, other_tier, last_event_ns;
    atomic_uint_fast64_t decoder_stats[7];
};

#define DYN__ADD(counter, n) atomic_fetch_add_explicit(&(counter), (n), memory_order_relaxed)
#define DYN__SET(place, v) atomic_store_explicit(&(place), (v), memory_order_relaxed)
#define DYN__GET(place) atomic_load_explicit(&(place), memory_order_relaxed)

/* A live message; taken. */
void dyn__source_live(dyn_event_source *self, void *context, struct dyn__message *message);
/* A message of the replay that runs; taken. */
void dyn__source_replayed(dyn_event_source *self, void *context, struct dyn__message *message);
/* Ask for everything from the number that is due; quietly nothing without a replay endpoint. */
void dyn__source_ask(dyn_event_source *self, void *context);
void dyn__source_give_up(dyn_event_source *self, const char *why);
void dyn__source_free(dyn_event_source *self);

#endif
