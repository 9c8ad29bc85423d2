/* Bytes as tokens, cut and searched: what comes out is valid UTF-8 and does not depend on the cuts. */
#include <stdlib.h>

#include "common/common.h"
#include "dynamo/tokens.h"

static void decode(const uint8_t *data, size_t size, size_t piece, dyn_text *shown)
{
    static uint8_t bytes[256];
    static uint32_t ends[256];
    dyn_vocab *vocab;
    dyn_detok *detok;
    dyn_stops *stops;
    dyn_jail jail;
    uint32_t ids[64];

    for (uint32_t i = 0; i < 256; i++) bytes[i] = (uint8_t)i, ends[i] = i + 1;
    if (dyn_vocab_new(&vocab, bytes, 256, ends, NULL, 256, 0) < 0 || dyn_detok_new(&detok, vocab, 0) < 0) abort();
    const char *strings[] = {"ab", "abc", "\xE2\x82\xAC", "\n\n", "bca"};
    if (dyn_stops_new(&stops, strings, (size_t[]){2, 3, 3, 2, 3}, 5) < 0) abort();
    dyn_jail_init(&jail, stops, true);
    for (size_t i = 0; i < size;) {
        dyn_text text = {0};
        size_t n = size - i < piece ? size - i : piece;
        for (size_t k = 0; k < n; k++) ids[k] = data[i + k];
        if (dyn_detok_push(detok, ids, n, &text) < 0) abort();
        i += n;
        if (i == size && dyn_detok_end(detok, &text) < 0) abort();
        if (dyn_jail_push(&jail, text.data, text.size, shown) < 0) abort();
        dyn_text_free(&text);
    }
    if (dyn_jail_end(&jail, shown) < 0) abort();
    dyn_stops_unref(stops);
    dyn_detok_free(detok);
    dyn_vocab_unref(vocab);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dyn_text whole = {0}, pieces = {0};
    if (size < 2 || size > 4096) return 0;
    decode(data + 1, size - 1, 64, &whole);
    decode(data + 1, size - 1, 1 + data[0] % 7, &pieces);
    if (whole.size != pieces.size || (whole.size > 0 && memcmp(whole.data, pieces.data, whole.size) != 0)) abort();
    dyn_text_free(&whole);
    dyn_text_free(&pieces);
    return 0;
}
