/* index.h -- which worker holds which blocks: what a router asks before it picks.
 *
 *   stored(w1, parent none, A B C)      root - A{w1,w2} - B{w1,w2} - C{w1}
 *   stored(w2, parent none, A B)                                   \ D{w2}
 *   stored(w2, parent B, D)             find(A B C): w1 3, w2 2
 *
 * A block has a position: the tokens hashes from the root down to it. The block hash is the name that its
 * engine gave it; the first name stored at a position stays, and events refer to blocks by name. An overlap
 * counts leading blocks: a worker that lacks one is out from there on.
 *
 * Blocks that follow one another without a branch form a run (a run ends where a second child came, for good).
 * Removing a block takes the rest of its run with it, for that worker; what the worker holds behind a branch is kept
 * and counts again when the gap is filled. So does Dynamo's tree, whose answers this index gives.
 *
 * Units    sizes count blocks unless a name says bytes. Hashes and worker ids are u64, any value.
 * Threads  find: any thread, any number of them, never blocked by a writer and never blocking one.
 *          Calls that change serialise on a lock inside. The last unref: nobody else is inside.
 * Errors   DYN_OK or a negative enum dyn_error. DYN_EBLOCK: the event does not fit what the index holds
 *          (unknown parent, unknown block, a block that is its own parent).
 * Bound    with max_bytes the index never allocates more. At the bound a block makes room that nothing hangs below and
 *          that was neither stored again nor the end of a find since the clock hand last came by; then the ones above it.
 *          A later event about it gets DYN_EBLOCK.
 */
#ifndef DYNAMO_INDEX_H
#define DYNAMO_INDEX_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_index dyn_index;

typedef struct dyn_index_options {
    size_t max_bytes;       /* 0: no bound. Not less than 1 MiB */
    uint64_t expiration_ms; /* 0: none. Else dyn_index_find_counted() counts the finds of that time */
    bool aliases;           /* removed() also knows a block by the differing name this worker stored it under.
                             * false: such a block cannot be removed by name, as in Dynamo */
} dyn_index_options;

/* What one worker holds of what was asked for. */
typedef struct dyn_overlap {
    uint64_t worker;
    uint32_t dp_rank;
    uint32_t blocks; /* leading blocks that it holds, 1 or more */
    uint64_t held;   /* all blocks that it holds: the size of its tree */
} dyn_overlap;

typedef struct dyn_index_stats {
    size_t blocks;        /* positions: held, or above one that is held */
    size_t worker_blocks; /* the same, counted once for each worker that holds it */
    size_t workers;       /* (worker, dp_rank) pairs known */
    size_t sets;          /* distinct sets of two or more workers */
    size_t bytes;         /* allocated now, exactly as asked of the allocator */
    size_t max_bytes;     /* 0: no bound */
    size_t evicted;       /* blocks dropped at the bound since the start */
    size_t limbo_bytes;   /* part of `bytes` that waits for readers to leave */
} dyn_index_stats;

/* Make an empty index with one reference.
 * options  borrowed; NULL: no bound, no expiration.
 * errors   DYN_ENOMEM, DYN_EINVAL. */
DYN_API int dyn_index_new(dyn_index **out, const dyn_index_options *options);
DYN_API dyn_index *dyn_index_ref(dyn_index *self);
DYN_API void dyn_index_unref(dyn_index *self); /* NULL is allowed */

/* ---- changes ----------------------------------------------------------------------------------- */
/* The worker holds `count` more blocks, one below the other.
 * parent         the name, as this worker knows it, of the block above the first; NULL: the first is at the root.
 * block_hashes   names; tokens_hashes   what the blocks hold (local hashes). Borrowed.
 * errors   DYN_EBLOCK: nothing changed. DYN_ENOMEM, DYN_ELIMIT: the blocks before the failing one are stored. */
DYN_API int dyn_index_stored(dyn_index *self, uint64_t worker, uint32_t dp_rank, const uint64_t *parent,
                             const uint64_t *block_hashes, const uint64_t *tokens_hashes, size_t count);
/* The worker no longer holds these blocks, nor what follows each in its run.
 * errors   DYN_EBLOCK: it does not hold one of the names; the others are removed. DYN_ENOMEM: those before it are. */
DYN_API int dyn_index_removed(dyn_index *self, uint64_t worker, uint32_t dp_rank, const uint64_t *block_hashes,
                              size_t count);
/* The worker holds nothing on this rank any more. An unknown worker is no error. Takes time in proportion to the
 * whole index, as the next two do, unless the worker holds nothing. */
DYN_API int dyn_index_cleared(dyn_index *self, uint64_t worker, uint32_t dp_rank);
/* The same on all ranks of a worker. */
DYN_API int dyn_index_clear_worker(dyn_index *self, uint64_t worker);
/* The same, and the worker is forgotten. */
DYN_API int dyn_index_remove_worker(dyn_index *self, uint64_t worker);

