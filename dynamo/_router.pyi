from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, final

from typing_extensions import Self

from dynamo.llm.router_config import KvRouterConfig, LoadThresholdConfig, RouterMode, RoutingConstraints

_Ids = Sequence[int] | Any  # or any array of integers
_Hashes = Sequence[int] | Any

@final
class Decision:
    @property
    def worker_id(self) -> int: ...
    @property
    def dp_rank(self) -> int: ...
    @property
    def overlap_blocks(self) -> int: ...
    @property
    def required_blocks(self) -> int: ...
    @property
    def eligible(self) -> int: ...
    @property
    def cost(self) -> float: ...
    @property
    def ticket(self) -> int: ...
    @property
    def reasons(self) -> list[dict[str, Any]] | None: ...

@final
class Turn:
    @property
    def ticket(self) -> int: ...
    def cancel(self) -> None: ...
    def __await__(self) -> Generator[Any, None, Decision]: ...

@final
class SelectionCore:
    @property
    def block_size(self) -> int: ...
    @property
    def config(self) -> KvRouterConfig: ...
    @property
    def mode(self) -> RouterMode: ...
    def __new__(
        cls,
        block_size: int,
        config: KvRouterConfig | None = None,
        *,
        mode: RouterMode | str = ...,
        thresholds: LoadThresholdConfig | None = None,
    ) -> Self: ...
    def put_worker(
        self,
        worker_id: int,
        dp_rank: int = 0,
        *,
        total_kv_blocks: int | None = None,
        max_num_batched_tokens: int | None = None,
        taints: Iterable[str] = (),
        worker_type: str = "aggregated",
        weight: float = 0.0,
    ) -> None: ...
    def remove_worker(self, worker_id: int, dp_rank: int | None = None) -> bool: ...
    def report(
        self,
        worker_id: int,
        dp_rank: int = 0,
        *,
        active_decode_blocks: int | None = None,
        active_prefill_tokens: int | None = None,
        kv_used_blocks: int | None = None,
    ) -> bool: ...
    def heard(self, worker_id: int, dp_rank: int = 0) -> None: ...
    def configure(
        self, config: KvRouterConfig | None = None, thresholds: LoadThresholdConfig | None = None
    ) -> None: ...
    def pick(
        self,
        token_ids: _Ids,
        request_id: str | None = None,
        *,
        book: bool = True,
        update_index: bool = ...,
        override: Mapping[str, Any] | None = None,
        worker_id: int | None = None,
        dp_rank: int | None = None,
        allowed_worker_ids: Iterable[int] | None = None,
        constraints: RoutingConstraints | Mapping[str, Any] | None = None,
        expected_output_tokens: int | None = None,
        strict_priority: int | None = None,
        priority_jump: float | None = None,
        ignore_busy: bool = False,
        lora_name: str | None = None,
        cache_namespace: str | None = None,
        is_eagle: bool | None = None,
        block_hashes: _Hashes | None = None,
        why: bool = False,
    ) -> Decision: ...
    def submit(self, token_ids: _Ids, request_id: str | None = None, **how: Any) -> Decision | Turn: ...
    def best_worker(
        self, token_ids: _Ids, request_id: str | None = None, update_index: bool = False
    ) -> tuple[int, int, int]: ...
    def explain(self, token_ids: _Ids, **how: Any) -> list[dict[str, Any]]: ...
    def potential_loads(self, token_ids: _Ids, **how: Any) -> list[dict[str, int]]: ...
    def overlaps(self, token_ids: _Ids, **how: Any) -> dict[tuple[int, int], int]: ...
    def ticket(self, request_id: str) -> int: ...
    def prefill_done(self, request: int | str) -> bool: ...
    def output(self, request: int | str, tokens: int) -> bool: ...
    def free(self, request: int | str) -> bool: ...
    def expire(self) -> int: ...
    def loads(self) -> list[dict[str, Any]]: ...
    def stats(self) -> dict[str, int]: ...
    def stored(
        self,
        worker_id: int,
        block_hashes: _Hashes,
        tokens_hashes: _Hashes,
        parent: int | None = None,
        dp_rank: int = 0,
    ) -> None: ...
    def removed(self, worker_id: int, block_hashes: _Hashes, dp_rank: int = 0) -> None: ...
    def cleared(self, worker_id: int, dp_rank: int = 0) -> None: ...
    def dump_events(self) -> str: ...
