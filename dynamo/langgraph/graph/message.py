"""States that are, or hold, a list of messages."""

import typing
import uuid
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Annotated, Any, TypeAlias
from warnings import warn

from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_SEND, NS_SEP
from dynamo.langgraph._internal._names import own, public
from dynamo.langgraph.graph.state import StateGraph
from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV10

if typing.TYPE_CHECKING:
    from langchain_core.messages import AnyMessage, BaseMessage, BaseMessageChunk, MessageLikeRepresentation

    from dynamo.langgraph.pregel._messages import _messages_delta_reducer  # noqa: F401

    Messages: TypeAlias = list[MessageLikeRepresentation] | MessageLikeRepresentation
    _Given: TypeAlias = Sequence[MessageLikeRepresentation] | MessageLikeRepresentation

__all__ = ("REMOVE_ALL_MESSAGES", "MessageGraph", "MessagesState", "add_messages", "push_message")

REMOVE_ALL_MESSAGES = "__remove_all__"  # the id of a RemoveMessage that clears the list


def __getattr__(name: str) -> Any:
    value: Any
    if name == "MessagesState":
        value = _messages_state()
    elif name == "_messages_delta_reducer":
        from dynamo.langgraph.pregel._messages import _messages_delta_reducer

        value = _messages_delta_reducer
    elif name == "Messages":
        from langchain_core.messages import MessageLikeRepresentation

        value = list[MessageLikeRepresentation] | MessageLikeRepresentation
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def add_messages(
    left: "_Given | None" = None, right: "_Given | None" = None, **kwargs: Any
) -> "Messages | Callable[[Messages, Messages], Messages]":
    """Merge new messages into a list: the reducer of a key that holds messages.

    A message with the id of one that is there takes its place; a RemoveMessage takes it out; one with the id
    REMOVE_ALL_MESSAGES takes out everything before it; all others are appended. Messages without an id get one.

    Parameters
    ----------
    left : what is there, as messages or anything langchain-core makes messages of
    right : what is new
    format : "langchain-openai" to give content as blocks in OpenAI's form

    Returns
    -------
    A new list. Without `left` and `right`, a reducer with the other arguments fixed.

    Raises
    ------
    ValueError
        if a message is to be removed that is not there
    """
    if left is None and right is None:
        return partial(add_messages, **kwargs)  # type: ignore[return-value]
    if left is None or right is None:
        given = "left" if right is None else "right"
        raise ValueError(f"Must specify non-null arguments for both 'left' and 'right'. Only received: '{given}'.")
    return _merged(left, right, **kwargs)


@cache
def _kinds() -> frozenset[type]:
    """The classes of messages that are kept as they are: not chunks, and nothing that has yet to become a message."""
    from langchain_core import messages

    names = ("AIMessage", "HumanMessage", "SystemMessage", "ToolMessage", "FunctionMessage", "ChatMessage")
    return frozenset((messages.RemoveMessage, *(getattr(messages, name) for name in names)))


def _as_messages(given: Any) -> list[Any]:
    found: list[Any] = given if isinstance(given, list) else [given]
    if not _kinds().issuperset(map(type, found)):
        from langchain_core.messages import BaseMessageChunk, convert_to_messages, message_chunk_to_message

        found = [
            message_chunk_to_message(one) if isinstance(one, BaseMessageChunk) else one
            for one in convert_to_messages(found)
        ]
    for message in found:
        if message.id is None:
            message.id = str(uuid.uuid4())
    return found


