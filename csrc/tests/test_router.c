#include <math.h>
#include <pthread.h>

#include "dynamo/router.h"
#include "test.h"

/* A clock that stands still until a test moves it. */
static uint64_t now_ns;
static uint64_t clock_of_the_test(void *user)
{
    (void)user;
    return now_ns;
}

static dyn_router_config plain(uint32_t block_size)
{
    dyn_router_config config;
    dyn_router_config_init(&config, block_size);
    now_ns = 1000000000;
    config.clock = clock_of_the_test;
    config.seed = 7;
    return config;
}

static dyn_router *make(const dyn_router_config *config, int workers)
{
    dyn_router *self = NULL;
    CHECK_EQ(dyn_router_new(&self, config), DYN_OK);
    for (int i = 0; i < workers; i++) {
        dyn_router_worker worker = {.worker = 10 + i, .total_kv_blocks = 1000, .max_num_batched_tokens = 8192};
        CHECK_EQ(dyn_router_put_worker(self, &worker), DYN_OK);
    }
    return self;
}

/* Hashes base, base + 1, ... */
static uint64_t hashes[256];
static const uint64_t *chain(uint64_t base, size_t count)
{
    for (size_t i = 0; i < count; i++) hashes[i] = base + i;
    return hashes;
}

static dyn_router_held held[3];
static dyn_router_overlap overlap(uint32_t a, uint32_t b, uint32_t c)
{
    held[0] = (dyn_router_held){.worker = 10, .blocks = a};
    held[1] = (dyn_router_held){.worker = 11, .blocks = b};
    held[2] = (dyn_router_held){.worker = 12, .blocks = c};
    return (dyn_router_overlap){.count = 3, .rows = held};
}

