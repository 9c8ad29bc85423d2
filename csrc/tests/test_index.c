#include <pthread.h>

#include "dynamo/hash.h"
#include "dynamo/index.h"
#include "index/inside.h"
#include "naive_index.h"
#include "test.h"

/* How many random operations; DYN_TEST_OPS=1000000 in the environment takes half a minute. */
static long operations(void)
{
    const char *text = getenv("DYN_TEST_OPS");
    return text != NULL ? atol(text) : 60000;
}

static uint64_t seed = 88172645463325252u;
static uint64_t next_random(void)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed;
}
static uint32_t below(uint32_t n)
{
    return (uint32_t)((next_random() >> 32) * n >> 32);
}

static dyn_index *make(size_t max_bytes)
{
    dyn_index *index = NULL;
    dyn_index_options options = {.max_bytes = max_bytes};
    CHECK_EQ(dyn_index_new(&index, &options), DYN_OK);
    return index;
}

static uint32_t score(const dyn_index *index, uint64_t worker, uint32_t dp_rank, const uint64_t *tokens, size_t count)
{
    dyn_overlap out[128];
    size_t found = dyn_index_find(index, tokens, count, out, 128);
    for (size_t i = 0; i < found; i++)
        if (out[i].worker == worker && out[i].dp_rank == dp_rank) return out[i].blocks;
    return 0;
}

static void overlaps_are_leading_blocks(void)
{
    dyn_index *index = make(0);
    const uint64_t names[] = {1, 2, 3, 4}, tokens[] = {101, 102, 103, 104}, wrong[] = {101, 102, 999};
    CHECK_EQ(dyn_index_stored(index, 1, 0, NULL, names, tokens, 4), DYN_OK);
    CHECK_EQ(dyn_index_stored(index, 2, 3, NULL, names, tokens, 2), DYN_OK);
    CHECK_EQ(score(index, 1, 0, tokens, 4), 4);
    CHECK_EQ(score(index, 2, 3, tokens, 4), 2);
    CHECK_EQ(score(index, 2, 0, tokens, 4), 0);
    CHECK_EQ(score(index, 1, 0, wrong, 3), 2);
    CHECK_EQ(dyn_index_find(index, tokens + 1, 1, NULL, 0), 0);
    CHECK_EQ(dyn_index_find(index, tokens, 4, NULL, 0), 2);
    CHECK_EQ(dyn_index_held(index, 1, 0), 4);
    CHECK_EQ(dyn__index_check(index), 0);
    dyn_index_unref(index);
}

/* What the vector form finds among the tags of a line, the scalar one finds. */
static void tags_match_alike_with_and_without_vectors(void)
{
    for (int i = 0; i < 20000; i++) {
        uint64_t low = next_random(), high = next_random();
        uint8_t tag = (uint8_t)below(i % 2 ? 256 : 3);
        if (i % 2 == 0) low &= UINT64_C(0x0302030201020300), high &= UINT64_C(0x00000003ff020103);
        uint32_t want = 0;
        for (int k = 0; k < DYN__LINE; k++)
            want |= (uint32_t)((uint8_t)((k < 8 ? low : high) >> k % 8 * 8) == tag) << k;
        CHECK_EQ(dyn__match_of(low, high, tag), want);
        CHECK_EQ(dyn__match_scalar(low, high, tag), want);
    }
}

static void events_that_do_not_fit_are_refused(void)
{
    dyn_index *index = make(0);
    const uint64_t names[] = {1, 2, 3}, tokens[] = {101, 102, 103}, unknown = 99, one = 1;
    CHECK_EQ(dyn_index_stored(index, 1, 0, &unknown, names, tokens, 3), DYN_EBLOCK);
    CHECK_EQ(dyn_index_removed(index, 1, 0, names, 1), DYN_EBLOCK);
    CHECK_EQ(dyn_index_stored(index, 1, 0, NULL, names, tokens, 3), DYN_OK);
    CHECK_EQ(dyn_index_stored(index, 1, 0, &one, &one, tokens, 1), DYN_EBLOCK);
    CHECK_EQ(dyn_index_stored(index, 2, 0, &one, names + 1, tokens + 1, 1), DYN_EBLOCK);
    CHECK_EQ(dyn_index_stored(index, 7, 0, &one, names, tokens, 0), DYN_EBLOCK);
    const uint64_t some[] = {3, 777, 2};
    CHECK_EQ(dyn_index_removed(index, 1, 0, some, 3), DYN_EBLOCK); /* and yet 3 and 2 are gone */
    CHECK_EQ(score(index, 1, 0, tokens, 3), 1);
    CHECK(strstr(dyn_error_detail(), "777") != NULL);
    dyn_index_options tiny = {.max_bytes = 1000};
    dyn_index *none = NULL;
    CHECK_EQ(dyn_index_new(&none, &tiny), DYN_EINVAL);
    dyn_index_unref(index);
}

