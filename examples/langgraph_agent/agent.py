"""An agent with tools on a served model, which remembers its conversations and can be served as a model itself.

    make serve                                          # in one terminal
    python agent.py "What is 231 * 19?" "And which day of the week is 2026-11-21?"
    python agent.py --serve &  dynamo chat --model agent       # the agent behind the same front end

      start -> think -> end
                | ^
     a CALL     v |
               act           calculate, weekday

The model is told how to call tools in its prompt, by examples, so that a base model of 270 M parameters does it, too.
"""

import argparse
import ast
import asyncio
import datetime
import json
import operator
import re
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver

from dynamo.graphs import ChatFrontend, serve_graph
from dynamo.langgraph.graph import START, MessagesState, StateGraph
from dynamo.langgraph.pregel import Pregel

# It stands before every conversation, and never changes: the workers hold it once for all threads.
PROMPT: list[BaseMessage] = [
    SystemMessage(
        "Use a tool when you need one. Reply with one line: CALL calculate(expression), CALL weekday(date), or "
        "ANSWER text."
    ),
    HumanMessage("What is 12 * 7?"),
    AIMessage("CALL calculate(12 * 7)"),
    HumanMessage("RESULT 84"),
    AIMessage("ANSWER It is 84."),
    HumanMessage("Which day of the week was 2024-02-29?"),
    AIMessage("CALL weekday(2024-02-29)"),
    HumanMessage("RESULT Thursday"),
    AIMessage("ANSWER It was a Thursday."),
    HumanMessage("How much is 90 / 4 + 3?"),
    AIMessage("CALL calculate(90 / 4 + 3)"),
    HumanMessage("RESULT 25.5"),
    AIMessage("ANSWER It is 25.5."),
]
MOST_CALLS = 4  # for one question


# ---------------------------------------------------------------- tools
_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


def calculate(expression: str) -> str:
    """The value of numbers with + - * / and parentheses."""

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value  # type: ignore[return-value]
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp):
            return _OPERATORS[type(node.op)](value(node.operand))
        raise KeyError(node)

    return f"{value(ast.parse(expression.strip()[:200], mode='eval').body):.10g}"


def weekday(date: str) -> str:
    """The day of the week of a date like 2026-11-21."""
    return f"{datetime.date.fromisoformat(date.strip()):%A}"


TOOLS: dict[str, Callable[[str], str]] = {"calculate": calculate, "weekday": weekday}
CALL = re.compile(r"CALL (\w+)\((.*)\)")


# ---------------------------------------------------------------- the graph
def make_agent(model: BaseChatModel, saver: Any = None) -> "Pregel[Any, Any, Any, Any]":
    """The compiled graph; with a saver it remembers its threads."""

    async def think(state: MessagesState) -> dict[str, list[BaseMessage]]:
        # The prompt, then the whole thread: what was sent last time is the beginning of what is sent now, so the
        # router finds the worker that holds it.
        return {"messages": [await model.ainvoke([*PROMPT, *state["messages"]])]}

    def act(state: MessagesState) -> dict[str, list[BaseMessage]]:
        name, argument = CALL.search(str(state["messages"][-1].content)).groups()  # type: ignore[union-attr]
        try:
            result = TOOLS[name](argument)
        except (KeyError, ValueError, SyntaxError, ArithmeticError) as error:
            result = f"impossible ({type(error).__name__})"
        return {"messages": [HumanMessage(f"RESULT {result}")]}

    def follow(state: MessagesState) -> Literal["act", "__end__"]:
        calls = 0
        for message in reversed(state["messages"]):
            if isinstance(message, HumanMessage) and not str(message.content).startswith("RESULT "):
                break
            calls += isinstance(message, HumanMessage)
        wants = CALL.search(str(state["messages"][-1].content))
        return "act" if wants and calls < MOST_CALLS else "__end__"

    graph = StateGraph(MessagesState).add_node("think", think).add_node("act", act)
    graph.add_edge(START, "think").add_conditional_edges("think", follow).add_edge("act", "think")
    return graph.compile(checkpointer=saver, name="agent")


def model_at(url: str, name: str | None = None, max_tokens: int = 48) -> ChatFrontend:
    """The model that a front end serves; the first of several."""
    if name is None:
        with urllib.request.urlopen(f"{url.rstrip('/')}/v1/models", timeout=10) as answer:
            name = next(model["id"] for model in json.load(answer)["data"] if model["id"] != "agent")
    stop = ["\n", "<|im_end|>"]  # one line; base models write the end of a turn as text
    return ChatFrontend(url=url, model=name, options={"temperature": 0, "max_tokens": max_tokens, "stop": stop})


# ---------------------------------------------------------------- the program
async def ask(agent: "Pregel[Any, Any, Any, Any]", thread: str, questions: Sequence[str]) -> None:
    """Ask in one thread, and print what happens as it happens."""
    config: Any = {"configurable": {"thread_id": thread}}
    for question in questions:
        print(f"> {question}")
        given: Any = {"messages": [HumanMessage(question)]}
        async for mode, part in agent.astream(given, config, stream_mode=["messages", "updates"]):
            if mode == "messages" and part[1]["langgraph_node"] == "think":
                print(part[0].content, end="", flush=True)
            elif mode == "updates":
                for node, update in part.items():
                    message = update["messages"][-1]
                    print(_cost(message) if node == "think" else message.content)


def _cost(message: Any) -> str:
    usage = message.usage_metadata or {}
    cached = (usage.get("input_token_details") or {}).get("cache_read", 0)
    return f"   [{usage.get('input_tokens', 0)} tokens of prompt, {cached} of them from a worker's cache]"


async def serve(agent: "Pregel[Any, Any, Any, Any]") -> None:
    """Serve the agent as the model "agent", on the front end that is there."""
    from dynamo.runtime import dynamo_worker

    @dynamo_worker()
    async def worker(runtime: Any) -> None:
        endpoint = runtime.endpoint("dynamo.agents.generate")
        ready = "the agent is served as the model 'agent'"
        await serve_graph(endpoint, agent, "agent", on_ready=lambda: print(ready, flush=True))

    await worker()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", default=["What is 231 * 19?", "Which day of the week is 2026-11-21?"])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the front end")
    parser.add_argument("--model", help="which of its models; by default the first")
    parser.add_argument("--thread", default="example", help="which conversation")
    parser.add_argument("--serve", action="store_true", help="serve the agent instead of asking it")
    parser.add_argument("--draw", metavar="FILE.svg", help="draw the graph, and do nothing else")
    args = parser.parse_args()
    if args.draw:
        from dynamo.graphs import draw

        print(f"drawn: {draw(make_agent(ChatFrontend(url=args.url, model=''))).save(args.draw)}")
        return
    agent = make_agent(model_at(args.url, args.model), InMemorySaver())
    asyncio.run(serve(agent) if args.serve else ask(agent, args.thread, args.questions))


if __name__ == "__main__":
    main()
