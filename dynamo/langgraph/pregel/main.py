"""Pregel: everything that can be asked of a graph, and which part answers.

    what it is   Pregel(...), validate, get_subgraphs, ...          _describe.py
                 config_schema, get_input_schema, ...               _schemas.py
                 get_graph                                          _draw.py
    runs         invoke, stream and their asynchronous twins        _calls.py -> _run.py
    events       stream_events(version="v3")                        _events.py
    state        get_state, get_state_history                       _state.py
                 update_state, bulk_update_state                    _update.py

A graph does not change when it runs; everything of one run is in `Run` and in the loop. What saves or draws is written
once for plain and asynchronous callers, as a script (``_script.py``) that the two
twins here perform each in its way.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any, Generic, Literal, overload

from dynamo.langgraph._internal import _old_names
from dynamo.langgraph._internal._config import merge_configs
from dynamo.langgraph._internal._langchain import runnable_class
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import aplay, play
from dynamo.langgraph.channels.base import BaseChannel
from dynamo.langgraph.managed.base import ManagedValueSpec
from dynamo.langgraph.pregel import _calls, _describe
from dynamo.langgraph.pregel._node_builder import NodeBuilder
from dynamo.langgraph.pregel._read import PregelNode
from dynamo.langgraph.pregel.protocol import PregelProtocol
from dynamo.langgraph.runtime import RunControl
from dynamo.langgraph.types import (
    All,
    CachePolicy,
    Command,
    Durability,
    GraphOutput,
    RetryPolicy,
    StateSnapshot,
    StateUpdate,
    StreamMode,
)
from dynamo.langgraph.typing import ContextT, InputT, OutputT, StateT
from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV10

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.graph import Graph
    from langgraph.cache.base import BaseCache
    from langgraph.checkpoint.base import Checkpoint
    from langgraph.store.base import BaseStore
    from pydantic import BaseModel
    from typing_extensions import Self, Unpack

    from dynamo.langgraph.pregel._calls import OtherMode, RunOptions
    from dynamo.langgraph.types import Checkpointer, StreamPart

__all__ = ("NodeBuilder", "Pregel")


class Pregel(PregelProtocol[StateT, ContextT, InputT, OutputT], Generic[StateT, ContextT, InputT, OutputT]):
    """A graph that can be run: nodes that are started by channels and write to channels, superstep by superstep.

    `StateGraph.compile` and `entrypoint` make one; by hand it is made of `NodeBuilder` nodes and channels.

    Attributes
    ----------
    nodes, channels : by name
    input_channels, output_channels : where input goes, and what a run gives
    stream_channels : what streams and snapshots show; all channels if it is None
    stream_mode : the mode of `stream` for which none is named
    stream_eager : show things while a superstep runs, whatever the mode
    interrupt_before_nodes, interrupt_after_nodes : where every run stops, or "*"
    step_timeout : seconds that a superstep may take
    debug : print what happens in every run
    checkpointer, store, cache : where runs save; see `StateGraph.compile`
    retry_policy, cache_policy : for nodes without their own
    context_schema : what the context of a run has to look like
    config : merged into the config of every run
    trigger_to_nodes : which nodes a channel starts
    node_error_handler_map : which node takes care of the failure of another
    name : of its runs, and as a subgraph
    """

    nodes: dict[str, PregelNode]
    channels: dict[str, BaseChannel[Any, Any, Any] | ManagedValueSpec]
    stream_mode: StreamMode = "values"
    stream_eager: bool = False
    output_channels: str | Sequence[str]
    stream_channels: str | Sequence[str] | None = None
    interrupt_after_nodes: All | Sequence[str]
    interrupt_before_nodes: All | Sequence[str]
    input_channels: str | Sequence[str]
    step_timeout: float | None = None
    debug: bool
    checkpointer: "Checkpointer" = None
    store: "BaseStore | None" = None
    cache: "BaseCache[Any] | None" = None
    retry_policy: Sequence[RetryPolicy] = ()
    cache_policy: CachePolicy[Any] | None = None
    context_schema: type[ContextT] | None = None
    config: "RunnableConfig | None" = None
    name: str = "LangGraph"
    trigger_to_nodes: Mapping[str, Sequence[str]]
    node_error_handler_map: Mapping[str, str]
    _output_mapper: Callable[[Any], Any] | None = None
    _state_mapper: Callable[[Any], Any] | None = None
    _serde_allowlist: set[tuple[str, ...]] | None = None

    def __init__(
        self,
        *,
        nodes: dict[str, PregelNode | NodeBuilder],
        channels: dict[str, BaseChannel[Any, Any, Any] | ManagedValueSpec] | None,
        auto_validate: bool = True,
        stream_mode: StreamMode = "values",
        stream_eager: bool = False,
        output_channels: str | Sequence[str],
        stream_channels: str | Sequence[str] | None = None,
        interrupt_after_nodes: All | Sequence[str] = (),
        interrupt_before_nodes: All | Sequence[str] = (),
        input_channels: str | Sequence[str],
        step_timeout: float | None = None,
        debug: bool | None = None,
        checkpointer: "Checkpointer" = None,
        store: "BaseStore | None" = None,
        cache: "BaseCache[Any] | None" = None,
        retry_policy: RetryPolicy | Sequence[RetryPolicy] = (),
        cache_policy: CachePolicy[Any] | None = None,
        context_schema: type[ContextT] | None = None,
        config: "RunnableConfig | None" = None,
        trigger_to_nodes: Mapping[str, Sequence[str]] | None = None,
        node_error_handler_map: Mapping[str, str] | None = None,
        name: str = "LangGraph",
        stream_transformers: Sequence[Callable[[tuple[str, ...]], Any]] | None = None,
        **deprecated_kwargs: Any,
    ) -> None:
        _describe.describe(locals())

    # ---------------------------------------------------------------- the graph itself
    def validate(self) -> "Self":
        """Refuse a graph that cannot run, and find out which channels start which nodes."""
        self.trigger_to_nodes = _describe.checked(self)
        return self

    def copy(self, update: dict[str, Any] | None = None) -> "Self":
        """Another graph with the same nodes and channels, and some attributes replaced."""
        twin = copy(self)
        for name, value in (update or {}).items():
            if hasattr(self, name):
                setattr(twin, name, value)
        return twin

    def with_config(self, config: "RunnableConfig | None" = None, **kwargs: Any) -> "Self":
        """The same graph, with this merged into the config of every run."""
        more: Any = kwargs
        return self.copy({"config": merge_configs(self.config, config, more)})

    def get_subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False
    ) -> "Iterator[tuple[str, PregelProtocol[Any, Any, Any, Any]]]":
        """The graphs in nodes, by namespace.

        Parameters
        ----------
        namespace : only the one with this namespace, ``node`` or ``node|inner node``
        recurse : also those in these graphs
        """
        return _describe.graphs_inside(self, namespace, recurse)

    async def aget_subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False
    ) -> "AsyncIterator[tuple[str, PregelProtocol[Any, Any, Any, Any]]]":
        """`get_subgraphs` for asynchronous callers."""
        for found in self.get_subgraphs(namespace=namespace, recurse=recurse):
            yield found

    @property
    def stream_channels_list(self) -> Sequence[str]:
        """The names of the channels that streams show."""
        shown = self.stream_channels_asis
        return [shown] if isinstance(shown, str) else shown

    @property
    def stream_channels_asis(self) -> str | Sequence[str]:
        """The same; a single name if only its value is shown."""
        if self.stream_channels:
            return self.stream_channels
        return [name for name, channel in self.channels.items() if isinstance(channel, BaseChannel)]

    def _migrate_checkpoint(self, checkpoint: "Checkpoint") -> None:
        """Bring a checkpoint of an older version into today's form, in place."""
        _describe.bring_up_to_date(checkpoint)

    def clear_cache(self, nodes: Sequence[str] | None = None) -> None:
        """Forget the cached results of these nodes, or of all."""
        cache, namespaces = _describe.cached(self, nodes)
        cache.clear(namespaces)

    async def aclear_cache(self, nodes: Sequence[str] | None = None) -> None:
        """`clear_cache` for asynchronous callers."""
        cache, namespaces = _describe.cached(self, nodes)
        await cache.aclear(namespaces)

    # ---------------------------------------------------------------- drawings
    def get_graph(self, config: "RunnableConfig | None" = None, *, xray: int | bool = False) -> "Graph":
        """The drawing of the graph.

        Parameters
        ----------
        xray : draw the graphs in nodes too; a number says how deep
        """
        from dynamo.langgraph.pregel import _draw

        return play(_draw.script(self, config, xray))  # type: ignore[no-any-return]

    async def aget_graph(self, config: "RunnableConfig | None" = None, *, xray: int | bool = False) -> "Graph":
        """`get_graph` for asynchronous callers; graphs on servers are asked for theirs."""
        from dynamo.langgraph.pregel import _draw

        return await aplay(_draw.script(self, config, xray))  # type: ignore[no-any-return]

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """For notebooks: a picture that nothing has to be fetched for."""
        shown = {"text/plain": repr(self)}
        with suppress(ImportError):  # drawings are made of langchain-core's parts
            shown["image/svg+xml"] = self._repr_svg_()
        return shown

    def _repr_svg_(self) -> str:
        from dynamo.graphs.picture import draw

        return draw(self).svg

    # ---------------------------------------------------------------- schemas
    def config_schema(self, *, include: Sequence[str] | None = None) -> "type[BaseModel]":
        """A model of configs; discouraged, see `get_context_jsonschema`."""
        from dynamo.langgraph.pregel import _schemas

        _old_names.discourage(
            "config_schema", ". Use `get_context_jsonschema` for the relevant schema", LangGraphDeprecatedSinceV10
        )
        return _schemas.config_model(self, include)

    def get_config_jsonschema(self, *, include: Sequence[str] | None = None) -> dict[str, Any]:
        """The JSON schema of configs; discouraged."""
        from dynamo.langgraph.pregel import _schemas

        _old_names.discourage("get_config_jsonschema", ". Use `get_context_jsonschema`", LangGraphDeprecatedSinceV10)
        return _schemas.config_model(self, include).model_json_schema()

    def get_context_jsonschema(self) -> dict[str, Any] | None:
        """The JSON schema of the context, or None."""
        from dynamo.langgraph.pregel import _schemas

        return _schemas.context_schema(self.context_schema)

    @property
    def InputType(self) -> Any:
        """The type of the input, if it goes to one channel."""
        from dynamo.langgraph.pregel import _schemas

        return _schemas.INPUT.type_of(self)

    @property
    def OutputType(self) -> Any:
        """The type of the output, if it is the value of one channel."""
        from dynamo.langgraph.pregel import _schemas

        return _schemas.OUTPUT.type_of(self)

    def get_input_schema(self, config: "RunnableConfig | None" = None) -> "type[BaseModel]":
        """A model of the input."""
        from dynamo.langgraph.pregel import _schemas

        return _schemas.INPUT.model_of(self, config)

    def get_input_jsonschema(self, config: "RunnableConfig | None" = None) -> dict[str, Any]:
        """The JSON schema of the input."""
        return self.get_input_schema(config).model_json_schema()

    def get_output_schema(self, config: "RunnableConfig | None" = None) -> "type[BaseModel]":
        """A model of the output."""
        from dynamo.langgraph.pregel import _schemas

        return _schemas.OUTPUT.model_of(self, config)

    def get_output_jsonschema(self, config: "RunnableConfig | None" = None) -> dict[str, Any]:
        """The JSON schema of the output."""
        return self.get_output_schema(config).model_json_schema()

    # ---------------------------------------------------------------- state
    def get_state(self, config: "RunnableConfig", *, subgraphs: bool = False) -> StateSnapshot:
        """The state of a thread, or of one of its checkpoints.

        Parameters
        ----------
        subgraphs : also the states of the graphs that run in nodes, instead of configs to ask for them
        """
        from dynamo.langgraph.pregel import _state

        return play(_state.read(self, config, subgraphs))  # type: ignore[no-any-return]

    async def aget_state(self, config: "RunnableConfig", *, subgraphs: bool = False) -> StateSnapshot:
        """`get_state` for asynchronous savers."""
        from dynamo.langgraph.pregel import _state

        return await aplay(_state.read(self, config, subgraphs))  # type: ignore[no-any-return]

    def get_state_history(
        self,
        config: "RunnableConfig",
        *,
        filter: dict[str, Any] | None = None,
        before: "RunnableConfig | None" = None,
        limit: int | None = None,
    ) -> Iterator[StateSnapshot]:
        """The states of a thread, the latest first.

        Parameters
        ----------
        filter : what the metadata has to say
        before : only those before this checkpoint
        limit : how many
        """
        from dynamo.langgraph.pregel import _state

        yield from _state.history(self, config, {"filter": filter, "before": before, "limit": limit})

    async def aget_state_history(
        self,
        config: "RunnableConfig",
        *,
        filter: dict[str, Any] | None = None,
        before: "RunnableConfig | None" = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        """`get_state_history` for asynchronous savers."""
        from dynamo.langgraph.pregel import _state

        async for snapshot in _state.ahistory(self, config, {"filter": filter, "before": before, "limit": limit}):
            yield snapshot

    def bulk_update_state(
        self, config: "RunnableConfig", supersteps: Sequence[Sequence[StateUpdate]]
    ) -> "RunnableConfig":
        """Apply updates, each list of them as a superstep; returns the config of the last checkpoint."""
        from dynamo.langgraph.pregel import _update

        return play(_update.update(self, config, supersteps))  # type: ignore[no-any-return]

    async def abulk_update_state(
        self, config: "RunnableConfig", supersteps: Sequence[Sequence[StateUpdate]]
    ) -> "RunnableConfig":
        """`bulk_update_state` for asynchronous savers."""
        from dynamo.langgraph.pregel import _update

        return await aplay(_update.update(self, config, supersteps))  # type: ignore[no-any-return]

    def update_state(
        self,
        config: "RunnableConfig",
        values: dict[str, Any] | Any | None,
        as_node: str | None = None,
        task_id: str | None = None,
    ) -> "RunnableConfig":
        """Change the state of a thread as if a node had written; returns the config of the new checkpoint.

        Parameters
        ----------
        values : what the node is to have returned
        as_node : the node; without it the one that wrote last, if that is clear
        task_id : the task that it is to have been
        """
        return self.bulk_update_state(config, [[StateUpdate(values, as_node, task_id)]])

    async def aupdate_state(
        self,
        config: "RunnableConfig",
        values: dict[str, Any] | Any,
        as_node: str | None = None,
        task_id: str | None = None,
    ) -> "RunnableConfig":
        """`update_state` for asynchronous savers."""
        return await self.abulk_update_state(config, [[StateUpdate(values, as_node, task_id)]])

    # ---------------------------------------------------------------- runs
    @overload
    def invoke(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        version: Literal["v2"],
        stream_mode: Literal["values"] = "values",
        **options: "Unpack[RunOptions]",
    ) -> GraphOutput[OutputT]: ...

    @overload
    def invoke(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        version: Literal["v2"],
        stream_mode: "OtherMode",
        **options: "Unpack[RunOptions]",
    ) -> "list[StreamPart[StateT, OutputT]]": ...

    @overload
    def invoke(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        version: Literal["v1", "v2"] = "v1",
        stream_mode: StreamMode = "values",
        **options: "Unpack[RunOptions]",
    ) -> dict[str, Any] | Any: ...

    def invoke(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        stream_mode: StreamMode = "values",
        print_mode: StreamMode | Sequence[StreamMode] = (),
        output_keys: str | Sequence[str] | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        durability: Durability | None = None,
        control: RunControl | None = None,
        version: Literal["v1", "v2"] = "v1",
        **kwargs: Any,
    ) -> dict[str, Any] | Any:
        """Run the graph, and give its output; the arguments are those of `stream`.

        Returns
        -------
        The values of the output channels, with the interrupts that wait under ``__interrupt__``; a `GraphOutput` for
        version "v2"; a list of what was shown for other modes than "values".
        """
        return _calls.invoke(locals())

    @overload
    async def ainvoke(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        version: Literal["v2"],
        stream_mode: Literal["values"] = "values",
        **options: "Unpack[RunOptions]",
    ) -> GraphOutput[OutputT]: ...

    @overload
    async def ainvoke(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        version: Literal["v2"],
        stream_mode: "OtherMode",
        **options: "Unpack[RunOptions]",
    ) -> "list[StreamPart[StateT, OutputT]]": ...

    @overload
    async def ainvoke(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        version: Literal["v1", "v2"] = "v1",
        stream_mode: StreamMode = "values",
        **options: "Unpack[RunOptions]",
    ) -> dict[str, Any] | Any: ...

    async def ainvoke(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        stream_mode: StreamMode = "values",
        print_mode: StreamMode | Sequence[StreamMode] = (),
        output_keys: str | Sequence[str] | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        durability: Durability | None = None,
        control: RunControl | None = None,
        version: Literal["v1", "v2"] = "v1",
        **kwargs: Any,
    ) -> dict[str, Any] | Any:
        """`invoke` in an event loop."""
        return await _calls.ainvoke(locals())

    @overload
    def stream(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        version: Literal["v2"],
        stream_mode: StreamMode | Sequence[StreamMode] | None = None,
        **options: "Unpack[RunOptions]",
    ) -> "Iterator[StreamPart[StateT, OutputT]]": ...

    @overload
    def stream(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        version: Literal["v1", "v2"] = "v1",
        stream_mode: StreamMode | Sequence[StreamMode] | None = None,
        **options: "Unpack[RunOptions]",
    ) -> Iterator[dict[str, Any] | Any]: ...

    def stream(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        stream_mode: StreamMode | Sequence[StreamMode] | None = None,
        print_mode: StreamMode | Sequence[StreamMode] = (),
        output_keys: str | Sequence[str] | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        durability: Durability | None = None,
        control: RunControl | None = None,
        subgraphs: bool = False,
        debug: bool | None = None,
        version: Literal["v1", "v2"] = "v1",
        **kwargs: Any,
    ) -> Iterator[dict[str, Any] | Any]:
        """Run the graph, and show what happens on the way.

        Parameters
        ----------
        input : for the input channels; a `Command`; None to go on where the thread stopped
        config : thread, callbacks, tags, recursion limit ...
        context : for the nodes, see `Runtime`
        stream_mode : what to show, one mode or several: "values", "updates", "messages", "custom", "tasks",
            "checkpoints", "debug"
        print_mode : what to print
        output_keys : of which channels; default all that the graph shows
        interrupt_before, interrupt_after : nodes at which to stop, or "*"
        durability : save checkpoints beside the next step ("async", the default), before it ("sync"), or when the run
            ends ("exit")
        control : with which to stop it from outside
        subgraphs : show what happens in the graphs in nodes too, each with its namespace
        debug : print updates and values
        version : "v2" for typed parts

        Yields
        ------
        See the table in ``_shape.py``.
        """
        yield from _calls.stream(locals())

    @overload
    def astream(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        version: Literal["v2"],
        stream_mode: StreamMode | Sequence[StreamMode] | None = None,
        **options: "Unpack[RunOptions]",
    ) -> "AsyncIterator[StreamPart[StateT, OutputT]]": ...

    @overload
    def astream(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        version: Literal["v1", "v2"] = "v1",
        stream_mode: StreamMode | Sequence[StreamMode] | None = None,
        **options: "Unpack[RunOptions]",
    ) -> AsyncIterator[dict[str, Any] | Any]: ...

    async def astream(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        stream_mode: StreamMode | Sequence[StreamMode] | None = None,
        print_mode: StreamMode | Sequence[StreamMode] = (),
        output_keys: str | Sequence[str] | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        durability: Durability | None = None,
        control: RunControl | None = None,
        subgraphs: bool = False,
        debug: bool | None = None,
        version: Literal["v1", "v2"] = "v1",
        **kwargs: Any,
    ) -> AsyncIterator[dict[str, Any] | Any]:
        """`stream` in an event loop."""
        shown = _calls.astream(locals())
        try:
            async for one in shown:
                yield one
        finally:
            await shown.aclose()

    # ---------------------------------------------------------------- events
    def stream_events(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        version: Literal["v1", "v2", "v3"] = "v2",
        transformers: Sequence[Callable[[tuple[str, ...]], Any]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The run as a `GraphRunStream`, for version "v3"; the older versions are asynchronous only."""
        from dynamo.langgraph.pregel import _events

        return _events.run_stream(self, input, config, version, transformers, kwargs)

    def astream_events(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        version: Literal["v1", "v2", "v3"] = "v2",
        transformers: Sequence[Callable[[tuple[str, ...]], Any]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Version "v3": a coroutine whose result is an `AsyncGraphRunStream`; else langchain-core's events."""
        if version != "v3":
            return runnable_class().astream_events(self, input, config, version=version, **kwargs)
        from dynamo.langgraph.pregel import _events

        return _events.arun_stream(self, input, config, transformers, kwargs)


def __getattr__(name: str) -> Any:
    if name == "_normalize_stream_transformer_factories":
        from dynamo.langgraph.pregel._events import factories_of

        return factories_of
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


own(globals())
