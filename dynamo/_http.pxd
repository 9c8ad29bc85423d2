cimport cython

from dynamo._loop cimport Loop
from dynamo._mailbox cimport Mailbox, Receiver
from dynamo.c_http cimport dyn_http_exchange, dyn_http_server
from dynamo.c_mailbox cimport dyn_mail


@cython.final
cdef class Server:
    cdef dyn_http_server *ptr   # owned; NULL once closed
    cdef Loop loop
    cdef int pid                # of the process that has the loop thread
    cdef bint secure             # https
    cdef readonly str host
    cdef readonly int port      # 0 until it listens
    cdef object tasks           # those that run handlers
    cdef object stopped         # the future of a stop that is under way
    cdef object __weakref__
    cdef int ready(self) except -1


# One route to an asyncio handler. It lives until its last mail.
cdef class Route(Receiver):
    cdef object handler
    cdef object loop            # asyncio's
    cdef object tasks


# One request and its answer, on the thread of its asyncio loop. Other Cython modules use `x` with dynamo/http.h
# directly, taking a reference of their own.
@cython.final
cdef class Request(Receiver):
    cdef dyn_http_exchange *x   # a reference
    cdef object loop            # asyncio's
    cdef dict header_dict
    cdef int watch              # 0: none, 1: on, 2: ended, a last mail comes, 3: over; 1 and 2 own a reference to self
    cdef bint is_closed
    cdef object drained         # a future of somebody who waits in drain()
    cdef list closed_calls
    cdef object body_call       # called without arguments when more of a live body can be read
    cdef int start_watch(self) except -1
    cdef int stop_watch(self) except -1
    cdef void told_closed(self) noexcept
    cdef object wrote(self, int rc)
    cdef int put_headers(self, object headers) except -1
    cdef int fail_quietly(self, int status, object message) except -1
    cdef int answer(self, object value) except -1
