/* cost.c -- who may serve a request, and what it would cost there. Lower is better.
 *
 * The formulas are those of Dynamo 0.8 (DYN_ROUTER_COST_WEIGHT) and 1.x (the other two); router.h has them in words,
 * tests/test_router.c computes them by hand.
 */
#include <math.h>

#include "router/router.h"

struct weights dyn__router_weights(const dyn_router_config *config, const dyn_router_override *override)
{
    struct weights w = {.weight = config->overlap_score_weight,
                        .credit = config->overlap_score_credit,
                        .prefill_scale = config->prefill_load_scale,
                        .temperature = config->temperature,
                        .shared = config->shared_cache_multiplier,
                        .reuse = config->assume_kv_reuse,
                        .track_prefill = config->track_prefill_tokens};
    if (override->set == 0) return w;
    if (override->set & DYN_ROUTER_SET_WEIGHT) {
        w.weight = w.prefill_scale = override->overlap_score_weight;
        if (override->overlap_score_weight == 0) w.credit = 0;
    }
    if (override->set & DYN_ROUTER_SET_CREDIT) w.credit = override->overlap_score_credit;
    if (override->set & DYN_ROUTER_SET_PREFILL_SCALE) w.prefill_scale = override->prefill_load_scale;
    if (override->set & DYN_ROUTER_SET_TEMPERATURE) w.temperature = override->temperature;
    if (override->set & DYN_ROUTER_SET_SHARED) w.shared = override->shared_cache_multiplier;
    if (override->set & DYN_ROUTER_SET_KV_REUSE) w.reuse = override->assume_kv_reuse;
    if (override->set & DYN_ROUTER_SET_TRACK_PREFILL) w.track_prefill = override->track_prefill_tokens;
    return w;
}

static bool allowed(const dyn_router_request *request, const struct slot *slot)
{
    if (request->pinned &&
        (slot->worker != request->worker || (request->rank != DYN_ROUTER_ANY_RANK && slot->rank != request->rank)))
        return false;
    if (request->rank_count > 0 &&
        (slot->rank < request->rank_start || slot->rank - request->rank_start >= request->rank_count))
        return false;
    if (!request->only_allowed) return true;
    for (size_t i = 0; i < request->allowed_count; i++)
        if (request->allowed[i] == slot->worker) return true;
    return false;
}

static bool has_taint(const struct slot *slot, const char *taint)
{
    for (size_t i = 0; i < slot->taint_count; i++)
        if (strcmp(slot->taints[i], taint) == 0) return true;
    return false;
}

static bool tainted(const dyn_router_request *request, const struct slot *slot)
{
    for (size_t i = 0; i < request->required_taint_count; i++)
        if (!has_taint(slot, request->required_taints[i])) return true;
    return false;
}

uint32_t dyn__router_prepare(dyn_router *self, const dyn_router_request *request, uint64_t now, bool *all_busy)
{
    const dyn_router_overlap *overlap = &request->overlap;
    /* Without a credit the originals do not ask the index: nothing counts as cached, in loads neither. */
    const bool credited = dyn__router_weights(&self->config, &request->override).credit > 0;
    uint32_t count = 0, busy = 0, avoided = 0;

    if (self->slot_used > 0) memset(self->scores, 0, self->slot_used * sizeof(*self->scores));
    for (size_t i = 0; i < overlap->count; i++) {
        const dyn_router_held *row = &overlap->rows[i];
        uint32_t at = dyn__router_slot(self, row->worker, row->rank);
        if (at == NONE) continue; /* the index still knows a worker that has left */
        struct score *score = &self->scores[at];
        if (credited) score->overlap = row->blocks < request->blocks ? row->blocks : (uint32_t)request->blocks;
        score->tree = row->tree;
        if (overlap->host) score->host = overlap->host[i];
        if (overlap->disk) score->disk = overlap->disk[i];
    }
    for (uint32_t i = 0; i < self->slot_used; i++) {
        const struct slot *slot = &self->slots[i];
        struct score *score = &self->scores[i];
        if (!slot->alive) continue;
        score->requests = slot->requests;
        if (!allowed(request, slot)) {
            score->verdict = DYN_ROUTER_NOT_ALLOWED;
        } else if (request->required_taint_count > 0 && tainted(request, slot)) {
            score->verdict = DYN_ROUTER_TAINTED;
        } else if (!request->ignore_busy && dyn__router_busy(self, slot, now)) {
            score->verdict = DYN_ROUTER_BUSY;
            busy++;
        } else if (slot->avoid_ns > now) {
            score->verdict = DYN_ROUTER_AVOIDED;
            avoided++;
        } else {
            self->eligible[count++] = i;
        }
    }
    if (count == 0 && avoided > 0)
        for (uint32_t i = 0; i < self->slot_used; i++)
            if (self->slots[i].alive && self->scores[i].verdict == DYN_ROUTER_AVOIDED) {
                self->scores[i].verdict = DYN_ROUTER_ELIGIBLE;
                self->eligible[count++] = i;
            }
    *all_busy = count == 0 && busy > 0;
    return count;
}

