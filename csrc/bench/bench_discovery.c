/* bench_discovery.c -- what a store costs: puts, a watch of many keys, a change that crosses two stores. */
#include <ftw.h>
#include <stdio.h>

#include <uv.h>

#include "common/common.h"
#include "dynamo/discovery.h"

static uv_sem_t told;

static int on_put(void *user, const char *key, dyn_buf *value)
{
    (void)user, (void)key, (void)value;
    uv_sem_post(&told);
    return DYN_OK;
}
static int on_delete(void *user, const char *key)
{
    (void)user, (void)key;
    uv_sem_post(&told);
    return DYN_OK;
}
static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}
static double us(uint64_t start, int count)
{
    return (double)(dyn_now_ns() - start) / 1e3 / count;
}

static void measure(dyn_loop *loop, const char *backend, const char *root, int keys)
{
    static const dyn_watch_events events = {on_put, on_delete, NULL};
    char key[64], value[400];
    dyn_store *store, *other;
    dyn_watch *watch;
    uint64_t start;
    memset(value, 'x', sizeof(value));
    if (dyn_store_open(&store, loop, backend, root, 0) < 0) exit(1);
    if (root == NULL)
        other = dyn_store_ref(store);
    else if (dyn_store_open(&other, loop, backend, root, 0) < 0)
        exit(1);
    start = dyn_now_ns();
    for (int i = 0; i < keys; i++) {
        snprintf(key, sizeof(key), "v1/instances/ns/comp/ep/%x", i);
        dyn_store_put(store, key, value, sizeof(value), NULL, false);
    }
    printf("%-5s %5d keys   put %6.1f us", backend, keys, us(start, keys));
    start = dyn_now_ns();
    dyn_store_watch(other, "v1/instances/ns/", &events, NULL, &watch);
    for (int i = 0; i < keys; i++) uv_sem_wait(&told);
    printf("   watch of all %6.2f us per key", us(start, keys));
    start = dyn_now_ns();
    for (int i = 0; i < 200; i++) {
        value[0] = (char)('a' + i % 26);
        dyn_store_put(store, "v1/instances/ns/comp/ep/0", value, sizeof(value), NULL, false);
        uv_sem_wait(&told);
    }
    printf("   change told after %6.1f us\n", us(start, 200));
    dyn_watch_close(watch);
    dyn_store_unref(other);
    dyn_store_unref(store);
}

int main(void)
{
    char root[] = "/tmp/dyn_bench_XXXXXX";
    dyn_loop *loop;
    if (uv_sem_init(&told, 0) < 0 || dyn_loop_new(&loop) < 0 || mkdtemp(root) == NULL) return 1;
    for (int keys = 10; keys <= 1000; keys *= 10) measure(loop, "mem", NULL, keys);
    for (int keys = 10; keys <= 1000; keys *= 10) measure(loop, "file", root, keys);
    dyn_loop_unref(loop);
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}
