"""A graph under construction: looking at it, adding to it, and what it refuses."""

import operator
from typing import Annotated, Literal, TypedDict

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langgraph.checkpoint")

from dynamo.errors import DynamoError
from dynamo.langgraph import (
    ChannelError,
    CheckpointError,
    PregelError,
    StateGraphError,
    create_compiled_graph,
    create_state_graph,
    errors,
)
from dynamo.langgraph.graph import END, START, StateGraph
from dynamo.langgraph.types import Command, RetryPolicy, Send


class State(TypedDict):
    n: int
    log: Annotated[list, operator.add]


class Part(TypedDict):
    n: int


def inc(state):
    return {"n": state["n"] + 1}


def again(state):
    return state["n"] < 3


@pytest.fixture
def graph():
    return StateGraph(State).add_node("inc", inc).add_edge(START, "inc")


def test_nodes_are_got_and_set_by_name(graph):
    assert graph["inc"].func is inc
    graph["other"] = inc
    graph.nodes["other"].retry_policy = RetryPolicy()
    graph["other"] = lambda state: None
    assert graph["other"].func is not inc
    assert graph.nodes["other"].retry_policy == RetryPolicy()
    assert list(graph) == ["inc", "other"]
    assert "other" in graph and "third" not in graph
    with pytest.raises(KeyError, match=r"no node 'third'.*inc"):
        graph["third"]


def test_setting_a_node_to_what_cannot_run_leaves_the_old_one(graph):
    with pytest.raises(TypeError, match="unsupported type"):
        graph["inc"] = 5
    assert graph["inc"].func is inc


def test_repr_counts_nodes_and_edges(graph):
    graph.add_edge("inc", END).add_conditional_edges("inc", again, {True: "inc", False: END})
    assert repr(graph) == "<StateGraph of State: 1 nodes, 2 edges, 1 conditional>"


def test_an_edge_can_have_a_condition(graph):
    graph.add_edge("inc", "inc", condition=again)
    ((name, branch),) = graph.branches["inc"].items()
    assert name == "again->inc"
    assert branch.path.invoke({"n": 1}) == "inc"
    assert branch.path.invoke({"n": 3}) == END
    with pytest.raises(StateGraphError, match="starts at one node"):
        graph.add_edge(["inc"], "inc", condition=again)


def test_the_input_and_the_destinations_of_a_node_are_read_off_its_annotations(graph):
    def choose(state: Part) -> Command[Literal["inc"]]:
        return Command(goto="inc")

    graph.add_node(choose)
    assert graph.nodes["choose"].input_schema is Part
    assert graph.nodes["choose"].ends == ("inc",)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g: g.add_edge("inc", "nowhere").validate(), "ending at unknown node `nowhere`; the nodes are"),
        (lambda g: g.add_edge("nowhere", "inc").validate(), "starting at unknown node 'nowhere'"),
        (lambda g: g.add_edge(["inc", "nowhere"], "inc"), "add_node `nowhere` first; there are"),
        (lambda g: g.add_edge(END, "inc"), "END cannot be a start"),
        (lambda g: g.add_edge("inc", START), "START cannot be an end"),
        (lambda g: g.add_node("inc", inc), "`inc` already present"),
        (lambda g: g.add_node("a|b", inc), "reserved character.*'a|b'"),
        (lambda g: g.add_node(END, inc), "`__end__` is reserved"),
        (
            lambda g: g.add_conditional_edges("inc", again, {True: "x"}).validate(),
            "'again' branch found unknown target",
        ),
        (lambda g: g.validate(interrupt=["x"]), "Interrupt node `x` not found"),
        (lambda g: StateGraph(State).add_node("inc", inc).validate(), "must have an entrypoint"),
    ],
)
def test_bad_graphs_are_refused_with_a_remedy(graph, build, message):
    with pytest.raises(StateGraphError, match=message) as caught:
        build(graph)
    assert isinstance(caught.value, ValueError)


