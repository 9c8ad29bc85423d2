/* ids.c -- open addressing with linear probing; a removal moves the followers up, so there are no tombstones.
 *
 * I1  From the home slot of an id to the slot it is in, no slot is free.
 */
#include "service/ids.h"

static size_t home(const dyn__ids *self, uint64_t id)
{
    return (size_t)((id * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & (self->room - 1);
}

static size_t find(const dyn__ids *self, uint64_t id)
{
    size_t at = home(self, id);
    while (self->slots[at].id != id && self->slots[at].id != 0) at = (at + 1) & (self->room - 1);
    return at;
}

void *dyn__ids_get(const dyn__ids *self, uint64_t id)
{
    return self->room == 0 || id == 0 ? NULL : self->slots[find(self, id)].value;
}

int dyn__ids_put(dyn__ids *self, uint64_t id, void *value)
{
    assert(id != 0 && value != NULL);
    if (self->count >= self->room / 2) {
        dyn__ids bigger = {.count = self->count, .room = self->room == 0 ? 16 : self->room * 2};
        bigger.slots = dyn__calloc(bigger.room, sizeof(*bigger.slots));
        if (bigger.slots == NULL) return DYN_ENOMEM;
        for (size_t i = 0; i < self->room; i++)
            if (self->slots[i].id != 0) bigger.slots[find(&bigger, self->slots[i].id)] = self->slots[i];
        dyn__free(self->slots);
        *self = bigger;
    }
    size_t at = find(self, id);
    assert(self->slots[at].id == 0);
    self->slots[at] = (struct dyn__id){id, value};
    self->count++;
    return DYN_OK;
}

static void *take_at(dyn__ids *self, size_t hole)
{
    void *value = self->slots[hole].value;
    size_t mask = self->room - 1;
    for (size_t at = (hole + 1) & mask; self->slots[at].id != 0; at = (at + 1) & mask) {
        size_t wants = home(self, self->slots[at].id);
        if (((at - wants) & mask) < ((at - hole) & mask)) continue; /* it would move before its home */
        self->slots[hole] = self->slots[at];
        hole = at;
    }
    self->slots[hole] = (struct dyn__id){0, NULL};
    self->count--;
    return value;
}

void *dyn__ids_take(dyn__ids *self, uint64_t id)
{
    if (self->room == 0 || id == 0) return NULL;
    size_t at = find(self, id);
    return self->slots[at].id == 0 ? NULL : take_at(self, at);
}

void dyn__ids_free(dyn__ids *self)
{
    dyn__free(self->slots);
    *self = (dyn__ids){0};
}
