"""Threads that begin in one process and go on in another, of the original or of ours; see test_interchange.py.

usage: python threads.py ours|theirs 1|2 FROM TO

Part 1 begins the threads of all SCENARIOS with every saver and leaves them in the folder TO; part 2 takes a copy of
FROM and goes on. Each writes TO/report.json: what was streamed and returned, what get_state and get_state_history say
of the threads as they were found, and the raw contents of the savers.
"""

import asyncio
import json
import operator
import pathlib
import pickle
import random
import re
import shutil
import sqlite3
import sys
import time
from dataclasses import dataclass

if __name__ == "__main__" and sys.argv[1] == "ours":
    import dynamo.langgraph

    dynamo.langgraph.install()

from typing import Annotated, Any

from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt
from typing_extensions import TypedDict

random.random = lambda: 0.5  # savers put one into each version
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}|\d{4}-\d\d-\d\dT[0-9:.]+")
LISTS = ("stream", "get_state_history")
SCENARIOS: dict[str, Any] = {}


def scenario(make):
    SCENARIOS[make.__name__] = make
    return make


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    n: int


def say(word):
    return lambda state: {"log": [word]}


def chain(state, *nodes, **compiled):
    graph = StateGraph(state)
    before = START
    for name, node in nodes:
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    graph.add_edge(before, END)
    return graph.compile(**compiled)


# ------------------------------------------------------------------ graphs, what is done first and what is done then
@scenario
def static_interrupt(saver):
    graph = chain(Log, ("a", say("a")), ("b", say("b")), ("c", say("c")), checkpointer=saver, interrupt_before=["b"])
    return graph, [("stream", {"log": ["in"]})], [("stream", None), ("invoke", {"log": ["again"]}), ("invoke", None)]


@scenario
def two_interrupts_in_a_node(saver):
    def ask(state):
        return {"log": [interrupt("first"), interrupt({"second": 2})]}

    graph = chain(Log, ("ask", ask), ("b", say("b")), checkpointer=saver)
    first = [("invoke", {"log": []}), ("invoke", Command(resume="one"))]
    return graph, first, [("stream", Command(resume="two"))]


@scenario
def fan_out(saver):
    def work(state):
        if state["n"] == 1:
            return {"log": [f"answered {interrupt('how?')}"]}
        return {"log": [f"did {state['n']}"]}

    graph = StateGraph(Log)
    graph.add_node("plan", say("plan"))
    graph.add_node("work", work)
    graph.add_node("end", say("end"))
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", lambda state: [Send("work", {"n": n}) for n in range(4)], ["work"])
    graph.add_edge("work", "end")
    return graph.compile(checkpointer=saver), [("stream", {"log": []})], [("stream", Command(resume="well"))]


@scenario
def failure(saver):
    def fails(state):
        config = {"configurable": {"thread_id": "failure"}}
        until = time.monotonic() + 20
        while not saver.get_tuple(config).pending_writes and time.monotonic() < until:
            time.sleep(0.001)  # the good one's writes are kept, and only then
        raise ValueError("at first")

    graph = StateGraph(Log)
    graph.add_node("good", say("good"))
    graph.add_node("bad", say("good now") if PART == 2 else fails, retry_policy=RetryPolicy(max_attempts=1))
    graph.add_node("end", say("end"))
    graph.add_conditional_edges(START, lambda state: ["good", "bad"])
    graph.add_edge(["good", "bad"], "end")
    return graph.compile(checkpointer=saver), [("invoke", {"log": [], "n": 1})], [("stream", None)]


@scenario
def subgraphs(saver):
    inner = chain(Log, ("leaf", lambda state: {"log": [interrupt("leaf?")]}), ("after", say("after")))
    middle = chain(Log, ("before", say("before")), ("inner", inner))
    graph = chain(Log, ("a", say("a")), ("middle", middle), ("b", say("b")), checkpointer=saver)
    return graph, [("stream", {"log": []})], [("stream", Command(resume="yes"))]


@scenario
def subgraph_with_a_memory(saver):
    inner = chain(Log, ("leaf", lambda state: {"log": ["leaf"], "n": state.get("n", 0) + 1}), checkpointer=True)
    graph = chain(Log, ("inner", inner), ("b", say("b")), checkpointer=saver)
    return graph, [("invoke", {"log": []}), ("invoke", {"log": ["2"]})], [("invoke", {"log": ["3"]})]


@scenario
def functions(saver):
    @task
    def double(x):
        return 2 * x

    @entrypoint(checkpointer=saver)
    def flow(x, *, previous=None):
        doubled = double(x).result()
        answer = interrupt(doubled)
        return entrypoint.final(value=[doubled, answer, previous], save=(previous or 0) + double(doubled).result())

    first = [("invoke", 1), ("invoke", Command(resume="a")), ("invoke", 2)]
    return flow, first, [("stream", Command(resume="x")), ("invoke", 3), ("invoke", Command(resume="b"))]


def joined(have, writes):
    return have + [x for xs in writes for x in xs]


