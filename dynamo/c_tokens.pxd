# Mirrors dynamo/tokens.h.
from libc.stdint cimport uint8_t, uint32_t


cdef extern from "dynamo/tokens.h" nogil:
    ctypedef struct dyn_text:
        char *data
        size_t size
        size_t room
    int dyn_text_reserve(dyn_text *self, size_t more)
    int dyn_text_append(dyn_text *self, const void *data, size_t size)
    void dyn_text_free(dyn_text *self)

    ctypedef struct dyn_vocab:
        pass
    enum:
        DYN_TOKEN_SPECIAL
        DYN_VOCAB_STRIP_SPACE
    int dyn_vocab_new(dyn_vocab **out, const uint8_t *bytes, size_t size, const uint32_t *ends,
                      const uint8_t *flags, size_t count, unsigned options)
    dyn_vocab *dyn_vocab_ref(dyn_vocab *self)
    void dyn_vocab_unref(dyn_vocab *self)
    size_t dyn_vocab_count(const dyn_vocab *self)
    const uint8_t *dyn_vocab_bytes(const dyn_vocab *self, uint32_t id, size_t *size)
    bint dyn_vocab_special(const dyn_vocab *self, uint32_t id)

    ctypedef struct dyn_detok:
        pass
    enum:
        DYN_DETOK_SPECIAL
        DYN_DETOK_AT_START
    int dyn_detok_new(dyn_detok **out, dyn_vocab *vocab, unsigned flags)
    void dyn_detok_free(dyn_detok *self)
    int dyn_detok_push(dyn_detok *self, const uint32_t *ids, size_t count, dyn_text *out)
    int dyn_detok_end(dyn_detok *self, dyn_text *out)

    ctypedef struct dyn_stops:
        pass
    enum:
        DYN_STOPS_MAX
        DYN_STOPS_MAX_BYTES
    int dyn_stops_new(dyn_stops **out, const char *const *strings, const size_t *sizes, size_t count)
    dyn_stops *dyn_stops_ref(dyn_stops *self)
    void dyn_stops_unref(dyn_stops *self)
    ctypedef struct dyn_jail:
        const dyn_stops *stops
        int matched
        bint include_stop
    void dyn_jail_init(dyn_jail *self, const dyn_stops *stops, bint include_stop)
    int dyn_jail_push(dyn_jail *self, const char *text, size_t size, dyn_text *out)
    size_t dyn_jail_held(const dyn_jail *self)
    int dyn_jail_end(dyn_jail *self, dyn_text *out)

    enum:
        DYN_TOKEN_HAS_TEXT
        DYN_TOKEN_HAS_LOGPROB
        DYN_TOKEN_IS_SPECIAL
        DYN_TOKEN_TEXT_MAX
        DYN_TOKEN_COUNT_MAX
        DYN_TOKEN_HEAD_MAX
    ctypedef struct dyn_token:
        uint32_t id
        uint32_t position
        float logprob
        uint8_t flags
        const char *text
        size_t text_size
    int dyn_token_encoded_size(const dyn_token *self, size_t *size)
    uint8_t *dyn_token_encode(const dyn_token *self, uint8_t *out)
    int dyn_token_decode(const uint8_t *bytes, size_t size, dyn_token *out, size_t *used)

    ctypedef struct dyn_token_batch:
        pass
    enum:
        DYN_TOKEN_BATCH_MAX
    int dyn_token_batch_new(dyn_token_batch **out, size_t reserve)
    void dyn_token_batch_free(dyn_token_batch *self)
    int dyn_token_batch_append(dyn_token_batch *self, const uint32_t *ids, const uint32_t *positions,
                               const float *logprobs, size_t count)
    int dyn_token_batch_add(dyn_token_batch *self, const dyn_token *token)
    int dyn_token_batch_extend(dyn_token_batch *self, const dyn_token_batch *other, size_t start, Py_ssize_t step,
                               size_t count)
    void dyn_token_batch_truncate(dyn_token_batch *self, size_t count)
    size_t dyn_token_batch_count(const dyn_token_batch *self)
    size_t dyn_token_batch_bytes(const dyn_token_batch *self)
    const uint32_t *dyn_token_batch_ids(const dyn_token_batch *self)
    const uint32_t *dyn_token_batch_positions(const dyn_token_batch *self)
    const float *dyn_token_batch_logprobs(const dyn_token_batch *self)
    const uint8_t *dyn_token_batch_flags(const dyn_token_batch *self)
    void dyn_token_batch_get(const dyn_token_batch *self, size_t index, dyn_token *out)
    const char *dyn_token_batch_text(const dyn_token_batch *self, size_t *size)

    ctypedef struct dyn_token_batch_head:
        bint has_sequence
        bint final
        uint32_t sequence
    int dyn_token_batch_encoded_size(const dyn_token_batch *self, const dyn_token_batch_head *head, size_t *size)
    void dyn_token_batch_encode(const dyn_token_batch *self, const dyn_token_batch_head *head, uint8_t *out)
    int dyn_token_batch_decode(dyn_token_batch *self, const uint8_t *bytes, size_t size, dyn_token_batch_head *head,
                               size_t *used)
