"""Channels: what the nodes of a graph write to and read from."""

from dynamo.langgraph.channels.any_value import AnyValue
from dynamo.langgraph.channels.base import BaseChannel
from dynamo.langgraph.channels.binop import BinaryOperatorAggregate
from dynamo.langgraph.channels.delta import DeltaChannel
from dynamo.langgraph.channels.ephemeral_value import EphemeralValue
from dynamo.langgraph.channels.last_value import LastValue, LastValueAfterFinish
from dynamo.langgraph.channels.named_barrier_value import NamedBarrierValue, NamedBarrierValueAfterFinish
from dynamo.langgraph.channels.topic import Topic
from dynamo.langgraph.channels.untracked_value import UntrackedValue

__all__ = (
    "AnyValue",
    "BaseChannel",
    "BinaryOperatorAggregate",
    "DeltaChannel",
    "EphemeralValue",
    "LastValue",
    "LastValueAfterFinish",
    "NamedBarrierValue",
    "NamedBarrierValueAfterFinish",
    "Topic",
    "UntrackedValue",
)
