"""A run and its saver: what is saved when, what a resume finds, what a failing saver does to a run."""

import asyncio
import gc
import operator
import threading
import time
import weakref
from typing import Annotated

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from typing_extensions import TypedDict

from dynamo.langgraph.channels import DeltaChannel
from dynamo.langgraph.errors import UnknownInterruptError
from dynamo.langgraph.graph import END, START, StateGraph
from dynamo.langgraph.pregel._deltas import Deltas, early_id, late_id
from dynamo.langgraph.pregel._outbox import AHEAD, is_prompt
from dynamo.langgraph.types import Command, Overwrite, interrupt

THREAD = {"configurable": {"thread_id": "1"}}
DURABILITIES = ["sync", "async", "exit"]


class Slow(InMemorySaver):
    """A saver that is not called at once: it overrides what it inherits. Notes the order, fails on demand."""

    def __init__(self):
        super().__init__()
        self.calls, self.fail, self.hold, self.threads = [], None, None, set()

    def _note(self, what, step=None):
        self.threads.add(threading.get_ident())
        if self.hold is not None:
            assert self.hold.wait(10)
        if self.fail == (what, step):
            raise OSError(f"{what} {step}: the disk is full")
        self.calls.append((what, step))

    def put(self, config, checkpoint, metadata, new_versions):
        self._note("put", metadata["step"])
        return super().put(config, checkpoint, metadata, new_versions)

    def put_writes(self, config, writes, task_id, task_path=""):
        self._note("writes")
        super().put_writes(config, writes, task_id, task_path)

    async def aput(self, config, checkpoint, metadata, new_versions):
        await asyncio.sleep(0)
        return self.put(config, checkpoint, metadata, new_versions)

    async def aput_writes(self, config, writes, task_id, task_path=""):
        await asyncio.sleep(0)
        self.put_writes(config, writes, task_id, task_path)

    def steps(self):
        return [step for what, step in self.calls if what == "put"]


def merged(state, writes):
    return [*state, *(item for write in writes for item in write)]


class State(TypedDict):
    log: Annotated[list, operator.add]


class DeltaState(TypedDict):
    log: Annotated[list, DeltaChannel(merged, list)]


def line(*names, schema=State, saver=None, **nodes):
    """A graph of nodes one after another; a node without a function writes its name."""
    graph = StateGraph(schema)
    for before, name in zip((START, *names), names, strict=False):
        graph.add_node(name, nodes.get(name) or (lambda state, name=name: {"log": [name]}))
        graph.add_edge(before, name)
    graph.add_edge(names[-1], END)
    return graph.compile(checkpointer=saver)


def ask(state):
    return {"log": [interrupt("?")]}


def log_of(app):
    return app.get_state(THREAD).values["log"]


# ------------------------------------------------------------------ what is saved, and when
@pytest.mark.parametrize("schema", [State, DeltaState])
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("saver", [InMemorySaver, Slow])
def test_every_durability_saves_the_same_end(saver, durability, schema):
    app = line("a", "b", "c", schema=schema, saver=saver())
    assert app.invoke({"log": ["in"]}, THREAD, durability=durability)["log"] == ["in", "a", "b", "c"]
    assert log_of(app) == ["in", "a", "b", "c"]
    assert app.invoke({"log": ["again"]}, THREAD, durability=durability)["log"][3:] == ["c", "again", "a", "b", "c"]
    assert log_of(app)[3:] == ["c", "again", "a", "b", "c"]


@pytest.mark.parametrize("schema", [State, DeltaState])
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("saver", [InMemorySaver, Slow])
def test_every_durability_saves_the_same_end_in_an_event_loop(saver, durability, schema):
    app = line("a", "b", "c", schema=schema, saver=saver())

    async def main():
        await app.ainvoke({"log": ["in"]}, THREAD, durability=durability)
        return (await app.aget_state(THREAD)).values["log"]

    assert asyncio.run(main()) == ["in", "a", "b", "c"]


def test_checkpoints_are_saved_in_order_after_what_leads_to_them():
    saver = Slow()
    line("a", "b", "c", saver=saver, schema=DeltaState).invoke({"log": []}, THREAD)
    assert saver.steps() == [-1, 0, 1, 2, 3]
    assert saver.threads != {threading.get_ident()}
    for nth, (what, step) in enumerate(saver.calls):
        if what == "put" and step > 0:  # the writes of that many tasks came before
            assert saver.calls[:nth].count(("writes", None)) >= step


