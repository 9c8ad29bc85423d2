/* watch.c -- tell watches the difference between what they know and what is. See discovery/store.h.
 *
 *   view   a=1  b=7        d=4          both sorted by key; the numbers are versions
 *   told   a=1  b=2  c=3                next to tell: put b, delete c, put d
 *
 * After each callback that changed the store the comparison starts again: what was told is not told twice.
 */
#include "discovery/store.h"

#define RETRY_MS 500

struct told { /* what a watch knows */
    char *key;
    uint64_t version; /* 0: nothing yet, the watcher refused it */
};

struct dyn_watch {
    dyn_store *store;
    struct dyn_watch *next;
    char *prefix;
    dyn_watch_events events;
    void *user;
    struct table told;
    uint64_t seen; /* I3 */
    bool synced, paused, linked;
    bool closed;   /* no more callbacks */
    bool released; /* the handle was given back */
};

static void told_free(struct told *told)
{
    dyn__free(told->key);
    dyn__free(told);
}

static void watch_free(dyn_watch *self)
{
    for (size_t i = 0; i < self->told.count; i++) told_free((struct told *)self->told.items[i]);
    dyn__table_clear(&self->told);
    dyn__free(self->prefix);
    dyn__store_memory_unref(self->store);
    dyn__free(self);
}

static struct told *told_add(dyn_watch *self, size_t at, const char *key)
{
    struct told *told = dyn__table_reserve(&self->told) == DYN_OK ? dyn__calloc(1, sizeof(*told)) : NULL;
    if (told != NULL && (told->key = dyn__strdup(key)) == NULL) dyn__free(told), told = NULL;
    if (told != NULL) dyn__table_insert(&self->told, at, told);
    return told;
}

/* Tell one difference. False: no more now, because there is none, it was not taken or the watch is closed. */
static bool tell_one(dyn_watch *self, size_t *i, size_t *j)
{
    const struct table *view = &self->store->view;
    size_t length = strlen(self->prefix);
    for (;; (*i)++, (*j)++) {
        struct entry *entry = *i < view->count ? (struct entry *)view->items[*i] : NULL;
        if (entry != NULL && strncmp(entry->key, self->prefix, length) != 0) entry = NULL;
        struct told *told = *j < self->told.count ? (struct told *)self->told.items[*j] : NULL;
        if (entry == NULL && told == NULL) return false;
        int order = entry == NULL ? 1 : told == NULL ? -1 : strcmp(entry->key, told->key);
        if (order == 0 && entry->version == told->version) continue;
        if (order <= 0) {
            if (order < 0 && (told = told_add(self, *j, entry->key)) == NULL) {
                self->paused = true;
                return false;
            }
            uint64_t version = entry->version;
            dyn_buf *value = dyn_buf_ref(entry->value); /* the callback may delete the entry */
            int rc = self->events.on_put(self->user, told->key, value);
            dyn_buf_unref(value);
            if (rc >= 0)
                told->version = version;
            else if (order < 0)
                told_free(dyn__table_remove(&self->told, *j));
            if (rc < 0) self->paused = true;
        } else {
            int rc = self->events.on_delete(self->user, told->key);
            if (rc >= 0)
                told_free(dyn__table_remove(&self->told, *j));
            else
                self->paused = true;
        }
        return !self->paused && !self->closed;
    }
}

static void tell(dyn_watch *self)
{
    dyn_store *store = self->store;
    uint64_t generation;
    do {
        generation = store->generation;
        size_t i = dyn__table_seek(&store->view, self->prefix), j = 0;
        while (tell_one(self, &i, &j)) {
            if (store->generation != generation) break;
        }
        if (self->closed || self->paused) return;
        if (store->generation == generation && !self->synced) {
            self->synced = true;
            if (self->events.on_synced != NULL && self->events.on_synced(self->user) < 0) {
                self->synced = false;
                self->paused = true;
                return;
            }
        }
    } while (!self->closed && store->generation != generation);
    self->seen = generation;
}

