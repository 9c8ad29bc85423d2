"""Messages: where they belong in a run, their ids, and the reducer of delta channels that hold them.

Nothing here imports langchain-core before there is a message. What listens for messages of models is in
``_message_stream``, which the names of its classes load.
"""

import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._constants import NS_SEP, OVERWRITE, PUSH
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.types import Overwrite

if TYPE_CHECKING:
    from langchain_core.messages import AnyMessage

    from dynamo.langgraph.pregel._message_stream import Meta as Meta
    from dynamo.langgraph.pregel._message_stream import StreamMessagesHandler as StreamMessagesHandler
    from dynamo.langgraph.pregel._message_stream import StreamMessagesHandlerV2 as StreamMessagesHandlerV2

__all__ = (
    *("Meta", "StreamMessagesHandler", "StreamMessagesHandlerV2"),
    *("_messages_delta_reducer", "ensure_message_ids", "graph_namespace"),
)


def __getattr__(name: str) -> Any:
    if name not in ("Meta", "StreamMessagesHandler", "StreamMessagesHandlerV2"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dynamo.langgraph.pregel import _message_stream

    value = globals()[name] = getattr(_message_stream, name)
    return value


def graph_namespace(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The namespace of the graph in which a run with this metadata happens.

    That is the namespace of its task without the task, and without those that called it as a function.
    """
    path: Any = metadata.get("langgraph_path") or ()
    depth = 1
    while len(path) > 2 and path[0] == PUSH and isinstance(path[1], tuple):
        depth, path = depth + 1, path[1]
    return tuple(metadata["langgraph_checkpoint_ns"].split(NS_SEP)[:-depth])


# ------------------------------------------------------------------ the reducer
def _is_message(value: Any) -> bool:
    base = getattr(sys.modules.get("langchain_core.messages.base"), "BaseMessage", None)
    return base is not None and isinstance(value, base)


def _messages(values: Sequence[Any]) -> Sequence[Any]:
    if all(map(_is_message, values)):
        return values
    from langchain_core.messages import convert_to_messages

    return convert_to_messages(values)


def _messages_delta_reducer(state: "list[AnyMessage]", writes: "list[list[AnyMessage]]") -> "list[AnyMessage]":
    """Add messages to a list in batches.

    A message takes the place of one with its id, a RemoveMessage takes it out, all others are appended. Unlike
    `add_messages` it gives out no ids, since the same writes must have the same result whenever they are replayed.
    A write is a list of messages, or one message in any form.
    """
    new: list[Any] = []
    for write in writes:
        new.extend(write if isinstance(write, list) else (write,))
    merged: list[Any] = list(_messages(state))
    place = {message.id: at for at, message in enumerate(merged) if message.id is not None}
    for message in _messages(new):
        at = None if message.id is None else place.get(message.id)
        if message.type == "remove":
            if at is not None:
                merged[at] = None
                del place[message.id]
        elif at is None:
            if message.id is not None:
                place[message.id] = len(merged)
            merged.append(message)
        else:
            merged[at] = message
    return [message for message in merged if message is not None]


# ------------------------------------------------------------------ ids
_ROLES = frozenset(("human", "user", "ai", "assistant", "system", "tool", "function"))
_TYPES = frozenset(("human", "ai", "system", "tool", "function", "remove"))


def ensure_message_ids(channels: Mapping[str, Any], writes: Sequence[tuple[str, Any]]) -> None:
    """Give messages that go to delta channels ids, before the writes are saved: a replay must find the same ones.

    Messages are changed where they are, anything else that means a message is replaced by one in `writes`.
    """
    from dynamo.langgraph.channels.delta import DeltaChannel

    for at, (name, value) in enumerate(writes):
        channel = channels.get(name)
        if not isinstance(channel, DeltaChannel):
            continue
        named = _named_messages(value) if channel.reducer is _messages_delta_reducer else _named_others(value)
        if named is not value:
            assert isinstance(writes, MutableSequence)
            writes[at] = (name, named)


def _wrapped(value: Any) -> Any:
    """What is inside an Overwrite, in either of its forms; MISSING-like `value` itself if it is none."""
    if isinstance(value, Overwrite):
        return value.value
    if isinstance(value, dict) and value.keys() == {OVERWRITE}:
        return value[OVERWRITE]
    return value


def _each(items: Iterable[Any], change: Callable[[Any], Any]) -> Any:
    """`items` with every one changed; the same object if none was."""
    changed = [change(item) for item in items]
    if all(new is old for new, old in zip(changed, items, strict=True)):
        return items
    return type(items)(changed)  # type: ignore[call-arg]


def _named_messages(value: Any) -> Any:
    """For the channel of `_messages_delta_reducer`, which takes messages in any form."""
    inside = _wrapped(value)
    if inside is not value:
        named = _each(inside, _named_message) if isinstance(inside, (list, tuple)) else inside
        return value if named is inside else Overwrite(named)
    if isinstance(value, list):
        return _each(value, _named_message)
    return _named_message(value)


def _named_others(value: Any) -> Any:
    """For other delta channels, whose values need not be messages."""
    inside = _wrapped(value)
    if inside is not value:
        for item in inside if isinstance(inside, (list, tuple)) else ():
            _stamp(item)
    elif isinstance(value, list):
        return _each(value, lambda item: _named_message(item) if isinstance(item, dict) else _stamp(item))
    elif isinstance(value, dict):
        if _means_message(value) and not value.get("id"):
            return {**value, "id": str(uuid.uuid4())}
    else:
        _stamp(value)
    return value


def _means_message(item: dict[Any, Any]) -> bool:
    return _one_of(item.get("role"), _ROLES) or _one_of(item.get("type"), _TYPES)


def _one_of(word: Any, words: frozenset[str]) -> bool:
    return isinstance(word, str) and word in words


def _stamp(item: Any) -> Any:
    if _is_message(item) and item.id is None:
        item.id = str(uuid.uuid4())
    return item


def _named_message(item: Any) -> Any:
    if isinstance(item, dict):
        likely = _means_message(item)
    elif isinstance(item, tuple):
        likely = len(item) == 2 and isinstance(item[0], str)
    else:
        likely = isinstance(item, str)
    if not likely:
        return _stamp(item)
    from langchain_core.messages import convert_to_messages

    (made,) = convert_to_messages((item,))
    made.id = made.id or str(uuid.uuid4())
    return made


own(globals())
