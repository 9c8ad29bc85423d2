"""The names of the two ends of a graph, and tags that runs can carry."""

from typing import Any, Final
from warnings import warn

from dynamo.langgraph._internal import _constants
from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_CHECKPOINTER, TASKS
from dynamo.langgraph._internal._names import own

__all__ = ("CONF", "CONFIG_KEY_CHECKPOINTER", "END", "START", "TAG_HIDDEN", "TAG_NOSTREAM", "TASKS")

START: Final = "__start__"
END: Final = "__end__"
TAG_NOSTREAM: Final = "nostream"  # a model with this tag streams no tokens
TAG_HIDDEN: Final = "langsmith:hidden"  # a node with this tag is not shown in traces and streams


_DISCOURAGED = "Importing {} from langgraph.constants is deprecated. {}"


def __getattr__(name: str) -> Any:
    from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV10

    if name in ("Send", "Interrupt"):
        from dynamo.langgraph import types

        advice = f"Please use 'from langgraph.types import {name}' instead."
        warn(_DISCOURAGED.format(name, advice), LangGraphDeprecatedSinceV10, stacklevel=2)
        return getattr(types, name)
    value = getattr(_constants, name, None) if name.isupper() else None
    if value is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    advice = "This constant is now private and should not be used directly."
    warn(_DISCOURAGED.format(name, advice), LangGraphDeprecatedSinceV10, stacklevel=2)
    return value


own(globals())