static void sweep(dyn_store *self)
{
    for (dyn_watch **link = &self->watches; *link != NULL;) {
        dyn_watch *watch = *link;
        if (!watch->closed) {
            link = &watch->next;
            continue;
        }
        *link = watch->next;
        watch->linked = false;
        if (watch->released) watch_free(watch);
    }
}

void dyn__watches_close(dyn_store *self)
{
    for (dyn_watch *watch = self->watches; watch != NULL; watch = watch->next) watch->closed = true;
    if (!self->pumping) sweep(self);
}

static void on_retry(uv_timer_t *timer)
{
    dyn_store *self = DYN__CONTAINER(timer, dyn_store, retry);
    for (dyn_watch *watch = self->watches; watch != NULL; watch = watch->next) watch->paused = false;
    dyn__store_pump(self);
}

void dyn__store_pump(dyn_store *self)
{
    bool paused = false;
    if (self->pumping) { /* from a callback: the turn below goes on */
        self->again = true;
        return;
    }
    dyn__store_memory_ref(self); /* a callback may give the store back */
    self->pumping = true;
    do {
        self->again = false;
        for (dyn_watch *watch = self->watches; watch != NULL; watch = watch->next)
            if (!watch->closed && !watch->paused && (watch->seen != self->generation || !watch->synced)) tell(watch);
    } while (self->again);
    self->pumping = false;
    sweep(self);
    for (dyn_watch *watch = self->watches; watch != NULL; watch = watch->next) paused |= watch->paused;
    if (paused && !self->closed) uv_timer_start(&self->retry, on_retry, RETRY_MS, 0);
    dyn__store_memory_unref(self);
}

struct watch_call {
    dyn_store *store;
    const char *prefix;
    const dyn_watch_events *events;
    void *user;
    dyn_watch **out;
};

static int watch(void *arg)
{
    struct watch_call *call = arg;
    dyn_store *store = call->store;
    size_t bucket;
    char *prefix;
    int rc = dyn__prefix_check(call->prefix, &prefix, &bucket);
    if (rc < 0) return rc;
    dyn_watch *self = dyn__calloc(1, sizeof(*self)), **tail = &store->watches;
    if (self == NULL) {
        dyn__free(prefix);
        return DYN_ENOMEM;
    }
    *self =
        (dyn_watch){.store = store, .prefix = prefix, .events = *call->events, .user = call->user, .seen = UINT64_MAX};
    dyn__store_memory_ref(store);
    if ((rc = store->backend->follow(store, prefix, bucket)) < 0) {
        watch_free(self);
        return rc;
    }
    while (*tail != NULL) tail = &(*tail)->next;
    *tail = self;
    self->linked = true;
    *call->out = self;
    dyn__store_pump(store);
    return DYN_OK;
}

int dyn_store_watch(dyn_store *self, const char *prefix, const dyn_watch_events *events, void *user, dyn_watch **out)
{
    struct watch_call call = {self, prefix, events, user, out};
    if (prefix == NULL || events == NULL || events->on_put == NULL || events->on_delete == NULL)
        return dyn__fail(DYN_EINVAL, "a watch needs a prefix, on_put and on_delete");
    return dyn_loop_run(self->loop, watch, &call);
}

static int resume(void *arg)
{
    dyn_watch *self = arg;
    self->paused = false;
    if (!self->closed) dyn__store_pump(self->store);
    return DYN_OK;
}

void dyn_watch_resume(dyn_watch *self)
{
    dyn_loop_run(self->store->loop, resume, self);
}

static int watch_close(void *arg)
{
    dyn_watch *self = arg;
    self->closed = self->released = true;
    if (!self->linked)
        watch_free(self);
    else if (!self->store->pumping)
        sweep(self->store);
    return DYN_OK;
}

void dyn_watch_close(dyn_watch *self)
{
    if (self == NULL) return;
    dyn_loop *loop = dyn_loop_ref(self->store->loop);
    dyn_loop_run(loop, watch_close, self);
    dyn_loop_unref(loop);
}
