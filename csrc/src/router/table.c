/* table.c -- the workers: (worker, rank) -> slot, their limits, what they report, what can be seen of them. */
#include "router/router.h"

/* ---- places: open addressing, room a power of two, at most half full ---------------------------------------------- */
static uint32_t home(const dyn_router *self, uint64_t worker, uint32_t rank)
{
    return (uint32_t)(((worker ^ (uint64_t)rank << 40 ^ rank) * self->blocks.secret) >> 33) & (self->place_room - 1);
}

static void link_place(dyn_router *self, uint64_t worker, uint32_t rank, uint32_t slot)
{
    uint32_t i = home(self, worker, rank);
    while (self->places[i].slot != NONE) i = (i + 1) & (self->place_room - 1);
    self->places[i] = (struct place){worker, rank, slot};
}

/* Slots come and go rarely: relink all rather than mend a hole. */
static void relink(dyn_router *self)
{
    for (uint32_t i = 0; i < self->place_room; i++) self->places[i].slot = NONE;
    for (uint32_t i = 0; i < self->slot_used; i++)
        if (self->slots[i].alive) link_place(self, self->slots[i].worker, self->slots[i].rank, i);
}

uint32_t dyn__router_slot(const dyn_router *self, uint64_t worker, uint32_t rank)
{
    if (self->place_room == 0) return NONE;
    for (uint32_t i = home(self, worker, rank);; i = (i + 1) & (self->place_room - 1)) {
        const struct place *place = &self->places[i];
        if (place->slot == NONE || (place->worker == worker && place->rank == rank)) return place->slot;
    }
}

static int grow(dyn_router *self)
{
    uint32_t have = self->slot_room, want = have ? have * 2 : 8;
    struct place *places;
    int rc;

    /* Each array that grew may stay larger when a later one fails: only slot_room says what may be used. */
    if (want > NONE / 8) return dyn__fail(DYN_ELIMIT, "more than %u workers", have);
    struct slot *slots = dyn__router_take(self, want * sizeof(*slots), &rc);
    struct score *scores = slots ? dyn__router_take(self, want * sizeof(*scores), &rc) : NULL;
    uint32_t *eligible = scores ? dyn__router_take(self, want * sizeof(*eligible), &rc) : NULL;
    places = eligible ? dyn__router_take(self, want * 2 * sizeof(*places), &rc) : NULL;
    if (places == NULL) {
        dyn__router_give(self, slots, slots ? want * sizeof(*slots) : 0);
        dyn__router_give(self, scores, scores ? want * sizeof(*scores) : 0);
        dyn__router_give(self, eligible, eligible ? want * sizeof(*eligible) : 0);
        return rc;
    }
    if (have > 0) memcpy(slots, self->slots, have * sizeof(*slots));
    dyn__router_free_table(self);
    self->slots = slots;
    self->scores = scores;
    self->eligible = eligible;
    self->places = places;
    self->slot_room = want;
    self->place_room = want * 2;
    relink(self);
    return DYN_OK;
}

/* The arrays, not what slots own. */
void dyn__router_free_table(dyn_router *self)
{
    dyn__router_give(self, self->slots, self->slot_room * sizeof(*self->slots));
    dyn__router_give(self, self->scores, self->slot_room * sizeof(*self->scores));
    dyn__router_give(self, self->eligible, self->slot_room * sizeof(*self->eligible));
    dyn__router_give(self, self->places, self->place_room * sizeof(*self->places));
}

static int copy_taints(dyn_router *self, const char *const *taints, size_t count, char ***out, size_t *bytes)
{
    size_t size = count * sizeof(char *);
    int rc;

    *out = NULL;
    *bytes = 0;
    if (count == 0) return DYN_OK;
    for (size_t i = 0; i < count; i++) size += strlen(taints[i]) + 1;
    char **copy = dyn__router_take(self, size, &rc);
    if (copy == NULL) return rc;
    char *text = (char *)(copy + count);
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(taints[i]) + 1;
        copy[i] = memcpy(text, taints[i], length);
        text += length;
    }
    *out = copy;
    *bytes = size;
    return DYN_OK;
}

static struct early *find_early(dyn_router *self, uint64_t worker, uint32_t rank)
{
    for (uint32_t i = 0; i < EARLY; i++) {
        struct early *each = &self->early[i];
        if (each->heard_ns != 0 && each->worker == worker && each->rank == rank) return each;
    }
    return NULL;
}

