/* Any bytes as an item: refused, or walked to the end of every column and rendered. */
#include "serve/item.h"
#include "serve/render.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dyn__item item;
    struct json columns[4] = {0}, out = {0};
    struct dyn__naming naming = {NULL, false};
    if (dyn__item_read(data, size, &item) < 0) return 0;
    for (uint32_t i = 0, n = item.token_count; i < n; i++) {
        uint32_t id = dyn__item_token(&item);
        double logprob = dyn__item_logprob(&item);
        dyn__render_token(columns, i % 2 ? DYN_ANSWER_CHAT : DYN_ANSWER_COMPLETION, &naming, id, logprob, &item, 5, i);
    }
    dyn__json_str(&out, item.text, item.text_size);
    dyn__json_str(&out, item.error, item.error_size);
    dyn__json_str(&out, item.cause, item.cause_size);
    for (int i = 0; i < 4; i++) dyn__json_free(&columns[i]);
    dyn__json_free(&out);
    return 0;
}
