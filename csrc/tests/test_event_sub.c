/* test_event_sub.c -- publisher and subscriber over real sockets on 127.0.0.1. */
#include <pthread.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "dynamo/events.h"
#include "dynamo/hash.h"
#include "test.h"

/* A sink that writes down what it is told. */
struct seen {
    pthread_mutex_t lock;
    unsigned stored, removed, cleared, loads;
    uint64_t worker, parent, first_block, first_token, blocks, order_errors, last;
    uint32_t rank;
    bool had_parent;
    dyn_load load;
    int answer;
};

static int on_stored(void *user, uint64_t worker, uint32_t rank, const uint64_t *parent, const uint64_t *blocks,
                     const uint64_t *tokens, size_t count)
{
    struct seen *s = user;
    pthread_mutex_lock(&s->lock);
    s->stored++, s->worker = worker, s->rank = rank, s->blocks += count;
    s->had_parent = parent != NULL;
    if (parent) s->parent = *parent;
    s->first_block = blocks[0], s->first_token = tokens[0];
    if (blocks[0] != s->last + 1) s->order_errors++;
    s->last = blocks[0];
    pthread_mutex_unlock(&s->lock);
    return s->answer;
}
static int on_removed(void *user, uint64_t worker, uint32_t rank, const uint64_t *blocks, size_t count)
{
    struct seen *s = user;
    (void)worker, (void)rank, (void)blocks, (void)count;
    pthread_mutex_lock(&s->lock);
    s->removed++;
    pthread_mutex_unlock(&s->lock);
    return DYN_OK;
}
static int on_cleared(void *user, uint64_t worker, uint32_t rank)
{
    struct seen *s = user;
    (void)worker;
    pthread_mutex_lock(&s->lock);
    s->cleared++, s->rank = rank, s->last = 0;
    pthread_mutex_unlock(&s->lock);
    return DYN_OK;
}
static void on_load(void *user, const dyn_load *load)
{
    struct seen *s = user;
    pthread_mutex_lock(&s->lock);
    s->loads++, s->load = *load;
    pthread_mutex_unlock(&s->lock);
}

static void see(struct seen *s)
{
    *s = (struct seen){0};
    pthread_mutex_init(&s->lock, NULL);
}

/* Wait until `*counter` is `want`, at most 10 s. */
static bool reaches(struct seen *s, const unsigned *counter, unsigned want)
{
    for (int i = 0; i < 10000; i++) {
        pthread_mutex_lock(&s->lock);
        bool there = *counter >= want;
        pthread_mutex_unlock(&s->lock);
        if (there) return true;
        usleep(1000);
    }
    return false;
}

static dyn_event_source_options source_of(struct seen *s, const char *endpoint, const char *replay)
{
    return (dyn_event_source_options){.endpoint = endpoint,
                                      .replay_endpoint = replay,
                                      .worker_id = 7,
                                      .block_size = 4,
                                      .sink = {s, on_stored, on_removed, on_cleared},
                                      .load_user = s,
                                      .load = on_load};
}

static int send_one(dyn_event_pub *pub, uint64_t block)
{
    uint64_t token = block + 1000;
    uint32_t ids[4] = {1, 2, 3, (uint32_t)block};
    dyn_event e = {.kind = DYN_EVENT_STORED, .count = 1, .block_hashes = &block, .tokens_hashes = &token, .dp_rank = 2};
    return dyn_event_pub_send(pub, &e, ids, NULL);
}

static bool connected(dyn_event_sub *sub, dyn_event_source *source)
{
    dyn_event_source_stats stats;
    for (int i = 0; i < 10000; i++) {
        dyn_event_sub_get_stats(sub, source, &stats);
        if (stats.connected && !stats.replaying) return true;
        usleep(1000);
    }
    return false;
}

