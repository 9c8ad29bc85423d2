/* hash.h -- names for blocks of tokens: what a block holds, and what holds all before it.
 *
 *   tokens   | t0 t1 t2 t3 | t4 t5 t6 t7 | t8 ..      block_size 4; the partial tail has no hash
 *   local         L0             L1                    XXH3-64(block's tokens as u32 LE, seed)
 *   sequence   S0 = L0     S1 = H(S0, L1)              H = XXH3-64(u64 LE parent || u64 LE local, 1337)
 *
 * A sequence hash names a block together with its whole prefix; equal sequence hash, same cache content.
 * Units    sizes count tokens; hashes are u64.
 * Threads  every function is pure and may be called from any thread.
 * Source   formulas and vectors: tests/data/dynamo_vectors.json.
 */
#ifndef DYNAMO_HASH_H
#define DYNAMO_HASH_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DYN_HASH_SEED UINT64_C(1337)

/* The seed of local hashes under a LoRA adapter and a cache namespace:
 * 1337 + XXH3(lora, seed 0) + XXH3(cache_namespace, seed 1), wrapping; an empty text adds nothing.
 * Texts are UTF-8, borrowed, and may be NULL when their length is 0. */
DYN_API uint64_t dyn_hash_seed(const char *lora, size_t lora_bytes, const char *cache_namespace,
                               size_t cache_namespace_bytes);
/* How many complete blocks `count` tokens have; with eagle a block looks one token further.
 * block_size 0 gives 0. */
DYN_API size_t dyn_hash_block_count(size_t count, size_t block_size, bool eagle);
/* Local hashes of all complete blocks.
 * tokens  count ids, borrowed.
 * out     dyn_hash_block_count() hashes. */
DYN_API void dyn_hash_blocks(const uint32_t *tokens, size_t count, size_t block_size, bool eagle, uint64_t seed,
                             uint64_t *out);
/* Sequence hashes of `count` local hashes; `out` may be `local`.
 * parent  the sequence hash of the block before the first, or NULL at the start of a sequence. */
DYN_API void dyn_hash_chain(const uint64_t *local, size_t count, const uint64_t *parent, uint64_t *out);
/* The same for several sequences from their starts, side by side: twice as fast as one after the other.
 * local   `sequences` arrays of count[i] hashes; out[i] has room for as many and may be local[i]. */
DYN_API void dyn_hash_chain_many(const uint64_t *const *local, const size_t *count, size_t sequences,
                                 uint64_t *const *out);
/* The local hash of one block that also holds images or the like: its tokens, then their hashes in ascending order.
 * tokens     all tokens of the window (block_size, or one more with eagle).
 * mm_hashes  in any order; borrowed.
 * errors     DYN_ENOMEM, DYN_ERANGE. */
DYN_API int dyn_hash_block_mm(const uint32_t *tokens, size_t count, const uint64_t *mm_hashes, size_t mm_count,
                              uint64_t seed, uint64_t *out);
/* Token ids out of 64-bit integers.
 * out     `count` ids, undefined on error.
 * errors  DYN_ERANGE: one is negative or above 2^32 - 1. */
DYN_API int dyn_hash_narrow(const int64_t *tokens, size_t count, uint32_t *out);
/* XXH3-64 of bytes, seed 0: what stands for a text (an image's identifier) where a hash is wanted. */
DYN_API uint64_t dyn_hash_text(const char *text, size_t size);
/* XXH3-128 of bytes, seed 0, as 32 lower-case hexadecimal digits without an end mark: names of graph tasks. */
DYN_API void dyn_hash_text_128(const char *text, size_t size, char out[32]);
/* The instruction set that long blocks are hashed with here: "avx512", "avx2", "sse2", "neon", "scalar". Static. */
DYN_API const char *dyn_hash_simd(void);

#ifdef __cplusplus
}
#endif
#endif
