"""Who serves which model: the watcher of discovery, and for each model what a request needs.

    v1/mdc/<ns>/<comp>/<ep>/<id>        the card: name, limits, files     --+
    v1/instances/<ns>/<comp>/<ep>/<id>  where it listens                  --+--> Model: workers, tokeniser, router

A worker counts as ready when both are there. A model goes when its last worker goes.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from dynamo.errors import DynamoError
from dynamo.frontend.settings import Settings
from dynamo.llm.assets import ModelAssets, load_assets
from dynamo.llm.model import ModelDeploymentCard, ModelInput, ModelType, WorkerType

if TYPE_CHECKING:
    from dynamo._metrics import Histogram

__all__ = ["Model", "Models", "Worker"]

_log = logging.getLogger("dynamo.frontend")


GONE_SECONDS = 600.0  # how long a model without workers is "unavailable" before it is "unknown"
MAX_GONE = 256


class Worker:
    """One instance of an endpoint that serves a model."""

    __slots__ = ("address", "card", "endpoint", "id", "inhibited_until", "passing", "since")

    def __init__(self, id: int, endpoint: str, card: ModelDeploymentCard) -> None:
        self.id, self.endpoint, self.card = id, endpoint, card
        self.address: bytes | None = None  # "host:port/path"; None: not listening (yet)
        self.inhibited_until = 0.0
        self.passing = 0  # requests that it has taken as they came and still answers
        self.since = time.time()


class Model:
    """A model that is served here: its card, its workers, its tokeniser, its router."""

    def __init__(self, card: ModelDeploymentCard, settings: Settings) -> None:
        from dynamo._router import SelectionCore

        self.name = card.display_name
        self.card = card
        self.sum = card.mdcsum()
        self.created = int(time.time())
        self.workers: dict[int, Worker] = {}
        self.assets: ModelAssets = load_assets(card)
        self.block_size = card.kv_cache_block_size or 16
        self.core = SelectionCore(
            max(2, self.block_size), settings.router_config, mode=settings.router, thresholds=settings.thresholds
        )
        # By endpoint: who keeps the core's table and index true, from discovery and from the workers' events.
        self.followers: dict[str, Any] = {}
        self.thresholds: Any = None  # those that were set while it runs
        self._vocab: Any = None
        self._loading: asyncio.Task[None] | None = None

    @property
    def type(self) -> ModelType:
        return self.card.model_type()

    @property
    def takes_text(self) -> bool:
        """The worker does template and tokenisation itself."""
        return self.card.model_input is ModelInput.Text

    @property
    def context_length(self) -> int:
        return self.card.context_length

    @property
    def ready(self) -> list[Worker]:
        """Workers that listen."""
        return [worker for worker in self.workers.values() if worker.address is not None]

    def holdings(self, worker: int, rank: int) -> int | None:
        """Blocks that the router believes a worker holds; None when it does not follow caches."""
        from dynamo._serve import holdings

        return holdings(self.core, worker, rank)

    def follow(self, store: Any, endpoint: str, registry: Any = None) -> None:
        """Hear the events of the workers of an endpoint."""
        if endpoint not in self.followers:
            from dynamo.llm.following import WorkerFollower

            namespace, component, name = endpoint.split("/")
            follower = self.followers[endpoint] = WorkerFollower(
                store, namespace, component, name, self.core, registry=registry
            )
            follower.start()

    def forget(self, endpoint: str | None = None) -> None:
        """Stop to follow an endpoint that has no worker of this model any more; None: all of them."""
        there = {worker.endpoint for worker in self.workers.values()}
        for path in list(self.followers):
            if endpoint is None or (path == endpoint and path not in there):
                self.followers.pop(path).close()

    @property
    def vocab(self) -> Any:
        """The table for the detokeniser, or None where the model has no tokeniser."""
        if self._vocab is None and self.assets.has_tokenizer:
            from dynamo._tokens import Vocab

            table = self.assets.tokenizer.table()
            self._vocab = Vocab.from_table(table.data, table.ends, table.flags, table.strip_space)
        return self._vocab

    async def load(self) -> None:
        """Read tokeniser and table on a thread; once. Raises what the assets raise."""
        if self._vocab is not None or not self.assets.has_tokenizer:
            return
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.ensure_future(asyncio.to_thread(lambda: self.vocab and None))
        await asyncio.shield(self._loading)


class Models:
    """Follows discovery. Everything happens on one asyncio loop.

    Parameters
    ----------
    store : dynamo._discovery.Store
    on_change : called after each change that requests can notice
    registry : where it is shown whose events do not come
    overhead : histograms by stage, of how long a choice takes; see `SelectionCore.time_stages`
    """

    def __init__(
        self,
        store: Any,
        settings: Settings,
        on_change: Callable[[], None] = lambda: None,
        registry: Any = None,
        overhead: "dict[str, Histogram] | None" = None,
    ) -> None:
        self.overhead = overhead
        self.store, self.settings, self.on_change, self.registry = store, settings, on_change, registry
        self.models: dict[str, Model] = {}
        self.gone: dict[str, float] = {}  # models without workers: when the last one left
        self._cards: dict[str, tuple[str, int]] = {}  # key of the card -> model name, worker
        self._addresses: dict[tuple[str, int], bytes] = {}  # endpoint, worker -> address
        self._watches: list[Any] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._synced = asyncio.Event()

    def _new(self, card: ModelDeploymentCard) -> Model:
        model = Model(card, self.settings)
        if self.overhead:
            stages = ("block_hashing", "seq_hashing", "indexer_find_matches", "scheduling", "total")
            model.core.time_stages(*(self.overhead[stage].labels() for stage in stages))
        return model

    def __getitem__(self, name: str) -> Model:
        return self.models[name]

    def get(self, name: str) -> Model | None:
        return self.models.get(name)

    def has_left(self, name: str) -> bool:
        """Was this model served a moment ago? Its workers may be on their way back."""
        return time.monotonic() - self.gone.get(name, float("-inf")) < GONE_SECONDS

    async def start(self) -> None:
        """Begin to watch; returns when everything that is there now is known."""
        left = 2

        def synced() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self._synced.set()

        for prefix, take in (("v1/instances", self._instance), ("v1/mdc", self._card)):
            watch = self.store.watch(prefix)
            self._watches.append(watch)
            self._tasks.append(asyncio.ensure_future(self._follow(watch, take, synced)))
        await self._synced.wait()

    async def close(self) -> None:
        for watch in self._watches:
            watch.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for model in self.models.values():
            model.forget()

    async def _follow(self, watch: Any, take: Callable[[str, bytes | None], None], synced: Callable[[], None]) -> None:
        async for change in watch:
            if change.kind == "synced":
                synced()
                continue
            try:
                take(change.key, change.value if change.kind == "put" else None)
            except (DynamoError, ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
                _log.warning("%s: not understood and left out: %s", change.key, error)
            try:
                self.on_change()
            except Exception:
                _log.exception("a change in discovery could not be followed")

    def _instance(self, key: str, value: bytes | None) -> None:
        endpoint, worker = _place(key)
        if value is None:
            self._addresses.pop((endpoint, worker), None)
        else:
            transport = msgspec.json.decode(value, type=dict[str, Any]).get("transport") or {}
            address = transport.get("tcp") if isinstance(transport, dict) else None
            if not isinstance(address, str):
                raise ValueError(f"its transport is {transport!r}: only tcp is spoken here")
            self._addresses[(endpoint, worker)] = address.encode()
        for model in self.models.values():
            found = model.workers.get(worker)
            if found is not None and found.endpoint == endpoint:
                self._address(model, found)

    def _address(self, model: Model, worker: Worker) -> None:
        before, worker.address = worker.address, self._addresses.get((worker.endpoint, worker.id))
        if (before is None) == (worker.address is None):
            return
        limits = worker.card.limits
        if worker.address is None:
            model.core.remove_worker(worker.id)
            return
        for rank in range(limits.data_parallel_start_rank, limits.data_parallel_start_rank + limits.data_parallel_size):
            model.core.put_worker(
                worker.id,
                rank,
                total_kv_blocks=limits.total_kv_blocks,
                max_num_batched_tokens=limits.max_num_batched_tokens,
                taints=limits.taints,
                worker_type=str(worker.card.worker_type or WorkerType.Aggregated),
            )

    def _card(self, key: str, value: bytes | None) -> None:
        known = self._cards.pop(key, None)
        if known is not None:
            self._drop(*known)
        if value is None:
            return
        entry = msgspec.json.decode(value, type=dict[str, Any])
        given = entry["card_json"]
        card = ModelDeploymentCard.from_json_str(
            given if isinstance(given, str) else msgspec.json.encode(given).decode()
        )
        if self.settings.namespace and entry.get("namespace") != self.settings.namespace:
            return
        if card.worker_type in (WorkerType.Prefill, WorkerType.Encode) or not card.model_type():
            return  # a stage that answers nobody by itself
        endpoint, id = _place(key)
        model = self.models.get(card.display_name)
        if model is None:
            model = self.models[card.display_name] = self._new(card)
            self.gone.pop(model.name, None)
            _log.info("model %r appeared", model.name)
        elif model.sum != card.mdcsum():
            if model.workers:
                raise ValueError(
                    f"it serves {card.display_name!r} with other files, context or block size than the workers that "
                    f"are there; give it another name"
                )
            model = self.models[card.display_name] = self._new(card)
        worker = model.workers[id] = Worker(id, endpoint, card)
        model.follow(self.store, endpoint, self.registry)
        self._cards[key] = (model.name, id)
        self._address(model, worker)

    def _drop(self, name: str, id: int) -> None:
        model = self.models.get(name)
        worker = model.workers.pop(id, None) if model is not None else None
        if model is None or worker is None:
            return
        model.core.remove_worker(id)
        model.forget(worker.endpoint)
        if not model.workers:
            del self.models[name]
            self.gone[name] = time.monotonic()
            if len(self.gone) > MAX_GONE:
                del self.gone[next(iter(self.gone))]
            _log.info("model %r is gone with its last worker", name)


def _place(key: str) -> tuple[str, int]:
    """ns/comp/ep and the id of ``v1/<kind>/ns/comp/ep/<hex>[/...]``."""
    parts = key.split("/")
    if len(parts) < 6:
        raise ValueError("a key of another form")
    return "/".join(parts[2:5]), int(parts[5], 16)
