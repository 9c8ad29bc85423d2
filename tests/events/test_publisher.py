"""Publishers and followers on a runtime: both forms of Dynamo, discovery, relays."""

import asyncio
import json
import random
import warnings

import pytest
from wire import DEADLINE, Engine, local_hash, lora_seed, take, until

from dynamo._discovery import Store
from dynamo._events import EventChannel, EventQueue, EventSubscriber, LoadTable
from dynamo._index import RadixTree
from dynamo.errors import InvalidArgument
from dynamo.llm import (
    EventFollower,
    ForwardPassMetrics,
    KvEventPublisher,
    KvStats,
    WorkerMetricsPublisher,
    WorkerStats,
    ZmqKvEventPublisher,
    ZmqKvEventPublisherConfig,
)


class Runtime:
    """What publishers need of a runtime."""

    def __init__(self):
        self.store = Store("mem")
        self.lease = self.store.lease()

    def instance_id(self):
        return 77


class Component:
    namespace, name = "ns", "comp"

    def __init__(self, runtime):
        self._runtime = runtime


class Endpoint(Component):
    component, name = "comp", "generate"


@pytest.fixture
def runtime():
    runtime = Runtime()
    yield runtime
    runtime.lease.revoke()
    runtime.store.close()


def heard(publisher, count):
    """The first events of a publisher, by replay."""
    queue = EventQueue()
    with EventSubscriber() as sub:
        sub.add(0, publisher.channel.endpoint, events=queue, replay_endpoint=publisher.channel.replay_endpoint)
        return take(queue, count)


def test_the_form_of_0_8(runtime):
    publisher = KvEventPublisher(Component(runtime), 5, 2)
    publisher.publish_stored(0, [1, 2, 3, 4], [2, 2], [-1, 12], 0, None)
    publisher.publish_stored(
        event_id=1, token_ids=[5, 6], num_block_tokens=[2], block_hashes=[13], lora_id=0, parent_hash=12
    )
    publisher.publish_removed(2, [13])
    events = heard(publisher, 3)
    assert events[0]["data"]["stored"]["blocks"] == [
        {"block_hash": 2**64 - 1, "tokens_hash": local_hash([1, 2])},
        {"block_hash": 12, "tokens_hash": local_hash([3, 4])},
    ]
    assert events[1]["data"]["stored"]["parent_hash"] == 12
    assert events[2]["data"] == {"removed": {"block_hashes": [13]}}
    assert publisher.worker_id == 5
    publisher.shutdown()
    publisher.shutdown()


def test_the_form_of_1_6(runtime):
    publisher = KvEventPublisher(Endpoint(runtime), kv_block_size=2, dp_rank=3)
    assert (publisher.worker_id, publisher.kv_block_size, publisher.dp_rank) == (77, 2, 3)
    publisher.publish_stored([1, 2, 3, 4], [2, 2], [1, 2], lora_name="l", cache_salt="s")
    publisher.publish_stored([1, 2, 3], [2], [1], is_eagle=True, parent_hash=9)
    publisher.publish_stored([1, 2], [2], [1], None, [{"mm_objects": [{"mm_hash": 4}, {"mm_hash": 3}]}])
    publisher.publish_batch([{"type": "removed", "block_hashes": [1]}, {"type": "cleared"}])
    events = heard(publisher, 5)
    hashes = [b["tokens_hash"] for e in events[:3] for b in e["data"]["stored"]["blocks"]]
    seed = lora_seed("l", "s")
    assert hashes == [
        local_hash([1, 2], seed),
        local_hash([3, 4], seed),
        local_hash([1, 2, 3]),
        local_hash([1, 2], mm=[3, 4]),
    ]
    assert {e["dp_rank"] for e in events} == {3}
    assert events[4]["data"] == "cleared"
    with pytest.raises(InvalidArgument, match="stored, removed or cleared"):
        publisher.publish_batch([{"type": "x"}])
    publisher.shutdown()


