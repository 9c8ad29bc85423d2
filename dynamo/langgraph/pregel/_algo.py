"""From writes to channels to the next tasks; the work is done by ``dynamo._pregel``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dynamo import _pregel
from dynamo._pregel import Counter as LazyAtomicCounter
from dynamo._pregel import (
    apply_writes,
    local_read,
    prepare_next_tasks,
    prepare_node_error_handler_task,
    prepare_single_task,
    task_path_str,
)
from dynamo._pregel import null_version_of as checkpoint_null_version
from dynamo._pregel import scratchpad as _scratchpad
from dynamo.langgraph._internal._config import merge_configs
from dynamo.langgraph._internal._constants import INTERRUPT, RESERVED
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._typing import EMPTY_SEQ
from dynamo.langgraph.channels.base import BaseChannel
from dynamo.langgraph.channels.untracked_value import UntrackedValue
from dynamo.langgraph.constants import TAG_HIDDEN
from dynamo.langgraph.errors import NodeError
from dynamo.langgraph.pregel._call import get_runnable_for_task, identifier
from dynamo.langgraph.runtime import DEFAULT_RUNTIME, ExecutionInfo, Runtime
from dynamo.langgraph.types import CacheKey, PregelExecutableTask, PregelTask, Send

if TYPE_CHECKING:
    from dynamo.langgraph.types import CachePolicy, RetryPolicy, TimeoutPolicy

GetNextVersion = Callable[[Any, None], Any]

__all__ = (
    "Call",
    "GetNextVersion",
    "LazyAtomicCounter",
    "PregelTaskWrites",
    "WritesProtocol",
    "_scratchpad",
    "apply_writes",
    "checkpoint_null_version",
    "increment",
    "local_read",
    "prepare_next_tasks",
    "prepare_node_error_handler_task",
    "prepare_single_task",
    "sanitize_untracked_values_in_send",
    "should_interrupt",
    "task_path_str",
)


class WritesProtocol(Protocol):
    """What `apply_writes` asks of a task."""

    @property
    def path(self) -> tuple[Any, ...]: ...
    @property
    def name(self) -> str: ...
    @property
    def writes(self) -> Sequence[tuple[str, Any]]: ...
    @property
    def triggers(self) -> Sequence[str]: ...


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
    seen = checkpoint["versions_seen"].get(INTERRUPT, {})
    null = checkpoint_null_version(checkpoint)
    if not any(version > seen.get(name, null) for name, version in checkpoint["channel_versions"].items()):
        return []
    if interrupt_nodes == "*":
        return [t for t in tasks if not t.config or TAG_HIDDEN not in (t.config.get("tags") or EMPTY_SEQ)]
    return [t for t in tasks if t.name in interrupt_nodes]


def sanitize_untracked_values_in_send(packet: Send, channels: Mapping[str, BaseChannel[Any, Any, Any]]) -> Send:
    """A Send without the values of channels that are never saved."""
    if not isinstance(packet.arg, dict):
        return packet
    kept = {name: value for name, value in packet.arg.items() if not isinstance(channels.get(name), UntrackedValue)}
    return Send(node=packet.node, arg=kept, timeout=packet.timeout)


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
        "merge_configs": merge_configs,
        "get_runnable_for_task": get_runnable_for_task,
        "identifier": identifier,
    }
)
