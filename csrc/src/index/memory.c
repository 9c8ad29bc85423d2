/* memory.c -- bytes of an index, and when they may be used again.
 *
 * Epochs: a reader notes the epoch in which it came in (dyn__enter). What is unlinked in epoch E waits in
 * limbo[E & 1]. The epoch goes on to E + 1 only when no reader of E - 1 is inside; then nobody can have what was
 * unlinked in E - 1: readers of E came in after it was unlinked. A reader that noted an old epoch finds the new one
 * when it looks again, and notes that; all four accesses are sequentially consistent, so one of the two sees the other.
 */
#include "index/inside.h"

#ifdef DYN__SANITIZED
#include <sanitizer/asan_interface.h> /* what waits in the pool is out of bounds */
#else
#define ASAN_POISON_MEMORY_REGION(memory, size) ((void)(memory), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(memory, size) ((void)(memory), (void)(size))
#endif

/* In bytes. What is a multiple of PAGE comes from the pool, or is too large for it and comes from the system itself. */
enum { PAGE = 4096, ARENA = 1 << 20, HUGE_PAGE = 1 << 21, CHUNKS = 8 * sizeof(dyn__chunk) };

_Static_assert(CHUNKS % PAGE == 0, "some chunks are pages");

/* ---- the pool: arenas, whole huge pages as soon as one is a 16th of all. A segment that came back becomes another of its
 * size, or chunks: while an index grows, its entries want more than splits give back. Where the size is bounded there is no
 * pool: what waits in it could not be had for anything else. */
static bool pooled(const dyn_index *self, size_t size)
{
    return !self->bounded && size % PAGE == 0 && size <= (size_t)DYN__POOL_PAGES * PAGE;
}

static void give(dyn_index *self, void *memory, size_t size)
{
    void **list = &self->pool.warm[size / PAGE];
    ASAN_UNPOISON_MEMORY_REGION(memory, sizeof(void *));
    *(void **)memory = *list;
    *list = memory;
    ASAN_POISON_MEMORY_REGION((char *)memory + sizeof(void *), size - sizeof(void *));
}

static void *take_warm(dyn_index *self, size_t pages)
{
    void **list = &self->pool.warm[pages], **memory = *list;
    if (memory == NULL) return NULL;
    *list = *memory;
    ASAN_UNPOISON_MEMORY_REGION(memory, pages * PAGE);
    return memory;
}

/* Pages that were not touched are not memory yet; a huge one is memory as a whole. */
static void count_in(dyn_index *self, size_t size)
{
    self->pool.counted += size;
    DYN__ADD(self->bytes, size);
}

static bool add_arena(dyn_index *self, size_t size)
{
    dyn__pool *pool = &self->pool;
    struct dyn__arena *new = dyn__malloc(sizeof(*new));
    if (new == NULL) return false;
    *new = (struct dyn__arena){pool->arenas, dyn__pages(size), size};
    if (new->memory == NULL) {
        dyn__free(new);
        return false;
    }
    if (pool->left > 0) { /* less than DYN__POOL_PAGES, as it was not enough */
        if (!pool->huge) count_in(self, pool->left);
        give(self, pool->at, pool->left);
    }
    ASAN_POISON_MEMORY_REGION(new->memory, size);
    pool->arenas = new;
    pool->at = new->memory;
    pool->left = size;
    pool->huge = size >= HUGE_PAGE;
    count_in(self, sizeof(*new) + (pool->huge ? size : 0));
    return true;
}

static void *take(dyn_index *self, size_t size)
{
    dyn__pool *pool = &self->pool;
    void *memory = take_warm(self, size / PAGE);
    if (memory != NULL) return memset(memory, 0, size);
    if (pool->left < size) {
        size_t huge = pool->counted / 16 / HUGE_PAGE * HUGE_PAGE;
        if (!add_arena(self, huge > 8 * HUGE_PAGE ? 8 * HUGE_PAGE : huge > 0 ? huge : ARENA) && !add_arena(self, size))
            return NULL;
    }
    memory = pool->at;
    ASAN_UNPOISON_MEMORY_REGION(memory, size);
    pool->at += size;
    pool->left -= size;
    if (!pool->huge) count_in(self, size);
    /* A page that is first read, then written to faults twice. */
    for (size_t i = 0; i < size; i += PAGE) *((volatile char *)memory + i) = 0;
    return memory;
}

dyn__chunk *dyn__chunk_new(dyn_index *self)
{
    dyn__pool *pool = &self->pool;
    if (!pooled(self, PAGE)) return dyn__index_alloc(self, sizeof(dyn__chunk), 64);
    if (pool->scrap_left < sizeof(dyn__chunk)) {
        size_t pages = DYN__POOL_PAGES;
        while (pages > 0 && pool->warm[pages] == NULL) pages--;
        if (pages == 0) pages = CHUNKS / PAGE;
        char *scrap = take(self, pages * PAGE);
        if (scrap == NULL) return NULL;
        pool->scrap = scrap;
        pool->scrap_left = pages * PAGE;
    }
    dyn__chunk *new = (dyn__chunk *)pool->scrap;
    pool->scrap += sizeof(*new);
    pool->scrap_left -= sizeof(*new);
    return new;
}

void dyn__chunk_free(dyn_index *self, dyn__chunk *chunk)
{
    if (!pooled(self, PAGE)) dyn__index_free(self, chunk, sizeof(*chunk)); /* else it is part of an arena */
}

void dyn__pool_free(dyn_index *self)
{
    DYN__SUB(self->bytes, self->pool.counted);
    for (struct dyn__arena *arena = self->pool.arenas, *next; arena != NULL; arena = next) {
        next = arena->next;
        ASAN_UNPOISON_MEMORY_REGION(arena->memory, arena->size);
        dyn__pages_free(arena->memory, arena->size);
        dyn__free(arena);
    }
}

void *dyn__index_alloc(dyn_index *self, size_t size, size_t alignment)
{
    if (pooled(self, size)) return take(self, size);
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
    if (pooled(self, size)) {
        give(self, memory, size);
        return;
    }
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
    if (now->count >= 256 || DYN__GET(self->limbo_bytes) >= 32768) dyn__advance(self);
}

void dyn__limbo_flush(dyn_index *self)
{
    empty(self, &self->limbo[0]);
    empty(self, &self->limbo[1]);
}
