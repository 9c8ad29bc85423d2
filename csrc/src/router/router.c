/* router.c -- making, configuring and freeing a router. See dynamo/router.h for the contract. */
#include "router/router.h"

#include <math.h>

void dyn_router_config_init(dyn_router_config *config, uint32_t block_size)
{
    *config = (dyn_router_config){
        .block_size = block_size,
        .overlap_score_weight = 1,
        .overlap_score_credit = 1,
        .prefill_load_scale = 1,
        .host_cache_hit_weight = 0.75,
        .disk_cache_hit_weight = 0.25,
        .track_active_blocks = true,
        .track_prefill_tokens = true,
        .assume_kv_reuse = true,
        .expiry_seconds = 300,
        .queue_threshold = -1,
        .busy_decode_blocks = -1,
        .busy_prefill_tokens = -1,
        .busy_prefill_fraction = -1,
        .report_seconds = 60,
        .silent_seconds = 60,
        .max_requests = 100000,
        .max_bytes = (size_t)1 << 30,
    };
}

static int valid(const dyn_router_config *c)
{
    const struct {
        const char *name;
        double value;
    } positive[] = {
        {"overlap_score_weight", c->overlap_score_weight},
        {"overlap_score_credit", c->overlap_score_credit},
        {"overlap_score_credit_decay", c->overlap_score_credit_decay},
        {"prefill_load_scale", c->prefill_load_scale},
        {"decode_active_request_weight", c->decode_active_request_weight},
        {"host_cache_hit_weight", c->host_cache_hit_weight},
        {"disk_cache_hit_weight", c->disk_cache_hit_weight},
        {"shared_cache_multiplier", c->shared_cache_multiplier},
        {"temperature", c->temperature},
        {"expiry_seconds", c->expiry_seconds},
        {"report_seconds", c->report_seconds},
        {"silent_seconds", c->silent_seconds},
    };
    for (size_t i = 0; i < DYN__COUNT(positive); i++)
        if (!(positive[i].value >= 0 && positive[i].value <= 1e9)) /* not a number fails too */
            return dyn__fail(DYN_EINVAL, "%s is %g: must be 0 or more", positive[i].name, positive[i].value);
    if (c->block_size == 0) return dyn__fail(DYN_EINVAL, "block size 0: must be 1 or more");
    if (isnan(c->queue_threshold) || isnan(c->busy_decode_blocks) || isnan(c->busy_prefill_tokens) ||
        isnan(c->busy_prefill_fraction))
        return dyn__fail(DYN_EINVAL, "a threshold is not a number");
    if ((unsigned)c->policy > DYN_ROUTER_DIRECT || (unsigned)c->formula > DYN_ROUTER_COST_CUSTOM ||
        (unsigned)c->tie > DYN_ROUTER_TIE_SMALLEST_TREE || (unsigned)c->queue_policy > DYN_ROUTER_WSPT)
        return dyn__fail(DYN_EINVAL, "an unknown policy, formula, tie or queue policy");
    if (c->formula == DYN_ROUTER_COST_CUSTOM && c->cost == NULL)
        return dyn__fail(DYN_EINVAL, "a custom formula without its function");
    return DYN_OK;
}

/* ---- memory, counted (I4) -------------------------------------------------------------------------------------- */
static int room_for(dyn_router *self, size_t bytes)
{
    if (self->config.max_bytes == 0 || self->bytes + bytes <= self->config.max_bytes) return DYN_OK;
    return dyn__fail(DYN_EOVERLOAD, "%zu bytes are in use: max_bytes %zu is reached", self->bytes,
                     self->config.max_bytes);
}

void *dyn__router_take(dyn_router *self, size_t bytes, int *rc)
{
    void *memory = NULL;
    if ((*rc = room_for(self, bytes)) < 0) return NULL;
    if ((memory = dyn__malloc(bytes)) == NULL)
        *rc = DYN_ENOMEM;
    else
        self->bytes += bytes;
    return memory;
}

void dyn__router_give(dyn_router *self, void *memory, size_t bytes)
{
    self->bytes -= memory != NULL ? bytes : 0;
    dyn__free(memory);
}

