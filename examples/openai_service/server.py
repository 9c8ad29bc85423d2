"""An OpenAI server in front of a Python generator: no model, no worker, one process.

    python server.py --port 8000
    dynamo chat --url http://127.0.0.1:8000

The generator yields OpenAI chunks; HttpService does HTTP, streaming, errors and metrics.
"""

import argparse
import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

from dynamo.llm import HttpAsyncEngine, HttpError, HttpService
from dynamo.runtime import Context


async def parrot(request: dict[str, Any], context: Context) -> AsyncIterator[dict[str, Any]]:
    """Say the last message again, word by word, until the client has had enough."""
    message = request["messages"][-1].get("content")
    if not isinstance(message, str):
        raise HttpError(422, "this parrot repeats plain text only")

    chunk = {
        "id": f"chatcmpl-{context.id()}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": request["model"],
    }
    for word in message.split():
        if context.is_stopped():  # the client is gone
            return
        yield chunk | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": word + " "}}]}
        await asyncio.sleep(0.02)
    yield chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()

    loop = asyncio.get_running_loop()
    service = HttpService(port=args.port)
    service.add_chat_completions_model("parrot", "1", HttpAsyncEngine(parrot, loop))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.shutdown)

    running = asyncio.ensure_future(service.run())
    await asyncio.sleep(0)  # it listens now, and knows its port
    print(f"listening on http://127.0.0.1:{service.port}/v1", flush=True)
    await running


if __name__ == "__main__":
    asyncio.run(main())
