# cython: boundscheck=False, wraparound=False
"""Bodies in pieces, sent from where they lie."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc

from dynamo._made cimport dyn_only_library_makes
from dynamo.c_http_piece cimport dyn_http_piece


cdef class Pieces:
    """Buffers that are being sent."""

    def __init__(self, *args, **kwargs):
        raise TypeError("pieces are made by who sends them")

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        PyMem_Free(self.views)
        PyMem_Free(self.list)

    cdef int take(self, list buffers) except -1:
        cdef size_t room = len(buffers) or 1
        self.views = <Py_buffer *>PyMem_Malloc(room * sizeof(Py_buffer))
        self.list = <dyn_http_piece *>PyMem_Malloc(room * sizeof(dyn_http_piece))
        if self.views == NULL or self.list == NULL:
            raise MemoryError()
        for buffer in buffers:
            PyObject_GetBuffer(buffer, &self.views[self.count], PyBUF_SIMPLE)
            self.list[self.count].data = self.views[self.count].buf
            self.list[self.count].length = self.views[self.count].len
            self.count += 1
        return 0


dyn_only_library_makes(Pieces)
