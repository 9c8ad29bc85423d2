"""Tasks and checkpoints as the streams "tasks", "checkpoints" and "debug" show them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from dynamo.langgraph._internal._config import filter_to_user_tags, patch_checkpoint_map
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_NS,
    ERROR,
    INTERRUPT,
    NS_END,
    NS_SEP,
    RETURN,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.constants import TAG_HIDDEN
from dynamo.langgraph.pregel._io import read_channels
from dynamo.langgraph.pregel._task_status import TaskStatus, read_task_statuses
from dynamo.langgraph.types import PregelExecutableTask, PregelTask, StateSnapshot

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import CheckpointMetadata

    from dynamo.langgraph.channels.base import BaseChannel
    from dynamo.langgraph.types import CheckpointPayload, CheckpointTask, TaskPayload, TaskResultPayload

__all__ = (
    *("get_bolded_text", "get_colored_text", "is_multiple_channel_write", "map_debug_checkpoint", "map_debug_tasks"),
    *("map_debug_task_results", "map_task_result_writes", "rm_pregel_keys", "tasks_w_writes"),
)

PendingWrite: TypeAlias = tuple[str, str, Any]

# Said by the task itself, or by its namespace, already.
EXCLUDED_METADATA_KEYS = {
    *("langgraph_step", "langgraph_node", "langgraph_triggers", "langgraph_path", "langgraph_checkpoint_ns"),
    *("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map"),
}
_SEVERAL = "$writes"  # {"$writes": [...]} stands for the values of a channel that was written more than once


def _hidden(task: Any) -> bool:
    return bool(task.config) and TAG_HIDDEN in (task.config.get("tags") or ())


def _user_metadata(config: Any) -> dict[str, Any]:
    if not config:
        return {}
    kept = {k: v for k, v in (config.get("metadata") or {}).items() if k not in EXCLUDED_METADATA_KEYS}
    tags = filter_to_user_tags(config.get("tags"))
    return {**kept, "tags": tags} if tags else kept


def map_debug_tasks(tasks: Iterable[PregelExecutableTask]) -> "Iterator[TaskPayload]":
    """The tasks that start."""
    for task in tasks:
        if _hidden(task):
            continue
        shown: Any = {"id": task.id, "name": task.name, "input": task.input, "triggers": task.triggers}
        metadata = _user_metadata(task.config)
        if metadata:
            shown["metadata"] = metadata
        yield shown


# ------------------------------------------------------------------ what a task wrote
def is_multiple_channel_write(value: Any) -> bool:
    """Whether a value of `map_task_result_writes` stands for several."""
    return isinstance(value, dict) and isinstance(value.get(_SEVERAL), list)


def map_task_result_writes(writes: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Writes by channel."""
    every: dict[str, list[Any]] = {}
    for name, value in writes:
        every.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else {_SEVERAL: values} for name, values in every.items()}


def map_debug_task_results(
    task_tup: tuple[PregelExecutableTask, Sequence[tuple[str, Any]]], stream_keys: str | Sequence[str]
) -> "Iterator[TaskResultPayload]":
    """How a task ended."""
    wanted = {stream_keys} if isinstance(stream_keys, str) else set(stream_keys)
    (task, writes), error = task_tup, None
    asked: list[Any] = []
    for name, value in writes:
        if name == ERROR and error is None:
            error = value
        elif name == INTERRUPT:
            asked.extend(value if isinstance(value, Sequence) else (value,))
    kept = [write for write in writes if write[0] in wanted or write[0] == RETURN]
    ended = {"error": error, "result": map_task_result_writes(kept), "interrupts": list(map(asdict, asked))}
    yield {"id": task.id, "name": task.name, **ended}  # type: ignore[typeddict-item]


# ------------------------------------------------------------------ checkpoints
def rm_pregel_keys(config: "RunnableConfig | None") -> "RunnableConfig | None":
    """The part of a configuration that identifies a checkpoint, without what the engine keeps there."""
    if config is None:
        return None
    return {CONF: {key: value for key, value in config.get(CONF, {}).items() if not key.startswith("__pregel_")}}


