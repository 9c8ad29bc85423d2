"""An endpoint as a node of a graph.

state --request--> the endpoint --items--> texts, chunks of a chat answer: one message, shown as it comes
                                           mappings: updates of the state
"""

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from dynamo.errors import InvalidArgument
from dynamo.graphs.calls import items, run_blocking, thread_of
from dynamo.graphs.chats import chunk_of, is_chunk, messages_of, plain, to_openai
from dynamo.langgraph._internal._config import get_async_callback_manager_for_config
from dynamo.langgraph._internal._runnable import RunnableCallable, watched

if TYPE_CHECKING:
    from langchain_core.messages import AIMessageChunk
    from langchain_core.runnables import RunnableConfig

__all__ = ["endpoint_node"]

Kind = Literal["chat", "state", "graph"]


def endpoint_node(
    client: Any,
    *,
    name: str | None = None,
    kind: Kind | None = None,
    request: Callable[[Any], Any] | None = None,
    result: Callable[[list[Any]], Any] | None = None,
    output: str | None = None,
    deadline: float | None = None,
    sticky: bool = True,
) -> RunnableCallable:
    """A node that calls an endpoint.

    ``add_node("answer", client)`` does the same with the defaults.

    Parameters
    ----------
    client : of the endpoint, from ``await endpoint.client()``
    name : in traces; by default the path of the endpoint
    kind : what is sent. "chat": ``{"messages": [...]}`` as the OpenAI API has them; "state": what the node gets, as
        plain values; "graph": a request for a graph that `serve_graph` serves, whose output is the update. By default
        "chat" for a state with messages, else "state"
    request : makes the request of what the node gets; then `kind` is not needed
    result : makes the update of the list of all items
    output : the key of the state for the text of the answer; of a state with messages, it is added to these
    deadline : seconds for the whole answer; then RequestTimeout is raised
    sticky : ask the same worker for every call of a thread

    Notes
    -----
    Texts, and chunks of chat answers, are shown in the stream mode "messages" as they come. Items that are mappings
    are updates of the state, in their order. A synchronous run makes its calls on a loop of its own.

    Examples
    --------
    >>> graph.add_node("answer", endpoint_node(client, output="answer", deadline=30))  # doctest: +SKIP
    """
    if kind not in (None, "chat", "state", "graph"):
        raise InvalidArgument(f"kind is {kind!r}: it is 'chat', 'state' or 'graph'")
    if deadline is not None and not deadline > 0:
        raise InvalidArgument(f"deadline is {deadline!r}: it is a number of seconds above 0")
    shown = name or str(getattr(getattr(client, "endpoint", None), "path", "endpoint"))

    async def acall(state: Any, config: "RunnableConfig") -> Any:
        chosen = kind or ("chat" if messages_of(state) is not None else "state")
        thread = thread_of(config)
        asked = request(state) if request is not None else _request(state, chosen, thread)
        answer = _Answer(shown, config, messages_of(state) or [], result is not None or chosen == "graph")
        stream = items(client, asked, thread=thread, deadline=deadline, sticky=sticky)
        try:
            async for item in stream:
                await answer.take(item)
        except BaseException as error:
            await answer.failed(error)
            raise
        finally:
            await stream.aclose()
        message = await answer.end()
        if result is not None:
            return result(answer.items or [])
        if chosen == "graph" and request is None:
            return _output_of(answer.items or [], shown)
        if message is None:
            return _together(answer.updates)
        if output is not None:
            return _together([*answer.updates, {output: message.content}])
        if messages_of(state) is None:
            raise InvalidArgument(
                f"endpoint {shown} answered with text, and the state has no messages to add it to: name a key of the "
                f"state with endpoint_node(client, output=...)"
            )
        return _together([*answer.updates, {"messages": [message]}])

    def call(state: Any, config: "RunnableConfig") -> Any:
        return run_blocking(lambda: acall(state, config))

    return RunnableCallable(call, acall, name=shown, trace=False)


