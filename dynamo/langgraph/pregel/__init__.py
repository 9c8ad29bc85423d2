"""The engine's own interface: graphs made of nodes and channels by hand."""

from dynamo import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__, {"NodeBuilder": "dynamo.langgraph.pregel.main", "Pregel": "dynamo.langgraph.pregel.main"}
)
