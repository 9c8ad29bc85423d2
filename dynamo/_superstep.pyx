"""One superstep after another: the native part of a run.

    tick: prepare tasks -> [run] -> after_tick: apply writes, show values, save -> tick ...

A task is run the plain way when nobody looks on and its node has no policy: its function is called here, in a copied
context that holds the task's config, and its result goes through the node's writers. Everything else is the complete
way, in Python (PregelRunner).

I1  Python code of a user runs with no lock held, and may come back into any method here.
I2  Tasks and runners do not refer to the loop, or weakly: a finished run is freed by counting.
I3  put_writes is linear in what is written: only a task that wrote before is searched for.
"""

import asyncio
import logging
import weakref
from concurrent.futures import CancelledError as NeverBegun

from dynamo._channels cimport DeltaChannel, IDLE_CLEARS, MISSING, UntrackedValue, idle_kind
from dynamo._pregel cimport (
    NodePlan, Preparer, apply_writes_to, checkpoint_id, empty_checkpoint, fresh_channels, read_channels,
    runtime_inside)
from dynamo._workers cimport Bell, Crew, Job

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContextVar_Set(object variable, object value)
    int PyCoro_CheckExact(object o)

cdef object variable = None             # the context variable of the current config
cdef object GraphBubbleUp = Exception
cdef object GraphInterrupt = Exception
cdef object ParentCommand = Exception
cdef object NodeCancelledError = Exception
cdef object take_parent_command = None
cdef object add_task_note = None
cdef object without_our_frames = None
cdef object recipe_for = None           # node -> list of steps, or None
cdef object is_runnable = None
cdef object passthrough = None
cdef object skip_write = None
cdef object should_interrupt = None
cdef object is_invalid_resume = None
cdef frozenset control_writes = frozenset()
cdef object debug_tasks = None
cdef object debug_results = None
cdef object debug_checkpoint = None
cdef object task_updates = None

NULL_TASK_ID = "00000000-0000-0000-0000-000000000000"
# Writes that say how a task went; a saver keeps one of each kind.
SPECIAL = {"__error__": -1, "__scheduled__": -2, "__interrupt__": -3, "__resume__": -4}
HIDDEN = "langsmith:hidden"


def bind(names):
    """Tell the loop which classes and functions of dynamo.langgraph to use, by the name of the global here."""
    global variable, GraphBubbleUp, GraphInterrupt, ParentCommand, NodeCancelledError, take_parent_command
    global add_task_note, recipe_for, is_runnable, passthrough, skip_write, should_interrupt, control_writes
    global debug_tasks, debug_results, debug_checkpoint, task_updates, is_invalid_resume, without_our_frames
    variable = names["variable"]
    GraphBubbleUp = names["GraphBubbleUp"]
    GraphInterrupt = names["GraphInterrupt"]
    ParentCommand = names["ParentCommand"]
    NodeCancelledError = names["NodeCancelledError"]
    take_parent_command = names["take_parent_command"]
    add_task_note = names["add_task_note"]
    without_our_frames = names["without_our_frames"]
    recipe_for = names["recipe_for"]
    is_runnable = names["is_runnable"]
    passthrough = names["PASSTHROUGH"]
    skip_write = names["SKIP_WRITE"]
    should_interrupt = names["should_interrupt"]
    is_invalid_resume = names["is_invalid_resume"]
    control_writes = names["CONTROL_WRITES"]
    debug_tasks = names["map_debug_tasks"]
    debug_results = names["map_debug_task_results"]
    debug_checkpoint = names["map_debug_checkpoint"]
    task_updates = names["task_updates"]


# ------------------------------------------------------------------ the steps of a plain node

cdef enum:
    CALL = 0            # a user's function
    WRITE = 1           # what a ChannelWrite says
    BRANCH = 2          # read fresh, ask a path function, write where to go
    INVOKE = 3          # any other runnable
    GRAPH = 4           # a compiled graph


cdef class Step:
    """One step of a plain node."""
    cdef int kind
    cdef object func                # CALL, BRANCH: the function for a synchronous run
    cdef object afunc               # the same for an asynchronous one; None: use func
    cdef bint hops                  # afunc does nothing but call func on a thread
    cdef dict kwargs
    cdef tuple accepts              # ((name, runtime attribute, default), ...)
    cdef bint explode
    cdef bint recurse
    cdef object runnable            # what the step is made from
    cdef tuple entries              # WRITE: ((channel or None, value, skip_none, mapper), ...)
    cdef object reader              # BRANCH
    cdef object writer
    cdef object finish
    cdef object pairs               # writes for a path function's result, if they are known without asking `finish`
    cdef bint merges
    cdef bint quiet                 # WRITE: of a dict it makes pairs without calling anything of a user's
    cdef Inner inner                # GRAPH

    def __init__(self, kind, runnable, *, func=None, afunc=None, hops=False, kwargs=None, accepts=(), explode=False,
                 recurse=False, entries=(), reader=None, writer=None, finish=None, pairs=None, merges=False,
                 quiet=False):
        self.kind, self.runnable, self.entries = kind, runnable, tuple(entries)
        self.func, self.afunc, self.kwargs, self.accepts = func, afunc, kwargs or None, tuple(accepts)
        self.explode, self.recurse, self.merges, self.quiet = explode, recurse, merges, quiet
        self.hops = hops
        self.reader, self.writer, self.finish, self.pairs = reader, writer, finish, pairs
        if kind == GRAPH:
            self.inner = Inner(runnable)

    cdef dict injected(self, dict config, dict more):
        cdef dict kwargs = dict(self.kwargs) if self.kwargs is not None else {}
        if more:
            kwargs.update(more)
        conf = config["configurable"]
        runtime = conf.get("__pregel_runtime")
        for name, attribute, default in self.accepts:
            if name in kwargs:
                continue
            value = MISSING
            if name == "config":
                value = config
            elif name == "error":
                value = conf.get("__pregel_node_error", MISSING)
            elif runtime is not None:
                value = runtime if name == "runtime" else getattr(runtime, attribute, MISSING)
            if value is MISSING:
                if default is MISSING:
                    raise ValueError(f"Missing required config key '{attribute}' for '{self.runnable.name}'.")
                value = default
            kwargs[name] = value
        return kwargs

    cdef call(self, func, value, dict config):
        """Call a function with the input, and with what its parameters ask for."""
        if not self.explode and not self.accepts and self.kwargs is None:
            return func(value)
        if self.explode:
            args, more = value
            return func(*args, **self.injected(config, more))
        return func(value, **self.injected(config, None))

    cdef branch_input(self, value, dict config):
        if self.reader is None:
            return value
        seen = self.reader(config)
        if self.merges and isinstance(seen, dict) and isinstance(value, dict):
            seen = {**value, **seen}
        return seen

    cdef end_branch(self, value, result, dict config):
        """Write where to go; gives the value back, or a runnable that does the writing."""
        if self.pairs is not None:
            found = self.pairs(result)
            if found is not None:
                if found:
                    config["configurable"]["__pregel_send"](found)
                return value
        return self.finish(self.writer, value, result, config)

    cdef run(self, value, dict config):
        if self.kind == WRITE:
            self.write(value, config)
            return value
        if self.kind == GRAPH:
            return self.inner.run(value, config)
        if self.kind == INVOKE or self.func is None:
            return self.runnable.invoke(value, config)
        if self.kind == BRANCH:
            result = self.call(self.func, self.branch_input(value, config), config)
            if plainly_not_runnable(result) is False and is_runnable(result):
                result = result.invoke(value, config)
            result = self.end_branch(value, result, config)
            return value if result is value or not is_runnable(result) else result.invoke(value, config)
        result = self.call(self.func, value, config)
        if self.recurse and not plainly_not_runnable(result) and is_runnable(result):
            return result.invoke(value, config)
        return result

    cdef list written(self, value):
        """What a WRITE writes."""
        cdef list out = []
        for channel, given, skip_none, mapper in self.entries:
            item = value if given is passthrough else given
            if channel is None:
                found = mapper(item)
                if found:
                    out.extend(found)
                continue
            if mapper is not None:
                item = mapper(item)
            if item is skip_write or (skip_none and item is None):
                continue
            out.append((channel, item))
        return out

    cdef int write(self, value, dict config) except -1:
        config["configurable"]["__pregel_send"](self.written(value))
        return 0