static void a_gap_closes_when_its_block_comes_back(void)
{
    dyn_index *index = make(0);
    const uint64_t names[] = {1, 2, 3}, tokens[] = {101, 102, 103}, one = 1, other = 9, other_tokens = 109;
    dyn_index_stored(index, 1, 0, NULL, names, tokens, 1);
    dyn_index_stored(index, 1, 0, &one, &other, &other_tokens, 1);
    dyn_index_stored(index, 1, 0, &one, names + 1, tokens + 1, 2); /* a branch: runs end at 1 */
    CHECK_EQ(dyn_index_removed(index, 1, 0, &one, 1), DYN_OK);
    CHECK_EQ(score(index, 1, 0, tokens, 3), 0);
    CHECK_EQ(dyn__index_check(index), 0);
    CHECK_EQ(dyn_index_stored(index, 1, 0, NULL, names, tokens, 1), DYN_OK);
    CHECK_EQ(score(index, 1, 0, tokens, 3), 3);
    dyn_index_unref(index);
}

static void an_alias_removes_only_when_asked_for(void)
{
    const uint64_t mine[] = {11, 12}, yours[] = {21, 22}, tokens[] = {101, 102}, below_yours = 33, more = 103;
    for (int aliases = 0; aliases < 2; aliases++) {
        dyn_index_options options = {.aliases = aliases};
        dyn_index *index = NULL;
        CHECK_EQ(dyn_index_new(&index, &options), DYN_OK);
        dyn_index_stored(index, 1, 0, NULL, mine, tokens, 2);
        dyn_index_stored(index, 2, 0, NULL, yours, tokens, 2);
        CHECK_EQ(dyn_index_removed(index, 2, 0, mine + 1, 1), DYN_EBLOCK);
        CHECK_EQ(dyn_index_stored(index, 2, 0, yours + 1, &below_yours, &more, 1), DYN_OK);
        CHECK_EQ(dyn_index_removed(index, 2, 0, yours + 1, 1), aliases ? DYN_OK : DYN_EBLOCK);
        CHECK_EQ(score(index, 2, 0, tokens, 2), aliases ? 1 : 2);
        CHECK_EQ(dyn__index_check(index), 0);
        dyn_index_unref(index);
    }
}

/* ---- the naive twin ------------------------------------------------------------------------------------------- */
enum { IDS = 4, RANKS = 3 };

static void compare_find(const dyn_index *index, const naive_index *twin, const uint64_t *tokens, size_t count,
                         bool early)
{
    dyn_overlap out[NAIVE_WORKERS];
    uint32_t want[NAIVE_WORKERS], got[NAIVE_WORKERS] = {0};
    naive_find(twin, tokens, count, early, want);
    size_t found = (early ? dyn_index_find_early : dyn_index_find)(index, tokens, count, out, NAIVE_WORKERS);
    for (size_t i = 0; i < found; i++) {
        uint32_t w = (uint32_t)out[i].worker * RANKS + out[i].dp_rank;
        CHECK(got[w] == 0); /* nobody twice */
        got[w] = out[i].blocks;
        uint64_t held = 0;
        for (int n = 1; n < NAIVE_NODES; n++) held += twin->node[n].live && twin->node[n].workers >> w & 1;
        CHECK_EQ(out[i].held, held);
    }
    CHECK(memcmp(want, got, sizeof(want)) == 0);
}

typedef struct tally {
    const naive_index *twin;
    size_t count;
} tally;

