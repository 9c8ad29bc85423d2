# Mirrors dynamo/wire.h, as far as the bindings use it.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "dynamo/wire.h" nogil:
    const int DYN_WIRE_MAX_HEADERS
    const int DYN_WIRE_VARINT_MAX
    ctypedef struct dyn_bytes:
        uint8_t *data
        size_t size
        size_t room
    void dyn_bytes_free(dyn_bytes *self)
    int dyn_bytes_reserve(dyn_bytes *self, size_t more)
    int dyn_bytes_append(dyn_bytes *self, const void *data, size_t size)
    ctypedef struct dyn_slice:
        const uint8_t *data
        size_t size
    ctypedef struct dyn_pair:
        dyn_slice key
        dyn_slice value
    size_t dyn_varint_write(uint8_t *out, uint64_t value)
    size_t dyn_varint_read(const uint8_t *bytes, size_t size, uint64_t *out)
    int dyn_items_add(dyn_bytes *out, const void *item, size_t size)
    bint dyn_items_next(dyn_slice *rest, dyn_slice *item)
    bint dyn_items_valid(dyn_slice body)

    # Quill stream frames
    const uint32_t DYN_QUILL_MAX_PAYLOAD
    enum:
        DYN_QUILL_HEAD_MAX
        DYN_QUILL_DATA
        DYN_QUILL_END
        DYN_QUILL_CANCEL
        DYN_QUILL_CREDIT
        DYN_QUILL_KNOWN
        DYN_QUILL_CREDITS
        DYN_QUILL_REFILL
    ctypedef struct dyn_quill_frame:
        uint8_t flags
        dyn_slice payload
    int dyn_quill_read(const uint8_t *bytes, size_t size, dyn_quill_frame *out, size_t *used)
    int dyn_quill_head(uint8_t *out, uint8_t flags, size_t payload_size)
    int dyn_quill_write(dyn_bytes *out, uint8_t flags, const void *payload, size_t size)
    int dyn_quill_credit_write(dyn_bytes *out, uint64_t messages)
    int dyn_quill_credit_read(const dyn_quill_frame *frame, uint64_t *messages)
    ctypedef struct dyn_quill_reader:
        bint ended
        bint cancelled
        int broken
    int dyn_quill_next(dyn_quill_reader *self, dyn_slice *piece, dyn_quill_frame *out)
    int dyn_quill_finish(dyn_quill_reader *self)
    void dyn_quill_reader_free(dyn_quill_reader *self)
    ctypedef struct dyn_quill_credits:
        uint64_t left
        uint64_t consumed
        uint64_t refill
    int dyn_quill_credits_init(dyn_quill_credits *self, uint64_t initial, uint64_t refill)
    bint dyn_quill_credits_take(dyn_quill_credits *self)
    int dyn_quill_credits_grant(dyn_quill_credits *self, uint64_t messages)
    uint64_t dyn_quill_credits_consumed(dyn_quill_credits *self, uint64_t messages)
    ctypedef struct dyn_quill_budget:
        int64_t left
        int64_t low
        int64_t high
        bint paused
    enum dyn_quill_preset:
        DYN_QUILL_DEFAULT
        DYN_QUILL_SMALL
        DYN_QUILL_LARGE
    void dyn_quill_budget_preset(dyn_quill_budget *self, dyn_quill_preset preset)
    int dyn_quill_budget_init(dyn_quill_budget *self, uint64_t initial, uint64_t low, uint64_t high)
    bint dyn_quill_budget_consume(dyn_quill_budget *self, uint64_t bytes)
    bint dyn_quill_budget_grant(dyn_quill_budget *self, uint64_t bytes)
    uint64_t dyn_quill_budget_suggest(const dyn_quill_budget *self)
