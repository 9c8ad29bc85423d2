"""Is a hand-made graph in order? Errors name the value and what there is."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._constants import RESERVED
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.channels.base import BaseChannel
from dynamo.langgraph.types import All

if TYPE_CHECKING:
    from dynamo.langgraph.managed.base import ManagedValueMapping
    from dynamo.langgraph.pregel._read import PregelNode


def _names(names: str | Sequence[str] | None) -> Sequence[str]:
    return (names,) if isinstance(names, str) else names or ()


def _refuse_reserved(what: str, names: Iterable[str]) -> None:
    for name in names:
        if name in RESERVED:
            raise ValueError(f"{what} name '{name}' is reserved")


def validate_graph(
    nodes: "Mapping[str, PregelNode]",
    channels: dict[str, BaseChannel[Any, Any, Any]],
    managed: "ManagedValueMapping",
    input_channels: str | Sequence[str],
    output_channels: str | Sequence[str],
    stream_channels: str | Sequence[str] | None,
    interrupt_after_nodes: All | Sequence[str],
    interrupt_before_nodes: All | Sequence[str],
) -> None:
    """Refuse a graph that cannot run: reserved or unknown names, input that starts nothing."""
    known = sorted(channels)
    _refuse_reserved("Channel", channels)
    _refuse_reserved("Managed", managed)
    _refuse_reserved("Node", nodes)
    read: set[str] = set()
    for name, node in nodes.items():
        triggers, inputs = set(node.triggers), set(_names(node.channels))
        for channel in sorted(inputs | triggers):
            if channel in channels:
                continue
            if channel in triggers:
                raise ValueError(f"Node {name} is triggered by channel '{channel}' not in known channels: '{known}'")
            if channel not in managed:
                raise ValueError(f"Node {name} reads channel '{channel}' not in known channels: '{known}'")
        read |= triggers
    _check_inputs(input_channels, channels, read, known)
    for channel in (*_names(output_channels), *_names(stream_channels)):
        if channel not in channels:
            raise ValueError(f"Output channel '{channel}' not in known channels: '{known}'")
    for stops in (interrupt_after_nodes, interrupt_before_nodes):
        for name in () if stops == "*" else stops:
            if name not in nodes:
                raise ValueError(f"Node {name} not in nodes; there are {sorted(nodes)}")


def _check_inputs(
    input_channels: str | Sequence[str], channels: Mapping[str, Any], read: set[str], known: list[str]
) -> None:
    one = isinstance(input_channels, str)
    for channel in _names(input_channels):
        if channel not in channels:
            raise ValueError(f"Input channel '{channel}' not in {'known channels: ' if one else ''}'{known}'")
    if not read.intersection(_names(input_channels)):
        named = input_channels if one else f"any of {list(input_channels)}"
        raise ValueError(f"Input channel {named} is not subscribed to by any node")


def validate_keys(keys: str | Sequence[str] | None, channels: Mapping[str, Any]) -> None:
    """Refuse names that no channel has."""
    for key in _names(keys):
        if key not in channels:
            shown = sorted(name for name in channels if not name.startswith(("__", "branch:to:")))
            raise ValueError(f"Key {key} not in channels; there are {shown}")


own(globals())
