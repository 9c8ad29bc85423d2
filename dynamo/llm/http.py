"""An OpenAI server in front of Python generators: `HttpService`, its engines, and `HttpError`."""

import asyncio
import inspect
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from dynamo._http import Request, Server, status_of
from dynamo._metrics import Counter, Gauge, Histogram, default_registry
from dynamo.llm.openai_http import Aggregate, ChatAggregate, CompletionAggregate

__all__ = ["HttpAsyncEngine", "HttpError", "HttpService", "PythonAsyncEngine"]

_MAX_MESSAGE = 8192
_HEADER_AFTER = 0.1  # seconds that a stream may take to its first item before the header goes out ahead of it
_encode = msgspec.json.Encoder().encode
_FIELDS = frozenset({"data", "id", "event", "comment", "error"})  # of an Annotated item


class HttpError(Exception):
    """Raised by an engine to answer with a status of its choice.

    Parameters
    ----------
    code : int
        HTTP status, 0 to 599. What is not an error status is sent as 500.
    message : str
        Told to the client; cut at 8,192 characters.
    """

    def __init__(self, code: int, message: str) -> None:
        if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code < 600:
            raise ValueError(f"HTTP status {code!r}: must be an integer from 0 to 599")
        if not isinstance(message, str):
            raise ValueError(f"the message must be a string, not {type(message).__name__}")
        self.code = code
        self.message = message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 3] + "..."
        super().__init__(code, self.message)

    def __str__(self) -> str:
        return f"HTTP {self.code}: {self.message}"


class PythonAsyncEngine:
    """An async generator function as an engine.

    Parameters
    ----------
    generator : callable
        ``generator(request)`` or ``generator(request, context)``: gives an async iterator of dicts. A parameter called
        ``context`` gets the request's `dynamo.runtime.Context`.
    event_loop : asyncio loop
        Where the generator runs.
    """

    def __init__(self, generator: Callable[..., Any], event_loop: asyncio.AbstractEventLoop | None = None) -> None:
        if not callable(generator):
            raise TypeError(f"generator must be a function that gives an async iterator, not {generator!r}")
        self.generator = generator
        self.event_loop = event_loop
        try:
            self._wants_context = "context" in inspect.signature(generator).parameters
        except (TypeError, ValueError):
            self._wants_context = False

    def __call__(self, request: dict[str, Any], context: Any = None) -> Any:
        """What the generator function gives: an async iterator, or an awaitable of one."""
        return self.generator(request, context=context) if self._wants_context else self.generator(request)

    async def stream(self, request: dict[str, Any], context: Any) -> AsyncIterator[Any]:
        """The items, as an iterator for the running loop."""
        if self.event_loop is None or self.event_loop is asyncio.get_running_loop():
            made = self(request, context)
            items: AsyncIterator[Any] = await made if inspect.isawaitable(made) else made
            return items.__aiter__()
        return _elsewhere(self, request, context, self.event_loop)


class HttpAsyncEngine(PythonAsyncEngine):
    """The same; an `HttpError` that the generator raises becomes the answer's status."""


async def _elsewhere(
    engine: PythonAsyncEngine, request: dict[str, Any], context: Any, loop: asyncio.AbstractEventLoop
) -> AsyncIterator[Any]:
    """The items of a generator that runs on another loop (in another thread), one at a time."""

    async def begin() -> Any:
        made = engine(request, context)
        return (await made if inspect.isawaitable(made) else made).__aiter__()

    async def step(items: Any) -> tuple[bool, Any]:
        try:
            return True, await items.__anext__()
        except StopAsyncIteration:
            return False, None

    items = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(begin(), loop))
    try:
        while True:
            more, item = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(step(items), loop))
            if not more:
                return
            yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None and not loop.is_closed():
            asyncio.run_coroutine_threadsafe(close(), loop)


