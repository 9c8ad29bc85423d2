"""DistributedRuntime and the names below it: namespace, component, endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from dynamo import errors
from dynamo._discovery import Lease, Store
from dynamo._runtime import Pool, Server, Serving
from dynamo.runtime import settings

if TYPE_CHECKING:
    from dynamo.runtime.client import Client
    from dynamo.runtime.metrics import RuntimeMetrics
    from dynamo.runtime.status import StatusServer

_BACKENDS = ("file", "mem")
# Runtimes that are not shut down, for `DistributedRuntime.detached()`.
_live: list[weakref.ref[DistributedRuntime]] = []


def _part(kind: str, name: str) -> str:
    if not isinstance(name, str) or not name or any(c in "./ \\\0%" or not c.isprintable() for c in name):
        raise errors.InvalidArgument(f"{kind} {name!r}: must be letters, digits, - and _")
    return name


def _split_path(path: str) -> tuple[str, str, str]:
    parts = path.removeprefix("dyn://").split(".")
    if len(parts) != 3 or "/" in path.removeprefix("dyn://"):
        raise errors.InvalidArgument(
            f"Invalid endpoint path {path!r}. Expected format: 'namespace.component.endpoint' or "
            "'dyn://namespace.component.endpoint'"
        )
    return _part("namespace", parts[0]), _part("component", parts[1]), _part("endpoint", parts[2])


class CancellationToken:
    """Says that something is over; children are over with it."""

    def __init__(self, runtime: DistributedRuntime) -> None:
        self._runtime = runtime
        self._children: list[CancellationToken] = []
        self._cancelled = False
        self._waiters: list[asyncio.Future[None]] = []

    def cancel(self) -> None:
        """End it, and its children."""
        self._cancelled = True
        for child in self._children:
            child.cancel()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.get_loop().call_soon_threadsafe(_release, waiter)
        self._waiters.clear()

    def is_cancelled(self) -> bool:
        """Is it over?"""
        return self._cancelled

    async def cancelled(self) -> None:
        """Wait for the end."""
        if not self._cancelled:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def child_token(self) -> CancellationToken:
        """A token that ends with this one, or before."""
        child = CancellationToken(self._runtime)
        self._children.append(child)
        if self._cancelled:
            child.cancel()
        return child

    def __repr__(self) -> str:
        return f"<CancellationToken {'cancelled' if self._cancelled else 'open'}>"


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class DistributedRuntime:
    """What connects this process to the others: discovery, a listener for its endpoints, a pool of connections.

    Both signatures of Dynamo are taken: ``(event_loop, discovery_backend, request_plane)`` and the older
    ``(event_loop, is_static)``.

    Parameters
    ----------
    event_loop : asyncio event loop
        The loop of the program. Endpoints and clients work on the loop in which they are used.
    discovery_backend : {"file", "mem"} or bool, optional
        ``file`` connects the processes of one machine, ``mem`` the runtimes of one process. A bool is the older
        ``is_static``. Default: the environment's ``DYN_DISCOVERY_BACKEND``, else ``file``.
    request_plane : {"tcp"}, optional
        How requests travel.
    enable_nats : bool, optional
        Accepted and not used: nothing here needs NATS.
    event_plane, response_plane : str, optional
        Accepted for compatibility: ``zmq`` and ``tcp`` are what there is.
    """

    def __init__(
        self,
        event_loop: asyncio.AbstractEventLoop,
        discovery_backend: str | bool | None = None,
        request_plane: str | None = None,
        enable_nats: bool | None = None,
        *,
        event_plane: str | None = None,
        response_plane: str | None = None,
        is_static: bool = False,
    ) -> None:
        if isinstance(discovery_backend, bool):
            is_static, discovery_backend = discovery_backend, None
        backend = discovery_backend or settings.discovery_backend()
        if backend not in _BACKENDS:
            raise errors.InvalidArgument(f"discovery backend {backend!r}: must be one of {', '.join(_BACKENDS)}")
        plane = request_plane or settings.text("DYN_REQUEST_PLANE", "tcp")
        if plane != "tcp":
            raise errors.InvalidArgument(f"request plane {plane!r}: must be tcp")
        if event_plane not in (None, "zmq"):
            raise errors.InvalidArgument(f"event plane {event_plane!r}: must be zmq")
        if response_plane not in (None, "tcp"):
            raise errors.InvalidArgument(f"response plane {response_plane!r}: must be tcp")
        from dynamo.runtime.logging import configure_dynamo_logging

        configure_dynamo_logging()
        self._loop = event_loop
        self.is_static = is_static
        self.store = Store(backend)
        self.pool = Pool(
            connect_timeout=settings.number("DYN_TCP_CONNECT_TIMEOUT", 3.0),
            request_timeout=settings.number("DYN_TCP_REQUEST_TIMEOUT", 15.0),
            **_frame_bounds(),
        )
        self._lease: Lease | None = None
        self._server: Server | None = None
        self._served: dict[str, Endpoint] = {}
        self._routes: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {}
        self._ready: bool | None = None
        self._down = False
        self._closed = False
        self._token = CancellationToken(self)
        self._drained: list[asyncio.Future[None]] = []
        self._watchers: weakref.WeakSet[Client] = weakref.WeakSet()
        self._status: StatusServer | None = None
        self._start_status()
        _live.append(weakref.ref(self))

    # ---- what there is -----------------------------------------------------------------------------------------------
    @staticmethod
    def detached() -> DistributedRuntime:
        """The runtime of this process that was made last and is not shut down."""
        while _live:
            runtime = _live[-1]()
            if runtime is not None and not runtime._down:
                return runtime
            _live.pop()
        raise RuntimeError("no runtime is there in this process: make a DistributedRuntime first")

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it was made with."""
        return self._loop

    @property
    def lease(self) -> Lease:
        """What the registrations of this process live on; its id is the instance id."""
        if self._down:
            raise errors.EngineShutdown("the runtime is shut down")
        if self._lease is None:
            self._lease = self.store.lease()
        return self._lease

    @property
    def server(self) -> Server:
        """The listener of this process; made on first use."""
        if self._down:
            raise errors.EngineShutdown("the runtime is shut down")
        if self._server is None:
            self._server = Server(
                settings.text("DYN_TCP_RPC_HOST", "127.0.0.1"),
                settings.port("DYN_TCP_RPC_PORT", 0),
                max_requests=settings.whole("DYN_TCP_MAX_REQUESTS", 0, 1),
                **_frame_bounds(),
            )
        return self._server

    def instance_id(self) -> int:
        """The id under which the endpoints of this process are known."""
        return int(self.lease.id)

    def namespace(self, name: str) -> Namespace:
        """A namespace, of dynamo 0.x's three steps to an endpoint."""
        return Namespace(self, _part("namespace", name))

    def endpoint(self, path: str) -> Endpoint:
        """An endpoint by its path ``namespace.component.endpoint``, with or without ``dyn://``.

        Raises
        ------
        ValueError
            When the path does not have three parts.
        """
        return Endpoint(self, *_split_path(path))

    def child_token(self) -> CancellationToken:
        """Something that is cancelled when this runtime is shut down."""
        return self._token.child_token()

    def register_engine_route(
        self, route_name: str, callback: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
    ) -> None:
        """Answer ``/engine/ROUTE_NAME`` of the status server with an async function from dict to dict."""
        if not route_name or not callable(callback):
            raise errors.InvalidArgument(f"route {route_name!r}: needs a name and an async function")
        self._routes[route_name] = callback

    def set_health_status(self, ready: bool) -> None:
        """Say by hand whether this process is ready."""
        self._ready = ready
        self._health_changed()

    def _start_status(self) -> None:
        """The first runtime of a process opens its status server, when the environment asks for one."""
        if not os.environ.get("DYN_SYSTEM_PORT") and not os.environ.get("DYN_SYSTEM_ENABLED"):
            return
        from dynamo.runtime import status

        port = status.wanted()
        others = (runtime() for runtime in _live)
        if port is None or any(other is not None and other._status is not None for other in others):
            return
        self._status = status.StatusServer(self, port)

    def _health_changed(self) -> None:
        if self._status is not None:
            self._status.refresh()

    def system_status_server_url(self) -> str | None:
        """Where ``/health``, ``/live`` and ``/metrics`` of this process are; None without ``DYN_SYSTEM_PORT``."""
        return None if self._status is None else self._status.url

    def health(self) -> dict[str, Any]:
        """What ``/health`` answers: status, and the state of each endpoint."""
        endpoints = {
            path: "ready" if served.registered and served.healthy else "notready"
            for path, served in self._served.items()
        }
        starting = settings.text("DYN_SYSTEM_STARTING_HEALTH_STATUS", "notready")
        ready = self._ready
        if ready is None:
            ready = all(state == "ready" for state in endpoints.values()) if endpoints else starting == "ready"
        return {"status": "ready" if ready and not self._down else "notready", "endpoints": endpoints}

    # ---- the end -----------------------------------------------------------------------------------------------------
    @property
    def is_shut_down(self) -> bool:
        """Was `shutdown` called?"""
        return self._down

    def shutdown(self) -> None:
        """Begin to stop: leave discovery, take no more requests, let those that run finish.

        `serve_endpoint` returns once its requests are over. Calls of this runtime's clients go on until
        nothing is served any more. May be called from any thread, and again.
        """
        if self._down:
            return
        self._down = True
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.revoke()
        self._token.cancel()
        for endpoint in list(self._served.values()):
            endpoint._close()
        if not self._served:
            self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for client in list(self._watchers):
            client._stop_watching()
        if self._server is not None:
            self._server.close()
        if self._status is not None:
            self._status.close()
            self._status = None
        self.pool.close()
        self.store.close()
        for future in self._drained:
            future.get_loop().call_soon_threadsafe(_release, future)
        self._drained.clear()

    async def wait_closed(self) -> None:
        """Wait until everything that `shutdown` began is over."""
        if not self._closed:
            future = asyncio.get_running_loop().create_future()
            self._drained.append(future)
            await future

    def _served_no_more(self, endpoint: Endpoint) -> None:
        if self._served.get(endpoint.path) is endpoint:
            del self._served[endpoint.path]
        if self._down and not self._served:
            self._close()

    def __repr__(self) -> str:
        state = "shut down" if self._down else f"serves {sorted(self._served)}" if self._served else "open"
        return f"<DistributedRuntime {state}>"


