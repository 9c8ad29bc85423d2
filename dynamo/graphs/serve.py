"""A compiled graph as an endpoint, and as a model of the OpenAI API.

    {"messages": [...], "stream": ...}         a chat request   -->  chunks of a chat answer
    {"input": ..., "thread_id": ...}           a graph request  -->  parts of the stream, or {"output", "interrupts"}

I1  Of a request only plain values reach the graph: no callbacks, no keys of the runtime.
I2  With a thread id and a saver the saver's messages are the conversation; what is new in a request is what comes
    after its last answer. A thread that stopped to ask is resumed with the text of the next message.
I3  A conversation without a thread id leaves nothing in the saver.
I4  Requests of one thread run one after another: each finds what the one before it left.
"""

import asyncio
import contextlib
import time
import uuid
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamo.errors import InvalidArgument
from dynamo.graphs.calls import THREAD
from dynamo.graphs.chats import messages_of, plain, to_openai, usage_of

if TYPE_CHECKING:
    from dynamo.langgraph.pregel import Pregel
    from dynamo.runtime import Endpoint

__all__ = ["serve_graph"]

MODES = frozenset(("values", "updates", "messages", "custom", "tasks", "debug", "checkpoints"))
MAX_STEPS = 10_000
_SESSION = ("x-dynamo-session-id", "session_id")


async def serve_graph(
    endpoint: "Endpoint",
    graph: "Pregel[Any, Any, Any, Any]",
    model_name: str | None = None,
    *,
    nodes: Iterable[str] | None = None,
    context_length: int | None = None,
    graceful_shutdown: bool = True,
    metrics_labels: list[tuple[str, str]] | None = None,
    on_ready: Callable[[], object] | None = None,
) -> None:
    """Serve a compiled graph until the runtime is shut down.

    Parameters
    ----------
    endpoint : where; others call it with `endpoint_node`, `ChatEndpoint` or a client
    graph : a compiled graph; one whose state has ``messages`` takes chat requests too
    model_name : register it under this name, so that every front end offers it as a chat model
    nodes : whose messages are the answer of a chat request, graphs in them included; by default all of the graph's
    context_length : for the model's card; a graph has none of its own
    on_ready : called once requests can come

    Notes
    -----
    A graph request is a dict with ``input`` (or ``resume``) and perhaps ``thread_id``, ``config`` (``configurable``,
    ``recursion_limit``, ``tags``, ``metadata``), ``context``, ``stream_mode`` and ``subgraphs``. With a stream mode
    the items are ``{"mode", "ns", "data"}``; otherwise there is one, ``{"output", "interrupts"}``.

    A chat request names its thread as ``metadata: {"thread_id": ...}``, or in the header ``x-dynamo-session-id`` of the
    front end. Other fields of it (temperature, ...) are in ``config["configurable"]["request"]`` of the run.
    """
    from dynamo.llm.model import ModelInput, ModelType
    from dynamo.llm.register import register_model, unregister_model

    served = ServedGraph(graph, model_name, nodes)
    if model_name is not None and not served.chats:
        raise InvalidArgument(
            f"the graph {served.name!r} cannot be a chat model: its state has no key 'messages'. Give it one "
            f"(MessagesState), or serve it without model_name"
        )
    serving = asyncio.ensure_future(
        endpoint.serve_endpoint(served.handle, graceful_shutdown=graceful_shutdown, metrics_labels=metrics_labels)
    )
    try:
        while not endpoint.registered and not serving.done():  # noqa: ASYNC110 -- it is a turn or two
            await asyncio.sleep(0)
        if model_name is not None and not serving.done():
            await register_model(
                ModelInput.Text, ModelType.Chat, endpoint, model_name=model_name, context_length=context_length
            )
        if on_ready is not None and not serving.done():
            on_ready()
        await asyncio.shield(serving)
    finally:
        if model_name is not None:
            await unregister_model(endpoint)
        if not serving.done():
            serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