class _Refused(Exception):
    """A request that gets no engine; the fields of OpenAI's error."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


class _EngineError(Exception):
    """What an item with event "error" says."""


class _Endpoint:
    """One kind of model: its path, its models, what its requests need."""

    def __init__(self, name: str, path: str, required: str, aggregate: type[Aggregate]) -> None:
        self.name = name
        self.path = path
        self.required = required
        self.aggregate = aggregate
        self.enabled: bool | None = None  # None: as soon as there is a model
        self.models: dict[str, tuple[str, PythonAsyncEngine, int]] = {}

    def read(self, request: Request) -> dict[str, Any]:
        """The checked body.

        Raises
        ------
        _Refused
        """
        try:
            body = msgspec.json.decode(request)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _Refused(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
        except RecursionError:
            raise _Refused(400, "the body is nested too deeply", code="invalid_json") from None
        if not isinstance(body, dict):
            raise _Refused(400, "the body must be a JSON object")
        model = body.get("model")
        if not isinstance(model, str):
            raise _Refused(400, "model must be the name of a model, as /v1/models lists them", "model")
        if model not in self.models:
            raise _Refused(404, f"the model {model!r} does not exist here", "model", "model_not_found")
        if not body.get(self.required):
            raise _Refused(400, f"{self.required} is missing or empty", self.required)
        if self.required == "messages" and not isinstance(body["messages"], list):
            raise _Refused(400, "messages must be a list", "messages")
        if not isinstance(body.get("stream"), (bool, type(None))):
            raise _Refused(400, "stream must be true or false", "stream")
        return body


class _Meter:
    """The metrics of the front end, their series kept by model."""

    def __init__(self) -> None:
        registry = default_registry()
        prefix = os.environ.get("DYN_METRICS_PREFIX") or "dynamo_frontend"
        self.requests: Counter = registry.counter(
            f"{prefix}_requests_total",
            "Requests by outcome.",
            ["model", "endpoint", "request_type", "status", "error_type"],
        )
        self.inflight: Gauge = registry.gauge(f"{prefix}_inflight_requests", "Requests being answered.", ["model"])
        self.disconnected: Counter = registry.counter(
            f"{prefix}_disconnected_clients", "Clients that left before their answer was complete.", ["model"]
        )
        self.duration: Histogram = registry.histogram(
            f"{prefix}_request_duration_seconds", "From the header of a request to the end of its answer.", ["model"]
        )
        self.first: Histogram = registry.histogram(
            f"{prefix}_time_to_first_token_seconds", "From the header of a request to its first item.", ["model"]
        )
        self._kept: dict[tuple[str, ...], Any] = {}

    def of(self, metric: Any, *labels: str) -> Any:
        """The series of a metric, looked up once."""
        key = (metric.name, *labels)
        series = self._kept.get(key)
        if series is None:
            if len(self._kept) > 4096:
                self._kept.clear()
            series = self._kept[key] = metric.labels(*labels)
        return series


class HttpService:
    """Answer OpenAI clients from Python engines.

    Parameters
    ----------
    port : int, optional
        Default: ``DYN_HTTP_PORT``, else 8080; 0 takes any free one (see `port` once it runs).
    wait_for_first_item : bool
        Hold the header of a stream back until its first item, however long that takes, so that an error before it still
        becomes a status. Otherwise for 0.1 s.
    host : str, optional
        Default: ``DYN_HTTP_HOST``, else 127.0.0.1.
    api_key : str, optional
        Ask for ``Authorization: Bearer <key>``, except on /health, /live and /metrics.

    Examples
    --------
    >>> async def main(runtime):
    ...     async def generate(request, context):
    ...         yield {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": request["model"],
    ...                "choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": "stop"}]}
    ...     service = HttpService(port=8000)
    ...     service.add_chat_completions_model("mine", "0", HttpAsyncEngine(generate, asyncio.get_running_loop()))
    ...     await service.run(runtime)
    """

    def __init__(
        self,
        port: int | None = None,
        *,
        wait_for_first_item: bool = False,
        host: str | None = None,
        api_key: str | None = None,
    ) -> None:
        self.port = int(os.environ.get("DYN_HTTP_PORT") or 8080) if port is None else port
        self.host = host or os.environ.get("DYN_HTTP_HOST") or "127.0.0.1"
        self._wait_for_first_item = wait_for_first_item
        self._api_key = api_key
        self._chat = _Endpoint("chat_completions", "/v1/chat/completions", "messages", ChatAggregate)
        self._text = _Endpoint("completions", "/v1/completions", "prompt", CompletionAggregate)
        self._server: Server | None = None
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._meter = _Meter()

    def __repr__(self) -> str:
        models = sorted({*self._chat.models, *self._text.models})
        return f"<HttpService on {self.host}:{self.port} with {', '.join(models) or 'no model yet'}>"

    # ---- models

    def _add(self, endpoint: _Endpoint, model: str, checksum: Any, engine: Any) -> None:
        if engine is None:  # older form: (model, engine)
            checksum, engine = "", checksum
        if not isinstance(engine, PythonAsyncEngine):
            raise TypeError(f"engine must be a PythonAsyncEngine or HttpAsyncEngine, not {type(engine).__name__}")
        if model in endpoint.models:
            raise ValueError(f"the model {model!r} is there already; remove it first")
        endpoint.models[model] = (str(checksum), engine, int(time.time()))
        self._refresh()

    def _remove(self, endpoint: _Endpoint, model: str) -> None:
        if endpoint.models.pop(model, None) is None:
            raise ValueError(f"the model {model!r} is not there")
        self._refresh()

    def add_chat_completions_model(self, model: str, checksum: Any, engine: Any = None) -> None:
        """Serve `model` at /v1/chat/completions. `checksum` tells versions of a model apart."""
        self._add(self._chat, model, checksum, engine)

    def add_completions_model(self, model: str, checksum: Any, engine: Any = None) -> None:
        """Serve `model` at /v1/completions."""
        self._add(self._text, model, checksum, engine)

    def remove_chat_completions_model(self, model: str) -> None:
        """Serve a chat model no more."""
        self._remove(self._chat, model)

    def remove_completions_model(self, model: str) -> None:
        """Serve a completions model no more."""
        self._remove(self._text, model)

    def list_chat_completions_models(self) -> list[str]:
        """Names of the chat models."""
        return list(self._chat.models)

    def list_completions_models(self) -> list[str]:
        """Names of the completions models."""
        return list(self._text.models)

    def enable_endpoint(self, endpoint_type: Any, enabled: bool = True) -> None:
        """Open or close an endpoint: "chat" or "completions". One that was not named opens with its first model."""
        name = str(endpoint_type).rsplit(".", 1)[-1].lower()
        if name in ("chat", "chat_completions"):
            self._chat.enabled = enabled
        elif name in ("completion", "completions"):
            self._text.enabled = enabled
        else:
            raise ValueError(f"endpoint type {endpoint_type!r}: this service has chat and completions")

    # ---- running

    async def run(self, runtime: Any = None) -> None:
        """Serve until `shutdown`, or until the runtime (or cancellation token) that was given ends."""
        if self._server is not None:
            raise RuntimeError("this service runs already")
        if self._stopping:
            return
        server = Server(self.host, self.port, api_key=self._api_key, max_body_bytes=_body_limit())
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        for endpoint in (self._chat, self._text):
            server.route("POST", endpoint.path, self._handler(endpoint))
        server.route("GET", "/v1/models", self._models)
        server.route_static("/live", '{"status":"live"}', open=True)
        server.route_metrics("/metrics", default_registry())
        self._server = server
        self._refresh()
        self.port = server.start()
        watch = asyncio.ensure_future(_end_of(runtime, self._ended))
        try:
            await self._ended.wait()
        finally:
            watch.cancel()
            self._stopping = True
            self._server = None
            await server.stop(5.0)

    def shutdown(self) -> None:
        """End `run`: accept nothing more, let running answers end for 5 s. From any thread."""
        self._stopping = True
        if self._ended is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended.set)

    def _refresh(self) -> None:
        """Bring /health, which C answers alone, up to date."""
        if self._server is None:
            return
        models = sorted({*self._chat.models, *self._text.models})
        text = msgspec.json.encode({"status": "healthy" if models else "unhealthy", "models": models})
        self._server.route_static("/health", text, status=200 if models else 503, open=True, replace=True)

    async def _models(self, request: Request) -> dict[str, Any]:
        models: dict[str, int] = {}
        for endpoint in (self._chat, self._text):
            for name, (_, _, created) in endpoint.models.items():
                models.setdefault(name, created)
        data = [{"id": name, "object": "model", "created": at, "owned_by": "dynamo"} for name, at in models.items()]
        return {"object": "list", "data": data}

    # ---- one request

    def _handler(self, endpoint: _Endpoint) -> Callable[[Request], Any]:
        async def handle(request: Request) -> None:
            model, kind = "", "unary"
            meter = self._meter
            status, error_type = "error", ""
            inflight: Gauge | None = None
            try:
                if endpoint.enabled is False:
                    raise _Refused(404, f"{endpoint.path} is switched off on this server")
                body = endpoint.read(request)
                model = body["model"]
                inflight = meter.of(meter.inflight, model)
                inflight.inc()
                engine = endpoint.models[model][1]
                if body.get("stream"):
                    kind = "stream"
                    await self._stream(endpoint, request, body, engine)
                else:
                    await self._whole(endpoint, request, body, engine)
                status = "success"
            except _Refused as error:
                error_type = "not_found" if error.status == 404 else "validation"
                request.fail(error.status, error.message, param=error.param, code=error.code)
            except ConnectionResetError:
                error_type = "cancelled"
                meter.of(meter.disconnected, model).inc()
            except Exception as error:
                code, text = _told(error)
                error_type = "internal" if code >= 500 else "validation"
                if not request.begun:
                    request.fail(code, text)
                elif not request.closed:
                    _end_with_error(request, code, text)
                if code == 500 and not isinstance(error, (HttpError, _EngineError)):
                    raise
            finally:
                if inflight is not None:
                    inflight.dec()
                    meter.of(meter.duration, model).observe((time.monotonic_ns() - request.started_ns) / 1e9)
                meter.of(meter.requests, model, endpoint.name, kind, status, error_type).inc()

        return handle

    async def _whole(
        self, endpoint: _Endpoint, request: Request, body: dict[str, Any], engine: PythonAsyncEngine
    ) -> None:
        context = _context(request)
        request.on_closed(context.stop_generating)
        items = await engine.stream(body, context)
        answer = endpoint.aggregate()
        meter, first = self._meter, True
        try:
            async for item in items:
                if first:
                    first = False
                    meter.of(meter.first, body["model"]).observe((time.monotonic_ns() - request.started_ns) / 1e9)
                if _is_annotated(item):
                    item = _data_of(item)
                    if item is None:
                        continue
                if request.closed:
                    raise ConnectionResetError("the client is gone")
                if not isinstance(item, dict):
                    raise TypeError(f"the engine gave a {type(item).__name__}; its items must be dicts")
                answer.add(item)
        finally:
            await _close(items)
        request.respond_json(answer.result())

    async def _stream(
        self, endpoint: _Endpoint, request: Request, body: dict[str, Any], engine: PythonAsyncEngine
    ) -> None:
        context = _context(request)
        request.on_closed(context.stop_generating)
        timer = None
        if not self._wait_for_first_item:
            timer = asyncio.get_running_loop().call_later(_HEADER_AFTER, _begin, request)
        meter, first, count, since = self._meter, True, 0, time.monotonic()
        items = await engine.stream(body, context)
        try:
            async for item in items:
                if first:
                    first = False
                    meter.of(meter.first, body["model"]).observe((time.monotonic_ns() - request.started_ns) / 1e9)
                    if timer is not None:
                        timer.cancel()
                    error = _error_of(item) if _is_annotated(item) else None
                    if error is not None and not request.begun:
                        raise error
                    _begin(request)
                if _is_annotated(item):
                    _send_annotated(request, item)
                    continue
                if not isinstance(item, dict):
                    raise TypeError(f"the engine gave a {type(item).__name__}; its items must be dicts")
                if not request.event(_encode(item)):
                    await request.drain()
                count += 1
                if count & 31 == 0:  # a generator that never waits must not keep the loop from everybody else
                    now = time.monotonic()
                    if now - since > 0.005:
                        await asyncio.sleep(0)
                        now = time.monotonic()
                    since = now
        finally:
            if timer is not None:
                timer.cancel()
            await _close(items)
        _begin(request)
        request.event(b"[DONE]")
        request.end()


def _begin(request: Request) -> None:
    if not request.begun and not request.begin():
        raise ConnectionResetError("the client is gone")


def _body_limit() -> int:
    return int(float(os.environ.get("DYN_HTTP_BODY_LIMIT_MB") or 45) * 1048576)


def _context(request: Request) -> Any:
    from dynamo.runtime import Context

    headers = {"x-request-id": request.id}
    for name in ("traceparent", "tracestate"):
        value = request.header(name)
        if value is not None:
            headers[name] = value
    return Context(request.id, headers=headers)


async def _close(items: Any) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()


async def _end_of(source: Any, ended: asyncio.Event) -> None:
    """Set `ended` when a runtime or a cancellation token says that it is over."""
    token = source.child_token() if hasattr(source, "child_token") else source
    cancelled = getattr(token, "cancelled", None)
    if cancelled is None:
        return
    over = cancelled()
    if inspect.isawaitable(over):
        await over
        ended.set()


# ---- annotated items: {"data", "id", "event", "comment"}


def _is_annotated(item: Any) -> bool:
    return isinstance(item, dict) and "choices" not in item and len(item) > 0 and _FIELDS.issuperset(item)


def _comment_of(item: dict[str, Any]) -> str:
    comment = item.get("comment")
    if isinstance(comment, (list, tuple)):
        return ", ".join(str(part) for part in comment)
    return "" if comment is None else str(comment)


def _error_of(item: dict[str, Any]) -> Exception | None:
    if item.get("event") != "error":
        return None
    error = item.get("error")
    text = error.get("message") if isinstance(error, dict) else error
    return _EngineError(str(text or _comment_of(item) or "unknown error"))


def _data_of(item: dict[str, Any]) -> Any:
    error = _error_of(item)
    if error is not None:
        raise error
    return item.get("data") if item.get("event") is None else None


def _send_annotated(request: Request, item: dict[str, Any]) -> None:
    error = _error_of(item)
    if error is not None:
        raise error
    lines = []
    if item.get("event") is not None:
        lines.append(f"event: {_one_line(item['event'])}\n")
    if item.get("id") is not None:
        lines.append(f"id: {_one_line(item['id'])}\n")
    comment = item.get("comment")
    for part in comment if isinstance(comment, (list, tuple)) else () if comment is None else (comment,):
        lines.append(f": {_one_line(part)}\n")
    text = "".join(lines).encode()
    if item.get("data") is not None:
        text += b"data: " + _encode(item["data"]) + b"\n"
    if text:
        request.write(text + b"\n")


def _one_line(value: Any) -> str:
    return str(value).replace("\r", " ").replace("\n", " ")


# ---- errors


def _told(error: Exception) -> tuple[int, str]:
    if isinstance(error, HttpError):
        return error.code if 400 <= error.code < 600 else 500, error.message
    if isinstance(error, _EngineError):
        return 500, str(error)
    return status_of(error)


def _end_with_error(request: Request, code: int, text: str) -> None:
    """An error after the header: an event that says so, and no [DONE]."""
    kind = "server_error" if code >= 500 else "invalid_request_error"
    try:
        request.event(_encode({"error": {"message": text, "type": kind, "param": None, "code": code}}), "error")
        request.end()
    except OSError:
        request.abort()
