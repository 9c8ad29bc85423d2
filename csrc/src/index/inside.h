/* index/inside.h -- what the files of the index share.
 *
 *   place of a block   P = mix(P of the block above) ^ tokens hash        keyed; the root has a secret place
 *
 *   places: table of lines       entries: chunks of 128, never moved              sets, workers
 *   +--------+--------------+    +----------------------------------------+     +----------------------+
 *   | tags   | ids of up to |--->| place, set, parent | name | first child |-->| bit set of slots     |
 *   | (bytes)| 12 entries   |    +----------------------------------------+     | slot -> (worker, dp) |
 *   +--------+--------------+              ^                                    +----------------------+
 *   names: table of lines, the same shape -+     siblings: links {prev, next} only where there are some
 *
 * Readers see places, entries, sets and workers, through atomics only, between dyn__enter and dyn__leave. What is unlinked
 * goes to limbo and is used again when no reader can have it. Everything else belongs to who holds the lock.
 *
 * I1  A live entry is in `places`; in `names` unless UNNAMED. It has a worker or a child.
 * I2  An entry is UNNAMED when another live entry got the same name before it.
 * I3  A child without EDGE is the only child of its parent, and the parent is not CLOSED.
 * I4  Where a worker holds an entry but not the one above, the first entry of that tree is TANGLED.
 * I5  sets[v].refs is the number of entries whose set is v; no two sets are equal; none has fewer than 2 members.
 * I6  workers[s].held is the number of entries that s is in.
 * I7  bytes is the sum of all sizes asked of dyn__index_alloc and not yet given back, with what the pool has touched in place of what it gave out.
 */
#ifndef DYN_SRC_INDEX_INSIDE_H
#define DYN_SRC_INDEX_INSIDE_H

#include <pthread.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "common/common.h"
#include "dynamo/index.h"

typedef struct dyn__place_keys {
    uint64_t chain, chain_by, root, place, place_by, name, name_by;
} dyn__place_keys;

/* ---- memory that readers may still see: the head of every such block */
typedef struct dyn__retired {
    struct dyn__retired *next;
    size_t size;
} dyn__retired;

/* ---- a table from 64-bit hashes to entry ids: lines of 12, one cache line each */
enum { DYN__LINE = 12 };
typedef struct dyn__line {
    _Atomic uint64_t tags[2];       /* a byte for each id, 0 is an empty place; above 12 bytes: dyn__passed */
    _Atomic uint32_t id[DYN__LINE]; /* and in the upper 3 bits the next bits of its hash: see dyn__next_bits */
} dyn__line;
#define DYN__ONE_PASSED (UINT64_C(1) << 32) /* in tags[1] */
typedef struct dyn__segment {
    dyn__retired retired;
    uint32_t lines, used, limit; /* grows when limit are used */
    uint32_t depth, next;        /* how many leading bits of the hash its ids have in common; see dyn__next_bits */
    char pad[28];
    dyn__line at[];
} dyn__segment;
_Static_assert(sizeof(dyn__line) == 64 && sizeof(dyn__segment) == 64, "a line is a cache line");
typedef struct dyn__directory {
    dyn__retired retired;
    uint32_t bits, shift;         /* hash >> 1 >> shift is a number of so many bits */
    _Atomic(dyn__segment *) at[]; /* by the leading bits of the hash; a segment of less depth stands at several */
} dyn__directory;
typedef _Atomic(dyn__directory *) dyn__lines; /* NULL: empty */

/* ---- a map of the writers, u64 -> u64, key 0 not allowed */
enum { DYN__MAP_PARTS = 64 };
typedef struct dyn__map {
    struct dyn__map_part {
        uint64_t (*at)[2];
        uint32_t room, used;
    } part[DYN__MAP_PARTS];
    size_t used;
} dyn__map;

