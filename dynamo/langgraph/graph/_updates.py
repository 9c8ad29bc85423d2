"""From what a node returns to (channel, value) pairs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dynamo.langgraph._internal._constants import TASKS
from dynamo.langgraph._internal._fields import get_cached_annotated_keys, get_update_as_tuples
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.constants import END
from dynamo.langgraph.errors import ErrorCode, InvalidUpdateError, ParentCommand, create_error_message
from dynamo.langgraph.graph._schema import ROOT
from dynamo.langgraph.types import Command, Send

Pairs = Sequence[tuple[str, Any]] | None


def trigger(node: str) -> str:
    """The channel that starts a node."""
    return f"branch:to:{node}"


def quiet(mapper: Callable[..., Any]) -> Callable[..., Any]:
    """Tell the engine that of a dict this makes pairs without calling anything of a user's."""
    mapper.quiet = True  # type: ignore[attr-defined]
    return mapper


@quiet
def root_update(value: Any) -> Pairs:
    """For a state without keys: the value itself, or what Commands update."""
    if isinstance(value, Command):
        return () if value.graph == Command.PARENT else value._update_as_tuples()
    if isinstance(value, list | tuple) and any(isinstance(one, Command) for one in value):
        pairs: list[tuple[str, Any]] = []
        for one in value:
            pairs += root_update(one) or () if isinstance(one, Command) else [(ROOT, one)]
        return pairs
    return None if value is None else [(ROOT, value)]


def keyed_update(keys: Sequence[str], giver: str = "A node returns") -> Callable[[Any], Pairs]:
    """For a state with `keys`: what of a node's result concerns them; `giver` begins what is said if nothing does."""
    known = frozenset(keys)

    @quiet
    def update(value: Any) -> Pairs:
        if type(value) is dict or isinstance(value, dict):
            return [pair for pair in value.items() if pair[0] in known]
        if value is None or isinstance(value, Send):
            return None
        if isinstance(value, Command):
            if value.graph == Command.PARENT:
                return None
            return [pair for pair in value._update_as_tuples() if pair[0] in known]
        if isinstance(value, list | tuple) and any(isinstance(one, Command) for one in value):
            pairs: list[tuple[str, Any]] = []
            for one in value:
                pairs += update(one) or ()
            return pairs
        if fields := get_cached_annotated_keys(type(value)):
            return get_update_as_tuples(value, [name for name in fields if name in known])
        text = f"Expected dict, got {value}. {_remedy(value, giver, keys)}"
        code = ErrorCode.INVALID_GRAPH_NODE_RETURN_VALUE
        raise InvalidUpdateError(create_error_message(message=text, error_code=code))

    return update


def _remedy(value: Any, giver: str, keys: Sequence[str]) -> str:
    """How to give an update instead of `value`."""
    if hasattr(value, "__await__"):
        return "Nobody has awaited it: make the node `async def` and await what it calls"
    if isinstance(value, list | tuple):
        return f"{giver} one mapping of keys to values; several updates are Commands in a list"
    return f"{giver} a mapping of keys to values, such as {{{keys[0]!r}: ...}}, a Command, or None"


@quiet
def control(value: Any) -> Sequence[tuple[str, Any]]:
    """Where Commands and Sends say to go; what goes past this graph is raised."""
    if isinstance(value, dict) or value is None:
        return ()
    if isinstance(value, Send):
        return [(TASKS, value)]
    given = value if isinstance(value, list | tuple) else (value,)
    pairs: list[tuple[str, Any]] = []
    for one in given:
        if not isinstance(one, Command):
            continue
        if one.graph == Command.PARENT:
            raise ParentCommand(one)
        goto = one.goto
        if not isinstance(goto, Send | str | Iterable):
            raise TypeError(f"Command(goto={goto!r}) is not iterable: goto takes node names, Sends, or a list of them")
        for target in (goto,) if isinstance(goto, Send | str) else goto:
            if isinstance(target, Send):
                pairs.append((TASKS, target))
            elif isinstance(target, str) and target != END:
                pairs.append((trigger(target), None))
    return pairs


def control_static(ends: tuple[str, ...] | dict[str, str]) -> Sequence[tuple[str, Any, str | None]]:
    """The same for drawings: where a node may go, with labels."""
    labels = ends if isinstance(ends, dict) else dict.fromkeys(ends)
    return [(end if end == END else trigger(end), None, label) for end, label in labels.items()]


own(globals(), module="langgraph.graph.state")
