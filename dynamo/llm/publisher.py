"""What a worker tells the routers: KV events and load; and what listens to it.

A publisher opens a ZMQ socket of its own (`dynamo._events.EventChannel`) and says in discovery where it is, under
``v1/event_channels/namespace/<ns>/component/<c>/topic/<topic>/<publisher>``. `EventFollower` watches that prefix
and has one C thread write what comes into an index.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dynamo._events import EventChannel, EventQueue, EventSource, EventSubscriber, LoadTable
from dynamo.errors import InvalidArgument

if TYPE_CHECKING:
    from dynamo._discovery import Store

__all__ = [
    "EventFollower",
    "ForwardPassMetrics",
    "KvEventPublisher",
    "KvStats",
    "SpecDecodeStats",
    "WorkerMetricsPublisher",
    "WorkerStats",
    "ZmqKvEventListener",
    "ZmqKvEventPublisher",
    "ZmqKvEventPublisherConfig",
]

KV_EVENTS = "kv-events"
KV_METRICS = "kv_metrics"
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


# ---- where publishers are --------------------------------------------------------------------------------------------


def _segment(text: str) -> str:
    return "".join(c if c in _SAFE else "".join(f"%{b:02X}" for b in c.encode()) for c in text)


def names_of(target: Any) -> tuple[str, str]:
    """Namespace and component of an Endpoint or a Component."""
    component = getattr(target, "component", None)
    return str(target.namespace), component if isinstance(component, str) else str(target.name)


def _runtime(target: Any) -> Any:
    return target._runtime


def _subject(target: Any) -> str:
    namespace, component = names_of(target)
    return f"namespace.{_segment(namespace)}.component.{_segment(component)}"


def channel_prefix(namespace: str, component: str) -> str:
    """The key in discovery below which a component's publishers say where they are."""
    return f"v1/event_channels/namespace/{namespace}/component/{component}/"


def _host() -> str:
    return os.environ.get("DYN_TCP_RPC_HOST") or "127.0.0.1"


def _bind(host: str) -> str:
    return f"tcp://[{host}]:0" if ":" in host else f"tcp://{host}:0"


def _reachable(endpoint: str) -> str:
    """An endpoint as others reach it: one bound to all interfaces is known by this machine's address."""
    for anything in ("0.0.0.0", "[::]"):
        if endpoint.startswith(f"tcp://{anything}:"):
            import socket

            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.connect(("192.0.2.1", 9))  # nothing is sent: it only asks which way it would go
                    host = probe.getsockname()[0]
                except OSError:
                    host = "127.0.0.1"
            return f"tcp://{host}:{endpoint.rsplit(':', 1)[1]}"
    return endpoint


def _check_plane() -> None:
    plane = os.environ.get("DYN_EVENT_PLANE") or "zmq"
    if plane != "zmq":
        raise InvalidArgument(f"DYN_EVENT_PLANE={plane!r}: events travel by zmq here")
    codec = os.environ.get("DYN_EVENT_PLANE_CODEC") or "msgpack"
    if codec != "msgpack":
        raise InvalidArgument(f"DYN_EVENT_PLANE_CODEC={codec!r}: events are msgpack here")


class _Advert:
    """A publisher's place in discovery, as long as the process lives or until `withdraw`."""

    def __init__(self, target: Any, channel: EventChannel, topics: Iterable[str]) -> None:
        runtime = _runtime(target)
        namespace, component = names_of(target)
        self._store: Store = runtime.store
        self._keys = []
        for topic in topics:
            key = f"{channel_prefix(namespace, component)}topic/{topic}/{channel.publisher_id:x}"
            config = {"endpoint": _reachable(channel.endpoint), "subject": f"{channel.subject}.{topic}"}
            if channel.replay_endpoint and topic == KV_EVENTS:
                config["replay_endpoint"] = _reachable(channel.replay_endpoint)
            value = {
                "type": "EventChannel",
                "scope": {"kind": "component", "namespace": namespace, "component": component},
                "topic": topic,
                "instance_id": channel.worker_id,
                "transport": {"kind": "zmq", "config": config},
            }
            self._store.put(key, json.dumps(value).encode(), runtime.lease)
            self._keys.append(key)

    def withdraw(self) -> None:
        for key in self._keys:
            if not self._store.closed:
                self._store.delete(key)
        self._keys.clear()


_F = TypeVar("_F", bound=Callable[..., Any])


def _shown_as(like: Callable[..., Any]) -> Callable[[_F], _F]:
    """Let `help` and `inspect.signature` show the newer form of a method that takes two."""

    def decorate(method: _F) -> _F:
        method.__signature__ = inspect.signature(like)  # type: ignore[attr-defined]
        return method

    return decorate


