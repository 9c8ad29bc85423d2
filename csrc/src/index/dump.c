/* dump.c -- all that an index holds, and how much that is. */
#include "dynamo/hash.h"
#include "index/inside.h"

static int visit_entry(const dyn_index *self, uint32_t id, int (*visit)(void *, const dyn_index_block *), void *user)
{
    const dyn__entry *entry = dyn__entry_of(self, id);
    uint32_t above = DYN__GET(entry->parent) & DYN__ID_MASK, set = DYN__GET(entry->set);
    uint64_t parent_place = above == 0 ? self->keys.root : dyn__entry_of(self, above)->place;
    if (self->nameless) { /* its sequence hash; the parent was visited before */
        uint64_t local = entry->place ^ dyn__place_mix(&self->keys, parent_place);
        uint64_t parent_name = above == 0 ? 0 : *dyn__name_of(self, above), name;
        dyn_hash_chain(&local, 1, above == 0 ? NULL : &parent_name, &name);
        *dyn__name_of(self, id) = name;
    }
    dyn_index_block block = {
        .has_parent = above != 0,
        .parent_hash = above == 0 ? 0 : *dyn__name_of(self, above),
        .block_hash = *dyn__name_of(self, id),
        .tokens_hash = entry->place ^ dyn__place_mix(&self->keys, parent_place),
    };
    uint32_t words = set & DYN__MANY ? dyn__set_of(self, set)->words : set != 0;
    for (uint32_t i = 0; i < words; i++) {
        const dyn__set *many = set & DYN__MANY ? dyn__set_of(self, set) : NULL;
        uint32_t first = many != NULL ? many->first : (set - 1) / 64;
        uint64_t left = many != NULL ? many->bits[i] : UINT64_C(1) << (set - 1) % 64;
        for (; left != 0; left &= left - 1) {
            const dyn__worker *worker = dyn__worker_of(self, (first + i) * 64 + (uint32_t)__builtin_ctzll(left));
            block.worker = worker->id;
            block.dp_rank = worker->dp_rank;
            int rc = visit(user, &block);
            if (rc < 0) return rc;
        }
    }
    return DYN_OK;
}

/* Down to the first child, else to the next sibling, else up until there is one. */
static int walk(dyn_index *self, uint32_t root, int (*visit)(void *, const dyn_index_block *), void *user)
{
    for (uint32_t id = root;;) {
        int rc = visit_entry(self, id, visit, user);
        if (rc < 0) return rc;
        uint32_t next = *dyn__child_of(self, id) & DYN__ID_MASK;
        while (next == 0) {
            if (id == root) return DYN_OK;
            next = dyn__next_sibling(self, id);
            if (next == 0) id = DYN__GET(dyn__entry_of(self, id)->parent) & DYN__ID_MASK;
        }
        id = next;
    }
}

int dyn_index_dump(dyn_index *self, int (*visit)(void *user, const dyn_index_block *block), void *user)
{
    int rc = DYN_OK;
    pthread_mutex_lock(&self->lock);
    for (uint32_t id = 1; id < self->next_id && rc >= 0; id++)
        if ((DYN__GET(dyn__entry_of(self, id)->parent) & (DYN__FREE | DYN__ID_MASK)) == 0)
            rc = walk(self, id, visit, user);
    pthread_mutex_unlock(&self->lock);
    return rc < 0 ? rc : DYN_OK;
}

size_t dyn_index_held(dyn_index *self, uint64_t worker, uint32_t dp_rank)
{
    pthread_mutex_lock(&self->lock);
    uint32_t slot = dyn__slot_find(self, worker, dp_rank);
    size_t held = slot == 0 ? 0 : DYN__GET(dyn__worker_of(self, slot - 1)->held);
    pthread_mutex_unlock(&self->lock);
    return held;
}

size_t dyn_index_workers(dyn_index *self, dyn_overlap *out, size_t room)
{
    size_t count = 0;
    pthread_mutex_lock(&self->lock);
    for (uint32_t slot = 0; slot < self->next_slot; slot++) {
        const dyn__worker *worker = dyn__worker_of(self, slot);
        if (!worker->live) continue;
        if (count < room) out[count] = (dyn_overlap){worker->id, worker->dp_rank, 0, DYN__GET(worker->held)};
        count++;
    }
    pthread_mutex_unlock(&self->lock);
    return count;
}

void dyn_index_stats_get(const dyn_index *self, dyn_index_stats *out)
{
    *out = (dyn_index_stats){
        .blocks = DYN__GET(self->blocks),
        .worker_blocks = DYN__GET(self->worker_blocks),
        .workers = DYN__GET(self->worker_count),
        .sets = DYN__GET(self->set_count),
        .bytes = DYN__GET(self->bytes),
        .max_bytes = self->max_bytes,
        .evicted = DYN__GET(self->evicted),
        .limbo_bytes = DYN__GET(self->limbo_bytes),
    };
}
