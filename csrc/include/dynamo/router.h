/* router.h -- which worker gets a request: one table of workers and their load, one call that picks and books.
 *
 *   request --> eligible workers --> cost of each --> the cheapest (or sampled) --> booked on it, same lock
 *                    ^                   ^                                              |
 *               limits, taints,     overlap from the index,                             v
 *               busy thresholds     load of what was booked  <----- prefill_done, output, free
 *
 * The router knows neither the index nor the network: the caller brings what each worker holds of the prompt
 * ("overlap") and says when a prefill is done and when a request is over. A booking counts from the moment of
 * the pick, so that a burst does not run to one worker between two reports.
 *
 * Units    blocks are complete blocks of block_size tokens; times are seconds, on the clock of the configuration.
 * Ids      a worker is (worker, rank). A booked or waiting request is a ticket, a u64 that is never 0 and
 *          not given twice; it may also carry a text name (dyn_router_ticket() finds it).
 * Errors   DYN_OK or a negative code, with a sentence in dyn_error_detail(); a call that fails changes nothing.
 * Threads  every call may come from any thread; each takes the router's one lock for about a microsecond. No
 *          call waits for anything else, and `ready` is called with no lock held.
 * Bound    max_requests booked and waiting requests, max_bytes of memory; past either: DYN_EOVERLOAD.
 */
#ifndef DYNAMO_ROUTER_H
#define DYNAMO_ROUTER_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_router dyn_router;

#define DYN_ROUTER_ANY_RANK UINT32_MAX
#define DYN_ROUTER_MAX_NAME 1024 /* bytes of a request's name */

enum dyn_router_policy {
    DYN_ROUTER_KV,           /* by cost: what is cached there, and how much is to do there */
    DYN_ROUTER_ROUND_ROBIN,  /* the next in the table */
    DYN_ROUTER_RANDOM,       /* any */
    DYN_ROUTER_TWO_CHOICES,  /* the one of two random ones with fewer requests per weight */
    DYN_ROUTER_LEAST_LOADED, /* the one with the fewest requests per weight */
    DYN_ROUTER_DIRECT,       /* only where the request is pinned to */
};
enum dyn_router_formula {
    /* prefill_load_scale * max(0, (active tokens + isl) / block_size - credit)
     *   + decode blocks + decode_active_request_weight * active requests                  (Dynamo 1.x)
     * Without track_prefill_tokens there is no prefill part, and the credit comes off the decode blocks. */
    DYN_ROUTER_COST_CREDIT,
    /* overlap_score_weight * (active tokens + isl - overlap * block_size) / block_size
     *   + decode blocks                                                                   (Dynamo 0.x) */
    DYN_ROUTER_COST_WEIGHT,
    /* max(0, (active tokens + isl) / block_size - credit) * (decode blocks + 1)           (Dynamo 1.x "lmetric") */
    DYN_ROUTER_COST_PRODUCT,
    /* What the function `cost` of the configuration says. */
    DYN_ROUTER_COST_CUSTOM,
};
/* What a cost function knows of one worker and one request. It grows at its end only. */
typedef struct dyn_router_cost_input {
    uint32_t size; /* of this structure, bytes */
    uint32_t block_size;
    uint64_t worker;
    uint32_t rank;
    uint32_t overlap_blocks, host_blocks, disk_blocks; /* of the request, held there */
    uint64_t tokens, blocks;                           /* of the request */
    uint64_t waiting_tokens;                           /* to prefill there, without this request */
    uint64_t prefill_tokens;                           /* and with it, less what is held */
    double decode_blocks;                              /* that it would hold */
    uint32_t requests;                                 /* active there */
    uint64_t total_kv_blocks;                          /* 0: unknown */
    double weight;                                     /* its capacity relative to others */
} dyn_router_cost_input;
/* Lower is better; what is not a number counts as the worst. Called under the router's lock, from any thread: quick, and
 * without calls into the router. */
