"""What a graph under construction knows of a node, and the kinds of functions that can be one."""

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias

from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._typing import EMPTY_SEQ
from dynamo.langgraph.typing import ContextT, NodeInputT, NodeInputT_contra

if typing.TYPE_CHECKING:
    from langchain_core.runnables import Runnable, RunnableConfig
    from langgraph.store.base import BaseStore

    from dynamo.langgraph.runtime import Runtime
    from dynamo.langgraph.types import CachePolicy, RetryPolicy, StreamWriter, TimeoutPolicy, TracePolicy


class _Node(Protocol[NodeInputT_contra]):
    def __call__(self, state: NodeInputT_contra) -> Any: ...


class _NodeWithConfig(Protocol[NodeInputT_contra]):
    def __call__(self, state: NodeInputT_contra, config: "RunnableConfig") -> Any: ...


class _NodeWithWriter(Protocol[NodeInputT_contra]):
    def __call__(self, state: NodeInputT_contra, *, writer: "StreamWriter") -> Any: ...


class _NodeWithStore(Protocol[NodeInputT_contra]):
    def __call__(self, state: NodeInputT_contra, *, store: "BaseStore") -> Any: ...


class _NodeWithWriterStore(Protocol[NodeInputT_contra]):
    def __call__(self, state: NodeInputT_contra, *, writer: "StreamWriter", store: "BaseStore") -> Any: ...


class _NodeWithConfigWriter(Protocol[NodeInputT_contra]):
    def __call__(self, state: NodeInputT_contra, *, config: "RunnableConfig", writer: "StreamWriter") -> Any: ...


class _NodeWithConfigStore(Protocol[NodeInputT_contra]):
    def __call__(self, state: NodeInputT_contra, *, config: "RunnableConfig", store: "BaseStore") -> Any: ...


class _NodeWithConfigWriterStore(Protocol[NodeInputT_contra]):
    def __call__(
        self, state: NodeInputT_contra, *, config: "RunnableConfig", writer: "StreamWriter", store: "BaseStore"
    ) -> Any: ...


class _NodeWithRuntime(Protocol[NodeInputT_contra, ContextT]):
    def __call__(self, state: NodeInputT_contra, *, runtime: "Runtime[ContextT]") -> Any: ...


if typing.TYPE_CHECKING:
    from datetime import timedelta

    from typing_extensions import TypedDict

    class NodeOptions(TypedDict, total=False):
        """What `StateGraph.add_node` can be told beside the node."""

        defer: bool
        metadata: dict[str, Any] | None
        retry_policy: RetryPolicy | Sequence[RetryPolicy] | None
        cache_policy: CachePolicy[Any] | None
        error_handler: "StateNode[Any, Any] | None"
        destinations: dict[str, str] | tuple[str, ...] | None
        timeout: float | timedelta | TimeoutPolicy | None
        trace_policy: TracePolicy | None

    from dynamo.runtime.client import Client

    StateNode: TypeAlias = (
        _Node[NodeInputT]
        | _NodeWithConfig[NodeInputT]
        | _NodeWithWriter[NodeInputT]
        | _NodeWithStore[NodeInputT]
        | _NodeWithWriterStore[NodeInputT]
        | _NodeWithConfigWriter[NodeInputT]
        | _NodeWithConfigStore[NodeInputT]
        | _NodeWithConfigWriterStore[NodeInputT]
        | _NodeWithRuntime[NodeInputT, ContextT]
        | Runnable[NodeInputT, Any]
        | Client
    )
else:
    StateNode: TypeAlias = Any


@dataclass(slots=True)
class StateNodeSpec(Generic[NodeInputT, ContextT]):
    """A node as it was added.

    Attributes
    ----------
    runnable : what runs
    input_schema : which keys of the state it gets
    ends : the nodes its Commands may go to, as names or with labels for drawings
    defer : whether it waits until nothing else is left to run
    is_error_handler, error_handler_node : whether it handles errors of others; who handles its own
    """

    runnable: "StateNode[NodeInputT, ContextT]"
    metadata: dict[str, Any] | None
    input_schema: type[NodeInputT]
    retry_policy: "RetryPolicy | Sequence[RetryPolicy] | None"
    cache_policy: "CachePolicy[Any] | None"
    is_error_handler: bool = False
    error_handler_node: str | None = None
    ends: tuple[str, ...] | dict[str, str] | None = EMPTY_SEQ
    defer: bool = False
    timeout: "TimeoutPolicy | None" = None
    trace_policy: "TracePolicy | None" = None


own(globals())
