# The channels of a graph as extension types; dynamo/_pregel.pyx reads their fields directly.

cdef object EmptyChannelError   # raised by get() of an empty channel; set by bind()
cdef object MISSING             # what an empty channel's `value` is

# What a superstep may have to do with a channel that nobody wrote to.
cdef enum:
    IDLE_NEVER = 0              # an empty update and finish() do nothing: costs nothing per step
    IDLE_CLEARS = 1             # an empty update empties it when it holds something
    IDLE_FINISHES = 2           # finish() may release it
    IDLE_ASK = 3                # a class of a user's: always asked


cdef class BaseChannel:
    cdef public object key
    cdef public object typ
    cdef int idle                   # IDLE_...
    cpdef copy(self)
    cpdef checkpoint(self)
    cpdef from_checkpoint(self, checkpoint)
    cpdef get(self)
    cpdef is_available(self)
    cpdef update(self, values)
    cpdef consume(self)
    cpdef finish(self)
    cdef declared(self, bint for_writes)


cdef class Native(BaseChannel):     # every class whose `idle` is not IDLE_ASK
    cdef content(self)
    cdef int fill(self, content) except -1
    cdef int load(self, saved) except -1
    cdef bint tracked(self)
    cdef bint holds(self)
    cdef shown(self)
    cdef int take(self, writes, Py_ssize_t count) except -1
    cdef int rest(self) except -1
    cdef int settle(self, spec) except -1
    cdef int start(self) except -1
    cdef int clear(self) except -1
    cdef bint same(self, other) except -1
    cdef bint spend(self) except -1
    cdef Native blank(self)


cdef class Held(Native):
    cdef public object value
    cdef int allow(self, Py_ssize_t writes) except -1
    cdef int vanish(self) except -1


cdef class Guarded(Held):
    cdef public object guard


cdef class EphemeralValue(Guarded):
    pass


cdef class UntrackedValue(Guarded):
    pass


cdef class LastValue(Held):
    pass


cdef class BinaryOperatorAggregate(Held):
    cdef public object operator


cdef class DeltaChannel(Held):
    cdef public object reducer
    cdef public object snapshot_frequency
    cdef int replace(self, content) except -1
    cdef int fold(self, list writes) except -1


cdef class Barrier(Native):
    cdef public set names
    cdef public set seen


cdef class Topic(Native):
    cdef public object accumulate
    cdef public list values


cdef object value_of(BaseChannel channel)
cdef bint has_value(BaseChannel channel) except -1
cdef int idle_kind(channel)
