"""A worker that tells routers what its cache holds."""

import asyncio

from dynamo.llm import KvEventPublisher
from dynamo.runtime import DistributedRuntime, dynamo_worker

BLOCK = 4
PROMPT = list(range(100, 116))  # four blocks


@dynamo_worker()
async def main(runtime: DistributedRuntime) -> None:
    endpoint = runtime.endpoint("example.worker.generate")
    publisher = KvEventPublisher(endpoint, kv_block_size=BLOCK)
    # The names of blocks are the engine's own; only that equal names mean equal prefixes matters.
    names = [1000 + i for i in range(len(PROMPT) // BLOCK)]
    publisher.publish_stored(PROMPT, [BLOCK] * len(names), names)
    print(f"worker {publisher.worker_id} holds {len(names)} blocks", flush=True)
    publisher.publish_removed(names[3:])
    print("and dropped the last", flush=True)
    await asyncio.sleep(5)  # watchers may come late: the last batches can be fetched as long as we live
    publisher.shutdown()


asyncio.run(main())
