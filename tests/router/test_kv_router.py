"""KvRouter over real runtimes in one process: discovery, cards, calls, failures."""

import asyncio
import gc
import json
import logging

import numpy as np
import pytest

import dynamo._core
import dynamo.llm
from dynamo import errors
from dynamo._metrics import default_registry
from dynamo.llm import KvPushRouter, KvRouter, KvRouterConfig, LoadThresholdConfig, RoutingConstraints
from dynamo.llm.publisher import KvEventPublisher, WorkerMetricsPublisher
from dynamo.runtime import DistributedRuntime

PATH = "ns.backend.generate"


class Cluster:
    """Workers on one endpoint, each a runtime of its own."""

    def __init__(self):
        self.runtimes = []
        self.tasks = []
        self.requests = []
        self.client = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
        self.endpoint = self.client.endpoint(PATH)

    async def worker(self, handler=None, **card):
        runtime = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
        endpoint = runtime.endpoint(PATH)
        worker = endpoint.connection_id()
        if card:
            self.card(runtime, worker, card)

        async def plain(request, context=None):
            self.requests.append((worker, request))
            for i in range(3):
                yield {"token_ids": [i], "index": 0, **({"finish_reason": "stop"} if i == 2 else {})}

        self.tasks.append(asyncio.ensure_future(endpoint.serve_endpoint(handler or plain)))
        self.runtimes.append(runtime)
        await until(lambda: endpoint.registered)
        return worker

    def card(self, runtime, worker, card):
        namespace, component, endpoint = PATH.split(".")
        record = {"type": "Model", "namespace": namespace, "component": component, "endpoint": endpoint}
        record.update(instance_id=worker, card_json=card)
        runtime.store.put(
            f"v1/mdc/{namespace}/{component}/{endpoint}/{worker:x}", json.dumps(record).encode(), runtime.lease
        )

    async def close(self):
        for runtime in (*self.runtimes, self.client):
            runtime.shutdown()
        await asyncio.wait_for(asyncio.gather(*self.tasks, return_exceptions=True), 20)


def cluster_test(test):
    def run():
        async def body():
            cluster = Cluster()
            try:
                await test(cluster)
            finally:
                await cluster.close()

        asyncio.run(asyncio.wait_for(body(), 60))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def until(condition):
    async def wait():
        while not (await result if asyncio.iscoroutine(result := condition()) else result):  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), 20)


def approximate(**options):
    return KvRouterConfig(use_kv_events=False, router_seed=3, **options)


def test_old_and_new_names_are_one():
    assert KvPushRouter is KvRouter is dynamo.llm.KvRouter is dynamo._core.KvPushRouter


@cluster_test
async def test_follow_up_turns_land_on_the_worker_that_holds_the_prefix(cluster):
    for _ in range(3):
        await cluster.worker()
    router = KvRouter(cluster.endpoint, 16, approximate())
    prompt = list(range(100))
    items = [item async for item in router.generate(prompt, "m", stop_conditions={"max_tokens": 3})]
    assert [item["token_ids"] for item in items] == [[0], [1], [2]]
    first, request = cluster.requests[-1]
    assert request["token_ids"] == prompt and request["model"] == "m"
    assert request["stop_conditions"]["max_tokens"] == 3 and request["stop_conditions"]["stop"] is None
    assert request["routing"] == {"dp_rank": 0} and request["estimated_prefix_hit_num_blocks"] == 0
    for turn in range(5):
        prompt += list(range(1000 * turn, 1000 * turn + 40))
        async for _ in await router.generate(prompt, "m"):
            pass
        worker, request = cluster.requests[-1]
        assert worker == first
        assert request["estimated_prefix_hit_num_blocks"] == (len(prompt) - 40) // 16
    assert router.core.stats()["booked"] == 0


@cluster_test
async def test_a_burst_is_spread(cluster):
    workers = [await cluster.worker() for _ in range(4)]
    router = KvRouter(cluster.endpoint, 16, approximate())

    async def one(i):
        return [item async for item in router.generate([i * 1000 + j for j in range(64)], "m")]

    await asyncio.gather(*(one(i) for i in range(64)))
    counts = [sum(1 for worker, _ in cluster.requests if worker == w) for w in workers]
    assert counts == [16] * 4