/* ---- entries */
enum { DYN__CHUNK_BITS = 7, DYN__LEAF_BITS = 11, DYN__TOP_BITS = 11, DYN__CHUNK = 1 << DYN__CHUNK_BITS };
#define DYN__ID_MASK UINT32_C(0x1fffffff)
_Static_assert(DYN__CHUNK_BITS + DYN__LEAF_BITS + DYN__TOP_BITS == 29, "ids are 29 bits; 0 is the root");
/* 28 bytes side by side: whoever needs one field mostly needs them all, and memory is slow. */
typedef uint64_t dyn__loose_u64 __attribute__((aligned(4)));
typedef struct dyn__entry {
    dyn__loose_u64 place;
    _Atomic uint32_t set;    /* 0: nobody; slot + 1: one worker; DYN__MANY | set id */
    _Atomic uint32_t parent; /* id, and flags */
    dyn__loose_u64 name;
    uint32_t child; /* id of the first one, and flags */
} dyn__entry;
_Static_assert(sizeof(dyn__entry) == 28, "seven words");
#define DYN__EDGE UINT32_C(0x80000000)    /* parent: starts a run */
#define DYN__TANGLED UINT32_C(0x40000000) /* parent, of a first entry: gaps may be below */
#define DYN__FREE UINT32_C(0x20000000)    /* parent: not a live entry */
#define DYN__CLOSED UINT32_C(0x80000000)  /* child: the run ends here for good */
#define DYN__LINKED UINT32_C(0x40000000)  /* child: `links` knows its neighbours */
#define DYN__UNNAMED UINT32_C(0x20000000) /* child: not in `names` */
#define DYN__MANY UINT32_C(0x80000000)    /* set */
typedef struct dyn__chunk {
    dyn__entry entry[DYN__CHUNK]; /* 8 of them are 7 pages, any page has room for one */
} dyn__chunk;
typedef struct dyn__used {
    _Atomic uint64_t bits[DYN__CHUNK / 64];
} dyn__used;
typedef struct dyn__leaf {
    _Atomic(dyn__chunk *) at[1 << DYN__LEAF_BITS];
    _Atomic(dyn__used *) used[1 << DYN__LEAF_BITS]; /* found since the clock hand came by; only with a bound */
} dyn__leaf;

/* ---- sets of two or more slots, interned */
typedef struct dyn__set {
    dyn__retired retired;
    uint64_t hash;
    uint32_t id, refs, count;
    uint32_t first, words; /* bits[i] are the slots (first + i) * 64 .. + 63; the outer words are not 0 */
    uint64_t bits[];
} dyn__set;
enum { DYN__SET_CHUNK = 1024, DYN__SET_TOP = 4096, DYN__SET_WORDS = 1024 };
typedef struct dyn__set_chunk {
    _Atomic(dyn__set *) at[DYN__SET_CHUNK];
} dyn__set_chunk;

/* ---- workers */
typedef struct dyn__worker {
    uint64_t id;
    uint32_t dp_rank;
    uint32_t next; /* of a free slot */
    uint32_t last; /* the entry that it stored last: mostly the parent of the next */
    _Atomic uint64_t held;
    bool live;
} dyn__worker;
enum { DYN__WORKER_CHUNK = 64, DYN__WORKER_TOP = 1024, DYN__MAX_WORKERS = DYN__SET_WORDS * 64 };
typedef struct dyn__worker_chunk {
    dyn__worker at[DYN__WORKER_CHUNK];
} dyn__worker_chunk;

/* ---- who is inside */
enum { DYN__GATES = 16, DYN__GATE_LINE = 64 };
typedef struct dyn__gate {
    _Alignas(64) _Atomic uint32_t inside[2]; /* readers, by the parity of their epoch */
} dyn__gate;
typedef struct dyn__limbo {
    dyn__retired *memory;
    dyn__retired *sets;
    uint32_t entries; /* linked by name */
    uint32_t workers; /* linked by next */
    size_t bytes, count;
} dyn__limbo;

