"""Run one worker: an engine that front ends of the same namespace find and send requests to.

`dynamo serve` starts workers by itself; this command adds one, from another terminal or another program.
SIGTERM and Ctrl-C leave discovery and finish what runs, a second one ends at once.
"""

import argparse
import ast
import asyncio
import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from dynamo.cli import CommandError
from dynamo.cli.options import add_discovery_options, add_engine_options, check_model
from dynamo.cli.screen import Screen
from dynamo.cli.supervised import Link

if TYPE_CHECKING:
    from dynamo.engines.base import Engine, EngineInfo

HELP = "run one worker"
EPILOG = """\
examples:
  dynamo worker model.gguf                         one more worker for the front end of `dynamo serve`
  dynamo worker model.gguf --slots 8 --threads 4   computes 8 requests at a time on 4 threads
  dynamo worker --engine mocker --speedup 10       simulated, ten times as fast as the timing formulas
  dynamo worker --engine echo --name parrot        answers with the prompt
  dynamo worker model.gguf --set n_ubatch=256      any setting of the engine

It loads the model, then appears in discovery with its model card, and sends KV events and its load to routers.
It listens on 127.0.0.1; DYN_TCP_RPC_HOST and DYN_TCP_RPC_PORT change that.
"""

# Options that only some engines have, and what they are called there.
_OWN = {
    "llamacpp": {
        "slots": "slots", "threads": "threads", "gpu_layers": "gpu_layers", "embeddings": "embeddings",
        "context_length": "context_length", "block_size": "block_size",
    },
    "mocker": {
        "slots": "max_sequences", "speedup": "speedup", "context_length": "context_length", "block_size": "block_size",
    },
    "echo": {"delay": "delay", "context_length": "context_length", "block_size": "block_size"},
}  # fmt: skip
_ALL = sorted({name for names in _OWN.values() for name in names})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a GGUF file, or a folder with a tokeniser")
    add_engine_options(parser)
    group = add_discovery_options(parser)
    group.add_argument("--component", default="backend", help="second part of the endpoint's name")
    group.add_argument("--endpoint", default="generate", help="third part of the endpoint's name")
    parser.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="seconds for running requests at the end"
    )


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the engine is made with; refuses options that it does not have."""
    own = _OWN[args.engine]
    given = {name: getattr(args, name) for name in _ALL if getattr(args, name) not in (None, False)}
    for name in given:
        if name not in own:
            owners = " and ".join(engine for engine in _OWN if name in _OWN[engine])
            raise CommandError(f"--{name.replace('_', '-')} is an option of {owners}, not of {args.engine}", 2)
    options = {own[name]: value for name, value in given.items()}
    settings = {}
    for setting in args.set or ():
        key, sign, text = setting.partition("=")
        if not key or not sign:
            raise CommandError(f"--set {setting}: it must look like KEY=VALUE", 2)
        try:
            settings[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[key] = {"true": True, "false": False}.get(text.lower(), text)
    return {**options, "options": settings} if args.engine == "llamacpp" and settings else {**options, **settings}


def make_engine(args: argparse.Namespace) -> "Engine":
    """The engine that the arguments describe; not started."""
    options = engine_options(args)
    try:
        if args.engine == "llamacpp":
            from dynamo.engines.llamacpp import LlamaCppEngine

            return LlamaCppEngine(args.model, model_name=args.name, **options)
        name = args.name or (_stem(args.model) if args.model else args.engine)
        if args.model is None:
            from dynamo.cli.demo_tokenizer import WORD_IDS, demo_tokenizer

            options["assets"] = {"tokenizer": demo_tokenizer()}
            if args.engine == "mocker":
                options.setdefault("tokens", WORD_IDS)
        else:
            options["assets"] = {"model": os.path.abspath(args.model)}
        if args.engine == "mocker":
            from dynamo.engines.mocker import MockerEngine

            return MockerEngine(name, **options)
        from dynamo.engines.echo import EchoEngine

        return EchoEngine(name, **options)
    except (TypeError, ValueError) as error:
        raise CommandError(f"the engine {args.engine} does not take these settings: {error}", 2) from None


def _stem(path: str) -> str:
    name = os.path.basename(os.path.abspath(path))
    return name.removesuffix(".gguf")


async def _main(work: Awaitable[None]) -> None:
    await work


def run(args: argparse.Namespace) -> int:
    check_model(args)
    # What the runtime reads from the environment; an explicit variable wins over our defaults.
    os.environ["DYN_DISCOVERY_BACKEND"] = args.discovery
    os.environ.setdefault("DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS", str(args.drain))
    os.environ.setdefault("DYN_WORKER_GRACEFUL_SHUTDOWN_TIMEOUT", str(args.drain))
    link = Link()
    engine = make_engine(args)
    screen = None if link.supervised else Screen()

    def progress(text: str, fraction: float | None) -> None:
        link.tell("loading", text=text, fraction=fraction)
        if screen is not None:
            screen.progress("loading", text, fraction)

    from dynamo.errors import DynamoError
    from dynamo.runtime import DistributedRuntime, dynamo_worker

    @dynamo_worker()
    async def work(runtime: DistributedRuntime) -> None:
        from dynamo.engines.worker import serve_engine

        def ready(info: "EngineInfo") -> None:
            id = f"{runtime.instance_id():x}"
            link.tell("ready", instance=id, model=args.name or info.model_name)
            if screen is not None:
                screen.progress("loading", None, None)
                path = f"{args.namespace}.{args.component}.{args.endpoint}"
                screen.line(f"{args.name or info.model_name} is served as {path}, instance {id}; Ctrl-C stops")

        await serve_engine(
            runtime, engine, namespace=args.namespace, component=args.component, endpoint=args.endpoint,
            model_name=args.name, progress=progress, on_ready=ready,
            kv_events=args.engine != "echo",  # it has no cache
        )  # fmt: skip

    try:
        asyncio.run(_main(work()))
    except SystemExit as ended:  # stopped while it loaded
        return int(ended.code or 0)
    except (DynamoError, OSError, MemoryError) as error:
        raise CommandError(str(error) or type(error).__name__) from None
    finally:
        if screen is not None:
            screen.close()
    return 0
