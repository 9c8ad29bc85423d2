"""QuillClient: typed calls over HTTP/1.1, from threads and from asyncio."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from dynamo._quill import CREDITS, IDEMPOTENT, Channel, Stream, header_line
from dynamo._tls import TlsContext
from dynamo.errors import InvalidArgument, RequestTimeout
from dynamo.quill.problem import RpcError

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

__all__ = ["AsyncStream", "QuillClient"]

_T = TypeVar("_T")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")
_PROTO = "application/proto"
_JSON = "application/json"
TIMEOUT_HEADER = "quill-timeout-ms"
CREDITS_HEADER = "quill-credits"  # of a two-way call: messages that its sender takes before it grants more
_RETRIED = frozenset({408, 425, 429, 502, 503, 504})
_MAX_PATHS = 1024
_PIECES_FROM = 65536  # of a tensor; below that a copy costs less


def as_body(request: Any) -> Any:
    """What is sent for a request: a tensor's frames, what tokens encode to, else the request's own bytes."""
    if hasattr(request, "framed"):
        return request.framed()
    if hasattr(request, "encode") and not isinstance(request, str):
        return request.encode()
    return request


def _request(request: Any) -> Any:
    """The same for a call of one request: a large tensor goes from its own memory, in pieces."""
    if getattr(request, "size_bytes", 0) >= _PIECES_FROM and hasattr(request, "to_frames"):
        return request.to_frames()
    return as_body(request)


def _max_timeout(timeout_ms: int) -> int:
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int):
        raise TypeError(f"timeout_ms must be an int, not {type(timeout_ms).__name__}")
    if not 0 < timeout_ms < 1 << 32:
        raise InvalidArgument(f"timeout_ms {timeout_ms}: must be 1 to {(1 << 32) - 1}")
    return timeout_ms


class QuillClient:
    """Calls methods of services at one URL: ``POST {base_url}/{service}/{method}``.

    One client keeps one pool of connections alive; make it once and share it between threads, asyncio tasks and
    asyncio loops. A call in a thread sends and reads in that thread, without the GIL. A child of `os.fork` starts
    with no connections.

    Parameters
    ----------
    base_url : str
        ``http://host:port`` or ``https://host:port``, with a path in front of the services' if there is one.
    timeout_ms : int
        For a whole call, from connecting to the last byte; for streams for each wait between two items.
    enable_compression : bool
        Send bodies over 1,024 bytes as zstd, and ask for zstd answers.
    ca_file, certificate, key, key_password : path or str, optional
        For https: whom to trust instead of the system's store, and the client's own certificate (PEM).
    tls : TlsContext, optional
        The same, ready made.
    retries : int
        How often a call that is marked ``idempotent=True`` is tried again after a failed connection or a status 408,
        425, 429, 502, 503 or 504: after 100 ms, then twice as long each time up to 30 s (a `Retry-After` of the server
        counts when it is longer), all within the timeout. Other calls are never repeated.
    max_response_bytes : int
        Longer answers are refused, also when they are compressed. 256 MiB unless given.
    max_connections : int
        At one time for each asyncio loop; further calls wait. Threads have a connection each.

    Raises
    ------
    ConnectionError
        No connection, or it broke (`dynamo.errors.ConnectionFailed`, `StreamBroken`).
    TimeoutError
        ``Request timed out after 30000ms, ...``
    RuntimeError
        `RpcError`: the server refused; it carries ``status``, ``title``, ``detail`` and ``type``.
    ValueError
        A URL, name, header or answer that cannot be.

    Examples
    --------
    >>> client = QuillClient("http://localhost:8080")
    >>> client
    QuillClient(base_url='http://localhost:8080', timeout_ms=30000, compression=false)
    """

    def __init__(
        self,
        base_url: str,
        timeout_ms: int = 30000,
        enable_compression: bool = False,
        *,
        ca_file: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        key_password: str | None = None,
        tls: TlsContext | None = None,
        retries: int = 0,
        max_response_bytes: int = 0,
        max_connections: int = 0,
    ) -> None:
        if not isinstance(base_url, str):
            raise TypeError(f"base_url must be a str, not {type(base_url).__name__}")
        if retries < 0:
            raise InvalidArgument(f"retries {retries}: must be 0 or more")
        if tls is None and (ca_file is not None or certificate is not None or key is not None):
            tls = TlsContext(ca_file=ca_file, certificate=certificate, key=key, password=key_password)
        self._timeout_ms = _max_timeout(timeout_ms)
        self._compress = bool(enable_compression)
        self._retries = retries
        self._channel = Channel(
            base_url,
            RpcError.from_answer,
            tls=tls,
            max_response_bytes=max_response_bytes,
            max_connections=max_connections,
        )
        self._base_url = base_url
        self._headers: dict[str, str] = {}
        self._bare: dict[tuple[str, bool], bytes] = {}  # for streams: their time is that between two items
        self._lines: dict[tuple[str, bool], bytes] = {}
        self._paths: dict[tuple[str, str], bytes] = {}
        self._write_lines()

    # ---- what it is

    @property
    def base_url(self) -> str:
        return self._base_url

    @property
    def timeout_ms(self) -> int:
        return self._timeout_ms

    @property
    def compression_enabled(self) -> bool:
        return self._compress

    def __repr__(self) -> str:
        compression = "true" if self._compress else "false"
        return f"QuillClient(base_url='{self._base_url}', timeout_ms={self._timeout_ms}, compression={compression})"

    def stats(self) -> dict[str, int]:
        """Connections opened, reused and idle, calls done and failed, since it was made."""
        return self._channel.stats()

    # ---- headers

    def set_header(self, name: str, value: str) -> None:
        """Send this header with every call from now on. A name that is there, in any case, is replaced."""
        header_line(name, value)
        headers = {key: text for key, text in self._headers.items() if key.lower() != name.lower()}
        headers[name] = value
        self._headers = headers
        self._write_lines()

    def remove_header(self, name: str) -> None:
        """Send it no more. Nothing happens when it is not there."""
        self._headers = {key: text for key, text in self._headers.items() if key.lower() != name.lower()}
        self._write_lines()

    def set_bearer_token(self, token: str) -> None:
        """``Authorization: Bearer <token>``"""
        self.set_header("Authorization", f"Bearer {token}")

    def set_api_key(self, key: str, header_name: str | None = None) -> None:
        """`key` as ``X-API-Key``, or under another name."""
        self.set_header("X-API-Key" if header_name is None else header_name, key)

    def get_headers(self) -> dict[str, str]:
        """A copy of the headers that were set."""
        return dict(self._headers)

    def _write_lines(self) -> None:
        # One block of bytes for each kind of call, made when a header changes and not when a call is made.
        bare, lines = {}, {}
        given = {name.lower() for name in self._headers}
        own = b"".join(header_line(name, value) for name, value in self._headers.items())
        for kind in (_PROTO, _JSON):
            for packed in (False, True):
                block = [("Content-Type", kind), ("Accept", kind), ("Prefer", "prism=classic")]
                if packed:
                    block.append(("Accept-Encoding", "zstd"))
                ours = b"".join(header_line(*pair) for pair in block if pair[0].lower() not in given)
                bare[kind, packed] = ours + own
                lines[kind, packed] = ours + own + self._time_line(self._timeout_ms)
        self._bare, self._lines = bare, lines
        self._proto = lines[_PROTO, self._compress]
        self._two_way = bare[_PROTO, False] + header_line(CREDITS_HEADER, str(CREDITS))

    def _block(self, kind: str, timeout_ms: int | None) -> tuple[bytes, int]:
        """The header lines of a call that has this much time, and the time."""
        if timeout_ms is None:
            return self._lines[kind, self._compress], self._timeout_ms
        time_ms = _max_timeout(timeout_ms)
        return self._bare[kind, self._compress] + self._time_line(time_ms), time_ms

    def _time_line(self, time_ms: int) -> bytes:
        """What tells a server how long it has; nothing when the program sets that header itself."""
        if any(name.lower() == TIMEOUT_HEADER for name in self._headers):
            return b""
        return b"%s: %d\r\n" % (TIMEOUT_HEADER.encode(), time_ms)

    def _path(self, service: str, method: str) -> bytes:
        path = self._paths.get((service, method))
        if path is None:
            for what, name in (("service", service), ("method", method)):
                if not isinstance(name, str):
                    raise TypeError(f"the {what} must be a str, not {type(name).__name__}")
                if not _NAME.match(name):
                    raise InvalidArgument(f"the {what} {name!r}: must be letters, digits, _, . and -")
            path = f"/{service}/{method}".encode("ascii")
            if len(self._paths) >= _MAX_PATHS:
                self._paths.clear()
            self._paths[service, method] = path
        return path

    # ---- calls in a thread

    def call(
        self,
        service: str,
        method: str,
        request: Buffer | list[Any],
        *,
        timeout_ms: int | None = None,
        idempotent: bool = False,
    ) -> bytes:
        """Send `request`, give the answer.

        Anything with the buffer protocol is sent without a copy, and so are a list of such things, one behind the
        other, and a contiguous `Tensor`, as its frames; tokens as they encode.
        """
        path = self._paths.get((service, method)) or self._path(service, method)
        lines, time_ms = (self._proto, self._timeout_ms) if timeout_ms is None else self._block(_PROTO, timeout_ms)
        body = request if type(request) is bytes else _request(request)
        if not idempotent:
            return self._channel.unary(path, lines, body, time_ms, compress=self._compress)
        return self._repeat(path, lines, body, time_ms)

    def call_json(
        self,
        service: str,
        method: str,
        request: Any,
        *,
        type: Any = Any,
        timeout_ms: int | None = None,
        idempotent: bool = False,
    ) -> Any:
        """The same with JSON both ways. `request` is what msgspec can encode; `type` is what the answer must be."""
        path = self._paths.get((service, method)) or self._path(service, method)
        lines, time_ms = self._block(_JSON, timeout_ms)
        body = _encode(request)
        if idempotent:
            return _decode(self._repeat(path, lines, body, time_ms), type)
        return _decode(self._channel.unary(path, lines, body, time_ms, compress=self._compress), type)

    def call_stream(
        self, service: str, method: str, request: Buffer | list[Any], *, timeout_ms: int | None = None
    ) -> Stream:
        """Send `request`; iterate over the messages of the answer. Close it, or use ``with``, to leave early."""
        path = self._path(service, method)
        time_ms = self._timeout_ms if timeout_ms is None else _max_timeout(timeout_ms)
        lines, body = self._bare[_PROTO, False], _request(request)
        return self._channel.stream(path, lines, body, time_ms, compress=self._compress).open()

    def upload_stream(
        self, service: str, method: str, requests: Iterable[Buffer], *, timeout_ms: int | None = None
    ) -> bytes:
        """Send messages as they come out of `requests`, then give the one answer."""
        lines, time_ms = self._block(_PROTO, timeout_ms)
        call = self._channel.upload(self._path(service, method), lines, time_ms)
        try:
            for request in requests:
                if call.send(as_body(request)):
                    call.flush()
                if call.done:  # the server has heard enough
                    break
            else:
                call.send_end()
            return call.result()
        finally:
            call.cancel()

    def call_bidirectional(
        self, service: str, method: str, requests: Iterable[Buffer], *, timeout_ms: int | None = None
    ) -> Iterator[bytes]:
        """Send messages and give those of the answer as they come, where the server answers before it has read all.

        With a `QuillServer` both sides count: neither sends more than 16 messages that the other has not taken.
        """
        time_ms = self._timeout_ms if timeout_ms is None else _max_timeout(timeout_ms)
        stream = self._channel.stream(self._path(service, method), self._two_way, None, time_ms)
        with stream:
            for request in requests:
                stream.send(as_body(request))
                stream.flush()
                yield from stream.arrived()
                while stream.starved:
                    stream.step()
                    yield from stream.arrived()
                if stream.done:
                    break
            else:
                stream.send_end()
            yield from stream

    def health_check(self, timeout_ms: int = 5000) -> bool:
        """Does the server answer, and does it call itself healthy?

        ``GET /health``, and ``/healthz`` where that is not known, must answer 2xx. A server that knows neither is
        healthy when it answers at all. No connection, no answer in time, or a status of 500 and more is False.
        """
        deadline = time.monotonic() + _max_timeout(timeout_ms) / 1000
        for path in (b"/health", b"/healthz"):
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            try:
                status, _ = self._channel.get(path, self._bare[_JSON, False], left_ms)
            except (OSError, RuntimeError):
                return False
            if status not in (404, 405, 501):
                return bool(200 <= status <= 299)
        return True

    def _repeat(self, path: bytes, lines: bytes, body: Buffer, time_ms: int) -> bytes:
        deadline = time.monotonic() + time_ms / 1000
        for attempt in range(self._retries + 1):
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            try:
                return self._channel.unary(path, lines, body, left_ms, flags=IDEMPOTENT, compress=self._compress)
            except (RpcError, OSError) as error:
                pause = _pause(error, attempt, self._retries, deadline)
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    # ---- calls in asyncio

    async def acall(
        self,
        service: str,
        method: str,
        request: Buffer | list[Any],
        *,
        timeout_ms: int | None = None,
        idempotent: bool = False,
    ) -> bytes:
        """`call` for asyncio. Cancelling it closes its connection, so that the server sees it."""
        path = self._paths.get((service, method)) or self._path(service, method)
        lines, time_ms = (self._proto, self._timeout_ms) if timeout_ms is None else self._block(_PROTO, timeout_ms)
        body = request if type(request) is bytes else _request(request)
        if idempotent:
            return await self._arepeat(path, lines, body, time_ms)
        call = self._channel.start(path, lines, body, time_ms, compress=self._compress)
        try:
            return await call.future
        except asyncio.CancelledError:
            call.cancel()
            raise

    async def acall_json(
        self,
        service: str,
        method: str,
        request: Any,
        *,
        type: Any = Any,
        timeout_ms: int | None = None,
        idempotent: bool = False,
    ) -> Any:
        """`call_json` for asyncio."""
        path = self._path(service, method)
        lines, time_ms = self._block(_JSON, timeout_ms)
        body = _encode(request)
        if idempotent:
            return _decode(await self._arepeat(path, lines, body, time_ms), type)
        call = self._channel.start(path, lines, body, time_ms, compress=self._compress)
        try:
            return _decode(await call.future, type)
        except asyncio.CancelledError:
            call.cancel()
            raise

    async def _arepeat(self, path: bytes, lines: bytes, body: Buffer, time_ms: int) -> bytes:
        deadline = time.monotonic() + time_ms / 1000
        for attempt in range(self._retries + 1):
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            call = self._channel.start(path, lines, body, left_ms, flags=IDEMPOTENT, compress=self._compress)
            try:
                return await call.future
            except asyncio.CancelledError:
                call.cancel()
                raise
            except (RpcError, OSError) as error:
                pause = _pause(error, attempt, self._retries, deadline)
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def acall_stream(
        self, service: str, method: str, request: Buffer | list[Any], *, timeout_ms: int | None = None
    ) -> AsyncStream:
        """`call_stream` for asyncio: ``async for message in client.acall_stream(...)``.

        Nothing is sent before the first message is asked for (or ``await stream.open()``).
        """
        path = self._path(service, method)
        time_ms = self._timeout_ms if timeout_ms is None else _max_timeout(timeout_ms)
        channel, lines, packed = self._channel, self._bare[_PROTO, False], self._compress
        body = _request(request)
        return AsyncStream(lambda: channel.stream(path, lines, body, time_ms, here=False, compress=packed))

    async def aupload_stream(
        self,
        service: str,
        method: str,
        requests: Iterable[Buffer] | AsyncIterable[Buffer],
        *,
        timeout_ms: int | None = None,
    ) -> bytes:
        """`upload_stream` for asyncio; `requests` may be an asynchronous iterable."""
        lines, time_ms = self._block(_PROTO, timeout_ms)
        call = self._channel.upload(self._path(service, method), lines, time_ms, here=False)
        try:
            async for request in _each(requests):
                if call.send(as_body(request)):
                    room = call.room()
                    if room is not None:
                        await room
                if call.done:
                    break
            else:
                if not call.done:
                    call.send_end()
            return await call.future
        finally:
            call.cancel()

    def acall_bidirectional(
        self,
        service: str,
        method: str,
        requests: Iterable[Buffer] | AsyncIterable[Buffer],
        *,
        timeout_ms: int | None = None,
    ) -> AsyncStream:
        """`call_bidirectional` for asyncio: sending and receiving go on side by side."""
        path = self._path(service, method)
        time_ms = self._timeout_ms if timeout_ms is None else _max_timeout(timeout_ms)
        channel, lines = self._channel, self._two_way
        return AsyncStream(lambda: channel.stream(path, lines, None, time_ms, here=False), requests)

    # ---- the end

    def close(self) -> None:
        """Close the connections that nobody uses. A later call connects anew."""
        self._channel.close_idle()

    async def aclose(self) -> None:
        """The same, also for the running asyncio loop."""
        self._channel.close_idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> Any:
        raise TypeError("a QuillClient has connections and cannot be pickled: send its arguments")


class AsyncStream(AsyncIterator[bytes]):
    """The messages of an answer, for ``async for``; ``async with`` closes it when it is left early."""

    def __init__(
        self, start: Callable[[], Stream], requests: Iterable[Buffer] | AsyncIterable[Buffer] | None = None
    ) -> None:
        self._start = start
        self._requests = requests
        self._call: Stream | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sender: asyncio.Task[None] | None = None

    def _begin(self) -> Stream:
        if self._call is None:
            self._loop = asyncio.get_running_loop()
            self._call = self._start()
            if self._requests is not None:
                self._sender = self._loop.create_task(self._send(self._call, self._requests))
        return self._call

    @staticmethod
    async def _send(call: Stream, requests: Iterable[Buffer] | AsyncIterable[Buffer]) -> None:
        try:
            async for request in _each(requests):
                if call.done:
                    return
                if call.send(as_body(request)):
                    while (room := call.room()) is not None:
                        await room
            if not call.done:
                call.send_end()
        except BaseException:
            call.close()
            raise

    async def open(self) -> Self:
        """Send the request and wait until the server has taken it; what it refuses with is raised."""
        call = self._begin()
        try:
            while not call.opened():
                await call.more()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __anext__(self) -> bytes:
        call = self._call if self._call is not None else self._begin()
        try:
            while True:
                message = call.ready()
                if message is not None:
                    return message
                await call.more()
        except BaseException as error:
            failed = self._sender
            if failed is not None and failed.done() and not failed.cancelled() and failed.exception() is not None:
                cause = failed.exception()
                assert cause is not None
                await self.aclose()
                raise cause from None
            if not isinstance(error, StopAsyncIteration):
                await self.aclose()
            raise

    async def aclose(self) -> None:
        """Drop the stream; the server sees the connection close unless the answer was complete."""
        if self._call is not None:
            self._call.close()
        sender, self._sender = self._sender, None
        if sender is not None and not sender.done():
            sender.cancel()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Left in the middle, perhaps collected by another thread: the loop's thread closes it.
        call, loop = self._call, self._loop
        if call is not None and not call.done and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(call.close)


def _pause(error: Exception, attempt: int, retries: int, deadline: float) -> float | None:
    """Seconds to wait before another attempt; None: this was the last."""
    if attempt >= retries or isinstance(error, RequestTimeout):
        return None
    pause = min(30.0, 0.1 * 2**attempt) * random.uniform(0.9, 1.1)
    if isinstance(error, RpcError):
        if error.status not in _RETRIED:
            return None
        asked = error.headers.get("retry-after", "")
        if asked.isdigit():
            pause = max(pause, float(asked))
    elif not isinstance(error, ConnectionError):
        return None
    return pause if time.monotonic() + pause < deadline else None


async def _each(items: Iterable[_T] | AsyncIterable[_T]) -> AsyncIterator[_T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for item in items:
        yield item


def _encode(request: Any) -> bytes:
    import msgspec

    return msgspec.json.encode(request)


def _decode(body: bytes, kind: Any) -> Any:
    import msgspec

    try:
        return msgspec.json.decode(body) if kind is Any else msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the answer is not the JSON that was expected: {error}") from None
