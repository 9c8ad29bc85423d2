/* hash.c -- see dynamo/hash.h for the contract. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/common.h"
#include "dynamo/hash.h"

uint64_t dyn_hash_seed(const char *lora, size_t lora_bytes, const char *cache_namespace, size_t cache_namespace_bytes)
{
    uint64_t seed = DYN_HASH_SEED;
    if (lora_bytes > 0) seed += XXH3_64bits_withSeed(lora, lora_bytes, 0);
    if (cache_namespace_bytes > 0) seed += XXH3_64bits_withSeed(cache_namespace, cache_namespace_bytes, 1);
    return seed;
}

size_t dyn_hash_block_count(size_t count, size_t block_size, bool eagle)
{
    if (block_size == 0 || count == 0) return 0;
    return (eagle ? count - 1 : count) / block_size;
}

void dyn_hash_blocks(const uint32_t *tokens, size_t count, size_t block_size, bool eagle, uint64_t seed, uint64_t *out)
{
    size_t blocks = dyn_hash_block_count(count, block_size, eagle);
    size_t bytes = (block_size + (eagle ? 1 : 0)) * sizeof(uint32_t);
    for (size_t i = 0; i < blocks; i++) out[i] = XXH3_64bits_withSeed(tokens + i * block_size, bytes, seed);
}

void dyn_hash_chain(const uint64_t *local, size_t count, const uint64_t *parent, uint64_t *out)
{
    uint64_t pair[2];
    if (count == 0) return;
    pair[1] = local[0];
    if (parent != NULL) {
        pair[0] = *parent;
        out[0] = XXH3_64bits_withSeed(pair, sizeof(pair), DYN_HASH_SEED);
    } else {
        out[0] = local[0];
    }
    for (size_t i = 1; i < count; i++) {
        pair[0] = out[i - 1];
        pair[1] = local[i];
        out[i] = XXH3_64bits_withSeed(pair, sizeof(pair), DYN_HASH_SEED);
    }
}
