"""Nodes made by hand."""

from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._runnable import RunnableSeq, coerce_to_runnable
from dynamo.langgraph.pregel._read import DEFAULT_BOUND, PregelNode
from dynamo.langgraph.pregel._utils import validate_timeout_supported
from dynamo.langgraph.pregel._write import PASSTHROUGH, ChannelWrite, ChannelWriteEntry
from dynamo.langgraph.types import CachePolicy, RetryPolicy, TimeoutPolicy

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from typing import TypeAlias

    from langchain_core.runnables.base import RunnableLike
    from typing_extensions import Self

    _WriteValue: TypeAlias = Callable[[Any], Any] | Any


class NodeBuilder:
    """Says step by step what a node reads, does and writes; `Pregel` takes it as it is."""

    __slots__ = (
        *("_bound", "_cache_policy", "_channels", "_metadata", "_retry_policy", "_tags", "_timeout", "_triggers"),
        "_writes",
    )

    _channels: str | list[str]
    _triggers: list[str]
    _tags: list[str]
    _metadata: dict[str, Any]
    _writes: list[ChannelWriteEntry]
    _bound: Any
    _retry_policy: list[RetryPolicy]
    _cache_policy: CachePolicy[Any] | None
    _timeout: TimeoutPolicy | None

    def __init__(self) -> None:
        self._bound = DEFAULT_BOUND
        self._channels, self._triggers, self._writes = [], [], []
        self._tags, self._metadata = [], {}
        self._retry_policy, self._cache_policy, self._timeout = [], None, None

    def subscribe_only(self, channel: str) -> "Self":
        """Start on updates of one channel, whose value is the input."""
        if self._channels:
            raise ValueError("Cannot subscribe to single channels when other channels are already subscribed to")
        self._channels = channel
        self._triggers.append(channel)
        return self

    def subscribe_to(self, *channels: str, read: bool = True) -> "Self":
        """Start on updates of any of these channels; with `read`, they are in the input, a mapping."""
        if isinstance(self._channels, str):
            raise ValueError("Cannot subscribe to channels when subscribed to a single channel")
        if read:
            self._add_channels(channels)
        self._triggers += [channel for channel in channels if channel not in self._triggers]
        return self

    def read_from(self, *channels: str) -> "Self":
        """Have these channels in the input too, without starting on their updates."""
        assert isinstance(self._channels, list), "Cannot read additional channels when subscribed to single channels"
        self._add_channels(channels)
        return self

    def _add_channels(self, channels: tuple[str, ...]) -> None:
        assert isinstance(self._channels, list)
        self._channels += [channel for channel in channels if channel not in self._channels]

    def do(self, node: "RunnableLike[Any, Any]") -> "Self":
        """Run this; after what was said before, if there is such."""
        added = coerce_to_runnable(node, name=None, trace=True)
        if self._bound is DEFAULT_BOUND:
            self._bound = added
        else:
            self._bound = RunnableSeq(self._bound, added)
        return self

    def write_to(self, *channels: str | ChannelWriteEntry, **kwargs: "_WriteValue") -> "Self":
        """Write the result to channels; as a keyword, a fixed value, or what a function makes of the result."""
        for channel in channels:
            entry = ChannelWriteEntry(channel) if isinstance(channel, str) else channel
            self._writes.append(entry)
        for name, value in kwargs.items():
            if callable(value):
                self._writes.append(ChannelWriteEntry(name, PASSTHROUGH, mapper=value))
            else:
                self._writes.append(ChannelWriteEntry(name, value))
        return self

    def meta(self, *tags: str, **metadata: Any) -> "Self":
        """Tags and metadata of its runs."""
        self._tags += tags
        self._metadata |= metadata
        return self

    def add_retry_policies(self, *policies: RetryPolicy) -> "Self":
        """How to go on when it fails; the first policy that fits counts."""
        self._retry_policy += policies
        return self

    def add_cache_policy(self, policy: CachePolicy[Any]) -> "Self":
        """Keep its results."""
        self._cache_policy = policy
        return self

    def set_timeout(self, timeout: "float | timedelta | TimeoutPolicy | None") -> "Self":
        """How long an attempt may take; only for what runs asynchronously."""
        self._timeout = TimeoutPolicy.coerce(timeout)
        return self

    def build(self) -> PregelNode:
        """The node."""
        if self._timeout is not None:
            validate_timeout_supported(self._bound, name=self._bound.get_name())
        return PregelNode(
            channels=self._channels,
            triggers=self._triggers,
            bound=self._bound,
            writers=[ChannelWrite(list(self._writes))],
            tags=self._tags,
            metadata=self._metadata,
            timeout=self._timeout,
            cache_policy=self._cache_policy,
            retry_policy=list(self._retry_policy),
        )


own(globals(), module="langgraph.pregel.main")
