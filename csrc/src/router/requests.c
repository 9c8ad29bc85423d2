/* requests.c -- booked and waiting requests: tickets, names, what each added to its worker, and their age.
 *
 * A ticket is generation << 32 | index + 1. The generation goes up when an entry is freed, so that a late
 * prefill_done or a second free finds nobody.
 */
#include <xxhash.h>

#include "router/router.h"

uint64_t dyn__router_ticket_of(const dyn_router *self, uint32_t entry)
{
    return (uint64_t)self->entries[entry].generation << 32 | (entry + 1);
}

struct entry *dyn__router_entry(dyn_router *self, uint64_t ticket)
{
    uint32_t index = (uint32_t)ticket - 1;
    if (index >= self->entry_used || self->entries[index].state == FREE ||
        self->entries[index].generation != (uint32_t)(ticket >> 32))
        return NULL;
    return &self->entries[index];
}

/* ---- names ----------------------------------------------------------------------------------------------------- */
static uint64_t hash_name(const dyn_router *self, const char *name, size_t length)
{
    return XXH3_64bits_withSeed(name, length, self->blocks.secret);
}

static uint32_t find_named(const dyn_router *self, const char *name, size_t length, uint64_t hash)
{
    if (self->name_room == 0) return NONE;
    for (uint32_t mask = self->name_room - 1, i = (uint32_t)hash & mask;; i = (i + 1) & mask) {
        uint32_t at = self->names[i];
        if (at == NONE) return NONE;
        const struct entry *entry = &self->entries[at];
        if (entry->name_hash == hash && entry->name_length == length && memcmp(entry->name, name, length) == 0)
            return at;
    }
}

uint32_t dyn__router_find_name(const dyn_router *self, const char *name, size_t length)
{
    return find_named(self, name, length, hash_name(self, name, length));
}

static void link_name(const struct entry *entries, uint32_t *names, uint32_t room, uint32_t entry)
{
    uint32_t mask = room - 1, i = (uint32_t)entries[entry].name_hash & mask;
    while (names[i] != NONE) i = (i + 1) & mask;
    names[i] = entry;
}

static int reserve_name(dyn_router *self)
{
    uint32_t room = self->name_room ? self->name_room : 64;
    int rc;
    while (self->name_used + 1 > room / 4 * 3) room *= 2;
    if (room == self->name_room) return DYN_OK;
    uint32_t *names = dyn__router_take(self, room * sizeof(*names), &rc);
    if (names == NULL) return rc;
    for (uint32_t i = 0; i < room; i++) names[i] = NONE;
    for (uint32_t i = 0; i < self->name_room; i++)
        if (self->names[i] != NONE) link_name(self->entries, names, room, self->names[i]);
    dyn__router_give(self, self->names, self->name_room * sizeof(*names));
    self->names = names;
    self->name_room = room;
    return DYN_OK;
}

static void unlink_name(dyn_router *self, uint32_t entry)
{
    uint32_t mask = self->name_room - 1, hole = (uint32_t)self->entries[entry].name_hash & mask;
    while (self->names[hole] != entry) hole = (hole + 1) & mask;
    for (uint32_t i = (hole + 1) & mask; self->names[i] != NONE; i = (i + 1) & mask) {
        uint32_t from = (uint32_t)self->entries[self->names[i]].name_hash & mask;
        if (((i - from) & mask) < ((i - hole) & mask)) continue;
        self->names[hole] = self->names[i];
        hole = i;
    }
    self->names[hole] = NONE;
    self->name_used--;
}

/* ---- entries --------------------------------------------------------------------------------------------------- */
int dyn__router_entry_new(dyn_router *self, const char *name, size_t length, uint32_t *out)
{
    uint64_t hash = 0;
    char *copy = NULL;
    uint32_t at;
    int rc;

    if (self->booked + self->waiting >= self->config.max_requests) {
        self->refused++;
        return dyn__fail(DYN_EOVERLOAD,
                         "%zu requests are booked or waiting: max_requests is reached; free those that are over",
                         self->booked + self->waiting);
    }
    if (self->entry_free == NONE && self->entry_used == self->entry_room) {
        size_t want = self->entry_room ? (size_t)self->entry_room * 2 : 64;
        if (want >= NONE) return dyn__fail(DYN_ELIMIT, "more than %u requests", NONE - 1);
        if ((rc = dyn__router_grow(self, &self->entries, sizeof(*self->entries), self->entry_room, want)) < 0)
            return rc;
        self->entry_room = (uint32_t)want;
    }
    if (name != NULL) {
        if (length == 0 || length > DYN_ROUTER_MAX_NAME)
            return dyn__fail(DYN_EINVAL, "a request id of %zu bytes: must be 1 to %d", length, DYN_ROUTER_MAX_NAME);
        hash = hash_name(self, name, length);
        if (find_named(self, name, length, hash) != NONE)
            return dyn__fail(DYN_EEXIST, "request %.*s is booked already: free it before it is routed again",
                             (int)(length < 64 ? length : 64), name);
        if ((rc = reserve_name(self)) < 0 || (copy = dyn__router_take(self, length, &rc)) == NULL) return rc;
        memcpy(copy, name, length);
    }
    if (self->entry_free != NONE) {
        at = self->entry_free;
        self->entry_free = self->entries[at].newer;
    } else {
        at = self->entry_used++;
        self->entries[at].generation = 1;
    }
    self->entries[at] = (struct entry){.slot = NONE,
                                       .generation = self->entries[at].generation,
                                       .older = NONE,
                                       .newer = NONE,
                                       .state = WAITING,
                                       .name = copy,
                                       .name_length = (uint32_t)length,
                                       .name_hash = hash};
    if (copy != NULL) {
        link_name(self->entries, self->names, self->name_room, at);
        self->name_used++;
    }
    *out = at;
    return DYN_OK;
}

