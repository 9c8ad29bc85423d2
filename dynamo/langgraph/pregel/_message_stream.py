"""Handlers that bring what models say, and what nodes make of it, into the stream "messages".

A run of a model or a node is noted when it starts (`metadata`: where to show it), and what it ends with is shown as far
as it was not shown before (`seen`: ids of messages).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID, uuid4

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from langchain_core.tracers._streaming import _V2StreamingCallbackHandler

from dynamo.langgraph._internal._config import filter_to_user_tags
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.constants import TAG_HIDDEN, TAG_NOSTREAM
from dynamo.langgraph.pregel._spectators import Spectator
from dynamo.langgraph.types import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamo.langgraph.pregel.protocol import StreamChunk

Meta: TypeAlias = tuple[tuple[str, ...], dict[str, Any]]  # namespace of the graph, metadata of the run


def _state_values(state: Any) -> Iterable[Any]:
    """The values in a state, whatever its class."""
    if isinstance(state, dict):
        return tuple(state.values())
    if is_dataclass(state) and not isinstance(state, type):
        names: Iterable[str] = (field.name for field in fields(state))
    else:
        known = getattr(type(state), "model_fields", None)
        names = known if isinstance(known, Mapping) else ()
    return [getattr(state, name) for name in names]


def _messages_in(values: Iterable[Any]) -> Iterator[BaseMessage]:
    for value in values:
        several = value if isinstance(value, (list, tuple)) else (value,)
        yield from (one for one in several if isinstance(one, BaseMessage))


def _answer(response: LLMResult) -> list[BaseMessage]:
    """The message of a model's result, if it has one."""
    first = response.generations[0] if response.generations else ()
    message = getattr(first[0], "message", None) if first else None
    return [message] if isinstance(message, BaseMessage) else []


class StreamMessagesHandler(Spectator):
    """Shows the pieces of a model's answer as they come, and whole messages that a node returns.

    The chunks are ``(namespace, "messages", (message, metadata))``.
    """

    def __init__(
        self, stream: "Callable[[StreamChunk], None]", subgraphs: bool, *, parent_ns: tuple[str, ...] | None = None
    ) -> None:
        Spectator.__init__(self, stream, subgraphs, parent_ns=parent_ns)
        self.metadata: dict[UUID, Meta] = {}
        self.seen: set[int | str] = set()

    def show(self, where: Meta, message: BaseMessage) -> None:
        """Show a message, which gets an id if it has none."""
        message.id = str(uuid4()) if message.id is None else message.id
        self.seen.add(message.id)
        ns, about = where
        self.stream((ns, "messages", (message, about)))

    def _over(self, run_id: UUID, messages: Iterable[BaseMessage] = ()) -> None:
        """A run has ended, with these messages."""
        where = self.metadata.pop(run_id, None)
        if where is not None:
            for message in messages:
                if message.id not in self.seen:
                    self.show(where, message)

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

    # ---------------------------------------------------------------- models
    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        ns = self.place(metadata, tags, TAG_NOSTREAM)
        if ns is not None:
            shown = filter_to_user_tags(tags)
            self.metadata[run_id] = ns, {**(metadata or {}), "tags": shown} if shown else metadata or {}

    def on_llm_new_token(  # type: ignore[override]
        self, token: str, *, chunk: ChatGenerationChunk | None = None, run_id: UUID, **kwargs: Any
    ) -> Any:
        where = self.metadata.get(run_id)
        if where is not None and isinstance(chunk, ChatGenerationChunk):
            self.show(where, chunk.message)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> Any:
        self._over(run_id, _answer(response))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Any:
        self._over(run_id)

    # ---------------------------------------------------------------- nodes
    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        ns = self.place(metadata, tags, TAG_HIDDEN)
        if ns is None or metadata is None or kwargs.get("name") != metadata.get("langgraph_node"):
            return  # hidden, or a step inside a node
        self.metadata[run_id] = ns, metadata
        # What the node was given is not news when it returns it.
        self.seen.update(message.id for message in _messages_in(_state_values(inputs)) if message.id is not None)

    def on_chain_end(  # type: ignore[override]
        self, response: Any, *, run_id: UUID, **kwargs: Any
    ) -> Any:
        self._over(run_id, self._returned(response))

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Any:
        self._over(run_id)


class StreamMessagesHandlerV2(StreamMessagesHandler, _V2StreamingCallbackHandler):
    """Shows the events of a model's answer (message-start, content-block-delta, ...) instead of pieces of it."""

    _told: "set[UUID]"  # models whose answers have come as events

    def __init__(
        self, stream: "Callable[[StreamChunk], None]", subgraphs: bool, *, parent_ns: tuple[str, ...] | None = None
    ) -> None:
        StreamMessagesHandler.__init__(self, stream, subgraphs, parent_ns=parent_ns)
        self._told = set()

    def _returned(self, response: Any) -> Iterator[BaseMessage]:
        # Results of tools have a stream of their own.
        return (message for message in super()._returned(response) if not isinstance(message, ToolMessage))

    def on_llm_new_token(  # type: ignore[override]
        self, token: str, *, chunk: ChatGenerationChunk | None = None, run_id: UUID, **kwargs: Any
    ) -> Any:
        """Nothing: the same comes as an event."""

    def on_stream_event(  # type: ignore[override]
        self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any
    ) -> Any:
        if run_id not in self.metadata:
            return  # of a model that is not shown
        ns, about = self.metadata[run_id]
        if event.get("event") == "message-start":
            self._told.add(run_id)
            self.seen.update([event["message_id"]] if event.get("message_id") else ())
        self.stream((ns, "messages", (event, {**about, "run_id": str(run_id)})))

    def _over(self, run_id: UUID, messages: Iterable[BaseMessage] = ()) -> None:
        if run_id in self._told:
            self._told.remove(run_id)
            # The message at the end is the one that was told; its id may be another than the events had.
            self.seen.update(message.id for message in messages if message.id)
            messages = ()
        super()._over(run_id, messages)


own(globals(), module="langgraph.pregel._messages")
