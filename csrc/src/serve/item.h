/* serve/item.h -- one item of a worker's stream, looked at where it lies.
 *
 * The reader goes through the whole item once and checks all of it, so that the columns can be walked
 * afterwards without a thought of malformed bytes. Nothing is copied: an item lives as long as its bytes.
 */
#ifndef DYN_SRC_SERVE_ITEM_H
#define DYN_SRC_SERVE_ITEM_H

#include "dynamo/serve.h"
#include "serve/msgpack.h"

struct dyn__item {
    /* token_ids: a msgpack array, or little-endian u32 or i64 in an array extension (raw != NULL). */
    struct cursor tokens;
    const uint8_t *raw;
    uint8_t raw_width;
    uint32_t token_count;
    struct cursor logprobs; /* numbers or nil */
    uint32_t logprob_count;
    struct cursor tops; /* for each token an array of maps, or nil */
    uint32_t top_count;
    const char *text; /* NULL: none */
    size_t text_size;
    enum dyn_finish finish;
    bool cancelled;    /* finish_reason "cancelled" or "abort" */
    const char *error; /* NULL: none; an Annotated "error" event, or finish_reason {"error": ...} */
    size_t error_size;
    int64_t cached_tokens, mirror_tokens, completion_tokens; /* -1: not said */
    const char *cause;                                       /* engine_data.cause; NULL: none */
    size_t cause_size;
};

/* errors  DYN_EPROTO with a sentence that names the member. */
int dyn__item_read(const uint8_t *bytes, size_t size, struct dyn__item *out);
/* The next id; call token_count times. */
uint32_t dyn__item_token(struct dyn__item *self);
/* The next log probability; NaN when there is none for this token. */
double dyn__item_logprob(struct dyn__item *self);

struct dyn__top {
    uint64_t token_id; /* UINT64_MAX: not said */
    const char *token; /* NULL: not said */
    size_t token_size;
    double logprob;
};
/* The alternatives of the next token: how many come, to be taken with dyn__item_top(). */
uint32_t dyn__item_tops(struct dyn__item *self);
void dyn__item_top(struct dyn__item *self, struct dyn__top *out);

#endif
