# The index of cached blocks; other modules feed its C handle or ask it without Python.
from libc.stdint cimport uint32_t, uint64_t

from dynamo._hash cimport Hashes
from dynamo.c_index cimport dyn_approx, dyn_index, dyn_overlap

cdef enum:
    FEW_OVERLAPS = 8


cdef class OverlapScores:
    cdef dyn_overlap few[FEW_OVERLAPS]
    cdef dyn_overlap *many          # owned; NULL while `few` is enough
    cdef readonly size_t count      # of workers
    cdef list _frequencies
    cdef dict _scores
    cdef dyn_overlap *rows(self) noexcept
    cdef dyn_overlap *reserve(self, size_t room) except NULL
    cdef object column(self, int which)


cdef class RadixTree:
    cdef dyn_index *ptr             # owned reference; a sink takes its own: dyn_index_ref(tree.ptr)
    cdef uint64_t expiration_ms
    cdef object __weakref__
    cdef int find(self, Hashes *hashes, OverlapScores found, bint early) except -1
    cdef int find_counted(self, Hashes *hashes, OverlapScores found) except -1


cdef class ApproxTree:
    cdef dyn_approx *ptr            # owned reference
    cdef object __weakref__
