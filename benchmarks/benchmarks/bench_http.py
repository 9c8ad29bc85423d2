"""Requests and streamed tokens through HttpService, server and client in one process each; and what a metric costs.

Absolute times say little here: compare with the same run of the peer (docs/performance.md).
"""

import asyncio
import json
import subprocess
import sys

from dynamo._metrics import Registry

TOKENS = 500


def _serve() -> None:
    """The server's process; it prints its port."""
    from dynamo.llm import HttpAsyncEngine, HttpService

    async def tokens(request, context=None):
        n, model = request.get("max_tokens") or 1, request["model"]
        for i in range(n):
            yield {
                "id": "c-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": model,
                "choices": [
                    {
                        "index": 0,
                        "delta": {"role": "assistant", "content": "tok "},
                        "finish_reason": None if i + 1 < n else "stop",
                    }
                ],
            }

    async def main():
        service = HttpService(port=0)
        service.add_chat_completions_model("m", "0", HttpAsyncEngine(tokens, asyncio.get_running_loop()))
        running = asyncio.ensure_future(service.run())
        while service.port == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        print(service.port, flush=True)
        await running

    asyncio.run(main())


def _request(n: int, stream: bool) -> bytes:
    fields = {"model": "m", "max_tokens": n, "stream": stream, "messages": [{"role": "user", "content": "hello " * 16}]}
    body = json.dumps(fields).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def _answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"content-length:" in head:
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


class Http:
    """Requests and tokens by number of connections."""

    params, param_names = [1, 32], ["connections"]
    timeout = 60

    def setup(self, connections):
        self.server = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        port = int(self.server.stdout.readline())
        self.loop = asyncio.new_event_loop()

        async def dial():
            return [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]

        self.pairs = self.loop.run_until_complete(dial())

    def teardown(self, connections):
        self.server.kill()
        self.server.wait()
        for _, writer in self.pairs:
            writer.transport.abort()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def _all(self, request: bytes, times: int) -> None:
        async def many(reader, writer):
            for _ in range(times):
                writer.write(request)
                await _answer(reader)

        async def everybody():
            await asyncio.gather(*(many(*pair) for pair in self.pairs))

        self.loop.run_until_complete(everybody())

    def time_20_chat_answers_each(self, connections):
        self._all(_request(1, False), 20)

    def time_500_tokens_each(self, connections):
        self._all(_request(TOKENS, True), 1)


class Metrics:
    """Counting, observing, and a scrape of a thousand series."""

    def setup(self):
        self.registry = Registry()
        workers = self.registry.counter("a_total", labels=["worker"])
        for i in range(1000):
            workers.labels(i).inc()
        self.counter = workers.labels(1)
        self.histogram = self.registry.histogram("b_seconds")

    def time_count(self):
        self.counter.inc()

    def time_observe(self):
        self.histogram.observe(0.02)

    def time_scrape_1000(self):
        self.registry.text()


if __name__ == "__main__":
    _serve()
