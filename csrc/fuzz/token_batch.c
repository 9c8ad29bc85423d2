/* A batch from anyone, after tokens that are there already: it is added whole or not at all, its text is valid UTF-8, and
 * written again it reads as the same tokens. */
#include "common/common.h"
#include "dynamo/tokens.h"
#include "tokens/utf8.h"

static void compare(const dyn_token_batch *a, size_t from, const dyn_token_batch *b)
{
    dyn_token x, y;
    if (dyn_token_batch_count(a) - from != dyn_token_batch_count(b)) abort();
    for (size_t i = 0; i < dyn_token_batch_count(b); i++) {
        dyn_token_batch_get(a, from + i, &x);
        dyn_token_batch_get(b, i, &y);
        if (x.id != y.id || x.position != y.position || x.flags != y.flags || x.text_size != y.text_size) abort();
        if (memcmp(&x.logprob, &y.logprob, sizeof x.logprob) != 0) abort();
        if (x.text_size > 0 && memcmp(x.text, y.text, x.text_size) != 0) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dyn_token_batch *batch, *back;
    dyn_token_batch_head head, again;
    dyn_token first = {7, 8, -1, DYN_TOKEN_HAS_TEXT | DYN_TOKEN_HAS_LOGPROB, "first", 5};
    size_t used, text, encoded;
    if (dyn_token_batch_new(&batch, 0) < 0 || dyn_token_batch_new(&back, 0) < 0) abort();
    if (size > 0 && (data[size - 1] & 1) && dyn_token_batch_add(batch, &first) < 0) abort();
    size_t before = dyn_token_batch_count(batch);
    if (dyn_token_batch_decode(batch, data, size, &head, &used) < 0) {
        if (dyn_token_batch_count(batch) != before) abort();
        goto done;
    }
    if (used > size) abort();
    const uint8_t *bytes = (const uint8_t *)dyn_token_batch_text(batch, &text);
    for (size_t at = 0; at < text;) {
        int step = dyn__utf8_step(bytes + at, text - at);
        if (step <= 0) abort();
        at += (size_t)step;
    }
    if (dyn_token_batch_bytes(batch) > 64 * size + 16384) abort();
    if (dyn_token_batch_extend(back, batch, before, 1, dyn_token_batch_count(batch) - before) < 0) abort();
    compare(batch, before, back);
    if (dyn_token_batch_encoded_size(back, &head, &encoded) == DYN_OK) {
        uint8_t *out = malloc(encoded);
        dyn_token_batch_encode(back, &head, out);
        dyn_token_batch_truncate(batch, before);
        if (dyn_token_batch_decode(batch, out, encoded, &again, &used) < 0 || used != encoded) abort();
        if (again.final != head.final || again.has_sequence != head.has_sequence || again.sequence != head.sequence)
            abort();
        compare(batch, before, back);
        free(out);
    }
done:
    dyn_token_batch_free(batch);
    dyn_token_batch_free(back);
    return 0;
}
