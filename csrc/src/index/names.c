/* names.c -- which block a worker means by a name.
 *
 * `names` knows, for each name, the first live entry that got it: right for all workers, and all there is as long as engines
 * give one block one name. What differs is written down per worker:
 *
 *   others (slot, name) -> entry      the worker stored that name elsewhere, later: it means this entry
 *          ... with ALIAS             the entry has another name; this is the worker's own for it
 *   aliases_of (slot, entry) -> name  the way back; (slot, entry) with FOREIGN: the worker never used the entry's name
 */
#include "index/inside.h"

#define ALIAS UINT64_C(0x100000000)
#define FOREIGN UINT64_C(0x8000000000000000)

static uint64_t pair(uint32_t slot, uint32_t id)
{
    return (uint64_t)slot << 32 | id; /* id is never 0 */
}

static uint64_t other_key(const dyn_index *self, uint32_t slot, uint64_t name)
{
    uint64_t key = dyn__fold(dyn__name_hash(&self->keys, name) ^ slot, self->keys.place_by);
    return key ? key : 1;
}

static uint32_t first_named(const dyn_index *self, uint64_t name)
{
    uint64_t hash = dyn__name_hash(&self->keys, name);
    const dyn__segment *segment = dyn__segment_of(&self->names, hash);
    return segment == NULL ? 0 : dyn__seek(self, segment, DYN__NAMES, name, hash);
}

static uint32_t other(const dyn_index *self, uint32_t slot, uint64_t name, bool *alias)
{
    uint64_t value;
    if (self->others.used == 0 || !dyn__map_get(self, &self->others, other_key(self, slot, name), &value)) return 0;
    *alias = (value & ALIAS) != 0;
    return (uint32_t)value;
}

static void forget_other(dyn_index *self, uint32_t slot, uint64_t name, uint32_t id)
{
    bool alias;
    if (other(self, slot, name, &alias) == id) dyn__map_erase(self, &self->others, other_key(self, slot, name));
}

uint32_t dyn__named(const dyn_index *self, uint32_t slot, uint64_t name, bool to_remove)
{
    bool alias = false;
    uint64_t ignored;
    if (!to_remove && self->others.used == 0 && self->aliases_of.used == 0) { /* as good as always */
        uint32_t last = dyn__worker_of(self, slot)->last;
        if (last != 0) {
            const dyn__entry *entry = dyn__entry_of(self, last);
            if (entry->name == name && (entry->child & DYN__UNNAMED) == 0 &&
                (DYN__GET(entry->parent) & DYN__FREE) == 0 && dyn__set_has(self, DYN__GET(entry->set), slot))
                return last;
        }
    }
    uint32_t id = other(self, slot, name, &alias);
    if (id != 0 && !(alias && to_remove && !self->aliases)) return id;
    id = first_named(self, name);
    if (id == 0 || !dyn__set_has(self, DYN__GET(dyn__entry_of(self, id)->set), slot)) return 0;
    return dyn__map_get(self, &self->aliases_of, pair(slot, id) | FOREIGN, &ignored) ? 0 : id;
}

uint32_t dyn__first_named(const dyn_index *self, uint64_t name)
{
    return first_named(self, name);
}

/* joined: the worker did not hold the entry before. */
int dyn__name_stored(dyn_index *self, uint32_t id, uint32_t slot, uint64_t name, bool joined)
{
    int rc;
    uint64_t old;
    bool had = dyn__map_get(self, &self->aliases_of, pair(slot, id), &old);
    bool foreign = had && dyn__map_get(self, &self->aliases_of, pair(slot, id) | FOREIGN, &(uint64_t){0});
    if (*dyn__name_of(self, id) == name) {
        if (foreign) dyn__map_erase(self, &self->aliases_of, pair(slot, id) | FOREIGN);
        if (*dyn__child_of(self, id) & DYN__UNNAMED)
            return dyn__map_put(self, &self->others, other_key(self, slot, name), id);
        if (self->others.used > 0) dyn__map_erase(self, &self->others, other_key(self, slot, name));
        return DYN_OK;
    }
    if ((rc = dyn__map_put(self, &self->others, other_key(self, slot, name), id | ALIAS)) < 0) return rc;
    if (had && old != name) forget_other(self, slot, old, id);
    if ((rc = dyn__map_put(self, &self->aliases_of, pair(slot, id), name)) < 0 ||
        (joined && (rc = dyn__map_put(self, &self->aliases_of, pair(slot, id) | FOREIGN, 1)) < 0)) {
        dyn__map_erase(self, &self->others, other_key(self, slot, name));
        dyn__map_erase(self, &self->aliases_of, pair(slot, id));
    }
    return rc;
}

void dyn__name_dropped(dyn_index *self, uint32_t id, uint32_t slot)
{
    uint64_t name;
    if (self->others.used == 0 && self->aliases_of.used == 0) return;
    forget_other(self, slot, *dyn__name_of(self, id), id);
    if (!dyn__map_get(self, &self->aliases_of, pair(slot, id), &name)) return;
    forget_other(self, slot, name, id);
    dyn__map_erase(self, &self->aliases_of, pair(slot, id));
    dyn__map_erase(self, &self->aliases_of, pair(slot, id) | FOREIGN);
}
