"""States of every kind: what nodes and path functions get of them, and what becomes of what they return."""

import asyncio
import operator
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langgraph.checkpoint")

from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from pydantic import BaseModel, ValidationError
from typing_extensions import NotRequired, Required
from typing_extensions import TypedDict as TypedDictOfToday

from dynamo.langgraph.channels import DeltaChannel, EphemeralValue, LastValue, UntrackedValue
from dynamo.langgraph.graph import END, START, MessagesState, StateGraph, add_messages
from dynamo.langgraph.graph.message import REMOVE_ALL_MESSAGES, _messages_delta_reducer, push_message
from dynamo.langgraph.graph.state import _get_channel, _get_node_name, _is_field_channel
from dynamo.langgraph.types import Command, Send


class Model(BaseModel):
    n: int = 0
    log: Annotated[list, operator.add] = []


@dataclass
class Data:
    n: int = 0
    log: Annotated[list, operator.add] = field(default_factory=list)


class Keys(TypedDict):
    n: int
    log: Annotated[list, operator.add]


def run(schema, node, given, **compiled):
    return StateGraph(schema).add_node("node", node).add_edge(START, "node").compile(**compiled).invoke(given)


# ------------------------------------------------------------------ schemas
@pytest.mark.parametrize("schema", [Model, Data, Keys])
def test_a_node_gets_an_instance_of_the_schema(schema):
    seen = []

    def node(state):
        seen.append(type(state))
        return {"n": (state["n"] if schema is Keys else state.n) + 1, "log": ["a"]}

    assert run(schema, node, {"n": 1, "log": []}) == {"n": 2, "log": ["a"]}
    assert seen == [dict if schema is Keys else schema]


@pytest.mark.parametrize("schema", [Model, Data])
def test_an_instance_is_an_update(schema):
    assert run(schema, lambda state: schema(n=state.n + 1, log=["a"]), schema(n=1)) == {"n": 2, "log": ["a"]}


def test_a_model_refuses_what_does_not_fit():
    with pytest.raises(ValidationError, match="valid integer"):
        run(Model, lambda state: {}, {"n": "x"})


def test_a_state_without_keys_is_a_value():
    graph = StateGraph(Annotated[list, operator.add])
    graph.add_node("a", lambda state: ["a"]).add_node("b", lambda state: Command(update=["b"], goto="c"))
    graph.add_node("c", lambda state: [["c"], Command(update=["d"])])
    graph.add_edge(START, "a").add_edge("a", "b")
    assert graph.compile().invoke(["x"]) == ["x", "a", "b", "c", "d"]
    assert run(int, lambda state: state + 1, 1) == 2
    assert run(int, lambda state: None, 1) == 1


def test_annotations_name_channels():
    delta = _get_channel("k", Annotated[list, DeltaChannel(_messages_delta_reducer)])
    assert type(delta) is DeltaChannel and delta.key == "k"
    assert type(_get_channel("k", Annotated[int, UntrackedValue])) is UntrackedValue
    assert _get_channel("k", Required[Annotated[int, EphemeralValue(int)]]).key == "k"
    assert type(_get_channel("k", NotRequired[int])) is LastValue
    assert _is_field_channel(Annotated[int, "a note"]) is None


def test_a_reducer_without_a_signature_is_refused():
    with pytest.raises(ValueError, match=r"for the key 'k' must show that it takes two arguments; wrap it in a lambda"):
        _get_channel("k", Annotated[int, max])


def test_managed_values_are_not_input():
    from dynamo.langgraph.managed import RemainingSteps

    class Left(TypedDict):
        left: RemainingSteps

    class State(TypedDict):
        n: int

    with pytest.raises(ValueError, match="Invalid managed channels detected in Left: left"):
        StateGraph(State, input_schema=Left)


def test_the_same_key_means_the_same_everywhere():
    def last(old, new):
        return new

    class Other(TypedDict):
        log: Annotated[list, last]

    with pytest.raises(ValueError, match=r"'log' already exists with a different type.*Other.*same annotation"):
        StateGraph(Keys, output_schema=Other)


def test_json_schemas_are_those_of_the_classes():
    class Today(TypedDictOfToday):
        n: int

    for schema in (Model, Data, Today):
        graph = StateGraph(schema).add_node("node", lambda state: None).add_edge(START, "node").compile()
        assert graph.get_input_jsonschema()["properties"]["n"]["type"] == "integer"
        assert "n" in graph.get_output_jsonschema()["properties"]
    whole = StateGraph(int).add_node("node", lambda state: None).add_edge(START, "node").compile()
    assert whole.get_input_jsonschema()["type"] == "integer"


def test_input_and_output_are_parts_of_the_state():
    class In(TypedDict):
        question: str

    class Out(TypedDict):
        answer: str

    class Both(In, Out):
        secret: str

    graph = StateGraph(Both, input_schema=In, output_schema=Out)
    graph.add_node("think", lambda state: {"secret": state["question"]})

    def speak(state: Both) -> Out:
        return {"answer": state["secret"] + "!"}

    compiled = graph.add_node(speak).add_edge(START, "think").add_edge("think", "speak").compile()
    assert compiled.invoke({"question": "a", "answer": "ignored"}) == {"answer": "a!"}


