/* codec.c -- see dynamo/tokens.h for the contract: tokens and batches as they travel (Quill's layout, big-endian).
 *
 * I1  No size that was only announced allocates: a token takes 9 bytes at least, so what is there bounds the count.
 * I2  A batch that fails to decode leaves the columns as they were.
 */
#include "tokens/batch.h"

enum { FIXED = 9, BATCH_SEQUENCE = 1, BATCH_FINAL = 2, KNOWN = 7 };

static inline uint8_t *put_u16(uint8_t *out, uint32_t value)
{
    out[0] = (uint8_t)(value >> 8), out[1] = (uint8_t)value;
    return out + 2;
}

static inline uint8_t *put_u32(uint8_t *out, uint32_t value)
{
    out[0] = (uint8_t)(value >> 24), out[1] = (uint8_t)(value >> 16);
    out[2] = (uint8_t)(value >> 8), out[3] = (uint8_t)value;
    return out + 4;
}

static inline uint32_t get_u16(const uint8_t *in)
{
    return (uint32_t)in[0] << 8 | in[1];
}

static inline uint32_t get_u32(const uint8_t *in)
{
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint8_t *put_head(uint8_t *out, uint32_t id, uint32_t position, uint8_t flags, float logprob)
{
    out = put_u32(put_u32(out, id), position);
    *out++ = flags;
    return flags & DYN_TOKEN_HAS_LOGPROB ? put_u32(out, bits_of(logprob)) : out;
}

int dyn_token_encoded_size(const dyn_token *self, size_t *size)
{
    *size = FIXED + (self->flags & DYN_TOKEN_HAS_LOGPROB ? 4 : 0);
    if (!(self->flags & DYN_TOKEN_HAS_TEXT)) return DYN_OK;
    if (self->text_size > DYN_TOKEN_TEXT_MAX)
        return dyn__fail(DYN_ERANGE, "a token with a text of %zu bytes: at most %d travel", self->text_size,
                         DYN_TOKEN_TEXT_MAX);
    *size += 2 + self->text_size;
    return DYN_OK;
}

uint8_t *dyn_token_encode(const dyn_token *self, uint8_t *out)
{
    out = put_head(out, self->id, self->position, self->flags & KNOWN, self->logprob);
    if (!(self->flags & DYN_TOKEN_HAS_TEXT)) return out;
    out = put_u16(out, (uint32_t)self->text_size);
    if (self->text_size > 0) memcpy(out, self->text, self->text_size);
    return out + self->text_size;
}

/* The token at `at`; the end of it, or NULL when it is cut off. */
static inline const uint8_t *read_token(const uint8_t *at, const uint8_t *end, dyn_token *out)
{
    if (end - at < FIXED) return NULL;
    uint8_t flags = at[8] & KNOWN;
    out->id = get_u32(at), out->position = get_u32(at + 4), out->flags = flags;
    out->logprob = 0, out->text = NULL, out->text_size = 0;
    at += FIXED;
    if (flags & DYN_TOKEN_HAS_LOGPROB) {
        if (end - at < 4) return NULL;
        out->logprob = float_of(get_u32(at));
        at += 4;
    }
    if (flags & DYN_TOKEN_HAS_TEXT) {
        if (end - at < 2) return NULL;
        size_t text = get_u16(at);
        at += 2;
        if ((size_t)(end - at) < text) return NULL;
        out->text = (const char *)at, out->text_size = text;
        at += text;
    }
    return at;
}

int dyn_token_decode(const uint8_t *bytes, size_t size, dyn_token *out, size_t *used)
{
    const uint8_t *end = read_token(bytes, bytes + size, out);
    if (end == NULL) return dyn__fail(DYN_ETRUNC, "a token that is cut off after %zu bytes", size);
    if (used != NULL) *used = (size_t)(end - bytes);
    return DYN_OK;
}

/* ---- batches ---- */

int dyn_token_batch_encoded_size(const dyn_token_batch *self, const dyn_token_batch_head *head, size_t *size)
{
    if (self->count > DYN_TOKEN_COUNT_MAX)
        return dyn__fail(DYN_ERANGE, "a batch of %zu tokens: at most %d travel together; send it in slices",
                         self->count, DYN_TOKEN_COUNT_MAX);
    const uint8_t *flags = self->memory == NULL ? NULL : dyn__batch_flags(self);
    uint32_t logprobs = 0, texts = 0, start = 0;
    for (size_t i = 0; i < self->count; i++) {
        logprobs += flags[i] >> 1 & 1;
        texts += flags[i] & 1;
    }
    for (size_t i = 0; i < self->count && self->ends != NULL; i++) {
        if (self->ends[i] - start > DYN_TOKEN_TEXT_MAX)
            return dyn__fail(DYN_ERANGE, "token %zu has a text of %u bytes: at most %d travel", i,
                             self->ends[i] - start, DYN_TOKEN_TEXT_MAX);
        start = self->ends[i];
    }
    *size = 3 + (head->has_sequence ? 4u : 0u) + self->count * FIXED + logprobs * 4u + texts * 2u + self->text.size;
    return DYN_OK;
}

void dyn_token_batch_encode(const dyn_token_batch *self, const dyn_token_batch_head *head, uint8_t *out)
{
    *out++ = (uint8_t)((head->has_sequence ? BATCH_SEQUENCE : 0) | (head->final ? BATCH_FINAL : 0));
    if (head->has_sequence) out = put_u32(out, head->sequence);
    out = put_u16(out, (uint32_t)self->count);
    if (self->count == 0) return;
    const uint32_t *ids = self->memory, *positions = dyn__batch_positions(self), *ends = self->ends;
    const float *logprobs = dyn__batch_logprobs(self);
    const uint8_t *flags = dyn__batch_flags(self);
    const char *text = self->text.size > 0 ? self->text.data : "", *last = text + self->text.size;
    uint32_t start = 0;
    for (size_t i = 0; i < self->count; i++) {
        out = put_head(out, ids[i], positions[i], flags[i], logprobs[i]);
        if (!(flags[i] & DYN_TOKEN_HAS_TEXT)) continue;
        size_t size = ends[i] - start;
        start = ends[i];
        out = put_u16(out, (uint32_t)size);
        if (size <= 8 && last - text >= 8 && i + 1 < self->count) {
            memcpy(out, text, 8); /* a token follows, so there is room, and what is too much is written over */
        } else if (size > 0) {
            memcpy(out, text, size);
        }
        out += size, text += size;
    }
}

int dyn_token_batch_decode(dyn_token_batch *self, const uint8_t *bytes, size_t size, dyn_token_batch_head *head,
                           size_t *used)
{
    const uint8_t *at = bytes, *end = bytes + size;
    size_t need = size > 0 && (bytes[0] & BATCH_SEQUENCE) ? 7 : 3;
    if (size < need) return dyn__fail(DYN_ETRUNC, "a batch that is cut off after %zu bytes", size);
    *head = (dyn_token_batch_head){.has_sequence = *at & BATCH_SEQUENCE, .final = *at & BATCH_FINAL};
    at++;
    if (head->has_sequence) head->sequence = get_u32(at), at += 4;
    size_t count = get_u16(at), before = self->count;
    at += 2;
    if (count > (size_t)(end - at) / FIXED) /* I1 */
        return dyn__fail(DYN_ETRUNC, "a batch of %zu tokens that is cut off after %zu bytes", count, size);
    /* All texts but broken ones fit what is there; where UTF-8 is broken the column grows on the way. */
    int rc = dyn__batch_reserve(self, count, (size_t)(end - at) - count * FIXED, false);
    if (rc < 0) return rc;
    dyn_token token;
    for (size_t i = 0; i < count; i++) {
        at = read_token(at, end, &token);
        if (at == NULL) {
            rc = dyn__fail(DYN_ETRUNC, "a batch of %zu tokens that is cut off in token %zu, after %zu bytes", count, i,
                           size);
            goto fail;
        }
        if ((rc = dyn_token_batch_add(self, &token)) < 0) goto fail;
    }
    if (used != NULL) *used = (size_t)(at - bytes);
    return DYN_OK;
fail:
    dyn_token_batch_truncate(self, before);
    return rc;
}
