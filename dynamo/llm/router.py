"""KvRouter: sends a request to the worker that already holds the beginning of its prompt, unless load says otherwise.

token ids -> SelectionCore.pick (hash, find, cost, book: all in C) -> Client.direct(worker) -> items
                  ^
WorkerFollower: discovery and KV events say who is there and what they hold
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamo._html import html_table
from dynamo._metrics import default_registry
from dynamo._router import Decision, SelectionCore, Turn
from dynamo.errors import ConnectionFailed, EngineShutdown, InvalidArgument, NotFound, StreamBroken, Unavailable
from dynamo.llm.following import WorkerFollower
from dynamo.llm.router_config import KvRouterConfig, LoadThresholdConfig, RouterMode, RoutingConstraints

if TYPE_CHECKING:
    from dynamo.runtime import Client, Context, Endpoint

__all__ = ["KvPushRouter", "KvPushRouterStream", "KvRouter"]

logger = logging.getLogger("dynamo.router")

_OVERRIDES = frozenset(
    (
        "overlap_score_weight",
        "overlap_score_credit",
        "prefill_load_scale",
        "router_temperature",
        "assume_kv_reuse",
        "track_prefill_tokens",
        "shared_cache_multiplier",
    )
)

_MAX_TRIES = 8  # workers that one request is sent to before it gives up
_AVOID_SECONDS = 5.0

# The members that handlers of Dynamo may expect in a request, None where nothing was said.
_STOP = dict.fromkeys(
    (
        "max_tokens",
        "stop",
        "stop_token_ids",
        "stop_token_ids_visible",
        "stop_token_ids_hidden",
        "min_tokens",
        "ignore_eos",
        "max_thinking_tokens",
    )
)
_SAMPLING = dict.fromkeys(
    (
        "n",
        "best_of",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "use_beam_search",
        "length_penalty",
        "seed",
        "include_stop_str_in_output",
        "guided_decoding",
    )
)
_OUTPUT = dict.fromkeys(
    ("logprobs", "prompt_logprobs", "skip_special_tokens", "formatted_prompt", "return_tokens_as_token_ids")
)

# Options of Dynamo that need something which is not here: refused rather than ignored.
_NOT_HERE = {
    "router_replica_sync": (False, "routers do not tell each other about their requests"),
    "use_remote_indexer": (False, "the index is in this process"),
    "serve_indexer": (False, "the index is not served to others"),
    "shared_cache_type": ("none", "no shared cache can be asked"),
    "router_prefill_load_model": ("none", "prefill is counted in tokens"),
    "router_tracking_hash": ("public-xxh3-v1", "there are only the public hashes"),
    "router_policy_config": (None, "there is one queue, set by router_queue_policy"),
    "conditional_disagg_enabled": (False, "a request goes to one worker"),
}


def _override(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The part of a request's router_config_override that is known; the rest is named once in the log."""
    if not given:
        return None
    unknown = set(given) - _OVERRIDES
    if unknown:
        logger.warning("router_config_override has members that do nothing: %s", ", ".join(sorted(map(str, unknown))))
    return {name: value for name, value in given.items() if name in _OVERRIDES}


