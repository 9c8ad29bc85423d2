"""Put load on an OpenAI-compatible server and measure it: time to first token, time between tokens, throughput.

Every request streams. Prompts are made of random words, so nothing is cached by accident; --shared-prefix gives
groups of requests a common beginning, which is what routing by cache is for, and --turns makes conversations.
"""

import argparse
import asyncio
import itertools
import json
import math
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from dynamo.cli import CommandError
from dynamo.cli.client import Connection, HttpFailure, Server
from dynamo.cli.options import add_client_options
from dynamo.cli.replay import write_json
from dynamo.cli.screen import Screen, table

HELP = "measure a server: TTFT, ITL, throughput"
EPILOG = """\
examples:
  dynamo bench                                        200 requests, 16 at a time, to 127.0.0.1:8000
  dynamo bench -c 64 -n 2000 --max-tokens 128         more of everything
  dynamo bench --rate 20 --duration 60                20 requests per second, at random times, for a minute
  dynamo bench --shared-prefix 2000 --groups 4        4 long system prompts: compare --router kv and round-robin
  dynamo bench --turns 5 --json result.json           conversations of 5 turns; keep the figures

how to read it:
  TTFT     from sending a request to its first token
  ITL      between two pieces of an answer, as the client sees them
  TPOT     per request: the time after the first token, for each token after the first
  cached   prompt tokens that the worker did not have to compute (usage.prompt_tokens_details.cached_tokens)
  Times in ms. With --rate, requests do not wait for earlier ones: the queue of an overloaded server shows in TTFT.
"""

WORDS = (  # noqa: SIM905
    "otter river stone bridge morning light paper copper garden window thunder basket candle meadow harbour winter "
    "violin pepper ladder orchard silver marble kettle pigeon lantern cotton valley saddle button island mirror forest"
).split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_options(parser)
    load = parser.add_argument_group("load")
    load.add_argument("-n", "--requests", type=int, metavar="N", help="requests in all (default: 200)")
    load.add_argument("-c", "--concurrency", type=int, default=16, metavar="N", help="requests at a time")
    load.add_argument("--rate", type=float, metavar="R", help="requests per second, at random (Poisson) times")
    load.add_argument("--duration", type=float, metavar="S", help="seconds, instead of --requests")
    load.add_argument("--warmup", type=int, default=0, metavar="N", help="requests before the clock starts")
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument("--words", type=int, default=200, metavar="N", help="words of each prompt")
    prompts.add_argument("--max-tokens", type=int, default=64, metavar="N", help="tokens of each answer")
    prompts.add_argument("--shared-prefix", type=int, default=0, metavar="N", help="words that a group has in common")
    prompts.add_argument("--groups", type=int, default=1, metavar="N", help="groups with a prefix of their own")
    prompts.add_argument("--turns", type=int, default=1, metavar="N", help="turns of each conversation")
    prompts.add_argument("--completions", action="store_true", help="use /v1/completions instead of chat")
    prompts.add_argument("--seed", type=int, default=0, metavar="N", help="of the random words and times")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too (- for standard output)")


@dataclass
class Sample:
    """One request."""

    start: float
    first: float = 0.0
    last: float = 0.0
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    counted: bool = False  # the server told no usage: pieces of the answer are counted as tokens
    worker: str | None = None
    error: str | None = None
    turn: int = 0


