"""What can be asked of a graph besides running it, and what its keywords and configs mean."""

import asyncio
import inspect
import pickle
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict
from unittest.mock import patch

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langgraph.checkpoint")

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from dynamo.langgraph.channels import EphemeralValue, LastValue, Topic
from dynamo.langgraph.config import get_config
from dynamo.langgraph.errors import GraphRecursionError, InvalidUpdateError
from dynamo.langgraph.graph import START, StateGraph
from dynamo.langgraph.pregel import NodeBuilder, Pregel
from dynamo.langgraph.pregel._loop import PregelLoop
from dynamo.langgraph.pregel.protocol import PregelProtocol
from dynamo.langgraph.runtime import Runtime
from dynamo.langgraph.types import CachePolicy, RetryPolicy, StateUpdate
from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV10


class State(TypedDict):
    n: int


def inc(state):
    return {"n": state["n"] + 1}


def one(node=inc, **options):
    return StateGraph(State).add_node("inc", node).add_edge(START, "inc").compile(**options)


def around(graph, name="outer"):
    return StateGraph(State).add_node(name, graph).add_edge(START, name).compile()


def by_hand(**options):
    node = NodeBuilder().subscribe_only("in").do(lambda x: x + 1).write_to("out")
    channels = {"in": EphemeralValue(int), "out": LastValue(int)}
    return Pregel(nodes={"a": node}, channels=channels, input_channels="in", output_channels="out", **options)


def parts(graph):
    """What another graph of the same can be made of."""
    return {name: getattr(graph, name) for name in ("nodes", "channels", "input_channels", "output_channels")}


thread = {"configurable": {"thread_id": "1"}}


# ------------------------------------------------------------------ keywords
def test_every_keyword_is_an_attribute():
    store, saver, policy = InMemoryStore(), InMemorySaver(), RetryPolicy()
    given = {
        **{"stream_mode": "updates", "stream_eager": True, "step_timeout": 1.5, "debug": False, "name": "mine"},
        **{"checkpointer": saver, "store": store, "interrupt_after_nodes": ["a"], "interrupt_before_nodes": "*"},
        **{"cache_policy": CachePolicy(), "config": {"tags": ["t"]}, "stream_channels": "out"},
    }
    graph = by_hand(**given, retry_policy=policy)
    assert {name: getattr(graph, name) for name in given} == given
    assert graph.retry_policy == (policy,)


def test_what_is_not_said_has_its_default():
    graph = by_hand()
    assert (graph.stream_mode, graph.stream_eager, graph.name, graph.debug) == ("values", False, "LangGraph", False)
    assert (graph.checkpointer, graph.store, graph.cache, graph.step_timeout) == (None, None, None, None)
    assert (graph.interrupt_before_nodes, graph.interrupt_after_nodes, graph.retry_policy) == ((), (), ())
    assert graph.trigger_to_nodes == {"in": ["a"]}
    assert isinstance(graph.channels["__pregel_tasks"], Topic)
    assert graph.stream_channels_list == ["in", "out", "__pregel_tasks"]


def test_a_graph_is_checked_unless_that_is_left_for_later():
    node = NodeBuilder().subscribe_only("nowhere")
    ends = {"input_channels": "in", "output_channels": "in"}
    graph = Pregel(nodes={"a": node}, channels={"in": LastValue(int)}, auto_validate=False, **ends)
    assert graph.trigger_to_nodes == {}
    with pytest.raises(ValueError, match="'nowhere'"):
        graph.validate()


def test_a_subclass_that_checks_more_is_asked():
    class Strict(Pregel):
        def validate(self):
            super().validate()
            raise ValueError("too simple")

    with pytest.raises(ValueError, match="too simple"):
        Strict(**parts(by_hand()))


def test_older_words_work_and_are_discouraged():
    with pytest.warns(LangGraphDeprecatedSinceV10, match="`config_type` is deprecated") as caught:
        ends = {"input_channels": "in", "output_channels": "in", "nodes": {}, "channels": {"in": LastValue(int)}}
        assert Pregel(config_type=State, auto_validate=False, **ends).context_schema is State
    assert caught[0].filename == __file__
    for during, durability in ((True, "async"), (False, "exit")):
        seen = []

        def node(state, config, seen=seen):
            seen.append(config["configurable"]["__pregel_durability"])

        graph = one(node)
        with pytest.warns(LangGraphDeprecatedSinceV10, match="`checkpoint_during`") as caught:
            graph.invoke({"n": 0}, checkpoint_during=during)
        assert seen == [durability]
        assert caught[0].filename == __file__