static void what_was_published_before_and_after_arrives_once_and_in_order(void)
{
    struct seen seen;
    dyn_event_pub *pub;
    dyn_event_sub *sub;
    dyn_event_source *source;
    dyn_event_source_stats stats;
    for (int wire = DYN_WIRE_PLANE; wire <= DYN_WIRE_ENGINE; wire++) {
        see(&seen);
        dyn_event_pub_options o = {.replay_endpoint = "tcp://127.0.0.1:0",
                                   .wire = wire,
                                   .publisher_id = 99,
                                   .dp_rank = 2,
                                   .block_size = 4,
                                   .topic = "namespace.a"};
        CHECK_EQ(dyn_event_pub_new(&pub, &o), DYN_OK);
        for (uint64_t i = 1; i <= 300; i++) CHECK_EQ(send_one(pub, i), DYN_OK);
        CHECK_EQ(dyn_event_sub_new(&sub, 0), DYN_OK);
        dyn_event_source_options so = source_of(&seen, dyn_event_pub_endpoint(pub), dyn_event_pub_replay_endpoint(pub));
        CHECK_EQ(dyn_event_sub_add(sub, &so, &source), DYN_OK);
        CHECK(reaches(&seen, &seen.stored, 300));
        for (uint64_t i = 301; i <= 600; i++) CHECK_EQ(send_one(pub, i), DYN_OK);
        CHECK(reaches(&seen, &seen.stored, 600));
        dyn_event_sub_get_stats(sub, source, &stats);
        CHECK_EQ(stats.lost, 0);
        CHECK_EQ(stats.restarts, 0);
        CHECK_EQ(stats.malformed, 0);
        CHECK_EQ(stats.next_sequence, 600);
        CHECK_EQ(stats.events, 600);
        dyn_event_sub_remove(sub, source);
        CHECK_EQ(seen.stored, 600);
        CHECK_EQ(seen.order_errors, 0);
        CHECK_EQ(seen.worker, 7);
        CHECK_EQ(seen.rank, 2);
        if (wire == DYN_WIRE_PLANE) {
            CHECK_EQ(seen.first_token, 1600);
        } else {
            uint64_t want;
            dyn_hash_blocks((uint32_t[]){1, 2, 3, 600}, 4, 4, false, DYN_HASH_SEED, &want);
            CHECK(seen.first_token == want);
        }
        dyn_event_sub_free(sub);
        dyn_event_pub_free(pub);
    }
}

static void a_restarted_publisher_is_noticed_and_its_rank_rebuilt(void)
{
    struct seen seen;
    dyn_event_pub *pub;
    dyn_event_sub *sub;
    dyn_event_source *source;
    dyn_event_source_stats stats;
    char endpoint[64], replay[64];
    see(&seen);
    dyn_event_pub_options o = {
        .replay_endpoint = "tcp://127.0.0.1:0", .wire = DYN_WIRE_ENGINE, .block_size = 4, .dp_rank = 2};
    CHECK_EQ(dyn_event_pub_new(&pub, &o), DYN_OK);
    snprintf(endpoint, sizeof(endpoint), "%s", dyn_event_pub_endpoint(pub));
    snprintf(replay, sizeof(replay), "%s", dyn_event_pub_replay_endpoint(pub));
    for (uint64_t i = 1; i <= 5; i++) CHECK_EQ(send_one(pub, i), DYN_OK);
    CHECK_EQ(dyn_event_sub_new(&sub, 0), DYN_OK);
    dyn_event_source_options so = source_of(&seen, endpoint, replay);
    CHECK_EQ(dyn_event_sub_add(sub, &so, &source), DYN_OK);
    CHECK(reaches(&seen, &seen.stored, 5));
    dyn_event_pub_free(pub);
    /* On the same ports, and already further than the first one was. */
    o.endpoint = endpoint, o.replay_endpoint = replay;
    int rc = DYN_ECONN;
    for (int i = 0; i < 500 && (rc = dyn_event_pub_new(&pub, &o)) == DYN_ECONN; i++) usleep(10000);
    CHECK_EQ(rc, DYN_OK);
    for (uint64_t i = 1; i <= 20; i++) CHECK_EQ(send_one(pub, i + 1), DYN_OK);
    CHECK(reaches(&seen, &seen.cleared, 1));
    CHECK_EQ(seen.rank, 2);
    CHECK(reaches(&seen, &seen.stored, 25));
    dyn_event_sub_get_stats(sub, source, &stats);
    CHECK_EQ(stats.restarts, 1);
    CHECK_EQ(stats.lost, 0);
    CHECK_EQ(stats.next_sequence, 20);
    dyn_event_sub_free(sub);
    CHECK_EQ(seen.stored, 25);
    dyn_event_pub_free(pub);
}

