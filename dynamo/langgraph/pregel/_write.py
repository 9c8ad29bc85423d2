"""Turning what a node gives into writes to channels.

A ChannelWrite is worked out once into a plan, so that a node's result becomes (channel, value) pairs in one pass:

    PAIR   a pair that is known beforehand          ("branch:to:b", None), a Send
    VALUE  the result itself, for one channel
    ENTRY  an entry with a mapper, or that leaves out None
    PAIRS  a function that makes pairs of the result

The engine takes the pairs straight from `assemble`; invoked as a Runnable, it hands them to the task's own writer.
"""

import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_SEND, TASKS
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._runnable import RunnableCallable
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.errors import InvalidUpdateError
from dynamo.langgraph.types import Send

if typing.TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

TYPE_SEND: TypeAlias = Callable[[Sequence[tuple[str, Any]]], None]
R = TypeVar("R")

PASSTHROUGH = object()  # stands for the result of the node
SKIP_WRITE = object()  # what a mapper returns to write nothing


class ChannelWriteEntry(NamedTuple):
    """One value for one channel.

    Attributes
    ----------
    channel : where it goes
    value : what to write; PASSTHROUGH for the result of the node
    skip_none : leave the write out when the (mapped) value is None
    mapper : changes the value first
    """

    channel: str
    value: Any = PASSTHROUGH
    skip_none: bool = False
    mapper: Callable[..., Any] | None = None


class ChannelWriteTupleEntry(NamedTuple):
    """Any number of writes that a function finds in a value.

    Attributes
    ----------
    mapper : gives (channel, value) pairs, or None for no writes
    value : what it gets; PASSTHROUGH for the result of the node
    static : (channel, value, label) of writes it may give, for drawings
    """

    mapper: Callable[[Any], Sequence[tuple[str, Any]] | None]
    value: Any = PASSTHROUGH
    static: Sequence[tuple[str, Any, str | None]] | None = None


PAIR, VALUE, ENTRY, PAIRS = range(4)


def _plan(writes: Sequence[Any]) -> tuple[tuple[int, Any, Any], ...]:
    """What to do for each entry: (step, what, from which value)."""
    steps: list[tuple[int, Any, Any]] = []
    for write in writes:
        if isinstance(write, ChannelWriteEntry):
            if write.channel == TASKS:
                raise InvalidUpdateError("Cannot write to the reserved channel TASKS; return a Send to run a node")
            if write.mapper is not None or write.skip_none:
                steps.append((ENTRY, write, write.value))
            elif write.value is PASSTHROUGH:
                steps.append((VALUE, write.channel, PASSTHROUGH))
            else:
                steps.append((PAIR, (write.channel, write.value), None))
        elif isinstance(write, ChannelWriteTupleEntry):
            steps.append((PAIRS, write.mapper, write.value))
        elif isinstance(write, Send):
            steps.append((PAIR, (TASKS, write), None))
        else:
            raise ValueError(f"Invalid write entry: {write}. It must be a ChannelWriteEntry, a ...TupleEntry or a Send")
    return tuple(steps)


def _assemble(plan: Sequence[tuple[int, Any, Any]], result: Any) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for step, what, value in plan:
        if step == PAIR:
            pairs.append(what)
            continue
        if value is PASSTHROUGH:
            value = result
        if step == PAIRS:
            found = what(value)
            if found:
                pairs.extend(found)
        elif step == VALUE:
            pairs.append((what, value))
        else:
            if what.mapper is not None:
                value = what.mapper(value)
            if value is not SKIP_WRITE and not (what.skip_none and value is None):
                pairs.append((what.channel, value))
    return pairs


class ChannelWrite(RunnableCallable):
    """The last part of a node: writes its result, and gives it back as it was.

    Attributes
    ----------
    writes : the entries, fixed when it is made
    plan : what they come to, see the head of this file
    """

    writes: list[Any]

    def __init__(
        self,
        writes: "Sequence[ChannelWriteEntry | ChannelWriteTupleEntry | Send]",
        *,
        tags: Sequence[str] | None = None,
    ) -> None:
        super().__init__(_nothing, _nothing_async, name="_write", tags=tags, trace=False)
        self.writes = list(writes)
        self._worked_out: tuple[tuple[int, Any, Any], ...] | None = None

    @property
    def plan(self) -> tuple[tuple[int, Any, Any], ...]:
        plan = self._worked_out
        if plan is None:
            plan = self._worked_out = _plan(self.writes)
        return plan

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        if name is None:
            targets = (
                "..." if isinstance(w, ChannelWriteTupleEntry) else w.node if isinstance(w, Send) else w.channel
                for w in self.writes
            )
            name = f"ChannelWrite<{','.join(targets)}>"
        return RunnableCallable.get_name(self, suffix, name=name)

    def assemble(self, result: Any) -> list[tuple[str, Any]]:
        """The pairs to write for what the node gave."""
        return _assemble(self.plan, result)

    def invoke(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> Any:
        result = input
        assert config is not None
        send: TYPE_SEND = config[CONF][CONFIG_KEY_SEND]
        send(_assemble(self.plan, result))
        return result

    async def ainvoke(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> Any:
        return self.invoke(input, config, **kwargs)

    @staticmethod
    def do_write(
        config: "RunnableConfig",
        writes: "Sequence[ChannelWriteEntry | ChannelWriteTupleEntry | Send]",
        allow_passthrough: bool = True,
    ) -> None:
        """Write for the task that `config` belongs to.

        Parameters
        ----------
        allow_passthrough : whether an entry may stand for a result that is not known here
        """
        if not allow_passthrough and any(getattr(write, "value", None) is PASSTHROUGH for write in writes):
            raise InvalidUpdateError("PASSTHROUGH value must be replaced: there is no result to pass on here")
        send: TYPE_SEND = config[CONF][CONFIG_KEY_SEND]
        send(_assemble_writes(writes))

    @staticmethod
    def is_writer(runnable: Any) -> bool:
        """Whether a step only writes; drawings leave it out."""
        return isinstance(runnable, ChannelWrite) or getattr(runnable, _MARK, MISSING) is not MISSING

    @staticmethod
    def get_static_writes(runnable: Any) -> Sequence[tuple[str, Any, str | None]] | None:
        """(channel, value, label) of what a writer may write, as far as that is known beforehand."""
        if isinstance(runnable, ChannelWrite):
            finders = (entry for entry in runnable.writes if isinstance(entry, ChannelWriteTupleEntry))
            return [write for finder in finders for write in finder.static or ()] or None
        declared: Any = getattr(runnable, _MARK, MISSING)
        if declared is MISSING or declared is None:
            return None
        return [(*_assemble_writes([entry])[0], label) for entry, label in declared]

    @staticmethod
    def register_writer(
        runnable: R, static: "Sequence[tuple[ChannelWriteEntry | Send, str | None]] | None" = None
    ) -> R:
        """Mark a step of another kind as one that only writes; `static` is what it may write, with labels."""
        object.__setattr__(runnable, _MARK, static)
        return runnable


_MARK = "_is_channel_writer"


def _nothing(_: Any) -> None:
    """What a ChannelWrite computes."""


async def _nothing_async(_: Any) -> None:
    """That it can be awaited without a thread."""


def _assemble_writes(
    writes: "Sequence[ChannelWriteEntry | ChannelWriteTupleEntry | Send]",
) -> list[tuple[str, Any]]:
    return _assemble(_plan(writes), PASSTHROUGH)


own(globals())
