"""Channels that keep the last value written."""

from dynamo._channels import LastValue, LastValueAfterFinish
from dynamo.langgraph.channels.base import MISSING, Value

__all__ = ("MISSING", "LastValue", "LastValueAfterFinish", "Value")