@cluster_test
async def test_best_worker_books_only_with_a_request_id(cluster):
    worker = await cluster.worker(
        kv_cache_block_size=16, runtime_config={"data_parallel_size": 3, "total_kv_blocks": 100}
    )
    router = KvRouter(cluster.endpoint, 16, approximate())
    prompt = list(range(70))
    assert await router.best_worker(prompt) in [(worker, rank, 0) for rank in range(3)]
    assert router.core.stats()["booked"] == 0
    chosen = await router.best_worker(prompt, request_id="a", update_indexer=True)
    loads = {row["dp_rank"]: row for row in await router.get_potential_loads(prompt)}
    assert loads[chosen[1]] == {
        "worker_id": worker,
        "dp_rank": chosen[1],
        "potential_prefill_tokens": 76,
        "potential_decode_blocks": 4,
        "active_requests": 1,
    }
    await router.mark_prefill_complete("a")
    await router.mark_prefill_complete("a")
    await router.free("a")
    for call in (router.free, router.mark_prefill_complete):
        with pytest.raises(errors.NotFound, match="a"):
            await call("a")
    assert await router.best_worker(np.array(prompt, np.uint32)) == (worker, chosen[1], 4)
    assert await router.best_worker_id(prompt) == (worker, 4)
    scores = await router.get_overlap_scores(prompt)
    assert scores["block_size"] == 16 and scores["num_blocks"] == 4
    assert {row["dp_rank"]: row["device_blocks"] for row in scores["workers"]}[chosen[1]] == 4
    dump = json.loads(await router.dump_events())
    assert {row["worker_id"] for row in dump} == {worker} and len(dump) == 4


@cluster_test
async def test_requests_of_other_kinds_do_not_share_blocks(cluster):
    await cluster.worker()
    router = KvRouter(cluster.endpoint, 16, approximate())
    prompt = list(range(64))
    await router.best_worker(prompt, request_id="a", update_indexer=True, lora_name="x")
    assert (await router.best_worker(prompt))[2] == 0
    assert (await router.best_worker(prompt, lora_name="x"))[2] == 4
    assert (await router.best_worker(prompt, lora_name="x", cache_namespace="y"))[2] == 0


@cluster_test
async def test_the_same_tokens_with_another_image_are_another_prompt(cluster):
    await cluster.worker()
    router = KvRouter(cluster.endpoint, 16, approximate())
    prompt = list(range(64))
    image = [{"mm_objects": [{"mm_hash": 7, "offsets": [[0, 4]]}]}, None, None, None]
    await router.best_worker(prompt, request_id="a", update_indexer=True, block_mm_infos=image)
    assert (await router.best_worker(prompt))[2] == 0
    assert (await router.best_worker(prompt, block_mm_infos=image))[2] == 4
    assert (await router.best_worker(prompt, block_mm_infos=[None] * 4))[2] == 0


@cluster_test
async def test_a_worker_with_other_blocks_is_not_used(cluster):
    await cluster.worker(kv_cache_block_size=32)
    good = await cluster.worker(kv_cache_block_size=16)
    router = KvRouter(cluster.endpoint, 16, approximate())
    assert (await router.best_worker([1] * 20))[0] == good
    assert len(router.follower.refused) == 1 and "32" in next(iter(router.follower.refused.values()))


@cluster_test
async def test_workers_come_and_go(cluster):
    router = KvRouter(cluster.endpoint, 16, approximate())
    with pytest.raises(errors.Unavailable, match="no worker"):
        await router.best_worker([1] * 20)
    with pytest.raises(errors.Unavailable):
        async for _ in router.generate([1] * 20, "m"):
            pass
    worker = await cluster.worker()
    await until(lambda: router.follower.workers == [worker])
    assert (await router.best_worker([1] * 20))[0] == worker
    cluster.runtimes[0].shutdown()
    await until(lambda: router.follower.workers == [])
    with pytest.raises(errors.Unavailable):
        await router.best_worker([1] * 20)


