/* memory.c -- bytes of an index, and when they may be used again.
 *
 * Epochs: a reader notes the epoch in which it came in (dyn__enter). What is unlinked in epoch E waits in
 * limbo[E & 1]. The epoch goes on to E + 1 only when no reader of E - 1 is inside; then nobody can have what was
 * unlinked in E - 1: readers of E came in after it was unlinked. A reader that noted an old epoch finds the new one
 * when it looks again, and notes that; all four accesses are sequentially consistent, so one of the two sees the other.
 */
#include "index/inside.h"

enum { PAGE = 4096 }; /* what is a multiple of it comes from the system itself */

void *dyn__index_alloc(dyn_index *self, size_t size, size_t alignment)
{
    size_t bytes = DYN__GET(self->bytes);
    if (self->bounded && (size > self->max_bytes || bytes > self->max_bytes - size)) return NULL;
    void *memory = size % PAGE == 0 ? dyn__pages(size)
                   : alignment > 0  ? dyn__aligned(alignment, size)
                                    : dyn__malloc(size);
    if (memory == NULL) return NULL;
    if (size % PAGE != 0) memset(memory, 0, size);
    DYN__SET(self->bytes, bytes + size);
    return memory;
}

int dyn__index_no_memory(const dyn_index *self)
{
    if (!self->bounded || DYN__GET(self->bytes) < self->max_bytes / 2) return DYN_ENOMEM;
    return dyn__fail(DYN_ELIMIT, "the index is at its bound of %zu bytes and nothing can be evicted", self->max_bytes);
}

void dyn__index_free(dyn_index *self, void *memory, size_t size)
{
    if (memory == NULL) return;
    DYN__SUB(self->bytes, size);
    if (size % PAGE == 0)
        dyn__pages_free(memory, size);
    else
        dyn__free(memory);
}

static dyn__limbo *limbo_now(dyn_index *self)
{
    return &self->limbo[DYN__GET(self->epoch) & 1];
}

void dyn__retire_memory(dyn_index *self, dyn__retired *memory, size_t size)
{
    dyn__limbo *limbo = limbo_now(self);
    memory->size = size;
    memory->next = limbo->memory;
    limbo->memory = memory;
    limbo->bytes += size;
    limbo->count++;
    DYN__ADD(self->limbo_bytes, size);
}

void dyn__retire_set(dyn_index *self, dyn__set *set)
{
    dyn__limbo *limbo = limbo_now(self);
    set->retired.next = limbo->sets;
    limbo->sets = &set->retired;
    limbo->count++;
}

void dyn__retire_entry(dyn_index *self, uint32_t id)
{
    dyn__limbo *limbo = limbo_now(self);
    *dyn__name_of(self, id) = limbo->entries;
    limbo->entries = id;
    limbo->count++;
}

void dyn__retire_worker(dyn_index *self, uint32_t slot)
{
    dyn__limbo *limbo = limbo_now(self);
    dyn__worker_of(self, slot)->next = limbo->workers;
    limbo->workers = slot + 1;
    limbo->count++;
}

static void empty(dyn_index *self, dyn__limbo *limbo)
{
    for (dyn__retired *memory = limbo->memory, *next; memory != NULL; memory = next) {
        next = memory->next;
        dyn__index_free(self, memory, memory->size);
    }
    for (dyn__retired *set = limbo->sets, *next; set != NULL; set = next) {
        next = set->next;
        dyn__set_reuse(self, DYN__CONTAINER(set, dyn__set, retired));
    }
    for (uint32_t id = limbo->entries, next; id != 0; id = next) {
        next = (uint32_t)*dyn__name_of(self, id);
        *dyn__name_of(self, id) = self->free_id;
        self->free_id = id;
    }
    for (uint32_t slot = limbo->workers, next; slot != 0; slot = next) {
        dyn__worker *worker = dyn__worker_of(self, slot - 1);
        next = worker->next;
        worker->next = self->free_slot;
        self->free_slot = slot;
    }
    DYN__SUB(self->limbo_bytes, limbo->bytes);
    *limbo = (dyn__limbo){0};
}

bool dyn__advance(dyn_index *self)
{
    uint64_t epoch = DYN__GET(self->epoch);
    for (int i = 0; i < DYN__GATES; i++)
        if (atomic_load(&self->gate[i].inside[(epoch - 1) & 1]) != 0) return false;
    empty(self, &self->limbo[(epoch - 1) & 1]);
    atomic_store(&self->epoch, epoch + 1);
    return true;
}

void dyn__limbo_tend(dyn_index *self)
{
    const dyn__limbo *now = limbo_now(self);
    if (now->count >= 256 || now->bytes >= 65536) dyn__advance(self);
}

void dyn__limbo_flush(dyn_index *self)
{
    empty(self, &self->limbo[0]);
    empty(self, &self->limbo[1]);
}
