/* wire/credits.c -- see dynamo/wire.h for the contract: how much a sender may send, counted on either side.
 *
 * I1  -MOST <= left <= MOST of a budget, so that no sum here overflows.
 * I2  paused exactly from the consume that left less than low until the grant that left more than high.
 */
#include "common/common.h"
#include "dynamo/wire.h"

#define MOST (INT64_C(1) << 62)

int dyn_quill_credits_init(dyn_quill_credits *self, uint64_t initial, uint64_t refill)
{
    if (refill == 0 || refill > initial)
        return dyn__fail(DYN_EINVAL, "a refill of %llu with %llu credits at first: 1 to as many",
                         (unsigned long long)refill, (unsigned long long)initial);
    *self = (dyn_quill_credits){.left = initial, .refill = refill};
    return DYN_OK;
}

bool dyn_quill_credits_take(dyn_quill_credits *self)
{
    if (self->left == 0) return false;
    self->left--;
    return true;
}

int dyn_quill_credits_grant(dyn_quill_credits *self, uint64_t messages)
{
    if (messages > UINT64_MAX - self->left)
        return dyn__fail(DYN_EPROTO, "a grant of %llu messages to one who has %llu", (unsigned long long)messages,
                         (unsigned long long)self->left);
    self->left += messages;
    return DYN_OK;
}

uint64_t dyn_quill_credits_consumed(dyn_quill_credits *self, uint64_t messages)
{
    self->consumed += messages > UINT64_MAX - self->consumed ? UINT64_MAX - self->consumed : messages;
    if (self->consumed < self->refill) return 0;
    uint64_t grant = self->consumed;
    if (grant > UINT64_MAX - self->left) grant = UINT64_MAX - self->left;
    self->consumed = 0;
    self->left += grant;
    return grant;
}

int dyn_quill_budget_init(dyn_quill_budget *self, uint64_t initial, uint64_t low, uint64_t high)
{
    if (low >= high)
        return dyn__fail(DYN_EINVAL, "low water %llu, high water %llu: low must be below high", (unsigned long long)low,
                         (unsigned long long)high);
    if (initial > MOST || high > MOST) return dyn__fail(DYN_EINVAL, "a budget above 2^62 bytes");
    *self = (dyn_quill_budget){.left = (int64_t)initial, .low = (int64_t)low, .high = (int64_t)high};
    return DYN_OK;
}

void dyn_quill_budget_preset(dyn_quill_budget *self, enum dyn_quill_preset preset)
{
    const int64_t kib = 1024;
    switch (preset) {
    case DYN_QUILL_SMALL: *self = (dyn_quill_budget){128 * kib, 64 * kib, 256 * kib, false}; break;
    case DYN_QUILL_LARGE: *self = (dyn_quill_budget){1024 * kib, 512 * kib, 2048 * kib, false}; break;
    default: *self = (dyn_quill_budget){256 * kib, 128 * kib, 512 * kib, false}; break;
    }
}

bool dyn_quill_budget_consume(dyn_quill_budget *self, uint64_t bytes)
{
    int64_t room = self->left + MOST; /* >= 0 by I1 */
    self->left = bytes > (uint64_t)room ? -MOST : self->left - (int64_t)bytes;
    if (self->left < self->low) self->paused = true;
    return self->paused;
}

bool dyn_quill_budget_grant(dyn_quill_budget *self, uint64_t bytes)
{
    uint64_t room = (uint64_t)MOST - (uint64_t)self->left; /* MOST - left, at most 2^63 */
    self->left = bytes > room ? MOST : (int64_t)((uint64_t)self->left + bytes);
    bool resumed = self->paused && self->left > self->high;
    if (resumed) self->paused = false;
    return resumed;
}

uint64_t dyn_quill_budget_suggest(const dyn_quill_budget *self)
{
    int64_t middle = self->low + (self->high - self->low) / 2;
    if (self->left >= self->high || self->left >= middle) return 0;
    return (uint64_t)middle - (uint64_t)self->left;
}
