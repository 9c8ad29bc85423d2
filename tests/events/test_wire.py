"""The bytes of others: batches of vLLM and SGLang from Python's msgpack over real sockets, and ours read back."""

import asyncio
import json
import struct
import time

import msgpack
import pytest
import zmq
from wire import DEADLINE, Engine, local_hash, lora_seed, take, until

from dynamo._events import EventChannel, EventQueue, EventSubscriber, LoadTable
from dynamo.errors import InvalidArgument, StreamBroken
from dynamo.llm.publisher import ZmqKvEventListener


@pytest.fixture
def engine():
    made = []

    def make(*args, **kwargs):
        made.append(Engine(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.close()


def read(events, count, block_size=2, rank=None, as_map=False, make=None):
    """What a subscriber makes of one batch that it fetches by replay."""
    engine = (make or Engine)()
    queue = EventQueue()
    try:
        engine.keep(events, rank, as_map)
        with EventSubscriber() as sub:
            source = sub.add(
                7, engine.endpoint, events=queue, block_size=block_size, replay_endpoint=engine.replay_endpoint
            )
            until(lambda: source.stats()["batches"] >= 1)
            return take(queue, count) if count else queue.take(), source.stats()
    finally:
        if make is None:
            engine.close()


VLLM_ARRAYS = [
    ["BlockStored", [-5, 2**64 - 1], None, [1, 2, 3, 4], 2, None, "GPU", None],
    ["BlockStored", [b"\x01" * 24 + (77).to_bytes(8, "big")], 2**64 - 5, [5, 6], 2, 3],
    ["BlockRemoved", [-5], "GPU"],
    ["BlockRemoved", [9], "CPU"],
    ["AllBlocksCleared"],
]


def test_the_old_arrays_of_vllm():
    events, stats = read(VLLM_ARRAYS, 5, rank=3)
    assert [e["dp_rank"] for e in events] == [3] * 5
    assert events[0]["data"]["stored"] == {
        "parent_hash": None,
        "blocks": [
            {"block_hash": 2**64 - 5, "tokens_hash": local_hash([1, 2])},
            {"block_hash": 2**64 - 1, "tokens_hash": local_hash([3, 4])},
        ],
    }
    assert events[1]["data"]["stored"] == {
        "parent_hash": 2**64 - 5,
        "blocks": [{"block_hash": 77, "tokens_hash": local_hash([5, 6])}],
    }
    assert events[2]["data"] == {"removed": {"block_hashes": [2**64 - 5]}}
    assert events[3]["storage_tier"] == "host_pinned"
    assert events[4]["data"] == "cleared"
    assert stats["malformed"] == 0


@pytest.mark.parametrize("as_map", [False, True])
def test_the_maps_of_vllm_0_33(as_map):
    image = "ab" * 32
    stored = {
        "type": "BlockStored",
        "block_hashes": [1, 2, 3],
        "parent_block_hash": None,
        "token_ids": [1, 2, 3, 4, 5, 6],
        "block_size": 2,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": "my-lora",
        "extra_keys": [["my-lora", "salt"], ["my-lora", [image, 1]], None],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
        "locality": "LOCAL",
        "lookahead_token_ids": [[3], [5], []],
        "ownership": "x",
        "session_id": None,
    }
    child = {"type": "BlockStored", "block_hashes": [4], "parent_block_hash": 3, "token_ids": [7, 8], "block_size": 2}
    window = {**stored, "block_hashes": [9], "group_idx": 1, "kv_cache_spec_kind": "sliding_window"}
    events, stats = read(
        [
            stored,
            {**child, "lora_name": "my-lora"},
            window,
            {"type": "BlockRemoved", "block_hashes": [9], "group_idx": 1},
            {"type": "BlockRemoved", "block_hashes": [1], "group_idx": 0},
            {**child, "locality": "REMOTE"},
            {**child, "medium": "MOON"},
            {"type": "SomethingNew", "x": [1]},
            {"type": "AllBlocksCleared"},
        ],
        4,
        rank=1,
        as_map=as_map,
    )
    seed = lora_seed("my-lora", "salt")
    assert [b["tokens_hash"] for b in events[0]["data"]["stored"]["blocks"]] == [
        local_hash([1, 2], seed),
        local_hash([3, 4], seed, [int(image[:16], 16)]),
        local_hash([5, 6], seed),
    ]
    # the salt stands in the first block only, and belongs to all that follow
    assert events[1]["data"]["stored"]["blocks"][0]["tokens_hash"] == local_hash([7, 8], seed)
    assert events[2]["data"] == {"removed": {"block_hashes": [1]}}
    assert events[3]["data"] == "cleared"
    assert stats["ignored_kind"] == 2
    assert stats["ignored_place"] == 2
    assert stats["unknown"] == 1


def test_batches_of_sglang():
    base = {"type": "BlockStored", "block_hashes": [-1], "parent_block_hash": None, "block_size": 2, "lora_id": None}
    events, _ = read(
        [
            {**base, "token_ids": [1, 2], "medium": "GPU", "cache_salt": "s", "session_id": "x"},
            {**base, "token_ids": [[1, 2], [2, 3]]},
            {"type": "BlockRemoved", "block_hashes": [-1], "medium": "CPU_PINNED"},
        ],
        3,
        rank=2,
    )
    assert events[0]["data"]["stored"]["blocks"][0]["tokens_hash"] == local_hash([1, 2], lora_seed(salt="s"))
    assert events[1]["data"]["stored"]["blocks"][0]["tokens_hash"] == local_hash([1, 2, 3])  # EAGLE: one token further
    assert events[2]["storage_tier"] == "host_pinned"


def test_multimodal_infos_by_place_and_by_name():
    infos = [{"mm_objects": [{"mm_hash": 9, "offsets": [[0, 1]]}, {"mm_hash": 3, "offsets": []}]}]
    by_place = ["BlockStored", [1], None, [1, 2], 2, None, "GPU", None, None, infos, 0, "full_attention", None]
    by_name = {
        "type": "BlockStored",
        "block_hashes": [1],
        "token_ids": [1, 2],
        "block_size": 2,
        "block_mm_infos": infos,
    }
    without = ["BlockStored", [1], None, [1, 2], 2, None, "GPU", None, None, 0, "mla_attention", None]
    mamba = ["BlockStored", [1], None, [1, 2], 2, None, "GPU", None, None, None, 1, "mamba", None]
    events, stats = read([by_place, by_name, without, mamba], 3)
    hashes = [e["data"]["stored"]["blocks"][0]["tokens_hash"] for e in events]
    assert hashes == [local_hash([1, 2], mm=[3, 9])] * 2 + [local_hash([1, 2])]
    assert stats["ignored_kind"] == 1


def test_another_block_size_is_refused_and_warned_of_three_times(capfd):
    wrong = ["BlockStored", [1], None, [1, 2, 3, 4], 4, None]
    events, stats = read([wrong] * 5 + [["BlockStored", [1], None, [1, 2], 2, None]], 1)
    assert len(events) == 1
    assert stats["wrong_block_size"] == 5
    assert capfd.readouterr().err.count("start the engine with that block size") == 3


def test_blocks_without_their_tokens_are_left_out():
    events, stats = read([["BlockStored", [1, 2, 3], None, [1, 2, 3], 2, None]], 1)
    assert len(events[0]["data"]["stored"]["blocks"]) == 1
    assert stats["short_of_tokens"] == 2


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        msgpack.packb([1.0]),
        msgpack.packb([float("nan"), [["BlockStored"]]]),
        msgpack.packb([1.0, [["BlockStored", [1], None, "text", 2]]]),
        msgpack.packb([1.0, [["BlockStored", [1.5], None, [1, 2], 2]]]),
        msgpack.packb([1.0, [["BlockStored", [1], None, [1.0, 2], 2]]]),
        msgpack.packb([1.0, [["BlockStored", [1], None, [1, 2], "2"]]]),
        msgpack.packb([1.0, [["BlockRemoved", {"a": 1}]]]),
        msgpack.packb([1.0, [[7, [1]]]]),
        msgpack.packb([1.0, [[["BlockStored"], [1]]]]),
        msgpack.packb([1.0, [], 2**40]),
        msgpack.packb({"ts": 1}),
        msgpack.packb([1.0, []]) + b"\x00",
        b"\x92\x00\xdd\xff\xff\xff\xff",
        b"\x91" * 500,
    ],
)
def test_a_malformed_batch_is_skipped_and_counted(engine, payload):
    source = engine()
    queue = EventQueue()
    source.log.append((0, payload))
    source.sequence = 1
    source.keep([["AllBlocksCleared"]])
    with EventSubscriber() as sub:
        listening = sub.add(1, source.endpoint, events=queue, block_size=2, replay_endpoint=source.replay_endpoint)
        assert [e["data"] for e in take(queue, 1)] == ["cleared"]
        assert listening.stats()["malformed"] == 1