def _either(component: Any, endpoint: Any) -> Any:
    """The target of a publisher: 0.x called it component, 1.x endpoint."""
    if (component is None) == (endpoint is None):
        raise TypeError("give one of endpoint and component")
    return endpoint if component is None else component


# ---- KV events -------------------------------------------------------------------------------------------------------


class KvEventPublisher:
    """Tell routers which blocks a worker's cache holds.

    Both forms of Dynamo are taken: ``(component, worker_id, kv_block_size)`` and
    ``(endpoint, worker_id=None, kv_block_size=0, dp_rank=0, ...)``.

    Parameters
    ----------
    endpoint : Endpoint or Component
        Whose routers are told.
    worker_id : int, optional
        The instance id; this process's own by default.
    kv_block_size : int
        Tokens in a block.
    dp_rank : int
        The data-parallel rank whose cache this is.
    enable_local_indexer : bool
        Accepted: what routers missed can always be fetched from here, and the whole of what the cache holds when that
        is no longer kept.
    zmq_endpoint, zmq_topic, zmq_replay_endpoint : str, optional
        Relay what an engine (vLLM, SGLang) publishes there, instead of publishing by hand.
    batching_timeout_ms : int, optional
        Wait as long for more events before sending a batch.
    image_token_id, video_token_id, kv_state_endpoint : optional
        Accepted for compatibility.

    Notes
    -----
    Every method may be called from any thread, returns at once, and never waits for a slow router.
    """

    def __init__(
        self,
        endpoint: Any = None,
        worker_id: int | None = None,
        kv_block_size: int = 0,
        dp_rank: int = 0,
        enable_local_indexer: bool = False,
        zmq_endpoint: str | None = None,
        zmq_topic: str | None = None,
        batching_timeout_ms: int | None = None,
        image_token_id: int | None = None,
        kv_state_endpoint: str | None = None,
        video_token_id: int | None = None,
        *,
        zmq_replay_endpoint: str | None = None,
        component: Any = None,
    ) -> None:
        endpoint = _either(component, endpoint)
        if kv_block_size <= 0:
            raise InvalidArgument(f"kv_block_size {kv_block_size}: must be 1 or more")
        _check_plane()
        host = _host()
        self._kv_block_size = kv_block_size
        self._dp_rank = dp_rank
        self._warned = 0
        self._channel = EventChannel(
            _runtime(endpoint).instance_id() if worker_id is None else worker_id,
            _subject(endpoint),
            endpoint=_bind(host),
            replay_endpoint=_bind(host),
            dp_rank=dp_rank,
            block_size=kv_block_size,
            batch_ms=batching_timeout_ms or 0,
        )
        self._subscriber: EventSubscriber | None = None
        self._source: EventSource | None = None
        if zmq_endpoint is not None:
            self._subscriber = EventSubscriber()
            self._source = self._subscriber.add(
                self._channel.worker_id,
                zmq_endpoint,
                self._channel,
                block_size=kv_block_size,
                topic=zmq_topic or "",
                replay_endpoint=zmq_replay_endpoint,
                dp_rank=dp_rank,
            )
        self._advert = _Advert(endpoint, self._channel, [KV_EVENTS])

    @property
    def kv_block_size(self) -> int:
        """Tokens in a block."""
        return self._kv_block_size

    @property
    def dp_rank(self) -> int:
        """The data-parallel rank whose cache this is."""
        return self._dp_rank

    @property
    def worker_id(self) -> int:
        """The instance id under which it publishes."""
        return self._channel.worker_id

    @property
    def channel(self) -> EventChannel:
        """The socket below: publishes hashes as arrays, without token ids."""
        return self._channel

    def _stored(
        self,
        token_ids: Sequence[int],
        num_block_tokens: Sequence[int],
        block_hashes: Sequence[int],
        parent_hash: int | None = None,
        block_mm_infos: Sequence[Mapping[str, Any] | None] | None = None,
        lora_name: str | None = None,
        is_eagle: bool | None = None,
        cache_salt: str | None = None,
    ) -> None:
        whole = 0
        for tokens in num_block_tokens:
            if tokens != self._kv_block_size:
                self._wrong_size(tokens)
                break
            whole += 1
        if whole == 0 and len(block_hashes) > 0:
            return
        self._channel.publish_stored_tokens(
            token_ids,
            block_hashes[:whole],
            parent_hash,
            lora_name=lora_name,
            cache_salt=cache_salt,
            is_eagle=bool(is_eagle),
            block_mm_infos=block_mm_infos,
        )

    @_shown_as(_stored)
    def publish_stored(self, *args: Any, **kwargs: Any) -> None:
        """Blocks, one following the other, are in the cache now.

        ``publish_stored(token_ids, num_block_tokens, block_hashes, parent_hash=None, block_mm_infos=None,
        lora_name=None, is_eagle=None, cache_salt=None)``, or with the older ``event_id`` first:
        ``publish_stored(event_id, token_ids, num_block_tokens, block_hashes, lora_id, parent_hash=None)``.

        Parameters
        ----------
        token_ids : sequence or array of int
            The tokens of all blocks.
        num_block_tokens : sequence of int
            Tokens in each block. Publishing ends at the first block that is not `kv_block_size` long.
        block_hashes : sequence or array of int
            The engine's names of the blocks; negative numbers mean their two's complement.
        parent_hash : int, optional
            The engine's name of the block before the first.
        """
        if "event_id" in kwargs or (args and isinstance(args[0], int)):
            self._stored_older(*args, **kwargs)
        else:
            self._stored(*args, **kwargs)

    def _stored_older(
        self,
        event_id: int,
        token_ids: Sequence[int],
        num_block_tokens: Sequence[int],
        block_hashes: Sequence[int],
        lora_id: int = 0,
        parent_hash: int | None = None,
        block_mm_infos: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> None:
        # The channel counts events itself; a LoRA's number was never part of a block's hash.
        self._stored(token_ids, num_block_tokens, block_hashes, parent_hash, block_mm_infos)

    def _wrong_size(self, tokens: int) -> None:
        if self._warned < 3:
            self._warned += 1
            import warnings

            warnings.warn(
                f"a block of {tokens} tokens is not published: kv_block_size is {self._kv_block_size}", stacklevel=4
            )

    def _removed(self, block_hashes: Sequence[int]) -> None:
        self._channel.publish_removed(block_hashes)

    @_shown_as(_removed)
    def publish_removed(self, *args: Any, **kwargs: Any) -> None:
        """Blocks are in the cache no more: ``publish_removed(block_hashes)``, or with the older ``event_id`` first."""
        if "event_id" in kwargs or (args and isinstance(args[0], int)):
            self._removed_older(*args, **kwargs)
        else:
            self._removed(*args, **kwargs)

    def _removed_older(self, event_id: int, block_hashes: Sequence[int]) -> None:
        self._removed(block_hashes)

    def publish_cleared(self) -> None:
        """The cache is empty now."""
        self._channel.publish_cleared()

    def publish_batch(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Many events: maps with ``type`` "stored", "removed" or "cleared" and the arguments of that method."""
        for event in events:
            arguments = dict(event)
            kind = arguments.pop("type", None)
            if kind == "stored":
                self.publish_stored(**arguments)
            elif kind == "removed":
                self.publish_removed(**arguments)
            elif kind == "cleared":
                self.publish_cleared(**arguments)
            else:
                raise InvalidArgument(f"type {kind!r}: must be stored, removed or cleared")
        self._channel.flush()

    def stats(self) -> dict[str, Any]:
        """Counters of the channel; of a relay also, under ``source``, those of the engine's socket."""
        result: dict[str, Any] = dict(self._channel.stats())
        if self._source is not None:
            result["source"] = self._source.stats()
        return result

    def shutdown(self) -> None:
        """Leave discovery and close the sockets. Twice is allowed."""
        self._advert.withdraw()
        if self._subscriber is not None:
            self._subscriber.close()
        self._channel.close()


class ZmqKvEventPublisherConfig:
    """Where a worker's engine publishes its KV events."""

    def __init__(
        self,
        worker_id: int,
        kv_block_size: int,
        zmq_endpoint: str = "tcp://127.0.0.1:5557",
        zmq_topic: str = "",
        *,
        zmq_replay_endpoint: str | None = None,
        dp_rank: int = 0,
    ) -> None:
        self.worker_id = worker_id
        self.kv_block_size = kv_block_size
        self.zmq_endpoint = zmq_endpoint
        self.zmq_topic = zmq_topic
        self.zmq_replay_endpoint = zmq_replay_endpoint
        self.dp_rank = dp_rank

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZmqKvEventPublisherConfig) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<ZmqKvEventPublisherConfig worker {self.worker_id} at {self.zmq_endpoint}>"


class ZmqKvEventPublisher:
    """Relay the KV events of an engine to the routers.

    Parameters
    ----------
    component : Component or Endpoint
    config : ZmqKvEventPublisherConfig
    """

    def __init__(self, component: Any, config: ZmqKvEventPublisherConfig) -> None:
        self._publisher = KvEventPublisher(
            component,
            config.worker_id,
            config.kv_block_size,
            config.dp_rank,
            zmq_endpoint=config.zmq_endpoint,
            zmq_topic=config.zmq_topic,
            zmq_replay_endpoint=config.zmq_replay_endpoint,
        )

    def stats(self) -> dict[str, Any]:
        """Counters of the channel and, under ``source``, of the engine's socket."""
        return self._publisher.stats()

    def shutdown(self) -> None:
        """Stop relaying."""
        self._publisher.shutdown()


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class ZmqKvEventListener:
    """Read the KV events of an engine as JSON, for an index of one's own.

    Parameters
    ----------
    zmq_endpoint, zmq_topic : str
        Where the engine publishes.
    kv_block_size : int
        Tokens in a block; must be the engine's.
    replay_endpoint : str, optional
        Where the engine answers for batches that were missed.
    """

    def __init__(
        self, zmq_endpoint: str, zmq_topic: str, kv_block_size: int, replay_endpoint: str | None = None
    ) -> None:
        if kv_block_size <= 0:
            raise InvalidArgument(f"kv_block_size {kv_block_size}: must be 1 or more")
        self._queue = EventQueue()
        self._subscriber = EventSubscriber()
        self._source = self._subscriber.add(
            0,
            zmq_endpoint,
            events=self._queue,
            block_size=kv_block_size,
            topic=zmq_topic,
            replay_endpoint=replay_endpoint,
        )

    async def get_events(self, timeout: float = 0.05) -> list[str]:
        """All events that came since the last call, oldest first, each as the JSON that `RadixTree.apply_event` takes.

        Waits at most `timeout` seconds for a first one; the list may be empty.
        """
        events = self._queue.take()
        if events or timeout <= 0:
            await asyncio.sleep(0)
            return events
        loop = asyncio.get_running_loop()
        came: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._queue.fileno(), _release, came)
        try:
            await asyncio.wait([came], timeout=timeout)
        finally:
            loop.remove_reader(self._queue.fileno())
        return self._queue.take()

    @property
    def dropped(self) -> int:
        """Events that were dropped because nobody took the ones before."""
        return self._queue.dropped

    def stats(self) -> dict[str, Any]:
        """Counters of the engine's socket."""
        return dict(self._source.stats())

    def close(self) -> None:
        """Stop listening."""
        self._subscriber.close()