static int compare_block(void *user, const dyn_index_block *block)
{
    tally *t = user;
    uint32_t w = (uint32_t)block->worker * RANKS + block->dp_rank;
    t->count++;
    for (int i = 1; i < NAIVE_NODES; i++) {
        const naive_node *node = &t->twin->node[i];
        if (node->live && node->workers >> w & 1 && node->name == block->block_hash &&
            node->tokens == block->tokens_hash && (node->parent != 0) == block->has_parent &&
            (node->parent == 0 || t->twin->node[node->parent].name == block->parent_hash))
            return DYN_OK;
    }
    return DYN_EBLOCK;
}

static void compare_dump(dyn_index *index, const naive_index *twin)
{
    tally t = {twin, 0};
    size_t want = 0;
    CHECK_EQ(dyn_index_dump(index, compare_block, &t), DYN_OK);
    for (int i = 1; i < NAIVE_NODES; i++)
        if (twin->node[i].live) want += (size_t)__builtin_popcount(twin->node[i].workers);
    CHECK_EQ(t.count, want);
}

/* Paths in a small world, so that they meet: few tokens per level; a name belongs to a path, or is shared, or odd. */
static size_t make_path(uint64_t *names, uint64_t *tokens, int disorder)
{
    size_t count = 1 + below(10);
    uint64_t path = 0;
    for (size_t i = 0; i < count; i++) {
        tokens[i] = 100 + below(i < 2 ? 2 : 3);
        path = (path + 1) * 1000003 + tokens[i];
        names[i] = path;
        if (disorder && below(8) == 0) names[i] = below(2) ? 7 + below(6) : path + 1;
    }
    return count;
}

static void the_index_answers_as_the_naive_twin(void)
{
    for (int round = 0; round < 4; round++) {
        naive_index *twin = calloc(1, sizeof(*twin));
        dyn_index_options options = {.aliases = twin->aliases = round == 3};
        dyn_index *index = NULL;
        uint64_t names[16], tokens[16];
        CHECK_EQ(dyn_index_new(&index, &options), DYN_OK);
        for (long op = 0; op < operations() / 4 && test_failures == 0; op++) {
            int w = (int)below(IDS * RANKS);
            uint64_t worker = (uint64_t)w / RANKS;
            uint32_t rank = (uint32_t)w % RANKS;
            size_t count = make_path(names, tokens, round);
            uint32_t what = below(100);
            if (what < 40) {
                size_t skip = below(3) == 0 ? below((uint32_t)count) : 0;
                const uint64_t *parent = skip > 0 ? &names[skip - 1] : NULL;
                int rc = dyn_index_stored(index, worker, rank, parent, names + skip, tokens + skip, count - skip);
                CHECK_EQ(rc, naive_stored(twin, w, parent, names + skip, tokens + skip, count - skip) ? DYN_OK
                                                                                                      : DYN_EBLOCK);
            } else if (what < 65) {
                size_t some = below(4), from = count > some ? count - some : 0;
                int rc = dyn_index_removed(index, worker, rank, names + from, count - from);
                CHECK_EQ(rc, naive_removed(twin, w, names + from, count - from) ? DYN_OK : DYN_EBLOCK);
            } else if (what < 66) {
                CHECK_EQ(dyn_index_cleared(index, worker, rank), DYN_OK);
                naive_cleared(twin, w);
            } else if (what < 67 && below(4) == 0) {
                CHECK_EQ((below(2) ? dyn_index_clear_worker : dyn_index_remove_worker)(index, worker), DYN_OK);
                for (int r = 0; r < RANKS; r++) naive_cleared(twin, (int)worker * RANKS + r);
            } else {
                compare_find(index, twin, tokens, count, below(2));
            }
            if (op % 1000 == 0) {
                CHECK_EQ(dyn__index_check(index), 0);
                compare_dump(index, twin);
            }
        }
        dyn_index_unref(index);
        free(twin);
    }
}

