"""Serve a model to OpenAI clients: a front end and N workers, kept running by this process.

Workers load the model (each on its share of the cores); requests go to the worker that already holds their prefix.
A worker that dies is started again, its running answers go on elsewhere. The first Ctrl-C stops taking requests and
finishes those that run, the second ends at once.
"""

import argparse
import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
import time
from typing import Any

from dynamo.cli import CommandError
from dynamo.cli.client import HttpFailure, Server
from dynamo.cli.options import (
    ROUTERS,
    add_discovery_options,
    add_engine_options,
    add_frontend_options,
    check_frontend,
    check_model,
)
from dynamo.cli.screen import Screen
from dynamo.cli.supervisor import Child
from dynamo.cli.worker import engine_options

HELP = "serve a model: a front end and N workers"
EPILOG = """\
examples:
  dynamo serve model.gguf                              one worker on http://127.0.0.1:8000/v1
  dynamo serve model.gguf --workers 2                  two, requests routed by what they hold in cache
  dynamo serve model.gguf --workers 2 --router round-robin --port 9000
  dynamo serve --engine mocker --workers 4             no model: simulated workers, to try routing
  dynamo serve model.gguf --host 0.0.0.0 --api-key "$KEY"    for others; they must send the key

then:
  dynamo chat                                          talk to it
  dynamo top                                           watch its workers
  dynamo worker model.gguf                             one more worker, from another terminal

Everything binds 127.0.0.1 unless --host says otherwise. Processes find each other through files (--discovery file);
--discovery mem puts front end and workers into this one process, which is handy for a try and needs no files.
Exit codes: 0 stopped on request, 1 could not start or keep running, 2 wrong arguments, 130 ended by force.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a GGUF file, or a folder with a tokeniser")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes")
    add_engine_options(parser)
    add_frontend_options(parser)
    add_discovery_options(parser)
    parser.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="seconds for running requests at the end"
    )


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.workers <= 256:
        raise CommandError(f"--workers {args.workers}: must be 1 to 256", 2)
    check_model(args)
    check_frontend(args)
    engine_options(args)  # refuses what the engine does not have, before anything is started
    if args.discovery == "mem":
        from dynamo.cli.inprocess import serve_in_process

        return serve_in_process(args)
    return asyncio.run(Serve(args).run())


def share_of_cores(workers: int) -> int:
    """Threads for each of so many workers."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // workers)


