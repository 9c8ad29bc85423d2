/* serve.h -- an answer: the items of worker calls become text, and the text an OpenAI response.
 *
 *   dyn_call --items--> choice 0 --+
 *   dyn_call --items--> choice 1 --+--> dyn_answer --> one dyn_http_exchange (SSE chunks, or one JSON body)
 *                          |
 *        read item, detokenise, stop strings, count, render: on the loop thread, without Python
 *
 * Python starts an answer and gives each choice a call. It hears again when a call broke before its choice was finished
 * (mail BROKE: it may attach another call, which goes on after the tokens that are there, or fail the answer)
 * and when all is over (mail DONE). Everything between is C.
 *
 * Items    msgpack maps as Dynamo workers yield them (LLMEngineOutput): token_ids, text, log_probs, top_logprobs,
 *          finish_reason, completion_usage, engine_data; bare or as "data" of an Annotated map.
 * Back-pressure  while the client reads slower than the workers write, credit is kept back, so that the workers stop.
 * Threads  every function may be called from any thread. What Python does takes effect on the loop thread, in order.
 * Errors   DYN_OK or a negative enum dyn_error.
 */
#ifndef DYNAMO_SERVE_H
#define DYNAMO_SERVE_H

#include "dynamo/http.h"
#include "dynamo/metrics.h"
#include "dynamo/service.h"
#include "dynamo/tokens.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_answer dyn_answer;

enum dyn_answer_kind { DYN_ANSWER_CHAT, DYN_ANSWER_COMPLETION };
enum { DYN_ANSWER_MAX_CHOICES = 1024 };

/* How a choice ended. */
enum dyn_finish {
    DYN_FINISH_NONE,   /* not yet, or never: the client left, the answer failed */
    DYN_FINISH_STOP,   /* end of text, a stop token, a stop string, or the call ended well without a word */
    DYN_FINISH_LENGTH, /* max_tokens or the context is used up */
    DYN_FINISH_FILTER, /* "content_filter" */
    DYN_FINISH_TOOLS,  /* "tool_calls" */
};

/* Everything is borrowed for the call; texts are UTF-8 and zero-terminated. */
typedef struct dyn_answer_options {
    enum dyn_answer_kind kind;
    bool stream;              /* SSE; else one JSON body */
    bool include_usage;       /* with stream: a last chunk with the usage */
    bool metrics;             /* with stream: an event llm_metrics after each chunk that brought tokens */
    const char *id;           /* "chatcmpl-..." */
    const char *model;        /* as the client asked for it */
    uint64_t created;         /* seconds since 1970 */
    dyn_vocab *vocab;         /* a reference is taken. NULL: the workers send text */
    bool special;             /* show special tokens */
    dyn_stops *stops;         /* a reference is taken. NULL: none */
    bool include_stop;        /* show the stop string */
    int logprobs;             /* -1: none; else how many alternatives per token are shown */
    bool tokens_as_ids;       /* log probabilities name tokens "token_id:5" */
    const uint32_t *stop_ids; /* ids that end a choice and are not shown; stop_id_count of them */
    size_t stop_id_count;
    const dyn_pair *headers; /* of the HTTP answer; header_count of them */
    size_t header_count;
    dyn_slice preamble; /* SSE bytes that go first (annotations); ignored without stream */
    dyn_slice extra;    /* JSON members that the body ends with, as in "nvext":{...}; ignored with stream */
    size_t max_bytes;   /* of text and log probabilities that are kept for a body; 0: 64 MiB */
    /* Counted on, a reference is taken; NULL: not counted. Seconds from the request to the first token of a choice; seconds per
     * token since the one before; tokens. */
    dyn_series *first, *between, *tokens;
} dyn_answer_options;

typedef struct dyn_answer_choice {
    dyn_slice prefix;       /* text that goes first (echo), UTF-8 */
    uint32_t prompt_tokens; /* counted in the usage; choices of one prompt: say it once, 0 in the others */
    uint32_t max_tokens;    /* 0: the worker decides */
    uint32_t min_tokens;    /* stop strings and stop ids do not count before */
} dyn_answer_choice;

/* What the mailbox gets. The mail is part of the answer and valid until drop(), which everyone must call. */
enum dyn_answer_mail_kind {
    DYN_ANSWER_BROKE = 1, /* a call ended before its choice was finished */
    DYN_ANSWER_DONE = 2,  /* the response is complete or its client gone, and no call is under way: the last mail */
};
typedef struct dyn_answer_mail {
    dyn_mail mail; /* owner: as given */
    int kind;
    dyn_answer *answer;      /* borrowed until drop() */
    uint32_t choice;         /* of BROKE */
    int code;                /* of BROKE: a dyn_error; DYN_ESHUTDOWN also when the worker said "cancelled" by itself */
    const char *type, *text; /* of BROKE: as in dyn_failure; never NULL */
} dyn_answer_mail;

