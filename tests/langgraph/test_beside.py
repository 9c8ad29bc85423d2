"""Several tasks of one superstep of a synchronous run: on threads, beside one another, shown as they end."""

import asyncio
import concurrent.futures
import contextvars
import gc
import operator
import threading
import traceback
import weakref
from typing import Annotated

import pytest
from typing_extensions import TypedDict

from dynamo.langgraph.checkpoint.memory import InMemorySaver
from dynamo.langgraph.config import get_config
from dynamo.langgraph.errors import GraphInterrupt
from dynamo.langgraph.func import task
from dynamo.langgraph.graph import START, StateGraph
from dynamo.langgraph.types import Command, Send, interrupt

PATIENT = 30.0


class State(TypedDict, total=False):
    log: Annotated[list, operator.add]
    given: object


def beside(*nodes, saver=None, **named):
    """A graph whose nodes all run in its first superstep."""
    named = {**{f"n{i}": node for i, node in enumerate(nodes)}, **named}
    graph = StateGraph(State)
    for name, node in named.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
    return graph.compile(checkpointer=saver)


def says(*words):
    return lambda state: {"log": list(words)}


def threads_of(app, config=None):
    return app.invoke({"log": []}, config)["log"]


def test_tasks_run_beside_one_another_and_not_in_the_callers_thread():
    together = threading.Barrier(4)

    def node(state):
        together.wait(PATIENT)
        return {"log": [threading.get_ident()]}

    seen = threads_of(beside(*[node] * 4))
    assert len(set(seen)) == 4 and threading.get_ident() not in seen


def test_quick_tasks_do_not_run_in_the_callers_thread_either():
    seen = threads_of(beside(*[lambda state: {"log": [threading.get_ident()]}] * 3))
    assert len(seen) == 3 and threading.get_ident() not in seen


@pytest.mark.parametrize("mode", ["updates", "tasks", "values"])
def test_what_a_task_did_is_shown_when_it_ends(mode):
    shown = threading.Event()
    waited = []
    app = beside(slow=lambda state: waited.append(shown.wait(PATIENT)) or {"log": ["slow"]}, quick=says("quick"))
    names = []
    for chunk in app.stream({"log": []}, stream_mode=mode):
        if mode == "tasks" and "result" not in chunk:
            continue
        names.append(chunk["name"] if mode == "tasks" else next(iter(chunk)))
        if names[-1] == "quick":
            shown.set()
        if mode == "values":
            shown.set()
    assert waited == [True]
    assert names == (["log", "log"] if mode == "values" else ["quick", "slow"])


def test_ends_are_shown_in_their_order():
    turns = [threading.Event() for _ in range(6)]
    turns[5].set()

    def node(number):
        def run(state):
            assert turns[number].wait(PATIENT)
            return {"log": [number]}

        return run

    app, seen = beside(*[node(n) for n in range(6)]), []
    for chunk in app.stream({"log": []}, {"max_concurrency": 6}):
        seen += chunk
        number = int(seen[-1][1:])
        if number:
            turns[number - 1].set()
    assert seen == ["n5", "n4", "n3", "n2", "n1", "n0"]


def test_writes_are_applied_in_the_order_of_tasks_however_they_ended():
    first = threading.Event()
    app = beside(a=lambda state: first.wait(PATIENT) and {"log": ["a"]}, b=lambda state: first.set() or {"log": ["b"]})
    assert app.invoke({"log": []})["log"] == ["a", "b"]


@pytest.mark.parametrize("limit", [1, 2, 5, None])
def test_no_more_tasks_run_at_a_time_than_allowed(limit):
    guard, running, most = threading.Lock(), [], []

    def node(state):
        with guard:
            running.append(1)
            most.append(len(running))
        threading.Event().wait(0.002)
        with guard:
            running.pop()
        return {"log": [1]}

    app = StateGraph(State).add_node("node", node)
    app.add_conditional_edges(START, lambda state: [Send("node", {})] * 20)
    assert len(app.compile().invoke({"log": []}, {"max_concurrency": limit} if limit else None)["log"]) == 20
    assert max(most) <= (limit or 36)


@pytest.mark.parametrize("run", ["invoke", "stream"])
def test_the_first_failure_is_raised_and_those_that_run_are_waited_for(run):
    begun, failed, ended = threading.Event(), threading.Event(), []

    def slow(state):
        begun.set()
        failed.wait(PATIENT)
        threading.Event().wait(0.02)
        ended.append("slow")
        return {"log": ["slow"]}

    def bad(state):
        begun.wait(PATIENT)
        failed.set()
        raise ValueError("bad")

    app = beside(slow, bad)
    with pytest.raises(ValueError, match="bad") as caught:
        list(app.stream({"log": []})) if run == "stream" else app.invoke({"log": []})
    assert ended == ["slow"]
    assert any("During task with name 'n1'" in note for note in caught.value.__notes__)
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert files[-1] == __file__ and not any("_workers" in file for file in files)


