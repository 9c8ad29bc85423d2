/* entries.c -- blocks: making, holding, dropping, freeing them, and making room for new ones. */
#include "index/inside.h"

/* What an entry costs at most with its places in both tables; see docs/design/index.md. */
enum { ENTRY_COST = 54 };

static int take_id(dyn_index *self, uint32_t *out)
{
    uint32_t id = self->free_id;
    if (id != 0) {
        self->free_id = (uint32_t)*dyn__name_of(self, id);
        if (self->free_id != 0) dyn__prefetch_entry(self, self->free_id);
        *out = id;
        return DYN_OK;
    }
    id = self->next_id;
    if (id % DYN__CHUNK != 0 && id > 1) { /* its chunk is there */
        self->next_id++;
        *out = id;
        return DYN_OK;
    }
    if (id > DYN__ID_MASK) return dyn__fail(DYN_ELIMIT, "%u blocks: an index has no more numbers", id);
    dyn__leaf *leaf = DYN__GET(self->top[id >> (DYN__CHUNK_BITS + DYN__LEAF_BITS)]);
    if (leaf == NULL) {
        if ((leaf = dyn__index_alloc(self, sizeof(*leaf), 0)) == NULL) return dyn__index_no_memory(self);
        DYN__SET_RELEASE(self->top[id >> (DYN__CHUNK_BITS + DYN__LEAF_BITS)], leaf);
        self->entry_bytes += sizeof(*leaf);
    }
    uint32_t at = (id >> DYN__CHUNK_BITS) & ((1 << DYN__LEAF_BITS) - 1);
    if (DYN__GET(leaf->at[at]) == NULL) {
        if (self->bounded && DYN__GET(leaf->used[at]) == NULL) {
            dyn__used *used = dyn__index_alloc(self, sizeof(*used), 0);
            if (used == NULL) return dyn__index_no_memory(self);
            DYN__SET_RELEASE(leaf->used[at], used);
            self->entry_bytes += sizeof(*used);
        }
        dyn__chunk *chunk = dyn__chunk_new(self);
        if (chunk == NULL) return dyn__index_no_memory(self);
        for (int i = 0; i < DYN__CHUNK; i++) DYN__SET(chunk->entry[i].parent, DYN__FREE);
        DYN__SET_RELEASE(leaf->at[at], chunk);
        self->entry_bytes += sizeof(*chunk);
    }
    self->next_id++;
    *out = id;
    return DYN_OK;
}

static void give_id(dyn_index *self, uint32_t id)
{
    *dyn__name_of(self, id) = self->free_id;
    self->free_id = id;
}

uint32_t dyn__next_sibling(const dyn_index *self, uint32_t id)
{
    uint64_t link;
    if ((*dyn__child_of(self, id) & DYN__LINKED) == 0 || !dyn__map_get(self, &self->links, id, &link)) return 0;
    return (uint32_t)link;
}

/* Hang a new entry below its parent; says in *edge whether it starts a run (I3). Changes nothing on error. */
static int link_child(dyn_index *self, uint32_t parent, uint32_t id, bool *edge)
{
    int rc;
    uint64_t link = 0;
    *edge = true;
    if (parent == 0) return DYN_OK; /* first entries are not linked: nothing ever walks from the root but dump */
    uint32_t *child = dyn__child_of(self, parent), first = *child & DYN__ID_MASK;
    if (first == 0) {
        *edge = (*child & DYN__CLOSED) != 0;
        *child |= id;
        return DYN_OK;
    }
    bool linked = (*dyn__child_of(self, first) & DYN__LINKED) != 0;
    if (linked) dyn__map_get(self, &self->links, first, &link);
    if ((rc = dyn__map_put(self, &self->links, id, first)) < 0) return rc;
    if ((rc = dyn__map_put(self, &self->links, first, (uint64_t)id << 32 | (uint32_t)link)) < 0) {
        dyn__map_erase(self, &self->links, id);
        return rc;
    }
    *dyn__child_of(self, id) |= DYN__LINKED;
    *dyn__child_of(self, first) |= DYN__LINKED;
    dyn__entry *old = dyn__entry_of(self, first);
    DYN__SET(old->parent, DYN__GET(old->parent) | DYN__EDGE);
    *child = (*child & ~DYN__ID_MASK) | DYN__CLOSED | id;
    return DYN_OK;
}