typedef double (*dyn_router_cost)(void *user, const dyn_router_cost_input *input);
enum dyn_router_tie {
    DYN_ROUTER_TIE_RANDOM,        /* uniform among equals */
    DYN_ROUTER_TIE_SMALLEST_TREE, /* the fewest indexed blocks, then uniform (Dynamo 0.8) */
};
enum dyn_router_queue_policy {
    DYN_ROUTER_FCFS, /* first come first served; priority_jump moves a request forward by so many seconds */
    DYN_ROUTER_LCFS, /* last come first served */
    DYN_ROUTER_WSPT, /* weighted shortest prefill first: (1 + priority_jump) / uncached tokens */
};
enum dyn_router_worker_type { DYN_ROUTER_AGGREGATED, DYN_ROUTER_PREFILL, DYN_ROUTER_DECODE, DYN_ROUTER_ENCODE };

typedef struct dyn_router_config {
    uint32_t block_size;
    enum dyn_router_policy policy;
    enum dyn_router_formula formula;
    enum dyn_router_tie tie;
    /* Weights of the formulas. credit = overlap_score_credit * decay * device + host_cache_hit_weight * host
     * + disk_cache_hit_weight * disk + shared_cache_multiplier * shared blocks beyond device, where
     * decay = 1 / (1 + overlap_score_credit_decay * (active tokens - the least of all) / block_size / blocks asked). */
    double overlap_score_weight;
    double overlap_score_credit, overlap_score_credit_decay; /* credit 0: overlaps are not looked at */
    double prefill_load_scale, decode_active_request_weight;
    double host_cache_hit_weight, disk_cache_hit_weight, shared_cache_multiplier;
    double temperature; /* 0: the cheapest; else sampled by softmax(-(cost / (max - min)) / temperature) */
    /* Bookkeeping. */
    bool track_active_blocks;  /* count the blocks that running requests hold */
    bool track_prefill_tokens; /* count tokens that wait for their prefill */
    bool track_output_blocks;  /* dyn_router_output() adds blocks */
    bool assume_kv_reuse;      /* equal blocks on one worker count once; false: each request has its own */
    double expiry_seconds;     /* a booking without a sign of life for so long is dropped; 0: never */
    /* Waiting: hold a request while every eligible worker has more than queue_threshold * max_num_batched_tokens
     * tokens to prefill; negative: no queue. */
    double queue_threshold;
    enum dyn_router_queue_policy queue_policy;
    /* Busy: a worker strictly over one of these is not eligible; negative: no such bound. */
    double busy_decode_blocks;    /* fraction of total_kv_blocks */
    double busy_prefill_tokens;   /* tokens */
    double busy_prefill_fraction; /* fraction of max_num_batched_tokens */
    double report_seconds;        /* a worker's own report counts for so long */
    double silent_seconds;        /* a worker that got uncached blocks and published no event for so long is "silent";
                                  * 0: nobody expects events */
    size_t max_requests;          /* booked and waiting */
    size_t max_bytes;             /* memory of everything here; 0: no bound */
    uint64_t seed;                /* of the random choices; 0: from the clock */
    uint64_t (*clock)(void *clock_user); /* nanoseconds; NULL: dyn_now_ns(). Called under the lock. */
    void *clock_user;
    dyn_router_cost cost; /* with DYN_ROUTER_COST_CUSTOM */
    void *cost_user;
} dyn_router_config;

/* The defaults: kv, credit formula, weights 1, temperature 0, random ties, everything tracked except output blocks,
 * no queue, no busy bound, expiry 300 s, silent after 60 s, 100,000 requests, 1 GiB. */
DYN_API void dyn_router_config_init(dyn_router_config *config, uint32_t block_size);

/* Make a router with one reference.
 * config  borrowed for the call.
 * errors  DYN_EINVAL (a value that makes no sense, named), DYN_ENOMEM. */
