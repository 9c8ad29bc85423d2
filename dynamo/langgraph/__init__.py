"""LangGraph 1.2.22's interface on dynamo's engine.

A program for LangGraph runs here with its imports changed from ``langgraph`` to ``dynamo.langgraph``. Checkpointers,
stores, caches and the prebuilt agents stay those of their own distributions.
"""

from dynamo import _lazy
from dynamo.langgraph import _install

_TABLE: dict[str, str] = {
    **{
        name: f"dynamo.langgraph.{name}"
        for name in (
            *("callbacks", "channels", "config", "constants", "errors", "func", "graph", "managed", "pregel"),
            *("runtime", "stream", "types", "typing", "utils", "version", "warnings"),
        )
    },
    **{name: f"dynamo.langgraph.{name}" for name in ("cache", "checkpoint", "prebuilt", "store")},
    "ChannelError": "dynamo.langgraph._internal._errors",
    "CheckpointError": "dynamo.langgraph._internal._errors",
    "PregelError": "dynamo.langgraph._internal._errors",
    "StateGraphError": "dynamo.langgraph._internal._errors",
    "create_compiled_graph": "dynamo.langgraph.graph._create",
    "create_state_graph": "dynamo.langgraph.graph._create",
    "install": "dynamo.langgraph._install",
}

__getattr__, __dir__, __all__ = _lazy.attach(__name__, _TABLE)
_install.attend()
