"""A run: from its checkpoint to its output.

    open    _load.py    the checkpoint, live channels
            _start.py   input, a resume, a replay or a fork
    ------------------------------------------------------------ supersteps (dynamo._superstep)
    tasks               those that had finished get their writes back; calls and error handlers make new ones
    writes              --> _saving.py, _deltas.py --> _outbox.py --> the saver
    ------------------------------------------------------------
    close               durability "exit" saves here; an interrupt ends here, at the outermost graph

What both kinds of run do is written once, as scripts (`_internal/_script.py`); `SyncPregelLoop` plays them, and
`AsyncPregelLoop` awaits them. Nothing that outlives a superstep refers to the loop, but weakly.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from dynamo._superstep import LoopCore
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_REPLAY_STATE,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_STREAM,
    CONFIG_KEY_TASK_ID,
    ERROR,
    ERROR_SOURCE_NODE,
    INTERRUPT,
    NS_END,
    NS_SEP,
    PUSH,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import Script, aplay, ask, awaiting, plainly
from dynamo.langgraph.errors import GraphInterrupt
from dynamo.langgraph.pregel import _plain  # noqa: F401  (binds the engine)
from dynamo.langgraph.pregel._algo import (
    Call,
    apply_writes,
    increment,
    prepare_node_error_handler_task,
    prepare_single_task,
)
from dynamo.langgraph.pregel._executor import Tasks, Threads
from dynamo.langgraph.pregel._load import at_home, load
from dynamo.langgraph.pregel._outbox import Outbox
from dynamo.langgraph.pregel._retry import arun_with_retry, run_with_retry
from dynamo.langgraph.pregel._runner import Crowd, PregelRunner, without_our_frames
from dynamo.langgraph.pregel._saving import SavingLoop
from dynamo.langgraph.pregel._start import start
from dynamo.langgraph.pregel._task_status import read_task_statuses
from dynamo.langgraph.pregel.protocol import StreamProtocol


def _both(first: Any, second: Any) -> StreamProtocol:
    """One stream that leads to two."""

    def pass_on(chunk: Any) -> None:
        for way in (first, second):
            if chunk[1] in way.modes:
                way(chunk)

    return StreamProtocol(pass_on, first.modes | second.modes)


def _weakly(method: Any) -> Any:
    """A bound method that does not keep its object alive."""
    found = weakref.WeakMethod(method)

    def call(*args: Any, **kwargs: Any) -> Any:
        alive = found()
        return None if alive is None else alive(*args, **kwargs)

    return call


class PregelLoop(SavingLoop):
    """One run of a graph.

    Parameters
    ----------
    input : Any
        New input, a `Command`, or None to go on.
    graph : Pregel
        Whose nodes, channels and policies are run.
    config : RunnableConfig
        Complete, and with the runtime.
    checkpointer
        The saver, or None.
    stream : StreamProtocol, optional
        Where to show what happens.
    output_keys, stream_keys : str or sequence of str
        The channels of the result, and those that streams show.
    manager
        Of langchain; None when nobody looks on.
    has_graph_lifecycle_callbacks : bool
        Whether somebody asks for lifecycle events.
    interrupt_before, interrupt_after, store, cache, durability, node_finished, use_astream
        As the run was told.
    """

    _new_place: Any
    superseded = False  # the checkpoint that was asked for may have children
    use_astream = False
    _runner: PregelRunner | None = None
    events: deque[Any] | None = None

    def __init__(
        self,
        input: Any,
        *,
        graph: Any,
        config: Any,
        output_keys: Any,
        stream_keys: Any,
        checkpointer: Any = None,
        stream: Any = None,
        manager: Any = None,
        interrupt_before: Any = (),
        interrupt_after: Any = (),
        store: Any = None,
        cache: Any = None,
        durability: str = "async",
        node_finished: Any = None,
        use_astream: bool = False,
        has_graph_lifecycle_callbacks: bool = False,
    ) -> None:
        LoopCore.__init__(self)
        self.take_graph(graph)
        self.input, self.checkpointer, self.stream, self.manager = input, checkpointer, stream, manager
        self.output_keys, self.stream_keys = output_keys, stream_keys
        self.interrupt_before, self.interrupt_after = interrupt_before, interrupt_after
        self.store, self.cache, self.durability, self.node_finished = store, cache, durability, node_finished
        conf: dict[str, Any] = config[CONF]
        self.is_nested = CONFIG_KEY_TASK_ID in conf
        self.saves = checkpointer is not None and checkpointer is not False
        self.next_version = checkpointer.get_next_version if self.saves else increment
        self.migrate = graph._migrate_checkpoint if self.saves else None
        if has_graph_lifecycle_callbacks:
            self.events = deque()
        if use_astream:
            self.use_astream = True
        if stream is not None:
            if conf.get(CONFIG_KEY_STREAM) is not None:
                self.stream = _both(stream, conf[CONFIG_KEY_STREAM])
            self.listen()
        self.config, self.checkpoint_config = at_home(config, self.is_nested)
        ns = self.config[CONF].get(CONFIG_KEY_CHECKPOINT_NS)
        self.checkpoint_ns = tuple(ns.split(NS_SEP)) if ns else ()
        # A task's config always has the key checkpoint_id, so only a value counts.
        asked = self.checkpoint_config[CONF].get(CONFIG_KEY_CHECKPOINT_ID)
        self.addressed = bool(asked or conf.get(CONFIG_KEY_REPLAY_STATE))
        runtime = conf.get(CONFIG_KEY_RUNTIME)
        self.control = getattr(runtime, "control", None)  # it may be somebody else's

    # ---------------------------------------------------------------- from beginning to end
    def begin(self) -> None:
        """The checkpoint is loaded: take the input, and be ready to tick."""
        self.open_books()
        if self.saves:
            self.outbox = Outbox(self.checkpointer, self.place)
            self.beside = not self.outbox.prompt
        self.step = self.checkpoint_metadata["step"] + 1
        self.stop = self.config["recursion_limit"] + self.step + 1
        self.ready()
        start(self)

    def finish(self, error: BaseException | None) -> bool:
        """The run ends; True when it ends in an interrupt that goes no further."""
        # A graph of its own always saves; a subgraph when it has failed, or keeps its state between runs.
        kept = not self.is_nested or error is not None or not any(NS_END in part for part in self.checkpoint_ns)
        if self.saves and kept and self.durability == "exit":
            self.save_all()
        stopped = isinstance(error, GraphInterrupt) and not self.is_nested
        if stopped:
            self._show_stop(error)
        if stopped or error is None:
            self.output = self.read_output()
        return stopped

    @cached_property
    def place(self) -> Any:
        """Where things run beside the superstep."""
        return self._new_place(self.config.get("max_concurrency"))

    def has_place(self) -> bool:
        """Whether something was, or may have been, started beside the run."""
        return "place" in vars(self)

    def closing(self, error: BaseException | None) -> Script:
        """The run ends, and so does what was started beside it."""
        failing, stopped = True, False
        try:
            stopped = self.finish(error)
            failing = error is not None and not stopped
        finally:
            yield ask(self.place, "close", failing)
        return stopped

    def let_go(self, error: BaseException | None) -> None:
        """An exception knows the frames it came through, these know this loop: so the loop forgets the exception."""
        if error is not None and self.checkpoint_pending_writes is not None:
            self.tasks = None
            self.checkpoint_pending_writes.clear()

    def _show_stop(self, error: Any) -> None:
        interrupts = tuple(error.args[0]) if error.args else ()
        self.tell("GraphInterruptEvent", interrupts=interrupts)
        done = [task for task in (self.tasks or {}).values() if task.writes]
        if self.checkpoint_pending_writes and done:
            # Show the state with what the finished tasks wrote; it is not saved.
            wanted = {self.output_keys} if isinstance(self.output_keys, str) else set(self.output_keys)
            written = {name for task in done for name, _ in task.writes}
            if not wanted.isdisjoint(self.apply(list(self.tasks.values()))) and not wanted.isdisjoint(written):
                self.show_values()
        if not interrupts:
            self.show_update({INTERRUPT: ()})

    def tell(self, kind: str, **details: Any) -> None:
        """Note a lifecycle event, if somebody asks for these."""
        if self.events is not None:  # only then: their module needs langchain-core
            from dynamo.langgraph import callbacks

            details |= {"run_id": None, "status": self.status, "checkpoint_ns": self.checkpoint_ns}
            self.events.append(getattr(callbacks, kind)(**details, checkpoint_id=self.checkpoint["id"]))

    def _pop_lifecycle_event(self) -> Any:
        """The oldest event that nobody has taken, or None."""
        return self.events.popleft() if self.events else None

    # ---------------------------------------------------------------- writes
    def apply(self, tasks: list[Any]) -> set[str]:
        """Apply writes to the channels; returns the names of those that changed."""
        return apply_writes(self.checkpoint, self.channels, tasks, self.next_version, self.trigger_to_nodes)

    def cache_writes(self, task_id: str, writes: Any) -> None:
        """Start to put the writes of a finished task into the cache."""
        task: Any = self.tasks.get(task_id)
        key = None if task is None else task.cache_key
        if key is not None and not any(name in (INTERRUPT, ERROR) for name, _ in writes):
            self._remember({(key.ns, key.key): (task.writes, key.ttl)})

    def _remember(self, entries: Mapping[Any, Any]) -> None:
        raise NotImplementedError

    def from_cache(self) -> Script:
        """Finish the tasks that the cache knows."""
        asked = {
            (task.cache_key.ns, task.cache_key.key): task
            for task in (self.tasks.values() if self.cache is not None else ())
            if task.cache_key and not task.writes
        }
        found = (yield ask(self.cache, "get", tuple(asked))) if asked else {}
        for key, writes in found.items():
            asked[key].writes.extend(writes)
        for key in found:
            self.put_writes(asked[key].id, asked[key].writes, cached=True)

    # ---------------------------------------------------------------- tasks
    def circumstances(self) -> dict[str, Any]:
        """What making tasks needs to know."""
        return {
            "checkpoint": self.checkpoint,
            "pending_writes": self.checkpoint_pending_writes,
            "processes": self.nodes,
            **{
                name: getattr(self, name)
                for name in (
                    *("channels", "managed", "step", "stop", "store", "checkpointer", "manager"),
                    *("retry_policy", "cache_policy"),
                )
            },
        }

    def restore_finished(self) -> None:
        """Give tasks that had finished before the writes back that were loaded, and failed ones to their handlers."""
        self._give_back(self.tasks)
        pending = self.checkpoint_pending_writes
        for_handler = {task_id for task_id, name, _ in pending if name == ERROR_SOURCE_NODE} & self.tasks.keys()
        # Of each task the first error counts.
        errors = {write[0]: write[2] for write in reversed(pending) if write[1] == ERROR and write[0] in for_handler}
        for failed in [task for task in self.tasks.values() if task.id in errors]:
            error = errors[failed.id]
            handler = self._handler_for(failed, error)
            if self.nodes[failed.name].error_handler_node:
                failed.writes.append((ERROR, error))  # with a write, it is not run again
            if handler is not None:
                self.tasks[handler.id] = handler

    def _give_back(self, tasks: Mapping[str, Any]) -> None:
        statuses = read_task_statuses(write for write in self.checkpoint_pending_writes if write[0] in tasks)
        for task_id, status in statuses.items():
            tasks[task_id].writes.extend(status.output)
        self.deltas.returned.update(statuses)

    def _handler_for(self, failed: Any, error: BaseException) -> Any:
        name = self.nodes[failed.name].error_handler_node
        if not name:
            return None
        return prepare_node_error_handler_task(
            failed, handler_node_name=name, failed_error=error, config=failed.config, **self.circumstances()
        )

    def _enlist(self, made: Any) -> Script:
        """Add a task to the superstep that is under way; returns it, or None."""
        if made is not None:
            self.tasks[made.id] = made
            if not self.is_replaying:
                self._give_back({made.id: made})
            yield from self.from_cache()
        return made

    def called(self, task: Any, number: int, call: Call | None = None) -> Script:
        """The task for a call from another one."""
        path = PUSH, task.path, number, task.id, call
        made = prepare_single_task(path, None, for_execution=True, config=task.config, **self.circumstances())
        if made is not None:
            self.show_tasks([made])
        return (yield from self._enlist(made))

    def handled(self, failed: Any, error: BaseException) -> Script:
        """The task that takes care of a failed one; its failure is saved first."""
        waits, self.failures = self.failures, []
        if waits:
            yield ask(self.outbox, "ended", waits)
        return (yield from self._enlist(self._handler_for(failed, error)))

    @property
    def runner(self) -> PregelRunner:
        """The complete way of running tasks; made when one needs it."""
        if self._runner is None:
            self._runner = PregelRunner(
                submit=weakref.WeakMethod(self.submit),
                put_writes=weakref.WeakMethod(self.put_writes),
                node_finished=self.node_finished,
                use_astream=self.use_astream,
                node_error_handler_map=self.error_handlers,
                **self._ways(),
            )
        return self._runner

    def _ways(self) -> dict[str, Any]:
        raise NotImplementedError

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Have something done beside the superstep."""
        return self.place.submit(*args, **kwargs)

    def commit_failed(self, task: Any, error: BaseException) -> None:
        """Take note of a failed task."""
        self.runner.commit(task, error)

    def task_failed(self, task: Any, error: BaseException, crowd: Crowd | None) -> BaseException | None:
        """The only task of a superstep has failed: what is to be raised, unless tasks that it called come first."""
        self.runner.commit(task, error)
        if crowd is not None and crowd.futures:
            crowd.add_failure(error)
            return None
        return without_our_frames(error)  # type: ignore[no-any-return]


