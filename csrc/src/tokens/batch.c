/* batch.c -- see dynamo/tokens.h for the contract, batch.h for the picture and the invariants. */
#include "tokens/batch.h"

#include <math.h>

#include "tokens/utf8.h"

enum { ROOM_STEP = 64 };

static int grow(dyn_token_batch *self, size_t least)
{
    size_t room = self->room ? self->room : ROOM_STEP;
    while (room < least) room *= 2;
    uint32_t *ends = NULL, *memory = dyn__aligned(64, room * (3 * sizeof(*memory) + 1));
    if (memory == NULL) return DYN_ENOMEM;
    if (self->ends != NULL && (ends = dyn__malloc(room * sizeof(*ends))) == NULL) {
        dyn__free(memory);
        return DYN_ENOMEM;
    }
    if (self->count > 0) {
        for (size_t column = 0; column < 3; column++)
            memcpy(memory + column * room, self->memory + column * self->room, self->count * sizeof(*memory));
        memcpy(memory + 3 * room, dyn__batch_flags(self), self->count);
        if (ends != NULL) memcpy(ends, self->ends, self->count * sizeof(*ends));
    }
    dyn__free(self->memory);
    self->memory = memory;
    if (ends != NULL) {
        dyn__free(self->ends);
        self->ends = ends;
    }
    self->room = room;
    return DYN_OK;
}

int dyn__batch_reserve(dyn_token_batch *self, size_t tokens, size_t text, bool with_text)
{
    int rc;
    if (tokens > DYN_TOKEN_BATCH_MAX - self->count)
        return dyn__fail(DYN_ERANGE, "%zu tokens more: a batch holds at most %d", tokens, DYN_TOKEN_BATCH_MAX);
    if (text > DYN__BATCH_TEXT_MAX - self->text.size)
        return dyn__fail(DYN_ERANGE, "%zu bytes of text more: a batch holds at most %d", text, DYN__BATCH_TEXT_MAX);
    if (self->count + tokens > self->room && (rc = grow(self, self->count + tokens)) < 0) return rc;
    if (with_text && self->ends == NULL && self->room > 0) {
        if ((self->ends = dyn__malloc(self->room * sizeof(*self->ends))) == NULL) return DYN_ENOMEM;
        memset(self->ends, 0, self->count * sizeof(*self->ends));
    }
    return text > 0 ? dyn_text_reserve(&self->text, text) : DYN_OK;
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
    dyn_text_free(&self->text);
    dyn__free(self->ends);
    dyn__free(self->memory);
    dyn__free(self);
}

int dyn_token_batch_append(dyn_token_batch *self, const uint32_t *ids, const uint32_t *positions, const float *logprobs,
                           size_t count)
{
    if (count == 0) return DYN_OK;
    int rc = dyn__batch_reserve(self, count, 0, false);
    if (rc < 0) return rc;
    uint32_t *id = self->memory + self->count, *position = dyn__batch_positions(self) + self->count;
    float *logprob = dyn__batch_logprobs(self) + self->count;
    uint8_t *flags = dyn__batch_flags(self) + self->count;
    memcpy(id, ids, count * sizeof(*ids));
    if (positions != NULL) {
        memcpy(position, positions, count * sizeof(*positions));
    } else {
        uint32_t next = self->count > 0 ? position[-1] + 1 : 0;
        for (size_t i = 0; i < count; i++) position[i] = next + (uint32_t)i;
    }
    if (logprobs != NULL) {
        memcpy(logprob, logprobs, count * sizeof(*logprobs));
        for (size_t i = 0; i < count; i++) flags[i] = isnan(logprobs[i]) ? 0 : DYN_TOKEN_HAS_LOGPROB;
    } else {
        for (size_t i = 0; i < count; i++) logprob[i] = NAN;
        memset(flags, 0, count);
    }
    if (self->ends != NULL)
        for (size_t i = 0; i < count; i++) self->ends[self->count + i] = (uint32_t)self->text.size;
    self->count += count;
    return DYN_OK;
}

void dyn__batch_put_text(dyn_token_batch *self, const uint8_t *bytes, size_t size)
{
    char *out = self->text.data + self->text.size;
    uint8_t high = 0;
    for (size_t i = 0; i < size; i++) high |= bytes[i];
    if (high < 0x80) { /* ASCII */
        if (size > 0) memcpy(out, bytes, size);
        self->text.size += size;
        return;
    }
    for (size_t at = 0; at < size;) {
        int step = dyn__utf8_step(bytes + at, size - at);
        size_t n = (size_t)(step < 0 ? -step : step);
        memcpy(out, step < 0 ? (const uint8_t *)"\xef\xbf\xbd" : bytes + at, step < 0 ? 3 : n);
        out += step < 0 ? 3 : n;
        at += n;
    }
    self->text.size = (size_t)(out - self->text.data);
}

