"""Older names for what runs a node."""

import typing
from typing import Any

from dynamo.langgraph._internal._runnable import RunnableCallable

if typing.TYPE_CHECKING:
    from dynamo.langgraph._internal._runnable import RunnableLike

__all__ = ("RunnableCallable", "RunnableLike")


def __getattr__(name: str) -> Any:
    if name != "RunnableLike":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dynamo.langgraph._internal import _runnable

    return _runnable.RunnableLike
