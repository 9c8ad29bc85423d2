"""Serving language models: hashes and indexes of cached blocks, routing, model cards, HTTP engines.

Every name is imported when it is first used. Each public name here is also known to `dynamo._core`.
"""

from dynamo import _lazy

# name -> the module that has it; one line each, kept in the order of the modules
_TABLE: dict[str, str] = {
    "compute_block_hash_for_seq": "dynamo._hash",
    "compute_block_hash_for_seq_py": "dynamo._hash",
    "compute_block_hashes": "dynamo._hash",
    "compute_sequence_hashes": "dynamo._hash",
    "mm_hash": "dynamo._hash",
    "ApproxTree": "dynamo._index",
    "OverlapScores": "dynamo._index",
    "RadixTree": "dynamo._index",
    "exceptions": "dynamo.llm.exceptions",
    "HttpAsyncEngine": "dynamo.llm.http",
    "HttpError": "dynamo.llm.http",
    "HttpService": "dynamo.llm.http",
    "PythonAsyncEngine": "dynamo.llm.http",
    "ApproxKvIndexer": "dynamo.llm.indexer",
    "KvIndexer": "dynamo.llm.indexer",
    "ModelDeploymentCard": "dynamo.llm.model",
    "ModelInput": "dynamo.llm.model",
    "ModelRuntimeConfig": "dynamo.llm.model",
    "ModelType": "dynamo.llm.model",
    "WorkerType": "dynamo.llm.model",
    "fetch_llm": "dynamo.llm.register",
    "fetch_model": "dynamo.llm.register",
    "register_llm": "dynamo.llm.register",
    "register_model": "dynamo.llm.register",
    "unregister_llm": "dynamo.llm.register",
    "unregister_model": "dynamo.llm.register",
    "EventFollower": "dynamo.llm.publisher",
    "ForwardPassMetrics": "dynamo.llm.publisher",
    "KvEventPublisher": "dynamo.llm.publisher",
    "KvStats": "dynamo.llm.publisher",
    "SpecDecodeStats": "dynamo.llm.publisher",
    "WorkerMetricsPublisher": "dynamo.llm.publisher",
    "WorkerStats": "dynamo.llm.publisher",
    "ZmqKvEventListener": "dynamo.llm.publisher",
    "ZmqKvEventPublisher": "dynamo.llm.publisher",
    "ZmqKvEventPublisherConfig": "dynamo.llm.publisher",
    "KvPushRouter": "dynamo.llm.router",
    "KvPushRouterStream": "dynamo.llm.router",
    "KvRouter": "dynamo.llm.router",
    "KvRouterConfig": "dynamo.llm.router_config",
    "LoadThresholdConfig": "dynamo.llm.router_config",
    "RouterConfig": "dynamo.llm.router_config",
    "RouterMode": "dynamo.llm.router_config",
    "RoutingConstraints": "dynamo.llm.router_config",
}

__getattr__, __dir__, __all__ = _lazy.attach(__name__, _TABLE)
