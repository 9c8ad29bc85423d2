/* test_discovery.c -- the store: keys, mem and file, leases, watches. */
#include <stdatomic.h>

#include <uv.h>

#include "discovery/store.h"
#include "test.h"

/* What a watch was told, as text: "+key=value", "-key", "!" for synced. */
struct log {
    uv_mutex_t lock;
    uv_cond_t changed;
    char text[4096];
    int refuse; /* so many callbacks are refused first */
    dyn_store *store;
    dyn_watch *watch;
    bool close_in_callback;
};

static int note(struct log *log, const char *kind, const char *key, const char *value, size_t size)
{
    uv_mutex_lock(&log->lock);
    bool refuse = log->refuse > 0;
    if (refuse) {
        log->refuse--;
    } else {
        size_t n = strlen(log->text);
        if (value != NULL)
            snprintf(log->text + n, sizeof(log->text) - n, "%s%s=%.*s ", kind, key, (int)size, value);
        else
            snprintf(log->text + n, sizeof(log->text) - n, "%s%s ", kind, key);
    }
    uv_cond_broadcast(&log->changed);
    uv_mutex_unlock(&log->lock);
    return refuse ? DYN_EAGAIN : DYN_OK;
}
static int on_put(void *user, const char *key, dyn_buf *value)
{
    struct log *log = user;
    if (log->close_in_callback) dyn_watch_close(log->watch);
    return note(log, "+", key, (const char *)dyn_buf_data(value), dyn_buf_size(value));
}
static int on_delete(void *user, const char *key)
{
    return note(user, "-", key, NULL, 0);
}
static int on_synced(void *user)
{
    return note(user, "!", "", NULL, 0);
}
static const dyn_watch_events EVENTS = {on_put, on_delete, on_synced};

static void log_init(struct log *log)
{
    *log = (struct log){0};
    uv_mutex_init(&log->lock);
    uv_cond_init(&log->changed);
}
static void log_free(struct log *log)
{
    uv_cond_destroy(&log->changed);
    uv_mutex_destroy(&log->lock);
}
/* Wait until the text holds this, ten seconds at most; returns how long it took, in ms. */
static long long wait_for(struct log *log, const char *what)
{
    uint64_t start = dyn_now_ns(), end = start + UINT64_C(15000000000);
    uv_mutex_lock(&log->lock);
    while (strstr(log->text, what) == NULL && dyn_now_ns() < end)
        uv_cond_timedwait(&log->changed, &log->lock, UINT64_C(100000000));
    bool there = strstr(log->text, what) != NULL;
    if (!there) fprintf(stderr, "waited for \"%s\", have \"%s\"\n", what, log->text);
    uv_mutex_unlock(&log->lock);
    CHECK(there);
    return (long long)((dyn_now_ns() - start) / 1000000);
}

static dyn_loop *new_loop(void)
{
    dyn_loop *loop = NULL;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    return loop;
}
static dyn_store *open_mem(dyn_loop *loop)
{
    dyn_store *store = NULL;
    CHECK_EQ(dyn_store_open(&store, loop, "mem", NULL, 0), DYN_OK);
    return store;
}
static int put_text(dyn_store *store, const char *key, const char *text)
{
    return dyn_store_put(store, key, text, strlen(text), NULL, false);
}

static void keys_are_checked(void)
{
    static const char *const good[] = {"v1/instances/ns/comp/ep/1f", "v1/mdc/a", "a/b/ünïcode/Ω", "v1/ns-1_x/planner/."
                                       "x"};
    static const char *const bad[] = {"", "/", "a", "a/b", "a/b/", "a/b//c", "a/b/c/", "/a/b/c", "../b/c", "a/../c",
                                      "a/b/..", "a/b/../c", "a/b/.", "a/.b/c", "a/b/\xff", "a/b/\xed\xa0\x80",
                                      "a/b/\xc0\x80", "a/b/x\ny", "a/b/\x7f", "a b/c/d", "a%2f/b/c"};
    size_t bucket;
    char long_key[400] = "v1/instances/";
    for (size_t i = 0; i < DYN__COUNT(good); i++) CHECK_EQ(dyn__key_check(good[i], &bucket), DYN_OK);
    for (size_t i = 0; i < DYN__COUNT(bad); i++) {
        if (dyn__key_check(bad[i], &bucket) != DYN_EINVAL) fprintf(stderr, "accepted \"%s\"\n", bad[i]);
        CHECK_EQ(dyn__key_check(bad[i], &bucket), DYN_EINVAL);
    }
    memset(long_key + 13, 'x', 240);
    CHECK_EQ(dyn__key_check(long_key, &bucket), DYN_OK);
    long_key[13 + 240] = 'x';
    CHECK_EQ(dyn__key_check(long_key, &bucket), DYN_EINVAL);
    dyn__key_check(good[0], &bucket);
    CHECK_EQ(bucket, 12);
}

