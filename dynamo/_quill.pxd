from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint64_t

from dynamo._pieces cimport Pieces
from dynamo.c_http_client cimport dyn_http_call, dyn_http_client, dyn_http_hub
from dynamo.c_wire cimport dyn_quill_credits, dyn_quill_reader


cdef class Channel:
    cdef dyn_http_client *ptr       # a reference
    cdef readonly str url
    cdef readonly size_t max_response_bytes
    cdef object refuse              # (status, headers, body) -> exception, of an answer that is not 2xx
    cdef Hub hub                    # the one used last
    cdef object __weakref__
    cdef Hub hub_here(self)
    cdef int make(self, Call call, bytes method, bytes path, bytes headers, object body, unsigned int timeout_ms,
                  unsigned int flags, bint compress) except -1


# The calls of one asyncio loop, on its thread. Its descriptor is registered with the loop.
cdef class Hub:
    cdef dyn_http_hub *ptr          # owned; NULL when forgotten by a child of fork
    cdef object loop                # weakly
    cdef object __weakref__
    cpdef int drain(self) except -1
    cdef int deliver(self) except -1


cdef class Call:
    cdef dyn_http_call *ptr         # owned
    cdef Channel channel
    cdef Hub hub                    # None: run by the thread that waits
    cdef readonly object future     # gets the body of the answer
    cdef object waiter              # a future of a coroutine that waits for something to change
    cdef object sender              # of one that waits before it sends on
    cdef object packed              # the body, when it was compressed
    cdef Pieces pieces              # or when it is a list of buffers
    cdef Py_buffer view             # the body, lent to the call
    cdef bint viewed
    cdef bint streamed
    cdef bint started               # in a hub, which then owns a reference to self
    cdef object into                # bytes that a large answer goes into
    cdef int start(self, Hub hub) except -1
    cdef int run(self) except -1
    cdef int make_room(self) except -1
    cdef object failure(self)
    cdef object body(self)
    cdef void news(self) noexcept
    cdef void wake(self) noexcept
    cdef int stop(self) except -1
    cdef int usable(self) except -1
    cdef object refused(self, int rc)


cdef class Stream(Call):
    cdef dyn_quill_reader reader
    cdef dyn_quill_credits credits
    cdef bint two_way               # the request is open: credits can be granted
    cdef bint counts                # the server counts our messages, and grants them
    cdef bint end_due               # our END is sent, the request still open
    cdef uint64_t sent, allowed     # messages, since the start
    cdef bint over
    cdef unsigned int timeout_ms    # between two items
    cdef list items
    cdef Py_ssize_t at              # of the next one to hand out
    cdef int check_head(self) except -1
    cdef int read_credits(self) except -1
    cdef int consumed(self) except -1
    cdef int parse(self) except -1
    cdef object take(self)
    cdef int leave(self) except -1
    cdef int go_on_here(self) except -1