int dyn_token_batch_add(dyn_token_batch *self, const dyn_token *token)
{
    size_t text = token->flags & DYN_TOKEN_HAS_TEXT ? token->text_size : 0;
    if (text > DYN__BATCH_TEXT_MAX / 3) return dyn__fail(DYN_ERANGE, "a token of %zu bytes", text);
    int rc = dyn__batch_reserve(self, 1, 3 * text, token->flags & DYN_TOKEN_HAS_TEXT);
    if (rc < 0) return rc;
    size_t i = self->count;
    self->memory[i] = token->id;
    dyn__batch_positions(self)[i] = token->position;
    dyn__batch_logprobs(self)[i] = token->flags & DYN_TOKEN_HAS_LOGPROB ? token->logprob : NAN;
    dyn__batch_flags(self)[i] = token->flags & (DYN_TOKEN_HAS_TEXT | DYN_TOKEN_HAS_LOGPROB | DYN_TOKEN_IS_SPECIAL);
    if (text > 0) dyn__batch_put_text(self, (const uint8_t *)token->text, text);
    if (self->ends != NULL) self->ends[i] = (uint32_t)self->text.size;
    self->count++;
    return DYN_OK;
}

int dyn_token_batch_extend(dyn_token_batch *self, const dyn_token_batch *other, size_t from, ptrdiff_t step,
                           size_t count)
{
    if (count == 0) return DYN_OK;
    if (from >= other->count || (step < 0 && count - 1 > from / (0 - (size_t)step)) ||
        (step > 0 && count - 1 > (other->count - 1 - from) / (size_t)step))
        return dyn__fail(DYN_ERANGE, "%zu tokens from %zu on, every %tdth, of %zu", count, from, step, other->count);
    size_t text = 0;
    dyn_token token;
    for (size_t i = 0; i < count && other->ends != NULL; i++) {
        dyn_token_batch_get(other, from + (size_t)(step * (ptrdiff_t)i), &token);
        text += token.text_size;
    }
    int rc = dyn__batch_reserve(self, count, text, other->ends != NULL);
    if (rc < 0) return rc;
    for (size_t i = 0; i < count; i++) {
        size_t at = self->count;
        dyn_token_batch_get(other, from + (size_t)(step * (ptrdiff_t)i),
                            &token); /* other may be self: it has not moved since */
        self->memory[at] = token.id;
        dyn__batch_positions(self)[at] = token.position;
        dyn__batch_logprobs(self)[at] = token.logprob;
        dyn__batch_flags(self)[at] = token.flags;
        if (token.text_size > 0) memcpy(self->text.data + self->text.size, token.text, token.text_size);
        self->text.size += token.text_size;
        if (self->ends != NULL) self->ends[at] = (uint32_t)self->text.size;
        self->count++;
    }
    return DYN_OK;
}

void dyn_token_batch_truncate(dyn_token_batch *self, size_t count)
{
    if (count >= self->count) return;
    self->count = count;
    if (self->ends != NULL) self->text.size = count > 0 ? self->ends[count - 1] : 0;
}

size_t dyn_token_batch_count(const dyn_token_batch *self)
{
    return self->count;
}

size_t dyn_token_batch_bytes(const dyn_token_batch *self)
{
    return sizeof(*self) + self->room * (3 * sizeof(*self->memory) + 1) +
           (self->ends == NULL ? 0 : self->room * sizeof(*self->ends)) + self->text.room;
}

const uint32_t *dyn_token_batch_ids(const dyn_token_batch *self)
{
    return self->memory;
}

const uint32_t *dyn_token_batch_positions(const dyn_token_batch *self)
{
    return self->memory == NULL ? NULL : dyn__batch_positions(self);
}

const float *dyn_token_batch_logprobs(const dyn_token_batch *self)
{
    return self->memory == NULL ? NULL : dyn__batch_logprobs(self);
}

const uint8_t *dyn_token_batch_flags(const dyn_token_batch *self)
{
    return self->memory == NULL ? NULL : dyn__batch_flags(self);
}

void dyn_token_batch_get(const dyn_token_batch *self, size_t index, dyn_token *out)
{
    assert(index < self->count);
    *out = (dyn_token){
        .id = self->memory[index],
        .position = dyn__batch_positions(self)[index],
        .logprob = dyn__batch_logprobs(self)[index],
        .flags = dyn__batch_flags(self)[index],
    };
    if (self->ends == NULL) return;
    uint32_t start = index > 0 ? self->ends[index - 1] : 0;
    out->text_size = self->ends[index] - start;
    out->text = out->text_size > 0 ? self->text.data + start : "";
}

const char *dyn_token_batch_text(const dyn_token_batch *self, size_t *size)
{
    *size = self->text.size;
    return self->text.data;
}
