/* blocks.c -- which worker's running requests hold a block: sequence hash -> (slot, references), ...
 *
 *   cells[] | h1 slot 0 refs 2 --> more[5] slot 3 refs 1 --> -
 *           | empty
 *           | h2 slot 1 refs 1 --> -
 *
 * Most blocks are held by one worker, so the first holder lies in the cell. Linear probing with removal by shifting
 * back; the hash is multiplied by a secret odd number, for callers may bring hashes that are not uniform.
 *
 * I6  a hash names its whole prefix and every booking begins at block 0: who holds a block holds those before it.
 *     So the holders only get fewer along a sequence, and two blocks of it with as many holders have the same ones.
 */
#include "router/router.h"

#define AHEAD 8 /* probes in flight: a cell is a cache miss once the table is large */

static size_t home(const struct blocks *table, uint64_t hash)
{
    return (size_t)((hash * table->secret) >> 20) & (table->room - 1);
}

static struct cell *find(const struct blocks *table, uint64_t hash)
{
    if (table->room == 0) return NULL;
    for (size_t i = home(table, hash);; i = (i + 1) & (table->room - 1)) {
        struct cell *cell = &table->cells[i];
        if (cell->slot == NONE) return NULL;
        if (cell->hash == hash) return cell;
    }
}

static struct cell *claim(struct blocks *table, uint64_t hash)
{
    size_t i = home(table, hash);
    while (table->cells[i].slot != NONE && table->cells[i].hash != hash) i = (i + 1) & (table->room - 1);
    return &table->cells[i];
}

int dyn__router_blocks_reserve(dyn_router *self, size_t count)
{
    struct blocks *table = &self->blocks;
    size_t room = table->room ? table->room : 64;
    int rc;

    if (count > UINT32_MAX / 4)
        return dyn__fail(DYN_ELIMIT, "%zu blocks in one request: at most %u", count, UINT32_MAX / 4);
    while (table->used + count > room / 16 * 11) room *= 2;
    if (room != table->room) {
        struct blocks next = *table;
        next.cells = dyn__router_take(self, room * sizeof(*next.cells), &rc);
        if (next.cells == NULL) return rc;
        next.room = room;
        for (size_t i = 0; i < room; i++) next.cells[i].slot = NONE;
        for (size_t i = 0; i < table->room; i++)
            if (table->cells[i].slot != NONE) *claim(&next, table->cells[i].hash) = table->cells[i];
        dyn__router_give(self, table->cells, table->room * sizeof(*table->cells));
        *table = next;
    }
    if (table->more_free_count + (table->more_room - table->more_used) < count) {
        size_t want = (size_t)table->more_used + count;
        if (want < (size_t)table->more_room * 2) want = (size_t)table->more_room * 2;
        if (want >= NONE) return dyn__fail(DYN_ELIMIT, "more than %u block holders", NONE - 1);
        rc = dyn__router_grow(self, &table->more, sizeof(*table->more), table->more_room, want);
        if (rc < 0) return rc;
        table->more_room = (uint32_t)want;
    }
    return DYN_OK;
}

bool dyn__router_blocks_add(dyn_router *self, uint64_t hash, uint32_t slot)
{
    struct blocks *table = &self->blocks;
    struct cell *cell = claim(table, hash);
    uint32_t i;

    if (cell->slot == NONE) {
        *cell = (struct cell){.hash = hash, .slot = slot, .refs = 1, .next = NONE, .holders = 1};
        table->used++;
        table->pairs++;
        return true;
    }
    if (cell->slot == slot) {
        cell->refs++;
        return false;
    }
    for (i = cell->next; i != NONE; i = table->more[i].next) {
        if (table->more[i].slot != slot) continue;
        table->more[i].refs++;
        return false;
    }
    if (table->more_free != NONE) {
        i = table->more_free;
        table->more_free = table->more[i].next;
        table->more_free_count--;
    } else {
        assert(table->more_used < table->more_room); /* reserved */
        i = table->more_used++;
    }
    table->more[i] = (struct holder){.slot = slot, .refs = 1, .next = cell->next};
    cell->next = i;
    cell->holders++;
    table->pairs++;
    return true;
}

static void empty(struct blocks *table, struct cell *cell)
{
    size_t hole = (size_t)(cell - table->cells), mask = table->room - 1;
    for (size_t i = (hole + 1) & mask; table->cells[i].slot != NONE; i = (i + 1) & mask) {
        size_t from = home(table, table->cells[i].hash);
        if (((i - from) & mask) < ((i - hole) & mask)) continue; /* it may not move before its home */
        table->cells[hole] = table->cells[i];
        hole = i;
    }
    table->cells[hole].slot = NONE;
    table->used--;
}

static void recycle(struct blocks *table, uint32_t i)
{
    table->more[i].next = table->more_free;
    table->more_free = i;
    table->more_free_count++;
}

bool dyn__router_blocks_remove(dyn_router *self, uint64_t hash, uint32_t slot)
{
    struct blocks *table = &self->blocks;
    struct cell *cell = find(table, hash);

    assert(cell != NULL); /* I3 */
    if (cell->slot == slot) {
        if (--cell->refs > 0) return false;
        if (cell->next == NONE) {
            empty(table, cell);
        } else {
            uint32_t i = cell->next;
            cell->slot = table->more[i].slot;
            cell->refs = table->more[i].refs;
            cell->next = table->more[i].next;
            cell->holders--;
            recycle(table, i);
        }
        table->pairs--;
        return true;
    }
    for (uint32_t *link = &cell->next; *link != NONE; link = &table->more[*link].next) {
        uint32_t i = *link;
        if (table->more[i].slot != slot) continue;
        if (--table->more[i].refs > 0) return false;
        *link = table->more[i].next;
        recycle(table, i);
        cell->holders--;
        table->pairs--;
        return true;
    }
    assert(!"the slot does not hold that block"); /* I3 */
    return false;
}

void dyn__router_blocks_held(dyn_router *self, const uint64_t *hashes, size_t count)
{
    const struct blocks *table = &self->blocks;
    uint32_t found = 0;

    if (table->used == 0) return;
    for (size_t i = 0; i < count && i < AHEAD; i++) DYN__PREFETCH(&table->cells[home(table, hashes[count - 1 - i])]);
    /* From the end: who appears at block i for the first time holds i + 1 blocks. A system prompt on a thousand
     * workers costs one walk of its holders, not one for each of its blocks (I6). */
    for (size_t i = count; i-- > 0;) {
        if (i >= AHEAD) DYN__PREFETCH(&table->cells[home(table, hashes[i - AHEAD])]);
        const struct cell *cell = find(table, hashes[i]);
        if (cell == NULL || cell->holders == found) continue;
        found = cell->holders;
        if (self->scores[cell->slot].held == 0) self->scores[cell->slot].held = (uint32_t)i + 1;
        for (uint32_t j = cell->next; j != NONE; j = table->more[j].next)
            if (self->scores[table->more[j].slot].held == 0) self->scores[table->more[j].slot].held = (uint32_t)i + 1;
    }
}
