"""Who the workers of an endpoint are, told to a `SelectionCore` as discovery and the workers' events say it.

    v1/instances/ns/c/e/<id>      -> the worker is there, or gone
    v1/mdc/ns/c/e/<id>            -> its block size, limits, ranks, taints
    v1/event_channels/...         -> where it publishes cache events and load  -> the core's index

One `WorkerFollower` per core. It lives in asyncio; the events themselves go from a C thread into the index.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dynamo._router import SelectionCore
from dynamo.llm.router_config import RouterMode

if TYPE_CHECKING:
    from dynamo._discovery import Store
    from dynamo._events import LoadTable
    from dynamo._metrics import Gauge, Registry
    from dynamo.llm.publisher import EventFollower

__all__ = ["WorkerFollower"]

logger = logging.getLogger("dynamo.router")

_CHECK_SECONDS = 1.0  # how often loads and silent workers are looked at
_TYPES = ("aggregated", "prefill", "decode", "encode")


def _worker_of(key: str) -> int:
    """The instance id in a key: its last hexadecimal part (a card's key may have a LoRA name behind it)."""
    return int(key.rsplit("/", 1)[-1], 16)


def _card_worker_of(key: str, prefix: str) -> tuple[int, bool]:
    """The instance id in a card's key, and whether the card is of a LoRA adapter rather than of the model."""
    first, _, rest = key[len(prefix) :].partition("/")
    return int(first, 16), bool(rest)


def _whole(number: float | None) -> int | None:
    return None if number is None else max(0, int(number))


class WorkerFollower:
    """Keeps the table and the index of a core true.

    Parameters
    ----------
    store : the discovery of the runtime
    namespace, component, endpoint : whose workers
    core : told about them
    on_silent : called with (worker_id, dp_rank) when a worker gets prompts and publishes no events
    registry : where ``dynamo_router_silent_worker`` (1 for such a worker, else 0) and ``dynamo_kv_events_*`` are shown

    Attributes
    ----------
    synced : set once all workers that were there at the start are in the table
    refused : worker id -> why it is not used
    silent : (worker_id, dp_rank) of the workers that should publish events and do not
    """

    def __init__(
        self,
        store: Store,
        namespace: str,
        component: str,
        endpoint: str,
        core: SelectionCore,
        on_silent: Callable[[int, int], None] | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.store = store
        self.core = core
        self.path = f"{namespace}/{component}/{endpoint}"
        self.scope = (namespace, component, endpoint)
        self.on_silent = on_silent
        self._registry = registry
        self._gauge: Gauge | None = None
        self._shown: set[tuple[int, int]] = set()
        if registry is not None:
            self._gauge = registry.gauge(
                "dynamo_router_silent_worker",
                "1 when a worker gets prompts and no KV events come from it",
                ("endpoint", "worker_id", "dp_rank"),
            )
        self.synced = asyncio.Event()
        self.refused: dict[int, str] = {}
        self.silent: set[tuple[int, int]] = set()
        self._instances: set[int] = set()
        self._cards: dict[int, dict[str, Any]] = {}
        self._ranks: dict[int, set[int]] = {}
        self._unsynced = 2
        self._events: EventFollower | None = None
        self._loads: LoadTable | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running loop. Once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"follow workers of {self.path}")

    async def _run(self) -> None:
        self._follow_events()
        tasks = [
            asyncio.ensure_future(self._follow("v1/instances", self._instance_put, self._instance_gone)),
            asyncio.ensure_future(self._follow("v1/mdc", self._card_put, self._card_gone)),
            asyncio.ensure_future(self._watch_over()),
        ]
        try:
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("workers of %s are no longer followed", self.path)
        finally:
            for task in tasks:
                task.cancel()
            self.synced.set()

    def close(self) -> None:
        """Stop following; what the core knows stays."""
        if self._task is not None:
            loop = self._task.get_loop()
            if not loop.is_closed():
                self._task.cancel()
        if self._events is not None:
            self._events.close()
        self._show({})

    # ---- instances and cards ---------------------------------------------------------------------------------------

    async def _follow(
        self, bucket: str, put: Callable[[str, str, dict[str, Any]], None], gone: Callable[[str, str], None]
    ) -> None:
        prefix = f"{bucket}/{self.path}/"
        watch = self.store.watch(prefix)
        try:
            async for kind, key, value in watch:
                if kind == "synced":
                    self._unsynced -= 1
                    if self._unsynced == 0:
                        self.synced.set()
                    continue
                try:
                    if kind == "put":
                        put(prefix, key or "", json.loads(value or b"{}"))
                    else:
                        gone(prefix, key or "")
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    logger.warning("%s in discovery makes no sense and is not used: %s", key, error)
        finally:
            watch.close()

    def _instance_put(self, prefix: str, key: str, record: dict[str, Any]) -> None:
        if record.get("type", "Endpoint") != "Endpoint":
            return
        worker = _worker_of(key)
        self._instances.add(worker)
        self._update(worker)

    def _instance_gone(self, prefix: str, key: str) -> None:
        worker = _worker_of(key)
        self._instances.discard(worker)
        self._update(worker)

    def _card_put(self, prefix: str, key: str, record: dict[str, Any]) -> None:
        worker, adapter = _card_worker_of(key, prefix)
        card = record["card_json"]
        if isinstance(card, str):
            card = json.loads(card)
        if adapter or not isinstance(card, dict):
            return
        self._cards[worker] = card
        self._update(worker)

    def _card_gone(self, prefix: str, key: str) -> None:
        worker, adapter = _card_worker_of(key, prefix)
        if not adapter and self._cards.pop(worker, None) is not None:
            self._update(worker)

    def _update(self, worker: int) -> None:
        """Make the table say of one worker what discovery says."""
        before = self._ranks.get(worker, set())
        ranks: set[int] = set()
        if worker in self._instances:
            card = self._cards.get(worker, {})
            size = card.get("kv_cache_block_size") or 0
            if size not in (0, self.core.block_size):
                why = f"its cache has blocks of {size} tokens, this router's have {self.core.block_size}"
                if self.refused.get(worker) != why:
                    logger.warning("worker %d of %s is not used: %s", worker, self.path, why)
                self.refused[worker] = why
            else:
                self.refused.pop(worker, None)
                ranks = self._put(worker, card)
        if not ranks:
            if before:
                self.core.remove_worker(worker)
            self._ranks.pop(worker, None)
            if worker not in self._instances:
                self.refused.pop(worker, None)
                if self._loads is not None:
                    self._loads.remove(worker)
        else:
            for rank in before - ranks:
                self.core.remove_worker(worker, rank)
            self._ranks[worker] = ranks

    def _put(self, worker: int, card: dict[str, Any]) -> set[int]:
        limits = card.get("runtime_config") or {}
        first = int(limits.get("data_parallel_start_rank") or 0)
        kind = str(card.get("worker_type") or "aggregated").lower()
        ranks = range(first, first + min(4096, max(1, int(limits.get("data_parallel_size") or 1))))
        for rank in ranks:
            self.core.put_worker(
                worker,
                rank,
                total_kv_blocks=limits.get("total_kv_blocks"),
                max_num_batched_tokens=limits.get("max_num_batched_tokens"),
                taints=limits.get("taints") or (),
                worker_type=kind if kind in _TYPES else "aggregated",
            )
        return set(ranks)

    @property
    def workers(self) -> list[int]:
        """Ids of the workers that are used now, sorted."""
        return sorted(self._ranks)

    # ---- events and loads ------------------------------------------------------------------------------------------

    def _follow_events(self) -> None:
        from dynamo._events import LoadTable
        from dynamo.llm.publisher import EventFollower

        namespace, component, _ = self.scope
        listens = self.core.mode == RouterMode.KV and self.core.config.use_kv_events
        self._loads = LoadTable()
        self._events = EventFollower(
            self.store,
            namespace,
            component,
            self.core if listens else None,
            loads=self._loads,
            on_gone=self._publisher_gone,
        )
        if listens and self._registry is not None:
            self._events.subscriber.show(self._registry)

    def _publisher_gone(self, worker: int) -> None:
        """Nobody says any more what the worker holds: what it said is not believed any more either."""
        if worker in self._ranks:
            for rank in self._ranks[worker]:
                self.core.cleared(worker, rank)
        else:
            self.core.remove_worker(worker)

    async def _watch_over(self) -> None:
        """Now and then: hand loads over, name who is silent."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self.check()

    def check(self) -> None:
        """Hand over the loads that came, and warn of each worker that has become silent."""
        if self._loads is not None:
            for (worker, rank), numbers in self._loads.get().items():
                self.core.report(
                    worker,
                    rank,
                    active_decode_blocks=_whole(numbers.get("active_decode_blocks", numbers.get("kv_active_blocks"))),
                    active_prefill_tokens=_whole(numbers.get("active_prefill_tokens")),
                    kv_used_blocks=_whole(numbers.get("kv_used_blocks")),
                )
        heard = {(row["worker_id"], row["dp_rank"]): not row["silent"] for row in self.core.loads()}
        silent = {worker for worker, well in heard.items() if not well}
        for worker, rank in sorted(silent - self.silent):
            logger.warning(
                "worker %d (rank %d) of %s gets prompts, but no KV events come from it: the router cannot know what it "
                "holds. Does it publish events, and can its event channel be reached from here? "
                "use_kv_events=False routes without them.",
                worker,
                rank,
                self.path,
            )
            if self.on_silent is not None:
                self.on_silent(worker, rank)
        self.silent = silent
        self._show({worker: well for worker, well in heard.items() if worker[0] in self._ranks})

    def _show(self, heard: dict[tuple[int, int], bool]) -> None:
        """Say in the metrics who is silent; of workers that are gone nothing is said."""
        if self._gauge is None:
            return
        path = self.path.replace("/", ".")
        for (worker, rank), well in heard.items():
            self._gauge.labels(path, str(worker), str(rank)).set(0 if well else 1)
        for worker, rank in self._shown - heard.keys():
            self._gauge.remove(path, str(worker), str(rank))
        self._shown = set(heard)
