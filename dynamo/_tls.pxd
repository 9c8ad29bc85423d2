cimport cython

from dynamo.c_tls cimport dyn_tls_context


@cython.final
cdef class TlsContext:
    cdef dyn_tls_context *ptr       # a reference
