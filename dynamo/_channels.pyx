"""The channels of a graph: what one superstep leaves for the next.

A channel takes all the writes of a superstep at once (`update`), shows one value (`get`), and can be saved and made
again (`checkpoint`, `from_checkpoint`). Each says through its class what an idle superstep asks of it (`idle_kind`),
so that the engine visits only those that can change.

    spec --from_checkpoint(saved)--> channel --update(writes)--> True: it changed
                                        |----consume()---------> what triggered a task may reset
                                        |----finish()----------> no task is left: deferred values come out

I1  `value is MISSING` exactly when the channel is empty.
I2  update() that raises leaves the channel as it was.
I3  copy() shares no mutable state of the channel itself (barrier sets, topic lists); the user's values are shared.
"""

from cpython.object cimport PyTypeObject
from types import GenericAlias
import sys as _sys

import collections.abc as _abc

MISSING = object()              # replaced by bind(); kept here so that the module works alone
EmptyChannelError = LookupError
cdef object many_writes = ValueError        # text -> exception, with the code of concurrent updates
cdef object InvalidUpdateError = ValueError
cdef object Overwrite = None                # the class, once somebody has imported it


def bind(missing, empty_channel_error, invalid_update_error, concurrent_update):
    """Tell the channels which sentinel and exceptions to use.

    Parameters
    ----------
    missing : object
        Stands for "no value".
    empty_channel_error, invalid_update_error : type
        Exception classes for reading an empty channel and for a bad write.
    concurrent_update : callable
        Makes the exception for several writes where one is allowed, from its text.
    """
    global MISSING, EmptyChannelError, InvalidUpdateError, many_writes
    MISSING = missing
    EmptyChannelError = empty_channel_error
    InvalidUpdateError = invalid_update_error
    many_writes = concurrent_update


def _restore(cls, fields):
    """A channel out of a pickle."""
    channel = cls.__new__(cls)
    for name, value in fields.items():
        setattr(channel, name, value)
    return channel


cdef class BaseChannel:
    """What every channel offers; subclass it to make your own.

    Parameters
    ----------
    typ : Any
        The type of the value.
    key : str
        The name in the graph, for messages; the graph sets it.
    """
    def __init__(self, typ, key=""):
        self.typ = typ
        self.key = key

    def __cinit__(self, *args, **kwargs):
        self.key = ""
        if type(self) not in native:
            require_methods(type(self))

    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    __hash__ = None

    @property
    def ValueType(self):
        """The type that `get` returns."""
        return self.typ

    @property
    def UpdateType(self):
        """The type of one write."""
        return self.typ

    cpdef copy(self):
        """A channel with the same content that changes on its own."""
        return self.from_checkpoint(self.checkpoint())

    cpdef checkpoint(self):
        """What is saved of the channel; the missing sentinel when it is empty."""
        try:
            return self.get()
        except EmptyChannelError:
            return MISSING

    cpdef from_checkpoint(self, checkpoint):
        """A new channel of this kind with the saved content."""
        raise NotImplementedError(f"{type(self).__name__}.from_checkpoint")

    cpdef get(self):
        """The current value.

        Raises
        ------
        EmptyChannelError
            When there is none.
        """
        raise NotImplementedError(f"{type(self).__name__}.get")

    cpdef is_available(self):
        """Whether `get` would return a value."""
        try:
            self.get()
        except EmptyChannelError:
            return False
        return True

    cpdef update(self, values):
        """Take all writes of one superstep, in no particular order; an empty list when there were none.

        Returns
        -------
        bool
            Whether the channel changed.

        Raises
        ------
        InvalidUpdateError
            When these writes cannot be taken together.
        """
        raise NotImplementedError(f"{type(self).__name__}.update")

    cpdef consume(self):
        """A task that this channel triggered has run. Returns whether the channel changed."""
        return False

    cpdef finish(self):
        """The run would end now. Returns whether the channel changed (a value may come out)."""
        return False

    def __reduce_ex__(self, protocol):
        cdef dict fields = {"key": self.key, "typ": self.typ}
        for name in ("value", "operator", "guard", "accumulate", "values", "names", "seen", "finished", "reducer",
                     "snapshot_frequency"):
            value = getattr(self, name, MISSING)
            if value is not MISSING:
                fields[name] = value
        fields.update(getattr(self, "__dict__", None) or {})
        return _restore, (type(self), fields)


