/* mocker.h -- an engine without a model: it schedules, caches and evicts like a real one, on any clock.
 *
 *   submit --> [ waiting, FIFO ] --admit--> [ running: prefill in chunks, then one token a step ] --> finished
 *                     ^                            |  no block left: preempt one, back to the front
 *                     +----------------------------+
 *   block pool:   active (counted references)  <--hit--  inactive (cached, LRU)  --evict--> free
 *
 * A step is one iteration of the batch. It returns how long a real engine would have taken, in milliseconds by
 * the timing formulas, and does not sleep: who calls it sleeps, or moves a virtual clock.
 *
 * Units    sizes count tokens or blocks; times are milliseconds.
 * Tokens   every next token is a function of all tokens before it, so a request that goes on elsewhere with its
 *          tokens so far produces the same rest.
 * Events   stored and removed tell exactly what the pool holds: after any call, the blocks told as stored and not
 *          removed are the ones a request would find.
 * Threads  one thread at a time. dyn_mocker_engine (below) adds a thread, a lock and real time.
 * Source   timing formulas: polynomial fits that NVIDIA Dynamo published with its mocker (2025, 2026).
 */
#ifndef DYNAMO_MOCKER_H
#define DYNAMO_MOCKER_H

#include "dynamo/common.h"
#include "dynamo/mailbox.h"

