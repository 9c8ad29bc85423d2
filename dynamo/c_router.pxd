# Mirrors dynamo/router.h.
from libc.stdint cimport int32_t, uint32_t, uint64_t


cdef extern from "dynamo/router.h" nogil:
    const uint32_t DYN_ROUTER_ANY_RANK
    const int DYN_ROUTER_MAX_NAME
    enum dyn_router_policy:
        DYN_ROUTER_KV
        DYN_ROUTER_ROUND_ROBIN
        DYN_ROUTER_RANDOM
        DYN_ROUTER_TWO_CHOICES
        DYN_ROUTER_LEAST_LOADED
        DYN_ROUTER_DIRECT
    enum dyn_router_formula:
        DYN_ROUTER_COST_CREDIT
        DYN_ROUTER_COST_WEIGHT
        DYN_ROUTER_COST_PRODUCT
        DYN_ROUTER_COST_CUSTOM
    ctypedef struct dyn_router_cost_input:
        pass
    ctypedef double (*dyn_router_cost)(void *user, const dyn_router_cost_input *input)
    enum dyn_router_tie:
        DYN_ROUTER_TIE_RANDOM
        DYN_ROUTER_TIE_SMALLEST_TREE
    enum dyn_router_queue_policy:
        DYN_ROUTER_FCFS
        DYN_ROUTER_LCFS
        DYN_ROUTER_WSPT
    enum dyn_router_worker_type:
        DYN_ROUTER_AGGREGATED
        DYN_ROUTER_PREFILL
        DYN_ROUTER_DECODE
        DYN_ROUTER_ENCODE
    enum dyn_router_verdict:
        DYN_ROUTER_ELIGIBLE
        DYN_ROUTER_NOT_ALLOWED
        DYN_ROUTER_TAINTED
        DYN_ROUTER_BUSY
        DYN_ROUTER_AVOIDED
    enum:
        DYN_ROUTER_SET_WEIGHT
        DYN_ROUTER_SET_CREDIT
        DYN_ROUTER_SET_PREFILL_SCALE
        DYN_ROUTER_SET_TEMPERATURE
        DYN_ROUTER_SET_SHARED
        DYN_ROUTER_SET_KV_REUSE
        DYN_ROUTER_SET_TRACK_PREFILL

    ctypedef struct dyn_router:
        pass
    ctypedef struct dyn_router_config:
        uint32_t block_size
        dyn_router_policy policy
        dyn_router_formula formula
        dyn_router_tie tie
        double overlap_score_weight
        double overlap_score_credit
        double overlap_score_credit_decay
        double prefill_load_scale
        double decode_active_request_weight
        double host_cache_hit_weight
        double disk_cache_hit_weight
        double shared_cache_multiplier
        double temperature
        bint track_active_blocks
        bint track_prefill_tokens
        bint track_output_blocks
        bint assume_kv_reuse
        double expiry_seconds
        double queue_threshold
        dyn_router_queue_policy queue_policy
        double busy_decode_blocks
        double busy_prefill_tokens
        double busy_prefill_fraction
        double report_seconds
        double silent_seconds
        size_t max_requests
        size_t max_bytes
        dyn_router_cost cost
        void *cost_user
        uint64_t seed
        uint64_t (*clock)(void *clock_user) noexcept
        void *clock_user
    void dyn_router_config_init(dyn_router_config *config, uint32_t block_size)
    int dyn_router_new(dyn_router **out, const dyn_router_config *config)
    dyn_router *dyn_router_ref(dyn_router *self)
    void dyn_router_unref(dyn_router *self)
    int dyn_router_configure(dyn_router *self, const dyn_router_config *config)
    void dyn_router_get_config(dyn_router *self, dyn_router_config *out)

    ctypedef struct dyn_router_worker:
        uint64_t worker
        uint32_t rank
        dyn_router_worker_type type
        uint64_t total_kv_blocks
        uint64_t max_num_batched_tokens
        double weight
        const char *const *taints
        size_t taint_count
    int dyn_router_put_worker(dyn_router *self, const dyn_router_worker *worker)
    int dyn_router_remove_worker(dyn_router *self, uint64_t worker, uint32_t rank)
    int dyn_router_report(dyn_router *self, uint64_t worker, uint32_t rank, uint64_t active_decode_blocks,
                          uint64_t active_prefill_tokens, uint64_t kv_used_blocks)
    int dyn_router_avoid(dyn_router *self, uint64_t worker, uint32_t rank, double seconds)
    void dyn_router_heard(dyn_router *self, uint64_t worker, uint32_t rank)

    ctypedef struct dyn_router_held:
        uint64_t worker
        uint32_t rank
        uint32_t blocks
        uint64_t tree
    ctypedef struct dyn_router_overlap:
        size_t count
        const dyn_router_held *rows
        const uint32_t *host
        const uint32_t *disk
        uint32_t shared
    ctypedef struct dyn_router_override:
        uint32_t set
        double overlap_score_weight
        double overlap_score_credit
        double prefill_load_scale
        double temperature
        double shared_cache_multiplier
        bint assume_kv_reuse
        bint track_prefill_tokens
    ctypedef struct dyn_router_choice:
        uint64_t worker
        uint32_t rank
        uint32_t overlap_blocks
        uint32_t required_blocks
        uint32_t eligible
        double cost
        uint64_t ticket
    ctypedef struct dyn_router_request:
        bint book
        const char *name
        size_t name_length
        uint64_t tokens
        const uint64_t *sequence
        size_t blocks
        dyn_router_overlap overlap
        dyn_router_override override
        uint64_t expected_output
        bint pinned
        uint64_t worker
        uint32_t rank
        uint32_t rank_start
        uint32_t rank_count
        bint only_allowed
        const uint64_t *allowed
        size_t allowed_count
        const char *const *required_taints
        size_t required_taint_count
        const char *const *preferred_taints
        const double *preferred_weights
        size_t preferred_taint_count
        bint ignore_busy
        void (*ready)(void *user, int rc, const dyn_router_choice *choice) noexcept
        void *user
        int32_t strict_priority
        double priority_jump
    ctypedef struct dyn_router_reason:
        uint64_t worker
        uint32_t rank
        dyn_router_verdict verdict
        bint chosen
        uint32_t overlap_blocks
        uint32_t active_requests
        uint64_t prefill_tokens
        double prefill_blocks
        double decode_blocks
        double cost
    int dyn_router_pick(dyn_router *self, const dyn_router_request *request, dyn_router_choice *choice,
                        dyn_router_reason *reasons, size_t room, size_t *count)
    int dyn_router_explain(dyn_router *self, const dyn_router_request *request, dyn_router_reason *reasons,
                           size_t room, size_t *count)
    uint64_t dyn_router_ticket(dyn_router *self, const char *name, size_t length)
    int dyn_router_prefill_done(dyn_router *self, uint64_t ticket)
    int dyn_router_output(dyn_router *self, uint64_t ticket, uint64_t tokens)
    int dyn_router_free(dyn_router *self, uint64_t ticket)
    size_t dyn_router_expire(dyn_router *self)

    ctypedef struct dyn_router_load:
        uint64_t worker
        uint32_t rank
        dyn_router_worker_type type
        uint64_t total_kv_blocks
        uint64_t max_num_batched_tokens
        uint32_t active_requests
        uint64_t active_prefill_tokens
        double active_decode_blocks
        uint64_t picks
        uint64_t reported_decode_blocks
        uint64_t reported_prefill_tokens
        uint64_t reported_kv_used_blocks
        double seconds_since_event
        bint busy
        bint avoided
        bint silent
    size_t dyn_router_worker_count(dyn_router *self)
    size_t dyn_router_loads(dyn_router *self, dyn_router_load *rows, size_t room)
    ctypedef struct dyn_router_stats:
        size_t workers
        size_t booked
        size_t waiting
        size_t blocks
        size_t bytes
        uint64_t picks
        uint64_t waits
        uint64_t expired
        uint64_t refused
    void dyn_router_get_stats(dyn_router *self, dyn_router_stats *out)