cdef void take_name(BaseChannel made, BaseChannel spec) noexcept:
    made.key = spec.key
    made.typ = spec.typ


cdef class Held(BaseChannel):
    """A channel around one value."""
    def __cinit__(self, *args, **kwargs):
        self.value = MISSING

    def __eq__(self, other):
        return isinstance(other, type(self))

    __hash__ = None

    cpdef copy(self):
        cdef Held made = <Held>self.blank()
        made.value = self.value
        return made

    cdef blank(self):
        cls = type(self)
        cdef Held made = <Held>cls.__new__(cls)
        take_name(made, self)
        return made

    cpdef checkpoint(self):
        return self.value

    cpdef from_checkpoint(self, checkpoint):
        cdef Held made = <Held>self.blank()
        if checkpoint is not MISSING:
            made.value = checkpoint
        return made

    cpdef get(self):
        if self.value is MISSING:
            raise EmptyChannelError()
        return self.value

    cpdef is_available(self):
        return self.value is not MISSING


cdef class LastValue(Held):
    """Keeps the last value; a superstep may write it once."""
    cpdef update(self, values):
        cdef Py_ssize_t count = len(values)
        if count == 0:
            return False
        if count > 1:
            raise many_writes(f"At key '{self.key}': Can receive only one value per step. "
                              "Use an Annotated key to handle multiple values.")
        self.value = values[0]
        return True


cdef class LastValueAfterFinish(Held):
    """Keeps the last value and shows it when nothing else is left to run; reading it into a task empties it."""
    cdef public object finished

    def __cinit__(self, *args, **kwargs):
        self.finished = False

    cpdef copy(self):
        cdef LastValueAfterFinish made = <LastValueAfterFinish>self.blank()
        made.value = self.value
        made.finished = self.finished
        return made

    cpdef checkpoint(self):
        if self.value is MISSING:
            return MISSING
        return self.value, self.finished

    cpdef from_checkpoint(self, checkpoint):
        cdef LastValueAfterFinish made = <LastValueAfterFinish>self.blank()
        if checkpoint is not MISSING:
            made.value, made.finished = checkpoint
        return made

    cpdef update(self, values):
        if len(values) == 0:
            return False
        self.finished = False
        self.value = values[-1]
        return True

    cpdef consume(self):
        if not self.finished:
            return False
        self.finished = False
        self.value = MISSING
        return True

    cpdef finish(self):
        if self.finished or self.value is MISSING:
            return False
        self.finished = True
        return True

    cpdef get(self):
        if self.value is MISSING or not self.finished:
            raise EmptyChannelError()
        return self.value

    cpdef is_available(self):
        return self.value is not MISSING and bool(self.finished)


cdef class AnyValue(Held):
    """Keeps any one of a superstep's writes (they are taken to be equal); empty after a superstep without one."""
    cpdef update(self, values):
        if len(values) > 0:
            self.value = values[-1]
            return True
        if self.value is MISSING:
            return False
        self.value = MISSING
        return True


cdef class Guarded(Held):
    """One value that a superstep may be forbidden to write twice."""
    def __init__(self, typ, guard=True):
        BaseChannel.__init__(self, typ)
        self.guard = guard

    def __eq__(self, other):
        return isinstance(other, type(self)) and other.guard == self.guard

    __hash__ = None

    cdef blank(self):
        cls = type(self)
        cdef Guarded made = <Guarded>cls.__new__(cls)
        take_name(made, self)
        made.guard = self.guard
        return made