static void names_follow_the_layout_of_the_original(void)
{
    char name[DYN_KEY_MAX + 1], rest[DYN_KEY_MAX + 1];
    CHECK(dyn__name_encode("my-ns/comp_1/ep/1f", name));
    CHECK_STR(name, "my%2Dns%2Fcomp%5F1%2Fep%2F1f");
    CHECK(dyn__name_decode(name, rest));
    CHECK_STR(rest, "my-ns/comp_1/ep/1f");
    CHECK(!dyn__name_decode("my%2dns", rest)); /* lower case */
    CHECK(!dyn__name_decode("%41", rest));     /* needs no escape */
    CHECK(!dyn__name_decode("a%00b", rest));
    CHECK(!dyn__name_decode("%2E%2E", rest));
    CHECK(!dyn__name_decode("a%2", rest));
    CHECK(!dyn__name_decode("a.b", rest));
    CHECK(!dyn__name_decode("", rest));
}

static void a_watch_is_told_what_is_there_then_what_changes(void)
{
    dyn_loop *loop = new_loop();
    dyn_store *store = open_mem(loop);
    struct log log;
    log_init(&log);
    CHECK_EQ(put_text(store, "v1/instances/ns/b", "2"), DYN_OK);
    CHECK_EQ(put_text(store, "v1/instances/ns/a", "1"), DYN_OK);
    CHECK_EQ(put_text(store, "v1/instances/other/a", "x"), DYN_OK);
    CHECK_EQ(put_text(store, "v1/instancesx/ns/a", "x"), DYN_OK);
    CHECK_EQ(dyn_store_watch(store, "v1/instances/ns/", &EVENTS, &log, &log.watch), DYN_OK);
    CHECK_STR(log.text, "+v1/instances/ns/a=1 +v1/instances/ns/b=2 ! ");
    CHECK_EQ(put_text(store, "v1/instances/ns/a", "3"), DYN_OK);
    CHECK_EQ(dyn_store_delete(store, "v1/instances/ns/b"), DYN_OK);
    CHECK_EQ(dyn_store_delete(store, "v1/instances/ns/b"), DYN_ENOENT);
    CHECK_EQ(put_text(store, "v1/instances/other/b", "x"), DYN_OK);
    CHECK(strstr(log.text, "! +v1/instances/ns/a=3 -v1/instances/ns/b ") != NULL);
    dyn_watch_close(log.watch);
    CHECK_EQ(put_text(store, "v1/instances/ns/c", "4"), DYN_OK);
    CHECK(strstr(log.text, "ns/c") == NULL);
    dyn_store_unref(store);
    dyn_loop_unref(loop);
    log_free(&log);
}

static void a_lease_takes_its_keys_with_it(void)
{
    dyn_loop *loop = new_loop();
    dyn_store *store = open_mem(loop);
    dyn_lease *lease, *other;
    struct log log;
    log_init(&log);
    CHECK_EQ(dyn_lease_new(store, &lease), DYN_OK);
    CHECK_EQ(dyn_lease_new(store, &other), DYN_OK);
    CHECK(dyn_lease_id(lease) != 0 && dyn_lease_id(lease) != dyn_lease_id(other) && dyn_lease_id(lease) <= INT64_MAX);
    CHECK_EQ(dyn_store_put(store, "a/b/1", "x", 1, lease, true), DYN_OK);
    CHECK_EQ(dyn_store_put(store, "a/b/1", "y", 1, other, true), DYN_EEXIST);
    CHECK_EQ(dyn_store_put(store, "a/b/2", "y", 1, other, true), DYN_OK);
    CHECK_EQ(dyn_store_put(store, "a/b/3", NULL, 0, lease, false), DYN_OK);
    CHECK_EQ(dyn_store_put(store, "a/b/3", "z", 1, other, false), DYN_OK); /* is the other's now */
    CHECK_EQ(dyn_store_watch(store, "a/b", &EVENTS, &log, &log.watch), DYN_OK);
    dyn_lease_revoke(lease);
    CHECK_STR(log.text, "+a/b/1=x +a/b/2=y +a/b/3=z ! -a/b/1 ");
    dyn_store_unref(store); /* the handles are given back later */
    CHECK_STR(log.text, "+a/b/1=x +a/b/2=y +a/b/3=z ! -a/b/1 ");
    dyn_lease_revoke(other);
    dyn_watch_close(log.watch);
    dyn_loop_unref(loop);
    log_free(&log);
}

