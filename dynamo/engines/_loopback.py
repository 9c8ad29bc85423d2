"""A small HTTP/1.1 client for an engine on the loopback port of its own process: one request a connection.

Not for other servers: it trusts the framing of its peer, and refuses what it does not know.
"""

import asyncio

from dynamo.errors import StreamBroken, Unavailable

__all__ = ["Connection", "fetch"]

MAX_HEAD = 1 << 16
MAX_BODY = 1 << 28


class Connection(asyncio.Protocol):
    """One request and its answer, which may be a stream of server-sent events.

    `events` collects the payloads of ``data:`` lines; a reader takes all that are there at once.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._buffer = bytearray()
        self._left = 0  # bytes of the current chunk, or of the body
        self._chunked = False
        self._in_head = True
        self._size = 0
        self.status = 0
        self.body = bytearray()
        self.events: list[bytes] = []
        self.streams = False
        self.done = False
        self.broken: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            if self._in_head and not self._head():
                return
            self._chunks() if self._chunked else self._plain()
            if self.streams:
                self._lines()
        except ValueError as error:
            self.broken = f"the engine answered with something that is not HTTP: {error}"
            self.close()
        self._wake()

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise ValueError("a head without end")
            return False
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        self._in_head = False
        self.status = int(lines[0].split(" ", 2)[1])
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        self._chunked = "chunked" in headers.get("transfer-encoding", "")
        self._left = 0 if self._chunked else int(headers.get("content-length", MAX_BODY))
        self.streams = headers.get("content-type", "").startswith("text/event-stream")
        return True

    def _chunks(self) -> None:
        while not self.done:
            if self._left == 0:
                end = self._buffer.find(b"\r\n")
                if end < 0:
                    return
                self._left = int(bytes(self._buffer[:end]).split(b";")[0] or b"x", 16) + 2  # the chunk ends with CR LF
                del self._buffer[: end + 2]
                if self._left == 2:
                    self._finish()
                    return
            if len(self._buffer) < self._left:
                return
            self._add(self._buffer[: self._left - 2])
            del self._buffer[: self._left]
            self._left = 0

    def _plain(self) -> None:
        piece = self._buffer[: self._left]
        self._left -= len(piece)
        self._add(piece)
        del self._buffer[: len(piece)]
        if self._left == 0:
            self._finish()

    def _add(self, piece: bytearray) -> None:
        self._size += len(piece)
        self.body += piece
        if len(self.body) > MAX_BODY:
            raise ValueError(f"more than {MAX_BODY} bytes")

    def _lines(self) -> None:
        end = self.body.rfind(b"\n")
        if end < 0:
            return
        for line in bytes(self.body[:end]).split(b"\n"):
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                self.events.append(line[6:])
            elif line.startswith(b"error: "):
                self.events.append(b'{"error":' + line[7:] + b"}")
        del self.body[: end + 1]

    def _finish(self) -> None:
        self.done = True
        self.close()

    def close(self) -> None:
        """Hang up. An engine stops working for a request whose caller hung up."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done and self.broken is None:
            if not self._in_head and not self._chunked and self._left > MAX_BODY // 2:
                self.done = True  # an answer without a length ends with its connection
            else:
                self.broken = "the engine hung up"
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Until there are events, or the answer is complete or broken."""
        while not self.events and not self.done and self.broken is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def whole(self) -> bytes:
        """The body of an answer that is not a stream."""
        while not self.done and self.broken is None:
            self.events.clear()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.broken is not None:
            raise StreamBroken(self.broken)
        return bytes(self.body)


async def fetch(address: tuple[str, int], method: str, path: str, key: str, body: bytes = b"") -> Connection:
    """Send one request; the connection that will bring its answer."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    request = head.encode() + body
    try:
        _, connection = await loop.create_connection(lambda: Connection(request), *address)
    except OSError as error:
        raise Unavailable(f"the engine on port {address[1]} cannot be reached: {error}") from error
    return connection