/* ---- scale, bound, allocation --------------------------------------------------------------------------------- */
static void many_blocks_are_all_found_and_all_removed(void)
{
    enum { CHAINS = 3000, LENGTH = 40 };
    dyn_index *index = make(0);
    static uint64_t names[CHAINS][LENGTH], tokens[CHAINS][LENGTH];
    dyn_index_stats stats;
    for (int c = 0; c < CHAINS; c++) {
        for (int i = 0; i < LENGTH; i++)
            names[c][i] = c * 1000 + i + 1, tokens[c][i] = i < 3 ? (uint64_t)i : next_random();
        CHECK_EQ(dyn_index_stored(index, c % 100, 0, NULL, names[c], tokens[c], LENGTH), DYN_OK);
    }
    dyn_index_stats_get(index, &stats);
    CHECK_EQ(stats.blocks, CHAINS * (LENGTH - 3) + 3);
    CHECK_EQ(stats.workers, 100);
    for (int c = 0; c < CHAINS; c++) CHECK_EQ(score(index, c % 100, 0, tokens[c], LENGTH) >= 3, 1);
    CHECK_EQ(dyn__index_check(index), 0);
    for (int c = 0; c < CHAINS; c++) CHECK_EQ(dyn_index_removed(index, c % 100, 0, &names[c][3], 1), DYN_OK);
    dyn_index_stats_get(index, &stats);
    CHECK_EQ(stats.blocks, 3);
    for (int c = 0; c < 100; c++) CHECK_EQ(dyn_index_remove_worker(index, c), DYN_OK);
    dyn_index_stats_get(index, &stats);
    CHECK_EQ(stats.blocks, 0);
    CHECK_EQ(stats.worker_blocks, 0);
    CHECK_EQ(stats.sets, 0);
    CHECK_EQ(stats.workers, 0);
    dyn_index_unref(index);
}

static void the_bound_holds_and_hot_blocks_stay(void)
{
    enum { LENGTH = 16 };
    dyn_index *index = make(2 << 20);
    dyn_index_stats stats;
    uint64_t hot[LENGTH], names[LENGTH], tokens[LENGTH];
    for (int i = 0; i < LENGTH; i++) hot[i] = next_random();
    CHECK_EQ(dyn_index_stored(index, 1, 0, NULL, hot, hot, LENGTH), DYN_OK);
    for (int c = 0; c < 20000; c++) {
        for (int i = 0; i < LENGTH; i++) names[i] = tokens[i] = next_random();
        CHECK_EQ(dyn_index_stored(index, c % 8, 0, NULL, names, tokens, LENGTH), DYN_OK);
        if (c % 10 == 0) CHECK_EQ(score(index, 1, 0, hot, LENGTH), LENGTH);
        if (c % 1000 == 0) {
            dyn_index_stats_get(index, &stats);
            CHECK(stats.bytes <= stats.max_bytes);
        }
    }
    dyn_index_stats_get(index, &stats);
    CHECK(stats.bytes <= stats.max_bytes);
    CHECK(stats.evicted > 200000);
    CHECK(stats.blocks > 20000);
    CHECK_EQ(dyn__index_check(index), 0);
    dyn_index_unref(index);
}

static void lopsided_names_and_tokens_do_not_hurt(void)
{
    dyn_index *index = make(0);
    uint64_t start = dyn_now_ns(), zero = 0;
    for (uint64_t i = 0; i < 20000; i++) { /* one name for all, tokens in a row */
        uint64_t tokens[2] = {i, i << 40};
        uint64_t names[2] = {zero, zero};
        CHECK_EQ(dyn_index_stored(index, 1, 0, NULL, names, tokens, 2), DYN_OK);
    }
    CHECK(dyn_now_ns() - start < UINT64_C(5000000000));
    CHECK_EQ(dyn_index_held(index, 1, 0), 40000);
    CHECK_EQ(dyn_index_removed(index, 1, 0, &zero, 1), DYN_OK);
    dyn_index_unref(index);
}

static int count_block(void *user, const dyn_index_block *block)
{
    (void)block;
    ++*(int *)user;
    return DYN_OK;
}

