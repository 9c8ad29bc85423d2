# What the table in __init__.py loads on demand, for type checkers: from <module> import <name> as <name>
from dynamo._runtime import Annotated as Annotated
from dynamo._runtime import Context as Context
from dynamo._runtime import ResponseStream as ResponseStream
from dynamo._runtime import log_message as log_message
from dynamo.runtime.client import Client as Client
from dynamo.runtime.client import Instance as Instance
from dynamo.runtime.client import TransportType as TransportType
from dynamo.runtime.distributed import CancellationToken as CancellationToken
from dynamo.runtime.distributed import Component as Component
from dynamo.runtime.distributed import DistributedRuntime as DistributedRuntime
from dynamo.runtime.distributed import Endpoint as Endpoint
from dynamo.runtime.distributed import Namespace as Namespace
from dynamo.runtime.metrics import RuntimeMetrics as RuntimeMetrics
from dynamo.runtime.unary import UnaryClient as UnaryClient
from dynamo.runtime.unary import serve_unary_endpoint as serve_unary_endpoint
from dynamo.runtime.worker import dynamo_endpoint as dynamo_endpoint
from dynamo.runtime.worker import dynamo_worker as dynamo_worker

_TABLE: dict[str, str]
