"""The live page: one HTML file, its state as JSON, and a stream of server-sent events that says when it changed."""

import asyncio
import importlib.resources
import time
from typing import TYPE_CHECKING, Any

import msgspec

from dynamo.frontend.records import CAUSES

if TYPE_CHECKING:
    from dynamo._http import Request, Server
    from dynamo.frontend.service import Frontend

__all__ = ["Page"]

_PERIOD = 0.5  # seconds between two looks at the version
_MAX_WATCHERS = 64


class Page:
    """What the page shows, and to whom."""

    def __init__(self, front: "Frontend") -> None:
        self.front = front
        self.watchers = 0
        self._closed = False

    def routes(self, server: "Server") -> None:
        html = importlib.resources.files("dynamo.frontend").joinpath("page.html").read_bytes()
        server.route_static("/", html, "text/html; charset=utf-8", open=True)
        server.route("GET", "/dashboard/state", self._state)
        server.route("GET", "/dashboard/events", self._events)

    def close(self) -> None:
        self._closed = True

    def state(self, requests: int = 60) -> dict[str, Any]:
        """Workers, what each holds, the last requests and why they went where, sums."""
        front = self.front
        models = []
        for name, model in sorted(front.models.models.items()):
            stats = model.core.stats()
            loads = {(load["worker_id"], load["dp_rank"]): load for load in model.core.loads()}
            workers = []
            for worker in sorted(model.workers.values(), key=lambda worker: worker.id):
                for (id, rank), load in sorted(loads.items()):
                    if id == worker.id:
                        workers.append(_worker_row(worker, rank, load, front.records.by_worker[id], model))
                if worker.address is None:
                    workers.append(
                        {"id": f"{worker.id:x}", "dp_rank": 0, "state": "not listening", "endpoint": worker.endpoint}
                    )
            models.append(
                {
                    "name": name,
                    "type": str(model.type),
                    "context_length": model.context_length,
                    "block_size": model.block_size,
                    "mode": model.core.mode.name,
                    "workers": workers,
                    "router": stats,
                }
            )
        return {
            "at": time.time(),
            "models": models,
            "sums": front.records.sums(),
            "meanings": CAUSES,
            "requests": [record.row() for record in list(front.records.recent)[:requests]],
        }

    async def _state(self, http: "Request") -> dict[str, Any]:
        return self.state()

    async def _events(self, http: "Request") -> None:
        """`state` whenever it changed, at most twice a second; a comment every 15 s otherwise."""
        if self.watchers >= _MAX_WATCHERS:
            http.fail(503, f"{_MAX_WATCHERS} pages are open already.", headers={"retry-after": "5"})
            return
        self.watchers += 1
        seen, quiet = -1, 0.0
        try:
            if not http.begin(200, "text/event-stream; charset=utf-8"):
                return
            while not self._closed and not http.closed:
                version = self.front.records.version
                busy = bool(self.front.records.running)
                if version != seen or busy:
                    seen, quiet = version, 0.0
                    if not http.event(msgspec.json.encode(self.state()), "state"):
                        await http.drain()
                elif quiet >= 15:
                    quiet = 0.0
                    http.write(b": still here\n\n")
                await asyncio.sleep(_PERIOD)
                quiet += _PERIOD
            http.end()
        except (ConnectionError, BlockingIOError):
            http.abort()
        finally:
            self.watchers -= 1


def _worker_row(worker: Any, rank: int, load: dict[str, Any], requests: int, model: Any) -> dict[str, Any]:
    held = model.holdings(worker.id, rank)
    return {
        "id": f"{worker.id:x}",
        "dp_rank": rank,
        "endpoint": worker.endpoint,
        "address": worker.address.decode() if worker.address else None,
        "since": worker.since,
        "state": "silent" if load["silent"] else "busy" if load["busy"] else "ready",
        "held_blocks": held,
        "total_blocks": load["total_kv_blocks"],
        "active_requests": load["active_requests"],
        "active_prefill_tokens": load["active_prefill_tokens"],
        "active_decode_blocks": load["active_decode_blocks"],
        "seconds_since_event": load["seconds_since_event"],
        "picks": load["picks"],
        "requests": requests,
    }
