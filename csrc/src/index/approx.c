/* approx.c -- an index that believes what was routed; see dynamo/index.h for the contract.
 *
 *   decisions, oldest first:   | d0: worker, last block, end | d1 | d2 | ...     all live equally long, so they end in order
 *   ends: (worker, last block) -> how many live decisions end there
 *
 * A decision holds a whole path from the root, so a block lives as long as the youngest decision through it. When a decision
 * ends, its blocks go from the last one upwards until one that another decision needs: one with a decision of its own that ends
 * there, or with a block of the same worker below. Nothing is written down per block.
 */
#include "index/inside.h"

enum { TICK_MS = 100 };

typedef struct decision {
    uint64_t until; /* ms */
    uint32_t slot, last;
} decision;

struct dyn_approx {
    dyn_index *index; /* without names; its lock guards what is here, too */
    uint64_t ttl_ms;
    decision *ring;
    size_t room, head, count;
    dyn__map ends;
    _Atomic uint64_t next_end; /* of the oldest decision; UINT64_MAX when there is none */
    atomic_size_t refs;
};

int dyn_approx_new(dyn_approx **out, uint64_t ttl_ms, size_t max_bytes)
{
    dyn_index_options options = {.max_bytes = max_bytes};
    if (ttl_ms == 0 || ttl_ms > UINT64_C(1) << 40)
        return dyn__fail(DYN_EINVAL, "a time to live of %llu ms: must be 1 to 2^40", (unsigned long long)ttl_ms);
    dyn_approx *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    int rc = dyn_index_new(&self->index, &options);
    if (rc < 0) {
        dyn__free(self);
        return rc;
    }
    self->index->nameless = true;
    self->ttl_ms = ttl_ms;
    DYN__SET(self->next_end, UINT64_MAX);
    DYN__SET(self->refs, 1);
    *out = self;
    return DYN_OK;
}

