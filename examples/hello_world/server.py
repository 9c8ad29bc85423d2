"""A worker: serves one endpoint until it is told to stop.

python server.py            # in one terminal
python client.py            # in another: they find each other through a folder
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from dynamo.runtime import Context, DistributedRuntime, dynamo_worker


@dynamo_worker()
async def worker(runtime: DistributedRuntime) -> None:
    endpoint = runtime.endpoint("hello.greeter.generate")

    async def generate(request: dict[str, Any], context: Context) -> AsyncIterator[str]:
        # What is yielded is streamed. A caller that leaves is seen by the context, and at the next yield.
        for name in request["names"]:
            if context.is_stopped():
                return
            yield f"Hello, {name}!"
            await asyncio.sleep(request.get("pause", 0))

    print("serving hello.greeter.generate; Ctrl-C stops", flush=True)
    await endpoint.serve_endpoint(generate)


if __name__ == "__main__":
    asyncio.run(worker())