# ------------------------------------------------------------------ nodes and paths
def test_names_of_nodes():
    class Works:
        def __call__(self, state):
            return {}

    def plain(state):
        return {}

    assert [_get_node_name(one) for one in (plain, Works())] == ["plain", "Works"]
    assert _get_node_name(StateGraph(Keys).add_node(plain).add_edge(START, "plain").compile(name="g")) == "g"


def test_commands_and_sends_go_where_they_say():
    graph = StateGraph(Keys)
    graph.add_node("start", lambda state: [{"log": ["s"]}, Command(goto=[Send("each", {"n": i}) for i in (1, 2)])])
    graph.add_node("each", lambda state: {"log": [state["n"]]})
    graph.add_node("end", lambda state: Command(update=[("log", ["e"])], goto=END), defer=True)
    graph.add_edge(START, "start").add_edge("each", "end")
    assert graph.compile().invoke({"n": 0, "log": []})["log"] == ["s", 1, 2, "e"]


@pytest.mark.parametrize("later", [False, True])
def test_a_path_function_sees_what_its_node_wrote(later):
    seen = []

    def plain(state):
        seen.append(state["n"])
        return END if state["n"] > 2 else "node"

    async def awaited(state):
        return plain(state)

    graph = StateGraph(Keys).add_node("node", lambda state: {"n": state["n"] + 1}).add_edge(START, "node")
    graph.add_conditional_edges("node", awaited if later else plain)
    compiled = graph.compile()
    given = {"n": 0, "log": []}
    assert (asyncio.run(compiled.ainvoke(given)) if later else compiled.invoke(given))["n"] == 3
    assert seen == [1, 2, 3]


def test_a_path_function_gets_the_schema_it_names():
    seen = []

    class Part(TypedDict):
        n: int

    def path(state: Part) -> str:
        seen.append(state)
        return END

    graph = StateGraph(Keys).add_node("node", lambda state: {"n": 1}).add_edge(START, "node")
    graph.add_conditional_edges("node", path).compile().invoke({"n": 0, "log": ["x"]})
    assert seen == [{"n": 1}]


def test_defaults_hold_for_nodes_that_say_nothing_else():
    tries = []

    def fails(state):
        tries.append(1)
        raise ValueError("no")

    graph = StateGraph(Keys).set_node_defaults(error_handler=lambda state: {"log": ["handled"]})
    graph.add_node(fails).add_edge(START, "fails")
    assert graph.compile().invoke({"n": 0, "log": []})["log"] == ["handled"]


def test_what_is_added_after_compiling_is_told(caplog):
    graph = StateGraph(Keys).add_node("node", lambda state: {}).add_edge(START, "node")
    graph.compile()
    graph.add_node("other", lambda state: {})
    assert "Adding a node to a graph that has already been compiled" in caplog.text


# ------------------------------------------------------------------ messages
def ids(messages):
    return [message.id for message in messages]


def test_messages_are_merged_by_their_ids():
    old = [HumanMessage("a", id="1"), AIMessage("b", id="2")]
    assert ids(add_messages(old, AIMessage("c", id="2"))) == ["1", "2"]
    assert [message.content for message in add_messages(old, [AIMessage("c", id="2")])] == ["a", "c"]
    assert ids(add_messages(old, [RemoveMessage(id="1")])) == ["2"]
    assert ids(add_messages(old, [RemoveMessage(id=REMOVE_ALL_MESSAGES), AIMessage("x", id="9")])) == ["9"]
    assert all(ids(add_messages([], [("user", "a"), "b", {"role": "ai", "content": "c"}])))


def test_a_reducer_of_messages_with_options():
    merge: Any = add_messages(format="langchain-openai")
    image = {"type": "image", "source_type": "url", "url": "http://x/a.png"}
    (message,) = merge([], [HumanMessage([{"type": "text", "text": "a"}, image])])
    assert message.content[1] == {"type": "image_url", "image_url": {"url": "http://x/a.png"}}
    with pytest.raises(ValueError, match="Unrecognized format='x'"):
        add_messages([], [], format="x")


def test_delta_messages_are_the_same_however_often_they_are_replayed():
    writes = [[HumanMessage("a", id="1")], AIMessage("b", id="2"), [RemoveMessage(id="1"), AIMessage("c", id="2")]]
    whole = _messages_delta_reducer([], writes)
    assert ids(whole) == ["2"] and whole[0].content == "c"
    assert _messages_delta_reducer(_messages_delta_reducer([], writes[:1]), writes[1:]) == whole
    assert ids(_messages_delta_reducer([], [["text"]])) == [None]


def test_a_pushed_message_is_shown_and_kept():
    def node(state):
        push_message(AIMessage("now", id="p"))
        push_message(HumanMessage("aside", id="q"), state_key=None)

    graph = StateGraph(MessagesState).add_node(node).add_edge(START, "node").compile()
    shown = list(graph.stream({"messages": []}, stream_mode=["messages", "values"]))
    assert [part[0].content for mode, part in shown if mode == "messages"] == ["now", "aside"]
    assert ids(shown[-1][1]["messages"]) == ["p"]
    with pytest.raises(ValueError, match="Message ID is required"):
        push_message(AIMessage("no id"))