static void youngest(dyn_router *self, uint32_t at)
{
    struct entry *entry = &self->entries[at];
    entry->older = self->newest;
    entry->newer = NONE;
    *(self->newest != NONE ? &self->entries[self->newest].newer : &self->oldest) = at;
    self->newest = at;
}

static void out_of_age(dyn_router *self, uint32_t at)
{
    struct entry *entry = &self->entries[at];
    *(entry->older != NONE ? &self->entries[entry->older].newer : &self->oldest) = entry->newer;
    *(entry->newer != NONE ? &self->entries[entry->newer].older : &self->newest) = entry->older;
}

static void sign_of_life(dyn_router *self, struct entry *entry)
{
    uint32_t at = (uint32_t)(entry - self->entries);
    if (entry->state != BOOKED) return;
    entry->seen_ns = dyn__router_now(self);
    if (self->newest == at) return;
    out_of_age(self, at);
    youngest(self, at);
}

int dyn__router_book(dyn_router *self, uint32_t at, uint32_t slot_index, const dyn_router_request *request,
                     uint32_t overlap, uint64_t now)
{
    struct entry *entry = &self->entries[at];
    struct slot *slot = &self->slots[slot_index];
    struct weights weights = dyn__router_weights(&self->config, &request->override);
    uint64_t cached = (uint64_t)overlap * self->config.block_size;
    int rc;

    if (self->config.track_active_blocks && request->blocks > 0) {
        if (weights.reuse && request->sequence != NULL) {
            if ((rc = dyn__router_blocks_reserve(self, request->blocks)) < 0) return rc;
            entry->blocks = dyn__router_take(self, request->blocks * sizeof(uint64_t), &rc);
            if (entry->blocks == NULL) return rc;
            memcpy(entry->blocks, request->sequence, request->blocks * sizeof(uint64_t));
            entry->block_count = (uint32_t)request->blocks;
            for (size_t i = 0; i < request->blocks; i++)
                slot->named_blocks += dyn__router_blocks_add(self, entry->blocks[i], slot_index);
        } else {
            entry->own_blocks = (double)request->blocks;
            slot->own_blocks += entry->own_blocks;
        }
    }
    entry->prefill = weights.track_prefill && request->tokens > cached ? request->tokens - cached : 0;
    entry->tokens = request->tokens;
    entry->expected = request->expected_output;
    entry->slot = slot_index;
    entry->state = BOOKED;
    entry->seen_ns = now;
    youngest(self, at);
    slot->tokens += entry->prefill;
    slot->requests++;
    slot->picks++;
    if (self->config.silent_seconds > 0 && slot->unheard_ns == 0 && request->blocks > overlap)
        slot->unheard_ns = now | 1;
    self->booked++;
    self->picks++;
    return DYN_OK;
}

/* Take what the entry added off its slot again; the entry stays. */
static void unload(dyn_router *self, struct entry *entry)
{
    if (entry->slot != NONE) {
        struct slot *slot = &self->slots[entry->slot];
        for (uint32_t i = 0; i < entry->block_count; i++)
            slot->named_blocks -= dyn__router_blocks_remove(self, entry->blocks[i], entry->slot);
        slot->tokens -= entry->prefill;
        slot->own_blocks -= entry->own_blocks + entry->output_blocks;
        if (--slot->requests == 0) slot->own_blocks = 0; /* what rounding left behind */
    }
    dyn__router_give(self, entry->blocks, entry->block_count * sizeof(uint64_t));
    entry->blocks = NULL;
    entry->block_count = 0;
    entry->prefill = 0;
    entry->own_blocks = entry->output_blocks = 0;
    entry->slot = NONE;
}

