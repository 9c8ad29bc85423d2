"""Serving language models: hashes and indexes of cached blocks, routing, model cards, HTTP engines.

Every name is imported when it is first used. Each public name here is also known to `dynamo._core`.
"""

from dynamo import _lazy

# name -> the module that has it; one line each, kept in the order of the modules
_TABLE: dict[str, str] = {
    "KvRouterConfig": "dynamo.llm.router_config",
    "LoadThresholdConfig": "dynamo.llm.router_config",
    "RouterConfig": "dynamo.llm.router_config",
    "RouterMode": "dynamo.llm.router_config",
    "RoutingConstraints": "dynamo.llm.router_config",
    "HttpAsyncEngine": "dynamo.llm.http",
    "HttpError": "dynamo.llm.http",
    "HttpService": "dynamo.llm.http",
    "PythonAsyncEngine": "dynamo.llm.http",
    "exceptions": "dynamo.llm.exceptions",
}

__getattr__, __dir__, __all__ = _lazy.attach(__name__, _TABLE)
