/* router/router.h -- the inside of a router: who may touch what, and the parts that make it up.
 *
 *   dyn_router --- slots[]    one per (worker, rank): limits, load; found through `places` (worker, rank) -> slot
 *              |-- blocks     sequence hash -> which slots hold it, how often           (blocks.c)
 *              |-- entries[]  one per booked or waiting request; ticket = generation:index   (requests.c)
 *              |              linked oldest sign of life first, for expiry
 *              |-- heap[]     the waiting ones, first to go on top                      (queue.c)
 *              `-- scores[]   scratch of the pick that runs now, one per slot           (cost.c fills, choose.c reads)
 *
 * Everything behind `lock`, except `references`. Functions dyn__router_* expect the lock to be held.
 *
 * I1  a live slot's tokens, blocks, requests are the sums over the booked entries that point at it
 * I2  an entry is in the age list exactly when it is booked, in the heap exactly when it waits
 * I3  refs of (hash, slot) in `blocks` = how often booked entries of that slot name the hash
 * I4  bytes = sum of what every array and blob here has allocated
 */
#ifndef DYN_SRC_ROUTER_H
#define DYN_SRC_ROUTER_H

#include <pthread.h>

#include "common/common.h"
#include "dynamo/router.h"

#define NONE UINT32_MAX
#define DEFAULT_BATCH 8192 /* tokens per step of a worker that does not say */

struct slot {
    uint64_t worker;
    uint32_t rank;
    bool alive;
    enum dyn_router_worker_type type;
    double weight;
    uint64_t total_blocks, batch;
    char **taints; /* one allocation: pointers, then texts */
    size_t taint_count, taint_bytes;
    /* load, I1 */
    uint64_t tokens;       /* to prefill */
    uint64_t named_blocks; /* distinct hashes */
    double own_blocks;     /* blocks without a shared name, and output blocks by weight */
    uint32_t requests;
    uint64_t picks;
    /* what it says */
    uint64_t reported_ns; /* 0: nothing */
    uint64_t reported_blocks, reported_tokens, reported_used;
    uint64_t heard_ns;   /* 0: never */
    uint64_t avoid_ns;   /* calls to it fail: last resort until then */
    uint64_t unheard_ns; /* when the first unanswered pick went there; 0: none */
};

struct score {
    uint32_t overlap, host, disk;
    uint32_t held; /* blocks of the request that are active there */
    uint64_t tree;
    uint32_t requests; /* active there before this one */
    uint8_t verdict;
    uint64_t prefill_tokens;
    double prefill_blocks, decode_blocks, cost;
};

/* (worker, rank) -> slot; open addressing, linear probing, slot NONE is empty */
struct place {
    uint64_t worker;
    uint32_t rank, slot;
};

/* A hash with its first holder inline, further ones in `more`. slot NONE: empty cell. */
struct cell {
    uint64_t hash;
    uint32_t slot, refs, next, holders;
};
struct holder {
    uint32_t slot, refs, next;
};
struct blocks {
    struct cell *cells; /* room is 0 or a power of two; at most 11/16 full */
    size_t room, used;
    struct holder *more;
    uint32_t more_room, more_used, more_free; /* free list through next */
    size_t more_free_count;
    size_t pairs;    /* (hash, slot) */
    uint64_t secret; /* odd */
};

enum state { FREE, WAITING, BOOKED };
struct waiter;
struct entry {
    uint64_t *blocks; /* owned; NULL when the blocks have no shared names */
    uint32_t block_count;
    uint32_t slot; /* NONE: its worker is gone */
    uint32_t generation;
    uint32_t older, newer; /* age list; `newer` also links free entries */
    uint8_t state;
    uint64_t seen_ns;
    uint64_t prefill;     /* tokens that still count */
    double own_blocks;    /* what it added to its slot's own_blocks, output blocks apart */
    double output_blocks; /* the same for output */
    uint64_t tokens, output, expected;
    char *name; /* owned; NULL: none */
    uint32_t name_length;
    uint64_t name_hash;
    struct waiter *waiter;
};

struct waiter {
    struct waiter *next; /* of those whose turn came, after the lock */
    size_t bytes;
    uint32_t entry, place; /* its index in the heap */
    double key;
    uint64_t order;
    uint64_t ticket;
    int rc;
    dyn_router_choice choice;
    dyn_router_request request; /* everything it points to lies behind this structure */
};

enum { EARLY = 64 };

struct dyn_router {
    pthread_mutex_t lock;
    atomic_int references;
    dyn_router_config config;
    uint64_t random[4];
    size_t bytes;

