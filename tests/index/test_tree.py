import gc
import json
import pathlib
import random
import sys
import threading

import numpy as np
import pytest

from dynamo import errors
from dynamo.llm import ApproxTree, OverlapScores, RadixTree, compute_block_hashes, compute_sequence_hashes

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from naive import BlockError, NaiveIndex


def test_arrays_and_lists_say_the_same():
    tree = RadixTree()
    names, tokens = np.arange(1, 9, dtype=np.uint64), np.arange(101, 109, dtype=np.uint64)
    tree.apply_stored(7, names, tokens)
    tree.apply_stored(8, names[:4].tolist(), tokens[:4].tolist(), dp_rank=2)
    for query in (tokens, tokens.tolist(), tuple(tokens.tolist()), tokens.astype(np.int64), np.repeat(tokens, 2)[::2]):
        assert tree.find_matches(query).scores == {(7, 0): 8, (8, 2): 4}
    tree.apply_removed(7, names[-1:])
    assert tree.find_matches(tokens).scores == {(7, 0): 7, (8, 2): 4}
    assert len(tree) == 7
    assert bool(RadixTree()) is True


def test_a_result_is_a_dict_and_arrays():
    tree = RadixTree()
    for worker in range(30):
        tree.apply_stored(worker, range(1, worker + 2), range(101, worker + 102))
    found = tree.find_matches(range(101, 200))
    assert isinstance(found, OverlapScores)
    assert found.scores == {(w, 0): w + 1 for w in range(30)}
    assert found.scores is found.scores
    assert found.tree_sizes == found.scores
    assert found.workers.dtype == np.uint64
    assert dict(zip(found.workers.tolist(), found.counts.tolist(), strict=True)) == {w: w + 1 for w in range(30)}
    assert found.dp_ranks.tolist() == [0] * 30
    assert sorted(found.counts.tolist()) == found.counts.tolist()
    assert len(found) == found.count == 30
    assert "1d/0: 30" in repr(found)
    assert repr(tree.find_matches([])) == "<OverlapScores nobody>"
    assert tree.find_matches([]).workers.tolist() == []


def test_events_that_do_not_fit_are_errors_one_can_catch():
    tree = RadixTree()
    with pytest.raises(RuntimeError, match="holds no block 9 to be the parent"):
        tree.apply_stored(1, [1], [101], parent=9)
    with pytest.raises(errors.BlockError, match="holds no block 5"):
        tree.apply_removed(1, [5])
    with pytest.raises(ValueError, match="2 block_hashes and 1 tokens_hashes"):
        tree.apply_stored(1, [1, 2], [101])
    with pytest.raises(ValueError, match="not a KV cache event"):
        tree.apply_event(1, b"{")
    for wrong in (bytearray(b"{}"), memoryview(b"{}"), "{}"):
        with pytest.raises(TypeError):
            tree.apply_event(1, wrong)
    with pytest.raises(TypeError):
        tree.find_matches("abc")
    with pytest.raises(TypeError):
        tree.find_matches([1.5])
    with pytest.raises(OverflowError):
        tree.find_matches([2**64])
    with pytest.raises(OverflowError):
        tree.apply_stored(2**64, [1], [1])
    assert len(tree) == 0


def test_ids_and_hashes_may_be_signed():
    tree = RadixTree()
    tree.apply_stored(-1, [-5], [-6])
    assert tree.find_matches([2**64 - 6]).scores == {(2**64 - 1, 0): 1}
    tree.apply_removed(2**64 - 1, [2**64 - 5])
    assert len(tree) == 0


def test_copies_in_host_memory_are_not_counted():
    tree = RadixTree()
    stored = {"stored": {"blocks": [{"block_hash": 1, "tokens_hash": 101}]}}
    tree.apply_event(1, json.dumps({"event_id": 0, "data": stored, "storage_tier": "host_pinned"}).encode())
    assert len(tree) == 0


def test_workers_are_listed_with_what_they_hold():
    tree = RadixTree()
    tree.apply_stored(1, [1, 2], [101, 102])
    tree.apply_stored(2, [1], [101], dp_rank=3)
    assert tree.workers() == {(1, 0): 2, (2, 3): 1}
    assert tree.held(1) == 2
    assert tree.held(2, 3) == 1
    assert tree.held(9) == 0
    tree.apply_cleared(1)
    assert tree.workers() == {(1, 0): 0, (2, 3): 1}
    tree.remove_worker(1)
    assert tree.workers() == {(2, 3): 1}
    assert repr(tree).startswith("<RadixTree 1 blocks, 1 workers, ")


def test_finds_are_counted_only_with_an_expiration():
    plain, counting = RadixTree(), RadixTree(expiration_duration_secs=60)
    for tree in (plain, counting):
        tree.apply_stored(1, [1, 2], [101, 102])
        tree.find_matches([101])
        tree.find_matches([101, 102])
    assert plain.find_matches([101, 102]).frequencies == []
    assert counting.find_matches([101, 102]).frequencies == [2, 1]
    assert counting.find_matches([101, 102]).scores == {(1, 0): 2}
    with pytest.raises(ValueError):
        RadixTree(expiration_duration_secs=0)


def test_the_bound_is_never_passed():
    tree = RadixTree(max_bytes=1 << 20)
    rng = np.random.default_rng(1)
    for _ in range(2000):
        hashes = rng.integers(0, 2**64, 64, dtype=np.uint64)
        tree.apply_stored(1, hashes, hashes)
        assert tree.find_matches(hashes).scores == {(1, 0): 64}
        assert tree.nbytes <= tree.max_bytes == 1 << 20
    assert tree.stats()["evicted"] > 100_000
    with pytest.raises(ValueError, match="bound of 5 bytes"):
        RadixTree(max_bytes=5)


