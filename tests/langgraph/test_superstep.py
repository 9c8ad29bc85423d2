"""The parts of a superstep: ids bit for bit, writes in order, idle channels for nothing."""

import hashlib
import re
import time
import uuid
from types import SimpleNamespace

import pytest

from dynamo import _pregel
from dynamo._pregel import PregelScratchpad
from dynamo.langgraph._internal._runnable import RunnableCallable
from dynamo.langgraph.channels import EphemeralValue, LastValue, LastValueAfterFinish, Topic
from dynamo.langgraph.pregel._read import PregelNode


def write(name, writes, triggers=(), path=None):
    return SimpleNamespace(path=path or ("__pregel_pull", name), name=name, writes=writes, triggers=triggers)


def live(**channels):
    return _pregel.channel_map(channels)


def empty():
    checkpoint = _pregel.empty_checkpoint()
    checkpoint["id"] = "1f0a1b2c-0000-6000-8001-000000000000"
    return checkpoint


def counted(current, _):
    return 1 if current is None else current + 1


def test_task_ids_are_xxh3_128_of_their_parts():
    # Vectors of the xxHash specification, in the form of a UUID.
    assert _pregel.task_id(b"") == "99aa06d3-0147-98d8-6001-c324468d497f"
    assert _pregel.task_id(b"a", "b", b"c") == "06b05ab6-733a-6185-78af-5f94892f3950"
    assert _pregel.xxh3_hex(b"x" * 300) == "125237ea2ad7bc7aa5d1b4607dc83554"
    old = hashlib.sha1(b"abc", usedforsecurity=False).hexdigest()[:32]
    assert _pregel.old_task_id(b"a", "b", "c").replace("-", "") == old


def test_interrupt_ids_name_the_namespace_and_the_answers_before():
    assert _pregel.interrupt_id("n:1", 0) == _pregel.xxh3_hex(b"n:1")
    assert _pregel.interrupt_id("n:1", 2) == _pregel.xxh3_hex(b"n:1|2")


