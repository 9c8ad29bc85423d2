/* item.c -- see serve/item.h. */
#include <math.h>

#include "serve/item.h"

/* Arrays on the wire are extension type 1: a byte for the dtype, then little-endian numbers. These can be token ids. */
enum { ARRAY_EXT = 1, INT32 = 5, UINT32 = 6, INT64 = 7, UINT64 = 8 };

static bool nil(struct cursor *at)
{
    if (dyn__cursor_kind(at) != KIND_NIL) return false;
    at->at++;
    return true;
}

static bool read_tokens(struct cursor *at, struct dyn__item *out)
{
    uint64_t id;
    out->raw = NULL; /* a key that comes twice: the last one holds */
    if (nil(at)) return true;
    if (!dyn__cursor_array(at, &out->token_count)) return false;
    out->tokens = *at;
    for (uint32_t i = 0; i < out->token_count; i++)
        if (!dyn__cursor_uint(at, &id) || id > UINT32_MAX) return false;
    return true;
}

static bool read_logprobs(struct cursor *at, struct dyn__item *out)
{
    double value;
    if (nil(at)) return true;
    if (!dyn__cursor_array(at, &out->logprob_count)) return false;
    out->logprobs = *at;
    for (uint32_t i = 0; i < out->logprob_count; i++)
        if (!nil(at) && !dyn__cursor_number(at, &value)) return false;
    return true;
}

static bool read_top(struct cursor *at, struct dyn__top *out)
{
    uint32_t members;
    const char *key;
    size_t size;
    *out = (struct dyn__top){.token_id = UINT64_MAX, .logprob = NAN};
    if (!dyn__cursor_map(at, &members)) return false;
    while (members-- > 0) {
        if (!dyn__cursor_str(at, &key, &size)) return false;
        if (dyn__cursor_kind(at) == KIND_NIL) {
            at->at++;
        } else if (dyn__str_is(key, size, "token_id")) {
            if (!dyn__cursor_uint(at, &out->token_id)) return false;
        } else if (dyn__str_is(key, size, "token")) {
            if (!dyn__cursor_str(at, &out->token, &out->token_size)) return false;
        } else if (dyn__str_is(key, size, "logprob")) {
            if (!dyn__cursor_number(at, &out->logprob)) return false;
        } else if (!dyn__cursor_skip(at)) {
            return false;
        }
    }
    return true;
}

static bool read_tops(struct cursor *at, struct dyn__item *out)
{
    struct dyn__top top;
    uint32_t count;
    if (nil(at)) return true;
    if (!dyn__cursor_array(at, &out->top_count)) return false;
    out->tops = *at;
    for (uint32_t i = 0; i < out->top_count; i++) {
        if (nil(at)) continue;
        if (!dyn__cursor_array(at, &count)) return false;
        while (count-- > 0)
            if (!read_top(at, &top)) return false;
    }
    return true;
}

static bool read_finish(struct cursor *at, struct dyn__item *out)
{
    const char *text;
    size_t size;
    uint32_t members;
    if (nil(at)) return true;
    if (dyn__cursor_kind(at) == KIND_MAP) { /* {"error": "..."} */
        if (!dyn__cursor_map(at, &members)) return false;
        while (members-- > 0) {
            if (!dyn__cursor_str(at, &text, &size)) return false;
            if (dyn__str_is(text, size, "error") && dyn__cursor_kind(at) == KIND_STR) {
                if (!dyn__cursor_str(at, &out->error, &out->error_size)) return false;
            } else if (!dyn__cursor_skip(at)) {
                return false;
            }
        }
        if (out->error == NULL) out->error = "the engine failed without a word", out->error_size = strlen(out->error);
        return true;
    }
    if (!dyn__cursor_str(at, &text, &size)) return false;
    out->finish = DYN_FINISH_STOP;
    if (dyn__str_is(text, size, "length")) out->finish = DYN_FINISH_LENGTH;
    if (dyn__str_is(text, size, "content_filter")) out->finish = DYN_FINISH_FILTER;
    if (dyn__str_is(text, size, "tool_calls")) out->finish = DYN_FINISH_TOOLS;
    out->cancelled = dyn__str_is(text, size, "cancelled") || dyn__str_is(text, size, "abort");
    if (dyn__str_is(text, size, "error")) out->error = "the engine failed", out->error_size = strlen(out->error);
    return true;
}