@cluster_test
async def test_taints_limits_and_pins(cluster):
    a = await cluster.worker(runtime_config={"taints": ["gpu=a"], "total_kv_blocks": 4})
    b = await cluster.worker(runtime_config={"taints": ["gpu=b"], "total_kv_blocks": 1000})
    router = KvRouter(
        cluster.endpoint,
        16,
        approximate(),
        load_threshold_config=LoadThresholdConfig(active_decode_blocks_threshold=0.5),
    )
    assert (await router.best_worker([1] * 20, routing_constraints=RoutingConstraints({"gpu=a"})))[0] == a
    async for _ in router.generate([1] * 20, "m", worker_id=b, dp_rank=0):
        pass
    assert cluster.requests[-1][0] == b
    async for _ in router.generate_from_request({"token_ids": [1] * 20, "routing": {"backend_instance_id": a}}):
        pass
    assert cluster.requests[-1][0] == a
    await router.best_worker([2] * 64, request_id="x", routing_constraints=RoutingConstraints({"gpu=a"}))
    for i in range(4):  # a is over half of its four blocks
        assert (await router.best_worker([3 + i] * 20))[0] == b
    with pytest.raises(errors.Overloaded):
        await router.best_worker([9] * 20, routing_constraints=RoutingConstraints({"gpu=a"}))


@cluster_test
async def test_a_dropped_or_failed_stream_frees_its_booking(cluster):
    async def slow(request, context=None):
        yield {"token_ids": [1]}
        if request["model"] == "raise":
            raise ValueError("broken on purpose")
        await asyncio.sleep(30)
        yield {"token_ids": [2]}

    await cluster.worker(slow)
    router = KvRouter(cluster.endpoint, 16, approximate())
    stream = router.generate([1] * 40, "m")
    async for item in stream:
        assert item["token_ids"] == [1]
        assert router.core.stats()["booked"] == 1
        assert router.core.loads()[0]["active_prefill_tokens"] == 0  # the first item ended it
        break
    await stream.aclose()
    assert router.core.stats()["booked"] == 0
    async for _ in router.generate([1] * 40, "m"):
        break
    gc.collect()
    assert router.core.stats()["booked"] == 0
    with pytest.raises(ValueError, match="on purpose"):
        async for _ in router.generate([1] * 40, "raise"):
            pass
    assert router.core.stats()["booked"] == 0


@cluster_test
async def test_a_worker_that_cannot_be_reached_is_passed_over(cluster):
    good = await cluster.worker()
    # A worker whose process is gone, while discovery does not know it yet.
    dead = 0xDEAD
    namespace, component, endpoint = PATH.split(".")
    record = {
        "type": "Endpoint",
        "namespace": namespace,
        "component": component,
        "endpoint": endpoint,
        "instance_id": dead,
    }
    record["transport"] = {"tcp": f"127.0.0.1:1/{dead:x}/generate"}
    cluster.client.store.put(f"v1/instances/{namespace}/{component}/{endpoint}/{dead:x}", json.dumps(record).encode())
    router = KvRouter(cluster.endpoint, 16, approximate())
    await router.best_worker([1] * 20)
    await until(lambda: len(router.follower.workers) == 2)
    prompt = list(range(160))
    router.core.pick(prompt, "held", worker_id=dead)  # the router believes that it holds the prompt
    router.core.free("held")
    assert (await router.best_worker(prompt))[0] == dead
    items = [item async for item in router.generate(prompt, "m")]
    assert len(items) == 3 and cluster.requests[-1][0] == good
    assert (await router.best_worker(prompt))[0] == good
    assert router.core.stats()["booked"] == 0
    with pytest.raises(errors.DynamoError):
        async for _ in router.generate(prompt, "m", worker_id=dead):
            pass


@cluster_test
async def test_requests_wait_when_every_worker_is_full(cluster):
    gate = asyncio.Event()

    async def held(request, context=None):
        await gate.wait()
        yield {"token_ids": [1]}

    await cluster.worker(held)
    router = KvRouter(cluster.endpoint, 16, approximate(router_queue_threshold=0.0))

    async def one(i):
        return [item async for item in router.generate([i] * 40, "m")]

    tasks = [asyncio.ensure_future(one(i)) for i in range(4)]
    await until(lambda: router.core.stats()["waiting"] == 3)
    tasks[2].cancel()
    await until(lambda: router.core.stats()["waiting"] == 2)
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [len(result) for i, result in enumerate(results) if i != 2] == [1, 1, 1]
    assert isinstance(results[2], asyncio.CancelledError)
    assert router.core.stats()["booked"] == router.core.stats()["waiting"] == 0