@pytest.mark.parametrize(
    "frames", [[b"x"], [b"", b"\0" * 7, b""], [b"", b"\0" * 8], [b""] * 9, [b"", b"1", b"\0" * 8, b""]]
)
def test_wrong_frames_are_skipped_and_counted(engine, frames):
    source = engine(replay=None)
    with EventSubscriber() as sub:
        listening = sub.add(1, source.endpoint, block_size=2)
        until(lambda: source.pub.send_multipart(frames) or listening.stats()["malformed"] > 0)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replay", ["old", "new"])
def test_what_was_missed_is_fetched_in_both_forms_of_replay(engine, replay):
    source = engine(topic=b"kv@1@m", replay=replay)
    queue = EventQueue()
    for i in range(50):
        source.keep([["BlockRemoved", [i]]])
    with EventSubscriber() as sub:
        listening = sub.add(
            1, source.endpoint, events=queue, block_size=2, topic="kv@", replay_endpoint=source.replay_endpoint
        )
        events = take(queue, 50)
        until(lambda: listening.stats()["connected"])
        for i in range(50, 60):
            source.keep([["BlockRemoved", [i]]])  # these are lost on the way
        until(lambda: source.send([["BlockRemoved", [source.sequence]]]) or listening.stats()["next_sequence"] >= 61)
        last = source.sequence
        events += until(lambda: len(events) + len(more := queue.take()) and [json.loads(e) for e in more])
        until(lambda: listening.stats()["next_sequence"] == last)
        events += [json.loads(e) for e in queue.take()]
        assert [e["data"]["removed"]["block_hashes"][0] for e in events] == list(range(last))
        stats = listening.stats()
        assert stats["lost"] == 0
        assert stats["restarts"] == 0