class Load:
    """Makes prompts, sends them, keeps the samples."""

    def __init__(self, args: argparse.Namespace, server: Server, model: str) -> None:
        self.args, self.server, self.model = args, server, model
        self.random = random.Random(args.seed)
        self.prefixes = [self.text(args.shared_prefix) for _ in range(args.groups)]
        self.samples: list[Sample] = []
        self.idle: list[Connection] = []
        self.running = 0

    def text(self, words: int) -> str:
        return " ".join(self.random.choices(WORDS, k=words))

    async def conversation(self, number: int, keep: bool = True) -> None:
        """One conversation, of one turn by default."""
        connection = self.idle.pop() if self.idle else Connection(self.server)
        self.running += 1
        prefix = self.prefixes[number % len(self.prefixes)]
        messages = [{"role": "system", "content": prefix}] if prefix else []
        try:
            for turn in range(self.args.turns):
                messages.append({"role": "user", "content": self.text(self.args.words)})
                sample = Sample(time.perf_counter(), turn=turn)
                try:
                    answer = await self.request(connection, messages, sample)
                except HttpFailure as error:
                    sample.error = f"{error.status}: {error}" if error.status else str(error)
                    connection.close()
                sample.last = sample.last or time.perf_counter()
                if keep:
                    self.samples.append(sample)
                if sample.error:
                    return
                messages.append({"role": "assistant", "content": answer})
            self.idle.append(connection)
        finally:
            self.running -= 1

    async def request(self, connection: Connection, messages: list[dict[str, str]], sample: Sample) -> str:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.args.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        if self.args.completions:
            path, body["prompt"] = "/v1/completions", "\n".join(message["content"] for message in messages)
        else:
            path, body["messages"] = "/v1/chat/completions", messages
        answer = await connection.send("POST", path, body)
        sample.worker = answer.worker
        text: list[str] = []
        done = False
        async for events in answer.events():
            now = time.perf_counter()
            piece = False
            for data in events:
                if data == b"[DONE]":
                    done = True
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise HttpFailure(0, str(event["error"].get("message", event["error"])))
                for choice in event.get("choices") or ():
                    content = choice.get("text") or (choice.get("delta") or {}).get("content")
                    if content:
                        text.append(content)
                        piece = True
                if event.get("usage"):
                    read_usage(event["usage"], sample)
            if piece:
                if sample.first:
                    sample.gaps.append(now - sample.last)
                else:
                    sample.first = now
                sample.last = now
        if not done:
            raise HttpFailure(0, "the stream ended before its [DONE]")
        if not sample.completion_tokens:
            sample.completion_tokens, sample.counted = len(text), True
        return "".join(text)

    async def run(self, screen: Screen) -> float:
        """All of it; returns how many seconds it took."""
        args = self.args
        if args.warmup:
            await asyncio.gather(*(self.conversation(i, keep=False) for i in range(args.warmup)))
        total = args.requests or (None if args.duration else 200)
        start = time.perf_counter()
        end = start + args.duration if args.duration else math.inf
        numbers = itertools.count() if total is None else iter(range(math.ceil(total / args.turns)))
        tasks: set[asyncio.Task[None]] = set()

        async def worker() -> None:
            for number in numbers:
                if time.perf_counter() >= end:
                    return
                await self.conversation(number)

        async def arrivals() -> None:
            for number in numbers:
                await asyncio.sleep(self.random.expovariate(args.rate))
                if time.perf_counter() >= end:
                    break
                task = asyncio.ensure_future(self.conversation(number))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

        async def show() -> None:
            while True:
                took = time.perf_counter() - start
                done = len(self.samples)
                of = f" of {total}" if total else ""
                fraction = done / total if total else min(1.0, took / args.duration)
                screen.progress("load", f"{done}{of} requests, {self.running} running, {took:.0f} s", fraction)
                await asyncio.sleep(0.5)

        shown = asyncio.ensure_future(show())
        try:
            if args.rate:
                await arrivals()
            else:
                await asyncio.gather(*(worker() for _ in range(args.concurrency)))
        finally:
            shown.cancel()
            for task in tasks:
                task.cancel()
            screen.progress("load", None, None)
        return time.perf_counter() - start


def read_usage(usage: dict[str, Any], sample: Sample) -> None:
    sample.prompt_tokens = usage.get("prompt_tokens") or 0
    sample.completion_tokens = usage.get("completion_tokens") or 0
    details = usage.get("prompt_tokens_details") or {}
    sample.cached_tokens = details.get("cached_tokens")


def percentile(ordered: list[float], p: float) -> float:
    """The smallest value that p percent are not above; of sorted values."""
    return ordered[max(0, math.ceil(len(ordered) * p / 100) - 1)]


def summary(values: list[float]) -> dict[str, float] | None:
    """Mean, median and tail in ms."""
    if not values:
        return None
    ordered = sorted(values)
    figures = {"mean": sum(ordered) / len(ordered), "min": ordered[0], "max": ordered[-1]}
    figures |= {f"p{p}": percentile(ordered, p) for p in (50, 90, 95, 99)}
    return {name: round(value * 1e3, 3) for name, value in figures.items()}