/* A publisher by hand: any number, any bytes. */
struct hand {
    void *context, *pub;
    char endpoint[64];
};
static void hand_open(struct hand *h)
{
    size_t room = sizeof(h->endpoint);
    h->context = zmq_ctx_new();
    h->pub = zmq_socket(h->context, ZMQ_PUB);
    zmq_bind(h->pub, "tcp://127.0.0.1:*");
    zmq_getsockopt(h->pub, ZMQ_LAST_ENDPOINT, h->endpoint, &room);
}
static void hand_send(struct hand *h, uint64_t number, const void *payload, size_t size)
{
    uint8_t be[8];
    for (int i = 7; i >= 0; i--, number >>= 8) be[i] = (uint8_t)number;
    zmq_send(h->pub, "", 0, ZMQ_SNDMORE);
    zmq_send(h->pub, be, 8, ZMQ_SNDMORE);
    zmq_send(h->pub, payload, size, 0);
}
static void hand_close(struct hand *h)
{
    int zero = 0;
    zmq_setsockopt(h->pub, ZMQ_LINGER, &zero, sizeof(zero));
    zmq_close(h->pub);
    zmq_ctx_term(h->context);
}

/* [0.0, [["BlockStored", [block], nil, [1,2,3,4], 4, nil]]] */
static size_t engine_batch(uint8_t *out, uint8_t block)
{
    const uint8_t bytes[] = {0x92, 0xcb,  0,    0,    0,   0,   0,   0,   0,   0,   0x91, 0x96,
                             0xab, 'B',   'l',  'o',  'c', 'k', 'S', 't', 'o', 'r', 'e',  'd',
                             0x91, block, 0xc0, 0x94, 1,   2,   3,   4,   4,   0xc0};
    memcpy(out, bytes, sizeof(bytes));
    return sizeof(bytes);
}

static void without_replay_a_gap_is_lost_and_going_back_is_a_restart(void)
{
    struct seen seen;
    struct hand hand;
    dyn_event_sub *sub;
    dyn_event_source *source;
    dyn_event_source_stats stats;
    uint8_t bytes[64];
    see(&seen);
    hand_open(&hand);
    CHECK_EQ(dyn_event_sub_new(&sub, 0), DYN_OK);
    dyn_event_source_options so = source_of(&seen, hand.endpoint, NULL);
    CHECK_EQ(dyn_event_sub_add(sub, &so, &source), DYN_OK);
    CHECK(connected(sub, source));
    usleep(100000); /* the subscription travels behind the handshake; a number from before it would be lost */
    hand_send(&hand, 0, bytes, engine_batch(bytes, 1));
    hand_send(&hand, 1, bytes, engine_batch(bytes, 2));
    hand_send(&hand, 5, bytes, engine_batch(bytes, 3)); /* 2, 3, 4 missing */
    hand_send(&hand, 6, "\xff", 1);                     /* not msgpack that means anything */
    hand_send(&hand, 7, bytes, engine_batch(bytes, 4));
    zmq_send(hand.pub, "one frame", 9, 0);
    hand_send(&hand, 0, bytes, engine_batch(bytes, 1)); /* started again */
    CHECK(reaches(&seen, &seen.cleared, 1));
    CHECK(reaches(&seen, &seen.stored, 5));
    dyn_event_sub_get_stats(sub, source, &stats);
    CHECK_EQ(stats.gaps, 1);
    CHECK_EQ(stats.lost, 3);
    CHECK_EQ(stats.restarts, 1);
    CHECK_EQ(stats.malformed, 2);
    CHECK_EQ(stats.next_sequence, 1);
    dyn_event_sub_free(sub);
    hand_close(&hand);
}