/* Make an answer to an exchange; nothing happens until choices get calls.
 * x        taken: one reference to it goes to the answer, also on failure (which leaves the exchange unanswered
 *          for its other holders). Its client leaving kills the calls.
 * choices  count of them, at least 1.
 * box      a reference is taken; gets dyn_answer_mail for `owner`.
 * errors   DYN_EINVAL, DYN_ELIMIT (choices), DYN_ENOMEM. */
DYN_API int dyn_answer_new_take(dyn_answer **out, dyn_http_exchange *x, const dyn_answer_options *options,
                                const dyn_answer_choice *choices, size_t count, dyn_mailbox *box, void *owner);
DYN_API dyn_answer *dyn_answer_ref(dyn_answer *self);
DYN_API void dyn_answer_unref(dyn_answer *self); /* NULL is allowed */

/* What is to be told about one call, on the loop thread; members but on_end may be NULL. */
typedef struct dyn_answer_hooks {
    void *user;
    void (*on_first)(void *user);                  /* its first token came */
    void (*on_tokens)(void *user, uint32_t count); /* so many more came; about once a second at most */
    void (*on_end)(void *user);                    /* it is over: exactly once, also when it was never started */
} dyn_answer_hooks;

/* Give a choice a call: its first one, or another one after BROKE. The tokens that are there already must be part of
 * the payload's prompt.
 * pool, request  as for dyn_call_start(); request->manual_credit is set by the answer.
 * worker         shown in the header x-dynamo-worker-instance-id if it is the first to send something.
 * hooks          copied. on_end is called also when this fails.
 * errors         DYN_EINVAL (no such choice), DYN_ENOMEM. Anything else arrives as BROKE. */
DYN_API int dyn_answer_call(dyn_answer *self, uint32_t choice, dyn_pool *pool, const dyn_call_request *request,
                            uint64_t worker, const dyn_answer_hooks *hooks);

/* End the answer with an error: an HTTP status with a JSON body, or an SSE event when something was sent already. Calls
 * that are under way are killed. Does nothing when the answer is complete.
 * retry_after  seconds for the header Retry-After; 0: none.     type, param, code: may be NULL.
 * errors       DYN_ENOMEM. */
DYN_API int dyn_answer_fail(dyn_answer *self, int status, const char *message, const char *type, const char *param,
                            const char *code, uint32_t retry_after);

/* The ids that a choice has so far. Only between its BROKE and its next call, or after DONE. */
DYN_API const dyn_token_batch *dyn_answer_tokens(const dyn_answer *self, uint32_t choice);

typedef struct dyn_answer_summary {                   /* times: dyn_now_ns(), 0 when it did not happen */
    uint64_t started_ns, first_ns, last_ns, ended_ns; /* request; first and last token of all choices; response */
    uint32_t prompt_tokens, completion_tokens;
    int status;     /* of the HTTP answer; 0: nothing was sent */
    bool cancelled; /* the client left */
    bool failed;    /* dyn_answer_fail(), also after status 200 */
} dyn_answer_summary;
typedef struct dyn_choice_summary {
    enum dyn_finish finish;
    uint32_t completion_tokens;
    uint32_t calls;        /* 1 without migration */
    uint64_t worker;       /* of its last call */
    uint64_t first_ns;     /* of its last call */
    int64_t cached_tokens; /* of its first call as the engine counted them; -1: it did not say */
    int64_t mirror_tokens; /* engine_data.mirror_tokens: what the worker expected; -1: it did not say */
    char cause[32];        /* engine_data.cause: why the engine could not use more of its cache; "" */
} dyn_choice_summary;
/* Only after DONE. */
DYN_API void dyn_answer_summarize(const dyn_answer *self, dyn_answer_summary *out);
/* Only after DONE.  errors  DYN_EINVAL (no such choice). */
DYN_API int dyn_answer_summarize_choice(const dyn_answer *self, uint32_t choice, dyn_choice_summary *out);

/* Append `size` bytes as the inside of a JSON string; bytes that are not UTF-8 become U+FFFD.  errors  DYN_ENOMEM. */
DYN_API int dyn_json_escape(dyn_text *out, const char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
