"""QuillServer: methods of services behind ``POST /{package.Service}/{Method}``."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from dynamo._http import Request, Server, status_of
from dynamo._quill import compress, decompress, frame, messages
from dynamo.errors import InvalidArgument, Overloaded
from dynamo.quill.client import _NAME
from dynamo.quill.problem import RpcError, problem

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["QuillServer"]

_log = logging.getLogger("dynamo.quill")
_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_DATA, _END = 1, 2
_COMPRESS_FROM = 1024


class _Method:
    __slots__ = ("call", "kind", "path", "stream_request", "type")

    def __init__(self, path: str, call: Callable[..., Any], type: Any, stream_request: bool) -> None:
        self.path = path
        self.call = call
        self.type = type
        self.stream_request = stream_request
        if inspect.isasyncgenfunction(call):
            self.kind = "async stream"
        elif inspect.isgeneratorfunction(call):
            self.kind = "stream"
        elif inspect.iscoroutinefunction(call):
            self.kind = "async"
        else:
            self.kind = "sync"


class QuillServer:
    """Serves handlers to `QuillClient`, and to anything that speaks HTTP/1.1.

    Examples
    --------
    >>> server = QuillServer()
    >>> @server.method("echo.v1.Echo", "Say")
    ... def say(request):
    ...     return request
    """

    def __init__(self, *, max_body_bytes: int = 64 << 20, max_connections: int = 0) -> None:
        self._max_body = max_body_bytes
        self._limits: dict[str, Any] = {"max_body_bytes": max_body_bytes, "max_connections": max_connections}
        self._methods: dict[str, _Method] = {}
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._grace = 5.0

    def method(
        self, service: str, method: str, *, request: Any = None, stream_request: bool = False
    ) -> Callable[[_Handler], _Handler]:
        """Register a handler: a function, a coroutine function, or a generator of either kind for a stream.

        It is called with the request: bytes; the decoded value when the client sent JSON, of the type `request` when
        that is given; a list of messages with ``stream_request=True``. It gives bytes, or what JSON can carry.
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
            self._methods[path] = _Method(path, call, request, stream_request)
            return call

        return register

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
        await self._main(host, port, None)

    async def _main(self, host: str, port: int, ready: threading.Event | None) -> None:
        server = Server(host, port, **self._limits)
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        for method in self._methods.values():
            server.route("POST", method.path, _bind(self, method))
        server.route("*", "/", self._nothing_here, prefix=True)
        server.route_static("/health", '{"status":"healthy"}', open=True)
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
        """``http://host:port`` while it runs."""
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
        return f"<QuillServer {where}, {len(self._methods)} methods>"

    # ---- one call

    async def _nothing_here(self, x: Request) -> None:
        if x.path in self._methods:
            _refuse(x, 405, "Only POST is supported for RPC calls", "Method not allowed")
        else:
            _refuse(x, 404, f"No handler registered for path: {x.path}", "Method not found")

    def _argument(self, method: _Method, x: Request) -> Any:
        coding = (x.header("content-encoding") or "identity").strip().lower()
        if coding == "zstd":
            body = decompress(x, self._max_body)
        elif coding == "identity":
            body = x.body
        else:
            raise RpcError(415, detail=f"content-encoding {coding}: only zstd is known here")
        if method.stream_request:
            return messages(body)
        if (x.header("content-type") or "").partition(";")[0].strip().lower() != "application/json":
            return body
        import msgspec

        return msgspec.json.decode(body) if method.type is None else msgspec.json.decode(body, type=method.type)

    async def _call(self, method: _Method, x: Request) -> None:
        try:
            argument = self._argument(method, x)
            if method.kind == "async":
                self._answer(x, await method.call(argument))
            elif method.kind == "sync":
                self._answer(x, await asyncio.to_thread(method.call, argument))
            elif method.kind == "async stream":
                await self._stream(x, method.call(argument))
            else:
                await self._stream(x, _in_thread(method.call(argument)))
        except asyncio.CancelledError:
            if not x.begun:
                _refuse(x, 503, "the server is stopping")
            raise
        except Exception as error:
            if x.begun:  # nothing can be said any more: cut it, so that it does not pass for whole
                _log.exception("%s failed in the middle of its stream", method.path)
                x.abort()
            elif isinstance(error, RpcError):
                _refuse(x, error.status, error.detail, error.title, error.type)
            else:
                status, text = status_of(error)
                if status == 529 or isinstance(error, Overloaded):
                    status = 429
                if status == 500:
                    _log.exception("%s failed", method.path)
                    text = ""
                _refuse(x, status, text)

    def _answer(self, x: Request, value: Any) -> None:
        if isinstance(value, (bytes, bytearray, memoryview)):
            body, kind = value, "application/proto"
        else:
            body, kind = _json(value), "application/json"
        if len(body) > _COMPRESS_FROM and "zstd" in (x.header("accept-encoding") or ""):
            packed = compress(body)
            if len(packed) < len(body):
                x.respond(packed, 200, kind, {"Content-Encoding": "zstd"})
                return
        x.respond(body, 200, kind)

    async def _stream(self, x: Request, items: AsyncIterator[Any]) -> None:
        x.begin(200, "application/proto")
        async for item in items:
            if not x.write(frame(item if isinstance(item, (bytes, bytearray, memoryview)) else _json(item))):
                await x.drain()
        x.write(frame(b"", _END))
        x.end()


def _bind(server: QuillServer, method: _Method) -> Callable[[Request], Any]:
    call = server._call

    async def handle(x: Request) -> None:
        await call(method, x)

    return handle


async def _in_thread(items: Any) -> AsyncIterator[Any]:
    end = object()
    while (item := await asyncio.to_thread(next, items, end)) is not end:
        yield item


def _json(value: Any) -> bytes:
    import msgspec

    return msgspec.json.encode(value)


def _refuse(x: Request, status: int, detail: str = "", title: str = "", type: str = "") -> None:
    x.respond(problem(status, detail, title, type), status, "application/problem+json")
