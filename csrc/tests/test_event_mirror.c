/* What a publisher knows of its worker's cache, held against a plain list. */
#include "common/common.h"
#include "events/mirror.h"
#include "test.h"

enum { BLOCKS = 600, RANKS = 2 };

/* The plain list: block b of a rank has parent[b], 0: none. */
static bool held[RANKS][BLOCKS + 1];
static uint64_t parent[BLOCKS + 1];

static uint64_t next(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return *seed >> 33;
}

static dyn_event event_of(enum dyn_event_kind kind, uint32_t rank, uint64_t *block, uint64_t *token, uint64_t above)
{
    return (dyn_event){.kind = kind,
                       .dp_rank = rank,
                       .count = kind == DYN_EVENT_CLEARED ? 0 : 1,
                       .block_hashes = block,
                       .tokens_hashes = token,
                       .has_parent = above != 0,
                       .parent = above};
}

struct told {
    bool there[RANKS][BLOCKS + 1];
    size_t count, events;
};

static int take(void *user, const dyn_event *event)
{
    struct told *told = user;
    told->events++;
    CHECK_EQ(event->kind, DYN_EVENT_STORED);
    if (event->has_parent) CHECK(told->there[event->dp_rank][event->parent]); /* parents first */
    for (size_t i = 0; i < event->count; i++) {
        uint64_t block = event->block_hashes[i];
        CHECK_EQ(event->tokens_hashes[i], block + 7);
        CHECK_EQ(parent[block], i > 0 ? event->block_hashes[i - 1] : event->has_parent ? event->parent : 0);
        CHECK(!told->there[event->dp_rank][block]);
        told->there[event->dp_rank][block] = true;
        told->count++;
    }
    return DYN_OK;
}

static bool reached(uint32_t rank, uint64_t block)
{
    for (; block != 0; block = parent[block])
        if (!held[rank][block]) return false;
    return true;
}

static void compare(const dyn__mirror *mirror)
{
    struct told told = {.count = 0};
    dyn__mirror copy;
    size_t all = 0;
    CHECK_EQ(dyn__mirror_copy(&copy, mirror), DYN_OK);
    CHECK_EQ(dyn__mirror_walk(&copy, take, &told), DYN_OK);
    dyn__mirror_free(&copy);
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        for (uint64_t block = 1; block <= BLOCKS; block++) {
            all += held[rank][block];
            CHECK_EQ(told.there[rank][block], held[rank][block] && reached(rank, block));
        }
    }
    CHECK_EQ(mirror->count, all);
}

static void it_holds_what_the_events_say(void)
{
    dyn__mirror mirror = {.most = 1 << 20};
    uint64_t seed = 1;
    memset(held, 0, sizeof held);
    for (uint64_t block = 1; block <= BLOCKS; block++) parent[block] = next(&seed) % 8 == 0 ? 0 : next(&seed) % block;
    for (int step = 0; step < 40000; step++) {
        uint32_t rank = next(&seed) % RANKS;
        uint64_t block = 1 + next(&seed) % BLOCKS, token = block + 7;
        unsigned what = next(&seed) % 2000;
        enum dyn_event_kind kind = what == 0 ? DYN_EVENT_CLEARED : what < 900 ? DYN_EVENT_REMOVED : DYN_EVENT_STORED;
        dyn_event event = event_of(kind, rank, &block, &token, parent[block]);
        dyn__mirror_apply(&mirror, &event);
        if (kind == DYN_EVENT_CLEARED)
            memset(held[rank], 0, sizeof held[rank]);
        else
            held[rank][block] = kind == DYN_EVENT_STORED;
        if (step % 500 == 0) compare(&mirror);
    }
    compare(&mirror);
    dyn__mirror_free(&mirror);
}

static void a_store_of_many_is_a_chain_and_comes_back_as_one(void)
{
    dyn__mirror mirror = {.most = 100};
    uint64_t blocks[50], tokens[50];
    struct told told = {.count = 0};
    for (uint64_t i = 0; i < 50; i++) blocks[i] = i + 1, tokens[i] = i + 8, parent[i + 1] = i;
    dyn_event event = event_of(DYN_EVENT_STORED, 0, blocks, tokens, 0);
    event.count = 50;
    dyn__mirror_apply(&mirror, &event);
    CHECK_EQ(dyn__mirror_walk(&mirror, take, &told), DYN_OK);
    CHECK_EQ(told.count, 50);
    CHECK(told.events <= 50);
    event.tier = DYN_TIER_HOST; /* not on the device: not its business */
    blocks[0] = 99;
    dyn__mirror_apply(&mirror, &event);
    CHECK_EQ(mirror.count, 50);
    dyn__mirror_free(&mirror);
}

