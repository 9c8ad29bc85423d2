# cython: boundscheck=False, wraparound=False
"""The replay of traces in C, for `dynamo.replay`."""
from libc.stdint cimport uint32_t, uint64_t

from dynamo._errors cimport check
from dynamo.c_common cimport DYN_ECANCELED
from dynamo.c_mocker cimport DYN_MOCKER_2025, DYN_MOCKER_2026
from dynamo.c_replay cimport (
    dyn_replay_config, dyn_replay_config_init, dyn_replay_result, dyn_replay_run, dyn_replay_summary,
    dyn_replay_trace)
from dynamo.c_router cimport (
    DYN_ROUTER_KV, DYN_ROUTER_LEAST_LOADED, DYN_ROUTER_RANDOM, DYN_ROUTER_ROUND_ROBIN, DYN_ROUTER_TWO_CHOICES)

_POLICIES = {
    "kv": DYN_ROUTER_KV,
    "round-robin": DYN_ROUTER_ROUND_ROBIN,
    "random": DYN_ROUTER_RANDOM,
    "least-loaded": DYN_ROUTER_LEAST_LOADED,
    "two-choices": DYN_ROUTER_TWO_CHOICES,
}


cdef class _Teller:
    cdef object call, error


# On the caller's own thread, so the GIL may be taken; an exception ends the replay and is raised by replay().
cdef int tell(void *user, size_t done, size_t total) noexcept with gil:
    cdef _Teller teller = <_Teller>user
    try:
        if teller.call is not None:
            teller.call(done, total)
        else:
            check_signals()
        return 0
    except BaseException as error:
        teller.error = error
        return DYN_ECANCELED


cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1


cdef int check_signals() except -1:
    return PyErr_CheckSignals()


def replay(const double[::1] arrival_ms, const uint32_t[::1] input_tokens, const uint32_t[::1] output_tokens,
           const uint64_t[::1] first, const uint32_t[::1] ids, *, size_t trace_block, str router, size_t workers,
           size_t block_size, size_t blocks, double speedup, double temperature, double overlap_score_credit,
           int timing, size_t max_sequences, size_t max_batched_tokens, uint64_t seed, progress=None):
    """Replay a trace; returns (structured array with a row per request, dict of totals). See `dynamo.replay.run`."""
    import numpy

    cdef dyn_replay_config config
    cdef dyn_replay_trace trace
    cdef dyn_replay_summary summary
    cdef size_t count = arrival_ms.shape[0]
    cdef char[::1] rows
    cdef int rc
    cdef _Teller teller = _Teller()

    if <size_t>input_tokens.shape[0] != count or <size_t>output_tokens.shape[0] != count \
            or <size_t>first.shape[0] != count + 1 or count == 0:
        raise ValueError(f"the columns do not fit: {count} arrivals, {input_tokens.shape[0]} inputs, "
                         f"{output_tokens.shape[0]} outputs, {first.shape[0]} offsets (one more is needed)")
    if first[count] != <uint64_t>ids.shape[0]:
        raise ValueError(f"the last offset is {first[count]}, but there are {ids.shape[0]} ids")
    for i in range(count):
        if first[i] > first[i + 1]:
            raise ValueError(f"offset {i + 1} is before the one above it")
    dyn_replay_config_init(&config)
    config.workers = workers
    config.engine.blocks = blocks
    config.engine.block_size = block_size
    config.engine.max_sequences = max_sequences
    config.engine.max_batched_tokens = max_batched_tokens
    config.engine.timing = DYN_MOCKER_2026 if timing == 2026 else DYN_MOCKER_2025
    config.router.policy = _POLICIES[router]
    config.router.temperature = temperature
    config.router.overlap_score_credit = overlap_score_credit
    config.router.seed = seed
    config.arrival_speedup = speedup
    teller.call = progress
    config.progress = tell
    config.user = <void *>teller
    trace.count = count
    trace.arrival_ms = &arrival_ms[0]
    trace.input_tokens = &input_tokens[0]
    trace.output_tokens = &output_tokens[0]
    trace.first = <const size_t *>&first[0]
    trace.ids = &ids[0] if ids.shape[0] else NULL
    trace.trace_block = trace_block
    results = numpy.empty(count, numpy.dtype([
        ("ttft_ms", "f8"), ("itl_ms", "f8"), ("total_ms", "f8"), ("cached_tokens", "u4"), ("overlap_blocks", "u4"),
        ("worker", "u4"), ("status", "i4")], align=True))
    assert results.itemsize == sizeof(dyn_replay_result)
    rows = results.view(numpy.int8)
    with nogil:
        rc = dyn_replay_run(&config, &trace, <dyn_replay_result *>&rows[0], &summary)
    if teller.error is not None:
        raise teller.error
    check(rc)
    return results, {
        "duration_ms": summary.duration_ms, "finished": summary.finished, "refused": summary.refused,
        "prompt_tokens": summary.prompt_tokens, "cached_tokens": summary.cached_tokens,
        "prefilled_tokens": summary.prefilled_tokens, "generated_tokens": summary.generated_tokens,
        "preemptions": summary.preemptions, "evicted_blocks": summary.evicted_blocks,
        "stored_blocks": summary.stored_blocks, "removed_blocks": summary.removed_blocks,
        "index_refusals": summary.index_refusals, "index_bytes": summary.index_bytes}
