"""One task from its first attempt to its last: retries, time limits, and commands to a parent graph.

    attempt --ok--> writes stay
       |--GraphBubbleUp--> goes on up (a command addressed to this graph is written here instead)
       |--error--> a policy matches and attempts are left: wait, clear the writes, attempt again; else raise

A plain node without policies does not come here: the engine runs it itself (``dynamo._superstep``).
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dynamo._pregel import PregelScratchpad
from dynamo.langgraph._internal._config import merge_configs, patch_configurable, recast_checkpoint_ns
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CALL,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_SEND,
    CONFIG_KEY_STREAM,
    CONFIG_KEY_TASK_ID,
    CONFIG_KEY_THREAD_ID,
    CONFIG_KEY_TIMED_ATTEMPT_OBSERVER,
    NS_SEP,
    RETURN,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.errors import GraphBubbleUp, NodeCancelledError, NodeTimeoutError, ParentCommand
from dynamo.langgraph.runtime import ExecutionInfo, Runtime
from dynamo.langgraph.types import Command, PregelExecutableTask, RetryPolicy

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.protocol import StreamProtocol
    from dynamo.langgraph.types import TimeoutPolicy

logger = logging.getLogger("langgraph")

# ------------------------------------------------------------------ time limits


def _conf(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = config.get(CONF) or {}
    return found


def _runtime(config: Any) -> Runtime[Any] | None:
    found = _conf(config).get(CONFIG_KEY_RUNTIME)
    return found if isinstance(found, Runtime) else None


def _seconds(value: float | timedelta | None) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value


@dataclass(frozen=True, slots=True)
class _ResolvedTimeout:
    """A time limit in seconds."""

    run_timeout_secs: float | None
    idle_timeout_secs: float | None
    refresh_on: Literal["auto", "heartbeat"] | None


def _resolve_timeout(timeout: TimeoutPolicy) -> _ResolvedTimeout:
    idle = _seconds(timeout.idle_timeout)
    return _ResolvedTimeout(_seconds(timeout.run_timeout), idle, None if idle is None else timeout.refresh_on)


class _AttemptContext(NamedTuple):
    """What an observer is told about an attempt under a time limit."""

    task_id: str
    task_name: str
    attempt: int
    run_id: str | None
    thread_id: str | None
    checkpoint_ns: str | None
    started_at: datetime
    run_timeout_secs: float | None
    idle_timeout_secs: float | None
    refresh_on: Literal["auto", "heartbeat"] | None


@dataclass(frozen=True, slots=True)
class _AttemptEvent:
    """A moment of an attempt under a time limit."""

    context: _AttemptContext
    event: Literal["start", "progress", "finish"]
    progress_at: datetime | None = None
    finished_at: datetime | None = None
    status: Literal["success", "error"] | None = None
    error_type: str | None = None
    error_message: str | None = None


def _utc() -> datetime:
    return datetime.now(timezone.utc)


class _Observed:
    """An attempt and who wants to hear of it; falsy when nobody does."""

    __slots__ = ("callback", "context")

    def __init__(self, task: PregelExecutableTask, config: Any, limit: _ResolvedTimeout) -> None:
        self.callback = _conf(config).get(CONFIG_KEY_TIMED_ATTEMPT_OBSERVER)
        if self.callback is None:
            return
        info = getattr(_runtime(config), "execution_info", None)
        self.context = _AttemptContext(
            task_id=task.id,
            task_name=task.name,
            attempt=getattr(info, "node_attempt", 1),
            run_id=getattr(info, "run_id", None),
            thread_id=getattr(info, "thread_id", None),
            checkpoint_ns=getattr(info, "checkpoint_ns", None),
            started_at=_utc(),
            run_timeout_secs=limit.run_timeout_secs,
            idle_timeout_secs=limit.idle_timeout_secs,
            refresh_on=limit.refresh_on,
        )
        self.tell("start")

    def __bool__(self) -> bool:
        return self.callback is not None

    def tell(self, event: Literal["start", "progress", "finish"], **details: Any) -> None:
        if self.callback is None:
            return
        try:
            self.callback(_AttemptEvent(self.context, event, **details))
        except Exception:
            logger.warning("An observer of timed attempts failed", exc_info=True)

    def progress(self) -> None:
        self.tell("progress", progress_at=_utc())

    def finish(self, error: BaseException | None = None) -> None:
        if error is None:
            self.tell("finish", finished_at=_utc(), status="success")
        else:
            text = str(error)
            kind = type(error).__name__
            self.tell("finish", finished_at=_utc(), status="error", error_type=kind, error_message=text)


class _TimedAttemptScope:
    """The gate between an attempt under a time limit and the run.

    As long as it is open, what the node does (writes, streams, calls, callbacks, heartbeats) passes and counts as
    progress; once closed, a node that was given up on changes nothing any more.

    Parameters
    ----------
    on_progress
        Told of progress, at most every `progress_min_interval` seconds.
    refresh_on
        "auto": everything is progress. "heartbeat": only heartbeats are. None: no idle limit.
    """

    __slots__ = ("__weakref__", "_active", "_last", "_lock", "_on_progress", "_told", "_told_every", "refresh_on")

    def __init__(
        self,
        on_progress: Callable[[], None] | None = None,
        progress_min_interval: float = 0.0,
        refresh_on: Literal["auto", "heartbeat"] | None = None,
    ) -> None:
        self._active = True
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._on_progress = on_progress
        self._told = float("-inf")
        self._told_every = progress_min_interval
        self.refresh_on = refresh_on

    def touch(self) -> None:
        """Something moved."""
        self._last = now = time.monotonic()
        if self._on_progress is not None and now - self._told >= self._told_every:
            self._told = now
            self._on_progress()

    def close(self) -> None:
        """Let nothing through any more."""
        with self._lock:
            self._active = False

    def _moved(self) -> None:
        if self.refresh_on == "auto":
            self._last = time.monotonic()

    async def wait_for_idle_timeout(self, idle_timeout_s: float) -> None:
        """Return when the scope is closed; raise `asyncio.TimeoutError` when nothing moved for so long."""
        while self._active:
            left = self._last + idle_timeout_s - time.monotonic()
            if left <= 0:
                raise asyncio.TimeoutError
            await asyncio.sleep(left)

    def wrap_config(self, config: Any) -> Any:
        """A config whose ways into the run go through this gate."""
        gated: dict[str, Any] = {}
        conf, runtime = _conf(config), _runtime(config)
        send, stream, call = conf.get(CONFIG_KEY_SEND), conf.get(CONFIG_KEY_STREAM), conf.get(CONFIG_KEY_CALL)
        if send is not None:
            gated[CONFIG_KEY_SEND] = self._guard_send(send)
        if stream is not None:
            gated[CONFIG_KEY_STREAM] = self._guard_stream(stream)
        if call is not None:
            gated[CONFIG_KEY_CALL] = self._guard_call(call)
        if runtime is not None:
            changes: Any = {"stream_writer": self._guard_stream_writer(runtime.stream_writer)}
            if self.refresh_on is not None:
                changes["heartbeat"] = self.touch
            gated[CONFIG_KEY_RUNTIME] = runtime.override(**changes)
        if gated:
            config = patch_configurable(config, gated)
        if self.refresh_on == "auto":
            config = merge_configs(config, {"callbacks": [_progress_handler(self)]})
        return config

    def _guard_send(self, send: Callable[[Any], None]) -> Callable[[Any], None]:
        def gate(writes: Sequence[tuple[str, Any]]) -> None:
            with self._lock:  # a write must not slip in after close() has returned
                if self._active:
                    if writes:
                        self._moved()
                    send(writes)

        return gate

    def _guard_stream(self, stream: StreamProtocol) -> StreamProtocol:
        from dynamo.langgraph.pregel.protocol import StreamProtocol

        return StreamProtocol(self._guard_stream_writer(stream), stream.modes)

    def _guard_stream_writer(self, stream_writer: Any) -> Callable[[Any], None]:
        def gate(chunk: Any) -> None:
            if self._active:  # no lock: the writer may wait, or come back here
                self._moved()
                stream_writer(chunk)

        return gate

    def _guard_call(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def gate(*args: Any, **kwargs: Any) -> Any:
            if not self._active:
                raise asyncio.CancelledError
            self._moved()
            return call(*args, **kwargs)

        return gate


_EVENTS = (
    *("llm_start", "chat_model_start", "llm_new_token", "llm_end", "llm_error", "chain_start", "chain_end"),
    *("chain_error", "tool_start", "tool_end", "tool_error", "retriever_start", "retriever_end", "retriever_error"),
    *("agent_action", "agent_finish", "text", "retry", "custom_event"),
)
_handler_class: Any = None


def _progress_handler(scope: _TimedAttemptScope) -> Any:
    """A callback handler of langchain for which every event is progress; holds the scope weakly."""
    global _handler_class
    if _handler_class is None:
        from langchain_core.callbacks import BaseCallbackHandler

        def heard(self: Any, *args: Any, **kwargs: Any) -> None:
            alive = self.scope()
            if alive is not None:
                alive.touch()

        events: dict[str, Any] = {f"on_{event}": heard for event in _EVENTS}
        _handler_class = type("_IdleProgressCallbackHandler", (BaseCallbackHandler,), {"run_inline": True, **events})
    handler = _handler_class()
    handler.scope = weakref.ref(scope)
    return handler


def _drain(task: asyncio.Task[Any]) -> None:
    """Look at an abandoned task's outcome so that asyncio does not complain about it."""
    if not task.cancelled():
        task.exception()


