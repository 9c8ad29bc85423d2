"""Threads that are kept, their history, and another way taken from a point in the past.

python persistence.py
python persistence.py --db notes.sqlite      # run it twice: needs `pip install langgraph-checkpoint-sqlite`
"""

import argparse
import contextlib
import operator
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver

from dynamo.langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    note: str
    notes: Annotated[list[str], operator.add]


def keep(state: State) -> State:
    return {"notes": [state["note"]]}


def compiled(saver: Any) -> Any:
    return StateGraph(State).add_node("keep", keep).add_edge(START, "keep").add_edge("keep", END).compile(saver)


@contextlib.contextmanager
def saver_for(db: str | None) -> Iterator[Any]:
    if db is None:
        yield InMemorySaver()
        return
    from langgraph.checkpoint.sqlite import SqliteSaver

    with SqliteSaver.from_conn_string(db) as saver:
        yield saver


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--db", help="a file to keep the threads in")
    args = parser.parse_args()
    with saver_for(args.db) as saver:
        app = compiled(saver)
        ada: Any = {"configurable": {"thread_id": "Ada"}}
        grace: Any = {"configurable": {"thread_id": "Grace"}}
        for note in ("engines", "numbers", "looms"):
            app.invoke({"note": note}, ada)
        app.invoke({"note": "compilers"}, grace)
        print("Ada:", app.get_state(ada).values["notes"])
        print("Grace:", app.get_state(grace).values["notes"])

        # Every superstep is there. Back to where Ada had one note more than before, and on from there.
        ended = [one for one in app.get_state_history(ada) if not one.next]
        then = ended[1]
        print(f"{len(ended)} runs; before the last one:", then.values["notes"])
        print("another way:", app.invoke({"note": "poems"}, then.config)["notes"])
