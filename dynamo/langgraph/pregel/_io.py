"""Between a graph's channels and what goes in and comes out of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from dynamo.langgraph._internal._constants import NULL_TASK_ID, RESUME, RETURN, TASKS
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.channels.base import EmptyChannelError
from dynamo.langgraph.constants import START
from dynamo.langgraph.errors import InvalidUpdateError
from dynamo.langgraph.pregel._log import logger
from dynamo.langgraph.types import Command, Send


def _value(channel: Any, empty: Any) -> Any:
    """What a channel holds; it may say only when asked for it that it holds nothing."""
    held = empty
    with suppress(EmptyChannelError):
        held = channel.get()
    return held


def read_channels(channels: Mapping[str, Any], select: Sequence[str] | str) -> Any:
    """The value of one channel, or a dict of several; an empty one is None, or left out."""
    if not isinstance(select, str):
        found = ((name, _value(channels[name], MISSING)) for name in select)
        return {name: value for name, value in found if value is not MISSING}
    return _value(channels[select], None)


# ------------------------------------------------------------------ in
def _way(target: Any) -> tuple[str, Any]:
    """The write that makes a command go somewhere."""
    if isinstance(target, Send):
        return TASKS, target
    if isinstance(target, str):
        return f"branch:to:{target}", START
    raise TypeError(f"Command(goto=...) takes names of nodes and Send objects, not a {type(target).__name__}")


def map_command(cmd: Command[Any]) -> Iterator[tuple[str, str, Any]]:
    """A command as writes ``(task id, channel, value)`` of no task."""
    if cmd.graph is not None and cmd.graph == Command.PARENT:
        raise InvalidUpdateError("Command(graph=Command.PARENT) needs a graph around this one")
    goto: Any = cmd.goto or ()
    pairs = [_way(target) for target in (goto if isinstance(goto, (list, tuple)) else (goto,))]
    pairs += [] if cmd.resume is None else [(RESUME, cmd.resume)]
    pairs += cmd._update_as_tuples() if cmd.update else ()
    return ((NULL_TASK_ID, name, value) for name, value in pairs)


def map_input(keys: str | Sequence[str], given: Any) -> list[tuple[str, Any]]:
    """The input of a run as writes ``(channel, value)``."""
    if given is None or isinstance(keys, str):
        return [] if given is None else [(str(keys), given)]
    if not isinstance(given, dict):
        raise TypeError(f"The input is a dict with some of the keys {list(keys)}, not a {type(given).__name__}")
    for name in given.keys() - set(keys):
        logger.warning("The input has a value for %s, which is none of %s; it is ignored", name, keys)
    return [(name, value) for name, value in given.items() if name in keys]


# ------------------------------------------------------------------ out
def task_updates(keys: str | Sequence[str], writes: Sequence[tuple[str, Any]]) -> list[Any]:
    """What one task's writes say in stream mode "updates": one item, or several when it wrote a channel twice."""
    returned = next((write for write in writes if write[0] == RETURN), None)
    if returned is not None:
        return [returned[1]]
    single = isinstance(keys, str)
    shown = [write for write in writes if (write[0] == keys if single else write[0] in keys)]
    if single:
        return [value for _, value in shown]
    whole = dict(shown)
    if len(whole) < len(shown):
        return [{name: value} for name, value in shown]
    return [whole] if whole else []


__all__ = ("map_command", "map_input", "read_channels", "task_updates")

own(globals())
