/* choice.c -- from an item to text: counting, stop ids, detokenising, stop strings, log probabilities. */
#include "serve/answer.h"
#include "tokens/utf8.h"

static bool is_stop_id(const dyn_answer *self, uint32_t id)
{
    for (size_t i = 0; i < self->stop_id_count; i++) /* a handful */
        if (self->stop_ids[i] == id) return true;
    return false;
}

/* Unicode characters in valid UTF-8: what text_offset counts. */
size_t dyn__characters(const char *text, size_t size)
{
    size_t count = 0;
    for (size_t i = 0; i < size; i++) count += ((uint8_t)text[i] & 0xC0) != 0x80;
    return count;
}

/* Decoded text goes past the stop strings, unless they do not count yet. 1: one is complete. */
static int through_jail(dyn_answer *self, struct choice *choice, const char *text, size_t size)
{
    if (choice->generated < choice->min_tokens) return dyn_text_append(&self->shown, text, size);
    return dyn_jail_push(&choice->jail, text, size, &self->shown);
}

static int feed_token(dyn_answer *self, struct choice *choice, struct dyn__item *item, uint32_t id, double logprob)
{
    int rc;
    size_t offset = choice->offset + (self->kind == DYN_ANSWER_COMPLETION && self->logprobs >= 0
                                          ? dyn__characters(self->shown.data, self->shown.size)
                                          : 0);
    float value = (float)logprob;
    if ((rc = dyn_token_batch_append(choice->tokens, &id, NULL, &value, 1)) < 0) return rc;
    choice->generated++;
    if (self->logprobs >= 0) {
        struct dyn__naming naming = {self->vocab, self->tokens_as_ids};
        dyn__render_token(choice->logprobs, self->kind, &naming, id, logprob, item, self->logprobs, offset);
        for (int i = 0; i < 4; i++)
            if (choice->logprobs[i].rc < 0) return choice->logprobs[i].rc;
    }
    if (choice->detok == NULL) return DYN_OK;
    self->decoded.size = 0;
    if ((rc = dyn_detok_push(choice->detok, &id, 1, &self->decoded)) < 0) return rc;
    return through_jail(self, choice, self->decoded.data, self->decoded.size);
}

static int feed_tokens(dyn_answer *self, struct choice *choice, struct dyn__item *item, enum dyn_finish *finish,
                       bool *ours)
{
    for (uint32_t i = 0; i < item->token_count; i++) {
        uint32_t id = dyn__item_token(item);
        double logprob = dyn__item_logprob(item);
        if (choice->max_tokens > 0 && choice->generated >= choice->max_tokens) {
            /* A worker that does not count: its surplus is dropped. One that does says "length" itself, with its usage, so
             * the last token alone ends nothing. */
            *finish = DYN_FINISH_LENGTH;
            *ours = item->finish == DYN_FINISH_NONE;
            return DYN_OK;
        }
        if (self->stop_id_count > 0 && choice->generated >= choice->min_tokens && is_stop_id(self, id)) {
            choice->generated++; /* made, so it is paid for, but not shown */
            *finish = DYN_FINISH_STOP;
            *ours = item->finish == DYN_FINISH_NONE;
            return DYN_OK;
        }
        int rc = feed_token(self, choice, item, id, logprob);
        if (rc < 0) return rc;
        if (rc == 1) {
            *finish = DYN_FINISH_STOP;
            *ours = item->finish == DYN_FINISH_NONE;
            return DYN_OK;
        }
    }
    return DYN_OK;
}

static int feed_text(dyn_answer *self, struct choice *choice, struct dyn__item *item, enum dyn_finish *finish,
                     bool *ours)
{
    const uint8_t *text = (const uint8_t *)item->text;
    if (item->token_count == 0 && item->text_size > 0) {
        choice->counted_by_text = true;
        choice->generated++; /* the best that is known, until the worker says completion_usage */
    }
    for (size_t i = 0, run; i < item->text_size; i = run) { /* what a worker calls text may be any bytes */
        int step = 1, rc;
        for (run = i; run < item->text_size && (step = dyn__utf8_step(text + run, item->text_size - run)) > 0;)
            run += (size_t)step;
        rc = through_jail(self, choice, item->text + i, run - i);
        if (rc == DYN_OK && run < item->text_size) {
            rc = through_jail(self, choice, "\xEF\xBF\xBD", 3);
            run += (size_t)-step;
        }
        if (rc < 0) return rc;
        if (rc == 1) {
            *finish = DYN_FINISH_STOP;
            *ours = item->finish == DYN_FINISH_NONE;
            return DYN_OK;
        }
    }
    return DYN_OK;
}

int dyn__choice_feed(dyn_answer *self, struct choice *choice, struct dyn__item *item, enum dyn_finish *finish,
                     bool *ours)
{
    int rc = feed_tokens(self, choice, item, finish, ours);
    if (rc < 0) return rc;
    if (item->text != NULL && *finish == DYN_FINISH_NONE && (choice->detok == NULL || item->token_count == 0) &&
        (rc = feed_text(self, choice, item, finish, ours)) < 0)
        return rc;
    if (*finish == DYN_FINISH_NONE && !item->cancelled) *finish = item->finish;
    if (item->completion_tokens >= 0 && choice->counted_by_text && item->completion_tokens <= UINT32_MAX)
        choice->generated = (uint32_t)item->completion_tokens;
    if (*finish != DYN_FINISH_NONE && (rc = dyn__choice_flush(self, choice)) < 0) return rc;
    if (self->kind == DYN_ANSWER_COMPLETION && self->logprobs >= 0)
        choice->offset += dyn__characters(self->shown.data, self->shown.size);
    return DYN_OK;
}

int dyn__choice_flush(dyn_answer *self, struct choice *choice)
{
    int rc = DYN_OK;
    if (choice->jail.matched >= 0) return DYN_OK; /* all that follows a stop string is dropped */
    self->decoded.size = 0;
    if (choice->detok != NULL && (rc = dyn_detok_end(choice->detok, &self->decoded)) < 0) return rc;
    if ((rc = dyn_jail_push(&choice->jail, self->decoded.data, self->decoded.size, &self->shown)) < 0) return rc;
    return dyn_jail_end(&choice->jail, &self->shown);
}
