"""Calls between an endpoint and a client: one at a time, many at once, streams.

Worker and client share a process, so the figures are the cost of both sides; two processes are in docs/performance.md.
"""

import asyncio

from dynamo.runtime import DistributedRuntime


async def _generate(request, context=None):
    for i in range(request["n"]):
        yield {"index": i, "token_ids": [i + 1000], "text": "tok"}


class _Connected:
    def connect(self):
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self._start())

    async def _start(self):
        self.runtime = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
        endpoint = self.runtime.endpoint("bench.rpc.generate")
        self.serving = asyncio.ensure_future(endpoint.serve_endpoint(_generate))
        self.client = await endpoint.client()
        await self.client.wait_for_instances()

    def disconnect(self):
        self.runtime.shutdown()
        self.loop.run_until_complete(self.serving)
        # The client's watch has been cancelled and ends in the loop's next round.
        self.loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(self.loop), return_exceptions=True))
        self.loop.close()

    async def _call(self, n, times=1):
        for _ in range(times):
            async for _ in self.client.round_robin({"n": n, "prompt": "x" * 64}, annotated=False):
                pass


class Calls(_Connected):
    """A request of one item, alone and 64 at once."""

    def setup(self):
        self.connect()

    def teardown(self):
        self.disconnect()

    def time_unary(self):
        self.loop.run_until_complete(self._call(1, 100))

    def time_unary_64_in_flight(self):
        async def main():
            await asyncio.gather(*(self._call(1, 20) for _ in range(64)))

        self.loop.run_until_complete(main())


class Streams(_Connected):
    """1,000 items, from one stream and from 32."""

    params = (1, 32)
    param_names = ("streams",)

    def setup(self, streams):
        self.connect()

    def teardown(self, streams):
        self.disconnect()

    def time_1000_items(self, streams):
        async def main():
            await asyncio.gather(*(self._call(1000) for _ in range(streams)))

        self.loop.run_until_complete(main())