/* Pages for segments and chunks. */
enum { DYN__POOL_PAGES = 16 }; /* the most that one of them has */
typedef struct dyn__pool {
    struct dyn__arena {
        struct dyn__arena *next;
        void *memory;
        size_t size;
    } *arenas;
    char *at, *scrap;                 /* the rest of the newest arena; the rest of what is being cut into chunks */
    size_t left, scrap_left, counted; /* counted: its part of bytes */
    bool huge;
    void *warm[DYN__POOL_PAGES + 1]; /* what came back, by number of pages; linked through the first word */
} dyn__pool;

struct dyn_index {
    dyn__gate gate[DYN__GATES];
    _Alignas(64) _Atomic uint64_t epoch;
    dyn__place_keys keys;
    bool bounded, aliases, nameless; /* nameless: no name means anything, entries are removed by id */
    uint64_t expiration_ms;
    size_t max_bytes;
    _Atomic(dyn__leaf *) top[1 << DYN__TOP_BITS];
    _Atomic(dyn__set_chunk *) sets[DYN__SET_TOP];
    _Atomic(dyn__worker_chunk *) workers[DYN__WORKER_TOP];
    dyn__lines places;

    atomic_size_t refs, bytes, blocks, worker_blocks, worker_count, set_count, evicted, limbo_bytes;
    _Alignas(64) pthread_mutex_t lock; /* all below, and every change above */
    dyn__lines names;
    dyn__map links;      /* entry -> prev << 32 | next */
    dyn__map others;     /* (slot, name) -> entry, OTHER_ALIAS: names that do not mean what `names` says */
    dyn__map aliases_of; /* slot, entry -> the other name; with FOREIGN: that slot never used the entry's own name */
    dyn__map slots;      /* (worker, dp_rank) -> slot + 1 */
    dyn__map uses;       /* entry -> ring of times; only with an expiration */
    uint32_t next_id, free_id, next_slot, free_slot, last_slot, hand;
    struct {
        uint32_t *at; /* ids + 1 */
        uint32_t room, used, next_id, free_id;
    } interned;
    dyn__limbo limbo[2];
    dyn__pool pool;
    size_t entry_bytes, table_bytes;
};

/* memory.c */
void *dyn__index_alloc(dyn_index *self, size_t size, size_t alignment); /* NULL: see dyn__index_no_memory */
void dyn__index_free(dyn_index *self, void *memory, size_t size);
int dyn__index_no_memory(const dyn_index *self); /* DYN_ENOMEM or DYN_ELIMIT, after a NULL */
void dyn__retire_memory(dyn_index *self, dyn__retired *memory, size_t size);
void dyn__retire_set(dyn_index *self, dyn__set *set);
void dyn__retire_entry(dyn_index *self, uint32_t id);
void dyn__retire_worker(dyn_index *self, uint32_t slot);
bool dyn__advance(dyn_index *self); /* use again what no reader can have; false: a reader of the last epoch is inside */
dyn__chunk *dyn__chunk_new(dyn_index *self);
void dyn__chunk_free(dyn_index *self, dyn__chunk *chunk);
void dyn__pool_free(dyn_index *self);
void dyn__limbo_flush(dyn_index *self); /* nobody is inside any more */
void dyn__limbo_tend(dyn_index *self);  /* at the end of a change */

/* table.c */
typedef enum { DYN__PLACES, DYN__NAMES } dyn__which;
int dyn__lines_grow(dyn_index *self, dyn__which which, uint64_t hash);
void dyn__lines_pass(dyn__segment *segment, dyn__line *full, uint8_t tag, uint32_t word); /* to a later line */
void dyn__lines_erase(dyn_index *self, dyn__which which, uint64_t hash, uint32_t id);
void dyn__lines_free(dyn_index *self, dyn__which which);

/* map.c */
bool dyn__map_get(const dyn_index *self, const dyn__map *map, uint64_t key, uint64_t *value);
int dyn__map_put(dyn_index *self, dyn__map *map, uint64_t key, uint64_t value);
bool dyn__map_erase(dyn_index *self, dyn__map *map, uint64_t key);
void dyn__map_free(dyn_index *self, dyn__map *map);

