"""The handler that brings calls of tools into the stream "tools"."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.constants import TAG_NOSTREAM
from dynamo.langgraph.errors import GraphBubbleUp, ParentCommand
from dynamo.langgraph.pregel._messages import graph_namespace

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.protocol import StreamChunk

T = TypeVar("T")
ToolCallWriter: TypeAlias = Callable[[Any], None]

# Inside a tool: adds to its output as the stream shows it.
_tool_call_writer: ContextVar[ToolCallWriter | None] = ContextVar("langgraph_tool_call_writer", default=None)


class StreamToolCallHandler(BaseCallbackHandler, _StreamingCallbackHandler):  # type: ignore[type-arg]
    """Shows when tools start, what they say meanwhile, and how they end.

    Parameters
    ----------
    stream
        Takes the chunks ``(namespace, "tools", event)``.
    subgraphs, parent_ns
        As for messages: which graphs are shown.
    """

    run_inline = True  # the writer has to be set in the context of the tool

    def __init__(
        self, stream: "Callable[[StreamChunk], None]", subgraphs: bool, *, parent_ns: tuple[str, ...] | None = None
    ) -> None:
        self.stream = stream
        self.subgraphs = subgraphs
        self.parent_ns = parent_ns
        self._calls: dict[UUID, tuple[tuple[str, ...], str, Token[ToolCallWriter | None]]] = {}

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[T]) -> AsyncIterator[T]:
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[T]) -> Iterator[T]:
        return output

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if not metadata or "langgraph_checkpoint_ns" not in metadata or TAG_NOSTREAM in (tags or ()):
            return
        ns = graph_namespace(metadata)
        if ns and not self.subgraphs and ns != self.parent_ns:
            return
        call_id = kwargs.get("tool_call_id") or str(run_id)

        def write(delta: Any) -> None:
            self.stream((ns, "tools", {"event": "tool-output-delta", "tool_call_id": call_id, "delta": delta}))

        self._calls[run_id] = ns, call_id, _tool_call_writer.set(write)
        name = (serialized or {}).get("name") or kwargs.get("name") or ""
        started = {"event": "tool-started", "tool_call_id": call_id, "tool_name": name}
        self.stream((ns, "tools", started if inputs is None else {**started, "input": inputs}))

    def on_tool_end(self, output: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> Any:
        self._ended(run_id, event="tool-finished", output=output)

    def on_tool_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> Any:
        if isinstance(error, GraphBubbleUp) and not isinstance(error, ParentCommand):
            self._ended(run_id)  # it has not failed: the run stops here and comes back
        else:
            self._ended(run_id, event="tool-error", message=str(error))

    def _ended(self, run_id: UUID, *, event: str | None = None, **what: Any) -> None:
        call = self._calls.pop(run_id, None)
        if call is None:
            return
        ns, call_id, token = call
        try:
            _tool_call_writer.reset(token)
        except ValueError:  # the tool ended in another context than it started in
            _tool_call_writer.set(None)
        if event is not None:
            self.stream((ns, "tools", {"event": event, "tool_call_id": call_id, **what}))


own(globals())
