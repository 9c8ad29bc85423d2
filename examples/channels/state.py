"""The same channels as notes in a graph's state: how each key takes what the nodes write to it in one step."""

import operator
import tempfile
from typing import Annotated, Any, TypedDict

from dynamo import channels
from dynamo.langgraph.graph import START, StateGraph

scratch = channels.Context(tempfile.TemporaryFile, name="scratch")


class State(TypedDict, total=False):
    total: Annotated[int, channels.BinaryOperator(operator.add)]  # both nodes write in one step: folded
    seen: Annotated[list[str], channels.Topic(accumulate=True)]
    hint: Annotated[str, channels.EphemeralValue()]  # for the next step only
    file: Annotated[Any, scratch]  # what the context manager gave; not saved, not written


def left(state: State) -> State:
    return {"total": 1, "seen": ["left"], "hint": "only for the next step"}


def right(state: State) -> State:
    return {"total": 10, "seen": ["right"]}


def after(state: State) -> State:
    state["file"].write(state["hint"].encode())
    return {"total": state["file"].tell()}


graph = StateGraph(State).add_node("left", left).add_node("right", right).add_node("after", after)
graph.add_edge(START, "left").add_edge(START, "right").add_edge(["left", "right"], "after")
with scratch:
    result = graph.compile().invoke({"total": 100})
print(result["total"], result["seen"], "hint" in result)
