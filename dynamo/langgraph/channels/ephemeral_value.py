"""A channel whose value lasts one superstep."""

from dynamo._channels import EphemeralValue
from dynamo.langgraph.channels.base import MISSING, Value

__all__ = ("MISSING", "EphemeralValue", "Value")