int dyn_router_put_worker(dyn_router *self, const dyn_router_worker *worker)
{
    struct waiter *ready = NULL;
    char **taints;
    size_t taint_bytes;
    uint32_t at;
    int rc;

    if (worker->rank == DYN_ROUTER_ANY_RANK)
        return dyn__fail(DYN_EINVAL, "rank %u means any rank: give one", worker->rank);
    if (!(worker->weight >= 0)) return dyn__fail(DYN_EINVAL, "weight %g: must be positive, or 0 for 1", worker->weight);
    pthread_mutex_lock(&self->lock);
    if ((rc = copy_taints(self, worker->taints, worker->taint_count, &taints, &taint_bytes)) < 0) goto done;
    at = dyn__router_slot(self, worker->worker, worker->rank);
    if (at == NONE) {
        for (at = 0; at < self->slot_used && self->slots[at].alive; at++) continue;
        if (at == self->slot_room && (rc = grow(self)) < 0) {
            dyn__router_give(self, taints, taint_bytes);
            goto done;
        }
        self->slots[at] = (struct slot){.worker = worker->worker, .rank = worker->rank, .alive = true};
        struct early *early = find_early(self, worker->worker, worker->rank);
        if (early != NULL) {
            self->slots[at].heard_ns = early->heard_ns;
            early->heard_ns = 0;
        }
        if (at == self->slot_used) self->slot_used++;
        self->slot_count++;
        link_place(self, worker->worker, worker->rank, at);
    }
    struct slot *slot = &self->slots[at];
    dyn__router_give(self, slot->taints, slot->taint_bytes);
    slot->type = worker->type;
    slot->weight = worker->weight > 0 ? worker->weight : 1;
    slot->total_blocks = worker->total_kv_blocks;
    slot->batch = worker->max_num_batched_tokens ? worker->max_num_batched_tokens : DEFAULT_BATCH;
    slot->taints = taints;
    slot->taint_count = worker->taint_count;
    slot->taint_bytes = taint_bytes;
    ready = dyn__router_drain(self, dyn__router_now(self));
done:
    pthread_mutex_unlock(&self->lock);
    dyn__router_finish(ready);
    return rc;
}

int dyn_router_remove_worker(dyn_router *self, uint64_t worker, uint32_t rank)
{
    struct waiter *ready = NULL;
    uint32_t removed = 0;

    pthread_mutex_lock(&self->lock);
    for (uint32_t i = 0; i < self->slot_used; i++) {
        struct slot *slot = &self->slots[i];
        if (!slot->alive || slot->worker != worker || (rank != DYN_ROUTER_ANY_RANK && slot->rank != rank)) continue;
        dyn__router_orphan(self, i);
        dyn__router_give(self, slot->taints, slot->taint_bytes);
        *slot = (struct slot){0};
        removed++;
    }
    if (removed > 0) {
        self->slot_count -= removed;
        while (self->slot_used > 0 && !self->slots[self->slot_used - 1].alive) self->slot_used--;
        relink(self);
        ready = dyn__router_drain(self, dyn__router_now(self));
    }
    pthread_mutex_unlock(&self->lock);
    dyn__router_finish(ready);
    if (removed == 0) return dyn__fail(DYN_ENOENT, "worker %llu is not in the table", (unsigned long long)worker);
    return DYN_OK;
}

int dyn_router_report(dyn_router *self, uint64_t worker, uint32_t rank, uint64_t active_decode_blocks,
                      uint64_t active_prefill_tokens, uint64_t kv_used_blocks)
{
    pthread_mutex_lock(&self->lock);
    uint32_t at = dyn__router_slot(self, worker, rank);
    if (at != NONE) {
        struct slot *slot = &self->slots[at];
        slot->reported_ns = dyn__router_now(self) | 1;
        slot->reported_blocks = active_decode_blocks;
        slot->reported_tokens = active_prefill_tokens;
        slot->reported_used = kv_used_blocks;
    }
    pthread_mutex_unlock(&self->lock);
    if (at == NONE)
        return dyn__fail(DYN_ENOENT, "worker %llu rank %u is not in the table", (unsigned long long)worker, rank);
    return DYN_OK;
}

int dyn_router_avoid(dyn_router *self, uint64_t worker, uint32_t rank, double for_seconds)
{
    uint32_t found = 0;
    if (!(for_seconds >= 0 && for_seconds <= 1e6))
        return dyn__fail(DYN_EINVAL, "avoid a worker for %g seconds: must be 0 to 1e6", for_seconds);
    pthread_mutex_lock(&self->lock);
    uint64_t until = for_seconds > 0 ? dyn__router_now(self) + (uint64_t)(for_seconds * 1e9) : 0;
    for (uint32_t i = 0; i < self->slot_used; i++) {
        struct slot *slot = &self->slots[i];
        if (!slot->alive || slot->worker != worker || (rank != DYN_ROUTER_ANY_RANK && slot->rank != rank)) continue;
        slot->avoid_ns = until;
        found++;
    }
    pthread_mutex_unlock(&self->lock);
    if (found == 0) return dyn__fail(DYN_ENOENT, "worker %llu is not in the table", (unsigned long long)worker);
    return DYN_OK;
}

