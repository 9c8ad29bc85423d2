/* check.c -- are the invariants of index/inside.h true?  For tests; takes the lock. */
#include "index/inside.h"

static int check_entry(const dyn_index *self, uint32_t id)
{
    const dyn__entry *entry = dyn__entry_of(self, id);
    uint32_t child = *dyn__child_of(self, id), first = child & DYN__ID_MASK;
    if (DYN__GET(entry->set) == 0 && first == 0) return 1;
    if (dyn__at_place(self, entry->place, dyn__place_hash(&self->keys, entry->place)) != id) return 1;
    if ((child & DYN__UNNAMED) == 0 && dyn__first_named(self, *dyn__name_of(self, id)) != id) return 2;
    uint32_t before = 0;
    size_t children = 0, plain = 0;
    for (uint32_t c = first; c != 0; before = c, c = dyn__next_sibling(self, c), children++) {
        const dyn__entry *below = dyn__entry_of(self, c);
        uint64_t link = 0;
        if (dyn__map_get(self, &self->links, c, &link) && (uint32_t)(link >> 32) != before) return 3;
        if (DYN__GET(below->parent) & DYN__FREE || (DYN__GET(below->parent) & DYN__ID_MASK) != id) return 3;
        if ((DYN__GET(below->parent) & DYN__EDGE) == 0) plain++;
    }
    if (plain > 1 || (plain == 1 && (children > 1 || child & DYN__CLOSED))) return 3;
    uint32_t above = DYN__GET(entry->parent) & DYN__ID_MASK, top = id;
    if (above == 0 && (DYN__GET(entry->parent) & DYN__EDGE) == 0) return 3;
    for (uint32_t p; (p = DYN__GET(dyn__entry_of(self, top)->parent) & DYN__ID_MASK) != 0;) top = p;
    if (above != 0 && (DYN__GET(dyn__entry_of(self, top)->parent) & DYN__TANGLED) == 0) {
        uint32_t parent_set = DYN__GET(dyn__entry_of(self, above)->set);
        for (uint32_t slot = 0; slot < self->next_slot; slot++)
            if (dyn__set_has(self, DYN__GET(entry->set), slot) && !dyn__set_has(self, parent_set, slot)) return 4;
    }
    return 0;
}

/* What the pool says it has: whole arenas, but of the newest only what was handed out, unless it is a huge page. */
static bool pool_is_counted(const dyn__pool *pool)
{
    size_t counted = 0;
    for (const struct dyn__arena *arena = pool->arenas; arena != NULL; arena = arena->next)
        counted += sizeof(*arena) + arena->size - (arena == pool->arenas && !pool->huge ? pool->left : 0);
    return counted == pool->counted;
}

static int check_all(dyn_index *self)
{
    int broken;
    size_t live = 0, refs = 0, want = 0, held = 0, counted = 0;
    for (uint32_t id = 1; id < self->next_id; id++) {
        const dyn__entry *entry = dyn__entry_of(self, id);
        if (DYN__GET(entry->parent) & DYN__FREE) continue;
        live++;
        if ((broken = check_entry(self, id)) != 0) return broken;
        if (DYN__GET(entry->set) & DYN__MANY) refs++;
        for (uint32_t slot = 0; slot < self->next_slot; slot++)
            if (dyn__set_has(self, DYN__GET(entry->set), slot)) counted++;
    }
    if (live != DYN__GET(self->blocks)) return 1;
    for (uint32_t i = 0; i < self->interned.room; i++) {
        if (self->interned.at[i] == 0) continue;
        const dyn__set *set = dyn__set_of(self, self->interned.at[i] - 1);
        if (set->count < 2 || set->refs == 0) return 5;
        want += set->refs;
    }
    if (refs != want) return 5;
    for (uint32_t slot = 0; slot < self->next_slot; slot++) held += DYN__GET(dyn__worker_of(self, slot)->held);
    if (held != counted || held != DYN__GET(self->worker_blocks)) return 6;
    if (self->bounded && DYN__GET(self->bytes) > self->max_bytes) return 7;
    if (!pool_is_counted(&self->pool)) return 7;
    return 0;
}

int dyn__index_check(dyn_index *self)
{
    pthread_mutex_lock(&self->lock);
    int broken = check_all(self);
    pthread_mutex_unlock(&self->lock);
    return broken;
}