/* sets.c */
int dyn__set_add(dyn_index *self, uint32_t set, uint32_t slot, uint32_t *out); /* without a reference to *out */
int dyn__set_remove(dyn_index *self, uint32_t set, uint32_t slot, uint32_t *out);
void dyn__set_ref(dyn_index *self, uint32_t set);
void dyn__set_unref(dyn_index *self, uint32_t set);
void dyn__set_reuse(dyn_index *self, dyn__set *set); /* nobody can have it any more */
void dyn__sets_free(dyn_index *self);

/* workers.c */
uint32_t dyn__slot_find(dyn_index *self, uint64_t worker, uint32_t dp_rank); /* slot + 1, or 0 */
int dyn__slot_make(dyn_index *self, uint64_t worker, uint32_t dp_rank, uint32_t *slot);
void dyn__slot_forget(dyn_index *self, uint32_t slot);

/* Blocks one below the other and what is computed from them. */
typedef struct dyn__run {
    const uint64_t *place, *place_hash, *name, *name_hash;
} dyn__run;

/* entries.c */
int dyn__entry_make(dyn_index *self, uint32_t parent, uint64_t place, uint64_t place_hash, uint64_t name, uint32_t slot,
                    uint32_t *out);
/* New blocks one below the other, the first below *last, all of names that nobody had: as far as that is so and memory
 * goes. For an index without a bound, with names. */
int dyn__entries_append(dyn_index *self, uint32_t slot, const dyn__run *run, size_t count, uint32_t *last,
                        size_t *made);
void dyn__entry_release(dyn_index *self,
                        uint32_t id); /* free it if nobody holds it and nothing hangs below, and so on upwards */
int dyn__hold(dyn_index *self, uint32_t id, uint32_t slot, uint32_t memo[2]);
int dyn__drop(dyn_index *self, uint32_t id, uint32_t slot, uint32_t memo[2]); /* does not release */
int dyn__drop_all(dyn_index *self, uint32_t slot);
int dyn__make_room(dyn_index *self, uint32_t keep);
uint32_t dyn__next_sibling(const dyn_index *self, uint32_t id);

/* change.c */
int dyn__store(dyn_index *self, uint32_t slot, uint32_t parent, const uint64_t *names, const uint64_t *tokens,
               size_t count, uint32_t *last);  /* last: the entry of the last block that was stored */
void dyn__touch(dyn_index *self, uint32_t id); /* the clock hand shall pass it by once */

/* names.c */
uint32_t dyn__named(const dyn_index *self, uint32_t slot, uint64_t name, bool to_remove); /* entry or 0 */
uint32_t dyn__first_named(const dyn_index *self, uint64_t name);
int dyn__name_stored(dyn_index *self, uint32_t id, uint32_t slot, uint64_t name, bool joined);
void dyn__name_dropped(dyn_index *self, uint32_t id, uint32_t slot);

/* uses.c */
void dyn__uses_drop(dyn_index *self, uint32_t id);

/* check.c: I1..I7, for tests; 0 or the number of the invariant that is broken */
int dyn__index_check(dyn_index *self);

/* ---- small things, inline */
static inline uint64_t dyn__fold(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}
/* mix() of a place is what all its children have in common */
static inline uint64_t dyn__place_mix(const dyn__place_keys *keys, uint64_t place)
{
    return dyn__fold(place ^ keys->chain, keys->chain_by);
}
static inline uint64_t dyn__place_hash(const dyn__place_keys *keys, uint64_t place)
{
    return dyn__fold(place ^ keys->place, keys->place_by);
}
static inline uint64_t dyn__name_hash(const dyn__place_keys *keys, uint64_t name)
{
    return dyn__fold(name ^ keys->name, keys->name_by);
}
#define DYN__GET(atomic) atomic_load_explicit(&(atomic), memory_order_relaxed)
#define DYN__GET_ACQUIRE(atomic) atomic_load_explicit(&(atomic), memory_order_acquire)
#define DYN__SET(atomic, value) atomic_store_explicit(&(atomic), (value), memory_order_relaxed)
#define DYN__SET_RELEASE(atomic, value) atomic_store_explicit(&(atomic), (value), memory_order_release)
/* counters have one writer at a time: no locked instruction */
#define DYN__ADD(atomic, n) DYN__SET(atomic, DYN__GET(atomic) + (n))
#define DYN__SUB(atomic, n) DYN__SET(atomic, DYN__GET(atomic) - (n))

