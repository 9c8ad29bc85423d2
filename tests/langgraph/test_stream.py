"""What a run shows on the way: every mode, alone and together, in threads and event loops, and as events."""

import asyncio
import operator
import re
from typing import Annotated, TypedDict

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langgraph.checkpoint")

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from dynamo.langgraph.errors import GraphInterrupt
from dynamo.langgraph.graph import END, START, MessagesState, StateGraph
from dynamo.langgraph.stream import StreamChannel, StreamTransformer, SubgraphRunStream, UpdatesTransformer
from dynamo.langgraph.stream._mux import StreamMux
from dynamo.langgraph.types import Command, GraphOutput, RetryPolicy, Send, StreamWriter, interrupt


class State(TypedDict):
    n: int
    log: Annotated[list, operator.add]


def one(state, writer: StreamWriter):
    writer({"at": state["n"]})
    return {"n": state["n"] + 1, "log": ["one"]}


def two(state):
    return {"log": ["two"]}


def chain(**options):
    graph = StateGraph(State).add_node(one).add_node(two)
    return graph.add_edge(START, "one").add_edge("one", "two").compile(**options)


def nested():
    """The chain as the only node of a graph."""
    return StateGraph(State).add_node("inner", chain()).add_edge(START, "inner").compile()


GIVEN = {"n": 0, "log": []}
thread = {"configurable": {"thread_id": "1"}}


@pytest.fixture(params=["stream", "astream"])
def stream(request):
    """A run as a list, from either of the twins."""

    def run(graph, given=GIVEN, config=None, **options):
        if request.param == "stream":
            return list(graph.stream(given, config, **options))

        async def collect():
            return [part async for part in graph.astream(given, config, **options)]

        return asyncio.run(collect())

    return run


# ------------------------------------------------------------------ modes
def test_values_are_the_state_after_each_step(stream):
    assert stream(chain(), stream_mode="values") == [
        {"n": 0, "log": []},
        {"n": 1, "log": ["one"]},
        {"n": 1, "log": ["one", "two"]},
    ]


def test_updates_are_what_each_node_wrote(stream):
    shown = [{"one": {"n": 1, "log": ["one"]}}, {"two": {"log": ["two"]}}]
    assert stream(chain(), stream_mode="updates") == shown
    assert stream(chain()) == shown  # the mode of a compiled graph


def test_custom_is_what_nodes_give_to_their_writer(stream):
    assert stream(chain(), stream_mode="custom") == [{"at": 0}]


def test_tasks_start_and_end(stream):
    shown = stream(chain(), stream_mode="tasks")
    assert [(task["name"], "result" in task) for task in shown] == [
        *(("one", False), ("one", True)),
        *(("two", False), ("two", True)),
    ]
    started, ended = shown[:2]
    assert started["id"] == ended["id"]
    assert started["input"] == GIVEN
    assert list(started["triggers"]) == ["branch:to:one"]
    assert ended["result"] == {"n": 1, "log": ["one"]}
    assert (ended["error"], ended["interrupts"]) == (None, [])


def test_checkpoints_say_what_comes_next(stream):
    shown = stream(chain(checkpointer=InMemorySaver()), config=thread, stream_mode="checkpoints")
    assert [part["next"] for part in shown] == [["__start__"], ["one"], ["two"], []]
    assert [part["metadata"]["step"] for part in shown] == [-1, 0, 1, 2]
    assert shown[-1]["values"] == {"n": 1, "log": ["one", "two"]}
    assert shown[1]["config"] == shown[2]["parent_config"]


@pytest.mark.parametrize("answer", [7, 0])
def test_a_checkpoint_shows_results_that_say_something(answer):
    graph = StateGraph(Annotated[int, operator.add])
    graph.add_node("a", lambda state: answer).add_node("b", lambda state: interrupt("?"))
    graph.add_edge(START, "a").add_edge(START, "b")
    run, thread = graph.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "1"}}
    run.invoke(1, thread)
    assert run.get_state(thread).tasks[0].result == answer
    shown = next(iter(run.stream(Command(resume=3), thread, stream_mode="checkpoints")))
    assert shown["tasks"][0].get("result", "none") == (answer or "none")