    struct slot *slots;
    struct score *scores;                      /* as many as slots */
    uint32_t *eligible;                        /* as many as slots */
    uint32_t slot_room, slot_count, slot_used; /* used: high-water mark; holes are !alive */
    struct place *places;
    uint32_t place_room;
    uint32_t cursor; /* round robin */

    /* The last that were heard before they were in the table: events can be quicker than discovery. */
    struct early {
        uint64_t worker, heard_ns; /* heard_ns 0: nobody */
        uint32_t rank;
    } early[EARLY];
    uint32_t early_next;

    struct blocks blocks;

    struct entry *entries;
    uint32_t entry_room, entry_used, entry_free;
    uint32_t oldest, newest;
    uint32_t *names; /* name hash -> entry; open addressing */
    uint32_t name_room, name_used;
    size_t booked, waiting;

    struct waiter **heap;
    size_t heap_room;
    uint64_t order;
    uint64_t start_ns; /* for arrival times in the queue's keys */

    uint64_t picks, waits, expired, refused;
};

/* router.c */
int dyn__router_grow(dyn_router *self, void *array, size_t item, size_t have,
                     size_t want);                               /* array: address of the pointer */
void *dyn__router_take(dyn_router *self, size_t bytes, int *rc); /* NULL: *rc is DYN_ENOMEM or DYN_EOVERLOAD */
void dyn__router_give(dyn_router *self, void *memory, size_t bytes);
uint64_t dyn__router_now(dyn_router *self);

/* table.c */
uint32_t dyn__router_slot(const dyn_router *self, uint64_t worker, uint32_t rank);
bool dyn__router_busy(const dyn_router *self, const struct slot *slot, uint64_t now);
void dyn__router_free_table(dyn_router *self);

/* blocks.c */
int dyn__router_blocks_reserve(dyn_router *self, size_t count);                 /* then so many adds cannot fail */
bool dyn__router_blocks_add(dyn_router *self, uint64_t hash, uint32_t slot);    /* true: new for that slot */
bool dyn__router_blocks_remove(dyn_router *self, uint64_t hash, uint32_t slot); /* true: that was the last */
void dyn__router_blocks_held(dyn_router *self, const uint64_t *hashes, size_t count); /* sets scores[].held */

/* requests.c */
struct entry *dyn__router_entry(dyn_router *self, uint64_t ticket); /* NULL: none */
uint64_t dyn__router_ticket_of(const dyn_router *self, uint32_t entry);
int dyn__router_entry_new(dyn_router *self, const char *name, size_t length, uint32_t *out);
void dyn__router_entry_drop(dyn_router *self, uint32_t entry); /* unbooks it if it is booked; not for waiting ones */
int dyn__router_book(dyn_router *self, uint32_t entry, uint32_t slot, const dyn_router_request *request,
                     uint32_t overlap, uint64_t now);
void dyn__router_orphan(dyn_router *self, uint32_t slot); /* the slot's bookings lose it */
size_t dyn__router_expire_now(dyn_router *self, uint64_t now);
uint32_t dyn__router_find_name(const dyn_router *self, const char *name, size_t length);
void dyn__router_free_requests(dyn_router *self);

/* cost.c, choose.c */
struct weights { /* the configuration with one request's overrides */
    double weight, credit, prefill_scale, temperature, shared;
    bool reuse, track_prefill;
};
struct weights dyn__router_weights(const dyn_router_config *config, const dyn_router_override *override);
/* Fill scores[] of all live slots: overlap, held, verdict. Returns how many are eligible; lists them. */
uint32_t dyn__router_prepare(dyn_router *self, const dyn_router_request *request, uint64_t now, bool *all_busy);
void dyn__router_score(dyn_router *self, const dyn_router_request *request, const uint32_t *slots, uint32_t count);
uint32_t dyn__router_choose(dyn_router *self, const dyn_router_request *request, const uint32_t *slots, uint32_t count);
double dyn__router_uniform(dyn_router *self);                 /* [0, 1) */
uint32_t dyn__router_below(dyn_router *self, uint32_t bound); /* [0, bound) */

/* pick.c */
int dyn__router_place(dyn_router *self, const dyn_router_request *request, uint64_t now, uint32_t *entry,
                      dyn_router_choice *choice); /* prepare, score, choose, book; DYN_EAGAIN: has to wait */

/* queue.c */
int dyn__router_wait(dyn_router *self, const dyn_router_request *request, uint32_t entry, uint64_t now);
struct waiter *dyn__router_leave(dyn_router *self, uint32_t entry, int rc); /* out of the heap; entry dropped */
struct waiter *dyn__router_drain(dyn_router *self, uint64_t now);           /* those whose turn came */
void dyn__router_finish(struct waiter *done);                               /* without the lock: call ready, free */

#endif