def _frame_bounds() -> dict[str, int]:
    """0: the default of the C library."""
    return {
        "max_message": settings.whole("DYN_TCP_MAX_MESSAGE_SIZE", 0, 4096, 1 << 31),
        "keep_room": settings.whole("DYN_TCP_SHRINK_MESSAGE_SIZE", 0, 4096),
    }


class Namespace:
    """The first part of an endpoint's path."""

    def __init__(self, runtime: DistributedRuntime, name: str) -> None:
        self._runtime = runtime
        self.name = name

    def component(self, name: str) -> Component:
        """The second part."""
        return Component(self._runtime, self.name, _part("component", name))

    def __repr__(self) -> str:
        return f"<Namespace {self.name}>"


class Component:
    """The second part of an endpoint's path: what one kind of worker is."""

    def __init__(self, runtime: DistributedRuntime, namespace: str, name: str) -> None:
        self._runtime = runtime
        self.namespace = namespace
        self.name = name

    def endpoint(self, name: str) -> Endpoint:
        """The third part: what can be called."""
        return Endpoint(self._runtime, self.namespace, self.name, _part("endpoint", name))

    async def create_service(self) -> None:
        """Nothing needs to be made before serving; older programs call it."""

    def __repr__(self) -> str:
        return f"<Component {self.namespace}.{self.name}>"


