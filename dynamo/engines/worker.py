"""Put an engine behind an endpoint: requests in, answers out, card, cache events and load to those who route.

engine.start -> listen -> publish card                      requests -> engine.generate -> items
             |-> KV events of the cache -> routers           every half second: load -> routers
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from dynamo.engines.base import Engine, EngineContext, EngineInfo, Progress
from dynamo.errors import InvalidArgument

if TYPE_CHECKING:
    from dynamo.engines.base import Hashes
    from dynamo.llm.model import ModelType, WorkerType
    from dynamo.llm.publisher import KvEventPublisher
    from dynamo.runtime import DistributedRuntime, Endpoint

__all__ = ["serve_engine"]

_LOAD_SECS = 0.5


class _CacheEvents:
    """The sink that an engine is started with; leads to the publisher, which is there once the block size is known."""

    def __init__(self) -> None:
        self.publisher: KvEventPublisher | None = None

    def stored(self, parent: int | None, block_hashes: "Hashes", tokens_hashes: "Hashes") -> None:
        if self.publisher is not None:
            self.publisher.channel.publish_stored(block_hashes, tokens_hashes, parent)

    def removed(self, block_hashes: "Hashes") -> None:
        if self.publisher is not None:
            self.publisher.channel.publish_removed(block_hashes)

    def cleared(self) -> None:
        if self.publisher is not None:
            self.publisher.channel.publish_cleared()


async def serve_engine(
    runtime: "DistributedRuntime",
    engine: Engine,
    *,
    namespace: str | None = None,
    component: str = "backend",
    endpoint: str = "generate",
    model_name: str | None = None,
    model_type: "ModelType | None" = None,
    worker_type: "WorkerType | None" = None,
    migration_limit: int = 3,
    router_config: Any = None,
    custom_template_path: "str | os.PathLike[str] | None" = None,
    user_data: Mapping[str, Any] | None = None,
    kv_events: bool = True,
    share_files: bool = False,
    graceful_shutdown: bool = True,
    progress: Progress | None = None,
    on_ready: Callable[[EngineInfo], None] | None = None,
) -> None:
    """Start an engine and serve it until the runtime is shut down.

    Parameters
    ----------
    namespace : by default ``DYN_NAMESPACE``, else "dynamo"
    model_name : what clients ask for; by default the engine's own name
    model_type : the APIs; by default chat and completions for a model with a tokeniser, completions for one without
        (token ids only), and embeddings where the engine can
    migration_limit : how many times a broken answer may go on at another worker
    kv_events : publish what the cache holds
    share_files : let ``fetch_model("dyn://...")`` take the model's files from here
    progress : called while the model loads, as `Engine.start` says
    on_ready : called once requests can come

    Raises
    ------
    DynamoError : the engine cannot start, or it failed while it served; everything is closed then
    """
    from dynamo.llm.model import ModelInput, ModelRuntimeConfig, ModelType
    from dynamo.llm.register import register_model, unregister_model
    from dynamo.runtime import settings

    events = _CacheEvents()
    tasks: list[asyncio.Task[Any]] = []
    closing: list[Callable[[], None]] = []
    try:
        info = await engine.start(events if kv_events else None, progress)
        target = runtime.endpoint(f"{namespace or settings.namespace()}.{component}.{endpoint}")
        if kv_events:
            from dynamo.llm.publisher import KvEventPublisher, WorkerMetricsPublisher

            events.publisher = KvEventPublisher(target, kv_block_size=info.block_size)
            closing.append(events.publisher.shutdown)
            loads = WorkerMetricsPublisher()
            await loads.create_endpoint(target)
            closing.append(loads.shutdown)
            tasks.append(asyncio.create_task(_publish_load(engine, loads), name="engine load"))

        serving = asyncio.create_task(
            target.serve_endpoint(_handler(engine), graceful_shutdown=graceful_shutdown), name=f"serve {target.path}"
        )
        tasks.append(serving)
        await _registered(target, serving)
        if share_files:
            from dynamo.llm.transfer import serve_files

            tasks.append(asyncio.create_task(serve_files(target, info.assets), name="share files"))
        path = info.assets.get("model") or info.assets.get("tokenizer")
        if model_type is None:
            model_type = ModelType.Completions | (ModelType.Chat if path is not None else ModelType.Empty)
            if info.embeds:
                model_type |= ModelType.Embedding
        limits = ModelRuntimeConfig(
            context_length=info.context_length,
            total_kv_blocks=info.total_kv_blocks,
            max_num_seqs=info.max_num_seqs,
            max_num_batched_tokens=info.max_num_batched_tokens,
            data_parallel_size=info.data_parallel_size,
            kv_event_publishing_enabled=kv_events,
        )
        await register_model(
            ModelInput.Tokens,
            model_type,
            target,
            path,
            model_name or info.model_name,
            context_length=info.context_length,
            kv_cache_block_size=info.block_size,
            migration_limit=migration_limit,
            runtime_config=limits,
            user_data=user_data,
            custom_template_path=custom_template_path or info.assets.get("chat_template"),
            worker_type=worker_type,
            router_config=router_config,
        )
        if on_ready is not None:
            on_ready(info)
        failing = asyncio.create_task(engine.failed(), name="engine watch")
        tasks.append(failing)
        await asyncio.wait([serving, failing], return_when=asyncio.FIRST_COMPLETED)
        if failing.done() and not serving.done():
            # Out of discovery first: whoever is told to go elsewhere must not be sent here again.
            with contextlib.suppress(Exception):
                await unregister_model(target)
                await target.unregister_endpoint_instance()
            raise failing.result()
        await serving
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for close in closing:
            with contextlib.suppress(Exception):
                close()
        await engine.shutdown()


def _handler(engine: Engine) -> Callable[..., AsyncIterator[dict[str, Any]]]:
    async def handler(request: Any, context: EngineContext) -> AsyncIterator[dict[str, Any]]:
        if not isinstance(request, Mapping):
            raise InvalidArgument(f"a request must be an object with token_ids, not {type(request).__name__}")
        if request.get("batch_token_ids") and not request.get("token_ids"):
            yield {"embeddings": await engine.embed(request, context)}
            return
        answer = engine.generate(request, context)
        try:
            async for item in answer:
                yield item
        finally:
            close = getattr(answer, "aclose", None)
            if close is not None:
                await close()

    return handler


async def _registered(target: "Endpoint", serving: "asyncio.Task[Any]") -> None:
    while not target.registered:  # it becomes so within a few turns of the loop
        if serving.done():
            await serving
        await asyncio.sleep(0)


async def _publish_load(engine: Engine, publisher: Any) -> None:
    before: tuple[int, ...] = ()
    while True:
        now = engine.stats()
        numbers = (now.active_blocks, now.counts.get("held_blocks", now.active_blocks), now.running, now.waiting)
        if numbers != before:
            before = numbers
            publisher.publish(None, active_decode_blocks=now.active_blocks, kv_used_blocks=numbers[1])
        await asyncio.sleep(_LOAD_SECS)
