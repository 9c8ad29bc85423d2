cimport cython

from libc.stdint cimport uint64_t

from dynamo._mailbox cimport Mailbox, Receiver
from dynamo._metrics cimport Registry
from dynamo.c_mailbox cimport dyn_mail
from dynamo.c_service cimport (
    dyn_call, dyn_call_mail, dyn_cork, dyn_endpoint, dyn_pool, dyn_server, dyn_stream, dyn_stream_mail)
from dynamo.c_wire cimport dyn_bytes, dyn_slice


# Connections to workers. For Cython code that starts calls with C callbacks:
#     cdef Pool pool = caller.pool
#     address = caller.address_of(instance_id)          # bytes, or None when the instance is not there
#     request.address = <const char *>address
#     check(dyn_call_start(pool.ptr, &request, &events, user, NULL, &call))
# Keep a dyn_pool_ref() for as long as C needs it, and release the GIL around calls that may write much.
@cython.final
cdef class Pool:
    cdef dyn_pool *ptr          # owned
    cdef int generation         # which process made it: a child of fork leaves its parent's alone
    cdef int ours(self) except -1


@cython.final
cdef class Server:
    cdef dyn_server *ptr        # owned; NULL once closed
    cdef int generation
    cdef readonly str host
    cdef readonly int port


# What one asyncio loop and the C side share: a mailbox in, a cork out.
@cython.final
cdef class Port(Receiver):
    cdef Mailbox box
    cdef dyn_cork *cork         # owned
    cdef int generation
    cdef unsigned long thread   # the loop's: only it may use the cork
    cdef object loop_ref        # weak
    cdef bint flushing          # a flush is scheduled
    cdef object flush_call
    cdef list kept              # receivers that mails may still name
    cdef object __weakref__
    cdef object loop(self)
    cdef void soon(self) noexcept


cpdef Port port_of_running_loop()


@cython.final
cdef class Context:
    cdef object name            # str, made when asked for
    cdef object _metadata       # dict or None
    cdef object _traceparent
    cdef object _tracestate
    cdef object _request_id     # the x-request-id header
    cdef readonly bint stopped
    cdef readonly bint killed
    cdef list waiters           # futures of async_killed_or_stopped
    cdef list followers         # weak references to streams and contexts that follow
    cdef object __weakref__
    cdef void halt(self, bint kill)
    cdef trace_part(self, int index, int size)
    cdef follow(self, object follower)


# The live instances of one endpoint and the calls to them.
@cython.final
cdef class Caller:
    cdef readonly Pool pool
    cdef readonly str path
    cdef dict table             # id -> (address: bytes, record)
    cdef list live              # ids, sorted, without the inhibited
    cdef dict inhibited         # id -> loop-independent time when it counts again
    cdef size_t turn
    cdef public double inhibit_secs
    cdef public bint arrays
    cdef bytes address_of(self, uint64_t instance_id)
    cdef uint64_t pick(self, int mode, object avoid) except? 0


@cython.final
cdef class ResponseStream:
    cdef dyn_call *call         # a reference; NULL before the first start
    cdef int generation
    cdef Port port
    cdef Caller caller
    cdef dyn_call_mail *head    # items that wait, oldest first
    cdef dyn_call_mail *tail
    cdef dyn_slice rest         # what is left of head
    cdef object waiter          # the future of the task that waits for an item
    cdef bint ended
    cdef bint streamed          # something came: another worker cannot start afresh
    cdef bint annotated
    cdef object decode
    cdef object error
    cdef bytes payload          # kept until something came
    cdef Context context
    cdef int mode
    cdef object tried
    cdef readonly uint64_t instance_id
    cdef object __weakref__
    cdef int start(self) except -1
    cdef bint elsewhere(self, int code) except -1
    cdef void came(self, dyn_call_mail *mail) noexcept
    cdef void finish(self, dyn_call *call) noexcept
    cdef object take(self)
    cdef void wake(self) noexcept


@cython.final
cdef class Serving(Receiver):
    cdef dyn_endpoint *ptr      # owned
    cdef int generation
    cdef Port port
    cdef object handler
    cdef object decode
    cdef int style
    cdef public object on_idle  # called when the last request of a closing endpoint is over
    cdef readonly int running
    cdef set handlings
    cdef bint closing
    cdef void *counted          # endpoint_metrics
    cdef Registry registry      # while scrapes ask us
    cdef void request(self, dyn_stream *stream)


@cython.final
cdef class Handling:
    cdef Serving serving
    cdef dyn_stream *stream     # a reference; NULL once it is over
    cdef Context context
    cdef object agen            # what yields the items
    cdef object pending         # an awaitable under way: the next item, the call itself, or the close
    cdef object waiter          # the future of "there is room again"
    cdef object task
    cdef int phase
    cdef dyn_bytes batch
    cdef size_t count
    cdef int streak             # items since the loop had its turn
    cdef object __weakref__
    cdef int send_batch(self, bint now) except -2
    cdef void over(self) noexcept
    cdef void changed(self)
