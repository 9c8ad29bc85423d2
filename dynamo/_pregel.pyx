"""The parts of a superstep: ids, checkpoints, writes into channels, and the tasks that follow from them.

    checkpoint + channels --Preparer.all_tasks--> tasks --(run)--> writes --apply_writes--> checkpoint + channels

`Preparer` keeps for a run what does not change between supersteps: a plan per node (sorted triggers, the tail of its
task ids) and the part of the config that every task shares. `ChannelMap` keeps which channels an idle superstep can
change at all, so that the others cost nothing.

I1  Task ids are XXH3-128 of checkpoint id, namespace, step, name, kind and triggers (or index), as 8-4-4-4-12 digits;
    threads that are stored depend on each bit. Checkpoints of format 1 use SHA-1 in its place.
I2  Writes reach the channels in the order of the task paths, whatever the order in which the tasks ended.
I3  A channel is in ChannelMap.live whenever an empty update would change it.
"""

from collections import deque
from hashlib import sha1
import copy as _copy
import logging

from cpython.dict cimport PyDict_Update
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.time cimport time_t

from dynamo.c_hash cimport dyn_hash_text_128
from dynamo._channels cimport (
    BaseChannel, Held, IDLE_ASK, IDLE_CLEARS, IDLE_FINISHES, IDLE_NEVER, MISSING, Topic, has_value, idle_kind,
    value_of)
from random import getrandbits as _random_bits
from types import SimpleNamespace
from time import time as now

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object o, object name, object value) except -1
    ctypedef struct PyMemberDef:
        int type
        Py_ssize_t offset
        int flags
    ctypedef struct PyMemberDescrObject:
        PyMemberDef *d_member
    void Py_INCREF(object o)

cdef enum:
    OBJECT_MEMBER = 16              # Py_T_OBJECT_EX, what a name in __slots__ is
    MAX_FIELDS = 16
    MIN_VIEW = 6                    # channels; fewer are read one by one
    MAX_VIEWS = 8                   # each costs something per change

cdef extern from "time.h" nogil:
    struct timespec:
        time_t tv_sec
        long tv_nsec
    struct tm:
        int tm_year, tm_mon, tm_mday, tm_hour, tm_min, tm_sec
    int clock_gettime(int clock, timespec *now)
    tm *gmtime_r(const time_t *seconds, tm *out)
    int CLOCK_REALTIME

_log = logging.getLogger("langgraph")

cdef object Send = None
cdef object Call = None
cdef object ExecutableTask = None
cdef object PlainTask = None
cdef object CacheKey = None
cdef object Runtime = None
cdef object ExecutionInfo = None
cdef object NodeError = None
cdef object DEFAULT_RUNTIME = None
cdef object own_copy = None
cdef object DefaultLimit = None
cdef object runnable_for_task = None
cdef object identifier = None
cdef Shape runtime_shape = None
cdef Shape info_shape = None
cdef Shape task_shape = None


def bind(names):
    """Tell the engine which classes and functions of dynamo.langgraph to use.

    Parameters
    ----------
    names : dict
        By the name of the global here.
    """
    global Send, Call, ExecutableTask, PlainTask, CacheKey, Runtime, ExecutionInfo, NodeError
    global DEFAULT_RUNTIME, own_copy, DefaultLimit, runnable_for_task, identifier, runtime_shape, info_shape, task_shape
    Send = names["Send"]
    Call = names["Call"]
    ExecutableTask = names["PregelExecutableTask"]
    PlainTask = names["PregelTask"]
    CacheKey = names["CacheKey"]
    Runtime = names["Runtime"]
    ExecutionInfo = names["ExecutionInfo"]
    NodeError = names["NodeError"]
    DEFAULT_RUNTIME = names["DEFAULT_RUNTIME"]
    own_copy = names["own_copy"]
    DefaultLimit = names["DefaultLimit"]
    runnable_for_task = names["get_runnable_for_task"]
    identifier = names["identifier"]
    runtime_shape = Shape(Runtime)
    info_shape = Shape(ExecutionInfo)
    task_shape = Shape(ExecutableTask)


cdef complaints():
    """What is said about graphs that cannot be right; needed by few runs."""
    from dynamo.langgraph.pregel import _complaints
    return _complaints


cdef add_note(exc, text):
    if hasattr(exc, "add_note"):
        exc.add_note(text)
    else:                                           # Python 3.10
        exc.__notes__ = [*getattr(exc, "__notes__", ()), text]


cdef class Shape:
    """How instances of a frozen dataclass are made without the checks of its __setattr__ and __init__.

    Where every field is a slot, values go straight to their places.
    """
    cdef object cls
    cdef tuple names
    cdef Py_ssize_t places[MAX_FIELDS]
    cdef bint slots

    def __init__(self, cls):
        cdef PyMemberDef *member
        cdef Py_ssize_t i
        self.cls = cls
        self.names = tuple(cls.__dataclass_fields__)
        self.slots = len(self.names) <= MAX_FIELDS and cls.__new__ is object.__new__
        for i, name in enumerate(self.names):
            field = cls.__dict__.get(name)
            if type(field).__name__ != "member_descriptor" or not self.slots:
                self.slots = False
                break
            member = (<PyMemberDescrObject *><PyObject *>field).d_member
            if member.type != OBJECT_MEMBER or member.offset <= 0:
                self.slots = False
                break
            self.places[i] = member.offset


cdef object build(Shape shape, tuple values):
    cdef Py_ssize_t i
    cdef char *at
    made = object.__new__(shape.cls)
    if shape.slots:
        at = <char *><PyObject *>made
        for i in range(len(values)):
            value = values[i]
            Py_INCREF(value)
            (<PyObject **>(at + shape.places[i]))[0] = <PyObject *>value
    else:
        for i in range(len(values)):
            PyObject_GenericSetAttr(made, shape.names[i], values[i])
    return made