static void a_refused_callback_is_told_again(void)
{
    dyn_loop *loop = new_loop();
    dyn_store *store = open_mem(loop);
    struct log log;
    log_init(&log);
    log.refuse = 2;
    CHECK_EQ(put_text(store, "a/b/1", "x"), DYN_OK);
    CHECK_EQ(dyn_store_watch(store, "a/b", &EVENTS, &log, &log.watch), DYN_OK);
    CHECK_STR(log.text, "");
    dyn_watch_resume(log.watch); /* refused once more; the timer comes by */
    wait_for(&log, "+a/b/1=x ! ");
    log.refuse = 1;
    CHECK_EQ(dyn_store_delete(store, "a/b/1"), DYN_OK); /* refused */
    CHECK_EQ(put_text(store, "a/b/1", "y"), DYN_OK);
    dyn_watch_resume(log.watch);
    CHECK_STR(log.text, "+a/b/1=x ! +a/b/1=y ");
    dyn_watch_close(log.watch);
    dyn_store_unref(store);
    dyn_loop_unref(loop);
    log_free(&log);
}

static void a_watch_may_be_closed_from_its_callback(void)
{
    dyn_loop *loop = new_loop();
    dyn_store *store = open_mem(loop);
    struct log log;
    log_init(&log);
    log.close_in_callback = true;
    put_text(store, "a/b/1", "x");
    put_text(store, "a/b/2", "x");
    CHECK_EQ(dyn_store_watch(store, "a/b", &EVENTS, &log, &log.watch), DYN_OK);
    CHECK_STR(log.text, "+a/b/1=x ");
    put_text(store, "a/b/3", "x");
    CHECK_STR(log.text, "+a/b/1=x ");
    dyn_store_unref(store);
    dyn_loop_unref(loop);
    log_free(&log);
}

static int put_more(void *user, const char *key, dyn_buf *value)
{
    struct log *log = user;
    if (strcmp(key, "a/b/5") == 0) {
        CHECK_EQ(put_text(log->store, "a/b/1", "early"), DYN_OK);
        CHECK_EQ(dyn_store_delete(log->store, "a/b/7"), DYN_OK);
    }
    return on_put(user, key, value);
}
static void a_callback_may_change_the_store(void)
{
    dyn_watch_events events = {put_more, on_delete, on_synced};
    dyn_loop *loop = new_loop();
    struct log log;
    log_init(&log);
    log.store = open_mem(loop);
    put_text(log.store, "a/b/5", "x");
    put_text(log.store, "a/b/7", "x");
    CHECK_EQ(dyn_store_watch(log.store, "a/b", &events, &log, &log.watch), DYN_OK);
    CHECK_STR(log.text, "+a/b/5=x +a/b/1=early ! ");
    dyn_watch_close(log.watch);
    dyn_store_unref(log.store);
    dyn_loop_unref(loop);
    log_free(&log);
}

static int count_keys(void *user, const char *key, dyn_buf *value)
{
    (void)key, (void)value;
    return ++*(int *)user >= 3 ? DYN_ECANCELED : DYN_OK;
}
static void wrong_input_is_refused_with_a_sentence(void)
{
    dyn_loop *loop = new_loop();
    dyn_store *store = open_mem(loop), *none;
    dyn_buf *value;
    int n = 0;
    char *big = calloc(1, DYN_VALUE_MAX + 1);
    CHECK_EQ(dyn_store_open(&none, loop, "consul", NULL, 0), DYN_EINVAL);
    CHECK(strstr(dyn_error_detail(), "consul") != NULL);
    CHECK_EQ(dyn_store_put(store, "a/b/c", big, DYN_VALUE_MAX, NULL, false), DYN_OK);
    CHECK_EQ(dyn_store_put(store, "a/b/c", big, DYN_VALUE_MAX + 1, NULL, false), DYN_EINVAL);
    CHECK(strstr(dyn_error_detail(), "1048577") != NULL); /* the sentence crossed from the loop thread */
    CHECK_EQ(put_text(store, "a/b", "x"), DYN_EINVAL);
    CHECK_EQ(dyn_store_get(store, "a/b/none", &value), DYN_ENOENT);
    CHECK_EQ(dyn_store_list(store, "a", count_keys, &n), DYN_EINVAL);
    CHECK_EQ(dyn_store_list(store, "a/b", count_keys, &n), DYN_OK);
    CHECK_EQ(n, 1);
    put_text(store, "a/b/d", ""), put_text(store, "a/b/e", ""), put_text(store, "a/b/f", "");
    n = 0;
    CHECK_EQ(dyn_store_list(store, "a/b/", count_keys, &n), DYN_ECANCELED);
    CHECK_EQ(n, 3);
    CHECK_EQ(dyn_store_get(store, "a/b/c", &value), DYN_OK);
    CHECK_EQ(dyn_buf_size(value), DYN_VALUE_MAX);
    dyn_store_unref(store);
    dyn_buf_unref(value); /* outlives the store */
    dyn_loop_unref(loop);
    free(big);
}

