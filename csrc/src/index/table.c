/* table.c -- from a hash to the entries that have it: a directory of segments of lines of 12.
 *
 *   hash: | segment .. | line 32 | tag 8 |        directory (2 bits)   00 --> segment, depth 2
 *                                                                      01 --> segment, depth 2
 *   a line that is full passes its ids on to the                       10 -+
 *   next ones and counts them                                          11 -+> segment, depth 1
 *
 * A segment that is three quarters full doubles while it is small, then splits in two by one more bit of the hash. So no
 * store moves more than some 9,000 ids, however large the index. Segments have different sizes, by a factor of up to 2, so
 * that they do not all split together: the whole is always about half full. Load 0.75 overflows a line of 12 as rarely as
 * 0.62 does one of 4.
 */
#include "index/inside.h"

enum { PAGE = 4096, PAGE_LINES = PAGE / sizeof(dyn__line), FULL_PAGES = 8, MAX_BITS = 24, AHEAD = 3 };

static size_t segment_size(uint32_t lines)
{
    return sizeof(dyn__segment) + lines * sizeof(dyn__line);
}

static size_t directory_size(uint32_t bits)
{
    return sizeof(dyn__directory) + sizeof(dyn__segment *) * ((size_t)1 << bits);
}

/* 1, 3, 7 .. 63 lines and the head of a segment are 128 .. 4,096 bytes; then whole pages. */
static uint32_t lines_in(uint32_t pages)
{
    return pages * PAGE_LINES - 1;
}

