"""Handlers that are told when a graph is interrupted and when it goes on.

They are given like langchain-core's handlers, in ``config["callbacks"]``. Their two events have nothing to do with the
runs that langchain-core traces, so managers of their own dispatch them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.runnables import RunnableConfig

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.types import Interrupt

__all__ = (
    "GraphCallbackHandler",
    "GraphInterruptEvent",
    "GraphLifecycleEvent",
    "GraphLifecycleStatus",
    "GraphResumeEvent",
    "get_async_graph_callback_manager_for_config",
    "get_sync_graph_callback_manager_for_config",
)

GraphLifecycleStatus = Literal["input", "pending", "done", "interrupt_before", "interrupt_after", "out_of_steps"]


@dataclass(frozen=True)
class GraphInterruptEvent:
    """A graph has stopped to wait.

    Attributes
    ----------
    run_id : the id of the run, if it has one
    status : what the engine was doing
    checkpoint_id, checkpoint_ns : where the graph can be resumed; the namespace is empty for the outermost graph
    interrupts : the questions
    """

    run_id: UUID | None
    status: GraphLifecycleStatus
    checkpoint_id: str
    checkpoint_ns: tuple[str, ...]
    interrupts: tuple[Interrupt[Any], ...]


@dataclass(frozen=True)
class GraphResumeEvent:
    """A graph goes on from a checkpoint."""

    run_id: UUID | None
    status: GraphLifecycleStatus
    checkpoint_id: str
    checkpoint_ns: tuple[str, ...]


GraphLifecycleEvent: TypeAlias = GraphInterruptEvent | GraphResumeEvent


class GraphCallbackHandler(BaseCallbackHandler):
    """Base for handlers; either method may be a coroutine function where the graph is run asynchronously."""

    def on_interrupt(self, event: GraphInterruptEvent) -> Any:
        """The graph has stopped to wait."""

    def on_resume(self, event: GraphResumeEvent) -> Any:
        """The graph goes on."""


_MISSING = object()
_Manager = TypeVar("_Manager", bound="_GraphManager")


def _only_graph_handlers(handlers: Sequence[BaseCallbackHandler]) -> list[GraphCallbackHandler]:
    return [handler for handler in handlers if isinstance(handler, GraphCallbackHandler)]


class _GraphManager(BaseCallbackManager):
    """Keeps handlers of any kind; only those for graphs hear of graphs."""

    run_id: UUID | None

    def __init__(
        self,
        handlers: Sequence[GraphCallbackHandler] | None = None,
        inheritable_handlers: Sequence[GraphCallbackHandler] | None = None,
        parent_run_id: UUID | None = None,
        *,
        run_id: UUID | None = None,
        **labels: Any,
    ) -> None:
        super().__init__(list(handlers or ()), list(inheritable_handlers or ()), parent_run_id, **labels)
        self.run_id = run_id

    def copy(self: _Manager, *, run_id: UUID | object | None = _MISSING) -> _Manager:
        """A manager with the same handlers, for the run `run_id`."""
        twin = type(self)(
            _only_graph_handlers(self.handlers),
            _only_graph_handlers(self.inheritable_handlers),
            self.parent_run_id,
            run_id=self.run_id if run_id is _MISSING else run_id,  # type: ignore[arg-type]
            tags=self.tags.copy(),
            inheritable_tags=self.inheritable_tags.copy(),
            metadata=self.metadata.copy(),
            inheritable_metadata=self.inheritable_metadata.copy(),
        )
        return twin

    @classmethod
    def configure(cls: type[_Manager], callbacks: object | None = None, *, run_id: UUID | None = None) -> _Manager:
        """A manager for whatever a configuration has as callbacks: nothing, a handler, several, or a manager."""
        if isinstance(callbacks, BaseCallbackManager):
            twin = cls(
                _only_graph_handlers(callbacks.handlers),
                _only_graph_handlers(callbacks.inheritable_handlers),
                callbacks.parent_run_id,
                run_id=run_id or getattr(callbacks, "run_id", None),
            )
            twin.add_tags(callbacks.tags, inherit=False)
            twin.add_metadata(callbacks.metadata, inherit=False)
            return twin
        if isinstance(callbacks, BaseCallbackHandler):
            callbacks = (callbacks,)
        if callbacks is not None and not isinstance(callbacks, Sequence):
            raise TypeError(f"callbacks must be handlers or a manager of them, not {type(callbacks).__name__}")
        handlers = _only_graph_handlers(callbacks or ())
        return cls(handlers, handlers, run_id=run_id)


class _GraphCallbackManager(_GraphManager):
    """Dispatches at once."""

    def on_interrupt(self, event: GraphInterruptEvent) -> None:
        if chosen := _only_graph_handlers(self.handlers):
            handle_event(chosen, "on_interrupt", None, event)  # type: ignore[arg-type]

    def on_resume(self, event: GraphResumeEvent) -> None:
        if chosen := _only_graph_handlers(self.handlers):
            handle_event(chosen, "on_resume", None, event)  # type: ignore[arg-type]


class _AsyncGraphCallbackManager(_GraphManager):
    """Dispatches from a coroutine, and waits for handlers that are coroutine functions."""

    @property
    def is_async(self) -> bool:
        return True

    async def on_interrupt(self, event: GraphInterruptEvent) -> None:
        if chosen := _only_graph_handlers(self.handlers):
            await ahandle_event(chosen, "on_interrupt", None, event)  # type: ignore[arg-type]

    async def on_resume(self, event: GraphResumeEvent) -> None:
        if chosen := _only_graph_handlers(self.handlers):
            await ahandle_event(chosen, "on_resume", None, event)  # type: ignore[arg-type]


GraphCallbacks: TypeAlias = (
    _GraphCallbackManager
    | _AsyncGraphCallbackManager
    | BaseCallbackManager
    | GraphCallbackHandler
    | Sequence[BaseCallbackHandler]
    | None
)


def get_sync_graph_callback_manager_for_config(
    config: RunnableConfig, *, run_id: UUID | None = None
) -> _GraphCallbackManager:
    """The manager of graph events for a configuration."""
    return _GraphCallbackManager.configure(config.get("callbacks"), run_id=run_id)


def get_async_graph_callback_manager_for_config(
    config: RunnableConfig, *, run_id: UUID | None = None
) -> _AsyncGraphCallbackManager:
    """The manager of graph events for a configuration, in async runs."""
    return _AsyncGraphCallbackManager.configure(config.get("callbacks"), run_id=run_id)


own(globals())
