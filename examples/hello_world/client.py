"""A client: waits for a worker, calls it and prints what it streams. Start `server.py` beside it."""

import asyncio

from dynamo.runtime import DistributedRuntime, dynamo_worker


@dynamo_worker()
async def main(runtime: DistributedRuntime) -> None:
    client = await runtime.endpoint("hello.greeter.generate").client()
    await client.wait_for_instances()
    request = {"names": ["Ada", "Grace", "Barbara"], "pause": 0.05}
    async for item in client.generate(request):
        print(item.data(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