def test_a_slow_saver_does_not_hold_the_run_up_but_its_end():
    saver = Slow()
    saver.hold = threading.Event()
    ended = []

    def last(state):
        ended.append(list(saver.calls))
        saver.hold.set()
        return {"log": ["c"]}

    line("a", "b", "c", saver=saver, c=last).invoke({"log": []}, THREAD, durability="async")
    assert ended == [[]]
    assert saver.steps() == [-1, 0, 1, 2, 3]


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_run_does_not_get_further_and_further_ahead_of_its_saver(in_loop):
    ahead, ran = [], []

    class Disk(Slow):
        def put(self, *args):
            time.sleep(0.001)
            return super().put(*args)

        async def aput(self, *args):
            await asyncio.sleep(0.001)
            return Slow.put(self, *args)

    def step(state):
        ran.append(1)
        ahead.append(len(ran) - len(saver.steps()))
        return {"log": ["x"]}

    saver = Disk()
    graph = StateGraph(State)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if len(ran) < 100 else END)
    app = graph.compile(checkpointer=saver)
    asyncio.run(app.ainvoke({"log": []}, THREAD)) if in_loop else app.invoke({"log": []}, THREAD)
    assert max(ahead) <= AHEAD + 2
    assert len(saver.steps()) == 102


def test_durability_sync_waits_after_every_superstep():
    saver = Slow()
    seen = []

    def look(state):
        seen.append(saver.steps()[-1])
        return {"log": ["b"]}

    line("a", "b", saver=saver, b=look).invoke({"log": []}, THREAD, durability="sync")
    assert seen == [1]


def test_durability_exit_saves_once():
    saver = Slow()
    line("a", "b", "c", saver=saver).invoke({"log": []}, THREAD, durability="exit")
    assert saver.calls == [("put", 3)]


def test_a_saver_in_memory_is_called_at_once_and_only_if_it_is_nothing_else():
    assert is_prompt(InMemorySaver())
    assert not is_prompt(Slow())
    spied = InMemorySaver()
    spied.put = lambda *args: None
    assert not is_prompt(spied)


def test_no_chain_of_futures_keeps_saved_checkpoints_alive():
    class Big(list):
        __slots__ = ("__weakref__",)

    class Keep(Slow):
        def put(self, config, checkpoint, metadata, new_versions):
            self._note("put", metadata["step"])
            return config

        def put_writes(self, *args, **kwargs):
            pass

    class Replaced(TypedDict):
        log: list

    made, alive = [], []

    def step(state):
        alive.append(sum(ref() is not None for ref in made))
        fresh = Big()
        made.append(weakref.ref(fresh))
        return {"log": fresh}

    saver = Keep()
    app = line(*[f"n{n}" for n in range(20)], schema=Replaced, saver=saver, **{f"n{n}": step for n in range(20)})
    gc.disable()
    try:
        app.invoke({"log": []}, THREAD, durability="sync")
    finally:
        gc.enable()
    assert len(saver.steps()) == 22
    assert max(alive) <= 3


# ------------------------------------------------------------------ savers that fail
@pytest.mark.parametrize("in_loop", [False, True])
def test_a_failed_checkpoint_ends_the_run_and_nothing_is_saved_behind_it(in_loop):
    saver = Slow()
    saver.fail = "put", 1
    ran = []
    app = line("a", "b", "c", saver=saver, c=lambda state: ran.append("c") or {"log": ["c"]})
    with pytest.raises(OSError, match="put 1: the disk is full"):
        asyncio.run(app.ainvoke({"log": []}, THREAD)) if in_loop else app.invoke({"log": []}, THREAD)
    assert ran == ["c"]
    assert saver.steps() == [-1, 0]


def test_durability_sync_stops_at_the_failure():
    saver = Slow()
    saver.fail = "put", 1
    ran = []
    app = line("a", "b", saver=saver, b=lambda state: ran.append("b") or {"log": ["b"]})
    with pytest.raises(OSError, match="the disk is full"):
        app.invoke({"log": []}, THREAD, durability="sync")
    assert ran == []


@pytest.mark.parametrize("in_loop", [False, True])
def test_what_cannot_be_serialised_fails_the_run_at_its_end_with_a_saver_in_memory_too(in_loop):
    ran = []
    app = line("a", "b", saver=InMemorySaver(), a=lambda s: {"log": [threading.Lock()]}, b=lambda s: ran.append(1))
    with pytest.raises(TypeError, match="lock"):
        asyncio.run(app.ainvoke({"log": []}, THREAD)) if in_loop else app.invoke({"log": []}, THREAD)
    assert ran == [1]
    history = list(app.get_state_history(THREAD))
    assert [state.metadata["step"] for state in history] == [0, -1]