cdef class EphemeralValue(Guarded):
    """Holds what the last superstep wrote, and nothing after a superstep that did not write it.

    Parameters
    ----------
    typ : Any
        The type of the value.
    guard : bool
        Refuse more than one write per superstep; otherwise the last is kept.
    """
    cpdef update(self, values):
        cdef Py_ssize_t count = len(values)
        if count == 0:
            if self.value is MISSING:
                return False
            self.value = MISSING
            return True
        if count > 1 and self.guard:
            raise InvalidUpdateError(one_only(self))
        self.value = values[-1]
        return True


cdef one_only(BaseChannel channel):
    kind = type(channel).__name__
    return (f"At key '{channel.key}': {kind}(guard=True) can receive only one value per step. "
            "Use guard=False if you want to store any one of multiple values.")


cdef class UntrackedValue(Guarded):
    """Keeps a value for the run and never saves it.

    Parameters
    ----------
    typ : Any
        The type of the value.
    guard : bool
        Refuse more than one write per superstep; otherwise the last is kept.
    """
    cpdef checkpoint(self):
        return MISSING

    cpdef from_checkpoint(self, checkpoint):
        return self.blank()

    cpdef update(self, values):
        cdef Py_ssize_t count = len(values)
        if count == 0:
            return False
        if count > 1 and self.guard:
            raise InvalidUpdateError(one_only(self))
        self.value = values[-1]
        return True


# ------------------------------------------------------------------ reducers

EXTRAS = ("Required", "NotRequired", "Annotated", "ReadOnly")
EMPTY_OF = {_abc.Sequence: list, _abc.MutableSequence: list, _abc.Set: set, _abc.MutableSet: set, _abc.Mapping: dict,
            _abc.MutableMapping: dict}


def strip_extras(typ):
    """The bare type inside Annotated, Required, NotRequired and a subscript."""
    while True:
        if hasattr(typ, "__metadata__"):            # Annotated
            typ = typ.__origin__
            continue
        origin = getattr(typ, "__origin__", None)
        if origin is None:
            return typ
        if getattr(origin, "_name", None) in EXTRAS:
            typ = typ.__args__[0]
            continue
        return origin


def operators_equal(left, right):
    """Whether two reducers may be taken for the same one: the same object, or one of them a lambda."""
    if left is right:
        return True
    name = getattr(left, "__name__", ""), getattr(right, "__name__", "")
    return "<lambda>" in name


def get_overwrite(value):
    """Whether a write says "replace" instead of "fold in", and with what.

    Known are the Overwrite class, ``{"__overwrite__": value}``, and the class as JSON left it
    (``{"type": "__overwrite__", "value": ...}``).

    Returns
    -------
    (bool, Any)
    """
    found, inner = unwrap(value)
    return found, inner


cdef tuple PLAIN_WRITE = (False, None)


cdef tuple unwrap(value):
    global Overwrite
    cls = type(value)
    if cls is int or cls is str or cls is list or cls is float:
        return PLAIN_WRITE
    if cls is dict:
        if len(<dict>value) == 1 and "__overwrite__" in <dict>value:
            return True, (<dict>value)["__overwrite__"]
        if "value" in <dict>value and (<dict>value).get("type") == "__overwrite__":
            return True, (<dict>value)["value"]
        return PLAIN_WRITE
    if Overwrite is None:
        types = _sys.modules.get("dynamo.langgraph.types")
        Overwrite = getattr(types, "Overwrite", None)
        if Overwrite is None:
            return PLAIN_WRITE
    if isinstance(value, Overwrite):
        return True, value.value
    if isinstance(value, dict):
        return unwrap(dict(value))
    return PLAIN_WRITE


cdef twice():
    return many_writes("Can receive only one Overwrite value per super-step.")


