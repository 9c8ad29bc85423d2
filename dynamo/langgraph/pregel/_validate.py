"""Is a hand-made graph in order? Errors name the value and what there is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    stops = [name for names in (interrupt_after_nodes, interrupt_before_nodes) if names != "*" for name in names]
    shown = [one for one in (*_names(output_channels), *_names(stream_channels)) if one not in channels]
    for problem in (
        *_reserved({"Channel": channels, "Managed": managed, "Node": nodes}),
        *_unknown_to_nodes(nodes, channels, managed),
        *_bad_inputs(input_channels, channels, nodes),
        *(
            f"Output channel '{one}' not in known channels: '{sorted(channels)}'"
            for one in shown
            if one not in channels
        ),
        *(f"Node {one} not in nodes; there are {sorted(nodes)}" for one in stops if one not in nodes),
    ):
        raise ValueError(problem)


def _reserved(named: Mapping[str, Iterable[str]]) -> Iterator[str]:
    for what, names in named.items():
        yield from (f"{what} name '{name}' is reserved" for name in names if name in RESERVED)


def _unknown_to_nodes(
    nodes: "Mapping[str, PregelNode]", channels: Mapping[str, Any], managed: Mapping[str, Any]
) -> Iterator[str]:
    for name in nodes:
        for one in nodes[name].triggers:
            if one not in channels:
                yield f"Node {name} is triggered by channel '{one}' {_not_in(channels)}"
        for one in _names(nodes[name].channels):
            if one not in channels and one not in managed:
                yield f"Node {name} reads channel '{one}' {_not_in(channels)}"


def _not_in(channels: Mapping[str, Any]) -> str:
    return f"not in known channels: '{sorted(channels)}'"


def _bad_inputs(
    given: str | Sequence[str], channels: Mapping[str, Any], nodes: "Mapping[str, PregelNode]"
) -> Iterator[str]:
    one, named = isinstance(given, str), {*_names(given)}
    for channel in _names(given):
        if channel not in channels:
            yield f"Input channel '{channel}' not in {'known channels: ' if one else ''}'{sorted(channels)}'"
    if all(named.isdisjoint(node.triggers) for node in nodes.values()):
        yield f"Input channel {given if one else f'any of {list(given)}'} is not subscribed to by any node"


def validate_keys(keys: str | Sequence[str] | None, channels: Mapping[str, Any]) -> None:
    """Refuse names that no channel has."""
    for key in _names(keys):
        if key not in channels:
            shown = sorted(name for name in channels if not name.startswith(("__", "branch:to:")))
            raise ValueError(f"Key {key} not in channels; there are {shown}")


own(globals())
