/* store.c -- see dynamo/discovery.h for the contract, discovery/store.h for the picture. */
#include <stdio.h>

#include "discovery/store.h"

static uint64_t own_version(dyn_store *self)
{
    return ++self->version;
}

uint64_t dyn__random64(void)
{
    uint64_t value = 0;
    if (uv_random(NULL, NULL, &value, sizeof(value), 0, NULL) != 0) value = dyn_now_ns() * 0x9e3779b97f4a7c15u;
    return value;
}

/* ---- memory and handles ------------------------------------------------------------------------ */
void dyn__store_memory_unref(dyn_store *self)
{
    if (atomic_fetch_sub_explicit(&self->memory, 1, memory_order_acq_rel) != 1) return;
    dyn_loop_unref(self->loop);
    dyn__free(self->root);
    dyn__free(self);
}

void dyn__store_memory_ref(dyn_store *self)
{
    atomic_fetch_add_explicit(&self->memory, 1, memory_order_relaxed);
}

void dyn__store_opened(dyn_store *store)
{
    store->handles++;
    dyn__store_memory_ref(store);
}

void dyn__store_handle_closed(dyn_store *store)
{
    uv_sem_t *all_closed = --store->handles == 0 ? store->all_closed : NULL;
    dyn__store_memory_unref(store);
    if (all_closed != NULL) uv_sem_post(all_closed); /* last: whoever waits may stop the loop at once */
}

static void on_retry_closed(uv_handle_t *handle)
{
    dyn__store_handle_closed(DYN__CONTAINER((uv_timer_t *)handle, dyn_store, retry));
}

void dyn__own_free(struct own *own)
{
    if (own == NULL) return;
    dyn_buf_unref(own->value);
    dyn__free(own->key);
    dyn__free(own);
}

/* ---- the view ---------------------------------------------------------------------------------- */
void dyn__view_drop(dyn_store *store, size_t at)
{
    struct entry *entry = dyn__table_remove(&store->view, at);
    dyn_buf_unref(entry->value);
    dyn__free(entry->key);
    dyn__free(entry);
    store->generation++;
}

int dyn__view_set(dyn_store *store, const char *key, dyn_buf *value, struct entry **out)
{
    size_t at = dyn__table_seek(&store->view, key);
    struct entry *entry = at < store->view.count && strcmp(*store->view.items[at], key) == 0
                              ? (struct entry *)store->view.items[at]
                              : NULL;
    if (entry == NULL) {
        if (store->view.count >= DYN__STORE_KEYS)
            return dyn__fail(DYN_ELIMIT, "the store has %u keys, the most it takes", DYN__STORE_KEYS);
        if (dyn__table_reserve(&store->view) < 0) return DYN_ENOMEM;
        entry = dyn__calloc(1, sizeof(*entry));
        char *copy = entry != NULL ? dyn__strdup(key) : NULL;
        if (copy == NULL) {
            dyn__free(entry);
            return DYN_ENOMEM;
        }
        entry->key = copy;
        dyn__table_insert(&store->view, at, entry);
    } else {
        dyn_buf_unref(entry->value);
    }
    entry->value = dyn_buf_ref(value);
    entry->version = own_version(store);
    store->generation++;
    if (out != NULL) *out = entry;
    return DYN_OK;
}

/* ---- values ------------------------------------------------------------------------------------ */
struct put_call {
    dyn_store *store;
    const char *key;
    const void *data;
    size_t size;
    dyn_lease *lease;
    bool create_only;
};

