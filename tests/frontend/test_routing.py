"""The whole way with engines behind it: what a worker holds decides where the next turn goes, and the counts agree."""

import asyncio
import contextlib

from .stack import run, stack


@contextlib.asynccontextmanager
async def mockers(s, count, **more):
    """`count` workers with the mocker engine, each with a runtime of its own."""
    from dynamo.engines.mocker import MockerEngine
    from dynamo.engines.worker import serve_engine
    from dynamo.runtime import DistributedRuntime

    runtimes, tasks = [], []
    for _ in range(count):
        runtime = DistributedRuntime(asyncio.get_running_loop(), "mem")
        engine = MockerEngine("mock", block_size=16, blocks=512, speedup=50.0, **more)
        runtimes.append(runtime)
        tasks.append(asyncio.ensure_future(serve_engine(runtime, engine, namespace="test")))
    try:
        await s.until(
            lambda: (
                any(task.done() for task in tasks)
                or ("mock" in s.front.models.models and len(s.front.models["mock"].ready) == count)
            )
        )
        for task in tasks:
            if task.done():
                task.result()
        yield runtimes
    finally:
        for runtime in runtimes:
            runtime.shutdown()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_follow_up_turns_go_to_the_worker_that_holds_their_prefix(tmp_path):
    async def main():
        async with stack(tmp_path, router="kv") as s, mockers(s, 3):
            prompts = {seed: [(seed * 7919 + i) % 50_000 for i in range(200)] for seed in range(6)}
            homes = {seed: [] for seed in prompts}
            core = s.front.models["mock"].core

            async def turn(seed, number):
                ids = prompts[seed]
                got = await s.client.completions.with_raw_response.create(model="mock", prompt=ids, max_tokens=20)
                home = int(got.headers["x-dynamo-worker-instance-id"])
                homes[seed].append(home)
                await s.until(lambda: core.overlaps(ids).get((home, 0), 0) >= len(ids) // 16)  # its events are here
                cached = got.parse().usage.prompt_tokens_details.cached_tokens
                assert cached >= (len(ids) - 40) // 16 * 16 * (number > 0)
                prompts[seed] = ids + [(seed * 31 + number * 1009 + i) % 50_000 for i in range(40)]

            await asyncio.gather(*(turn(seed, 0) for seed in prompts))  # at once: load spreads them
            for number in range(1, 4):
                for seed in prompts:
                    await turn(seed, number)  # one by one: nothing but the prefix speaks for a worker
            assert all(len(set(home)) == 1 for home in homes.values()), homes
            assert len({home[0] for home in homes.values()}) == 3  # no worker starves
            await s.quiet()
            sums = s.front.records.sums()
            assert sums["causes"] == {"as-predicted": 24}, sums["causes"]
            state = (await s.http.get("/dashboard/state")).json()
            assert sum(worker["held_blocks"] for worker in state["models"][0]["workers"]) > 6 * 200 // 16
            assert state["requests"][0]["why"][0]["verdict"] == "eligible"
            text = (await s.http.get("/metrics")).text
            assert 'dynamo_frontend_cache_prediction_total{model="mock",cause="as-predicted"} 24' in text
            assert 'dynamo_frontend_kv_hit_rate_count{model="mock"} 24' in text

    run(main())
