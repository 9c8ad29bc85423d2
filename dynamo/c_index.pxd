# Mirrors dynamo/index.h.
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "dynamo/index.h" nogil:
    ctypedef struct dyn_index:
        pass
    ctypedef struct dyn_index_options:
        size_t max_bytes
        uint64_t expiration_ms
        bint aliases
    ctypedef struct dyn_overlap:
        uint64_t worker
        uint32_t dp_rank
        uint32_t blocks
        uint64_t held
    ctypedef struct dyn_index_stats:
        size_t blocks
        size_t worker_blocks
        size_t workers
        size_t sets
        size_t bytes
        size_t max_bytes
        size_t evicted
        size_t limbo_bytes
    int dyn_index_new(dyn_index **out, const dyn_index_options *options)
    dyn_index *dyn_index_ref(dyn_index *self)
    void dyn_index_unref(dyn_index *self)
    int dyn_index_stored(dyn_index *self, uint64_t worker, uint32_t dp_rank, const uint64_t *parent,
                         const uint64_t *block_hashes, const uint64_t *tokens_hashes, size_t count)
    int dyn_index_removed(dyn_index *self, uint64_t worker, uint32_t dp_rank, const uint64_t *block_hashes,
                          size_t count)
    int dyn_index_cleared(dyn_index *self, uint64_t worker, uint32_t dp_rank)
    int dyn_index_clear_worker(dyn_index *self, uint64_t worker)
    int dyn_index_remove_worker(dyn_index *self, uint64_t worker)
    int dyn_index_on_stored(void *index, uint64_t worker, uint32_t dp_rank, const uint64_t *parent,
                            const uint64_t *block_hashes, const uint64_t *tokens_hashes, size_t count) noexcept
    int dyn_index_on_removed(void *index, uint64_t worker, uint32_t dp_rank, const uint64_t *block_hashes,
                             size_t count) noexcept
    int dyn_index_on_cleared(void *index, uint64_t worker, uint32_t dp_rank) noexcept
    size_t dyn_index_find(const dyn_index *self, const uint64_t *tokens_hashes, size_t count, dyn_overlap *out,
                          size_t room)
    size_t dyn_index_find_early(const dyn_index *self, const uint64_t *tokens_hashes, size_t count, dyn_overlap *out,
                                size_t room)
    int dyn_index_find_counted(dyn_index *self, const uint64_t *tokens_hashes, size_t count, uint64_t now_ms,
                               dyn_overlap *out, size_t room, size_t *found, uint32_t *frequencies,
                               size_t *frequency_count)
    size_t dyn_index_held(dyn_index *self, uint64_t worker, uint32_t dp_rank)
    size_t dyn_index_workers(dyn_index *self, dyn_overlap *out, size_t room)
    void dyn_index_stats_get(const dyn_index *self, dyn_index_stats *out)
    ctypedef struct dyn_index_block:
        uint64_t worker
        uint32_t dp_rank
        bint has_parent
        uint64_t parent_hash
        uint64_t block_hash
        uint64_t tokens_hash
    int dyn_index_dump(dyn_index *self, int (*visit)(void *user, const dyn_index_block *block) noexcept, void *user)

    ctypedef struct dyn_approx:
        pass
    int dyn_approx_new(dyn_approx **out, uint64_t ttl_ms, size_t max_bytes)
    dyn_approx *dyn_approx_ref(dyn_approx *self)
    void dyn_approx_unref(dyn_approx *self)
    int dyn_approx_routed(dyn_approx *self, uint64_t worker, uint32_t dp_rank, const uint64_t *tokens_hashes,
                          size_t count, uint64_t now_ms)
    size_t dyn_approx_find(dyn_approx *self, const uint64_t *tokens_hashes, size_t count, uint64_t now_ms,
                           dyn_overlap *out, size_t room)
    int dyn_approx_remove_worker(dyn_approx *self, uint64_t worker)
    void dyn_approx_stats_get(const dyn_approx *self, dyn_index_stats *out)
    int dyn_approx_dump(dyn_approx *self, int (*visit)(void *user, const dyn_index_block *block) noexcept, void *user)