class Deltas(TypedDict, total=False):
    items: Annotated[list[int], DeltaChannel(joined, list, snapshot_frequency=3)]
    n: int


@scenario
def deltas(saver):
    graph = StateGraph(Deltas)
    graph.add_node("add", lambda state: {"items": [state["n"]], "n": state["n"] + 1})
    graph.add_edge(START, "add")
    graph.add_conditional_edges("add", lambda state: END if state["n"] % 5 == 0 else "add")
    return graph.compile(checkpointer=saver), [("invoke", {"n": 1}), ("invoke", {"n": 6})], [("invoke", {"n": 11})]


@scenario
def joins_and_deferred(saver):
    graph = StateGraph(Log)
    for name in ("a", "b", "c"):
        graph.add_node(name, say(name))
    graph.add_node("join", say("join"))
    graph.add_node("last", say("last"), defer=True)
    graph.add_conditional_edges(START, lambda state: ["a", "c"])
    graph.add_edge("a", "b")
    graph.add_edge("c", "last")
    graph.add_edge(["b", "c"], "join")
    return (
        graph.compile(checkpointer=saver, interrupt_after=["a"]),
        [("stream", {"log": []})],
        [("stream", None)],
    )


@scenario
def changed_by_hand(saver):
    graph = chain(Log, ("a", say("a")), ("b", say("b")), ("c", say("c")), checkpointer=saver, interrupt_before=["c"])
    first = [("invoke", {"log": []}), ("update_state", {"log": ["by hand"]}, "a")]
    return graph, first, [("invoke", None), ("update_state", {"log": ["more"]}), ("invoke", None)]


@scenario
def time_travel(saver):
    graph = chain(Log, ("a", say("a")), ("b", say("b")), ("c", say("c")), checkpointer=saver)
    second = [("at", 2), ("invoke", None), ("at", 1), ("update_state", {"log": ["fork"]}), ("invoke", None)]
    return graph, [("invoke", {"log": []})], second


@scenario
def talk(saver):
    from langchain_core.messages import AIMessage

    def answer(state):
        return {"messages": [AIMessage(content=f"reply {len(state['messages'])}", id=f"m{len(state['messages'])}")]}

    def review(state):
        interrupt("fine?")

    graph = chain(MessagesState, ("answer", answer), ("review", review), checkpointer=saver)
    said = {"messages": [{"role": "user", "content": "hi", "id": "u1"}]}
    return graph, [("invoke", said)], [("invoke", Command(resume=True)), ("invoke", said)]


@scenario
def goto(saver):
    def leaf(state):
        return Command(goto="b", graph=Command.PARENT, update={"log": [f"leaf {interrupt('on?')}"]})

    graph = StateGraph(Log)
    graph.add_node("inner", chain(Log, ("leaf", leaf)), destinations=("b",))
    graph.add_node("b", lambda state: Command(goto=[Send("c", {"n": 1}), "d"], update={"log": ["b"]}))
    graph.add_node("c", lambda state: {"log": [f"c {state['n']}"]})
    graph.add_node("d", say("d"))
    graph.add_edge(START, "inner")
    return (
        graph.compile(checkpointer=saver),
        [("invoke", {"log": []})],
        [("stream", Command(resume="go", update={"n": 7}))],
    )


@scenario
def durable_at_the_end(saver):
    graph = chain(Log, ("a", say("a")), ("b", lambda state: {"log": [interrupt("?")]}), checkpointer=saver)
    first = [("invoke", {"log": []}, {"durability": "exit"})]
    return graph, first, [("invoke", Command(resume="x"), {"durability": "exit"}), ("invoke", {"log": []})]


@dataclass
class Point:
    x: int = 0
    log: Annotated[list, operator.add] = None  # type: ignore[assignment]


@scenario
def dataclass_state(saver):
    graph = chain(
        Point,
        ("a", lambda state: {"x": state.x + 1, "log": ["a"]}),
        ("b", lambda state: {"x": state.x + interrupt(state.x), "log": ["b"]}),
        checkpointer=saver,
    )
    return graph, [("invoke", {"x": 1, "log": []})], [("invoke", Command(resume=5))]


@scenario
def handled(saver):
    def fails(state):
        raise ValueError("no")

    graph = StateGraph(Log)
    graph.add_node("bad", fails, error_handler=lambda state: {"log": [f"handled {interrupt('how?')}"]})
    graph.add_edge(START, "bad")
    return graph.compile(checkpointer=saver), [("invoke", {"log": []})], [("stream", Command(resume="so"))]


# ------------------------------------------------------------------ doing it
def plain(value):
    """A value as JSON has it, without what differs from process to process."""
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def calls(graph, actions, thread):
    """Yield (method, arguments, keywords), be sent what came of it; returns what is to be reported."""
    config, seen = {"configurable": {"thread_id": thread}}, []
    where = config
    for method, *arguments in actions:
        if method == "at":
            where = (yield "get_state_history", (config,), {})[arguments[0]].config
            continue
        keywords = arguments.pop() if len(arguments) > 1 and isinstance(arguments[-1], dict) else {}
        if method == "stream":
            keywords = {"stream_mode": ["values", "updates", "checkpoints", "tasks"], "subgraphs": True}
        if method == "update_state":
            arguments.insert(0, where)
        else:
            arguments.insert(1, where)
        done = yield method, arguments, keywords
        where = done if method == "update_state" else config
        seen.append([method, plain(done)])
    return seen


