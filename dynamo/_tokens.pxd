from dynamo.c_tokens cimport dyn_detok, dyn_jail, dyn_stops, dyn_token_batch, dyn_vocab


cdef class Vocab:
    cdef dyn_vocab *ptr         # owned: one reference


cdef class Detokenizer:
    cdef dyn_detok *ptr         # owned


cdef class StopStrings:
    cdef dyn_stops *ptr         # owned: one reference
    cdef readonly tuple strings


cdef class StopMatcher:
    cdef StopStrings stops
    cdef dyn_jail jail


cdef class TokenBatch:
    cdef dyn_token_batch *ptr   # owned
    cdef int pins               # views of the columns that live; writers need 0 (counted under the GIL)
    cdef int ready_to_write(self) except -1
    cdef object column(self, const void *data, bytes format)
