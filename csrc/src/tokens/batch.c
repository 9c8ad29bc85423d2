/* batch.c -- see dynamo/tokens.h for the contract.
 *
 *   memory | ids: room x u32 | positions: room x u32 | logprobs: room x f32 |     room is a multiple of 16
 *
 * I1  count <= room.     I2  room == 0 exactly when memory == NULL.
 */
#include <math.h>

#include "common/common.h"
#include "dynamo/tokens.h"

struct dyn_token_batch {
    size_t count, room;
    uint32_t *memory;
};

static int grow(dyn_token_batch *self, size_t least)
{
    size_t room = self->room ? self->room : 16;
    while (room < least) room *= 2;
    uint32_t *memory = dyn__aligned(64, room * 3 * sizeof(*memory));
    if (memory == NULL) return DYN_ENOMEM;
    for (size_t column = 0; column < 3 && self->count > 0; column++)
        memcpy(memory + column * room, self->memory + column * self->room, self->count * sizeof(*memory));
    dyn__free(self->memory);
    self->memory = memory;
    self->room = room;
    return DYN_OK;
}

int dyn_token_batch_new(dyn_token_batch **out, size_t reserve)
{
    if (reserve > DYN_TOKEN_BATCH_MAX)
        return dyn__fail(DYN_ERANGE, "%zu tokens: a batch holds at most %d", reserve, DYN_TOKEN_BATCH_MAX);
    dyn_token_batch *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    if (reserve > 0 && grow(self, reserve) < 0) return dyn_token_batch_free(self), DYN_ENOMEM;
    *out = self;
    return DYN_OK;
}

void dyn_token_batch_free(dyn_token_batch *self)
{
    if (self == NULL) return;
    dyn__free(self->memory);
    dyn__free(self);
}

int dyn_token_batch_append(dyn_token_batch *self, const uint32_t *ids, const uint32_t *positions, const float *logprobs,
                           size_t count)
{
    int rc;
    if (count == 0) return DYN_OK;
    if (count > DYN_TOKEN_BATCH_MAX - self->count)
        return dyn__fail(DYN_ERANGE, "%zu tokens more: a batch holds at most %d", count, DYN_TOKEN_BATCH_MAX);
    if (self->count + count > self->room && (rc = grow(self, self->count + count)) < 0) return rc;
    uint32_t *id = self->memory + self->count, *position = id + self->room;
    float *logprob = (float *)(position + self->room);
    memcpy(id, ids, count * sizeof(*ids));
    if (positions != NULL) {
        memcpy(position, positions, count * sizeof(*positions));
    } else {
        uint32_t next = self->count > 0 ? position[-1] + 1 : 0;
        for (size_t i = 0; i < count; i++) position[i] = next + (uint32_t)i;
    }
    if (logprobs != NULL) {
        memcpy(logprob, logprobs, count * sizeof(*logprobs));
    } else {
        for (size_t i = 0; i < count; i++) logprob[i] = NAN;
    }
    self->count += count;
    return DYN_OK;
}

void dyn_token_batch_clear(dyn_token_batch *self)
{
    self->count = 0;
}

size_t dyn_token_batch_count(const dyn_token_batch *self)
{
    return self->count;
}

size_t dyn_token_batch_bytes(const dyn_token_batch *self)
{
    return sizeof(*self) + self->room * 3 * sizeof(*self->memory);
}

const uint32_t *dyn_token_batch_ids(const dyn_token_batch *self)
{
    return self->memory;
}

const uint32_t *dyn_token_batch_positions(const dyn_token_batch *self)
{
    return self->memory == NULL ? NULL : self->memory + self->room;
}

const float *dyn_token_batch_logprobs(const dyn_token_batch *self)
{
    return self->memory == NULL ? NULL : (const float *)(self->memory + 2 * self->room);
}