static void unlink_child(dyn_index *self, uint32_t parent, uint32_t id)
{
    uint64_t link = 0, other;
    if (parent == 0) return;
    if (*dyn__child_of(self, id) & DYN__LINKED) {
        dyn__map_get(self, &self->links, id, &link);
        dyn__map_erase(self, &self->links, id);
    }
    uint32_t before = (uint32_t)(link >> 32), after = (uint32_t)link;
    if (before != 0) {
        dyn__map_get(self, &self->links, before, &other);
        dyn__map_put(self, &self->links, before, (other & ~UINT64_C(0xffffffff)) | after); /* is there: cannot fail */
    } else {
        uint32_t *child = dyn__child_of(self, parent);
        *child = (*child & ~DYN__ID_MASK) | after;
    }
    if (after != 0) {
        dyn__map_get(self, &self->links, after, &other);
        dyn__map_put(self, &self->links, after, (uint64_t)before << 32 | (uint32_t)other);
    }
}

int dyn__entry_make(dyn_index *self, uint32_t parent, uint64_t place, uint64_t place_hash, uint64_t name, uint32_t slot,
                    uint32_t *out)
{
    int rc;
    uint32_t id = 0;
    bool edge, named = !self->nameless;
    uint64_t name_hash = 0;
    dyn__segment *places, *names = NULL;

    if ((rc = dyn__lines_reserve(self, DYN__PLACES, place_hash, &places)) < 0) return rc;
    if (named) {
        name_hash = dyn__name_hash(&self->keys, name);
        if ((rc = dyn__lines_reserve(self, DYN__NAMES, name_hash, &names)) < 0) return rc;
        named = dyn__seek(self, names, DYN__NAMES, name, name_hash) == 0;
    }
    if ((rc = take_id(self, &id)) < 0) return rc;
    dyn__entry *entry = dyn__entry_of(self, id);
    entry->child = named ? 0 : DYN__UNNAMED;
    if ((rc = link_child(self, parent, id, &edge)) < 0) {
        give_id(self, id);
        return rc;
    }
    entry->place = place;
    entry->name = name;
    DYN__SET(entry->set, slot + 1);
    DYN__SET(entry->parent, parent | (edge ? DYN__EDGE : 0));
    if (named) dyn__lines_insert(names, name_hash, id);
    dyn__lines_insert(places, place_hash, id); /* from here on readers see it */
    dyn__worker *worker = dyn__worker_of(self, slot);
    DYN__ADD(worker->held, 1);
    DYN__ADD(self->worker_blocks, 1);
    DYN__ADD(self->blocks, 1);
    *out = id;
    return DYN_OK;
}

/* Give the entry this name, unless a block has it. */
static inline bool put_name(dyn_index *self, dyn__segment *names, uint64_t name, uint64_t hash, uint32_t id)
{
    dyn__line *line = &names->at[dyn__home(names, hash)];
    uint64_t low = DYN__GET(line->tags[0]), high = DYN__GET(line->tags[1]);
    uint8_t tag = dyn__tag(hash);
    if ((dyn__match_of(low, high, tag) != 0 || dyn__passed(high) != 0) &&
        dyn__seek(self, names, DYN__NAMES, name, hash) != 0)
        return false;
    uint32_t word = id | dyn__next_bits(names, hash);
    names->used++;
    if (DYN__UNLIKELY(!dyn__line_put(line, low, high, tag, word))) dyn__lines_pass(names, line, tag, word);
    return true;
}

