# What the table in __init__.py loads on demand, for type checkers: from <module> import <name> as <name>
from dynamo.langgraph._install import install as install
from dynamo.langgraph._internal._errors import ChannelError as ChannelError
from dynamo.langgraph._internal._errors import CheckpointError as CheckpointError
from dynamo.langgraph._internal._errors import PregelError as PregelError
from dynamo.langgraph._internal._errors import StateGraphError as StateGraphError
from dynamo.langgraph.graph._create import create_compiled_graph as create_compiled_graph
from dynamo.langgraph.graph._create import create_state_graph as create_state_graph
