"""A graph on a server, used as if it were here: called, streamed, looked into, and put into other graphs as a node.

    RemoteGraph --Ask--> client of langgraph_sdk --HTTP--> a server that speaks LangGraph's API
                <--Chunks--                      <--SSE---

`langgraph_sdk` is imported when a graph has to make its own clients, and langsmith when a trace has to be sent along.
What is said and what the answers mean is in `_remote_wire.py`; events of version 3 are in `_remote_run_stream.py`.
"""

import typing
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from copy import copy
from logging import getLogger
from typing import Any, Literal, NoReturn

from dynamo.langgraph._internal._config import merge_configs
from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_THREAD_ID
from dynamo.langgraph._internal._errors import CheckpointError
from dynamo.langgraph._internal._langchain import runnable_class
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.pregel import _remote_wire as wire
from dynamo.langgraph.pregel._remote_run_stream import (
    _AsyncRemoteGraphRunStream,
    _RemoteGraphRunStream,
    _translate_command_input,
)
from dynamo.langgraph.pregel._remote_wire import Ask, Chunks, RemoteException
from dynamo.langgraph.pregel.protocol import PregelProtocol
from dynamo.langgraph.types import All, Command, GraphOutput, StateSnapshot, StreamMode

if typing.TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.graph import Graph
    from langgraph_sdk.client import LangGraphClient, SyncLangGraphClient
    from langgraph_sdk.schema import QueryParamTypes
    from typing_extensions import Self

__all__ = ("RemoteException", "RemoteGraph")

logger = getLogger(__name__)
_sanitize_config_value = wire.portable_value
_V3_SUPPORTED_KWARGS = frozenset({"metadata", "headers"})


def _merge_tracing_headers(headers: dict[str, str] | None) -> dict[str, str] | None:
    """Headers, and those that make the server's trace a part of the current one."""
    from langsmith import get_current_run_tree

    tree = get_current_run_tree()
    traced = dict(headers or {}) if tree is None else {**(headers or {}), **tree.to_headers()}
    if tree is not None and headers and "baggage" in headers:
        traced["baggage"] = ",".join((headers["baggage"], traced["baggage"]))
    return traced or headers


