"""A run that stops to ask a person, and goes on with the answer.

python human_in_the_loop.py                  # asks on the terminal
python human_in_the_loop.py --answer yes     # does not
"""

import argparse
from typing import Literal, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from dynamo.langgraph.graph import END, START, StateGraph
from dynamo.langgraph.types import Command, interrupt


class State(TypedDict, total=False):
    amount: int
    said: str


def check(state: State) -> Command[Literal["pay", "refuse"]]:
    if state["amount"] <= 100:
        return Command(goto="pay")
    # The run ends here. It goes on, from the beginning of this node, when somebody invokes it with the answer.
    answer = interrupt({"question": f"Pay {state['amount']}?", "options": ["yes", "no"]})
    return Command(goto="pay" if answer == "yes" else "refuse")


def pay(state: State) -> State:
    return {"said": f"paid {state['amount']}"}


def refuse(state: State) -> State:
    return {"said": f"did not pay {state['amount']}"}


graph = StateGraph(State).add_node("check", check).add_node("pay", pay).add_node("refuse", refuse)
graph.add_edge(START, "check").add_edge("pay", END).add_edge("refuse", END)
app = graph.compile(checkpointer=InMemorySaver())  # what waits has to be kept somewhere

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answer", choices=["yes", "no"])
    args = parser.parse_args()
    for thread, amount in enumerate((30, 5000)):
        config: RunnableConfig = {"configurable": {"thread_id": str(thread)}}
        asking: State = {"amount": amount}
        result = app.invoke(asking, config)
        for asked in result.get("__interrupt__", ()):
            print(asked.value["question"], end=" ", flush=True)
            answer = args.answer or input()
            if args.answer:
                print(answer)
            result = app.invoke(Command(resume=answer), config)
        print(result["said"])
