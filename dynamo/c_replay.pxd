# Mirrors dynamo/replay.h.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from dynamo.c_mocker cimport dyn_mocker_config
from dynamo.c_router cimport dyn_router_config


cdef extern from "dynamo/replay.h" nogil:
    ctypedef struct dyn_replay_trace:
        size_t count
        const double *arrival_ms
        const uint32_t *input_tokens
        const uint32_t *output_tokens
        const size_t *first
        const uint32_t *ids
        size_t trace_block
    ctypedef struct dyn_replay_config:
        size_t workers
        dyn_mocker_config engine
        dyn_router_config router
        double arrival_speedup
        int (*progress)(void *user, size_t done, size_t total) noexcept nogil
        void *user
    void dyn_replay_config_init(dyn_replay_config *config)
    ctypedef struct dyn_replay_result:
        double ttft_ms
        double itl_ms
        double total_ms
        uint32_t cached_tokens
        uint32_t overlap_blocks
        uint32_t worker
        int32_t status
    ctypedef struct dyn_replay_summary:
        double duration_ms
        uint64_t finished
        uint64_t refused
        uint64_t prompt_tokens
        uint64_t cached_tokens
        uint64_t prefilled_tokens
        uint64_t generated_tokens
        uint64_t preemptions
        uint64_t evicted_blocks
        uint64_t stored_blocks
        uint64_t removed_blocks
        uint64_t index_refusals
        size_t index_bytes
    int dyn_replay_run(const dyn_replay_config *config, const dyn_replay_trace *trace, dyn_replay_result *results,
                       dyn_replay_summary *summary)
