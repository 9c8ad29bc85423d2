/* serve/render.h -- the JSON of OpenAI's responses, written without a tree.
 *
 * A struct json remembers the first failure and ignores everything after it, so that a rendering is
 * a list of what is written and is checked once, at its end.
 */
#ifndef DYN_SRC_SERVE_RENDER_H
#define DYN_SRC_SERVE_RENDER_H

#include "dynamo/serve.h"
#include "serve/item.h"

struct json {
    dyn_text text;
    int rc; /* DYN_OK, or why the text is not whole */
};

void dyn__json_raw(struct json *self, const void *bytes, size_t size);
void dyn__json_lit(struct json *self, const char *literal);
void dyn__json_str(struct json *self, const void *text, size_t size); /* with quotes, escaped */
void dyn__json_uint(struct json *self, uint64_t value);
void dyn__json_logprob(struct json *self, double value); /* JSON has no -inf: -9999 stands for it */
void dyn__json_clear(struct json *self);                 /* empty again, the memory stays */
void dyn__json_free(struct json *self);

const char *dyn__finish_name(enum dyn_finish finish); /* "stop"; NULL for DYN_FINISH_NONE */

/* What a token is called in log probabilities. */
struct dyn__naming {
    const dyn_vocab *vocab; /* may be NULL */
    bool as_ids;            /* "token_id:5" */
};
/* The log probabilities of one token, as they gather in a choice. Chat uses columns[0] alone: the elements of
 * "content". Completions use all four: tokens, token_logprobs, top_logprobs, text_offset. Elements end with a comma.
 * tops   how many alternatives to show; the item's cursor is moved past all of them. */
void dyn__render_token(struct json columns[4], enum dyn_answer_kind kind, const struct dyn__naming *naming, uint32_t id,
                       double logprob, struct dyn__item *item, int tops, size_t offset);
/* ,"logprobs":{...} or ,"logprobs":null; empties the columns. */
void dyn__render_logprobs(struct json *out, struct json columns[4], enum dyn_answer_kind kind, bool wanted);
/* "usage":{...} without a comma; cached < 0: unknown. */
void dyn__render_usage(struct json *out, uint64_t prompt, uint64_t completion, int64_t cached);
/* {"error":{...}} ; type, param, code may be NULL. */
void dyn__render_error(struct json *out, int status, const char *message, const char *type, const char *param,
                       const char *code);

#endif