# ---- load ------------------------------------------------------------------------------------------------------------


class WorkerStats(NamedTuple):
    """Requests of a worker."""

    request_active_slots: int
    request_total_slots: int
    num_requests_waiting: int
    data_parallel_rank: int | None = None


class KvStats(NamedTuple):
    """The cache of a worker."""

    kv_active_blocks: int
    kv_total_blocks: int
    gpu_cache_usage_perc: float
    gpu_prefix_cache_hit_rate: float


class SpecDecodeStats(NamedTuple):
    """Speculative decoding of a worker."""

    num_spec_tokens: int | None = None
    num_drafts: int | None = None
    num_draft_tokens: int | None = None
    num_accepted_tokens: int | None = None
    num_accepted_tokens_per_pos: list[int] | None = None


class ForwardPassMetrics(NamedTuple):
    """What `WorkerMetricsPublisher.publish` took until 0.6."""

    worker_stats: WorkerStats
    kv_stats: KvStats
    spec_decode_stats: SpecDecodeStats | None = None


class WorkerMetricsPublisher:
    """Tell routers how busy a worker is."""

    def __init__(self) -> None:
        self._channel: EventChannel | None = None
        self._advert: _Advert | None = None

    async def create_endpoint(
        self,
        endpoint: Any = None,
        metrics_labels: list[tuple[str, str]] | None = None,
        *,
        component: Any = None,
        worker_id: int | None = None,
    ) -> None:
        """Begin to publish for an endpoint, or for a component as in 0.x; `metrics_labels` is accepted for
        compatibility."""
        component = _either(component, endpoint)
        if self._channel is not None:
            raise InvalidArgument("this publisher has its endpoint already")
        _check_plane()
        self._channel = EventChannel(
            _runtime(component).instance_id() if worker_id is None else worker_id,
            _subject(component),
            endpoint=_bind(_host()),
            replay_endpoint=None,
        )
        self._advert = _Advert(component, self._channel, [KV_METRICS])

    def publish(
        self,
        dp_rank: int | ForwardPassMetrics | None = None,
        active_decode_blocks: int | None = None,
        kv_used_blocks: int | None = None,
        *,
        active_prefill_tokens: int | None = None,
    ) -> None:
        """Publish a load: ``publish(dp_rank=None, active_decode_blocks=None, kv_used_blocks=None)``, or the older
        ``publish(ForwardPassMetrics(...))``."""
        if self._channel is None:
            raise InvalidArgument("await create_endpoint(...) before publishing")
        if isinstance(dp_rank, ForwardPassMetrics):
            worker, cache, _ = dp_rank
            numbers: dict[str, float | None] = dict(worker._asdict())
            rank = numbers.pop("data_parallel_rank")
            self._channel.publish_load(None if rank is None else int(rank), **numbers, **cache._asdict())
            return
        self._channel.publish_load(
            dp_rank,
            active_decode_blocks=active_decode_blocks,
            active_prefill_tokens=active_prefill_tokens,
            kv_used_blocks=kv_used_blocks,
        )

    def shutdown(self) -> None:
        """Stop publishing. Twice is allowed."""
        if self._advert is not None:
            self._advert.withdraw()
        if self._channel is not None:
            self._channel.close()


