"""Threads of a LangGraph agent against a real server, kv routing beside round-robin in one interleaved run.

usage: python benchmarks/graph_threads.py MODEL.gguf [--rounds 2] [--engine llamacpp] [--threads 6] [--turns 4]

The agent is that of examples/langgraph_agent: every call sends its prompt of examples and the whole thread, which has
grown at its end since the thread's last call. A thread begins with notes of its own. Threads run at the same time, each
asks the next question when it has its answer. Each round starts a fresh server for each router. Printed: prompt tokens,
how many of them came from a cache, and the time to the first token of all calls but a thread's first.
"""

import argparse
import asyncio
import json
import pathlib
import statistics
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples" / "langgraph_agent"))

from agent import make_agent, model_at
from conversations import Server
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from dynamo.graphs import ChatFrontend

QUESTIONS = [
    "What is {a} * {b}?",
    "Which day of the week was 19{b}-0{c}-1{c}?",
    "How much is {a} / {c} + {b}?",
    "What is {a} + {b}?",
    "Which day of the week is 20{b}-0{c}-2{c}?",
    "How much is {b} * {c} - 7?",
]
WORDS = """river otter stone bridge lantern copper winter garden letter harbour engine window mountain paper silver
bread thunder meadow clock ladder forest candle market feather anchor valley mirror basket tower island""".split()  # noqa: SIM905


class Timed(ChatFrontend):
    """Writes down of each call: its thread, seconds to the first piece, prompt tokens, cached tokens."""

    rows: list[tuple[str, float, int, int]]

    async def _items(self, request: dict[str, Any], thread: str | None) -> Any:
        start, first, usage = time.perf_counter(), 0.0, {}
        async for item in super()._items(request, thread):
            if not first and item["choices"] and item["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - start
            usage = item.get("usage") or usage
            yield item
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        self.rows.append((str(thread), first, usage.get("prompt_tokens", 0), cached))


async def talk(agent: Any, number: int, turns: int, notes: int) -> None:
    config = {"configurable": {"thread_id": str(number)}}
    if notes:
        words = " ".join(WORDS[(number * 7 + i * (3 + number)) % len(WORDS)] for i in range(notes))
        await agent.aupdate_state(
            config, {"messages": [HumanMessage(f"My notes: {words}."), AIMessage("ANSWER Noted.")]}
        )
    for turn in range(turns):
        question = QUESTIONS[(number + turn) % len(QUESTIONS)]
        text = question.format(a=101 + 13 * number + turn, b=10 + 7 * number, c=1 + turn % 9)
        await agent.ainvoke({"messages": [HumanMessage(text)]}, config)


async def run(url: str, threads: int, turns: int, tokens: int, notes: int) -> list[tuple[str, float, int, int]]:
    plain = await asyncio.to_thread(model_at, url)
    model = Timed(url=url, model=plain.model, options={**plain.options, "max_tokens": tokens}, rows=[])
    agent = make_agent(model, InMemorySaver())
    await asyncio.gather(*(talk(agent, number, turns, notes) for number in range(threads)))
    return model.rows


def figures(rows: list[tuple[str, float, int, int]]) -> dict[str, float]:
    seen: set[str] = set()
    later = []
    for row in rows:
        if row[0] in seen:
            later.append(row)
        seen.add(row[0])
    return {
        "calls": len(rows),
        "prompt tokens": sum(row[2] for row in rows),
        "cached tokens": sum(row[3] for row in rows),
        "computed tokens": sum(row[2] - row[3] for row in rows),
        "first token, later calls, median ms": statistics.median(row[1] for row in later) * 1e3,
        "first token, later calls, mean ms": statistics.fmean(row[1] for row in later) * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engine", default="llamacpp", choices=["llamacpp", "mocker"])
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--notes", type=int, default=500, help="words that each thread has of its own from the start")
    parser.add_argument("--tokens", type=int, default=24, help="most tokens of an answer")
    args = parser.parse_args()

    def work(url: str) -> Any:
        return run(url, args.threads, args.turns, args.tokens, args.notes)

    found: dict[str, list[dict[str, float]]] = {"kv": [], "round-robin": []}
    for round_ in range(args.rounds):
        for router in found if round_ % 2 == 0 else reversed(found):
            server = Server(args.model, router, args.workers, args.engine)
            try:
                server.wait_ready(args.workers)
                found[router].append(figures(asyncio.run(work(server.url))))
            finally:
                server.stop()
            print(f"round {round_ + 1}, {router}: {json.dumps(found[router][-1])}", flush=True)
    print(
        f"\n| {args.engine}, {args.workers} workers, {args.threads} threads x {args.turns} turns | kv | round-robin |"
    )
    print("|---|---|---|")
    for name in found["kv"][0]:
        values = [statistics.median(one[name] for one in found[router]) for router in ("kv", "round-robin")]
        print(f"| {name} | {values[0]:,.0f} | {values[1]:,.0f} |")
    shares = [sum(o["cached tokens"] for o in rows) / sum(o["prompt tokens"] for o in rows) for rows in found.values()]
    print(f"| from a cache, % | {100 * shares[0]:.0f} | {100 * shares[1]:.0f} |")


if __name__ == "__main__":
    main()
