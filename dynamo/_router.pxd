cimport cython
from libc.stdint cimport uint32_t, uint64_t

from dynamo.c_index cimport dyn_approx, dyn_index
from dynamo.c_kv_sink cimport dyn_kv_sink
from dynamo.c_metrics cimport dyn_series
from dynamo.c_router cimport dyn_router, dyn_router_config


cdef enum:
    STAGES = 5                  # block hashing, sequence hashing, finding, scheduling, all


# Arrays that one pick needs and the next one uses again.
cdef struct Scratch:
    uint64_t *local             # the sequence hashes lie behind the local ones
    size_t block_room
    void *rows                  # dyn_overlap and dyn_router_held, which are the same
    size_t row_room


# Where a worker's cache events go: into the index, and the router hears that the worker speaks.
cdef struct Ears:
    dyn_index *index
    dyn_router *router


@cython.final
cdef class Decision:
    cdef readonly uint64_t worker_id
    cdef readonly uint32_t dp_rank
    cdef readonly uint32_t overlap_blocks
    cdef readonly uint32_t required_blocks
    cdef readonly uint32_t eligible
    cdef readonly double cost
    cdef readonly uint64_t ticket
    cdef readonly list reasons


@cython.final
cdef class SelectionCore:
    cdef dyn_router *router     # owned; dyn_router_prefill_done(), _output() and _free() on it need no GIL
    cdef dyn_index *index       # what workers say that they hold, or NULL
    cdef dyn_approx *approx     # what was sent to them, or NULL
    cdef Ears ears
    cdef dyn_kv_sink sink       # give it to a subscriber that keeps a reference to this object
    cdef Scratch spare
    cdef bint spare_taken
    cdef dyn_series *stages[STAGES]     # references; the first is NULL while nobody wants to know how long they take
    cdef readonly uint32_t block_size
    cdef readonly object config
    cdef readonly object mode
    cdef dyn_router_config _c_config(self, object config, object thresholds)
    cdef object decide(self, object token_ids, object request_id, dict how, object turn, bint book, bint update)
    cdef list _explain(self, object token_ids, dict how)
    cdef uint64_t ticket_of(self, object request) except? 0xffffffffffffffff
    cdef object told(self, int rc)