def test_what_replay_no_longer_has_is_counted_as_lost(engine, capfd):
    source = engine()
    for i in range(10):
        source.keep([["BlockRemoved", [i]]])
    del source.log[:4]
    queue = EventQueue()
    with EventSubscriber() as sub:
        listening = sub.add(42, source.endpoint, events=queue, block_size=2, replay_endpoint=source.replay_endpoint)
        assert len(take(queue, 6)) == 6
        assert listening.stats()["lost"] == 4
    assert "worker 42" in capfd.readouterr().err


def test_a_restart_clears_the_ranks_that_spoke_and_rebuilds(engine, capfd):
    first = engine()
    queue = EventQueue()
    for i in range(5):
        first.keep([["BlockRemoved", [i]]], rank=i % 2)
    with EventSubscriber() as sub:
        listening = sub.add(1, first.endpoint, events=queue, block_size=2, replay_endpoint=first.replay_endpoint)
        take(queue, 5)
        until(lambda: listening.stats()["connected"])
        # Another life on the same sockets, already further than the first one was: only the bytes differ.
        first.log.clear()
        first.sequence = 0
        for i in range(20):
            first.keep([["BlockRemoved", [100 + i]]], rank=0)
        until(lambda: first.send([["BlockRemoved", [999]]], rank=0) or listening.stats()["restarts"])
        until(lambda: listening.stats()["next_sequence"] == first.sequence)
        events = [json.loads(e) for e in queue.take()]
    assert sorted(e["dp_rank"] for e in events if e["data"] == "cleared") == [0, 1]
    removed = [e["data"]["removed"]["block_hashes"][0] for e in events if e["data"] != "cleared"]
    assert removed[:20] == list(range(100, 120))
    assert set(removed[20:]) == {999}
    assert "started again" in capfd.readouterr().err