/* The three events in the shape of a callback table; `index` is a dyn_index. */
DYN_API int dyn_index_on_stored(void *index, uint64_t worker, uint32_t dp_rank, const uint64_t *parent,
                                const uint64_t *block_hashes, const uint64_t *tokens_hashes, size_t count);
DYN_API int dyn_index_on_removed(void *index, uint64_t worker, uint32_t dp_rank, const uint64_t *block_hashes,
                                 size_t count);
DYN_API int dyn_index_on_cleared(void *index, uint64_t worker, uint32_t dp_rank);

/* ---- questions --------------------------------------------------------------------------------- */
/* Who holds how much of this sequence. O(log(count) * different sets on the way) probes, no allocation, no lock.
 * tokens_hashes  local hashes from the start of the sequence; borrowed.
 * out            room for `room` overlaps; shortest overlap first, in no order among equals.
 * returns  the number of workers that hold the first block, also when it is more than `room` (then `room` were
 *          written; ask again with more). */
DYN_API size_t dyn_index_find(const dyn_index *self, const uint64_t *tokens_hashes, size_t count, dyn_overlap *out,
                              size_t room);
/* The same as Dynamo answers with early_exit: it stops where a run ends and one worker is left, so that worker's overlap
 * may be less than it holds. O(count) probes: it is not faster here. */
DYN_API size_t dyn_index_find_early(const dyn_index *self, const uint64_t *tokens_hashes, size_t count,
                                    dyn_overlap *out, size_t room);
/* As dyn_index_find(), and for each matched block how many such finds came to it within the expiration before now; then this one
 * is counted. Zeros are left out. Takes the lock of the writers.
 * A block remembers its last 256 finds.
 * now_ms       of any clock that goes forward.
 * frequencies  room for `count`.   frequency_count   receives how many were written.
 * found        receives what dyn_index_find() returns.
 * errors       DYN_EINVAL without an expiration; DYN_ENOMEM: counted in part. */
DYN_API int dyn_index_find_counted(dyn_index *self, const uint64_t *tokens_hashes, size_t count, uint64_t now_ms,
                                   dyn_overlap *out, size_t room, size_t *found, uint32_t *frequencies,
                                   size_t *frequency_count);
/* How many blocks a worker holds on a rank; 0 when it is unknown. Takes the lock. */
DYN_API size_t dyn_index_held(dyn_index *self, uint64_t worker, uint32_t dp_rank);
/* The known workers; returns their number, also when it is more than `room`. `blocks` is 0. Takes the lock. */
DYN_API size_t dyn_index_workers(dyn_index *self, dyn_overlap *out, size_t room);
DYN_API void dyn_index_stats_get(const dyn_index *self, dyn_index_stats *out);

typedef struct dyn_index_block {
    uint64_t worker;
    uint32_t dp_rank;
    bool has_parent;
    uint64_t parent_hash, block_hash, tokens_hash;
} dyn_index_block;
/* Everything that is held, a parent before its children; storing it one by one rebuilds the index.
 * visit   called once per (worker, block) with the lock held: it must not call into the index. A negative result
 *         ends the walk and is returned. */
DYN_API int dyn_index_dump(dyn_index *self, int (*visit)(void *user, const dyn_index_block *block), void *user);

/* ---- without events ----------------------------------------------------------------------------
 * An index that believes what was routed: a worker that got a sequence holds its blocks for ttl_ms. The end of that time is
 * rounded up to 100 ms. At its bound it forgets the oldest decisions. Same rules for threads.
 */
typedef struct dyn_approx dyn_approx;
/* errors  DYN_ENOMEM, DYN_EINVAL (ttl_ms 0 or above 2^40). */
DYN_API int dyn_approx_new(dyn_approx **out, uint64_t ttl_ms, size_t max_bytes);
DYN_API dyn_approx *dyn_approx_ref(dyn_approx *self);
DYN_API void dyn_approx_unref(dyn_approx *self); /* NULL is allowed */
/* The sequence went to this worker at now_ms (a clock that goes forward).
 * errors  DYN_ENOMEM, DYN_ELIMIT (one sequence larger than the bound). */
DYN_API int dyn_approx_routed(dyn_approx *self, uint64_t worker, uint32_t dp_rank, const uint64_t *tokens_hashes,
                              size_t count, uint64_t now_ms);
/* As dyn_index_find(), with what has expired by now_ms left out. */
DYN_API size_t dyn_approx_find(dyn_approx *self, const uint64_t *tokens_hashes, size_t count, uint64_t now_ms,
                               dyn_overlap *out, size_t room);
DYN_API int dyn_approx_remove_worker(dyn_approx *self, uint64_t worker);
DYN_API void dyn_approx_stats_get(const dyn_approx *self, dyn_index_stats *out);
/* As dyn_index_dump(); a block's name is its sequence hash. */
DYN_API int dyn_approx_dump(dyn_approx *self, int (*visit)(void *user, const dyn_index_block *block), void *user);

#ifdef __cplusplus
}
#endif
#endif