/* A number that is not negative and fits, or nothing. Others are skipped: they are for information only. */
static bool read_count(struct cursor *at, int64_t *out)
{
    struct cursor copy = *at;
    uint64_t value;
    if (dyn__cursor_uint(&copy, &value)) {
        if (value <= INT64_MAX) *out = (int64_t)value;
        *at = copy;
        return true;
    }
    return dyn__cursor_skip(at);
}

/* completion_usage, prompt_tokens_details, engine_data: maps of which a few members matter. */
static bool read_details(struct cursor *at, struct dyn__item *out, int depth)
{
    uint32_t members;
    const char *key;
    size_t size;
    if (dyn__cursor_kind(at) != KIND_MAP) return dyn__cursor_skip(at);
    if (!dyn__cursor_map(at, &members)) return false;
    while (members-- > 0) {
        if (dyn__cursor_kind(at) != KIND_STR) { /* keys of other kinds are none of ours */
            if (!dyn__cursor_skip(at) || !dyn__cursor_skip(at)) return false;
            continue;
        }
        if (!dyn__cursor_str(at, &key, &size)) return false;
        bool good;
        if (dyn__str_is(key, size, "cached_tokens")) {
            good = read_count(at, &out->cached_tokens);
        } else if (dyn__str_is(key, size, "mirror_tokens")) {
            good = read_count(at, &out->mirror_tokens);
        } else if (dyn__str_is(key, size, "completion_tokens")) {
            good = read_count(at, &out->completion_tokens);
        } else if (dyn__str_is(key, size, "cause") && dyn__cursor_kind(at) == KIND_STR) {
            good = dyn__cursor_str(at, &out->cause, &out->cause_size);
        } else if (dyn__str_is(key, size, "prompt_tokens_details") && depth == 0) {
            good = read_details(at, out, 1);
        } else {
            good = dyn__cursor_skip(at);
        }
        if (!good) return false;
    }
    return true;
}

/* "error" of an Annotated map: a text, or a map with "message". */
static bool read_error(struct cursor *at, struct dyn__item *out)
{
    uint32_t members;
    const char *key;
    size_t size;
    if (dyn__cursor_kind(at) == KIND_STR) return dyn__cursor_str(at, &out->error, &out->error_size);
    if (dyn__cursor_kind(at) != KIND_MAP) return dyn__cursor_skip(at);
    if (!dyn__cursor_map(at, &members)) return false;
    while (members-- > 0) {
        if (!dyn__cursor_str(at, &key, &size)) return false;
        if (dyn__str_is(key, size, "message") && dyn__cursor_kind(at) == KIND_STR) {
            if (!dyn__cursor_str(at, &out->error, &out->error_size)) return false;
        } else if (!dyn__cursor_skip(at)) {
            return false;
        }
    }
    return true;
}

/* "comment" of an Annotated map: a list of texts, of which the first is the message of an error event. */
static bool read_comment(struct cursor *at, const char **text, size_t *size)
{
    struct cursor first = *at;
    uint32_t count;
    if (dyn__cursor_array(&first, &count) && count > 0 && dyn__cursor_kind(&first) == KIND_STR) {
        if (!dyn__cursor_str(&first, text, size)) return false;
    } else {
        first = *at;
        if (dyn__cursor_kind(at) == KIND_STR && !dyn__cursor_str(&first, text, size)) return false;
    }
    return dyn__cursor_skip(at);
}

static int bad(const char *key, size_t size)
{
    return dyn__fail(DYN_EPROTO, "a worker sent an item whose \"%.*s\" cannot be read", (int)(size > 64 ? 64 : size),
                     key);
}

