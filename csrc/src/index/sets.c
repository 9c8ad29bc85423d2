/* sets.c -- sets of workers, each kept once: blocks with the same workers share one number, and "the same workers as
 * before" is one comparison. A set never changes; readers keep what they have.
 */
#include "index/inside.h"

static uint64_t slot_hash(const dyn_index *self, uint32_t slot)
{
    return dyn__fold(((uint64_t)slot + 1) ^ self->keys.name, self->keys.place_by);
}

static size_t set_size(uint32_t words)
{
    return sizeof(dyn__set) + words * sizeof(uint64_t);
}

/* The bits that a set is to have, before it is known whether it exists. */
typedef struct wanted {
    uint64_t hash;
    uint32_t count, first, words;
    uint64_t bits[DYN__SET_WORDS];
} wanted;

static bool same(const dyn__set *set, const wanted *w)
{
    return set->hash == w->hash && set->count == w->count && set->first == w->first && set->words == w->words &&
           memcmp(set->bits, w->bits, w->words * sizeof(uint64_t)) == 0;
}

static uint32_t seek(const dyn_index *self, const wanted *w)
{
    uint32_t mask = self->interned.room - 1, i = (uint32_t)w->hash & mask;
    for (; self->interned.at[i] != 0; i = (i + 1) & mask)
        if (same(dyn__set_of(self, self->interned.at[i] - 1), w)) break;
    return i;
}

static int grow_interned(dyn_index *self)
{
    uint32_t room = self->interned.room ? self->interned.room * 2 : 16;
    uint32_t *at = dyn__index_alloc(self, room * sizeof(*at), 0);
    if (at == NULL) return dyn__index_no_memory(self);
    for (uint32_t i = 0; i < self->interned.room; i++) {
        if (self->interned.at[i] == 0) continue;
        uint32_t j = (uint32_t)dyn__set_of(self, self->interned.at[i] - 1)->hash & (room - 1);
        while (at[j] != 0) j = (j + 1) & (room - 1);
        at[j] = self->interned.at[i];
    }
    dyn__index_free(self, self->interned.at, self->interned.room * sizeof(*at));
    self->interned.at = at;
    self->interned.room = room;
    return DYN_OK;
}

/* Numbers start at 0; free ones are kept in a list through their place in the chunk. */
static int take_id(dyn_index *self, uint32_t *out)
{
    if (self->interned.free_id != 0) {
        *out = self->interned.free_id - 1;
        dyn__set_chunk *chunk = DYN__GET(self->sets[*out / DYN__SET_CHUNK]);
        self->interned.free_id = (uint32_t)(uintptr_t)DYN__GET(chunk->at[*out % DYN__SET_CHUNK]);
        return DYN_OK;
    }
    uint32_t id = self->interned.next_id;
    if (id == DYN__SET_TOP * DYN__SET_CHUNK)
        return dyn__fail(DYN_ELIMIT, "%u different sets of workers: no more can be told apart", id);
    if (DYN__GET(self->sets[id / DYN__SET_CHUNK]) == NULL) {
        dyn__set_chunk *chunk = dyn__index_alloc(self, sizeof(*chunk), 0);
        if (chunk == NULL) return dyn__index_no_memory(self);
        DYN__SET_RELEASE(self->sets[id / DYN__SET_CHUNK], chunk);
    }
    self->interned.next_id++;
    *out = id;
    return DYN_OK;
}

static void give_id(dyn_index *self, uint32_t id)
{
    dyn__set_chunk *chunk = DYN__GET(self->sets[id / DYN__SET_CHUNK]);
    DYN__SET(chunk->at[id % DYN__SET_CHUNK], (dyn__set *)(uintptr_t)self->interned.free_id);
    self->interned.free_id = id + 1;
}

static int intern(dyn_index *self, const wanted *w, uint32_t *out)
{
    int rc;
    uint32_t id = 0;
    if (self->interned.used + 1 > self->interned.room / 2 && (rc = grow_interned(self)) < 0) return rc;
    uint32_t i = seek(self, w);
    if (self->interned.at[i] != 0) {
        *out = DYN__MANY | (self->interned.at[i] - 1);
        return DYN_OK;
    }
    if ((rc = take_id(self, &id)) < 0) return rc;
    dyn__set *set = dyn__index_alloc(self, set_size(w->words), 0);
    if (set == NULL) {
        give_id(self, id);
        return dyn__index_no_memory(self);
    }
    set->hash = w->hash, set->id = id, set->count = w->count, set->first = w->first, set->words = w->words;
    memcpy(set->bits, w->bits, w->words * sizeof(uint64_t));
    DYN__SET_RELEASE(DYN__GET(self->sets[id / DYN__SET_CHUNK])->at[id % DYN__SET_CHUNK], set);
    self->interned.at[i] = id + 1;
    self->interned.used++;
    DYN__ADD(self->set_count, 1);
    *out = DYN__MANY | id;
    return DYN_OK;
}

