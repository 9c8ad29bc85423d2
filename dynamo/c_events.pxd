# Mirrors dynamo/events.h.
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "dynamo/events.h" nogil:
    enum dyn_event_kind:
        DYN_EVENT_STORED
        DYN_EVENT_REMOVED
        DYN_EVENT_CLEARED
    enum dyn_event_tier:
        DYN_TIER_DEVICE
        DYN_TIER_HOST
        DYN_TIER_DISK
        DYN_TIER_EXTERNAL
    enum dyn_event_form:
        DYN_EVENT_INNER
        DYN_EVENT_ROUTER

    ctypedef struct dyn_event:
        dyn_event_kind kind
        dyn_event_tier tier
        uint64_t worker_id
        uint64_t event_id
        uint32_t dp_rank
        bint has_parent
        bint has_start_position
        uint64_t parent
        uint32_t start_position
        size_t count
        uint64_t *block_hashes
        uint64_t *tokens_hashes
        size_t room
    void dyn_event_init(dyn_event *self)
    void dyn_event_reset(dyn_event *self)
    int dyn_event_reserve(dyn_event *self, size_t count)
    const char *dyn_event_tier_name(dyn_event_tier tier)

    int dyn_event_read_json(dyn_event *self, dyn_event_form form, const char *text, size_t size)
    size_t dyn_event_json_bound(const dyn_event *self)
    size_t dyn_event_write_json(const dyn_event *self, dyn_event_form form, char *out)
