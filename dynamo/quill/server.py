"""QuillServer: methods of services behind ``POST /{package.Service}/{Method}``."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from dynamo._http import Request, Server, status_of
from dynamo._quill import compress, decompress, messages
from dynamo._quill_stream import CREDITS, Budget, RequestStream, incoming, ready_made, write_frame
from dynamo._tls import TlsContext
from dynamo.errors import InvalidArgument, Overloaded
from dynamo.quill.client import _NAME, CREDITS_HEADER, TIMEOUT_HEADER, as_body
from dynamo.quill.problem import RpcError, problem

if TYPE_CHECKING:
    import os

    from typing_extensions import Self

    from dynamo._metrics import Registry
    from dynamo._runtime import Context

    _Path = str | os.PathLike[str]

__all__ = ["QuillServer"]

_log = logging.getLogger("dynamo.quill")
_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_END, _CANCEL = 2, 4
_COMPRESS_FROM = 1024
_HELD_FROM = 16384  # of a tensor; below that a copy costs less
_PROTO, _JSON, _PROBLEM = "application/proto", "application/json", "application/problem+json"
_LONGEST_MS = 3_600_000


class _Method:
    """A registered handler: how it is called, and what it gives."""

    def __init__(self, path: str, call: Callable[..., Any], wanted: Any, stream_request: bool, timeout_ms: int) -> None:
        self.path = path
        self.call = call
        self.type = wanted
        self.stream_request = stream_request
        self.timeout_ms = timeout_ms
        self.context = _context_of(call)
        inner = call
        while isinstance(inner, functools.partial):
            inner = inner.func
        if not inspect.isroutine(inner):
            inner = type(inner).__call__
        if inspect.isasyncgenfunction(inner):
            self.kind = "async stream"
        elif inspect.isgeneratorfunction(inner):
            self.kind = "stream"
        elif inspect.iscoroutinefunction(inner):
            self.kind = "async"
        else:
            self.kind = "sync"

    def start(self, argument: Any, context: Context | None) -> Any:
        if self.context == "keyword":
            return self.call(argument, context=context)
        return self.call(argument) if self.context is None else self.call(argument, context)


class QuillServer:
    """Serves handlers to `QuillClient`, and to anything that speaks HTTP/1.1.

    The handlers are those of `dynamo.runtime` endpoints: they take a request, and a `Context` when they have a second
    parameter; the context is stopped when the client leaves or its time is over, and a coroutine is cancelled. A plain
    function runs in a thread.

    Parameters
    ----------
    max_body_bytes : int
        Of a request, before and after decompression.
    max_total_body_bytes : int
        Of all requests that are there at one time; further ones are told 503 or 429. Streams count with what is here of
        them.
    max_connections : int
        Further clients are told 503; 0: 4096.
    max_concurrency : int
        Calls at one time; further ones are refused with 429. 0: no limit.
    timeout_ms : int
        For a call whose client names no time (or a longer one); 0: an hour.
    auth : callable, optional
        ``auth(headers)``, a function or coroutine function. False refuses with 401; an `RpcError` that it raises is
        sent.
        ``/health`` and ``/metrics`` are open.
    certfile, keyfile, key_password : path or str, optional
        Serve https: PEM files of the certificate with its chain, and of its key (in the same file when left out).
    client_ca : path, optional
        Clients must show a certificate that this PEM file vouches for.
    tls : TlsContext, optional
        The same, ready made.

    Examples
    --------
    >>> server = QuillServer()
    >>> @server.method("echo.v1.Echo", "Say")
    ... async def say(request):
    ...     return request
    >>> server
    <QuillServer not running, 1 method>
    """

    def __init__(
        self,
        *,
        max_body_bytes: int = 64 << 20,
        max_total_body_bytes: int = 1 << 30,
        max_connections: int = 0,
        max_concurrency: int = 0,
        timeout_ms: int = 0,
        auth: Callable[[Mapping[str, str]], Any] | None = None,
        certfile: _Path | None = None,
        keyfile: _Path | None = None,
        key_password: str | None = None,
        client_ca: _Path | None = None,
        tls: TlsContext | None = None,
    ) -> None:
        if tls is None and (certfile is not None or keyfile is not None or client_ca is not None):
            tls = TlsContext(
                server=True,
                certificate=certfile,
                key=keyfile,
                password=key_password,
                ca_file=client_ca,
                need_client_certificate=client_ca is not None,
            )
        self._tls = tls
        self._max_body = max_body_bytes
        self._max_total = max_total_body_bytes
        self._budget = Budget(max_total_body_bytes)
        self._max_connections = max_connections
        self._max_concurrency = max_concurrency
        self._timeout_ms = timeout_ms or _LONGEST_MS
        self._auth = auth
        self._methods: dict[str, _Method] = {}
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._grace = 5.0
        self._running = 0
        self._metrics: _Metrics | None = None

    # ---- what it serves

    def method(
        self, service: str, method: str, *, request: Any = None, stream_request: bool = False, timeout_ms: int = 0
    ) -> Callable[[_Handler], _Handler]:
        """Register a handler: a function, a coroutine function, or a generator of either kind for a stream.

        Parameters
        ----------
        service, method : str
            ``POST /{service}/{method}``
        request : type, optional
            What the handler gets: `Tensor` or `TokenBatch`, decoded from their frames and bytes; any type that msgspec
            can make from JSON; `memoryview`: the body where it lies, without a copy. Without it bytes, or the decoded
            value when the client sent JSON.
        stream_request : bool
            The handler gets a `RequestStream` of messages, and starts when the header of the request is there: for
            `QuillClient.upload_stream` and, as a generator that answers while the request goes on,
            `QuillClient.call_bidirectional`.
        timeout_ms : int
            For this method, in place of the server's.

        The handler gives bytes, a `Tensor`, a `TokenBatch`, or what msgspec can put into JSON. A client that accepts
        only JSON gets the items of a stream as one list. A `Tensor` that is the whole answer is sent from its own
        memory: give a copy of one that changes afterwards.
        """
        for what, name in (("service", service), ("method", method)):
            if not isinstance(name, str) or not _NAME.match(name):
                raise InvalidArgument(f"the {what} {name!r}: must be letters, digits, _, . and -")

        def register(call: _Handler) -> _Handler:
            path = f"/{service}/{method}"
            if path in self._methods:
                raise InvalidArgument(f"{path} is registered already")
            if self._server is not None:
                raise RuntimeError(f"{path}: register before the server starts")
            time_ms = min(timeout_ms or self._timeout_ms, _LONGEST_MS)
            self._methods[path] = _Method(path, call, request, stream_request, time_ms)
            return call

        return register

    def expose(self, service: str, method: str, client: Any, **options: Any) -> None:
        """Serve an endpoint of `dynamo.runtime`: calls go to ``client.generate``, its items back as a stream."""

        async def forward(request: Any, context: Context) -> AsyncIterator[Any]:
            async for item in client.generate(request, annotated=False, context=context):
                yield item

        self.method(service, method, **options)(forward)

    # ---- running

    def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Serve from a thread of its own; `address` says where."""
        if self._thread is not None:
            raise RuntimeError("this server runs already")
        ready = threading.Event()
        failure: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(self._main(host, port, ready))
            except BaseException as error:
                failure.append(error)
                ready.set()

        self._thread = threading.Thread(target=run, name="quill-server", daemon=True)
        self._thread.start()
        ready.wait()
        if failure:
            self._thread.join()
            self._thread = None
            raise failure[0]
        return self

    def stop(self, grace: float = 5.0) -> None:
        """Let calls under way end, for `grace` seconds at most, then cut them; returns when the thread is done."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stop is None:
            return
        self._grace = grace
        self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()

    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Serve on the running loop until cancelled."""
        if self._server is not None:
            raise RuntimeError("this server runs already")
        await self._main(host, port, None)

    async def _main(self, host: str, port: int, ready: threading.Event | None) -> None:
        server = Server(
            host,
            port,
            max_body_bytes=self._max_body,
            max_total_body_bytes=self._max_total,
            max_connections=self._max_connections,
            tls=self._tls,
        )
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._metrics = _Metrics()
        for method in self._methods.values():
            server.route("POST", method.path, _bind(self, method), live=method.stream_request)
        server.route("*", "/", self._nothing_here, prefix=True)
        server.route_static("/health", '{"status":"healthy"}', open=True)
        server.route_metrics("/metrics", self._metrics.registry, open=True)
        server.start()
        self._server = server
        if ready is not None:
            ready.set()
        try:
            await self._stop.wait()
        finally:
            self._server = None
            await server.stop(self._grace)

    @property
    def address(self) -> str:
        """``http://host:port`` (or https) while it runs."""
        if self._server is None:
            raise RuntimeError("this server does not run: call start(), or await serve()")
        return self._server.url

    def __enter__(self) -> Self:
        return self if self._thread is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = self._server.url if self._server is not None else "not running"
        return f"<QuillServer {where}, {len(self._methods)} method{'s' if len(self._methods) != 1 else ''}>"

    # ---- one call

    async def _nothing_here(self, x: Request) -> None:
        if x.path in self._methods:
            _refuse(x, 405, "Only POST is supported for RPC calls", "Method not allowed")
        else:
            _refuse(x, 404, f"No handler registered for path: {x.path}", "Method not found")

    async def _call(self, method: _Method, x: Request) -> None:
        assert self._metrics is not None
        started, status = time.monotonic(), 200
        context: Context | None = None
        self._running += 1
        try:
            if self._max_concurrency and self._running > self._max_concurrency:
                raise RpcError(429, detail=f"more than {self._max_concurrency} calls at one time")
            if self._auth is not None:
                await self._check_auth(x)
            if method.context is not None:
                context = _new_context(x)
            task = asyncio.current_task()
            assert task is not None
            why: list[int] = []  # the status when it was we who cancelled the task

            def end(status: int) -> None:
                why.append(status)
                if context is not None:
                    context.stop_generating()
                task.cancel()

            time_ms = _time_ms(x, method.timeout_ms)
            timer = asyncio.get_running_loop().call_later(time_ms / 1000, end, 504)
            x.on_closed(lambda: end(499))
            try:
                await self._work(method, x, context, end)
            except asyncio.CancelledError:
                status = why[0] if why else 503
                if x.begun:
                    x.abort()
                elif status == 504:
                    _refuse(x, 504, f"the call took longer than {time_ms} ms")
                elif status == 503:
                    _refuse(x, 503, "the server is stopping")
                elif not x.closed:
                    _refuse(x, status, "the client cancelled the call")
                if not why:
                    raise
            finally:
                timer.cancel()
        except Exception as error:
            status = self._fail(method, x, error)
        finally:
            self._running -= 1
            self._metrics.count(method.path, status, time.monotonic() - started)

    async def _work(self, method: _Method, x: Request, context: Context | None, end: Callable[[int], None]) -> None:
        if not method.stream_request:
            await self._run(method, x, self._argument(method, x), context, None, None)
            return
        requests = await self._requests(method, x, end)
        # A handler that waits for its client must not hold a thread that others need.
        pool = None if method.kind.startswith("async") else ThreadPoolExecutor(1, "quill-stream")
        try:
            await self._run(method, x, requests, context, requests, pool)
        finally:
            requests.close()
            if pool is not None:
                pool.shutdown(wait=False)

    async def _run(
        self,
        method: _Method,
        x: Request,
        argument: Any,
        context: Context | None,
        requests: RequestStream | None,
        pool: ThreadPoolExecutor | None,
    ) -> None:
        if method.kind == "sync":
            self._answer(x, await _in_thread(pool, method.start, argument, context))
        elif method.kind == "async":
            self._answer(x, await method.start(argument, context))
        else:
            items = method.start(argument, context)
            await self._stream(x, items if method.kind == "async stream" else _each_in_thread(pool, items), requests)

    def _argument(self, method: _Method, x: Request) -> Any:
        return self._decoded(method, _content(x), decompress(x, self._max_body) if _is_packed(x) else x)

    def _decoded(self, method: _Method, content: str, body: Any) -> Any:
        if method.type is memoryview:
            return memoryview(body)
        if content == _JSON:
            import msgspec

            return msgspec.json.decode(body) if method.type is None else msgspec.json.decode(body, type=method.type)
        if hasattr(method.type, "from_frames"):
            return method.type.from_frames(memoryview(body))
        if hasattr(method.type, "decode"):
            return method.type.decode(memoryview(body))
        return body.body if isinstance(body, Request) else body

    async def _requests(self, method: _Method, x: Request, end: Callable[[int], None]) -> RequestStream:
        content, loop = _content(x), asyncio.get_running_loop()
        decode = None
        if content == _JSON or method.type is not None:
            decode = functools.partial(self._decoded, method, content)
        if _is_packed(x):  # what is packed as a whole comes as a whole
            packed = bytearray()
            while piece := await x.read():
                packed += piece
                if len(packed) > self._max_body:
                    raise RpcError(413, detail=f"over {self._max_body} bytes, compressed: send a stream as it is")
            return ready_made(messages(decompress(packed, self._max_body)), loop, decode)
        credits = _credits(x) if method.kind.endswith("stream") and not _takes_only_json(x) else 0
        return incoming(x, loop, decode, lambda: end(499), credits, self._budget)

    def _answer(self, x: Request, value: Any) -> None:
        packs = "zstd" in (x.header("accept-encoding") or "")
        if not packs and getattr(value, "size_bytes", 0) >= _HELD_FROM and hasattr(value, "to_frames"):
            x.respond_pieces(value.to_frames(), 200, _PROTO)
            return
        body, kind = _encoded(value)
        if packs and len(body) > _COMPRESS_FROM:
            packed = compress(body)
            if len(packed) < len(body):
                x.respond(packed, 200, kind, {"Content-Encoding": "zstd"})
                return
        x.respond(body, 200, kind)

    async def _stream(self, x: Request, items: AsyncIterator[Any], requests: RequestStream | None) -> None:
        def begin() -> None:  # not before the first item: what is raised before it still becomes a status
            counts = requests is not None and requests.counts
            x.begin(200, _PROTO, {CREDITS_HEADER: str(CREDITS)} if counts else None)
            if requests is not None:
                requests.begun()

        try:
            if _takes_only_json(x):
                self._answer(x, [item async for item in items])
                return
            async for item in items:
                if not x.begun:
                    begin()
                if requests is not None:
                    await requests.credit()
                if not write_frame(x, _encoded(item)[0]):
                    await x.drain()
            if not x.begun:
                begin()
            write_frame(x, b"", _END)
            x.end()
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _check_auth(self, x: Request) -> None:
        assert self._auth is not None
        verdict = self._auth(x.headers)
        if inspect.isawaitable(verdict):
            verdict = await verdict
        if not verdict:
            raise RpcError(401, detail="the credentials of this call were not accepted")

    def _fail(self, method: _Method, x: Request, error: Exception) -> int:
        if x.begun:  # no status can be said any more, but that the stream is not whole
            if isinstance(error, ConnectionError):
                x.abort()
                return 499
            _log.error("%s failed in the middle of its stream", method.path, exc_info=error)
            write_frame(x, b"", _CANCEL)
            x.end()
            return 500
        if isinstance(error, RpcError):
            _refuse(x, error.status, error.detail, error.title, error.type)
            return error.status
        status, text = status_of(error)
        if isinstance(error, Overloaded):
            status = 429
        if status == 500:  # what went wrong is for the log, not for the client
            _log.error("%s failed", method.path, exc_info=error)
            text = ""
        _refuse(x, status, text)
        return status


