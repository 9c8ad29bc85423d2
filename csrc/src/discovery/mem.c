/* mem.c -- the backend of one process: the view is the truth. */
#include "discovery/store.h"

static int mem_open(dyn_store *store, const char *root, uint32_t ttl_ms)
{
    (void)store, (void)root, (void)ttl_ms;
    return DYN_OK;
}

static void mem_close(dyn_store *store)
{
    (void)store;
}

static int mem_refresh(dyn_store *store, const char *key, size_t bucket)
{
    (void)store, (void)key, (void)bucket;
    return DYN_OK;
}

static int mem_publish(dyn_store *store, struct own *own, size_t bucket, bool create_only)
{
    (void)bucket;
    if (create_only && dyn__table_find(&store->view, own->key) != NULL)
        return dyn__fail(DYN_EEXIST, "key \"%.100s\"", own->key);
    return dyn__view_set(store, own->key, own->value, NULL);
}

static int mem_remove(dyn_store *store, const char *key, size_t bucket)
{
    (void)bucket;
    size_t at = dyn__table_seek(&store->view, key);
    if (at >= store->view.count || strcmp(*store->view.items[at], key) != 0)
        return dyn__fail(DYN_ENOENT, "key \"%.100s\"", key);
    dyn__view_drop(store, at);
    return DYN_OK;
}

static void mem_withdraw(dyn_store *store, struct own *own, size_t bucket)
{
    mem_remove(store, own->key, bucket);
}

const struct backend dyn__store_mem = {
    .name = "mem",
    .open = mem_open,
    .close = mem_close,
    .follow = mem_refresh,
    .look = mem_refresh,
    .publish = mem_publish,
    .withdraw = mem_withdraw,
    .remove = mem_remove,
};
