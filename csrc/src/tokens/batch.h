/* tokens/batch.h -- inside csrc/src/tokens: the columns of a batch.
 *
 *   memory | ids: room x u32 | positions: room x u32 | logprobs: room x f32 | flags: room x u8 |
 *   ends   | room x u32 |     NULL while no token has a text
 *   text   | the texts, one after the other |
 *
 * room is a multiple of 64, so that every column begins on a cache line.
 *
 * I1  count <= room.     I2  room == 0 exactly when memory == NULL.
 * I3  without ends: text.size == 0 and no flags say HAS_TEXT.
 * I4  with ends: they ascend, the last is text.size, a token without HAS_TEXT has an empty piece.
 * I5  the text of a token is valid UTF-8.     I6  logprobs[i] is NaN where flags[i] does not say HAS_LOGPROB.
 */
#ifndef DYN_SRC_TOKENS_BATCH_H
#define DYN_SRC_TOKENS_BATCH_H

#include "common/common.h"
#include "dynamo/tokens.h"

struct dyn_token_batch {
    size_t count, room;
    uint32_t *memory, *ends;
    dyn_text text;
};

enum { DYN__BATCH_TEXT_MAX = INT32_MAX };

static inline uint32_t *dyn__batch_positions(const dyn_token_batch *self)
{
    return self->memory + self->room;
}
static inline float *dyn__batch_logprobs(const dyn_token_batch *self)
{
    return (float *)(self->memory + 2 * self->room);
}
static inline uint8_t *dyn__batch_flags(const dyn_token_batch *self)
{
    return (uint8_t *)(self->memory + 3 * self->room);
}

/* Room for `tokens` more and `text` more bytes of text; with_text: for texts at all. Nothing else changes. */
int dyn__batch_reserve(dyn_token_batch *self, size_t tokens, size_t text, bool with_text);
/* Append bytes to the text column, broken ones replaced. Room for 3 * size must be there. */
void dyn__batch_put_text(dyn_token_batch *self, const uint8_t *bytes, size_t size);

#endif
