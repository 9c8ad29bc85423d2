"""What a node is to the engine: where its input comes from, what starts it, what it runs and writes."""

import typing
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

from dynamo.langgraph._internal._config import merge_configs
from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_READ
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._runnable import RunnableCallable, RunnableSeq
from dynamo.langgraph.pregel._write import ChannelWrite
from dynamo.langgraph.types import CachePolicy, RetryPolicy, TimeoutPolicy, TracePolicy

if typing.TYPE_CHECKING:
    from datetime import timedelta

    from langchain_core.runnables import RunnableConfig

    from dynamo.langgraph.pregel.protocol import PregelProtocol

READ_TYPE: TypeAlias = Callable[[str | Sequence[str], bool], Any | dict[str, Any]]
INPUT_CACHE_KEY_TYPE: TypeAlias = tuple[Callable[..., Any] | None, str | tuple[str, ...]]


class ChannelRead(RunnableCallable):
    """Reads channels, whatever its input is.

    Parameters
    ----------
    channel : one channel, for its value, or several, for a mapping
    fresh : with the writes that the reading task has made so far
    mapper : changes what was read
    """

    channel: str | list[str]
    fresh: bool = False
    mapper: Callable[[Any], Any] | None = None

    def __init__(
        self,
        channel: str | list[str],
        *,
        fresh: bool = False,
        mapper: Callable[[Any], Any] | None = None,
        tags: list[str] | None = None,
    ) -> None:
        def read(_: Any, config: Any) -> Any:
            return self.do_read(config, select=self.channel, fresh=self.fresh, mapper=self.mapper)

        super().__init__(read, name="_read", tags=tags, trace=False)
        self.channel, self.fresh, self.mapper = channel, fresh, mapper

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        read = self.channel if isinstance(self.channel, str) else ",".join(self.channel)
        return super().get_name(suffix, name=name or f"ChannelRead<{read}>")

    @staticmethod
    def do_read(
        config: "RunnableConfig",
        *,
        select: str | list[str],
        fresh: bool = False,
        mapper: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Read for the task that `config` belongs to."""
        read: READ_TYPE | None = config[CONF].get(CONFIG_KEY_READ)
        if read is None:
            raise RuntimeError("Not configured with a read function. Channels can be read only by a node of a graph")
        value = read(select, fresh)
        return value if mapper is None else mapper(value)


DEFAULT_BOUND = RunnableCallable(lambda input: input)  # a node that gives its input on


class PregelNode:
    """A node of a Pregel graph. Made once when the graph is compiled; `copy` for another like it.

    Attributes
    ----------
    channels : its input: the value of one channel (str), or a mapping from several (list)
    triggers : channels whose updates start it
    mapper : changes the input before the node gets it
    bound : what runs; DEFAULT_BOUND for nothing
    writers : what runs after it: ChannelWrites and path functions
    retry_policy, cache_policy, timeout, trace_policy : see `langgraph.types`
    tags, metadata : of its runs, for traces
    is_error_handler, error_handler_node : whether it handles the errors of others, and which node handles its own
    subgraphs : the graphs that run inside it, looked for when first asked for
    """

    channels: str | list[str]
    triggers: list[str]
    mapper: Callable[[Any], Any] | None
    writers: list[Any]
    bound: Any
    retry_policy: Sequence[RetryPolicy] | None
    cache_policy: CachePolicy[Any] | None
    timeout: TimeoutPolicy | None
    tags: Sequence[str] | None
    metadata: Mapping[str, Any] | None
    trace_policy: TracePolicy | None
    is_error_handler: bool
    error_handler_node: str | None

    def __init__(
        self,
        *,
        channels: str | list[str],
        triggers: Sequence[str],
        mapper: Callable[[Any], Any] | None = None,
        writers: list[Any] | None = None,
        tags: list[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        trace_policy: TracePolicy | None = None,
        bound: Any = None,
        retry_policy: RetryPolicy | Sequence[RetryPolicy] | None = None,
        cache_policy: CachePolicy[Any] | None = None,
        is_error_handler: bool = False,
        error_handler_node: str | None = None,
        subgraphs: "Sequence[PregelProtocol[Any, Any, Any, Any]] | None" = None,
        timeout: "float | timedelta | TimeoutPolicy | None" = None,
    ) -> None:
        # what it is
        self.bound = DEFAULT_BOUND if bound is None else bound
        self.writers = writers if writers else []
        # what it reads
        self.channels, self.mapper = channels, mapper
        self.triggers = [*triggers]
        # how it runs
        self.retry_policy = (retry_policy,) if isinstance(retry_policy, RetryPolicy) else retry_policy
        self.cache_policy, self.timeout, self.trace_policy = cache_policy, TimeoutPolicy.coerce(timeout), trace_policy
        self.is_error_handler, self.error_handler_node = is_error_handler, error_handler_node
        # how it is shown
        self.tags, self.metadata = tags, metadata
        if subgraphs is not None:  # else they are looked for
            self.__dict__["subgraphs"] = subgraphs

    def copy(self, update: dict[str, Any]) -> "PregelNode":
        """Another node, with some attributes replaced."""
        taken = {name: self.__dict__[name] for name in _PARTS if name in self.__dict__}
        if "bound" in update:
            taken.pop("subgraphs", None)
        return PregelNode(**{**taken, **update})

    @cached_property
    def subgraphs(self) -> "Sequence[PregelProtocol[Any, Any, Any, Any]]":
        if self.bound is DEFAULT_BOUND:
            return ()
        from dynamo.langgraph.pregel._utils import find_subgraph_pregel

        found = find_subgraph_pregel(self.bound)
        return () if found is None else (found,)

    @cached_property
    def flat_writers(self) -> list[Any]:
        """The writers, with the ChannelWrites at their end made one."""
        flat = list(self.writers)
        while len(flat) > 1 and isinstance(flat[-1], ChannelWrite) and isinstance(flat[-2], ChannelWrite):
            last = flat.pop()
            flat[-1] = ChannelWrite([*flat[-1].writes, *last.writes], tags=last.tags)
        return flat

    @cached_property
    def node(self) -> Any:
        """What to invoke for a task: function and writers in one; None if there is nothing to run."""
        steps = list(self.flat_writers)
        if self.bound is not DEFAULT_BOUND:
            steps.insert(0, self.bound)
        if len(steps) < 2:
            return steps[0] if steps else None
        return RunnableSeq(*steps, trace_policy=self.trace_policy)

    @cached_property
    def input_cache_key(self) -> INPUT_CACHE_KEY_TYPE:
        """Nodes with equal keys get equal inputs in a step, so that it is read once."""
        return self.mapper, self.channels if isinstance(self.channels, str) else tuple(self.channels)

    # By itself, outside of a graph, a node is what is bound to it.
    def _config(self, config: "RunnableConfig | None") -> "RunnableConfig":
        of_node: Any = {"metadata": self.metadata, "tags": self.tags}
        return merge_configs(of_node, config)

    def invoke(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> Any:
        return self.bound.invoke(input, self._config(config), **kwargs)

    async def ainvoke(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> Any:
        return await self.bound.ainvoke(input, self._config(config), **kwargs)

    def stream(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> Iterator[Any]:
        yield from self.bound.stream(input, self._config(config), **kwargs)

    async def astream(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> AsyncIterator[Any]:
        async for piece in self.bound.astream(input, self._config(config), **kwargs):
            yield piece


_PARTS = (
    *("channels", "triggers", "mapper", "writers", "tags", "metadata", "trace_policy", "bound", "retry_policy"),
    *("cache_policy", "is_error_handler", "error_handler_node", "timeout", "subgraphs"),
)

own(globals())