static void load_travels_on_the_same_plane(void)
{
    struct seen seen;
    dyn_event_pub *pub;
    dyn_event_sub *sub;
    dyn_event_source *source;
    see(&seen);
    dyn_event_pub_options o = {.wire = DYN_WIRE_PLANE, .publisher_id = 99, .topic = "namespace.a.component.b"};
    CHECK_EQ(dyn_event_pub_new(&pub, &o), DYN_OK);
    CHECK_EQ(dyn_event_sub_new(&sub, 0), DYN_OK);
    dyn_event_source_options so = source_of(&seen, dyn_event_pub_endpoint(pub), NULL);
    so.worker_from_event = true;
    CHECK_EQ(dyn_event_sub_add(sub, &so, &source), DYN_OK);
    dyn_load load = {.worker_id = 99,
                     .dp_rank = 1,
                     .known = 1u << DYN_LOAD_KV_USED_BLOCKS | 1u << DYN_LOAD_NUM_REQUESTS_WAITING |
                              1u << DYN_LOAD_GPU_CACHE_USAGE_PERC};
    load.value[DYN_LOAD_KV_USED_BLOCKS] = 12;
    load.value[DYN_LOAD_NUM_REQUESTS_WAITING] = 3;
    load.value[DYN_LOAD_GPU_CACHE_USAGE_PERC] = 250000;
    bool came = false;
    for (int i = 0; i < 1000 && !came; i++) { /* until the subscription stands */
        CHECK_EQ(dyn_event_pub_send_load(pub, &load), DYN_OK);
        usleep(10000);
        pthread_mutex_lock(&seen.lock);
        came = seen.loads > 0;
        pthread_mutex_unlock(&seen.lock);
    }
    CHECK(came);
    dyn_event_sub_free(sub);
    CHECK_EQ(seen.load.worker_id, 99);
    CHECK_EQ(seen.load.dp_rank, 1);
    CHECK_EQ(seen.load.known, load.known);
    CHECK_EQ(memcmp(seen.load.value, load.value, sizeof(load.value)), 0);
    dyn_event_pub_free(pub);
}

static void who_is_expected_and_silent_is_named(void)
{
    struct seen seen;
    dyn_event_sub *sub;
    dyn_event_source *source;
    dyn_event_source_stats stats;
    see(&seen);
    dyn_log_set_level(DYN_LOG_OFF);
    CHECK_EQ(dyn_event_sub_new(&sub, 100), DYN_OK);
    dyn_event_source_options so = source_of(&seen, "tcp://127.0.0.1:1", "tcp://127.0.0.1:1");
    CHECK_EQ(dyn_event_sub_add(sub, &so, &source), DYN_OK);
    dyn_metrics *registry;
    dyn_buf *text;
    size_t length;
    CHECK_EQ(dyn_metrics_new(&registry, 0), DYN_OK);
    CHECK_EQ(dyn_event_sub_show(sub, registry), DYN_OK);
    CHECK_EQ(dyn_event_sub_show(sub, registry), DYN_EBUSY);
    dyn_event_sub_expect(sub, source);
    for (int i = 0; i < 10000; i++) {
        dyn_event_sub_get_stats(sub, source, &stats);
        if (stats.silent) break;
        usleep(1000);
    }
    CHECK(stats.silent);
    CHECK(!stats.connected);
    CHECK_EQ(dyn_metrics_text(registry, &text, &length), DYN_OK);
    CHECK(memmem(dyn_buf_data(text), length, "dynamo_kv_events_silent{worker_id=\"7\"} 1", 40) != NULL);
    dyn_buf_unref(text);
    dyn_event_sub_free(sub);
    CHECK_EQ(dyn_metrics_text(registry, &text, &length), DYN_OK);
    CHECK(memmem(dyn_buf_data(text), length, "worker_id=\"7\"", 13) == NULL);
    dyn_buf_unref(text);
    dyn_metrics_unref(registry);
    dyn_log_set_level(DYN_LOG_WARN);
}

static void the_ring_is_bounded_in_batches_and_bytes(void)
{
    dyn_event_pub *pub;
    dyn_event_pub_stats stats;
    dyn_event_pub_options o = {.ring_batches = 10};
    CHECK_EQ(dyn_event_pub_new(&pub, &o), DYN_OK);
    for (uint64_t i = 0; i < 25; i++) CHECK_EQ(send_one(pub, i), DYN_OK);
    dyn_event_pub_get_stats(pub, &stats);
    CHECK_EQ(stats.next_sequence, 25);
    CHECK_EQ(stats.ring_first, 15);
    CHECK_EQ(stats.ring_batches, 10);
    dyn_event_pub_free(pub);
    o = (dyn_event_pub_options){.ring_bytes = 1000};
    CHECK_EQ(dyn_event_pub_new(&pub, &o), DYN_OK);
    for (uint64_t i = 0; i < 25; i++) CHECK_EQ(send_one(pub, i), DYN_OK);
    dyn_event_pub_get_stats(pub, &stats);
    CHECK(stats.ring_bytes <= 1000 && stats.ring_batches > 0);
    dyn_event_pub_free(pub);
}