cdef class BinaryOperatorAggregate(Held):
    """Folds the writes of a superstep into its value, one after the other.

    Parameters
    ----------
    typ : type
        The type of the value; called without arguments for the first value when that works.
    operator : callable
        ``operator(value, write)`` gives the next value.
    """
    def __init__(self, typ, operator):
        BaseChannel.__init__(self, typ)
        self.operator = operator
        self.value = first_value(typ)

    def __eq__(self, other):
        return isinstance(other, BinaryOperatorAggregate) and operators_equal(self.operator, other.operator)

    __hash__ = None

    cdef blank(self):
        cls = type(self)
        cdef BinaryOperatorAggregate made = <BinaryOperatorAggregate>cls.__new__(cls)
        take_name(made, self)
        made.operator = self.operator
        return made

    cpdef from_checkpoint(self, checkpoint):
        cdef BinaryOperatorAggregate made = <BinaryOperatorAggregate>self.blank()
        if checkpoint is MISSING:
            made.value = first_value(self.typ)
        else:                                       # saved by a delta channel in an earlier version of the graph?
            made.value = checkpoint.value if type(checkpoint).__name__ == "_DeltaSnapshot" else checkpoint
        return made

    cpdef update(self, values):
        cdef bint replaced = False
        cdef tuple said
        if len(values) == 0:
            return False
        folded = self.value
        operator = self.operator
        for write in values:
            said = unwrap(write)
            if said[0]:
                if replaced:
                    raise twice()
                folded = said[1]
                replaced = True
            elif replaced:
                continue
            elif folded is MISSING:
                folded = write
            else:
                folded = operator(folded, write)
        self.value = folded
        return True


cdef first_value(typ):
    if typ is list:
        return []
    if typ is dict:
        return {}
    bare = strip_extras(typ)
    bare = EMPTY_OF.get(bare, bare)
    try:
        return bare()
    except Exception:
        return MISSING


cdef class DeltaChannel(Held):
    """A value that is saved as the writes that made it.

    A checkpoint holds nothing of it but now and then a snapshot; a load replays the writes since.

    Parameters
    ----------
    reducer : callable
        ``reducer(value, writes)`` gives the next value, once per superstep.
    typ : type, optional
        The type of the value, `list` unless given.
    snapshot_frequency : int
        After how many updates a snapshot is saved.
    """
    def __init__(self, reducer, typ=None, *, snapshot_frequency=100):
        if not isinstance(snapshot_frequency, int) or snapshot_frequency <= 0:
            raise ValueError(f"snapshot_frequency must be a positive int, got {snapshot_frequency!r}")
        self.set_type(list if typ is None else typ)
        self.reducer = reducer
        self.snapshot_frequency = snapshot_frequency

    cdef set_type(self, typ):
        bare = strip_extras(typ)
        self.typ = EMPTY_OF.get(bare, bare)

    def __eq__(self, other):
        return (isinstance(other, DeltaChannel) and self.snapshot_frequency == other.snapshot_frequency
                and operators_equal(self.reducer, other.reducer))

    __hash__ = None

    cdef blank(self):
        cls = type(self)
        cdef DeltaChannel made = <DeltaChannel>cls.__new__(cls)
        take_name(made, self)
        made.reducer = self.reducer
        made.snapshot_frequency = self.snapshot_frequency
        return made

    cpdef copy(self):
        cdef DeltaChannel made = <DeltaChannel>self.blank()
        made.value = shallow(self.value)
        return made

    cpdef checkpoint(self):
        return MISSING

    cpdef from_checkpoint(self, checkpoint):
        cdef DeltaChannel made = <DeltaChannel>self.blank()
        if checkpoint is MISSING:
            made.value = self.typ()
        elif type(checkpoint).__name__ == "_DeltaSnapshot":
            made.value = checkpoint.value
        else:
            made.value = checkpoint
        return made

    def replay_writes(self, writes):
        """Fold saved writes ``(task id, channel, value)`` into the value, oldest first; the last overwrite wins."""
        cdef list values = [write[2] for write in writes]
        cdef Py_ssize_t i = len(values)
        cdef tuple said
        while i > 0:
            i -= 1
            said = unwrap(values[i])
            if said[0]:
                self.value = self.typ() if said[1] is None else shallow(said[1])
                values = values[i + 1:]
                break
        if values:
            self.value = self.reducer(self.base(), values)

    cdef base(self):
        return self.typ() if self.value is MISSING else self.value

    cpdef update(self, values):
        cdef tuple said, replace = None
        if len(values) == 0:
            return False
        for write in values:
            said = unwrap(write)
            if said[0]:
                if replace is not None:
                    raise twice()
                replace = said
        if replace is not None:
            self.value = self.typ() if replace[1] is None else shallow(replace[1])
        else:
            self.value = self.reducer(self.base(), list(values))
        return True


