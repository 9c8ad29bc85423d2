#include "dynamo/hash.h"
#include "hash/blocks.h"
#include "test.h"

static void blocks_match_the_published_vectors(void)
{
    uint32_t tokens[14];
    uint64_t local[3], sequence[3];
    for (uint32_t i = 0; i < 14; i++) tokens[i] = i + 1;
    CHECK_EQ(dyn_hash_block_count(14, 4, false), 3);
    dyn_hash_blocks(tokens, 14, 4, false, DYN_HASH_SEED, local);
    CHECK(local[0] == UINT64_C(14643705804678351452));
    CHECK(local[1] == UINT64_C(16777012769546811212));
    CHECK(local[2] == UINT64_C(483935686894639516));
    dyn_hash_chain(local, 3, NULL, sequence);
    CHECK(sequence[0] == local[0]);
    CHECK(sequence[1] == UINT64_C(4945711292740353085));
    CHECK(sequence[2] == UINT64_C(12583592247330656132));
}

static void a_lora_name_changes_the_seed(void)
{
    const uint32_t tokens[4] = {1, 2, 3, 4};
    uint64_t local;
    dyn_hash_blocks(tokens, 4, 4, false, dyn_hash_seed("my-lora", 7, NULL, 0), &local);
    CHECK(local == UINT64_C(15671544057904749233));
}

static void eagle_blocks_need_one_more_token(void)
{
    CHECK_EQ(dyn_hash_block_count(64, 16, true), 3);
    CHECK_EQ(dyn_hash_block_count(65, 16, true), 4);
    CHECK_EQ(dyn_hash_block_count(0, 16, true), 0);
    CHECK_EQ(dyn_hash_block_count(5, 0, false), 0);
}

static void all_instruction_sets_agree(void)
{
    enum { TOKENS = 2100 };
    static uint32_t tokens[TOKENS];
    uint64_t want[TOKENS], got[TOKENS], seeds[] = {DYN_HASH_SEED, 0, 0xfedcba9876543210u};
    for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = i * 2654435761u;
    for (size_t size = 1; size < 300; size += size < 70 ? 1 : 13) {
        for (size_t s = 0; s < DYN__COUNT(seeds); s++) {
            size_t blocks = TOKENS / size - 1, bytes = size * 4;
            uint8_t secret[DYN__HASH_SECRET] = {0};
            for (size_t i = 0; i < blocks; i++)
                CHECK_EQ(dyn_hash_block_mm(tokens + i * size, size, NULL, 0, seeds[s], &want[i]), 0);
            dyn_hash_blocks(tokens, blocks * size, size, false, seeds[s], got);
            CHECK(memcmp(want, got, blocks * 8) == 0);
            dyn_hash_blocks(tokens, blocks * size + 1, size, true, seeds[s], got);
            CHECK_EQ(dyn_hash_block_mm(tokens, size + 1, NULL, 0, seeds[s], want), 0);
            CHECK(want[0] == got[0]);
            if (bytes > 240) continue; /* longer ones need the secret, which only hash.c makes */
            dyn__hash_blocks_scalar(tokens, blocks, size, bytes, seeds[s], secret, got);
            for (size_t i = 0; i < blocks; i++)
                CHECK_EQ(dyn_hash_block_mm(tokens + i * size, size, NULL, 0, seeds[s], &want[i]), 0);
            CHECK(memcmp(want, got, blocks * 8) == 0);
        }
    }
    /* any secret will do to compare vectors with plain code */
    uint8_t secret[DYN__HASH_SECRET];
    for (int i = 0; i < DYN__HASH_SECRET; i++) secret[i] = (uint8_t)(i * 37 + 11);
    for (size_t bytes = 4; bytes < 1300; bytes += 4) {
        dyn__hash_blocks_scalar(tokens, 4, 7, bytes, 99, secret, want);
        dyn__hash_blocks_base(tokens, 4, 7, bytes, 99, secret, got);
        CHECK(memcmp(want, got, 32) == 0);
#ifdef __x86_64__
        if (__builtin_cpu_supports("avx2")) {
            dyn__hash_blocks_avx2(tokens, 4, 7, bytes, 99, secret, got);
            CHECK(memcmp(want, got, 32) == 0);
        }
        if (strcmp(dyn_hash_simd(), "avx512") == 0) {
            dyn__hash_blocks_avx512(tokens, 4, 7, bytes, 99, secret, got);
            CHECK(memcmp(want, got, 32) == 0);
        }
#endif
    }
    CHECK(strlen(dyn_hash_simd()) > 0);
}