# ---- following -------------------------------------------------------------------------------------------------------


class EventFollower:
    """Keep an index, and a table of loads, from all publishers of a component that discovery knows.

    Parameters
    ----------
    store : dynamo._discovery.Store
    namespace, component : str
    sink : an index, optional
        Written by a C thread.
    loads : LoadTable, optional
    on_gone : function of a worker id, optional
        Called when the last publisher of a worker's events is gone: the place to remove the worker from the index.
    silence : float
        Seconds after which a worker whose events are expected and do not come is named.
    """

    def __init__(
        self,
        store: Store,
        namespace: str,
        component: str,
        sink: Any = None,
        *,
        loads: LoadTable | None = None,
        on_gone: Callable[[int], object] | None = None,
        silence: float = 10.0,
    ) -> None:
        self._watch = store.watch(channel_prefix(namespace, component))
        self._sink = sink
        self._loads = loads
        self._on_gone = on_gone
        self._sources: dict[str, EventSource] = {}
        self._expected: dict[int, list[EventSource]] = {}
        self._synced = asyncio.Event()
        self.subscriber = EventSubscriber(silence)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="KV event follower")

    async def _run(self) -> None:
        async for change in self._watch:
            if change.kind == "synced":
                self._synced.set()
            elif change.key is None:
                continue
            elif change.kind == "delete":
                self._remove(change.key)
            elif change.value is not None:
                try:
                    self._add(change.key, json.loads(change.value))
                except (ValueError, KeyError, TypeError) as error:
                    import logging

                    logging.getLogger("dynamo.events").warning(
                        "event channel %s is not understood: %s", change.key, error
                    )

    def _add(self, key: str, value: Mapping[str, Any]) -> None:
        topic, worker = value["topic"], int(value["instance_id"])
        config = value["transport"]["config"]
        if value.get("type") != "EventChannel" or value["transport"].get("kind") != "zmq":
            return
        if topic not in (KV_EVENTS, KV_METRICS) or key in self._sources:
            return
        if (self._sink is None) if topic == KV_EVENTS else (self._loads is None):
            return
        source = self.subscriber.add(
            worker,
            config["endpoint"],
            self._sink if topic == KV_EVENTS else None,
            loads=self._loads if topic == KV_METRICS else None,
            topic=config.get("subject", ""),
            replay_endpoint=config.get("replay_endpoint"),
        )
        self._sources[key] = source
        if topic == KV_EVENTS:
            self._expected.setdefault(worker, []).append(source)

    def _remove(self, key: str) -> None:
        source = self._sources.pop(key, None)
        if source is None:
            return
        source.close()
        worker = source.worker_id
        left = self._expected.get(worker)
        if left is not None and source in left:
            left.remove(source)
            if not left:
                del self._expected[worker]
                if self._on_gone is not None:
                    self._on_gone(worker)
        elif self._loads is not None:
            self._loads.remove(worker)

    async def synced(self) -> None:
        """Wait until everyone who was there at the start is listened to."""
        await self._synced.wait()

    def expect(self, worker_id: int) -> bool:
        """A request that must cause events goes to this worker. False: it publishes none at all."""
        sources = self._expected.get(worker_id)
        if not sources:
            return False
        if len(sources) == 1:  # of several ranks any may be the one
            sources[0].expect()
        return True

    def stats(self) -> list[dict[str, Any]]:
        """Counters of every source."""
        return [dict(source.stats()) for source in self._sources.values()]

    def close(self) -> None:
        """Stop following; what was written stays."""
        self._task.cancel()
        self._watch.close()
        self.subscriber.close()
        self._sources.clear()
        self._expected.clear()
