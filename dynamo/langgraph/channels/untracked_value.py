"""A channel that is never saved."""

from dynamo._channels import UntrackedValue
from dynamo.langgraph.channels.base import MISSING, Value

__all__ = ("MISSING", "UntrackedValue", "Value")