def runtime_of_run(around, context, store, writer, server, control):
    """The runtime of a run, `around` with what the run has of its own: what that is not counts as not said."""
    if type(around) is not Runtime:
        said = {"stream_writer": writer} if writer is not None else {}
        if around.store is None:
            said["store"] = store
        return around.merge(Runtime(context=context, server_info=server, control=control, **said))
    return build(runtime_shape, (
        context if context else around.context, store if around.store is None and store else around.store,
        around.stream_writer if writer is None else writer, around.heartbeat, around.previous, around.execution_info,
        server if server else around.server_info, control if control else around.control))


cdef runtime_inside(runtime, store, writer):
    """The runtime of a graph in a node of another one: with a store if there was none, and another stream."""
    if runtime.store is not None:
        store = runtime.store
    if type(runtime) is not Runtime:
        return runtime.override(store=store, stream_writer=writer)
    return build(runtime_shape, (runtime.context, store, writer, runtime.heartbeat, runtime.previous,
                                 runtime.execution_info, runtime.server_info, runtime.control))


# ------------------------------------------------------------------ ids

cdef str hex_id(bytes data):
    cdef char digits[32]
    cdef char out[36]
    cdef int i, o = 0
    dyn_hash_text_128(data, len(data), digits)
    for i in range(32):
        if i == 8 or i == 12 or i == 16 or i == 20:
            out[o] = b'-'
            o += 1
        out[o] = digits[i]
        o += 1
    return out[:36].decode("ascii")


def xxh3_hex(bytes data):
    """XXH3-128 of bytes as 32 digits."""
    cdef char digits[32]
    dyn_hash_text_128(data, len(data), digits)
    return digits[:32].decode("ascii")


cdef str sha_id(bytes data):
    text = sha1(data, usedforsecurity=False).hexdigest()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}"


def task_id(bytes namespace, *parts):
    """The id of a task: `namespace` is the checkpoint's id, the parts are str or bytes."""
    return hex_id(namespace + b"".join([p.encode() if isinstance(p, str) else p for p in parts]))


def old_task_id(bytes namespace, *parts):
    """The same for checkpoints of format 1."""
    return sha_id(namespace + b"".join([p.encode() if isinstance(p, str) else p for p in parts]))


cdef const char *HEX = "0123456789abcdef"


cdef void put_hex(char *out, uint64_t value, int count) noexcept nogil:
    """The lowest `count` digits of a number."""
    while count > 0:
        count -= 1
        out[count] = HEX[value & 15]
        value >>= 4


cdef bytes id_bytes(str text):
    """The 16 bytes of an id as ids are written: 8-4-4-4-12 digits."""
    cdef unsigned char out[16]
    cdef int n = 0, digit, code
    cdef Py_UCS4 c
    if len(text) == 36:
        for c in text:
            code = ord(c)
            if code == c'-':
                continue
            digit = code - c'0' if c'0' <= code <= c'9' else code - c'a' + 10 if c'a' <= code <= c'f' else -1
            if digit < 0 or n == 32:
                break
            out[n >> 1] = digit if n & 1 == 0 else (out[n >> 1] << 4) | digit
            n += 1
        else:
            if n == 32:
                return out[:16]
    return bytes.fromhex(text.replace("-", ""))


cdef uint64_t last_tick = 0         # 100 ns since 1582; like the next two only touched under the GIL
cdef time_t told_second = -1
cdef char told_text[48]             # that second, up to its point


cpdef str checkpoint_id(int64_t step):
    """A UUID of version 6 with the step as its clock sequence: ids sort by time."""
    global last_tick
    cdef timespec clock
    cdef uint64_t tick
    cdef char out[36]
    clock_gettime(CLOCK_REALTIME, &clock)
    tick = <uint64_t>clock.tv_sec * 10000000 + <uint64_t>clock.tv_nsec // 100 + <uint64_t>0x01B21DD213814000
    if tick <= last_tick:
        tick = last_tick + 1
    last_tick = tick
    out[8] = out[13] = out[18] = out[23] = b'-'
    put_hex(out, tick >> 28, 8)
    put_hex(out + 9, tick >> 12, 4)
    put_hex(out + 14, 0x6000 | (tick & 0xFFF), 4)
    put_hex(out + 19, 0x8000 | (<uint64_t>step & 0x3FFF), 4)
    put_hex(out + 24, _random_bits(48), 12)
    return out[:36].decode("ascii")


cdef str now_text():
    global told_second
    cdef timespec clock
    cdef tm parts
    cdef long micro
    cdef int i
    clock_gettime(CLOCK_REALTIME, &clock)
    if clock.tv_sec != told_second:
        gmtime_r(&clock.tv_sec, &parts)
        snprintf(told_text, 48, "%04d-%02d-%02dT%02d:%02d:%02d.000000+00:00", parts.tm_year + 1900, parts.tm_mon + 1,
                 parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec)
        told_second = clock.tv_sec
    micro = clock.tv_nsec // 1000
    for i in range(25, 19, -1):
        told_text[i] = c'0' + <int>(micro % 10)
        micro //= 10
    return told_text[:32].decode("ascii")


cdef str task_path(path):
    if isinstance(path, (tuple, list)):
        return "~" + ", ".join([task_path(part) for part in path])
    if isinstance(path, int):
        return f"{path:010d}"
    return str(path)


def task_path_str(tup):
    """A task's path as text that sorts as the writes of a superstep are applied."""
    return task_path(tup)


# ------------------------------------------------------------------ checkpoints

cpdef dict empty_checkpoint():
    """The checkpoint before the first."""
    return {"v": 4, "ts": now_text(), "id": checkpoint_id(-2), "channel_values": {}, "channel_versions": {},
            "versions_seen": {}, "updated_channels": None}


def copy_checkpoint(checkpoint):
    """A checkpoint whose dictionaries can change on their own; the values are shared."""
    return {"v": checkpoint["v"], "ts": checkpoint["ts"], "id": checkpoint["id"],
            "channel_values": checkpoint["channel_values"].copy(),
            "channel_versions": checkpoint["channel_versions"].copy(),
            "versions_seen": {node: seen.copy() for node, seen in checkpoint["versions_seen"].items()},
            "updated_channels": checkpoint.get("updated_channels")}


