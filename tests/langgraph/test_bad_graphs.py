"""What cannot be right is refused, or told: the value, where it came from, and what to do about it."""

import asyncio
import operator
import re
import sys
import threading
from typing import Annotated, TypedDict

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langgraph.checkpoint")

from langgraph.checkpoint.memory import InMemorySaver

from dynamo.langgraph import StateGraphError
from dynamo.langgraph.channels import LastValue
from dynamo.langgraph.errors import EmptyInputError, GraphRecursionError, InvalidUpdateError
from dynamo.langgraph.func import task
from dynamo.langgraph.graph import END, START, StateGraph
from dynamo.langgraph.pregel import NodeBuilder, Pregel
from dynamo.langgraph.types import Command, Send


class State(TypedDict):
    n: int
    log: Annotated[list, operator.add]


def inc(state):
    return {"n": state["n"] + 1}


def graph(**nodes):
    """A graph that starts all of its nodes; without any, one that counts."""
    made = StateGraph(State)
    for name, node in (nodes or {"inc": inc}).items():
        made.add_node(name, node).add_edge(START, name)
    return made


def said(error):
    """All that an error tells, with its notes."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


notes = pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have no notes before Python 3.11")
saved = {"configurable": {"thread_id": "1"}}


# ------------------------------------------------------------------ while it is built
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StateGraph(State).add_node("a", inc).compile(), r"must have an entrypoint.*from START.*\['a'\]"),
        (lambda: StateGraph(State).compile(), r"must have an entrypoint.*\[\]"),
        (lambda: graph().add_edge("inc", "ink").compile(), r"ending at unknown node `ink`; the nodes are \['inc'\]"),
        (lambda: graph().add_edge("ink", "inc").compile(), r"starting at unknown node 'ink'; the nodes are \['inc'\]"),
        (lambda: graph().add_conditional_edges("ink", inc).compile(), "starting at unknown node 'ink'"),
        (lambda: graph().add_edge(["inc", "ink"], "inc"), r"add_node `ink` first; there are \['inc'\]"),
        (lambda: graph().compile(interrupt_before=["ink"]), r"`ink` not found; the nodes are \['inc'\]"),
        (lambda: graph().add_node("inc", inc), r"`inc` already present; graph\['inc'\] = ... replaces it"),
        (lambda: graph().add_edge(END, "inc"), "END cannot be a start node of an edge to 'inc'"),
    ],
)
def test_a_graph_that_leads_nowhere_is_not_compiled(build, message):
    with pytest.raises(StateGraphError, match=message):
        build()


def test_nodes_and_schemas_of_the_wrong_kind_are_named():
    with pytest.raises(TypeError, match=r"callable or dict for 'a'.*<class 'int'>"):
        StateGraph(State).add_node("a", 5)
    with pytest.raises(RuntimeError, match=r"'a' has nothing to run: add_node\('a', function\)"):
        StateGraph(State).add_node("a")
    with pytest.raises(
        TypeError, match=r"schema is a class, and this is a dict: \{'n': <class 'int'>\}.*class State\(TypedDict\)"
    ):
        StateGraph({"n": int})
    with pytest.raises(TypeError, match=r"Invalid checkpointer provided: a str.*InMemorySaver\(\)"):
        graph().compile(checkpointer="memory")


def test_hand_made_graphs_name_what_is_missing():
    node = NodeBuilder().subscribe_only("in").write_to("out")
    channels = {"in": LastValue(int), "out": LastValue(int)}
    how = {"input_channels": "in", "output_channels": "out"}
    with pytest.raises(ValueError, match=r"triggered by channel 'in' not in known channels.*'out'"):
        Pregel(nodes={"a": node}, channels={"out": LastValue(int)}, **how)
    with pytest.raises(ValueError, match="Output channel 'zzz' not in known channels"):
        Pregel(nodes={"a": node}, channels=channels, **{**how, "output_channels": "zzz"})
    with pytest.raises(ValueError, match="Input channel out is not subscribed to by any node"):
        Pregel(nodes={"a": node}, channels=channels, **{**how, "input_channels": "out"})
    with pytest.raises(ValueError, match=r"'__pregel_tasks' is reserved for packets that wait.*rename it"):
        Pregel(nodes={"a": node}, channels={**channels, "__pregel_tasks": LastValue(int)}, **how)
    with pytest.raises(ValueError, match=r"subscribe_only\('b'\).*reads 'in' already; use subscribe_to"):
        NodeBuilder().subscribe_only("in").subscribe_only("b")
    with pytest.raises(ValueError, match=r"value of 'in'.*\('b',\)"):
        NodeBuilder().subscribe_only("in").read_from("b")
    with pytest.raises(ValueError, match=r"has no cache.*compile"):
        Pregel(nodes={"a": node}, channels=channels, **how).clear_cache()


# ------------------------------------------------------------------ where it goes
def test_a_misspelt_goto_is_told_with_the_name_that_was_meant(caplog):
    graph(first=lambda state: Command(goto="incr"), inc=inc).compile().invoke({"n": 0})
    assert re.search(r"'first'.*leads to 'incr', which is no node.*did you mean 'inc'\?", caplog.text)


def test_a_path_function_that_names_no_node_is_told(caplog):
    graph().add_conditional_edges("inc", lambda state: "elsewhere").compile().invoke({"n": 0})
    assert re.search(r"'inc'.*leads to 'elsewhere', which is no node.*there are \['inc'\]", caplog.text)


def test_a_misspelt_send_is_told(caplog):
    graph().add_conditional_edges(START, lambda state: [Send("ink", state)]).compile().invoke({"n": 0})
    assert re.search(r"Send is addressed to 'ink'.*did you mean 'inc'\?", caplog.text)


@pytest.mark.parametrize(
    ("path", "ends", "error", "message"),
    [
        (lambda state: "no", {"yes": END}, KeyError, r"'no'.*not one of the branch's destinations \['yes'\]"),
        (lambda state: None, None, ValueError, "valid destination: None. Return the name of a node"),
        (lambda state: [Send(END, state)], None, InvalidUpdateError, "packet to the END node; return END"),
    ],
)
def test_what_a_path_function_may_not_return(path, ends, error, message):
    with pytest.raises(error, match=message):
        graph().add_conditional_edges("inc", path, ends).compile().invoke({"n": 0})


def test_goto_takes_names():
    with pytest.raises(TypeError, match=r"goto=5\).*node names, Sends"):
        graph(a=lambda state: Command(goto=5)).compile().invoke({"n": 0})


# ------------------------------------------------------------------ what is written
@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("x", r"Expected dict, got x. A node returns a mapping.*\{'n': ...\}, a Command, or None"),
        (5, "Expected dict, got 5"),
        ([{"n": 1}], r"Expected dict, got \[\{'n': 1\}\]. A node returns one mapping.*Commands in a list"),
    ],
)
def test_a_wrong_result_is_shown_with_what_a_node_returns(result, message):
    with pytest.raises(InvalidUpdateError, match=message):
        graph(a=lambda state: result).compile().invoke({"n": 0})


def test_a_forgotten_await_is_recognised():
    async def work():
        return {"n": 1}

    made = []

    def node(state):
        made.append(work())
        return made[-1]

    with pytest.raises(InvalidUpdateError, match=r"coroutine object.*Nobody has awaited it.*async def"):
        graph(a=node).compile().invoke({"n": 0})
    made[0].close()


def test_an_asynchronous_node_needs_an_asynchronous_run():
    async def node(state):
        return {"n": 1}

    with pytest.raises(TypeError, match=r'(?s)No synchronous function provided to "a".*ainvoke'):
        graph(a=node).compile().invoke({"n": 0})


@notes
def test_two_writers_of_one_value_are_named():
    with pytest.raises(InvalidUpdateError, match=r"At key 'n'.*one value per step. Use an Annotated key") as caught:
        graph(a=lambda state: {"n": 1}, b=lambda state: {"n": 2}).compile().invoke({"n": 0})
    assert "In channel 'n': a wrote 1; b wrote 2" in said(caught.value)


@notes
def test_two_writers_are_named_in_an_event_loop_too():
    async def main():
        await graph(a=lambda state: {"n": 1}, b=lambda state: {"n": 2}).compile().ainvoke({"n": 0})

    with pytest.raises(InvalidUpdateError) as caught:
        asyncio.run(main())
    assert "In channel 'n': a wrote 1; b wrote 2" in said(caught.value)


@notes
def test_a_reducer_that_fails_says_for_which_key_and_write():
    with pytest.raises(TypeError, match="concatenate") as caught:
        graph(a=lambda state: {"log": "text"}).compile().invoke({"n": 0})
    assert "In channel 'log': a wrote 'text'" in said(caught.value)


@notes
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_value_that_cannot_be_saved_is_named(durability):
    compiled = graph(a=lambda state: {"n": threading.Lock()}).compile(checkpointer=InMemorySaver())
    with pytest.raises(TypeError, match="not msgpack serializable") as caught:
        compiled.invoke({"n": 0}, saved, durability=durability)
    assert re.search(r"cannot save 'n': <unlocked _thread.lock.*UntrackedValue", said(caught.value))


@notes
def test_a_value_that_cannot_be_saved_is_named_by_savers_that_take_their_time(tmp_path):
    sqlite = pytest.importorskip("langgraph.checkpoint.sqlite")
    with sqlite.SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        compiled = graph(a=lambda state: {"n": threading.Lock()}).compile(checkpointer=saver)
        with pytest.raises(TypeError) as caught:
            compiled.invoke({"n": 0}, saved)
    assert "cannot save 'n'" in said(caught.value)


# ------------------------------------------------------------------ how it is run
def test_input_that_is_no_mapping_is_shown():
    with pytest.raises(InvalidUpdateError, match=r"Expected dict, got hello. The input is a mapping"):
        graph().compile().invoke("hello")
    with pytest.raises(EmptyInputError, match="no input for __start__, but None; None only goes on with a thread"):
        graph().compile().invoke(None)


def test_a_config_is_a_mapping():
    with pytest.raises(TypeError, match=r"A config is a mapping.*'thread_id'.*not 'one'"):
        graph().compile().invoke({"n": 0}, "one")


def test_a_saver_needs_a_thread():
    with pytest.raises(ValueError, match="thread_id, checkpoint_ns, checkpoint_id; for example config="):
        graph().compile(checkpointer=InMemorySaver()).invoke({"n": 0})


@notes
def test_a_loop_without_an_end_names_its_nodes():
    with pytest.raises(GraphRecursionError, match=r"limit of 5 reached.*`recursion_limit`") as caught:
        graph().add_edge("inc", "inc").compile().invoke({"n": 0}, {"recursion_limit": 5})
    assert "The last superstep ran ['inc']" in said(caught.value)


def test_channels_that_nobody_has_cannot_be_shown():
    with pytest.raises(ValueError, match=r"Key zzz not in channels; there are \['log', 'n'\]"):
        graph().compile().invoke({"n": 0}, output_keys=["zzz"])


def test_an_unknown_mode_is_told():
    with pytest.warns(UserWarning, match=r"stream_mode 'value' is unknown.*'values'"):
        assert list(graph().compile().stream({"n": 0}, stream_mode="value")) == []


def test_durability_is_said_once():
    with (
        pytest.raises(ValueError, match="`checkpoint_during` and `durability='sync'`"),
        pytest.warns(DeprecationWarning),
    ):
        graph().compile().invoke({"n": 0}, durability="sync", checkpoint_during=True)


def test_a_task_is_called_from_a_workflow():
    @task
    def double(n):
        return 2 * n

    with pytest.raises(RuntimeError, match=r"outside of a runnable context.*'double' is called from an entrypoint"):
        double(1)
