"""Graphs whose nodes do next to nothing, so that a run costs what the engine costs; for modules with LangGraph's API.

`CASES` has them by name; `Case.runner(module, mode)` gives a function that runs one once. `floor` has the same node
functions in the smallest loop that could run them: what is left when the engine costs nothing.
"""

import asyncio
import contextvars
import importlib
import operator
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from typing_extensions import TypedDict

KEYS = [f"k{i}" for i in range(100)]
ALL = dict.fromkeys(KEYS, 1)


class One(TypedDict):
    x: int


class Fan(TypedDict):
    items: list
    out: Annotated[list, operator.add]


Many = TypedDict("Many", {**dict.fromkeys(KEYS, int), "x": int})


def both(function: Callable[[Any], Any], asynchronous: bool) -> Callable[[Any], Any]:
    """The function, or a coroutine function that does the same."""

    async def coroutine(state):
        return function(state)

    return coroutine if asynchronous else function


def add_one(state):
    return {"x": state["x"] + 1}


def add_one_to_all(state):
    return {"x": state["x"] + 1, **ALL}


def work(item):
    return {"out": [item["i"]]}


def row(module, nodes, asynchronous):
    """Nodes one after the other."""
    graph = module.StateGraph(One)
    graph.add_sequence([(f"n{i}", both(add_one, asynchronous)) for i in range(nodes)])
    graph.add_edge(module.START, "n0")
    return graph


def ring(module, steps, asynchronous, function=add_one, schema=One):
    """One node, and a path function that sends the run back to it."""
    graph = module.StateGraph(schema)
    graph.add_node("n", both(function, asynchronous))
    graph.add_edge(module.START, "n")
    end = module.END
    path = both(lambda state: end if state["x"] >= steps else "n", asynchronous)
    graph.add_conditional_edges("n", path, [end, "n"])
    return graph


def fan(module, tasks, asynchronous):
    """As many tasks at once, made with Send."""
    send = importlib.import_module(module.__name__.rpartition(".")[0] + ".types").Send
    graph = module.StateGraph(Fan)
    graph.add_node("w", both(work, asynchronous))
    path = both(lambda state: [send("w", {"i": i}) for i in state["items"]], asynchronous)
    graph.add_conditional_edges(module.START, path, ["w"])
    graph.add_edge("w", module.END)
    return graph


def nest(module, levels, asynchronous):
    """A graph in a graph in a graph."""
    graph = ring(module, 1, asynchronous)
    for _ in range(levels):
        outer = module.StateGraph(One)
        outer.add_node("inner", graph.compile())
        outer.add_edge(module.START, "inner")
        outer.add_edge("inner", module.END)
        graph = outer
    return graph


@dataclass(frozen=True)
class Case:
    """A graph and its input; `steps` supersteps (or tasks) a run."""

    build: Callable[[Any, bool], Any]
    given: dict[str, Any]
    steps: int
    saver: bool = False

    def runner(self, name: str, mode: str, loop: Any = None) -> Callable[[], Any]:
        """A function that runs the graph once: mode is invoke, ainvoke or astream."""
        asynchronous = mode != "invoke"
        saver = importlib.import_module("langgraph.checkpoint.memory").InMemorySaver() if self.saver else None
        graph = self.build(importlib.import_module(name + ".graph"), asynchronous).compile(checkpointer=saver)
        loop = loop or (asyncio.new_event_loop() if asynchronous else None)
        given = self.given

        def config():
            thread = {"configurable": {"thread_id": uuid.uuid4().hex}} if saver else {}
            return {"recursion_limit": 10**9, **thread}

        async def stream():
            async for _ in graph.astream(given, config(), stream_mode="updates"):
                pass

        def run():
            if mode == "invoke":
                graph.invoke(given, config())
            else:
                loop.run_until_complete(graph.ainvoke(given, config()) if mode == "ainvoke" else stream())
            if saver is not None:
                for kept in (saver.storage, saver.writes, saver.blobs):
                    kept.clear()

        return run


def _rings(saver: bool) -> dict[str, Case]:
    tail = ", saver" if saver else ""
    return {f"ring {n}{tail}": Case(lambda g, a, n=n: ring(g, n, a), {"x": 0}, n, saver) for n in (1, 10, 100, 1000)}


CASES: dict[str, Case] = {
    **_rings(False),
    **_rings(True),
    **{f"row {n}": Case(lambda g, a, n=n: row(g, n, a), {"x": 0}, n) for n in (10, 1000)},
    **{
        f"fan {n}": Case(lambda g, a, n=n: fan(g, n, a), {"items": list(range(n)), "out": []}, n)
        for n in (10, 100, 1000)
    },
    "nest 5": Case(lambda g, a: nest(g, 5, a), {"x": 0}, 6),
    "one of 101 keys": Case(lambda g, a: ring(g, 100, a, add_one, Many), {"x": 0, **ALL}, 100),
    "all of 101 keys": Case(lambda g, a: ring(g, 100, a, add_one_to_all, Many), {"x": 0, **ALL}, 100),
}


# ------------------------------------------------------------------ without an engine


def floor_steps(steps, mode):
    """Call the node and merge what it returns."""
    if mode == "invoke":
        state = {"x": 0}
        for _ in range(steps):
            state.update(add_one(dict(state)))
        return None

    async def run():
        state = {"x": 0}
        node = both(add_one, True)
        for _ in range(steps):
            state.update(await node(dict(state)))

    return run()


def floor_tasks(tasks, mode):
    """An asyncio task with a context of its own for each node, and the reducer."""
    if mode == "invoke":
        out = []
        for i in range(tasks):
            out = operator.add(out, work({"i": i})["out"])
        return None

    async def run():
        node, loop = both(work, True), asyncio.get_running_loop()
        started = []
        for i in range(tasks):
            context = contextvars.copy_context()
            started.append(context.run(loop.create_task, node({"i": i})))
        out = []
        for result in await asyncio.gather(*started):
            out = operator.add(out, result["out"])

    return run()


def floor(name: str, mode: str, loop: Any = None) -> Callable[[], Any]:
    """A function that runs the nodes of a case once, with no engine."""
    loop = loop or (None if mode == "invoke" else asyncio.new_event_loop())
    bare = floor_tasks if name.startswith("fan") else floor_steps
    steps = CASES[name].steps

    def run():
        work = bare(steps, mode)
        if work is not None:
            loop.run_until_complete(work)

    return run
