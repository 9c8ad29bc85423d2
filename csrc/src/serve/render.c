/* render.c -- see serve/render.h. */
#include <math.h>
#include <stdio.h>

#include "serve/render.h"
#include "tokens/utf8.h"

/* What a byte becomes in a JSON string: 0 itself, 'u' six characters, other letters a backslash and the letter. Bytes from 0x80
 * on are looked at as UTF-8. */
static char escape_of(uint8_t byte)
{
    switch (byte) {
    case '"':
    case '\\': return (char)byte;
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    default: return byte < 0x20 ? 'u' : 0;
    }
}

int dyn_json_escape(dyn_text *out, const char *text, size_t size)
{
    static const char hex[] = "0123456789abcdef";
    if (size > SIZE_MAX / 8) return DYN_ENOMEM;
    int rc = dyn_text_reserve(out, size * 6); /* the worst: all control characters */
    if (rc < 0) return rc;
    const uint8_t *p = (const uint8_t *)text;
    char *to = out->data + out->size;
    for (size_t i = 0; i < size;) {
        size_t run = i;
        while (run < size && p[run] < 0x80 && escape_of(p[run]) == 0) run++;
        memcpy(to, p + i, run - i);
        to += run - i;
        i = run;
        if (i == size) break;
        if (p[i] >= 0x80) {
            int step = dyn__utf8_step(p + i, size - i);
            if (step > 0) {
                memcpy(to, p + i, (size_t)step);
                to += step;
                i += (size_t)step;
            } else {
                memcpy(to, "\xEF\xBF\xBD", 3);
                to += 3;
                i += (size_t)-step;
            }
            continue;
        }
        char letter = escape_of(p[i]);
        *to++ = '\\';
        *to++ = letter;
        if (letter == 'u') {
            *to++ = '0', *to++ = '0';
            *to++ = hex[p[i] >> 4];
            *to++ = hex[p[i] & 15];
        }
        i++;
    }
    out->size = (size_t)(to - out->data);
    assert(out->size <= out->room);
    return DYN_OK;
}

void dyn__json_raw(struct json *self, const void *bytes, size_t size)
{
    if (self->rc == DYN_OK) self->rc = dyn_text_append(&self->text, bytes, size);
}

void dyn__json_lit(struct json *self, const char *literal)
{
    dyn__json_raw(self, literal, strlen(literal));
}

void dyn__json_str(struct json *self, const void *text, size_t size)
{
    dyn__json_raw(self, "\"", 1);
    if (self->rc == DYN_OK && size > 0) self->rc = dyn_json_escape(&self->text, text, size);
    dyn__json_raw(self, "\"", 1);
}

void dyn__json_uint(struct json *self, uint64_t value)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    dyn__json_raw(self, digits + at, sizeof(digits) - at);
}

void dyn__json_logprob(struct json *self, double value)
{
    char digits[32];
    if (isnan(value) || value < -9999.0) value = -9999.0;
    if (value > 9999.0) value = 9999.0;
    int size = snprintf(digits, sizeof(digits), "%.9g", value);
    for (int i = 0; i < size; i++)
        if (digits[i] == ',') digits[i] = '.'; /* a locale's comma */
    dyn__json_raw(self, digits, (size_t)size);
}

void dyn__json_clear(struct json *self)
{
    self->text.size = 0;
    self->rc = DYN_OK;
}

void dyn__json_free(struct json *self)
{
    dyn_text_free(&self->text);
}

const char *dyn__finish_name(enum dyn_finish finish)
{
    switch (finish) {
    case DYN_FINISH_STOP: return "stop";
    case DYN_FINISH_LENGTH: return "length";
    case DYN_FINISH_FILTER: return "content_filter";
    case DYN_FINISH_TOOLS: return "tool_calls";
    default: return NULL;
    }
}

/* "token": its text, or the number where there is no text or it is asked for. */
static void name_token(struct json *out, const struct dyn__naming *naming, uint64_t id, const char *said,
                       size_t said_size)
{
    char number[32];
    size_t size = 0;
    const uint8_t *bytes = NULL;
    if (!naming->as_ids && said != NULL) {
        dyn__json_str(out, said, said_size);
        return;
    }
    if (!naming->as_ids && naming->vocab != NULL && id <= UINT32_MAX)
        bytes = dyn_vocab_bytes(naming->vocab, (uint32_t)id, &size);
    if (bytes == NULL) {
        bytes = (const uint8_t *)number;
        size = (size_t)snprintf(number, sizeof(number), "token_id:%llu", (unsigned long long)id);
    }
    dyn__json_str(out, bytes, size);
}