def looks(graph, thread):
    config = {"configurable": {"thread_id": thread}}
    found = yield "get_state", (config,), {"subgraphs": True}
    history = yield "get_state_history", (config,), {}
    return [plain(found), plain(history)]


def sorted_if(streamed, items):
    """What tasks stream that run at the same time comes in no order."""
    return sorted(items, key=lambda item: ID.sub("", json.dumps(plain(item), sort_keys=True))) if streamed else items


def drive(graph, steps):
    try:
        call = next(steps)
        while True:
            method, arguments, keywords = call
            try:
                done = getattr(graph, method)(*arguments, **keywords)
                done = sorted_if(method == "stream", list(done)) if method in LISTS else done
            except ValueError as error:
                done = repr(error)
            call = steps.send(done)
    except StopIteration as end:
        return end.value


async def adrive(graph, steps):
    try:
        call = next(steps)
        while True:
            method, arguments, keywords = call
            try:
                done = getattr(graph, "a" + method)(*arguments, **keywords)
                if method in LISTS:
                    done = sorted_if(method == "stream", [item async for item in done])
                else:
                    done = await done
            except ValueError as error:
                done = repr(error)
            call = steps.send(done)
    except StopIteration as end:
        return end.value


def order(row):
    """By time where there is one, by path where there is not: task ids are hashes."""
    thread, ns, checkpoint = row[:3]
    return thread, ID.sub("", ns), checkpoint, *map(str, row[3:])


def in_sqlite(path):
    with sqlite3.connect(path) as connection:
        saved = connection.execute(
            "SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata "
            "FROM checkpoints"
        )
        rows = sorted(map(plain, saved), key=order)
        path = "task_path, " if "task_path" in str(list(connection.execute("PRAGMA table_info(writes)"))) else ""
        written = connection.execute(
            f"SELECT thread_id, checkpoint_ns, checkpoint_id, {path}idx, channel, task_id, type, value FROM writes"
        )
        return [*rows, *sorted(map(plain, written), key=order)]


def in_memory(saver):
    rows = [
        [thread, ns, checkpoint, *saved]
        for thread, spaces in saver.storage.items()
        for ns, checkpoints in spaces.items()
        for checkpoint, saved in checkpoints.items()
    ]
    written = [
        [*key, path, idx, channel, task, *value]
        for key, writes in saver.writes.items()
        for (_, idx), (task, channel, value, path) in writes.items()
    ]
    blobs = [
        [thread, ns, "", channel, version, *value] for (thread, ns, channel, version), value in saver.blobs.items()
    ]
    return [row for part in (rows, written, blobs) for row in sorted(map(plain, part), key=order)]


def both(make, saver, thread, driver):
    graph, first, second = make(saver)
    found = driver(graph, looks(graph, thread))
    return {"found": found, "done": driver(graph, calls(graph, first if PART == 1 else second, thread))}


async def in_a_loop(path):
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        report = {}
        for name, make in SCENARIOS.items():
            graph, first, second = make(saver)
            found = await adrive(graph, looks(graph, name))
            done = await adrive(graph, calls(graph, first if PART == 1 else second, name))
            report[name] = {"found": found, "done": done}
        return report


def main(source, folder):
    if PART == 2:
        shutil.copytree(source, folder)
    report = {}
    with SqliteSaver.from_conn_string(str(folder / "sync.sqlite")) as saver:
        report["sqlite"] = {name: both(make, saver, name, drive) for name, make in SCENARIOS.items()}
    report["aiosqlite"] = asyncio.run(in_a_loop(folder / "async.sqlite"))
    saver, kept = InMemorySaver(), folder / "memory.pickle"
    if kept.exists():
        storage, saver.writes, saver.blobs = pickle.loads(kept.read_bytes())
        for thread, spaces in storage.items():
            saver.storage[thread].update(spaces)
        writes = saver.writes
        saver.writes = InMemorySaver().writes
        saver.writes.update(writes)
    report["memory"] = {name: both(make, saver, name, drive) for name, make in SCENARIOS.items()}
    spaces = {thread: dict(space) for thread, space in saver.storage.items()}
    kept.write_bytes(pickle.dumps((spaces, dict(saver.writes), dict(saver.blobs))))
    rows = {
        "sqlite": in_sqlite(folder / "sync.sqlite"),
        "aiosqlite": in_sqlite(folder / "async.sqlite"),
        "memory": in_memory(saver),
    }
    for kind, threads in report.items():
        for name in threads:
            threads[name]["stored"] = [row for row in rows[kind] if row[0] == name]
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    PART = int(sys.argv[2])
    main(*map(pathlib.Path, sys.argv[3:]))