static uint64_t book_on(dyn_router *self, uint64_t worker, uint64_t tokens, const uint64_t *sequence, size_t blocks)
{
    dyn_router_request request = {.book = true,
                                  .tokens = tokens,
                                  .sequence = sequence,
                                  .blocks = blocks,
                                  .pinned = true,
                                  .worker = worker,
                                  .rank = DYN_ROUTER_ANY_RANK};
    dyn_router_choice choice;
    CHECK_EQ(dyn_router_pick(self, &request, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(choice.worker, worker);
    return choice.ticket;
}

static double cost_on(dyn_router *self, const dyn_router_request *request, uint64_t worker)
{
    dyn_router_reason rows[8];
    size_t count;
    CHECK_EQ(dyn_router_explain(self, request, rows, 8, &count), DYN_OK);
    for (size_t i = 0; i < count; i++)
        if (rows[i].worker == worker) return rows[i].cost;
    return NAN;
}

static dyn_router_load load_of(dyn_router *self, uint64_t worker)
{
    dyn_router_load rows[8];
    size_t count = dyn_router_loads(self, rows, 8);
    for (size_t i = 0; i < count && i < 8; i++)
        if (rows[i].worker == worker) return rows[i];
    CHECK(!"the worker is in the table");
    return (dyn_router_load){0};
}

#define CHECK_NEAR(got, want) CHECK(fabs((got) - (want)) < 1e-9)

/* ---- cost, by hand --------------------------------------------------------------------------------------------- */

static void the_weight_formula_costs_what_it_should(void)
{
    dyn_router_config config = plain(16);
    config.formula = DYN_ROUTER_COST_WEIGHT;
    config.overlap_score_weight = 2;
    dyn_router *self = make(&config, 3);
    /* Worker 10 runs 100 tokens, 6 blocks. */
    book_on(self, 10, 100, chain(500, 6), 6);
    dyn_router_request r = {.tokens = 70, .sequence = chain(1, 4), .blocks = 4, .overlap = overlap(0, 3, 4)};
    /* 10: 2 * (100 + 70) / 16 + (6 + 4);  11: 2 * (70 - 48) / 16 + 4;  12: 2 * (70 - 64) / 16 + 4 */
    CHECK_NEAR(cost_on(self, &r, 10), 21.25 + 10);
    CHECK_NEAR(cost_on(self, &r, 11), 2.75 + 4);
    CHECK_NEAR(cost_on(self, &r, 12), 0.75 + 4);
    dyn_router_choice choice;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(choice.worker, 12);
    CHECK_EQ(choice.overlap_blocks, 4);
    CHECK_EQ(choice.required_blocks, 5);
    CHECK_EQ(choice.ticket, 0);
    CHECK_EQ(choice.eligible, 3);
    CHECK_NEAR(choice.cost, 4.75);
    dyn_router_unref(self);
}

static void blocks_that_are_active_already_are_not_counted_again(void)
{
    dyn_router_config config = plain(16);
    config.formula = DYN_ROUTER_COST_WEIGHT;
    dyn_router *self = make(&config, 2);
    uint64_t ticket = book_on(self, 10, 64, chain(1, 4), 4);
    CHECK_EQ(dyn_router_prefill_done(self, ticket), DYN_OK);
    /* Blocks 1..4 are active on 10; the request has 1..6: 96 tokens, 6 + (4 + 2) there, 6 + 6 elsewhere. */
    dyn_router_request r = {.tokens = 96, .sequence = chain(1, 6), .blocks = 6};
    CHECK_NEAR(cost_on(self, &r, 10), 6 + 6);
    CHECK_NEAR(cost_on(self, &r, 11), 6 + 6);
    r.blocks = 4; /* all four are there: 96 / 16 + 4 against 96 / 16 + 4 */
    CHECK_NEAR(cost_on(self, &r, 10), 6 + 4);
    r.override = (dyn_router_override){.set = DYN_ROUTER_SET_KV_REUSE, .assume_kv_reuse = false};
    CHECK_NEAR(cost_on(self, &r, 10), 6 + 8);
    dyn_router_unref(self);
}

static void the_credit_formula_costs_what_it_should(void)
{
    dyn_router_config config = plain(16);
    config.overlap_score_credit = 0.5;
    config.prefill_load_scale = 3;
    config.decode_active_request_weight = 0.25;
    dyn_router *self = make(&config, 3);
    book_on(self, 10, 160, chain(100, 10), 10); /* 160 tokens, 10 blocks, 1 request */
    const uint32_t host[3] = {0, 2, 0}, disk[3] = {0, 4, 0};
    dyn_router_request r = {.tokens = 80, .sequence = chain(1, 5), .blocks = 5, .overlap = overlap(4, 2, 0)};
    r.overlap.host = host;
    r.overlap.disk = disk;
    /* 10: 3 * ((160 + 80) / 16 - 0.5 * 4) + (10 + 5) + 0.25 */
    CHECK_NEAR(cost_on(self, &r, 10), 3 * (15 - 2) + 15 + 0.25);
    /* 11: 3 * (5 - (0.5 * 2 + 0.75 * 2 + 0.25 * 4)) + 5 */
    CHECK_NEAR(cost_on(self, &r, 11), 3 * (5 - 3.5) + 5);
    CHECK_NEAR(cost_on(self, &r, 12), 3 * 5 + 5);
    /* A shared cache with the first 3 blocks counts beyond what the device has: 0, 1 and 3 blocks. */
    r.overlap.shared = 3;
    r.override = (dyn_router_override){.set = DYN_ROUTER_SET_SHARED, .shared_cache_multiplier = 0.5};
    CHECK_NEAR(cost_on(self, &r, 10), 3 * (15 - 2) + 15 + 0.25);
    CHECK_NEAR(cost_on(self, &r, 11), 3 * (5 - 4) + 5);
    CHECK_NEAR(cost_on(self, &r, 12), 3 * (5 - 1.5) + 5);
    /* A credit above what is to be done costs nothing, not less. */
    r.override = (dyn_router_override){.set = DYN_ROUTER_SET_CREDIT, .overlap_score_credit = 100};
    CHECK_NEAR(cost_on(self, &r, 11), 5);
    dyn_router_unref(self);
}

static void the_credit_of_a_loaded_worker_decays(void)
{
    dyn_router_config config = plain(16);
    config.overlap_score_credit_decay = 2;
    dyn_router *self = make(&config, 2);
    book_on(self, 10, 320, NULL, 0); /* 320 tokens wait there: 20 blocks, 4 times the request's 5 */
    dyn_router_request r = {.tokens = 80, .sequence = chain(1, 5), .blocks = 5, .overlap = overlap(5, 5, 0)};
    CHECK_NEAR(cost_on(self, &r, 10), (320 + 80) / 16.0 - 5.0 / (1 + 2 * 4) + 5);
    CHECK_NEAR(cost_on(self, &r, 11), 5 - 5 + 5);
    dyn_router_unref(self);
}

static void the_product_formula_costs_what_it_should(void)
{
    dyn_router_config config = plain(16);
    config.formula = DYN_ROUTER_COST_PRODUCT;
    dyn_router *self = make(&config, 2);
    book_on(self, 10, 32, chain(100, 2), 2);
    dyn_router_request r = {.tokens = 64, .sequence = chain(1, 4), .blocks = 4, .overlap = overlap(3, 0, 0)};
    CHECK_NEAR(cost_on(self, &r, 10), (6 - 3) * (6 + 1));
    CHECK_NEAR(cost_on(self, &r, 11), 4 * (4 + 1));
    dyn_router_unref(self);
}

static void without_prefill_the_credit_comes_off_the_blocks(void)
{
    dyn_router_config config = plain(16);
    config.track_prefill_tokens = false;
    config.decode_active_request_weight = 1;
    dyn_router *self = make(&config, 2);
    dyn_router_worker decode = {.worker = 10, .type = DYN_ROUTER_DECODE};
    CHECK_EQ(dyn_router_put_worker(self, &decode), DYN_OK);
    book_on(self, 10, 64, chain(100, 4), 4);
    dyn_router_request r = {.tokens = 64, .sequence = chain(1, 4), .blocks = 4, .overlap = overlap(3, 3, 0)};
    CHECK_NEAR(cost_on(self, &r, 10), (4 + 4 - 3) + 1); /* credited: decode 8 - 3, one active request */
    CHECK_NEAR(cost_on(self, &r, 11), 4 - 3);           /* an aggregated one, too */
    r.overlap = overlap(0, 0, 0);
    CHECK_NEAR(cost_on(self, &r, 10), 8 + 1);
    dyn_router_unref(self);
}

static void a_weight_of_zero_takes_the_credit_away(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 2);
    dyn_router_request r = {.tokens = 64, .sequence = chain(1, 4), .blocks = 4, .overlap = overlap(4, 0, 0)};
    r.override = (dyn_router_override){.set = DYN_ROUTER_SET_WEIGHT, .overlap_score_weight = 0};
    CHECK_NEAR(cost_on(self, &r, 10), 4);
    CHECK_NEAR(cost_on(self, &r, 11), 4);
    dyn_router_reason rows[2];
    size_t count;
    CHECK_EQ(dyn_router_explain(self, &r, rows, 2, &count), DYN_OK);
    CHECK(rows[0].overlap_blocks == 0 && rows[0].prefill_tokens == 64); /* nothing counts as cached */
    r.override.overlap_score_weight = 2;
    CHECK_NEAR(cost_on(self, &r, 10), 4);
    CHECK_NEAR(cost_on(self, &r, 11), 2 * 4 + 4);
    r.override = (dyn_router_override){.set = DYN_ROUTER_SET_PREFILL_SCALE | DYN_ROUTER_SET_TRACK_PREFILL,
                                       .prefill_load_scale = 9,
                                       .track_prefill_tokens = false};
    CHECK_NEAR(cost_on(self, &r, 11), 4);
    dyn_router_unref(self);
}

static void preferred_taints_scale_the_cost(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 2);
    const char *taints[] = {"fast", "near"};
    dyn_router_worker worker = {.worker = 10, .taints = taints, .taint_count = 2};
    CHECK_EQ(dyn_router_put_worker(self, &worker), DYN_OK);
    const char *preferred[] = {"fast", "near", "other"};
    const double weights[] = {0.5, -0.25, 8};
    dyn_router_request r = {.tokens = 64,
                            .blocks = 4,
                            .sequence = chain(1, 4),
                            .preferred_taints = preferred,
                            .preferred_weights = weights,
                            .preferred_taint_count = 3};
    CHECK_NEAR(cost_on(self, &r, 10), 8 * exp(-tanh(0.25)));
    CHECK_NEAR(cost_on(self, &r, 11), 8);
    dyn_router_unref(self);
}

/* ---- choice ---------------------------------------------------------------------------------------------------- */

static void count_choices(dyn_router *self, dyn_router_request *r, int rounds, int *hits)
{
    dyn_router_choice choice;
    memset(hits, 0, 8 * sizeof(*hits));
    for (int i = 0; i < rounds; i++) {
        CHECK_EQ(dyn_router_pick(self, r, &choice, NULL, 0, NULL), DYN_OK);
        hits[choice.worker - 10]++;
        if (choice.ticket) CHECK_EQ(dyn_router_free(self, choice.ticket), DYN_OK);
    }
}