/* {"token":"..","logprob":-0.1,"bytes":[..]  and no closing brace */
static void chat_token(struct json *out, const struct dyn__naming *naming, uint64_t id, const char *said,
                       size_t said_size, double logprob)
{
    const uint8_t *bytes = (const uint8_t *)said;
    size_t size = said_size;
    dyn__json_lit(out, "{\"token\":");
    name_token(out, naming, id, said, said_size);
    dyn__json_lit(out, ",\"logprob\":");
    dyn__json_logprob(out, logprob);
    if (naming->vocab != NULL && id <= UINT32_MAX) bytes = dyn_vocab_bytes(naming->vocab, (uint32_t)id, &size);
    if (bytes == NULL) {
        dyn__json_lit(out, ",\"bytes\":null");
        return;
    }
    dyn__json_lit(out, ",\"bytes\":[");
    for (size_t i = 0; i < size; i++) {
        if (i > 0) dyn__json_raw(out, ",", 1);
        dyn__json_uint(out, bytes[i]);
    }
    dyn__json_raw(out, "]", 1);
}

void dyn__render_token(struct json columns[4], enum dyn_answer_kind kind, const struct dyn__naming *naming, uint32_t id,
                       double logprob, struct dyn__item *item, int tops, size_t offset)
{
    uint32_t count = dyn__item_tops(item);
    struct dyn__top top;
    int shown = 0;

    if (kind == DYN_ANSWER_CHAT) {
        chat_token(&columns[0], naming, id, NULL, 0, logprob);
        dyn__json_lit(&columns[0], ",\"top_logprobs\":[");
        for (uint32_t i = 0; i < count; i++) {
            dyn__item_top(item, &top);
            if (shown == tops) continue;
            if (shown++ > 0) dyn__json_raw(&columns[0], ",", 1);
            chat_token(&columns[0], naming, top.token_id, top.token, top.token_size, top.logprob);
            dyn__json_raw(&columns[0], "}", 1);
        }
        dyn__json_lit(&columns[0], "]},");
        return;
    }
    name_token(&columns[0], naming, id, NULL, 0);
    dyn__json_raw(&columns[0], ",", 1);
    dyn__json_logprob(&columns[1], logprob);
    dyn__json_raw(&columns[1], ",", 1);
    dyn__json_raw(&columns[2], "{", 1);
    for (uint32_t i = 0; i < count; i++) {
        dyn__item_top(item, &top);
        if (shown == tops) continue;
        if (shown++ > 0) dyn__json_raw(&columns[2], ",", 1);
        name_token(&columns[2], naming, top.token_id, top.token, top.token_size);
        dyn__json_raw(&columns[2], ":", 1);
        dyn__json_logprob(&columns[2], top.logprob);
    }
    dyn__json_lit(&columns[2], "},");
    dyn__json_uint(&columns[3], offset);
    dyn__json_raw(&columns[3], ",", 1);
}

void dyn__render_logprobs(struct json *out, struct json columns[4], enum dyn_answer_kind kind, bool wanted)
{
    static const char *const chat[] = {"{\"content\":["}, *const completion[] = {
                                                              "{\"tokens\":[", "],\"token_logprobs\":[",
                                                              "],\"top_logprobs\":[", "],\"text_offset\":["};
    dyn__json_lit(out, ",\"logprobs\":");
    if (!wanted) {
        dyn__json_lit(out, "null");
        return;
    }
    for (int i = 0; i < (kind == DYN_ANSWER_CHAT ? 1 : 4); i++) {
        size_t size = columns[i].text.size;
        dyn__json_lit(out, kind == DYN_ANSWER_CHAT ? chat[i] : completion[i]);
        if (columns[i].rc < 0) out->rc = columns[i].rc;
        dyn__json_raw(out, columns[i].text.data, size > 0 ? size - 1 : 0); /* without the last comma */
        dyn__json_clear(&columns[i]);
    }
    dyn__json_lit(out, "]}");
}

void dyn__render_usage(struct json *out, uint64_t prompt, uint64_t completion, int64_t cached)
{
    dyn__json_lit(out, "\"usage\":{\"prompt_tokens\":");
    dyn__json_uint(out, prompt);
    dyn__json_lit(out, ",\"completion_tokens\":");
    dyn__json_uint(out, completion);
    dyn__json_lit(out, ",\"total_tokens\":");
    dyn__json_uint(out, prompt + completion);
    if (cached >= 0) {
        dyn__json_lit(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
        dyn__json_uint(out, (uint64_t)cached);
        dyn__json_raw(out, "}", 1);
    }
    dyn__json_raw(out, "}", 1);
}

static void str_or_null(struct json *out, const char *text)
{
    if (text == NULL) {
        dyn__json_lit(out, "null");
    } else {
        dyn__json_str(out, text, strlen(text));
    }
}

void dyn__render_error(struct json *out, int status, const char *message, const char *type, const char *param,
                       const char *code)
{
    if (type == NULL) type = status >= 500 ? "server_error" : "invalid_request_error";
    dyn__json_lit(out, "{\"error\":{\"message\":");
    str_or_null(out, message);
    dyn__json_lit(out, ",\"type\":");
    str_or_null(out, type);
    dyn__json_lit(out, ",\"param\":");
    str_or_null(out, param);
    dyn__json_lit(out, ",\"code\":");
    str_or_null(out, code);
    dyn__json_lit(out, "}}");
}
