"""Nodes made by hand."""

from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._runnable import RunnableSeq, coerce_to_runnable
from dynamo.langgraph.pregel._read import DEFAULT_BOUND, PregelNode
from dynamo.langgraph.pregel._utils import validate_timeout_supported
from dynamo.langgraph.pregel._write import ChannelWrite, ChannelWriteEntry
from dynamo.langgraph.types import CachePolicy, RetryPolicy, TimeoutPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta
    from typing import TypeAlias

    from langchain_core.runnables.base import RunnableLike
    from typing_extensions import Self

    _WriteValue: TypeAlias = Callable[[Any], Any] | Any


class NodeBuilder:
    """Says step by step what a node reads, does and writes; `Pregel` takes it as it is.

    What has been said is kept as the arguments of `PregelNode`, and the writes beside them.
    """

    __slots__ = ("_said", "_writes")

    def __init__(self) -> None:
        self._said: dict[str, Any] = {
            **{name: [] for name in ("channels", "triggers", "tags", "retry_policy")},
            **{"bound": DEFAULT_BOUND, "metadata": {}, "cache_policy": None, "timeout": None},
        }
        self._writes: list[ChannelWriteEntry] = []

    def _also(self, what: str, more: "Iterable[Any]") -> "Self":
        known = self._said[what]
        known += [one for one in more if one not in known]
        return self

    def subscribe_only(self, channel: str) -> "Self":
        """Start on updates of one channel, whose value is the input."""
        if known := self._said["channels"]:
            raise ValueError(
                f"subscribe_only({channel!r}) makes one channel the whole input, and the node reads {known!r} already; "
                "use subscribe_to for several"
            )
        self._said["channels"] = channel
        return self._also("triggers", (channel,))

    def subscribe_to(self, *channels: str, read: bool = True) -> "Self":
        """Start on updates of any of these channels; with `read`, they are in the input, a mapping."""
        self._need_mapping(channels)
        self._also("triggers", channels)
        return self._also("channels", channels) if read else self

    def read_from(self, *channels: str) -> "Self":
        """Have these channels in the input too, without starting on their updates."""
        self._need_mapping(channels)
        return self._also("channels", channels)

    def _need_mapping(self, channels: tuple[str, ...]) -> None:
        only = self._said["channels"]
        if isinstance(only, str):
            raise ValueError(
                f"The input of the node is the value of {only!r}, by subscribe_only, and cannot have {channels} beside "
                "it; use subscribe_to for all of them"
            )

    def do(self, node: "RunnableLike[Any, Any]") -> "Self":
        """Run this; after what was said before, if there is such."""
        before, added = self._said["bound"], coerce_to_runnable(node, name=None, trace=True)
        self._said["bound"] = added if before is DEFAULT_BOUND else RunnableSeq(before, added)
        return self

    def write_to(self, *channels: str | ChannelWriteEntry, **kwargs: "_WriteValue") -> "Self":
        """Write the result to channels; as a keyword, a fixed value, or what a function makes of the result."""
        self._writes += (ChannelWriteEntry(one) if isinstance(one, str) else one for one in channels)
        for name, value in kwargs.items():
            made = {"mapper": value} if callable(value) else {"value": value}
            self._writes.append(ChannelWriteEntry(name, **made))
        return self

    def meta(self, *tags: str, **metadata: Any) -> "Self":
        """Tags and metadata of its runs."""
        self._said["tags"] += tags
        self._said["metadata"] |= metadata
        return self

    def add_retry_policies(self, *policies: RetryPolicy) -> "Self":
        """How to go on when it fails; the first policy that fits counts."""
        self._said["retry_policy"] += policies
        return self

    def add_cache_policy(self, policy: CachePolicy[Any]) -> "Self":
        """Keep its results."""
        self._said["cache_policy"] = policy
        return self

    def set_timeout(self, timeout: "float | timedelta | TimeoutPolicy | None") -> "Self":
        """How long an attempt may take; only for what runs asynchronously."""
        self._said["timeout"] = TimeoutPolicy.coerce(timeout)
        return self

    def build(self) -> PregelNode:
        """The node; what is said later does not change it."""
        said: dict[str, Any] = {
            name: what.copy() if isinstance(what, (list, dict)) else what for name, what in self._said.items()
        }
        if said["timeout"] is not None:
            validate_timeout_supported(said["bound"], name=said["bound"].get_name())
        return PregelNode(writers=[ChannelWrite([*self._writes])], **said)


own(globals(), module="langgraph.pregel.main")
