"""A small HTTP/1.1 client on asyncio: JSON, text, server-sent events. What chat, bench and top need, no more."""

import asyncio
import json
import ssl
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

from dynamo.cli import CommandError

__all__ = ["Answer", "Connection", "HttpFailure", "Server"]

MAX_HEAD = 64 << 10


class HttpFailure(Exception):
    """An answer that says no. ``status`` 0: there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """Where requests go: a base URL (with or without /v1) and a key.

    `trusted`: the file of the one certificate that is right for https; None: what the system trusts.
    """

    def __init__(self, url: str, api_key: str | None = None, trusted: str | None = None) -> None:
        self.trusted = trusted
        parts = urllib.parse.urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"{url!r} is not the address of a server; it looks like http://127.0.0.1:8000", 2)
        self.tls = parts.scheme == "https"
        self.host = parts.hostname
        try:
            self.port = parts.port or (443 if self.tls else 80)
        except ValueError as error:
            raise CommandError(f"{url!r}: {error}", 2) from None
        path = parts.path.rstrip("/")
        self.base = path[: -len("/v1")] if path.endswith("/v1") else path
        self.url = f"{parts.scheme}://{parts.netloc}{self.base}"
        self.api_key = api_key

    async def json(self, path: str) -> Any:
        """GET, decoded."""
        return json.loads(await self.text(path))

    async def text(self, path: str) -> str:
        """GET."""
        connection = Connection(self)
        try:
            answer = await connection.send("GET", path)
            return (await answer.body()).decode("utf-8", "replace")
        finally:
            connection.close()

    async def model(self, wanted: str | None) -> str:
        """The model to talk to: the one asked for, or the one that is there."""
        try:
            listed = await self.json("/v1/models")
            there = [str(model["id"]) for model in listed["data"]]
        except HttpFailure as error:
            raise CommandError(str(error)) from None
        except (ValueError, LookupError, TypeError):
            raise CommandError(f"{self.url} does not speak the OpenAI API") from None
        if wanted is not None and wanted not in there:
            raise CommandError(f"{self.url} has no model {wanted!r}; it has {', '.join(there) or 'none yet'}")
        if wanted is None and not there:
            raise CommandError(f"{self.url} has no model yet: its workers are still loading, or there are none")
        return wanted if wanted is not None else there[0]


class Answer:
    """The head of an answer; its body is read once, by `body` or `events`."""

    def __init__(self, connection: "Connection", status: int, headers: dict[str, str]) -> None:
        self.status, self.headers, self._connection = status, headers, connection

    @property
    def worker(self) -> str | None:
        """The instance that answers, as `dynamo top` writes it."""
        id = self.headers.get("x-dynamo-worker-instance-id")
        return f"{int(id):x}" if id and id.isdigit() else id

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        reader = self._connection.reader
        assert reader is not None
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            while True:
                size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
                data = await reader.readexactly(size + 2)
                if size == 0:
                    return
                yield data[:-2]
        elif "content-length" in self.headers:
            left = int(self.headers["content-length"])
            while left > 0:
                data = await reader.read(min(left, 1 << 16))
                if not data:
                    raise HttpFailure(0, "the server closed the connection in the middle of its answer")
                left -= len(data)
                yield data
        else:
            self._connection.keep = False
            while data := await reader.read(1 << 16):
                yield data

    async def body(self) -> bytes:
        try:
            return b"".join([chunk async for chunk in self.chunks()])
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise HttpFailure(0, f"the answer broke off: {error}") from None

    async def events(self) -> AsyncIterator[list[bytes]]:
        """The ``data:`` parts of server-sent events; those that arrived together come together."""
        rest = b""
        try:
            async for chunk in self.chunks():
                *events, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
                found = [
                    line[5:].strip() for event in events for line in event.split(b"\n") if line.startswith(b"data:")
                ]
                if found:
                    yield found
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise HttpFailure(0, f"the stream broke off: {error}") from None


class Connection:
    """One connection, kept between requests, opened again when the server has closed it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.keep = True

    async def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send a request and wait for the head of the answer; refusals raise `HttpFailure`."""
        server = self.server
        lines = [f"{method} {server.base}{path} HTTP/1.1", f"Host: {server.host}:{server.port}", "Accept: */*"]
        data = b""
        if body is not None:
            data = json.dumps(body).encode()
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        if server.api_key:
            lines.append(f"Authorization: Bearer {server.api_key}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        request = "\r\n".join([*lines, "", ""]).encode() + data
        for attempt in (1, 2):
            fresh = self.writer is None or not self.keep
            try:
                if fresh:
                    await self._open()
                assert self.reader is not None and self.writer is not None
                self.writer.write(request)
                await self.writer.drain()
                head = await self.reader.readuntil(b"\r\n\r\n")
                break
            except (OSError, asyncio.IncompleteReadError) as error:
                self.close()
                # A kept connection may have been closed by the server in the meantime: once more, on a new one.
                if attempt == 2 or fresh:
                    raise HttpFailure(0, f"no answer from {server.url}: {_why(error)}") from None
            except asyncio.LimitOverrunError:
                self.close()
                raise HttpFailure(0, f"{server.url} does not speak HTTP") from None
        try:
            first, *rest = head.decode("latin-1").split("\r\n")
            status = int(first.split(" ")[1])
        except (ValueError, IndexError):
            self.close()
            raise HttpFailure(0, f"{server.url} does not speak HTTP") from None
        pairs = (line.partition(":") for line in rest if line)
        answer = Answer(self, status, {name.strip().lower(): value.strip() for name, _, value in pairs})
        self.keep = answer.headers.get("connection", "").lower() != "close"
        if status >= 400:
            raise HttpFailure(status, f"{server.url} says {status}: {_message(await answer.body())}")
        return answer

    async def _open(self) -> None:
        self.close()
        context = None
        if self.server.tls:
            context = ssl.create_default_context(cafile=self.server.trusted)
            if self.server.trusted is not None:  # it is known by itself, not by its name or who made it
                context.check_hostname = False
                context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        opening = asyncio.open_connection(self.server.host, self.server.port, ssl=context, limit=MAX_HEAD)
        try:
            self.reader, self.writer = await asyncio.wait_for(opening, 10)
        except asyncio.TimeoutError:
            raise OSError("it does not answer") from None
        self.keep = True

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def _why(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there (is `dynamo serve` running?)"
    if isinstance(error, asyncio.IncompleteReadError):
        return "it closed the connection"
    return str(error)


def _message(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        return body[:300].decode("utf-8", "replace").strip() or "no reason given"
