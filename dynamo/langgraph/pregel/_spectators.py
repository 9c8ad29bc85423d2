"""What the handlers have in common that bring parts of a run into its streams: they see some graphs, and say where."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.pregel._messages import graph_namespace

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.protocol import StreamChunk

T = TypeVar("T")


class Spectator(BaseCallbackHandler, _StreamingCallbackHandler):  # type: ignore[type-arg]
    """A handler that puts what it sees into a stream.

    Parameters
    ----------
    stream
        Takes the chunks ``(namespace, mode, payload)``.
    subgraphs
        Whether to show what happens in graphs inside the one that is streamed.
    parent_ns
        The namespace of the graph that is streamed, if it is inside another one itself.
    """

    run_inline = True  # order matters, and so does the context of who is watched

    def __init__(
        self, stream: "Callable[[StreamChunk], None]", subgraphs: bool, *, parent_ns: tuple[str, ...] | None = None
    ) -> None:
        self.stream, self.subgraphs, self.parent_ns = stream, subgraphs, parent_ns

    def place(self, metadata: dict[str, Any] | None, tags: list[str] | None, unless: str = "") -> Any:
        """The namespace of the graph in which a run with this metadata is shown; None if it is not.

        Parameters
        ----------
        unless
            A tag of runs that are not to be shown.
        """
        if not metadata or "langgraph_checkpoint_ns" not in metadata or unless in (tags or ()):
            return None
        inside = graph_namespace(metadata)
        return inside if self.shows(inside) else None

    def shows(self, ns: tuple[str, ...]) -> bool:
        """Whether it shows what happens in the graph with this namespace."""
        return self.subgraphs or ns in ((), self.parent_ns)

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[T]) -> AsyncIterator[T]:
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[T]) -> Iterator[T]:
        return output


own(globals())