class Endpoint:
    """One name that workers serve and clients call; made by `DistributedRuntime.endpoint`."""

    def __init__(self, runtime: DistributedRuntime, namespace: str, component: str, name: str) -> None:
        self._runtime = runtime
        self.namespace = namespace
        self.component = component
        self.name = name
        self._serving: Serving | None = None
        self._done: asyncio.Future[None] | None = None
        self._graceful = True
        self.registered = False
        self.healthy = True
        self.metrics_labels: list[tuple[str, str]] = []
        self.health_check_payload: dict[str, Any] | None = None

    @property
    def runtime(self) -> DistributedRuntime:
        """What it was made from."""
        return self._runtime

    @property
    def path(self) -> str:
        """``namespace.component.endpoint``."""
        return f"{self.namespace}.{self.component}.{self.name}"

    @property
    def prefix(self) -> str:
        """The key in discovery below which the instances of this endpoint are."""
        return f"v1/instances/{self.namespace}/{self.component}/{self.name}/"

    def connection_id(self) -> int:
        """The instance id of this process."""
        return self._runtime.instance_id()

    def lease_id(self) -> int:
        """The instance id of this process, by its older name."""
        return self._runtime.instance_id()

    # ---- serving -----------------------------------------------------------------------------------------------------
    async def serve_endpoint(
        self,
        handler: Callable[..., Any],
        graceful_shutdown: bool = True,
        metrics_labels: list[tuple[str, str]] | None = None,
        health_check_payload: Mapping[str, Any] | None = None,
        *,
        arrays: bool = False,
    ) -> None:
        """Serve requests until the runtime is shut down.

        Parameters
        ----------
        handler : async generator function
            ``handler(request)`` or ``handler(request, context)``; what it yields are the items of the answer. A
            coroutine function that returns one item, or an asynchronous iterator, is taken too.
        graceful_shutdown : bool
            At shutdown let running requests finish; otherwise cancel them, so that their callers go elsewhere.
        metrics_labels : list of (str, str), optional
            Of these, ``model`` labels this endpoint's metrics.
        health_check_payload : dict, optional
            A request that shows whether the handler is well: sent, with the key ``_HEALTH_CHECK``, after
            ``DYN_CANARY_WAIT_TIME`` seconds without finished requests. No answer in 3 s is ``notready``.
        arrays : bool
            Arrays in a request arrive as NumPy arrays instead of lists.

        Notes
        -----
        Each request runs in a task of its own. A caller that leaves stops the handler: its context says so, it
        ends at its next ``yield``, and one that waits for something else is cancelled 0.2 s later.
        """
        if self._serving is not None or self.path in self._runtime._served:
            raise errors.InvalidArgument(f"endpoint {self.path}: this process serves it already")
        runtime = self._runtime
        server = runtime.server
        self._graceful = graceful_shutdown
        self.metrics_labels = list(metrics_labels or ())
        self.health_check_payload = None if health_check_payload is None else dict(health_check_payload)
        loop = asyncio.get_running_loop()
        self._serve_loop = loop
        self._done = loop.create_future()
        self._serving = Serving(server, self._wire_path(), handler, arrays=arrays)
        self.metrics.follow(self._serving)
        runtime._served[self.path] = self
        canary: asyncio.Task[None] | None = None
        try:
            await self.register_endpoint_instance()
            if self.health_check_payload is not None:
                canary = asyncio.ensure_future(self._watch_health())
            await self._done
            await self._drain()
        finally:
            if canary is not None:
                canary.cancel()
            self._serving.close()
            if self.registered and not runtime._down:
                await self.unregister_endpoint_instance()
            if self._serving.running:
                self._serving.cancel()
            self._serving.count_no_more()
            self._serving = None
            runtime._served_no_more(self)

    def _wire_path(self) -> str:
        return f"{self._runtime.instance_id():x}/{self.namespace}/{self.component}/{self.name}"

    def _close(self) -> None:
        """Runtime.shutdown(), from any thread."""
        self.registered = False
        done, serving = self._done, self._serving
        if serving is not None:
            serving.close()
        if done is not None:
            done.get_loop().call_soon_threadsafe(_release, done)

    async def _drain(self) -> None:
        serving = self._serving
        assert serving is not None
        if not self._graceful:
            serving.cancel()
        if serving.running:
            idle = asyncio.get_running_loop().create_future()
            serving.on_idle = lambda: _release(idle)
            limit = settings.number("DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS", 900.0)
            try:
                await asyncio.wait_for(idle, limit)
            except asyncio.TimeoutError:
                serving.cancel()
        # Handlers end with a write that leaves at the end of the turn: let it.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _watch_health(self) -> None:
        """After a while without finished requests send the health check: any answer will do."""
        from dynamo._runtime import Caller

        runtime, serving = self._runtime, self._serving
        assert serving is not None
        pause = settings.number("DYN_CANARY_WAIT_TIME", 10.0)
        number = runtime.instance_id()
        caller = Caller(runtime.pool, self.path, inhibit_secs=0.0)
        caller.put(number, self._address())
        finished = 0
        while True:
            await asyncio.sleep(pause)
            before, finished = finished, _finished(serving)
            if finished > before:
                healthy = True
            else:
                stream = caller.call(
                    {**(self.health_check_payload or {}), "_HEALTH_CHECK": True}, 2, number, False, None
                )
                try:
                    await asyncio.wait_for(anext(stream, None), 3.0)
                    healthy = True
                except Exception:  # whatever it is, it is no answer
                    healthy = False
                finally:
                    stream.kill()
                finished = _finished(serving)
            if healthy != self.healthy:
                self.healthy = healthy
                runtime._health_changed()

    def _address(self) -> str:
        server = self._runtime.server
        return f"{_advertised(server.host)}:{server.port}/{self._wire_path()}"

    async def register_endpoint_instance(self) -> None:
        """Be found by clients (again)."""
        if self._serving is None:
            raise errors.InvalidArgument(f"endpoint {self.path}: serve it before registering it")
        runtime = self._runtime
        number = runtime.instance_id()
        value = {
            "type": "Endpoint",
            "namespace": self.namespace,
            "component": self.component,
            "endpoint": self.name,
            "instance_id": number,
            "transport": {"tcp": self._address()},
            "request_plane_codec": "msgpack",
        }
        runtime.store.put(f"{self.prefix}{number:x}", json.dumps(value).encode(), runtime.lease)
        self.registered = True
        runtime._health_changed()

    async def unregister_endpoint_instance(self) -> None:
        """Be found no more; requests that come nevertheless are still served."""
        self.registered = False
        runtime = self._runtime
        if not runtime._down:
            runtime.store.delete(f"{self.prefix}{runtime.instance_id():x}")
            runtime._health_changed()

    @property
    def metrics(self) -> RuntimeMetrics:
        """Metrics with this endpoint's labels, for what a handler wants to count itself."""
        from dynamo.runtime.metrics import RuntimeMetrics

        return RuntimeMetrics(self)

    def stats(self) -> dict[str, int]:
        """Counters of this process: requests, failed, items, bytes_in, bytes_out, duration_ns, inflight."""
        if self._serving is None:
            raise errors.InvalidArgument(f"endpoint {self.path}: this process does not serve it")
        return self._serving.stats()

    # ---- calling -----------------------------------------------------------------------------------------------------
    async def client(self, router_mode: Any = None, *, arrays: bool = False) -> Client:
        """A client of this endpoint.

        Parameters
        ----------
        router_mode : RouterMode, optional
            What `Client.generate` does: round robin by default.
        arrays : bool
            Arrays in answers arrive as NumPy arrays instead of lists.
        """
        from dynamo.runtime.client import Client

        client = Client(self, router_mode, arrays=arrays)
        await client._start_watching()
        return client

    def __repr__(self) -> str:
        return f"<Endpoint {self.path}>"


def _finished(serving: Serving) -> int:
    stats = serving.stats()
    return stats["requests"] - stats["inflight"]


def _advertised(host: str) -> str:
    """An address others can connect to: one that means "all interfaces" is replaced by this machine's."""
    if host in ("0.0.0.0", "::"):
        import socket

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # nothing is sent: it only asks which way it would go
                return str(probe.getsockname()[0])
            except OSError:
                return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