int dyn__entries_append(dyn_index *self, uint32_t slot, const dyn__run *run, size_t count, uint32_t *last, size_t *made)
{
    int rc = DYN_OK;
    size_t i;
    uint32_t above = *last, id = 0;
    dyn__entry *over = NULL; /* the entry above, where it is one of these */
    for (i = 0; i < count; i++) {
        dyn__segment *places, *names;
        bool edge = false;
        if ((rc = dyn__lines_reserve(self, DYN__PLACES, run->place_hash[i], &places)) < 0 ||
            (rc = dyn__lines_reserve(self, DYN__NAMES, run->name_hash[i], &names)) < 0)
            break;
        if ((rc = take_id(self, &id)) < 0) break;
        if (DYN__UNLIKELY(!put_name(self, names, run->name[i], run->name_hash[i], id))) {
            give_id(self, id);
            break;
        }
        dyn__entry *entry = dyn__entry_of(self, id);
        entry->child = 0;
        if (over != NULL) {
            over->child |= id; /* which may be LINKED itself */
        } else if ((rc = link_child(self, above, id, &edge)) < 0) {
            dyn__lines_erase(self, DYN__NAMES, run->name_hash[i], id);
            give_id(self, id);
            break;
        }
        entry->place = run->place[i];
        entry->name = run->name[i];
        DYN__SET(entry->set, slot + 1);
        DYN__SET(entry->parent, above | (edge ? DYN__EDGE : 0));
        dyn__lines_insert(places, run->place_hash[i], id); /* from here on readers see it */
        over = entry;
        above = id;
    }
    dyn__worker *worker = dyn__worker_of(self, slot);
    DYN__ADD(worker->held, i);
    DYN__ADD(self->worker_blocks, i);
    DYN__ADD(self->blocks, i);
    *last = above;
    *made = i;
    return rc;
}

void dyn__entry_release(dyn_index *self, uint32_t id)
{
    while (id != 0) {
        dyn__entry *entry = dyn__entry_of(self, id);
        uint32_t child = entry->child, parent = DYN__GET(entry->parent);
        if (DYN__GET(entry->set) != 0 || (child & DYN__ID_MASK) != 0) return;
        dyn__lines_erase(self, DYN__PLACES, dyn__place_hash(&self->keys, entry->place), id);
        if ((child & DYN__UNNAMED) == 0)
            dyn__lines_erase(self, DYN__NAMES, dyn__name_hash(&self->keys, entry->name), id);
        unlink_child(self, parent & DYN__ID_MASK, id);
        if (self->uses.used > 0) dyn__uses_drop(self, id);
        DYN__SET(entry->parent, DYN__FREE);
        DYN__SUB(self->blocks, 1);
        dyn__retire_entry(self, id);
        id = parent & DYN__ID_MASK;
    }
}

/* memo: the last change of a set in this call. Its result is in use, as the entry changed then still has it. */
int dyn__hold(dyn_index *self, uint32_t id, uint32_t slot, uint32_t memo[2])
{
    int rc;
    dyn__entry *entry = dyn__entry_of(self, id);
    uint32_t old = DYN__GET(entry->set), new = memo[1];
    if (memo[0] != old || new == 0) {
        if (dyn__set_has(self, old, slot)) return 0;
        if ((rc = dyn__set_add(self, old, slot, &new)) < 0) return rc;
        memo[0] = old, memo[1] = new;
    }
    dyn__set_ref(self, new);
    DYN__SET_RELEASE(entry->set, new);
    dyn__set_unref(self, old);
    dyn__worker *worker = dyn__worker_of(self, slot);
    DYN__ADD(worker->held, 1);
    DYN__ADD(self->worker_blocks, 1);
    return 1;
}

int dyn__drop(dyn_index *self, uint32_t id, uint32_t slot, uint32_t memo[2])
{
    int rc;
    dyn__entry *entry = dyn__entry_of(self, id);
    uint32_t old = DYN__GET(entry->set), new = memo[1];
    if (DYN__LIKELY((old & DYN__MANY) == 0)) { /* nobody else has it */
        DYN__SET_RELEASE(entry->set, 0);
    } else {
        if (memo[0] != old) {
            if ((rc = dyn__set_remove(self, old, slot, &new)) < 0) return rc;
            memo[0] = old, memo[1] = new;
        }
        dyn__set_ref(self, new);
        DYN__SET_RELEASE(entry->set, new);
        dyn__set_unref(self, old);
    }
    dyn__worker *worker = dyn__worker_of(self, slot);
    DYN__SUB(worker->held, 1);
    DYN__SUB(self->worker_blocks, 1);
    dyn__name_dropped(self, id, slot);
    return DYN_OK;
}