class Serve:
    """The front end, the workers, and what is said about them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.screen = Screen()
        self.start = time.monotonic()
        self.asked = 0  # how often we were asked to stop
        self.last_signal = signal.SIGINT
        self.stop = asyncio.Event()
        self.force = asyncio.Event()
        self.announced = False
        self.printed = False
        program = [sys.executable, "-m", "dynamo"]
        # The key goes through the environment: a command line can be read by every user of the machine.
        secret = {"DYN_API_KEY": args.api_key} if args.api_key else {}
        self.frontend = Child(
            "front end", [*program, "frontend", *frontend_arguments(args)], self.screen, env=secret, on_ready=self.ready
        )
        self.workers = [
            Child(f"worker {i + 1}", [*program, "worker", *worker_arguments(args)], self.screen, on_ready=self.ready)
            for i in range(args.workers)
        ]

    def ready(self, child: Child, facts: dict[str, Any]) -> None:
        if child is self.frontend and "url" in facts:  # started again, it is to be where its clients look for it
            port = facts["url"].rpartition(":")[2].rstrip("/")
            child.command[child.command.index("--port") + 1] = port
        again = " again" if child.starts > 1 else ""
        took = time.monotonic() - self.start if child.starts == 1 else None
        parts = [f"pid {child.pid}"]
        if "instance" in facts:
            parts.append(f"instance {facts['instance']}")
        if took is not None:
            parts.append(f"{took:.1f} s")
        self.screen.line(f"{child.name} is ready{again} ({', '.join(parts)})")

    def on_signal(self, number: signal.Signals) -> None:
        self.asked += 1
        self.last_signal = number
        (self.stop if self.asked == 1 else self.force).set()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.on_signal, number)
        children = [self.frontend, *self.workers]
        tasks: dict[asyncio.Future[Any], Child] = {asyncio.ensure_future(child.run()): child for child in children}
        announce = asyncio.ensure_future(self.announce())
        stop: asyncio.Task[Any] = asyncio.ensure_future(self.stop.wait())
        failure = None
        try:
            while not self.stop.is_set() and failure is None:
                done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
                failure = self.verdict([tasks.pop(task) for task in done if task is not stop])
            announce.cancel()
            if failure is None:
                await self.end(children)
        finally:
            announce.cancel()
            stop.cancel()
            for child in children:
                child.signal(signal.SIGKILL)
            if tasks:
                await asyncio.wait(tasks, timeout=10)
            self.screen.close()
        if failure is not None:
            raise CommandError(failure)
        return 128 + self.last_signal if self.force.is_set() else 0

    def verdict(self, ended: list[Child]) -> str | None:
        """Children that will not be started again: can the rest go on? If not, why."""
        for child in ended:
            if child.failure is None:
                continue
            if child is self.frontend or not child.was_ready.is_set():
                return child.failure
            self.screen.line(f"{child.failure}: it is given up")
        if all(worker.failure for worker in self.workers):
            return "no worker is left"
        return None

    async def announce(self) -> None:
        """When everybody is ready and the front end knows the model: say how to use it."""
        await self.frontend.was_ready.wait()
        await asyncio.gather(*(worker.was_ready.wait() for worker in self.workers))
        address = self.frontend.facts.get("url") or f"http://{self.args.host}:{self.args.port}"
        server = Server(address, self.args.api_key, self.args.tls_cert_path)
        models: list[str] = []
        patience = time.monotonic() + 20
        while not models:
            if time.monotonic() > patience:
                patience = float("inf")
                self.screen.line(
                    "the workers are ready, but the front end has not seen their model yet: its lines say why"
                )
            with contextlib.suppress(HttpFailure, ValueError, LookupError):
                await server.text("/health")
                models = [model["id"] for model in (await server.json("/v1/models"))["data"]]
            await asyncio.sleep(0.05)
        self.screen.line(banner(address, models, self.args))

    async def end(self, children: list[Child]) -> None:
        """Finish what runs: first the front end, which takes no more requests, then the workers."""
        self.screen.line(
            f"stopping: running requests may take up to {self.args.drain:.0f} s more; Ctrl-C again ends at once"
        )
        for worker in self.workers:
            worker.no_more()
        end = time.monotonic() + self.args.drain
        for group in ([self.frontend], self.workers):
            for child in group:
                child.signal(signal.SIGTERM)
            while any(child.process is not None and child.process.poll() is None for child in group):
                if self.force.is_set() or time.monotonic() > end:
                    names = [c.name for c in children if c.process is not None and c.process.poll() is None]
                    self.screen.line(f"ended by force: {', '.join(names)}")
                    return
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.force.wait(), 0.05)


def banner(address: str, models: list[str], args: argparse.Namespace) -> str:
    """Where to point a client, the page, and a curl line."""
    body = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "Hello"}}], "max_tokens": 64}}'
    key = ' -H "Authorization: Bearer $DYN_API_KEY"' if args.api_key else ""
    trust = f" --cacert {shlex.quote(args.tls_cert_path)}" if args.tls_cert_path else ""
    here = "" if address == "http://127.0.0.1:8000" else f" --url {address}"
    routed = {
        "kv": "requests go to the worker that holds their prefix",
        "round-robin": "requests go to the workers in turn",
        "random": "requests go to random workers",
        "least-loaded": "requests go to the worker with the least to do",
    }.get(args.router, f"requests are spread by {args.router}")
    return "\n".join(
        [
            "",
            f"{', '.join(models)} on {args.workers} worker{'s' if args.workers > 1 else ''}; {routed}",
            f"  OpenAI clients   {address}/v1   (api key: {'yours' if args.api_key else 'any'})",
            f"  live page        {address}/",
            f"  try it           curl -s{trust} {address}/v1/chat/completions{key} \\",
            f"                     -H 'Content-Type: application/json' -d {shlex.quote(body)}",
            f"  or               {own_command()} chat{here}",
            "Ctrl-C stops.",
        ]
    )


def own_command() -> str:
    """How a shell here starts this program: by its name where PATH has it, else by its path."""
    path = os.path.join(sys.prefix, "bin", "dynamo")
    return "dynamo" if shutil.which("dynamo") else min(path, os.path.relpath(path), key=len)


def frontend_arguments(args: argparse.Namespace) -> list[str]:
    """What `dynamo frontend` is told."""
    given = ["--host", args.host, "--port", str(args.port), "--namespace", args.namespace]
    if args.router in ROUTERS:  # others come by DYN_ROUTER_MODE only, which the front end sees itself
        given += ["--router", args.router]
    return [
        *given,
        "--drain",
        str(args.drain),
        *passed(args, "discovery", "allow_origin", "tls_cert_path", "tls_key_path"),
    ]


def worker_arguments(args: argparse.Namespace) -> list[str]:
    """What `dynamo worker` is told."""
    given = [args.model] if args.model else []
    given += ["--engine", args.engine, "--namespace", args.namespace, "--drain", str(args.drain)]
    if args.threads is None and args.engine == "llamacpp":
        given += ["--threads", str(share_of_cores(args.workers))]
    names = ("name", "context_length", "block_size", "slots", "threads", "gpu_layers", "speedup", "delay", "discovery")
    given += passed(args, *names)
    for setting in args.set or ():
        given += ["--set", setting]
    return [*given, "--embeddings"] if args.embeddings else given


def passed(args: argparse.Namespace, *names: str) -> list[str]:
    """Options that were given, as arguments."""
    out = []
    for name in names:
        value = getattr(args, name)
        if value is not None:
            out += [f"--{name.replace('_', '-')}", str(value)]
    return out
