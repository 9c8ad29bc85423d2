/* replay.h -- a recorded trace through a router and simulated workers, on a clock of its own (area mocker).
 *
 *   arrivals --> hash, find, pick, book --> mocker of that worker --step ends--> first token, tokens, end
 *                        ^                            |
 *                        +-------- stored, removed ---+        time jumps from one event to the next
 *
 * Units    milliseconds of simulated time; tokens; blocks of the trace (trace_block tokens) and of the engine.
 * Threads  one replay on one thread; several replays may run at once.
 */
#ifndef DYNAMO_REPLAY_H
#define DYNAMO_REPLAY_H

#include "dynamo/mocker.h"
#include "dynamo/router.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A trace as columns, all borrowed. Request i has the trace blocks ids[first[i]] .. ids[first[i + 1]]. Equal ids in equal
 * places mean equal tokens: block `id` holds the token `id` over and over. */
typedef struct dyn_replay_trace {
    size_t count;
    const double *arrival_ms; /* not decreasing */
    const uint32_t *input_tokens, *output_tokens;
    const size_t *first; /* count + 1 */
    const uint32_t *ids;
    size_t trace_block; /* tokens of a trace block; 512 in Mooncake's */
} dyn_replay_trace;

typedef struct dyn_replay_config {
    size_t workers;
    dyn_mocker_config engine;
    dyn_router_config router; /* block_size, clock and clock_user are set by the replay */
    double arrival_speedup;   /* 2: arrivals twice as close */
    /* Called now and then; a negative result ends the replay and is returned. NULL: nobody asks. */
    int (*progress)(void *user, size_t done, size_t total);
    void *user;
} dyn_replay_config;
DYN_API void dyn_replay_config_init(dyn_replay_config *config); /* 4 workers, the defaults of mocker and router */

/* What became of a request; times are negative when it did not come so far. */
typedef struct dyn_replay_result {
    double ttft_ms;  /* arrival to first token */
    double itl_ms;   /* mean time between tokens; negative with fewer than two */
    double total_ms; /* arrival to last token */
    uint32_t cached_tokens, overlap_blocks, worker;
    int32_t status; /* DYN_OK or why it was turned away */
} dyn_replay_result;

typedef struct dyn_replay_summary {
    double duration_ms; /* simulated, first arrival to last token */
    uint64_t finished, refused, prompt_tokens, cached_tokens, prefilled_tokens, generated_tokens, preemptions;
    uint64_t evicted_blocks, stored_blocks, removed_blocks, index_refusals;
    size_t index_bytes;
} dyn_replay_summary;

/* Replay.
 * results  room for trace->count.
 * errors   DYN_EINVAL (arrivals that go back, blocks that do not cover the input), DYN_ENOMEM, what progress() returned. */
DYN_API int dyn_replay_run(const dyn_replay_config *config, const dyn_replay_trace *trace, dyn_replay_result *results,
                           dyn_replay_summary *summary);

#ifdef __cplusplus
}
#endif
#endif