static void equals_are_chosen_uniformly(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 4);
    dyn_router_request r = {.tokens = 64, .blocks = 4, .sequence = chain(1, 4)};
    int hits[8];
    count_choices(self, &r, 8000, hits);
    for (int i = 0; i < 4; i++) CHECK(hits[i] > 1800 && hits[i] < 2200);
    /* Two are better, the others never come. */
    r.overlap = overlap(2, 2, 0);
    count_choices(self, &r, 4000, hits);
    CHECK(hits[0] > 1800 && hits[1] > 1800 && hits[2] == 0 && hits[3] == 0);
    dyn_router_unref(self);
}

static void the_smallest_tree_breaks_ties_when_asked(void)
{
    dyn_router_config config = plain(16);
    config.tie = DYN_ROUTER_TIE_SMALLEST_TREE;
    dyn_router *self = make(&config, 3);
    dyn_router_request r = {.tokens = 64, .blocks = 4, .sequence = chain(1, 4), .overlap = overlap(2, 2, 2)};
    held[0].tree = 50, held[1].tree = held[2].tree = 20;
    int hits[8];
    count_choices(self, &r, 1000, hits);
    CHECK_EQ(hits[0], 0);
    CHECK(hits[1] > 400 && hits[2] > 400);
    dyn_router_unref(self);
}

static void temperature_samples_by_softmax_over_the_range(void)
{
    dyn_router_config config = plain(16);
    config.temperature = 0.5;
    dyn_router *self = make(&config, 3);
    /* Costs: 8 - 4, 8 - 2, 8 - 0: normalised 0, 1/2, 1. */
    dyn_router_request r = {.tokens = 64, .blocks = 4, .sequence = chain(1, 4), .overlap = overlap(4, 2, 0)};
    double e0 = 1, e1 = exp(-0.5 / 0.5), e2 = exp(-1 / 0.5), sum = e0 + e1 + e2;
    int hits[8];
    count_choices(self, &r, 20000, hits);
    CHECK(fabs(hits[0] / 20000.0 - e0 / sum) < 0.02);
    CHECK(fabs(hits[1] / 20000.0 - e1 / sum) < 0.02);
    CHECK(fabs(hits[2] / 20000.0 - e2 / sum) < 0.02);
    /* A request may ask for none. */
    r.override = (dyn_router_override){.set = DYN_ROUTER_SET_TEMPERATURE, .temperature = 0};
    count_choices(self, &r, 100, hits);
    CHECK_EQ(hits[0], 100);
    /* All equal: uniform. */
    r.override.set = 0;
    r.overlap = overlap(0, 0, 0);
    count_choices(self, &r, 9000, hits);
    for (int i = 0; i < 3; i++) CHECK(hits[i] > 2700 && hits[i] < 3300);
    /* So cold that exp() underflows: still the cheapest. */
    r.overlap = overlap(4, 2, 0);
    r.override = (dyn_router_override){.set = DYN_ROUTER_SET_TEMPERATURE, .temperature = 1e-300};
    count_choices(self, &r, 100, hits);
    CHECK_EQ(hits[0], 100);
    dyn_router_unref(self);
}

static void round_robin_goes_around_and_skips(void)
{
    dyn_router_config config = plain(16);
    config.policy = DYN_ROUTER_ROUND_ROBIN;
    dyn_router *self = make(&config, 4);
    dyn_router_request r = {.book = true, .tokens = 64};
    dyn_router_choice choice;
    for (uint64_t i = 0; i < 9; i++) {
        CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
        CHECK_EQ(choice.worker, 10 + i % 4);
    }
    CHECK_EQ(dyn_router_remove_worker(self, 11, DYN_ROUTER_ANY_RANK), DYN_OK);
    const uint64_t want[] = {12, 13, 10, 12};
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
        CHECK_EQ(choice.worker, want[i]);
    }
    dyn_router_unref(self);
}

static void least_loaded_counts_requests_by_weight(void)
{
    dyn_router_config config = plain(16);
    config.policy = DYN_ROUTER_LEAST_LOADED;
    dyn_router *self = make(&config, 2);
    dyn_router_worker strong = {.worker = 11, .weight = 3};
    CHECK_EQ(dyn_router_put_worker(self, &strong), DYN_OK);
    dyn_router_request r = {.book = true, .tokens = 64};
    dyn_router_choice choice;
    for (int i = 0; i < 40; i++) CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK(load_of(self, 10).active_requests >= 10 && load_of(self, 10).active_requests <= 11);
    CHECK_EQ(load_of(self, 10).active_requests + load_of(self, 11).active_requests, 40);
    dyn_router_unref(self);
}

static void two_choices_takes_the_emptier(void)
{
    dyn_router_config config = plain(16);
    config.policy = DYN_ROUTER_TWO_CHOICES;
    dyn_router *self = make(&config, 2);
    for (int i = 0; i < 10; i++) book_on(self, 10, 16, NULL, 0);
    dyn_router_request r = {.tokens = 64};
    int hits[8];
    count_choices(self, &r, 100, hits);
    CHECK_EQ(hits[1], 100);
    dyn_router_unref(self);
}

static void random_and_direct(void)
{
    dyn_router_config config = plain(16);
    config.policy = DYN_ROUTER_RANDOM;
    dyn_router *self = make(&config, 4);
    dyn_router_request r = {.tokens = 64};
    dyn_router_choice choice;
    int hits[8];
    count_choices(self, &r, 4000, hits);
    for (int i = 0; i < 4; i++) CHECK(hits[i] > 850 && hits[i] < 1150);
    config.policy = DYN_ROUTER_DIRECT;
    CHECK_EQ(dyn_router_configure(self, &config), DYN_OK);
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EINVAL);
    book_on(self, 13, 64, NULL, 0);
    dyn_router_unref(self);
}

/* ---- booking --------------------------------------------------------------------------------------------------- */

static void a_burst_spreads_because_picks_count_at_once(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 8);
    dyn_router_choice choice;
    for (uint64_t i = 0; i < 64; i++) {
        dyn_router_request r = {.book = true, .tokens = 160, .sequence = chain(1000 * i, 10), .blocks = 10};
        CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    }
    for (uint64_t i = 0; i < 8; i++) CHECK_EQ(load_of(self, 10 + i).active_requests, 8);
    dyn_router_unref(self);
}

