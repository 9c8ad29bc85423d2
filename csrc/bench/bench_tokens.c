/* What a token costs on its way to text. */
#include <stdio.h>

#include "common/common.h"
#include "dynamo/tokens.h"

enum { TOKENS = 1 << 20, WORDS = 4096 };

int main(void)
{
    static uint8_t bytes[WORDS * 5];
    static uint32_t ends[WORDS], ids[TOKENS];
    dyn_vocab *vocab;
    dyn_detok *detok;
    dyn_stops *stops;
    dyn_token_batch *batch;
    dyn_jail jail;
    dyn_text text = {0}, shown = {0};

    for (uint32_t i = 0; i < WORDS; i++) {
        char word[8];
        snprintf(word, sizeof(word), " w%03x", i);
        memcpy(bytes + i * 5, word, 5);
        ends[i] = i * 5 + 5;
    }
    for (uint32_t i = 0; i < TOKENS; i++) ids[i] = i * 2654435761u >> 20;
    if (dyn_vocab_new(&vocab, bytes, sizeof(bytes), ends, NULL, WORDS, 0) < 0) return 1;
    if (dyn_detok_new(&detok, vocab, 0) < 0 || dyn_token_batch_new(&batch, 0) < 0) return 1;
    const char *strings[] = {"<|im_end|>", "</s>", "\nUser:", " w0000"};
    if (dyn_stops_new(&stops, strings, (size_t[]){10, 4, 6, 6}, 4) < 0) return 1;
    dyn_jail_init(&jail, stops, false);

    uint64_t start = dyn_now_ns();
    for (size_t i = 0; i < TOKENS; i++) {
        text.size = 0;
        if (dyn_detok_push(detok, ids + i, 1, &text) < 0) return 1;
    }
    uint64_t detok_ns = dyn_now_ns() - start;
    start = dyn_now_ns();
    for (size_t i = 0; i < TOKENS; i++) {
        text.size = shown.size = 0;
        if (dyn_detok_push(detok, ids + i, 1, &text) < 0 || dyn_jail_push(&jail, text.data, text.size, &shown) < 0)
            return 1;
    }
    uint64_t jail_ns = dyn_now_ns() - start;
    start = dyn_now_ns();
    for (size_t i = 0; i < TOKENS; i++)
        if (dyn_token_batch_append(batch, ids + i, NULL, NULL, 1) < 0) return 1;
    uint64_t batch_ns = dyn_now_ns() - start;
    enum { SMALL = 1000, ROUNDS = 2000 };
    static uint8_t wire[SMALL * 32];
    dyn_token_batch *columns;
    dyn_token_batch_head head = {0};
    size_t wire_size;
    if (dyn_token_batch_new(&columns, 0) < 0) return 1;
    for (uint32_t i = 0; i < SMALL; i++) {
        dyn_token token = {i, i, -0.5f, DYN_TOKEN_HAS_TEXT | DYN_TOKEN_HAS_LOGPROB, " token", 6};
        if (dyn_token_batch_add(columns, &token) < 0) return 1;
    }
    start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) {
        if (dyn_token_batch_encoded_size(columns, &head, &wire_size) < 0 || wire_size > sizeof wire) return 1;
        dyn_token_batch_encode(columns, &head, wire);
    }
    uint64_t encode_ns = dyn_now_ns() - start;
    start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) {
        dyn_token_batch_truncate(columns, 0);
        if (dyn_token_batch_decode(columns, wire, wire_size, &head, NULL) < 0) return 1;
    }
    uint64_t decode_ns = dyn_now_ns() - start;
    printf("encode a batch of 1000          %6.1f ns/token\n", (double)encode_ns / ROUNDS / SMALL);
    printf("decode it into columns          %6.1f ns/token\n", (double)decode_ns / ROUNDS / SMALL);
    printf("detokenise, one id a call       %6.1f ns/token\n", (double)detok_ns / TOKENS);
    printf("detokenise and 4 stop strings   %6.1f ns/token\n", (double)jail_ns / TOKENS);
    printf("append to a batch, one a call   %6.1f ns/token\n", (double)batch_ns / TOKENS);
    return 0;
}