void dyn_router_heard(dyn_router *self, uint64_t worker, uint32_t rank)
{
    pthread_mutex_lock(&self->lock);
    uint32_t at = dyn__router_slot(self, worker, rank);
    uint64_t now = dyn__router_now(self) | 1;
    if (at != NONE) {
        self->slots[at].heard_ns = now;
        self->slots[at].unheard_ns = 0;
    } else {
        struct early *early = find_early(self, worker, rank);
        if (early == NULL) early = &self->early[self->early_next++ % EARLY];
        *early = (struct early){worker, now, rank};
    }
    pthread_mutex_unlock(&self->lock);
}

/* Stamps carry a set lowest bit, so that 0 can mean never: one of this very moment may lie 1 ns ahead. */
static double seconds(uint64_t then, uint64_t now)
{
    return now > then ? (double)(now - then) * 1e-9 : 0;
}

static bool fresh(const dyn_router *self, const struct slot *slot, uint64_t now)
{
    return slot->reported_ns != 0 && seconds(slot->reported_ns, now) <= self->config.report_seconds;
}

static double larger(double own, uint64_t reported, bool counts)
{
    return counts && reported != UINT64_MAX && (double)reported > own ? (double)reported : own;
}

bool dyn__router_busy(const dyn_router *self, const struct slot *slot, uint64_t now)
{
    const dyn_router_config *config = &self->config;
    if (config->busy_decode_blocks < 0 && config->busy_prefill_tokens < 0 && config->busy_prefill_fraction < 0)
        return false;
    bool counts = fresh(self, slot, now);
    double tokens = larger((double)slot->tokens, slot->reported_tokens, counts);
    double blocks = larger((double)slot->named_blocks + slot->own_blocks, slot->reported_blocks, counts);
    blocks = larger(blocks, slot->reported_used, counts);
    return (config->busy_decode_blocks >= 0 && slot->total_blocks > 0 &&
            blocks > config->busy_decode_blocks * (double)slot->total_blocks) ||
           (config->busy_prefill_tokens >= 0 && tokens > config->busy_prefill_tokens) ||
           (config->busy_prefill_fraction >= 0 && tokens > config->busy_prefill_fraction * (double)slot->batch);
}

size_t dyn_router_worker_count(dyn_router *self)
{
    pthread_mutex_lock(&self->lock);
    size_t count = self->slot_count;
    pthread_mutex_unlock(&self->lock);
    return count;
}

size_t dyn_router_loads(dyn_router *self, dyn_router_load *rows, size_t room)
{
    size_t count = 0;
    pthread_mutex_lock(&self->lock);
    uint64_t now = dyn__router_now(self);
    for (uint32_t i = 0; i < self->slot_used && count < room; i++) {
        const struct slot *slot = &self->slots[i];
        if (!slot->alive) continue;
        bool counts = fresh(self, slot, now);
        rows[count++] = (dyn_router_load){
            .worker = slot->worker,
            .rank = slot->rank,
            .type = slot->type,
            .total_kv_blocks = slot->total_blocks,
            .max_num_batched_tokens = slot->batch,
            .active_requests = slot->requests,
            .active_prefill_tokens = slot->tokens,
            .active_decode_blocks = (double)slot->named_blocks + slot->own_blocks,
            .picks = slot->picks,
            .reported_decode_blocks = counts ? slot->reported_blocks : UINT64_MAX,
            .reported_prefill_tokens = counts ? slot->reported_tokens : UINT64_MAX,
            .reported_kv_used_blocks = counts ? slot->reported_used : UINT64_MAX,
            .seconds_since_event = slot->heard_ns != 0 ? seconds(slot->heard_ns, now) : -1,
            .busy = dyn__router_busy(self, slot, now),
            .avoided = slot->avoid_ns > now,
            .silent = self->config.silent_seconds > 0 && slot->unheard_ns != 0 &&
                      seconds(slot->unheard_ns, now) > self->config.silent_seconds,
        };
    }
    count = self->slot_count;
    pthread_mutex_unlock(&self->lock);
    return count;
}
