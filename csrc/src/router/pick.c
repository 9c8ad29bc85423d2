/* pick.c -- the line that picks the worker is in dyn__router_place(): choose, between score and book. */
#include "router/router.h"

static bool must_wait(const dyn_router *self, const dyn_router_request *request, uint32_t count)
{
    if (!request->book || request->ready == NULL || request->ignore_busy || self->config.queue_threshold < 0)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const struct slot *slot = &self->slots[self->eligible[i]];
        if ((double)slot->tokens <= self->config.queue_threshold * (double)slot->batch) return false;
    }
    return true;
}

int dyn__router_place(dyn_router *self, const dyn_router_request *request, uint64_t now, uint32_t *entry,
                      dyn_router_choice *choice)
{
    bool all_busy;
    int rc;
    uint32_t count = dyn__router_prepare(self, request, now, &all_busy);

    if (count == 0) {
        if (all_busy)
            return dyn__fail(DYN_EOVERLOAD, "every worker that may serve this request is over a busy threshold");
        if (self->slot_count == 0)
            return dyn__fail(DYN_EUNAVAIL, "no worker is there: start one, or wait until it has registered");
        return dyn__fail(DYN_EUNAVAIL,
                         "none of the %u workers may serve this request: look at its pinned worker, allowed ids, "
                         "ranks and required taints",
                         self->slot_count);
    }
    if (must_wait(self, request, count)) return DYN_EAGAIN;

    dyn__router_score(self, request, self->eligible, count);
    uint32_t chosen = dyn__router_choose(self, request, self->eligible, count); /* here the worker is picked */

    if (entry != NULL) {
        rc = dyn__router_book(self, *entry, chosen, request, self->scores[chosen].overlap, now);
        if (rc < 0) return rc;
        self->cursor = chosen + 1;
    }
    *choice = (dyn_router_choice){
        .worker = self->slots[chosen].worker,
        .rank = self->slots[chosen].rank,
        .overlap_blocks = self->scores[chosen].overlap,
        .required_blocks = (uint32_t)((request->tokens + self->config.block_size - 1) / self->config.block_size),
        .eligible = count,
        .cost = self->scores[chosen].cost,
        .ticket = entry != NULL ? dyn__router_ticket_of(self, *entry) : 0,
    };
    return DYN_OK;
}

static int valid(const dyn_router *self, const dyn_router_request *request)
{
    const dyn_router_override *o = &request->override;
    if (request->blocks > request->tokens / self->config.block_size)
        return dyn__fail(DYN_EINVAL, "%zu blocks of %u tokens in a prompt of %llu: hashes of another block size?",
                         request->blocks, self->config.block_size, (unsigned long long)request->tokens);
    if (self->config.policy == DYN_ROUTER_DIRECT && !request->pinned)
        return dyn__fail(DYN_EINVAL, "the direct mode needs a worker id in the request");
    if (((o->set & DYN_ROUTER_SET_WEIGHT) && !(o->overlap_score_weight >= 0)) ||
        ((o->set & DYN_ROUTER_SET_CREDIT) && !(o->overlap_score_credit >= 0)) ||
        ((o->set & DYN_ROUTER_SET_PREFILL_SCALE) && !(o->prefill_load_scale >= 0)) ||
        ((o->set & DYN_ROUTER_SET_TEMPERATURE) && !(o->temperature >= 0)) ||
        ((o->set & DYN_ROUTER_SET_SHARED) && !(o->shared_cache_multiplier >= 0)))
        return dyn__fail(DYN_EINVAL, "an override is negative or not a number: weights and temperature are 0 or more");
    return DYN_OK;
}

/* Rows of what prepare() and score() left in scores[]: the loads before the booking. */
static size_t tell(const dyn_router *self, dyn_router_reason *rows, size_t room, uint64_t chosen_worker,
                   uint32_t chosen_rank, bool chosen)
{
    size_t count = 0;
    for (uint32_t i = 0; i < self->slot_used && count < room; i++) {
        const struct slot *slot = &self->slots[i];
        const struct score *score = &self->scores[i];
        if (!slot->alive) continue;
        bool this_one = chosen && slot->worker == chosen_worker && slot->rank == chosen_rank;
        rows[count++] = (dyn_router_reason){
            .worker = slot->worker,
            .rank = slot->rank,
            .verdict = (enum dyn_router_verdict)score->verdict,
            .chosen = this_one,
            .overlap_blocks = score->overlap,
            .active_requests = score->requests,
            .prefill_tokens = score->prefill_tokens,
            .prefill_blocks = score->prefill_blocks,
            .decode_blocks = score->decode_blocks,
            .cost = score->cost,
        };
    }
    return count;
}

int dyn_router_pick(dyn_router *self, const dyn_router_request *request, dyn_router_choice *choice,
                    dyn_router_reason *reasons, size_t room, size_t *count)
{
    struct waiter *ready = NULL;
    uint32_t entry = NONE;
    int rc;

    *choice = (dyn_router_choice){0};
    if (count != NULL) *count = 0;
    pthread_mutex_lock(&self->lock);
    uint64_t now = dyn__router_now(self);
    if (dyn__router_expire_now(self, now) > 0) ready = dyn__router_drain(self, now);
    if ((rc = valid(self, request)) < 0) goto done;
    if (request->book && (rc = dyn__router_entry_new(self, request->name, request->name_length, &entry)) < 0) goto done;
    rc = dyn__router_place(self, request, now, request->book ? &entry : NULL, choice);
    if (rc == DYN_EAGAIN && (rc = dyn__router_wait(self, request, entry, now)) == DYN_OK) {
        choice->ticket = dyn__router_ticket_of(self, entry);
        rc = DYN_EAGAIN;
        goto done;
    }
    if (rc == DYN_EOVERLOAD) self->refused++;
    if (rc < 0 && entry != NONE) dyn__router_entry_drop(self, entry);
    if (rc == DYN_OK && reasons != NULL && count != NULL)
        *count = tell(self, reasons, room, choice->worker, choice->rank, true);
done:
    pthread_mutex_unlock(&self->lock);
    dyn__router_finish(ready);
    return rc;
}

int dyn_router_explain(dyn_router *self, const dyn_router_request *request, dyn_router_reason *reasons, size_t room,
                       size_t *count)
{
    bool all_busy;
    int rc;

    *count = 0;
    pthread_mutex_lock(&self->lock);
    if ((rc = valid(self, request)) == DYN_OK) {
        dyn__router_prepare(self, request, dyn__router_now(self), &all_busy);
        uint32_t all = 0;
        for (uint32_t i = 0; i < self->slot_used; i++)
            if (self->slots[i].alive) self->eligible[all++] = i;
        if (all > 0) dyn__router_score(self, request, self->eligible, all);
        *count = tell(self, reasons, room, 0, 0, false);
    }
    pthread_mutex_unlock(&self->lock);
    return rc;
}
