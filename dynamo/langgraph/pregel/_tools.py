"""The handler that brings calls of tools into the stream "tools"."""

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.constants import TAG_NOSTREAM
from dynamo.langgraph.errors import GraphBubbleUp, ParentCommand
from dynamo.langgraph.pregel._spectators import Spectator

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.protocol import StreamChunk

ToolCallWriter: TypeAlias = Callable[[Any], None]

# Inside a tool: adds to its output as the stream shows it.
_tool_call_writer: ContextVar[ToolCallWriter | None] = ContextVar("langgraph_tool_call_writer", default=None)


class StreamToolCallHandler(Spectator):
    """Shows when tools start, what they say meanwhile, and how they end.

    The chunks are ``(namespace, "tools", event)``. It runs inline, so that the writer is there in the context of the
    tool.
    """

    def __init__(
        self, stream: "Callable[[StreamChunk], None]", subgraphs: bool, *, parent_ns: tuple[str, ...] | None = None
    ) -> None:
        Spectator.__init__(self, stream, subgraphs, parent_ns=parent_ns)
        self._calls: dict[UUID, tuple[tuple[str, ...], str, Token[ToolCallWriter | None]]] = {}

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if (ns := self.place(metadata, tags, TAG_NOSTREAM)) is None:
            return
        call_id = kwargs.get("tool_call_id") or str(run_id)

        def write(delta: Any) -> None:
            self.stream((ns, "tools", {"event": "tool-output-delta", "tool_call_id": call_id, "delta": delta}))

        self._calls[run_id] = ns, call_id, _tool_call_writer.set(write)
        name = (serialized or {}).get("name") or kwargs.get("name") or ""
        started = {"event": "tool-started", "tool_call_id": call_id, "tool_name": name}
        self.stream((ns, "tools", started if inputs is None else {**started, "input": inputs}))

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> Any:
        self._ended(run_id, event="tool-finished", output=output)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Any:
        if isinstance(error, GraphBubbleUp) and not isinstance(error, ParentCommand):
            self._ended(run_id)  # it has not failed: the run stops here and comes back
        else:
            self._ended(run_id, event="tool-error", message=str(error))

    def _ended(self, run_id: UUID, *, event: str | None = None, **what: Any) -> None:
        call = self._calls.pop(run_id, None)
        if call is None:
            return
        ns, call_id, before = call
        try:
            _tool_call_writer.reset(before)
        except ValueError:  # the tool ended in another context than it started in
            _tool_call_writer.set(None)
        if event is not None:
            self.stream((ns, "tools", {"event": event, "tool_call_id": call_id, **what}))


own(globals())