def test_debug_is_tasks_and_checkpoints_with_their_steps(stream):
    shown = stream(chain(checkpointer=InMemorySaver()), config=thread, stream_mode="debug")
    assert [(part["step"], part["type"]) for part in shown] == [
        (-1, "checkpoint"),
        *((0, "checkpoint"), (1, "task"), (1, "task_result")),
        *((1, "checkpoint"), (2, "task"), (2, "task_result"), (2, "checkpoint")),
    ]
    assert all(part["timestamp"] for part in shown)


def test_messages_come_in_pieces_and_whole():
    model = GenericFakeChatModel(messages=iter([AIMessage("one two")]))

    def ask(state):
        return {"messages": [model.invoke(state["messages"])]}

    def add(state):
        return {"messages": [AIMessage("whole", id="w")]}

    graph = StateGraph(MessagesState).add_node(ask).add_node(add).add_edge(START, "ask").add_edge("ask", "add")
    shown = list(graph.compile().stream({"messages": [HumanMessage("?", id="h")]}, stream_mode="messages"))
    assert [message.content for message, _ in shown if message.content] == ["one", " ", "two", "whole"]
    assert {about["langgraph_node"] for message, about in shown if message.content == "whole"} == {"add"}
    assert all(message.id for message, _ in shown)


def test_messages_of_models_with_the_tag_nostream_are_not_shown():
    model = GenericFakeChatModel(messages=iter([AIMessage("hidden")]), tags=["nostream"])
    graph = StateGraph(MessagesState).add_node("ask", lambda state: {"messages": []} if model.invoke("?") else None)
    assert list(graph.add_edge(START, "ask").compile().stream({"messages": []}, stream_mode="messages")) == []


def test_several_modes_give_pairs(stream):
    shown = stream(chain(), stream_mode=["updates", "custom"])
    assert shown == [
        *(("custom", {"at": 0}), ("updates", {"one": {"n": 1, "log": ["one"]}})),
        ("updates", {"two": {"log": ["two"]}}),
    ]
    assert stream(chain(), stream_mode=["values"])[0] == ("values", GIVEN)


@pytest.mark.parametrize("several", [False, True])
def test_subgraphs_are_shown_with_their_namespace(stream, several):
    shown = stream(nested(), stream_mode=["updates"] if several else "updates", subgraphs=True)
    spaces = [part[0] for part in shown]
    assert re.fullmatch(r"inner:[0-9a-f-]{36}", spaces[0][0])
    assert spaces == [spaces[0], spaces[0], ()]
    assert [part[-1] for part in shown] == [
        *({"one": {"n": 1, "log": ["one"]}}, {"two": {"log": ["two"]}}),
        {"inner": {"n": 1, "log": ["one", "two"]}},
    ]
    assert {len(part) for part in shown} == {3 if several else 2}


def test_subgraphs_are_not_shown_without_being_asked_for(stream):
    assert stream(nested()) == [{"inner": {"n": 1, "log": ["one", "two"]}}]


def test_version_2_has_typed_parts(stream):
    first, *_, last = stream(chain(), stream_mode=["values", "updates"], version="v2")
    assert first == {"type": "values", "ns": (), "data": GIVEN, "interrupts": ()}
    assert (last["type"], last["data"]["log"]) == ("values", ["one", "two"])
    given = chain().invoke(GIVEN, version="v2")
    assert isinstance(given, GraphOutput)
    assert given.value == {"n": 1, "log": ["one", "two"]}


def test_an_interrupt_is_shown_and_answered(stream):
    def ask(state):
        return {"log": [interrupt("who?")]}

    graph = StateGraph(State).add_node(ask).add_edge(START, "ask").compile(checkpointer=InMemorySaver())
    (shown,) = stream(graph, config=thread)
    assert [one.value for one in shown["__interrupt__"]] == ["who?"]
    assert stream(graph, Command(resume="me"), thread) == [{"ask": {"log": ["me"]}}]


