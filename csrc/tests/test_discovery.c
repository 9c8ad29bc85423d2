/* test_discovery.c -- the store: keys, mem and file, leases, watches. */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

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
static const char *told(struct log *log)
{
    static char copy[sizeof(log->text)];
    uv_mutex_lock(&log->lock);
    memcpy(copy, log->text, sizeof(copy));
    uv_mutex_unlock(&log->lock);
    return copy;
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
    static const char *const good[] = {"v1/instances/ns/comp/ep/1f", "v1/mdc/a", "a/b/ünïcode/Ω",
                                       "v1/ns-1_x/planner/."
                                       "x"};
    static const char *const bad[] = {"",
                                      "/",
                                      "a",
                                      "a/b",
                                      "a/b/",
                                      "a/b//c",
                                      "a/b/c/",
                                      "/a/b/c",
                                      "../b/c",
                                      "a/../c",
                                      "a/b/..",
                                      "a/b/../c",
                                      "a/b/.",
                                      "a/.b/c",
                                      "a/b/\xff",
                                      "a/b/\xed\xa0\x80",
                                      "a/b/\xc0\x80",
                                      "a/b/x\ny",
                                      "a/b/\x7f",
                                      "a b/c/d",
                                      "a%2f/b/c"};
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
    CHECK_STR(told(&log), "+v1/instances/ns/a=1 +v1/instances/ns/b=2 ! ");
    CHECK_EQ(put_text(store, "v1/instances/ns/a", "3"), DYN_OK);
    CHECK_EQ(dyn_store_delete(store, "v1/instances/ns/b"), DYN_OK);
    CHECK_EQ(dyn_store_delete(store, "v1/instances/ns/b"), DYN_ENOENT);
    CHECK_EQ(put_text(store, "v1/instances/other/b", "x"), DYN_OK);
    CHECK(strstr(told(&log), "! +v1/instances/ns/a=3 -v1/instances/ns/b ") != NULL);
    dyn_watch_close(log.watch);
    CHECK_EQ(put_text(store, "v1/instances/ns/c", "4"), DYN_OK);
    CHECK(strstr(told(&log), "ns/c") == NULL);
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
    CHECK_STR(told(&log), "+a/b/1=x +a/b/2=y +a/b/3=z ! -a/b/1 ");
    dyn_store_unref(store); /* the handles are given back later */
    CHECK_STR(told(&log), "+a/b/1=x +a/b/2=y +a/b/3=z ! -a/b/1 ");
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
    CHECK_STR(told(&log), "");
    dyn_watch_resume(log.watch); /* refused once more; the timer comes by */
    wait_for(&log, "+a/b/1=x ! ");
    uv_mutex_lock(&log.lock), log.refuse = 1, uv_mutex_unlock(&log.lock);
    CHECK_EQ(dyn_store_delete(store, "a/b/1"), DYN_OK); /* refused */
    CHECK_EQ(put_text(store, "a/b/1", "y"), DYN_OK);
    dyn_watch_resume(log.watch);
    CHECK_STR(told(&log), "+a/b/1=x ! +a/b/1=y ");
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
    CHECK_STR(told(&log), "+a/b/1=x ");
    put_text(store, "a/b/3", "x");
    CHECK_STR(told(&log), "+a/b/1=x ");
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
    CHECK_STR(told(&log), "+a/b/5=x +a/b/1=early ! ");
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
    EACH_ALLOCATION_FAILS {
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
                CHECK(strstr(told(&log), "+a/b/1=x") != NULL && strchr(told(&log), '!') != NULL);
                CHECK((strstr(told(&log), "+a/b/2") != NULL) == (strstr(told(&log), "-a/b/2") != NULL) || n == 2);
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
static int nothing(void *arg)
{
    (void)arg;
    return DYN_OK;
}
/* On the loop thread a store closes without waiting for its handles: let the loop turn. */
static void live_on(dyn_loop *loop, struct life *life)
{
    dyn_loop_run(loop, live, life);
    for (int turn = 0; turn < 3; turn++) dyn_loop_run(loop, nothing, NULL);
}
static void failing_allocations_leave_the_mem_store_whole(void)
{
    struct life life = {new_loop(), "mem", NULL};
    live_on(life.loop, &life);
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

/* ---- file -------------------------------------------------------------------------------------- */
#define TTL 2000

static char root[256];
static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}
static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
static void new_root(void)
{
    const char *temporary = getenv("TMPDIR");
    snprintf(root, sizeof(root), "%s/dyn_test_XXXXXX", temporary ? temporary : "/tmp");
    CHECK(mkdtemp(root) != NULL);
}
static char *in_root(const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", root, name);
    return path;
}
static dyn_store *open_file(dyn_loop *loop)
{
    dyn_store *store = NULL;
    CHECK_EQ(dyn_store_open(&store, loop, "file", root, TTL), DYN_OK);
    return store;
}
static bool there(const char *name)
{
    struct stat st;
    return lstat(in_root(name), &st) == 0;
}

static void a_file_store_keeps_the_layout_and_cleans_up(void)
{
    new_root();
    dyn_loop *loop = new_loop();
    dyn_store *store = open_file(loop);
    dyn_lease *lease;
    char text[16] = "";
    CHECK_EQ(dyn_lease_new(store, &lease), DYN_OK);
    CHECK_EQ(dyn_store_put(store, "v1/instances/my-ns/comp/ep/1f", "value", 5, lease, true), DYN_OK);
    CHECK_EQ(put_text(store, "v1/mdc/x", "a"), DYN_OK);
    CHECK_EQ(put_text(store, "v1/mdc/x", "b"), DYN_OK);
    CHECK_EQ(put_text(store, "v1/mdc/y", "c"), DYN_OK);
    int fd = open(in_root("v1/instances/my%2Dns%2Fcomp%2Fep%2F1f"), O_RDONLY);
    CHECK_EQ(read(fd, text, sizeof(text)), 5);
    close(fd);
    CHECK_STR(text, "value");
    dyn_lease_revoke(lease);
    CHECK(!there("v1/instances/my%2Dns%2Fcomp%2Fep%2F1f"));
    CHECK(there("v1/mdc/x"));
    CHECK_EQ(dyn_store_delete(store, "v1/mdc/y"), DYN_OK);
    dyn_store_unref(store);
    CHECK(!there("v1/mdc/x"));
    CHECK_EQ(rmdir(in_root("v1/mdc")), 0); /* nothing left, no temporary file either */
    CHECK_EQ(rmdir(in_root("v1/instances")), 0);
    dyn_loop_unref(loop);
    remove_tree(root);
}

static void two_file_stores_see_each_other(void)
{
    new_root();
    dyn_loop *loop = new_loop(), *other_loop = new_loop();
    dyn_store *store = open_file(loop), *other = open_file(other_loop);
    dyn_buf *value = NULL;
    struct log log;
    int n = -100;
    log_init(&log);
    CHECK_EQ(put_text(other, "a/b/1", "x"), DYN_OK);
    CHECK_EQ(dyn_store_watch(store, "a/b", &EVENTS, &log, &log.watch), DYN_OK);
    CHECK_STR(told(&log), "+a/b/1=x ! ");
    CHECK_EQ(put_text(other, "a/b/1", "y"), DYN_OK);
    wait_for(&log, "+a/b/1=y ");
    CHECK_EQ(dyn_store_put(store, "a/b/1", "z", 1, NULL, true), DYN_EEXIST);
    CHECK_EQ(dyn_store_put(store, "a/b/2", "z", 1, NULL, true), DYN_OK);
    CHECK_EQ(dyn_store_list(other, "a/b", count_keys, &n), DYN_OK);
    CHECK_EQ(n, -98);
    CHECK_EQ(dyn_store_get(other, "a/b/2", &value), DYN_OK);
    CHECK_EQ(*dyn_buf_data(value), 'z');
    dyn_buf_unref(value);
    dyn_store_unref(other);
    wait_for(&log, "-a/b/1 ");
    dyn_watch_close(log.watch);
    dyn_store_unref(store);
    dyn_loop_unref(loop);
    dyn_loop_unref(other_loop);
    log_free(&log);
    remove_tree(root);
}

/* A process that puts a key and lives until it is killed; returns when the key is there. */
static pid_t start_owner(const char *key)
{
    int ready[2];
    char c;
    CHECK_EQ(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dyn_loop *loop = new_loop();
        dyn_store *store = open_file(loop);
        if (put_text(store, key, "alive") != DYN_OK || write(ready[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
    }
    CHECK_EQ(read(ready[0], &c, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void a_killed_owner_vanishes_within_its_ttl(void)
{
    new_root();
    pid_t pid = start_owner("a/b/1"), other = start_owner("a/b/2");
    dyn_loop *loop = new_loop();
    dyn_store *store = open_file(loop);
    struct log log;
    log_init(&log);
    CHECK_EQ(dyn_store_watch(store, "a/b", &EVENTS, &log, &log.watch), DYN_OK);
    CHECK_STR(told(&log), "+a/b/1=alive +a/b/2=alive ! ");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CHECK(wait_for(&log, "-a/b/1 ") <= TTL + 1000);
    CHECK(!there("a/b/1"));                      /* cleared away */
    CHECK(strstr(told(&log), "-a/b/2") == NULL); /* more than a TTL old, and touched */
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    CHECK(wait_for(&log, "-a/b/2 ") <= TTL + 1000);
    dyn_watch_close(log.watch);
    dyn_store_unref(store);
    dyn_loop_unref(loop);
    log_free(&log);
    remove_tree(root);
}

static void a_process_that_was_stopped_comes_back(void)
{
    new_root();
    pid_t pid = start_owner("a/b/1");
    dyn_loop *loop = new_loop();
    dyn_store *store = open_file(loop);
    struct log log;
    log_init(&log);
    CHECK_EQ(dyn_store_watch(store, "a/b", &EVENTS, &log, &log.watch), DYN_OK);
    kill(pid, SIGSTOP);
    wait_for(&log, "-a/b/1 ");
    kill(pid, SIGCONT);
    wait_for(&log, "-a/b/1 +a/b/1=alive ");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    dyn_watch_close(log.watch);
    dyn_store_unref(store);
    dyn_loop_unref(loop);
    log_free(&log);
    remove_tree(root);
}

static void a_removed_folder_is_filled_again(void)
{
    new_root();
    dyn_loop *loop = new_loop();
    dyn_store *store = open_file(loop), *other = open_file(loop);
    struct log log;
    log_init(&log);
    CHECK_EQ(put_text(store, "a/b/1", "x"), DYN_OK);
    CHECK_EQ(dyn_store_watch(other, "a/b", &EVENTS, &log, &log.watch), DYN_OK);
    remove_tree(root);
    wait_for(&log, "-a/b/1 +a/b/1=x ");
    CHECK(there("a/b/1"));
    dyn_watch_close(log.watch);
    dyn_store_unref(store);
    dyn_store_unref(other);
    dyn_loop_unref(loop);
    log_free(&log);
    remove_tree(root);
}

static void what_another_deletes_stays_deleted(void)
{
    new_root();
    dyn_loop *loop = new_loop();
    dyn_store *store = open_file(loop), *other = open_file(loop);
    struct log log;
    log_init(&log);
    CHECK_EQ(put_text(store, "a/b/1", "x"), DYN_OK);
    CHECK_EQ(put_text(store, "a/b/2", "x"), DYN_OK);
    CHECK_EQ(dyn_store_watch(store, "a/b", &EVENTS, &log, &log.watch), DYN_OK);
    CHECK_EQ(dyn_store_delete(other, "a/b/1"), DYN_OK);
    CHECK_EQ(put_text(other, "a/b/2", "theirs"), DYN_OK);
    wait_for(&log, "-a/b/1 ");
    wait_for(&log, "+a/b/2=theirs ");
    usleep(1300000); /* over a touch */
    CHECK(!there("a/b/1"));
    dyn_watch_close(log.watch);
    dyn_store_unref(store);
    CHECK(there("a/b/2")); /* is the other's now */
    dyn_store_unref(other);
    CHECK(!there("a/b/2"));
    dyn_loop_unref(loop);
    log_free(&log);
    remove_tree(root);
}

static void make_file(const char *name, size_t size, int age_s)
{
    struct timespec times[2] = {{time(NULL) - age_s, 0}, {time(NULL) - age_s, 0}};
    int fd = open(in_root(name), O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0 && futimens(fd, times) == 0);
    close(fd);
}

static void hostile_files_are_ignored(void)
{
    new_root();
    dyn_log_set_level(DYN_LOG_OFF);
    dyn_loop *loop = new_loop();
    dyn_store *store = open_file(loop);
    struct log log;
    log_init(&log);
    mkdir(in_root("a"), 0700), mkdir(in_root("a/b"), 0700), mkdir(in_root("a/b/folder"), 0700);
    make_file("a/b/good", 3, 0);
    make_file("a/b/big", DYN_VALUE_MAX + 1, 0);
    make_file("a/b/%2E%2E%2Fup", 1, 0);
    make_file("a/b/a b", 1, 0);
    make_file("a/b/.tmp_0000000000000000", 1, 60);
    make_file("a/b/old", 1, 60);
    make_file("a/b/future", 0, -100000);
    CHECK_EQ(symlink("/etc/passwd", in_root("a/b/link")), 0);
    CHECK_EQ(mkfifo(in_root("a/b/fifo"), 0600), 0);
    CHECK_EQ(dyn_store_watch(store, "a/b", &EVENTS, &log, &log.watch), DYN_OK);
    CHECK(strstr(told(&log), "+a/b/future= +a/b/good=") != NULL);
    CHECK(strstr(told(&log), "big") == NULL && strstr(told(&log), "up") == NULL && strstr(told(&log), "link") == NULL);
    CHECK(!there("a/b/old") && !there("a/b/.tmp_0000000000000000") && there("a/b/big"));
    CHECK_EQ(put_text(store, "a/b/link", "x"), DYN_OK); /* replaced, not followed */
    CHECK(strstr(told(&log), "+a/b/link=x") != NULL);
    wait_for(&log, "-a/b/future "); /* nobody touches it */
    dyn_watch_close(log.watch);
    dyn_store_unref(store);
    dyn_loop_unref(loop);
    log_free(&log);
    remove_tree(root);
    dyn_log_set_level(DYN_LOG_WARN);
}

static void a_dead_file_does_not_block_its_key(void)
{
    new_root();
    dyn_loop *loop = new_loop();
    dyn_store *store = open_file(loop);
    mkdir(in_root("a"), 0700), mkdir(in_root("a/b"), 0700);
    make_file("a/b/1", 1, 60);
    CHECK_EQ(dyn_store_put(store, "a/b/1", "x", 1, NULL, true), DYN_OK);
    dyn_store_unref(store);
    dyn_loop_unref(loop);
    remove_tree(root);
}

static void the_environment_chooses_root_and_ttl(void)
{
    new_root();
    dyn_loop *loop = new_loop();
    dyn_store *store = NULL;
    const char *before = getenv("TMPDIR");
    char *saved = before ? strdup(before) : NULL, want[512];
    setenv("DYN_FILE_KV", in_root("deep/er"), 1);
    setenv("DYN_FILE_KV_TTL", "3.5", 1);
    CHECK_EQ(dyn_store_open(&store, loop, "file", NULL, 0), DYN_OK);
    CHECK_STR(dyn_store_root(store), in_root("deep/er"));
    CHECK_EQ(dyn_store_ttl_ms(store), 3500);
    CHECK_STR(dyn_store_backend(store), "file");
    dyn_store_unref(store);
    setenv("DYN_FILE_KV_TTL", "soon", 1);
    CHECK_EQ(dyn_store_open(&store, loop, "file", NULL, 0), DYN_EINVAL);
    unsetenv("DYN_FILE_KV_TTL");
    unsetenv("DYN_FILE_KV");
    setenv("TMPDIR", root, 1);
    snprintf(want, sizeof(want), "%s/dynamo_store_kv", root);
    CHECK_EQ(dyn_store_open(&store, loop, "file", NULL, 0), DYN_OK);
    CHECK_STR(dyn_store_root(store), want);
    dyn_store_unref(store);
    rmdir(want);
    CHECK_EQ(symlink("/tmp", want), 0);
    CHECK_EQ(dyn_store_open(&store, loop, "file", NULL, 0), DYN_EACCES);
    CHECK_EQ(dyn_store_open(&store, loop, "file", root, 100), DYN_EINVAL);
    make_file("plain", 1, 0);
    CHECK_EQ(dyn_store_open(&store, loop, "file", in_root("plain/x"), 0), DYN_EIO);
    if (saved != NULL)
        setenv("TMPDIR", saved, 1);
    else
        unsetenv("TMPDIR");
    free(saved);
    dyn_loop_unref(loop);
    remove_tree(root);
}

static void failing_allocations_leave_the_file_store_whole(void)
{
    new_root();
    struct life life = {new_loop(), "file", root};
    live_on(life.loop, &life);
    dyn_loop_unref(life.loop);
    CHECK_EQ(rmdir(in_root("a/b")), 0); /* not a file was left */
    remove_tree(root);
}

TEST_MAIN(TEST(keys_are_checked), TEST(names_follow_the_layout_of_the_original),
          TEST(a_watch_is_told_what_is_there_then_what_changes), TEST(a_lease_takes_its_keys_with_it),
          TEST(a_refused_callback_is_told_again), TEST(a_watch_may_be_closed_from_its_callback),
          TEST(a_callback_may_change_the_store), TEST(wrong_input_is_refused_with_a_sentence),
          TEST(failing_allocations_leave_the_mem_store_whole), TEST(many_threads_may_use_a_store),
          TEST(a_file_store_keeps_the_layout_and_cleans_up), TEST(two_file_stores_see_each_other),
          TEST(a_killed_owner_vanishes_within_its_ttl), TEST(a_process_that_was_stopped_comes_back),
          TEST(a_removed_folder_is_filled_again), TEST(what_another_deletes_stays_deleted),
          TEST(hostile_files_are_ignored), TEST(a_dead_file_does_not_block_its_key),
          TEST(the_environment_chooses_root_and_ttl), TEST(failing_allocations_leave_the_file_store_whole))
