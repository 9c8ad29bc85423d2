"""SelectionCore: hash, find, pick and book without a network."""

import array
import asyncio
import gc
import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo import errors
from dynamo._router import SelectionCore
from dynamo.llm.router_config import KvRouterConfig, LoadThresholdConfig, RouterMode, RoutingConstraints

# Blocks of four: tests/data/dynamo_vectors.json has these hashes.
TOKENS = list(range(1, 15))
LOCAL = [14643705804678351452, 16777012769546811212, 483935686894639516]
CHAIN = [14643705804678351452, 4945711292740353085, 12583592247330656132]


def make(workers=3, block_size=4, mode="kv", thresholds=None, **options):
    core = SelectionCore(block_size, KvRouterConfig(router_seed=7, **options), mode=mode, thresholds=thresholds)
    for worker in range(workers):
        core.put_worker(worker, total_kv_blocks=1000, max_num_batched_tokens=8192)
    return core


def cost_by_hand(tokens, block_size, active_tokens, active_blocks, new_blocks, overlap):
    return max(0.0, (active_tokens + tokens) / block_size - overlap) + active_blocks + new_blocks


def test_the_worker_that_holds_the_prefix_is_picked():
    core = make()
    core.stored(1, CHAIN[:2], LOCAL[:2])
    core.stored(2, CHAIN[:1], LOCAL[:1])
    decision = core.pick(TOKENS, "a", why=True)
    assert (decision.worker_id, decision.dp_rank, decision.overlap_blocks) == (1, 0, 2)
    assert (decision.required_blocks, decision.eligible) == (4, 3)
    # 14 tokens are 3.5 blocks; 3 of them are complete and will be held.
    assert [row["cost"] for row in decision.reasons] == [3.5 + 3, 1.5 + 3, 2.5 + 3]
    assert [row["overlap_blocks"] for row in decision.reasons] == [0, 2, 1]
    assert [row["chosen"] for row in decision.reasons] == [False, True, False]
    assert decision.cost == 4.5


def test_a_decision_counts_at_once_until_it_is_freed():
    core = make()
    core.stored(1, CHAIN, LOCAL)
    first = core.pick(TOKENS, "a")
    row = core.loads()[1]
    assert (row["active_requests"], row["active_prefill_tokens"], row["active_decode_blocks"]) == (1, 2, 3)
    assert core.ticket("a") == first.ticket
    assert core.prefill_done("a") and core.prefill_done(first.ticket)
    assert core.loads()[1]["active_prefill_tokens"] == 0
    assert core.output("a", 10)
    assert core.free("a") and not core.free("a") and not core.prefill_done("a") and not core.output("a", 1)
    assert core.loads()[1]["active_requests"] == 0
    assert core.stats()["booked"] == 0


def test_asking_books_nothing():
    core = make()
    assert core.pick(TOKENS, book=False).ticket == 0
    assert core.best_worker(TOKENS)[2] == 0
    assert core.stats()["booked"] == 0
    core.best_worker(TOKENS, "a")
    assert core.stats()["booked"] == 1


@pytest.mark.parametrize(
    "ids",
    [
        TOKENS,
        tuple(TOKENS),
        range(1, 15),
        array.array("I", TOKENS),
        bytearray(TOKENS),
        np.array(TOKENS, np.uint32),
        np.array(TOKENS, np.int64),
        np.array(TOKENS, np.int32),
        np.array(TOKENS, np.uint16),
        [np.uint32(token) for token in TOKENS],
        memoryview(np.array(TOKENS, np.uint32)),
    ],
    ids=lambda ids: f"{type(ids).__name__}{getattr(ids, 'dtype', '')}",
)
def test_token_ids_come_in_many_forms(ids):
    core = make()
    core.stored(1, CHAIN, LOCAL)
    assert core.best_worker(ids) == (1, 0, 3)


@pytest.mark.parametrize(
    "ids, error",
    [
        ([1, -1], OverflowError),
        ([2**32], OverflowError),
        (np.array([-1]), OverflowError),
        (np.array([1 << 40]), OverflowError),
        (["1"], TypeError),
        ([1.0], TypeError),
        (7, TypeError),
        (iter([1]), TypeError),
        (None, TypeError),
        (np.zeros((2, 2), np.uint32), ValueError),
    ],
)
def test_other_token_ids_are_refused(ids, error):
    core = make()
    with pytest.raises(error):
        core.pick(ids)
    assert core.stats()["booked"] == 0


