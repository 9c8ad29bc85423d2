"""What a node can ask about the run it is part of."""

import sys
import typing
from typing import Any

from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_RUNTIME
from dynamo.langgraph._internal._langchain import child_config
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.types import StreamWriter

if typing.TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.store.base import BaseStore


def _no_op_stream_writer(c: Any) -> None:
    """A writer whose stream nobody reads."""


def get_config() -> "RunnableConfig":
    """The configuration of the node that is running.

    Raises
    ------
    RuntimeError
        outside of a node; before Python 3.11 also in async nodes, whose tasks do not inherit the context: take it as
        the parameter ``config`` there
    """
    config = child_config.get()
    if config:
        return config  # type: ignore[no-any-return]
    if sys.version_info < (3, 11):
        import asyncio

        try:
            running = asyncio.current_task()
        except RuntimeError:
            running = None
        if running is not None:
            raise RuntimeError("Python 3.11 or later required to use this in an async context")
    raise RuntimeError("Called get_config outside of a runnable context: no node is running here")


def get_store() -> "BaseStore":
    """The store with which the graph was compiled, or None."""
    return get_config()[CONF][CONFIG_KEY_RUNTIME].store  # type: ignore[no-any-return]


def get_stream_writer() -> StreamWriter:
    """A function that adds to the "custom" stream of the run.

    In async nodes before Python 3.11 take it as the parameter ``writer``.
    """
    return get_config()[CONF][CONFIG_KEY_RUNTIME].stream_writer  # type: ignore[no-any-return]


own(globals())