@cluster_test
async def test_a_worker_without_events_is_named(cluster):
    worker = await cluster.worker()
    router = KvRouter(cluster.endpoint, 16, KvRouterConfig(router_silent_worker_secs=1e-6))
    named = []
    router.follower.on_silent = lambda *who: named.append(who)
    async for _ in router.generate(list(range(64)), "m"):
        pass
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("dynamo.router").addHandler(handler)
    try:
        router.follower.check()
        router.follower.check()
    finally:
        logging.getLogger("dynamo.router").removeHandler(handler)
    assert named == [(worker, 0)] and router.follower.silent == {(worker, 0)}
    assert len(records) == 1 and str(worker) in records[0].getMessage()
    shown = f'dynamo_router_silent_worker{{endpoint="{PATH}",worker_id="{worker}",dp_rank="0"}} '
    assert f"{shown}1\n" in default_registry().text().decode()
    router.core.stored(worker, [1], [1])
    router.follower.check()
    assert router.follower.silent == set()
    assert f"{shown}0\n" in default_registry().text().decode()
    router.close()
    assert shown not in default_registry().text().decode()


@cluster_test
async def test_events_of_workers_reach_the_index_and_loads_the_table(cluster):
    a, b = await cluster.worker(), await cluster.worker(runtime_config={"total_kv_blocks": 100})
    half = LoadThresholdConfig(active_decode_blocks_threshold=0.5)
    router = KvRouter(cluster.endpoint, 16, KvRouterConfig(), load_threshold_config=half)
    prompt = list(range(64))
    hashes = [101, 102, 103, 104]
    publishers = [
        KvEventPublisher(runtime.endpoint(PATH), worker, 16)
        for runtime, worker in zip(cluster.runtimes, (a, b), strict=True)
    ]
    publishers[0].publish_stored(prompt[:32], [16, 16], hashes[:2])
    publishers[1].publish_stored(prompt, [16] * 4, hashes)
    await until(lambda: router.core.overlaps(prompt) == {(a, 0): 2, (b, 0): 4})
    assert await router.best_worker(prompt) == (b, 0, 4)
    assert all(row["seconds_since_event"] is not None for row in router.core.loads())
    publishers[1].publish_removed(hashes[1:])
    await until(lambda: router.core.overlaps(prompt) == {(a, 0): 2, (b, 0): 1})
    # A worker that says it is full gets nothing.
    metrics = WorkerMetricsPublisher()
    await metrics.create_endpoint(cluster.runtimes[1].endpoint(PATH))
    publishers[1].publish_stored(prompt[16:], [16] * 3, hashes[1:], parent_hash=hashes[0])
    await until(lambda: router.core.overlaps(prompt) == {(a, 0): 2, (b, 0): 4})

    async def reported():
        metrics.publish(kv_used_blocks=60)
        router.follower.check()
        return next(row["busy"] for row in router.core.loads() if row["worker_id"] == b)

    await until(reported)
    assert (await router.best_worker(prompt))[0] == a
    # Without its publisher nobody knows what a worker holds.
    publishers[0].shutdown()
    await until(lambda: (a, 0) not in router.core.overlaps(prompt))
    assert a in router.follower.workers
    metrics.shutdown()
    publishers[1].shutdown()
    router.close()


@cluster_test
async def test_what_is_not_available_is_refused(cluster):
    for options in ({"router_replica_sync": True}, {"use_remote_indexer": True}, {"router_policy_config": "x.yaml"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            KvRouter(cluster.endpoint, 16, KvRouterConfig(**options))
    with pytest.raises(ValueError, match="block_size"):
        KvRouter(cluster.endpoint, 1, KvRouterConfig())
    with pytest.raises(TypeError):
        KvRouter(cluster.endpoint, 16, {"router_temperature": 1})
    router = KvRouter(cluster.endpoint, 16, KvRouterConfig())
    with pytest.raises(ValueError, match="token_ids"):
        router.generate_from_request({"model": "m"})


@cluster_test
async def test_entries_that_make_no_sense_are_passed_over(cluster):
    store = cluster.client.store
    store.put("v1/instances/ns/backend/generate/nothex", b"{}")
    store.put("v1/instances/ns/backend/generate/12", b"not json")
    store.put("v1/mdc/ns/backend/generate/13", b'{"type": "Model"}')
    store.put(
        "v1/mdc/ns/backend/generate/14",
        b'{"type": "Model", "card_json": {"runtime_config": {"data_parallel_size": "x"}}}',
    )
    worker = await cluster.worker()
    router = KvRouter(cluster.endpoint, 16, approximate())
    assert (await router.best_worker([1] * 20))[0] == worker