DYN_API int dyn_router_new(dyn_router **out, const dyn_router_config *config);
DYN_API dyn_router *dyn_router_ref(dyn_router *self);
/* Give a reference back. The last one frees; requests that still wait get ready(DYN_ESHUTDOWN). NULL is allowed. */
DYN_API void dyn_router_unref(dyn_router *self);
/* Change weights, temperature, thresholds and bounds; block_size, clock and seed stay as they were.
 * errors  DYN_EINVAL. */
DYN_API int dyn_router_configure(dyn_router *self, const dyn_router_config *config);
DYN_API void dyn_router_get_config(dyn_router *self, dyn_router_config *out);

/* ---- workers --------------------------------------------------------------------------------------------------- */
typedef struct dyn_router_worker {
    uint64_t worker;
    uint32_t rank;
    enum dyn_router_worker_type type;
    uint64_t total_kv_blocks;        /* 0: unknown, no busy bound on blocks */
    uint64_t max_num_batched_tokens; /* 0: unknown, 8192 is assumed */
    double weight;                   /* capacity relative to others; 0 means 1 */
    const char *const *taints;       /* labels, borrowed for the call */
    size_t taint_count;
} dyn_router_worker;

/* Add a worker, or change the limits of one that is there (its bookings stay).
 * errors  DYN_EINVAL (rank DYN_ROUTER_ANY_RANK), DYN_ENOMEM, DYN_EOVERLOAD (max_bytes). */
DYN_API int dyn_router_put_worker(dyn_router *self, const dyn_router_worker *worker);
/* Take a worker out; rank DYN_ROUTER_ANY_RANK: all its ranks. Its bookings stop counting, their tickets stay good.
 * errors  DYN_ENOENT. */
DYN_API int dyn_router_remove_worker(dyn_router *self, uint64_t worker, uint32_t rank);
/* What the worker says about itself; UINT64_MAX: says nothing about that. Used by the busy bounds, beside what
 * is booked here (the larger one counts), for report_seconds.
 * errors  DYN_ENOENT. */
DYN_API int dyn_router_report(dyn_router *self, uint64_t worker, uint32_t rank, uint64_t active_decode_blocks,
                              uint64_t active_prefill_tokens, uint64_t kv_used_blocks);
/* Calls to that worker fail: for so long it gets requests only when nobody else is eligible. 0 seconds: it is well again.
 * rank    DYN_ROUTER_ANY_RANK: all its ranks.
 * errors  DYN_ENOENT. */
DYN_API int dyn_router_avoid(dyn_router *self, uint64_t worker, uint32_t rank, double seconds);
/* An event about cached blocks came from that worker: it is not silent. Of workers that are not
 * in the table yet the last 64 are remembered until they are. */
DYN_API void dyn_router_heard(dyn_router *self, uint64_t worker, uint32_t rank);

/* ---- requests -------------------------------------------------------------------------------------------------- */
/* What one worker holds of the prompt. The same members in the same order as index.h's dyn_overlap: what a find gave
 * can be passed on as it is. */
typedef struct dyn_router_held {
    uint64_t worker;
    uint32_t rank;
    uint32_t blocks; /* leading blocks, on the device */
    uint64_t tree;   /* all blocks that it holds, for DYN_ROUTER_TIE_SMALLEST_TREE */
} dyn_router_held;
/* What the workers hold. Those that are not listed hold nothing; rows of unknown workers are skipped. Borrowed. */
typedef struct dyn_router_overlap {
    size_t count;
    const dyn_router_held *rows;
    const uint32_t *host; /* for each row: blocks in host memory beyond the device's; NULL: none */
    const uint32_t *disk; /* for each row: blocks on disk beyond these; NULL: none */
    uint32_t shared;      /* leading blocks in a cache that all workers share */
} dyn_router_overlap;