static void every_failed_allocation_leaves_a_sound_index(void)
{
    EACH_ALLOCATION_FAILS {
        dyn_index *index = NULL;
        const dyn_index_options options = {.expiration_ms = 100, .aliases = true};
        uint64_t names[40], other[40], tokens[40];
        dyn_overlap out[8];
        size_t found, frequency_count;
        uint32_t frequencies[40];
        for (uint64_t i = 0; i < 40; i++) names[i] = i + 1, other[i] = i + 100, tokens[i] = i * i;
        if ((rc = dyn_index_new(&index, &options)) < 0) continue;
        if ((rc = dyn_index_stored(index, 1, 0, NULL, names, tokens, 40)) == DYN_OK &&
            (rc = dyn_index_stored(index, 2, 0, NULL, names, tokens, 30)) == DYN_OK &&
            (rc = dyn_index_stored(index, 3, 1, NULL, other, tokens, 20)) == DYN_OK &&
            (rc = dyn_index_stored(index, 2, 0, &names[5], other, other, 5)) == DYN_OK &&
            (rc = dyn_index_stored(index, 2, 0, &names[5], names, names, 5)) == DYN_OK &&
            (rc = dyn_index_find_counted(index, tokens, 40, 1, out, 8, &found, frequencies, &frequency_count)) ==
                DYN_OK &&
            (rc = dyn_index_removed(index, 3, 1, other + 3, 1)) == DYN_OK &&
            (rc = dyn_index_removed(index, 1, 0, names + 10, 1)) == DYN_OK)
            rc = dyn_index_remove_worker(index, 2);
        dyn__fail_after = -1;
        CHECK(rc == DYN_OK || rc == DYN_ENOMEM);
        CHECK_EQ(dyn__index_check(index), 0);
        dyn_index_unref(index);
    }
}

static void finds_are_counted_until_they_expire(void)
{
    dyn_index *index = NULL;
    const dyn_index_options options = {.expiration_ms = 100};
    const uint64_t names[] = {1, 2, 3}, tokens[] = {101, 102, 103};
    dyn_overlap out[4];
    size_t found, count;
    uint32_t frequencies[3];
    CHECK_EQ(dyn_index_new(&index, &options), DYN_OK);
    CHECK_EQ(dyn_index_stored(index, 1, 0, NULL, names, tokens, 3), DYN_OK);
    CHECK_EQ(dyn_index_find_counted(index, tokens, 3, 1000, out, 4, &found, frequencies, &count), DYN_OK);
    CHECK_EQ(found, 1);
    CHECK_EQ(count, 0); /* zeros are left out */
    CHECK_EQ(dyn_index_find_counted(index, tokens, 2, 1050, out, 4, &found, frequencies, &count), DYN_OK);
    CHECK_EQ(count, 2);
    CHECK_EQ(frequencies[0], 1);
    CHECK_EQ(dyn_index_find_counted(index, tokens, 3, 1120, out, 4, &found, frequencies, &count), DYN_OK);
    CHECK_EQ(count, 2); /* the find at 1000 has expired: blocks 1 and 2 were found once since */
    CHECK_EQ(dyn_index_find_counted(index, tokens, 3, 5000, out, 4, &found, frequencies, &count), DYN_OK);
    CHECK_EQ(count, 0);
    dyn_index_unref(index);
    index = make(0);
    CHECK_EQ(dyn_index_find_counted(index, tokens, 3, 0, out, 4, &found, frequencies, &count), DYN_EINVAL);
    dyn_index_unref(index);
}

/* ---- readers beside a writer ---------------------------------------------------------------------------------- */
enum { READERS = 4, STABLE = 300 };
typedef struct crowd {
    dyn_index *index;
    atomic_bool stop;
    uint64_t stable[STABLE], moving[64][64];
    atomic_long finds, wrong;
} crowd;

static void *read_on(void *argument)
{
    crowd *c = argument;
    dyn_overlap out[64];
    for (uint32_t n = (uint32_t)(uintptr_t)&out; !atomic_load(&c->stop); n++) {
        size_t found = dyn_index_find(c->index, c->stable, STABLE, out, 64);
        bool there = false;
        for (size_t i = 0; i < found && i < 64; i++) {
            there |= out[i].worker == 1000 && out[i].blocks == STABLE;
            for (size_t j = 0; j < i; j++)
                if (out[i].worker == out[j].worker && out[i].dp_rank == out[j].dp_rank) atomic_fetch_add(&c->wrong, 1);
        }
        if (!there) atomic_fetch_add(&c->wrong, 1);
        found = dyn_index_find(c->index, c->moving[n % 64], 64, out, 64);
        for (size_t i = 0; i < found && i < 64; i++)
            if (out[i].blocks > 64 || out[i].blocks == 0 || out[i].worker > 1000) atomic_fetch_add(&c->wrong, 1);
        atomic_fetch_add(&c->finds, 2);
    }
    return NULL;
}