def next_checkpoint(checkpoint, channels, step, id=None, updated_channels=None):
    """The checkpoint after `checkpoint`, without snapshots; `channels` None keeps its values and versions."""
    cdef dict was = checkpoint["channel_versions"], versions = was
    cdef dict values = checkpoint["channel_values"] if channels is None else {}
    if channels is not None:
        versions = was.copy()
        for name, channel in channels.items():
            saved = (<BaseChannel>channel).checkpoint() if name in was else MISSING
            if saved is not MISSING:
                values[name] = saved
        if type(channels) is ChannelMap and (<ChannelMap>channels).top_of is was:
            (<ChannelMap>channels).top_of = versions
    return {"v": 4, "ts": now_text(), "id": id or checkpoint_id(step), "channel_values": values,
            "channel_versions": versions, "versions_seen": checkpoint["versions_seen"],
            "updated_channels": None if updated_channels is None else sorted(updated_channels)}


cdef class View:
    """The values of some channels as one dict, kept from superstep to superstep."""

    cdef dict fresh(self, ChannelMap board):
        """The dict; the caller copies it."""
        for name in self.stale:
            value = (<Held>board[name]).shown() if (<Held>board[name]).holds() else MISSING
            if value is MISSING:
                self.values.pop(name, None)
            elif name in self.values:
                self.values[name] = value
            else:                                   # its place is somewhere in between: begin again
                self.values = {}
                for every in self.order:
                    if (<Held>board[every]).holds():
                        self.values[every] = (<Held>board[every]).shown()
                break
        self.stale.clear()
        return self.values

    cdef dict with_writes(self, ChannelMap board, dict written):
        """A copy as if these writes were there; None when that is not so easy."""
        cdef dict values = dict(self.fresh(board))
        for name in self.vanishing:
            if name not in written:
                values.pop(name, None)
        for name in written:
            if name in self.names:
                if name not in values:
                    return None
                value = value_of(with_writes(board, name, written))
                if value is MISSING:
                    del values[name]
                else:
                    values[name] = value
        return values


cdef class ChannelMap(dict):
    """The live channels by name, and which of them an idle superstep must look at."""

    cdef View view(self, names):
        """The view of so many channels that it pays; None for few, and for those that are not read so simply."""
        cdef View view
        cdef tuple key
        if len(names) < MIN_VIEW:
            return None
        if self.views is None:
            self.views, self.asked_for = {}, {}
        asked = self.asked_for.get(<size_t><PyObject *>names)
        if asked is not None and (<tuple>asked)[0] is names:
            return (<tuple>asked)[1]
        key = tuple(names)
        found = self.views.get(key, MISSING)
        if found is not MISSING:
            if len(self.asked_for) < MAX_VIEWS:
                self.asked_for[<size_t><PyObject *>names] = (names, found)
            return found
        if len(self.views) >= MAX_VIEWS:
            return None
        self.views[key] = None
        for name in key:
            channel = self.get(name)
            if not isinstance(channel, Held) or (<Held>channel).idle == IDLE_ASK:
                return None
        view = View.__new__(View)
        view.names = frozenset(key)
        view.values = {name: (<Held>self[name]).shown() for name in key if (<Held>self[name]).holds()}
        view.vanishing = [name for name in key if (<Held>self[name]).idle == IDLE_CLEARS]
        view.order = key
        view.stale = set()
        self.views[key] = view
        return view

    cdef int touched(self, name) except -1:
        """A channel may have another value now."""
        if self.views is not None:
            for view in self.views.values():
                if view is not None and name in (<View>view).names:
                    (<View>view).stale.add(name)
        return 0

    cdef int learn(self) except -1:
        cdef int kind
        self.live = set()
        self.finishing = []
        self.asked = []
        self.top_of = None
        self.views = None
        for name, item in self.items():
            kind = idle_kind(item)
            if kind == IDLE_NEVER:
                continue
            if kind == IDLE_CLEARS:
                if has_value(item):
                    self.live.add(name)
            elif kind == IDLE_FINISHES:
                self.finishing.append(name)
            else:
                self.asked.append(name)
        return 0

    def forget_top(self):
        """Versions were changed by somebody else: look for the highest again."""
        self.top_of = None


def channel_map(channels):
    """Live channels with their index."""
    cdef ChannelMap made = ChannelMap(channels)
    made.learn()
    return made


cpdef tuple fresh_channels(specs, values):
    """Live channels and managed values for a thread that has no history."""
    cdef ChannelMap channels = ChannelMap()
    cdef dict managed = {}
    cdef dict known = values or {}
    for name, spec in specs.items():
        if not isinstance(spec, BaseChannel):
            managed[name] = spec
            continue
        channels[name] = (<BaseChannel>spec).from_checkpoint(known.get(name, MISSING) if known else MISSING)
    channels.learn()
    return channels, managed


# ------------------------------------------------------------------ writes into channels

# Writes that say something to the engine and go into no channel.
cdef frozenset NOT_CHANNELS = frozenset((
    "__no_writes__", "__pregel_push", "__resume__", "__interrupt__", "__return__", "__error__",
    "__error_source_node__"))
cdef frozenset RESERVED = frozenset()


def set_reserved(names):
    """The names that are no channels, in triggers."""
    global RESERVED
    RESERVED = frozenset(names)


cdef class Round:
    """One superstep's changes: which channels move, to which version, and which then have something to show."""
    cdef ChannelMap board
    cdef dict versions
    cdef object version             # None: versions are not kept, and nothing counts as moved
    cdef bint moved
    cdef set shown

    cdef int note(self, name, BaseChannel channel, bint changed, bint shows) except -1:
        self.board.touched(name)
        if changed and self.version is not None:
            self.versions[name] = self.version
            self.moved = True
            if shows and has_value(channel):
                self.shown.add(name)
        return 0


cdef set mark_seen(list tasks, dict versions, dict all_seen, board):
    """Note which versions the tasks have seen; returns the channels that triggered them."""
    cdef dict seen
    cdef set consumed = None
    for task in tasks:
        seen = all_seen.setdefault(task.name, {})
        for trigger in task.triggers:
            consumed = consumed or set()
            version = versions.get(trigger)
            if version is not None:
                seen[trigger] = version
            if trigger in board and trigger not in RESERVED:
                consumed.add(trigger)
    return consumed


