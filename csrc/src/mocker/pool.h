/* mocker/pool.h -- the blocks of a simulated cache.
 *
 *   hash -> slot (open addressing)         slot: { hash, references, LRU links }
 *   free list --take--> anonymous block --name(hash)--> active --last reference--> inactive LRU --evict--> free
 *
 * I1  free + anonymous + active + inactive == blocks.
 * I2  a named block is in the map exactly once; an anonymous one never.
 * I3  a block is on the LRU list exactly when it is named and has no reference.
 */
#ifndef DYN_SRC_MOCKER_POOL_H
#define DYN_SRC_MOCKER_POOL_H

#include "common/common.h"

#define DYN__NO_BLOCK UINT32_MAX

struct dyn__block {
    uint64_t hash;
    uint32_t refs;
    uint32_t newer, older; /* LRU links; `older` links the free list too */
    bool named;
};

typedef struct dyn__pool {
    struct dyn__block *blocks;
    uint32_t *map; /* block numbers, DYN__NO_BLOCK where empty */
    size_t map_mask;
    uint32_t count, free_head, oldest, newest;
    uint32_t free_count, inactive_count;
    uint64_t evicted;
    void *user;
    void (*on_evict)(void *user, uint64_t hash);
} dyn__pool;

int dyn__pool_init(dyn__pool *self, size_t blocks);
void dyn__pool_fini(dyn__pool *self);
uint32_t dyn__pool_find(const dyn__pool *self, uint64_t hash); /* DYN__NO_BLOCK when absent */
void dyn__pool_ref(dyn__pool *self, uint32_t block);
void dyn__pool_unref(dyn__pool *self, uint32_t block); /* the last one: to the LRU, or free when anonymous */
uint32_t dyn__pool_take(dyn__pool *self);              /* anonymous, one reference; evicts; DYN__NO_BLOCK: all in use */
/* Give an anonymous block its name. Another block has it already: ours is given back and that one referenced. */
uint32_t dyn__pool_name(dyn__pool *self, uint32_t block, uint64_t hash, bool *is_new);
void dyn__pool_clear(dyn__pool *self); /* evict all that is inactive */
static inline uint32_t dyn__pool_available(const dyn__pool *self)
{
    return self->free_count + self->inactive_count;
}
size_t dyn__pool_bytes(const dyn__pool *self);
void dyn__pool_check(const dyn__pool *self); /* asserts I1..I3 */

#endif