static int put(void *arg)
{
    struct put_call *call = arg;
    dyn_store *self = call->store;
    size_t bucket;
    int rc = dyn__key_check(call->key, &bucket);
    if (rc < 0) return rc;
    if (call->size > DYN_VALUE_MAX)
        return dyn__fail(DYN_EINVAL, "key \"%.100s\": a value of %zu bytes, over the limit of %u", call->key,
                         call->size, DYN_VALUE_MAX);
    if (call->lease != NULL && call->lease->store != self)
        return dyn__fail(DYN_EINVAL, "key \"%.100s\": the lease belongs to another store", call->key);
    if (self->owned.count >= DYN__STORE_KEYS)
        return dyn__fail(DYN_ELIMIT, "the store has %u keys, the most it takes", DYN__STORE_KEYS);
    struct own *own = dyn__calloc(1, sizeof(*own));
    if (own == NULL) return DYN_ENOMEM;
    own->lease = call->lease;
    rc = DYN_ENOMEM;
    if ((own->key = dyn__strdup(call->key)) == NULL) goto fail;
    if ((rc = dyn_buf_new(&own->value, call->size)) < 0) goto fail;
    if (call->size > 0) memcpy(dyn_buf_data(own->value), call->data, call->size);
    if ((rc = dyn__table_reserve(&self->owned)) < 0) goto fail;
    if ((rc = self->backend->publish(self, own, bucket, call->create_only)) < 0) goto fail;
    size_t at = dyn__table_seek(&self->owned, own->key);
    if (at < self->owned.count && strcmp(*self->owned.items[at], own->key) == 0)
        dyn__own_free(dyn__table_remove(&self->owned, at));
    dyn__table_insert(&self->owned, at, own);
    dyn__store_pump(self);
    return DYN_OK;
fail:
    dyn__own_free(own);
    return rc;
}

int dyn_store_put(dyn_store *self, const char *key, const void *data, size_t size, dyn_lease *lease, bool create_only)
{
    struct put_call call = {self, key, data, size, lease, create_only};
    return dyn_loop_run(self->loop, put, &call);
}

struct get_call {
    dyn_store *store;
    const char *key;
    dyn_buf **out;
};

static int get(void *arg)
{
    struct get_call *call = arg;
    size_t bucket;
    int rc = dyn__key_check(call->key, &bucket);
    if (rc < 0) return rc;
    if ((rc = call->store->backend->look(call->store, call->key, bucket)) < 0) return rc;
    struct entry *entry = dyn__table_find(&call->store->view, call->key);
    if (entry != NULL) *call->out = dyn_buf_ref(entry->value);
    dyn__store_pump(call->store);
    return entry != NULL ? DYN_OK : dyn__fail(DYN_ENOENT, "key \"%.100s\"", call->key);
}

int dyn_store_get(dyn_store *self, const char *key, dyn_buf **out)
{
    struct get_call call = {self, key, out};
    return dyn_loop_run(self->loop, get, &call);
}

static int delete_key(void *arg)
{
    struct get_call *call = arg;
    dyn_store *self = call->store;
    size_t bucket;
    int rc = dyn__key_check(call->key, &bucket);
    if (rc < 0) return rc;
    if ((rc = self->backend->remove(self, call->key, bucket)) < 0) return rc;
    size_t at = dyn__table_seek(&self->owned, call->key);
    if (at < self->owned.count && strcmp(*self->owned.items[at], call->key) == 0)
        dyn__own_free(dyn__table_remove(&self->owned, at));
    dyn__store_pump(self);
    return DYN_OK;
}

int dyn_store_delete(dyn_store *self, const char *key)
{
    struct get_call call = {self, key, NULL};
    return dyn_loop_run(self->loop, delete_key, &call);
}

struct list_call {
    dyn_store *store;
    const char *prefix;
    int (*each)(void *user, const char *key, dyn_buf *value);
    void *user;
};

static int list(void *arg)
{
    struct list_call *call = arg;
    dyn_store *self = call->store;
    size_t bucket;
    char *prefix;
    int rc = dyn__prefix_check(call->prefix, &prefix, &bucket);
    if (rc < 0) return rc;
    rc = self->backend->follow(self, prefix, bucket);
    size_t length = strlen(prefix);
    uint64_t generation = self->generation;
    for (size_t i = dyn__table_seek(&self->view, prefix); rc >= 0 && i < self->view.count; i++) {
        struct entry *entry = (struct entry *)self->view.items[i];
        if (strncmp(entry->key, prefix, length) != 0) break;
        rc = call->each(call->user, entry->key, entry->value);
        if (self->generation != generation) rc = dyn__fail(DYN_EBUSY, "the store was changed while it was listed");
    }
    dyn__free(prefix);
    dyn__store_pump(self); /* what follow found */
    return rc < 0 ? rc : DYN_OK;
}

int dyn_store_list(dyn_store *self, const char *prefix, int (*each)(void *user, const char *key, dyn_buf *value),
                   void *user)
{
    struct list_call call = {self, prefix, each, user};
    return dyn_loop_run(self->loop, list, &call);
}