static void who_comes_late_is_told_what_the_worker_holds(void)
{
    enum { BLOCKS = 20000 };
    struct seen seen;
    dyn_event_pub *pub;
    dyn_event_sub *sub;
    dyn_event_source *source;
    dyn_event_source_stats stats;
    dyn_event_pub_stats told;
    for (int mirrored = 1; mirrored >= 0; mirrored--) {
        see(&seen);
        dyn_log_set_level(DYN_LOG_ERROR);
        dyn_event_pub_options o = {.replay_endpoint = "tcp://127.0.0.1:0",
                                   .publisher_id = 9,
                                   .worker_id = 7,
                                   .ring_batches = 10,
                                   .mirror_blocks = mirrored ? 0 : DYN_EVENT_NO_MIRROR};
        CHECK_EQ(dyn_event_pub_new(&pub, &o), DYN_OK);
        dyn_kv_sink sink = dyn_event_pub_sink(pub);
        uint64_t block, token;
        for (uint64_t i = 1; i <= BLOCKS; i++) { /* one chain; in each event one block */
            uint64_t parent = i - 1;
            block = i, token = i + 1000;
            CHECK_EQ(sink.stored(sink.user, 7, 2, i > 1 ? &parent : NULL, &block, &token, 1), DYN_OK);
        }
        for (uint64_t i = BLOCKS; i > BLOCKS / 2; i--) CHECK_EQ(sink.removed(sink.user, 7, 2, &i, 1), DYN_OK);
        dyn_event_pub_get_stats(pub, &told);
        CHECK_EQ(told.mirror_blocks, mirrored ? BLOCKS / 2 : 0);
        CHECK_EQ(dyn_event_sub_new(&sub, 0), DYN_OK);
        dyn_event_source_options so = source_of(&seen, dyn_event_pub_endpoint(pub), dyn_event_pub_replay_endpoint(pub));
        so.block_size = 0; /* one of ours */
        CHECK_EQ(dyn_event_sub_add(sub, &so, &source), DYN_OK);
        CHECK(connected(sub, source));
        block = BLOCKS / 2 + 1, token = 0;
        uint64_t parent = BLOCKS / 2;
        pthread_mutex_lock(&seen.lock);
        unsigned before = seen.stored;
        pthread_mutex_unlock(&seen.lock);
        CHECK_EQ(sink.stored(sink.user, 7, 2, &parent, &block, &token, 1), DYN_OK);
        CHECK(reaches(&seen, &seen.stored, before + 1));
        CHECK(connected(sub, source));
        dyn_event_sub_get_stats(sub, source, &stats);
        dyn_event_pub_get_stats(pub, &told);
        pthread_mutex_lock(&seen.lock);
        CHECK_EQ(told.snapshots, mirrored);
        CHECK_EQ(stats.snapshots, mirrored);
        CHECK_EQ(stats.malformed, 0);
        CHECK_EQ(stats.restarts, 0);
        if (mirrored) {
            CHECK_EQ(stats.lost, 0);
            CHECK_EQ(seen.removed, 0);
            CHECK_EQ(seen.blocks, BLOCKS / 2 + 1);
            CHECK(seen.stored < 100); /* a chain comes in pieces, each after what it continues */
            CHECK_EQ(seen.last, BLOCKS / 2 + 1);
            CHECK(seen.had_parent && seen.parent == BLOCKS / 2);
            pthread_mutex_unlock(&seen.lock);
            /* What was told is known: the next look at the publisher finds nothing wrong. */
            dyn_event_sub_remove(sub, source);
            see(&seen);
            CHECK_EQ(sink.cleared(sink.user, 7, 2), DYN_OK);
            CHECK_EQ(dyn_event_sub_add(sub, &so, &source), DYN_OK);
            CHECK(connected(sub, source));
            for (int i = 0; i < 10000 && stats.next_sequence != told.next_sequence + 1; i++) {
                usleep(1000);
                dyn_event_sub_get_stats(sub, source, &stats);
            }
            CHECK_EQ(stats.next_sequence, told.next_sequence + 1); /* an empty cache is told, too */
            CHECK_EQ(stats.lost, 0);
            dyn_event_sub_remove(sub, source); /* no callback from here on */
            CHECK_EQ(seen.blocks, 0);
        } else {
            CHECK(stats.lost > BLOCKS);
            pthread_mutex_unlock(&seen.lock);
        }
        dyn_event_sub_free(sub);
        dyn_event_pub_free(pub);
    }
    dyn_log_set_level(DYN_LOG_WARN);
}

