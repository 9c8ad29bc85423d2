/* answer.c -- see dynamo/serve.h for the contract and serve/answer.h for the picture.
 *
 * I1  On the loop thread only: everything after dyn_answer_new_take() and before the mail DONE.
 * I2  hooks.on_end of each attempt runs once; attempts counts those that were started and did not end.
 * I3  A choice is fed by at most one attempt; items of any other are given their credit and dropped.
 * I4  state leaves ANSWERING once. DONE is sent once, when state is not ANSWERING and attempts is 0.
 * I5  While paused, credit gathers in attempt->owed; on_drain pays it. A worker can be ahead of the client by
 *     its window and no more.
 */
#include <stdio.h>

#include "serve/answer.h"

enum { GRACE_MS = 5000 }; /* for a call to end by itself once its choice is finished */

/* ---- life -------------------------------------------------------------------------------------- */

dyn_answer *dyn_answer_ref(dyn_answer *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_answer_unref(dyn_answer *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    for (uint32_t i = 0; i < self->choice_count; i++) {
        struct choice *choice = &self->choices[i];
        dyn_detok_free(choice->detok);
        dyn_token_batch_free(choice->tokens);
        dyn__json_free(&choice->text);
        for (int k = 0; k < 4; k++) dyn__json_free(&choice->logprobs[k]);
        dyn_text_free(&choice->prefix);
        dyn__free(choice->why);
    }
    dyn_http_exchange_unref(self->x);
    dyn_mailbox_unref(self->box);
    dyn_vocab_unref(self->vocab);
    dyn_stops_unref(self->stops);
    dyn_series_unref(self->first);
    dyn_series_unref(self->between);
    dyn_series_unref(self->tokens);
    dyn__free(self->stop_ids);
    dyn__json_free(&self->head);
    dyn__json_free(&self->extra);
    dyn__json_free(&self->preamble);
    dyn__json_free(&self->headers);
    dyn__json_free(&self->out);
    dyn_text_free(&self->decoded);
    dyn_text_free(&self->shown);
    dyn_loop_unref(self->loop);
    dyn__free(self);
}

static void drop_mail(dyn_mail *mail)
{
    dyn_answer_unref(DYN__CONTAINER(mail, dyn_answer_mail, mail)->answer);
}

static void send_mail(dyn_answer *self, dyn_answer_mail *mail)
{
    dyn_answer_ref(self); /* drop_mail() gives it back */
    dyn_mailbox_put(self->box, &mail->mail);
}

static int prepare(dyn_answer *self, const dyn_answer_options *options)
{
    struct json *head = &self->head;
    dyn__json_lit(head, "{\"id\":");
    dyn__json_str(head, options->id, strlen(options->id));
    dyn__json_lit(head, options->kind == DYN_ANSWER_COMPLETION ? ",\"object\":\"text_completion\",\"created\":"
                        : options->stream                      ? ",\"object\":\"chat.completion.chunk\",\"created\":"
                                                               : ",\"object\":\"chat.completion\",\"created\":");
    dyn__json_uint(head, options->created);
    dyn__json_lit(head, ",\"model\":");
    dyn__json_str(head, options->model, strlen(options->model));
    dyn__json_raw(head, ",", 1);
    dyn__json_raw(&self->extra, options->extra.data, options->extra.size);
    dyn__json_raw(&self->preamble, options->preamble.data, options->preamble.size);
    for (size_t i = 0; i < options->header_count; i++) {
        dyn__json_raw(&self->headers, options->headers[i].key.data, options->headers[i].key.size);
        dyn__json_raw(&self->headers, "", 1);
        dyn__json_raw(&self->headers, options->headers[i].value.data, options->headers[i].value.size);
        dyn__json_raw(&self->headers, "", 1);
    }
    if (head->rc < 0 || self->extra.rc < 0 || self->preamble.rc < 0 || self->headers.rc < 0) return DYN_ENOMEM;
    if (options->stop_id_count > 0) {
        self->stop_ids = dyn__malloc(options->stop_id_count * sizeof(*self->stop_ids));
        if (self->stop_ids == NULL) return DYN_ENOMEM;
        memcpy(self->stop_ids, options->stop_ids, options->stop_id_count * sizeof(*self->stop_ids));
        self->stop_id_count = options->stop_id_count;
    }
    return DYN_OK;
}

static int prepare_choice(dyn_answer *self, struct choice *choice, const dyn_answer_choice *from, void *owner)
{
    int rc;
    choice->prompt_tokens = from->prompt_tokens;
    choice->max_tokens = from->max_tokens;
    choice->min_tokens = from->min_tokens;
    choice->summary.cached_tokens = choice->summary.mirror_tokens = -1;
    choice->mail = (dyn_answer_mail){.mail = {.owner = owner, .drop = drop_mail},
                                     .kind = DYN_ANSWER_BROKE,
                                     .answer = self,
                                     .choice = (uint32_t)(choice - self->choices),
                                     .type = "",
                                     .text = ""};
    dyn_jail_init(&choice->jail, self->stops, self->include_stop);
    if ((rc = dyn_token_batch_new(&choice->tokens, 0)) < 0) return rc;
    if ((rc = dyn_text_append(&choice->prefix, from->prefix.data, from->prefix.size)) < 0) return rc;
    choice->offset = dyn__characters(choice->prefix.data, choice->prefix.size);
    if (self->vocab != NULL &&
        (rc = dyn_detok_new(&choice->detok, self->vocab, self->special ? DYN_DETOK_SPECIAL : 0)) < 0)
        return rc;
    return DYN_OK;
}

int dyn_answer_new_take(dyn_answer **out, dyn_http_exchange *x, const dyn_answer_options *options,
                        const dyn_answer_choice *choices, size_t count, dyn_mailbox *box, void *owner)
{
    int rc = DYN_ENOMEM;
    dyn_answer *self = NULL;
    if (count == 0 || options->id == NULL || options->model == NULL) {
        dyn_http_exchange_unref(x);
        return dyn__fail(DYN_EINVAL, "an answer needs an id, a model and at least one choice");
    }
    if (count > DYN_ANSWER_MAX_CHOICES) {
        dyn_http_exchange_unref(x);
        return dyn__fail(DYN_ELIMIT, "%zu choices: an answer has at most %d", count, DYN_ANSWER_MAX_CHOICES);
    }
    self = dyn__calloc(1, sizeof(*self) + count * sizeof(self->choices[0]));
    if (self == NULL) {
        dyn_http_exchange_unref(x);
        return rc;
    }
    atomic_init(&self->refs, 1);
    self->x = x;
    self->loop = dyn_loop_ref(dyn_http_loop(x));
    self->box = dyn_mailbox_ref(box);
    self->kind = options->kind;
    self->stream = options->stream;
    self->include_usage = options->include_usage;
    self->special = options->special;
    self->include_stop = options->include_stop;
    self->tokens_as_ids = options->tokens_as_ids;
    self->logprobs = options->logprobs;
    self->vocab = options->vocab == NULL ? NULL : dyn_vocab_ref(options->vocab);
    self->stops = options->stops == NULL ? NULL : dyn_stops_ref(options->stops);
    self->metrics = options->metrics;
    self->max_bytes = options->max_bytes != 0 ? options->max_bytes : (size_t)64 << 20;
    self->first = options->first == NULL ? NULL : dyn_series_ref(options->first);
    self->between = options->between == NULL ? NULL : dyn_series_ref(options->between);
    self->tokens = options->tokens == NULL ? NULL : dyn_series_ref(options->tokens);
    self->summary.started_ns = dyn_http_started_ns(x);
    self->done = (dyn_answer_mail){
        .mail = {.owner = owner, .drop = drop_mail}, .kind = DYN_ANSWER_DONE, .answer = self, .type = "", .text = ""};
    self->choice_count = (uint32_t)count;
    if ((rc = prepare(self, options)) < 0) goto fail;
    for (size_t i = 0; i < count; i++)
        if ((rc = prepare_choice(self, &self->choices[i], &choices[i], owner)) < 0) goto fail;
    *out = self;
    return DYN_OK;
fail:
    dyn_answer_unref(self);
    return rc;
}

/* ---- attempts ---------------------------------------------------------------------------------- */

/* A call may end inside any function of ours that touches it: whoever goes on afterwards holds it first. */
static void release(struct attempt *attempt)
{
    if (--attempt->holds > 0 || !attempt->ended) return;
    dyn_call_unref(attempt->call);
    dyn_pool_unref(attempt->pool);
    dyn_answer_unref(attempt->answer);
    dyn__free(attempt);
}

static void pay(dyn_answer *self, struct attempt *attempt, size_t bytes)
{
    attempt->owed += bytes;
    if (attempt->call == NULL || attempt->ended || (self->paused && self->state == ANSWERING)) return;
    dyn_call_consumed(attempt->call, attempt->owed, NULL);
    attempt->owed = 0;
}

static void tell_tokens(struct attempt *attempt, uint32_t count, uint64_t now)
{
    attempt->told += count;
    if (attempt->hooks.on_tokens == NULL || attempt->told == 0 || now - attempt->told_ns < UINT64_C(1000000000)) return;
    attempt->hooks.on_tokens(attempt->hooks.user, attempt->told);
    attempt->told = 0;
    attempt->told_ns = now;
}

static void maybe_done(dyn_answer *self)
{
    if (self->state == ANSWERING || self->attempts > 0 || self->done_sent) return; /* I4 */
    self->done_sent = true;
    for (uint32_t i = 0; i < self->choice_count; i++) {
        struct choice *choice = &self->choices[i];
        choice->summary.completion_tokens = choice->generated;
        self->summary.prompt_tokens += choice->prompt_tokens;
        self->summary.completion_tokens += choice->generated;
    }
    send_mail(self, &self->done);
}

enum goodbye { FINISHED, STOP, KILL };

/* Its items no longer count. FINISHED: its worker said so. STOP: the choice is finished without its worker knowing. Both
 * may still say what they counted, and have GRACE_MS for it. */
static void let_go(dyn_answer *self, struct choice *choice, enum goodbye how)
{
    struct attempt *attempt = choice->attempt;
    if (attempt == NULL) return;
    choice->attempt = NULL;
    if (attempt->call == NULL || attempt->ended) return; /* still inside dyn_call_start(), which looks afterwards */
    if (how == KILL) {
        dyn_call_kill(attempt->call, NULL);
        return;
    }
    if (how == STOP) dyn_call_stop(attempt->call, NULL);
    dyn_call_limit(attempt->call, GRACE_MS);
    pay(self, attempt, 0);
}

static void leave(dyn_answer *self, enum state state)
{
    if (self->state != ANSWERING) return;
    self->state = state;
    self->summary.ended_ns = dyn_now_ns();
    for (uint32_t i = 0; i < self->choice_count; i++) let_go(self, &self->choices[i], KILL);
}

static void client_gone(dyn_answer *self)
{
    if (self->state != ANSWERING) return;
    self->summary.cancelled = true;
    leave(self, GONE);
    /* Who only closed its sending side can still read why there is no answer. */
    if (dyn_http_begun(self->x)) {
        dyn_http_abort(self->x);
    } else {
        dyn_http_fail(self->x, 499, "the client closed the connection before the answer", "cancelled", NULL,
                      "cancelled");
    }
    dyn_error_clear();
    maybe_done(self);
}

/* ---- writing ----------------------------------------------------------------------------------- */

static int begin(dyn_answer *self, uint64_t worker)
{
    char number[24];
    int rc;
    if (self->begun) return DYN_OK;
    const char *at = self->headers.text.data, *end = at + self->headers.text.size;
    while (at < end) {
        const char *value = at + strlen(at) + 1;
        if ((rc = dyn_http_set_header(self->x, at, value)) < 0) return rc;
        at = value + strlen(value) + 1;
    }
    snprintf(number, sizeof(number), "%llu", (unsigned long long)worker);
    if ((rc = dyn_http_set_header(self->x, "x-dynamo-worker-instance-id", number)) < 0) return rc;
    self->summary.status = 200;
    self->begun = true;
    if (!self->stream) return DYN_OK;
    if ((rc = dyn_http_begin(self->x, 200, "text/event-stream; charset=utf-8")) < 0) return rc;
    if (self->preamble.text.size > 0) dyn__json_raw(&self->out, self->preamble.text.data, self->preamble.text.size);
    return DYN_OK;
}

/* Send what is in `out`. DYN_EAGAIN of the server is no failure: it stays there until on_drain. */
static int flush(dyn_answer *self)
{
    if (self->out.rc < 0) return self->out.rc;
    if (self->out.text.size > 0) {
        int rc = dyn_http_write(self->x, self->out.text.data, self->out.text.size);
        if (rc == DYN_EAGAIN) return self->paused = true, DYN_OK;
        if (rc < 0) return rc;
        dyn__json_clear(&self->out);
        if (dyn_http_pending(self->x) > dyn_http_share(self->x))
            self->paused = true; /* after a write only: it arms on_drain */
    }
    return DYN_OK;
}

static void finish_stream(dyn_answer *self)
{
    if (self->out.text.size > 0) return; /* the client is behind: on_drain comes back here */
    dyn_http_end(self->x);
    leave(self, COMPLETE);
    maybe_done(self);
}

static void fail(dyn_answer *self, int status, const char *message, const char *type, const char *param,
                 const char *code, uint32_t retry_after)
{
    char number[16];
    if (self->state != ANSWERING) return;
    self->summary.failed = true;
    if (self->stream && self->begun) {
        self->out.rc = DYN_OK;
        dyn__chunk_error(self, status, message, type, param, code);
        if (self->out.rc < 0 || dyn_http_write(self->x, self->out.text.data, self->out.text.size) < 0) {
            dyn_http_abort(self->x);
        } else {
            dyn_http_end(self->x);
        }
        dyn__json_clear(&self->out);
    } else {
        self->summary.status = status;
        if (retry_after > 0) {
            snprintf(number, sizeof(number), "%u", (unsigned)retry_after);
            dyn_http_set_header(self->x, "retry-after", number);
        }
        dyn_http_fail(self->x, status, message, type, param, code);
    }
    leave(self, COMPLETE);
    maybe_done(self);
}

/* A failure of ours: the client left, or memory is short. */
static void give_up(dyn_answer *self, int rc)
{
    if (rc == DYN_ECLOSED || rc == DYN_EBUSY) {
        client_gone(self);
    } else {
        fail(self, rc == DYN_ELIMIT ? 500 : 503,
             rc == DYN_ELIMIT ? "the answer is longer than the server keeps in memory; stream it" : "out of memory",
             NULL, NULL, NULL, rc == DYN_ELIMIT ? 0 : 1);
    }
}

static void complete(dyn_answer *self)
{
    int rc;
    if (self->stream) {
        dyn__chunk_last(self);
        if ((rc = flush(self)) < 0) {
            give_up(self, rc);
            return;
        }
        finish_stream(self);
        return;
    }
    dyn__chunk_body(self);
    rc = self->out.rc;
    if (rc == DYN_OK) rc = dyn_http_respond(self->x, 200, "application/json", self->out.text.data, self->out.text.size);
    if (rc < 0) {
        dyn__json_clear(&self->out);
        give_up(self, rc);
        return;
    }
    leave(self, COMPLETE);
    maybe_done(self);
}

/* What a choice has to show: a chunk of the stream, or kept for the body. */
static int show(dyn_answer *self, struct choice *choice, enum dyn_finish finish, uint64_t worker)
{
    int rc = begin(self, worker);
    if (rc < 0) return rc;
    if (self->stream) {
        if (self->shown.size > 0 || finish != DYN_FINISH_NONE || !choice->begun || choice->logprobs[0].text.size > 0)
            dyn__chunk_text(self, choice, finish);
        if (self->metrics && choice->generated > choice->announced) dyn__chunk_metrics(self, choice);
        return flush(self);
    }
    size_t before = choice->text.text.size;
    if (self->shown.size > 0 && choice->text.rc == DYN_OK)
        choice->text.rc = dyn_json_escape(&choice->text.text, self->shown.data, self->shown.size);
    if (choice->text.rc < 0) return choice->text.rc;
    self->kept += choice->text.text.size - before;
    size_t kept = self->kept;
    for (int i = 0; i < 4; i++) kept += choice->logprobs[i].text.size;
    return kept > self->max_bytes ? DYN_ELIMIT : DYN_OK;
}

static void finish_choice(dyn_answer *self, struct choice *choice, enum dyn_finish finish)
{
    choice->summary.finish = finish;
    if (++self->finished == self->choice_count) complete(self);
}

/* ---- what a call says ---------------------------------------------------------------------------- */

static void broke(dyn_answer *self, struct choice *choice, int code, const char *type, const char *text)
{
    dyn_answer_mail *mail = &choice->mail;
    size_t type_size = strlen(type) + 1, text_size = strlen(text) + 1;
    dyn__free(choice->why);
    choice->why = dyn__malloc(type_size + text_size);
    mail->code = code;
    mail->type = mail->text = "";
    if (choice->why != NULL) {
        memcpy(choice->why, type, type_size);
        memcpy(choice->why + type_size, text, text_size);
        mail->type = choice->why;
        mail->text = choice->why + type_size;
    }
    send_mail(self, mail);
}

static void note(struct choice *choice, const struct dyn__item *item)
{
    dyn_choice_summary *summary = &choice->summary;
    if (summary->calls > 1) return; /* how the first call found the cache is what was predicted */
    if (item->cached_tokens >= 0) summary->cached_tokens = item->cached_tokens;
    if (item->mirror_tokens >= 0) summary->mirror_tokens = item->mirror_tokens;
    if (item->cause != NULL) {
        size_t size = item->cause_size < sizeof(summary->cause) - 1 ? item->cause_size : sizeof(summary->cause) - 1;
        memcpy(summary->cause, item->cause, size);
        summary->cause[size] = '\0';
    }
}

static void measure(dyn_answer *self, struct choice *choice, struct attempt *attempt, uint32_t tokens)
{
    uint64_t now = dyn_now_ns();
    if (tokens == 0) return;
    if (!attempt->had_token) {
        attempt->had_token = true;
        attempt->told_ns = now;
        choice->summary.first_ns = now;
        if (attempt->hooks.on_first != NULL) attempt->hooks.on_first(attempt->hooks.user);
    }
    if (self->tokens != NULL) dyn_series_count(self->tokens, tokens);
    if (choice->last_ns == 0) {
        if (self->first != NULL) dyn_series_observe(self->first, (double)(now - self->summary.started_ns) * 1e-9);
        tokens--;
        choice->last_ns = now;
    }
    double each = tokens > 0 ? (double)(now - choice->last_ns) * 1e-9 / tokens : 0;
    for (uint32_t i = 0; i < tokens && self->between != NULL; i++) dyn_series_observe(self->between, each);
    choice->last_ns = now;
    if (self->summary.first_ns == 0) self->summary.first_ns = now;
    self->summary.last_ns = now;
    tell_tokens(attempt, tokens, now);
}

static void take_item(dyn_answer *self, struct choice *choice, struct attempt *attempt, const uint8_t *bytes,
                      size_t size)
{
    struct dyn__item item;
    enum dyn_finish finish = DYN_FINISH_NONE;
    bool ours = false;
    uint32_t before = choice->generated;
    int rc = dyn__item_read(bytes, size, &item);

    if (rc < 0) {
        let_go(self, choice, KILL);
        broke(self, choice, rc, "", dyn_error_detail());
        return;
    }
    note(choice, &item);
    self->shown.size = 0;
    rc = dyn__choice_feed(self, choice, &item, &finish, &ours);
    if (rc == DYN_OK) {
        measure(self, choice, attempt, choice->generated - before);
        if (item.token_count > 0 || item.text != NULL || finish != DYN_FINISH_NONE)
            rc = show(self, choice, finish, attempt->worker);
    }
    if (rc < 0) {
        give_up(self, rc);
    } else if (item.error != NULL && finish == DYN_FINISH_NONE) {
        char text[512];
        snprintf(text, sizeof(text), "%.*s", (int)(item.error_size < 500 ? item.error_size : 500), item.error);
        let_go(self, choice, KILL);
        broke(self, choice, DYN_EREMOTE, "", text);
    } else if (finish != DYN_FINISH_NONE) {
        let_go(self, choice, ours ? STOP : FINISHED);
        finish_choice(self, choice, finish);
    } else if (item.cancelled) { /* not by us: the worker is leaving */
        let_go(self, choice, KILL);
        broke(self, choice, DYN_ESHUTDOWN, "", "the worker cancelled the request");
    }
}

static void on_item(void *user, const uint8_t *bytes, size_t size)
{
    struct attempt *attempt = user;
    dyn_answer *self = attempt->answer;
    struct choice *choice = &self->choices[attempt->index];
    attempt->holds++;
    if (choice->attempt == attempt && self->state == ANSWERING) {
        take_item(self, choice, attempt, bytes, size);
    } else { /* I3; what it counted is still of interest */
        struct dyn__item item;
        if (choice->attempt == NULL && dyn__item_read(bytes, size, &item) == DYN_OK) note(choice, &item);
    }
    pay(self, attempt, dyn_items_cost(size));
    release(attempt);
}

static void on_end(void *user, int rc, const dyn_failure *failure)
{
    struct attempt *attempt = user;
    dyn_answer *self = attempt->answer;
    struct choice *choice = &self->choices[attempt->index];
    bool current = choice->attempt == attempt;

    attempt->holds++;
    attempt->ended = true;
    if (current) choice->attempt = NULL;
    if (attempt->hooks.on_end != NULL) attempt->hooks.on_end(attempt->hooks.user); /* I2 */
    if (attempt->started) self->attempts--;
    if (current && self->state == ANSWERING) {
        if (rc == DYN_OK) { /* ended well, without a finish_reason */
            self->shown.size = 0;
            int shown = dyn__choice_flush(self, choice);
            if (shown == DYN_OK) shown = show(self, choice, DYN_FINISH_STOP, attempt->worker);
            if (shown < 0) {
                give_up(self, shown);
            } else {
                finish_choice(self, choice, DYN_FINISH_STOP);
            }
        } else {
            broke(self, choice, rc, failure != NULL ? failure->type : "",
                  failure != NULL && failure->text[0] != '\0' ? failure->text : dyn_strerror(rc));
        }
    }
    maybe_done(self);
    release(attempt);
}

/* ---- what the client does -------------------------------------------------------------------------- */

static void on_closed(void *user)
{
    client_gone(user);
}

static void on_drain(void *user)
{
    dyn_answer *self = user;
    if (!self->paused) return;
    self->paused = false;
    if (self->state != ANSWERING) return;
    int rc = flush(self);
    if (rc < 0) {
        give_up(self, rc);
        return;
    }
    if (self->paused) return;
    if (self->finished == self->choice_count) {
        finish_stream(self);
        return;
    }
    for (uint32_t i = 0; i < self->choice_count; i++)
        if (self->choices[i].attempt != NULL) pay(self, self->choices[i].attempt, 0);
}

static void on_done(void *user)
{
    dyn_answer *self = user;
    client_gone(self); /* nothing when it is complete */
    dyn_answer_unref(self);
}

static void watch(dyn_answer *self)
{
    static const dyn_http_events events = {.on_drain = on_drain, .on_closed = on_closed, .on_done = on_done};
    if (self->watched) return;
    self->watched = true;
    dyn_answer_ref(self); /* on_done gives it back */
    int rc = dyn_http_watch(self->x, &events, self);
    if (rc < 0) dyn_answer_unref(self);
    if (rc < 0 || dyn_http_closed(self->x)) client_gone(self);
}

/* ---- what Python does ---------------------------------------------------------------------------- */

static void start(dyn_task *task)
{
    static const dyn_call_events events = {.on_item = on_item, .on_end = on_end};
    struct attempt *attempt = DYN__CONTAINER(task, struct attempt, task);
    dyn_answer *self = attempt->answer;
    struct choice *choice = &self->choices[attempt->index];

    dyn_call *call = NULL;
    attempt->holds++;
    watch(self);
    if (self->state != ANSWERING || choice->attempt != NULL || choice->summary.finish != DYN_FINISH_NONE) {
        on_end(attempt, DYN_ECLOSED, NULL);
        release(attempt);
        return;
    }
    choice->attempt = attempt;
    choice->summary.calls++;
    choice->summary.worker = attempt->worker;
    attempt->started = true;
    self->attempts++;
    int rc = dyn_call_start(attempt->pool, &attempt->request, &events, attempt, NULL, &call);
    attempt->call = call;
    if (rc < 0) {
        dyn_failure failure = {.code = rc, .type = "", .text = dyn_error_detail(), .trace = ""};
        attempt->call = NULL;
        on_end(attempt, rc, &failure);
    } else if (!attempt->ended && choice->attempt != attempt) { /* let go of while there was no call to stop */
        dyn_call_kill(call, NULL);
    } else {
        pay(self, attempt, 0);
    }
    release(attempt);
}

static uint8_t *copy(uint8_t **at, dyn_slice from)
{
    uint8_t *to = *at;
    if (from.size > 0) memcpy(to, from.data, from.size);
    *at += from.size;
    return to;
}

int dyn_answer_call(dyn_answer *self, uint32_t index, dyn_pool *pool, const dyn_call_request *request, uint64_t worker,
                    const dyn_answer_hooks *hooks)
{
    size_t size = sizeof(struct attempt) + request->header_count * sizeof(dyn_pair) + request->payload.size;
    size_t address = strlen(request->address) + 1;
    for (size_t i = 0; i < request->header_count; i++)
        size += request->headers[i].key.size + request->headers[i].value.size;
    struct attempt *attempt = index < self->choice_count ? dyn__calloc(1, size + address) : NULL;
    if (attempt == NULL) {
        if (hooks->on_end != NULL) hooks->on_end(hooks->user);
        return index < self->choice_count ? DYN_ENOMEM
                                          : dyn__fail(DYN_EINVAL, "choice %u of %u", index, self->choice_count);
    }
    attempt->headers = (dyn_pair *)(attempt + 1);
    uint8_t *at = (uint8_t *)(attempt->headers + request->header_count);
    attempt->request = *request;
    attempt->request.manual_credit = true;
    attempt->request.headers = attempt->headers;
    attempt->request.address = (char *)copy(&at, (dyn_slice){(const uint8_t *)request->address, address});
    attempt->request.payload.data = copy(&at, request->payload);
    for (size_t i = 0; i < request->header_count; i++) {
        attempt->headers[i].key = (dyn_slice){copy(&at, request->headers[i].key), request->headers[i].key.size};
        attempt->headers[i].value = (dyn_slice){copy(&at, request->headers[i].value), request->headers[i].value.size};
    }
    attempt->task.run = start;
    attempt->answer = dyn_answer_ref(self);
    attempt->index = index;
    attempt->pool = dyn_pool_ref(pool);
    attempt->hooks = *hooks;
    attempt->worker = worker;
    dyn_loop_post(self->loop, &attempt->task);
    return DYN_OK;
}

struct failing {
    dyn_task task;
    dyn_answer *answer; /* a reference */
    int status;
    uint32_t retry_after;
    char *message, *type, *param, *code; /* NULL: none */
    char texts[];
};

static void run_failing(dyn_task *task)
{
    struct failing *failing = DYN__CONTAINER(task, struct failing, task);
    watch(failing->answer);
    fail(failing->answer, failing->status, failing->message, failing->type, failing->param, failing->code,
         failing->retry_after);
    dyn_answer_unref(failing->answer);
    dyn__free(failing);
}

static char *copy_text(char **at, const char *text)
{
    if (text == NULL) return NULL;
    char *to = *at;
    size_t size = strlen(text) + 1;
    memcpy(to, text, size);
    *at += size;
    return to;
}

int dyn_answer_fail(dyn_answer *self, int status, const char *message, const char *type, const char *param,
                    const char *code, uint32_t retry_after)
{
    size_t size = strlen(message) + 1;
    size += type != NULL ? strlen(type) + 1 : 0;
    size += param != NULL ? strlen(param) + 1 : 0;
    size += code != NULL ? strlen(code) + 1 : 0;
    struct failing *failing = dyn__malloc(sizeof(*failing) + size);
    if (failing == NULL) return DYN_ENOMEM;
    char *at = failing->texts;
    failing->task.run = run_failing;
    failing->answer = dyn_answer_ref(self);
    failing->status = status;
    failing->retry_after = retry_after;
    failing->message = copy_text(&at, message);
    failing->type = copy_text(&at, type);
    failing->param = copy_text(&at, param);
    failing->code = copy_text(&at, code);
    dyn_loop_post(self->loop, &failing->task);
    return DYN_OK;
}

/* ---- looking in ------------------------------------------------------------------------------------ */

const dyn_token_batch *dyn_answer_tokens(const dyn_answer *self, uint32_t choice)
{
    return choice < self->choice_count ? self->choices[choice].tokens : NULL;
}

void dyn_answer_summarize(const dyn_answer *self, dyn_answer_summary *out)
{
    *out = self->summary;
}

int dyn_answer_summarize_choice(const dyn_answer *self, uint32_t choice, dyn_choice_summary *out)
{
    if (choice >= self->choice_count) return dyn__fail(DYN_EINVAL, "choice %u of %u", choice, self->choice_count);
    *out = self->choices[choice].summary;
    return DYN_OK;
}