cdef dict writes_by_channel(list tasks, board):
    cdef dict grouped = {}
    for task in tasks:
        for name, value in task.writes:
            if name in NOT_CHANNELS:
                continue
            held = grouped.get(name)
            if held is not None:
                (<list>held).append(value)
            elif name in board:
                grouped[name] = [value]
            else:
                complaints().unknown_channel(task, name, board)
    return grouped


cdef path_of_task(task):
    return task_path(task.path)


cdef set apply_writes_to(checkpoint, channels, list tasks, get_next_version, trigger_to_nodes):
    cdef Round made = Round.__new__(Round)
    cdef ChannelMap board
    cdef BaseChannel channel
    cdef set consumed

    if type(channels) is ChannelMap:
        board = <ChannelMap>channels
    else:
        board = ChannelMap(channels)
        board.learn()
    made.board, made.versions, made.shown = board, checkpoint["channel_versions"], set()
    if len(tasks) > 1:
        tasks = sorted(tasks, key=path_of_task)
    consumed = mark_seen(tasks, made.versions, checkpoint["versions_seen"], board)
    if get_next_version is not None:
        if made.versions and board.top_of is not made.versions:
            board.top = max(made.versions.values())
            board.top_of = made.versions
        made.version = get_next_version(board.top if made.versions else None, None)

    if consumed:
        for name in consumed:
            channel = board[name]
            made.note(name, channel, channel.consume(), False)
    for name, written in writes_by_channel(tasks, board).items():
        channel = board[name]
        try:
            changed = channel.update(written)
        except Exception as error:
            complaints().who_wrote(error, name, tasks)
            raise
        made.note(name, channel, changed, True)
        if channel.idle == IDLE_CLEARS:
            board.live.add(name)
    if consumed is not None:                        # a superstep, not input or an update from outside
        rest(made, board)
        if (board.finishing or board.asked) and made.shown.isdisjoint(trigger_to_nodes):
            for name in board.finishing + board.asked:
                channel = board[name]
                made.note(name, channel, channel.finish(), True)
    if made.moved:
        board.top = made.version
    board.top_of = made.versions if made.version is not None and made.versions else None
    return made.shown


cdef int rest(Round made, ChannelMap board) except -1:
    """An empty update for the channels that it may change and that hold something."""
    cdef BaseChannel channel
    for name in [*board.live, *board.asked] if board.live or board.asked else ():
        if name in made.shown:
            continue
        channel = board[name]
        if has_value(channel):
            made.note(name, channel, channel.update(()), True)
        if channel.idle == IDLE_CLEARS and not has_value(channel):
            board.live.discard(name)
    return 0


def apply_writes(checkpoint, channels, tasks, get_next_version, trigger_to_nodes):
    """Give the writes of finished tasks to the channels and move their versions.

    Parameters
    ----------
    checkpoint : dict
        Its versions are changed in place.
    channels : mapping
        The live channels.
    tasks : iterable
        With `path`, `name`, `writes` and `triggers`.
    get_next_version : callable or None
        ``get_next_version(highest, None)``.
    trigger_to_nodes : mapping
        Which nodes a channel triggers.

    Returns
    -------
    set of str
        The channels that have a new value.
    """
    cdef set shown = apply_writes_to(checkpoint, channels, list(tasks), get_next_version, trigger_to_nodes)
    if type(channels) is ChannelMap:
        (<ChannelMap>channels).top_of = None        # the caller may change versions himself
    return shown


# ------------------------------------------------------------------ what a task holds on to

cdef class Counter:
    """0, 1, 2, ...; one number per call, whatever the thread."""

    def __call__(self):
        cdef Py_ssize_t n = self.next
        self.next = n + 1
        return n


cdef counter(made):
    """A counter, made when it is asked for."""
    return Counter() if made is None else made


cdef class NullResume:
    """The resume value that is not yet given to a task, if there is one; `consume` takes it."""

    def __call__(self, consume=False):
        if self.write is None:
            return None if self.parent is None else self.parent.get_null_resume(consume)
        if consume:
            try:
                self.pending.remove(self.write)
            except ValueError:
                return None
        return self.write[2]


cdef class PregelScratchpad:
    """What the parts of one task share: its step, its counters, its answers to interrupts.

    Parameters
    ----------
    step, stop : int
        The superstep, and the one that is too many.
    call_counter, interrupt_counter, subgraph_counter : callable
        Count the calls, interrupts and subgraphs of the task.
    get_null_resume : callable
        ``get_null_resume(consume)`` gives the answer that is addressed to no task.
    resume : list
        Answers to this task's interrupts, in order.
    """

    def __init__(self, *, step, stop, call_counter, interrupt_counter, get_null_resume, resume, subgraph_counter):
        self.step = step
        self.stop = stop
        self.calls = call_counter
        self.asked = interrupt_counter
        self.subgraphs = subgraph_counter
        self.null = get_null_resume
        self.resume = resume

    @property
    def call_counter(self):
        """Counts the calls of other tasks."""
        self.calls = counter(self.calls)
        return self.calls

    @property
    def interrupt_counter(self):
        """Counts the interrupts."""
        self.asked = counter(self.asked)
        return self.asked

    @property
    def subgraph_counter(self):
        """Counts the subgraphs."""
        self.subgraphs = counter(self.subgraphs)
        return self.subgraphs

    @property
    def get_null_resume(self):
        """Gives the answer that is addressed to no task."""
        if self.null is None:
            self.null = NullResume()
        return self.null

    def restarted(self):
        """The same for another attempt: interrupts are counted from 0 again."""
        return PregelScratchpad(step=self.step, stop=self.stop, call_counter=self.call_counter,
                                interrupt_counter=Counter(), get_null_resume=self.get_null_resume,
                                resume=self.resume, subgraph_counter=self.subgraph_counter)


def interrupt_id(str ns, Py_ssize_t answered):
    """The id of a task's interrupt after so many answered ones."""
    return xxh3_hex((f"{ns}|{answered}" if answered else ns).encode())