def map_debug_checkpoint(
    config: "RunnableConfig",
    channels: "Mapping[str, BaseChannel[Any, Any, Any]]",
    stream_channels: str | Sequence[str],
    metadata: "CheckpointMetadata",
    tasks: Iterable[PregelExecutableTask],
    pending_writes: list[PendingWrite],
    parent_config: "RunnableConfig | None",
    output_keys: str | Sequence[str],
) -> "Iterator[CheckpointPayload]":
    """A checkpoint and the tasks that follow it."""
    tasks = list(tasks)
    here = config[CONF]
    above = here.get(CONFIG_KEY_CHECKPOINT_NS, "")
    states: dict[str, RunnableConfig | StateSnapshot] = {}
    for task in tasks:
        if task.subgraphs:
            ns = f"{task.name}{NS_END}{task.id}"
            states[task.id] = {
                CONF: {
                    "thread_id": here["thread_id"],
                    CONFIG_KEY_CHECKPOINT_NS: f"{above}{NS_SEP}{ns}" if above else ns,
                }
            }
    yield {
        "config": rm_pregel_keys(patch_checkpoint_map(config, metadata)),
        "parent_config": rm_pregel_keys(patch_checkpoint_map(parent_config, metadata)),
        "values": read_channels(channels, stream_channels),
        "metadata": metadata,
        "next": [task.name for task in tasks],
        "tasks": [_shown(task) for task in tasks_w_writes(tasks, pending_writes, states, output_keys)],
    }


def _shown(task: PregelTask) -> "CheckpointTask":
    shown: dict[str, Any] = {"id": task.id, "name": task.name}
    if task.error:
        return {**shown, "error": task.error, "state": task.state}  # type: ignore[typeddict-item]
    if task.result:  # nothing, an empty update and 0 are not shown; `get_state` tells them
        shown["result"] = task.result
    interrupts = tuple(asdict(one) for one in task.interrupts)
    return {**shown, "interrupts": interrupts, "state": task.state}  # type: ignore[typeddict-item]


def _result(writes: Sequence[tuple[str, Any]], keys: str | Sequence[str]) -> Any:
    """What a task wrote, as far as anybody asks for it; None if it is not there."""
    for name, value in writes:
        if name == RETURN:
            return value
    wanted = (keys,) if isinstance(keys, str) else keys
    found = map_task_result_writes([write for write in writes if write[0] in wanted])
    return found.get(keys) if isinstance(keys, str) else found


def tasks_w_writes(
    tasks: Iterable[PregelTask | PregelExecutableTask],
    pending_writes: list[PendingWrite] | None,
    states: "dict[str, RunnableConfig | StateSnapshot] | None",
    output_keys: str | Sequence[str],
    *,
    live: bool = False,
) -> tuple[PregelTask, ...]:
    """Tasks with what their pending writes say: result, error, interrupts.

    Parameters
    ----------
    states
        Per task id, the state of the graph in it, or where to find it.
    live
        Show only interrupts that wait for an answer.
    """
    known = read_task_statuses(pending_writes or ())

    def with_writes(task: PregelTask | PregelExecutableTask) -> PregelTask:
        how = known.get(task.id) or _UNKNOWN
        return PregelTask(
            id=task.id,
            name=task.name,
            path=task.path,
            error=how.error,  # type: ignore[arg-type]
            interrupts=how.pending_interrupts if live else how.interrupts,
            state=(states or {}).get(task.id),
            result=_result(how.output, output_keys) if how.finished else None,
        )

    return tuple(map(with_writes, tasks))


_UNKNOWN = TaskStatus()

# ------------------------------------------------------------------ terminals
_PLAIN = "\x1b[0m"
_COLORS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
COLOR_MAPPING = {**{color: f"0;3{n}" for n, color in enumerate(_COLORS)}, "gray": "1;30"}


def get_colored_text(text: str, color: str) -> str:
    """Text in a color, for a terminal."""
    return f"\x1b[1;3{COLOR_MAPPING[color]}m{text}{_PLAIN}"


def get_bolded_text(text: str) -> str:
    """Bold text, for a terminal."""
    return f"\x1b[1m{text}{_PLAIN}"


own(globals())
