#include "dynamo/hash.h"
#include "dynamo/mocker.h"
#include "mocker/pool.h"
#include "test.h"

/* A naive mirror of what the events say is cached, and the tokens that came. */
static uint64_t told[4096];
static size_t told_count, out_count, finished_count, admitted_cached;
static uint32_t out[4096];
static uint64_t out_request[4096];

static void on_stored(void *user, const uint64_t *parent, const uint64_t *sequences, const uint64_t *locals,
                      size_t count)
{
    (void)user, (void)locals;
    bool has_parent = parent == NULL;
    for (size_t i = 0; i < told_count && !has_parent; i++) has_parent = told[i] == *parent;
    CHECK(has_parent);
    for (size_t k = 0; k < count; k++) {
        for (size_t i = 0; i < told_count; i++) CHECK(told[i] != sequences[k]);
        told[told_count++] = sequences[k];
    }
}
static void on_removed(void *user, const uint64_t *sequences, size_t count)
{
    (void)user;
    for (size_t k = 0; k < count; k++) {
        size_t i = 0;
        while (i < told_count && told[i] != sequences[k]) i++;
        CHECK(i < told_count);
        told[i] = told[--told_count];
    }
}
static void on_token(void *user, const dyn_mocker_token *token)
{
    (void)user;
    out_request[out_count] = token->request;
    out[out_count++] = token->token;
    finished_count += token->finished;
}
static void on_admitted(void *user, uint64_t request, size_t cached, size_t fresh)
{
    (void)user, (void)request, (void)fresh;
    admitted_cached = cached;
}
static const dyn_mocker_sink sink = {NULL, on_token, on_stored, on_removed, on_admitted};

static dyn_mocker *make(size_t blocks, size_t block_size)
{
    dyn_mocker_config config;
    dyn_mocker *self = NULL;
    dyn_mocker_config_init(&config);
    config.blocks = blocks, config.block_size = block_size, config.max_batched_tokens = 64, config.max_sequences = 8;
    told_count = out_count = finished_count = 0;
    CHECK_EQ(dyn_mocker_new(&self, &config, &sink), DYN_OK);
    return self;
}
static double run_dry(dyn_mocker *self)
{
    double total = 0, ms;
    for (int i = 0; i < 100000 && !dyn_mocker_idle(self); i++) {
        CHECK_EQ(dyn_mocker_step(self, &ms), DYN_OK);
        total += ms;
    }
    CHECK(dyn_mocker_idle(self));
    return total;
}
static uint32_t prompt[600];

static void a_request_gets_its_tokens_and_the_time_of_the_formulas(void)
{
    dyn_mocker *self = make(64, 4);
    CHECK_EQ(dyn_mocker_submit(self, 7, prompt, 10, 3), DYN_OK);
    double total = run_dry(self);
    CHECK_EQ(out_count, 3);
    CHECK_EQ(finished_count, 1);
    CHECK_EQ(told_count, 2 + 1); /* 10 prompt tokens and 2 of the 3 generated are in the cache: 3 complete blocks */
    double want = dyn_mocker_prefill_ms(DYN_MOCKER_2025, 10) + dyn_mocker_decode_ms(DYN_MOCKER_2025, 3.0 / 64) +
                  dyn_mocker_decode_ms(DYN_MOCKER_2025, 3.0 / 64);
    CHECK(total > want - 1e-9 && total < want + 1e-9);
    dyn_mocker_free(self);
}

static void a_second_request_finds_the_prefix(void)
{
    dyn_mocker *self = make(64, 4);
    dyn_mocker_submit(self, 1, prompt, 40, 2);
    run_dry(self);
    dyn_mocker_submit(self, 2, prompt, 40, 2);
    run_dry(self);
    CHECK_EQ(admitted_cached, 36); /* the last block is computed again: one token at least must be */
    dyn_mocker_submit(self, 3, prompt, 43, 2);
    run_dry(self);
    CHECK_EQ(admitted_cached, 40);
    dyn_mocker_clear(self);
    CHECK_EQ(told_count, 0);
    dyn_mocker_free(self);
}

static void the_rest_is_the_same_after_going_on_elsewhere(void)
{
    dyn_mocker *self = make(64, 4);
    uint32_t grown[64];
    dyn_mocker_submit(self, 1, prompt, 10, 20);
    run_dry(self);
    uint32_t whole[20];
    memcpy(whole, out, sizeof(whole));
    memcpy(grown, prompt, 10 * sizeof(uint32_t));
    memcpy(grown + 10, whole, 8 * sizeof(uint32_t));
    dyn_mocker *other = make(64, 16);
    dyn_mocker_submit(other, 9, grown, 18, 12);
    run_dry(other);
    CHECK(memcmp(out, whole + 8, 12 * sizeof(uint32_t)) == 0);
    dyn_mocker_free(self);
    dyn_mocker_free(other);
}

static void a_full_pool_preempts_and_everyone_still_gets_all_tokens(void)
{
    for (int oldest = 0; oldest < 2; oldest++) {
        dyn_mocker_config config;
        dyn_mocker *self;
        dyn_mocker_stats stats;
        dyn_mocker_config_init(&config);
        config.blocks = 20, config.block_size = 4, config.max_batched_tokens = 64;
        config.preemption = oldest ? DYN_MOCKER_OLDEST : DYN_MOCKER_NEWEST;
        told_count = out_count = finished_count = 0;
        CHECK_EQ(dyn_mocker_new(&self, &config, &sink), DYN_OK);
        for (uint64_t id = 0; id < 6; id++) dyn_mocker_submit(self, id, prompt + id * 20, 12, 40);
        run_dry(self);
        dyn_mocker_get_stats(self, &stats);
        CHECK(stats.preemptions > 0);
        CHECK_EQ(stats.finished, 6);
        CHECK_EQ(out_count, 240);
        CHECK_EQ(stats.active_blocks, 0);
        CHECK_EQ(stats.inactive_blocks, told_count);
        dyn_mocker_free(self);
    }
}

