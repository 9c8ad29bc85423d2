/* choose.c -- one of the eligible: by cost, or by one of the policies that need none. */
#include <math.h>

#include "router/router.h"

/* xoshiro256**: a few nanoseconds, and the same choices again from the same seed. */
static uint64_t rotate(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

static uint64_t next(dyn_router *self)
{
    uint64_t *s = self->random, result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

double dyn__router_uniform(dyn_router *self)
{
    return (double)(next(self) >> 11) * 0x1p-53;
}

uint32_t dyn__router_below(dyn_router *self, uint32_t bound)
{
    return (uint32_t)(((next(self) >> 32) * bound) >> 32);
}

/* The least of `key`, uniform among equals: the nth equal one replaces the chosen with probability 1/n. */
#define LEAST(self, slots, count, key)                                           \
    do {                                                                         \
        uint32_t best_ = slots[0], equals_ = 1;                                  \
        for (uint32_t i_ = 1; i_ < (count); i_++) {                              \
            uint32_t at = best_;                                                 \
            double held_ = (key);                                                \
            at = slots[i_];                                                      \
            double other_ = (key);                                               \
            if (other_ < held_)                                                  \
                best_ = at, equals_ = 1;                                         \
            else if (other_ == held_ && dyn__router_below(self, ++equals_) == 0) \
                best_ = at;                                                      \
        }                                                                        \
        return best_;                                                            \
    } while (0)

static uint32_t cheapest(dyn_router *self, const uint32_t *slots, uint32_t count)
{
    LEAST(self, slots, count, self->scores[at].cost);
}

static uint32_t least_loaded(dyn_router *self, const uint32_t *slots, uint32_t count)
{
    LEAST(self, slots, count, self->slots[at].requests / self->slots[at].weight);
}

static uint32_t smallest_tree(dyn_router *self, const uint32_t *slots, uint32_t count)
{
    uint32_t best = slots[0], equals = 1;
    for (uint32_t i = 1; i < count; i++) {
        const struct score *a = &self->scores[best], *b = &self->scores[slots[i]];
        if (b->cost < a->cost || (b->cost == a->cost && b->tree < a->tree)) {
            best = slots[i];
            equals = 1;
        } else if (b->cost == a->cost && b->tree == a->tree && dyn__router_below(self, ++equals) == 0) {
            best = slots[i];
        }
    }
    return best;
}

/* softmax(-(cost / (max - min)) / temperature); costs enter relative to the least, which changes no probability
 * and keeps exp() within (0, 1]. */
static uint32_t sampled(dyn_router *self, const uint32_t *slots, uint32_t count, double temperature)
{
    double least = INFINITY, most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        double cost = self->scores[slots[i]].cost;
        least = fmin(least, cost);
        most = fmax(most, cost);
    }
    if (!(most > least)) return slots[dyn__router_below(self, count)];
#define SHARE(i) exp(-((self->scores[slots[i]].cost - least) / (most - least)) / temperature)
    for (uint32_t i = 0; i < count; i++) sum += SHARE(i);
    double draw = dyn__router_uniform(self) * sum;
    for (uint32_t i = 0; i + 1 < count; i++)
        if ((draw -= SHARE(i)) < 0) return slots[i];
    return slots[count - 1];
#undef SHARE
}

static uint32_t after(dyn_router *self, const uint32_t *slots, uint32_t count)
{
    uint32_t chosen = slots[0]; /* slots come in ascending order */
    for (uint32_t i = 0; i < count; i++) {
        if (slots[i] < self->cursor) continue;
        chosen = slots[i];
        break;
    }
    return chosen;
}

static uint32_t two_choices(dyn_router *self, const uint32_t *slots, uint32_t count)
{
    if (count == 1) return slots[0];
    uint32_t first = dyn__router_below(self, count), second = dyn__router_below(self, count - 1);
    if (second >= first) second++;
    const uint32_t pair[2] = {slots[first], slots[second]};
    return least_loaded(self, pair, 2);
}

uint32_t dyn__router_choose(dyn_router *self, const dyn_router_request *request, const uint32_t *slots, uint32_t count)
{
    switch (self->config.policy) {
    case DYN_ROUTER_ROUND_ROBIN: return after(self, slots, count);
    case DYN_ROUTER_RANDOM: return slots[dyn__router_below(self, count)];
    case DYN_ROUTER_TWO_CHOICES: return two_choices(self, slots, count);
    case DYN_ROUTER_LEAST_LOADED: return least_loaded(self, slots, count);
    case DYN_ROUTER_DIRECT:
    case DYN_ROUTER_KV: break;
    }
    double temperature =
        request->override.set & DYN_ROUTER_SET_TEMPERATURE ? request->override.temperature : self->config.temperature;
    if (temperature > 0) return sampled(self, slots, count, temperature);
    if (self->config.tie == DYN_ROUTER_TIE_SMALLEST_TREE) return smallest_tree(self, slots, count);
    return cheapest(self, slots, count);
}