int dyn__drop_all(dyn_index *self, uint32_t slot)
{
    int rc;
    uint32_t memo[2] = {0, 0};
    const dyn__worker *worker = dyn__worker_of(self, slot);
    for (uint32_t id = 1; id < self->next_id && DYN__GET(worker->held) > 0; id++) {
        const dyn__entry *entry = dyn__entry_of(self, id);
        if (DYN__GET(entry->parent) & DYN__FREE || !dyn__set_has(self, DYN__GET(entry->set), slot)) continue;
        if ((rc = dyn__drop(self, id, slot, memo)) < 0) return rc;
        dyn__entry_release(self, id);
    }
    return DYN_OK;
}

static void evict(dyn_index *self, uint32_t id)
{
    dyn__entry *entry = dyn__entry_of(self, id);
    uint32_t set = DYN__GET(entry->set), single = set - 1, words = 1, first = single / 64;
    uint64_t one = UINT64_C(1) << single % 64;
    const uint64_t *bits = &one;
    if (set & DYN__MANY) {
        const dyn__set *many = dyn__set_of(self, set);
        bits = many->bits, words = many->words, first = many->first;
    }
    DYN__SET_RELEASE(entry->set, 0);
    for (uint32_t i = 0; i < words; i++) {
        for (uint64_t left = bits[i]; left != 0; left &= left - 1) {
            uint32_t slot = (first + i) * 64 + (uint32_t)__builtin_ctzll(left);
            dyn__worker *worker = dyn__worker_of(self, slot);
            DYN__SUB(worker->held, 1);
            DYN__SUB(self->worker_blocks, 1);
            dyn__name_dropped(self, id, slot);
        }
    }
    dyn__set_unref(self, set);
    dyn__entry_release(self, id);
    DYN__ADD(self->evicted, 1);
}

static size_t room_for(const dyn_index *self)
{
    size_t other = DYN__GET(self->bytes) - self->entry_bytes - self->table_bytes;
    size_t usable = self->max_bytes - self->max_bytes / 16;
    return usable > other ? (usable - other) / ENTRY_COST : 0;
}

/* Evict a leaf that was not used since the hand came by, then what became a leaf by that, upwards. */
static void evict_from(dyn_index *self, uint32_t id, uint32_t keep, size_t goal)
{
    while (id != 0 && id != keep && DYN__GET(self->blocks) > goal) {
        const dyn__entry *entry = dyn__entry_of(self, id);
        uint32_t parent = DYN__GET(entry->parent);
        uint64_t bit = UINT64_C(1) << id % 64;
        if (parent & DYN__FREE || (entry->child & DYN__ID_MASK) != 0) return;
        if (DYN__GET(*dyn__used_of(self, id)) & bit) {
            atomic_fetch_and_explicit(dyn__used_of(self, id), ~bit, memory_order_relaxed);
            return;
        }
        evict(self, id);
        id = parent & DYN__ID_MASK;
    }
}

/* A clock over the leaves. `keep` is where the caller is about to hang something. */
int dyn__make_room(dyn_index *self, uint32_t keep)
{
    if (!self->bounded || DYN__GET(self->blocks) < room_for(self)) return DYN_OK;
    if (self->nameless) return dyn__fail(DYN_ELIMIT, "the index is at its bound of %zu bytes", self->max_bytes);
    size_t room = room_for(self), goal = room - room / 256;
    for (uint64_t steps = 2 * (uint64_t)self->next_id; steps > 0 && DYN__GET(self->blocks) > goal; steps--) {
        if (++self->hand >= self->next_id) self->hand = 1;
        evict_from(self, self->hand, keep, goal);
    }
    dyn__advance(self);
    dyn__advance(self);
    if (DYN__GET(self->blocks) < room_for(self)) return DYN_OK;
    return dyn__fail(DYN_ELIMIT, "the index is at its bound of %zu bytes and nothing can be evicted", self->max_bytes);
}