def test_keywords_of_a_run_win_over_those_of_the_graph():
    graph = one(checkpointer=InMemorySaver(), interrupt_before=["inc"])
    assert graph.invoke({"n": 0}, thread) == {"n": 0}
    assert graph.get_state(thread).next == ("inc",)
    other = {"configurable": {"thread_id": "2"}}
    assert one(checkpointer=InMemorySaver()).invoke({"n": 0}, other, interrupt_before="*") == {"n": 0}
    assert one().invoke({"n": 0}, output_keys="n") == 1
    assert one().invoke({"n": 0}, stream_mode="updates") == [{"inc": {"n": 1}}]


def test_durability_without_a_saver_is_warned_of():
    with pytest.warns(UserWarning, match=r"durability='sync' has no effect: the graph has no checkpointer") as found:
        assert one().invoke({"n": 1}, durability="sync") == {"n": 2}
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one(checkpointer=InMemorySaver()).invoke({"n": 1}, {"configurable": {"thread_id": "1"}}, durability="sync")


def test_the_twins_take_the_same():
    for name in (
        "invoke",
        "stream",
        "get_state",
        "get_state_history",
        "update_state",
        "bulk_update_state",
        "get_graph",
    ):
        plain, waiting = (inspect.signature(getattr(Pregel, kind)) for kind in (name, f"a{name}"))
        assert list(plain.parameters) == list(waiting.parameters)
        assert [one.default for one in plain.parameters.values()] == [
            one.default for one in waiting.parameters.values()
        ]
        assert set(inspect.signature(getattr(PregelProtocol, name)).parameters) - {"updates"} <= set(plain.parameters)


# ------------------------------------------------------------------ configs
def test_configs_are_merged_the_last_one_wins():
    seen = []

    def node(state, config):
        seen.append((config["tags"], config["metadata"]["a"], config["configurable"]["k"], config["recursion_limit"]))

    graph = one(node).with_config({"tags": ["g"], "metadata": {"a": 1}, "configurable": {"k": "g"}}, recursion_limit=7)
    graph.invoke({"n": 0}, {"tags": ["r"], "configurable": {"k": "r"}})
    graph.invoke({"n": 0})
    assert [(set(tags) >= {"g"}, a, k, limit) for tags, a, k, limit in seen] == [(True, 1, "r", 7), (True, 1, "g", 7)]
    assert "r" in seen[0][0] and "r" not in seen[1][0]


def test_with_config_leaves_the_graph_as_it_was():
    graph = one()
    other = graph.with_config(tags=["x"])
    assert graph.config is None and other.config["tags"] == ["x"]
    assert type(other) is type(graph) and other.nodes is graph.nodes


def test_a_copy_replaces_attributes_that_there_are():
    graph = one()
    twin = graph.copy({"name": "twin", "unheard_of": 1})
    assert (twin.name, graph.name, hasattr(twin, "unheard_of")) == ("twin", "LangGraph", False)


def test_the_context_is_made_of_a_mapping():
    @dataclass
    class Context:
        user: str

    seen = []

    def node(state: State, runtime: Runtime[Context]) -> None:
        seen.append(runtime.context)

    graph = StateGraph(State, Context).add_node("a", node).add_edge(START, "a").compile()
    graph.invoke({"n": 0}, context={"user": "me"})
    graph.invoke({"n": 0}, context=Context("you"))
    assert seen == [Context("me"), Context("you")]


def test_handlers_are_told_of_the_run_and_its_nodes():
    class Names(BaseCallbackHandler):
        def __init__(self):
            self.names = []

        def on_chain_start(self, serialized, inputs, **kwargs):
            self.names.append(kwargs["name"])

    handler = Names()
    one(name="mine").invoke({"n": 0}, {"callbacks": [handler]})
    assert handler.names == ["mine", "inc"]


# ------------------------------------------------------------------ graphs inside
def test_graphs_inside_are_found_by_namespace():
    inner = one()
    middle = around(inner, "middle")
    graph = around(middle)
    assert list(graph.get_subgraphs()) == [("outer", middle)]
    assert list(graph.get_subgraphs(recurse=True)) == [("outer", middle), ("outer|middle", inner)]
    assert list(graph.get_subgraphs(namespace="outer")) == [("outer", middle)]
    assert list(graph.get_subgraphs(namespace="outer|middle", recurse=True)) == [("outer|middle", inner)]
    assert list(graph.get_subgraphs(namespace="other")) == []

    async def found():
        return [pair async for pair in graph.aget_subgraphs(recurse=True)]

    assert asyncio.run(found()) == list(graph.get_subgraphs(recurse=True))


