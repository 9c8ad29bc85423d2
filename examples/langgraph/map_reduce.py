"""One task for each piece of the work, all in one superstep, and their results folded together.

python map_reduce.py FILE...      # which words are the most frequent? (by default: in this folder's files)
"""

import operator
import pathlib
import re
import sys
from collections import Counter
from typing import Annotated, TypedDict

from dynamo.langgraph.graph import END, START, StateGraph
from dynamo.langgraph.types import Send


class State(TypedDict, total=False):
    files: list[str]
    counts: Annotated[Counter[str], operator.add]  # what several tasks write is added up
    top: list[tuple[str, int]]


class Piece(TypedDict):
    file: str


def one_task_a_file(state: State) -> list[Send]:
    return [Send("count", {"file": file}) for file in state["files"]]


def count(state: Piece) -> State:
    words = re.findall(r"[a-z]{4,}", pathlib.Path(state["file"]).read_text(encoding="utf-8").lower())
    return {"counts": Counter(words)}


def rank(state: State) -> State:
    return {"top": state["counts"].most_common(5)}


graph = StateGraph(State).add_node("count", count).add_node("rank", rank)
graph.add_conditional_edges(START, one_task_a_file, ["count"]).add_edge("count", "rank").add_edge("rank", END)
app = graph.compile()

if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    files = sys.argv[1:] or [str(place) for place in sorted(here.glob("*.py"))]
    result = app.invoke({"files": files})
    print(f"{len(files)} files, {sum(result['counts'].values())} words")
    for word, times in result["top"]:
        print(f"{times:6} {word}")
