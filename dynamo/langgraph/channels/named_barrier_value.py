"""Channels that wait for a set of names."""

from dynamo._channels import NamedBarrierValue, NamedBarrierValueAfterFinish
from dynamo.langgraph.channels.base import MISSING, Value

__all__ = ("MISSING", "NamedBarrierValue", "NamedBarrierValueAfterFinish", "Value")
