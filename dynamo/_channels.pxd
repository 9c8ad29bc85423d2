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
    cpdef copy(self)
    cpdef checkpoint(self)
    cpdef from_checkpoint(self, checkpoint)
    cpdef get(self)
    cpdef is_available(self)
    cpdef update(self, values)
    cpdef consume(self)
    cpdef finish(self)


cdef class Held(BaseChannel):
    cdef public object value
    cdef blank(self)


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
    cdef set_type(self, typ)
    cdef base(self)


cdef class Barrier(BaseChannel):
    cdef public set names
    cdef public set seen
    cdef bint full(self)
    cdef blank(self)


cdef class Topic(BaseChannel):
    cdef public object accumulate
    cdef public list values
    cdef Topic blank(self)


cdef int idle_kind(channel)
