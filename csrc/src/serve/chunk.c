/* chunk.c -- the SSE chunks and JSON bodies of chat and text completions. */
#include "serve/answer.h"

static void finish_reason(struct json *out, enum dyn_finish finish)
{
    const char *name = dyn__finish_name(finish);
    dyn__json_lit(out, ",\"finish_reason\":");
    if (name == NULL) {
        dyn__json_lit(out, "null");
    } else {
        dyn__json_str(out, name, strlen(name));
    }
}

static void usage(dyn_answer *self)
{
    uint64_t prompt = 0, completion = 0;
    int64_t cached = -1;
    for (uint32_t i = 0; i < self->choice_count; i++) {
        const struct choice *choice = &self->choices[i];
        prompt += choice->prompt_tokens;
        completion += choice->generated;
        if (choice->prompt_tokens > 0 && choice->summary.cached_tokens >= 0)
            cached = (cached < 0 ? 0 : cached) + choice->summary.cached_tokens;
    }
    if (cached > (int64_t)prompt) cached = (int64_t)prompt;
    dyn__render_usage(&self->out, prompt, completion, cached);
}

static void data_head(dyn_answer *self)
{
    dyn__json_lit(&self->out, "data: ");
    dyn__json_raw(&self->out, self->head.text.data, self->head.text.size);
}

void dyn__chunk_text(dyn_answer *self, struct choice *choice, enum dyn_finish finish)
{
    struct json *out = &self->out;
    data_head(self);
    dyn__json_lit(out, "\"choices\":[{\"index\":");
    dyn__json_uint(out, (uint64_t)(choice - self->choices));
    if (self->kind == DYN_ANSWER_CHAT) {
        dyn__json_lit(out, ",\"delta\":{");
        if (!choice->begun) dyn__json_lit(out, "\"role\":\"assistant\",");
        if (!choice->begun || self->shown.size > 0) {
            dyn__json_lit(out, "\"content\":");
            dyn__json_str(out, self->shown.data, self->shown.size);
        }
        dyn__json_raw(out, "}", 1);
    } else {
        dyn__json_lit(out, ",\"text\":\"");
        if (!choice->begun && choice->prefix.size > 0 && out->rc == DYN_OK)
            out->rc = dyn_json_escape(&out->text, choice->prefix.data, choice->prefix.size);
        if (self->shown.size > 0 && out->rc == DYN_OK)
            out->rc = dyn_json_escape(&out->text, self->shown.data, self->shown.size);
        dyn__json_raw(out, "\"", 1);
    }
    dyn__render_logprobs(out, choice->logprobs, self->kind, self->logprobs >= 0 && choice->logprobs[0].text.size > 0);
    finish_reason(out, finish);
    dyn__json_lit(out, self->include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
    choice->begun = true;
}

void dyn__chunk_metrics(dyn_answer *self, struct choice *choice)
{
    struct json *out = &self->out;
    const struct choice *first = choice; /* of its prompt: that one has its tokens */
    while (first > self->choices && first->prompt_tokens == 0) first--;
    dyn__json_lit(out, "event: llm_metrics\n: {\"index\":");
    dyn__json_uint(out, (uint64_t)(choice - self->choices));
    dyn__json_lit(out, ",\"input_tokens\":");
    dyn__json_uint(out, first->prompt_tokens);
    dyn__json_lit(out, ",\"output_tokens\":");
    dyn__json_uint(out, choice->generated);
    dyn__json_lit(out, ",\"chunk_tokens\":");
    dyn__json_uint(out, choice->generated - choice->announced);
    if (choice->summary.cached_tokens >= 0) {
        dyn__json_lit(out, ",\"cached_tokens\":");
        dyn__json_uint(out, (uint64_t)choice->summary.cached_tokens);
    }
    dyn__json_lit(out, "}\n\n");
    choice->announced = choice->generated;
}

void dyn__chunk_last(dyn_answer *self)
{
    if (self->include_usage) {
        data_head(self);
        dyn__json_lit(&self->out, "\"choices\":[],");
        usage(self);
        dyn__json_lit(&self->out, "}\n\n");
    }
    dyn__json_lit(&self->out, "data: [DONE]\n\n");
}

void dyn__chunk_error(dyn_answer *self, int status, const char *message, const char *type, const char *param,
                      const char *code)
{
    dyn__json_lit(&self->out, "event: error\ndata: ");
    dyn__render_error(&self->out, status, message, type, param, code);
    dyn__json_lit(&self->out, "\n\n");
}

void dyn__chunk_body(dyn_answer *self)
{
    struct json *out = &self->out;
    dyn__json_raw(out, self->head.text.data, self->head.text.size);
    dyn__json_lit(out, "\"choices\":[");
    for (uint32_t i = 0; i < self->choice_count; i++) {
        struct choice *choice = &self->choices[i];
        dyn__json_lit(out, i > 0 ? ",{\"index\":" : "{\"index\":");
        dyn__json_uint(out, i);
        dyn__json_lit(out, self->kind == DYN_ANSWER_CHAT ? ",\"message\":{\"role\":\"assistant\",\"content\":\""
                                                         : ",\"text\":\"");
        if (out->rc == DYN_OK && choice->prefix.size > 0)
            out->rc = dyn_json_escape(&out->text, choice->prefix.data, choice->prefix.size);
        dyn__json_raw(out, choice->text.text.data, choice->text.text.size); /* escaped when it was kept */
        dyn__json_lit(out, self->kind == DYN_ANSWER_CHAT ? "\",\"refusal\":null}" : "\"");
        dyn__render_logprobs(out, choice->logprobs, self->kind, self->logprobs >= 0);
        finish_reason(out, choice->summary.finish);
        dyn__json_raw(out, "}", 1);
    }
    dyn__json_lit(out, "],");
    usage(self);
    if (self->extra.text.size > 0) {
        dyn__json_raw(out, ",", 1);
        dyn__json_raw(out, self->extra.text.data, self->extra.text.size);
    }
    dyn__json_raw(out, "}", 1);
}