def test_checkpoint_ids_are_uuid6_that_sort_by_time_and_carry_the_step():
    made = [_pregel.checkpoint_id(step) for step in range(-2, 200)]
    assert made == sorted(made)
    assert all(uuid.UUID(one).version == 6 for one in made)
    assert uuid.UUID(made[12]).clock_seq == 10
    stamp = _pregel.empty_checkpoint()["ts"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", stamp)


def test_task_ids_are_made_of_the_bytes_of_a_checkpoint_id_however_it_is_written():
    """Ours are 36 small characters; those of other savers may be written otherwise."""
    found = set()
    for text in ("1F0A1C2D3E4F4A5B8C6D7E8F9A0B1C2D", "1f0a1c2d-3e4f-4a5b-8c6d-7e8f9a0b1c2d"):
        checkpoint = {**_pregel.empty_checkpoint(), "id": text, "channel_versions": {"a": 1}}
        channels = {"a": LastValue(int).from_checkpoint(1)}
        nodes = {"n": PregelNode(channels="a", triggers=["a"], bound=RunnableCallable(lambda given: given))}
        facts = {"config": {}, "step": 1, "stop": 9, "for_execution": False}
        found |= _pregel.prepare_next_tasks(checkpoint, [], nodes, channels, {}, **facts).keys()
    assert len(found) == 1
    with pytest.raises(ValueError, match="fromhex"):
        checkpoint["id"] = "nothing-of-hex-digits-36-characters-"
        _pregel.prepare_next_tasks(checkpoint, [], nodes, channels, {}, **facts)


def test_paths_sort_as_writes_are_applied():
    paths = [("__pregel_push", 10), ("__pregel_push", 9), ("__pregel_pull", "b"), ("__pregel_push", ("x",), 1, True)]
    text = sorted(map(_pregel.task_path_str, paths))
    assert text[0] == "~__pregel_pull, b"
    assert text.index("~__pregel_push, 0000000009") < text.index("~__pregel_push, 0000000010")


def test_writes_are_applied_in_the_order_of_paths_and_move_versions_once():
    channels, checkpoint = live(x=Topic(int)), empty()
    tasks = [write("b", [("x", 2)]), write("a", [("x", 1)])]
    assert _pregel.apply_writes(checkpoint, channels, tasks, counted, {}) == {"x"}
    assert channels["x"].get() == [1, 2]
    assert checkpoint["channel_versions"] == {"x": 1}


def test_what_nobody_wrote_is_emptied_only_by_a_step_that_ran():
    channels, checkpoint = live(e=EphemeralValue(int), x=LastValue(int)), empty()
    _pregel.apply_writes(checkpoint, channels, [write("in", [("e", 1)])], counted, {})
    assert channels["e"].is_available()
    _pregel.apply_writes(checkpoint, channels, [write("in", [("x", 1)])], counted, {})
    assert channels["e"].is_available()
    _pregel.apply_writes(checkpoint, channels, [write("n", [("x", 2)], ["e"])], counted, {})
    assert not channels["e"].is_available()
    assert checkpoint["versions_seen"]["n"] == {"e": 1}


def test_deferred_values_come_out_when_nothing_else_is_triggered():
    channels, checkpoint = live(d=LastValueAfterFinish(int), x=LastValue(int)), empty()
    _pregel.apply_writes(checkpoint, channels, [write("n", [("d", 1), ("x", 1)], ["s"])], counted, {"x": ["m"]})
    assert not channels["d"].is_available()
    assert _pregel.apply_writes(checkpoint, channels, [write("m", [], ["x"])], counted, {"x": ["m"]}) == {"d"}
    assert channels["d"].is_available()


def test_a_write_to_no_channel_is_said_and_ignored(caplog):
    assert _pregel.apply_writes(empty(), live(), [write("n", [("nowhere", 1)])], counted, {}) == set()
    assert "nowhere" in caplog.text


def test_an_idle_channel_costs_nothing():
    def per_step(idle):
        channels = live(x=LastValue(int), **{f"k{i}": LastValue(int) for i in range(idle)})
        checkpoint = empty()
        fill = [(f"k{i}", i) for i in range(idle)]
        _pregel.apply_writes(checkpoint, channels, [write("in", [*fill, ("x", 0)])], counted, {})
        task = [write("n", [("x", 1)], ["x"])]
        best = 1.0
        for _ in range(5):
            began = time.thread_time()
            for _ in range(300):
                _pregel.apply_writes(checkpoint, channels, task, None, {})
            best = min(best, (time.thread_time() - began) / 300)
        return best

    assert (per_step(2000) - per_step(10)) / 1990 < 0.05e-6


def test_counters_of_a_task_begin_at_0_and_again_for_another_attempt():
    pad = _pregel.scratchpad(None, [], "t", "n:t", None, 1, 9)
    assert [pad.call_counter(), pad.call_counter(), pad.interrupt_counter()] == [0, 1, 0]
    again = pad.restarted()
    assert again.interrupt_counter() == 0
    assert again.call_counter() == 2
    assert isinstance(again, PregelScratchpad)
    assert pad.get_null_resume(True) is None


def test_answers_go_to_the_task_they_are_for():
    null = "00000000-0000-0000-0000-000000000000"
    pending = [(null, "__resume__", "all"), ("t", "__resume__", ["one"]), ("u", "__resume__", ["other"])]
    named = {_pregel.interrupt_id("n:t", 1): "two"}
    pad = _pregel.scratchpad(None, pending, "t", "n:t", named, 1, 9)
    assert pad.resume == ["one", "two"]
    assert pad.get_null_resume(False) == "all"
    assert pad.get_null_resume(True) == "all"
    assert pad.get_null_resume(True) is None
    assert len(pending) == 2
    child = _pregel.scratchpad(pad, [], "c", "n:t|c:c", None, 1, 9)
    assert child.get_null_resume(True) is None


def test_a_fresh_read_shows_a_task_its_own_writes_and_nobody_else():
    channels = live(x=LastValue(int), e=EphemeralValue(int))
    channels["x"].update([1])
    channels["e"].update([5])
    task = write("n", [("x", 2)])
    assert _pregel.local_read(None, channels, {}, task, ["x", "e"], True) == {"x": 2}
    assert _pregel.local_read(None, channels, {}, task, ["x", "e"]) == {"x": 1, "e": 5}
    assert channels["x"].get() == 1


@pytest.mark.parametrize("version", [str, int])
def test_the_null_version_is_below_all_others(version):
    checkpoint = empty()
    assert _pregel.null_version_of(checkpoint) is None
    checkpoint["channel_versions"]["x"] = version(3)
    assert _pregel.null_version_of(checkpoint) < version(3)
