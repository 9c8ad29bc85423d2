"""From writes to channels to the next tasks; the work is done by ``dynamo._pregel``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dynamo import _pregel
from dynamo._pregel import (
    apply_writes,
    local_read,
    null_version_of,
    prepare_next_tasks,
    prepare_node_error_handler_task,
    prepare_single_task,
    task_path_str,
)
from dynamo._pregel import scratchpad as _scratchpad
from dynamo.langgraph._internal._config import _DefaultRecursionLimit, _own_copy
from dynamo.langgraph._internal._constants import INTERRUPT, RESERVED
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._typing import EMPTY_SEQ
from dynamo.langgraph.channels.untracked_value import UntrackedValue
from dynamo.langgraph.constants import TAG_HIDDEN
from dynamo.langgraph.errors import NodeError
from dynamo.langgraph.pregel._call import get_runnable_for_task, identifier
from dynamo.langgraph.runtime import DEFAULT_RUNTIME, ExecutionInfo, Runtime
from dynamo.langgraph.types import CacheKey, PregelExecutableTask, PregelTask, Send

if TYPE_CHECKING:
    from dynamo.langgraph.types import CachePolicy, RetryPolicy, TimeoutPolicy

__all__ = (
    "Call",
    "PregelTaskWrites",
    "_scratchpad",
    "apply_writes",
    "increment",
    "local_read",
    "prepare_next_tasks",
    "prepare_node_error_handler_task",
    "prepare_single_task",
    "sanitize_untracked_values_in_send",
    "should_interrupt",
    "task_path_str",
)


class PregelTaskWrites(NamedTuple):
    """Writes that come from no task that runs: the input, an update."""

    path: tuple[str | int | tuple[Any, ...], ...]
    name: str
    writes: Sequence[tuple[str, Any]]
    triggers: Sequence[str]


class Call:
    """A task's wish to have a function run as another task."""

    __slots__ = ("cache_policy", "callbacks", "func", "input", "retry_policy", "timeout")

    def __init__(
        self,
        func: Callable[..., Any],
        input: tuple[tuple[Any, ...], dict[str, Any]],
        *,
        retry_policy: Sequence[RetryPolicy] | None,
        cache_policy: CachePolicy[Any] | None,
        callbacks: Any,
        timeout: TimeoutPolicy | None = None,
    ) -> None:
        self.func, self.input = func, input
        self.retry_policy, self.cache_policy = retry_policy, cache_policy
        self.callbacks, self.timeout = callbacks, timeout


def increment(current: int | None, channel: None) -> int:
    """The version after `current`, where there is no saver to ask."""
    return 1 if current is None else current + 1


def should_interrupt(checkpoint: Any, interrupt_nodes: Any, tasks: Any) -> list[PregelExecutableTask]:
    """The tasks that a run has to stop for: those named, if any channel moved since the last stop."""
    passed, never = checkpoint["versions_seen"].get(INTERRUPT) or {}, null_version_of(checkpoint)
    if all(version <= passed.get(name, never) for name, version in checkpoint["channel_versions"].items()):
        return []
    if interrupt_nodes != "*":
        return [task for task in tasks if task.name in interrupt_nodes]
    return [task for task in tasks if TAG_HIDDEN not in ((task.config or {}).get("tags") or EMPTY_SEQ)]


def sanitize_untracked_values_in_send(packet: Send, channels: Mapping[str, Any]) -> Send:
    """A Send without the values of channels that are never saved."""
    arg = packet.arg
    if isinstance(arg, dict):
        arg = {name: value for name, value in arg.items() if not isinstance(channels.get(name), UntrackedValue)}
    return Send(node=packet.node, arg=arg, timeout=packet.timeout)


own(globals())
_pregel.set_reserved(RESERVED)
_pregel.bind(
    {
        "Send": Send,
        "Call": Call,
        "PregelExecutableTask": PregelExecutableTask,
        "PregelTask": PregelTask,
        "CacheKey": CacheKey,
        "Runtime": Runtime,
        "ExecutionInfo": ExecutionInfo,
        "NodeError": NodeError,
        "DEFAULT_RUNTIME": DEFAULT_RUNTIME,
        "own_copy": _own_copy,
        "DefaultLimit": _DefaultRecursionLimit,
        "get_runnable_for_task": get_runnable_for_task,
        "identifier": identifier,
    }
)
