/* What an item of a worker costs until its JSON is there: read, detokenise, search, render. */
#include <stdio.h>

#include "common/common.h"
#include "serve/item.h"
#include "serve/render.h"

enum { ITEMS = 1 << 20 };

int main(void)
{
    static const uint8_t bare[] = "\x81\xa9token_ids\x91\xcd\x01\x02";
    struct dyn__item item;
    struct json out = {0};
    uint64_t start = dyn_now_ns(), sum = 0;

    for (size_t i = 0; i < ITEMS; i++) {
        if (dyn__item_read(bare, sizeof(bare) - 1, &item) < 0) return 1;
        sum += dyn__item_token(&item);
    }
    printf("read a bare item                 %6.1f ns\n", (double)(dyn_now_ns() - start) / ITEMS);
    start = dyn_now_ns();
    for (size_t i = 0; i < ITEMS; i++) {
        dyn__json_clear(&out);
        dyn__json_lit(
            &out, "data: {\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion.chunk\",");
        dyn__json_lit(&out, "\"choices\":[{\"index\":");
        dyn__json_uint(&out, i & 3);
        dyn__json_lit(&out, ",\"delta\":{\"content\":");
        dyn__json_str(&out, " quite \"usual\"\n", 15);
        dyn__json_lit(&out, "},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
        sum += out.text.size;
    }
    printf("render a chunk                   %6.1f ns\n", (double)(dyn_now_ns() - start) / ITEMS);
    dyn__json_free(&out);
    return sum == 0;
}