cdef PregelScratchpad scratchpad_for(parent, list pending, str task_id, str task_ns, resume_map, step, stop):
    cdef PregelScratchpad pad = PregelScratchpad.__new__(PregelScratchpad)
    cdef NullResume null
    cdef tuple null_write = None
    cdef list answers = None
    pad.step = step
    pad.stop = stop
    if len(pending) > 0:
        for write in pending:
            if write[1] != "__resume__":
                continue
            if write[0] == task_id:
                if answers is None:
                    answers = write[2] if isinstance(write[2], list) else [write[2]]
            elif null_write is None and write[0] == NULL_TASK_ID:
                null_write = write
        answers = [] if answers is None else answers
        for before in (len(answers), 0) if resume_map else ():
            answer = resume_map.get(interrupt_id(task_ns, before), MISSING)
            if answer is not MISSING:
                answers.append(answer)
                break
    pad.resume = [] if answers is None else answers
    if null_write is not None or parent is not None:
        null = NullResume.__new__(NullResume)
        null.parent = parent
        null.pending = pending
        null.write = null_write
        pad.null = null
    return pad


NULL_TASK_ID = "00000000-0000-0000-0000-000000000000"


def scratchpad(parent_scratchpad, pending_writes, task_id, task_checkpoint_ns, resume_map, step, stop):
    """The scratchpad of a task."""
    return scratchpad_for(parent_scratchpad, pending_writes, task_id, task_checkpoint_ns, resume_map, step, stop)


cdef class LocalRead:
    """Reads channels for a task; `fresh` as if its own writes were already there.

    It has the attributes of a ``functools.partial`` of `local_read`: the tool node of langgraph-prebuilt finds the
    channels in `args`.
    """
    keywords = {}

    def __call__(self, select, fresh=False):
        return read_for_task(self.scratchpad, self.channels, self.managed, self.writes, select, fresh)

    @property
    def func(self):
        return local_read

    @property
    def args(self):
        return self.scratchpad, self.channels, self.managed, SimpleNamespace(writes=self.writes)


def local_read(scratchpad, channels, managed, task, select, fresh=False):
    """Read channels for a task.

    Parameters
    ----------
    select : str or list of str
        A channel, or channels and managed values.
    fresh : bool
        Show the channels with this task's writes applied, to this reader only.
    """
    return read_for_task(scratchpad, channels, managed, task.writes, select, fresh)


cdef BaseChannel with_writes(channels, name, dict written):
    """A channel as it is after these writes; a copy, unless nothing would change."""
    cdef BaseChannel source = channels[name], made
    writes = written.get(name)
    if writes is None and source.idle == IDLE_NEVER:
        return source
    made = source.copy()
    made.update(() if writes is None else writes)
    return made


cdef read_channels(channels, select, dict written):
    """The values of channels: of one, or of several as a dict; `written` None, or writes to be had beforehand."""
    cdef dict values
    cdef View view = None
    if type(select) is str:
        value = value_of(channels[select] if written is None else with_writes(channels, select, written))
        return None if value is MISSING else value
    if type(channels) is ChannelMap:
        view = (<ChannelMap>channels).view(select)
    if view is not None:
        values = (dict(view.fresh(channels)) if written is None else view.with_writes(channels, written))
        if values is not None:
            return values
    values = {}
    for name in select:
        value = value_of(channels[name] if written is None else with_writes(channels, name, written))
        if value is not MISSING:
            values[name] = value
    return values


cdef read_for_task(scratchpad, channels, managed, writes, select, bint fresh):
    cdef dict written = {} if fresh else None
    for name, value in writes if fresh else ():
        written.setdefault(name, []).append(value)
    if isinstance(select, str):
        return read_channels(channels, str(select), written)
    if not managed or managed.keys().isdisjoint(select):
        return read_channels(channels, select, written)
    values = read_channels(channels, [name for name in select if name not in managed], written)
    for name in select:
        if name in managed:
            values[name] = managed[name].get(scratchpad)
    return values


# ------------------------------------------------------------------ tasks

cdef object PLAN = "_plan of the engine"        # where a node keeps its plan for the next run
cdef object RESUME_MAP = "__pregel_resume_map"
cdef object SCRATCHPAD = "__pregel_scratchpad"
cdef object NS = "checkpoint_ns"
cdef tuple PUSH_TRIGGER = ("__pregel_push",)


cdef bint triggered(channels, dict versions, dict seen, null_version, list triggers) except -1:
    for name in triggers:
        if has_value(channels[name]) and (
                seen is None or versions.get(name, null_version) > seen.get(name, null_version)):
            return True
    return False


cpdef null_version_of(checkpoint):
    """What is lower than every version of this checkpoint; None when it has none."""
    for first in (<dict?>checkpoint["channel_versions"]).values():
        return 0 if type(first) is int else None if first is None else type(first)()
    return None


cdef class NodePlan:
    """What runs need to know of a node; kept with the node, and made anew when the node was changed."""

    def __init__(self, name, proc):
        self.proc = proc
        self.name = name
        self.node = proc.node
        self.mapper = proc.mapper
        self.channels = proc.channels
        self.trigger_list = list(proc.triggers)
        self.triggers = tuple(sorted(self.trigger_list))
        self.pull_tail = (name + "__pregel_pull" + "".join(self.triggers)).encode()
        self.retry_policy = proc.retry_policy
        self.cache_policy = proc.cache_policy
        self.tags = proc.tags
        self.metadata = proc.metadata
        self.writers = proc.flat_writers
        self.subgraphs = proc.subgraphs
        self.timeout = proc.timeout

    cdef bint holds(self, name, proc):
        """Whether the node is still as it was."""
        return (self.proc is proc and self.name == name and self.node is proc.node and self.mapper is proc.mapper
                and self.channels is proc.channels and self.trigger_list == proc.triggers
                and self.retry_policy is proc.retry_policy and self.cache_policy is proc.cache_policy
                and self.tags is proc.tags and self.metadata is proc.metadata and self.timeout is proc.timeout)