async def _sound_the_bell(after: float) -> None:
    await asyncio.sleep(after)
    raise asyncio.TimeoutError


async def _within(
    task: PregelExecutableTask, config: Any, limit: _ResolvedTimeout, seen: _Observed, *, stream: bool
) -> Any:
    """Run a task's node; `NodeTimeoutError` when it takes too long or stands still."""
    from dynamo.langgraph._internal._runnable import create_task_in_config_context

    run_limit, idle_limit = limit.run_timeout_secs, limit.idle_timeout_secs
    report = seen.progress if seen and idle_limit is not None else None
    scope = _TimedAttemptScope(report, 0.0 if idle_limit is None else idle_limit / 4, limit.refresh_on)
    inner = scope.wrap_config(config)

    async def node() -> Any:
        if not stream:
            return await task.proc.ainvoke(task.input, inner)
        async for _ in task.proc.astream(task.input, inner):
            if limit.refresh_on == "auto":
                scope.touch()

    began = time.monotonic()
    work = create_task_in_config_context(node, inner)
    bells: dict[asyncio.Task[None], Literal["idle", "run"]] = {}
    if idle_limit is not None:
        bells[asyncio.create_task(scope.wait_for_idle_timeout(idle_limit))] = "idle"
    if run_limit is not None:
        bells[asyncio.create_task(_sound_the_bell(run_limit))] = "run"
    given_up = True
    try:
        await asyncio.wait({work, *bells}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            given_up = False
            return await work
        rung = next(bell for bell in bells if bell.done())
        elapsed = time.monotonic() - began
        scope.close()
        task.writes.clear()
        raise NodeTimeoutError(
            task.name, elapsed, kind=bells[rung], idle_timeout=idle_limit, run_timeout=run_limit
        ) from rung.exception()
    finally:
        scope.close()
        if given_up:
            work.cancel()
            work.add_done_callback(_drain)
        for bell in bells:
            bell.cancel()
            bell.add_done_callback(_drain)


# ------------------------------------------------------------------ attempts


def _ensure_execution_info(runtime: Runtime[Any], config: Any, task: PregelExecutableTask) -> Runtime[Any]:
    """The runtime, with information about this execution if it had none."""
    if runtime.execution_info:
        return runtime
    conf, run_id = _conf(config), config.get("run_id")
    info = ExecutionInfo(
        conf.get(CONFIG_KEY_CHECKPOINT_ID) or "",
        conf.get(CONFIG_KEY_CHECKPOINT_NS) or "",
        conf.get(CONFIG_KEY_TASK_ID) or task.id,
        conf.get(CONFIG_KEY_THREAD_ID),
        str(run_id) if run_id else None,
    )
    return runtime.override(execution_info=info)


def _checkpoint_ns_for_parent_command(ns: str) -> str:
    """The namespace of the graph above the one that `ns` is a task of; bare numbers are no levels."""
    levels = ns.split(NS_SEP)
    for drop_level in (False, True):
        if drop_level and levels:
            levels.pop()
        while levels and levels[-1].isdigit():
            levels.pop()
    return NS_SEP.join(levels)


def _should_retry_on(retry_policy: RetryPolicy, exc: Exception) -> bool:
    """Whether a policy is for this error."""
    wanted = retry_policy.retry_on
    if isinstance(wanted, Sequence):
        return isinstance(exc, tuple(wanted))
    if isinstance(wanted, type) and issubclass(wanted, Exception):
        return isinstance(exc, wanted)
    if callable(wanted) and not isinstance(wanted, type):
        answer: Any = wanted(exc)
        return bool(answer)
    raise TypeError("retry_on must be an Exception class, a list or tuple of Exception classes, or a callable")


class _Attempts:
    """What the attempts of one task have in common, whether it runs synchronously or not."""

    __slots__ = ("config", "count", "policies", "task")

    def __init__(
        self,
        task: PregelExecutableTask,
        retry_policy: Sequence[RetryPolicy] | None,
        configurable: dict[str, Any] | None,
    ) -> None:
        self.task = task
        self.policies = task.retry_policy or retry_policy
        self.count = 0
        self.config: Any = task.config if configurable is None else patch_configurable(task.config, configurable)
        runtime = _runtime(self.config)
        if runtime is not None:
            runtime = _ensure_execution_info(runtime, self.config, task)
            runtime = runtime.patch_execution_info(node_first_attempt_time=time.time())
            self.config = patch_configurable(self.config, {CONFIG_KEY_RUNTIME: runtime})

    def begin(self) -> Any:
        """The config of the next attempt; forgets what the last one wrote."""
        if self.count > 0:
            changes: dict[str, Any] = {CONFIG_KEY_RESUMING: True}
            runtime, pad = _runtime(self.config), _conf(self.config).get(CONFIG_KEY_SCRATCHPAD)
            if runtime is not None:
                changes[CONFIG_KEY_RUNTIME] = runtime.patch_execution_info(node_attempt=self.count + 1)
            if isinstance(pad, PregelScratchpad):
                changes[CONFIG_KEY_SCRATCHPAD] = pad.restarted()
            self.config = patch_configurable(self.config, changes)
        self.task.writes.clear()
        return self.config

    def judge(self, error: BaseException) -> float | None:
        """What follows from how an attempt ended.

        Returns
        -------
        float or None
            Seconds to wait before the next attempt; None when a command was for this graph and is written.

        Raises
        ------
        BaseException
            When the task has failed, or something has to rise further.
        """
        if isinstance(error, ParentCommand):
            if take_parent_command(self.task, self.config, error):
                return None
            raise error
        if isinstance(error, asyncio.CancelledError):
            raise NodeCancelledError(self.task.name) from error
        if isinstance(error, GraphBubbleUp) or not isinstance(error, Exception):
            raise error
        add_task_note(error, self.task)
        policy = next((p for p in self.policies or () if _should_retry_on(p, error)), None)
        self.count += 1
        if policy is None or self.count >= policy.max_attempts:
            raise error
        grown = policy.initial_interval * policy.backoff_factor ** (self.count - 1)
        return min(policy.max_interval, grown) + (random.uniform(0, 1) if policy.jitter else 0)

    def again(self, error: BaseException, pause: float) -> None:
        """Say that there is another attempt."""
        logger.info(
            "Task %s is tried again after %.2f seconds: attempt %d failed with %r",
            *(self.task.name, pause, self.count, error),
            exc_info=error,
        )


def add_task_note(exc: BaseException, task: PregelExecutableTask) -> None:
    """Say on an exception which task raised it."""
    text = f"During task with name '{task.name}' and id '{task.id}'"
    if hasattr(exc, "add_note"):
        exc.add_note(text)
    else:  # Python 3.10
        exc.__notes__ = [*getattr(exc, "__notes__", ()), text]  # type: ignore[attr-defined, unused-ignore]


def take_parent_command(task: PregelExecutableTask, config: Any, exc: ParentCommand) -> bool:
    """Write a command here if it is addressed to this graph; if it is for the parent, put the parent's name on it.

    Returns
    -------
    bool
        Whether it was for this graph.
    """
    ns: str = config[CONF][CONFIG_KEY_CHECKPOINT_NS]
    command = exc.args[0]
    if command.graph in (ns, recast_checkpoint_ns(ns), task.name):
        for writer in task.writers:
            writer.invoke(command, config)
        return True
    if command.graph == Command.PARENT:
        exc.args = (replace(command, graph=_checkpoint_ns_for_parent_command(ns)),)
    return False


def run_with_retry(
    task: PregelExecutableTask,
    retry_policy: Sequence[RetryPolicy] | None,
    configurable: dict[str, Any] | None = None,
) -> Any:
    """Run a task to its end.

    Parameters
    ----------
    retry_policy
        For tasks that have none of their own.
    configurable
        Added to the task's config.
    """
    if task.timeout is not None:
        from dynamo.langgraph._internal._timeout import sync_timeout_unsupported

        raise sync_timeout_unsupported(task.name)
    attempts = _Attempts(task, retry_policy, configurable)
    pause: float | None = 0.0
    while pause is not None:
        config = attempts.begin()
        try:
            return task.proc.invoke(task.input, config)
        except (Exception, asyncio.CancelledError) as error:
            pause = attempts.judge(error)
            if pause is not None:
                time.sleep(pause)
                attempts.again(error, pause)
    return None


def _cancelled_by_node() -> bool:
    """Whether a CancelledError comes out of the node itself, not from somebody who cancels this task."""
    current = asyncio.current_task()
    cancelling: Any = getattr(current, "cancelling", None)  # Python 3.11
    return cancelling is not None and cancelling() == 0


async def arun_with_retry(
    task: PregelExecutableTask,
    retry_policy: Sequence[RetryPolicy] | None,
    stream: bool = False,
    configurable: dict[str, Any] | None = None,
) -> Any:
    """Run a task to its end, asynchronously.

    Parameters
    ----------
    retry_policy
        For tasks that have none of their own.
    stream
        Drive the node through ``astream``, so that those who listen get what it streams.
    configurable
        Added to the task's config.
    """
    attempts = _Attempts(task, retry_policy, configurable)
    limit = None if task.timeout is None else _resolve_timeout(task.timeout)
    pause: float | None = 0.0
    while pause is not None:
        config = attempts.begin()
        seen = None if limit is None else _Observed(task, config, limit)
        try:
            result = await _attempt(task, config, limit, seen, stream)
            break
        except (Exception, asyncio.CancelledError) as error:
            if seen is not None and not isinstance(error, GraphBubbleUp):
                seen.finish(error)
            if isinstance(error, asyncio.CancelledError) and not _cancelled_by_node():
                raise
            try:
                pause = attempts.judge(error)
            except Exception as risen:
                if seen is not None and isinstance(error, GraphBubbleUp):
                    seen.finish(None if risen is error else risen)
                raise
            if seen is not None and pause is None:
                seen.finish()
            if pause is not None:
                await asyncio.sleep(pause)
                attempts.again(error, pause)
    else:
        return None
    if seen is not None:
        seen.finish()
    return next((value for name, value in task.writes if name == RETURN), None) if stream else result


async def _attempt(
    task: PregelExecutableTask, config: Any, limit: _ResolvedTimeout | None, seen: _Observed | None, stream: bool
) -> Any:
    if limit is not None and seen is not None:
        return await _within(task, config, limit, seen, stream=stream)
    if not stream:
        return await task.proc.ainvoke(task.input, config)
    async for _ in task.proc.astream(task.input, config):
        pass
    return None


own(globals())