static void random_work_keeps_pool_and_events_true(void)
{
    uint64_t seed = 42;
    dyn_mocker *self = make(40, 4);
    double ms;
    for (int op = 0; op < 20000; op++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        unsigned r = (unsigned)(seed >> 33);
        out_count = 0;
        if (r % 4 == 0)
            dyn_mocker_submit(self, r % 50, prompt + (r / 7 % 3) * 100, 1 + r / 11 % 60, 1 + r / 13 % 30);
        else if (r % 17 == 1)
            dyn_mocker_cancel(self, r % 50);
        else
            CHECK_EQ(dyn_mocker_step(self, &ms), DYN_OK);
    }
    run_dry(self);
    dyn_mocker_stats stats;
    dyn_mocker_get_stats(self, &stats);
    CHECK_EQ(stats.inactive_blocks, told_count);
    CHECK_EQ(stats.active_blocks, 0);
    dyn_mocker_free(self);
}

static void refusals_name_the_value(void)
{
    dyn_mocker *self = make(8, 4);
    CHECK_EQ(dyn_mocker_submit(self, 1, prompt, 0, 1), DYN_EINVAL);
    CHECK_EQ(dyn_mocker_submit(self, 1, prompt, 1, 0), DYN_EINVAL);
    CHECK_EQ(dyn_mocker_submit(self, 1, prompt, 30, 10), DYN_EINVAL);
    CHECK(strstr(dyn_error_detail(), "11 blocks") != NULL);
    CHECK_EQ(dyn_mocker_submit(self, 1, prompt, 8, 2), DYN_OK);
    CHECK_EQ(dyn_mocker_submit(self, 1, prompt, 8, 2), DYN_EEXIST);
    CHECK_EQ(dyn_mocker_cancel(self, 2), DYN_ENOENT);
    CHECK_EQ(dyn_mocker_cancel(self, 1), DYN_OK);
    dyn_mocker_free(self);
    dyn_mocker_config config;
    dyn_mocker_config_init(&config);
    config.watermark = 1.5;
    CHECK_EQ(dyn_mocker_new(&self, &config, NULL), DYN_EINVAL);
}

static void running_out_of_memory_is_an_error_and_nothing_else(void)
{
    dyn_mocker_config config;
    dyn_mocker_config_init(&config);
    config.blocks = 16;
    EACH_ALLOCATION_FAILS {
        dyn_mocker *self = NULL;
        rc = dyn_mocker_new(&self, &config, NULL);
        if (rc == DYN_OK) rc = dyn_mocker_submit(self, 1, prompt, 8, 2);
        dyn_mocker_free(self);
    }
}

static void the_engine_mails_what_each_step_gives(void)
{
    dyn_mocker_config config;
    dyn_mocker_engine *engine = NULL;
    dyn_mailbox *box;
    size_t tokens = 0, finished = 0;
    int owner;
    dyn_mocker_config_init(&config);
    config.blocks = 256, config.block_size = 4;
    CHECK_EQ(dyn_mailbox_new(&box), DYN_OK);
    CHECK_EQ(dyn_mocker_engine_new(&engine, &config, -1.0, NULL, box, NULL), DYN_EINVAL);
    CHECK_EQ(dyn_mocker_engine_new(&engine, &config, 1000.0, NULL, box, &owner), DYN_OK);
    for (uint64_t id = 0; id < 10; id++) CHECK_EQ(dyn_mocker_engine_submit(engine, id, prompt, 30, 20), DYN_OK);
    while (finished < 10 && dyn_mailbox_wait(box, 10000) == DYN_OK) {
        for (dyn_mail *mail = dyn_mailbox_take(box), *next; mail != NULL; mail = next) {
            dyn_mocker_mail *step = (dyn_mocker_mail *)mail;
            next = mail->next;
            CHECK(mail->owner == &owner);
            for (size_t i = 0; i < step->count; i++) tokens++, finished += step->tokens[i].finished;
            mail->drop(mail);
        }
    }
    CHECK_EQ(tokens, 200);
    dyn_mocker_stats stats;
    dyn_mocker_engine_get_stats(engine, &stats);
    CHECK_EQ(stats.finished, 10);
    CHECK_EQ(dyn_mocker_engine_cancel(engine, 3), DYN_ENOENT);
    dyn_mocker_engine_submit(engine, 3, prompt, 30, 20);
    dyn_mocker_engine_free(engine);
    dyn_mailbox_unref(box);
}

static void fill_prompt(void)
{
    for (uint32_t i = 0; i < DYN__COUNT(prompt); i++) prompt[i] = i * 2654435761u;
}

TEST_MAIN(TEST(fill_prompt), TEST(a_request_gets_its_tokens_and_the_time_of_the_formulas),
          TEST(a_second_request_finds_the_prefix), TEST(the_rest_is_the_same_after_going_on_elsewhere),
          TEST(a_full_pool_preempts_and_everyone_still_gets_all_tokens), TEST(random_work_keeps_pool_and_events_true),
          TEST(refusals_name_the_value), TEST(running_out_of_memory_is_an_error_and_nothing_else),
          TEST(the_engine_mails_what_each_step_gives))