static void a_booking_is_counted_and_freed(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 1);
    dyn_router_request r = {.book = true,
                            .name = "a",
                            .name_length = 1,
                            .tokens = 70,
                            .sequence = chain(1, 4),
                            .blocks = 4,
                            .overlap = overlap(2, 0, 0)};
    dyn_router_choice choice;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(load_of(self, 10).active_prefill_tokens, 38);
    CHECK_NEAR(load_of(self, 10).active_decode_blocks, 4);
    CHECK(dyn_router_ticket(self, "a", 1) == choice.ticket);
    CHECK_EQ(dyn_router_ticket(self, "b", 1), 0);
    /* Another with two of its blocks: unique ones count once. */
    uint64_t other = book_on(self, 10, 40, chain(3, 2), 2);
    CHECK_EQ(load_of(self, 10).active_prefill_tokens, 78);
    CHECK_NEAR(load_of(self, 10).active_decode_blocks, 4);
    /* Prefill is done once, whatever one says. */
    CHECK_EQ(dyn_router_prefill_done(self, choice.ticket), DYN_OK);
    CHECK_EQ(dyn_router_prefill_done(self, choice.ticket), DYN_OK);
    CHECK_EQ(load_of(self, 10).active_prefill_tokens, 40);
    /* The same name again is refused and changes nothing. */
    dyn_router_choice none;
    CHECK_EQ(dyn_router_pick(self, &r, &none, NULL, 0, NULL), DYN_EEXIST);
    CHECK_EQ(load_of(self, 10).active_requests, 2);
    CHECK_EQ(dyn_router_free(self, choice.ticket), DYN_OK);
    CHECK_EQ(dyn_router_free(self, choice.ticket), DYN_ENOENT);
    CHECK_EQ(dyn_router_prefill_done(self, choice.ticket), DYN_ENOENT);
    CHECK_NEAR(load_of(self, 10).active_decode_blocks, 2);
    CHECK_EQ(dyn_router_free(self, other), DYN_OK); /* implies prefill_done */
    CHECK_EQ(load_of(self, 10).active_prefill_tokens, 0);
    CHECK_NEAR(load_of(self, 10).active_decode_blocks, 0);
    r.sequence = chain(1, 4);
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK); /* the name is free again */
    dyn_router_stats stats;
    dyn_router_get_stats(self, &stats);
    CHECK_EQ(stats.booked, 1);
    CHECK_EQ(stats.picks, 3);
    CHECK_EQ(stats.blocks, 4);
    dyn_router_unref(self);
}

static void output_blocks_count_and_fade(void)
{
    dyn_router_config config = plain(16);
    config.track_output_blocks = true;
    dyn_router *self = make(&config, 1);
    dyn_router_request r = {.book = true, .tokens = 30, .sequence = chain(1, 1), .blocks = 1};
    dyn_router_choice choice;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(dyn_router_output(self, choice.ticket, 1), DYN_OK);
    CHECK_NEAR(load_of(self, 10).active_decode_blocks, 1);
    CHECK_EQ(dyn_router_output(self, choice.ticket, 1), DYN_OK); /* 32 tokens: the second block is full */
    CHECK_NEAR(load_of(self, 10).active_decode_blocks, 2);
    CHECK_EQ(dyn_router_output(self, choice.ticket, 32), DYN_OK);
    CHECK_NEAR(load_of(self, 10).active_decode_blocks, 4);
    CHECK_EQ(dyn_router_free(self, choice.ticket), DYN_OK);
    CHECK_NEAR(load_of(self, 10).active_decode_blocks, 0);
    /* With an expected length of 64, after 48: three blocks, a quarter each. */
    r.expected_output = 64;
    r.tokens = 16;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(dyn_router_output(self, choice.ticket, 48), DYN_OK);
    CHECK_NEAR(load_of(self, 10).active_decode_blocks, 1 + 3 * 0.25);
    CHECK_EQ(dyn_router_output(self, choice.ticket, 480), DYN_OK);
    CHECK_NEAR(load_of(self, 10).active_decode_blocks, 1);
    dyn_router_unref(self);
}

static void a_booking_without_a_sign_of_life_expires(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 1);
    uint64_t first = book_on(self, 10, 64, chain(1, 4), 4), second = book_on(self, 10, 64, chain(1, 4), 4);
    now_ns += UINT64_C(200000000000);
    CHECK_EQ(dyn_router_output(self, first, 1), DYN_OK);
    now_ns += UINT64_C(101000000000);
    CHECK_EQ(dyn_router_expire(self), 1);
    CHECK_EQ(dyn_router_prefill_done(self, second), DYN_ENOENT);
    CHECK_EQ(load_of(self, 10).active_prefill_tokens, 64);
    now_ns += UINT64_C(300000000000);
    book_on(self, 10, 16, NULL, 0); /* a pick clears up, too */
    CHECK_EQ(load_of(self, 10).active_requests, 1);
    CHECK_EQ(dyn_router_free(self, first), DYN_ENOENT);
    dyn_router_unref(self);
}

static void a_worker_that_leaves_takes_its_load_along(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 2);
    uint64_t a = book_on(self, 10, 64, chain(1, 4), 4), b = book_on(self, 11, 64, chain(1, 4), 4);
    CHECK_EQ(dyn_router_remove_worker(self, 10, DYN_ROUTER_ANY_RANK), DYN_OK);
    CHECK_EQ(dyn_router_remove_worker(self, 10, DYN_ROUTER_ANY_RANK), DYN_ENOENT);
    CHECK_EQ(dyn_router_worker_count(self), 1);
    dyn_router_worker again = {.worker = 12};
    CHECK_EQ(dyn_router_put_worker(self, &again), DYN_OK); /* in the slot of 10 */
    CHECK_EQ(load_of(self, 12).active_prefill_tokens, 0);
    CHECK_EQ(dyn_router_prefill_done(self, a), DYN_OK); /* the ticket is good, and touches nobody's load */
    CHECK_EQ(dyn_router_output(self, a, 100), DYN_OK);
    CHECK_EQ(load_of(self, 12).active_prefill_tokens, 0);
    CHECK_EQ(dyn_router_free(self, a), DYN_OK);
    CHECK_EQ(load_of(self, 11).active_prefill_tokens, 64);
    CHECK_EQ(dyn_router_free(self, b), DYN_OK);
    dyn_router_stats stats;
    dyn_router_get_stats(self, &stats);
    CHECK_EQ(stats.blocks, 0);
    dyn_router_unref(self);
}

static void the_bounds_hold(void)
{
    dyn_router_config config = plain(16);
    config.max_requests = 2;
    dyn_router *self = make(&config, 1);
    uint64_t a = book_on(self, 10, 16, NULL, 0);
    book_on(self, 10, 16, NULL, 0);
    dyn_router_request r = {.book = true, .tokens = 16};
    dyn_router_choice choice;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EOVERLOAD);
    r.book = false;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(dyn_router_free(self, a), DYN_OK);
    dyn_router_stats stats;
    dyn_router_get_stats(self, &stats);
    size_t before = stats.bytes;
    config.max_requests = 1000;
    config.max_bytes = stats.bytes + 1024;
    CHECK_EQ(dyn_router_configure(self, &config), DYN_OK);
    r = (dyn_router_request){.book = true, .tokens = 4096, .sequence = chain(1, 256), .blocks = 256};
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EOVERLOAD);
    dyn_router_get_stats(self, &stats);
    CHECK_EQ(stats.bytes, before);
    CHECK_EQ(stats.booked, 1);
    dyn_router_unref(self);
}