static double preference(const dyn_router_request *request, const struct slot *slot)
{
    double sum = 0;
    for (size_t i = 0; i < request->preferred_taint_count; i++)
        if (has_taint(slot, request->preferred_taints[i])) sum += request->preferred_weights[i];
    return exp(-tanh(sum));
}

static double custom(const dyn_router_config *config, const dyn_router_request *request, const struct slot *slot,
                     const struct score *score, double decode)
{
    const dyn_router_cost_input input = {
        .size = sizeof(input),
        .block_size = config->block_size,
        .worker = slot->worker,
        .rank = slot->rank,
        .overlap_blocks = score->overlap,
        .host_blocks = score->host,
        .disk_blocks = score->disk,
        .tokens = request->tokens,
        .blocks = request->blocks,
        .waiting_tokens = slot->tokens,
        .prefill_tokens = score->prefill_tokens,
        .decode_blocks = decode,
        .requests = slot->requests,
        .total_kv_blocks = slot->total_blocks,
        .weight = slot->weight,
    };
    double cost = config->cost(config->cost_user, &input);
    return isfinite(cost) ? cost : 1e300; /* infinities would make differences that are no numbers */
}

void dyn__router_score(dyn_router *self, const dyn_router_request *request, const uint32_t *slots, uint32_t count)
{
    const dyn_router_config *config = &self->config;
    const struct weights w = dyn__router_weights(config, &request->override);
    const double size = config->block_size;
    const double asked = request->tokens > 0 ? (double)((request->tokens - 1) / config->block_size + 1) : 1;
    const bool shared_names = w.reuse && request->sequence != NULL;
    uint64_t least = UINT64_MAX;

    if (config->track_active_blocks && shared_names) dyn__router_blocks_held(self, request->sequence, request->blocks);
    for (uint32_t i = 0; i < count; i++)
        if (self->slots[slots[i]].tokens < least) least = self->slots[slots[i]].tokens;

    for (uint32_t i = 0; i < count; i++) {
        const struct slot *slot = &self->slots[slots[i]];
        struct score *score = &self->scores[slots[i]];
        uint64_t cached = (uint64_t)score->overlap * config->block_size;
        double prefill, decode = 0;

        /* What the worker would hold. */
        score->prefill_tokens =
            w.track_prefill ? slot->tokens + (request->tokens > cached ? request->tokens - cached : 0) : 0;
        if (config->track_active_blocks)
            decode = (double)slot->named_blocks + slot->own_blocks + (double)request->blocks - (double)score->held;

        if (config->formula == DYN_ROUTER_COST_CUSTOM) {
            prefill = (double)score->prefill_tokens / size;
            score->cost = custom(config, request, slot, score, decode);
        } else if (config->formula == DYN_ROUTER_COST_WEIGHT) {
            prefill = (double)score->prefill_tokens / size;
            score->cost = w.weight * prefill + decode;
        } else {
            double raw = w.track_prefill ? (double)(slot->tokens + request->tokens) / size : 0;
            double decay = 1;
            if (config->overlap_score_credit_decay > 0) {
                double ahead = (double)(slot->tokens - least) / size / asked;
                decay = 1 / (1 + config->overlap_score_credit_decay * ahead);
            }
            uint32_t beyond = request->overlap.shared > score->overlap ? request->overlap.shared - score->overlap : 0;
            double credit = w.credit * decay * score->overlap + config->host_cache_hit_weight * score->host +
                            config->disk_cache_hit_weight * score->disk + w.shared * beyond;
            double running = config->decode_active_request_weight * slot->requests;

            prefill = fmax(0, raw - credit);
            if (config->formula == DYN_ROUTER_COST_PRODUCT)
                score->cost = prefill * (decode + 1);
            else if (!w.track_prefill && credit > 0)
                score->cost = fmax(0, decode - credit) + running;
            else
                score->cost = w.prefill_scale * prefill + decode + running;
        }
        if (request->preferred_taint_count > 0) score->cost *= preference(request, slot);
        score->prefill_blocks = prefill;
        score->decode_blocks = decode;
    }
}
