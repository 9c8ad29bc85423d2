"""Follow every publisher of a component and ask the index."""

import asyncio

from dynamo.llm import EventFollower, RadixTree, compute_block_hash_for_seq
from dynamo.runtime import DistributedRuntime, dynamo_worker

BLOCK = 4
PROMPT = list(range(100, 116))


@dynamo_worker()
async def main(runtime: DistributedRuntime) -> None:
    index = RadixTree()
    # A C thread writes into the index; asyncio only hears of publishers that come and go.
    follower = EventFollower(runtime.store, "example", "worker", index, on_gone=index.remove_worker)
    wanted = compute_block_hash_for_seq(PROMPT, BLOCK)
    seen = None
    for _ in range(1000):
        scores = index.find_matches(wanted).scores
        if scores != seen:
            seen = scores
            for (worker, rank), blocks in scores.items():
                print(f"worker {worker} rank {rank} holds {blocks} of {len(wanted)} blocks", flush=True)
            if any(blocks == 3 for blocks in scores.values()):
                break
        await asyncio.sleep(0.01)
    follower.close()


asyncio.run(main())