def test_a_failure_comes_after_what_was_shown(stream):
    def fail(state):
        raise ValueError("no")

    graph = StateGraph(State).add_node(one).add_node(fail).add_edge(START, "one").add_edge("one", "fail").compile()
    shown = graph.stream(GIVEN)
    assert next(shown) == {"one": {"n": 1, "log": ["one"]}}
    with pytest.raises(ValueError, match="no"):
        next(shown)


def test_what_is_shown_is_there_before_the_next_step_runs():
    ran = []
    graph = StateGraph(State).add_node("a", lambda state: ran.append("a")).add_node("b", lambda state: ran.append("b"))
    shown = graph.add_edge(START, "a").add_edge("a", "b").compile().stream(GIVEN)
    next(shown)
    assert ran == ["a"]
    shown.close()
    assert ran == ["a"]


def test_a_stream_is_empty_until_it_is_read():
    ran = []
    graph = StateGraph(State).add_node("a", lambda state: ran.append("a")).add_edge(START, "a").compile()
    shown = graph.stream(GIVEN, {"recursion_limit": 0})
    with pytest.raises(ValueError, match="at least 1"):
        next(shown)
    assert ran == []


def test_tasks_of_one_step_are_shown_as_they_end():
    def each(state):
        return {"log": [state["n"]]}

    graph = StateGraph(State).add_node(each, retry_policy=RetryPolicy())
    graph.add_conditional_edges(START, lambda state: [Send("each", {"n": i}) for i in range(3)]).add_edge("each", END)
    shown = list(graph.compile().stream(GIVEN, stream_mode="updates"))
    assert sorted(part["each"]["log"][0] for part in shown) == [0, 1, 2]


def test_what_is_printed_is_not_given(capsys):
    assert list(chain().stream(GIVEN, stream_mode="custom", print_mode="updates")) == [{"at": 0}]
    assert "[updates]" in capsys.readouterr().out
    chain().invoke(GIVEN, debug=True)
    told = capsys.readouterr().out
    assert "[values]" in told and "'two'" in told


# ------------------------------------------------------------------ events
def test_events_are_sorted_into_projections():
    with chain().stream_events(GIVEN, version="v3") as run:
        assert list(run.values) == [GIVEN, {"n": 1, "log": ["one"]}, {"n": 1, "log": ["one", "two"]}]
        assert run.output == {"n": 1, "log": ["one", "two"]}
        assert not run.interrupted
    with pytest.raises(AttributeError, match=r"no attribute 'value'; its projections are: .*values"):
        _ = run.value


def test_events_in_an_event_loop():
    async def main():
        async with await chain().astream_events(GIVEN, version="v3") as run:
            shown = [value async for value in run.values]
            return shown, await run.output()

    shown, output = asyncio.run(main())
    assert shown[-1] == output == {"n": 1, "log": ["one", "two"]}


def test_nothing_runs_but_what_is_read():
    ran = []
    graph = StateGraph(State)
    for name, after in (("a", START), ("b", "a")):
        graph.add_node(name, lambda state, name=name: ran.append(name)).add_edge(after, name)
    run = graph.compile().stream_events(GIVEN, version="v3")
    assert ran == []
    next(iter(run.values))
    assert ran == []  # the first value is the input
    run.abort()
    run.abort()
    assert ran == []


def test_interleaved_projections_come_in_their_order():
    run = chain().stream_events(GIVEN, version="v3", transformers=[UpdatesTransformer])
    assert [name for name, _ in run.interleave("values", "updates")] == [
        *("values", "updates"),
        *("values", "updates", "values"),
    ]


def test_a_subgraph_is_a_run_of_its_own():
    run = nested().stream_events(GIVEN, version="v3")
    (child,) = list(run.subgraphs)
    assert isinstance(child, SubgraphRunStream)
    assert (child.graph_name, child.status, child.error) == ("inner", "completed", None)
    assert child.path[0].startswith("inner:")
    assert run.output == {"n": 1, "log": ["one", "two"]}


