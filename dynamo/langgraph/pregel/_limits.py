"""Time limits of an attempt: who is told of it, what the node still reaches, and the clocks that end it.

node --write, stream, call, callback, heartbeat--> gate --open--> the run      (and the idle clock starts anew)
                                                     |--closed--> nothing      (the node was given up on)
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dynamo.langgraph._internal import _constants as names
from dynamo.langgraph._internal._config import merge_configs, patch_configurable
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.errors import GraphBubbleUp, NodeTimeoutError
from dynamo.langgraph.runtime import Runtime

if TYPE_CHECKING:
    from dynamo.langgraph.types import PregelExecutableTask, TimeoutPolicy

_log = logging.getLogger("langgraph")
Refresh = Literal["auto", "heartbeat"] | None


class Limit(NamedTuple):
    """How long an attempt may take and how long it may stand still, in seconds; None: for ever."""

    run: float | None
    idle: float | None
    refresh: Refresh


def limit_of(policy: TimeoutPolicy | None) -> Limit | None:
    """A policy in seconds."""
    if policy is None:
        return None
    lengths = (policy.run_timeout, policy.idle_timeout)
    run, idle = (each.total_seconds() if isinstance(each, timedelta) else each for each in lengths)
    return Limit(run, idle, None if idle is None else policy.refresh_on)


# ------------------------------------------------------------------ who is told


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
    refresh_on: Refresh


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


class Observed:
    """Tells an observer, if there is one, when an attempt starts, moves and finishes.

    What rises out of a node on purpose (interrupts, commands) does not count as a failure.
    """

    __slots__ = ("about", "finished", "observer")

    def __init__(self, task: PregelExecutableTask, config: Any, limit: Limit | None) -> None:
        conf = config.get(names.CONF) or {}
        self.observer = conf.get(names.CONFIG_KEY_TIMED_ATTEMPT_OBSERVER) if limit is not None else None
        self.finished = False
        if self.observer is None or limit is None:
            return
        info: Any = getattr(conf.get(names.CONFIG_KEY_RUNTIME), "execution_info", None)
        run, thread, space = (getattr(info, name, None) for name in ("run_id", "thread_id", "checkpoint_ns"))
        number = getattr(info, "node_attempt", 1)
        self.about = _AttemptContext(task.id, task.name, number, run, thread, space, _now(), *limit)

    def tell(self, event: Literal["start", "progress", "finish"], **details: Any) -> None:
        """Say something; an observer that fails is only mentioned in the log."""
        if self.observer is None:
            return
        try:
            self.observer(_AttemptEvent(self.about, event, **details))
        except Exception:
            _log.warning("An observer of timed attempts failed", exc_info=True)

    def progress(self) -> None:
        """Say that the node moved."""
        self.tell("progress", progress_at=_now())

    def finish(self, error: BaseException | None) -> None:
        """Say how it ended, once."""
        if not self.finished:
            self.finished = True
            failure = {} if error is None else {"error_type": type(error).__name__, "error_message": str(error)}
            self.tell("finish", finished_at=_now(), status="error" if failure else "success", **failure)

    def __enter__(self) -> Observed:
        self.tell("start")
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.finish(None if isinstance(error, GraphBubbleUp) else error)


def _now() -> datetime:
    return datetime.now(timezone.utc)


# ------------------------------------------------------------------ what the node reaches


_FREELY = nullcontext()


def _always(*args: Any) -> Any:
    return True


class _TimedAttemptScope:
    """The gate between an attempt under a time limit and the run.

    As long as it is open, what the node does (writes, streams, calls, callbacks, heartbeats) passes and counts as
    progress; once closed, a node that was given up on changes nothing any more.

    Parameters
    ----------
    report
        Told of progress, at most every `report_every` seconds.
    refresh
        "auto": everything is progress. "heartbeat": only heartbeats are. None: no idle limit.
    """

    __slots__ = ("__weakref__", "_lock", "moved_at", "open", "refresh", "report", "report_every", "reported_at")

    def __init__(
        self, report: Callable[[], None] | None = None, report_every: float = 0.0, refresh: Refresh = None
    ) -> None:
        self._lock = threading.Lock()
        self.open, self.refresh = True, refresh
        self.report, self.report_every, self.reported_at = report, report_every, float("-inf")
        self.moved_at = time.monotonic()

    def touch(self) -> None:
        """Something moved, and who observes is told."""
        self.moved_at = now = time.monotonic()
        if self.report is not None and now >= self.reported_at + self.report_every:
            self.reported_at = now
            self.report()

    def close(self, take_back: Any = None) -> None:
        """Let nothing through any more, and forget what came through to `take_back`."""
        with self._lock:
            self.open = False
            if take_back is not None:
                take_back.clear()

    async def stand_still(self, seconds: float) -> None:
        """Return when nothing moved for so long."""
        while (left := self.moved_at + seconds - time.monotonic()) > 0:  # noqa: ASYNC110 (a deadline that moves)
            await asyncio.sleep(left)

    def _guard(
        self,
        door: Callable[..., Any],
        *,
        counts: Callable[..., bool] = _always,
        hold: AbstractContextManager[Any] = _FREELY,
        refusal: type[BaseException] | None = None,
    ) -> Callable[..., Any]:
        """A way into the run; `refusal` is raised when it is closed."""

        def gate(*args: Any, **kwargs: Any) -> Any:
            with hold:
                if self.open:
                    if self.refresh == "auto" and counts(*args):
                        self.moved_at = time.monotonic()
                    return door(*args, **kwargs)
            if refusal is not None:
                raise refusal

        return gate

    # No lock but for writes, which must not slip in after close(): a writer or a call may wait, or come back here.

    def _guard_send(self, send: Callable[[Any], None]) -> Callable[[Any], None]:
        return self._guard(send, counts=bool, hold=self._lock)

    def _guard_stream(self, stream: Any) -> Any:
        return type(stream)(self._guard(stream), stream.modes)

    def _guard_call(self, call: Callable[..., Any]) -> Callable[..., Any]:
        return self._guard(call, refusal=asyncio.CancelledError)

    _guard_stream_writer = _guard

    def _guard_runtime(self, runtime: Runtime[Any]) -> Runtime[Any]:
        changes: Any = {"stream_writer": self._guard(runtime.stream_writer)}
        if self.refresh is not None:
            changes["heartbeat"] = self.touch
        return runtime.override(**changes)

    def wrap_config(self, config: Any) -> Any:
        """A config whose ways into the run go through this gate."""
        conf = config.get(names.CONF) or {}
        doors: dict[str, Callable[[Any], Any]] = {
            names.CONFIG_KEY_SEND: self._guard_send,
            names.CONFIG_KEY_STREAM: self._guard_stream,
            names.CONFIG_KEY_CALL: self._guard_call,
            names.CONFIG_KEY_RUNTIME: self._guard_runtime,
        }
        gated = {name: guard(conf[name]) for name, guard in doors.items() if conf.get(name) is not None}
        inner = patch_configurable(config, gated) if gated else config
        return merge_configs(inner, {"callbacks": [_listener(self)]}) if self.refresh == "auto" else inner


_EVENTS = (
    *("llm_start", "chat_model_start", "llm_new_token", "llm_end", "llm_error", "chain_start", "chain_end"),
    *("chain_error", "tool_start", "tool_end", "tool_error", "retriever_start", "retriever_end", "retriever_error"),
    *("agent_action", "agent_finish", "text", "retry", "custom_event"),
)
_listener_class: Any = None


def _listener(scope: _TimedAttemptScope) -> Any:
    """A callback handler of langchain for which every event is progress; holds the scope weakly."""
    global _listener_class
    if _listener_class is None:
        from langchain_core.callbacks import BaseCallbackHandler

        def heard(self: Any, *args: Any, **kwargs: Any) -> None:
            alive = self.scope()
            if alive is not None:
                alive.touch()

        events: dict[str, Any] = {f"on_{event}": heard for event in _EVENTS}
        _listener_class = type("_ProgressListener", (BaseCallbackHandler,), {"run_inline": True, **events})
    listener = _listener_class()
    listener.scope = weakref.ref(scope)
    return listener


# ------------------------------------------------------------------ the clocks


def _forget(task: asyncio.Task[Any]) -> None:
    """Stop a task; look at its outcome so that asyncio does not complain that nobody did."""
    task.cancel()
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def within(
    task: PregelExecutableTask,
    config: Any,
    limit: Limit,
    seen: Observed,
    run: Callable[[Any, Callable[[], Any]], Coroutine[Any, Any, Any]],
) -> Any:
    """Run a task's node; `NodeTimeoutError` when it takes too long or stands still.

    Parameters
    ----------
    run
        ``run(config, moved)`` runs the node and calls `moved` for each piece of output.
    """
    from dynamo.langgraph._internal._runnable import create_task_in_config_context

    report = None if limit.idle is None or seen.observer is None else seen.progress
    scope = _TimedAttemptScope(report, (limit.idle or 0.0) / 4, limit.refresh)
    inner = scope.wrap_config(config)
    moved = scope.touch if limit.refresh == "auto" else _always
    began = time.monotonic()
    work: Any = create_task_in_config_context(lambda: run(inner, moved), inner)
    clocks: dict[asyncio.Task[None], Literal["idle", "run"]] = {}
    if limit.idle is not None:
        clocks[asyncio.create_task(scope.stand_still(limit.idle))] = "idle"
    if limit.run is not None:
        clocks[asyncio.create_task(asyncio.sleep(limit.run))] = "run"
    try:
        await asyncio.wait((work, *clocks), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return await work
        elapsed = time.monotonic() - began
        kind = next(kind for clock, kind in clocks.items() if clock.done())
        scope.close(task.writes)
        late = NodeTimeoutError(task.name, elapsed, kind=kind, idle_timeout=limit.idle, run_timeout=limit.run)
        raise late from asyncio.TimeoutError()
    finally:
        scope.close()
        for each in (work, *clocks):
            _forget(each)


own(globals())