def test_what_has_no_thread_yet_is_not_begun_after_a_failure():
    ran = []

    def bad(state):
        raise ValueError("bad")

    app = beside(bad, lambda state: ran.append(1), lambda state: ran.append(2))
    with pytest.raises(ValueError, match="bad"):
        app.invoke({"log": []}, {"max_concurrency": 1})
    assert ran == []


def test_what_ran_beside_a_failure_need_not_run_again():
    for _ in range(20):
        ran, fails = [], [True]

        def bad(state, fails=fails):
            if fails:
                raise ValueError("bad")
            return {"log": ["bad"]}

        saver, thread = InMemorySaver(), {"configurable": {"thread_id": "1"}}
        app = beside(bad, lambda state, ran=ran: ran.append(1) or {"log": ["good"]}, saver=saver)
        with pytest.raises(ValueError, match="bad"):
            app.invoke({"log": []}, thread)
        fails.clear()
        assert app.invoke(None, thread)["log"] == ["bad", "good"]
        assert ran == [1]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_is_no_exception_comes_to_the_caller(error):
    def bad(state):
        raise error("out")

    with pytest.raises(error, match="out"):
        beside(bad, says("good")).invoke({"log": []})


def test_a_command_that_cannot_be_obeyed_fails_its_task():
    class Update:
        log: list

        def __getattribute__(self, name):
            if name == "log":
                raise LookupError("no log")
            return super().__getattribute__(name)

    app = beside(beside(lambda state: Command(graph=Command.PARENT, update=Update())), says("good"))
    with pytest.raises(LookupError, match="no log"):
        app.invoke({"log": []})