class RemoteGraph(PregelProtocol[Any, Any, Any, Any]):
    """A graph that runs on a server with LangGraph's API.

    Parameters
    ----------
    assistant_id
        Which graph, or which assistant that was made of one.
    url, api_key, headers
        Where the server is, and what to show it; clients are made from these, unless they are given.
    client, sync_client
        Clients of `langgraph_sdk`, for asynchronous and for plain calls.
    config
        Merged into the configuration of every call.
    name
        As a node, and of its runs; the assistant's id if it is None.
    distributed_tracing
        Send the current LangSmith trace along, so that the server's goes into it.

    Notes
    -----
    A run without a ``thread_id`` leaves nothing behind on the server. A stream that is left early, or whose task is
    cancelled, closes its connection at once; ``on_disconnect="cancel"`` makes the server stop the run then, too. That
    and every other option of ``client.runs.stream`` goes through `stream`, `invoke` and their twins.
    """

    assistant_id: str
    name: str | None
    config: "RunnableConfig | None"
    client: "LangGraphClient | None"
    sync_client: "SyncLangGraphClient | None"
    distributed_tracing: bool

    def __init__(
        self,
        assistant_id: str,
        /,
        *,
        url: str | None = None,
        api_key: str | None = None,
        headers: dict[str, str] | None = None,
        client: "LangGraphClient | None" = None,
        sync_client: "SyncLangGraphClient | None" = None,
        config: "RunnableConfig | None" = None,
        name: str | None = None,
        distributed_tracing: bool = False,
    ) -> None:
        self.assistant_id, self.name = assistant_id, assistant_id if name is None else name
        self.config, self.distributed_tracing = config, distributed_tracing
        if url is not None and (client is None or sync_client is None):
            from langgraph_sdk.client import get_client, get_sync_client

            where: dict[str, Any] = {"url": url, "api_key": api_key, "headers": headers}
            client = get_client(**where) if client is None else client
            sync_client = get_sync_client(**where) if sync_client is None else sync_client
        self.client, self.sync_client = client, sync_client

    def _validate_client(self) -> "LangGraphClient":
        return _no_client("Async", "client") if self.client is None else self.client

    def _validate_sync_client(self) -> "SyncLangGraphClient":
        return _no_client("Sync", "sync_client") if self.sync_client is None else self.sync_client

    def copy(self, update: dict[str, Any]) -> "Self":
        """The same graph with some attributes replaced."""
        twin = copy(self)
        vars(twin).update(update)
        return twin

    def with_config(self, config: "RunnableConfig | None" = None, **kwargs: Any) -> "Self":
        """The same graph with more configuration."""
        more: Any = kwargs
        return self.copy({"config": merge_configs(self.config, config, more)})

    def _sanitize_config(self, config: "RunnableConfig") -> "RunnableConfig":
        return wire.portable(config)  # type: ignore[return-value]

    def _about_thread(
        self, method: str, read: Any, config: "RunnableConfig | None", headers: Any, params: Any, **options: Any
    ) -> Ask:
        """A request about a thread; its id and its checkpoint are in the configuration."""
        merged = merge_configs(self.config, config)
        thread = merged[CONF].get(CONFIG_KEY_THREAD_ID)
        if thread is None:
            raise CheckpointError(
                f"{method} of the remote graph {self.name!r} is about a thread: name one with "
                '{"configurable": {"thread_id": ...}}'
            )
        options = {**options, "checkpoint": wire.checkpoint_of(merged), "headers": headers, "params": params}
        return Ask(f"threads.{method}", {"thread_id": str(thread), **options}, read)

    # ---------------------------------------------------------------- drawing
    def _ask_graph(self, xray: int | bool, headers: Any, params: Any) -> Ask:
        options = {"assistant_id": self.assistant_id, "xray": xray, "headers": headers, "params": params}
        return Ask("assistants.get_graph", options, wire.drawing_of)

    def get_graph(
        self,
        config: "RunnableConfig | None" = None,
        *,
        xray: int | bool = False,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
    ) -> "Graph":
        """The drawing of the graph; the server knows no configuration for it, so `config` changes nothing."""
        return self._ask_graph(xray, headers, params).of(self._validate_sync_client())  # type: ignore[no-any-return]

    async def aget_graph(
        self,
        config: "RunnableConfig | None" = None,
        *,
        xray: int | bool = False,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
    ) -> "Graph":
        """`get_graph`, awaited."""
        return await self._ask_graph(xray, headers, params).aof(self._validate_client())  # type: ignore[no-any-return]

    # ---------------------------------------------------------------- state
    def get_state(
        self,
        config: "RunnableConfig",
        *,
        subgraphs: bool = False,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
    ) -> StateSnapshot:
        """The state of a thread.

        Raises
        ------
        CheckpointError
            When the configuration names no thread.
        """
        ask = self._about_thread("get_state", wire.snapshot_of, config, headers, params, subgraphs=subgraphs)
        return ask.of(self._validate_sync_client())  # type: ignore[no-any-return]

    async def aget_state(
        self,
        config: "RunnableConfig",
        *,
        subgraphs: bool = False,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
    ) -> StateSnapshot:
        """`get_state`, awaited."""
        ask = self._about_thread("get_state", wire.snapshot_of, config, headers, params, subgraphs=subgraphs)
        return await ask.aof(self._validate_client())  # type: ignore[no-any-return]

    def _ask_history(self, config: Any, filter: Any, before: Any, limit: int | None, headers: Any, params: Any) -> Ask:
        window = {"limit": 10 if limit is None else limit, "before": wire.checkpoint_of(before), "metadata": filter}
        return self._about_thread(
            "get_history", lambda states: map(wire.snapshot_of, states), config, headers, params, **window
        )

    def get_state_history(
        self,
        config: "RunnableConfig",
        *,
        filter: dict[str, Any] | None = None,
        before: "RunnableConfig | None" = None,
        limit: int | None = None,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
    ) -> Iterator[StateSnapshot]:
        """The states that a thread has been in, the latest first; ten of them unless `limit` says otherwise."""
        yield from self._ask_history(config, filter, before, limit, headers, params).of(self._validate_sync_client())

    async def aget_state_history(
        self,
        config: "RunnableConfig",
        *,
        filter: dict[str, Any] | None = None,
        before: "RunnableConfig | None" = None,
        limit: int | None = None,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
    ) -> AsyncIterator[StateSnapshot]:
        """`get_state_history`, awaited."""
        ask = self._ask_history(config, filter, before, limit, headers, params)
        for snapshot in await ask.aof(self._validate_client()):
            yield snapshot

    def _ask_update(self, config: Any, values: Any, as_node: str | None, headers: Any, params: Any) -> Ask:
        def read(answer: Any) -> Any:
            return wire.config_of(answer["checkpoint"])

        return self._about_thread("update_state", read, config, headers, params, values=values, as_node=as_node)

    def update_state(
        self,
        config: "RunnableConfig",
        values: dict[str, Any] | Any | None,
        as_node: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
    ) -> "RunnableConfig":
        """Change the state of a thread as if a node had; returns the configuration of the new checkpoint."""
        ask = self._ask_update(config, values, as_node, headers, params)
        return ask.of(self._validate_sync_client())  # type: ignore[no-any-return]

    async def aupdate_state(
        self,
        config: "RunnableConfig",
        values: dict[str, Any] | Any | None,
        as_node: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
    ) -> "RunnableConfig":
        """`update_state`, awaited."""
        ask = self._ask_update(config, values, as_node, headers, params)
        return await ask.aof(self._validate_client())  # type: ignore[no-any-return]

    def bulk_update_state(self, config: "RunnableConfig", updates: Sequence[Any]) -> "RunnableConfig":
        """Not to be had from a server.

        Raises
        ------
        NotImplementedError
            Always: LangGraph's API takes one update at a time, so no server can make them one step.
        """
        _one_at_a_time(updates)

    async def abulk_update_state(self, config: "RunnableConfig", updates: Sequence[Any]) -> "RunnableConfig":
        """`bulk_update_state`, awaited: it is not to be had either."""
        _one_at_a_time(updates)

    # ---------------------------------------------------------------- runs
    def _ask_run(
        self,
        input: Any,
        config: "RunnableConfig | None",
        stream_mode: Any,
        subgraphs: bool,
        version: str,
        headers: dict[str, str] | None,
        options: dict[str, Any],
    ) -> tuple[Chunks, dict[str, Any]]:
        """The reader of a run, and the arguments of ``client.runs.stream``."""
        merged = merge_configs(self.config, config)
        chunks = Chunks(stream_mode, subgraphs, version, merged[CONF])
        commanded = isinstance(input, Command)
        return chunks, {
            **self._addressed(merged, headers),
            "input": None if commanded else input,
            "command": wire.command_of(input) if commanded else None,
            "stream_mode": chunks.modes,
            "stream_subgraphs": chunks.wants_subgraphs,
            "if_not_exists": "create",
            **options,
        }

    def _addressed(self, merged: "RunnableConfig", headers: dict[str, str] | None) -> dict[str, Any]:
        """What says which assistant is to run, on which thread, and how: the thread leaves the configuration for it."""
        sent: Any = self._sanitize_config(merged)
        sent[CONF].pop(CONFIG_KEY_THREAD_ID, None)
        thread = merged[CONF].get(CONFIG_KEY_THREAD_ID)
        return {
            "thread_id": None if thread is None else str(thread),
            "assistant_id": self.assistant_id,
            "config": sent,
            "headers": _merge_tracing_headers(headers) if self.distributed_tracing else headers,
        }

    def stream(
        self,
        input: Any,
        config: "RunnableConfig | None" = None,
        *,
        context: Any = None,
        stream_mode: StreamMode | list[StreamMode] | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        subgraphs: bool = False,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
        version: Literal["v1", "v2"] = "v1",
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Run, and show what happens as it happens; "updates" unless a mode or a list of modes is given.

        Raises
        ------
        RemoteException
            When the run fails on the server.
        GraphInterrupt, ParentCommand
            As a node of another graph: the run waits for an answer, or has a command for that graph.
        """
        stops = {"interrupt_before": interrupt_before, "interrupt_after": interrupt_after}
        options = {"context": context, "params": params, **stops, **kwargs}
        chunks, asked = self._ask_run(input, config, stream_mode, subgraphs, version, headers, options)
        parts: Any = self._validate_sync_client().runs.stream(**asked)
        try:
            for part in parts:
                if (shown := chunks(part)) is not MISSING:
                    yield shown
        finally:
            if isinstance(parts, Generator):
                parts.close()

    async def astream(
        self,
        input: Any,
        config: "RunnableConfig | None" = None,
        *,
        context: Any = None,
        stream_mode: StreamMode | list[StreamMode] | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        subgraphs: bool = False,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
        version: Literal["v1", "v2"] = "v1",
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """`stream`, for ``async for``."""
        stops = {"interrupt_before": interrupt_before, "interrupt_after": interrupt_after}
        options = {"context": context, "params": params, **stops, **kwargs}
        chunks, asked = self._ask_run(input, config, stream_mode, subgraphs, version, headers, options)
        parts: Any = self._validate_client().runs.stream(**asked)
        try:
            async for part in parts:
                if (shown := chunks(part)) is not MISSING:
                    yield shown
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()

    def invoke(
        self,
        input: Any,
        config: "RunnableConfig | None" = None,
        *,
        context: Any = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
        version: Literal["v1", "v2"] = "v1",
        **kwargs: Any,
    ) -> Any:
        """Run to the end or to an interrupt, and return the last values; raises as `stream` does."""
        stops = {"interrupt_before": interrupt_before, "interrupt_after": interrupt_after}
        options = {"context": context, "headers": headers, "params": params, "version": version, **stops, **kwargs}
        result: Any = MISSING
        for part in self.stream(input, config, stream_mode="values", **options):
            result = part
        return self._result(result, version)

    async def ainvoke(
        self,
        input: Any,
        config: "RunnableConfig | None" = None,
        *,
        context: Any = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        headers: dict[str, str] | None = None,
        params: "QueryParamTypes | None" = None,
        version: Literal["v1", "v2"] = "v1",
        **kwargs: Any,
    ) -> Any:
        """`invoke`, awaited."""
        stops = {"interrupt_before": interrupt_before, "interrupt_after": interrupt_after}
        options = {"context": context, "headers": headers, "params": params, "version": version, **stops, **kwargs}
        result: Any = MISSING
        async for part in self.astream(input, config, stream_mode="values", **options):
            result = part
        return self._result(result, version)

    def _result(self, last: Any, version: str) -> Any:
        if last is MISSING:
            logger.warning("The remote graph %r sent no values: check its log for what became of the run", self.name)
            return None
        return GraphOutput(value=last["data"], interrupts=last["interrupts"]) if version == "v2" else last

    # ---------------------------------------------------------------- events
    def _reject_v3_unsupported(
        self, *, control: Any, transformers: Any, interrupt_before: Any, interrupt_after: Any, extra_kwargs: Any
    ) -> None:
        """Refuse what a server cannot do for a stream of events."""
        named = {"control": control, "transformers": transformers}
        named |= {"interrupt_before": interrupt_before, "interrupt_after": interrupt_after}
        refused = [f"`{name}=`" for name, value in named.items() if value] + sorted(
            {*extra_kwargs} - _V3_SUPPORTED_KWARGS
        )
        if refused:
            raise NotImplementedError(
                f"A remote graph's stream_events(version='v3') does not take {', '.join(refused)}; what the server "
                f"takes is {', '.join(sorted(_V3_SUPPORTED_KWARGS))}"
            )

    def _run_stream(
        self, kind: Any, whose: dict[str, Any], input: Any, config: Any, headers: Any, stops: Any, more: Any
    ) -> Any:
        """A run stream of one of the two kinds, on the client that `whose` names."""
        (client,) = whose.values()
        metadata = more.get("metadata")
        self._reject_v3_unsupported(**stops, extra_kwargs=more)
        sent = _translate_command_input(input)
        to = self._addressed(merge_configs(self.config, config), headers)
        told = to.pop("config")
        stream = client.threads.stream(**to)
        return kind(**whose, sdk_thread=stream, input=sent, config=told, metadata=metadata)

    def stream_events(
        self,
        input: Any,
        config: "RunnableConfig | None" = None,
        *,
        version: Literal["v1", "v2", "v3"] = "v2",
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        control: Any = None,
        transformers: Sequence[Any] | None = None,
        headers: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A run as a stream of events; use the result in a ``with`` statement. Only version "v3" is to be had."""
        stops = {"interrupt_before": interrupt_before, "interrupt_after": interrupt_after}
        stops |= {"control": control, "transformers": transformers}
        if version == "v3":
            whose = {"sync_client": self._validate_sync_client()}
            return self._run_stream(_RemoteGraphRunStream, whose, input, config, headers, stops, kwargs)
        return runnable_class().stream_events(self, input, config, version=version, **kwargs)

    async def astream_events(  # type: ignore[override,unused-ignore]
        self,
        input: Any,
        config: "RunnableConfig | None" = None,
        *,
        version: Literal["v1", "v2", "v3"] = "v2",
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        control: Any = None,
        transformers: Sequence[Any] | None = None,
        headers: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """`stream_events`, for ``async with``."""
        stops = {"interrupt_before": interrupt_before, "interrupt_after": interrupt_after}
        stops |= {"control": control, "transformers": transformers}
        if version == "v3":
            whose = {"client": self._validate_client()}
            return self._run_stream(_AsyncRemoteGraphRunStream, whose, input, config, headers, stops, kwargs)
        raise NotImplementedError(
            f"astream_events(version={version!r}) is not implemented for remote graphs: use 'v3', or astream()"
        )


def _no_client(kind: str, name: str) -> NoReturn:
    raise ValueError(f"{kind} client is not initialized: give RemoteGraph a `url` or a `{name}`")


def _one_at_a_time(updates: Sequence[Any]) -> NoReturn:
    raise NotImplementedError(f"A server takes one update at a time: call update_state for each of the {len(updates)}")


own(globals())