def _merged(left: Any, right: Any, *, format: str | None = None) -> list[Any]:
    """The list of both, in one pass over each: a reducer is called for every message of a long conversation."""
    from langchain_core.messages import RemoveMessage

    there, new = _as_messages(left), _as_messages(right)
    for at in range(len(new) - 1, -1, -1):
        if isinstance(new[at], RemoveMessage) and new[at].id == REMOVE_ALL_MESSAGES:
            return new[at + 1 :]
    merged = [*there]
    place = {message.id: at for at, message in enumerate(merged)}
    gone: set[Any] = set()
    for message in new:
        at_ = place.get(message.id)
        if at_ is None:
            if isinstance(message, RemoveMessage):
                raise ValueError(
                    f"Attempting to delete a message with an ID that doesn't exist ('{message.id}'). There are "
                    f"{len(merged)} messages"
                )
            place[message.id] = len(merged)
            merged.append(message)
        elif isinstance(message, RemoveMessage):
            gone.add(message.id)
        else:
            gone.discard(message.id)
            merged[at_] = message
    if gone:
        merged = [message for message in merged if message.id not in gone]
    if format not in (None, "langchain-openai"):
        raise ValueError(f"Unrecognized format={format!r}. Expected one of 'langchain-openai', None.")
    return merged if format is None else _format_messages(merged)


def _format_messages(messages: "Sequence[BaseMessage]") -> "list[BaseMessage]":
    from langchain_core.messages import convert_to_messages, convert_to_openai_messages

    return convert_to_messages(convert_to_openai_messages(messages))


def _messages_state() -> Any:
    """Make the class MessagesState, for which langchain-core's messages must be there."""
    from langchain_core.messages import AnyMessage
    from typing_extensions import TypedDict

    made: Any = TypedDict("MessagesState", {"messages": Annotated[list[AnyMessage], add_messages]})  # type: ignore[name-match]
    made.__module__ = public(__name__)
    made.__doc__ = "A state that is a list of messages; add keys by inheriting from it."
    return made


if typing.TYPE_CHECKING:
    from typing_extensions import TypedDict

    class MessagesState(TypedDict):
        """A state that is a list of messages; add keys by inheriting from it."""

        messages: Annotated[list[AnyMessage], add_messages]


class MessageGraph(StateGraph[Any]):
    """A graph whose whole state is a list of messages. Discouraged: give a StateGraph a key for messages."""

    __deprecated__ = (
        "MessageGraph is deprecated in langgraph 1.0.0, to be removed in 2.0.0. Please use StateGraph with a "
        "`messages` key instead."
    )

    def __init__(self) -> None:
        from langchain_core.messages import AnyMessage

        text = "MessageGraph is deprecated in LangGraph v1.0.0, to be removed in v2.0.0. "
        text += "Please use StateGraph with a `messages` key instead."
        warn(text, LangGraphDeprecatedSinceV10, stacklevel=2)
        schema: Any = Annotated[list[AnyMessage], add_messages]
        super().__init__(schema)


def push_message(
    message: "MessageLikeRepresentation | BaseMessageChunk", *, state_key: str | None = "messages"
) -> "AnyMessage":
    """Show a message in the "messages" stream now, and write it to the state when the node ends.

    Parameters
    ----------
    message : with an id
    state_key : where it goes; None to show it only
    """
    from langchain_core.callbacks import BaseCallbackManager
    from langchain_core.messages import BaseMessageChunk, convert_to_messages, message_chunk_to_message

    from dynamo.langgraph.config import get_config

    shown: Any = (
        message_chunk_to_message(message)
        if isinstance(message, BaseMessageChunk)
        else convert_to_messages([message])[0]
    )
    if shown.id is None:
        raise ValueError("Message ID is required: a message that is shown twice must be known again")
    here: Any = get_config()
    callbacks = here.get("callbacks")
    handlers = callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks or ()
    if handlers:
        from dynamo.langgraph.pregel._messages import StreamMessagesHandler

        noted = here["metadata"]
        graph_ns = tuple(noted["langgraph_checkpoint_ns"].split(NS_SEP))[:-1]  # without the node that is running
        for handler in handlers:
            if isinstance(handler, StreamMessagesHandler) and handler.shows(graph_ns):
                handler.show((graph_ns, noted), shown)
    if state_key:
        here[CONF][CONFIG_KEY_SEND]([(state_key, shown)])
    return shown  # type: ignore[no-any-return]


own(globals())