static void chains_side_by_side_are_the_chains(void)
{
    uint64_t local[7][40], want[40], got[7][40];
    const uint64_t *from[7];
    uint64_t *to[7];
    size_t count[7] = {40, 0, 1, 17, 40, 39, 2};
    for (int s = 0; s < 7; s++) {
        for (int i = 0; i < 40; i++) local[s][i] = (uint64_t)(s * 100 + i) * 0x9e3779b97f4a7c15u;
        from[s] = local[s], to[s] = got[s];
    }
    dyn_hash_chain_many(from, count, 7, to);
    for (int s = 0; s < 7; s++) {
        dyn_hash_chain(local[s], count[s], NULL, want);
        CHECK(memcmp(want, got[s], count[s] * 8) == 0);
    }
}

static void images_are_hashed_in_order_of_their_hashes(void)
{
    uint32_t tokens[17];
    const uint64_t some[] = {7, 3, 5}, sorted[] = {3, 5, 7};
    uint64_t a, b, many[200];
    for (uint32_t i = 0; i < 17; i++) tokens[i] = i + 17;
    CHECK_EQ(dyn_hash_block_mm(tokens, 16, some, 3, DYN_HASH_SEED, &a), DYN_OK);
    CHECK_EQ(dyn_hash_block_mm(tokens, 16, sorted, 3, DYN_HASH_SEED, &b), DYN_OK);
    CHECK(a == b && a == UINT64_C(8030344838311251626));
    for (int i = 0; i < 200; i++) many[i] = (uint64_t)(200 - i);
    EACH_ALLOCATION_FAILS {
        rc = dyn_hash_block_mm(tokens, 16, many, 200, 1, &a);
    }
}

static void wide_tokens_are_narrowed_or_refused(void)
{
    const int64_t good[] = {0, 1, 4294967295}, negative[] = {0, -1}, big[] = {1, 2, 4294967296};
    uint32_t out[3];
    CHECK_EQ(dyn_hash_narrow(good, 3, out), DYN_OK);
    CHECK(out[2] == 4294967295u);
    CHECK_EQ(dyn_hash_narrow(negative, 2, out), DYN_ERANGE);
    CHECK_EQ(dyn_hash_narrow(big, 3, out), DYN_ERANGE);
    CHECK(strstr(dyn_error_detail(), "token 2 is 4294967296") != NULL);
}

static void texts_have_the_published_128_bits(void)
{
    char long_text[300], out[33] = {0};
    dyn_hash_text_128("", 0, out);
    CHECK(strcmp(out, "99aa06d3014798d86001c324468d497f") == 0);
    dyn_hash_text_128("abc", 3, out);
    CHECK(strcmp(out, "06b05ab6733a618578af5f94892f3950") == 0);
    memset(long_text, 'x', sizeof(long_text));
    dyn_hash_text_128(long_text, sizeof(long_text), out);
    CHECK(strcmp(out, "125237ea2ad7bc7aa5d1b4607dc83554") == 0);
}

TEST_MAIN(TEST(blocks_match_the_published_vectors), TEST(a_lora_name_changes_the_seed),
          TEST(eagle_blocks_need_one_more_token), TEST(all_instruction_sets_agree),
          TEST(chains_side_by_side_are_the_chains), TEST(images_are_hashed_in_order_of_their_hashes),
          TEST(wide_tokens_are_narrowed_or_refused), TEST(texts_have_the_published_128_bits))
