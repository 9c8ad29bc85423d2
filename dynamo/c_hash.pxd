# Mirrors dynamo/hash.h.
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "dynamo/hash.h" nogil:
    const uint64_t DYN_HASH_SEED
    uint64_t dyn_hash_seed(const char *lora, size_t lora_bytes, const char *cache_namespace,
                           size_t cache_namespace_bytes)
    size_t dyn_hash_block_count(size_t count, size_t block_size, bint eagle)
    void dyn_hash_blocks(const uint32_t *tokens, size_t count, size_t block_size, bint eagle, uint64_t seed,
                         uint64_t *out)
    void dyn_hash_chain(const uint64_t *local, size_t count, const uint64_t *parent, uint64_t *out)
    void dyn_hash_chain_many(const uint64_t *const *local, const size_t *count, size_t sequences,
                             uint64_t *const *out)
    int dyn_hash_block_mm(const uint32_t *tokens, size_t count, const uint64_t *mm_hashes, size_t mm_count,
                          uint64_t seed, uint64_t *out)
    int dyn_hash_narrow(const int64_t *tokens, size_t count, uint32_t *out)
    uint64_t dyn_hash_text(const char *text, size_t size)
    void dyn_hash_text_128(const char *text, size_t size, char *out)
    const char *dyn_hash_simd()
