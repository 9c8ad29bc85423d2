/* table.c -- from a hash to the entries that have it: a directory of segments of lines of 12.
 *
 *   hash: | segment .. | line 32 | tag 8 |        directory (2 bits)   00 --> segment, depth 2
 *                                                                      01 --> segment, depth 2
 *   a line that is full passes its ids on to the                       10 -+
 *   next ones and counts them                                          11 -+> segment, depth 1
 *
 * A segment that is four fifths full doubles while it is small, then splits in two by one more bit of the hash. So no
 * store moves more than some 9,000 ids, however large the index. Segments have different sizes, by a factor of up to 2, so
 * that they do not all split together: the whole is always about half full. Load 0.8 overflows a line of 12 no more
 * often than 0.67 does one of 4. What moves in a split keeps its line number where it can, so that whole lines are dealt out.
 */
#include "index/inside.h"

enum {
    PAGE = 4096,
    PAGE_LINES = PAGE / sizeof(dyn__line),
    FULL_PAGES = 8,
    MAX_BITS = 24,
    AHEAD = 3,
    FULL = (1 << DYN__LINE) - 1
};

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

static void bytes_of(uint64_t tags, uint8_t *bytes)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    tags = __builtin_bswap64(tags);
#endif
    memcpy(bytes, &tags, sizeof(tags));
}

/* Eight tags as a line has them. */
static uint64_t tags_of(const uint8_t *bytes)
{
    uint64_t tags;
    memcpy(&tags, bytes, sizeof(tags));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    tags = __builtin_bswap64(tags);
#endif
    return tags;
}

void dyn__lines_pass(dyn__segment *segment, dyn__line *line, uint8_t tag, uint32_t word)
{
    do {
        DYN__SET_RELEASE(line->tags[1], DYN__GET(line->tags[1]) + DYN__ONE_PASSED);
        if (++line == segment->at + segment->lines) line = segment->at;
    } while (!dyn__line_put(line, DYN__GET(line->tags[0]), DYN__GET(line->tags[1]), tag, word));
}

static dyn__segment *make_segment(dyn_index *self, uint32_t lines, uint32_t depth)
{
    dyn__segment *new = dyn__index_alloc(self, segment_size(lines), 64);
    if (new == NULL) return NULL;
    new->lines = lines;
    new->limit = lines * DYN__LINE * 4 / 5;
    new->depth = depth;
    new->next = depth / DYN__NEXT_BITS * DYN__NEXT_BITS;
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

static dyn__match full_in(const dyn__line *line)
{
    return dyn__match_of(DYN__GET(line->tags[0]), DYN__GET(line->tags[1]), 0) ^ FULL;
}

/* What the hashes of a line are made of, on its way. */
static void look_up(const dyn_index *self, dyn__which which, const dyn__line *line,
                    const dyn__loose_u64 *keys[DYN__LINE])
{
    for (dyn__match full = full_in(line); full != 0;) {
        uint32_t k = dyn__match_next(&full);
        const dyn__entry *entry = dyn__entry_of(self, dyn__id_in(line, k));
        keys[k] = which == DYN__PLACES ? &entry->place : &entry->name;
        DYN__PREFETCH(keys[k]);
    }
}

static uint32_t passed(const dyn__line *line)
{
    return dyn__passed(DYN__GET(line->tags[1]));
}

/* May the ids of this line go to the same line of the new segments, with no look at their hashes? Not where one may belong
 * to a line before. */
static bool dealt(const dyn__segment *old, uint32_t i, bool known)
{
    return known && passed(&old->at[i == 0 ? old->lines - 1 : i - 1]) == 0;
}

/* The ids of a line to the same line of two segments, by one bit of their words. */
static void deal(const dyn__line *line, dyn__segment *const new[2], uint32_t i, uint32_t bit)
{
    dyn__line *to[2] = {&new[0]->at[i], &new[1]->at[i]};
    uint64_t low = DYN__GET(line->tags[0]), high = DYN__GET(line->tags[1]);
    dyn__match full = dyn__match_of(low, high, 0) ^ FULL;
    if (DYN__UNLIKELY((DYN__GET(to[0]->tags[0]) | DYN__GET(to[1]->tags[0])) != 0)) { /* some came from a line before */
        while (full != 0) {
            uint32_t k = dyn__match_next(&full), word = DYN__GET(line->id[k]), side = word >> bit & 1;
            uint8_t tag = (uint8_t)((k < 8 ? low : high) >> k % 8 * 8);
            new[side]->used++;
            if (!dyn__line_put(to[side], DYN__GET(to[side]->tags[0]), DYN__GET(to[side]->tags[1]), tag, word))
                dyn__lines_pass(new[side], to[side], tag, word);
        }
        return;
    }
    uint32_t count[2] = {0, 0};
    uint8_t from[16], tags[2][16] = {{0}};
    bytes_of(low, from);
    bytes_of(high, from + 8);
    while (full != 0) {
        uint32_t k = dyn__match_next(&full), word = DYN__GET(line->id[k]), side = word >> bit & 1, at = count[side]++;
        DYN__SET(to[side]->id[at], word);
        tags[side][at] = from[k];
    }
    for (int side = 0; side < 2; side++) { /* nobody else sees them yet */
        DYN__SET(to[side]->tags[0], tags_of(tags[side]));
        DYN__SET(to[side]->tags[1], tags_of(tags[side] + 8));
        new[side]->used += count[side];
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
    uint32_t lines = old->lines, ahead = 0;
    const dyn__loose_u64 *keys[AHEAD][DYN__LINE]; /* of lines i .. ahead - 1 */
    for (uint32_t i = 0; i < lines; i++) {
        for (; ahead < lines && ahead < i + AHEAD; ahead++)
            if (!dealt(old, ahead, known)) look_up(self, which, &old->at[ahead], keys[ahead % AHEAD]);
        if (dealt(old, i, known)) {
            deal(&old->at[i], new, i, next);
            continue;
        }
        for (dyn__match full = full_in(&old->at[i]); full != 0;) {
            uint32_t k = dyn__match_next(&full);
            uint64_t key = *keys[i % AHEAD][k];
            uint64_t hash = which == DYN__PLACES ? dyn__place_hash(&self->keys, key) : dyn__name_hash(&self->keys, key);
            dyn__lines_insert(new[hash << shift >> 63 & one], hash, dyn__id_in(&old->at[i], k));
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
    new->shift = 63 - bits;
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
    uint32_t i = dyn__home(segment, hash);
    for (;; i = i + 1 == segment->lines ? 0 : i + 1) {
        dyn__line *line = &segment->at[i];
        uint64_t tags[2] = {DYN__GET(line->tags[0]), DYN__GET(line->tags[1])};
        for (dyn__match match = dyn__match_of(tags[0], tags[1], dyn__tag(hash)); match != 0;) {
            uint32_t at = dyn__match_next(&match);
            if (dyn__id_in(line, at) != id) continue;
            DYN__SET_RELEASE(line->tags[at / 8], tags[at / 8] & ~(UINT64_C(0xff) << at % 8 * 8));
            segment->used--;
            return;
        }
        DYN__SET_RELEASE(line->tags[1], tags[1] - DYN__ONE_PASSED);
    }
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