class ServedGraph:
    """The handler of a graph's endpoint."""

    def __init__(
        self, graph: "Pregel[Any, Any, Any, Any]", name: str | None = None, nodes: Iterable[str] | None = None
    ) -> None:
        if not callable(getattr(graph, "astream", None)) or not hasattr(graph, "channels"):
            raise InvalidArgument(f"{graph!r} is no compiled graph: serve what graph.compile() gives")
        self.graph, self.name = graph, name or graph.get_name()
        self.nodes = None if nodes is None else frozenset(nodes)
        unknown = sorted((self.nodes or frozenset()) - set(graph.nodes))
        if unknown:
            raise InvalidArgument(f"nodes has {unknown[0]!r}: the graph has {', '.join(map(repr, graph.nodes))}")
        self.chats = "messages" in graph.channels
        self.keeps = hasattr(graph.checkpointer, "aget_tuple")
        self.turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def handle(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        """Answer one request."""
        if not isinstance(request, Mapping):
            raise InvalidArgument(f"a request is a dict with 'messages' or 'input', not {type(request).__name__}")
        if "input" in request or "resume" in request:
            answer = self._run(request, context)
        elif isinstance(request.get("messages"), list) and request["messages"]:
            if not self.chats:
                raise InvalidArgument(f"the state of the graph {self.name!r} has no messages: send {{'input': ...}}")
            answer = self._chat(request, context)
        else:
            raise InvalidArgument("the request has neither 'messages' (a list, not empty) nor 'input'")
        try:
            async for item in answer:
                yield item
        finally:
            await answer.aclose()

    # ---- a graph request
    async def _run(self, request: Mapping[str, Any], context: Any) -> AsyncGenerator[Any, None]:
        from dynamo.langgraph.types import Command

        config = _config(request, context)
        more: dict[str, Any] = {} if request.get("context") is None else {"context": request["context"]}
        given: Any = Command(resume=request["resume"]) if "resume" in request else request["input"]
        modes = request.get("stream_mode")
        async with self._on_its_own(config):
            if modes is not None:
                modes = [modes] if isinstance(modes, str) else list(modes)
                if not MODES.issuperset(modes):
                    raise InvalidArgument(f"stream_mode is {modes!r}; there are {', '.join(sorted(MODES))}")
                stream = self.graph.astream(given, config, stream_mode=modes, subgraphs=True, **more)
                nested = bool(request.get("subgraphs"))
                async for ns, mode, data in stream:
                    if nested or not ns:
                        yield {"mode": mode, "ns": list(ns), "data": _shown(data)}
                return
            result = await self.graph.ainvoke(given, config, version="v2", **more)
            asked = [{"id": one.id, "value": _shown(one.value)} for one in result.interrupts]
            yield {"output": _shown(result.value), "interrupts": asked}

    # ---- a chat request
    async def _chat(self, request: Mapping[str, Any], context: Any) -> AsyncGenerator[Any, None]:
        messages = request["messages"]
        options = {k: v for k, v in request.items() if k not in ("messages", "model", "metadata", "stream")}
        config = _config({"thread_id": _thread_of(request, context)}, context)
        config["configurable"]["request"] = options
        thread = config["configurable"].get(THREAD)
        async with self._on_its_own(config):
            given: Any = {"messages": messages}
            if thread is not None and self.keeps:
                given = await self._next(config, messages)
            said = _Said(self.name, self.nodes)
            modes: Any = ["messages", "values"]
            async for ns, mode, data in self.graph.astream(given, config, stream_mode=modes, subgraphs=True):
                if mode == "messages":
                    message, about = data
                    node = ns[0].partition(":")[0] if ns else about.get("langgraph_node")
                    for chunk in said.message(message, node):
                        yield chunk
                elif not ns:
                    said.state(data)
            for chunk in said.end():
                yield chunk

    async def _next(self, config: dict[str, Any], messages: Sequence[Any]) -> Any:
        """What a thread gets: the answer to what it asks, or the messages that it has not seen."""
        from dynamo.langgraph.types import Command

        snapshot = await self.graph.aget_state(config)
        if snapshot.interrupts:
            return Command(resume=_text(messages[-1].get("content")))
        known = messages_of(snapshot.values) or ()
        if not known:
            return {"messages": list(messages)}  # the saver is new to it, whatever the client remembers
        new = messages[_seen(messages, known) :]
        fresh = [one for one in new if one.get("role") not in ("system", "developer")]
        if not fresh:
            raise InvalidArgument("messages has nothing after the last answer of the thread: send what is new")
        return {"messages": fresh}

    @contextlib.asynccontextmanager
    async def _on_its_own(self, config: dict[str, Any]) -> Any:
        """The turn of a thread, where there is a saver. A run without one gets its own, which is deleted afterwards."""
        configurable = config["configurable"]
        if not self.keeps:
            yield
            return
        thread = configurable.get(THREAD)
        if thread is not None:
            turn = self.turns.setdefault(thread, asyncio.Lock())
            async with turn:  # kept alive by who waits or runs, forgotten with the last of them
                yield
            return
        configurable[THREAD] = f"once-{uuid.uuid4()}"
        try:
            yield
        finally:
            delete = getattr(self.graph.checkpointer, "adelete_thread", None)
            if delete is not None:
                await asyncio.shield(delete(configurable[THREAD]))


class _Said:
    """The chunks of a chat answer, out of what a run shows."""

    def __init__(self, model: str, nodes: "frozenset[str] | None") -> None:
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self.nodes = nodes
        self.first = True
        self.last_id: Any = None  # of the message that is being said
        self.said = False
        self.values: Any = {}
        self.before: int | None = None  # messages that were there when the run began

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        if self.first:
            self.first = False
            delta = {"role": "assistant", **delta}
        return {**self.head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}

    def state(self, values: Any) -> None:
        self.values = values
        if self.before is None:
            self.before = len(messages_of(values) or ())

    def message(self, message: Any, node: str | None) -> Iterable[dict[str, Any]]:
        if message.type not in ("ai", "AIMessageChunk"):
            return
        if self.nodes is not None and node not in self.nodes:
            return
        text = _text(message.content)
        if not text:
            return
        if self.said and message.id != self.last_id:
            text = "\n\n" + text
        self.said, self.last_id = True, message.id
        yield self._chunk({"content": text})

    def end(self) -> Iterable[dict[str, Any]]:
        new = (messages_of(self.values) or ())[self.before or 0 :]
        asked = [
            {"id": one.id, "value": _shown(one.value)}
            for one in (self.values.get("__interrupt__") or () if isinstance(self.values, Mapping) else ())
        ]
        if asked:
            question = asked[0]["value"]
            text = question if isinstance(question, str) else _text_of_question(question)
            yield self._chunk({"content": ("\n\n" if self.said else "") + text})
        last = new[-1] if new and getattr(new[-1], "type", "") == "ai" else None
        calls = [] if last is None else _calls_of(last)
        if not asked and not self.said and last is not None and _text(last.content):
            yield self._chunk({"content": _text(last.content)})
        if calls:  # tools of the client: the graph has left them open
            yield self._chunk({"tool_calls": calls})
        usage = usage_of([one for one in new if hasattr(one, "usage_metadata")])
        more: dict[str, Any] = {"nvext": {"interrupts": asked}} if asked else {}
        yield self._chunk({}, "tool_calls" if calls else "stop", usage=usage, **more)


def _seen(messages: Sequence[Mapping[str, Any]], known: Sequence[Any]) -> int:
    """How many messages of a request a thread has: up to the last answer that it knows, else up to the last one.

    What an answer said may be the texts of several messages, the last of them at its end. Answers after the last known
    one were given elsewhere, while the thread's worker could not be reached, and are new to it.
    """
    texts = {_text(one.content) for one in known if getattr(one, "type", "") == "ai"} - {""}
    calls = {call["id"] for one in known for call in getattr(one, "tool_calls", None) or ()}
    last = 0
    for at in range(len(messages), 0, -1):
        message = messages[at - 1]
        if message.get("role") != "assistant":
            continue
        last = last or at
        said = _text(message.get("content"))
        if any(said == text or said.endswith(f"\n\n{text}") for text in texts):
            return at
        if any(call.get("id") in calls for call in message.get("tool_calls") or ()):
            return at
    return last


def _calls_of(message: Any) -> list[dict[str, Any]]:
    """The calls of a message that nobody has answered, as OpenAI has them."""
    (made,) = to_openai([message])
    return [{"index": i, **call} for i, call in enumerate(made.get("tool_calls") or ())]


def _text_of_question(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, default=str)


def _text(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in parts)


def _shown(value: Any) -> Any:
    """What a run shows, as plain values; what has no such form becomes its text."""
    try:
        return plain(value, "the output")
    except InvalidArgument:
        if isinstance(value, Mapping):
            return {str(k): _shown(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [_shown(one) for one in value]
        return repr(value)


def _thread_of(request: Mapping[str, Any], context: Any) -> str | None:
    about = request.get("metadata")
    for source, names in ((about, (THREAD,)), (request, (THREAD,)), (context.metadata, (THREAD, *_SESSION))):
        for name in names:
            found = source.get(name) if isinstance(source, Mapping) else None
            if found is not None:
                if not isinstance(found, str) or not found or len(found) > 1024:
                    raise InvalidArgument(f"{name} is {found!r}: a thread's id is a text of 1 to 1024 characters")
                return found
    return None


def _config(request: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """A run's config out of a request."""
    given = request.get("config")
    if given is not None and not isinstance(given, Mapping):
        raise InvalidArgument(f"config is {given!r}: it is a dict")
    given = given or {}
    unknown = sorted(set(given) - {"configurable", "recursion_limit", "tags", "metadata"})
    if unknown:
        raise InvalidArgument(
            f"config has {unknown[0]!r}: from outside come configurable, recursion_limit, tags and metadata only"
        )
    configurable = dict(given.get("configurable") or {})
    for name in configurable:
        if not isinstance(name, str) or name.startswith("__"):
            raise InvalidArgument(f"config['configurable'] has {name!r}: names with '__' are those of the runtime")
    thread = _thread_of(request, context)
    if thread is not None:
        configurable[THREAD] = thread
    made: dict[str, Any] = {"configurable": configurable, "metadata": dict(given.get("metadata") or {})}
    if given.get("tags"):
        made["tags"] = [str(tag) for tag in given["tags"]]
    steps = given.get("recursion_limit")
    if steps is not None:
        if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= MAX_STEPS:
            raise InvalidArgument(f"recursion_limit is {steps!r}: it is a whole number from 1 to {MAX_STEPS}")
        made["recursion_limit"] = steps
    return made
