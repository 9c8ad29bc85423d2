from dynamo.c_loop cimport dyn_loop


cdef class Loop:
    cdef dyn_loop *ptr          # owned


cpdef Loop default_loop()