cdef shallow(value):
    if type(value) is list:
        return list(<list>value)
    if type(value) is dict:
        return dict(<dict>value)
    if value is MISSING:
        return value
    import copy
    return copy.copy(value)


# ------------------------------------------------------------------ barriers and topics

cdef class Barrier(BaseChannel):
    """A set of names to wait for and the set of those that came."""
    def __init__(self, typ, names):
        BaseChannel.__init__(self, typ)
        self.names = names if isinstance(names, set) else set(names)
        self.seen = set()

    def __eq__(self, other):
        return isinstance(other, type(self)) and other.names == self.names

    __hash__ = None

    cdef blank(self):
        cls = type(self)
        cdef Barrier made = <Barrier>cls.__new__(cls)
        take_name(made, self)
        made.names = self.names
        made.seen = set()
        return made

    cdef bint full(self):
        return len(self.seen) == len(self.names) and self.seen == self.names

    cpdef update(self, values):
        cdef bint changed = False
        for name in values:
            if name not in self.names:
                raise InvalidUpdateError(f"At key '{self.key}': Value {name} not in {self.names}")
        for name in values:
            if name not in self.seen:
                self.seen.add(name)
                changed = True
        return changed


cdef class NamedBarrierValue(Barrier):
    """Opens when every name was written; what it triggers closes it again.

    Parameters
    ----------
    typ : type
        The type of a name.
    names : set
        The names that are waited for.
    """
    cpdef copy(self):
        cdef NamedBarrierValue made = <NamedBarrierValue>self.blank()
        made.seen = set(self.seen)
        return made

    cpdef checkpoint(self):
        return self.seen

    cpdef from_checkpoint(self, checkpoint):
        cdef NamedBarrierValue made = <NamedBarrierValue>self.blank()
        if checkpoint is not MISSING:
            made.seen = set(checkpoint)
        return made

    cpdef get(self):
        if not self.full():
            raise EmptyChannelError()
        return None

    cpdef is_available(self):
        return self.full()

    cpdef consume(self):
        if not self.full():
            return False
        self.seen = set()
        return True


cdef class NamedBarrierValueAfterFinish(Barrier):
    """A barrier that opens when every name was written and nothing else is left to run."""
    cdef public object finished

    def __cinit__(self, *args, **kwargs):
        self.finished = False

    cpdef copy(self):
        cdef NamedBarrierValueAfterFinish made = <NamedBarrierValueAfterFinish>self.blank()
        made.seen = set(self.seen)
        made.finished = self.finished
        return made

    cpdef checkpoint(self):
        return self.seen, self.finished

    cpdef from_checkpoint(self, checkpoint):
        cdef NamedBarrierValueAfterFinish made = <NamedBarrierValueAfterFinish>self.blank()
        if checkpoint is not MISSING:
            seen, made.finished = checkpoint
            made.seen = set(seen)
        return made

    cpdef get(self):
        if not (self.finished and self.full()):
            raise EmptyChannelError()
        return None

    cpdef is_available(self):
        return bool(self.finished) and self.full()

    cpdef consume(self):
        if not (self.finished and self.full()):
            return False
        self.finished = False
        self.seen = set()
        return True

    cpdef finish(self):
        if self.finished or not self.full():
            return False
        self.finished = True
        return True


