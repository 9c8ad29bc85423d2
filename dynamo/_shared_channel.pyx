"""A channel's content, shared by threads and tasks: what is published never changes, an update replaces it.

    state --copy, update: the user's code may run--> next state
      ^                                                  |
      +------- swapped in, unless somebody was faster ---+

I1  A published state (a channel of dynamo._channels) is never changed.
I2  No Python code runs between comparing and storing in swap(), so under the GIL that is one step; whoever swaps holds
    the old state, so that nothing is freed in between.
I3  Watchers are told after the news was published, and nothing is held meanwhile.
I4  state is None exactly while the channel is closed.
"""

from dynamo._channels cimport BaseChannel, LastValue
from dynamo._channels import BaseChannel as _BaseChannel

cdef object LOST = object()             # somebody was faster
cdef object Empty = LookupError         # the exceptions, until bind() says which
cdef object Closed = RuntimeError
cdef object Misused = RuntimeError


def bind(empty, closed, misused):
    """Tell the channels which exceptions to raise.

    Parameters
    ----------
    empty, closed, misused : type
        For reading an empty channel, for using a closed one, and for what can never work.
    """
    global Empty, Closed, Misused
    Empty, Closed, Misused = empty, closed, misused


cdef class SharedChannel:
    """What tasks and threads share of a channel.

    Parameters
    ----------
    native : BaseChannel
        A channel as a graph has it: what an empty one is like, and how it takes writes.
    """
    cdef readonly BaseChannel spec      # what an empty channel is like
    cdef BaseChannel state
    cdef list watchers
    cdef bint entered
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        self.spec = LastValue(object)       # closed, until __init__ says what it is
        self.watchers = []

    def __init__(self, native):
        if not isinstance(native, _BaseChannel):
            raise TypeError(f"a channel of a graph is needed, not {type(native).__name__}")
        self.spec = native
        self.state = native.copy()

    # ---------------------------------------------------------------- reading
    cdef BaseChannel open_state(self):
        if self.state is None:
            raise Closed(f"{self.title()} is closed: enter it again before you use it")
        return self.state

    cdef title(self):
        kind = type(self).__name__
        return f"the {kind} {self.spec.key!r}" if self.spec.key else f"a {kind}"

    def get_sync(self):
        """The value.

        Raises
        ------
        EmptyChannelError
            When there is none yet, or none any more.
        ClosedChannelError
            When the channel was left.
        """
        cdef BaseChannel state = self.open_state()
        try:
            return state.get()
        except Empty:
            raise Empty(f"{self.title()} has no value: update it first, or wait for it") from None

    def is_available(self):
        """Whether `get` would give a value now."""
        cdef BaseChannel state = self.state
        return state is not None and bool(state.is_available())

    def native(self):
        """What is published now; not to be changed."""
        return self.open_state()

    @property
    def closed(self):
        """Whether the channel was left."""
        return self.state is None

    # ---------------------------------------------------------------- changing
    cdef bint swap(self, BaseChannel before, BaseChannel after):
        if self.state is not before:
            return False
        self.state = after
        return True

    cdef try_once(self, list writes):
        """Whether these writes changed the channel (None: it was consumed); LOST if somebody else was faster."""
        cdef BaseChannel before = self.open_state()
        cdef BaseChannel after = before.copy()
        changed = bool(after.consume() if writes is None else after.update(writes))
        if not changed:
            return False if self.state is before else LOST
        if not self.swap(before, after):
            return LOST
        self.tell()
        return True

    def attempt(self, writes):
        """One try to take a list of writes (None: to consume); None when somebody else was faster."""
        done = self.try_once(writes)
        return None if done is LOST else done

    def update_sync(self, writes):
        """Take all these writes at once.

        Parameters
        ----------
        writes : list
            What a superstep would write, in no particular order; an empty list for a superstep without a write.

        Returns
        -------
        bool
            Whether the channel changed.

        Raises
        ------
        InvalidUpdateError
            When they cannot be taken together; nothing has changed then.
        """
        cdef list taken = listed(writes)
        done = LOST
        while done is LOST:
            done = self.try_once(taken)
        return done

    def consume_sync(self):
        """Take note that the value was used: an open barrier closes. Returns whether the channel changed."""
        done = LOST
        while done is LOST:
            done = self.try_once(None)
        return done

    def replace(self, saved):
        """Put saved content in the place of what is there."""
        cdef BaseChannel before = self.open_state()
        cdef BaseChannel after = self.spec.from_checkpoint(saved)
        before = self.open_state()
        self.swap(before, after)
        self.tell()

    def publish(self, native):
        """Put a state in the place of what is there, or None to close; it must not be changed any more."""
        cdef BaseChannel before = self.state
        self.swap(before, native)
        self.tell()

    # ---------------------------------------------------------------- entering and leaving
    def open(self):
        """Enter: a channel that was left is opened again, empty."""
        if self.entered:
            raise Misused(f"{self.title()} was entered already: leave it first")
        self.entered = True
        if self.state is None:
            self.publish(self.spec.copy())

    def close(self):
        """Leave: the value is let go, and who waits is told."""
        self.entered = False
        self.publish(None)

    # ---------------------------------------------------------------- waiting
    def watch(self, tell):
        """Have `tell()` called when the content changes, once."""
        self.watchers.append(tell)

    def unwatch(self, tell):
        """Not any more; nothing happens if it was called already."""
        cdef Py_ssize_t i
        cdef list watchers = self.watchers
        for i in range(len(watchers)):
            if watchers[i] is tell:
                del watchers[i]
                return

    cdef tell(self):
        cdef list told = self.watchers
        if not told:
            return
        self.watchers = []
        for call in told:
            call()


cpdef list listed(writes):
    """The writes of an update, in a list that nobody else changes."""
    if type(writes) is not list and type(writes) is not tuple:
        raise TypeError(f"update takes a list of writes, not {type(writes).__name__}: update([value])")
    return list(writes)