cdef bint plainly_not_runnable(value):
    """True for what is surely no Runnable; asking the abstract class is slow."""
    cls = type(value)
    return value is None or cls is dict or cls is str or cls is list or cls is tuple or not hasattr(cls, "invoke")


cdef run_steps(list steps, value, dict config):
    cdef Step step
    for each in steps:
        step = <Step>each
        if step.quiet and type(value) is dict:      # nobody could see the context
            step.write(value, config)
            continue
        context = PyContext_CopyCurrent()
        PyContext_Enter(context)
        try:
            PyContextVar_Set(variable, config)
            value = step.run(value, config)
        finally:
            PyContext_Exit(context)
    return value


cdef class Inside:
    """Drives a coroutine with a context entered whenever it runs; awaited by somebody else's task."""
    cdef object coro
    cdef object context

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        PyContext_Enter(self.context)
        try:
            return self.coro.send(None)
        finally:
            PyContext_Exit(self.context)

    def send(self, value):
        """Go on with the coroutine."""
        PyContext_Enter(self.context)
        try:
            return self.coro.send(value)
        finally:
            PyContext_Exit(self.context)

    def throw(self, *args):
        """Raise in the coroutine."""
        PyContext_Enter(self.context)
        try:
            return self.coro.throw(*args)
        finally:
            PyContext_Exit(self.context)

    def close(self):
        """End the coroutine."""
        self.coro.close()


cdef Inside inside(context, coro):
    cdef Inside made = Inside.__new__(Inside)
    made.coro = coro
    made.context = context
    return made


async def _await(awaitable):
    return await awaitable


cdef class Hop:
    """A step's function, to be called on a thread of an event loop's executor."""
    cdef Step step
    cdef object value
    cdef dict config
    cdef object context

    def __call__(self):
        PyContext_Enter(self.context)
        try:
            return self.step.call(self.step.func, self.value, self.config)
        except StopIteration as stop:       # a future cannot carry it
            raise RuntimeError from stop
        finally:
            PyContext_Exit(self.context)


cdef hop(Step step, value, dict config):
    """Call a step's function on a thread, in a copy of this context; returns a future."""
    cdef Hop made = Hop.__new__(Hop)
    made.step, made.value, made.config, made.context = step, value, config, PyContext_CopyCurrent()
    return asyncio.get_running_loop().run_in_executor(None, made)


async def arun_steps(list steps, value, dict config):
    cdef Step step
    for item in steps:
        step = <Step>item
        if step.quiet and type(value) is dict:      # nobody could see the context
            step.write(value, config)
            continue
        context = PyContext_CopyCurrent()
        PyContext_Enter(context)
        try:
            PyContextVar_Set(variable, config)
            if step.kind == WRITE:
                step.write(value, config)
                continue
            if step.kind == GRAPH:
                work = step.inner.arun(value, config)
            elif step.kind == INVOKE:
                work = step.runnable.ainvoke(value, config)
            elif step.afunc is None:
                value = step.run(value, config)
                continue
            else:
                given = step.branch_input(value, config) if step.kind == BRANCH else value
                work = hop(step, given, config) if step.hops else step.call(step.afunc, given, config)
        finally:
            PyContext_Exit(context)
        if step.hops:
            result = await work
        else:
            if not PyCoro_CheckExact(work):
                work = _await(work)
            result = await inside(context, work)
        if step.kind == BRANCH:
            if not plainly_not_runnable(result) and is_runnable(result):
                result = await inside(context, result.ainvoke(value, config))
            PyContext_Enter(context)
            try:
                result = step.end_branch(value, result, config)
            finally:
                PyContext_Exit(context)
            if result is not value and is_runnable(result):
                result = await inside(context, result.ainvoke(value, config))
        elif step.kind == CALL and step.recurse and not plainly_not_runnable(result) and is_runnable(result):
            result = await inside(context, result.ainvoke(value, config))
        value = result
    return value


cdef list recipe_of(NodePlan plan):
    if plan.recipe is None:
        steps = None if plan.proc.error_handler_node is not None else recipe_for(plan.node)
        plan.recipe = False if steps is None else steps
    return None if plan.recipe is False else <list>plan.recipe


