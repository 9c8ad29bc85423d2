"""Metrics of your own beside those of the library: one registry, one /metrics.

    python server.py --port 8000
    curl -s http://127.0.0.1:8000/metrics | grep haiku

Counters, gauges and histograms live in C: counting takes some 50 ns, and /metrics is answered without Python.
"""

import argparse
import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

from dynamo._metrics import default_registry
from dynamo.llm import HttpAsyncEngine, HttpService

LINES = (
    ("an old silent pond", "first light on the bridge", "the kettle at dawn"),
    ("a frog leaps into the sky", "two otters share the river", "nobody counts the raindrops"),
    ("water, then silence", "and the snow goes on", "a door left ajar"),
)


class Poet:
    """Writes haiku, and counts what it does."""

    def __init__(self) -> None:
        registry = default_registry()
        # A metric with labels is a family; `labels(...)` gives one series of it. Keep the series you use often.
        self.written = registry.counter("haiku_written_total", "Haiku by mood.", ["mood"])
        self.busy = registry.gauge("haiku_poets_busy", "Poets at work.")
        self.seconds = registry.histogram(
            "haiku_line_seconds", "Time that a line takes.", buckets=[0.001, 0.01, 0.1, 1.0]
        )

    async def write(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        mood = request.get("user") or "calm"
        chunk = {
            "id": "haiku",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": request["model"],
        }
        self.busy.inc()
        try:
            for choices in LINES:
                start = time.perf_counter()
                await asyncio.sleep(random.uniform(0.001, 0.02))
                line = random.choice(choices)
                self.seconds.observe(time.perf_counter() - start)
                yield chunk | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": line + "\n"}}]}
            yield chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            self.written.labels(mood).inc()
        finally:
            self.busy.dec()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()

    loop = asyncio.get_running_loop()
    service = HttpService(port=args.port)
    service.add_chat_completions_model("haiku", "1", HttpAsyncEngine(Poet().write, loop))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.shutdown)

    running = asyncio.ensure_future(service.run())
    await asyncio.sleep(0)
    print(f"listening on http://127.0.0.1:{service.port}/v1", flush=True)
    await running


if __name__ == "__main__":
    asyncio.run(main())
