/* uses.c -- how often a block was found lately: a ring of times for each block that was, only with an expiration. */
#include "index/inside.h"

enum { MOST = 256 };

typedef struct ring {
    uint32_t room, head, count;
    uint64_t at[];
} ring;

static size_t ring_size(uint32_t room)
{
    return sizeof(ring) + room * sizeof(uint64_t);
}

static ring *ring_of(const dyn_index *self, uint32_t id)
{
    uint64_t value;
    return dyn__map_get(self, &self->uses, id, &value) ? (ring *)(uintptr_t)value : NULL;
}

void dyn__uses_drop(dyn_index *self, uint32_t id)
{
    ring *old = ring_of(self, id);
    if (old == NULL) return;
    dyn__map_erase(self, &self->uses, id);
    dyn__index_free(self, old, ring_size(old->room));
}

static int make_ring(dyn_index *self, uint32_t id, uint32_t room, ring **out)
{
    int rc;
    ring *old = *out, *new = dyn__index_alloc(self, ring_size(room), 0);
    if (new == NULL) return dyn__index_no_memory(self);
    if ((rc = dyn__map_put(self, &self->uses, id, (uint64_t)(uintptr_t)new)) < 0) {
        dyn__index_free(self, new, ring_size(room));
        return rc;
    }
    new->room = room;
    if (old != NULL) {
        for (uint32_t i = 0; i < old->count; i++) new->at[i] = old->at[(old->head + i) % old->room];
        new->count = old->count;
        dyn__index_free(self, old, ring_size(old->room));
    }
    *out = new;
    return DYN_OK;
}

/* Forget what has expired, say how many are left, add one. */
static int use(dyn_index *self, uint32_t id, uint64_t now_ms, uint32_t *before)
{
    int rc;
    ring *r = ring_of(self, id);
    while (r != NULL && r->count > 0 && now_ms - r->at[r->head] > self->expiration_ms) {
        r->head = (r->head + 1) % r->room;
        r->count--;
    }
    *before = r == NULL ? 0 : r->count;
    if (r == NULL || (r->count == r->room && r->room < MOST)) {
        if ((rc = make_ring(self, id, r == NULL ? 2 : r->room * 2, &r)) < 0) return rc;
    } else if (r->count == r->room) {
        r->head = (r->head + 1) % r->room;
        r->count--;
    }
    r->at[(r->head + r->count++) % r->room] = now_ms;
    return DYN_OK;
}

int dyn_index_find_counted(dyn_index *self, const uint64_t *tokens_hashes, size_t count, uint64_t now_ms,
                           dyn_overlap *out, size_t room, size_t *found, uint32_t *frequencies, size_t *frequency_count)
{
    int rc = DYN_OK;
    dyn_overlap last = {0}, *best = &last;
    *found = *frequency_count = 0;
    if (self->expiration_ms == 0)
        return dyn__fail(DYN_EINVAL, "finds are counted only in an index made with an expiration");
    pthread_mutex_lock(&self->lock);
    *found = dyn_index_find(self, tokens_hashes, count, out, room);
    uint64_t place = self->keys.root;
    size_t deepest = 0;
    if (*found > 0 && *found <= room) {
        best = &out[*found - 1]; /* the longest comes last */
        deepest = best->blocks;
    } else if (*found > 0) {
        deepest = count; /* cut short by `room`: count as far as there are blocks */
    }
    for (size_t i = 0; i < deepest && rc == DYN_OK; i++) {
        uint32_t before = 0;
        place = dyn__place_mix(&self->keys, place) ^ tokens_hashes[i];
        uint32_t id = dyn__at_place(self, place, dyn__place_hash(&self->keys, place));
        if (id == 0) break;
        rc = use(self, id, now_ms, &before);
        if (before > 0) frequencies[(*frequency_count)++] = before;
    }
    pthread_mutex_unlock(&self->lock);
    return rc;
}
