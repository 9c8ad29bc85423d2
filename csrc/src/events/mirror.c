/* mirror.c -- see events/mirror.h. Open addressing with linear probes; removal moves those behind back.
 *
 * I1  At most 3/4 of the slots are used, so that every search ends at a free one.
 * I2  A slot is reached from its home by used slots only.
 */
#include "events/mirror.h"
#include "common/common.h"

enum mark { NEW, ON_PATH, TOLD, UNREACHED };

static size_t home(const dyn__mirror *self, uint64_t block, uint32_t rank)
{
    uint64_t h = (block ^ (rank * UINT64_C(0x9E3779B97F4A7C15))) * UINT64_C(0xD6E8FEB86659FD93);
    return (size_t)(h ^ (h >> 32)) & (self->room - 1);
}

static struct dyn__mirror_slot *find(const dyn__mirror *self, uint64_t block, uint32_t rank)
{
    if (self->room == 0) return NULL;
    for (size_t i = home(self, block, rank); self->slots[i].used; i = (i + 1) & (self->room - 1)) {
        if (self->slots[i].block == block && self->slots[i].rank == rank) return &self->slots[i];
    }
    return NULL;
}

static void put(dyn__mirror *self, const struct dyn__mirror_slot *slot)
{
    size_t i = home(self, slot->block, slot->rank);
    while (self->slots[i].used) i = (i + 1) & (self->room - 1);
    self->slots[i] = *slot;
    self->count++;
}

static int grow(dyn__mirror *self)
{
    dyn__mirror bigger = *self;
    bigger.room = self->room ? 2 * self->room : 256, bigger.count = 0;
    bigger.slots = dyn__calloc(bigger.room, sizeof(*bigger.slots));
    if (bigger.slots == NULL) return DYN_ENOMEM;
    for (size_t i = 0; i < self->room; i++) {
        if (self->slots[i].used) put(&bigger, &self->slots[i]);
    }
    dyn__free(self->slots);
    *self = bigger;
    return DYN_OK;
}

void dyn__mirror_free(dyn__mirror *self)
{
    dyn__free(self->slots);
    *self = (dyn__mirror){.most = self->most, .rank = self->rank, .ranked = self->ranked, .ranks = self->ranks};
}

static void turn_off(dyn__mirror *self, const char *why)
{
    dyn_log(DYN_LOG_WARN, "events", "the cache's %zu blocks are not kept for routers that come late: %s", self->count,
            why);
    dyn__mirror_free(self);
    self->off = true;
}

static void remove_at(dyn__mirror *self, size_t hole)
{
    size_t mask = self->room - 1;
    for (size_t i = (hole + 1) & mask; self->slots[i].used; i = (i + 1) & mask) {
        size_t at = home(self, self->slots[i].block, self->slots[i].rank);
        if (((i - at) & mask) < ((i - hole) & mask)) continue; /* its home lies behind the hole */
        self->slots[hole] = self->slots[i];
        hole = i;
    }
    self->slots[hole].used = 0;
    self->count--;
}

static void clear(dyn__mirror *self, uint32_t rank)
{
    dyn__mirror rest = *self;
    bool others = false;
    if (self->off && self->ranks) return; /* what the other ranks hold nobody knows any more */
    rest.count = 0;
    for (size_t i = 0; i < self->room && !others; i++) others = self->slots[i].used && self->slots[i].rank != rank;
    if (!others) {
        dyn__mirror_free(self); /* off, too, ends here */
        return;
    }
    if ((rest.slots = dyn__calloc(rest.room, sizeof(*rest.slots))) == NULL) {
        turn_off(self, "there is no memory");
        return;
    }
    for (size_t i = 0; i < self->room; i++) {
        if (self->slots[i].used && self->slots[i].rank != rank) put(&rest, &self->slots[i]);
    }
    dyn__free(self->slots);
    *self = rest;
}

static void store(dyn__mirror *self, const dyn_event *e)
{
    struct dyn__mirror_slot slot = {.rank = e->dp_rank, .used = 1, .has_parent = e->has_parent, .parent = e->parent};
    for (size_t i = 0; i < e->count; i++) {
        slot.block = e->block_hashes[i], slot.tokens = e->tokens_hashes[i];
        struct dyn__mirror_slot *there = find(self, slot.block, slot.rank);
        if (there != NULL) {
            *there = slot;
        } else if (self->count >= self->most) {
            turn_off(self, "they are more than its bound");
            return;
        } else if ((self->count + 1) * 4 > self->room * 3 && grow(self) < 0) {
            turn_off(self, "there is no memory");
            return;
        } else {
            put(self, &slot);
        }
        slot.has_parent = 1, slot.parent = slot.block;
    }
}

