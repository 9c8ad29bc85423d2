# What the table in __init__.py loads on demand, for type checkers: from <module> import <name> as <name>
from dynamo.graphs.endpoint import endpoint_node as endpoint_node
from dynamo.graphs.models import ChatEndpoint as ChatEndpoint
from dynamo.graphs.models import ChatFrontend as ChatFrontend
from dynamo.graphs.picture import draw as draw
from dynamo.graphs.serve import serve_graph as serve_graph
from dynamo.graphs.timeline import Timeline as Timeline
from dynamo.graphs.timeline import awatch as awatch
from dynamo.graphs.timeline import watch as watch