cdef class Door:
    """Where a plain task's calls of other tasks come in; a crowd is made for the first one."""
    cdef object loop                # weak
    cdef object task                # weak
    cdef object band                # weak: of those on threads, which share a crowd; else None
    cdef readonly object crowd

    def __call__(self, func, input, **options):
        cdef Band band
        if self.band is not None:
            band = self.band()
            if band is None or band.members is None:
                raise RuntimeError(f"{func!r} was called as a task after its caller's superstep had ended")
            return band.call(self.loop(), self.task, func, input, options)
        if self.crowd is None:
            self.crowd = self.loop().new_crowd()
        return self.crowd.call(self.task, func, input, **options)


cdef class Loose:
    """Writes that no task made."""
    cdef readonly tuple path
    cdef readonly str name
    cdef readonly object writes
    cdef readonly tuple triggers


# ------------------------------------------------------------------ several plain tasks

cdef class Gang:
    """Plain tasks of a superstep that run beside one another."""
    cdef int open
    cdef bint fatal
    cdef list errors                # in the order of the ends
    cdef bint each                  # wake up at every end, not only at the last
    cdef bint fresh                 # something to show that nobody was woken for

    cdef int count_end(self, failure) except -1:
        self.open -= 1
        self.fresh = True
        if failure is not None:
            self.errors.append(failure)
            if not isinstance(failure, GraphBubbleUp) and not is_invalid_resume(failure):
                self.fatal = True
        return 0


cdef class LoopGang(Gang):
    """In an event loop."""
    cdef object waiter

    cdef int left(self, failure) except -1:
        """A member has ended."""
        self.count_end(failure)
        if (self.open == 0 or self.fatal or self.each) and self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        return 0


cdef enum:
    BRIEFLY = 50                    # microseconds; see Band.wait


cdef class Band(Gang):
    """On threads."""
    cdef bint brief                 # who waits will soon look by himself
    cdef list members               # None: the superstep is over
    cdef Crew crew
    cdef Bell bell
    cdef object crowd               # of tasks that members called, if any did
    cdef object __weakref__

    def __cinit__(self):
        self.errors, self.bell = [], Bell()

    cdef int wait(self) except -1:
        """Wait for the end of one (if `each`) or all.

        Another thread is called in for the others if the first one is still busy after a moment. Waking it, and being
        woken at every end meanwhile, would cost more than short tasks do.
        """
        if self.brief:
            for each in self.members:
                self.crew.put(each)
            self.crew.call_in(1)
            if self.waiting():
                self.bell.wait(BRIEFLY)
            self.brief = False
            self.crew.call_in(self.open)
        while self.waiting():
            self.bell.wait(-1)
        self.fresh = False
        return 0

    cdef bint waiting(self):
        return self.open > 0 and not self.fatal and not (self.each and self.fresh and not self.brief)

    cdef int left(self, failure) except -1:
        """A member has ended."""
        self.count_end(failure)
        if failure is not None and self.crowd is not None:
            self.crowd.add_failure(failure)
        if not self.waiting():
            self.bell.ring()
        return 0

    cdef call(self, loop, task, func, input, options):
        """A member calls another task, which joins the superstep."""
        if self.crowd is None:
            self.crowd = loop.new_crowd()
            for failure in self.errors:
                self.crowd.add_failure(failure)
        future = self.crowd.call(task, func, input, **options)
        if self.each:
            future.add_done_callback(self.called_ended)
        return future

    def called_ended(self, future):
        """There is something to show."""
        self.fresh = True
        if not self.waiting():
            self.bell.ring()

    cdef list never_begun(self):
        """Take back what no thread has begun."""
        cdef list found = []
        cdef Member one
        for each in self.members:
            one = <Member>each
            if one.late and not one.begun:
                one.begun = True
                found.append(one.task)
        return found


cdef class Member(Job):
    """One of them."""
    cdef LoopCore loop
    cdef Band band
    cdef object task
    cdef list steps
    cdef object context
    cdef bint begun
    cdef bint late                  # there are not enough threads for all, and others come first

    cdef int perform(self) except -1:
        if self.begun or (self.late and self.band.fatal):
            return 0
        self.begun = True
        failure = None
        try:
            PyContext_Enter(self.context)
            try:
                run_steps(self.steps, self.task.input, self.task.config)
            except (Exception, asyncio.CancelledError) as raised:
                failure = self.loop.failed(self.task, raised)
            finally:
                PyContext_Exit(self.context)
        except BaseException as raised:     # also of what a command to us could not do
            failure = raised
        try:
            if failure is None:
                self.loop.commit(self.task)
            else:
                self.loop.commit_failed(self.task, failure)
        except Exception:           # nobody is there to be told, as with what a future calls back
            logging.getLogger("concurrent.futures").exception("exception calling callback for %r", self.task.name)
        finally:
            self.band.left(failure)
        return 0


# ------------------------------------------------------------------ the loop

cdef enum:
    MAX_UNBROKEN = 16

cdef enum:
    DELTAS = 1
    UNTRACKED = 2


cdef int books_of(channels) except -1:
    """Which books of their own some of these channels need."""
    cdef int found = 0
    for channel in channels.values():
        if isinstance(channel, DeltaChannel):
            found |= DELTAS
        elif isinstance(channel, UntrackedValue):
            found |= UNTRACKED
    return found