static void a_silent_worker_is_marked(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 2);
    CHECK(load_of(self, 10).seconds_since_event < 0);
    book_on(self, 10, 64, chain(1, 4), 4);
    book_on(self, 11, 64, chain(1, 4), 4);
    now_ns += UINT64_C(59000000000);
    CHECK(!load_of(self, 10).silent);
    dyn_router_heard(self, 11, 0);
    dyn_router_heard(self, 99, 0); /* nobody yet */
    now_ns += UINT64_C(2000000000);
    CHECK(load_of(self, 10).silent);
    CHECK(!load_of(self, 11).silent);
    CHECK_NEAR(load_of(self, 11).seconds_since_event, 2);
    dyn_router_heard(self, 10, 0);
    CHECK(!load_of(self, 10).silent);
    /* What is cached whole gives no event: nobody waits for one. */
    dyn_router_request r = {
        .book = true, .tokens = 64, .sequence = chain(1, 4), .blocks = 4, .overlap = overlap(4, 4, 4)};
    dyn_router_choice choice;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    now_ns += UINT64_C(100000000000);
    CHECK(!load_of(self, 10).silent && !load_of(self, 11).silent);
    dyn_router_unref(self);
}

/* Events and discovery come by different ways: a worker that has spoken before it was listed is not one that never did. */
static void who_speaks_before_it_is_listed_was_heard(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 1);
    dyn_router_heard(self, 99, 1);
    now_ns += UINT64_C(3000000000);
    for (uint32_t rank = 0; rank < 2; rank++) {
        dyn_router_worker late = {.worker = 99, .rank = rank};
        CHECK_EQ(dyn_router_put_worker(self, &late), DYN_OK);
    }
    dyn_router_load loads[8];
    size_t count = dyn_router_loads(self, loads, 8);
    CHECK_EQ(count, 3);
    for (size_t i = 0; i < count; i++) {
        if (loads[i].worker != 99) continue;
        if (loads[i].rank == 1) CHECK_NEAR(loads[i].seconds_since_event, 3);
        if (loads[i].rank == 0) CHECK(loads[i].seconds_since_event < 0);
    }
    for (uint64_t worker = 1000; worker < 1100; worker++) dyn_router_heard(self, worker, 0); /* only so many are kept */
    for (uint64_t worker = 1000; worker < 1100; worker += 99) {
        dyn_router_worker late = {.worker = worker};
        CHECK_EQ(dyn_router_put_worker(self, &late), DYN_OK);
    }
    CHECK(load_of(self, 1000).seconds_since_event < 0);
    CHECK(load_of(self, 1099).seconds_since_event >= 0);
    dyn_router_unref(self);
}

/* ---- eligibility ----------------------------------------------------------------------------------------------- */

static void only_the_eligible_are_chosen(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 3);
    dyn_router_worker rank1 = {.worker = 12, .rank = 1};
    CHECK_EQ(dyn_router_put_worker(self, &rank1), DYN_OK);
    dyn_router_choice choice;
    const uint64_t allowed[] = {12, 99};
    dyn_router_request r = {
        .tokens = 64, .overlap = overlap(0, 0, 0), .only_allowed = true, .allowed = allowed, .allowed_count = 2};
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(choice.worker, 12);
    CHECK_EQ(choice.eligible, 2);
    r.rank_start = 1, r.rank_count = 4;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(choice.rank, 1);
    CHECK_EQ(choice.eligible, 1);
    r = (dyn_router_request){.tokens = 64, .pinned = true, .worker = 12, .rank = 0};
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK(choice.worker == 12 && choice.rank == 0 && choice.eligible == 1);
    r.rank = 5;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EUNAVAIL);
    r = (dyn_router_request){.tokens = 64, .only_allowed = true};
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EUNAVAIL);
    CHECK(strstr(dyn_error_detail(), "none of the 4") != NULL);
    dyn_router_unref(self);
    self = make(&config, 0);
    r.only_allowed = false;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EUNAVAIL);
    dyn_router_unref(self);
}

static void required_taints_are_required(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 2);
    const char *both[] = {"gpu=h100", "zone=a"}, *one[] = {"zone=a"};
    dyn_router_worker a = {.worker = 10, .taints = both, .taint_count = 2},
                      b = {.worker = 11, .taints = one, .taint_count = 1};
    CHECK_EQ(dyn_router_put_worker(self, &a), DYN_OK);
    CHECK_EQ(dyn_router_put_worker(self, &b), DYN_OK);
    dyn_router_request r = {.tokens = 64, .required_taints = both, .required_taint_count = 2};
    dyn_router_choice choice;
    dyn_router_reason rows[4];
    size_t count;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, rows, 4, &count), DYN_OK);
    CHECK_EQ(choice.worker, 10);
    CHECK_EQ(count, 2);
    CHECK(rows[0].chosen && rows[0].verdict == DYN_ROUTER_ELIGIBLE);
    CHECK(!rows[1].chosen && rows[1].verdict == DYN_ROUTER_TAINTED);
    b.taint_count = 0;
    CHECK_EQ(dyn_router_put_worker(self, &b), DYN_OK);
    CHECK_EQ(dyn_router_remove_worker(self, 10, 0), DYN_OK);
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EUNAVAIL);
    dyn_router_unref(self);
}

static void busy_workers_are_left_out(void)
{
    dyn_router_config config = plain(16);
    config.busy_decode_blocks = 0.5;
    config.busy_prefill_tokens = 1000;
    dyn_router *self = make(&config, 2);
    dyn_router_choice choice;
    dyn_router_request r = {.tokens = 64, .overlap = overlap(4, 0, 0)};
    CHECK_EQ(dyn_router_report(self, 10, 0, UINT64_MAX, UINT64_MAX, 500), DYN_OK); /* half of 1000 is not over it */
    CHECK(!load_of(self, 10).busy);
    CHECK_EQ(dyn_router_report(self, 10, 0, 501, UINT64_MAX, UINT64_MAX), DYN_OK);
    CHECK(load_of(self, 10).busy);
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(choice.worker, 11);
    book_on(self, 11, 1001, NULL, 0); /* own bookings count as well */
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EOVERLOAD);
    r.ignore_busy = true;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    r.ignore_busy = false;
    now_ns += UINT64_C(61000000000); /* an old report is forgotten */
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(choice.worker, 10);
    CHECK_EQ(dyn_router_report(self, 77, 0, 1, 1, 1), DYN_ENOENT);
    config.busy_prefill_tokens = -1;
    config.busy_prefill_fraction = 0.1; /* of 8192 */
    CHECK_EQ(dyn_router_configure(self, &config), DYN_OK);
    CHECK(load_of(self, 11).busy);
    dyn_router_unref(self);
}