def test_hashes_may_be_given_instead_of_tokens():
    core = make()
    core.stored(2, CHAIN, LOCAL)
    for hashes in (LOCAL, np.array(LOCAL, np.uint64), array.array("Q", LOCAL)):
        assert core.pick(len(TOKENS), book=False, block_hashes=hashes).worker_id == 2
    with pytest.raises(ValueError, match="block size"):
        core.pick(4, block_hashes=LOCAL)


def test_lora_and_namespace_change_the_hashes():
    core = make()
    core.stored(1, [1], [15671544057904749233])  # [1, 2, 3, 4] under "my-lora"
    assert core.best_worker([1, 2, 3, 4])[2] == 0
    assert core.pick([1, 2, 3, 4], book=False, lora_name="my-lora").overlap_blocks == 1
    assert core.pick([1, 2, 3, 4], book=False, lora_name="my-lora", cache_namespace="x").overlap_blocks == 0


def test_without_events_decisions_are_believed():
    core = make(use_kv_events=False)
    worker = core.pick(TOKENS, "a").worker_id
    core.free("a")
    assert core.best_worker(TOKENS) == (worker, 0, 3)
    assert core.overlaps(TOKENS) == {(worker, 0): 3}
    core.pick([9] * 8, "b", update_index=False)
    core.free("b")
    assert core.best_worker([9] * 8)[2] == 0
    core.remove_worker(worker)
    assert core.overlaps(TOKENS) == {}


def test_decisions_may_be_believed_beside_events():
    core = make(router_predicted_ttl_secs=60.0)
    core.stored(0, CHAIN[:1], LOCAL[:1])
    chosen = core.pick(TOKENS, "a").worker_id
    core.free("a")
    assert core.overlaps(TOKENS) == {(0, 0): 3} if chosen == 0 else {(0, 0): 1, (chosen, 0): 3}
    # The larger of both counts.
    assert core.best_worker(TOKENS) == (chosen, 0, 3)


@pytest.mark.parametrize("mode", [mode for mode in RouterMode if mode != RouterMode.Direct])
def test_every_mode_spreads_and_counts(mode):
    core = make(workers=4, mode=mode)
    for i in range(64):
        core.pick([i * 10 + j for j in range(8)], str(i))
    requests = [row["active_requests"] for row in core.loads()]
    assert sum(requests) == 64
    if mode in (RouterMode.RoundRobin, RouterMode.LeastLoaded, RouterMode.KV, RouterMode.DeviceAwareWeighted):
        assert requests == [16] * 4
    else:
        assert min(requests) >= 4


def test_weights_of_workers_are_heeded():
    core = SelectionCore(4, mode="device-aware-weighted")
    core.put_worker(0, weight=1.0)
    core.put_worker(1, weight=8.0)
    for i in range(90):
        core.pick([1], str(i))
    assert [row["active_requests"] for row in core.loads()] == [10, 80]


def test_direct_needs_a_worker():
    core = make(mode="direct")
    with pytest.raises(ValueError, match="worker id"):
        core.pick(TOKENS)
    assert core.pick(TOKENS, worker_id=2).worker_id == 2


def test_who_may_serve():
    core = make()
    core.put_worker(2, 1)
    core.put_worker(5, taints={"gpu=h100", "zone=a"})
    pick = lambda **how: core.pick(TOKENS, book=False, **how)  # noqa: E731
    assert pick(worker_id=1).worker_id == 1
    assert (pick(worker_id=2, dp_rank=1).worker_id, pick(dp_rank=1).dp_rank) == (2, 1)
    assert pick(allowed_worker_ids=[1, 77]).worker_id == 1
    assert pick(constraints=RoutingConstraints({"gpu=h100"})).worker_id == 5
    assert pick(constraints={"required_taints": ["zone=a", "gpu=h100"]}).worker_id == 5
    assert pick(constraints=RoutingConstraints(None, {"zone=a": 1.0})).worker_id == 5
    assert pick(constraints=RoutingConstraints(None, {"zone=a": -1.0})).worker_id != 5
    for how in ({"worker_id": 9}, {"allowed_worker_ids": []}, {"constraints": RoutingConstraints({"zone=b"})}):
        with pytest.raises(errors.Unavailable):
            pick(**how)


def test_no_worker_at_all():
    core = make(workers=0)
    with pytest.raises(errors.Unavailable, match="no worker"):
        core.pick(TOKENS, "a")
    assert core.explain(TOKENS) == [] and core.potential_loads(TOKENS) == []
    core.put_worker(1)
    assert core.pick(TOKENS, "a").worker_id == 1
    assert core.remove_worker(1) and not core.remove_worker(1)
    assert core.free("a")


