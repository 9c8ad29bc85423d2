"""Traces are read within bounds, and replaying them shows what routing by prefix is worth."""

import dataclasses
import gzip
import json
import os

import numpy as np
import pytest

from dynamo import replay
from dynamo.errors import InvalidArgument

from ..conftest import DATA

MOONCAKE = DATA / "mooncake"


@pytest.fixture(scope="module")
def conversations():
    return replay.load_trace(MOONCAKE / "conversation_trace.jsonl.gz")


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) if isinstance(row, dict) else row for row in rows))
    return path


ROW = {"timestamp": 0, "input_length": 700, "output_length": 3, "hash_ids": [0, 1]}


def test_the_published_statistics_come_out(conversations):
    assert len(conversations) == 12031
    assert len(conversations.ids) == 288500
    assert round(conversations.reusable, 4) == 0.3664
    assert conversations.arrival_ms[-1] == 3536999
    assert round(float(conversations.input_tokens.mean()), 1) == 12035.1


def test_a_part_of_a_trace_is_a_trace(conversations):
    head = conversations.head(10)
    assert len(head) == 10 and len(head.ids) == head.first[-1]
    assert "10 requests" in repr(head)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{"], ":1: "),
        ([ROW, "nonsense"], ":2: "),
        ([{**ROW, "input_length": 0}], "input_length 0"),
        ([{**ROW, "input_length": 1025}], "does not fit 2 blocks"),
        ([{**ROW, "hash_ids": [0, -1]}], r"below 2\*\*32"),
        ([{**ROW, "hash_ids": [0, 2**32]}], r"below 2\*\*32"),
        ([{**ROW, "output_length": -1}], "output_length"),
        ([{**ROW, "timestamp": 5}, ROW], "before the line above"),
        ([{**ROW, "hash_ids": "0 1"}], ":1: "),
        ([], "no request"),
    ],
)
def test_a_line_that_is_none_is_refused_by_number(tmp_path, rows, message):
    with pytest.raises(InvalidArgument, match=message):
        replay.load_trace(write(tmp_path / "t.jsonl", *rows))


def test_a_compressed_bomb_is_refused(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(20):
            file.write(b" " * (1 << 20))
    with pytest.raises(InvalidArgument, match="longer than"):
        replay.load_trace(path)


def test_a_replay_is_the_same_each_time_and_loses_nothing():
    trace = replay.load_trace(MOONCAKE / "mooncake_trace_first1000.jsonl.gz")
    first, second = (replay.run(trace, workers=4) for _ in range(2))
    for result in (first, second):
        del result.summary["index_bytes"]  # its table is keyed anew each time
    assert first.summary == second.summary
    assert np.array_equal(first.ttft_ms, second.ttft_ms)
    assert first.summary["finished"] == 1000
    assert first.summary["generated_tokens"] == int(np.maximum(trace.output_tokens, 1).sum())
    assert first.summary["index_refusals"] == 0
    assert (first.ttft_ms > 0).all() and (first.total_ms >= first.ttft_ms).all()


def test_one_idle_worker_reuses_what_the_trace_allows():
    # Far apart in time and with room for everything, one engine's hits are the trace's own.
    trace = replay.load_trace(MOONCAKE / "mooncake_trace_first1000.jsonl.gz")
    trace = dataclasses.replace(trace, arrival_ms=np.arange(len(trace)) * 1e7)
    result = replay.run(trace, workers=1, block_size=512, blocks=40000)
    whole = trace.input_tokens // 512
    seen, expected = set(), 0
    for i in range(len(trace)):
        ids = trace.ids[int(trace.first[i]) : int(trace.first[i]) + int(whole[i])]
        hits = 0
        while hits < len(ids) and int(ids[hits]) in seen:
            hits += 1
        if hits * 512 == trace.input_tokens[i]:
            hits -= 1  # one token at least is computed
        expected += hits * 512
        seen.update(ids.tolist())
    # Generated blocks do not collide with the trace's, so nothing else is found.
    assert result.summary["cached_tokens"] == expected


@pytest.mark.skipif("DYN_SANITIZER" in os.environ, reason="the whole trace, twice: minutes")
def test_kv_routing_beats_round_robin_and_starves_nobody(conversations):
    table = replay.compare(conversations, workers=4)
    kv, other = table["kv"], table["round-robin"]
    for q in (50, 99):
        assert kv.percentile("ttft_ms", q) < other.percentile("ttft_ms", q)
    assert kv.summary["prefilled_tokens"] < other.summary["prefilled_tokens"]
    share = kv.requests_per_worker
    assert share.sum() == 12031 and share.min() > 0.5 * share.max()
    assert "kv" in str(table) and "<table>" in table._repr_html_()


def test_progress_is_told_and_may_end_the_replay():
    trace = replay.synthetic_trace(500, rate=1000, output_tokens=2)
    told = []
    replay.run(trace, progress=lambda done, total: told.append((done, total)))
    assert told and told[-1][1] == 500

    def enough(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay.run(trace, progress=enough)


def test_requests_that_no_engine_can_hold_are_refused_and_counted():
    trace = replay.synthetic_trace(20, input_tokens=4096, prefixes=1)
    result = replay.run(trace, blocks=32, block_size=64)
    assert result.summary["refused"] == 20
    assert (result.ttft_ms < 0).all() and (result.status < 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": "best"}, "router 'best'"),
        ({"timing": 1}, "timing 1"),
        ({"workers": 0}, "0 workers"),
        ({"speedup": 0}, "arrival_speedup 0"),
        ({"block_size": 0}, "block_size 0|block size 0"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        replay.run(replay.synthetic_trace(5), **options)
