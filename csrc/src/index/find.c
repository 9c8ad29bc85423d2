/* find.c -- who holds how much of a sequence, without a lock.
 *
 * Going down a sequence the set of workers can only lose members, unless the tree is TANGLED (I4). So when two positions
 * have the same set, all between have it, and only changes need to be searched for:
 *
 *   position   0 . . . . . . 7 . . . . . . . . . . . . . . 63 . . . .
 *   set        A             A                             C            7 and 63 differ: look at 35, and so on
 *
 * A writer may be at work meanwhile. Each set is one that the block had at some moment of the find; a worker is counted to the
 * first position where it was not seen, and `active` only loses members, so no worker comes out twice.
 */
#include "index/inside.h"

enum { FIRST = 8, STRIDE = 64, WINDOW = 16 };

typedef struct finder {
    const dyn_index *self;
    dyn_overlap *out;
    size_t room, found, deepest;
    uint32_t set; /* of the position that was looked at last */
    uint32_t first, words;
    uint64_t active[DYN__SET_WORDS];
} finder;

_Static_assert(DYN__WORKER_CHUNK == 64, "a word of a set is a chunk of workers");

static void emit(finder *f, uint32_t word, uint64_t gone, size_t blocks)
{
    const dyn__worker *workers = DYN__GET_ACQUIRE(f->self->workers[word])->at;
    dyn_overlap *to = f->out + f->found, *end = f->out + f->room;
    f->found += (size_t)__builtin_popcountll(gone);
    f->deepest = blocks;
    for (; gone != 0 && to < end; gone &= gone - 1, to++) {
        const dyn__worker *worker = &workers[__builtin_ctzll(gone)];
        *to = (dyn_overlap){worker->id, worker->dp_rank, (uint32_t)blocks, DYN__GET(worker->held)};
    }
}

static void start(finder *f, uint32_t set)
{
    f->set = set;
    if (set & DYN__MANY) {
        const dyn__set *many = dyn__set_of(f->self, set);
        f->first = many->first, f->words = many->words;
        memcpy(f->active, many->bits, many->words * sizeof(uint64_t));
    } else {
        f->first = (set - 1) / 64, f->words = 1;
        f->active[0] = UINT64_C(1) << (set - 1) % 64;
    }
}

/* The block at `position` has this set: who is not in it ends there. False when nobody is left. */
static bool step(finder *f, size_t position, uint32_t set)
{
    uint64_t one, any = 0;
    const uint64_t *bits = &one;
    uint32_t first = 0, words = 0;
    if (set == f->set) return true;
    f->set = set;
    if (set & DYN__MANY) {
        const dyn__set *many = dyn__set_of(f->self, set);
        bits = many->bits, first = many->first, words = many->words;
    } else if (set != 0) {
        one = UINT64_C(1) << (set - 1) % 64;
        first = (set - 1) / 64, words = 1;
    }
    for (uint32_t i = 0; i < f->words; i++) {
        uint32_t at = f->first + i - first; /* wraps below first */
        uint64_t stay = at < words ? bits[at] : 0;
        uint64_t gone = f->active[i] & ~stay;
        if (gone != 0) emit(f, f->first + i, gone, position);
        any |= f->active[i] &= stay;
    }
    return any != 0;
}

static uint32_t probe(const finder *f, uint64_t place)
{
    uint32_t id = dyn__at_place(f->self, place, dyn__place_hash(&f->self->keys, place));
    return id == 0 ? 0 : DYN__GET_ACQUIRE(dyn__entry_of(f->self, id)->set);
}

/* All changes after position base + lo up to base + hi, whose sets are known. False when nobody is left. */
static bool resolve(finder *f, const uint64_t *places, size_t base, int lo, uint32_t lo_set, int hi, uint32_t hi_set)
{
    if (lo_set == hi_set) return true;
    if (hi - lo == 1) return step(f, base + (size_t)hi, hi_set);
    int mid = (lo + hi) / 2;
    uint32_t set = probe(f, places[mid]);
    return resolve(f, places, base, lo, lo_set, mid, set) && resolve(f, places, base, mid, set, hi, hi_set);
}

