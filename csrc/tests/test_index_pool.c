/* The pages of an index: several arenas, huge ones, what comes back, and no memory at any moment. */
#include <sys/mman.h>

#include "index/inside.h"
#include "test.h"
#ifdef DYN__SANITIZED
#include <sanitizer/asan_interface.h>
#endif

enum { RUN = 64, MIB = 1 << 20, HUGE_FROM = 32 * MIB };

/* The nth hash of a load; no two of a load are the same. */
static uint64_t hash_at(uint64_t load, uint64_t n)
{
    return dyn__fold(n + load * 1000000007 + 1, UINT64_C(0x9e3779b97f4a7c15)) ^ n << 20;
}

static int store(dyn_index *index, uint64_t load, size_t from, size_t to)
{
    int rc = DYN_OK;
    for (size_t run = from; run < to && rc == DYN_OK; run++) {
        uint64_t names[RUN];
        for (size_t i = 0; i < RUN; i++) names[i] = hash_at(load, run * RUN + i);
        rc = dyn_index_stored(index, run % 4, 0, NULL, names, names, RUN);
    }
    return rc;
}

static size_t found(const dyn_index *index, uint64_t load, size_t run)
{
    uint64_t names[RUN];
    dyn_overlap out[1];
    for (size_t i = 0; i < RUN; i++) names[i] = hash_at(load, run * RUN + i);
    return dyn_index_find(index, names, RUN, out, 1) == 1 && out[0].worker == run % 4 ? out[0].blocks : 0;
}

static size_t arenas(const dyn_index *index, size_t at_least)
{
    size_t count = 0;
    for (const struct dyn__arena *arena = index->pool.arenas; arena != NULL; arena = arena->next)
        count += arena->size >= at_least;
    return count;
}

static size_t bytes_of(const dyn_index *index)
{
    dyn_index_stats stats;
    dyn_index_stats_get(index, &stats);
    return stats.bytes;
}

static void forget_all(dyn_index *index)
{
    for (uint64_t worker = 0; worker < 4; worker++) CHECK_EQ(dyn_index_remove_worker(index, worker), DYN_OK);
    while (DYN__GET(index->limbo_bytes) > 0 || index->limbo[0].count + index->limbo[1].count > 0)
        CHECK(dyn__advance(index)); /* nobody reads */
}

/* Pages of an arena that the system has given us; -1 where the arena is not mapped, or nobody can say. */
static long resident(const void *memory, size_t size)
{
#if defined(__linux__) && !defined(DYN__SANITIZED)
    static unsigned char page[8 * 2 * MIB / 4096];
    long count = 0;
    if (size > sizeof(page) * 4096 || mincore((void *)(uintptr_t)memory, size, page) != 0) return -1;
    for (size_t i = 0; i < size / 4096; i++) count += page[i] & 1;
    return count;
#else
    (void)memory, (void)size;
    return -1;
#endif
}

static void an_index_grows_over_many_arenas_and_its_bytes_are_what_is_resident(void)
{
    enum { RUNS = 3200 }; /* 204,800 blocks */
    dyn_index *index = NULL;
    CHECK_EQ(dyn_index_new(&index, NULL), DYN_OK);
    for (size_t run = 0; run < RUNS; run += 400) {
        CHECK_EQ(store(index, 1, run, run + 400), DYN_OK);
        CHECK_EQ(dyn__index_check(index), 0); /* I7 among them */
    }
    CHECK(arenas(index, MIB) >= 8);
    CHECK_EQ(arenas(index, 2 * MIB), 0);
    CHECK(bytes_of(index) <= (size_t)RUNS * RUN * 52);
    for (size_t run = 0; run < RUNS; run++) CHECK_EQ(found(index, 1, run), RUN);
    for (const struct dyn__arena *arena = index->pool.arenas; arena != NULL; arena = arena->next) {
        long pages = resident(arena->memory, arena->size);
        size_t want = (arena->size - (arena == index->pool.arenas ? index->pool.left : 0)) / 4096;
        if (pages >= 0) CHECK((size_t)pages <= want && (size_t)pages + DYN__POOL_PAGES >= want);
    }
    dyn_index_unref(index); /* asserts that every byte was given back */
}

static void a_large_index_has_huge_arenas(void)
{
    enum { RUNS = 14000 }; /* 896,000 blocks */
    dyn_index *index = NULL;
    CHECK_EQ(dyn_index_new(&index, NULL), DYN_OK);
    CHECK_EQ(store(index, 2, 0, RUNS), DYN_OK);
    CHECK(bytes_of(index) > HUGE_FROM);
    CHECK(bytes_of(index) <= (size_t)RUNS * RUN * 52);
    CHECK(arenas(index, 2 * MIB) >= 2);
    CHECK(arenas(index, MIB) - arenas(index, 2 * MIB) >= 28); /* not before it is worth it */
    for (const struct dyn__arena *arena = index->pool.arenas; arena != NULL; arena = arena->next) {
        CHECK_EQ((uintptr_t)arena->memory % 4096, 0);
#ifndef DYN__SANITIZED
        if (arena->size >= 2 * MIB) CHECK_EQ((uintptr_t)arena->memory % (2 * MIB), 0);
#endif
        if (resident(arena->memory, arena->size) >= 0)
            CHECK((size_t)resident(arena->memory, arena->size) <= arena->size / 4096);
    }
    for (size_t run = 0; run < RUNS; run += 7) CHECK_EQ(found(index, 2, run), RUN);
    CHECK_EQ(dyn__index_check(index), 0);

    struct dyn__arena *newest = index->pool.arenas;
    char *memory = newest->memory;
    size_t size = newest->size;
    dyn_index_unref(index);
    CHECK_EQ(resident(memory, size), -1); /* and the arenas went back to the system */
}