static void unintern(dyn_index *self, dyn__set *set)
{
    uint32_t mask = self->interned.room - 1, i = (uint32_t)set->hash & mask;
    while (self->interned.at[i] != set->id + 1) i = (i + 1) & mask;
    for (uint32_t j = (i + 1) & mask; self->interned.at[j] != 0; j = (j + 1) & mask) {
        uint32_t home = (uint32_t)dyn__set_of(self, self->interned.at[j] - 1)->hash & mask;
        if (((j - home) & mask) < ((j - i) & mask)) continue;
        self->interned.at[i] = self->interned.at[j];
        i = j;
    }
    self->interned.at[i] = 0;
    self->interned.used--;
    DYN__SUB(self->set_count, 1);
    /* A reader may have the number and not yet the set: both wait until nobody can. */
    dyn__retire_set(self, set);
}

void dyn__set_reuse(dyn_index *self, dyn__set *set)
{
    give_id(self, set->id);
    dyn__index_free(self, set, set_size(set->words));
}

int dyn__set_add(dyn_index *self, uint32_t set, uint32_t slot, uint32_t *out)
{
    if (set == 0) {
        *out = slot + 1;
        return DYN_OK;
    }
    wanted w;
    uint32_t word = slot / 64;
    if (set & DYN__MANY) {
        const dyn__set *old = dyn__set_of(self, set);
        uint32_t last = old->first + old->words - 1;
        w.first = word < old->first ? word : old->first;
        w.words = (word > last ? word : last) - w.first + 1;
        memset(w.bits, 0, w.words * sizeof(uint64_t));
        memcpy(w.bits + (old->first - w.first), old->bits, old->words * sizeof(uint64_t));
        w.hash = old->hash ^ slot_hash(self, slot);
        w.count = old->count + 1;
    } else {
        uint32_t other = set - 1, other_word = other / 64;
        w.first = word < other_word ? word : other_word;
        w.words = (word > other_word ? word : other_word) - w.first + 1;
        memset(w.bits, 0, w.words * sizeof(uint64_t));
        w.bits[other_word - w.first] |= UINT64_C(1) << other % 64;
        w.hash = slot_hash(self, other) ^ slot_hash(self, slot);
        w.count = 2;
    }
    w.bits[word - w.first] |= UINT64_C(1) << slot % 64;
    return intern(self, &w, out);
}

int dyn__set_remove(dyn_index *self, uint32_t set, uint32_t slot, uint32_t *out)
{
    if ((set & DYN__MANY) == 0) {
        *out = 0;
        return DYN_OK;
    }
    const dyn__set *old = dyn__set_of(self, set);
    wanted w;
    uint64_t *bits = w.bits;
    w.hash = old->hash ^ slot_hash(self, slot), w.count = old->count - 1, w.first = old->first;
    memcpy(bits, old->bits, old->words * sizeof(uint64_t));
    bits[slot / 64 - old->first] &= ~(UINT64_C(1) << slot % 64);
    uint32_t skip = 0;
    w.words = old->words;
    while (bits[w.words - 1] == 0) w.words--;
    while (bits[skip] == 0) skip++;
    if (w.count == 1) {
        *out = (old->first + skip) * 64 + (uint32_t)__builtin_ctzll(bits[skip]) + 1;
        return DYN_OK;
    }
    if (skip > 0) memmove(bits, bits + skip, (w.words - skip) * sizeof(uint64_t));
    w.first += skip;
    w.words -= skip;
    return intern(self, &w, out);
}

void dyn__set_ref(dyn_index *self, uint32_t set)
{
    if (set & DYN__MANY) dyn__set_of(self, set)->refs++;
}

void dyn__set_unref(dyn_index *self, uint32_t set)
{
    if ((set & DYN__MANY) == 0) return;
    dyn__set *many = dyn__set_of(self, set);
    if (--many->refs == 0) unintern(self, many);
}

void dyn__sets_free(dyn_index *self)
{
    for (uint32_t i = 0; i < self->interned.room; i++) {
        if (self->interned.at[i] == 0) continue;
        dyn__set *set = dyn__set_of(self, self->interned.at[i] - 1);
        dyn__index_free(self, set, set_size(set->words));
    }
    for (uint32_t i = 0; i < DYN__SET_TOP && DYN__GET(self->sets[i]) != NULL; i++)
        dyn__index_free(self, DYN__GET(self->sets[i]), sizeof(dyn__set_chunk));
    dyn__index_free(self, self->interned.at, self->interned.room * sizeof(*self->interned.at));
}