def _together(updates: list[Any]) -> Any:
    """Several updates as what a node may return."""
    if len(updates) < 2:
        return updates[0] if updates else None
    from dynamo.langgraph.types import Command

    return [Command(update=update) for update in updates]


def _request(state: Any, kind: str, thread: str | None) -> Any:
    if kind == "state":
        return plain(state)
    if kind == "graph":
        return {"input": plain(state), **({} if thread is None else {"thread_id": thread})}
    messages = messages_of(state)
    if messages is None:
        raise InvalidArgument("kind is 'chat', and the state has no key 'messages' with a list of messages")
    return {"messages": to_openai(messages), "stream": True}


def _output_of(items: list[Any], name: str) -> Any:
    for item in reversed(items):
        if isinstance(item, Mapping) and "output" in item:
            if item.get("interrupts"):
                raise InvalidArgument(
                    f"the graph behind {name} stopped to ask ({item['interrupts'][0]['value']!r}): graphs that "
                    f"interrupt are resumed by who calls them with a thread_id, not from inside a node"
                )
            return item["output"]
    raise InvalidArgument(f"endpoint {name} gave no output: kind='graph' is for endpoints of serve_graph")


class _Answer:
    """What has come, and who is told of it: listeners hear of a chat model's run, from its first text to its end.

    Without listeners a text is only kept; pieces of messages are made for what is more than text.
    """

    def __init__(self, name: str, config: "RunnableConfig", messages: Any, keep: bool) -> None:
        self.name, self.config, self.messages = name, config, messages
        self.items: list[Any] | None = [] if keep else None
        self.updates: list[Any] = []
        self.texts: list[str] = []
        self.more: list[AIMessageChunk] = []  # calls of tools, usage, how it ended
        self.id = str(uuid.uuid4())
        self.watched = watched(config)
        self.run: Any = None

    async def take(self, item: Any) -> None:
        if self.items is not None:
            self.items.append(item)
        if isinstance(item, str) and not self.watched:
            self.texts.append(item)
        elif isinstance(item, str) or is_chunk(item):
            chunk = chunk_of(item, self.id)
            if chunk is not None:
                await self._said(chunk)
        elif item is not None:
            self.updates.append(item)

    async def _said(self, chunk: "AIMessageChunk") -> None:
        if self.watched:
            from langchain_core.outputs import ChatGenerationChunk

            if self.run is None:
                await self._begin()
            await self.run.on_llm_new_token(chunk.content, chunk=ChatGenerationChunk(message=chunk))
        self.texts.append(str(chunk.content))
        if chunk.tool_call_chunks or chunk.usage_metadata or chunk.response_metadata:
            self.more.append(chunk.model_copy(update={"content": ""}))

    async def _begin(self) -> None:
        from langchain_core.messages import convert_to_messages

        manager = get_async_callback_manager_for_config(self.config)
        about: Any = {"id": ["dynamo", "graphs", "endpoint", self.name], "name": self.name}
        (self.run,) = await manager.on_chat_model_start(
            about, [convert_to_messages(list(self.messages))], name=self.name
        )

    async def end(self) -> Any:
        """The message that the texts make up; None if there were none."""
        if not self.texts:
            return None
        from langchain_core.messages import AIMessage, AIMessageChunk
        from langchain_core.messages.ai import add_ai_message_chunks
        from langchain_core.messages.utils import message_chunk_to_message

        text = "".join(self.texts)
        message: Any = AIMessage(text, id=self.id)
        if self.more:
            message = message_chunk_to_message(
                add_ai_message_chunks(AIMessageChunk(content=text, id=self.id), *self.more)
            )
        if self.run is not None:
            from langchain_core.outputs import ChatGeneration, LLMResult

            await self.run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))
        return message

    async def failed(self, error: BaseException) -> None:
        if self.run is not None:
            await self.run.on_llm_error(error)