static void a_batch_waits_for_more_and_is_sent_in_time(void)
{
    struct seen seen;
    dyn_event_pub *pub;
    dyn_event_sub *sub;
    dyn_event_source *source;
    dyn_event_pub_stats stats;
    see(&seen);
    dyn_event_pub_options o = {.replay_endpoint = "tcp://127.0.0.1:0", .batch_ms = 20};
    CHECK_EQ(dyn_event_pub_new(&pub, &o), DYN_OK);
    for (uint64_t i = 1; i <= 50; i++) CHECK_EQ(send_one(pub, i), DYN_OK);
    CHECK_EQ(dyn_event_sub_new(&sub, 0), DYN_OK);
    dyn_event_source_options so = source_of(&seen, dyn_event_pub_endpoint(pub), dyn_event_pub_replay_endpoint(pub));
    CHECK_EQ(dyn_event_sub_add(sub, &so, &source), DYN_OK);
    CHECK(reaches(&seen, &seen.stored, 50));
    dyn_event_pub_get_stats(pub, &stats);
    CHECK(stats.next_sequence < 50);
    dyn_event_sub_free(sub);
    dyn_event_pub_free(pub);
}

static void wrong_endpoints_are_refused(void)
{
    dyn_event_pub *pub = NULL;
    dyn_event_sub *sub;
    dyn_event_source *source = NULL;
    struct seen seen;
    see(&seen);
    dyn_event_pub_options o = {.endpoint = "nonsense"};
    CHECK_EQ(dyn_event_pub_new(&pub, &o), DYN_EINVAL);
    CHECK(strstr(dyn_error_detail(), "nonsense") != NULL);
    o = (dyn_event_pub_options){.wire = DYN_WIRE_ENGINE};
    CHECK_EQ(dyn_event_pub_new(&pub, &o), DYN_EINVAL);
    CHECK_EQ(dyn_event_sub_new(&sub, 0), DYN_OK);
    dyn_event_source_options so = source_of(&seen, "nonsense", NULL);
    CHECK_EQ(dyn_event_sub_add(sub, &so, &source), DYN_EINVAL);
    so.endpoint = NULL;
    CHECK_EQ(dyn_event_sub_add(sub, &so, &source), DYN_EINVAL);
    dyn_event_sub_free(sub);
    CHECK(dyn_event_endpoint_binds("tcp://*:5557"));
    CHECK(!dyn_event_endpoint_binds("tcp://127.0.0.1:5557"));
}

static void every_allocation_may_fail(void)
{
    struct seen seen;
    see(&seen);
    EACH_ALLOCATION_FAILS {
        dyn_event_pub *pub = NULL;
        dyn_event_pub_stats stats;
        dyn_event_pub_options o = {.ring_batches = 4};
        if ((rc = dyn_event_pub_new(&pub, &o)) == DYN_OK) {
            rc = send_one(pub, 1);
            dyn_event_pub_get_stats(pub, &stats);
            CHECK_EQ(stats.next_sequence, rc == DYN_OK ? 1 : 0);
            int failing = dyn__fail_after;
            dyn__fail_after = -1;
            CHECK_EQ(send_one(pub, 2), DYN_OK);
            dyn_event_pub_get_stats(pub, &stats);
            CHECK_EQ(stats.events, rc == DYN_OK ? 2 : 1);
            dyn__fail_after = failing;
        }
        dyn_event_pub_free(pub);
    }
    EACH_ALLOCATION_FAILS {
        dyn_event_sub *sub = NULL;
        dyn_event_source *source;
        if ((rc = dyn_event_sub_new(&sub, 0)) == DYN_OK) {
            dyn_event_source_options so = source_of(&seen, "tcp://127.0.0.1:1", "tcp://127.0.0.1:1");
            for (int i = 0; i < 6 && rc == DYN_OK; i++) rc = dyn_event_sub_add(sub, &so, &source);
        }
        dyn_event_sub_free(sub);
    }
}

TEST_MAIN(TEST(what_was_published_before_and_after_arrives_once_and_in_order),
          TEST(a_restarted_publisher_is_noticed_and_its_rank_rebuilt),
          TEST(without_replay_a_gap_is_lost_and_going_back_is_a_restart), TEST(load_travels_on_the_same_plane),
          TEST(who_is_expected_and_silent_is_named), TEST(the_ring_is_bounded_in_batches_and_bytes),
          TEST(who_comes_late_is_told_what_the_worker_holds), TEST(a_batch_waits_for_more_and_is_sent_in_time),
          TEST(wrong_endpoints_are_refused), TEST(every_allocation_may_fail))