static int read_map(struct cursor *at, struct dyn__item *out, bool annotated)
{
    const char *key, *comment = NULL;
    size_t size, comment_size = 0;
    uint32_t members;
    bool is_error = false;
    int rc;

    if (!dyn__cursor_map(at, &members)) return dyn__fail(DYN_EPROTO, "a worker sent an item that is not a map");
    while (members-- > 0) {
        bool good = true;
        if (!dyn__cursor_str(at, &key, &size))
            return dyn__fail(DYN_EPROTO, "a worker sent an item with a key that is no text");
        if (annotated && dyn__str_is(key, size, "data")) {
            if (dyn__cursor_kind(at) != KIND_MAP) {
                good = dyn__cursor_skip(at);
            } else if ((rc = read_map(at, out, false)) < 0) {
                return rc;
            }
        } else if (annotated && dyn__str_is(key, size, "event")) {
            const char *event;
            size_t event_size;
            if (dyn__cursor_kind(at) == KIND_STR) {
                good = dyn__cursor_str(at, &event, &event_size);
                is_error = good && dyn__str_is(event, event_size, "error");
            } else {
                good = dyn__cursor_skip(at);
            }
        } else if (annotated && dyn__str_is(key, size, "comment")) {
            good = read_comment(at, &comment, &comment_size);
        } else if (annotated && dyn__str_is(key, size, "error")) {
            good = read_error(at, out);
        } else if (dyn__str_is(key, size, "token_ids")) {
            if (dyn__cursor_kind(at) == KIND_EXT) {
                int8_t type;
                const uint8_t *raw;
                size_t bytes;
                good = dyn__cursor_ext(at, &type, &raw, &bytes) && type == ARRAY_EXT && bytes > 0;
                if (good) {
                    out->raw_width = raw[0] == INT32 || raw[0] == UINT32   ? 4
                                     : raw[0] == INT64 || raw[0] == UINT64 ? 8
                                                                           : 0;
                    good = out->raw_width != 0 && (bytes - 1) % out->raw_width == 0;
                    out->raw = raw + 1;
                    out->token_count = good ? (uint32_t)((bytes - 1) / out->raw_width) : 0;
                }
            } else {
                good = read_tokens(at, out);
            }
        } else if (dyn__str_is(key, size, "text")) {
            if (!nil(at)) good = dyn__cursor_str(at, &out->text, &out->text_size);
        } else if (dyn__str_is(key, size, "finish_reason")) {
            good = read_finish(at, out);
        } else if (dyn__str_is(key, size, "log_probs")) {
            good = read_logprobs(at, out);
        } else if (dyn__str_is(key, size, "top_logprobs")) {
            good = read_tops(at, out);
        } else if (dyn__str_is(key, size, "completion_usage") || dyn__str_is(key, size, "engine_data")) {
            good = read_details(at, out, 0);
        } else {
            good = dyn__cursor_skip(at);
        }
        if (!good) return bad(key, size);
    }
    if (is_error && out->error == NULL) {
        out->error = comment != NULL ? comment : "unknown error";
        out->error_size = comment != NULL ? comment_size : strlen(out->error);
    }
    return DYN_OK;
}

int dyn__item_read(const uint8_t *bytes, size_t size, struct dyn__item *out)
{
    struct cursor at = {bytes, bytes + size};
    *out = (struct dyn__item){.cached_tokens = -1, .mirror_tokens = -1, .completion_tokens = -1};
    int rc = read_map(&at, out, true);
    if (rc == DYN_OK && at.at != at.end) return dyn__fail(DYN_EPROTO, "a worker sent bytes after its item");
    return rc;
}

uint32_t dyn__item_token(struct dyn__item *self)
{
    uint64_t id = 0;
    if (self->raw != NULL) {
        for (uint8_t i = 0; i < 4; i++) id |= (uint64_t)self->raw[i] << (8 * i);
        self->raw += self->raw_width;
    } else {
        dyn__cursor_uint(&self->tokens, &id); /* checked by the reader */
    }
    return (uint32_t)id;
}

double dyn__item_logprob(struct dyn__item *self)
{
    double value = NAN;
    if (self->logprob_count == 0) return value;
    self->logprob_count--;
    if (!nil(&self->logprobs)) dyn__cursor_number(&self->logprobs, &value);
    return value;
}

uint32_t dyn__item_tops(struct dyn__item *self)
{
    uint32_t count = 0;
    if (self->top_count == 0) return 0;
    self->top_count--;
    if (!nil(&self->tops)) dyn__cursor_array(&self->tops, &count);
    return count;
}

void dyn__item_top(struct dyn__item *self, struct dyn__top *out)
{
    read_top(&self->tops, out);
}
