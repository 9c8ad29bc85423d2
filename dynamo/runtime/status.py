"""The status server of a process: /health, /live, /metrics and /engine routes, on ``DYN_SYSTEM_PORT``.

Health and metrics are answered by the loop thread from what was last said: a blocked Python keeps no probe waiting.
"""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from typing import TYPE_CHECKING, Any

from dynamo._http import Request, Server
from dynamo._metrics import default_registry
from dynamo.runtime import settings

if TYPE_CHECKING:
    from dynamo.runtime.distributed import DistributedRuntime

_REFRESH_SECS = 1.0


def wanted() -> int | None:
    """The port to listen on, or None when nobody asked for a status server."""
    if settings.text("DYN_SYSTEM_PORT", "-1").strip() != "-1":
        return settings.port("DYN_SYSTEM_PORT", 0)
    return 9090 if settings.flag("DYN_SYSTEM_ENABLED") else None


class StatusServer:
    """Made by the runtime when the environment asks for it; `url` says where it listens."""

    def __init__(self, runtime: DistributedRuntime, port: int) -> None:
        self._runtime = weakref.ref(runtime)
        self._began = time.monotonic()
        self._health_path = settings.text("DYN_SYSTEM_HEALTH_PATH", "/health")
        self._live_path = settings.text("DYN_SYSTEM_LIVE_PATH", "/live")
        self._said: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.server = Server(settings.text("DYN_SYSTEM_HOST", "127.0.0.1"), port)
        registry = default_registry()
        registry.add_process()
        self.server.route_metrics("/metrics", registry)
        self.server.route("POST", "/engine/", self._engine, prefix=True)
        self.server.route("GET", "/engine/", self._engine, prefix=True)
        self.refresh()
        self.server.start()

    @property
    def url(self) -> str:
        return self.server.url

    def refresh(self) -> None:
        """Say again how it is; by itself once a second."""
        runtime = self._runtime()
        if runtime is None or self._loop.is_closed():
            return
        health = runtime.health()
        up = time.monotonic() - self._began
        body = {
            "status": health["status"],
            "uptime": {"secs": int(up), "nanos": int(up % 1 * 1e9)},
            "endpoints": health["endpoints"],
        }
        text = json.dumps(body)
        status = 200 if health["status"] == "ready" else 503
        for path in {self._health_path, self._live_path}:
            self.server.route_static(path, text, status=status, replace=self._said is not None, open=True)
        self._said = text
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_REFRESH_SECS, self.refresh)

    async def _engine(self, request: Request) -> Any:
        runtime = self._runtime()
        name = request.path.removeprefix("/engine/")
        callback = None if runtime is None else runtime._routes.get(name)
        if callback is None:
            request.fail(404, f"no engine route {name!r} here")
            return None
        body = request.json() if request.body else {}
        return await callback(body)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.server.close()
