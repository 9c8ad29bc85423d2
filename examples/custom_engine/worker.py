"""An engine of your own behind the OpenAI API: a bigram model in sixty lines.

    python worker.py &              # this worker
    dynamo frontend &               # answers OpenAI clients from it, on http://127.0.0.1:8000/v1
    dynamo chat

An engine turns token ids into token ids. HTTP, templates, tokenisation, routing, stop strings and text are not
its business: they are the front end's, which learns from the model card what it needs.
"""

import asyncio
import random
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any

from dynamo.cli.demo_tokenizer import demo_tokenizer
from dynamo.engines.base import Engine, EngineContext, EngineInfo, EventSink, GenerateRequest, Progress, usage
from dynamo.engines.worker import serve_engine
from dynamo.runtime import DistributedRuntime, dynamo_worker

EOS = 256
TEXT = """The river ran under the old stone bridge, and the otters ran along the river. In the morning the light
came over the bridge, and in the evening the light went down the river with the otters. """


class Bigram(Engine):
    """Says what usually follows: which byte comes after which two, counted in a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.follows: dict[bytes, Counter[int]] = defaultdict(Counter)

    async def start(self, events: EventSink | None = None, progress: Progress | None = None) -> EngineInfo:
        """Load the model; `events` would take what a cache holds, for routing by prefix."""
        data = self.text.encode()
        for i in range(len(data) - 2):
            if progress is not None and i % 100 == 0:
                progress("counting", i / len(data))
            self.follows[data[i : i + 2]][data[i + 2]] += 1
        # This tokeniser's ids are the bytes of the text. For a real model: the folder that it came in, or its GGUF.
        self.info = EngineInfo("bigram", 4096, eos_token_ids=(EOS,), assets={"tokenizer": demo_tokenizer()})
        return self.info

    async def generate(self, request: Mapping[str, Any], context: EngineContext) -> AsyncIterator[dict[str, Any]]:
        """One answer; many run at a time. Each item has the new tokens only."""
        asked = GenerateRequest.parse(request, self.info)  # checked: ranges, context length
        choose = random.Random(asked.seed)
        last = bytes(token for token in asked.token_ids if token < EOS)[-2:]
        made, reason = 0, "length"
        while made < asked.max_tokens:
            if context.is_stopped():  # the client left, or a stop string was found
                reason = "cancelled"
                break
            after = self.follows.get(last) or self.follows[choose.choice(list(self.follows))]
            if asked.temperature == 0:
                token = after.most_common(1)[0][0]
            else:
                weights = [count ** (1 / asked.temperature) for count in after.values()]
                token = choose.choices(list(after), weights)[0]
            last = (last + bytes([token]))[-2:]
            made += 1
            yield {"token_ids": [token]}
            await asyncio.sleep(0)  # let others have a turn
        yield {"token_ids": [], "finish_reason": reason, "completion_usage": usage(len(asked.token_ids), made, 0)}


@dynamo_worker()
async def worker(runtime: DistributedRuntime) -> None:
    await serve_engine(
        runtime,
        Bigram(TEXT * 3),
        progress=lambda text, fraction: print(f"{text} {fraction:.0%}", file=sys.stderr),
        on_ready=lambda info: print(f"serving {info.model_name}", flush=True),
        kv_events=False,  # it has no cache
    )


if __name__ == "__main__":
    asyncio.run(worker())