cdef class Preparer:
    """Makes the tasks of a run's supersteps."""

    def __init__(self, processes, channels, managed, *, for_execution=True, store=None, checkpointer=None, manager=None,
                 retry_policy=(), cache_policy=None):
        self.for_execution = for_execution
        self.set_up(processes, channels, managed, store, checkpointer, manager, retry_policy, cache_policy)

    cdef int set_up(self, processes, channels, managed, store, checkpointer, manager, retry_policy,
                    cache_policy) except -1:
        self.processes, self.channels, self.managed = processes, channels, managed
        self.store, self.checkpointer, self.manager = store, checkpointer, manager
        self.retry, self.caching = retry_policy, cache_policy
        self.watched = manager is not None and bool(manager.handlers or manager.inheritable_handlers)
        self.plans = {}
        return 0

    cdef int begin(self, checkpoint, list pending, config, step, stop) except -1:
        self.checkpoint = checkpoint
        self.id_bytes = id_bytes(<str?>checkpoint["id"])
        self.null_version = null_version_of(checkpoint)
        self.pending = pending
        self.step = step
        self.stop = stop
        self.step_bytes = str(step).encode()
        self.old_ids = checkpoint["v"] <= 1
        self.input_cache = None
        conf = config.get("configurable")
        self.config, self.conf = config, {} if conf is None else conf
        self.parent_ns = self.conf.get(NS, "")
        return 0

    cdef NodePlan plan(self, name):
        found = self.plans.get(name)
        if found is not None:
            return <NodePlan>found
        proc = self.processes[name]
        keep = getattr(proc, "__dict__", None)
        if type(keep) is not dict:
            keep = {}
        found = (<dict>keep).get(PLAN)
        if type(found) is not NodePlan or not (<NodePlan>found).holds(name, proc):
            found = (<dict>keep)[PLAN] = NodePlan(name, proc)
        self.plans[name] = found
        return <NodePlan>found

    cdef str id_of(self, checkpoint_ns, bytes tail):
        cdef bytes data = self.id_bytes + checkpoint_ns.encode() + self.step_bytes + tail
        return sha_id(data) if self.old_ids else hex_id(data)

    cdef dict all_tasks(self, trigger_to_nodes, updated_channels):
        cdef dict tasks = {}
        cdef Py_ssize_t i, count
        cdef set names
        sends = self.channels.get("__pregel_tasks")
        if sends is not None and has_value(<BaseChannel?>sends):
            count = len((<Topic>sends).values) if type(sends) is Topic else len(sends.get())
            for i in range(count):
                task = self.push(i)
                if task is not None:
                    tasks[task.id] = task
        if trigger_to_nodes and updated_channels:
            names = set()
            for updated in updated_channels:
                for name in trigger_to_nodes.get(updated, ()):
                    names.add(name)
            candidates = sorted(names) if len(names) > 1 else names
        elif not self.checkpoint["channel_versions"]:
            candidates = ()
        else:
            candidates = list(self.processes)
        self.input_cache = {} if len(candidates) > 1 else None
        for name in candidates:
            if name not in self.processes or self.null_version is None:
                continue
            task = self.pull(self.plan(name))
            if task is not None:
                tasks[task.id] = task
        self.input_cache = None
        return tasks

    cdef pull(self, NodePlan plan):
        cdef str task_id, task_ns
        cdef dict metadata
        cdef tuple path
        if not triggered(self.channels, self.checkpoint["channel_versions"],
                         self.checkpoint["versions_seen"].get(plan.name), self.null_version, plan.trigger_list):
            return None
        ns = f"{self.parent_ns}|{plan.name}" if self.parent_ns else plan.name
        task_id = self.id_of(ns, plan.pull_tail)
        task_ns = f"{ns}:{task_id}"
        path = ("__pregel_pull", plan.name)
        pad = scratchpad_for(self.conf.get(SCRATCHPAD), self.pending, task_id, task_ns, self.conf.get(RESUME_MAP),
                             self.step, self.stop)
        try:
            value = self.read_input(plan, pad)
        except Exception as exc:
            add_note(exc, f"Before task with name '{plan.name}' and path '{path}'")
            raise
        if value is MISSING:
            return None
        if not self.for_execution:
            return PlainTask(task_id, plan.name, path)
        if plan.node is None:
            return None
        metadata = {"langgraph_step": self.step, "langgraph_node": plan.name, "langgraph_triggers": plan.triggers,
                    "langgraph_path": path, "langgraph_checkpoint_ns": task_ns}
        if plan.metadata:
            metadata.update(plan.metadata)
        policy = plan.cache_policy or self.caching
        key = None
        if policy:
            key = self.cache_key(policy, (identifier(plan.proc) or "__dynamic__", plan.name), policy.key_func(value))
        return self.finished(plan.name, task_id, path, value, plan.node, metadata, plan.triggers, plan.tags,
                             plan.retry_policy or self.retry, key, None, pad, task_ns, plan.writers,
                             plan.subgraphs, plan.timeout, True, None)

    cdef push(self, Py_ssize_t index):
        cdef str task_id, task_ns
        cdef dict metadata
        cdef tuple path
        cdef NodePlan plan
        topic = self.channels["__pregel_tasks"]
        sends = (<Topic>topic).values if type(topic) is Topic else topic.get()
        if index < 0 or index >= len(sends):
            return None
        packet = sends[index]
        if type(packet) is not Send and not isinstance(packet, Send):
            _log.warning("Among the pending sends there is one of type %s; it is ignored", type(packet))
            return None
        name = packet.node
        if name not in self.processes:
            complaints().unknown_node(name, self.processes)
            return None
        plan = self.plan(name)
        if plan.node is None:
            return None
        ns = f"{self.parent_ns}|{name}" if self.parent_ns else name
        task_id = self.id_of(ns, (name + "__pregel_push" + str(index)).encode())
        task_ns = f"{ns}:{task_id}"
        path = ("__pregel_push", index, False)
        if not self.for_execution:
            return PlainTask(task_id, name, path)
        metadata = {"langgraph_step": self.step, "langgraph_node": name, "langgraph_triggers": PUSH_TRIGGER,
                    "langgraph_path": path, "langgraph_checkpoint_ns": task_ns}
        if plan.metadata:
            metadata.update(plan.metadata)
        policy = plan.cache_policy or self.caching
        key = None
        if policy:
            key = self.cache_key(policy, (identifier(plan.proc) or "__dynamic__", name), policy.key_func(packet.arg))
        pad = scratchpad_for(self.conf.get(SCRATCHPAD), self.pending, task_id, task_ns, self.conf.get(RESUME_MAP),
                             self.step, self.stop)
        timeout = packet.timeout
        return self.finished(name, task_id, path, packet.arg, plan.node, metadata, PUSH_TRIGGER, plan.tags,
                             plan.retry_policy or self.retry, key, None, pad, task_ns, plan.writers,
                             plan.subgraphs, plan.timeout if timeout is None else timeout, True, None)

    cdef call(self, tuple path):
        """A task that another task calls: path is (PUSH, path of the caller, number, id of the caller, call)."""
        cdef str task_id, task_ns
        cdef dict metadata
        call = path[4]
        proc = runnable_for_task(call.func)
        name = proc.name
        if name is None:
            raise ValueError(f"{call.func!r} cannot be called as a task: it has no __name__")
        ns = f"{self.parent_ns}|{name}" if self.parent_ns else name
        task_id = self.id_of(ns, (name + "__pregel_push" + task_path(path[1]) + str(path[2])).encode())
        task_ns = f"{ns}:{task_id}"
        shown = (path[0], path[1], path[2], True)
        if not self.for_execution:
            return PlainTask(task_id, name, shown)
        metadata = {"langgraph_step": self.step, "langgraph_node": name, "langgraph_triggers": PUSH_TRIGGER,
                    "langgraph_path": shown, "langgraph_checkpoint_ns": task_ns}
        policy = call.cache_policy or self.caching
        key = None
        if policy:
            args, kwargs = call.input
            key = self.cache_key(policy, (identifier(call.func) or "__dynamic__",), policy.key_func(*args, **kwargs))
        pad = scratchpad_for(self.conf.get(SCRATCHPAD), self.pending, task_id, task_ns, self.conf.get(RESUME_MAP),
                             self.step, self.stop)
        return self.finished(name, task_id, shown, call.input, proc, metadata, PUSH_TRIGGER, None,
                             call.retry_policy or self.retry, key, call.callbacks, pad, task_ns, (), (),
                             call.timeout, False, None)

    cdef handler(self, failed, name, error):
        """The task of the node that takes care of a failed one."""
        cdef str task_id, task_ns
        cdef dict metadata
        cdef tuple path
        cdef NodePlan plan
        if name not in self.processes:
            return None
        plan = self.plan(name)
        if plan.node is None:
            return None
        ns = f"{self.parent_ns}|{name}" if self.parent_ns else name
        task_id = self.id_of(ns, (name + "__pregel_push" + "node_error_handler" + failed.id).encode())
        task_ns = f"{ns}:{task_id}"
        path = (*failed.path[:3], "node_error_handler", False)
        metadata = {"langgraph_step": self.step, "langgraph_node": name, "langgraph_triggers": PUSH_TRIGGER,
                    "langgraph_path": path, "langgraph_checkpoint_ns": task_ns}
        if plan.metadata:
            metadata.update(plan.metadata)
        policy = plan.cache_policy or self.caching
        key = None
        if policy:
            key = self.cache_key(policy, (identifier(plan.proc) or "__dynamic__", name), policy.key_func(failed.input))
        pad = scratchpad_for(self.conf.get(SCRATCHPAD), self.pending, task_id, task_ns, self.conf.get(RESUME_MAP),
                             self.step, self.stop)
        extra = {"__pregel_node_error": NodeError(node=failed.name, error=error)}
        return self.finished(name, task_id, path, failed.input, plan.node, metadata, PUSH_TRIGGER, plan.tags,
                             plan.retry_policy or self.retry, key, None, pad, task_ns, plan.writers,
                             plan.subgraphs, None, True, extra)

    cdef read_input(self, NodePlan plan, scratchpad):
        if self.input_cache is not None:
            key = plan.proc.input_cache_key
            known = self.input_cache.get(key, MISSING)
            if known is not MISSING:
                return dict(<dict>known) if type(known) is dict else _copy.copy(known)
        names = plan.channels
        if isinstance(names, str):
            result = value_of(self.channels[names]) if names in self.channels else MISSING
            if result is MISSING:
                return result
        elif isinstance(names, list):
            result = self.read_list(<list>names, scratchpad)
        else:
            raise RuntimeError(f"A node reads one channel or a list of channels, not {names!r}")
        if self.for_execution and plan.mapper is not None:
            result = plan.mapper(result)
        if self.input_cache is not None:
            self.input_cache[key] = result
        return result

    cdef dict read_list(self, list names, scratchpad):
        cdef dict values = {}
        cdef View view = (<ChannelMap>self.channels).view(names) if type(self.channels) is ChannelMap else None
        if view is not None:
            return dict(view.fresh(self.channels))
        for name in names:
            found = self.channels.get(name)
            value = self.managed[name].get(scratchpad) if found is None else value_of(<BaseChannel>found)
            if value is not MISSING:
                values[name] = value
        return values

    cdef cache_key(self, policy, tuple space, value):
        return CacheKey(("__pregel_ns_writes", *space), xxh3_hex(value.encode() if isinstance(value, str) else value),
                        policy.ttl)

    cdef finished(self, name, str task_id, tuple path, value, proc, dict metadata, tuple triggers, tags, retry,
                  cache_key, callbacks, scratchpad, str task_ns, writers, subgraphs, timeout, bint previous,
                  dict extra):
        cdef LocalRead read
        cdef dict patch, ids
        checkpoint = self.checkpoint
        writes = deque()
        read = LocalRead.__new__(LocalRead)
        read.scratchpad = scratchpad
        read.channels = self.channels
        read.managed = self.managed
        read.writes = writes
        runtime = self.conf.get("__pregel_runtime")
        if runtime is None:
            runtime = DEFAULT_RUNTIME
        run_id = self.config.get("run_id")
        if extra is None:
            info = build(info_shape, (
                checkpoint["id"], task_ns, task_id, self.conf.get("thread_id"),
                str(run_id) if run_id else None, 1, now()))
        else:
            info = runtime.execution_info
        before = checkpoint["channel_values"].get("__previous__") if previous else runtime.previous
        if type(runtime) is Runtime:
            runtime = build(runtime_shape, (
                runtime.context, self.store, runtime.stream_writer, runtime.heartbeat, before, info,
                runtime.server_info, runtime.control))
        else:
            runtime = runtime.override(store=self.store, previous=before, execution_info=info)
        known = self.conf.get("checkpoint_map")
        ids = dict(known) if known else {}
        ids[self.parent_ns] = checkpoint["id"]
        patch = {"__pregel_task_id": task_id, "__pregel_send": writes.extend, "__pregel_read": read,
                 "__pregel_checkpointer": self.checkpointer or self.conf.get("__pregel_checkpointer"),
                 "checkpoint_map": ids, "checkpoint_id": None, NS: task_ns, SCRATCHPAD: scratchpad,
                 "__pregel_runtime": runtime}
        if extra is not None:
            patch.update(extra)
        if not callbacks and self.watched:
            callbacks = self.manager.get_child(f"graph:step:{self.step}")
        config = self.config_for(name, metadata, tags, callbacks or None, patch)
        return build(task_shape, (
            name, value, proc, writes, config, triggers, retry, cache_key, task_id, path, writers, subgraphs, timeout))

    cdef int rebase(self, config) except -1:
        """What all tasks have of the config of their run: `merge_configs` of this one, taken apart."""
        cdef dict base = {}, noted = {}
        for key, value in config.items():
            if not value or key == "configurable" or type(value) is DefaultLimit:
                continue
            if key == "metadata":
                noted = dict(value)
            elif key == "tags":
                base[key] = [*value]
            else:
                base[key] = value.copy() if key == "callbacks" else value
        self.nested_meta = False
        for key, value in noted.items():
            if type(value) is not str and type(value) is not int and type(value) is not tuple:
                noted[key] = own_copy(value)
                self.nested_meta = self.nested_meta or isinstance(value, dict)
        base.setdefault("callbacks", None)
        self.base, self.base_meta, self.base_of = base, noted, config
        return 0

    cdef dict config_for(self, name, dict metadata, tags, callbacks, dict patch):
        cdef dict out, merged, conf
        if self.base_of is not self.config:
            self.rebase(self.config)
        out = dict(self.base)
        merged = dict(self.base_meta)
        if self.nested_meta:
            for key, value in merged.items():
                if isinstance(value, dict):
                    merged[key] = dict(value)
        if "lc_versions" in metadata and isinstance(merged.get("lc_versions"), dict):
            metadata["lc_versions"] = {**merged["lc_versions"], **metadata["lc_versions"]}
        PyDict_Update(merged, metadata)
        out["metadata"] = merged
        if tags:
            known = out.get("tags")
            out["tags"] = [*known, *tags] if known else tags
        if callbacks:
            out["callbacks"] = callbacks
            out.pop("run_id", None)
        out["run_name"] = name
        conf = dict(self.conf)
        PyDict_Update(conf, patch)
        out["configurable"] = conf
        return out