def test_the_values_of_a_subgraph_are_read_while_it_runs():
    run = nested().stream_events(GIVEN, version="v3")
    seen = [value["log"] for child in run.subgraphs for value in child.values]
    assert seen == [["one"], ["one", "two"]]  # its input was shown before there was a task to know it by


def test_the_life_of_subgraphs_is_told():
    run = nested().stream_events(GIVEN, version="v3")
    told = list(run.lifecycle)
    assert [(payload["event"], payload.get("graph_name")) for payload in told] == [
        *(("started", "inner"), ("completed", None)),
    ]


@pytest.mark.parametrize("kind", [ValueError, GraphInterrupt])
def test_a_subgraph_that_breaks_is_told(kind):
    def fail(state):
        if kind is GraphInterrupt:
            interrupt("?")
        raise kind("broken")

    inner = StateGraph(State).add_node(fail).add_edge(START, "fail").compile()
    graph = StateGraph(State).add_node("inner", inner).add_edge(START, "inner").compile(checkpointer=InMemorySaver())
    run = graph.stream_events(GIVEN, thread, version="v3")
    children = list(run.subgraphs) if kind is GraphInterrupt else []
    if kind is GraphInterrupt:
        assert run.interrupted and [one.value for one in run.interrupts] == ["?"]
        assert children[0].status == "interrupted"
        return
    with pytest.raises(ValueError, match="broken"):
        children.extend(run.subgraphs)
    with pytest.raises(ValueError, match="broken"):
        _ = run.output


class Counts(StreamTransformer):
    """How many values there were, beside what was announced under a name."""

    required_stream_modes = ("values",)

    def init(self):
        self.count = StreamChannel("count")
        return {"count": self.count}

    def process(self, event):
        if event["method"] == "values":
            self.count.push(len(event["params"]["data"]["log"]))
        return True


def test_a_transformer_of_ones_own_is_an_extension_and_an_event():
    run = chain(transformers=[Counts]).stream_events(GIVEN, version="v3")
    assert list(run.extensions["count"]) == [0, 1, 2]
    run = chain().stream_events(GIVEN, version="v3", transformers=[Counts])
    events = list(run)
    assert [event["params"]["data"] for event in events if event["method"] == "custom:count"] == [0, 1, 2]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"version": "v1"}, NotImplementedError, r"version='v1'.*astream_events"),
        ({"version": "v3", "stream_mode": "values"}, TypeError, "do not accept stream_mode"),
        ({"version": "v3", "transformers": [5]}, TypeError, "scope-aware callables, got int"),
        ({"version": "v3", "transformers": [Counts(())]}, TypeError, "pre-built instance Counts"),
        ({"version": "v3", "transformers": [Counts, Counts]}, ValueError, r"conflict.*'count' \(of Counts\)"),
    ],
)
def test_what_events_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        chain().stream_events(GIVEN, **options)


def test_a_child_that_fails_to_close_does_not_keep_others_from_being_closed():
    closed = []

    class Breaks(StreamTransformer):
        def init(self):
            return {}

        def process(self, event):
            return True

        def finalize(self):
            closed.append(self.scope)
            if self.scope:
                raise RuntimeError(f"cannot end {self.scope}")

    from dynamo.langgraph.stream import SubgraphTransformer

    mux = StreamMux(factories=[SubgraphTransformer, Breaks])
    for name in ("a:1", "b:2"):
        start = {"id": name, "name": name, "input": None, "triggers": []}
        about = {"namespace": [name], "timestamp": 0, "data": start}
        mux.push({"type": "event", "method": "tasks", "params": about})
    with pytest.raises(RuntimeError, match="cannot end"):
        mux.close()
    assert closed == [("a:1",), ("b:2",), ()]


def test_a_transformer_that_only_awaits_is_refused_where_nothing_can_be_awaited():
    class Awaits(UpdatesTransformer):
        async def aprocess(self, event):
            return self.process(event)

    with pytest.raises(RuntimeError, match=r"Awaits requires an async run.*astream_events"):
        StreamMux(factories=[Awaits])
    assert StreamMux(factories=[Awaits], is_async=True).native_keys == {"updates"}