def test_a_replay_endpoint_where_nobody_answers_does_not_stop_what_comes_live(engine):
    source = engine(replay=None)
    queue = EventQueue()
    with EventSubscriber() as sub:
        listening = sub.add(1, source.endpoint, events=queue, block_size=2, replay_endpoint="tcp://127.0.0.1:1")
        until(lambda: source.send([["AllBlocksCleared"]]) or queue.take())
        assert listening.stats()["replay_failures"] >= 1


# ---- ours, read by others --------------------------------------------------------------------------------------------


def sub_socket(context, endpoint, topic=b""):
    sub = context.socket(zmq.SUB)
    sub.linger = 0
    sub.rcvtimeo = int(DEADLINE * 1000)
    sub.subscribe(topic)
    sub.connect(endpoint)
    return sub


def fetch(context, endpoint, start):
    """All that a replay socket gives, as frames without the empty one."""
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.rcvtimeo = int(DEADLINE * 1000)
    dealer.connect(endpoint)
    dealer.send_multipart([b"", start.to_bytes(8, "big")])
    answers = []
    while True:
        empty, *frames = dealer.recv_multipart()
        assert empty == b""
        if frames[-2] == b"\xff" * 8:
            assert frames == [b"", b"\xff" * 8, b""]
            break
        answers.append(frames)
    dealer.close()
    return answers


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def test_the_event_plane_has_four_frames_and_an_envelope(context):
    import numpy as np

    with EventChannel(2**63 + 5, "namespace.a.component.b", dp_rank=1, publisher_id=9) as channel:
        channel.publish_stored(np.array([1, 2**64 - 1], np.uint64), [3, -1], parent=-7)
        channel.publish_removed([b"\0" * 20 + b"\x05"])
        channel.publish_cleared(dp_rank=4)
        frames = fetch(context, channel.replay_endpoint, 0)
    assert [int.from_bytes(f[2], "big") for f in frames] == [0, 1, 2]
    events = []
    for subject, publisher, number, frame in frames:
        assert subject == b"namespace.a.component.b.kv-events"
        assert publisher == (9).to_bytes(8, "big")
        version, length = struct.unpack(">BI", frame[:5])
        assert (version, length) == (1, len(frame) - 5)
        envelope = msgpack.unpackb(frame[5:])
        assert envelope["publisher_id"] == 9
        assert envelope["sequence"] == int.from_bytes(number, "big")
        assert envelope["topic"] == "kv-events"
        assert abs(envelope["published_at"] / 1000 - time.time()) < 60
        events += msgpack.unpackb(envelope["payload"])
    assert [e["worker_id"] for e in events] == [2**63 + 5] * 3
    assert [e["event"]["event_id"] for e in events] == [0, 1, 2]
    assert [e["event"]["dp_rank"] for e in events] == [1, 1, 4]
    blocks = [{"block_hash": 1, "tokens_hash": 3}, {"block_hash": 2**64 - 1, "tokens_hash": 2**64 - 1}]
    assert events[0]["event"]["data"] == {"stored": {"parent_hash": 2**64 - 7, "blocks": blocks}}
    assert events[1]["event"]["data"] == {"removed": {"block_hashes": [5]}}
    assert events[2]["event"]["data"] == "cleared"


