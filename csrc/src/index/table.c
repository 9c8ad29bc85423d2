/* table.c -- from a hash to the entries that have it: segments of lines of 12.
 *
 *   hash: | segment 8 | line 32 ... | tag 8 |      a line that is full passes its ids on to the next ones and counts them
 *
 * A segment doubles alone when it is three quarters full, so a store moves 1/256 of the table at most. The segments start
 * at different sizes between 1 and 2, so that they do not all double together and the whole is always about half full.
 * Load 0.75 here overflows a line as rarely as 0.62 does with lines of 4.
 */
#include "index/inside.h"

static uint32_t lines_after(uint32_t number, uint32_t doublings)
{
    uint32_t reversed = 0;
    for (int bit = 0; bit < 8; bit++) reversed |= (number >> bit & 1) << (7 - bit);
    uint64_t lines = ((uint64_t)(256 + reversed) << doublings) >> 8;
    return (uint32_t)lines;
}

static size_t segment_size(uint32_t lines)
{
    return sizeof(dyn__segment) + lines * sizeof(dyn__line);
}

static dyn__lines *table_of(dyn_index *self, dyn__which which)
{
    return which == DYN__PLACES ? &self->places : &self->names;
}

static uint64_t hash_of(const dyn_index *self, dyn__which which, uint32_t id)
{
    return which == DYN__PLACES ? dyn__place_hash(&self->keys, dyn__entry_of(self, id)->place)
                                : dyn__name_hash(&self->keys, *dyn__name_of(self, id));
}

/* The place first, then the tag that makes it visible. */
static void put(dyn__line *line, int at, uint8_t tag, uint32_t id)
{
    if (id != 0) DYN__SET_RELEASE(line->id[at], id);
    if (at < 8) {
        uint64_t tags = DYN__GET(line->tags_low) & ~(UINT64_C(0xff) << at * 8);
        DYN__SET_RELEASE(line->tags_low, tags | (uint64_t)tag << at * 8);
    } else {
        uint32_t tags = DYN__GET(line->tags_high) & ~(UINT32_C(0xff) << (at - 8) * 8);
        DYN__SET_RELEASE(line->tags_high, tags | (uint32_t)tag << (at - 8) * 8);
    }
}

static void insert(dyn__segment *segment, uint64_t hash, uint32_t id)
{
    for (uint32_t i = dyn__home(segment, hash);; i = i + 1 == segment->lines ? 0 : i + 1) {
        dyn__line *line = &segment->at[i];
        uint32_t empty = dyn__tags_match(line, 0);
        if (empty != 0) {
            put(line, __builtin_ctz(empty), dyn__tag(hash), id);
            segment->used++;
            return;
        }
        DYN__SET_RELEASE(line->passed, DYN__GET(line->passed) + 1);
    }
}

static int grow(dyn_index *self, dyn__which which, uint32_t number)
{
    dyn__lines *table = table_of(self, which);
    dyn__segment *old = DYN__GET(table->at[number]);
    uint32_t doublings = old == NULL ? 0 : old->doublings + 1;
    uint32_t lines = lines_after(number, doublings);
    dyn__segment *new = dyn__index_alloc(self, segment_size(lines), 64);
    if (new == NULL) return dyn__index_no_memory(self);
    new->lines = lines;
    new->doublings = doublings;
    self->table_bytes += segment_size(lines);
    if (old != NULL) {
        for (uint32_t i = 0; i < old->lines; i++) {
            dyn__line *line = &old->at[i];
            uint32_t full = ~dyn__tags_match(line, 0) & ((1u << DYN__LINE) - 1);
            for (uint32_t left = full; left != 0; left &= left - 1)
                DYN__PREFETCH(dyn__entry_of(self, DYN__GET(line->id[__builtin_ctz(left)])));
            for (; full != 0; full &= full - 1) {
                uint32_t id = DYN__GET(line->id[__builtin_ctz(full)]);
                insert(new, hash_of(self, which, id), id);
            }
        }
    }
    DYN__SET_RELEASE(table->at[number], new);
    if (old != NULL) {
        self->table_bytes -= segment_size(old->lines);
        if (which == DYN__PLACES)
            dyn__retire_memory(self, &old->retired, segment_size(old->lines));
        else
            dyn__index_free(self, old, segment_size(old->lines));
    }
    return DYN_OK;
}

int dyn__lines_reserve(dyn_index *self, dyn__which which, uint64_t hash)
{
    uint32_t number = (uint32_t)(hash >> 56);
    const dyn__segment *segment = DYN__GET(table_of(self, which)->at[number]);
    if (segment != NULL && segment->used < segment->lines * DYN__LINE * 3 / 4) return DYN_OK;
    int rc = grow(self, which, number);
    /* Without memory a segment gets fuller and slower before it refuses. */
    if (rc < 0 && segment != NULL && segment->used < segment->lines * (DYN__LINE - 1)) return DYN_OK;
    return rc;
}

void dyn__lines_insert(dyn_index *self, dyn__which which, uint64_t hash, uint32_t id)
{
    insert(DYN__GET(table_of(self, which)->at[hash >> 56]), hash, id);
}

void dyn__lines_erase(dyn_index *self, dyn__which which, uint64_t hash, uint32_t id)
{
    dyn__segment *segment = DYN__GET(table_of(self, which)->at[hash >> 56]);
    uint32_t home = dyn__home(segment, hash), at = 0, i = home;
    for (;; i = i + 1 == segment->lines ? 0 : i + 1) {
        uint32_t match = dyn__tags_match(&segment->at[i], dyn__tag(hash));
        for (; match != 0; match &= match - 1)
            if (DYN__GET(segment->at[i].id[__builtin_ctz(match)]) == id) break;
        if (match != 0) {
            at = (uint32_t)__builtin_ctz(match);
            break;
        }
    }
    put(&segment->at[i], (int)at, 0, 0);
    segment->used--;
    for (uint32_t j = home; j != i; j = j + 1 == segment->lines ? 0 : j + 1)
        DYN__SET_RELEASE(segment->at[j].passed, DYN__GET(segment->at[j].passed) - 1);
}

void dyn__lines_free(dyn_index *self, dyn__lines *table)
{
    for (int i = 0; i < DYN__SEGMENTS; i++) {
        dyn__segment *segment = DYN__GET(table->at[i]);
        if (segment != NULL) dyn__index_free(self, segment, segment_size(segment->lines));
    }
}
