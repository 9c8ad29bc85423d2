from dynamo.c_tokens cimport dyn_detok, dyn_jail, dyn_stops, dyn_vocab


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