cdef class LoopCore:
    """What a run keeps between supersteps, and the supersteps themselves."""
    cdef public object config
    cdef public object stream
    cdef public object input
    cdef public object cache
    cdef public object store
    cdef public object checkpointer
    cdef public object nodes
    cdef public object specs
    cdef public object input_keys
    cdef public object output_keys
    cdef public object stream_keys
    cdef public object interrupt_after
    cdef public object interrupt_before
    cdef public object manager
    cdef public object durability
    cdef public object retry_policy
    cdef public object cache_policy
    cdef public object trigger_to_nodes
    cdef public object control
    cdef public object status
    cdef public object step
    cdef public object stop
    cdef public dict tasks
    cdef public object channels
    cdef public object managed
    cdef public object checkpoint
    cdef public object checkpoint_config
    cdef public object checkpoint_metadata
    cdef public object prev_checkpoint_config
    cdef public list checkpoint_pending_writes
    cdef public tuple checkpoint_ns
    cdef public object updated_channels
    cdef public object next_version
    cdef public bint is_replaying
    cdef public bint is_nested
    cdef public object output
    cdef public list interrupts         # those this run stopped for
    cdef public set written             # tasks that wrote during this run
    cdef public object step_timeout
    cdef public object node_finished
    cdef public object error_handlers
    cdef public object home             # the event loop of an asynchronous run
    cdef public bint saves              # there is a saver
    cdef public bint beside             # its calls go beside the run: they need their turns in an event loop
    cdef public bint ledger             # somebody keeps book of writes (delta channels with a saver)
    cdef public bint has_deltas
    cdef public bint has_untracked
    cdef Preparer preparer
    cdef set with_pending               # ids of tasks that have pending writes
    cdef frozenset wanted               # output channels
    cdef object me                      # weakref of this loop
    cdef bint values_shown
    cdef object last_values             # MISSING: read them when asked
    cdef bint values_vanish             # an output channel may be emptied after it was shown
    cdef int unbroken                   # supersteps since the event loop had its turn
    cdef bint on_values, on_updates, on_tasks, on_checkpoints, on_debug, listening

    def __init__(self):
        self.interrupts = []
        self.written = set()
        self.with_pending = set()
        self.last_values, self.status = MISSING, "input"

    def listen(self):
        """Learn from the stream what somebody wants to see."""
        modes = () if self.stream is None else self.stream.modes
        self.on_values = "values" in modes
        self.on_updates = "updates" in modes
        self.on_debug = "debug" in modes
        self.on_tasks = "tasks" in modes or self.on_debug
        self.on_checkpoints = "checkpoints" in modes or self.on_debug
        self.listening = self.on_values or self.on_updates or self.on_tasks or self.on_checkpoints

    def ready(self):
        """The channels are there: get ready for the first superstep."""
        keys = (self.output_keys,) if isinstance(self.output_keys, str) else self.output_keys
        self.wanted = frozenset(keys)
        self.values_vanish = any([idle_kind(self.channels[key]) == IDLE_CLEARS for key in keys if key in self.channels])
        self.preparer = Preparer.__new__(Preparer)
        self.preparer.for_execution = True
        self.preparer.set_up(self.nodes, self.channels, self.managed, self.store, self.checkpointer, self.manager,
                             self.retry_policy, self.cache_policy)
        self.with_pending = {write[0] for write in self.checkpoint_pending_writes}
        self.me = weakref.ref(self)

    # ---- a run without a saver: nothing to go on from, and nothing to save

    def take_graph(self, graph):
        """Know what a loop has from its graph as it stands."""
        self.nodes, self.specs, self.trigger_to_nodes = graph.nodes, graph.channels, graph.trigger_to_nodes
        self.input_keys, self.error_handlers = graph.input_channels, graph.node_error_handler_map
        self.retry_policy, self.cache_policy = graph.retry_policy, graph.cache_policy
        self.step_timeout = graph.step_timeout

    def note_books(self):
        """Find out which channels need a book of their own."""
        cdef int books = books_of(self.specs)
        self.has_deltas, self.has_untracked = books & DELTAS != 0, books & UNTRACKED != 0
        self.ledger = self.has_deltas and self.saves

    def afresh(self):
        """Make the first checkpoint and empty channels."""
        self.checkpoint, self.checkpoint_metadata, self.checkpoint_pending_writes = empty_checkpoint(), {"step": -2}, []
        self.channels, self.managed = fresh_channels(self.specs, None)

    def take_input(self):
        """Take the input of one channel as what happened before the first superstep."""
        cdef Loose given = Loose.__new__(Loose)
        given.path, given.name, given.writes, given.triggers = (), "__input__", [(self.input_keys, self.input)], ()
        self.updated_channels = apply_writes_to(self.checkpoint, self.channels, [given], self.next_version,
                                                self.trigger_to_nodes)
        self.save_step({"source": "input"})
        self.status = "pending"

    def hand_on(self):
        """Run a first superstep that only takes the input apart, when that is all that anybody could see of it."""
        cdef Loose start
        cdef NodePlan plan
        cdef list steps
        kind = type(self)
        if (self.saves or self.listening or self.preparer.watched or self.cache is not None or self.control is not None
                or self.node_finished is not None or self.interrupt_before or self.interrupt_after
                or self.step_timeout is not None or self.retry_policy or self.cache_policy
                or kind.tick is not TICK or kind.after_tick is not AFTER_TICK or kind.put_writes is not PUT_WRITES):
            return
        if (type(self.input) is not dict or self.input_keys != "__start__" or "__start__" not in self.nodes
                or list(self.trigger_to_nodes.get("__start__", ())) != ["__start__"]):
            return
        plan = self.preparer.plan("__start__")
        steps = None if plan.retry_policy or plan.cache_policy or plan.timeout is not None else recipe_of(plan)
        if steps is None or plan.mapper is not None or plan.triggers != START or plan.channels != "__start__":
            return
        start = Loose.__new__(Loose)
        start.path, start.name, start.writes, start.triggers = ("__pregel_pull", "__start__"), "__start__", [], START
        for step in steps:
            if not (<Step>step).quiet:
                return
            start.writes.extend((<Step>step).written(self.input))
        self.end([start])

    # ---- what is shown

    cdef int show(self, mode, value) except -1:
        self.stream((self.checkpoint_ns, mode, value))
        return 0

    cdef int show_debug(self, mode, kind, step, value) except -1:
        if mode in self.stream.modes:
            self.show(mode, value)
        if self.on_debug:
            from datetime import datetime, timezone
            self.show("debug", {"step": step, "timestamp": datetime.now(timezone.utc).isoformat(), "type": kind,
                                "payload": value})
        return 0

    def read_output(self):
        """The current values of the output channels."""
        return read_channels(self.channels, self.output_keys, None)

    def show_values(self):
        """Show the output channels' values."""
        self.values_shown = True
        if self.on_values or self.values_vanish:
            values = self.read_output()
            self.last_values = values
            if self.on_values:
                self.show("values", values)
        else:
            self.last_values = MISSING

    def latest(self):
        """What was shown last in mode "values" (or would have been, had anybody looked); None when nothing was."""
        if not self.values_shown:
            return None
        return self.read_output() if self.last_values is MISSING else self.last_values

    def show_tasks(self, tasks):
        """Show that tasks begin."""
        if self.on_tasks:
            for value in debug_tasks(tasks):
                self.show_debug("tasks", "task", self.step, value)

    def show_update(self, value):
        """Show something in mode "updates"."""
        if self.on_updates:
            self.show("updates", value)

    def output_writes(self, task_id, writes, *, cached=False):
        """Show what a task wrote."""
        if self.tasks is None:
            return
        task = self.tasks.get(task_id)
        if task is None:
            return
        first = writes[0][0]
        if not self.listening and first != "__interrupt__":
            return
        if hidden(task):
            return
        if first == "__interrupt__":
            if task.path[0] == "__pregel_push" and task.path[-1] is True:
                return                  # of a called task: its caller will say so
            found = []
            for name, value in writes:
                if name == "__interrupt__":
                    if isinstance(value, (list, tuple)):
                        found.extend(value)
                    else:
                        found.append(value)
            self.interrupts.extend(found)
            shown = {"__interrupt__": tuple(found)}
            if self.on_updates:
                self.show("updates", shown)
            self.values_shown = True
            values = self.read_output()
            self.last_values = values
            if self.on_values:
                if isinstance(values, dict):
                    self.show("values", {**values, **shown})
                else:
                    self.show("values", shown)
        elif first != "__error__" and self.on_updates:
            items = task_updates(self.output_keys, writes)
            update = {task.name: None if not items else items[0] if len(items) == 1 else items}
            if cached:
                update["__metadata__"] = {"cached": cached}
            self.show("updates", update)
        if self.on_tasks and not cached:
            for value in debug_results((task, writes), self.stream_keys):
                self.show_debug("tasks", "task_result", self.step, value)

    # ---- writes of tasks

    def put_writes(self, task_id, writes, *, cached=False):
        """Take what a task wrote, for the end of the superstep."""
        self.store_writes(task_id, writes, cached)

    cpdef store_writes(self, task_id, writes, bint cached):
        """Take the writes of a task: into the pending ones, to the saver, and to who listens."""
        cdef bint special, null
        if len(writes) == 0:
            return
        self.written.add(task_id)
        special = True
        for write in writes:
            if write[0] not in SPECIAL:
                special = False
                break
        if special:
            writes = list({write[0]: write for write in writes}.values())
        if self.has_deltas:
            self.name_messages(writes)
        null = task_id == NULL_TASK_ID
        pending = self.checkpoint_pending_writes
        to_save = writes
        if null:
            if task_id in self.with_pending:
                pending[:] = [w for w in pending if w[0] != task_id or w[1] not in SPECIAL]
            writes = sorted(writes, key=is_special)
            to_save = [w[1:] for w in pending if w[0] == task_id] + writes
        elif task_id in self.with_pending:
            pending[:] = [w for w in pending if w[0] != task_id]
        self.with_pending.add(task_id)
        for name, value in writes:
            pending.append((task_id, name, value))
        if self.saves and self.durability != "exit":
            self.save_writes(task_id, to_save, writes)
        if self.tasks is not None:
            if self.listening or writes[0][0] == "__interrupt__":
                self.output_writes(task_id, writes, cached=cached)
            if self.cache is not None and not cached:
                self.cache_writes(task_id, writes)

    # ---- a superstep

    cdef int prepare(self) except -1:
        if self.preparer is None:
            raise RuntimeError("this loop is not ready: ready() comes before its first superstep")
        self.preparer.begin(self.checkpoint, self.checkpoint_pending_writes, self.config, self.step, self.stop)
        self.tasks = self.preparer.all_tasks(self.trigger_to_nodes, self.updated_channels)
        if self.on_checkpoints and self.saves:
            config = dict(self.checkpoint_config)
            config["configurable"] = {**config["configurable"], "checkpoint_id": self.checkpoint["id"]}
            for value in debug_checkpoint(config, self.channels, self.stream_keys, self.checkpoint_metadata,
                                          self.tasks.values(), self.checkpoint_pending_writes,
                                          self.prev_checkpoint_config, self.output_keys):
                self.show_debug("checkpoints", "checkpoint", self.step - 1, value)
        return 0

    def tick(self):
        """Prepare the next superstep.

        Returns
        -------
        bool
            Whether there is one; if not, `status` says why.
        """
        self.prepare()
        if self.step > self.stop:
            return self.ended("out_of_steps")
        if len(self.tasks) == 0:
            return self.ended("done")
        if self.checkpoint_pending_writes and not self.is_replaying:
            self.restore_finished()
        if self.interrupt_before and should_interrupt(self.checkpoint, self.interrupt_before, self.tasks.values()):
            self.stopped("interrupt_before")
        if self.control is not None and self.control.drain_requested:
            return self.ended("draining")
        if self.on_tasks:
            self.show_tasks(self.tasks.values())
        for task_id, task in self.tasks.items():
            if len(task.writes) > 0:
                self.output_writes(task_id, task.writes, cached=True)
        return True

    cdef bint ended(self, status):
        self.status = status
        return False

    cdef int stopped(self, status) except -1:
        self.status = status
        raise GraphInterrupt

    def after_tick(self):
        """Apply what the tasks wrote, and save."""
        self.end(list(self.tasks.values()))

    cdef int end(self, list tasks) except -1:
        cdef bint fresh = False
        if self.ledger:
            self.before_apply(tasks)
        updated = apply_writes_to(self.checkpoint, self.channels, tasks, self.next_version, self.trigger_to_nodes)
        self.updated_channels = updated
        for name in updated:
            if name in self.wanted:
                fresh = True
                break
        if fresh and self.output_was_written(tasks):
            self.show_values()
        if self.ledger:
            self.after_apply()
        self.checkpoint_pending_writes.clear()
        self.with_pending.clear()
        self.is_replaying = False
        self.save_step({"source": "loop"})
        if self.interrupt_after and should_interrupt(self.checkpoint, self.interrupt_after, tasks):
            self.prepare()              # shows the checkpoint, which no further tick will
            self.stopped("interrupt_after")
        self.config["configurable"].pop("__pregel_resuming", None)
        return 0

    cdef bint output_was_written(self, list tasks):
        for task in tasks:
            for name, _ in task.writes:
                if name in self.wanted:
                    return True
        return False

    cpdef int save_step(self, dict metadata) except -1:
        """The checkpoint after a superstep, or of the input; without a saver only its id changes."""
        if self.saves:
            self._put_checkpoint(metadata)
            return 0
        parents = self.config["configurable"].get("checkpoint_map") or {}
        self.checkpoint_metadata = {**metadata, "step": self.step, "parents": parents}
        self.checkpoint["id"] = checkpoint_id(self.step)
        self.step = self.step + 1
        return 0

    # ---- running the tasks

    cdef list recipe(self, task):
        """The steps of a task that can be run the plain way; None for the others."""
        cdef NodePlan plan
        if self.preparer is None or self.preparer.watched or task.retry_policy or task.timeout is not None:
            return None
        found = self.preparer.plans.get(task.name)
        if found is None:
            return None
        plan = <NodePlan>found
        return None if plan.node is not task.proc else recipe_of(plan)

    cdef Door open_door(self, task):
        cdef Door door = Door.__new__(Door)
        door.loop = self.me
        door.task = weakref.ref(task)
        task.config["configurable"]["__pregel_call"] = door
        task.config.pop("run_name", None)
        return door

    cdef int commit(self, task) except -1:
        cdef bint silent = True
        writes = task.writes
        if self.node_finished is not None and not hidden(task):
            self.node_finished(task.name)
        for name, _ in writes:
            if name not in control_writes:
                silent = False
                break
        if silent:
            writes.append(("__no_writes__", None))
        self.put_writes(task.id, writes)
        return 0

    cdef failed(self, task, error):
        """What a failed attempt raises; None when it was a command that is written now."""
        if isinstance(error, ParentCommand):
            return None if take_parent_command(task, task.config, error) else error
        if isinstance(error, GraphBubbleUp):
            return error
        if isinstance(error, asyncio.CancelledError):
            made = NodeCancelledError(task.name)
            made.__cause__ = error
            return made
        add_task_note(error, task)
        return error

    cdef run_plain(self, task, list steps):
        """Run the only task of a superstep; returns what is to be raised, or None."""
        cdef Door door = self.open_door(task)
        failure = None
        try:
            run_steps(steps, task.input, task.config)
        except (Exception, asyncio.CancelledError) as raised:
            failure = self.failed(task, raised)
        failure = self.note_end(task, failure, door)
        if failure is None and door.crowd is not None:
            for _ in self.runner.tick((), schedule_task=self.accept_push, crowd=door.crowd):
                pass
        return failure

    cdef note_end(self, task, failure, Door door):
        """Take what the only task wrote, or its failure; returns what is to be raised now."""
        if failure is not None:
            return self.task_failed(task, failure, door.crowd)
        self.commit(task)
        return None

    cdef list recipes(self, list todo):
        """How to run all of them the plain way; None if one cannot be."""
        cdef list found = [], steps
        if self.step_timeout is not None:
            return None
        for task in todo:
            steps = self.recipe(task)
            if steps is None:
                return None
            found.append(steps)
        return found

    cdef Band band(self, list todo, list recipes, bint each):
        """Tasks to be run beside one another on threads."""
        cdef Band band = Band.__new__(Band)
        cdef Member member
        cdef Py_ssize_t i
        band.open, band.each, band.brief = len(todo), each, True
        band.members, band.crew = [], <Crew>self.place.crew
        for i in range(len(todo)):
            member = Member.__new__(Member)
            member.loop, member.band, member.task, member.steps = self, band, todo[i], recipes[i]
            member.context, member.late = PyContext_CopyCurrent(), i >= band.crew.limit
            self.open_door(member.task).band = weakref.ref(band)
            band.members.append(member)
        return band

    cdef int dissolve(self, Band band) except -1:
        """Raise what its members raised, unless tasks that they called have to end first."""
        if band.fatal:
            for task in band.never_begun():
                self.commit_failed(task, NeverBegun())
        if band.crowd is not None:
            band.crowd.fatal = band.fatal
        else:
            conclude(band.errors)
        return 0

    def run_some(self, tasks):
        """Run the tasks of a superstep the plain way and yield at every end; False when they cannot be run so."""
        cdef list todo = list(tasks), recipes = self.recipes(todo)
        if recipes is None or not todo:
            yield False
            return
        yield True
        if len(todo) == 1:
            failure = self.run_plain(todo[0], recipes[0])
            yield True
            throw(failure)
            return
        yield from self.run_beside(todo, recipes, True)

    def run_beside(self, list todo, list recipes, bint each):
        """Run several tasks on threads, to their ends; yields when one has ended (if `each`) or all have."""
        cdef Band band = self.band(todo, recipes, each)
        try:
            while band.open and not band.fatal:
                band.wait()
                yield True
            self.dissolve(band)
            if band.crowd is not None:
                for _ in self.runner.tick((), schedule_task=self.accept_push, crowd=band.crowd):
                    yield True
        finally:
            band.members = None

    cdef list todo(self):
        return [task for task in self.tasks.values() if not task.writes]

    def run(self):
        """Run to the end."""
        cdef list todo, recipes
        while self.tick():
            if self.cache is not None:
                self.take_cached()
            todo = self.todo()
            recipes = self.recipes(todo) if todo else []
            if recipes is None:
                for _ in self.runner.tick(todo, timeout=self.step_timeout, schedule_task=self.accept_push):
                    pass
            elif len(todo) == 1:
                throw(self.run_plain(todo[0], recipes[0]))
            elif todo:
                for _ in self.run_beside(todo, recipes, False):
                    pass
            todo = recipes = None
            self.after_tick()
            if self.saves and (self.durability == "sync" or self.outbox.behind):
                self.saved()

    def steps(self, get_waiter=None):
        """Run to the end; yields whenever something may have been streamed."""
        cdef list todo
        while self.tick():
            if self.cache is not None:
                self.take_cached()
            todo = self.todo()
            plain = False
            if get_waiter is None:
                for ran in self.run_some(todo):
                    plain = ran
                    yield
            else:
                yield
            if todo and not plain:
                for _ in self.runner.tick(todo, timeout=self.step_timeout, get_waiter=get_waiter,
                                          schedule_task=self.accept_push):
                    yield
            todo = None
            self.after_tick()
            if self.saves and (self.durability == "sync" or self.outbox.behind):
                self.saved()

    def attempt(self, task, retry_policy=None, configurable=None):
        """Run one of several tasks on a thread, the plain way if it can be."""
        cdef list steps = self.recipe(task)
        if steps is None:
            return self.complete(task, retry_policy, configurable=configurable)
        task.config["configurable"].update(configurable)
        task.config.pop("run_name", None)
        try:
            run_steps(steps, task.input, task.config)
        except (Exception, asyncio.CancelledError) as raised:
            failure = self.failed(task, raised)
            if failure is raised:
                raise
            throw(failure)

    # ---- the same in an event loop

    def by_node(self):
        """Whether a CancelledError comes out of the node, not from somebody who cancels the run."""
        cancelling = getattr(asyncio.current_task(), "cancelling", None)    # Python 3.11
        return cancelling is not None and cancelling() == 0

    async def run_alone(self, task, list steps):
        cdef Door door = self.open_door(task)
        failure = None
        try:
            await arun_steps(steps, task.input, task.config)
        except (Exception, asyncio.CancelledError) as raised:
            if isinstance(raised, asyncio.CancelledError) and not self.by_node():
                raise
            failure = self.failed(task, raised)
        failure = self.note_end(task, failure, door)
        if failure is None and door.crowd is not None:
            async for _ in self.runner.atick((), schedule_task=self.aaccept_push, crowd=door.crowd):
                pass
        return failure

    cdef LoopGang gang(self, list todo, list recipes, list members, bint each):
        """Start tasks beside one another."""
        cdef LoopGang gang = LoopGang.__new__(LoopGang)
        cdef Py_ssize_t i
        loop = asyncio.get_running_loop()
        gang.open = len(todo)
        gang.errors = []
        gang.each = each
        for i in range(len(todo)):
            members.append(loop.create_task(member(self, gang, todo[i], recipes[i])))
        return gang

    async def gather(self, LoopGang gang, list members):
        """Wait for the end of one (if `gang.each`) or all; on a failure cancel the others and wait for them too."""
        try:
            if gang.open and not gang.fatal and not (gang.each and gang.fresh):
                gang.waiter = asyncio.get_running_loop().create_future()
                await gang.waiter
            gang.fresh = False
        except BaseException:
            await self.call_off(members)
            raise
        if gang.fatal and gang.open:
            await self.call_off(members)

    async def arun_some(self, tasks):
        """Run the tasks of a superstep the plain way and yield at every end; False when they cannot be run so."""
        cdef list todo = list(tasks), members = [], recipes
        cdef LoopGang gang
        recipes = self.loop_recipes(todo)
        if recipes is None or not todo:
            yield False
            return
        yield True
        if len(todo) == 1:
            failure = await self.run_alone(todo[0], recipes[0])
            yield True
            throw(failure)
            return
        gang = self.gang(todo, recipes, members, True)
        try:
            while gang.open and not gang.fatal:
                await self.gather(gang, members)
                yield True
        finally:
            await self.call_off(members)
        conclude(gang.errors)

    async def call_off(self, list members):
        late = [one for one in members if not one.done()]
        for one in late:
            one.cancel()
        if late:
            await asyncio.wait(late)

    cdef list loop_recipes(self, list todo):
        """`recipes` in an event loop, where a limit needs the complete way."""
        return None if self.config.get("max_concurrency") else self.recipes(todo)

    async def arun(self):
        """Run to the end."""
        cdef list todo, recipes, members
        cdef LoopGang gang
        while self.tick():
            if self.cache is not None:
                await self.atake_cached()
            todo = self.todo()
            recipes = self.loop_recipes(todo)
            if recipes is None:
                async for _ in self.runner.atick(todo, timeout=self.step_timeout, schedule_task=self.aaccept_push):
                    pass
            elif len(todo) == 1:
                throw(await self.run_alone(todo[0], recipes[0]))
            elif todo:
                members = []
                gang = self.gang(todo, recipes, members, False)
                await self.gather(gang, members)
                conclude(gang.errors)
            todo = recipes = members = None
            gang = None
            self.after_tick()
            if self.saves and (self.durability == "sync" or self.outbox.behind):
                await self.asaved()
            self.unbroken += 1
            if self.beside or self.unbroken == MAX_UNBROKEN:    # nodes that never wait must not starve the loop
                self.unbroken = 0
                await asyncio.sleep(0)

    async def asteps(self, get_waiter=None):
        """Run to the end; yields whenever something may have been streamed."""
        cdef list todo
        while self.tick():
            if self.cache is not None:
                await self.atake_cached()
            todo = self.todo()
            plain = False
            if get_waiter is None:
                async for plain in self.arun_some(todo):
                    if plain:
                        yield
            else:
                yield
            if not plain:
                async for _ in self.runner.atick(todo, timeout=self.step_timeout, get_waiter=get_waiter,
                                                 schedule_task=self.aaccept_push):
                    yield
            todo = None
            self.after_tick()
            if self.saves and (self.durability == "sync" or self.outbox.behind):
                await self.asaved()
            self.unbroken += 1
            if self.beside or self.unbroken == MAX_UNBROKEN:    # nodes that never wait must not starve the loop
                self.unbroken = 0
                await asyncio.sleep(0)


