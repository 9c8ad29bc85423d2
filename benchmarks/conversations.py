"""Multi-turn conversations against a real server, kv routing beside round-robin in one interleaved run.

usage: python benchmarks/conversations.py MODEL.gguf [--rounds 3] [--routers kv,round-robin] [--plot FILE.svg]

Eight conversations share three long system prompts and run at the same time through the `openai` client. Each round
starts a fresh server for each router, so nothing is cached from before; rounds alternate the routers. Printed: time to
first token of follow-up turns, prompt tokens that had to be computed, and how many follow-up turns went to the worker
that had the turn before.
"""

import argparse
import asyncio
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent

SYSTEM = [
    "You are a patient guide through a large natural history museum. " * 12 + "Name the hall before each answer.",
    "You help a small bakery plan its week: orders, staff, ovens and deliveries. " * 11 + "Answer in short lists.",
    "You are a careful reviewer of C code that moves bytes between processes. " * 11 + "Quote the line you mean.",
]
QUESTIONS = [
    "What should I know first?",
    "Tell me more about the second thing you said.",
    "How would you explain that to a child?",
    "What could go wrong with it?",
    "Sum it up in one sentence.",
    "And what would you do next?",
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """`dynamo serve` as a process of its own, with a discovery store of its own."""

    def __init__(self, model, router, workers=2, engine="llamacpp", extra=()):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = tempfile.TemporaryDirectory()
        env = dict(os.environ, DYN_FILE_KV=self.folder.name, PYTHONPATH=str(ROOT))
        command = [sys.executable, "-m", "dynamo", "serve", str(model), "--workers", str(workers), "--router", router]
        command += ["--engine", engine, "--port", str(self.port), *extra]
        if engine != "echo":
            command += ["--slots", "8"]  # as many as there are conversations, should all come to one worker
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log, start_new_session=True)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return answer.read()

    def wait_ready(self, workers, seconds=180):
        """Return when the model has all its workers."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended:\n{self.output()}")
            try:
                models = json.loads(self.get("/dashboard/state"))["models"]
                if models and sum(worker["state"] == "ready" for worker in models[0]["workers"]) >= workers:
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.1)
        raise SystemExit(f"the server was not ready in {seconds} s:\n{self.output()}")

    def output(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-4000:]

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.folder.cleanup()


async def converse(client, model, number, turns, max_tokens, rows):
    """One conversation: appends (turn, ttft seconds, prompt tokens, cached tokens, worker) to rows."""
    messages = [{"role": "system", "content": SYSTEM[number % len(SYSTEM)]}]
    for turn in range(turns):
        messages.append({"role": "user", "content": f"({number}) {QUESTIONS[turn % len(QUESTIONS)]}"})
        start = time.perf_counter()
        first, text, usage = None, [], None
        async with client.chat.completions.with_streaming_response.create(
            model=model,
            messages=messages,
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ) as response:
            worker = response.headers.get("x-dynamo-worker-instance-id")
            async for line in response.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(chunk["error"])
                if chunk.get("usage"):
                    usage = chunk["usage"]
                for choice in chunk["choices"]:
                    if choice["delta"].get("content"):
                        first = first or time.perf_counter() - start
                        text.append(choice["delta"]["content"])
        done = time.perf_counter() - start
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        rows.append((number, turn, first or done, usage["prompt_tokens"], cached, worker))
        messages.append({"role": "assistant", "content": "".join(text) or "..."})


async def run_conversations(url, model, conversations, turns, max_tokens):
    from openai import AsyncOpenAI

    rows = []
    async with AsyncOpenAI(base_url=url + "/v1", api_key="none", timeout=600, max_retries=0) as client:
        await asyncio.gather(*(converse(client, model, i, turns, max_tokens, rows) for i in range(conversations)))
    return rows


def figures(rows):
    """Totals of one round."""
    follow = [row for row in rows if row[1] > 0]
    last = {}
    stayed = 0
    for number, turn, *_, worker in sorted(rows, key=lambda row: (row[0], row[1])):
        if turn > 0:
            stayed += last[number] == worker
        last[number] = worker
    prompt, cached = sum(row[3] for row in rows), sum(row[4] for row in rows)
    return {
        "mean TTFT of follow-ups, ms": 1000 * statistics.mean(row[2] for row in follow),
        "p95 TTFT of follow-ups, ms": 1000 * sorted(row[2] for row in follow)[int(0.95 * len(follow))],
        "prompt tokens computed": prompt - cached,
        "prompt tokens cached, %": 100 * cached / prompt,
        "follow-ups on the same worker, %": 100 * stayed / len(follow),
    }


def plot(ttfts, path):
    """Every follow-up's time to first token, by router."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(7, 4))
    for router, values in ttfts.items():
        values = sorted(1000 * v for v in values)
        ax.plot(values, [100 * (i + 1) / len(values) for i in range(len(values))], label=router)
    ax.set_xlabel("time to first token of follow-up turns, ms")
    ax.set_ylabel("% of turns")
    ax.grid(alpha=0.3)
    ax.legend()
    ax.figure.savefig(path, bbox_inches="tight")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--routers", default="kv,round-robin")
    parser.add_argument("--engine", default="llamacpp")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--conversations", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot")
    parser.add_argument("server_arguments", nargs="*", help="passed on to `dynamo serve` (after --)")
    args = parser.parse_args()
    routers = args.routers.split(",")
    results, ttfts = {router: [] for router in routers}, {router: [] for router in routers}
    for number in range(args.rounds):
        for router in routers:
            server = Server(args.model, router, args.workers, args.engine, args.server_arguments)
            try:
                server.wait_ready(args.workers)
                name = json.loads(server.get("/v1/models"))["data"][0]["id"]
                rows = asyncio.run(run_conversations(server.url, name, args.conversations, args.turns, args.max_tokens))
            finally:
                server.stop()
            results[router].append(figures(rows))
            ttfts[router] += [row[2] for row in rows if row[1] > 0]
            print(f"round {number + 1} {router}: " + ", ".join(f"{k} {v:.0f}" for k, v in results[router][-1].items()))
    print(f"\nmedian of {args.rounds} rounds, {args.conversations} conversations of {args.turns} turns\n")
    print("| | " + " | ".join(routers) + " |\n|---|" + "---|" * len(routers))
    for key in results[routers[0]][0]:
        print(
            f"| {key} | "
            + " | ".join(f"{statistics.median(r[key] for r in results[name]):,.0f}" for name in routers)
            + " |"
        )
    if args.plot:
        plot(ttfts, args.plot)


if __name__ == "__main__":
    main()