class _Metrics:
    def __init__(self) -> None:
        from dynamo._metrics import Registry

        self.registry: Registry = Registry()
        self._calls = self.registry.counter("quill_calls_total", "Calls by method and status.", ("method", "status"))
        self._seconds = self.registry.histogram("quill_call_seconds", "From request to answer.", ("method",))

    def count(self, path: str, status: int, seconds: float) -> None:
        self._calls.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)


def _bind(server: QuillServer, method: _Method) -> Callable[[Request], Any]:
    call = server._call

    async def handle(x: Request) -> None:
        await call(method, x)

    return handle


def _context_of(call: Callable[..., Any]) -> str | None:
    """How a handler wants its context: as keyword, as second argument, or not at all."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        return None
    for parameter in parameters:
        if parameter.name == "context" and parameter.kind is not parameter.VAR_POSITIONAL:
            return "keyword"
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return "second" if len(plain) >= 2 else None


def _new_context(x: Request) -> Context:
    from dynamo._runtime import Context

    return Context(x.id, headers=x.headers)


def _time_ms(x: Request, limit: int) -> int:
    asked = x.header(TIMEOUT_HEADER) or ""
    return min(int(asked), limit) if asked.isdigit() and len(asked) < 12 and int(asked) > 0 else limit


def _content(x: Request) -> str:
    return (x.header("content-type") or "").partition(";")[0].strip().lower()


def _takes_only_json(x: Request) -> bool:
    return (x.header("accept") or "").strip().lower() == _JSON


def _is_packed(x: Request) -> bool:
    coding = (x.header("content-encoding") or "identity").strip().lower()
    if coding not in ("identity", "zstd"):
        raise RpcError(415, detail=f"content-encoding {coding}: only zstd is known here")
    return coding == "zstd"


def _credits(x: Request) -> int:
    """How many messages the client takes before it grants more; 0: it does not count them."""
    given = x.header(CREDITS_HEADER) or ""
    return min(int(given), 1 << 20) if given.isascii() and given.isdigit() and len(given) < 12 else 0


async def _in_thread(pool: ThreadPoolExecutor | None, call: Callable[..., Any], *args: Any) -> Any:
    if pool is None:
        return await asyncio.to_thread(call, *args)
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(context.run, call, *args))


async def _each_in_thread(pool: ThreadPoolExecutor | None, items: Iterator[Any]) -> AsyncIterator[Any]:
    end = object()
    while (item := await _in_thread(pool, next, items, end)) is not end:
        yield item


def _encoded(value: Any) -> tuple[Any, str]:
    """A result as bytes, and what kind of bytes they are."""
    body = as_body(value)
    if isinstance(body, (bytes, bytearray, memoryview)):
        return body, _PROTO
    import msgspec

    return msgspec.json.encode(value), _JSON


def _refuse(x: Request, status: int, detail: str = "", title: str = "", type: str = "") -> None:
    x.respond(problem(status, detail, title, type), status, _PROBLEM)
