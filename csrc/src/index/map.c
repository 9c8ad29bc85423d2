/* map.c -- small maps of the writer: 64 parts, open addressing, no tombstones (what follows a gap moves up). */
#include "index/inside.h"

static uint64_t scatter(const dyn_index *self, uint64_t key)
{
    return dyn__fold(key ^ self->keys.place, self->keys.name_by);
}

/* Where the key is, or the empty place where it would be. */
static uint32_t seek(const dyn_index *self, const struct dyn__map_part *part, uint64_t key)
{
    uint32_t i = (uint32_t)(scatter(self, key) >> 6) & (part->room - 1);
    while (part->at[i][0] != 0 && part->at[i][0] != key) i = (i + 1) & (part->room - 1);
    return i;
}

bool dyn__map_get(const dyn_index *self, const dyn__map *map, uint64_t key, uint64_t *value)
{
    if (map->used == 0) return false;
    const struct dyn__map_part *part = &map->part[scatter(self, key) % DYN__MAP_PARTS];
    if (part->used == 0) return false;
    uint32_t i = seek(self, part, key);
    if (part->at[i][0] == 0) return false;
    *value = part->at[i][1];
    return true;
}

static int grow(dyn_index *self, struct dyn__map_part *part)
{
    struct dyn__map_part new = {.room = part->room ? part->room * 2 : 4, .used = part->used};
    new.at = dyn__index_alloc(self, new.room * sizeof(*new.at), 0);
    if (new.at == NULL) return dyn__index_no_memory(self);
    for (uint32_t i = 0; i < part->room; i++)
        if (part->at[i][0] != 0) memcpy(new.at[seek(self, &new, part->at[i][0])], part->at[i], sizeof(*new.at));
    dyn__index_free(self, part->at, part->room * sizeof(*part->at));
    *part = new;
    return DYN_OK;
}

int dyn__map_put(dyn_index *self, dyn__map *map, uint64_t key, uint64_t value)
{
    struct dyn__map_part *part = &map->part[scatter(self, key) % DYN__MAP_PARTS];
    int rc;
    if (part->used + 1 > part->room / 4 * 3 && (rc = grow(self, part)) < 0) return rc;
    uint32_t i = seek(self, part, key);
    if (part->at[i][0] == 0) {
        part->at[i][0] = key;
        part->used++;
        map->used++;
    }
    part->at[i][1] = value;
    return DYN_OK;
}

bool dyn__map_erase(dyn_index *self, dyn__map *map, uint64_t key)
{
    struct dyn__map_part *part = &map->part[scatter(self, key) % DYN__MAP_PARTS];
    if (part->used == 0) return false;
    uint32_t i = seek(self, part, key), mask = part->room - 1;
    if (part->at[i][0] == 0) return false;
    for (uint32_t j = (i + 1) & mask; part->at[j][0] != 0; j = (j + 1) & mask) {
        uint32_t home = (uint32_t)(scatter(self, part->at[j][0]) >> 6) & mask;
        if (((j - home) & mask) < ((j - i) & mask)) continue; /* its home lies after the gap */
        memcpy(part->at[i], part->at[j], sizeof(*part->at));
        i = j;
    }
    part->at[i][0] = 0;
    part->used--;
    map->used--;
    if (part->used == 0) { /* a part that emptied gives its memory back */
        dyn__index_free(self, part->at, part->room * sizeof(*part->at));
        *part = (struct dyn__map_part){0};
    }
    return true;
}

void dyn__map_free(dyn_index *self, dyn__map *map)
{
    for (int i = 0; i < DYN__MAP_PARTS; i++)
        dyn__index_free(self, map->part[i].at, map->part[i].room * sizeof(*map->part[i].at));
}
