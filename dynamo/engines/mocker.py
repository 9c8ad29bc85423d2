"""An engine without a model: real scheduling, caching, eviction and events, simulated time, made-up tokens.

It answers like a busy GPU would, as fast as `speedup` says, so routers and front ends can be tried on any machine.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from dynamo.engines.base import (
    Engine,
    EngineContext,
    EngineInfo,
    EngineStats,
    EventSink,
    GenerateRequest,
    Progress,
    reused,
    usage,
)

if TYPE_CHECKING:
    from dynamo._mocker import MockerEngine as _Native

__all__ = ["MockerEngine", "token_range"]


def token_range(vocabulary: int) -> tuple[int, int]:
    """Ids to make up tokens from: a part of a vocabulary where neither control tokens nor single bytes usually are."""
    return (vocabulary * 3 // 4, max(vocabulary * 15 // 16, vocabulary * 3 // 4 + 1))


class MockerEngine(Engine):
    """A simulated engine.

    Parameters
    ----------
    speedup : how many times faster than the timing formulas; 0 waits for nothing
    blocks, block_size : of the simulated cache, in blocks and tokens
    assets : files for a front end, as in `EngineInfo`; its tokeniser also says which token ids may be made up
    tokens : the ids to make up, as a range (low, high); by default from the tokeniser, else 1000 to 32000
    options : the other parameters of `dynamo._mocker.MockerEngine` (max_sequences, timing, preemption, ...)
    """

    def __init__(
        self,
        model_name: str = "mocker",
        *,
        speedup: float = 1.0,
        blocks: int = 16384,
        block_size: int = 16,
        context_length: int = 131072,
        assets: dict[str, str] | None = None,
        tokens: tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        self._speedup, self._blocks, self._tokens, self._options = speedup, blocks, tokens, options
        self.info = EngineInfo(
            model_name,
            min(context_length, blocks * block_size - 1),
            block_size,
            total_kv_blocks=blocks,
            max_num_seqs=options.get("max_sequences", 256),
            max_num_batched_tokens=options.get("max_batched_tokens", 8192),
            assets=dict(assets or {}),
        )
        self._native: _Native | None = None

    async def start(self, events: EventSink | None = None, progress: Progress | None = None) -> EngineInfo:
        from dynamo._mocker import MockerEngine as Native

        low, high = self._tokens or (1000, 32000)
        source = self.info.assets.get("tokenizer") or self.info.assets.get("model")
        if source is not None:
            from dynamo.llm.tokenizer import load_tokenizer

            if progress is not None:
                progress("reading the tokeniser", None)
            tokenizer = await asyncio.to_thread(load_tokenizer, source)
            self.info.eos_token_ids = tokenizer.eos_ids
            if self._tokens is None:
                low, high = token_range(len(tokenizer))
        self._native = Native(
            asyncio.get_running_loop(),
            speedup=self._speedup,
            blocks=self._blocks,
            block_size=self.info.block_size,
            token_low=low,
            token_high=high,
            on_stored=events.stored if events is not None else None,
            on_removed=events.removed if events is not None else None,
            **self._options,
        )
        return self.info

    async def generate(self, request: Mapping[str, Any], context: EngineContext) -> AsyncIterator[dict[str, Any]]:
        import numpy as np

        native = self._running()
        asked = GenerateRequest.parse(request, self.info)
        prompt = np.array(asked.token_ids, np.uint32)
        if asked.max_tokens < 1:
            yield {"token_ids": [], "finish_reason": "length", "completion_usage": usage(len(prompt), 0, 0)}
            return
        stream = native.submit(prompt, asked.max_tokens)
        made = 0
        try:
            while True:
                await stream.wait()
                step = stream.take()
                reason = None
                for i, token in enumerate(step):
                    if token in asked.stop_token_ids and not asked.ignore_eos and made + i >= asked.min_tokens:
                        step, reason = step[: i + 1], "stop"
                        break
                first = made == 0
                made += len(step)
                if reason is None and context.is_stopped():
                    reason = "cancelled"
                if reason is None and stream.finished:
                    reason = "length" if made == asked.max_tokens else "cancelled"
                if reason is None:
                    item: dict[str, Any] = {"token_ids": step}
                    if first:
                        item["engine_data"] = reused(stream.cached_tokens or 0)
                    yield item
                    continue
                done = usage(len(prompt), made, stream.cached_tokens or 0)
                yield {"token_ids": step, "finish_reason": reason, "completion_usage": done}
                return
        finally:
            native.cancel(stream)

    def _running(self) -> "_Native":
        if self._native is None:
            raise RuntimeError("the engine was not started: await start() first")
        return self._native

    def stats(self) -> EngineStats:
        if self._native is None:
            return EngineStats()
        s = self._native.stats()
        return EngineStats(
            running=s["running"],
            waiting=s["waiting"],
            max_num_seqs=self.info.max_num_seqs or 0,
            active_blocks=s["active_blocks"],
            total_blocks=s["total_blocks"],
            cached_tokens=s["cached_tokens"],
            prompt_tokens=s["prompt_tokens"],
            counts={name: s[name] for name in ("steps", "preemptions", "evicted_blocks", "finished", "cancelled")},
        )

    async def shutdown(self) -> None:
        native, self._native = self._native, None
        if native is not None:
            native.shutdown()