static void blocks_that_name_each_other_end_a_walk(void)
{
    dyn__mirror mirror = {.most = 100};
    struct told told = {.count = 0};
    for (uint64_t block = 1; block <= 3; block++) { /* 1 -> 3 -> 2 -> 1; 4 -> 4; 5 -> 1 */
        uint64_t token = 0;
        dyn_event event = event_of(DYN_EVENT_STORED, 0, &block, &token, block == 1 ? 3 : block - 1);
        dyn__mirror_apply(&mirror, &event);
    }
    for (uint64_t block = 4; block <= 5; block++) {
        uint64_t token = 0;
        dyn_event event = event_of(DYN_EVENT_STORED, 0, &block, &token, block == 4 ? 4 : 1);
        dyn__mirror_apply(&mirror, &event);
    }
    CHECK_EQ(dyn__mirror_walk(&mirror, take, &told), DYN_OK);
    CHECK_EQ(told.count, 0);
    dyn__mirror_free(&mirror);
}

static void over_its_bound_it_is_off_until_all_is_cleared(void)
{
    dyn__mirror mirror = {.most = 10}, copy;
    dyn_log_set_level(DYN_LOG_OFF);
    for (uint64_t block = 1; block <= 11; block++) {
        uint64_t token = 0;
        CHECK(!mirror.off);
        dyn_event event = event_of(DYN_EVENT_STORED, 0, &block, &token, 0);
        dyn__mirror_apply(&mirror, &event);
    }
    CHECK(mirror.off);
    CHECK_EQ(mirror.count, 0);
    CHECK_EQ(dyn__mirror_copy(&copy, &mirror), DYN_EUNAVAIL);
    dyn_event cleared = event_of(DYN_EVENT_CLEARED, 0, NULL, NULL, 0);
    dyn__mirror_apply(&mirror, &cleared);
    CHECK(!mirror.off);
    CHECK_EQ(dyn__mirror_copy(&copy, &mirror), DYN_OK);
    for (uint64_t block = 1; block <= 11; block++) { /* of two ranks one that is cleared says nothing of the other */
        uint64_t token = 0;
        dyn_event event = event_of(DYN_EVENT_STORED, block % 2, &block, &token, 0);
        dyn__mirror_apply(&mirror, &event);
    }
    CHECK(mirror.off);
    dyn__mirror_apply(&mirror, &cleared);
    CHECK(mirror.off);
    dyn__mirror_free(&mirror);
    dyn_log_set_level(DYN_LOG_WARN);
}

static int ignore(void *user, const dyn_event *event)
{
    (void)user, (void)event;
    return DYN_OK;
}

static void every_allocation_may_fail(void)
{
    dyn_log_set_level(DYN_LOG_OFF);
    EACH_ALLOCATION_FAILS {
        dyn__mirror mirror = {.most = 1000}, copy = {0};
        for (uint64_t block = 1; block <= 300; block++) {
            uint64_t token = 0;
            dyn_event event = event_of(DYN_EVENT_STORED, block % 2, &block, &token, block > 2 ? block - 2 : 0);
            dyn__mirror_apply(&mirror, &event);
        }
        dyn_event cleared = event_of(DYN_EVENT_CLEARED, 0, NULL, NULL, 0);
        dyn__mirror_apply(&mirror, &cleared);
        rc = mirror.off ? DYN_ENOMEM : dyn__mirror_copy(&copy, &mirror);
        if (rc == DYN_OK) rc = dyn__mirror_walk(&copy, ignore, NULL);
        dyn__mirror_free(&mirror);
        dyn__mirror_free(&copy);
    }
    dyn_log_set_level(DYN_LOG_WARN);
}

TEST_MAIN(TEST(it_holds_what_the_events_say), TEST(a_store_of_many_is_a_chain_and_comes_back_as_one),
          TEST(blocks_that_name_each_other_end_a_walk), TEST(over_its_bound_it_is_off_until_all_is_cleared),
          TEST(every_allocation_may_fail))