def test_a_node_may_use_the_runnable_that_it_is_part_of():
    inner = one()

    def again(state):
        return inner.invoke(state) if state["n"] > 2 else chain.invoke({"n": state["n"] + 1})

    chain = RunnableLambda(again)  # looking for graphs in it must come to an end
    graph = one(chain)
    assert list(graph.get_subgraphs()) == [("inc", inner)]
    assert graph.invoke({"n": 0}) == {"n": 4}


def test_drawings_look_as_deep_as_they_are_asked_to():
    graph = around(around(one(), "middle"))
    assert set(graph.get_graph().nodes) == {"__start__", "outer", "__end__"}
    assert "outer:middle" in graph.get_graph(xray=1).nodes
    deep = graph.get_graph(xray=True)
    assert "outer:middle:inc" in deep.nodes
    assert asyncio.run(graph.aget_graph(xray=True)).to_json() == deep.to_json()


# ------------------------------------------------------------------ schemas
def test_schemas_are_of_the_channels():
    graph = by_hand()
    assert (graph.InputType, graph.OutputType) == (int, int)
    assert graph.get_input_jsonschema()["type"] == "integer"
    assert graph.get_output_jsonschema()["title"] == "LangGraphOutput"
    several = by_hand().copy({"output_channels": ["in", "out"]})
    assert several.OutputType is None
    assert set(several.get_output_jsonschema()["properties"]) == {"in", "out"}


def test_schemas_of_the_context_and_of_configs():
    @dataclass
    class Context:
        n: int

    graph = StateGraph(State, Context).add_node("inc", inc).add_edge(START, "inc").compile()
    assert graph.get_context_jsonschema()["properties"].keys() == {"n"}
    assert one().get_context_jsonschema() is None
    with pytest.warns(LangGraphDeprecatedSinceV10, match="`config_schema` is deprecated") as caught:
        assert "configurable" in graph.config_schema(include=["tags"]).model_fields
    assert caught[0].filename == __file__
    with pytest.warns(LangGraphDeprecatedSinceV10, match="`get_config_jsonschema`"):
        assert "tags" in graph.get_config_jsonschema(include=["tags"])["properties"]


# ------------------------------------------------------------------ caches, checkpoints, copies
def test_a_cleared_cache_is_asked_in_vain():
    runs = []

    def node(state):
        runs.append(state["n"])
        return {"n": 5}

    builder = StateGraph(State).add_node("a", node, cache_policy=CachePolicy()).add_edge(START, "a")
    graph = builder.compile(cache=InMemoryCache())
    for _ in range(2):
        assert graph.invoke({"n": 1}) == {"n": 5}
    assert runs == [1]
    graph.clear_cache(["b"])
    graph.invoke({"n": 1})
    assert runs == [1]
    asyncio.run(graph.aclear_cache())
    graph.invoke({"n": 1})
    assert runs == [1, 1]


def test_packets_of_old_checkpoints_are_moved_into_their_channel():
    waiting: dict[str, Any] = {"v": 3, "pending_sends": ["p"], "channel_values": {}}
    waiting["channel_versions"] = {"a": 1, "b": 4}
    by_hand()._migrate_checkpoint(waiting)
    assert waiting["channel_values"] == {"__pregel_tasks": ["p"]}
    assert waiting["channel_versions"]["__pregel_tasks"] == 4
    assert "pending_sends" not in waiting
    today = {"v": 4, "pending_sends": ["p"]}
    by_hand()._migrate_checkpoint(today)
    assert today == {"v": 4, "pending_sends": ["p"]}


def test_states_are_read_and_written_for_both_kinds_of_callers():
    graph = one(checkpointer=InMemorySaver())
    graph.invoke({"n": 1}, thread)
    config = graph.update_state(thread, {"n": 7}, as_node="inc")
    assert graph.get_state(config).values == {"n": 7}
    assert [state.values.get("n") for state in graph.get_state_history(thread, limit=2)] == [7, 2]

    async def main():
        made = await graph.abulk_update_state(thread, [[StateUpdate({"n": 8}, "inc")]])
        await graph.aupdate_state(made, {"n": 9}, as_node="inc")
        history = [state.values async for state in graph.aget_state_history(thread, limit=1)]
        return (await graph.aget_state(thread)).values, history

    assert asyncio.run(main()) == ({"n": 9}, [{"n": 9}])