void dyn__mirror_apply(dyn__mirror *self, const dyn_event *e)
{
    if (e->kind == DYN_EVENT_STORED) {
        self->ranks = self->ranks || (self->ranked && self->rank != e->dp_rank);
        if (!self->ranked) self->rank = e->dp_rank, self->ranked = true;
    }
    if (e->kind == DYN_EVENT_CLEARED) {
        clear(self, e->dp_rank);
    } else if (self->off || e->tier != DYN_TIER_DEVICE) {
        return;
    } else if (e->kind == DYN_EVENT_STORED) {
        store(self, e);
    } else {
        for (size_t i = 0; i < e->count; i++) {
            struct dyn__mirror_slot *slot = find(self, e->block_hashes[i], e->dp_rank);
            if (slot != NULL) remove_at(self, (size_t)(slot - self->slots));
        }
    }
}

int dyn__mirror_copy(dyn__mirror *out, const dyn__mirror *self)
{
    if (self->off) return DYN_EUNAVAIL;
    dyn__mirror copy = *self;
    if (self->room > 0) {
        if ((copy.slots = dyn__malloc(self->room * sizeof(*copy.slots))) == NULL) return DYN_ENOMEM;
        memcpy(copy.slots, self->slots, self->room * sizeof(*copy.slots));
    }
    *out = copy;
    return DYN_OK;
}

/* ---- the walk: from each block up to what was told already, then that path down as one event ---- */

struct path {
    struct dyn__mirror_slot **slots; /* the deepest first */
    size_t count, room;
};

static int push(struct path *self, struct dyn__mirror_slot *slot)
{
    if (self->count == self->room) {
        size_t room = self->room ? 2 * self->room : 256;
        struct dyn__mirror_slot **slots = dyn__realloc(self->slots, room * sizeof(*slots));
        if (slots == NULL) return DYN_ENOMEM;
        self->slots = slots, self->room = room;
    }
    self->slots[self->count++] = slot;
    return DYN_OK;
}

static int tell(struct path *path, dyn_event *event, int (*each)(void *user, const dyn_event *event), void *user)
{
    int rc = dyn_event_reserve(event, path->count);
    if (rc < 0) return rc;
    const struct dyn__mirror_slot *top = path->slots[path->count - 1];
    event->kind = DYN_EVENT_STORED, event->tier = DYN_TIER_DEVICE, event->dp_rank = top->rank;
    event->has_parent = top->has_parent, event->parent = top->parent, event->count = path->count;
    for (size_t i = 0; i < path->count; i++) {
        const struct dyn__mirror_slot *slot = path->slots[path->count - 1 - i];
        event->block_hashes[i] = slot->block, event->tokens_hashes[i] = slot->tokens;
    }
    return each(user, event);
}

int dyn__mirror_walk(dyn__mirror *self, int (*each)(void *user, const dyn_event *event), void *user)
{
    struct path path = {0};
    dyn_event event = {0};
    int rc = DYN_OK;
    for (size_t i = 0; i < self->room && rc >= 0; i++) {
        struct dyn__mirror_slot *at = &self->slots[i];
        if (!at->used || at->mark != NEW) continue;
        bool reached = false;
        for (path.count = 0; rc >= 0; at = find(self, at->parent, at->rank)) {
            /* Nobody there, one that nothing leads to, or a ring of blocks that name each other. */
            if (at == NULL || at->mark == UNREACHED || at->mark == ON_PATH) break;
            if (at->mark == TOLD) {
                reached = true;
                break;
            }
            at->mark = ON_PATH;
            rc = push(&path, at);
            if (rc == DYN_OK && !at->has_parent) {
                reached = true;
                break;
            }
        }
        for (size_t k = 0; k < path.count; k++) path.slots[k]->mark = reached ? TOLD : UNREACHED;
        if (rc >= 0 && reached && path.count > 0) rc = tell(&path, &event, each, user);
    }
    dyn__free(path.slots);
    dyn_event_reset(&event);
    return rc < 0 ? rc : DYN_OK;
}
