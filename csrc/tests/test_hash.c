#include "dynamo/hash.h"
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

TEST_MAIN(TEST(blocks_match_the_published_vectors), TEST(a_lora_name_changes_the_seed),
          TEST(eagle_blocks_need_one_more_token))