static void readers_beside_a_writer_see_whole_answers(void)
{
    static crowd c;
    pthread_t reader[READERS];
    seed = 4711;
    c.index = make(0);
    for (int i = 0; i < STABLE; i++) c.stable[i] = next_random();
    for (int p = 0; p < 64; p++)
        for (int i = 0; i < 64; i++) c.moving[p][i] = i < 8 ? c.stable[i] : next_random();
    CHECK_EQ(dyn_index_stored(c.index, 1000, 0, NULL, c.stable, c.stable, STABLE), DYN_OK);
    for (int i = 0; i < READERS; i++) pthread_create(&reader[i], NULL, read_on, &c);
    uint64_t until = dyn_now_ns() + UINT64_C(1500000000);
    long ops = 0;
    for (; dyn_now_ns() < until; ops++) {
        uint64_t *path = c.moving[below(64)], worker = below(12), fresh[32];
        switch (below(6)) {
        case 0:
        case 1: CHECK_EQ(dyn_index_stored(c.index, worker, below(3), NULL, path, path, 1 + below(64)), DYN_OK); break;
        case 2: dyn_index_removed(c.index, worker, below(3), &path[below(64)], 1); break;
        case 3:
            for (int i = 0; i < 32; i++) fresh[i] = next_random();
            dyn_index_stored(c.index, worker, 0, NULL, fresh, fresh, 32);
            break;
        case 4: dyn_index_stored(c.index, worker, 1, NULL, c.stable, c.stable, below(STABLE)); break;
        default:
            if (below(50) == 0) dyn_index_remove_worker(c.index, worker);
        }
    }
    atomic_store(&c.stop, true);
    for (int i = 0; i < READERS; i++) pthread_join(reader[i], NULL);
    CHECK_EQ(atomic_load(&c.wrong), 0);
    CHECK(atomic_load(&c.finds) > 1000 && ops > 100);
    CHECK_EQ(dyn__index_check(c.index), 0);
    dyn_index_unref(c.index);
}

/* ---- approximate ---------------------------------------------------------------------------------------------- */
static uint32_t approx_score(dyn_approx *approx, uint64_t worker, const uint64_t *tokens, size_t count, uint64_t now)
{
    dyn_overlap out[8];
    size_t found = dyn_approx_find(approx, tokens, count, now, out, 8);
    for (size_t i = 0; i < found; i++)
        if (out[i].worker == worker) return out[i].blocks;
    return 0;
}

static void what_was_routed_is_believed_for_a_while(void)
{
    dyn_approx *approx = NULL;
    const uint64_t a[] = {1, 2, 3, 4}, b[] = {1, 2, 9};
    CHECK_EQ(dyn_approx_new(&approx, 0, 0), DYN_EINVAL);
    CHECK_EQ(dyn_approx_new(&approx, 1000, 0), DYN_OK);
    CHECK_EQ(dyn_approx_routed(approx, 1, 0, a, 4, 0), DYN_OK);
    CHECK_EQ(dyn_approx_routed(approx, 2, 0, a, 2, 400), DYN_OK);
    CHECK_EQ(dyn_approx_routed(approx, 1, 0, b, 3, 500), DYN_OK);
    CHECK_EQ(approx_score(approx, 1, a, 4, 999), 4);
    CHECK_EQ(approx_score(approx, 1, a, 4, 1000), 2); /* 3 4 are over, 1 2 were routed again */
    CHECK_EQ(approx_score(approx, 1, b, 3, 1000), 3);
    CHECK_EQ(approx_score(approx, 2, a, 4, 1000), 2);
    CHECK_EQ(approx_score(approx, 2, a, 4, 1400), 0);
    CHECK_EQ(approx_score(approx, 1, b, 3, 1500), 0);
    dyn_index_stats stats;
    dyn_approx_stats_get(approx, &stats);
    CHECK_EQ(stats.blocks, 0);
    CHECK_EQ(dyn_approx_routed(approx, 1, 0, a, 4, 2000), DYN_OK);
    CHECK_EQ(dyn_approx_routed(approx, 1, 0, a, 2, 2000), DYN_OK);
    CHECK_EQ(dyn_approx_remove_worker(approx, 1), DYN_OK);
    CHECK_EQ(approx_score(approx, 1, a, 4, 2001), 0);
    CHECK_EQ(dyn_approx_routed(approx, 1, 1, a, 3, 2500), DYN_OK);
    CHECK_EQ(approx_score(approx, 1, a, 4, 3001), 3);
    int blocks = 0;
    CHECK_EQ(dyn_approx_dump(approx, count_block, &blocks), DYN_OK);
    CHECK_EQ(blocks, 3);
    dyn_approx_unref(approx);
}