def evaluate(samples: list[Sample], seconds: float) -> dict[str, Any]:
    """The figures of a run."""
    good = [s for s in samples if s.error is None]
    answered = [s for s in good if s.first]
    prompt, made = sum(s.prompt_tokens for s in good), sum(s.completion_tokens for s in good)
    tpot = [(s.last - s.first) / (s.completion_tokens - 1) for s in answered if s.completion_tokens > 1]
    known = [s for s in good if s.cached_tokens is not None]
    cached = sum(s.cached_tokens or 0 for s in known)
    of = sum(s.prompt_tokens for s in known)
    return {
        "seconds": round(seconds, 3),
        "requests": len(samples),
        "failed": len(samples) - len(good),
        "errors": dict(Counter(s.error for s in samples if s.error).most_common()),
        "requests_per_second": round(len(good) / seconds, 3) if seconds else 0.0,
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "tokens_are_pieces": any(s.counted for s in good),
        "output_tokens_per_second": round(made / seconds, 3) if seconds else 0.0,
        "cached_tokens": cached if known else None,
        "cached_fraction": round(cached / of, 4) if of else None,
        "per_worker": dict(Counter(s.worker for s in good if s.worker).most_common()),
        "ttft_ms": summary([s.first - s.start for s in answered]),
        "ttft_follow_up_ms": summary([s.first - s.start for s in answered if s.turn]),
        "itl_ms": summary([gap for s in answered for gap in s.gaps]),
        "tpot_ms": summary(tpot),
        "latency_ms": summary([s.last - s.start for s in good]),
    }


def show(figures: dict[str, Any]) -> str:
    """The figures as a person reads them."""
    columns = ["mean", "p50", "p90", "p95", "p99", "max"]
    names = [
        ("TTFT", "ttft_ms"),
        ("TTFT, later turns", "ttft_follow_up_ms"),
        ("ITL", "itl_ms"),
        ("TPOT", "tpot_ms"),
        ("whole request", "latency_ms"),
    ]
    rows = [[name, *(f"{figures[key][c]:.2f}" for c in columns)] for name, key in names if figures[key]]
    lines = [table(["ms", *columns], rows), ""]
    lines.append(
        f"{figures['requests'] - figures['failed']} requests in {figures['seconds']:.1f} s: "
        f"{figures['requests_per_second']:.2f} requests/s, {figures['output_tokens_per_second']:.1f} output tokens/s"
    )
    line = f"{figures['prompt_tokens']} prompt tokens, {figures['completion_tokens']} output tokens"
    if figures["cached_fraction"] is not None:
        line += f"; {figures['cached_fraction']:.1%} of the prompt tokens were cached"
    lines.append(line)
    if figures["tokens_are_pieces"]:
        lines.append("the server tells no usage: pieces of answers are counted as tokens")
    if figures["per_worker"]:
        lines.append("requests per worker: " + ", ".join(f"{w}: {n}" for w, n in figures["per_worker"].items()))
    if figures["failed"]:
        lines.append(f"{figures['failed']} requests failed:")
        lines += [f"  {count} x {text}" for text, count in figures["errors"].items()]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    for name in ("requests", "concurrency", "rate", "duration", "words", "max_tokens", "groups", "turns"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise CommandError(f"--{name.replace('_', '-')} {value}: must be above 0", 2)
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    server = Server(args.url, args.api_key)
    load = Load(args, server, await server.model(args.model))
    # With figures on standard output nothing else goes there.
    screen = Screen(sys.stderr if args.json == "-" else sys.stdout)
    screen.line(f"{server.url}, model {load.model}")
    start = time.perf_counter()
    task = asyncio.ensure_future(load.run(screen))
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop)
    try:
        seconds = await task
    except asyncio.CancelledError:
        seconds = time.perf_counter() - start
        screen.line("stopped; what was measured until now:")
    finally:
        screen.close()
    figures = {"url": server.url, "model": load.model, **evaluate(load.samples, seconds)}
    if args.json != "-":
        print(show(figures))
    write_json(args.json, figures)
    if stopped:
        return 130
    return 1 if figures["failed"] else 0