static void gallop(finder *f, const uint64_t *tokens, size_t count, uint64_t place)
{
    const dyn_index *self = f->self;
    uint64_t places[STRIDE];
    for (size_t base = 1, n; base < count; base += n) {
        n = base == 1 ? FIRST - 1 : STRIDE;
        if (n > count - base) n = count - base;
        for (size_t i = 0; i < n; i++) places[i] = place = dyn__place_mix(&self->keys, place) ^ tokens[base + i];
        if (n > 2) dyn__prefetch_place(self, dyn__place_hash(&self->keys, places[(n - 2) / 2])); /* perhaps the next */
        if (!resolve(f, places, base, -1, f->set, (int)n - 1, probe(f, place))) return;
    }
    step(f, count, 0);
}

static size_t active_count(const finder *f)
{
    size_t count = 0;
    for (uint32_t i = 0; i < f->words; i++) count += (size_t)__builtin_popcountll(f->active[i]);
    return count;
}

/* Every position, in windows so that the lines and entries of the next ones are on their way. */
static void linear(finder *f, const uint64_t *tokens, size_t count, uint64_t place, bool early)
{
    const dyn_index *self = f->self;
    uint64_t places[WINDOW], hashes[WINDOW];
    for (size_t base = 1; base < count; base += WINDOW) {
        size_t n = count - base < WINDOW ? count - base : WINDOW;
        for (size_t i = 0; i < n; i++) {
            places[i] = place = dyn__place_mix(&self->keys, place) ^ tokens[base + i];
            hashes[i] = dyn__place_hash(&self->keys, place);
            dyn__prefetch_place(self, hashes[i]);
        }
        for (size_t i = 0; i < n; i++) {
            uint32_t guess = dyn__guess(&self->places, hashes[i]);
            if (guess != 0) DYN__PREFETCH(dyn__entry_of(self, guess));
        }
        for (size_t i = 0; i < n; i++) {
            uint32_t id = dyn__at_place(self, places[i], hashes[i]), set = 0;
            if (id != 0) {
                const dyn__entry *entry = dyn__entry_of(self, id);
                if (early && DYN__GET(entry->parent) & DYN__EDGE && active_count(f) == 1) {
                    step(f, base + i, 0);
                    return;
                }
                set = DYN__GET_ACQUIRE(entry->set);
            }
            if (!step(f, base + i, set)) return;
        }
    }
    step(f, count, 0);
}

static void mark_used(const finder *f, const uint64_t *tokens)
{
    dyn_index *open = (dyn_index *)(uintptr_t)f->self; /* a bit for the clock hand, not what the index says */
    uint64_t place = open->keys.root;
    for (size_t i = 0; i < f->deepest; i++) place = dyn__place_mix(&open->keys, place) ^ tokens[i];
    dyn__touch(open, dyn__at_place(open, place, dyn__place_hash(&open->keys, place)));
}

static size_t find(const dyn_index *self, const uint64_t *tokens, size_t count, dyn_overlap *out, size_t room,
                   bool early)
{
    finder f;
    if (count == 0) return 0;
    f.self = self, f.out = out, f.room = room, f.found = 0, f.deepest = 0;
    uint64_t place = dyn__place_mix(&self->keys, self->keys.root) ^ tokens[0];
    _Atomic uint32_t *inside = dyn__enter(self);
    uint32_t id = dyn__at_place(self, place, dyn__place_hash(&self->keys, place));
    if (id != 0) {
        const dyn__entry *entry = dyn__entry_of(self, id);
        bool tangled = (DYN__GET_ACQUIRE(entry->parent) & DYN__TANGLED) != 0;
        uint32_t set = DYN__GET_ACQUIRE(entry->set);
        if (set != 0) {
            start(&f, set);
            if (early || tangled)
                linear(&f, tokens, count, place, early);
            else
                gallop(&f, tokens, count, place);
            if (self->bounded) mark_used(&f, tokens);
        }
    }
    dyn__leave(inside);
    return f.found;
}

size_t dyn_index_find(const dyn_index *self, const uint64_t *tokens_hashes, size_t count, dyn_overlap *out, size_t room)
{
    return find(self, tokens_hashes, count, out, room, false);
}

size_t dyn_index_find_early(const dyn_index *self, const uint64_t *tokens_hashes, size_t count, dyn_overlap *out,
                            size_t room)
{
    return find(self, tokens_hashes, count, out, room, true);
}