/* The rule in one sentence: a block of a worker lives as long as the youngest decision through it. */
static void the_approximate_index_agrees_with_its_rule(void)
{
    enum { DECISIONS = 400, LENGTH = 6 };
    struct {
        uint64_t worker, tokens[LENGTH], until;
        size_t count;
    } log[DECISIONS];
    dyn_approx *approx = NULL;
    CHECK_EQ(dyn_approx_new(&approx, 500, 0), DYN_OK);
    uint64_t now = 0;
    for (int d = 0; d < DECISIONS; d++) {
        now += below(20);
        log[d].worker = below(3), log[d].count = 1 + below(LENGTH), log[d].until = (now + 500 + 99) / 100 * 100;
        for (int i = 0; i < LENGTH; i++) log[d].tokens[i] = below(2);
        CHECK_EQ(dyn_approx_routed(approx, log[d].worker, 0, log[d].tokens, log[d].count, now), DYN_OK);
        uint64_t query[LENGTH], worker = below(3);
        for (int i = 0; i < LENGTH; i++) query[i] = below(2);
        uint32_t want = 0;
        for (int e = 0; e <= d; e++) {
            if (log[e].worker != worker || log[e].until <= now) continue;
            uint32_t n = 0;
            while (n < log[e].count && log[e].tokens[n] == query[n]) n++;
            if (n > want) want = n;
        }
        CHECK_EQ(approx_score(approx, worker, query, LENGTH, now), want);
    }
    CHECK_EQ(approx_score(approx, 0, log[0].tokens, 1, now + 1000), 0);
    dyn_index_stats stats;
    dyn_approx_stats_get(approx, &stats);
    CHECK_EQ(stats.blocks, 0);
    dyn_approx_unref(approx);
}

static void the_approximate_index_forgets_the_oldest_at_its_bound(void)
{
    dyn_approx *approx = NULL;
    uint64_t tokens[64];
    dyn_index_stats stats;
    CHECK_EQ(dyn_approx_new(&approx, 1000000, 1 << 20), DYN_OK);
    for (int d = 0; d < 3000; d++) {
        for (int i = 0; i < 64; i++) tokens[i] = next_random();
        CHECK_EQ(dyn_approx_routed(approx, 1, 0, tokens, 64, (uint64_t)d), DYN_OK);
        CHECK_EQ(approx_score(approx, 1, tokens, 64, (uint64_t)d), 64);
    }
    dyn_approx_stats_get(approx, &stats);
    CHECK(stats.bytes <= (1 << 20) + 4096);
    CHECK(stats.blocks > 5000);
    dyn_approx_unref(approx);
}

TEST_MAIN(TEST(overlaps_are_leading_blocks), TEST(tags_match_alike_with_and_without_vectors),
          TEST(events_that_do_not_fit_are_refused), TEST(a_gap_closes_when_its_block_comes_back),
          TEST(an_alias_removes_only_when_asked_for), TEST(the_index_answers_as_the_naive_twin),
          TEST(many_blocks_are_all_found_and_all_removed), TEST(the_bound_holds_and_hot_blocks_stay),
          TEST(lopsided_names_and_tokens_do_not_hurt), TEST(every_failed_allocation_leaves_a_sound_index),
          TEST(finds_are_counted_until_they_expire), TEST(readers_beside_a_writer_see_whole_answers),
          TEST(what_was_routed_is_believed_for_a_while), TEST(the_approximate_index_agrees_with_its_rule),
          TEST(the_approximate_index_forgets_the_oldest_at_its_bound))