def test_writes_that_a_failed_step_had_made_are_not_made_again():
    calls, saved = [], threading.Event()

    class Told(Slow):
        def put_writes(self, config, writes, *more):
            super().put_writes(config, writes, *more)
            if ("log", ["good"]) in writes:  # not those of the step before
                saved.set()

    def good(state):
        calls.append("good")
        return {"log": ["good"]}

    def bad(state):
        calls.append("bad")
        assert saved.wait(10)
        if calls.count("bad") == 1:
            raise ValueError("once")
        return {"log": ["bad"]}

    graph = StateGraph(State)
    graph.add_node("good", good)
    graph.add_node("bad", bad)
    graph.add_edge(START, "good")
    graph.add_edge(START, "bad")
    app = graph.compile(checkpointer=Told())
    with pytest.raises(ValueError, match="once"):
        app.invoke({"log": []}, THREAD)
    assert sorted(app.invoke(None, THREAD)["log"]) == ["bad", "good"]
    assert calls.count("good") == 1


# ------------------------------------------------------------------ resuming
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("schema", [State, DeltaState])
def test_an_interrupted_run_goes_on_with_the_answer(schema, durability):
    app = line("a", "ask", "b", schema=schema, saver=InMemorySaver(), ask=ask)
    first = app.invoke({"log": []}, THREAD, durability=durability)
    assert first["log"] == ["a"] and first["__interrupt__"][0].value == "?"
    assert app.get_state(THREAD).next == ("ask",)
    assert app.invoke(Command(resume="!"), THREAD, durability=durability)["log"] == ["a", "!", "b"]
    assert log_of(app) == ["a", "!", "b"]


def test_answers_by_id_reach_their_interrupts_and_strangers_are_refused_when_strict():
    graph = StateGraph(State)
    for name in ("x", "y"):
        graph.add_node(name, lambda state, name=name: {"log": [name + interrupt(name)]})
        graph.add_edge(START, name)
    app = graph.compile(checkpointer=InMemorySaver())
    asked = {one.value: one.id for one in app.invoke({"log": []}, THREAD)["__interrupt__"]}
    with pytest.raises(RuntimeError, match="must specify the interrupt id"):
        app.invoke(Command(resume="?"), THREAD)
    strict = {"configurable": {"thread_id": "1", "__pregel_strict_resume": True}}
    with pytest.raises(UnknownInterruptError, match="0123"):
        app.invoke(Command(resume={"0123" * 8: "?"}), strict)
    app.invoke(Command(resume={asked["y"]: "2"}), THREAD)
    assert app.invoke(Command(resume={asked["x"]: "1"}), THREAD)["log"] == ["x1", "y2"]


def test_an_answer_needs_a_saver():
    with pytest.raises(RuntimeError, match="without checkpointer"):
        line("a", saver=None).invoke(Command(resume=1))
    with pytest.raises(Exception, match="empty Command"):
        line("a", saver=InMemorySaver()).invoke(Command(), THREAD)


# ------------------------------------------------------------------ time travel
@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("schema", [State, DeltaState])
def test_a_run_from_an_old_checkpoint_forks_and_leaves_the_old_branch_alone(schema, durability):
    turns = iter("123456789")
    app = line("a", "b", schema=schema, saver=InMemorySaver(), b=lambda state: {"log": ["b" + next(turns)]})
    app.invoke({"log": []}, THREAD, durability=durability)
    old = {state.next: state for state in app.get_state_history(THREAD)}
    before_b, end = old[("b",)], old[()]
    assert app.invoke(None, before_b.config, durability=durability)["log"] == ["a", "b2"]
    assert log_of(app) == ["a", "b2"]
    assert app.get_state(end.config).values["log"] == ["a", "b1"]
    fork = next(state for state in app.get_state_history(THREAD) if state.metadata["source"] == "fork")
    assert fork.parent_config["configurable"]["checkpoint_id"] == before_b.config["configurable"]["checkpoint_id"]


def test_replay_raises_the_interrupt_again():
    app = line("ask", "b", saver=InMemorySaver(), ask=ask)
    app.invoke({"log": []}, THREAD)
    app.invoke(Command(resume="1"), THREAD)
    before = [state for state in app.get_state_history(THREAD) if state.next == ("ask",)][-1]
    again = app.invoke(None, before.config)
    assert again["__interrupt__"][0].value == "?"
    assert app.invoke(Command(resume="2"), THREAD)["log"] == ["2", "b"]


