"""A graph of two nodes; which of them greets is chosen by a function.

python hello.py Ada
"""

import sys
from typing import Literal, TypedDict

from dynamo.langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    name: str
    greeting: str


def shout(state: State) -> State:
    return {"greeting": f"HELLO {state['name'].upper()}!"}


def whisper(state: State) -> State:
    return {"greeting": f"hello {state['name']}"}


def by_length(state: State) -> Literal["shout", "whisper"]:
    return "shout" if len(state["name"]) < 4 else "whisper"


graph = StateGraph(State)
graph.add_node("shout", shout)
graph.add_node("whisper", whisper)
graph.add_conditional_edges(START, by_length)
graph.add_edge("shout", END)
graph.add_edge("whisper", END)
app = graph.compile()

if __name__ == "__main__":
    for name in sys.argv[1:] or ["Ada", "Barbara"]:
        print(app.invoke({"name": name})["greeting"])
