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
    made = cls.__new__(cls)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


cdef class BaseChannel:
    """What every channel offers; subclass it to make your own.

    Parameters
    ----------
    typ : Any
        The type of the value.
    key : str
        The name in the graph, for messages; the graph sets it.
    """
    def __cinit__(self, *args, **kwargs):
        self.key = ""
        self.idle = native.get(type(self), IDLE_ASK)
        if self.idle == IDLE_ASK:
            require_methods(type(self))

    def __init__(self, typ, key=""):
        self.typ, self.key = typ, key

    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    __hash__ = None

    @property
    def ValueType(self):
        """The type that `get` returns."""
        return self.declared(False)

    @property
    def UpdateType(self):
        """The type of one write."""
        return self.declared(True)

    cdef declared(self, bint for_writes):
        return self.typ

    cpdef copy(self):
        """A channel with the same content that changes on its own."""
        saved = self.checkpoint()
        return self.from_checkpoint(saved)

    cpdef checkpoint(self):
        """What is saved of the channel; the missing sentinel when it is empty."""
        return found(self)

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
        return found(self) is not MISSING

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


cdef found(BaseChannel channel):
    try:
        return channel.get()
    except EmptyChannelError:
        return MISSING


cdef value_of(BaseChannel channel):
    """The channel's value, MISSING when it has none."""
    if channel.idle != IDLE_ASK:
        return (<Native>channel).shown() if (<Native>channel).holds() else MISSING
    return found(channel) if channel.is_available() else MISSING


cdef bint has_value(BaseChannel channel) except -1:
    return (<Native>channel).holds() if channel.idle != IDLE_ASK else channel.is_available()


cdef class Native(BaseChannel):
    """A channel of ours: all of its face above, made of a few parts below that each kind has its own of.

        content   what fill() needs to make an equal one; MISSING when empty
        holds     is there a value to show, and shown: which
        tracked   is it saved at all
        take      some writes; rest: a superstep without any; both say whether anything changed
        settle    the parameters of a spec, for a new channel of its kind
        start     the first value, when nothing was saved
    """
    cdef content(self):
        pass

    cdef bint tracked(self):
        return True

    cdef int fill(self, content) except -1:
        return 0

    cdef bint holds(self):
        return False

    cdef shown(self):
        return None

    cdef int take(self, writes, Py_ssize_t count) except -1:
        return 0

    cdef int rest(self) except -1:
        return 0

    cdef int settle(self, spec) except -1:
        return 0

    cdef int start(self) except -1:
        return 0

    cdef int clear(self) except -1:
        return 0

    cdef bint same(self, other) except -1:
        return True

    cdef int load(self, saved) except -1:
        return self.start() if saved is MISSING else self.fill(saved)

    cdef Native blank(self):
        cls = type(self)
        cdef Native made = <Native>cls.__new__(cls)
        made.key, made.typ = self.key, self.typ
        made.settle(self)
        return made

    def __eq__(self, other):
        return isinstance(other, type(self)) and self.same(other)

    __hash__ = None

    cpdef copy(self):
        cdef Native made = self.blank()
        content = self.content()
        if content is not MISSING:
            made.fill(content)
        return made

    cpdef checkpoint(self):
        return self.content() if self.tracked() else MISSING

    cpdef from_checkpoint(self, checkpoint):
        cdef Native made = self.blank()
        made.load(checkpoint)
        return made

    cpdef get(self):
        if not self.holds():
            raise EmptyChannelError
        return self.shown()

    cpdef is_available(self):
        return self.holds()

    cpdef update(self, values):
        cdef Py_ssize_t count = len(values)
        cdef bint changed = self.take(values, count) if count else self.rest()
        return changed

    cdef bint spend(self) except -1:
        """What `consume` does where it does anything."""
        if not self.holds():
            return False
        self.clear()
        return True


cdef class Held(Native):
    """A channel around one value."""
    def __cinit__(self, *args, **kwargs):
        self.clear()

    cdef int clear(self) except -1:
        self.value = MISSING
        return 0

    cdef content(self):
        return self.value

    cdef int fill(self, content) except -1:
        self.value = content
        return 0

    cdef bint holds(self):
        return self.value is not MISSING

    cdef shown(self):
        return self.value

    cdef int take(self, writes, Py_ssize_t count) except -1:
        if count > 1:
            self.allow(count)
        self.value = writes[count - 1]
        return 1

    cdef int allow(self, Py_ssize_t writes) except -1:
        """Refuse several writes, where one is allowed."""
        return 0

    cdef int vanish(self) except -1:
        """What `rest` does in channels whose value lasts one superstep."""
        if not self.holds():
            return 0
        self.clear()
        return 1


cdef class LastValue(Held):
    """Keeps the last value; a superstep may write it once."""
    cdef int allow(self, Py_ssize_t writes) except -1:
        raise many_writes(f"At key '{self.key}': Can receive only one value per step. "
                          "Use an Annotated key to handle multiple values.")


