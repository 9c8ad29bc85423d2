"""`dynamo serve --discovery mem`: front end and workers in one process, on one asyncio loop."""

import argparse
import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from dynamo.cli import CommandError
from dynamo.cli.screen import Screen
from dynamo.cli.worker import make_engine

if TYPE_CHECKING:
    from dynamo.engines.base import EngineInfo

__all__ = ["serve_in_process"]


def serve_in_process(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    return asyncio.run(_serve(args))


async def _serve(args: argparse.Namespace) -> int:
    from dynamo.cli.serve import banner, share_of_cores
    from dynamo.engines.worker import serve_engine
    from dynamo.errors import DynamoError
    from dynamo.frontend import run_frontend
    from dynamo.runtime import DistributedRuntime

    os.environ.setdefault("DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS", str(args.drain))
    if args.threads is None and args.engine == "llamacpp":
        args.threads = share_of_cores(args.workers)
    loop = asyncio.get_running_loop()
    screen = Screen()
    stop = asyncio.Event()
    asked = 0

    def on_signal(number: int) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            screen.close()
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)

    listens: asyncio.Future[str] = loop.create_future()
    runtimes = [DistributedRuntime(loop, "mem") for _ in range(args.workers + 1)]
    front = asyncio.ensure_future(
        run_frontend(
            runtimes[0],
            args.host,
            args.port,
            args.router,
            args.api_key,
            grace=args.drain,
            namespace=args.namespace,
            allow_origin=args.allow_origin,
            ready=lambda front: listens.set_result(front.url),
        )
    )
    workers: list[asyncio.Future[Any]] = []
    left = args.workers

    def start(number: int) -> "asyncio.Future[Any]":
        name = f"worker {number}"

        def ready(info: "EngineInfo") -> None:
            nonlocal left
            left -= 1
            screen.progress(name, None, None)
            screen.line(f"{name} is ready (instance {runtimes[number].instance_id():x})")
            if left == 0 and listens.done():
                screen.line(banner(listens.result(), [args.name or info.model_name], args))

        return asyncio.ensure_future(
            serve_engine(
                runtimes[number],
                make_engine(args),
                namespace=args.namespace,
                model_name=args.name,
                on_ready=ready,
                kv_events=args.engine != "echo",
                progress=lambda text, fraction: screen.progress(name, text, fraction),
            )
        )

    stopped = asyncio.ensure_future(stop.wait())
    first: list[asyncio.Future[Any]] = [front, listens, stopped]
    try:
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if listens.done():
            workers = [start(number + 1) for number in range(args.workers)]
            await asyncio.wait([front, stopped, *workers], return_when=asyncio.FIRST_COMPLETED)
        for task in (front, *workers):
            if task.done():
                task.result()  # raises what ended it
        screen.line(f"stopping: running requests may take up to {args.drain:.0f} s more; Ctrl-C again ends at once")
        front.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await front
        for runtime in runtimes[1:]:
            runtime.shutdown()
        for worker in workers:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(worker, args.drain)
        return 0
    except (DynamoError, OSError) as error:
        raise CommandError(str(error)) from None
    finally:
        for task in (front, stopped, *workers):
            task.cancel()
        for runtime in runtimes:
            runtime.shutdown()
        screen.close()
