# Mirrors dynamo/mocker.h.
from libc.stdint cimport uint32_t, uint64_t

from dynamo.c_mailbox cimport dyn_mail, dyn_mailbox


cdef extern from "dynamo/mocker.h" nogil:
    enum dyn_mocker_timing:
        DYN_MOCKER_2025
        DYN_MOCKER_2026
    enum dyn_mocker_preemption:
        DYN_MOCKER_NEWEST
        DYN_MOCKER_OLDEST
    ctypedef struct dyn_mocker_config:
        size_t blocks
        size_t block_size
        size_t max_sequences
        size_t max_batched_tokens
        size_t max_waiting
        bint prefix_caching
        bint chunked_prefill
        double watermark
        dyn_mocker_timing timing
        dyn_mocker_preemption preemption
        uint32_t token_low
        uint32_t token_high
    void dyn_mocker_config_init(dyn_mocker_config *config)
    ctypedef struct dyn_mocker_token:
        uint64_t request
        uint32_t token
        uint32_t index
        size_t cached_tokens
        bint finished
    ctypedef struct dyn_mocker_sink:
        void *user
        void (*token)(void *user, const dyn_mocker_token *token) noexcept nogil
        void (*stored)(void *user, const uint64_t *parent, const uint64_t *sequence_hashes,
                       const uint64_t *local_hashes, size_t count) noexcept nogil
        void (*removed)(void *user, const uint64_t *sequence_hashes, size_t count) noexcept nogil
        void (*admitted)(void *user, uint64_t request, size_t cached_tokens, size_t new_tokens) noexcept nogil
    ctypedef struct dyn_mocker_stats:
        size_t waiting
        size_t running
        size_t active_blocks
        size_t inactive_blocks
        size_t total_blocks
        uint64_t steps
        uint64_t preemptions
        uint64_t evicted_blocks
        uint64_t finished
        uint64_t cancelled
        uint64_t prompt_tokens
        uint64_t cached_tokens
        uint64_t prefilled_tokens
        uint64_t generated_tokens
    ctypedef struct dyn_mocker_mail:
        dyn_mail mail
        size_t count
        dyn_mocker_token *tokens
    ctypedef struct dyn_mocker_engine:
        pass
    int dyn_mocker_engine_new(dyn_mocker_engine **out, const dyn_mocker_config *config, double speedup,
                              const dyn_mocker_sink *events, dyn_mailbox *box, void *owner)
    void dyn_mocker_engine_free(dyn_mocker_engine *self)
    int dyn_mocker_engine_submit(dyn_mocker_engine *self, uint64_t request, const uint32_t *tokens, size_t count,
                                 size_t output)
    int dyn_mocker_engine_cancel(dyn_mocker_engine *self, uint64_t request)
    void dyn_mocker_engine_clear(dyn_mocker_engine *self)
    void dyn_mocker_engine_get_stats(dyn_mocker_engine *self, dyn_mocker_stats *out)
