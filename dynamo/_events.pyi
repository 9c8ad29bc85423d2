from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, final, type_check_only

from typing_extensions import Buffer, Never, Self, disjoint_base

from dynamo._index import RadixTree
from dynamo._metrics import Registry

_Ints: TypeAlias = Iterable[int] | Buffer
_Hashes: TypeAlias = Iterable[int | bytes] | Buffer

@disjoint_base
class KvSink: ...

class _Sink(Protocol):
    def _kv_sink(self) -> Any: ...

@type_check_only
class ChannelStats(TypedDict):
    next_sequence: int
    events: int
    blocks: int
    bytes: int
    replays: int
    replayed_batches: int
    ring_first: int
    ring_batches: int
    ring_bytes: int
    snapshots: int
    mirror_blocks: int
    mirror_bytes: int

@type_check_only
class SourceStats(TypedDict):
    worker_id: int
    connected: bool
    silent: bool
    replaying: bool
    known: bool
    next_sequence: int
    batches: int
    events: int
    blocks: int
    loads: int
    gaps: int
    lost: int
    restarts: int
    replays: int
    replayed: int
    replay_failures: int
    snapshots: int
    malformed: int
    refused: int
    other_tier: int
    age: float | None
    unknown: int
    wrong_block_size: int
    short_of_tokens: int
    ignored_kind: int
    ignored_place: int

@final
class EventChannel:
    publisher_id: int
    worker_id: int
    block_size: int
    dp_rank: int
    subject: str
    def __init__(
        self,
        worker_id: int,
        subject: str = "",
        *,
        endpoint: str = "tcp://127.0.0.1:0",
        replay_endpoint: str | None = "tcp://127.0.0.1:0",
        wire: Literal["plane", "engine"] = "plane",
        dp_rank: int = 0,
        block_size: int = 0,
        hwm: int = 0,
        ring_batches: int = 0,
        ring_bytes: int = 0,
        mirror_blocks: int | None = 0,
        batch_ms: int = 0,
        connect: bool = False,
        publisher_id: int | None = None,
    ) -> None: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def replay_endpoint(self) -> str | None: ...
    def publish_stored(
        self,
        block_hashes: _Hashes,
        tokens_hashes: _Hashes,
        parent: int | bytes | None = None,
        dp_rank: int | None = None,
        start_position: int | None = None,
    ) -> None: ...
    def publish_stored_tokens(
        self,
        token_ids: _Ints,
        block_hashes: _Hashes,
        parent: int | bytes | None = None,
        dp_rank: int | None = None,
        *,
        lora_name: str | None = None,
        cache_salt: str | None = None,
        is_eagle: bool = False,
        block_mm_infos: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> int: ...
    def publish_removed(self, block_hashes: _Hashes, dp_rank: int | None = None) -> None: ...
    def publish_cleared(self, dp_rank: int | None = None) -> None: ...
    def publish_load(self, dp_rank: int | None = None, **numbers: float | None) -> None: ...
    def flush(self) -> None: ...
    def stats(self) -> ChannelStats: ...
    def _kv_sink(self) -> KvSink: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

@final
class EventQueue:
    def __new__(cls, bound: int = 0, router: bool = False) -> Self: ...
    def fileno(self) -> int: ...
    def take(self) -> list[str]: ...
    @property
    def dropped(self) -> int: ...

@final
class LoadTable:
    def __new__(cls) -> Self: ...
    def remove(self, worker_id: int) -> None: ...
    def get(self) -> dict[tuple[int, int], dict[str, float]]: ...

@final
class EventSubscriber:
    def __init__(self, silence: float = 10.0) -> None: ...
    def add(
        self,
        worker_id: int,
        endpoint: str,
        sink: RadixTree | _Sink | KvSink | None = None,
        *,
        block_size: int = 0,
        replay_endpoint: str | None = None,
        topic: str = "",
        dp_rank: int = 0,
        worker_from_event: bool = False,
        events: EventQueue | EventChannel | None = None,
        loads: LoadTable | None = None,
        hwm: int = 0,
    ) -> EventSource: ...
    def show(self, registry: Registry) -> None: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

@final
class EventSource:
    worker_id: int
    endpoint: str
    # Refuses: EventSubscriber.add() makes them.
    def __init__(self, *args: object, **kwargs: object) -> Never: ...
    def expect(self) -> None: ...
    def stats(self) -> SourceStats: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