def test_memory_per_block_is_small_and_exact():
    tree = RadixTree()
    rng = np.random.default_rng(1)
    for _ in range(200):
        hashes = rng.integers(0, 2**64, 512, dtype=np.uint64)
        for worker in range(8):
            tree.apply_stored(worker, hashes, hashes)
    assert tree.stats()["worker_blocks"] == 8 * len(tree)
    assert tree.nbytes / len(tree) <= 52
    for worker in range(8):
        tree.remove_worker(worker)
    assert len(tree) == 0
    assert tree.stats()["sets"] == 0


def test_the_tree_answers_as_the_naive_twin_on_random_events():
    rng = random.Random(7)
    tree, twin = RadixTree(), NaiveIndex()
    for step in range(4000):
        worker = (rng.randrange(3), rng.randrange(2))
        path, names, tokens = 0, [], []
        for depth in range(rng.randrange(1, 8)):
            tokens.append(rng.randrange(2 if depth < 2 else 3))
            path = path * 10 + tokens[-1] + 1
            names.append(path if rng.random() < 0.95 else rng.randrange(900, 910))
        what = rng.random()
        if what < 0.5:
            cut = rng.randrange(len(names)) if rng.random() < 0.4 else 0
            parent = names[cut - 1] if cut else None
            calls = (
                lambda: tree.apply_stored(worker[0], names[cut:], tokens[cut:], parent, worker[1]),  # noqa: B023
                lambda: twin.stored(worker, parent, list(zip(names[cut:], tokens[cut:], strict=True))),  # noqa: B023
            )
        elif what < 0.75:
            some = names[-2:]
            calls = (lambda: tree.apply_removed(worker[0], some, worker[1]), lambda: twin.removed(worker, some))  # noqa: B023
        elif what < 0.76:
            calls = (lambda: tree.apply_cleared(*worker), lambda: twin.cleared(worker))  # noqa: B023
        else:
            early = rng.random() < 0.5
            assert tree.find_matches(tokens, early).scores == twin.find(tokens, early), step
            continue
        failed = []
        for call, error in zip(calls, (errors.BlockError, BlockError), strict=True):
            try:
                call()
                failed.append(False)
            except error:
                failed.append(True)
        assert failed[0] == failed[1], step
    assert {k: n for k, n in tree.workers().items() if n} == {w: n for w, n in twin.held().items() if n}


def test_threads_may_find_while_another_stores():
    tree = RadixTree()
    stable = np.arange(1, 65, dtype=np.uint64)
    tree.apply_stored(99, stable, stable)
    stop, wrong = threading.Event(), []

    def reader():
        while not stop.is_set():
            if tree.find_matches(stable).scores.get((99, 0)) != 64:
                wrong.append(1)

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(2)
    for n in range(3000):
        hashes = np.concatenate([stable[: n % 64], rng.integers(100, 2**64, 8, dtype=np.uint64)])
        tree.apply_stored(n % 5, hashes, hashes)
        if n % 100 == 0:
            tree.remove_worker(n % 5)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not wrong


def test_a_dump_is_in_order_and_complete():
    tree = RadixTree()
    tree.apply_stored(1, [1, 2, 3], [101, 102, 103])
    tree.apply_stored(2, [1, 9], [101, 109])
    events = [json.loads(text) for text in tree.dump_tree_as_events()]
    assert [e["event"]["event_id"] for e in events] == list(range(5))
    seen = set()
    for event in events:
        stored = event["event"]["data"]["stored"]
        assert stored.get("parent_hash") is None or (event["worker_id"], stored["parent_hash"]) in seen
        seen.add((event["worker_id"], stored["blocks"][0]["block_hash"]))
    assert seen == {(1, 1), (1, 2), (1, 3), (2, 1), (2, 9)}


def test_an_alias_is_removed_when_the_tree_allows_it():
    for aliases in (False, True):
        tree = RadixTree(aliases=aliases)
        tree.apply_stored(1, [11, 12], [101, 102])
        tree.apply_stored(2, [21, 22], [101, 102])
        if aliases:
            tree.apply_removed(2, [22])
            assert tree.find_matches([101, 102]).scores == {(1, 0): 2, (2, 0): 1}
        else:
            with pytest.raises(RuntimeError):
                tree.apply_removed(2, [22])


def test_a_routed_sequence_is_believed_until_its_time_is_over():
    tree = ApproxTree(1.0)
    tree.routed(1, [101, 102, 103], now_ms=0)
    tree.routed(2, [101], dp_rank=4, now_ms=500)
    assert tree.find_matches([101, 102, 103], now_ms=999).scores == {(1, 0): 3, (2, 4): 1}
    assert tree.find_matches([101, 102, 103], now_ms=1000).scores == {(2, 4): 1}
    tree.remove_worker(2)
    assert tree.find_matches([101], now_ms=1001).scores == {}
    assert len(tree) == 0
    with pytest.raises(ValueError):
        ApproxTree(0)


def test_an_approximate_dump_names_blocks_by_their_sequence_hash(vectors):
    for case in vectors["sequence_hash"]["cases"]:
        tree = ApproxTree(100)
        tree.routed(5, case["local"])
        blocks = [json.loads(e)["event"]["data"]["stored"]["blocks"][0] for e in tree.dump_tree_as_events()]
        assert [b["tokens_hash"] for b in blocks] == case["local"]
        assert [b["block_hash"] for b in blocks] == case["sequence"]


def test_trees_come_and_go_without_a_trace():
    hashes = compute_sequence_hashes(compute_block_hashes(range(3200), 16))
    for _ in range(200):
        tree = RadixTree(max_bytes=1 << 21, expiration_duration_secs=5)
        tree.apply_stored(1, hashes, hashes)
        tree.find_matches(hashes)
    del tree
    gc.collect()
