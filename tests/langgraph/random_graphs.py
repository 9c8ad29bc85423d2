"""Graphs made by chance, and what came of running them; see test_random_graphs.py.

usage: python random_graphs.py ours|theirs FIRST NUMBER

For each of NUMBER seeds from FIRST on, one line of JSON: [seed, [[what, result], ...]]. A seed decides the graph (plain
nodes, Commands, Sends, joins, conditional edges, interrupts, failures, retries, subgraphs, deferred nodes) and the
runs of it (sync or async, stream modes, durability, resumes, updates, forks). Results are told so that what no two
runs have in common is left out: ids, times, random parts of versions, the order in which threads ended.
"""

import asyncio
import dataclasses
import json
import operator
import random
import re
import sys
import zlib

if __name__ == "__main__" and sys.argv[1] == "ours":
    import dynamo.langgraph

    dynamo.langgraph.install()

from typing import Annotated, Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.errors import GraphRecursionError
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt
from typing_extensions import TypedDict

KINDS = {
    **{"plain": 10.0, "command": 3.0, "send": 2.0, "writes": 2.0, "subgraph": 1.5, "asks": 1.5, "nothing": 1.0},
    **{"several": 1.0, "flaky": 0.7, "asks twice": 0.5, "fails": 0.4},
}
MODES = (
    *("values", "updates", "custom", ["values"], ["updates"], ["debug"], ["tasks", "checkpoints"]),
    *(["values", "updates", "custom"], ["messages", "updates"]),
)


# -------------------------------------------------------------------- what is decided by chance
def some_graph(chance, depth=0):
    names = [f"n{i}" for i in range(chance.randint(1, 6))]
    anyone = lambda: chance.choice(names)  # noqa: E731
    keys = {"a": "last", "b": chance.choice(["list", "last"]), "c": chance.choice(["sum", "last"]), "d": "list"}
    kinds = [kind for kind in KINDS if kind != "subgraph" or depth < 2]
    nodes = {}
    for name in names:
        kind = chance.choices(kinds, [KINDS[kind] for kind in kinds])[0]
        nodes[name] = {
            "kind": kind,
            "keys": chance.sample(sorted(keys), chance.randint(0, 3)),
            "salt": chance.randint(0, 99),
            "coroutine": chance.random() < 0.3,
            "defer": chance.random() < 0.1,
            "copies": chance.randint(1, 2),
            "target": anyone(),
            "graph": some_graph(chance, depth + 1) if kind == "subgraph" else None,
        }
    edges = [(START, anyone()) for _ in range(chance.choice([1, 1, 2]))]
    edges += [
        (name, chance.choice([anyone(), anyone(), END])) for name in names for _ in range(chance.choice([0, 1, 1, 2]))
    ]
    joins = [(chance.sample(names, 2), anyone())] if len(names) > 2 and chance.random() < 0.4 else []
    branches = [
        (name, [chance.choice([anyone(), END]) for _ in range(3)], chance.choice(["names", "names", "sends", "keys"]))
        for name in names
        if chance.random() < 0.35
    ]
    if any(node["kind"] == "send" for node in nodes.values()) or any(answers == "sends" for *_, answers in branches):
        for node in nodes.values():
            if node["graph"]:
                node["graph"]["own saver"] = None  # who of several writes into one memory last is a matter of luck
    stops = [[anyone()] if chance.random() < 0.12 else [] for _ in range(2)]
    return {
        **{"keys": keys, "nodes": nodes, "edges": edges, "joins": joins, "branches": branches, "stops": stops},
        "own saver": chance.choice([None, None, True]),
    }


def some_runs(chance):
    fork = chance.random() < 0.3
    return {
        "await": chance.random() < 0.5,
        "saver": chance.random() < 0.6,
        "stream": chance.choice([None, None, *MODES]),
        "subgraphs": chance.random() < 0.4,
        # With "exit" the original does not take subgraphs with a memory of their own back in time.
        "durability": chance.choice(["sync", "async"] if fork else ["sync", "async", "exit"]),
        "limit": chance.choice([4, 8, 12]),
        "input": chance.randint(0, 9),
        "resumes": chance.randint(0, 3),
        "update": chance.random() < 0.3,
        "fork": fork,
    }


# -------------------------------------------------------------------- the graph
def fate(state, salt):
    return zlib.crc32(json.dumps([sorted(dict(state).items()), salt], default=str).encode())


def tail(left, right):
    # A subgraph gives the whole list back: without a bound it would double with every superstep.
    return (left + right)[-20:]


def state_of(keys):
    kinds = {"last": Any, "list": Annotated[list, tail], "sum": Annotated[int, operator.add]}
    return TypedDict("State", {name: kinds[kind] for name, kind in keys.items()}, total=False)