static inline dyn__chunk *dyn__chunk_of(const dyn_index *self, uint32_t id)
{
    dyn__leaf *leaf = DYN__GET_ACQUIRE(self->top[id >> (DYN__CHUNK_BITS + DYN__LEAF_BITS)]);
    return DYN__GET_ACQUIRE(leaf->at[(id >> DYN__CHUNK_BITS) & ((1 << DYN__LEAF_BITS) - 1)]);
}
static inline _Atomic uint64_t *dyn__used_of(const dyn_index *self, uint32_t id)
{
    dyn__leaf *leaf = DYN__GET_ACQUIRE(self->top[id >> (DYN__CHUNK_BITS + DYN__LEAF_BITS)]);
    dyn__used *used = DYN__GET_ACQUIRE(leaf->used[(id >> DYN__CHUNK_BITS) & ((1 << DYN__LEAF_BITS) - 1)]);
    return &used->bits[(id & (DYN__CHUNK - 1)) / 64];
}
static inline dyn__entry *dyn__entry_of(const dyn_index *self, uint32_t id)
{
    return &dyn__chunk_of(self, id)->entry[id & (DYN__CHUNK - 1)];
}
/* It may lie in two lines. */
static inline void dyn__prefetch_entry(const dyn_index *self, uint32_t id)
{
    const dyn__entry *entry = dyn__entry_of(self, id);
    DYN__PREFETCH(&entry->place);
    DYN__PREFETCH(&entry->child);
}
static inline dyn__loose_u64 *dyn__name_of(const dyn_index *self, uint32_t id)
{
    return &dyn__entry_of(self, id)->name;
}
static inline uint32_t *dyn__child_of(const dyn_index *self, uint32_t id)
{
    return &dyn__entry_of(self, id)->child;
}
static inline dyn__set *dyn__set_of(const dyn_index *self, uint32_t set)
{
    uint32_t id = set & ~DYN__MANY;
    dyn__set_chunk *chunk = DYN__GET_ACQUIRE(self->sets[id / DYN__SET_CHUNK]);
    return DYN__GET_ACQUIRE(chunk->at[id % DYN__SET_CHUNK]);
}
static inline dyn__worker *dyn__worker_of(const dyn_index *self, uint32_t slot)
{
    return &DYN__GET_ACQUIRE(self->workers[slot / DYN__WORKER_CHUNK])->at[slot % DYN__WORKER_CHUNK];
}
static inline bool dyn__set_has(const dyn_index *self, uint32_t set, uint32_t slot)
{
    if ((set & DYN__MANY) == 0) return set == slot + 1;
    const dyn__set *many = dyn__set_of(self, set);
    uint32_t word = slot / 64 - many->first; /* wraps to something large below first */
    return word < many->words && (many->bits[word] >> (slot % 64) & 1);
}

