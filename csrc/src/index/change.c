/* change.c -- stored, removed, cleared; see dynamo/index.h for the contract and index/inside.h for the structure. */
#include <inttypes.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/random.h>
#endif

#include "index/inside.h"

enum { WINDOW = 16, MIN_BYTES = 1 << 20 };

static void draw_keys(dyn__place_keys *keys)
{
    uint64_t drawn[7];
    if (getentropy(drawn, sizeof(drawn)) != 0) { /* only where there is no such call: less secret, still scattered */
        drawn[0] = dyn_now_ns() ^ (uint64_t)(uintptr_t)keys;
        for (int i = 1; i < 7; i++) drawn[i] = dyn__fold(drawn[i - 1] + i, UINT64_C(0x9e3779b97f4a7c15));
    }
    *keys = (dyn__place_keys){drawn[0], drawn[1] | 1, drawn[2], drawn[3], drawn[4] | 1, drawn[5], drawn[6] | 1};
}

int dyn_index_new(dyn_index **out, const dyn_index_options *options)
{
    static const dyn_index_options none;
    if (options == NULL) options = &none;
    if (options->max_bytes != 0 && options->max_bytes < MIN_BYTES)
        return dyn__fail(DYN_EINVAL, "a bound of %zu bytes: must be 0 (none) or at least %d", options->max_bytes,
                         MIN_BYTES);
    dyn_index *self = dyn__aligned(64, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    memset(self, 0, sizeof(*self));
    draw_keys(&self->keys);
    self->bounded = options->max_bytes != 0;
    self->max_bytes = options->max_bytes;
    self->expiration_ms = options->expiration_ms;
    self->aliases = options->aliases;
    self->next_id = 1;
    DYN__SET(self->bytes, sizeof(*self));
    DYN__SET(self->refs, 1);
    DYN__SET(self->epoch, 2);
    pthread_mutex_init(&self->lock, NULL);
    *out = self;
    return DYN_OK;
}

dyn_index *dyn_index_ref(dyn_index *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_index_unref(dyn_index *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    for (uint32_t id = 1; self->uses.used > 0 && id < self->next_id; id++) dyn__uses_drop(self, id);
    dyn__limbo_flush(self);
    dyn__lines_free(self, DYN__PLACES);
    dyn__lines_free(self, DYN__NAMES);
    dyn__sets_free(self);
    dyn__map_free(self, &self->links);
    dyn__map_free(self, &self->others);
    dyn__map_free(self, &self->aliases_of);
    dyn__map_free(self, &self->slots);
    dyn__map_free(self, &self->uses);
    for (int i = 0; i < DYN__WORKER_TOP && DYN__GET(self->workers[i]) != NULL; i++)
        dyn__index_free(self, DYN__GET(self->workers[i]), sizeof(dyn__worker_chunk));
    for (int i = 0; i < 1 << DYN__TOP_BITS; i++) {
        dyn__leaf *leaf = DYN__GET(self->top[i]);
        if (leaf == NULL) break;
        for (int j = 0; j < 1 << DYN__LEAF_BITS; j++) {
            dyn__chunk_free(self, DYN__GET(leaf->at[j]));
            dyn__index_free(self, DYN__GET(leaf->used[j]), sizeof(dyn__used));
        }
        dyn__index_free(self, leaf, sizeof(*leaf));
    }
    dyn__pool_free(self);
    assert(DYN__GET(self->bytes) == sizeof(*self)); /* I7 */
    pthread_mutex_destroy(&self->lock);
    dyn__free(self);
}

void dyn__touch(dyn_index *self, uint32_t id)
{
    if (!self->bounded || id == 0) return;
    _Atomic uint64_t *used = dyn__used_of(self, id);
    uint64_t bit = UINT64_C(1) << id % 64;
    if ((DYN__GET(*used) & bit) == 0) atomic_fetch_or_explicit(used, bit, memory_order_relaxed);
}

/* Places and hashes of the next blocks, with their lines on the way. */
typedef struct window {
    uint64_t place[WINDOW], place_hash[WINDOW], name_hash[WINDOW];
} window;

static uint64_t look_ahead(const dyn_index *self, uint64_t place, const uint64_t *tokens, const uint64_t *names,
                           size_t count, window *w)
{
    for (size_t i = 0; i < count && i < WINDOW; i++) {
        w->place[i] = place = dyn__place_mix(&self->keys, place) ^ tokens[i];
        w->place_hash[i] = dyn__place_hash(&self->keys, place);
        dyn__prefetch_line(&self->places, w->place_hash[i]);
        if (names == NULL) continue;
        w->name_hash[i] = dyn__name_hash(&self->keys, names[i]);
        dyn__prefetch_line(&self->names, w->name_hash[i]);
    }
    return place;
}

/* Store below `parent`, from there on new blocks only have new blocks below them. */
int dyn__store(dyn_index *self, uint32_t slot, uint32_t parent, const uint64_t *names, const uint64_t *tokens,
               size_t count, uint32_t *last)
{
    int rc;
    bool fresh = false;
    uint32_t memo[2] = {0, 0}, id;
    window two[2];
    uint64_t place = parent == 0 ? self->keys.root : dyn__entry_of(self, parent)->place;

    *last = parent;
    place = look_ahead(self, place, tokens, names, count, &two[0]);
    for (size_t start = 0; start < count; start += WINDOW) {
        const window *now = &two[start / WINDOW % 2];
        const uint64_t *places = now->place, *hashes = now->place_hash;
        size_t n = count - start < WINDOW ? count - start : WINDOW, more = count - start - n, made;
        if (more > 0)
            place = look_ahead(self, place, tokens + start + n, names == NULL ? NULL : names + start + n, more,
                               &two[start / WINDOW % 2 ^ 1]);
        for (size_t i = 0; i < n && n > 1 && !fresh; i++) {
            uint32_t guess = dyn__guess(&self->places, hashes[i]);
            if (guess == 0) break; /* as good as always what follows is new, too */
            dyn__prefetch_entry(self, guess);
        }
        for (size_t i = 0; i < n; i++) {
            uint64_t name = names == NULL ? 0 : names[start + i];
            id = fresh ? 0 : dyn__at_place(self, places[i], hashes[i]);
            if (id == 0 && names != NULL && !self->bounded && self->others.used == 0) {
                const dyn__run run = {places + i, hashes + i, names + start + i, now->name_hash + i};
                rc = dyn__entries_append(self, slot, &run, n - i, last, &made);
                fresh |= made > 0;
                i += made;
                if (rc < 0) return rc;
                if (i == n) break;
                name = names[start + i]; /* which is the name of another block */
            }
            if (id == 0) {
                if (self->bounded) {
                    if ((rc = dyn__make_room(self, *last)) < 0) return rc;
                    memo[0] = memo[1] = 0; /* room may have been made: sets may be gone */
                }
                if ((rc = dyn__entry_make(self, *last, places[i], hashes[i], name, slot, &id)) < 0) return rc;
                fresh = true;
                if (names != NULL && (*dyn__child_of(self, id) & DYN__UNNAMED || self->others.used > 0)) {
                    if ((rc = dyn__name_stored(self, id, slot, name, true)) < 0) {
                        dyn__drop(self, id, slot, (uint32_t[2]){0, 0});
                        dyn__entry_release(self, id);
                        return rc;
                    }
                }
            } else {
                int joined = dyn__hold(self, id, slot, memo);
                if (joined < 0) return joined;
                if (names != NULL && (*dyn__name_of(self, id) != name || *dyn__child_of(self, id) & DYN__UNNAMED ||
                                      self->others.used > 0 || self->aliases_of.used > 0)) {
                    if ((rc = dyn__name_stored(self, id, slot, name, joined > 0)) < 0) {
                        if (joined > 0) dyn__drop(self, id, slot, (uint32_t[2]){0, 0});
                        return rc;
                    }
                }
            }
            *last = id;
        }
    }
    dyn__worker_of(self, slot)->last = *last;
    if (!fresh) dyn__touch(self, *last); /* a new block has yet to show that it is wanted */
    return DYN_OK;
}

int dyn_index_stored(dyn_index *self, uint64_t worker, uint32_t dp_rank, const uint64_t *parent,
                     const uint64_t *block_hashes, const uint64_t *tokens_hashes, size_t count)
{
    int rc = DYN_OK;
    uint32_t slot = 0, above = 0, last;

    pthread_mutex_lock(&self->lock);
    if (parent != NULL) {
        if (count > 0) dyn__prefetch_line(&self->names, dyn__name_hash(&self->keys, block_hashes[0]));
        slot = dyn__slot_find(self, worker, dp_rank);
        above = slot == 0 ? 0 : dyn__named(self, slot - 1, *parent, false);
        if (above == 0)
            rc = dyn__fail(DYN_EBLOCK, "stored: worker %" PRIu64 " rank %u holds no block %" PRIu64 " to be the parent",
                           worker, dp_rank, *parent);
        else if (count > 0 && block_hashes[0] == *parent)
            rc = dyn__fail(DYN_EBLOCK, "stored: block %" PRIu64 " is its own parent", *parent);
    }
    if (rc == DYN_OK && count > 0 && (rc = dyn__slot_make(self, worker, dp_rank, &slot)) == DYN_OK)
        rc = dyn__store(self, slot, above, block_hashes, tokens_hashes, count, &last);
    dyn__limbo_tend(self);
    pthread_mutex_unlock(&self->lock);
    return rc;
}

/* Does the worker hold one of the children?  They may be many; beyond 256 say yes. */
static bool holds_below(const dyn_index *self, uint32_t id, uint32_t slot)
{
    uint32_t child = *dyn__child_of(self, id) & DYN__ID_MASK;
    for (int looked = 0; child != 0; child = dyn__next_sibling(self, child))
        if (++looked > 256 || dyn__set_has(self, DYN__GET(dyn__entry_of(self, child)->set), slot)) return true;
    return false;
}

static int remove_run(dyn_index *self, uint32_t id, uint32_t slot)
{
    int rc;
    uint32_t memo[2] = {0, 0}, last = id, next;
    if (DYN__LIKELY((*dyn__child_of(self, id) & DYN__ID_MASK) == 0)) { /* an end: they mostly go first */
        if ((rc = dyn__drop(self, id, slot, memo)) < 0) return rc;
        dyn__entry_release(self, id);
        return DYN_OK;
    }
    for (;; last = next) { /* to the last block of the run that the worker holds */
        uint32_t child = *dyn__child_of(self, last);
        next = child & DYN__ID_MASK;
        if (child & DYN__CLOSED || next == 0) break;
        const dyn__entry *entry = dyn__entry_of(self, next);
        if (DYN__GET(entry->parent) & DYN__EDGE || !dyn__set_has(self, DYN__GET(entry->set), slot)) break;
    }
    if (holds_below(self, last, slot)) { /* I4 */
        uint32_t top = last, parent;
        while ((parent = DYN__GET(dyn__entry_of(self, top)->parent) & DYN__ID_MASK) != 0) top = parent;
        dyn__entry *entry = dyn__entry_of(self, top);
        DYN__SET_RELEASE(entry->parent, DYN__GET(entry->parent) | DYN__TANGLED);
    }
    for (next = id;; next = *dyn__child_of(self, next) & DYN__ID_MASK) {
        if ((rc = dyn__drop(self, next, slot, memo)) < 0) return rc;
        if (next == last) break;
    }
    dyn__entry_release(self, last);
    return DYN_OK;
}

/* Three rounds, each on what the one before asked for: the lines of the names, the entries, the lines of their places. */
static void guess_named(const dyn_index *self, const uint64_t *names, size_t count, uint32_t guess[WINDOW])
{
    uint64_t hash[WINDOW];
    for (size_t i = 0; i < count; i++)
        dyn__prefetch_line(&self->names, hash[i] = dyn__name_hash(&self->keys, names[i]));
    for (size_t i = 0; i < count; i++) {
        guess[i] = dyn__guess(&self->names, hash[i]);
        if (guess[i] != 0) dyn__prefetch_entry(self, guess[i]);
    }
    for (size_t i = 0; i < count; i++)
        if (guess[i] != 0)
            dyn__prefetch_place(self, dyn__place_hash(&self->keys, dyn__entry_of(self, guess[i])->place));
}

/* Is a guess right? It was made before other blocks of the window went, and perhaps this one with them. */
static bool means(const dyn_index *self, uint32_t slot, uint64_t name, uint32_t id)
{
    if (id == 0 || self->others.used > 0 || self->aliases_of.used > 0) return false;
    const dyn__entry *entry = dyn__entry_of(self, id);
    return entry->name == name && ((entry->child & DYN__UNNAMED) | (DYN__GET(entry->parent) & DYN__FREE)) == 0 &&
           dyn__set_has(self, DYN__GET(entry->set), slot);
}

int dyn_index_removed(dyn_index *self, uint64_t worker, uint32_t dp_rank, const uint64_t *block_hashes, size_t count)
{
    int rc = DYN_OK;
    uint32_t guess[WINDOW];
    pthread_mutex_lock(&self->lock);
    uint32_t slot = dyn__slot_find(self, worker, dp_rank);
    for (size_t i = 0; i < count; i++) {
        if (i % WINDOW == 0) guess_named(self, block_hashes + i, count - i < WINDOW ? count - i : WINDOW, guess);
        uint32_t id = guess[i % WINDOW];
        if (slot == 0)
            id = 0;
        else if (!means(self, slot - 1, block_hashes[i], id))
            id = dyn__named(self, slot - 1, block_hashes[i], true);
        if (id != 0) {
            int failed = remove_run(self, id, slot - 1);
            if (failed < 0) {
                rc = failed;
                break;
            }
        } else if (rc == DYN_OK) {
            rc = dyn__fail(DYN_EBLOCK, "removed: worker %" PRIu64 " rank %u holds no block %" PRIu64, worker, dp_rank,
                           block_hashes[i]);
        }
    }
    dyn__limbo_tend(self);
    pthread_mutex_unlock(&self->lock);
    return rc;
}

int dyn_index_cleared(dyn_index *self, uint64_t worker, uint32_t dp_rank)
{
    int rc = DYN_OK;
    pthread_mutex_lock(&self->lock);
    uint32_t slot = dyn__slot_find(self, worker, dp_rank);
    if (slot != 0) rc = dyn__drop_all(self, slot - 1);
    dyn__limbo_tend(self);
    pthread_mutex_unlock(&self->lock);
    return rc;
}

static int clear_ranks(dyn_index *self, uint64_t worker, bool forget)
{
    int rc = DYN_OK;
    pthread_mutex_lock(&self->lock);
    for (uint32_t slot = 0; slot < self->next_slot; slot++) {
        const dyn__worker *known = dyn__worker_of(self, slot);
        if (!known->live || known->id != worker) continue;
        if ((rc = dyn__drop_all(self, slot)) < 0) break;
        if (forget) dyn__slot_forget(self, slot);
    }
    dyn__limbo_tend(self);
    pthread_mutex_unlock(&self->lock);
    return rc;
}

int dyn_index_clear_worker(dyn_index *self, uint64_t worker)
{
    return clear_ranks(self, worker, false);
}

int dyn_index_remove_worker(dyn_index *self, uint64_t worker)
{
    return clear_ranks(self, worker, true);
}

int dyn_index_on_stored(void *index, uint64_t worker, uint32_t dp_rank, const uint64_t *parent,
                        const uint64_t *block_hashes, const uint64_t *tokens_hashes, size_t count)
{
    return dyn_index_stored(index, worker, dp_rank, parent, block_hashes, tokens_hashes, count);
}

int dyn_index_on_removed(void *index, uint64_t worker, uint32_t dp_rank, const uint64_t *block_hashes, size_t count)
{
    return dyn_index_removed(index, worker, dp_rank, block_hashes, count);
}

int dyn_index_on_cleared(void *index, uint64_t worker, uint32_t dp_rank)
{
    return dyn_index_cleared(index, worker, dp_rank);
}
