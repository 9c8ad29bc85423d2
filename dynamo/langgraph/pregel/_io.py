"""Between a graph's channels and what goes in and comes out of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from dynamo.langgraph._internal._constants import ERROR, INTERRUPT, NULL_TASK_ID, RESUME, RETURN, TASKS
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.channels.base import BaseChannel, EmptyChannelError
from dynamo.langgraph.constants import START, TAG_HIDDEN
from dynamo.langgraph.errors import InvalidUpdateError
from dynamo.langgraph.pregel._log import logger
from dynamo.langgraph.types import Command, PregelExecutableTask, Send


def read_channel(channels: Mapping[str, BaseChannel[Any, Any, Any]], chan: str, *, catch: bool = True) -> Any:
    """The value of a channel; None for an empty one, or `EmptyChannelError` when `catch` is false."""
    return _value(channels[chan], None) if catch else channels[chan].get()


def _value(channel: BaseChannel[Any, Any, Any], empty: Any) -> Any:
    try:
        return channel.get()
    except EmptyChannelError:
        return empty


def read_channels(
    channels: Mapping[str, BaseChannel[Any, Any, Any]], select: Sequence[str] | str, *, skip_empty: bool = True
) -> Any:
    """The value of one channel, or a dict of several; empty ones are left out, or None."""
    if isinstance(select, str):
        return _value(channels[select], None)
    found = {name: _value(channels[name], MISSING if skip_empty else None) for name in select}
    return {name: value for name, value in found.items() if value is not MISSING}


def map_command(cmd: Command[Any]) -> Iterator[tuple[str, str, Any]]:
    """A command as writes ``(task id, channel, value)`` of no task."""
    if cmd.graph == Command.PARENT:
        raise InvalidUpdateError("There is no parent graph")
    goto = cmd.goto if isinstance(cmd.goto, (list, tuple)) else (cmd.goto,) if cmd.goto else ()
    for target in goto:
        if isinstance(target, Send):
            yield NULL_TASK_ID, TASKS, target
        elif isinstance(target, str):
            yield NULL_TASK_ID, f"branch:to:{target}", START
        else:
            raise TypeError(f"In Command.goto, expected Send/str, got {type(target).__name__}")
    if cmd.resume is not None:
        yield NULL_TASK_ID, RESUME, cmd.resume
    if cmd.update:
        for name, value in cmd._update_as_tuples():
            yield NULL_TASK_ID, name, value


def map_input(input_channels: str | Sequence[str], chunk: Any) -> Iterator[tuple[str, Any]]:
    """The input of a run as writes ``(channel, value)``."""
    if chunk is None:
        return
    if isinstance(input_channels, str):
        yield input_channels, chunk
        return
    if not isinstance(chunk, dict):
        raise TypeError(f"Expected chunk to be a dict, got {type(chunk).__name__}")
    for name, value in chunk.items():
        if name in input_channels:
            yield name, value
        else:
            logger.warning("The input has a value for %s, which is none of %s; it is ignored", name, input_channels)


def map_output_values(
    output_channels: str | Sequence[str],
    pending_writes: Literal[True] | Sequence[tuple[str, Any]],
    channels: Mapping[str, BaseChannel[Any, Any, Any]],
) -> Iterator[Any]:
    """The output channels' values, if one of these writes (or True: anything) concerns them."""
    if pending_writes is not True:
        wanted = (output_channels,) if isinstance(output_channels, str) else output_channels
        if not any(name in wanted for name, _ in pending_writes):
            return
    yield read_channels(channels, output_channels)


def task_updates(output_channels: str | Sequence[str], writes: Sequence[tuple[str, Any]]) -> list[Any]:
    """What one task's writes say in stream mode "updates": one item, or several when it wrote a channel twice."""
    for name, value in writes:
        if name == RETURN:
            return [value]
    if isinstance(output_channels, str):
        return [value for name, value in writes if name == output_channels]
    found: dict[str, Any] = {}
    twice = False
    for name, value in writes:
        if name in output_channels:
            twice = twice or name in found
            found[name] = value
    if twice:
        return [{name: value} for name, value in writes if name in output_channels]
    return [found] if found else []


def map_output_updates(
    output_channels: str | Sequence[str],
    tasks: list[tuple[PregelExecutableTask, Sequence[tuple[str, Any]]]],
    cached: bool = False,
) -> Iterator[dict[str, Any]]:
    """What tasks wrote, by node: None, one item, or a list of items."""
    by_node: dict[str, Any] = {}
    for task, writes in tasks:
        hidden = task.config and TAG_HIDDEN in (task.config.get("tags") or ())
        if not hidden and writes[0][0] not in (ERROR, INTERRUPT):
            by_node.setdefault(task.name, []).extend(task_updates(output_channels, writes))
    if not by_node:
        return
    for name, items in by_node.items():
        if len(items) < 2:
            by_node[name] = items[0] if items else None
    if cached:
        by_node["__metadata__"] = {"cached": cached}
    yield by_node


__all__ = (
    "MISSING",
    "map_command",
    "map_input",
    "map_output_updates",
    "map_output_values",
    "read_channel",
    "read_channels",
    "task_updates",
)

own(globals())