/* One life of a store on the loop thread, where the test's failing allocations count. */
struct life {
    dyn_loop *loop;
    const char *backend, *root;
};
static int live(void *arg)
{
    struct life *life = arg;
    dyn_store *store = NULL;
    dyn_lease *lease = NULL;
    dyn_buf *value = NULL;
    struct log log;
    EACH_ALLOCATION_FAILS
    {
        log_init(&log);
        rc = dyn_store_open(&store, life->loop, life->backend, life->root, 2000);
        if (rc == DYN_OK) {
            rc = dyn_lease_new(store, &lease);
            if (rc == DYN_OK) rc = dyn_store_put(store, "a/b/1", "x", 1, lease, false);
            if (rc == DYN_OK) rc = dyn_store_watch(store, "a/b", &EVENTS, &log, &log.watch);
            if (rc == DYN_OK) rc = dyn_store_put(store, "a/b/2", "y", 1, NULL, false);
            if (rc == DYN_OK) rc = dyn_store_get(store, "a/b/2", &value);
            if (rc == DYN_OK) rc = dyn_store_delete(store, "a/b/2");
            dyn__fail_after = -1;
            if (log.watch != NULL) { /* whatever failed: what is told in the end is what is */
                int n = 0;
                dyn_store_list(store, "a/b", count_keys, &n);
                dyn_watch_resume(log.watch);
                CHECK(strstr(log.text, "+a/b/1=x") != NULL && strchr(log.text, '!') != NULL);
                CHECK((strstr(log.text, "+a/b/2") != NULL) == (strstr(log.text, "-a/b/2") != NULL) || n == 2);
            }
            dyn_buf_unref(value), value = NULL;
            dyn_lease_revoke(lease), lease = NULL;
            dyn_watch_close(log.watch);
            dyn_store_unref(store), store = NULL;
        }
        log_free(&log);
    }
    return DYN_OK;
}
static void failing_allocations_leave_the_mem_store_whole(void)
{
    struct life life = {new_loop(), "mem", NULL};
    dyn_loop_run(life.loop, live, &life);
    dyn_loop_unref(life.loop);
}

static void churn(void *arg)
{
    struct log *log = arg;
    char key[64];
    for (int i = 0; i < 300; i++) {
        snprintf(key, sizeof(key), "a/b/%p-%d", (void *)&key, i % 7);
        put_text(log->store, key, "x");
        if (i % 3 == 0) dyn_store_delete(log->store, key);
    }
}
static int ignore_put(void *user, const char *key, dyn_buf *value)
{
    (void)key, (void)value;
    atomic_fetch_add((atomic_int *)user, 1);
    return DYN_OK;
}
static int ignore_delete(void *user, const char *key)
{
    (void)key;
    atomic_fetch_add((atomic_int *)user, -1);
    return DYN_OK;
}
static void many_threads_may_use_a_store(void)
{
    dyn_watch_events events = {ignore_put, ignore_delete, NULL};
    struct log log = {0};
    dyn_loop *loop = new_loop();
    dyn_watch *watch;
    uv_thread_t threads[4];
    atomic_int told = 0;
    int n = -1000000;
    log.store = open_mem(loop);
    for (int i = 0; i < 4; i++) uv_thread_create(&threads[i], churn, &log);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(dyn_store_watch(log.store, "a/b", &events, &told, &watch), DYN_OK);
        dyn_watch_close(watch);
    }
    for (int i = 0; i < 4; i++) uv_thread_join(&threads[i]);
    CHECK_EQ(dyn_store_list(log.store, "a/b", count_keys, &n), DYN_OK);
    CHECK(n > -1000000);
    dyn_store_unref(log.store);
    dyn_loop_unref(loop);
}

#define MEM_TESTS                                                                                                      \
    TEST(keys_are_checked), TEST(names_follow_the_layout_of_the_original),                                             \
        TEST(a_watch_is_told_what_is_there_then_what_changes), TEST(a_lease_takes_its_keys_with_it),                   \
        TEST(a_refused_callback_is_told_again), TEST(a_watch_may_be_closed_from_its_callback),                         \
        TEST(a_callback_may_change_the_store), TEST(wrong_input_is_refused_with_a_sentence),                           \
        TEST(failing_allocations_leave_the_mem_store_whole), TEST(many_threads_may_use_a_store)
TEST_MAIN(MEM_TESTS)
