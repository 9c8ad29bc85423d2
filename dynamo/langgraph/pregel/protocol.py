"""What everything that can be run as a graph has in common, here or on a server."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from dynamo.langgraph._internal._langchain import VirtualRunnable
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.types import All, Command, StateSnapshot, StateUpdate, StreamMode
from dynamo.langgraph.typing import ContextT, InputT, OutputT, StateT

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.graph import Graph
    from typing_extensions import Self

__all__ = ("PregelProtocol", "StreamProtocol")


class PregelProtocol(VirtualRunnable, Generic[StateT, ContextT, InputT, OutputT]):
    """A graph: its runs, its state and its drawing, each for plain and for asynchronous callers."""

    @abstractmethod
    def with_config(self, config: "RunnableConfig | None" = None, **kwargs: Any) -> "Self":
        """The same graph, with this merged into the config of every run."""

    @abstractmethod
    def get_graph(self, config: "RunnableConfig | None" = None, *, xray: int | bool = False) -> "Graph":
        """The drawing of the graph."""

    @abstractmethod
    async def aget_graph(self, config: "RunnableConfig | None" = None, *, xray: int | bool = False) -> "Graph":
        """`get_graph` for asynchronous callers."""

    @abstractmethod
    def get_state(self, config: "RunnableConfig", *, subgraphs: bool = False) -> StateSnapshot:
        """The state of a thread, or of one of its checkpoints."""

    @abstractmethod
    async def aget_state(self, config: "RunnableConfig", *, subgraphs: bool = False) -> StateSnapshot:
        """`get_state` for asynchronous callers."""

    @abstractmethod
    def get_state_history(
        self,
        config: "RunnableConfig",
        *,
        filter: dict[str, Any] | None = None,
        before: "RunnableConfig | None" = None,
        limit: int | None = None,
    ) -> Iterator[StateSnapshot]:
        """The states of a thread, the latest first."""

    @abstractmethod
    def aget_state_history(
        self,
        config: "RunnableConfig",
        *,
        filter: dict[str, Any] | None = None,
        before: "RunnableConfig | None" = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        """`get_state_history` for asynchronous callers."""

    @abstractmethod
    def bulk_update_state(self, config: "RunnableConfig", updates: Sequence[Sequence[StateUpdate]]) -> "RunnableConfig":
        """Apply updates, each list of them as a superstep."""

    @abstractmethod
    async def abulk_update_state(
        self, config: "RunnableConfig", updates: Sequence[Sequence[StateUpdate]]
    ) -> "RunnableConfig":
        """`bulk_update_state` for asynchronous callers."""

    @abstractmethod
    def update_state(
        self, config: "RunnableConfig", values: dict[str, Any] | Any | None, as_node: str | None = None
    ) -> "RunnableConfig":
        """Change the state of a thread as if a node had written."""

    @abstractmethod
    async def aupdate_state(
        self, config: "RunnableConfig", values: dict[str, Any] | Any | None, as_node: str | None = None
    ) -> "RunnableConfig":
        """`update_state` for asynchronous callers."""

    @abstractmethod
    def stream(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        stream_mode: StreamMode | list[StreamMode] | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        subgraphs: bool = False,
        version: Literal["v1", "v2"] = "v1",
    ) -> Iterator[dict[str, Any] | Any]:
        """Run the graph, and show what happens on the way."""

    @abstractmethod
    def astream(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        stream_mode: StreamMode | list[StreamMode] | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        subgraphs: bool = False,
        version: Literal["v1", "v2"] = "v1",
    ) -> AsyncIterator[dict[str, Any] | Any]:
        """`stream` for asynchronous callers."""

    @abstractmethod
    def invoke(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        version: Literal["v1", "v2"] = "v1",
    ) -> dict[str, Any] | Any:
        """Run the graph, and give its output."""

    @abstractmethod
    async def ainvoke(
        self,
        input: InputT | Command[Any] | None,
        config: "RunnableConfig | None" = None,
        *,
        context: ContextT | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        version: Literal["v1", "v2"] = "v1",
    ) -> dict[str, Any] | Any:
        """`invoke` for asynchronous callers."""


StreamChunk: TypeAlias = tuple[tuple[str, ...], str, Any]  # namespace, mode, what is shown


class StreamProtocol:
    """Where a run puts what it shows.

    Parameters
    ----------
    __call__
        Takes a chunk ``(namespace, mode, payload)``.
    modes
        The stream modes that somebody reads; no other chunks need to be made.
    """

    __slots__ = ("__call__", "modes")
    modes: set[StreamMode]
    __call__: Callable[[StreamChunk], None]

    def __init__(self, __call__: Callable[[StreamChunk], None], modes: set[StreamMode]) -> None:
        self.__call__, self.modes = __call__, modes


own(globals())
