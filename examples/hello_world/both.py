"""Worker and client in one process, without any other program or file: discovery is `mem`."""

import asyncio
from collections.abc import AsyncIterator

from dynamo.runtime import DistributedRuntime


async def generate(request: list[str]) -> AsyncIterator[str]:
    for name in request:
        yield f"Hello, {name}!"


async def main() -> None:
    runtime = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
    endpoint = runtime.endpoint("hello.greeter.generate")
    serving = asyncio.create_task(endpoint.serve_endpoint(generate))
    client = await endpoint.client()
    await client.wait_for_instances()
    async for text in client.generate(["Ada", "Grace"], annotated=False):
        print(text)
    runtime.shutdown()
    await serving


if __name__ == "__main__":
    asyncio.run(main())
