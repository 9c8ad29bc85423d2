"""Graphs of nodes that share a state."""

import typing
from typing import Any

from dynamo.langgraph.constants import END, START
from dynamo.langgraph.graph.state import StateGraph

if typing.TYPE_CHECKING:
    from dynamo.langgraph.graph.message import MessageGraph, MessagesState, add_messages

__all__ = ("END", "START", "MessageGraph", "MessagesState", "StateGraph", "add_messages")


def __getattr__(name: str) -> Any:
    if name not in ("MessageGraph", "MessagesState", "add_messages"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dynamo.langgraph.graph import message

    value = globals()[name] = getattr(message, name)
    return value