# What runs each superstep, as long as nobody has put something else in its place.
cdef object TICK = LoopCore.tick, AFTER_TICK = LoopCore.after_tick, PUT_WRITES = LoopCore.put_writes
cdef tuple START = ("__start__",)


# ------------------------------------------------------------------ a graph as a node

cdef object inner_names = None          # the names of dynamo.langgraph.pregel._inner, imported for the first one
cdef tuple PROPAGATED = (
    "assistant_id", "checkpoint_id", "checkpoint_ns", "graph_id", "run_id", "task_id", "thread_id")
cdef frozenset BY_SERVERS = frozenset(("assistant_id", "graph_id", "langgraph_auth_user"))


cdef dict config_inside(dict config):
    """The config of a run that is a task with this one, as `ensure_config` would make it of the two."""
    cdef dict made = {}, metadata, conf
    for key, value in config.items():
        if value is None or ((type(value) is list or type(value) is dict or type(value) is tuple) and not value):
            continue
        made[key] = value
    metadata = {key: dict(value) if type(value) is dict else value for key, value in config["metadata"].items()}
    conf = dict(config["configurable"])
    for key in PROPAGATED:
        value = conf.get(key)
        if value:
            metadata.setdefault(key, value)
    made["tags"] = list(config.get("tags") or ())
    made["metadata"], made["configurable"], made["callbacks"] = metadata, conf, None
    made.setdefault("recursion_limit", inner_names["DEFAULT_RECURSION_LIMIT"])
    return made


