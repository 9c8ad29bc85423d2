"""The whole front end over loopback: a worker with scripted tokens, a client with a plain socket."""

import asyncio
import json
import subprocess
import sys

# The front end and its worker in one process of their own, so that the client's time is not theirs.
SERVER = """
import asyncio, json, sys
from dynamo.frontend import run_frontend
from dynamo.llm.model import ModelDeploymentCard, ModelInput, ModelType
from dynamo.runtime import DistributedRuntime

async def handler(request, context):
    for _ in range(request["stop_conditions"]["max_tokens"]):
        yield {"token_ids": [65], "text": "A"}
    yield {"token_ids": [], "finish_reason": "length"}

async def main():
    runtime = DistributedRuntime(asyncio.get_running_loop(), "mem")
    endpoint = runtime.endpoint("bench.worker.generate")
    id = runtime.instance_id()
    card = ModelDeploymentCard.load(None, "m", model_type=ModelType.Completions, model_input=ModelInput.Tokens,
                                    context_length=1 << 20, kv_cache_block_size=16)
    entry = {"type": "Model", "namespace": "bench", "component": "worker", "endpoint": "generate", "instance_id": id,
             "card_json": card.to_dict()}
    runtime.store.put(f"v1/mdc/bench/worker/generate/{id:x}", json.dumps(entry).encode(), runtime.lease)
    serving = asyncio.ensure_future(endpoint.serve_endpoint(handler))
    await run_frontend(runtime, port=0, router=sys.argv[1], ready=lambda front: print(front.server.port, flush=True))

asyncio.run(main())
"""


class FrontEnd:
    """Requests of 64 prompt tokens; 200 tokens back as server-sent events, or one as a body."""

    params, param_names = ["kv", "round-robin"], ["router"]

    def setup(self, router):
        self.server = subprocess.Popen([sys.executable, "-c", SERVER, router], stdout=subprocess.PIPE, text=True)
        self.port = int(self.server.stdout.readline())
        for _ in range(500):
            if b" 200 " in asyncio.run(self.ask(1, False))[:20]:
                return
        raise RuntimeError("the worker did not come")

    def teardown(self, router):
        self.server.kill()
        self.server.wait()

    async def ask(self, tokens, stream):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        body = {"model": "m", "prompt": list(range(64)), "max_tokens": tokens, "stream": stream}
        data = json.dumps(body).encode()
        head = b"POST /v1/completions HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(data) + data)
        answer = await reader.read()
        writer.close()
        return answer

    async def many(self, count, tokens, stream):
        answers = await asyncio.gather(*(self.ask(tokens, stream) for _ in range(count)))
        assert all(b" 200 " in answer[:20] for answer in answers)

    def time_one_body(self, router):
        asyncio.run(self.ask(1, False))

    def time_32_bodies(self, router):
        asyncio.run(self.many(32, 1, False))

    def time_32_streams_of_200_tokens(self, router):
        asyncio.run(self.many(32, 200, True))