def test_a_hand_made_node_is_as_it_was_built():
    builder = NodeBuilder().subscribe_to("a", "b").read_from("c").meta("t", k=1).write_to("x", y=1, z=lambda v: v)
    node = builder.build()
    builder.subscribe_to("d").meta("u")
    assert (node.channels, node.triggers) == (["a", "b", "c"], ["a", "b"])
    assert (node.tags, node.metadata) == (["t"], {"k": 1})
    assert [entry.channel for entry in node.writers[0].writes] == ["x", "y", "z"]
    assert builder.build().triggers == ["a", "b", "d"]


# ------------------------------------------------------------------ what others patch
def add_to(log, more):
    if "refused" in more:
        raise ValueError("not that")
    return [*log, *more]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_superstep_of_start_counts_whether_it_has_a_task_or_not(asynchronous):
    class Log(TypedDict):
        log: Annotated[list[str], add_to]

    seen = []

    def node(state):
        config = get_config()
        told = {name: value for name, value in config["metadata"].items() if not name.endswith("checkpoint_ns")}
        seen.append((told, config["configurable"].keys(), state["log"]))
        return {"log": [*state["log"], "node"]}

    graph = StateGraph(Log).add_node("node", node).add_edge(START, "node").compile()
    outer = StateGraph(Log).add_node("inner", graph).add_edge(START, "inner").compile()

    def run(which, given, limit=25):
        config = {"recursion_limit": limit}
        return asyncio.run(which.ainvoke(given, config)) if asynchronous else which.invoke(given, config)

    def everything():
        results = [run(which, {"log": ["a"], "other": 1}) for which in (graph, outer)]
        for given, limit, kind in (
            ({"log": ["a"]}, 1, GraphRecursionError),
            ({"log": ["refused"]}, 25, ValueError),
            ({}, 25, None),
            ({"other": 1}, 25, None),
            ("text", 25, InvalidUpdateError),
        ):
            with pytest.raises(kind) if kind is not None else nullcontext() as raised:
                results.append(run(graph, given, limit))
            if kind is not None:
                results.append((str(raised.value), len(getattr(raised.value, "__notes__", ()))))
        found = results, list(seen)
        seen.clear()
        return found

    shortly = everything()
    tick = PregelLoop.tick
    with patch.object(PregelLoop, "tick", lambda self: tick(self)):
        assert everything() == shortly


def test_a_patched_put_writes_is_called():
    seen = []
    original = PregelLoop.put_writes

    def spy(self, task_id, writes, **kwargs):
        seen.append([name for name, _ in writes])
        return original(self, task_id, writes, **kwargs)

    with patch.object(PregelLoop, "put_writes", spy):
        one(checkpointer=InMemorySaver()).invoke({"n": 1}, thread)
        assert ["n"] in seen
        seen.clear()
        one().invoke({"n": 1})
    assert seen == [["n", "branch:to:inc"], ["n"]]


def test_patched_attributes_of_a_graph_count():
    graph = one()
    graph.interrupt_before_nodes = "*"
    assert graph.invoke({"n": 1}) == {"n": 1}
    graph = one()
    graph.stream_mode = "values"
    assert list(graph.stream({"n": 1})) == [{"n": 1}, {"n": 2}]
    with patch.object(Pregel, "stream_channels_asis", "n"):
        assert list(one().stream({"n": 1}, stream_mode="values")) == [1, 2]


def test_a_subclass_that_overrides_invoke_is_called_as_a_node():
    class Loud(Pregel):
        def invoke(self, input, config=None, **kwargs):
            return super().invoke(input, config, **kwargs) * 10

    loud = Loud(**parts(by_hand()))
    graph = StateGraph(State).add_node("a", lambda state: {"n": loud.invoke(state["n"])}).add_edge(START, "a")
    assert graph.compile().invoke({"n": 1}) == {"n": 20}


def test_state_snapshots_are_pickled():
    graph = one(checkpointer=InMemorySaver())
    graph.invoke({"n": 1}, thread)
    state = graph.get_state(thread)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pickle.loads(pickle.dumps(state.values)) == state.values
