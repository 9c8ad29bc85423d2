"""A program that a type checker has nothing against; it is checked, not run."""
# ruff: noqa: F841 -- the annotations of variables that nobody uses are what is checked

import operator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from pydantic import BaseModel

from dynamo.graphs import endpoint_node, serve_graph
from dynamo.langgraph.channels import LastValue, Topic
from dynamo.langgraph.config import get_config, get_store, get_stream_writer
from dynamo.langgraph.func import entrypoint, task
from dynamo.langgraph.graph import END, START, MessagesState, StateGraph, add_messages
from dynamo.langgraph.graph.state import CompiledStateGraph
from dynamo.langgraph.managed import IsLastStep, RemainingSteps
from dynamo.langgraph.pregel import NodeBuilder, Pregel
from dynamo.langgraph.runtime import Runtime, get_runtime
from dynamo.langgraph.types import (
    CachePolicy,
    Command,
    GraphOutput,
    Interrupt,
    RetryPolicy,
    Send,
    StateSnapshot,
    StreamWriter,
    interrupt,
)
from dynamo.runtime.client import Client


class State(TypedDict):
    n: int
    log: Annotated[list[str], operator.add]
    left: RemainingSteps
    last: IsLastStep


@dataclass
class Context:
    user: str


def plain(state: State) -> dict[str, Any]:
    return {"n": state["n"] + 1}


async def later(state: State, config: RunnableConfig) -> dict[str, Any]:
    return {"log": [config["configurable"]["thread_id"]]}


def with_runtime(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    user: str = runtime.context.user
    if runtime.store is not None:
        runtime.store.put(("a",), "b", {"c": 1})
    runtime.stream_writer({"x": 1})
    return {"log": [user]}


def with_writer(state: State, *, writer: StreamWriter) -> dict[str, Any]:
    writer("x")
    return {}


def with_store(state: State, *, store: BaseStore) -> dict[str, Any]:
    return {}


def choose(state: State) -> Command[Literal["plain", "later"]]:
    answer: str = interrupt("q")
    return Command(update={"log": [answer]}, goto="plain")


def path(state: State) -> Literal["plain", "__end__"]:
    return "plain" if state["n"] < 3 else END


def spread(state: State) -> list[Send]:
    return [Send("plain", state) for _ in range(3)]


def build() -> CompiledStateGraph[State, Context, State, State]:
    builder = StateGraph(State, Context)
    builder.add_node("plain", plain, retry_policy=RetryPolicy(max_attempts=2), cache_policy=CachePolicy())
    builder.add_node(later)
    builder.add_node(with_runtime)
    builder.add_node("writer", with_writer)
    builder.add_node("store", with_store)
    builder.add_node("choose", choose, destinations=("plain",), defer=True)
    builder.add_node("lambda", lambda state: {"n": state["n"]})
    builder.add_edge(START, "plain").add_edge(["plain", "later"], "choose")
    builder.add_conditional_edges("plain", path)
    builder.add_conditional_edges("later", spread, ["plain"])
    builder.add_sequence([("a", plain), ("b", plain)])
    return builder.compile(checkpointer=InMemorySaver(), store=InMemoryStore())


def run() -> None:
    graph = build()
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    given: State = {"n": 1, "log": [], "left": 3, "last": False}
    result = graph.invoke(given, config, context=Context("me"))
    print(result["n"])
    for chunk in graph.stream(given, config, stream_mode=["values", "updates"]):
        print(chunk)
    snapshot: StateSnapshot = graph.get_state(config)
    for one in graph.get_state_history(config, limit=2):
        print(one.values, one.next)
    graph.update_state(config, {"n": 2}, as_node="plain")
    graph.invoke(Command(resume="yes"), config)
    graph.invoke(None, config)
    found: tuple[Interrupt, ...] = snapshot.interrupts
    graph.get_graph().draw_mermaid()
    graph.with_config(tags=["a"]).invoke(given)
    out: GraphOutput[State] = graph.invoke(given, config, version="v2")
    n: int = out.value["n"]
    for part in graph.stream(given, config, version="v2", stream_mode="values"):
        if part["type"] == "values":
            m: int = part["data"]["n"]
    events = graph.stream_events(given, config, version="v3")


async def arun() -> None:
    graph = build()
    result = await graph.ainvoke({"n": 1, "log": [], "left": 3, "last": False})
    async for chunk in graph.astream(None):
        print(chunk)
    await graph.aget_state({"configurable": {}})
    out = await graph.ainvoke(None, version="v2")
    n: int = out.value["n"]


def chat(state: MessagesState) -> dict[str, list[AnyMessage]]:
    return {"messages": [AIMessage("hi")]}


talk = StateGraph(MessagesState).add_node(chat).set_entry_point("chat").set_finish_point("chat").compile()
talk.invoke({"messages": [HumanMessage("hi")]})
merged = add_messages([HumanMessage("a")], [AIMessage("b")])


class Model(BaseModel):
    n: int = 0


class In(TypedDict):
    question: str


class Out(TypedDict):
    answer: str


class Whole(In, Out):
    pass


def answer(state: In) -> Out:
    return {"answer": state["question"]}


def modelled(state: Model) -> dict[str, int]:
    return {"n": state.n}


StateGraph(Model).add_node("a", modelled).add_edge(START, "a").compile().invoke(Model(n=1))
StateGraph(Whole, input_schema=In, output_schema=Out).add_node("a", answer, input_schema=In).compile().invoke(
    {"question": "q"}
)


@task
def double(n: int) -> int:
    return 2 * n


@task(retry_policy=RetryPolicy(), name="x")
async def slow(n: int) -> str:
    return str(n)


@entrypoint(checkpointer=InMemorySaver())
def flow(n: int, *, previous: int | None = None) -> entrypoint.final[int, int]:
    total: int = double(n).result()
    return entrypoint.final(value=total, save=n)


@entrypoint()
async def aflow(n: int) -> str:
    text: str = await slow(n)
    return text


print(flow.invoke(1, {"configurable": {"thread_id": "1"}}))


def inside() -> None:
    runtime = get_runtime(Context)
    user: str = runtime.context.user
    get_stream_writer()("x")
    get_store().get(("a",), "b")
    get_config()["configurable"]


made = Pregel(
    nodes={"a": NodeBuilder().subscribe_only("in").do(lambda x: x).write_to("out")},
    channels={"in": LastValue(int), "out": Topic(int)},
    input_channels="in",
    output_channels="out",
)
made.invoke(1)


async def house(client: Client) -> None:
    talk = StateGraph(MessagesState).add_node("answer", client)
    talk.add_node("title", endpoint_node(client, output="title", deadline=1.5))
    await serve_graph(client.endpoint, talk.compile(), "agent")