def test_overrides_of_one_request():
    core = make()
    core.stored(1, CHAIN, LOCAL)
    costs = lambda **override: [row["cost"] for row in core.explain(TOKENS, override=override)]  # noqa: E731
    assert costs() == [6.5, 3.5, 6.5]
    assert costs(overlap_score_weight=0.0) == [3, 3, 3]
    assert costs(overlap_score_credit=0.5) == [6.5, 5.0, 6.5]
    assert costs(prefill_load_scale=2.0) == [10, 4, 10]
    assert costs(track_prefill_tokens=False) == [3, 0, 3]  # the credit comes off the decode blocks
    with pytest.raises(ValueError, match="nope"):
        costs(nope=1)
    with pytest.raises(ValueError, match="negative"):
        costs(router_temperature=-1.0)


def test_potential_loads():
    core = make(workers=2)
    core.stored(1, CHAIN, LOCAL)
    core.pick(TOKENS, "a")
    assert core.potential_loads(TOKENS) == [
        {
            "worker_id": 0,
            "dp_rank": 0,
            "potential_prefill_tokens": 14,
            "potential_decode_blocks": 3,
            "active_requests": 0,
        },
        {
            "worker_id": 1,
            "dp_rank": 0,
            "potential_prefill_tokens": 4,
            "potential_decode_blocks": 3,
            "active_requests": 1,
        },
    ]


def test_busy_workers_get_nothing():
    core = make(workers=2, thresholds=LoadThresholdConfig(active_decode_blocks_threshold=0.5))
    assert core.report(0, kv_used_blocks=501) and not core.report(9, kv_used_blocks=1)
    assert [row["busy"] for row in core.loads()] == [True, False]
    assert core.loads()[0]["reported_kv_used_blocks"] == 501
    assert core.pick(TOKENS, book=False).worker_id == 1
    core.report(1, active_decode_blocks=501)
    with pytest.raises(errors.Overloaded, match="busy"):
        core.pick(TOKENS, "a")
    assert core.pick(TOKENS, "a", ignore_busy=True).ticket
    core.configure(thresholds=LoadThresholdConfig())
    assert core.pick(TOKENS, "b").ticket


def test_a_failing_worker_is_avoided():
    core = make(workers=2)
    core.stored(0, CHAIN, LOCAL)
    assert core.avoid(0, 60.0) and not core.avoid(9, 60.0)
    assert core.pick(TOKENS, book=False, why=True).reasons[0]["verdict"] == "avoided"
    assert core.best_worker(TOKENS)[0] == 1
    core.avoid(0, 0.0)
    assert core.best_worker(TOKENS)[0] == 0


def test_the_bound_on_requests():
    core = make(router_max_active_requests=2)
    core.pick(TOKENS, "a")
    core.pick(TOKENS, "b")
    with pytest.raises(errors.Overloaded, match="max_requests"):
        core.pick(TOKENS, "c")
    core.free("a")
    assert core.pick(TOKENS, "c").ticket
    core.free("b")
    with pytest.raises(ValueError, match="booked already"):
        core.pick(TOKENS, "c")


def test_a_silent_worker_is_named():
    core = make(workers=2, router_silent_worker_secs=1e-9)
    core.pick(TOKENS, "a", worker_id=0)
    assert [row["silent"] for row in core.loads()] == [True, False]
    core.stored(0, CHAIN, LOCAL)
    row = core.loads()[0]
    assert not row["silent"] and row["seconds_since_event"] >= 0
    assert not any(row["silent"] for row in make(use_kv_events=False, router_silent_worker_secs=1e-9).loads())


def test_events_change_what_is_held():
    core = make()
    core.stored(1, CHAIN[:2], LOCAL[:2])
    core.stored(1, CHAIN[2:], LOCAL[2:], parent=CHAIN[1])
    assert core.overlaps(TOKENS) == {(1, 0): 3}
    core.removed(1, CHAIN[2:])
    assert core.overlaps(TOKENS) == {(1, 0): 2}
    dump = json.loads(core.dump_events())
    assert [row["event"]["data"]["stored"]["blocks"][0]["tokens_hash"] for row in dump] == LOCAL[:2]
    assert [row["event"]["data"]["stored"]["parent_hash"] for row in dump] == [None, CHAIN[0]]
    core.cleared(1)
    assert core.overlaps(TOKENS) == {} and core.dump_events() == "[]"
    with pytest.raises(ValueError, match="as many"):
        core.stored(1, [1], [1, 2])
    with pytest.raises(errors.DynamoError):
        core.stored(1, [1], [1], parent=99)


