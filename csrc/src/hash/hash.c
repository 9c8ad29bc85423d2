/* hash.c -- see dynamo/hash.h for the contract. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/common.h"
#include "dynamo/hash.h"
#include "hash/blocks.h"

enum { LONG_INPUT = 240, ON_STACK = 1024 };

static dyn__hash_blocks_fn *pick(size_t bytes, const char **name)
{
#if defined(__x86_64__) && defined(__GNUC__)
    if (bytes > LONG_INPUT) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("bmi2")) {
            *name = "avx512";
            return dyn__hash_blocks_avx512;
        }
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) {
            *name = "avx2";
            return dyn__hash_blocks_avx2;
        }
    }
    *name = "sse2";
#elif defined(__aarch64__)
    *name = "neon";
#else
    *name = "scalar";
#endif
    (void)bytes;
    return dyn__hash_blocks_base;
}

const char *dyn_hash_simd(void)
{
    const char *name;
    pick(SIZE_MAX, &name);
    return name;
}

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
    uint8_t secret[DYN__HASH_SECRET];
    const char *name;
    if (blocks == 0) return;
    if (bytes > LONG_INPUT) XXH3_generateSecret_fromSeed(secret, seed);
    pick(bytes, &name)(tokens, blocks, block_size, bytes, seed, secret, out);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int dyn_hash_block_mm(const uint32_t *tokens, size_t count, const uint64_t *mm_hashes, size_t mm_count, uint64_t seed,
                      uint64_t *out)
{
    uint64_t small[ON_STACK / 8];
    if (count > SIZE_MAX / 16 || mm_count > SIZE_MAX / 32) return DYN_ERANGE;
    size_t tokens_bytes = count * sizeof(*tokens), bytes = tokens_bytes + mm_count * sizeof(*mm_hashes);
    size_t need = bytes + mm_count * sizeof(*mm_hashes); /* and the hashes once more, to sort them */
    uint8_t *all = need <= sizeof(small) ? (uint8_t *)small : dyn__malloc(need);
    if (all == NULL) return DYN_ENOMEM;
    uint64_t *sorted = (uint64_t *)all;
    uint8_t *input = all + mm_count * sizeof(*sorted);
    if (mm_count > 0) memcpy(sorted, mm_hashes, mm_count * sizeof(*sorted));
    if (mm_count > 1) qsort(sorted, mm_count, sizeof(*sorted), compare_u64);
    if (count > 0) memcpy(input, tokens, tokens_bytes);
    if (mm_count > 0) memcpy(input + tokens_bytes, sorted, mm_count * sizeof(*sorted));
    *out = XXH3_64bits_withSeed(input, bytes, seed);
    if (all != (uint8_t *)small) dyn__free(all);
    return DYN_OK;
}

int dyn_hash_narrow(const int64_t *tokens, size_t count, uint32_t *out)
{
    uint64_t high = 0;
    for (size_t i = 0; i < count; i++) {
        out[i] = (uint32_t)tokens[i];
        high |= (uint64_t)tokens[i];
    }
    if (high >> 32 == 0) return DYN_OK;
    for (size_t i = 0; i < count; i++)
        if ((uint64_t)tokens[i] >> 32 != 0)
            return dyn__fail(DYN_ERANGE, "token %zu is %lld: must be 0 to 2^32 - 1", i, (long long)tokens[i]);
    return DYN_OK;
}

void dyn_hash_text_128(const char *text, size_t size, char out[32])
{
    static const char digits[] = "0123456789abcdef";
    XXH128_canonical_t bytes;

    XXH128_canonicalFromHash(&bytes, XXH3_128bits(text, size));
    for (int i = 0; i < 16; i++) {
        out[2 * i] = digits[bytes.digest[i] >> 4];
        out[2 * i + 1] = digits[bytes.digest[i] & 15];
    }
}

uint64_t dyn_hash_text(const char *text, size_t size)
{
    return XXH3_64bits_withSeed(text, size, 0);
}

static inline uint64_t chained(uint64_t parent, uint64_t local)
{
    uint64_t pair[2] = {parent, local};
    return XXH3_64bits_withSeed(pair, sizeof(pair), DYN_HASH_SEED);
}

void dyn_hash_chain(const uint64_t *local, size_t count, const uint64_t *parent, uint64_t *out)
{
    if (count == 0) return;
    uint64_t last = out[0] = parent != NULL ? chained(*parent, local[0]) : local[0];
    for (size_t i = 1; i < count; i++) out[i] = last = chained(last, local[i]);
}

/* A chain waits for each of its links; four chains wait together. */
void dyn_hash_chain_many(const uint64_t *const *local, const size_t *count, size_t sequences, uint64_t *const *out)
{
    size_t at = 0;
    for (; at + 4 <= sequences; at += 4) {
        const uint64_t *const *from = local + at;
        uint64_t *const *to = out + at;
        uint64_t last[4];
        size_t shared = count[at];
        for (int k = 1; k < 4; k++)
            if (count[at + k] < shared) shared = count[at + k];
        for (int k = 0; k < 4 && shared > 0; k++) last[k] = to[k][0] = from[k][0];
        for (size_t i = 1; i < shared; i++)
            for (int k = 0; k < 4; k++) to[k][i] = last[k] = chained(last[k], from[k][i]);
        for (int k = 0; k < 4; k++)
            dyn_hash_chain(from[k] + shared, count[at + k] - shared, shared > 0 ? &last[k] : NULL, to[k] + shared);
    }
    for (; at < sequences; at++) dyn_hash_chain(local[at], count[at], NULL, out[at]);
}
