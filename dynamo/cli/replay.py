"""Replay a recorded trace through routers and simulated workers, much faster than it happened.

Every router gets the same requests at the same simulated times; what differs is who holds what in its cache. Nothing
is served and no model is needed.
"""

import argparse
import json
import os
import sys
from typing import Any

from dynamo.cli import CommandError
from dynamo.cli.options import REPLAY_ROUTERS
from dynamo.cli.screen import Screen

HELP = "compare routers on a recorded trace"
EPILOG = """\
examples:
  dynamo replay conversation_trace.jsonl.gz                 kv, round-robin and random on 4 simulated workers
  dynamo replay trace.jsonl --workers 8 --speedup 2         8 workers, requests twice as fast as recorded
  dynamo replay trace.jsonl --router kv --router two-choices --blocks 4096
  dynamo replay synthetic --requests 5000                   no trace: made-up requests that share prefixes
  dynamo replay trace.jsonl --json - | jq .                 the figures for a program

A trace has one request per line, as the Mooncake traces do:
  {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, ...]}
Timestamps in ms; equal ids are equal blocks of --trace-block tokens. .gz is read as it is.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="a file, or `synthetic`")
    parser.add_argument(
        "--router",
        action="append",
        choices=REPLAY_ROUTERS,
        metavar="NAME",
        help=f"one of {', '.join(REPLAY_ROUTERS)}; repeatable (default: kv, round-robin, random)",
    )
    parser.add_argument("--requests", type=int, metavar="N", help="only the first N requests")
    parser.add_argument("--trace-block", type=int, default=512, metavar="N", help="tokens that an id stands for")
    parser.add_argument("--json", metavar="FILE", help="write the figures there (- for standard output)")
    workers = parser.add_argument_group("simulated workers")
    workers.add_argument("--workers", type=int, default=4, metavar="N", help="how many")
    workers.add_argument("--block-size", type=int, default=64, metavar="N", help="tokens of a cache block")
    workers.add_argument("--blocks", type=int, default=16384, metavar="N", help="cache blocks of each")
    workers.add_argument("--speedup", type=float, default=1.0, metavar="X", help="requests come faster than recorded")
    workers.add_argument("--timing", type=int, choices=(2025, 2026), default=2025, help="which fit of step times")
    workers.add_argument("--temperature", type=float, default=0.0, metavar="T", help="of the kv router's choice")
    workers.add_argument("--seed", type=int, default=42, metavar="N")


def run(args: argparse.Namespace) -> int:
    from dynamo import replay
    from dynamo.errors import InvalidArgument

    screen = Screen(sys.stderr if args.json == "-" else sys.stdout)
    try:
        if args.trace == "synthetic":
            trace = replay.synthetic_trace(args.requests or 1000, seed=args.seed)
        else:
            screen.progress("trace", "is read", None)
            trace = replay.load_trace(args.trace, block=args.trace_block, limit=args.requests)
            screen.progress("trace", None, None)
        screen.line(
            f"{trace.name}: {len(trace)} requests, {trace.reusable:.1%} blocks seen before; {args.workers} workers"
        )
        options = {
            name: getattr(args, name)
            for name in ("workers", "block_size", "blocks", "speedup", "timing", "temperature", "seed")
        }
        results = []
        for router in args.router or ["kv", "round-robin", "random"]:

            def show(done: int, count: int, router: str = router) -> None:
                screen.progress(router, f"{done} of {count} requests", done / max(1, count))

            result = replay.run(trace, router=router, progress=show, **options)
            screen.progress(router, None, None)
            results.append(result)
    except (InvalidArgument, OSError) as error:
        raise CommandError(str(error), 2) from None
    finally:
        screen.close()
    comparison = replay.Comparison(results)
    if args.json != "-":
        print(comparison)
    write_json(args.json, {"trace": trace.name, **options, "routers": [figures(result) for result in results]})
    return 0


def figures(result: Any) -> dict[str, Any]:
    """One router's figures for a program."""
    out = {"router": result.router, "hit_rate": result.hit_rate, "wall_seconds": result.wall_seconds}
    for column in ("ttft_ms", "itl_ms", "total_ms"):
        out[column] = {f"p{q}": result.percentile(column, q) for q in (50, 90, 95, 99)}
    return {**out, "requests_per_worker": result.requests_per_worker.tolist(), **result.summary}


def write_json(path: str | None, value: Any) -> None:
    """To a file, to standard output ("-"), or nowhere."""
    text = json.dumps(value, indent=2)
    if path == "-":
        print(text)
    elif path:
        try:
            with open(path + ".part", "w") as file:
                file.write(text + "\n")
            os.replace(path + ".part", path)
        except OSError as error:
            raise CommandError(f"the figures could not be written: {error}") from None
