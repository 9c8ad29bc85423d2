/* hash/blocks.h -- the loop over blocks, compiled once for each instruction set that a file sets before it includes this.
 *
 * Inputs above 240 bytes need a secret that XXH3 derives from the seed; deriving it once for all blocks instead of once
 * for each is worth a factor of three at 64 tokens. Shorter inputs do not use it, nor vectors.
 */
#ifndef DYN_SRC_HASH_BLOCKS_H
#define DYN_SRC_HASH_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

#define DYN__HASH_SECRET 192

typedef void dyn__hash_blocks_fn(const uint32_t *tokens, size_t blocks, size_t stride, size_t bytes, uint64_t seed,
                                 const uint8_t secret[DYN__HASH_SECRET], uint64_t *out);
dyn__hash_blocks_fn dyn__hash_blocks_scalar, dyn__hash_blocks_base, dyn__hash_blocks_avx2, dyn__hash_blocks_avx512;

#ifdef DYN__HASH_BLOCKS
#define XXH_INLINE_ALL
#include <xxhash.h>

void DYN__HASH_BLOCKS(const uint32_t *tokens, size_t blocks, size_t stride, size_t bytes, uint64_t seed,
                      const uint8_t secret[DYN__HASH_SECRET], uint64_t *out)
{
    for (size_t i = 0; i < blocks; i++)
        out[i] = XXH3_64bits_withSecretandSeed(tokens + i * stride, bytes, secret, DYN__HASH_SECRET, seed);
}
#endif
#endif