int dyn__router_grow(dyn_router *self, void *array, size_t item, size_t have, size_t want)
{
    void *old, *memory;
    int rc;
    memcpy(&old, array, sizeof(old));
    if ((rc = room_for(self, (want - have) * item)) < 0) return rc;
    if ((memory = dyn__realloc(old, want * item)) == NULL) return DYN_ENOMEM;
    self->bytes += (want - have) * item;
    memcpy(array, &memory, sizeof(memory));
    return DYN_OK;
}

uint64_t dyn__router_now(dyn_router *self)
{
    return self->config.clock != NULL ? self->config.clock(self->config.clock_user) : dyn_now_ns();
}

/* ---- life ------------------------------------------------------------------------------------------------------ */
static uint64_t split_mix(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

int dyn_router_new(dyn_router **out, const dyn_router_config *config)
{
    int rc = valid(config);
    if (rc < 0) return rc;
    dyn_router *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    pthread_mutex_init(&self->lock, NULL);
    atomic_init(&self->references, 1);
    self->config = *config;
    self->bytes = sizeof(*self);
    /* The secret of the tables comes from the clock even when the choices are seeded: hashes of outsiders meet it. */
    uint64_t secret = dyn_now_ns() ^ dyn_wall_ms() << 20 ^ (uint64_t)(uintptr_t)self;
    uint64_t seed = config->seed != 0 ? config->seed : secret;
    for (size_t i = 0; i < DYN__COUNT(self->random); i++) self->random[i] = split_mix(&seed);
    self->blocks.secret = split_mix(&secret) | 1;
    self->blocks.more_free = NONE;
    self->entry_free = self->oldest = self->newest = NONE;
    self->start_ns = dyn__router_now(self);
    *out = self;
    return DYN_OK;
}

dyn_router *dyn_router_ref(dyn_router *self)
{
    atomic_fetch_add_explicit(&self->references, 1, memory_order_relaxed);
    return self;
}

void dyn_router_unref(dyn_router *self)
{
    struct waiter *done = NULL;

    if (self == NULL || atomic_fetch_sub_explicit(&self->references, 1, memory_order_acq_rel) != 1) return;
    while (self->waiting > 0) {
        struct waiter *waiter = dyn__router_leave(self, self->heap[0]->entry, DYN_ESHUTDOWN);
        waiter->next = done;
        done = waiter;
    }
    dyn__router_free_requests(self);
    for (uint32_t i = 0; i < self->slot_used; i++)
        dyn__router_give(self, self->slots[i].taints, self->slots[i].taint_bytes);
    dyn__router_free_table(self);
    dyn__router_give(self, self->heap, self->heap_room * sizeof(*self->heap));
    assert(self->bytes == sizeof(*self)); /* I4 */
    pthread_mutex_destroy(&self->lock);
    dyn__free(self);
    dyn__router_finish(done);
}

int dyn_router_configure(dyn_router *self, const dyn_router_config *config)
{
    struct waiter *ready;
    int rc = valid(config);
    if (rc < 0) return rc;
    pthread_mutex_lock(&self->lock);
    dyn_router_config next = *config;
    next.block_size = self->config.block_size;
    next.clock = self->config.clock;
    next.clock_user = self->config.clock_user;
    next.seed = self->config.seed;
    self->config = next;
    ready = dyn__router_drain(self, dyn__router_now(self));
    pthread_mutex_unlock(&self->lock);
    dyn__router_finish(ready);
    return DYN_OK;
}

void dyn_router_get_config(dyn_router *self, dyn_router_config *out)
{
    pthread_mutex_lock(&self->lock);
    *out = self->config;
    pthread_mutex_unlock(&self->lock);
}

void dyn_router_get_stats(dyn_router *self, dyn_router_stats *out)
{
    pthread_mutex_lock(&self->lock);
    *out = (dyn_router_stats){
        .workers = self->slot_count,
        .booked = self->booked,
        .waiting = self->waiting,
        .blocks = self->blocks.pairs,
        .bytes = self->bytes,
        .picks = self->picks,
        .waits = self->waits,
        .expired = self->expired,
        .refused = self->refused,
    };
    pthread_mutex_unlock(&self->lock);
}
