"""Every scenario that was played to Dynamo's own tree, with every answer it gave."""

import json
import pathlib
import sys

import pytest

from dynamo.llm import RadixTree

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from naive import BlockError, NaiveIndex

VECTORS = json.loads((pathlib.Path(__file__).parents[1] / "data" / "dynamo_vectors.json").read_text())
SCENARIOS = VECTORS["radix_tree"]["scenarios"]


def key(edge):
    return json.dumps(edge)


def play(tree, op):
    what, *args = op
    try:
        if what == "event":
            tree.apply_event(args[0], json.dumps(args[1]).encode())
        elif what == "raw":
            tree.apply_event(args[0], args[1].encode())
        elif what in ("remove_worker", "clear_all_blocks"):
            getattr(tree, what)(args[0])
        elif what == "find":
            found = tree.find_matches(args[0], bool(args[1]) if len(args) > 1 else False)
            return {"scores": sorted([*who, n] for who, n in found.scores.items()), "frequencies": found.frequencies}
        else:
            edges = []
            for event in map(json.loads, tree.dump_tree_as_events()):
                stored = event["event"]["data"]["stored"]
                (block,) = stored["blocks"]
                rank = event["event"].get("dp_rank", 0)
                edges.append(
                    [event["worker_id"], rank, stored.get("parent_hash"), block["block_hash"], block["tokens_hash"]]
                )
            return {"events": sorted(edges, key=key)}
    except Exception as error:
        for kind in (ValueError, TypeError, RuntimeError):
            if isinstance(error, kind):
                return {"error": kind.__name__}
        raise
    return {"ok": True}


def test_there_are_17_scenarios():
    assert len(SCENARIOS) == 17


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_tree_answers_as_dynamo_did(name):
    tree = RadixTree()
    for at, (op, want) in enumerate(SCENARIOS[name]):
        want = dict(want)
        want.pop("message", None)
        if "scores" in want:
            want["scores"] = sorted(want["scores"])
        if "events" in want:
            want["events"] = sorted(want["events"], key=key)
        assert play(tree, op) == want, (name, at, op)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_naive_twin_answers_as_dynamo_did(name):
    twin = NaiveIndex()
    for at, (op, want) in enumerate(SCENARIOS[name]):
        what, *args = op
        if what == "find":
            scores = twin.find(args[0], bool(args[1]) if len(args) > 1 else False)
            assert sorted([*who, n] for who, n in scores.items()) == sorted(want["scores"]), (name, at)
        elif what == "dump":
            assert sorted(([*w, *rest] for w, *rest in twin.dump()), key=key) == sorted(want["events"], key=key), (
                name,
                at,
            )
        elif what in ("remove_worker", "clear_all_blocks"):
            for worker in {w for node in twin.walk() for w in node.workers if w[0] == args[0]}:
                twin.cleared(worker)
        elif want.get("error") != "ValueError":
            event = json.loads(args[1]) if what == "raw" else args[1]
            worker, data = (args[0], event.get("dp_rank") or 0), event["data"]
            try:
                if "stored" in data:
                    stored = data["stored"]
                    blocks = [(b["block_hash"], b["tokens_hash"]) for b in stored["blocks"]]
                    twin.stored(worker, stored.get("parent_hash"), blocks)
                elif "removed" in data:
                    twin.removed(worker, data["removed"]["block_hashes"])
                else:
                    twin.cleared(worker)
                assert want == {"ok": True}, (name, at)
            except BlockError:
                assert want["error"] == "RuntimeError", (name, at)


def test_a_dump_rebuilds_the_tree():
    first, second = RadixTree(), RadixTree()
    for op, _ in SCENARIOS["two_workers_diverge"]:
        play(first, op)
    for event in map(json.loads, first.dump_tree_as_events()):
        second.apply_event(event["worker_id"], json.dumps(event["event"]).encode())
    assert play(first, ["dump"]) == play(second, ["dump"])
