/* kv_sink.h -- where changes of a worker's cache go: the seam between events and whoever keeps an index.
 *
 * An index offers functions of exactly this shape and a user pointer; a subscriber (events.h) calls them.
 * Neither includes the other's header.
 * Hashes   block_hashes are the engine's names of blocks (a chain: equal name, equal prefix), tokens_hashes
 *          the local hashes of hash.h. All arrays are borrowed for the call.
 * Results  DYN_OK or a negative enum dyn_error. A refusal (DYN_ENOENT: the parent or block is not known) is
 *          counted by the caller, nothing else.
 * Threads  a subscriber calls from its one thread; the functions must not call back into it.
 */
#ifndef DYNAMO_KV_SINK_H
#define DYNAMO_KV_SINK_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_kv_sink {
    void *user;
    /* `count` blocks, one following the other, were stored after `parent` (NULL: at the start of a sequence). */
    int (*stored)(void *user, uint64_t worker, uint32_t dp_rank, const uint64_t *parent, const uint64_t *block_hashes,
                  const uint64_t *tokens_hashes, size_t count);
    int (*removed)(void *user, uint64_t worker, uint32_t dp_rank, const uint64_t *block_hashes, size_t count);
    /* The rank holds nothing any more: its engine said so, or it was started again. */
    int (*cleared)(void *user, uint64_t worker, uint32_t dp_rank);
} dyn_kv_sink;

#ifdef __cplusplus
}
#endif
#endif