#ifdef __cplusplus
extern "C" {
#endif

enum dyn_mocker_timing {
    DYN_MOCKER_2025, /* prefill 1.25e-6 n^2 + 7.41e-2 n + 26.2;     decode -5.47 p^2 + 43.88 p + 19.44 */
    DYN_MOCKER_2026, /* prefill 4.21e-7 n^2 + 1.518e-2 n + 16.50;   decode -25.74 p^2 + 54.01 p + 5.74 */
};
enum dyn_mocker_preemption { DYN_MOCKER_NEWEST, DYN_MOCKER_OLDEST };

typedef struct dyn_mocker_config {
    size_t blocks;             /* of the pool; 16384 */
    size_t block_size;         /* tokens; 64 */
    size_t max_sequences;      /* running at once; 256 */
    size_t max_batched_tokens; /* of one step; 8192 */
    size_t max_waiting;        /* beyond it submit answers DYN_EOVERLOAD; 65536 */
    bool prefix_caching;       /* true */
    bool chunked_prefill;      /* true: a prompt may be spread over steps */
    double watermark;          /* share of the pool that admission leaves free; 0.01 */
    enum dyn_mocker_timing timing;
    enum dyn_mocker_preemption preemption;
    uint32_t token_low, token_high; /* generated ids lie in [low, high); 1000, 32000 */
} dyn_mocker_config;
/* The defaults named above. */
DYN_API void dyn_mocker_config_init(dyn_mocker_config *config);

/* What one step gives one request. */
typedef struct dyn_mocker_token {
    uint64_t request;
    uint32_t token;
    uint32_t index;       /* 0 for the first token of this submission */
    size_t cached_tokens; /* of the prompt, found in the pool at admission */
    bool finished;        /* the last one: the request is gone */
} dyn_mocker_token;

/* Where a step tells what happened. Called inside submit, cancel, step and free, on their thread. Members may be NULL. */
typedef struct dyn_mocker_sink {
    void *user;
    void (*token)(void *user, const dyn_mocker_token *token);
    /* Blocks that follow `parent` (NULL: the start of a sequence), oldest first; all borrowed. */
    void (*stored)(void *user, const uint64_t *parent, const uint64_t *sequence_hashes, const uint64_t *local_hashes,
                   size_t count);
    void (*removed)(void *user, const uint64_t *sequence_hashes, size_t count);
    /* The prompt of a request is about to be computed: how many of its tokens were cached. */
    void (*admitted)(void *user, uint64_t request, size_t cached_tokens, size_t new_tokens);
} dyn_mocker_sink;

typedef struct dyn_mocker_stats {
    size_t waiting, running;
    size_t active_blocks, inactive_blocks, total_blocks;
    uint64_t steps, preemptions, evicted_blocks, finished, cancelled;
    uint64_t prompt_tokens, cached_tokens, prefilled_tokens, generated_tokens;
} dyn_mocker_stats;

typedef struct dyn_mocker dyn_mocker;
/* Make an engine with an empty pool.
 * config, sink  copied.
 * errors        DYN_EINVAL names the value that cannot be; DYN_ENOMEM. */
DYN_API int dyn_mocker_new(dyn_mocker **out, const dyn_mocker_config *config, const dyn_mocker_sink *sink);
DYN_API void dyn_mocker_free(dyn_mocker *self); /* NULL is allowed */
/* Hand in a request; it waits until a step admits it.
 * request   an id that no unfinished request has.
 * tokens    count ids, copied.
 * output    how many tokens to generate, 1 or more.
 * errors    DYN_EINVAL (nothing to compute, or more than the pool can ever hold), DYN_EEXIST, DYN_EOVERLOAD, DYN_ENOMEM. */
DYN_API int dyn_mocker_submit(dyn_mocker *self, uint64_t request, const uint32_t *tokens, size_t count, size_t output);
/* Drop a request wherever it is; its cached blocks stay.
 * errors  DYN_ENOENT. */
DYN_API int dyn_mocker_cancel(dyn_mocker *self, uint64_t request);
/* One iteration.
 * duration_ms  receives how long it takes; 0 when there is nothing to do.
 * errors       DYN_ENOMEM: the step may be repeated. */
DYN_API int dyn_mocker_step(dyn_mocker *self, double *duration_ms);
DYN_API bool dyn_mocker_idle(const dyn_mocker *self); /* nothing waits, nothing runs */
/* Forget what is cached and not in use; tells it as removed. */
DYN_API void dyn_mocker_clear(dyn_mocker *self);
DYN_API void dyn_mocker_get_stats(const dyn_mocker *self, dyn_mocker_stats *out);
DYN_API size_t dyn_mocker_bytes(const dyn_mocker *self); /* memory in use */
/* The formulas alone. */
DYN_API double dyn_mocker_prefill_ms(enum dyn_mocker_timing timing, size_t new_tokens);
DYN_API double dyn_mocker_decode_ms(enum dyn_mocker_timing timing, double active_fraction);

/* ---- in real time -------------------------------------------------------------------------------
 * A thread of its own steps a mocker and sleeps as long as each step takes, divided by the speed-up. What a step
 * gave leaves together at its end: one mail with the tokens of all requests.
 * Threads  every call below may be made from any thread.
 */
typedef struct dyn_mocker_mail {
    dyn_mail mail; /* owner: as given to dyn_mocker_engine_new; drop frees it */
    size_t count;
    dyn_mocker_token tokens[];
} dyn_mocker_mail;

typedef struct dyn_mocker_engine dyn_mocker_engine;
/* Start the thread.
 * speedup  how many times faster than the formulas; 0: as fast as it computes.
 * events   stored and removed are called on the engine's thread (its other members are not used); copied; may be NULL.
 * box      receives the mails; a reference is kept.
 * errors   as dyn_mocker_new(); DYN_EIO when no thread could start. */
DYN_API int dyn_mocker_engine_new(dyn_mocker_engine **out, const dyn_mocker_config *config, double speedup,
                                  const dyn_mocker_sink *events, dyn_mailbox *box, void *owner);
/* Stop and join the thread; nothing is mailed or told afterwards. NULL is allowed. */
DYN_API void dyn_mocker_engine_free(dyn_mocker_engine *self);
/* As the functions of the same name without "engine". */
DYN_API int dyn_mocker_engine_submit(dyn_mocker_engine *self, uint64_t request, const uint32_t *tokens, size_t count,
                                     size_t output);
DYN_API int dyn_mocker_engine_cancel(dyn_mocker_engine *self, uint64_t request);
DYN_API void dyn_mocker_engine_clear(dyn_mocker_engine *self);
DYN_API void dyn_mocker_engine_get_stats(dyn_mocker_engine *self, dyn_mocker_stats *out);

#ifdef __cplusplus
}
#endif
#endif
