from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar, final, overload

from typing_extensions import Buffer, Self, disjoint_base

from dynamo._mailbox import Receiver
from dynamo._metrics import Registry
from dynamo._tls import TlsContext

_T = TypeVar("_T")
_Headers = Mapping[str, str] | Iterable[tuple[str, str]]

def status_of(error: BaseException) -> tuple[int, str]: ...

class Response:
    body: Any
    status: int
    content_type: str
    headers: _Headers | None
    def __init__(
        self,
        body: Any = b"",
        status: int = 200,
        content_type: str | None = None,
        headers: _Headers | None = None,
    ) -> None: ...

@final
class Server:
    host: str
    port: int
    def __new__(
        cls,
        host: str | None = "127.0.0.1",
        port: int = 0,
        *,
        max_connections: int = 0,
        max_header_bytes: int = 0,
        max_headers: int = 0,
        max_url_bytes: int = 0,
        max_body_bytes: int = 0,
        max_total_body_bytes: int = 0,
        max_pending_bytes: int = 0,
        header_timeout: float | None = 10.0,
        body_timeout: float | None = 30.0,
        idle_timeout: float | None = 75.0,
        write_timeout: float | None = 30.0,
        api_key: str | None = None,
        allow_origin: str | None = None,
        tls: TlsContext | None = None,
    ) -> Self: ...
    def route(
        self,
        method: str,
        path: str,
        handler: Callable[[Request], Awaitable[Any]],
        *,
        prefix: bool = False,
        open: bool = False,
        live: bool = False,
    ) -> None: ...
    def route_static(
        self,
        path: str,
        body: str | bytes,
        content_type: str = "application/json",
        *,
        status: int = 200,
        prefix: bool = False,
        open: bool = False,
        replace: bool = False,
    ) -> None: ...
    def route_metrics(self, path: str, registry: Registry, *, open: bool = True) -> None: ...
    def unroute(self, method: str, path: str, *, prefix: bool = False) -> None: ...
    def start(self) -> int: ...
    async def stop(self, grace: float | None = 5.0) -> None: ...
    def close(self) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    @property
    def url(self) -> str: ...

@disjoint_base
class Route(Receiver): ...

@final
class Request(Receiver):
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query_string(self) -> str: ...
    @property
    def query(self) -> dict[str, str]: ...
    @property
    def headers(self) -> dict[str, str]: ...
    @overload
    def header(self, name: str, default: None = None) -> str | None: ...
    @overload
    def header(self, name: str, default: str) -> str: ...
    @property
    def body(self) -> bytes: ...
    async def read(self) -> bytes: ...
    @overload
    def json(self, type: None = None) -> Any: ...
    @overload
    def json(self, type: type[_T]) -> _T: ...
    @property
    def id(self) -> str: ...
    @property
    def peer(self) -> str: ...
    @property
    def started_ns(self) -> int: ...
    def respond(
        self,
        body: str | Buffer = b"",
        status: int = 200,
        content_type: str = "text/plain; charset=utf-8",
        headers: _Headers | None = None,
    ) -> bool: ...
    def respond_pieces(
        self,
        pieces: list[Any],
        status: int = 200,
        content_type: str = "application/octet-stream",
        headers: _Headers | None = None,
    ) -> bool: ...
    def respond_json(self, value: Any, status: int = 200, headers: _Headers | None = None) -> bool: ...
    def fail(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: _Headers | None = None,
    ) -> bool: ...
    def begin(
        self, status: int = 200, content_type: str = "text/event-stream", headers: _Headers | None = None
    ) -> bool: ...
    def write(self, data: str | Buffer) -> bool: ...
    def event(self, data: bytes, event: str | None = None) -> bool: ...
    async def drain(self) -> None: ...
    def end(self) -> bool: ...
    def abort(self) -> None: ...
    @property
    def pending(self) -> int: ...
    @property
    def begun(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    def on_closed(self, call: Callable[[], object]) -> None: ...