static void an_avoided_worker_is_the_last_resort(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 2);
    dyn_router_choice choice;
    dyn_router_request r = {.tokens = 64, .blocks = 4, .sequence = chain(1, 4), .overlap = overlap(4, 0, 0)};
    dyn_router_reason rows[2];
    size_t count;
    CHECK_EQ(dyn_router_avoid(self, 10, DYN_ROUTER_ANY_RANK, 5), DYN_OK);
    CHECK_EQ(dyn_router_avoid(self, 99, DYN_ROUTER_ANY_RANK, 5), DYN_ENOENT);
    CHECK_EQ(dyn_router_avoid(self, 10, 0, NAN), DYN_EINVAL);
    CHECK(load_of(self, 10).avoided && !load_of(self, 11).avoided);
    CHECK_EQ(dyn_router_pick(self, &r, &choice, rows, 2, &count), DYN_OK);
    CHECK_EQ(choice.worker, 11);
    CHECK_EQ(rows[0].verdict, DYN_ROUTER_AVOIDED);
    CHECK_EQ(dyn_router_avoid(self, 11, 0, 5), DYN_OK);
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(choice.worker, 10); /* nobody else is there */
    CHECK_EQ(choice.eligible, 2);
    CHECK_EQ(dyn_router_avoid(self, 11, 0, 0), DYN_OK);
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(choice.worker, 11);
    now_ns += UINT64_C(6000000000);
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(choice.worker, 10);
    dyn_router_unref(self);
}

/* ---- waiting --------------------------------------------------------------------------------------------------- */

struct turn {
    int count, rc;
    uint64_t worker, ticket;
    int order;
};
static int turns;
static void my_turn(void *user, int rc, const dyn_router_choice *choice)
{
    struct turn *turn = user;
    turn->count++;
    turn->rc = rc;
    turn->order = turns++;
    if (choice) turn->worker = choice->worker, turn->ticket = choice->ticket;
}

static uint64_t wait_with(dyn_router *self, dyn_router_request r, struct turn *turn)
{
    dyn_router_choice choice;
    *turn = (struct turn){0};
    r.book = true;
    r.ready = my_turn;
    r.user = turn;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EAGAIN);
    CHECK(choice.ticket != 0);
    return choice.ticket;
}

static void requests_wait_until_there_is_room(void)
{
    dyn_router_config config = plain(16);
    config.queue_threshold = 0;
    dyn_router *self = make(&config, 2);
    uint64_t a = book_on(self, 10, 64, NULL, 0), b = book_on(self, 11, 64, NULL, 0);
    struct turn first, second, third;
    turns = 0;
    uint64_t t1 = wait_with(self, (dyn_router_request){.tokens = 32, .sequence = chain(1, 2), .blocks = 2}, &first);
    wait_with(self, (dyn_router_request){.tokens = 32}, &second);
    uint64_t t3 = wait_with(self, (dyn_router_request){.tokens = 32, .name = "third", .name_length = 5}, &third);
    CHECK(dyn_router_ticket(self, "third", 5) == t3);
    /* A request that does not wait passes by. */
    dyn_router_request r = {.book = false, .tokens = 1};
    dyn_router_choice choice;
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
    CHECK_EQ(first.count, 0);
    CHECK_EQ(dyn_router_prefill_done(self, b), DYN_OK);
    CHECK(first.count == 1 && first.rc == DYN_OK && first.worker == 11 && first.ticket == t1);
    CHECK_EQ(second.count, 0);
    CHECK_EQ(load_of(self, 11).active_requests, 2);
    CHECK_NEAR(load_of(self, 11).active_decode_blocks, 2);
    /* Given up. */
    CHECK_EQ(dyn_router_free(self, t3), DYN_OK);
    CHECK(third.count == 1 && third.rc == DYN_ECANCELED);
    CHECK_EQ(dyn_router_free(self, t3), DYN_ENOENT);
    CHECK_EQ(dyn_router_free(self, a), DYN_OK);
    CHECK(second.count == 1 && second.rc == DYN_OK && second.worker == 10);
    dyn_router_unref(self);
}

static void the_queue_has_an_order(void)
{
    const enum dyn_router_queue_policy policies[] = {DYN_ROUTER_FCFS, DYN_ROUTER_LCFS, DYN_ROUTER_WSPT};
    for (int p = 0; p < 3; p++) {
        dyn_router_config config = plain(16);
        config.queue_threshold = 0;
        config.queue_policy = policies[p];
        dyn_router *self = make(&config, 1);
        uint64_t first = book_on(self, 10, 64, NULL, 0);
        struct turn turn[5];
        turns = 0;
        const uint64_t tokens[5] = {300, 200, 100, 400, 500};
        for (int i = 0; i < 5; i++) {
            /* The fourth jumps by 1.5 s (arrivals are 1 s apart), the last has strict priority. */
            wait_with(
                self,
                (dyn_router_request){.tokens = tokens[i], .priority_jump = i == 3 ? 1.5 : 0, .strict_priority = i == 4},
                &turn[i]);
            now_ns += 1000000000;
        }
        uint64_t running = first;
        for (int i = 0; i < 5; i++) {
            CHECK_EQ(dyn_router_free(self, running), DYN_OK);
            for (int j = 0; j < 5; j++)
                if (turn[j].count && turn[j].order == i) running = turn[j].ticket;
        }
        /* fcfs keys 0, -1, -2, 1.5 - 3; lcfs 0, 1, 2, 4.5; wspt 1/300, 1/200, 1/100, 2.5/400 */
        const int want[3][5] = {{1, 2, 4, 3, 0}, {4, 3, 2, 1, 0}, {4, 3, 1, 2, 0}};
        for (int j = 0; j < 5; j++) CHECK_EQ(turn[j].order, want[p][j]);
        dyn_router_unref(self);
    }
}

