# What the table in __init__.py loads on demand, for type checkers: from <module> import <name> as <name>
from dynamo.llm import exceptions as exceptions
from dynamo.llm.http import HttpAsyncEngine as HttpAsyncEngine
from dynamo.llm.http import HttpError as HttpError
from dynamo.llm.http import HttpService as HttpService
from dynamo.llm.http import PythonAsyncEngine as PythonAsyncEngine
from dynamo.llm.router_config import KvRouterConfig as KvRouterConfig
from dynamo.llm.router_config import LoadThresholdConfig as LoadThresholdConfig
from dynamo.llm.router_config import RouterConfig as RouterConfig
from dynamo.llm.router_config import RouterMode as RouterMode
from dynamo.llm.router_config import RoutingConstraints as RoutingConstraints