/* What one request has otherwise than the configuration; `set` says which. */
enum {
    DYN_ROUTER_SET_WEIGHT = 1, /* overlap_score_weight; also prefill_load_scale, and 0 takes the credit away */
    DYN_ROUTER_SET_CREDIT = 2,
    DYN_ROUTER_SET_PREFILL_SCALE = 4,
    DYN_ROUTER_SET_TEMPERATURE = 8,
    DYN_ROUTER_SET_SHARED = 16,
    DYN_ROUTER_SET_KV_REUSE = 32,
    DYN_ROUTER_SET_TRACK_PREFILL = 64,
};
typedef struct dyn_router_override {
    uint32_t set;
    double overlap_score_weight, overlap_score_credit, prefill_load_scale, temperature, shared_cache_multiplier;
    bool assume_kv_reuse, track_prefill_tokens;
} dyn_router_override;

typedef struct dyn_router_choice {
    uint64_t worker;
    uint32_t rank;
    uint32_t overlap_blocks;  /* on the device of the chosen worker */
    uint32_t required_blocks; /* ceil(tokens / block_size) */
    uint32_t eligible;        /* how many workers the choice was among */
    double cost;              /* by the formula, also under the policies that do not look at it */
    uint64_t ticket;          /* 0 when nothing was booked */
} dyn_router_choice;

/* A request. Zero means "no" everywhere, so = {0} and three or four members make a plain one.
 * Everything is borrowed for the call; what has to wait is copied. */
typedef struct dyn_router_request {
    bool book;        /* false: only ask where it would go */
    const char *name; /* optional; unique among booked and waiting requests */
    size_t name_length;
    uint64_t tokens;          /* length of the prompt */
    const uint64_t *sequence; /* sequence hashes of its complete blocks from the first on (dyn_hash_chain()), each
                               * naming its whole prefix; NULL: the blocks are its own */
    size_t blocks;
    dyn_router_overlap overlap;
    dyn_router_override override;
    uint64_t expected_output; /* tokens, 0: unknown. The nearer the end, the less its output blocks weigh. */
    /* Who may serve it. */
    bool pinned; /* only `worker`, and only `rank` unless that is DYN_ROUTER_ANY_RANK */
    uint64_t worker;
    uint32_t rank;
    uint32_t rank_start, rank_count; /* ranks [start, start + count); count 0: all */
    bool only_allowed;               /* only the workers in `allowed` */
    const uint64_t *allowed;
    size_t allowed_count;
    const char *const *required_taints; /* the worker has them all */
    size_t required_taint_count;
    const char *const *preferred_taints; /* cost is multiplied by exp(-tanh(sum of the weights that match)) */
    const double *preferred_weights;
    size_t preferred_taint_count;
    bool ignore_busy; /* neither busy bounds nor the queue apply */
    /* Waiting, when there is a queue. `ready` is called once, on whichever thread made room, with no lock held:
     * with DYN_OK and the choice, or DYN_ECANCELED (freed), DYN_EUNAVAIL (no worker is left), DYN_ENOMEM,
     * DYN_ESHUTDOWN. NULL: the request does not wait but goes to the best of the loaded workers. */
    void (*ready)(void *user, int rc, const dyn_router_choice *choice);
    void *user;
    int32_t strict_priority; /* higher goes first whatever the policy says */
    double priority_jump;
} dyn_router_request;

/* Why a worker was or was not chosen: one row for each worker in the table. */
enum dyn_router_verdict {
    DYN_ROUTER_ELIGIBLE,
    DYN_ROUTER_NOT_ALLOWED, /* pinned elsewhere, not in `allowed`, rank out of range */
    DYN_ROUTER_TAINTED,     /* lacks a required taint */
    DYN_ROUTER_BUSY,
    DYN_ROUTER_AVOIDED, /* dyn_router_avoid(), and somebody else is eligible */
};
typedef struct dyn_router_reason {
    uint64_t worker;
    uint32_t rank;
    enum dyn_router_verdict verdict;
    bool chosen;
    uint32_t overlap_blocks;
    uint32_t active_requests;
    uint64_t prefill_tokens; /* waiting for prefill if the request goes there: what is cached does not count */
    double prefill_blocks;   /* the prefill part of the cost before its weight */
    double decode_blocks;    /* blocks held if the request goes there */
    double cost;
} dyn_router_reason;