cdef class Inner:
    """How a compiled graph runs as a node: here if nobody looks on and nothing is saved, else as it always does."""
    cdef object graph
    cdef object channels            # those that were looked at last
    cdef bint plain                 # none of them needs a book of its own

    def __init__(self, graph):
        self.graph = graph

    cdef bint here(self, value, dict config) except -1:
        """Whether this run can be made here."""
        global inner_names
        conf = <dict>config["configurable"]
        graph = self.graph
        if value is None or config.get("callbacks") or graph.checkpointer or graph.config or graph.debug:
            return False
        for key in ("__pregel_checkpointer", "__pregel_stream", "__pregel_resuming", "__pregel_replay_state"):
            if conf.get(key) is not None:
                return False
        if conf.get("__pregel_cache", graph.cache) is not None or not BY_SERVERS.isdisjoint(conf):
            return False
        if inner_names is None:
            from dynamo.langgraph.pregel import _inner
            inner_names = vars(_inner)
        kind = type(graph)
        if kind.invoke is not inner_names["INVOKE"] or kind.ainvoke is not inner_names["AINVOKE"]:
            return False
        if type(value) is not dict and isinstance(value, inner_names["Command"]):
            return False
        if self.channels is not graph.channels:
            self.channels = graph.channels
            self.plain = books_of(self.channels) == 0
        keys = graph.input_channels
        return self.plain and type(keys) is str

    cdef LoopCore begin(self, kind, value, dict config):
        """A loop that is ready for its first superstep."""
        cdef LoopCore loop = <LoopCore>kind.__new__(kind)
        cdef dict conf
        graph = self.graph
        LoopCore.__init__(loop)
        config = config_inside(config)
        conf = <dict>config["configurable"]
        runtime = runtime_inside(conf["__pregel_runtime"], graph.store, inner_names["nowhere"])
        conf["__pregel_runtime"] = runtime
        nth = conf["__pregel_scratchpad"].subgraph_counter()
        if nth:
            conf["checkpoint_ns"] = f"{conf['checkpoint_ns']}|{nth}"
        loop.config = loop.checkpoint_config = config
        loop.checkpoint_ns = tuple(conf["checkpoint_ns"].split("|"))
        loop.input, loop.store, loop.control = value, runtime.store, runtime.control
        loop.take_graph(graph)
        loop.stream_keys = loop.output_keys = graph.output_channels     # nobody will see the former
        loop.interrupt_after, loop.interrupt_before = graph.interrupt_after_nodes, graph.interrupt_before_nodes
        loop.node_finished = conf.get("__pregel_node_finished")
        loop.durability, loop.is_nested = "async", True
        loop.next_version = inner_names["increment"]
        loop.afresh()
        loop.step = -1
        loop.stop = config["recursion_limit"] + loop.step + 1
        loop.ready()
        loop.take_input()
        loop.hand_on()
        return loop

    cdef result(self, LoopCore loop):
        if loop.status != "done":
            loop.check()
        value = loop.latest()
        if loop.interrupts:
            return {**(value if isinstance(value, dict) else {}), "__interrupt__": loop.interrupts}
        return value

    cdef run(self, value, dict config):
        cdef LoopCore loop
        if not self.here(value, config):
            return self.graph.invoke(value, config)
        loop = self.begin(inner_names["SyncInner"], value, config)
        try:
            loop.run()
        except BaseException as error:
            loop.leave(error)
            raise
        if "place" in loop.__dict__:                # else nothing was started beside the run
            loop.leave(None)
        return self.result(loop)

    cdef arun(self, value, dict config):
        if not self.here(value, config):
            return self.graph.ainvoke(value, config)
        return run_inside(self, value, config)