def test_interrupts_of_all_come_together():
    def ask(state):
        return {"log": [interrupt("what?")]}

    app = beside(ask, ask, says("plain"), saver=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    asked = app.invoke({"log": []}, thread)["__interrupt__"]
    assert [one.value for one in asked] == ["what?", "what?"]
    answers = {one.id: number for number, one in enumerate(asked)}
    *given, last = app.invoke(Command(resume=answers), thread)["log"]
    assert (sorted(given), last) == ([0, 1], "plain")  # they asked in any order


def test_interrupts_inside_a_graph_inside_come_together():
    def ask(state):
        return {"log": [interrupt("what?")]}

    outer = beside(beside(ask, ask), says("plain"), saver=InMemorySaver())
    assert len(outer.invoke({"log": []}, {"configurable": {"thread_id": "1"}})["__interrupt__"]) == 2
    caught = []

    def node(state):
        try:
            return beside(ask, ask).invoke(state)
        except GraphInterrupt as error:
            caught.append(len(error.args[0]))
            raise

    outer = beside(node, says("plain"), saver=InMemorySaver())
    outer.invoke({"log": []}, {"configurable": {"thread_id": "1"}})
    assert caught == [2]


# ------------------------------------------------------------------ tasks that call others


@task
def twice(value):
    return value * 2


@task
def refuse(value):
    raise ValueError(f"not {value}")


@pytest.mark.parametrize("run", ["invoke", "stream"])
def test_tasks_call_others(run):
    app = beside(*[lambda state, n=n: {"log": [twice(n).result(), twice(n + 1).result()]} for n in range(3)])
    wanted = {f"n{n}": {"log": [2 * n, 2 * n + 2]} for n in range(3)}
    if run == "invoke":
        assert app.invoke({"log": []})["log"] == [0, 2, 2, 4, 4, 6]
    else:
        seen = [chunk for chunk in app.stream({"log": []}) if "twice" not in chunk]
        assert {name: value for chunk in seen for name, value in chunk.items()} == wanted


def test_a_called_task_that_nobody_waits_for_belongs_to_the_superstep():
    hold, done = threading.Event(), []

    @task
    def late():
        hold.wait(PATIENT)
        done.append("late")

    def node(state):
        late()
        return {"log": ["node"]}

    app = beside(node, node)
    seen = []
    for chunk in app.stream({"log": []}, {"max_concurrency": 1}):
        seen += chunk
        if len(seen) == 2:
            assert done == []
            hold.set()
    assert done == ["late", "late"] and seen == ["n0", "n1", "late", "late"]


def test_failures_of_called_tasks_are_their_callers_business():
    def wary(state):
        try:
            refuse(1).result()
        except ValueError as error:
            return {"log": [str(error)]}

    assert beside(wary, says("good")).invoke({"log": []})["log"] == ["not 1", "good"]
    with pytest.raises(ValueError, match="not 2"):
        beside(lambda state: refuse(2).result(), says("good")).invoke({"log": []})


def test_a_call_after_the_superstep_is_refused():
    kept = []

    def keep(state):
        context = contextvars.copy_context()
        kept.append(lambda: context.run(twice, 1))
        return {"log": []}

    app = beside(keep, says("x"))
    app.invoke({"log": []})
    with pytest.raises(RuntimeError, match="after its caller's superstep had ended"):
        kept[0]()


# ------------------------------------------------------------------ what is around them


def test_a_task_sees_the_callers_context_and_keeps_its_own():
    variable = contextvars.ContextVar("variable", default="nothing")

    def node(state):
        seen = variable.get()
        variable.set("mine")
        return {"log": [seen]}

    token = variable.set("callers")
    try:
        assert beside(node, node, node).invoke({"log": []})["log"] == ["callers"] * 3
        assert variable.get() == "callers"
    finally:
        variable.reset(token)


def test_what_a_thread_keeps_is_gone_in_the_next_run():
    local = threading.local()

    def node(state):
        seen = getattr(local, "seen", None)
        local.seen = state["given"]
        return {"log": [seen]}

    app = beside(node, node)
    app.invoke({"log": [], "given": 1})
    assert 1 not in app.invoke({"log": [], "given": 2})["log"]


@pytest.mark.parametrize("how", ["well", "badly", "broken off"])
def test_nothing_of_a_run_is_left(how):
    class Thing:
        pass

    def node(state):
        if how == "badly":
            raise ValueError("bad")
        return {"log": [state["given"]]}

    def run():
        thing = Thing()
        app = beside(node, says("x"), node)
        if how == "badly":
            with pytest.raises(ValueError, match="bad"):
                app.invoke({"log": [], "given": thing})
        elif how == "broken off":
            stream = app.stream({"log": [], "given": thing})
            next(stream)
            stream.close()
        else:
            app.invoke({"log": [], "given": thing})
        return weakref.ref(thing)

    run()
    alive = run()
    gc.collect()
    assert alive() is None


def test_a_good_run_is_freed_without_the_collector():
    class Thing:
        pass

    thing = Thing()
    alive, app = weakref.ref(thing), beside(lambda state: {"log": [1]}, says("x"))
    app.invoke({"log": [], "given": Thing()})
    gc.collect()
    gc.disable()
    try:
        app.invoke({"log": [], "given": thing})
        for _ in app.stream({"log": [], "given": thing}):
            pass
        del thing
        assert alive() is None
    finally:
        gc.enable()


def test_graphs_inside_graphs_do_not_wait_for_one_another_s_threads():
    app = beside(says(1), says(2))
    for _ in range(4):
        app = beside(app, app)
    assert len(app.invoke({"log": []}, {"max_concurrency": 2})["log"]) == 32
    assert len(app.invoke({"log": []})["log"]) == 32


def test_many_runs_at_once():
    inner = beside(says("a"), says("b"))
    app = beside(inner, says("c"), *[lambda state: {"log": [twice(2).result()]}] * 2)

    def some(number):
        for _ in range(15):
            got = app.invoke({"log": []}) if number % 2 else list(app.stream({"log": []}, stream_mode="values"))[-1]
            assert got["log"] == ["a", "b", "c", 4, 4]
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(some, range(16)))


# ------------------------------------------------------------------ functions in an event loop


def test_functions_in_an_event_loop_run_on_its_executor():
    async def run():
        with concurrent.futures.ThreadPoolExecutor(2, "theirs") as pool:
            asyncio.get_running_loop().set_default_executor(pool)
            node = lambda state: {"log": [threading.current_thread().name.split("_")[0]]}  # noqa: E731
            return (await beside(node, node).ainvoke({"log": []}))["log"]

    assert asyncio.run(run()) == ["theirs", "theirs"]


def test_a_function_in_an_event_loop_may_raise_what_a_future_cannot_carry():
    def bad(state):
        raise StopIteration(3)

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(beside(bad).ainvoke({"log": []}))
    assert isinstance(caught.value.__cause__, StopIteration)


def test_a_function_in_an_event_loop_sees_its_config_and_keeps_its_context():
    variable = contextvars.ContextVar("variable", default="nothing")

    def node(state):
        seen = variable.get()
        variable.set("mine")
        return {"log": [seen, get_config()["metadata"]["langgraph_node"]]}

    async def run():
        variable.set("callers")
        return (await beside(node, node).ainvoke({"log": []}))["log"], variable.get()

    assert asyncio.run(run()) == (["callers", "n0", "callers", "n1"], "callers")
