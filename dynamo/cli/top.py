"""Watch a running server: its workers, what each holds and does, hit rate and token rates.

The same as the live page of the front end (open its address in a browser), for a terminal.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from typing import Any

from dynamo.cli import CommandError
from dynamo.cli.client import HttpFailure, Server
from dynamo.cli.options import add_client_options
from dynamo.cli.screen import table

HELP = "watch workers, hit rate, token rates"
EPILOG = """\
examples:
  dynamo top                        every 2 seconds, until Ctrl-C
  dynamo top --once                 one table, for a script or a bug report
  dynamo top --interval 0.5 --requests 10

columns:
  running    requests that the router has booked there     held       cache blocks that the index knows of
  decode     blocks of running answers                     prefill    tokens of prompts not yet computed
  requests   sent there since the front end started        state      ready, busy (over a threshold), silent (no events)

cached tokens, prompts by what came of the router's prediction; the live page explains each, /metrics counts them:
  as-predicted  the engine reused the blocks that the index promised
  slot-busy     the slot with the prefix was computing another request    slot-taken    it was overwritten since
  stored-since  more was stored after the router had looked
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_options(parser)
    parser.add_argument("--interval", type=float, default=2.0, metavar="S", help="seconds between two looks")
    parser.add_argument("--once", action="store_true", help="print one table and leave")
    parser.add_argument("--requests", type=int, default=0, metavar="N", help="show the last N requests, too")


def render(state: dict[str, Any], server: str, requests: int, before: dict[str, Any] | None = None) -> str:
    """The state of the front end as text; with an earlier one also what happened since."""
    lines = [f"{server}   {time.strftime('%H:%M:%S', time.localtime(state['at']))}", ""]
    if not state["models"]:
        lines += ["no model yet: no worker has registered", ""]
    for model in state["models"]:
        lines.append(
            f"{model['name']}   {model['mode']}, blocks of {model['block_size']}, context {model['context_length']}"
        )
        rows = [worker_row(worker) for worker in model["workers"]]
        if rows:
            head = ["worker", "state", "running", "held", "of", "decode", "prefill", "requests"]
            lines.append(table(head, rows))
        lines.append("")
    lines.append(sums_line(state["sums"]))
    if state["sums"].get("causes"):
        lines.append(causes_line(state["sums"]["causes"]))
    if before is not None:
        lines.append(rates_line(before, state))
    if requests and state["requests"]:
        head = ["request", "worker", "prompt", "expected", "cached", "outcome", "made", "TTFT ms", "state"]
        rows = [request_row(request) for request in state["requests"][:requests]]
        lines += ["", table(head, rows)]
    return "\n".join(line for line in lines if line is not None)


def worker_row(worker: dict[str, Any]) -> list[str]:
    rank = worker.get("dp_rank") or 0
    name = str(worker["id"]) + (f"/{rank}" if rank else "")
    keys = (
        "active_requests",
        "held_blocks",
        "total_blocks",
        "active_decode_blocks",
        "active_prefill_tokens",
        "requests",
    )
    return [name, str(worker["state"]), *("-" if worker.get(key) is None else str(worker[key]) for key in keys)]


def request_row(request: dict[str, Any]) -> list[str]:
    cached, ttft = request["cached_tokens"], request["ttft"]
    return [
        str(request["id"]).rpartition("-")[2][:12], str(request["worker"]), str(request["prompt_tokens"]),
        str(request["overlap_blocks"] * request["block_size"]), "-" if cached is None or cached < 0 else str(cached),
        request["cause"] or "-", str(request["completion_tokens"]),
        "-" if ttft is None else f"{ttft * 1e3:.0f}", str(request["state"]),
    ]  # fmt: skip


def sums_line(sums: dict[str, Any]) -> str:
    """What the sums say, as far as they are there."""
    parts = [f"{sums.get('requests', 0)} requests"]
    for key, text in (("errors", "failed"), ("cancelled", "cancelled"), ("migrations", "moved to another worker")):
        if sums.get(key):
            parts.append(f"{sums[key]} {text}")
    prompt = sums.get("prompt_tokens") or 0
    if prompt:
        parts.append(f"{(sums.get('cached_tokens') or 0) / prompt:.1%} of {prompt} prompt tokens cached")
    if sums.get("completion_tokens"):
        parts.append(f"{sums['completion_tokens']} tokens made")
    return ", ".join(parts)


def causes_line(causes: dict[str, int]) -> str:
    """How often the engines' cached tokens were what the router expected, and why not."""
    ordered = sorted(causes.items(), key=lambda item: (item[0] != "as-predicted", -item[1], item[0]))
    return "cached tokens: " + ", ".join(f"{count} {cause}" for cause, count in ordered)


def rates_line(before: dict[str, Any], now: dict[str, Any]) -> str:
    seconds: float = max(1e-3, now["at"] - before["at"])

    def rate(key: str) -> float:
        grown: float = (now["sums"].get(key) or 0) - (before["sums"].get(key) or 0)
        return max(0.0, grown) / seconds

    return (
        f"in the last {seconds:.1f} s: {rate('requests'):.1f} requests/s, {rate('completion_tokens'):.1f} tokens/s of "
        f"finished answers"
    )


async def _run(args: argparse.Namespace) -> int:
    server = Server(args.url, args.api_key)
    terminal = sys.stdout.isatty() and not args.once
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    before: dict[str, Any] | None = None
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            try:
                state = await server.json("/dashboard/state")
                text = render(state, server.url, args.requests, before)
                before = state
            except HttpFailure as error:
                hint = " (is that a front end of dynamo?)" if error.status == 404 else ""
                if args.once or before is None:
                    raise CommandError(f"{error}{hint}") from None
                text = f"{error}{hint}"  # it may come back
            except (ValueError, LookupError, TypeError):
                raise CommandError(f"{server.url} is not a front end of this version of dynamo") from None
            print(f"\x1b[H\x1b[2J{text}" if terminal else text + ("" if args.once else "\n"), flush=True)
            if args.once:
                return 0
            await asyncio.sleep(args.interval)
    return 0


def run(args: argparse.Namespace) -> int:
    if not args.interval > 0:
        raise CommandError(f"--interval {args.interval}: must be above 0", 2)
    return asyncio.run(_run(args))
