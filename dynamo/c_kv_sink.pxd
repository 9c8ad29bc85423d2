# Mirrors dynamo/kv_sink.h.
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "dynamo/kv_sink.h" nogil:
    ctypedef struct dyn_kv_sink:
        void *user
        int (*stored)(void *user, uint64_t worker, uint32_t dp_rank, const uint64_t *parent,
                      const uint64_t *block_hashes, const uint64_t *tokens_hashes, size_t count)
        int (*removed)(void *user, uint64_t worker, uint32_t dp_rank, const uint64_t *block_hashes, size_t count)
        int (*cleared)(void *user, uint64_t worker, uint32_t dp_rank)
