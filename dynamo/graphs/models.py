"""Chat models of langchain on the house's own: behind an endpoint, or behind a front end.

Both send the OpenAI API's requests and read its chunks; they differ in how these travel. What is sent is the
conversation as it stands, so a thread's next prompt begins with its last one, and the front end's router finds the
worker that holds it.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import (
    BaseChatModel,
    agenerate_from_stream,
    generate_from_stream,
)
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field

from dynamo.errors import (
    DynamoError,
    InvalidArgument,
    NotFound,
    Overloaded,
    RemoteError,
    RequestTimeout,
    StreamBroken,
    Unavailable,
)
from dynamo.graphs.calls import blocking_items, current_thread, items
from dynamo.graphs.chats import chunk_of, to_openai

__all__ = ["ChatEndpoint", "ChatFrontend"]


class _Chat(BaseChatModel):
    """What both have in common: requests out of messages, messages out of chunks.

    Attributes
    ----------
    options : more fields of the request, such as temperature, max_tokens, stop
    deadline : seconds for a whole answer; then RequestTimeout is raised
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    options: dict[str, Any] = Field(default_factory=dict)
    deadline: float | None = None

    def _items(self, request: dict[str, Any], thread: str | None) -> AsyncGenerator[Any, None]:
        raise NotImplementedError

    def _asked(self, messages: list[BaseMessage], stop: list[str] | None, more: dict[str, Any]) -> dict[str, Any]:
        asked = {"messages": to_openai(messages), **self.options, **more, "stream": True}
        if stop is not None:
            asked["stop"] = stop
        return asked

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        # Whoever listens hears of every chunk from langchain-core.
        stream = self._items(self._asked(messages, stop, kwargs), current_thread())
        try:
            async for item in stream:
                chunk = chunk_of(item)
                if chunk is not None:
                    yield ChatGenerationChunk(message=chunk)
        finally:
            await stream.aclose()

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        yield from blocking_items(lambda: self._astream(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, **kwargs))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, **kwargs))

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, Any]:
        """The same model, which is told of these tools."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)


class ChatEndpoint(_Chat):
    """A chat model behind an endpoint that takes chat requests, such as a graph that `serve_graph` serves.

    Attributes
    ----------
    client : of the endpoint, from ``await endpoint.client()``
    sticky : ask the same worker for every call of a thread

    Examples
    --------
    >>> model = ChatEndpoint(client=await endpoint.client())  # doctest: +SKIP
    >>> agent = create_react_agent(model, tools)  # doctest: +SKIP
    """

    client: Any
    sticky: bool = True

    @property
    def _llm_type(self) -> str:
        return "dynamo-endpoint"

    def _items(self, request: dict[str, Any], thread: str | None) -> AsyncGenerator[Any, None]:
        return items(self.client, request, thread=thread, deadline=self.deadline, sticky=self.sticky)


class ChatFrontend(_Chat):
    """A chat model behind ``dynamo serve``, or any server with the OpenAI API.

    Attributes
    ----------
    url : of the server, with or without ``/v1``
    model : which of its models
    api_key : if it wants one
    quiet : seconds in which nothing may come before the request is given up

    Examples
    --------
    >>> model = ChatFrontend(url="http://127.0.0.1:8000", model="gemma-3-270m-q4_k_m")  # doctest: +SKIP
    """

    url: str
    model: str
    api_key: str | None = None
    quiet: float = 300.0

    @property
    def _llm_type(self) -> str:
        return "dynamo-frontend"

    async def _items(self, request: dict[str, Any], thread: str | None) -> AsyncGenerator[Any, None]:
        import httpx

        headers = {"accept": "text/event-stream"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        if thread is not None:
            headers["x-dynamo-session-id"] = _ascii(thread)
        base = self.url.rstrip("/").removesuffix("/v1")
        asked = {**request, "model": self.model, "stream_options": {"include_usage": True}}
        local = httpx.URL(base).host in ("127.0.0.1", "localhost", "::1")
        limits = httpx.Timeout(10.0, read=self.quiet)
        until = None if self.deadline is None else time.monotonic() + self.deadline
        try:
            async with (
                httpx.AsyncClient(timeout=limits, trust_env=not local, verify=base.startswith("https")) as http,
                contextlib.aclosing(_lines(http, f"{base}/v1/chat/completions", asked, headers, base)) as lines,
            ):
                while True:
                    coming: Any = anext(lines, None)
                    line = await (coming if until is None else asyncio.wait_for(coming, until - time.monotonic()))
                    if line is None:
                        return
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield json.loads(line[6:])
        except RequestTimeout:
            raise  # the server's
        except asyncio.TimeoutError:
            raise RequestTimeout(f"{base}: its answer took longer than the deadline of {self.deadline} s") from None
        except httpx.TimeoutException as error:
            raise RequestTimeout(f"{base} was silent for too long: {error or type(error).__name__}") from error
        except httpx.ConnectError as error:
            raise Unavailable(f"nobody listens at {base} (is `dynamo serve` running?): {error}") from error
        except httpx.TransportError as error:
            raise StreamBroken(f"the connection to {base} broke: {error or type(error).__name__}") from error


async def _lines(http: Any, url: str, asked: Any, headers: dict[str, str], base: str) -> AsyncGenerator[str, None]:
    async with http.stream("POST", url, json=asked, headers=headers) as answer:
        if answer.status_code >= 400:
            raise _refused(answer.status_code, await answer.aread(), base)
        async for line in answer.aiter_lines():
            yield line


def _ascii(text: str) -> str:
    """A thread id as a header may have it."""
    fits = text.isascii() and text.isprintable() and len(text) <= 256
    return text if fits else text.encode("utf-8", "replace")[:256].hex()


def _refused(status: int, body: bytes, base: str) -> DynamoError:
    """What a status means here."""
    try:
        told = json.loads(body)["error"]
        text = str(told["message"] if isinstance(told, dict) else told)
    except (ValueError, KeyError, TypeError):
        text = body[:300].decode("utf-8", "replace") or "no reason given"
    text = f"{base} says {status}: {text}"
    kinds: dict[int, type[DynamoError]] = {
        400: InvalidArgument,
        404: NotFound,
        429: Overloaded,
        503: Unavailable,
        504: RequestTimeout,
        529: Overloaded,
    }
    return kinds.get(status, RemoteError)(text)