dyn_approx *dyn_approx_ref(dyn_approx *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_approx_unref(dyn_approx *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    dyn__map_free(self->index, &self->ends);
    dyn__index_free(self->index, self->ring, self->room * sizeof(*self->ring));
    dyn_index_unref(self->index);
    dyn__free(self);
}

static uint64_t end_key(uint32_t slot, uint32_t last)
{
    return (uint64_t)slot << 32 | last;
}

static bool holds_below(const dyn_index *index, uint32_t id, uint32_t slot)
{
    uint32_t child = *dyn__child_of(index, id) & DYN__ID_MASK;
    for (; child != 0; child = dyn__next_sibling(index, child))
        if (dyn__set_has(index, DYN__GET(dyn__entry_of(index, child)->set), slot)) return true;
    return false;
}

/* Drop what only this decision held. Without memory for a smaller set the rest stays until it is routed again. */
static void end_path(dyn_approx *self, uint32_t slot, uint32_t last)
{
    dyn_index *index = self->index;
    uint32_t memo[2] = {0, 0};
    uint64_t live;
    while (last != 0 && !dyn__map_get(index, &self->ends, end_key(slot, last), &live) &&
           !holds_below(index, last, slot)) {
        uint32_t parent = DYN__GET(dyn__entry_of(index, last)->parent) & DYN__ID_MASK;
        if (dyn__drop(index, last, slot, memo) < 0) return;
        dyn__entry_release(index, last);
        last = parent;
    }
}

static void end_oldest(dyn_approx *self)
{
    decision d = self->ring[self->head];
    uint64_t live = 0;
    self->head = (self->head + 1) % self->room;
    self->count--;
    DYN__SET_RELEASE(self->next_end, self->count > 0 ? self->ring[self->head].until : UINT64_MAX);
    if (d.last == 0) return; /* its worker was removed */
    dyn__map_get(self->index, &self->ends, end_key(d.slot, d.last), &live);
    if (live > 1) {
        dyn__map_put(self->index, &self->ends, end_key(d.slot, d.last), live - 1); /* is there: cannot fail */
        return;
    }
    dyn__map_erase(self->index, &self->ends, end_key(d.slot, d.last));
    end_path(self, d.slot, d.last);
}

static void expire(dyn_approx *self, uint64_t now_ms)
{
    while (self->count > 0 && self->ring[self->head].until <= now_ms) end_oldest(self);
}

static int make_room(dyn_approx *self)
{
    if (self->count < self->room) return DYN_OK;
    size_t room = self->room ? self->room * 2 : 64;
    decision *ring = dyn__index_alloc(self->index, room * sizeof(*ring), 0);
    if (ring == NULL) return dyn__index_no_memory(self->index);
    for (size_t i = 0; i < self->count; i++) ring[i] = self->ring[(self->head + i) % self->room];
    dyn__index_free(self->index, self->ring, self->room * sizeof(*ring));
    self->ring = ring;
    self->room = room;
    self->head = 0;
    return DYN_OK;
}

static int routed(dyn_approx *self, uint64_t worker, uint32_t dp_rank, const uint64_t *tokens, size_t count,
                  uint64_t now_ms)
{
    dyn_index *index = self->index;
    uint32_t slot, last = 0;
    uint64_t live = 0;
    int rc = make_room(self);
    if (rc < 0) return rc;
    if ((rc = dyn__slot_make(index, worker, dp_rank, &slot)) < 0) return rc;
    rc = dyn__store(index, slot, 0, NULL, tokens, count, &last);
    if (last == 0) return rc;
    dyn__map_get(index, &self->ends, end_key(slot, last), &live);
    int put = dyn__map_put(index, &self->ends, end_key(slot, last), live + 1);
    if (put < 0) {
        end_path(self, slot, last);
        return put;
    }
    /* rounded up, so that ends come in few steps; what was stored before an error is a decision of its own */
    uint64_t until = (now_ms + self->ttl_ms + TICK_MS - 1) / TICK_MS * TICK_MS;
    size_t newest = (self->head + self->count - 1) % self->room;
    if (self->count > 0 && self->ring[newest].until > until) until = self->ring[newest].until;
    self->ring[(self->head + self->count++) % self->room] = (decision){until, slot, last};
    if (self->count == 1) DYN__SET_RELEASE(self->next_end, until);
    return rc;
}

int dyn_approx_routed(dyn_approx *self, uint64_t worker, uint32_t dp_rank, const uint64_t *tokens_hashes, size_t count,
                      uint64_t now_ms)
{
    int rc;
    if (count == 0) return DYN_OK;
    pthread_mutex_lock(&self->index->lock);
    expire(self, now_ms);
    while ((rc = routed(self, worker, dp_rank, tokens_hashes, count, now_ms)) == DYN_ELIMIT && self->count > 1) {
        for (size_t left = self->count / 8 + 1; left > 0 && self->count > 0; left--) end_oldest(self);
        dyn__advance(self->index);
        dyn__advance(self->index);
    }
    dyn__limbo_tend(self->index);
    pthread_mutex_unlock(&self->index->lock);
    return rc;
}

size_t dyn_approx_find(dyn_approx *self, const uint64_t *tokens_hashes, size_t count, uint64_t now_ms, dyn_overlap *out,
                       size_t room)
{
    if (DYN__GET_ACQUIRE(self->next_end) <= now_ms) {
        pthread_mutex_lock(&self->index->lock);
        expire(self, now_ms);
        dyn__limbo_tend(self->index);
        pthread_mutex_unlock(&self->index->lock);
    }
    return dyn_index_find(self->index, tokens_hashes, count, out, room);
}

int dyn_approx_remove_worker(dyn_approx *self, uint64_t worker)
{
    dyn_index *index = self->index;
    pthread_mutex_lock(&index->lock);
    for (size_t i = 0; i < self->count; i++) {
        decision *d = &self->ring[(self->head + i) % self->room];
        if (d->last == 0 || dyn__worker_of(index, d->slot)->id != worker) continue;
        dyn__map_erase(index, &self->ends, end_key(d->slot, d->last));
        d->last = 0;
    }
    pthread_mutex_unlock(&index->lock);
    return dyn_index_remove_worker(index, worker);
}

void dyn_approx_stats_get(const dyn_approx *self, dyn_index_stats *out)
{
    dyn_index_stats_get(self->index, out);
    out->bytes += sizeof(*self);
}

int dyn_approx_dump(dyn_approx *self, int (*visit)(void *user, const dyn_index_block *block), void *user)
{
    return dyn_index_dump(self->index, visit, user);
}