/* ---- leases ------------------------------------------------------------------------------------ */
int dyn_lease_new(dyn_store *store, dyn_lease **out)
{
    dyn_lease *self = dyn__malloc(sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    *self = (dyn_lease){.store = store, .id = dyn__random64() & INT64_MAX};
    if (self->id == 0) self->id = 1;
    dyn__store_memory_ref(store);
    *out = self;
    return DYN_OK;
}

uint64_t dyn_lease_id(const dyn_lease *self)
{
    return self->id;
}

/* Delete what the lease holds, or everything when it is NULL. */
static void withdraw(dyn_store *self, const dyn_lease *lease)
{
    for (size_t at = self->owned.count; at-- > 0;) {
        struct own *own = (struct own *)self->owned.items[at];
        if (lease != NULL && own->lease != lease) continue;
        size_t bucket = 0;
        dyn__key_check(own->key, &bucket);
        self->backend->withdraw(self, own, bucket);
        dyn__own_free(dyn__table_remove(&self->owned, at));
    }
}

static int lease_revoke(void *arg)
{
    dyn_lease *self = arg;
    if (!self->store->closed) {
        withdraw(self->store, self);
        dyn__store_pump(self->store);
    }
    dyn__store_memory_unref(self->store);
    dyn__free(self);
    return DYN_OK;
}

void dyn_lease_revoke(dyn_lease *self)
{
    if (self == NULL) return;
    dyn_loop *loop = dyn_loop_ref(self->store->loop);
    dyn_loop_run(loop, lease_revoke, self);
    dyn_loop_unref(loop);
}

/* ---- open and close ---------------------------------------------------------------------------- */
struct open_call {
    dyn_store *store;
    const char *root;
    uint32_t ttl_ms;
};

static int open_store(void *arg)
{
    struct open_call *call = arg;
    dyn_store *self = call->store;
    uv_timer_init(dyn_loop_uv(self->loop), &self->retry);
    dyn__store_opened(self);
    return self->backend->open(self, call->root, call->ttl_ms);
}

static int close_store(void *arg)
{
    dyn_store *self = arg;
    withdraw(self, NULL);
    self->closed = true;
    dyn__watches_close(self);
    self->backend->close(self);
    while (self->view.count > 0) dyn__view_drop(self, self->view.count - 1);
    dyn__table_clear(&self->view);
    dyn__table_clear(&self->owned);
    uv_close((uv_handle_t *)&self->retry, on_retry_closed);
    return DYN_OK;
}

int dyn_store_open(dyn_store **out, dyn_loop *loop, const char *backend, const char *root, uint32_t ttl_ms)
{
    static const struct backend *const backends[] = {&dyn__store_mem, &dyn__store_file};
    const struct backend *found = NULL;
    for (size_t i = 0; i < DYN__COUNT(backends); i++)
        if (strcmp(backends[i]->name, backend) == 0) found = backends[i];
    if (found == NULL) return dyn__fail(DYN_EINVAL, "discovery backend \"%.40s\": must be mem or file", backend);
    dyn_store *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    self->backend = found;
    self->loop = dyn_loop_ref(loop);
    atomic_init(&self->users, 1);
    atomic_init(&self->memory, 1);
    struct open_call call = {self, root, ttl_ms};
    int rc = dyn_loop_run(loop, open_store, &call);
    if (rc < 0)
        dyn_store_unref(self);
    else
        *out = self;
    return rc;
}

dyn_store *dyn_store_ref(dyn_store *self)
{
    atomic_fetch_add_explicit(&self->users, 1, memory_order_relaxed);
    return self;
}

void dyn_store_unref(dyn_store *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->users, 1, memory_order_acq_rel) != 1) return;
    uv_sem_t all_closed;
    /* Wait for the handles, so that whoever stops the loop next finds none; the loop thread cannot wait for itself. */
    bool wait = !dyn_loop_here(self->loop) && uv_sem_init(&all_closed, 0) == 0;
    if (wait) self->all_closed = &all_closed;
    dyn_loop_run(self->loop, close_store, self);
    if (wait) {
        uv_sem_wait(&all_closed);
        uv_sem_destroy(&all_closed);
    }
    dyn__store_memory_unref(self);
}

const char *dyn_store_backend(const dyn_store *self)
{
    return self->backend->name;
}

const char *dyn_store_root(const dyn_store *self)
{
    return self->root != NULL ? self->root : "";
}

uint32_t dyn_store_ttl_ms(const dyn_store *self)
{
    return self->ttl_ms;
}
