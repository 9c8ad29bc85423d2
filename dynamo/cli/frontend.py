"""Run a front end alone: it answers OpenAI clients from whatever workers discovery knows.

`dynamo serve` starts one by itself. Several front ends may run beside each other; each routes on its own.
Ctrl-C takes no more requests and finishes those that run, a second one ends at once.
"""

import argparse
import asyncio
import os
import signal
from typing import TYPE_CHECKING

from dynamo.cli import CommandError
from dynamo.cli.options import add_discovery_options, add_frontend_options, check_frontend
from dynamo.cli.supervised import Link

if TYPE_CHECKING:
    from dynamo.frontend import Frontend

HELP = "run a front end alone"
EPILOG = """\
examples:
  dynamo frontend                                   workers of every namespace, on http://127.0.0.1:8000/v1
  dynamo frontend --port 8001 --router least-loaded beside another one
  dynamo frontend --namespace staging               only workers of `dynamo worker --namespace staging`
  dynamo frontend --tls-cert-path cert.pem --tls-key-path key.pem    https
  DYN_API_KEY=secret dynamo frontend --host 0.0.0.0 for other machines; clients must send the key

what it serves:
  /v1/chat/completions /v1/completions /v1/embeddings /v1/models    the OpenAI API
  /health  200 once a model has a ready worker      /metrics  for Prometheus      /  a live page
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_frontend_options(parser)
    add_discovery_options(parser, everyone=True)
    parser.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="seconds for running requests at the end"
    )


def run(args: argparse.Namespace) -> int:
    check_frontend(args)
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    from dynamo.errors import DynamoError
    from dynamo.frontend import run_frontend
    from dynamo.runtime import DistributedRuntime

    link = Link()
    loop = asyncio.get_running_loop()

    def ready(front: "Frontend") -> None:
        link.tell("ready", url=front.url)
        if not link.supervised:
            print(f"listening on {front.url}/v1; page {front.url}/; Ctrl-C stops", flush=True)

    try:
        runtime = DistributedRuntime(loop, args.discovery)
    except (DynamoError, OSError) as error:
        raise CommandError(str(error)) from None
    task = asyncio.ensure_future(
        run_frontend(
            runtime,
            args.host,
            args.port,
            args.router,
            args.api_key,
            ready=ready,
            grace=args.drain,
            namespace=args.namespace,
            allow_origin=args.allow_origin,
            tls_cert_path=args.tls_cert_path,
            tls_key_path=args.tls_key_path,
        )
    )
    asked = 0

    def stop(number: int) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            os._exit(128 + number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        pass
    except (DynamoError, OSError) as error:
        raise CommandError(f"cannot serve on {args.host}:{args.port}: {error}") from None
    finally:
        runtime.shutdown()
    return 0
