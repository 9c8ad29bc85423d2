"""Handlers that bring what models say, and what nodes make of it, into the stream "messages"."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from langchain_core.tracers._streaming import _StreamingCallbackHandler, _V2StreamingCallbackHandler

from dynamo.langgraph._internal._config import filter_to_user_tags
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.constants import TAG_HIDDEN, TAG_NOSTREAM
from dynamo.langgraph.pregel._messages import graph_namespace
from dynamo.langgraph.types import Command

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.protocol import StreamChunk

T = TypeVar("T")
Meta: TypeAlias = tuple[tuple[str, ...], dict[str, Any]]  # namespace of the graph, metadata of the run


def _state_values(obj: Any) -> Sequence[Any]:
    """The values in a state, whatever its class."""
    if isinstance(obj, dict):
        return list(obj.values())
    if is_dataclass(obj) and not isinstance(obj, type):
        return [getattr(obj, field.name) for field in fields(obj)]
    names = getattr(type(obj), "model_fields", None)
    return [getattr(obj, name) for name in names] if isinstance(names, Mapping) else ()


def _messages_in(values: Sequence[Any]) -> Iterator[BaseMessage]:
    for value in values:
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, BaseMessage):
                yield item


class StreamMessagesHandler(BaseCallbackHandler, _StreamingCallbackHandler):  # type: ignore[type-arg]
    """Shows the pieces of a model's answer as they come, and whole messages that a node returns.

    Parameters
    ----------
    stream
        Takes the chunks ``(namespace, "messages", (message, metadata))``.
    subgraphs
        Whether to show what happens in graphs inside the one that is streamed.
    parent_ns
        The namespace of the graph that is streamed, if it is inside another one itself.
    """

    run_inline = True  # the order of messages matters

    def __init__(
        self, stream: "Callable[[StreamChunk], None]", subgraphs: bool, *, parent_ns: tuple[str, ...] | None = None
    ) -> None:
        self.stream = stream
        self.subgraphs = subgraphs
        self.parent_ns = parent_ns
        self.metadata: dict[UUID, Meta] = {}
        self.seen: set[int | str] = set()

    def _place(self, metadata: dict[str, Any] | None) -> Meta | None:
        """Where a run is shown; None if it is not."""
        if not metadata or "langgraph_checkpoint_ns" not in metadata:
            return None
        ns = graph_namespace(metadata)
        return (ns, metadata) if self.subgraphs or not ns or ns == self.parent_ns else None

    def _emit(self, meta: Meta, message: BaseMessage, *, dedupe: bool = False) -> None:
        if dedupe and message.id in self.seen:
            return
        if message.id is None:
            message.id = str(uuid4())
        self.seen.add(message.id)
        ns, metadata = meta
        self.stream((ns, "messages", (message, metadata)))

    def _find_and_emit_messages(self, meta: Meta, response: Any) -> None:
        for message in self._returned(response):
            self._emit(meta, message, dedupe=True)

    def _returned(self, response: Any) -> Iterator[BaseMessage]:
        """The messages in what a node returned."""
        if type(response) is Command:
            update = response.update
            yield from self._returned(update) if isinstance(update, dict) else _messages_in([update])
        elif isinstance(response, (list, tuple)) and any(isinstance(one, Command) for one in response):
            for one in response:
                yield from self._returned(one)
        elif isinstance(response, (BaseMessage, list, tuple)):
            yield from _messages_in([response])
        else:
            yield from _messages_in(_state_values(response))

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[T]) -> AsyncIterator[T]:
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[T]) -> Iterator[T]:
        return output

    # ---------------------------------------------------------------- models
    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        place = None if tags and TAG_NOSTREAM in tags else self._place(metadata)
        if place is not None:
            shown = filter_to_user_tags(tags)
            self.metadata[run_id] = (place[0], {**place[1], "tags": shown}) if shown else place

    def on_llm_new_token(  # type: ignore[override]
        self,
        token: str,
        *,
        chunk: ChatGenerationChunk | None = None,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        meta = self.metadata.get(run_id)
        if meta is not None and isinstance(chunk, ChatGenerationChunk):
            self._emit(meta, chunk.message)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> Any:
        meta = self.metadata.pop(run_id, None)
        message = _answer(response)
        if meta is not None and message is not None:
            self._emit(meta, message, dedupe=True)

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> Any:
        self.metadata.pop(run_id, None)

    # ---------------------------------------------------------------- nodes
    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if not metadata or kwargs.get("name") != metadata.get("langgraph_node") or (tags and TAG_HIDDEN in tags):
            return
        place = self._place(metadata)
        if place is None:
            return
        self.metadata[run_id] = place
        # What the node was given is not news when it returns it.
        self.seen.update(message.id for message in _messages_in(_state_values(inputs)) if message.id is not None)

    def on_chain_end(  # type: ignore[override]
        self, response: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> Any:
        meta = self.metadata.pop(run_id, None)
        if meta is not None:
            self._find_and_emit_messages(meta, response)

    def on_chain_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> Any:
        self.metadata.pop(run_id, None)


def _answer(response: LLMResult) -> BaseMessage | None:
    """The message of a model's result, if it has one."""
    first = response.generations[0] if response.generations else ()
    message = getattr(first[0], "message", None) if first else None
    return message if isinstance(message, BaseMessage) else None


class StreamMessagesHandlerV2(StreamMessagesHandler, _V2StreamingCallbackHandler):
    """Shows the events of a model's answer (message-start, content-block-delta, ...) instead of pieces of it."""

    def __init__(
        self, stream: "Callable[[StreamChunk], None]", subgraphs: bool, *, parent_ns: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(stream, subgraphs, parent_ns=parent_ns)
        self._streamed_run_ids: set[UUID] = set()

    def _returned(self, response: Any) -> Iterator[BaseMessage]:
        # Results of tools have a stream of their own.
        return (message for message in super()._returned(response) if not isinstance(message, ToolMessage))

    def on_llm_new_token(  # type: ignore[override]
        self,
        token: str,
        *,
        chunk: ChatGenerationChunk | None = None,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Nothing: the same comes as an event."""

    def on_stream_event(  # type: ignore[override]
        self,
        event: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        meta = self.metadata.get(run_id)
        if meta is None:
            return
        if event.get("event") == "message-start":
            self._streamed_run_ids.add(run_id)
            if event.get("message_id"):
                self.seen.add(event["message_id"])
        ns, metadata = meta
        self.stream((ns, "messages", (event, {**metadata, "run_id": str(run_id)})))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> Any:
        if run_id not in self._streamed_run_ids:
            super().on_llm_end(response, run_id=run_id, parent_run_id=parent_run_id, **kwargs)
            return
        self._streamed_run_ids.discard(run_id)
        self.metadata.pop(run_id, None)
        message = _answer(response)
        if message is not None and message.id:
            self.seen.add(message.id)  # its id may be another than the events had

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> Any:
        self._streamed_run_ids.discard(run_id)
        super().on_llm_error(error, run_id=run_id, parent_run_id=parent_run_id, **kwargs)


own(globals(), module="langgraph.pregel._messages")
