/* pool.c -- see mocker/pool.h for the contract. */
#include "mocker/pool.h"

static size_t home(const dyn__pool *self, uint64_t hash)
{
    return (size_t)((hash * UINT64_C(0x9E3779B97F4A7C15)) >> 20) & self->map_mask;
}

int dyn__pool_init(dyn__pool *self, size_t blocks)
{
    size_t slots = 16;
    if (blocks == 0 || blocks >= DYN__NO_BLOCK / 2)
        return dyn__fail(DYN_EINVAL, "a pool of %zu blocks: must be 1 to %u", blocks, DYN__NO_BLOCK / 2 - 1);
    while (slots < blocks * 2) slots *= 2;
    *self =
        (dyn__pool){.map_mask = slots - 1, .count = (uint32_t)blocks, .oldest = DYN__NO_BLOCK, .newest = DYN__NO_BLOCK};
    self->blocks = dyn__calloc(blocks, sizeof(*self->blocks));
    self->map = dyn__malloc(slots * sizeof(*self->map));
    if (self->blocks == NULL || self->map == NULL) {
        dyn__pool_fini(self);
        return DYN_ENOMEM;
    }
    memset(self->map, 0xFF, slots * sizeof(*self->map));
    for (uint32_t i = 0; i < self->count; i++) self->blocks[i].older = i + 1 < self->count ? i + 1 : DYN__NO_BLOCK;
    self->free_count = self->count;
    return DYN_OK;
}

void dyn__pool_fini(dyn__pool *self)
{
    dyn__free(self->blocks);
    dyn__free(self->map);
    self->blocks = NULL, self->map = NULL;
}

static size_t slot_of(const dyn__pool *self, uint64_t hash)
{
    size_t slot = home(self, hash);
    while (self->map[slot] != DYN__NO_BLOCK && self->blocks[self->map[slot]].hash != hash)
        slot = (slot + 1) & self->map_mask;
    return slot;
}

uint32_t dyn__pool_find(const dyn__pool *self, uint64_t hash)
{
    return self->map[slot_of(self, hash)];
}

static void forget(dyn__pool *self, uint64_t hash)
{
    size_t hole = slot_of(self, hash);
    /* Pull back what would not be found past the hole, so that no tombstone is needed. */
    for (size_t next = (hole + 1) & self->map_mask; self->map[next] != DYN__NO_BLOCK;
         next = (next + 1) & self->map_mask) {
        size_t want = home(self, self->blocks[self->map[next]].hash);
        if (((next - want) & self->map_mask) < ((next - hole) & self->map_mask)) continue;
        self->map[hole] = self->map[next];
        hole = next;
    }
    self->map[hole] = DYN__NO_BLOCK;
}

static void unlink_lru(dyn__pool *self, uint32_t block)
{
    struct dyn__block *b = &self->blocks[block];
    if (b->older != DYN__NO_BLOCK)
        self->blocks[b->older].newer = b->newer;
    else
        self->oldest = b->newer;
    if (b->newer != DYN__NO_BLOCK)
        self->blocks[b->newer].older = b->older;
    else
        self->newest = b->older;
    self->inactive_count--;
}

static void give_back(dyn__pool *self, uint32_t block)
{
    self->blocks[block].named = false;
    self->blocks[block].older = self->free_head;
    self->free_head = block;
    self->free_count++;
}

static void evict(dyn__pool *self, uint32_t block)
{
    uint64_t hash = self->blocks[block].hash;
    unlink_lru(self, block);
    forget(self, hash);
    give_back(self, block);
    self->evicted++;
    if (self->on_evict != NULL) self->on_evict(self->user, hash);
}

void dyn__pool_ref(dyn__pool *self, uint32_t block)
{
    if (self->blocks[block].refs++ == 0) unlink_lru(self, block);
}

void dyn__pool_unref(dyn__pool *self, uint32_t block)
{
    struct dyn__block *b = &self->blocks[block];
    assert(b->refs > 0);
    if (--b->refs > 0) return;
    if (!b->named) {
        give_back(self, block);
        return;
    }
    b->older = self->newest;
    b->newer = DYN__NO_BLOCK;
    if (self->newest != DYN__NO_BLOCK)
        self->blocks[self->newest].newer = block;
    else
        self->oldest = block;
    self->newest = block;
    self->inactive_count++;
}

uint32_t dyn__pool_take(dyn__pool *self)
{
    if (self->free_count == 0) {
        if (self->oldest == DYN__NO_BLOCK) return DYN__NO_BLOCK;
        evict(self, self->oldest);
    }
    uint32_t block = self->free_head;
    self->free_head = self->blocks[block].older;
    self->free_count--;
    self->blocks[block].refs = 1;
    return block;
}

uint32_t dyn__pool_name(dyn__pool *self, uint32_t block, uint64_t hash, bool *is_new)
{
    size_t slot = slot_of(self, hash);
    uint32_t other = self->map[slot];
    *is_new = other == DYN__NO_BLOCK;
    if (!*is_new) {
        dyn__pool_ref(self, other);
        dyn__pool_unref(self, block);
        return other;
    }
    self->blocks[block].hash = hash;
    self->blocks[block].named = true;
    self->map[slot] = block;
    return block;
}

void dyn__pool_clear(dyn__pool *self)
{
    while (self->newest != DYN__NO_BLOCK) evict(self, self->newest);
}

size_t dyn__pool_bytes(const dyn__pool *self)
{
    return self->count * sizeof(*self->blocks) + (self->map_mask + 1) * sizeof(*self->map);
}

void dyn__pool_check(const dyn__pool *self)
{
    uint32_t inactive = 0, free_blocks = 0, named = 0;
    for (uint32_t b = self->oldest; b != DYN__NO_BLOCK; b = self->blocks[b].newer, inactive++)
        assert(self->blocks[b].named && self->blocks[b].refs == 0);
    for (uint32_t b = self->free_head; free_blocks < self->free_count; b = self->blocks[b].older, free_blocks++)
        assert(!self->blocks[b].named);
    for (size_t slot = 0; slot <= self->map_mask; slot++) {
        if (self->map[slot] == DYN__NO_BLOCK) continue;
        named++;
        assert(dyn__pool_find(self, self->blocks[self->map[slot]].hash) == self->map[slot]);
    }
    uint32_t by_flag = 0;
    for (uint32_t b = 0; b < self->count; b++) by_flag += self->blocks[b].named;
    assert(inactive == self->inactive_count && named == by_flag);
    (void)inactive, (void)named, (void)by_flag;
}
