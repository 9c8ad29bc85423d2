"""The process's loop thread."""
import atexit
import os

from dynamo._errors cimport check
from dynamo.c_loop cimport dyn_loop_new, dyn_loop_unref


cdef class Loop:
    """A C loop thread. It needs no Python and no GIL to do its work."""

    def __cinit__(self):
        check(dyn_loop_new(&self.ptr))

    def __dealloc__(self):
        cdef dyn_loop *ptr = self.ptr
        if ptr != NULL:
            with nogil:          # its last tasks may wait for a thread that wants the GIL
                dyn_loop_unref(ptr)


cdef Loop _default = None


cpdef Loop default_loop():
    """The loop thread that everything in this process shares; started on first use."""
    global _default
    if _default is None:
        _default = Loop()
    return _default


def _forget():
    # In a child of fork the thread is gone: leave its memory alone and start afresh when asked.
    global _default
    if _default is not None:
        _default.ptr = NULL
        _default = None


def _stop():
    global _default
    _default = None


os.register_at_fork(after_in_child=_forget)
atexit.register(_stop)