static void a_pinned_waiter_does_not_block_others(void)
{
    dyn_router_config config = plain(16);
    config.queue_threshold = 0;
    dyn_router *self = make(&config, 2);
    book_on(self, 10, 64, NULL, 0);
    uint64_t b = book_on(self, 11, 64, NULL, 0);
    struct turn pinned, any, gone;
    wait_with(self, (dyn_router_request){.tokens = 32, .pinned = true, .worker = 10}, &pinned);
    wait_with(self, (dyn_router_request){.tokens = 32}, &any);
    CHECK_EQ(dyn_router_free(self, b), DYN_OK);
    CHECK(pinned.count == 0 && any.count == 1 && any.worker == 11);
    /* A waiter whose only worker leaves is told so. */
    CHECK_EQ(dyn_router_remove_worker(self, 10, 0), DYN_OK);
    CHECK(pinned.count == 1 && pinned.rc == DYN_EUNAVAIL);
    const char *taint[] = {"x"};
    dyn_router_worker tainted = {.worker = 12, .taints = taint, .taint_count = 1};
    CHECK_EQ(dyn_router_put_worker(self, &tainted), DYN_OK);
    book_on(self, 12, 64, NULL, 0);
    const uint64_t only[] = {12};
    const double weight[] = {1};
    wait_with(self,
              (dyn_router_request){.tokens = 32,
                                   .required_taints = taint,
                                   .required_taint_count = 1,
                                   .preferred_taints = taint,
                                   .preferred_weights = weight,
                                   .preferred_taint_count = 1,
                                   .only_allowed = true,
                                   .allowed = only,
                                   .allowed_count = 1,
                                   .overlap = overlap(1, 2, 3)},
              &gone);
    dyn_router_unref(self);
    CHECK(gone.count == 1 && gone.rc == DYN_ESHUTDOWN);
}

/* ---- memory and threads ---------------------------------------------------------------------------------------- */

static void values_that_make_no_sense_are_refused(void)
{
    dyn_router_config config = plain(0);
    dyn_router *self = NULL;
    CHECK_EQ(dyn_router_new(&self, &config), DYN_EINVAL);
    config = plain(16);
    config.temperature = NAN;
    CHECK_EQ(dyn_router_new(&self, &config), DYN_EINVAL);
    CHECK(strstr(dyn_error_detail(), "temperature") != NULL);
    config.temperature = -1;
    CHECK_EQ(dyn_router_new(&self, &config), DYN_EINVAL);
    config = plain(16);
    self = make(&config, 1);
    dyn_router_choice choice;
    dyn_router_request r = {.tokens = 10, .blocks = 1, .sequence = chain(1, 1)};
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EINVAL); /* more blocks than tokens */
    r = (dyn_router_request){.tokens = 10, .override = {.set = DYN_ROUTER_SET_TEMPERATURE, .temperature = NAN}};
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EINVAL);
    r = (dyn_router_request){.tokens = 0};
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK); /* an empty prompt may go anywhere */
    dyn_router_worker any = {.worker = 1, .rank = DYN_ROUTER_ANY_RANK};
    CHECK_EQ(dyn_router_put_worker(self, &any), DYN_EINVAL);
    static char name[DYN_ROUTER_MAX_NAME + 1];
    r = (dyn_router_request){.book = true, .name = name, .name_length = sizeof(name)};
    CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_EINVAL);
    CHECK_EQ(dyn_router_free(self, 0), DYN_ENOENT);
    CHECK_EQ(dyn_router_free(self, UINT64_MAX), DYN_ENOENT);
    dyn_router_unref(self);
}

static void each_allocation_may_fail(void)
{
    dyn_router_config config = plain(16);
    config.queue_threshold = 0;
    const char *taints[] = {"a", "b"};
    EACH_ALLOCATION_FAILS {
        dyn_router *self = NULL;
        struct turn turn = {0};
        dyn_router_choice choice;
        if ((rc = dyn_router_new(&self, &config)) < 0) continue;
        for (uint64_t i = 0; i < 9 && rc == DYN_OK; i++) {
            dyn_router_worker worker = {.worker = i, .taints = taints, .taint_count = 2};
            rc = dyn_router_put_worker(self, &worker);
        }
        for (uint64_t i = 0; i < 70 && rc == DYN_OK; i++) {
            dyn_router_request r = {.book = true,
                                    .name = (char *)&i,
                                    .name_length = 8,
                                    .tokens = 16 * 40,
                                    .sequence = chain(i * 20, 40),
                                    .blocks = 40};
            rc = dyn_router_pick(self, &r, &choice, NULL, 0, NULL);
            if (rc < 0) CHECK_EQ(choice.ticket, 0);
        }
        if (rc == DYN_OK) {
            dyn_router_request r = {.book = true,
                                    .tokens = 64,
                                    .sequence = chain(1, 4),
                                    .blocks = 4,
                                    .ready = my_turn,
                                    .user = &turn,
                                    .required_taints = taints,
                                    .required_taint_count = 1,
                                    .overlap = overlap(1, 1, 1)};
            rc = dyn_router_pick(self, &r, &choice, NULL, 0, NULL);
            if (rc == DYN_EAGAIN) rc = DYN_OK;
        }
        dyn_router_stats stats;
        dyn_router_get_stats(self, &stats);
        size_t requests = 0;
        for (uint64_t i = 0; i < 9; i++) {
            dyn_router_load rows[9];
            size_t count = dyn_router_loads(self, rows, 9);
            if (i < count) requests += rows[i].active_requests;
        }
        CHECK_EQ(requests, stats.booked); /* I1, whatever failed */
        dyn_router_unref(self);           /* asserts that every byte was counted */
        CHECK(turn.count <= 1);
    }
}

/* A small random walk against sums kept by hand. */
static void the_books_balance_after_many_steps(void)
{
    dyn_router_config config = plain(16);
    dyn_router *self = make(&config, 3);
    enum { N = 64 };
    struct {
        uint64_t ticket, base, worker, prefill;
    } live[N] = {0};
    uint64_t random = 88172645463325252u;
    for (int step = 0; step < 20000; step++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        size_t i = random % N;
        if (live[i].ticket == 0) {
            uint64_t base = 8 * (1 + (random >> 20) % 4);
            dyn_router_request r = {
                .book = true, .tokens = 100, .sequence = chain(base, 6), .blocks = 6, .overlap = overlap(0, 1, 2)};
            dyn_router_choice choice;
            CHECK_EQ(dyn_router_pick(self, &r, &choice, NULL, 0, NULL), DYN_OK);
            live[i].ticket = choice.ticket, live[i].base = base, live[i].worker = choice.worker;
            live[i].prefill = 100 - 16 * choice.overlap_blocks;
        } else if (random >> 63) {
            CHECK_EQ(dyn_router_prefill_done(self, live[i].ticket), DYN_OK);
            live[i].prefill = 0;
        } else {
            CHECK_EQ(dyn_router_free(self, live[i].ticket), DYN_OK);
            live[i].ticket = 0;
        }
        if (step % 97) continue;
        for (uint64_t w = 10; w < 13; w++) {
            uint64_t tokens = 0, requests = 0;
            char there[64] = {0};
            double blocks = 0;
            for (size_t j = 0; j < N; j++) {
                if (live[j].ticket == 0 || live[j].worker != w) continue;
                tokens += live[j].prefill;
                requests++;
                for (uint64_t b = 0; b < 6; b++) there[live[j].base + b] = 1;
            }
            for (size_t b = 0; b < sizeof(there); b++) blocks += there[b];
            dyn_router_load load = load_of(self, w);
            CHECK_EQ(load.active_prefill_tokens, tokens);
            CHECK_EQ(load.active_requests, requests);
            CHECK_NEAR(load.active_decode_blocks, blocks);
        }
        if (test_failures > 20) break;
    }
    dyn_router_unref(self);
}