async def run_inside(Inner inner, value, dict config):
    cdef LoopCore loop = inner.begin(inner_names["AsyncInner"], value, config)
    loop.home = asyncio.get_running_loop()      # a node that runs on a thread may call tasks
    try:
        await loop.arun()
    except BaseException as error:
        await loop.leave(error)
        raise
    if "place" in loop.__dict__:
        await loop.leave(None)
    return inner.result(loop)


def is_special(write):
    return write[0] in SPECIAL


cdef int conclude(list errors) except -1:
    """Raise what the tasks of a superstep raised: the first error, else all interrupts as one."""
    for error in errors:
        if not isinstance(error, GraphInterrupt):
            raise without_our_frames(error)
    if errors:
        raise GraphInterrupt(tuple([interrupt for error in errors for interrupt in error.args[0]]))
    return 0


cdef int throw(failure) except -1:
    if failure is not None:
        raise failure
    return 0


cdef bint hidden(task):
    return task.config is not None and HIDDEN in (task.config.get("tags") or ())


async def member(LoopCore loop, LoopGang gang, task, list steps):
    cdef Door door = loop.open_door(task)
    error = None
    try:
        await arun_steps(steps, task.input, task.config)
    except asyncio.CancelledError as raised:
        error = loop.failed(task, raised) if loop.by_node() else raised
    except Exception as raised:
        error = loop.failed(task, raised)
    try:
        if error is None:
            loop.commit(task)
        else:
            loop.commit_failed(task, error)
        if door.crowd is not None:
            async for _ in loop.runner.atick((), schedule_task=loop.aaccept_push, crowd=door.crowd):
                pass
    except BaseException as raised:
        error = raised
        if not isinstance(raised, Exception):
            raise
    finally:
        gang.left(None if isinstance(error, asyncio.CancelledError) else error)
