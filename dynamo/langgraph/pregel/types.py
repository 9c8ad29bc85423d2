"""Old home of names that live in ``langgraph.types``."""

from warnings import warn

from dynamo.langgraph._internal._retry import default_retry_on
from dynamo.langgraph.types import (
    All,
    CachePolicy,
    PregelExecutableTask,
    PregelTask,
    RetryPolicy,
    StateSnapshot,
    StateUpdate,
    StreamMode,
    StreamWriter,
)
from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV10

__all__ = (
    "All",
    "CachePolicy",
    "PregelExecutableTask",
    "PregelTask",
    "RetryPolicy",
    "StateSnapshot",
    "StateUpdate",
    "StreamMode",
    "StreamWriter",
    "default_retry_on",
)

_ADVICE = "Importing from langgraph.pregel.types is deprecated. Please use 'from langgraph.types import ...' instead."
warn(_ADVICE, category=LangGraphDeprecatedSinceV10, stacklevel=2)