class KvPushRouterStream:
    """The items of one request: ``async for item in router.generate(...)``; awaiting it first is allowed.

    A worker that cannot be reached before its first item is avoided for a while, and another one is asked. Later it is
    `StreamBroken`: what came so far is the caller's, who may ask anew with it.
    """

    def __init__(self, router: KvRouter, request: dict[str, Any], how: dict[str, Any], context: Context | None) -> None:
        self._router = router
        self._request = request
        self._how = how
        self._context = context
        self._stream: Any = None
        self._tries = 0
        self._begun = False
        self.decision: Decision | None = None

    def __await__(self) -> Generator[Any, None, KvPushRouterStream]:
        return self._start().__await__()

    async def _start(self) -> KvPushRouterStream:
        if self._tries > 0:
            return self
        client = await self._router._ready_client()
        await self._send(client)
        return self

    async def _send(self, client: Client) -> None:
        self._tries += 1
        chosen = self._router.core.submit(self._request["token_ids"], None, **self._how)
        self.decision = decision = await chosen if isinstance(chosen, Turn) else chosen
        request = self._request
        request["estimated_prefix_hit_num_blocks"] = decision.overlap_blocks
        request["routing"] = {**(request.get("routing") or {}), "dp_rank": decision.dp_rank}
        try:
            self._stream = client.direct(request, decision.worker_id, False, self._context)
        except BaseException:
            self._end()
            raise

    def __aiter__(self) -> KvPushRouterStream:
        return self

    async def __anext__(self) -> Any:
        if self._tries == 0:
            await self._start()
        while self._stream is not None:
            try:
                item = await self._stream.__anext__()
            except (ConnectionFailed, StreamBroken, Unavailable, EngineShutdown):
                failed = self.decision
                self._end()
                if failed is not None:
                    self._router.core.avoid(failed.worker_id, _AVOID_SECONDS)
                if self._begun or self._tries >= _MAX_TRIES or "worker_id" in self._how:
                    raise
                await self._send(await self._router._ready_client())
                continue
            except BaseException:
                self._end()
                raise
            if not self._begun:
                self._begun = True
                self._router.core.prefill_done(self.decision.ticket)  # type: ignore[union-attr]
            if self._router._tracks_output and isinstance(item, Mapping):
                self._router.core.output(self.decision.ticket, len(item.get("token_ids") or ()))  # type: ignore[union-attr]
            return item
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Drop the request."""
        stream = self._stream
        self._end()
        if stream is not None:
            await stream.aclose()

    def _end(self) -> None:
        self._stream = None
        self._tries = self._tries or 1
        if self.decision is not None:
            self._router.core.free(self.decision.ticket)  # a second time is harmless

    def __del__(self) -> None:
        if self.decision is not None:
            self._router.core.free(self.decision.ticket)


class KvRouter:
    """Routes requests over the workers of an endpoint by what they hold in their KV caches and how loaded they are.

    Parameters
    ----------
    endpoint : Endpoint
        Whose instances are the workers.
    block_size : int
        Tokens of a KV block. A worker whose card says another size is not used.
    kv_router_config : KvRouterConfig, optional
        Default: what the ``DYN_ROUTER_*`` variables say.
    ais_perf_config : None
        Accepted for compatibility; an estimator is not available here.
    session_affinity_ttl_secs : None
        Not available here.
    load_threshold_config : LoadThresholdConfig, optional
        When a worker counts as busy and gets nothing.

    Attributes
    ----------
    core : SelectionCore
        What decides; also gives `loads()` and `stats()`.

    mode : RouterMode or str
        Another rule than KV, over the same table of workers.

    Notes
    -----
    Make it inside a running asyncio loop. A decision counts as load from the moment it is made; `generate` ends that by
    itself, `best_worker` with a request id needs `free`.

    Examples
    --------
    ::

        router = KvRouter(runtime.endpoint("ns.backend.generate"), 64, KvRouterConfig())
        async for item in router.generate(token_ids, "model", stop_conditions={"max_tokens": 16}):
            print(item["token_ids"])
    """

    def __init__(
        self,
        endpoint: Endpoint,
        block_size: int,
        kv_router_config: KvRouterConfig | None = None,
        ais_perf_config: None = None,
        session_affinity_ttl_secs: int | None = None,
        *,
        load_threshold_config: LoadThresholdConfig | None = None,
        session_affinity_mode: str = "hard",
        mode: RouterMode | str = RouterMode.KV,
    ) -> None:
        config = KvRouterConfig.from_env() if kv_router_config is None else kv_router_config
        if not isinstance(config, KvRouterConfig):
            raise TypeError(f"kv_router_config must be a KvRouterConfig, not {type(config).__name__}")
        if block_size < 2:
            raise InvalidArgument(f"block_size is {block_size}: must be 2 or more, and that of the workers")
        for name, (only, why) in _NOT_HERE.items():
            if getattr(config, name) != only:
                raise InvalidArgument(f"{name}={getattr(config, name)!r} is not available here: {why}")
        if ais_perf_config is not None or session_affinity_ttl_secs is not None:
            raise InvalidArgument("ais_perf_config and session_affinity_ttl_secs are not available here")
        self.endpoint = endpoint
        self.block_size = block_size
        self.config = config
        self.core = SelectionCore(block_size, config, mode=mode, thresholds=load_threshold_config)
        self.follower = WorkerFollower(
            endpoint.runtime.store,
            endpoint.namespace,
            endpoint.component,
            endpoint.name,
            self.core,
            registry=default_registry(),
        )
        self._tracks_output = config.router_track_output_blocks
        self._client: Client | None = None
        self._synced = False
        with contextlib.suppress(RuntimeError):  # no loop runs yet: the first call starts it
            self.follower.start()

    # ---- asking ----------------------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        """Wait until the workers that were there at the start are known."""
        self.follower.start()
        await self.follower.synced.wait()
        self._synced = True

    def _how(
        self,
        token_ids: Any,
        router_config_override: Mapping[str, Any] | None,
        block_mm_infos: Sequence[Mapping[str, Any] | None] | None,
        lora_name: str | None,
        cache_namespace: str | None,
        routing_constraints: RoutingConstraints | Mapping[str, Any] | None = None,
        strict_priority: int = 0,
    ) -> dict[str, Any]:
        how: dict[str, Any] = {}
        if router_config_override:
            how["override"] = _override(router_config_override)
        if routing_constraints is not None:
            how["constraints"] = routing_constraints
        if strict_priority:
            how["strict_priority"] = strict_priority
        if block_mm_infos is not None and any(info is not None for info in block_mm_infos):
            from dynamo._hash import compute_block_hash_for_seq

            how["block_hashes"] = compute_block_hash_for_seq(
                token_ids,
                self.block_size,
                [None if info is None else dict(info) for info in block_mm_infos],
                lora_name,
                None,
                cache_namespace,
            )
        elif lora_name or cache_namespace:
            how["lora_name"], how["cache_namespace"] = lora_name, cache_namespace
        return how

    async def best_worker(
        self,
        token_ids: Sequence[int] | Any,
        router_config_override: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        update_indexer: bool = False,
        block_mm_infos: Sequence[Mapping[str, Any] | None] | None = None,
        lora_name: str | None = None,
        routing_constraints: RoutingConstraints | None = None,
        strict_priority: int = 0,
        policy_class: str | None = None,
        cache_namespace: str | None = None,
    ) -> tuple[int, int, int]:
        """`(worker_id, dp_rank, overlap_blocks)` of the worker to use.

        With a `request_id` the request counts as load until `free(request_id)`; without one nothing is booked.
        `update_indexer` believes, without events, that the worker will hold the prompt.

        Raises
        ------
        Unavailable : no worker may serve it
        Overloaded : all are busy
        """
        if not self._synced:
            await self._sync()
        if (
            router_config_override is None
            and block_mm_infos is None
            and lora_name is None
            and routing_constraints is None
            and cache_namespace is None
            and not strict_priority
        ):
            return self.core.best_worker(token_ids, request_id, update_indexer)
        how = self._how(
            token_ids,
            router_config_override,
            block_mm_infos,
            lora_name,
            cache_namespace,
            routing_constraints,
            strict_priority,
        )
        chosen = self.core.pick(token_ids, request_id, book=request_id is not None, update_index=update_indexer, **how)
        return chosen.worker_id, chosen.dp_rank, chosen.overlap_blocks

    async def best_worker_id(
        self,
        token_ids: Sequence[int] | Any,
        router_config_override: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> tuple[int, int]:
        """`(worker_id, overlap_blocks)`, as in Dynamo 0.x."""
        worker, _, overlap = await self.best_worker(token_ids, router_config_override, request_id)
        return worker, overlap

    async def get_potential_loads(
        self,
        token_ids: Sequence[int] | Any,
        block_mm_infos: Sequence[Mapping[str, Any] | None] | None = None,
        lora_name: str | None = None,
        cache_namespace: str | None = None,
    ) -> list[dict[str, int]]:
        """What each worker's load would be with this prompt: `worker_id`, `dp_rank`, `potential_prefill_tokens`,
        `potential_decode_blocks`, `active_requests`."""
        if not self._synced:
            await self._sync()
        how = self._how(token_ids, None, block_mm_infos, lora_name, cache_namespace)
        return self.core.potential_loads(token_ids, **how)

    async def get_overlap_scores(
        self,
        token_ids: Sequence[int] | Any,
        router_config_override: Mapping[str, Any] | None = None,
        block_mm_infos: Sequence[Mapping[str, Any] | None] | None = None,
        lora_name: str | None = None,
        include_shared: bool = True,
        cache_namespace: str | None = None,
    ) -> dict[str, Any]:
        """Which worker holds how many of the prompt's blocks. Only device blocks are indexed here, so the cumulative
        counts of the lower tiers are the same number."""
        if not self._synced:
            await self._sync()
        how = self._how(token_ids, router_config_override, block_mm_infos, lora_name, cache_namespace)
        rows = self.core.explain(token_ids, **how)
        return {
            "block_size": self.block_size,
            "num_blocks": len(token_ids) // self.block_size,
            "workers": [
                {
                    "worker_id": row["worker_id"],
                    "dp_rank": row["dp_rank"],
                    "device_blocks": row["overlap_blocks"],
                    "host_pinned_blocks": row["overlap_blocks"],
                    "disk_blocks": row["overlap_blocks"],
                    "host_pinned_extension_blocks": 0,
                    "disk_extension_blocks": 0,
                    "shared_beyond_device_blocks": None,
                }
                for row in rows
            ],
            "shared_cache": {"enabled": False, "total_hit_blocks": 0, "ranges": [], "error": None},
        }

    async def dump_events(self) -> str:
        """The index as the JSON text of a list of router events."""
        return self.core.dump_events()

    async def mark_prefill_complete(self, request_id: str) -> None:
        """The first token of a booked request came.

        Raises
        ------
        NotFound : nothing is booked under that id
        """
        if not self.core.prefill_done(str(request_id)):
            raise NotFound(f"Request {request_id} not found")

    async def free(self, request_id: str) -> None:
        """A booked request is over.

        Raises
        ------
        NotFound : nothing is booked under that id
        """
        if not self.core.free(str(request_id)):
            raise NotFound(f"Request {request_id} not found")

    # ---- sending ---------------------------------------------------------------------------------------------------

    async def _ready_client(self) -> Client:
        if not self._synced:
            await self._sync()
        if self._client is None:
            self._client = await self.endpoint.client()
        return self._client

    def generate(
        self,
        token_ids: Sequence[int] | Any,
        model: str,
        stop_conditions: Mapping[str, Any] | None = None,
        sampling_options: Mapping[str, Any] | None = None,
        output_options: Mapping[str, Any] | None = None,
        router_config_override: Mapping[str, Any] | None = None,
        worker_id: int | None = None,
        dp_rank: int | None = None,
        extra_args: Any = None,
        block_mm_infos: Sequence[Mapping[str, Any] | None] | None = None,
        multi_modal_data: Any = None,
        mm_routing_info: Any = None,
        routing_constraints: RoutingConstraints | None = None,
        response_buffer_size: int = 100,
        *,
        context: Context | None = None,
    ) -> KvPushRouterStream:
        """Route a prompt and stream the answer's items (`LLMEngineOutput` maps).

        Raises
        ------
        Unavailable, Overloaded : while awaiting or at the first item
        StreamBroken : the worker went away; nothing is tried again here
        """
        request: dict[str, Any] = {
            "model": model,
            "token_ids": token_ids,
            "stop_conditions": {**_STOP, **(stop_conditions or {})},
            "sampling_options": {**_SAMPLING, **(sampling_options or {})},
            "output_options": {**_OUTPUT, **(output_options or {})},
            "eos_token_ids": [],
            "mdc_sum": None,
            "annotations": [],
        }
        if extra_args is not None:
            request["extra_args"] = extra_args
        if multi_modal_data is not None:
            request["multi_modal_data"] = multi_modal_data
        if mm_routing_info is not None:
            request["mm_routing_info"] = mm_routing_info
        how = self._how(token_ids, router_config_override, block_mm_infos, None, None, routing_constraints)
        if worker_id is not None:
            how["worker_id"] = worker_id
        if dp_rank is not None:
            how["dp_rank"] = dp_rank
        return KvPushRouterStream(self, request, how, context)

    def generate_from_request(
        self, request: Mapping[str, Any], response_buffer_size: int = 100, *, context: Context | None = None
    ) -> KvPushRouterStream:
        """Route a preprocessed request: its `token_ids`, `routing` and `router_config_override` say how."""
        if "token_ids" not in request:
            raise InvalidArgument("the request has no token_ids: a prompt must be tokenised before it is routed")
        plain = dict(request)
        routing = plain.get("routing") or {}
        how = self._how(
            plain["token_ids"],
            plain.get("router_config_override"),
            None,
            routing.get("lora_name"),
            routing.get("cache_salt"),
            routing.get("routing_constraints"),
            routing.get("strict_priority") or 0,
        )
        worker = routing.get("backend_instance_id", plain.get("backend_instance_id"))
        for name, value in (
            ("worker_id", worker),
            ("dp_rank", routing.get("dp_rank")),
            ("allowed_worker_ids", routing.get("allowed_worker_ids")),
            ("expected_output_tokens", routing.get("expected_output_tokens")),
            ("priority_jump", routing.get("priority_jump")),
        ):
            if value is not None:
                how[name] = value
        return KvPushRouterStream(self, plain, how, context)

    def close(self) -> None:
        """Stop following the workers."""
        self.follower.close()

    def __repr__(self) -> str:
        return f"<KvRouter of {self.endpoint.path}, {len(self.follower.workers)} workers>"

    def _repr_html_(self) -> str:
        columns = ("worker_id", "dp_rank", "active_requests", "active_decode_blocks", "active_prefill_tokens")
        loads = self.core.loads()
        rows = [
            [f"{load['worker_id']:x}", *(load.get(name, "") for name in columns[1:]), _state(load)] for load in loads
        ]
        title = f"KvRouter of {self.endpoint.path}, blocks of {self.block_size} tokens"
        return html_table(title, rows, (*columns, "state"))


def _state(load: Mapping[str, Any]) -> str:
    return "silent" if load["silent"] else "busy" if load["busy"] else "ready"


KvPushRouter = KvRouter
