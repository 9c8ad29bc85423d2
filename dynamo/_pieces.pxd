cimport cython

from dynamo.c_http_piece cimport dyn_http_piece


# Buffers of Python's that C reads where they lie; held as long as this lives.
@cython.final
cdef class Pieces:
    cdef Py_buffer *views
    cdef dyn_http_piece *list       # `count` of them, in their order
    cdef size_t count
    cdef int take(self, list buffers) except -1