@pytest.mark.parametrize("schema", [State, DeltaState])
def test_an_update_is_written_as_its_node_and_the_run_goes_on_behind_it(schema):
    app = line("a", "b", schema=schema, saver=InMemorySaver())
    app.invoke({"log": []}, THREAD, interrupt_before="b")
    app.update_state(THREAD, {"log": ["mine"]}, as_node="a")
    assert log_of(app) == ["a", "mine"]
    assert app.invoke(None, THREAD)["log"] == ["a", "mine", "b"]
    app.update_state(THREAD, {"log": Overwrite(["new"])}, as_node="b")
    assert log_of(app) == ["new"]


def test_copies_are_brothers_of_the_checkpoint():
    app = line("a", "b", saver=InMemorySaver())
    app.invoke({"log": []}, THREAD)
    end = app.get_state(THREAD)
    twin = app.update_state(end.config, None, as_node="__copy__")
    copy = app.get_state(twin)
    assert copy.values == end.values and copy.metadata["source"] == "fork"
    assert copy.parent_config == end.parent_config


def test_updates_are_refused_in_words():
    app = line("a", "b", saver=InMemorySaver())
    with pytest.raises(ValueError, match="No supersteps"):
        app.bulk_update_state(THREAD, [])
    with pytest.raises(ValueError, match="No updates"):
        app.bulk_update_state(THREAD, [[]])
    with pytest.raises(Exception, match=r"Node c does not exist: as_node is one of .*'a', 'b'"):
        app.update_state(THREAD, {"log": []}, as_node="c")
    with pytest.raises(ValueError, match="No checkpointer set"):
        line("a").get_state(THREAD)


# ------------------------------------------------------------------ delta channels
def test_delta_writes_are_replayed_and_snapshots_are_taken_in_between():
    class Often(TypedDict):
        log: Annotated[list, DeltaChannel(merged, list, snapshot_frequency=3)]

    saver = InMemorySaver()
    names = [f"n{n}" for n in range(10)]
    app = line(*names, schema=Often, saver=saver)
    app.invoke({"log": []}, THREAD)
    whole = [saved for saved in saver.list(THREAD) if "log" in saved.checkpoint["channel_values"]]
    assert 2 <= len(whole) <= 5
    for state in app.get_state_history(THREAD):
        assert state.values.get("log", []) == names[: max(0, state.metadata["step"])]


def test_the_ids_of_late_writes_sort_by_superstep_and_behind_real_ones():
    real = "99aa06d3-0147-98d8-6001-c324468d497f"
    early = [early_id(step, real) for step in (0, 1, 20, 300)]
    late = [late_id(step, real) for step in (0, 1, 70000)]
    assert early == sorted(early) and late == sorted(late)
    assert max(early) < real < min(late)
    null = "00000000-0000-0000-0000-000000000000"
    assert early_id(0, null) != null


def test_the_book_saves_nothing_twice():
    book = Deltas({"d"}, keeps=True)
    book.found([("t1", "d", 1), ("t1", "x", 1), ("t2", "d", 2)], gives_back=True)
    book.returned.add("t1")
    book.keep(4, [("t1", "d", 1), ("t3", "d", 3), ("t3", "x", 0)], lambda task: "path")
    assert [(late.task, late.value) for late in book.late] == [("t3", 3)]
    book.dropped()
    assert book.forced == {"d"}  # nobody got the write of t2 back
    assert book.parcels({"d"}) == {}


# ------------------------------------------------------------------ the end of a run
def test_a_run_leaves_nothing_behind():
    from dynamo.langgraph.pregel._loop import AsyncPregelLoop, SyncPregelLoop

    app = line("a", "ask", saver=Slow(), ask=ask)
    gc.collect()
    gc.disable()
    try:
        app.invoke({"log": []}, THREAD)
        asyncio.run(app.ainvoke({"log": []}, {"configurable": {"thread_id": "2"}}))
        left = [one for one in gc.get_objects() if isinstance(one, (SyncPregelLoop, AsyncPregelLoop))]
    finally:
        gc.enable()
    assert left == []


def test_a_cancelled_run_saves_what_it_had():
    saver = Slow()

    async def wait(state):
        started.set()
        await asyncio.sleep(60)

    app = line("a", "wait", saver=saver, wait=wait)

    async def main():
        global started
        started = asyncio.Event()
        run = asyncio.create_task(app.ainvoke({"log": []}, THREAD))
        await asyncio.wait_for(started.wait(), 10)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        return (await app.aget_state(THREAD)).values["log"]

    assert asyncio.run(main()) == ["a"]