class SyncPregelLoop(PregelLoop):
    """A run in the calling thread; used as a context manager."""

    take_cached = plainly(PregelLoop.from_cache)
    accept_push = plainly(PregelLoop.called)
    schedule_error_handler = plainly(PregelLoop.handled)
    saved = plainly(SavingLoop.settled)
    _new_place = Threads
    _load, _close = plainly(load), plainly(PregelLoop.closing)
    complete = staticmethod(run_with_retry)

    def _remember(self, entries: Mapping[Any, Any]) -> None:
        self.submit(self.cache.set, entries)

    def _ways(self) -> dict[str, Any]:
        return {"schedule_error_handler": _weakly(self.schedule_error_handler), "attempt": _weakly(self.attempt)}

    def new_crowd(self) -> Crowd:
        """For the calls of a plain task."""
        return self.runner.crowd(_weakly(self.accept_push))

    def __enter__(self) -> SyncPregelLoop:
        if self.saves:
            self._load()
        else:
            self.afresh()
        try:
            self.begin()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> bool:
        try:
            return bool(self._close(exc_value)) if self.has_place() else self.finish(exc_value)
        finally:
            self.let_go(exc_value)


class AsyncPregelLoop(PregelLoop):
    """A run in an event loop; used as an asynchronous context manager."""

    atake_cached = awaiting(PregelLoop.from_cache)
    aaccept_push = awaiting(PregelLoop.called)
    aschedule_error_handler = awaiting(PregelLoop.handled)
    asaved = awaiting(SavingLoop.settled)
    complete = staticmethod(arun_with_retry)

    def _remember(self, entries: Mapping[Any, Any]) -> None:
        self.submit(self.cache.aset, entries)

    def _ways(self) -> dict[str, Any]:
        return {"aschedule_error_handler": _weakly(self.aschedule_error_handler)}

    def new_crowd(self) -> Crowd:
        """For the calls of a plain task."""
        return self.runner.acrowd(_weakly(self.aaccept_push), home=self.home)

    def _new_place(self, limit: int | None) -> Tasks:
        return Tasks(limit, self.home)

    async def __aenter__(self) -> AsyncPregelLoop:
        self.home = asyncio.get_running_loop()  # a node that runs on a thread may call tasks
        if self.saves:
            await aplay(load(self))
        else:
            self.afresh()
        try:
            self.begin()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> bool:
        try:
            if not self.has_place():
                return self.finish(exc_value)
            ending = aplay(self.closing(exc_value))
            if not (self.beside or self.place.open):
                return bool(await ending)  # without a pause: nothing has to be waited for
            # What has to be saved is saved even when the run is cancelled meanwhile.
            leaving = asyncio.create_task(ending)
            try:
                return bool(await asyncio.shield(leaving))
            except asyncio.CancelledError as error:
                if not leaving.done():
                    error.args += (leaving,)
                raise
        finally:
            self.let_go(exc_value)


__all__ = ("AsyncPregelLoop", "PregelLoop", "SyncPregelLoop")

own(globals())