def test_a_reducer_takes_two_arguments():
    class Wrong(TypedDict):
        key: Annotated[int, lambda only: only]

    with pytest.raises(ValueError, match=r"Invalid reducer signature.*\(only\).*'key'"):
        StateGraph(Wrong)


def test_a_path_function_chooses_among_its_destinations(graph):
    graph.add_conditional_edges("inc", lambda state: "up", {"up": "inc", "stop": END})
    (branch,) = graph.branches["inc"].values()
    chosen = []

    def writer(names, static=False):
        chosen.extend(names)
        return []

    branch.entries(writer, ["up", Send("x", 1), "stop"])
    assert chosen == ["inc", Send("x", 1), END]
    with pytest.raises(KeyError, match="'down': not one of the branch's destinations"):
        branch.entries(writer, "down")


def test_defaults_leave_the_graph_as_it_is(graph):
    graph.set_node_defaults(retry_policy=RetryPolicy(), error_handler=lambda state: None)
    nodes = graph._effective_nodes()
    assert nodes["inc"].retry_policy == RetryPolicy()
    assert nodes["inc"].error_handler_node == "__default_error_handler__"
    assert nodes["__default_error_handler__"].is_error_handler
    assert list(graph.nodes) == ["inc"] and graph.nodes["inc"].retry_policy is None


def test_a_graph_from_a_description():
    made = create_state_graph(
        State, {"inc": inc, "end": inc}, [("inc", "end"), ("end", "inc", again)], entry_point="inc", finish_point="end"
    )
    assert made.edges == {(START, "inc"), ("inc", "end"), ("end", END)}
    assert list(made.branches["end"]) == ["again->inc"]


def test_a_class_can_be_subscripted_with_its_first_parameters():
    assert StateGraph[State].__args__[0] is State
    assert StateGraph[State, None, Part, Part](State).state_schema is State


def test_importing_the_builder_loads_nothing_heavy():
    import subprocess
    import sys

    from ..conftest import ROOT

    code = "import sys; from dynamo.langgraph.graph import StateGraph; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    heavy = {"asyncio", "pydantic", "langchain_core", "langsmith", "logging", "langgraph.checkpoint", "numpy", "ssl"}
    assert not heavy & set(loaded.split())


def test_a_compiled_graph_from_a_description():
    made = create_compiled_graph(
        State, [inc], [("inc", again, {True: "inc", False: END})], entry_point="inc", name="counter"
    )
    assert made.name == "counter" and made.invoke({"n": 0})["n"] == 3
    part = create_compiled_graph(State, {"inc": inc}, entry_point="inc", finish_point="inc", output_schema=Part)
    assert part.invoke({"n": 0, "log": ["x"]}) == {"n": 1}


def test_an_edge_with_a_condition_is_taken_when_the_condition_holds():
    graph = StateGraph(State).add_node("inc", inc).add_edge(START, "inc").add_edge("inc", "inc", condition=again)
    assert graph.compile().invoke({"n": 0})["n"] == 3


def test_every_error_has_one_of_the_four_bases():
    bubbling = {"GraphBubbleUp", "GraphDrained", "GraphInterrupt", "NodeInterrupt", "ParentCommand", "NodeError"}
    for name in set(errors.__all__) - bubbling:
        found = getattr(errors, name)
        if isinstance(found, type) and issubclass(found, Exception):
            assert issubclass(found, (ChannelError, PregelError, StateGraphError, CheckpointError)), name
            assert issubclass(found, DynamoError)
    graph = create_compiled_graph(State, [inc], entry_point="inc")
    with pytest.raises(CheckpointError, match="No checkpointer set"):
        graph.get_state({"configurable": {"thread_id": "t"}})
    with pytest.raises(PregelError):
        create_compiled_graph(State, [inc], [("inc", "inc")], entry_point="inc").invoke(
            {"n": 0}, {"recursion_limit": 3}
        )
    with pytest.raises(ChannelError):
        create_compiled_graph(State, {"a": inc, "b": inc}, [(START, "a"), (START, "b")]).invoke({"n": 0})
