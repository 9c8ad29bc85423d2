"""A channel for values that are taken to be equal."""

from dynamo._channels import AnyValue
from dynamo.langgraph.channels.base import MISSING, Value

__all__ = ("MISSING", "AnyValue", "Value")
