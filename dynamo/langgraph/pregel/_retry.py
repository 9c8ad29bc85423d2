"""One task from its first attempt to its last: retries, and commands to a parent graph.

    attempt --ok--> writes stay
       |--GraphBubbleUp--> goes on up (a command addressed to this graph is written here instead)
       |--error--> a policy matches and attempts are left: wait, clear the writes, attempt again; else raise

`Attempts` gives a config for each attempt and judges how it ended; the two functions below drive it. Time limits are in
``_limits``. A plain node without policies does not come here: the engine runs it itself (``dynamo._superstep``).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dynamo._pregel import PregelScratchpad
from dynamo.langgraph._internal import _constants as names
from dynamo.langgraph._internal._config import patch_configurable, recast_checkpoint_ns
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._timeout import sync_timeout_unsupported
from dynamo.langgraph.errors import GraphBubbleUp, NodeCancelledError, ParentCommand
from dynamo.langgraph.pregel._limits import Observed, _TimedAttemptScope, limit_of, within
from dynamo.langgraph.runtime import ExecutionInfo, Runtime
from dynamo.langgraph.types import Command, PregelExecutableTask, RetryPolicy

__all__ = ["_TimedAttemptScope", "arun_with_retry", "run_with_retry"]
_log = logging.getLogger("langgraph")


def _ensure_execution_info(runtime: Runtime[Any], config: Any, task: PregelExecutableTask) -> Runtime[Any]:
    """The runtime, with information about this execution if it had none."""
    conf, run = config.get(names.CONF) or {}, config.get("run_id")
    of = (names.CONFIG_KEY_CHECKPOINT_ID, names.CONFIG_KEY_CHECKPOINT_NS, names.CONFIG_KEY_TASK_ID)
    checkpoint, space, number = (conf.get(name) or "" for name in of)
    thread = conf.get(names.CONFIG_KEY_THREAD_ID)
    info = ExecutionInfo(checkpoint, space, number or task.id, thread, str(run) if run else None)
    return runtime if runtime.execution_info else runtime.override(execution_info=info)


def _should_retry_on(retry_policy: RetryPolicy, exc: Exception) -> bool:
    """Whether a policy is for this error."""
    wanted: Any = retry_policy.retry_on
    if isinstance(wanted, type) and issubclass(wanted, Exception):
        wanted = (wanted,)
    if isinstance(wanted, Sequence):
        return isinstance(exc, tuple(wanted))
    if callable(wanted) and not isinstance(wanted, type):
        return bool(wanted(exc))
    raise TypeError("retry_on must be an Exception class, a list or tuple of Exception classes, or a callable")


class Attempts:
    """The attempts of one task, whether it runs synchronously or not: iterate for the config of each.

    Attributes
    ----------
    pause : float or None
        Seconds to wait before the next attempt; None: there is none.
    """

    __slots__ = ("config", "failed", "pause", "policies", "task")

    def __init__(self, task: PregelExecutableTask, policies: Any, extras: dict[str, Any] | None) -> None:
        self.task, self.policies = task, task.retry_policy or policies
        self.failed = 0
        self.pause: float | None = None
        self.config: Any = patch_configurable(task.config, extras) if extras is not None else task.config

        def first(runtime: Runtime[Any]) -> Runtime[Any]:
            known = _ensure_execution_info(runtime, self.config, task)
            return known.patch_execution_info(node_first_attempt_time=time.time())

        self._change({names.CONFIG_KEY_RUNTIME: (Runtime, first)})

    def _change(self, parts: dict[str, tuple[type, Callable[[Any], Any]]], **more: Any) -> None:
        conf = self.config.get(names.CONF) or {}
        for key, (kind, change) in parts.items():
            if isinstance(conf.get(key), kind):
                more[key] = change(conf[key])
        if more:
            self.config = patch_configurable(self.config, more)

    def __iter__(self) -> Iterator[Any]:
        self.task.writes.clear()
        yield self.config
        while self.pause is not None:
            self.pause = None
            again = {
                names.CONFIG_KEY_RUNTIME: (Runtime, lambda r: r.patch_execution_info(node_attempt=self.failed + 1)),
                names.CONFIG_KEY_SCRATCHPAD: (PregelScratchpad, PregelScratchpad.restarted),
            }
            self._change(again, **{names.CONFIG_KEY_RESUMING: True})
            self.task.writes.clear()
            yield self.config

    def judge(self, error: BaseException) -> None:
        """Say by `pause` what follows from how an attempt ended.

        Raises
        ------
        BaseException
            When the task has failed, or something has to rise further.
        """
        if isinstance(error, ParentCommand) and take_parent_command(self.task, self.config, error):
            return
        if isinstance(error, asyncio.CancelledError):
            raise NodeCancelledError(self.task.name) from error
        if isinstance(error, GraphBubbleUp) or not isinstance(error, Exception):
            raise error
        add_task_note(error, self.task)
        policy = next((each for each in self.policies or () if _should_retry_on(each, error)), None)
        self.failed += 1
        if policy is None or self.failed >= policy.max_attempts:
            raise error
        grown = policy.initial_interval * policy.backoff_factor ** (self.failed - 1)
        self.pause = min(policy.max_interval, grown) + (random.uniform(0, 1) if policy.jitter else 0)
        said = "Task %s is tried again in %.2f seconds: attempt %d failed with %r"
        _log.info(said, self.task.name, self.pause, self.failed, error, exc_info=error)


def add_task_note(exc: BaseException, task: PregelExecutableTask) -> None:
    """Say on an exception which task raised it."""
    text = f"During task with name '{task.name}' and id '{task.id}'"
    if hasattr(exc, "add_note"):
        exc.add_note(text)
    else:  # Python 3.10
        exc.__notes__ = [*getattr(exc, "__notes__", ()), text]  # type: ignore[attr-defined, unused-ignore]


def _checkpoint_ns_for_parent_command(ns: str) -> str:
    """The namespace of the graph above the one that `ns` is a task of; bare numbers are no levels."""
    levels = ns.split(names.NS_SEP)
    for drop_level in (False, True):
        if drop_level and levels:
            levels.pop()
        while levels and levels[-1].isdigit():
            levels.pop()
    return names.NS_SEP.join(levels)


def take_parent_command(task: PregelExecutableTask, config: Any, exc: ParentCommand) -> bool:
    """Write a command here if it is addressed to this graph; if it is for the parent, put the parent's name on it.

    Returns
    -------
    bool
        Whether it was for this graph.
    """
    ns: str = config[names.CONF][names.CONFIG_KEY_CHECKPOINT_NS]
    command = exc.args[0]
    here = command.graph in (ns, recast_checkpoint_ns(ns), task.name)
    if here:
        for writer in task.writers:
            writer.invoke(command, config)
    elif command.graph == Command.PARENT:
        exc.args = (replace(command, graph=_checkpoint_ns_for_parent_command(ns)),)
    return here


# ------------------------------------------------------------------ the two drivers


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
    if task.timeout:
        raise sync_timeout_unsupported(task.name, kind="Node")
    attempts, node, given = Attempts(task, retry_policy, configurable), task.proc, task.input
    for config in attempts:
        try:
            return node.invoke(given, config)
        except (Exception, asyncio.CancelledError) as error:
            attempts.judge(error)
            if attempts.pause is not None:
                time.sleep(attempts.pause)
    return None


def _cancelled_by_node() -> bool:
    """Whether a CancelledError comes out of the node itself, not from somebody who cancels this task."""
    cancelling: Any = getattr(asyncio.current_task(), "cancelling", None)  # Python 3.11
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
    attempts, limit = Attempts(task, retry_policy, configurable), limit_of(task.timeout)
    node = partial(_attempt, task, stream)
    for config in attempts:
        with Observed(task, config, limit) as seen:
            try:
                return await (node(config) if limit is None else within(task, config, limit, seen, node))
            except (Exception, asyncio.CancelledError) as error:
                if not isinstance(error, GraphBubbleUp):
                    seen.finish(error)
                if isinstance(error, asyncio.CancelledError) and not _cancelled_by_node():
                    raise
                attempts.judge(error)
                if attempts.pause is not None:
                    await asyncio.sleep(attempts.pause)
    return None


async def _attempt(task: PregelExecutableTask, stream: bool, config: Any, moved: Callable[[], Any] = bool) -> Any:
    node, given = task.proc, task.input
    if not stream:
        return await node.ainvoke(given, config)
    async for _ in node.astream(given, config):
        moved()
    return next((value for name, value in task.writes if name == names.RETURN), None)


own(globals())
