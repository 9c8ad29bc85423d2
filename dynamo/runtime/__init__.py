"""Workers, endpoints and clients: processes that find and call each other.

Every name is imported when it is first used. Each public name here is also known to `dynamo._core`.
"""

from dynamo import _lazy

# name -> the module that has it; one line each
_TABLE: dict[str, str] = {
    "DistributedRuntime": "dynamo.runtime.distributed",
    "Namespace": "dynamo.runtime.distributed",
    "Component": "dynamo.runtime.distributed",
    "Endpoint": "dynamo.runtime.distributed",
    "CancellationToken": "dynamo.runtime.distributed",
    "Client": "dynamo.runtime.client",
    "Instance": "dynamo.runtime.client",
    "TransportType": "dynamo.runtime.client",
    "RuntimeMetrics": "dynamo.runtime.metrics",
    "UnaryClient": "dynamo.runtime.unary",
    "serve_unary_endpoint": "dynamo.runtime.unary",
    "dynamo_worker": "dynamo.runtime.worker",
    "dynamo_endpoint": "dynamo.runtime.worker",
    "Context": "dynamo._runtime",
    "Annotated": "dynamo._runtime",
    "ResponseStream": "dynamo._runtime",
    "log_message": "dynamo._runtime",
}

__getattr__, __dir__, __all__ = _lazy.attach(__name__, _TABLE)
