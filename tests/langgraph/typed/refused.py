"""A program whose marked lines, and no others, a type checker refuses; it is checked, not run."""

from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel
from typing_extensions import TypedDict

from dynamo.langgraph.func import entrypoint, task
from dynamo.langgraph.graph import START, StateGraph
from dynamo.langgraph.runtime import Runtime
from dynamo.langgraph.types import Command, RetryPolicy, Send


class State(TypedDict):
    n: int
    text: str


class Narrow(TypedDict):
    n: int


@dataclass
class Data:
    n: int


class Model(BaseModel):
    n: int


class Plain:
    n: int


@dataclass
class Context:
    user: str


def node(state: State) -> dict[str, Any]:
    return {}


def configured(state: State, config: RunnableConfig) -> dict[str, Any]:
    return {}


def narrow(state: Narrow) -> dict[str, Any]:
    return {}


def of_data(state: Data) -> dict[str, Any]:
    return {}


def of_model(state: Model) -> dict[str, Any]:
    return {}


def nothing() -> dict[str, Any]:
    return {}


def in_context(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    print(runtime.context.name)  # refused: has no attribute "name"
    return {}


StateGraph(Plain)  # refused: cannot be "Plain"

builder = StateGraph(State, Context)
builder.add_node("node", node).add_node("narrow", narrow).add_node(configured).add_node(in_context)
builder.add_node("nothing", nothing)  # refused: incompatible type "Callable[[], dict[str, Any]]"
builder.add_node(nothing)  # refused: incompatible type
builder.add_node("node", node, input_schema=State)
builder.add_node("narrow", narrow, input_schema=State)
builder.add_node("node", node, input_schema=Narrow)  # refused: incompatible type
builder.add_node("node", node, retries=3)  # refused: retries
builder.add_node("node", node, retry_policy=RetryPolicy(attempts=3))  # refused: attempts
builder.add_edge(START, 5)  # refused: incompatible type "int"
graph = builder.compile()

graph.invoke({"n": 1, "text": ""}, context=Context("me"))
graph.invoke(None)
graph.invoke(Command(resume=1))
graph.invoke({"number": 1})  # refused: "invoke" of "Pregel"
graph.invoke({"n": 1, "text": ""}, context="me")  # refused: "invoke" of "Pregel"
graph.invoke({"n": 1, "text": ""}, durability="later")  # refused: "invoke" of "Pregel"
graph.invoke(None, version="v2").value["number"]  # refused: no key "number"
list(graph.stream(None, stream_mode="value"))  # refused: "stream" of "Pregel"
graph.update_state({"configurable": {}}, {"n": 1}, as_node=5)  # refused: incompatible type "int"

of_dataclass = StateGraph(Data).add_node("a", of_data).set_entry_point("a").compile()
of_dataclass.invoke(Data(1))
of_dataclass.invoke({"n": 1})  # refused: "invoke" of "Pregel"

of_a_model = StateGraph(Model).add_node("a", of_model).set_entry_point("a").compile()
of_a_model.invoke(Model(n=1))
of_a_model.invoke({"n": 1})  # refused: "invoke" of "Pregel"

put_in = StateGraph(State, input_schema=Narrow).add_node("a", node).set_entry_point("a").compile()
put_in.invoke({"n": 1})
put_in.invoke({"n": 1, "text": ""})  # refused: "invoke" of "Pregel"

Send(5, {})  # refused: incompatible type "int"


@task
def double(n: int) -> int:
    return 2 * n


@entrypoint()
def flow(n: int) -> str:
    text: str = double(n).result()  # refused: Incompatible types in assignment
    double("x").result()  # refused: incompatible type "str"
    return text