/* A hash: leading bits choose the segment, bits 8..39 the line, the low byte is the tag, but not 0. */
static inline uint32_t dyn__number(const dyn__directory *directory, uint64_t hash)
{
    return (uint32_t)(hash >> 1 >> directory->shift);
}
static inline dyn__segment *dyn__segment_of(const dyn__lines *table, uint64_t hash)
{
    const dyn__directory *directory = DYN__GET_ACQUIRE(*table);
    return directory == NULL ? NULL : DYN__GET_ACQUIRE(directory->at[dyn__number(directory, hash)]);
}
static inline uint32_t dyn__home(const dyn__segment *segment, uint64_t hash)
{
    return (uint32_t)((uint64_t)(uint32_t)(hash >> 8) * segment->lines >> 32);
}
static inline uint8_t dyn__tag(uint64_t hash)
{
    return (uint8_t)((uint8_t)hash + ((uint8_t)hash == 0));
}
/* The places of a line whose tag this is, a bit for each. Exact, so that the id of an empty place is never looked at. */
typedef uint32_t dyn__match;
static inline dyn__match dyn__match_scalar(uint64_t low, uint64_t high, uint8_t tag)
{
    const uint64_t low7 = UINT64_C(0x7f7f7f7f7f7f7f7f), ones = UINT64_C(0x0101010101010101);
    uint64_t a = low ^ tag * ones, b = high ^ tag * ones;
    a = ~(((a & low7) + low7) | a | low7) >> 7; /* 1 in each byte that is 0 */
    b = ~(((b & low7) + low7) | b | low7) >> 7;
    const uint64_t gather = UINT64_C(0x0102040810204080);
    return (dyn__match)(a * gather >> 56 | (b * gather >> 56 & 0xf) << 8);
}
static inline dyn__match dyn__match_of(uint64_t low, uint64_t high, uint8_t tag)
{
#ifdef __SSE2__
    __m128i tags = _mm_set_epi64x((long long)high, (long long)low);
    return (dyn__match)_mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8((char)tag))) & 0xfff;
#else
    return dyn__match_scalar(low, high, tag);
