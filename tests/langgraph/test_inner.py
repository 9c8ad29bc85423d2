"""Graphs as nodes: the short way, where nobody looks on and nothing is saved, against the whole one."""

import asyncio
import gc
import operator
from typing import Annotated, Any

import pytest
from typing_extensions import TypedDict

from dynamo.langgraph.config import get_config
from dynamo.langgraph.errors import GraphRecursionError
from dynamo.langgraph.func import task
from dynamo.langgraph.graph import END, START, StateGraph
from dynamo.langgraph.pregel._inner import AsyncInner, SyncInner
from dynamo.langgraph.pregel._loop import AsyncPregelLoop, PregelLoop, SyncPregelLoop
from dynamo.langgraph.types import Command


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[Any], operator.add]


def nested(node: Any, levels: int = 2, saver: Any = None, loop: bool = False) -> Any:
    graph = StateGraph(State)
    graph.add_node("leaf", node)
    graph.add_edge(START, "leaf")
    graph.add_edge("leaf", "leaf" if loop else END)
    for level in range(levels - 1):
        inner, graph = graph.compile(), StateGraph(State)
        graph.add_node(f"level{level}", inner)
        graph.add_edge(START, f"level{level}")
        graph.add_edge(f"level{level}", END)
    return graph.compile(checkpointer=saver)


def loops() -> list[Any]:
    return [one for one in gc.get_objects() if isinstance(one, PregelLoop)]


def facts(asynchronous: bool) -> tuple[Any, Any]:
    """The loop of an inner graph as seen by its node, by the short way and by the whole one."""
    from langchain_core.callbacks import BaseCallbackHandler

    seen: list[dict[str, Any]] = []

    def node(state: State) -> State:
        mine = [one for one in loops() if one.is_nested]
        seen.append({"kind": type(mine[0]), **{name: getattr(mine[0], name, None) for name in dir(mine[0])}})
        return {"n": state["n"] + 1}

    async def anode(state: State) -> State:
        return node(state)

    for config in ({}, {"callbacks": [BaseCallbackHandler()]}):
        gc.collect()
        graph = nested(anode if asynchronous else node)
        if asynchronous:
            asyncio.run(graph.ainvoke({"n": 0}, config))
        else:
            graph.invoke({"n": 0}, config)
    return seen[0], seen[1]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_loop_made_by_the_engine_has_every_attribute(asynchronous):
    short, whole = facts(asynchronous)
    assert short["kind"] is (AsyncInner if asynchronous else SyncInner)
    assert whole["kind"] is (AsyncPregelLoop if asynchronous else SyncPregelLoop)
    given = {"manager", "config", "checkpoint_config", "start_config", "runner", "checkpoint_metadata", "stream_keys"}
    for name, value in whole.items():
        if isinstance(value, (bool, int, str, tuple, list, dict)) and name not in given:
            assert type(short[name]) is type(value), name


def test_a_node_sees_the_same_config_either_way():
    from langchain_core.callbacks import BaseCallbackHandler

    seen: list[Any] = []

    def node(state: State) -> State:
        seen.append(get_config())
        return {"n": 1}

    config = {"tags": ["mine"], "metadata": {"of": {"a": 1}}, "recursion_limit": 7, "configurable": {"thread_id": "t"}}
    for more in ({}, {"callbacks": [BaseCallbackHandler()]}):
        nested(node, 3).invoke({"n": 0}, {**config, **more})
    short, whole = seen
    assert short["recursion_limit"] == whole["recursion_limit"] == 7
    assert "mine" in short["tags"] and "mine" in whole["tags"]
    assert short["metadata"].keys() <= whole["metadata"].keys() | {"ls_integration"}
    kept = {"of", "thread_id", "langgraph_node", "langgraph_step", "langgraph_path", "langgraph_triggers"}
    for key in kept & whole["metadata"].keys():
        assert short["metadata"][key] == whole["metadata"][key], key
    assert short["metadata"]["of"] is not config["metadata"]["of"]
    assert short["configurable"].keys() == whole["configurable"].keys()
    namespaces = [one["configurable"]["checkpoint_ns"].split("|") for one in seen]
    assert [[part.split(":")[0] for part in ns] for ns in namespaces] == [["level1", "level0", "leaf"]] * 2


def test_errors_limits_and_commands_pass_through():
    def broken(state: State) -> State:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        nested(broken, 3).invoke({"n": 0})
    with pytest.raises(GraphRecursionError, match="limit of 4"):
        nested(lambda state: {"n": 1}, 2, loop=True).invoke({"n": 0}, {"recursion_limit": 4})

    outer = StateGraph(State)
    outer.add_node("inner", nested(lambda state: Command(graph=Command.PARENT, goto="after", update={"n": 5}), 1))
    outer.add_node("after", lambda state: {"n": state["n"] + 1})
    outer.add_edge(START, "inner")
    assert outer.compile().invoke({"n": 0})["n"] == 6
    gc.collect()
    assert not loops()


def test_several_graphs_in_one_task_and_several_tasks_in_one_graph():
    def add(i: int) -> Any:
        return lambda state: {"log": [i]}

    inner = StateGraph(State)
    for i in range(4):
        inner.add_node(f"n{i}", add(i))
        inner.add_edge(START, f"n{i}")
    both = inner.compile()
    outer = StateGraph(State)
    outer.add_node("both", both)
    outer.add_edge(START, "both")
    graph = outer.compile()
    assert graph.invoke({"log": []}) == asyncio.run(graph.ainvoke({"log": []})) == {"log": [0, 1, 2, 3]}
    gc.collect()
    assert not loops()


def test_a_node_that_runs_on_a_thread_calls_tasks_from_inside_too():
    @task
    async def add(n: int) -> int:
        return n + 1

    graph = nested(lambda state: {"n": add(state["n"]).result()}, 2)
    assert asyncio.run(graph.ainvoke({"n": 0}))["n"] == 1


def test_a_cancelled_run_ends_inside_too():
    async def main() -> list[str]:
        said, begun = [], asyncio.Event()

        async def wait(state: State) -> State:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                said.append("ended")
            return state

        run = asyncio.create_task(nested(wait, 3).ainvoke({"n": 0}))
        await begun.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        return said

    assert asyncio.run(main()) == ["ended"]
    gc.collect()
    assert not loops()