cdef class LastValueAfterFinish(Held):
    """Keeps the last value and shows it when nothing else is left to run; reading it into a task empties it."""
    cdef public object finished

    def __cinit__(self, *args, **kwargs):
        self.finished = False

    cdef int clear(self) except -1:
        self.finished = False
        return Held.clear(self)

    cdef content(self):
        return MISSING if self.value is MISSING else (self.value, self.finished)

    cdef int fill(self, content) except -1:
        self.value, self.finished = content
        return 0

    cdef bint holds(self):
        return Held.holds(self) and self.finished

    cdef int take(self, writes, Py_ssize_t count) except -1:
        self.finished = False
        return Held.take(self, writes, count)

    cpdef consume(self):
        return self.spend()

    cpdef finish(self):
        if self.finished or not Held.holds(self):
            return False
        self.finished = True
        return True


cdef class AnyValue(Held):
    """Keeps any one of a superstep's writes (they are taken to be equal); empty after a superstep without one."""
    cdef int rest(self) except -1:
        return self.vanish()


cdef class Guarded(Held):
    """One value that a superstep may be forbidden to write twice."""
    def __init__(self, typ, guard=True):
        self.typ, self.guard = typ, guard

    cdef int settle(self, spec) except -1:
        self.guard = (<Guarded>spec).guard
        return 0

    cdef bint same(self, other) except -1:
        return self.guard == (<Guarded>other).guard

    cdef int allow(self, Py_ssize_t writes) except -1:
        if self.guard:
            text = (f"At key '{self.key}': {type(self).__name__}(guard=True) can receive only one value per step. "
                    "Use guard=False if you want to store any one of multiple values.")
            raise InvalidUpdateError(text)
        return 0


cdef class EphemeralValue(Guarded):
    """Holds what the last superstep wrote, and nothing after a superstep that did not write it.

    Parameters
    ----------
    typ : Any
        The type of the value.
    guard : bool
        Refuse more than one write per superstep; otherwise the last is kept.
    """
    cdef int rest(self) except -1:
        return self.vanish()


cdef class UntrackedValue(Guarded):
    """Keeps a value for the run and never saves it.

    Parameters
    ----------
    typ : Any
        The type of the value.
    guard : bool
        Refuse more than one write per superstep; otherwise the last is kept.
    """
    cdef bint tracked(self):
        return False

    cpdef from_checkpoint(self, checkpoint):
        return self.blank()


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
    if issubclass(cls, dict):
        return unwrap(dict(value))
    return (True, value.value) if isinstance(value, Overwrite) else PLAIN_WRITE


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
        self.typ, self.operator = typ, operator
        self.start()

    cdef int settle(self, spec) except -1:
        self.operator = (<BinaryOperatorAggregate>spec).operator
        return 0

    cdef bint same(self, other) except -1:
        return operators_equal(self.operator, (<BinaryOperatorAggregate>other).operator)

    cdef int start(self) except -1:
        self.value = first_value(self.typ)
        return 0

    cdef int fill(self, content) except -1:
        self.value = without_snapshot(content)      # saved by a delta channel in an earlier version of the graph?
        return 0

    cdef int take(self, writes, Py_ssize_t count) except -1:
        cdef bint replaced = False
        cdef tuple said
        folded = self.value
        operator = self.operator
        for write in writes:
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
        return 1


cdef without_snapshot(content):
    return content.value if type(content).__name__ == "_DeltaSnapshot" else content


cdef first_value(typ):
    if typ is list:
        return []
    if typ is dict:
        return {}
    bare = strip_extras(typ)
    bare = EMPTY_OF.get(bare, bare)
    try:
        made = bare()
    except Exception:
        made = MISSING
    return made


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
        bare = strip_extras(list if typ is None else typ)
        self.typ = EMPTY_OF.get(bare, bare)
        self.reducer, self.snapshot_frequency = reducer, snapshot_frequency

    cdef int settle(self, spec) except -1:
        cdef DeltaChannel other = <DeltaChannel>spec
        self.reducer, self.snapshot_frequency = other.reducer, other.snapshot_frequency
        return 0

    cdef bint same(self, other) except -1:
        return (self.snapshot_frequency == (<DeltaChannel>other).snapshot_frequency
                and operators_equal(self.reducer, (<DeltaChannel>other).reducer))

    cdef content(self):
        return shallow(self.value)

    cdef int start(self) except -1:
        self.value = self.typ()
        return 0

    cdef int fill(self, content) except -1:
        self.value = without_snapshot(content)
        return 0

    cdef bint tracked(self):
        return False

    cdef int replace(self, content) except -1:
        return self.start() if content is None else self.fill(shallow(content))

    cdef int fold(self, list writes) except -1:
        if not self.holds():
            self.start()
        self.value = self.reducer(self.value, writes)
        return 0

    def replay_writes(self, writes):
        """Fold saved writes ``(task id, channel, value)`` into the value, oldest first; the last overwrite wins."""
        cdef list values = [write[2] for write in writes]
        cdef Py_ssize_t i = len(values)
        cdef tuple said
        while i > 0:
            i -= 1
            said = unwrap(values[i])
            if said[0]:
                self.replace(said[1])
                values = values[i + 1:]
                break
        if values:
            self.fold(values)

    cdef int take(self, writes, Py_ssize_t count) except -1:
        cdef tuple said, replace = None
        for write in writes:
            said = unwrap(write)
            if said[0]:
                if replace is not None:
                    raise twice()
                replace = said
        if replace is None:
            self.fold(list(writes))
        else:
            self.replace(replace[1])
        return 1


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

