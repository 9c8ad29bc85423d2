# Mirrors dynamo/serve.h.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from dynamo.c_http cimport dyn_http_exchange
from dynamo.c_mailbox cimport dyn_mail, dyn_mailbox
from dynamo.c_metrics cimport dyn_series
from dynamo.c_service cimport dyn_call_request, dyn_pool
from dynamo.c_tokens cimport dyn_stops, dyn_text, dyn_token_batch, dyn_vocab
from dynamo.c_wire cimport dyn_pair, dyn_slice


cdef extern from "dynamo/serve.h" nogil:
    ctypedef struct dyn_answer:
        pass
    enum dyn_answer_kind:
        DYN_ANSWER_CHAT
        DYN_ANSWER_COMPLETION
    enum:
        DYN_ANSWER_MAX_CHOICES
    enum dyn_finish:
        DYN_FINISH_NONE
        DYN_FINISH_STOP
        DYN_FINISH_LENGTH
        DYN_FINISH_FILTER
        DYN_FINISH_TOOLS
    ctypedef struct dyn_answer_options:
        dyn_answer_kind kind
        bint stream
        bint include_usage
        bint metrics
        const char *id
        const char *model
        uint64_t created
        dyn_vocab *vocab
        bint special
        dyn_stops *stops
        bint include_stop
        int logprobs
        bint tokens_as_ids
        const uint32_t *stop_ids
        size_t stop_id_count
        const dyn_pair *headers
        size_t header_count
        dyn_slice preamble
        dyn_slice extra
        size_t max_bytes
        dyn_series *first
        dyn_series *between
        dyn_series *tokens
    ctypedef struct dyn_answer_choice:
        dyn_slice prefix
        uint32_t prompt_tokens
        uint32_t max_tokens
        uint32_t min_tokens
    enum dyn_answer_mail_kind:
        DYN_ANSWER_BROKE
        DYN_ANSWER_DONE
    ctypedef struct dyn_answer_mail:
        dyn_mail mail
        int kind
        dyn_answer *answer
        uint32_t choice
        int code
        const char *type
        const char *text
    int dyn_answer_new_take(dyn_answer **out, dyn_http_exchange *x, const dyn_answer_options *options,
                            const dyn_answer_choice *choices, size_t count, dyn_mailbox *box, void *owner)
    dyn_answer *dyn_answer_ref(dyn_answer *self)
    void dyn_answer_unref(dyn_answer *self)
    ctypedef struct dyn_answer_hooks:
        void *user
        void (*on_first)(void *user) noexcept nogil
        void (*on_tokens)(void *user, uint32_t count) noexcept nogil
        void (*on_end)(void *user) noexcept nogil
    int dyn_answer_call(dyn_answer *self, uint32_t choice, dyn_pool *pool, const dyn_call_request *request,
                        uint64_t worker, const dyn_answer_hooks *hooks)
    int dyn_answer_fail(dyn_answer *self, int status, const char *message, const char *type, const char *param,
                        const char *code, uint32_t retry_after)
    const dyn_token_batch *dyn_answer_tokens(const dyn_answer *self, uint32_t choice)
    ctypedef struct dyn_answer_summary:
        uint64_t started_ns
        uint64_t first_ns
        uint64_t last_ns
        uint64_t ended_ns
        uint32_t prompt_tokens
        uint32_t completion_tokens
        int status
        bint cancelled
        bint failed
    ctypedef struct dyn_choice_summary:
        dyn_finish finish
        uint32_t completion_tokens
        uint32_t calls
        uint64_t worker
        uint64_t first_ns
        int64_t cached_tokens
        int64_t mirror_tokens
        char cause[32]
    void dyn_answer_summarize(const dyn_answer *self, dyn_answer_summary *out)
    int dyn_answer_summarize_choice(const dyn_answer *self, uint32_t choice, dyn_choice_summary *out)
    int dyn_json_escape(dyn_text *out, const char *text, size_t size)