def build(spec, how, saver):
    keys, graph = spec["keys"], StateGraph(state_of(spec["keys"]))

    def update(state, node):
        told = fate(state, node["salt"])
        return {k: [(told + i) % 7] if keys[k] == "list" else (told + i) % 11 for i, k in enumerate(node["keys"])}

    def body(name, node):
        tries = 0

        def run(state):
            nonlocal tries
            kind, result, told = node["kind"], update(state, node), fate(state, node["salt"])
            if kind == "command":
                return Command(update=result, goto=node["target"] if told % 3 else [])
            if kind == "send":
                copies = range(node["copies"] if told % 2 else 0)
                return Command(update=result, goto=[Send(node["target"], {"a": i, "d": ["sent"]}) for i in copies])
            if kind == "asks":
                return {"d": [f"told {interrupt({'who': name})}"]}
            if kind == "asks twice":
                return {"d": [f"told {interrupt('one')} and {interrupt('two')}"]}
            if kind == "several":
                return [Command(update=result), Command(update={"d": ["more"]})]
            if kind == "fails":
                raise ValueError(name)
            if kind == "flaky":
                tries += 1
                if tries % 2:
                    raise ConnectionError(name)
            if kind == "writes":
                get_stream_writer()({"from": name, "keys": sorted(state)})
            return None if kind == "nothing" else result

        async def arun(state):
            await asyncio.sleep(0)
            return run(state)

        return arun if node["coroutine"] and how["await"] else run

    def path(number, targets, answers):
        def choose(state):
            told = fate(state, number)
            target = targets[told % len(targets)]
            if answers == "keys":
                return told % len(targets)
            return (
                [Send(target, {"a": 1, "c": 2}), END][: 1 + told % 2]
                if answers == "sends" and target != END
                else target
            )

        choose.__name__ = f"path{number}"
        return choose

    for name, node in spec["nodes"].items():
        inner = node["graph"]
        policy = RetryPolicy(initial_interval=0.001, jitter=False) if node["kind"] == "flaky" else None
        made = build(inner, how, inner["own saver"]) if inner else body(name, node)
        graph.add_node(name, made, defer=node["defer"], retry_policy=policy)
    for start, end in [*spec["edges"], *spec["joins"]]:
        graph.add_edge(start, end)
    for number, (name, targets, answers) in enumerate(spec["branches"]):
        known = dict(enumerate(targets)) if answers == "keys" else list(dict.fromkeys(targets))
        graph.add_conditional_edges(name, path(number, targets, answers), known)
    before, after = spec["stops"]
    return graph.compile(checkpointer=saver, interrupt_before=before, interrupt_after=after)


# -------------------------------------------------------------------- what came of it
UNIQUE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9a-f]{32}\b(?!\.)|\d{4}-\d\d-\d\dT[\d:.]+(\+00:00)?|(?<= at )0x[0-9a-f]+"
)
VERSION = re.compile(r"\b0*(\d+)\.\d+(\.\d+)?(e-\d+)?\b")


def plain(value):
    """A value as JSON can say it, without what is unique."""
    if isinstance(value, dict):
        # Joins: the original saves what a barrier holds by then, not what it held.
        left_out = [k for k in value if k == "__pregel_checkpointer" or str(k).startswith("join:")]
        return {plain(k): plain(v) for k, v in value.items() if k not in left_out}
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}]
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return [type(value).__name__, plain(value._asdict())]
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, (list, tuple)):
        items = [plain(item) for item in value]
        # Edges from one node are a set in the original, and threads end in any order.
        loose = any("branch:to:" in str(item) for item in items) or writes(value)
        return sorted(items, key=as_text) if loose else items
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else repr(value)
    text = re.sub(r"(\w+Error)\(.*", r"\1", text, flags=re.S)  # sentences are each side's own
    return VERSION.sub(r"v\1", UNIQUE.sub("ID", text))


def as_text(value):
    return json.dumps(value, sort_keys=True)


def writes(value):
    return all(isinstance(item, tuple) and len(item) == 3 and isinstance(item[1], str) for item in value)


async def outcome(spec, how):
    saver, told = InMemorySaver() if how["saver"] else None, []
    inner = any(node["graph"] for node in spec["nodes"].values())
    try:
        graph = build(spec, how, saver)
    except Exception as error:
        return [["build", plain(error)]]
    config = {"configurable": {"thread_id": "1"}, "recursion_limit": how["limit"]}
    given = {"durability": how["durability"]} if saver else {}
    if how["stream"]:
        given |= {"stream_mode": how["stream"], "subgraphs": how["subgraphs"]}

    async def run(value, at=config):
        shown = []
        try:
            if how["await"] and how["stream"]:
                async for chunk in graph.astream(value, at, **given):
                    shown.append(chunk)
            elif how["stream"]:
                shown.extend(graph.stream(value, at, **given))
            else:
                shown.append(
                    await graph.ainvoke(value, at, **given) if how["await"] else graph.invoke(value, at, **given)
                )
        except GraphRecursionError as error:
            if inner:
                raise
            shown.append(error)
        told.append(["run", sorted((plain(chunk) for chunk in shown), key=as_text)])
        if saver:
            told.append(["history", [plain(each) for each in graph.get_state_history(config)]])
            told.append(["state", plain(graph.get_state(config, subgraphs=True))])
            told.append(["stored", [plain(each) for each in saver.list(None)]])

    async def everything():
        await run({"a": how["input"], "b": [1] if spec["keys"]["b"] == "list" else 3, "d": [0]})
        for number in range(how["resumes"] if saver else 0):
            state = graph.get_state(config)
            asked = {each.id: f"r{number}" for each in state.interrupts}
            if state.next:
                await run(Command(resume=asked) if asked else None)
        if saver and how["update"]:
            graph.update_state(config, {"a": 5, "d": ["u"]}, as_node=min(spec["nodes"]))
            await run(None)
        if saver and how["fork"]:
            history = list(graph.get_state_history(config))
            await run(None, {**history[len(history) // 2].config, "recursion_limit": how["limit"]})
        if saver:
            await run({"a": 1})

    try:
        await asyncio.wait_for(everything(), 60)
    except Exception:  # which of several tasks failed first, and what the others did, is a matter of luck
        told.append(["failed"])
    return told


def main():
    first, number = (int(word) for word in sys.argv[2:])
    for seed in range(first, first + number):
        chance = random.Random(seed)
        spec, how = some_graph(chance), some_runs(chance)
        print(json.dumps([seed, asyncio.run(outcome(spec, how))]), flush=True)


if __name__ == "__main__":
    main()
