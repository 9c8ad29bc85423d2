# Mirrors dynamo/events.h.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dynamo.c_kv_sink cimport dyn_kv_sink
from dynamo.c_metrics cimport dyn_metrics


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

    ctypedef struct dyn_event_decoder_stats:
        uint64_t batches, events, unknown, wrong_block_size, short_of_tokens, ignored_kind, ignored_place
    uint64_t dyn_event_hash_of_bytes(const uint8_t *bytes, size_t size)

    enum dyn_load_field:
        DYN_LOAD_ACTIVE_DECODE_BLOCKS
        DYN_LOAD_ACTIVE_PREFILL_TOKENS
        DYN_LOAD_KV_USED_BLOCKS
        DYN_LOAD_REQUEST_ACTIVE_SLOTS
        DYN_LOAD_REQUEST_TOTAL_SLOTS
        DYN_LOAD_NUM_REQUESTS_WAITING
        DYN_LOAD_KV_ACTIVE_BLOCKS
        DYN_LOAD_KV_TOTAL_BLOCKS
        DYN_LOAD_GPU_CACHE_USAGE_PERC
        DYN_LOAD_GPU_PREFIX_CACHE_HIT_RATE
        DYN_LOAD_FIELDS
    ctypedef struct dyn_load:
        uint64_t worker_id
        uint32_t dp_rank
        uint32_t known
        uint64_t value[10]
    const char *dyn_load_field_name(dyn_load_field field)

    enum dyn_event_wire:
        DYN_WIRE_PLANE
        DYN_WIRE_ENGINE
    ctypedef struct dyn_event_pub:
        pass
    ctypedef struct dyn_event_pub_options:
        const char *endpoint
        const char *replay_endpoint
        bint connect
        dyn_event_wire wire
        const char *topic
        uint64_t publisher_id
        uint64_t worker_id
        uint32_t dp_rank
        uint32_t block_size
        uint32_t hwm
        uint32_t ring_batches
        size_t ring_bytes
        uint32_t mirror_blocks
        uint32_t batch_ms
    ctypedef struct dyn_event_pub_stats:
        uint64_t next_sequence, events, blocks, bytes, replays, replayed_batches
        uint64_t ring_first, ring_batches, ring_bytes
        uint64_t snapshots, mirror_blocks, mirror_bytes
    int dyn_event_pub_new(dyn_event_pub **out, const dyn_event_pub_options *options)
    void dyn_event_pub_free(dyn_event_pub *self)
    const char *dyn_event_pub_endpoint(const dyn_event_pub *self)
    const char *dyn_event_pub_replay_endpoint(const dyn_event_pub *self)
    int dyn_event_pub_send(dyn_event_pub *self, const dyn_event *event, const uint32_t *tokens, const char *lora)
    int dyn_event_pub_send_many(dyn_event_pub *self, const dyn_event *events, size_t count)
    int dyn_event_pub_send_load(dyn_event_pub *self, const dyn_load *load)
    int dyn_event_pub_flush(dyn_event_pub *self)
    void dyn_event_pub_get_stats(dyn_event_pub *self, dyn_event_pub_stats *out)
    dyn_kv_sink dyn_event_pub_sink(dyn_event_pub *self)
    bint dyn_event_endpoint_binds(const char *endpoint)

    ctypedef struct dyn_event_sub:
        pass
    ctypedef struct dyn_event_source:
        pass
    ctypedef struct dyn_event_source_options:
        const char *endpoint
        const char *replay_endpoint
        const char *topic
        uint64_t worker_id
        bint worker_from_event
        uint32_t dp_rank
        uint32_t block_size
        uint32_t hwm
        dyn_kv_sink sink
        void *user
        int (*event)(void *user, const dyn_event *event)
        void (*load)(void *user, const dyn_load *load)
        void *load_user
    ctypedef struct dyn_event_source_stats:
        uint64_t worker_id
        bint connected, silent, replaying, known
        uint64_t next_sequence, batches, events, blocks, loads, gaps, lost, restarts, replays, replayed
        uint64_t replay_failures, snapshots, malformed, refused, other_tier, last_event_ns
        dyn_event_decoder_stats decoder
    int dyn_event_sub_new(dyn_event_sub **out, uint32_t silence_ms)
    void dyn_event_sub_free(dyn_event_sub *self)
    int dyn_event_sub_add(dyn_event_sub *self, const dyn_event_source_options *options, dyn_event_source **out)
    void dyn_event_sub_remove(dyn_event_sub *self, dyn_event_source *source)
    void dyn_event_sub_expect(dyn_event_sub *self, dyn_event_source *source)
    void dyn_event_sub_get_stats(dyn_event_sub *self, const dyn_event_source *source, dyn_event_source_stats *out)
    int dyn_event_sub_show(dyn_event_sub *self, dyn_metrics *registry)

    ctypedef struct dyn_event_queue:
        pass
    ctypedef struct dyn_event_text:
        dyn_event_text *next
        size_t size
        char text[1]
    int dyn_event_queue_new(dyn_event_queue **out, dyn_event_form form, size_t bound)
    void dyn_event_queue_free(dyn_event_queue *self)
    int dyn_event_queue_on_event(void *queue, const dyn_event *event)
    int dyn_event_queue_fd(const dyn_event_queue *self)
    dyn_event_text *dyn_event_queue_take(dyn_event_queue *self)
    void dyn_event_text_free(dyn_event_text *self)
    uint64_t dyn_event_queue_dropped(const dyn_event_queue *self)

    ctypedef struct dyn_load_table:
        pass
    int dyn_load_table_new(dyn_load_table **out)
    void dyn_load_table_free(dyn_load_table *self)
    void dyn_load_table_on_load(void *table, const dyn_load *load)
    void dyn_load_table_remove(dyn_load_table *self, uint64_t worker_id)
    size_t dyn_load_table_get(dyn_load_table *self, dyn_load *out, size_t room)
