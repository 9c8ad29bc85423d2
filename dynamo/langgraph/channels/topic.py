"""A channel that collects what a superstep writes."""

from dynamo._channels import Topic
from dynamo.langgraph.channels.base import MISSING, Value

__all__ = ("MISSING", "Topic", "Value")