cdef class Topic(BaseChannel):
    """A list of everything that a superstep wrote.

    Parameters
    ----------
    typ : type
        The type of one item; a write is an item or a list of items.
    accumulate : bool
        Keep the items of earlier supersteps too.
    """
    def __init__(self, typ, accumulate=False):
        BaseChannel.__init__(self, typ)
        self.accumulate = accumulate
        self.values = []

    def __eq__(self, other):
        return isinstance(other, Topic) and other.accumulate == self.accumulate

    __hash__ = None

    @property
    def ValueType(self):
        """The type that `get` returns."""
        return _abc.Sequence[self.typ]

    @property
    def UpdateType(self):
        """The type of one write."""
        return self.typ | list[self.typ]

    cdef Topic blank(self):
        cls = type(self)
        cdef Topic made = <Topic>cls.__new__(cls)
        take_name(made, self)
        made.accumulate = self.accumulate
        made.values = []
        return made

    cpdef copy(self):
        cdef Topic made = self.blank()
        made.values = list(self.values)
        return made

    cpdef checkpoint(self):
        return self.values

    cpdef from_checkpoint(self, checkpoint):
        cdef Topic made = self.blank()
        if checkpoint is not MISSING:
            if isinstance(checkpoint, tuple):       # an older form: (seen, items)
                checkpoint = checkpoint[1]
            made.values = list(checkpoint)
        return made

    cpdef update(self, values):
        cdef bint changed = False
        cdef list items = []
        for write in values:
            if isinstance(write, list):
                items.extend(write)
            else:
                items.append(write)
        if self.accumulate:
            if items:
                self.values = self.values + items
                changed = True
        else:
            changed = bool(self.values) or bool(items)
            self.values = items
        return changed

    cpdef get(self):
        if not self.values:
            raise EmptyChannelError()
        return list(self.values)

    cpdef is_available(self):
        return bool(self.values)


# ------------------------------------------------------------------ the classes and their names

cdef dict native = {                        # class -> what an idle superstep asks of it
    LastValue: IDLE_NEVER, LastValueAfterFinish: IDLE_FINISHES, AnyValue: IDLE_CLEARS, EphemeralValue: IDLE_CLEARS,
    UntrackedValue: IDLE_NEVER, BinaryOperatorAggregate: IDLE_NEVER, DeltaChannel: IDLE_NEVER,
    NamedBarrierValue: IDLE_NEVER, NamedBarrierValueAfterFinish: IDLE_FINISHES, Topic: IDLE_CLEARS,
}
cdef set complete = set()                   # users' classes that were looked at


cdef int idle_kind(channel):
    return native.get(type(channel), IDLE_ASK)


cdef require_methods(cls):
    if cls in complete:
        return
    lacking = [name for name in ("from_checkpoint", "get", "update")
               if getattr(cls, name, None) is getattr(BaseChannel, name)]
    if lacking:
        raise TypeError(f"Can't instantiate abstract class {cls.__name__} without {', '.join(lacking)}: "
                        "a channel needs get, update and from_checkpoint")
    if len(complete) < 4096:
        complete.add(cls)


cdef void known_as(cls, const char *name) noexcept:
    # The name of a static type says its module; saved graphs and allow-lists know these paths.
    (<PyTypeObject *>cls).tp_name = name


known_as(BaseChannel, b"langgraph.channels.base.BaseChannel")
known_as(LastValue, b"langgraph.channels.last_value.LastValue")
known_as(LastValueAfterFinish, b"langgraph.channels.last_value.LastValueAfterFinish")
known_as(AnyValue, b"langgraph.channels.any_value.AnyValue")
known_as(EphemeralValue, b"langgraph.channels.ephemeral_value.EphemeralValue")
known_as(UntrackedValue, b"langgraph.channels.untracked_value.UntrackedValue")
known_as(BinaryOperatorAggregate, b"langgraph.channels.binop.BinaryOperatorAggregate")
known_as(DeltaChannel, b"langgraph.channels.delta.DeltaChannel")
known_as(NamedBarrierValue, b"langgraph.channels.named_barrier_value.NamedBarrierValue")
known_as(NamedBarrierValueAfterFinish, b"langgraph.channels.named_barrier_value.NamedBarrierValueAfterFinish")
known_as(Topic, b"langgraph.channels.topic.Topic")
