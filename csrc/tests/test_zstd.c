#include "dynamo/zstd.h"
#include "test.h"

static dyn_bytes packed(size_t size, int fill)
{
    dyn_bytes out = {0};
    uint8_t *data = malloc(size + 1);
    for (size_t i = 0; i < size; i++) data[i] = (uint8_t)(fill >= 0 ? fill : (int)(i * i >> 3));
    CHECK_EQ(dyn_zstd_compress(&out, data, size, DYN_ZSTD_LEVEL), DYN_OK);
    free(data);
    return out;
}

static void bytes_come_back(void)
{
    static const size_t sizes[] = {0, 1, 1024, 1025, 100000, 5 << 20};
    for (size_t i = 0; i < DYN__COUNT(sizes); i++) {
        dyn_bytes small = packed(sizes[i], -1), back = {0};
        CHECK_EQ(dyn_bytes_append(&back, "x", 1), DYN_OK); /* appended, not replaced */
        CHECK_EQ(dyn_zstd_announced(small.data, small.size), sizes[i]);
        CHECK_EQ(dyn_zstd_decompress(&back, small.data, small.size, sizes[i]), DYN_OK);
        CHECK_EQ(back.size, sizes[i] + 1);
        for (size_t k = 0; k < sizes[i]; k += 97) CHECK_EQ(back.data[k + 1], (uint8_t)(k * k >> 3));
        dyn_bytes_free(&small);
        dyn_bytes_free(&back);
    }
}

static void frames_behind_one_another_are_one_body(void)
{
    dyn_bytes one = packed(1000, 'a'), two = packed(10, 'b'), back = {0};
    CHECK_EQ(dyn_bytes_append(&one, two.data, two.size), DYN_OK);
    CHECK_EQ(dyn_zstd_decompress(&back, one.data, one.size, 2000), DYN_OK);
    CHECK_EQ(back.size, 1010);
    back.size = 0;
    CHECK_EQ(dyn_zstd_decompress(&back, one.data, one.size, 1009), DYN_ELIMIT);
    CHECK_EQ(back.size, 0);
    dyn_bytes_free(&one), dyn_bytes_free(&two), dyn_bytes_free(&back);
}

static void a_bomb_is_refused_before_it_goes_off(void)
{
    dyn_bytes bomb = packed(64 << 20, 0), back = {0};
    CHECK(bomb.size < 16384);
    CHECK_EQ(dyn_zstd_decompress(&back, bomb.data, bomb.size, 1 << 20), DYN_ELIMIT);
    CHECK(back.room < 2 << 20);
    bomb.data[4] &= 0x1f; /* the frame header without its content size: now only the bytes tell */
    dyn_bytes_free(&back);
    CHECK(dyn_zstd_decompress(&back, bomb.data, bomb.size, 1 << 20) < 0);
    CHECK(back.room < 4 << 20);
    dyn_bytes_free(&back), dyn_bytes_free(&bomb);
}

static void what_is_not_zstd_is_refused(void)
{
    dyn_bytes small = packed(10000, -1), back = {0};
    CHECK_EQ(dyn_zstd_decompress(&back, "", 0, 100), DYN_EPROTO);
    CHECK_EQ(dyn_zstd_decompress(&back, "plain text, no zstd", 19, 100), DYN_EPROTO);
    for (size_t cut = 1; cut < small.size; cut += 13)
        CHECK_EQ(dyn_zstd_decompress(&back, small.data, cut, 1 << 20), DYN_EPROTO);
    small.data[small.size / 2] ^= 0x55;
    int rc = dyn_zstd_decompress(&back, small.data, small.size, 1 << 20);
    CHECK(rc == DYN_OK || rc == DYN_EPROTO || rc == DYN_ELIMIT);
    CHECK_EQ(dyn_zstd_compress(&back, "x", 1, 0), DYN_EINVAL);
    CHECK_EQ(dyn_zstd_compress(&back, "x", 1, 99), DYN_EINVAL);
    dyn_bytes_free(&small), dyn_bytes_free(&back);
}

static void every_allocation_may_fail(void)
{
    EACH_ALLOCATION_FAILS {
        dyn_bytes small = {0}, back = {0};
        if ((rc = dyn_zstd_compress(&small, "hello", 5, 3)) == DYN_OK)
            rc = dyn_zstd_decompress(&back, small.data, small.size, 5);
        dyn_bytes_free(&small), dyn_bytes_free(&back);
    }
}

TEST_MAIN(TEST(bytes_come_back), TEST(frames_behind_one_another_are_one_body),
          TEST(a_bomb_is_refused_before_it_goes_off), TEST(what_is_not_zstd_is_refused),
          TEST(every_allocation_may_fail))