static void what_comes_back_is_used_again(void)
{
    enum { RUNS = 1600 };
    dyn_index *index = NULL;
    CHECK_EQ(dyn_index_new(&index, NULL), DYN_OK);
    CHECK_EQ(store(index, 3, 0, RUNS), DYN_OK);
    size_t before = bytes_of(index);
    for (uint64_t load = 4; load < 10; load++) {
        forget_all(index);
        CHECK_EQ(DYN__GET(index->blocks), 0);
        CHECK_EQ(store(index, load, 0, RUNS), DYN_OK);
        for (size_t run = 0; run < RUNS; run += 3) CHECK_EQ(found(index, load, run), RUN);
        CHECK_EQ(found(index, load - 1, 5), 0);
        CHECK_EQ(dyn__index_check(index), 0);
    }
    CHECK(bytes_of(index) <= before + before / 8); /* other hashes, other splits; no second set of entries */
    dyn_index_unref(index);
}

static void pages_wait_by_size_and_cannot_be_touched(void)
{
    dyn_index *index = NULL;
    CHECK_EQ(dyn_index_new(&index, NULL), DYN_OK);
    size_t before = bytes_of(index);
    for (size_t pages = 1; pages <= DYN__POOL_PAGES; pages++) {
        char *one = dyn__index_alloc(index, pages * 4096, 64), *two = dyn__index_alloc(index, pages * 4096, 64);
        CHECK(one != NULL && two != NULL && one != two);
        for (size_t i = 0; i < pages * 4096; i++) CHECK_EQ(one[i], 0);
        memset(one, 0x55, pages * 4096);
        size_t counted = bytes_of(index);
        dyn__index_free(index, one, pages * 4096);
#ifdef DYN__SANITIZED
#if defined(__SANITIZE_ADDRESS__)
        CHECK(__asan_address_is_poisoned(one + 8) && __asan_address_is_poisoned(one + pages * 4096 - 1));
        CHECK(!__asan_address_is_poisoned(two));
#endif
#endif
        CHECK_EQ(bytes_of(index), counted); /* it stays the index's */
        char *again = dyn__index_alloc(index, pages * 4096, 64);
        CHECK(again == one);
        for (size_t i = 0; i < pages * 4096; i++) CHECK_EQ(again[i], 0);
        dyn__index_free(index, again, pages * 4096);
        dyn__index_free(index, two, pages * 4096);
    }
    CHECK(bytes_of(index) > before);
    CHECK_EQ(dyn__index_check(index), 0);
    void *large =
        dyn__index_alloc(index, (DYN__POOL_PAGES + 1) * 4096, 0); /* too large for it: its own, and back at once */
    size_t with = bytes_of(index);
    dyn__index_free(index, large, (DYN__POOL_PAGES + 1) * 4096);
    CHECK_EQ(with - bytes_of(index), (DYN__POOL_PAGES + 1) * 4096);
    dyn_index_unref(index);
}

static void an_index_with_a_bound_has_no_pool(void)
{
    const dyn_index_options options = {.max_bytes = 8 * MIB};
    dyn_index *index = NULL;
    CHECK_EQ(dyn_index_new(&index, &options), DYN_OK);
    CHECK_EQ(store(index, 11, 0, 3000), DYN_OK);
    CHECK(index->pool.arenas == NULL && index->pool.counted == 0);
    CHECK(bytes_of(index) <= 8 * MIB);
    CHECK_EQ(dyn__index_check(index), 0);
    dyn_index_unref(index);
}

/* Over three arenas; a store that failed left what it had stored, and with memory back the rest comes in. */
static void no_allocation_of_growth_is_one_too_many(void)
{
    enum { RUNS = 900 }; /* 57,600 blocks */
    size_t fewest = SIZE_MAX, most = 0;
    EACH_ALLOCATION_FAILS {
        dyn_index *index = NULL;
        if ((rc = dyn_index_new(&index, NULL)) < 0) continue;
        rc = store(index, 12, 0, RUNS);
        dyn__fail_after = -1;
        CHECK(rc == DYN_OK || rc == DYN_ENOMEM);
        CHECK_EQ(dyn__index_check(index), 0);
        size_t blocks = DYN__GET(index->blocks);
        CHECK_EQ(rc == DYN_OK, blocks == (size_t)RUNS * RUN);
        for (size_t run = 0; run < blocks / RUN; run += 5) CHECK_EQ(found(index, 12, run), RUN);
        if (blocks < fewest) fewest = blocks;
        if (blocks > most) most = blocks;
        CHECK_EQ(store(index, 12, 0, RUNS), DYN_OK); /* what is there stays, the rest comes in */
        CHECK_EQ(DYN__GET(index->blocks), RUNS * RUN);
        CHECK_EQ(DYN__GET(index->worker_blocks), RUNS * RUN);
        CHECK(arenas(index, MIB) >= 3);
        CHECK_EQ(dyn__index_check(index), 0);
        forget_all(index);
        CHECK_EQ(DYN__GET(index->blocks), 0);
        dyn_index_unref(index);
    }
    CHECK(fewest == 0 && most == (size_t)RUNS * RUN);
}

TEST_MAIN(TEST(an_index_grows_over_many_arenas_and_its_bytes_are_what_is_resident), TEST(a_large_index_has_huge_arenas),
          TEST(what_comes_back_is_used_again), TEST(pages_wait_by_size_and_cannot_be_touched),
          TEST(an_index_with_a_bound_has_no_pool), TEST(no_allocation_of_growth_is_one_too_many))