#endif
}
/* Take the next place out of a match that is not 0. */
static inline uint32_t dyn__match_next(dyn__match *match)
{
    uint32_t at = (uint32_t)__builtin_ctz(*match);
    *match &= *match - 1;
    return at;
}
/* How many ids that belong to this line or to one before are in a later line. */
static inline uint32_t dyn__passed(uint64_t high)
{
    return (uint32_t)(high >> 32);
}
/* The bits of a hash that the next splits of a segment of this depth look at: so that a split need not read entries. */
enum { DYN__NEXT_BITS = 3, DYN__NEXT_SHIFT = 29 };
static inline uint32_t dyn__next_bits(const dyn__segment *segment, uint64_t hash)
{
    return (uint32_t)(hash << segment->next >> 61) << DYN__NEXT_SHIFT;
}
static inline uint32_t dyn__id_in(const dyn__line *line, uint32_t at)
{
    return DYN__GET_ACQUIRE(line->id[at]) & DYN__ID_MASK;
}
static inline void dyn__prefetch_line(const dyn__lines *table, uint64_t hash)
{
    const dyn__segment *segment = dyn__segment_of(table, hash);
    if (segment != NULL) DYN__PREFETCH(&segment->at[dyn__home(segment, hash)]);
}
static inline void dyn__prefetch_place(const dyn_index *self, uint64_t hash)
{
    dyn__prefetch_line(&self->places, hash);
}
/* The id that is most likely the one of this hash, or 0: to prefetch it. */
static inline uint32_t dyn__guess(const dyn__lines *table, uint64_t hash)
{
    const dyn__segment *segment = dyn__segment_of(table, hash);
    if (segment == NULL) return 0;
    const dyn__line *line = &segment->at[dyn__home(segment, hash)];
    dyn__match match = dyn__match_of(DYN__GET_ACQUIRE(line->tags[0]), DYN__GET_ACQUIRE(line->tags[1]), dyn__tag(hash));
    return match != 0 ? dyn__id_in(line, dyn__match_next(&match)) : 0;
}
/* Into a line, whose tags are known, if it has room. */
static inline bool dyn__line_put(dyn__line *line, uint64_t low, uint64_t high, uint8_t tag, uint32_t word)
{
    dyn__match empty = dyn__match_of(low, high, 0);
    if (DYN__UNLIKELY(empty == 0)) return false;
    uint32_t at = (uint32_t)__builtin_ctz(empty);
    uint64_t old = at < 8 ? low : high;
    DYN__SET_RELEASE(line->id[at], word); /* the id first, then the tag that makes it visible */
    DYN__SET_RELEASE(line->tags[at / 8], old | (uint64_t)tag << at % 8 * 8);
    return true;
}
/* Most ids find room in their home line. */
static inline void dyn__lines_insert(dyn__segment *segment, uint64_t hash, uint32_t id)
{
    dyn__line *line = &segment->at[dyn__home(segment, hash)];
    uint32_t word = id | dyn__next_bits(segment, hash);
    segment->used++;
    if (DYN__LIKELY(dyn__line_put(line, DYN__GET(line->tags[0]), DYN__GET(line->tags[1]), dyn__tag(hash), word)))
        return;
    dyn__lines_pass(segment, line, dyn__tag(hash), word);
}
/* The entry whose place or whose name this is, or 0. Who is called with a constant `which` has one of the two. */
static inline uint32_t dyn__seek(const dyn_index *self, const dyn__segment *segment, dyn__which which, uint64_t key,
                                 uint64_t hash)
{
    uint32_t lines = segment->lines, i = dyn__home(segment, hash);
    uint8_t tag = dyn__tag(hash);
    for (uint32_t left = lines; left > 0; left--) {
        const dyn__line *line = &segment->at[i];
        uint64_t low = DYN__GET_ACQUIRE(line->tags[0]), high = DYN__GET_ACQUIRE(line->tags[1]);
        for (dyn__match match = dyn__match_of(low, high, tag); match != 0;) {
            uint32_t id = dyn__id_in(line, dyn__match_next(&match));
            const dyn__entry *entry = dyn__entry_of(self, id);
            if ((which == DYN__PLACES ? entry->place : entry->name) == key) return id;
        }
        if (DYN__LIKELY(dyn__passed(high) == 0)) return 0;
        if (++i == lines) i = 0;
    }
    return 0;
}
/* The entry at this place, or 0. For readers inside and for the writer. */
static inline uint32_t dyn__at_place(const dyn_index *self, uint64_t place, uint64_t hash)
{
    const dyn__segment *segment = dyn__segment_of(&self->places, hash);
    return segment == NULL ? 0 : dyn__seek(self, segment, DYN__PLACES, place, hash);
}

/* The segment for one more id with this hash; grows it when it is three quarters full. */
static inline int dyn__lines_reserve(dyn_index *self, dyn__which which, uint64_t hash, dyn__segment **out)
{
    const dyn__lines *table = which == DYN__PLACES ? &self->places : &self->names;
    dyn__segment *segment = dyn__segment_of(table, hash);
    if (DYN__UNLIKELY(segment == NULL || segment->used >= segment->limit)) {
        int rc = dyn__lines_grow(self, which, hash);
        if (rc < 0) return rc;
        segment = dyn__segment_of(table, hash);
    }
    *out = segment;
    return DYN_OK;
}

/* Readers. The gate is chosen by the thread, so that threads seldom share one. */
static inline _Atomic uint32_t *dyn__enter(const dyn_index *self)
{
    static _Thread_local char mine;
    dyn_index *open = (dyn_index *)(uintptr_t)self; /* counting readers does not change what a const index says */
    dyn__gate *gate = &open->gate[((uintptr_t)&mine * UINT64_C(0x9e3779b97f4a7c15)) >> 60];
    for (;;) {
        uint64_t epoch = atomic_load(&open->epoch);
        _Atomic uint32_t *inside = &gate->inside[epoch & 1];
        atomic_fetch_add(inside, 1);
        if (atomic_load(&open->epoch) == epoch) return inside;
        atomic_fetch_sub(inside, 1);
    }
}
static inline void dyn__leave(_Atomic uint32_t *inside)
{
    atomic_fetch_sub_explicit(inside, 1, memory_order_release);
}
#endif