def test_requests_wait_for_their_turn():
    async def run():
        core = make(workers=2, router_queue_threshold=0.0)
        core.pick(TOKENS, "a", worker_id=0)
        core.pick(TOKENS, "b", worker_id=1)
        first, second, third = (core.submit(TOKENS, name) for name in ("first", "second", "third"))
        assert core.stats()["waiting"] == 3
        assert first.ticket and not isinstance(first, type(core.pick(TOKENS, book=False)))
        waiting = asyncio.ensure_future(_await(third))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert core.stats()["waiting"] == 2
        # Room is made on another thread.
        thread = threading.Thread(target=core.free, args=("b",))
        thread.start()
        decision = await asyncio.wait_for(_await(first), 10)
        thread.join()
        assert (decision.worker_id, decision.ticket) == (1, first.ticket)
        core.prefill_done("a")
        assert (await asyncio.wait_for(_await(second), 10)).worker_id == 0
        assert core.free("first") and core.free("second") and not core.free("third")
        assert core.submit(TOKENS, "fourth").ticket

    asyncio.run(run())


async def _await(turn):
    return await turn


def test_a_router_that_goes_away_tells_those_who_wait():
    async def run():
        core = make(workers=1, router_queue_threshold=0.0)
        core.pick(TOKENS, "a")
        turn = core.submit(TOKENS, "b")
        core.remove_worker(0)
        with pytest.raises(errors.Unavailable):
            await asyncio.wait_for(_await(turn), 10)

    asyncio.run(run())
    gc.collect()


def test_waiting_leaves_nothing_behind_when_nobody_awaits():
    async def run():
        core = make(workers=1, router_queue_threshold=0.0)
        core.pick(TOKENS, "a")
        for i in range(100):
            core.submit(TOKENS, str(i))
        for i in range(100):
            core.free(str(i))
        await asyncio.sleep(0.01)
        assert core.stats()["waiting"] == 0

    asyncio.run(run())


def test_threads_share_a_core():
    core = make(workers=4)
    failures = []

    def work(seed):
        try:
            for i in range(300):
                name = f"{seed}-{i}"
                core.pick([seed * 1000 + i % 7] * 40, name)
                core.prefill_done(name)
                core.free(name)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert core.stats()["booked"] == core.stats()["blocks"] == 0


def test_a_long_prompt_is_hashed_without_the_gil():
    core = make(block_size=16)
    ids = np.arange(100_000, dtype=np.uint32)
    assert core.pick(ids, "a").required_blocks == 6250
    assert core.pick(list(range(100_000)), "b", worker_id=0).ticket
    assert core.stats()["blocks"] in (6250, 12500)  # on one worker or on two
    core.free("a")
    core.free("b")
    assert core.stats()["blocks"] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pick", "prefill", "free"]), st.integers(0, 9), st.integers(0, 5), st.integers(1, 60)
        ),
        max_size=60,
    )
)
def test_the_cheapest_is_picked_whatever_happened_before(steps):
    """Against books kept by hand: each pick has the least cost by the formula, and the load is the sum of what runs."""
    core = make(workers=3)
    running = {}
    for action, name, family, length in steps:
        name = str(name)
        if action == "pick" and name not in running:
            ids = [family] * length
            blocks = [(family, depth) for depth in range(length // 4)]
            costs = []
            for worker in range(3):
                mine = [other for other in running.values() if other["worker"] == worker]
                held = {block for other in mine for block in other["blocks"]}
                costs.append(
                    cost_by_hand(
                        length, 4, sum(other["prefill"] for other in mine), len(held), len(set(blocks) - held), 0
                    )
                )
            decision = core.pick(ids, name)
            assert decision.cost == pytest.approx(min(costs))
            assert costs[decision.worker_id] == pytest.approx(min(costs))
            running[name] = {"worker": decision.worker_id, "blocks": blocks, "prefill": length}
        elif action == "prefill":
            assert core.prefill_done(name) == (name in running)
            if name in running:
                running[name]["prefill"] = 0
        elif action == "free":
            assert core.free(name) == (running.pop(name, None) is not None)
    for worker, row in enumerate(core.loads()):
        mine = [other for other in running.values() if other["worker"] == worker]
        assert row["active_requests"] == len(mine)
        assert row["active_prefill_tokens"] == sum(other["prefill"] for other in mine)
        assert row["active_decode_blocks"] == len({block for other in mine for block in other["blocks"]})
