"""Channels for tasks and threads: what the channels of a graph do, without a graph.

>>> import operator
>>> from dynamo import channels
>>> total = channels.BinaryOperator(int, operator.add, name="total")
>>> total.update_sync([1, 2])
True
>>> total.get_sync()
3

Each has two faces on one content: `get_sync`, `update_sync` and so on for threads, `await get()`, `await update(...)`
for tasks. What is atomic is said in docs/design/channels.md; in short: each call is, two calls together are not. As a
note in a state's annotation, ``Annotated[int, channels.BinaryOperator(operator.add)]``, one says how a graph keeps
a key.
"""

from dynamo import _lazy

_TABLE: dict[str, str] = {
    **dict.fromkeys(("ChannelError", "EmptyChannelError", "InvalidUpdateError"), "dynamo.langgraph.errors"),
    **dict.fromkeys(("MISSING", "Channel", "ChannelType", "ClosedChannelError"), "dynamo.channels._channel"),
    **dict.fromkeys(("AnyValue", "EphemeralValue", "LastValue", "Topic"), "dynamo.channels._values"),
    **dict.fromkeys(("BinaryOperator", "BinaryOperatorAggregate"), "dynamo.channels._values"),
    **dict.fromkeys(("NamedBarrier", "NamedBarrierValue"), "dynamo.channels._barriers"),
    **dict.fromkeys(("DynamicBarrier", "DynamicBarrierValue", "WaitForNames"), "dynamo.channels._barriers"),
    "Context": "dynamo.channels._context",
}

__getattr__, __dir__, __all__ = _lazy.attach(__name__, _TABLE)
