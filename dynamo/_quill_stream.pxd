cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t

from dynamo._http cimport Request
from dynamo.c_wire cimport dyn_quill_credits, dyn_quill_reader


# What the request streams of one server may hold together. On its loop's thread.
@cython.final
cdef class Budget:
    cdef readonly size_t limit, used


@cython.final
cdef class RequestStream:
    cdef Request request            # None: the messages were there from the start
    cdef object loop
    cdef unsigned long thread       # of the loop
    cdef object decode              # bytes -> what the handler gets; None: bytes
    cdef object on_cancel
    cdef dyn_quill_reader reader
    cdef object items               # a deque of bytes
    cdef Py_ssize_t queued          # how many in them
    cdef size_t partial             # bytes of a message that is not whole yet, about
    cdef Budget budget              # None: it charges nobody
    cdef size_t charged
    cdef bint over                  # no further message comes
    cdef bint closed                # no further frame comes, so no credit either
    cdef object error               # why it is over before its END
    cdef object message_waiter, credit_waiter
    cdef readonly bint counts       # the client counts messages, and grants them
    cdef int64_t credits            # that it has granted and we have not used; may go below zero at the end
    cdef dyn_quill_credits ours     # what we grant
    cdef uint64_t due               # of that, not told yet
    cdef int take_bytes(self, const uint8_t *data, size_t size) except -1
    cdef int fail(self, object error) except -1
    cdef int charge(self) except -1
    cdef int wake(self) except -1
    cdef object pop(self)
    cdef int grant(self) except -1
