# Mirrors dynamo/http_piece.h.


cdef extern from "dynamo/http_piece.h" nogil:
    ctypedef struct dyn_http_piece:
        const void *data
        size_t length