cdef class Barrier(Native):
    """A set of names to wait for and the set of those that came."""
    def __cinit__(self, *args, **kwargs):
        self.clear()

    def __init__(self, typ, names):
        self.typ, self.names = typ, set(names)

    cdef int settle(self, spec) except -1:
        self.names = (<Barrier>spec).names
        return 0

    cdef bint same(self, other) except -1:
        return self.names == (<Barrier>other).names

    cdef int clear(self) except -1:
        self.seen = set()
        return 0

    cdef content(self):
        return set(self.seen)

    cdef int fill(self, content) except -1:
        self.seen = set(content)
        return 0

    cdef bint holds(self):
        return len(self.seen) == len(self.names) and self.seen == self.names

    cdef int take(self, writes, Py_ssize_t count) except -1:
        cdef Py_ssize_t before = len(self.seen)
        for name in writes:
            if name not in self.names:
                raise InvalidUpdateError(f"At key '{self.key}': Value {name} not in {self.names}")
        self.seen.update(writes)
        return len(self.seen) != before

    cpdef consume(self):
        return self.spend()


cdef class NamedBarrierValue(Barrier):
    """Opens when every name was written; what it triggers closes it again.

    Parameters
    ----------
    typ : type
        The type of a name.
    names : set
        The names that are waited for.
    """


cdef class NamedBarrierValueAfterFinish(Barrier):
    """A barrier that opens when every name was written and nothing else is left to run."""
    cdef public object finished

    def __cinit__(self, *args, **kwargs):
        self.finished = False

    cdef int clear(self) except -1:
        self.finished = False
        return Barrier.clear(self)

    cdef content(self):
        return set(self.seen), self.finished

    cdef int fill(self, content) except -1:
        self.finished = content[1]
        return Barrier.fill(self, content[0])

    cdef bint holds(self):
        return bool(self.finished) and Barrier.holds(self)

    cpdef finish(self):
        if self.finished or not Barrier.holds(self):
            return False
        self.finished = True
        return True


cdef class Topic(Native):
    """A list of everything that a superstep wrote.

    Parameters
    ----------
    typ : type
        The type of one item; a write is an item or a list of items.
    accumulate : bool
        Keep the items of earlier supersteps too.
    """
    def __cinit__(self, *args, **kwargs):
        self.clear()

    def __init__(self, typ, accumulate=False):
        self.typ, self.accumulate = typ, accumulate

    cdef declared(self, bint for_writes):
        return self.typ | list[self.typ] if for_writes else _abc.Sequence[self.typ]

    cdef int settle(self, spec) except -1:
        self.accumulate = (<Topic>spec).accumulate
        return 0

    cdef bint same(self, other) except -1:
        return self.accumulate == (<Topic>other).accumulate

    cdef int clear(self) except -1:
        self.values = []
        return 0

    cdef content(self):
        return self.values[:]

    cdef int fill(self, content) except -1:
        self.values = list(content[1] if isinstance(content, tuple) else content)   # a tuple: (seen, items), long ago
        return 0

    cdef bint holds(self):
        return len(self.values) > 0

    cdef shown(self):
        return self.values[:]

    cdef int take(self, writes, Py_ssize_t count) except -1:
        cdef list before = self.values
        cdef list items = before[:] if self.accumulate else []
        for write in writes:
            if isinstance(write, list):
                items.extend(write)
            else:
                items.append(write)
        self.values = items
        return len(items) != len(before) if self.accumulate else bool(items or before)

    cdef int rest(self) except -1:
        if self.accumulate or not self.holds():
            return 0
        self.clear()
        return 1


# ------------------------------------------------------------------ the classes and their names

cdef dict native = {                        # class -> what an idle superstep asks of it
    LastValue: IDLE_NEVER, LastValueAfterFinish: IDLE_FINISHES, AnyValue: IDLE_CLEARS, EphemeralValue: IDLE_CLEARS,
    UntrackedValue: IDLE_NEVER, BinaryOperatorAggregate: IDLE_NEVER, DeltaChannel: IDLE_NEVER,
    NamedBarrierValue: IDLE_NEVER, NamedBarrierValueAfterFinish: IDLE_FINISHES, Topic: IDLE_CLEARS,
}
cdef tuple unfinished = (Native, Held, Guarded, Barrier)
cdef set complete = set()                   # users' classes that were looked at


cdef int idle_kind(channel):
    return (<BaseChannel>channel).idle if isinstance(channel, BaseChannel) else IDLE_ASK


cdef require_methods(cls):
    if cls in complete:
        return
    lacking = [name for name in ("from_checkpoint", "get", "update")
               if cls in unfinished or getattr(cls, name, None) is getattr(BaseChannel, name)]
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