def test_as_an_engine_we_write_what_vllm_writes(context):
    with EventChannel(1, "topic", wire="engine", block_size=2, dp_rank=3) as channel:
        sub = sub_socket(context, channel.endpoint, b"top")
        channel.publish_stored_tokens([1, 2, 3, 4, 5], [10, 11], parent=9, lora_name="l")
        channel.publish_removed([10])
        channel.publish_cleared()
        with pytest.raises(InvalidArgument, match="token ids"):
            channel.publish_stored([1], [2])
        frames = fetch(context, channel.replay_endpoint, 1)
        until(lambda: channel.publish_removed([1]) or sub.poll(20))
        topic, *_ = sub.recv_multipart()
        first = fetch(context, channel.replay_endpoint, 0)[0]
    assert topic == b"topic"
    assert [int.from_bytes(f[1], "big") for f in frames] == [1, 2]
    ts, events, rank = msgpack.unpackb(first[2])
    assert rank == 3
    assert abs(ts - time.time()) < 60
    assert events == [
        {
            "type": "BlockStored",
            "block_hashes": [10, 11],
            "parent_block_hash": 9,
            "token_ids": [1, 2, 3, 4],
            "block_size": 2,
            "lora_id": None,
            "lora_name": "l",
            "medium": "GPU",
        }
    ]
    assert msgpack.unpackb(frames[0][2])[1] == [{"type": "BlockRemoved", "block_hashes": [10], "medium": "GPU"}]
    assert msgpack.unpackb(frames[1][2])[1] == [{"type": "AllBlocksCleared"}]


def test_the_compact_form_of_the_plane_is_understood(context):
    pub = context.socket(zmq.PUB)
    pub.bind("tcp://127.0.0.1:*")
    payload = msgpack.packb([5, [1, {"stored": [None, None, [[1, 2, None], [3, 4]]]}, 6], "device"])
    envelope = msgpack.packb([9, 0, 1, "kv-events", payload])
    frame = struct.pack(">BI", 1, len(envelope)) + envelope
    queue = EventQueue(router=True)
    with EventSubscriber() as sub:
        source = sub.add(1, pub.getsockopt_string(zmq.LAST_ENDPOINT), events=queue, worker_from_event=True)
        numbers = iter(range(10000))

        def send(publisher):
            pub.send_multipart([b"s", publisher.to_bytes(8, "big"), next(numbers).to_bytes(8, "big"), frame])

        until(lambda: send(9) or source.stats()["events"])
        send(9)
        last = next(numbers)
        until(lambda: source.stats()["next_sequence"] == last)
        queue.take()
        send(10)  # another publisher: a restart
        events = take(queue, 2)
    assert [e["worker_id"] for e in events] == [5, 5]
    assert events[0]["event"]["data"] == "cleared"
    assert events[1]["event"]["dp_rank"] == 6
    assert events[1]["event"]["data"]["stored"]["blocks"][1] == {"block_hash": 3, "tokens_hash": 4}


def test_a_bad_replay_request_is_not_answered_and_harms_nothing(context):
    with EventChannel(1) as channel:
        channel.publish_cleared()
        dealer = context.socket(zmq.DEALER)
        dealer.connect(channel.replay_endpoint)
        for frames in ([b""], [b"", b"short"], [b"x", bytes(8)], [b"", bytes(8), b"more"], [b"", b"\0" * 5000]):
            dealer.send_multipart(frames)
        assert len(fetch(context, channel.replay_endpoint, 0)) == 1
        assert fetch(context, channel.replay_endpoint, 2**64 - 1) == []
        assert not dealer.poll(50)


def test_load_of_every_form(context):
    table = LoadTable()
    with EventChannel(3, "s", dp_rank=1) as channel, EventSubscriber() as sub:
        sub.add(3, channel.endpoint, loads=table)
        until(lambda: channel.publish_load(active_decode_blocks=4, kv_used_blocks=None) or table.get())
        assert table.get() == {(3, 1): {"active_decode_blocks": 4}}
        channel.publish_load(dp_rank=1, gpu_cache_usage_perc=0.25, num_requests_waiting=2)
        want = {"active_decode_blocks": 4, "gpu_cache_usage_perc": 0.25, "num_requests_waiting": 2}
        until(lambda: table.get() == {(3, 1): want})
        with pytest.raises(TypeError, match="no number"):
            channel.publish_load(nonsense=1)
        with pytest.raises(InvalidArgument, match="0 or more"):
            channel.publish_load(kv_used_blocks=-1)
        with pytest.raises(InvalidArgument, match="0 or more"):
            channel.publish_load(kv_used_blocks=float("nan"))
        table.remove(3)
        assert table.get() == {}