/* Pick a worker and book the request on it, in one step.
 * choice   receives the decision. When the request has to wait: only `ticket`, for dyn_router_free().
 * reasons  room for `room` rows, or NULL; *count receives how many were written. At least
 *          dyn_router_worker_count() rows show everything.
 * errors   DYN_EAGAIN: waits, `ready` will be called. DYN_EUNAVAIL: no worker may serve it. DYN_EOVERLOAD: all that
 *          may are busy, or max_requests, or max_bytes. DYN_EEXIST: the name is booked. DYN_EINVAL. DYN_ENOMEM. */
DYN_API int dyn_router_pick(dyn_router *self, const dyn_router_request *request, dyn_router_choice *choice,
                            dyn_router_reason *reasons, size_t room, size_t *count);
/* The same rows without a choice: what each worker's load would be. Ignores busy bounds in the figures. */
DYN_API int dyn_router_explain(dyn_router *self, const dyn_router_request *request, dyn_router_reason *reasons,
                               size_t room, size_t *count);
/* The ticket of a name; 0 when it is neither booked nor waiting. */
DYN_API uint64_t dyn_router_ticket(dyn_router *self, const char *name, size_t length);
/* The first token came: its prompt is no longer to be prefilled. A second call does nothing.
 * errors  DYN_ENOENT (freed or expired). */
DYN_API int dyn_router_prefill_done(dyn_router *self, uint64_t ticket);
/* So many more tokens were generated. A sign of life; adds blocks when output blocks are tracked.
 * errors  DYN_ENOENT. */
DYN_API int dyn_router_output(dyn_router *self, uint64_t ticket, uint64_t tokens);
/* The request is over, or the waiting one is given up (its `ready` gets DYN_ECANCELED). Implies prefill_done.
 * errors  DYN_ENOENT: harmless, so it may be called again. */
DYN_API int dyn_router_free(dyn_router *self, uint64_t ticket);
/* Drop what has expired now; picks do that by themselves. Returns how many. */
DYN_API size_t dyn_router_expire(dyn_router *self);

/* ---- looking in ------------------------------------------------------------------------------------------------ */
typedef struct dyn_router_load {
    uint64_t worker;
    uint32_t rank;
    enum dyn_router_worker_type type;
    uint64_t total_kv_blocks, max_num_batched_tokens;
    uint32_t active_requests;
    uint64_t active_prefill_tokens;
    double active_decode_blocks;
    uint64_t picks; /* requests sent there since the worker was added */
    uint64_t reported_decode_blocks, reported_prefill_tokens, reported_kv_used_blocks; /* UINT64_MAX: not said */
    double seconds_since_event;                                                        /* negative: none yet */
    bool busy;
    bool avoided;
    bool silent; /* requests go there, and events about them do not come */
} dyn_router_load;
DYN_API size_t dyn_router_worker_count(dyn_router *self);
/* Copy up to `room` rows; returns how many workers there are. */
DYN_API size_t dyn_router_loads(dyn_router *self, dyn_router_load *rows, size_t room);

typedef struct dyn_router_stats {
    size_t workers, booked, waiting;
    size_t blocks;                           /* distinct (worker, block) pairs that are held by name */
    size_t bytes;                            /* exactly what is allocated now */
    uint64_t picks, waits, expired, refused; /* since the router was made */
} dyn_router_stats;
DYN_API void dyn_router_get_stats(dyn_router *self, dyn_router_stats *out);

#ifdef __cplusplus
}
#endif
#endif
