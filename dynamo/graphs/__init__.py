"""LangGraph's graphs in the house: endpoints as nodes, graphs as endpoints and models, pictures of graphs and runs.

Every name is imported when it is first used; needs the extra ``langgraph``.
"""

from dynamo import _lazy

_TABLE: dict[str, str] = {
    "ChatEndpoint": "dynamo.graphs.models",
    "ChatFrontend": "dynamo.graphs.models",
    "Timeline": "dynamo.graphs.timeline",
    "awatch": "dynamo.graphs.timeline",
    "draw": "dynamo.graphs.picture",
    "endpoint_node": "dynamo.graphs.endpoint",
    "serve_graph": "dynamo.graphs.serve",
    "watch": "dynamo.graphs.timeline",
}

__getattr__, __dir__, __all__ = _lazy.attach(__name__, _TABLE)