void dyn__router_entry_drop(dyn_router *self, uint32_t at)
{
    struct entry *entry = &self->entries[at];
    if (entry->state == BOOKED) {
        unload(self, entry);
        out_of_age(self, at);
        self->booked--;
    }
    if (entry->name != NULL) {
        unlink_name(self, at);
        dyn__router_give(self, entry->name, entry->name_length);
        entry->name = NULL;
    }
    entry->state = FREE;
    entry->generation++;
    entry->newer = self->entry_free;
    self->entry_free = at;
}

void dyn__router_orphan(dyn_router *self, uint32_t slot)
{
    for (uint32_t at = self->oldest; at != NONE; at = self->entries[at].newer)
        if (self->entries[at].slot == slot) unload(self, &self->entries[at]);
}

size_t dyn__router_expire_now(dyn_router *self, uint64_t now)
{
    uint64_t age = (uint64_t)(self->config.expiry_seconds * 1e9);
    size_t count = 0;
    if (age == 0) return 0;
    while (self->oldest != NONE && now - self->entries[self->oldest].seen_ns > age &&
           now > self->entries[self->oldest].seen_ns) {
        dyn__router_entry_drop(self, self->oldest);
        count++;
    }
    self->expired += count;
    return count;
}

void dyn__router_free_requests(dyn_router *self)
{
    while (self->oldest != NONE) dyn__router_entry_drop(self, self->oldest);
    dyn__router_give(self, self->entries, self->entry_room * sizeof(*self->entries));
    dyn__router_give(self, self->names, self->name_room * sizeof(*self->names));
    dyn__router_give(self, self->blocks.cells, self->blocks.room * sizeof(*self->blocks.cells));
    dyn__router_give(self, self->blocks.more, self->blocks.more_room * sizeof(*self->blocks.more));
}

/* ---- calls ----------------------------------------------------------------------------------------------------- */
static int gone(uint64_t ticket)
{
    return dyn__fail(DYN_ENOENT, "no request has ticket %llu: it was freed or has expired", (unsigned long long)ticket);
}

uint64_t dyn_router_ticket(dyn_router *self, const char *name, size_t length)
{
    pthread_mutex_lock(&self->lock);
    uint32_t at = dyn__router_find_name(self, name, length);
    uint64_t ticket = at == NONE ? 0 : dyn__router_ticket_of(self, at);
    pthread_mutex_unlock(&self->lock);
    return ticket;
}

int dyn_router_prefill_done(dyn_router *self, uint64_t ticket)
{
    struct waiter *ready = NULL;
    pthread_mutex_lock(&self->lock);
    struct entry *entry = dyn__router_entry(self, ticket);
    if (entry != NULL) {
        sign_of_life(self, entry);
        if (entry->prefill > 0) {
            self->slots[entry->slot].tokens -= entry->prefill;
            entry->prefill = 0;
            ready = dyn__router_drain(self, dyn__router_now(self));
        }
    }
    pthread_mutex_unlock(&self->lock);
    dyn__router_finish(ready);
    return entry != NULL ? DYN_OK : gone(ticket);
}

int dyn_router_output(dyn_router *self, uint64_t ticket, uint64_t tokens)
{
    pthread_mutex_lock(&self->lock);
    struct entry *entry = dyn__router_entry(self, ticket);
    if (entry != NULL) {
        sign_of_life(self, entry);
        entry->output += tokens;
        if (self->config.track_output_blocks && entry->slot != NONE) {
            uint64_t size = self->config.block_size;
            double blocks = (double)((entry->tokens + entry->output) / size - entry->tokens / size);
            if (entry->expected > 0)
                blocks *= entry->output < entry->expected ? 1.0 - (double)entry->output / (double)entry->expected : 0.0;
            self->slots[entry->slot].own_blocks += blocks - entry->output_blocks;
            entry->output_blocks = blocks;
        }
    }
    pthread_mutex_unlock(&self->lock);
    return entry != NULL ? DYN_OK : gone(ticket);
}

int dyn_router_free(dyn_router *self, uint64_t ticket)
{
    struct waiter *ready = NULL;
    pthread_mutex_lock(&self->lock);
    struct entry *entry = dyn__router_entry(self, ticket);
    if (entry != NULL && entry->state == WAITING) {
        ready = dyn__router_leave(self, (uint32_t)(entry - self->entries), DYN_ECANCELED);
    } else if (entry != NULL) {
        dyn__router_entry_drop(self, (uint32_t)(entry - self->entries));
        ready = dyn__router_drain(self, dyn__router_now(self));
    }
    pthread_mutex_unlock(&self->lock);
    dyn__router_finish(ready);
    return entry != NULL ? DYN_OK : gone(ticket);
}

size_t dyn_router_expire(dyn_router *self)
{
    pthread_mutex_lock(&self->lock);
    uint64_t now = dyn__router_now(self);
    size_t count = dyn__router_expire_now(self, now);
    struct waiter *ready = count > 0 ? dyn__router_drain(self, now) : NULL;
    pthread_mutex_unlock(&self->lock);
    dyn__router_finish(ready);
    return count;
}