/* What a request shares with running ones is found for many prompts that branch, against a plain search. */
static void shared_blocks_are_found_as_a_plain_search_finds_them(void)
{
    enum { DEPTH = 12, N = 48, WORKERS = 5 };
    dyn_router_config config = plain(16);
    config.overlap_score_credit = 0;
    config.prefill_load_scale = 0; /* the cost is the decode blocks alone */
    dyn_router *self = make(&config, WORKERS);
    static uint64_t prompt[N][DEPTH];
    uint64_t tickets[N] = {0}, worker[N] = {0}, random = 1234567;
    for (int step = 0; step < 3000; step++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        int i = (int)(random % N);
        if (tickets[i] != 0) {
            CHECK_EQ(dyn_router_free(self, tickets[i]), DYN_OK);
            tickets[i] = 0;
            continue;
        }
        /* A walk in a binary tree: the hash of a block is the path to it. */
        uint64_t path = 1;
        for (int d = 0; d < DEPTH; d++) prompt[i][d] = path = path * 2 + (d < 3 ? 0 : (random >> (20 + d)) & 1);
        worker[i] = 10 + (random >> 50) % WORKERS;
        size_t blocks = 4 + (random >> 40) % (DEPTH - 4);
        dyn_router_request r = {.tokens = 16 * DEPTH, .sequence = prompt[i], .blocks = blocks};
        dyn_router_reason rows[WORKERS];
        size_t count;
        CHECK_EQ(dyn_router_explain(self, &r, rows, WORKERS, &count), DYN_OK);
        for (size_t w = 0; w < count; w++) {
            double own = (double)blocks;
            for (size_t d = 0; d < blocks; d++) {
                bool there = false;
                for (int j = 0; j < N; j++)
                    if (tickets[j] != 0 && worker[j] == rows[w].worker)
                        for (int e = 0; e < DEPTH; e++) there |= prompt[j][e] == prompt[i][d];
                own -= there;
            }
            CHECK_NEAR(rows[w].decode_blocks, load_of(self, rows[w].worker).active_decode_blocks + own);
        }
        tickets[i] = book_on(self, worker[i], 16 * DEPTH, prompt[i], DEPTH);
        if (test_failures > 20) break;
    }
    dyn_router_unref(self);
}

static void *walker(void *arg)
{
    dyn_router *self = arg;
    uint64_t sequence[8];
    for (int i = 0; i < 3000; i++) {
        dyn_router_choice choice;
        for (uint64_t j = 0; j < 8; j++) sequence[j] = (uint64_t)(i % 50) * 4 + j;
        dyn_router_request r = {.book = true, .tokens = 128, .sequence = sequence, .blocks = 8};
        int rc = dyn_router_pick(self, &r, &choice, NULL, 0, NULL);
        if (rc == DYN_EUNAVAIL) continue;
        CHECK_EQ(rc, DYN_OK);
        dyn_router_heard(self, choice.worker, 0);
        CHECK_EQ(dyn_router_prefill_done(self, choice.ticket), DYN_OK);
        CHECK_EQ(dyn_router_free(self, choice.ticket), DYN_OK);
    }
    return NULL;
}

static void many_threads_leave_nothing_behind(void)
{
    dyn_router_config config = plain(16);
    config.clock = NULL;
    dyn_router *self = make(&config, 4);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, walker, self);
    for (int i = 0; i < 200; i++) {
        dyn_router_worker worker = {.worker = 50 + i % 3};
        CHECK_EQ(dyn_router_put_worker(self, &worker), DYN_OK);
        dyn_router_load rows[8];
        dyn_router_loads(self, rows, 8);
        CHECK_EQ(dyn_router_remove_worker(self, 50 + i % 3, 0), DYN_OK);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    dyn_router_stats stats;
    dyn_router_get_stats(self, &stats);
    CHECK_EQ(stats.booked, 0);
    CHECK_EQ(stats.blocks, 0);
    for (uint64_t w = 10; w < 14; w++) CHECK_EQ(load_of(self, w).active_prefill_tokens, 0);
    dyn_router_unref(self);
}

TEST_MAIN(TEST(the_weight_formula_costs_what_it_should), TEST(blocks_that_are_active_already_are_not_counted_again),
          TEST(the_credit_formula_costs_what_it_should), TEST(the_credit_of_a_loaded_worker_decays),
          TEST(the_product_formula_costs_what_it_should), TEST(without_prefill_the_credit_comes_off_the_blocks),
          TEST(a_weight_of_zero_takes_the_credit_away), TEST(preferred_taints_scale_the_cost),
          TEST(equals_are_chosen_uniformly), TEST(the_smallest_tree_breaks_ties_when_asked),
          TEST(temperature_samples_by_softmax_over_the_range), TEST(round_robin_goes_around_and_skips),
          TEST(least_loaded_counts_requests_by_weight), TEST(two_choices_takes_the_emptier), TEST(random_and_direct),
          TEST(a_burst_spreads_because_picks_count_at_once), TEST(a_booking_is_counted_and_freed),
          TEST(output_blocks_count_and_fade), TEST(a_booking_without_a_sign_of_life_expires),
          TEST(a_worker_that_leaves_takes_its_load_along), TEST(the_bounds_hold), TEST(a_silent_worker_is_marked),
          TEST(who_speaks_before_it_is_listed_was_heard), TEST(only_the_eligible_are_chosen),
          TEST(required_taints_are_required), TEST(busy_workers_are_left_out),
          TEST(an_avoided_worker_is_the_last_resort), TEST(requests_wait_until_there_is_room),
          TEST(the_queue_has_an_order), TEST(a_pinned_waiter_does_not_block_others),
          TEST(values_that_make_no_sense_are_refused), TEST(each_allocation_may_fail),
          TEST(the_books_balance_after_many_steps), TEST(shared_blocks_are_found_as_a_plain_search_finds_them),
          TEST(many_threads_leave_nothing_behind))
