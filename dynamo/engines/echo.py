"""An engine that answers with its prompt: the least that an engine can be, and a measure of everything around it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

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

__all__ = ["EchoEngine"]


class EchoEngine(Engine):
    """Yields the tokens of the prompt, one item each.

    Parameters
    ----------
    delay : seconds before each token
    context_length, block_size : what the model card says
    assets : files for a front end, as in `EngineInfo`; with none it serves token ids only
    tokens_per_item : tokens that go together
    """

    def __init__(
        self,
        model_name: str = "echo",
        *,
        delay: float = 0.0,
        context_length: int = 1 << 20,
        block_size: int = 16,
        assets: dict[str, str] | None = None,
        eos_token_ids: tuple[int, ...] = (),
        tokens_per_item: int = 1,
    ) -> None:
        self.delay, self.tokens_per_item = delay, max(1, tokens_per_item)
        self.info = EngineInfo(
            model_name, context_length, block_size, eos_token_ids=eos_token_ids, assets=dict(assets or {})
        )
        self._running = 0

    async def start(self, events: EventSink | None = None, progress: Progress | None = None) -> EngineInfo:
        return self.info

    async def generate(self, request: Mapping[str, Any], context: EngineContext) -> AsyncIterator[dict[str, Any]]:
        # An answer may be as long as the prompt, so the context is not shared between the two.
        room = EngineInfo(self.info.model_name, 2 * self.info.context_length)
        asked = GenerateRequest.parse(request, room)
        out = asked.token_ids[: asked.max_tokens]
        self._running += 1
        try:
            sent = 0
            while sent < len(out):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if context.is_stopped():
                    yield {"token_ids": [], "finish_reason": "cancelled"}
                    return
                step = out[sent : sent + self.tokens_per_item]
                sent += len(step)
                yield {"token_ids": step, "engine_data": reused(0)} if sent == len(step) else {"token_ids": step}
            reason = "stop" if len(out) == len(asked.token_ids) else "length"
            done = usage(len(asked.token_ids), len(out), 0)
            yield {"token_ids": [], "finish_reason": reason, "completion_usage": done}
        finally:
            self._running -= 1

    def stats(self) -> EngineStats:
        return EngineStats(running=self._running)