def test_publishing_ends_at_a_block_of_another_size(runtime):
    publisher = KvEventPublisher(Endpoint(runtime), kv_block_size=2)
    with pytest.warns(UserWarning, match="kv_block_size is 2"):
        publisher.publish_stored([1, 2, 3], [2, 1], [1, 2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            publisher.publish_stored([1], [1], [1])
    assert len(caught) == 2  # three in all
    assert len(heard(publisher, 1)[0]["data"]["stored"]["blocks"]) == 1
    assert publisher.stats()["events"] == 1
    publisher.shutdown()


@pytest.mark.parametrize("variable, value", [("DYN_EVENT_PLANE", "nats"), ("DYN_EVENT_PLANE_CODEC", "json")])
def test_planes_that_are_not_here_are_refused(runtime, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidArgument, match=value):
        KvEventPublisher(Endpoint(runtime), 1, 2)
    monkeypatch.undo()
    with pytest.raises(InvalidArgument, match="kv_block_size"):
        KvEventPublisher(Endpoint(runtime), 1)


def test_a_publisher_says_in_discovery_where_it_is(runtime):
    publisher = KvEventPublisher(Endpoint(runtime), 5, 2)
    prefix = "v1/event_channels/namespace/ns/component/comp/topic/kv-events/"
    ((key, value),) = runtime.store.list(prefix).items()
    assert key == f"{prefix}{publisher.channel.publisher_id:x}"
    value = json.loads(value)
    assert value["type"] == "EventChannel"
    assert value["scope"] == {"kind": "component", "namespace": "ns", "component": "comp"}
    assert value["topic"] == "kv-events"
    assert value["instance_id"] == 5
    assert value["transport"] == {
        "kind": "zmq",
        "config": {
            "endpoint": publisher.channel.endpoint,
            "replay_endpoint": publisher.channel.replay_endpoint,
            "subject": "namespace.ns.component.comp.kv-events",
        },
    }
    publisher.shutdown()
    assert not runtime.store.list(prefix)


@pytest.mark.parametrize("form", ["0.8", "1.6"])
def test_an_engine_is_relayed(runtime, form):
    engine = Engine()
    engine.keep(
        [["BlockStored", [1, 2], None, [1, 2, 3, 4], 2, None], ["BlockRemoved", [2], "CPU"], ["BlockRemoved", [2]]], 4
    )
    if form == "0.8":
        config = ZmqKvEventPublisherConfig(5, 2, engine.endpoint, zmq_replay_endpoint=engine.replay_endpoint)
        publisher = ZmqKvEventPublisher(Component(runtime), config)
        channel = publisher._publisher
    else:
        publisher = channel = KvEventPublisher(
            Endpoint(runtime),
            5,
            2,
            zmq_endpoint=engine.endpoint,
            zmq_topic="",
            zmq_replay_endpoint=engine.replay_endpoint,
        )
    until(lambda: publisher.stats()["events"] == 2)
    events = heard(channel, 2)
    assert events[0]["data"]["stored"]["blocks"][1] == {"block_hash": 2, "tokens_hash": local_hash([3, 4])}
    assert events[1]["data"] == {"removed": {"block_hashes": [2]}}
    assert [e["dp_rank"] for e in events] == [4, 4]
    assert publisher.stats()["source"]["other_tier"] == 1
    publisher.shutdown()
    engine.close()


def test_a_follower_meets_publishers_as_they_come_and_go(runtime):
    async def main():
        loads, gone = LoadTable(), []
        early = KvEventPublisher(Endpoint(runtime), 5, 2)
        early.publish_stored([1, 2], [2], [1])
        tree = RadixTree()
        follower = EventFollower(runtime.store, "ns", "comp", tree, loads=loads, on_gone=gone.append)
        await asyncio.wait_for(follower.synced(), DEADLINE)
        late = KvEventPublisher(Endpoint(runtime), 6, 2)
        late.publish_stored([1, 2], [2], [1])
        metrics = WorkerMetricsPublisher()
        with pytest.raises(InvalidArgument, match="create_endpoint"):
            metrics.publish(0, 1)
        await metrics.create_endpoint(Endpoint(runtime), worker_id=6)

        async def wait(condition):
            end = asyncio.get_running_loop().time() + DEADLINE
            while not condition():
                assert asyncio.get_running_loop().time() < end
                await asyncio.sleep(0.005)

        await wait(lambda: tree.find_matches([local_hash([1, 2])]).scores == {(5, 0): 1, (6, 0): 1})
        await wait(lambda: metrics.publish(None, 3, kv_used_blocks=9) or loads.get())
        assert loads.get() == {(6, 0): {"active_decode_blocks": 3, "kv_used_blocks": 9}}
        stats = ForwardPassMetrics(WorkerStats(1, 2, 3, 1), KvStats(4, 8, 0.5, 0.25))
        await wait(lambda: metrics.publish(stats) or (6, 1) in loads.get())
        assert loads.get()[6, 1]["gpu_cache_usage_perc"] == 0.5
        assert loads.get()[6, 1]["num_requests_waiting"] == 3
        assert follower.expect(5)
        assert not follower.expect(99)
        assert {s["worker_id"] for s in follower.stats()} == {5, 6}
        early.shutdown()
        await wait(lambda: gone == [5])
        metrics.shutdown()
        await wait(lambda: not loads.get())
        follower.close()
        late.shutdown()

    asyncio.run(main())


@pytest.mark.parametrize("batch_ms", [0, 5])
def test_an_index_that_joins_late_learns_all_that_the_worker_holds(batch_ms):
    """The ring keeps 8 batches; 3,000 events are long gone. Half of a cache is stored, removed and stored again."""
    rng = random.Random(5)
    channel = EventChannel(7, "namespace.a", ring_batches=8, batch_ms=batch_ms)

    def sequence(n, rank):
        # Sequence n shares its first half with sequence n // 2 * 2.
        return [hash((rank, n // 2 if i < 8 else n, i)) & (2**64 - 1) for i in range(16)]

    held = {}

    def change():
        rank, n = rng.randrange(2), rng.randrange(60)
        chain = sequence(n, rank)
        have = held.get((rank, n), 0)
        if have and rng.random() < 0.5:  # evicted from its end, as engines do; the shared half only with nobody on it
            keep = rng.randrange(8, have + 1) if have > 8 else have
            if keep < have:
                channel.publish_removed(chain[keep:have], rank)
                held[rank, n] = keep
        elif have < 16:
            grown = rng.randrange(have + 1, 17)
            tokens = [h ^ 1 for h in chain[have:grown]]
            channel.publish_stored(chain[have:grown], tokens, chain[have - 1] if have else None, rank)
            held[rank, n] = grown

    def truth():
        return sorted({(7, rank, h, h ^ 1) for (rank, n), have in held.items() for h in sequence(n, rank)[:have]})

    def known(tree):
        for text in tree.dump_tree_as_events():
            event = json.loads(text)
            for block in event["event"]["data"]["stored"]["blocks"]:
                yield event["worker_id"], event["event"].get("dp_rank", 0), block["block_hash"], block["tokens_hash"]

    with channel, EventSubscriber() as subscriber:
        for _ in range(3000):
            change()
        assert channel.stats()["ring_first"] > 0
        tree = RadixTree()
        source = subscriber.add(7, channel.endpoint, tree, topic="namespace.a", replay_endpoint=channel.replay_endpoint)
        for _ in range(300):  # while it is told
            change()
        channel.flush()
        until(lambda: source.stats()["next_sequence"] == channel.stats()["next_sequence"])
        assert len(truth()) > 500 and sorted(known(tree)) == truth()
        stats = source.stats()
        assert stats["snapshots"] >= 1  # more when eight batches pass while one is told
        assert (stats["lost"], stats["malformed"], stats["restarts"]) == (0, 0, 0)
        # The worker starts again with nothing: the mirror is not asked for what it does not know.
        channel.publish_cleared(0)
        channel.publish_cleared(1)
        channel.flush()
        until(lambda: not list(known(tree)))
        assert channel.stats()["mirror_blocks"] == 0


def test_without_a_mirror_what_left_the_ring_is_lost_and_counted():
    with EventChannel(7, "s", ring_batches=4, mirror_blocks=None) as channel, EventSubscriber() as subscriber:
        for block in range(20):
            channel.publish_stored([block], [block])
        tree = RadixTree()
        source = subscriber.add(7, channel.endpoint, tree, topic="s", replay_endpoint=channel.replay_endpoint)
        until(lambda: source.stats()["next_sequence"] == 20)
        assert source.stats()["lost"] == 16 and source.stats()["snapshots"] == 0
        assert len(tree.dump_tree_as_events()) == 4


def test_a_mirror_over_its_bound_is_given_up():
    with EventChannel(7, "s", ring_batches=4, mirror_blocks=10) as channel, EventSubscriber() as subscriber:
        for block in range(20):
            channel.publish_stored([block], [block])
        assert channel.stats()["mirror_blocks"] == 0
        source = subscriber.add(7, channel.endpoint, RadixTree(), replay_endpoint=channel.replay_endpoint)
        until(lambda: source.stats()["next_sequence"] == 20)
        assert source.stats()["lost"] == 16
        channel.publish_cleared()  # from here on it is right again
        for block in range(8):
            channel.publish_stored([block], [block])
        late = RadixTree()
        source = subscriber.add(7, channel.endpoint, late, replay_endpoint=channel.replay_endpoint)
        until(lambda: source.stats()["next_sequence"] == 29)
        assert source.stats()["lost"] == 0 and len(late.dump_tree_as_events()) == 8
