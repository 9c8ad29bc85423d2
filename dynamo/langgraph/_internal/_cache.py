"""The key under which a node's result is cached when its policy has no function of its own."""

import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from dynamo.langgraph._internal._names import own


def _freeze(obj: Any, depth: int = 10) -> Hashable:
    """Turn containers into tuples, mappings in the order of their keys, `depth` levels down."""
    if depth <= 0 or isinstance(obj, Hashable):
        return obj  # type: ignore[no-any-return]
    if isinstance(obj, Mapping):
        return tuple([(key, _freeze(obj[key], depth - 1)) for key in sorted(obj)])
    if isinstance(obj, Sequence):
        return tuple([_freeze(item, depth - 1) for item in obj])
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(obj, numpy.ndarray):
        return type(obj).__name__, obj.tobytes(), obj.shape
    return obj  # type: ignore[no-any-return]


def default_cache_key(*args: Any, **kwargs: Any) -> str | bytes:
    """Pickle what a task was called with, so that equal arguments share a result."""
    import pickle

    called_with = _freeze(args), _freeze(kwargs)
    return pickle.dumps(called_with, protocol=5)


own(globals())
