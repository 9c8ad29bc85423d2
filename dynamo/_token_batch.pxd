from libc.stdint cimport uint32_t

from dynamo.c_tokens cimport dyn_token_batch, dyn_token_batch_head


cdef class _Columns:
    cdef dyn_token_batch *ptr   # owned
    cdef int pins               # views and readers without the GIL; writers need 0 (counted under the GIL)


cdef class TokenBatch:
    cdef _Columns columns       # never None; an iterator that is on its way holds it too
    cdef bint has_sequence
    cdef bint final
    cdef uint32_t sequence
    cdef dict metadata          # str -> str; never None
    cdef int ready_to_write(self) except -1
    cdef int put(self, object token) except -1
    cdef object column(self, const void *data, bytes format)
    cdef dyn_token_batch_head head(self)
