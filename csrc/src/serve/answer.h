/* serve/answer.h -- inside serve: an answer, its choices and their calls.
 *
 *   dyn_answer --- x (the HTTP exchange)
 *     |-- choice 0 --- attempt (the call that feeds it now) --- dyn_call
 *     |-- choice 1 --- attempt --- dyn_call
 *          |  detok -> jail -> shown -> SSE chunk | text
 *          '- tokens: every id so far, for who goes on after a broken call
 *
 * All of it belongs to the loop thread from the first posted task on; before that to the thread that made it.
 */
#ifndef DYN_SRC_SERVE_ANSWER_H
#define DYN_SRC_SERVE_ANSWER_H

#include "dynamo/serve.h"
#include "serve/item.h"
#include "serve/render.h"

/* A call, from dyn_answer_call() to its on_end. */
struct attempt {
    dyn_task task;
    dyn_answer *answer; /* a reference */
    uint32_t index;
    dyn_pool *pool;
    dyn_call *call; /* NULL until dyn_call_start() has given it */
    dyn_call_request request;
    dyn_pair *headers; /* with everything that the request points to behind it, in this allocation */
    dyn_answer_hooks hooks;
    uint64_t worker;
    size_t owed;   /* credit kept back */
    uint32_t told; /* tokens that on_tokens was not told of yet */
    uint64_t told_ns;
    bool started, ended, had_token;
    int holds; /* who stands on it now: freed when ended and 0 */
};

struct choice {
    struct attempt *attempt; /* the one whose items count; NULL: none */
    dyn_detok *detok;        /* NULL without a vocabulary */
    dyn_jail jail;
    dyn_token_batch *tokens;
    struct json text; /* of a body */
    struct json logprobs[4];
    dyn_text prefix;
    uint32_t max_tokens, min_tokens, generated;
    uint32_t announced; /* of these, what events llm_metrics told of */
    uint32_t prompt_tokens;
    size_t offset;        /* characters shown so far, for text_offset */
    bool begun;           /* its first chunk was sent */
    bool counted_by_text; /* the worker sends text without ids */
    uint64_t last_ns;
    dyn_choice_summary summary;
    dyn_answer_mail mail; /* BROKE */
    char *why;            /* what mail.type and mail.text point to */
};

enum state { ANSWERING, COMPLETE, GONE }; /* GONE: the client left */

struct dyn_answer {
    atomic_size_t refs;
    dyn_loop *loop;
    dyn_http_exchange *x;
    dyn_mailbox *box;
    enum dyn_answer_kind kind;
    enum state state;
    bool stream, include_usage, metrics, special, include_stop, tokens_as_ids;
    bool watched, begun, paused, done_sent;
    int logprobs;
    dyn_vocab *vocab;
    dyn_stops *stops;
    uint32_t *stop_ids;
    size_t stop_id_count, max_bytes, kept;
    struct json head;                     /* {"id":..,"object":..,"created":..,"model":.., */
    struct json extra, preamble, headers; /* headers: name NUL value NUL ... */
    dyn_series *first, *between, *tokens; /* references or NULL */
    struct json out;                      /* what is to be written next */
    dyn_text decoded, shown;
    uint32_t choice_count, finished, attempts;
    dyn_answer_summary summary;
    dyn_answer_mail done; /* DONE */
    struct choice choices[];
};

/* choice.c: take what an item says into the choice. Text to show is appended to answer->shown, log probabilities to
 * choice->logprobs. Sets *finish when the choice is finished, and *ours when it was not the worker's idea.
 * errors  DYN_ENOMEM, DYN_ELIMIT. */
int dyn__choice_feed(dyn_answer *self, struct choice *choice, struct dyn__item *item, enum dyn_finish *finish,
                     bool *ours);
/* No more tokens: what was held back is appended to answer->shown. */
int dyn__choice_flush(dyn_answer *self, struct choice *choice);

size_t dyn__characters(const char *text, size_t size);

/* chunk.c: renderings into answer->out. */
void dyn__chunk_text(dyn_answer *self, struct choice *choice,
                     enum dyn_finish finish); /* one SSE chunk with answer->shown */
/* The event llm_metrics: how many tokens came since the last one of this choice, and in all. */
void dyn__chunk_metrics(dyn_answer *self, struct choice *choice);
void dyn__chunk_last(dyn_answer *self); /* usage when asked for, [DONE] */
void dyn__chunk_error(dyn_answer *self, int status, const char *message, const char *type, const char *param,
                      const char *code);
void dyn__chunk_body(dyn_answer *self); /* the whole JSON body */

#endif