# ---- objects ---------------------------------------------------------------------------------------------------------


def test_closed_things_say_so():
    channel = EventChannel(1)
    channel.close()
    channel.close()
    with pytest.raises(StreamBroken, match="closed"):
        channel.publish_cleared()
    sub = EventSubscriber()
    source = sub.add(1, "tcp://127.0.0.1:1")
    source.close()
    source.close()
    with pytest.raises(StreamBroken):
        source.stats()
    other = sub.add(1, "tcp://127.0.0.1:1")
    sub.close()
    sub.close()
    other.close()
    other.expect()
    assert other.closed
    with pytest.raises(StreamBroken):
        sub.add(1, "tcp://127.0.0.1:1")


def test_arguments_that_make_no_sense_are_refused():
    import numpy as np

    with pytest.raises(InvalidArgument, match="nonsense"):
        EventChannel(1, endpoint="nonsense")
    with pytest.raises(InvalidArgument, match="wire"):
        EventChannel(1, wire="x")
    with pytest.raises(InvalidArgument, match="block size"):
        EventChannel(1, wire="engine")
    with EventChannel(1) as channel:
        with pytest.raises(InvalidArgument, match="one of each"):
            channel.publish_stored([1], [])
        with pytest.raises(InvalidArgument, match="floats"):
            channel.publish_removed(np.zeros(2))
        with pytest.raises(OverflowError):
            channel.publish_removed([2**64])
        with pytest.raises(TypeError):
            channel.publish_removed([None])
        with pytest.raises(InvalidArgument, match="bytes"):
            channel.publish_removed(b"12345678")
        assert channel.stats()["next_sequence"] == 0
    with EventSubscriber() as sub:
        with pytest.raises(TypeError, match="an index is"):
            sub.add(1, "tcp://127.0.0.1:1", sink=object())
        with pytest.raises(InvalidArgument, match="endpoint"):
            sub.add(1, "")


def test_who_sends_nothing_is_shown_in_metrics():
    from dynamo._metrics import Registry

    registry = Registry()
    with EventSubscriber(silence=0.05) as sub:
        sub.show(registry)
        source = sub.add(42, "tcp://127.0.0.1:1")
        source.expect()
        until(lambda: source.stats()["silent"])
        assert b'dynamo_kv_events_silent{worker_id="42"} 1' in registry.text()
    assert b"worker_id" not in registry.text()


def test_a_listener_gives_json_that_an_index_takes(engine):
    source = engine()
    source.keep(VLLM_ARRAYS[:1])

    async def main():
        listener = ZmqKvEventListener(source.endpoint, "", 2, source.replay_endpoint)
        got = []
        end = time.monotonic() + DEADLINE
        while not got and time.monotonic() < end:
            got = await listener.get_events()
        assert await listener.get_events(timeout=0) == []
        listener.close()
        return got

    (text,) = asyncio.run(main())
    assert [b["block_hash"] for b in json.loads(text)["data"]["stored"]["blocks"]] == [2**64 - 5, 2**64 - 1]


def test_a_full_queue_drops_the_newest_and_counts():
    queue = EventQueue(bound=3)
    with EventChannel(1) as channel, EventSubscriber() as sub:
        for i in range(10):
            channel.publish_removed([i])
        source = sub.add(1, channel.endpoint, events=queue, replay_endpoint=channel.replay_endpoint)
        until(lambda: source.stats()["events"] == 10)
    assert [json.loads(e)["data"]["removed"]["block_hashes"] for e in queue.take()] == [[0], [1], [2]]
    assert queue.dropped == 7