def prepare_next_tasks(checkpoint, pending_writes, processes, channels, managed, config, step, stop, *, for_execution,
                       store=None, checkpointer=None, manager=None, trigger_to_nodes=None, updated_channels=None,
                       retry_policy=(), cache_policy=None):
    """The tasks of the next superstep, by id.

    Parameters
    ----------
    for_execution : bool
        Make tasks that can run; otherwise only their ids, names and paths.
    trigger_to_nodes, updated_channels
        When both are given, only nodes that these channels trigger are looked at.
    """
    cdef Preparer preparer = Preparer(processes, channels, managed, for_execution=for_execution, store=store,
                                      checkpointer=checkpointer, manager=manager, retry_policy=retry_policy,
                                      cache_policy=cache_policy)
    pending = pending_writes if type(pending_writes) is list else list(pending_writes)
    preparer.begin(checkpoint, pending, config, step, stop)
    return preparer.all_tasks(trigger_to_nodes, updated_channels)


def prepare_single_task(task_path, task_id_checksum, *, checkpoint, processes, channels, managed, config, step, stop,
                        for_execution, pending_writes, store=None, checkpointer=None, manager=None, input_cache=None,
                        cache_policy=None, retry_policy=(), checkpoint_id_bytes=None, checkpoint_null_version=None):
    """The task at a path: ``(PULL, node)``, ``(PUSH, index)`` or the path of a call; None: there is nothing to run."""
    cdef Preparer preparer = Preparer(processes, channels, managed, for_execution=for_execution, store=store,
                                      checkpointer=checkpointer, manager=manager, retry_policy=retry_policy,
                                      cache_policy=cache_policy)
    preparer.begin(checkpoint, pending_writes, config, step, stop)
    if task_path[0] == "__pregel_pull":
        if task_path[1] not in processes or preparer.null_version is None:
            return None
        task = preparer.pull(preparer.plan(task_path[1]))
    elif task_path[0] != "__pregel_push":
        task = None
    elif isinstance(task_path[-1], Call):
        task = preparer.call(task_path)
    elif len(task_path) == 2:
        sends = channels["__pregel_tasks"]
        task = preparer.push(task_path[1]) if sends.is_available() else None
    else:
        _log.warning("The task path %s is none that this version knows; it is ignored", task_path)
        task = None
    if task is not None and task_id_checksum is not None and task.id != task_id_checksum:
        raise AssertionError(f"the task at {task_path[:3]} has the id {task.id}, not {task_id_checksum} as expected")
    return task


def prepare_node_error_handler_task(failed_task, *, handler_node_name, failed_error, checkpoint, pending_writes,
                                    processes, channels, managed, config, step, stop, store=None, checkpointer=None,
                                    manager=None, cache_policy=None, retry_policy=()):
    """The task of the node that handles the error of `failed_task`; None when there is no such node."""
    cdef Preparer preparer = Preparer(processes, channels, managed, for_execution=True, store=store,
                                      checkpointer=checkpointer, manager=manager, retry_policy=retry_policy,
                                      cache_policy=cache_policy)
    preparer.begin(checkpoint, pending_writes, config, step, stop)
    return preparer.handler(failed_task, handler_node_name, failed_error)