/* The size of the segments with this prefix: 8 to 16 pages, by the bits of the prefix from the first on. */
static uint32_t full_lines(uint32_t prefix, uint32_t depth)
{
    uint32_t pages = FULL_PAGES;
    for (uint32_t bit = 0; bit < depth && bit < 3; bit++)
        if (prefix >> (depth - 1 - bit) & 1) pages += FULL_PAGES >> (bit + 1);
    return lines_in(pages);
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

static inline void insert(dyn__segment *segment, uint32_t home, uint8_t tag, uint32_t word)
{
    for (uint32_t i = home;; i = i + 1 == segment->lines ? 0 : i + 1) {
        dyn__line *line = &segment->at[i];
        uint64_t low = DYN__GET(line->tags_low), empty = dyn__zero_bytes(low);
        if (DYN__LIKELY(empty != 0)) { /* the id first, then the tag that makes it visible */
            int at = __builtin_ctzll(empty) >> 3;
            DYN__SET_RELEASE(line->id[at], word);
            DYN__SET_RELEASE(line->tags_low, low | (uint64_t)tag << at * 8);
            segment->used++;
            return;
        }
        uint32_t high = DYN__GET(line->tags_high), empty4 = dyn__zero_bytes4(high);
        if (empty4 != 0) {
            int at = __builtin_ctz(empty4) >> 3;
            DYN__SET_RELEASE(line->id[8 + at], word);
            DYN__SET_RELEASE(line->tags_high, high | (uint32_t)tag << at * 8);
            segment->used++;
            return;
        }
        DYN__SET_RELEASE(line->passed, DYN__GET(line->passed) + 1);
    }
}

void dyn__lines_insert(dyn__segment *segment, uint64_t hash, uint32_t id)
{
    insert(segment, dyn__home(segment, hash), dyn__tag(hash), id | dyn__next_bits(hash, segment->depth));
}

static dyn__segment *make_segment(dyn_index *self, uint32_t lines, uint32_t depth)
{
    dyn__segment *new = dyn__index_alloc(self, segment_size(lines), 64);
    if (new == NULL) return NULL;
    new->lines = lines;
    new->depth = depth;
    self->table_bytes += segment_size(lines);
    return new;
}

static void give_back(dyn_index *self, dyn__which which, dyn__retired *memory, size_t size)
{
    self->table_bytes -= size;
    if (which == DYN__PLACES)
        dyn__retire_memory(self, memory, size);
    else
        dyn__index_free(self, memory, size);
}

static void prefetch_hashes(const dyn_index *self, dyn__which which, const dyn__line *line)
{
    for (int k = 0; k < DYN__LINE; k++) { /* an id that is no more is an entry all the same */
        uint32_t id = dyn__id_in(line, k);
        if (id == 0) continue;
        const dyn__entry *entry = dyn__entry_of(self, id);
        DYN__PREFETCH(which == DYN__PLACES ? &entry->place : &entry->name);
    }
}

/* Move all ids to the one or two new segments: bit 0 or 1 after the depth of the old one. An id in its home line goes to
 * the same line of a segment as large, and the line knows which of the two, mostly: then its entry is not read. */
static void move(const dyn_index *self, dyn__which which, const dyn__segment *old, dyn__segment *const new[2])
{
    uint32_t shift = new[0] == new[1] ? 63 : old->depth;
    uint64_t one = new[0] == new[1] ? 0 : 1;
    bool known =
        one == 1 && new[0]->depth % DYN__NEXT_BITS != 0 && new[0]->lines == old->lines && new[1]->lines == old->lines;
    uint32_t next = 31 - old->depth % DYN__NEXT_BITS;
    bool strangers = DYN__GET(old->at[old->lines - 1].passed) != 0; /* in this line: ids that belong to one before */
    for (uint32_t i = 0; i < old->lines; i++) {
        const dyn__line *line = &old->at[i];
        bool plain = known && !strangers;
        strangers = DYN__GET(line->passed) != 0;
        uint8_t tags[16] = {0};
        uint64_t low = DYN__GET(line->tags_low);
        uint32_t high = DYN__GET(line->tags_high);
        memcpy(tags, &low, 8);
        memcpy(tags + 8, &high, 4);
        if (i + AHEAD < old->lines && (!known || DYN__GET(old->at[i + AHEAD - 1].passed) != 0))
            prefetch_hashes(self, which, &old->at[i + AHEAD]);
        for (int k = 0; k < DYN__LINE; k++) {
            if (tags[k] == 0) continue;
            uint32_t word = DYN__GET(line->id[k]), id = word & DYN__ID_MASK;
            if (plain) {
                insert(new[word >> next & 1], i, tags[k], word);
                continue;
            }
            uint64_t hash = hash_of(self, which, id);
            dyn__lines_insert(new[hash << shift >> 63 & one], hash, id);
        }
    }
}

static int make_directory(dyn_index *self, dyn__which which, uint32_t bits)
{
    dyn__lines *table = table_of(self, which);
    dyn__directory *old = DYN__GET(*table), *new;
    if (bits > MAX_BITS) return dyn__fail(DYN_ELIMIT, "an index has no more room for blocks");
    if ((new = dyn__index_alloc(self, directory_size(bits), 0)) == NULL) return dyn__index_no_memory(self);
    new->bits = bits;
    self->table_bytes += directory_size(bits);
    for (size_t i = 0; i < (size_t)1 << bits && old != NULL; i++)
        DYN__SET(new->at[i], DYN__GET(old->at[i >> (bits - old->bits)]));
    DYN__SET_RELEASE(*table, new);
    if (old != NULL) give_back(self, which, &old->retired, directory_size(old->bits));
    return DYN_OK;
}

static int grow(dyn_index *self, dyn__which which, uint64_t hash)
{
    int rc;
    dyn__lines *table = table_of(self, which);
    if (DYN__GET(*table) == NULL && (rc = make_directory(self, which, 0)) < 0) return rc;
    dyn__directory *directory = DYN__GET(*table);
    dyn__segment *old = DYN__GET(directory->at[dyn__number(directory, hash)]), *new[2];
    uint32_t depth = old == NULL ? 0 : old->depth, prefix = depth == 0 ? 0 : (uint32_t)(hash >> (64 - depth));

    if (old == NULL || old->lines < full_lines(prefix, depth)) {
        uint32_t lines = old == NULL ? 1 : old->lines * 2 + 1;
        if ((new[0] = new[1] = make_segment(self, lines, depth)) == NULL) return dyn__index_no_memory(self);
    } else {
        if (depth == directory->bits) {
            if ((rc = make_directory(self, which, depth + 1)) < 0) return rc;
            directory = DYN__GET(*table);
        }
        depth++;
        for (uint32_t bit = 0; bit < 2; bit++) {
            if ((new[bit] = make_segment(self, full_lines(prefix * 2 + bit, depth), depth)) != NULL) continue;
            if (bit == 1) {
                self->table_bytes -= segment_size(new[0]->lines);
                dyn__index_free(self, new[0], segment_size(new[0]->lines));
            }
            return dyn__index_no_memory(self);
        }
    }
    if (old != NULL) move(self, which, old, new);
    uint32_t shift = directory->bits - depth; /* how many places a new segment has */
    uint32_t first = depth == 0 ? 0 : (uint32_t)(hash >> (64 - depth));
    if (new[0] != new[1]) first &= ~UINT32_C(1);
    for (uint32_t bit = 0; bit < (new[0] == new[1] ? 1 : 2); bit++)
        for (uint32_t i = 0; i < UINT32_C(1) << shift; i++)
            DYN__SET_RELEASE(directory->at[((first + bit) << shift) + i], new[bit]);
    if (old != NULL) give_back(self, which, &old->retired, segment_size(old->lines));
    return DYN_OK;
}

/* Without memory a segment gets fuller and slower before it refuses. */
int dyn__lines_grow(dyn_index *self, dyn__which which, uint64_t hash)
{
    int rc = grow(self, which, hash);
    const dyn__segment *segment = dyn__segment_of(table_of(self, which), hash);
    return rc < 0 && segment != NULL && segment->used < segment->lines * (DYN__LINE - 1) ? DYN_OK : rc;
}

void dyn__lines_erase(dyn_index *self, dyn__which which, uint64_t hash, uint32_t id)
{
    dyn__segment *segment = dyn__segment_of(table_of(self, which), hash);
    uint32_t home = dyn__home(segment, hash), i = home;
    int at;
    for (;; i = i + 1 == segment->lines ? 0 : i + 1) {
        dyn__match match = dyn__tags_match(&segment->at[i], dyn__tag(hash));
        while ((at = dyn__match_next(&match)) >= 0 && dyn__id_in(&segment->at[i], at) != id) continue;
        if (at >= 0) break;
    }
    dyn__line *line = &segment->at[i];
    if (at < 8)
        DYN__SET_RELEASE(line->tags_low, DYN__GET(line->tags_low) & ~(UINT64_C(0xff) << at * 8));
    else
        DYN__SET_RELEASE(line->tags_high, DYN__GET(line->tags_high) & ~(UINT32_C(0xff) << (at - 8) * 8));
    segment->used--;
    for (uint32_t j = home; j != i; j = j + 1 == segment->lines ? 0 : j + 1)
        DYN__SET_RELEASE(segment->at[j].passed, DYN__GET(segment->at[j].passed) - 1);
}

void dyn__lines_free(dyn_index *self, dyn__which which)
{
    dyn__directory *directory = DYN__GET(*table_of(self, which));
    if (directory == NULL) return;
    for (size_t i = 0; i < (size_t)1 << directory->bits;) {
        dyn__segment *segment = DYN__GET(directory->at[i]);
        if (segment == NULL) break;
        i += (size_t)1 << (directory->bits - segment->depth);
        dyn__index_free(self, segment, segment_size(segment->lines));
    }
    dyn__index_free(self, directory, directory_size(directory->bits));
}
