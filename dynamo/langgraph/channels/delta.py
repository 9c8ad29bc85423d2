"""A channel that is saved as the writes that made it."""

from dynamo._channels import DeltaChannel
from dynamo.langgraph.channels.base import MISSING, Value

__all__ = ("MISSING", "DeltaChannel", "Value")
