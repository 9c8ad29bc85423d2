/* workers.c -- a small number (slot) for each (worker, dp_rank), so that sets of them are bits. */
#include "index/inside.h"

static uint64_t key_of(const dyn_index *self, uint64_t worker, uint32_t dp_rank)
{
    uint64_t key = dyn__fold(worker ^ self->keys.chain, self->keys.name_by) + dp_rank;
    key = dyn__fold(key ^ self->keys.name, self->keys.chain_by);
    return key ? key : 1;
}

uint32_t dyn__slot_find(dyn_index *self, uint64_t worker, uint32_t dp_rank)
{
    uint64_t slot;
    if (self->last_slot != 0) { /* events of a worker come in bursts */
        const dyn__worker *last = dyn__worker_of(self, self->last_slot - 1);
        if (last->id == worker && last->dp_rank == dp_rank && last->live) return self->last_slot;
    }
    if (!dyn__map_get(self, &self->slots, key_of(self, worker, dp_rank), &slot)) return 0;
    const dyn__worker *found = dyn__worker_of(self, (uint32_t)slot - 1);
    if (found->id != worker || found->dp_rank != dp_rank) return 0;
    self->last_slot = (uint32_t)slot;
    return (uint32_t)slot;
}

int dyn__slot_make(dyn_index *self, uint64_t worker, uint32_t dp_rank, uint32_t *out)
{
    int rc;
    uint32_t slot = dyn__slot_find(self, worker, dp_rank);
    if (slot != 0) {
        *out = slot - 1;
        return DYN_OK;
    }
    if (self->free_slot == 0 && self->next_slot == DYN__MAX_WORKERS)
        return dyn__fail(DYN_ELIMIT, "%d workers: remove those that are gone", DYN__MAX_WORKERS);
    slot = self->free_slot != 0 ? self->free_slot - 1 : self->next_slot;
    if (DYN__GET(self->workers[slot / DYN__WORKER_CHUNK]) == NULL) {
        dyn__worker_chunk *chunk = dyn__index_alloc(self, sizeof(*chunk), 0);
        if (chunk == NULL) return dyn__index_no_memory(self);
        DYN__SET_RELEASE(self->workers[slot / DYN__WORKER_CHUNK], chunk);
    }
    if ((rc = dyn__map_put(self, &self->slots, key_of(self, worker, dp_rank), slot + 1)) < 0) return rc;
    dyn__worker *new = dyn__worker_of(self, slot);
    if (self->free_slot != 0)
        self->free_slot = new->next;
    else
        self->next_slot++;
    new->id = worker;
    new->dp_rank = dp_rank;
    new->live = true;
    new->last = 0;
    DYN__SET(new->held, 0);
    DYN__ADD(self->worker_count, 1);
    *out = slot;
    return DYN_OK;
}

/* The worker holds nothing. Readers may still find its slot in a set: the slot waits for them. */
void dyn__slot_forget(dyn_index *self, uint32_t slot)
{
    dyn__worker *worker = dyn__worker_of(self, slot);
    dyn__map_erase(self, &self->slots, key_of(self, worker->id, worker->dp_rank));
    worker->live = false;
    DYN__SUB(self->worker_count, 1);
    dyn__retire_worker(self, slot);
}
