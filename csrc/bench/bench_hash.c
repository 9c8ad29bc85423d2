/* bench_hash.c -- block hashes by block size, sequence hashes alone and four abreast. */
#include <stdio.h>
#include <stdlib.h>

#include "common/common.h"
#include "dynamo/hash.h"

enum { TOKENS = 4096, ROUNDS = 20000 };
static uint32_t tokens[TOKENS];
static uint64_t hashes[4][TOKENS];

static void blocks(size_t size)
{
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) dyn_hash_blocks(tokens, TOKENS, size, false, DYN_HASH_SEED, hashes[0]);
    double ns = (double)(dyn_now_ns() - start) / ROUNDS;
    printf("blocks of %4zu tokens %8.1f Mtok/s %6.1f GB/s\n", size, TOKENS * 1e3 / ns, TOKENS * 4 / ns);
}

int main(void)
{
    for (int i = 0; i < TOKENS; i++) tokens[i] = (uint32_t)i * 2654435761u;
    printf("%s\n", dyn_hash_simd());
    for (size_t size = 4; size <= 512; size *= 2) blocks(size);

    enum { CHAIN = 1024 };
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) dyn_hash_chain(hashes[0], CHAIN, NULL, hashes[0]);
    printf("chain, one sequence   %6.2f ns a block\n", (double)(dyn_now_ns() - start) / ROUNDS / CHAIN);
    const uint64_t *local[4] = {hashes[0], hashes[1], hashes[2], hashes[3]};
    uint64_t *out[4] = {hashes[0], hashes[1], hashes[2], hashes[3]};
    size_t count[4] = {CHAIN, CHAIN, CHAIN, CHAIN};
    start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) dyn_hash_chain_many(local, count, 4, out);
    printf("chain, four abreast   %6.2f ns a block\n", (double)(dyn_now_ns() - start) / ROUNDS / CHAIN / 4);
    return 0;
}
