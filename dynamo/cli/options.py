"""Options that several commands share."""

import argparse
import os

ROUTERS = ("kv", "round-robin", "random", "least-loaded")
REPLAY_ROUTERS = (*ROUTERS, "two-choices")
ENGINES = ("llamacpp", "mocker", "echo")


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """For commands that talk to a running server."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000"),
        help="address of the server, with or without /v1; OPENAI_BASE_URL sets the default (%(default)s)",
    )
    group.add_argument("--model", help="name of the model (default: the one that is there)")
    group.add_argument(
        "--api-key",
        default=os.environ.get("DYN_API_KEY") or os.environ.get("OPENAI_API_KEY"),
        metavar="KEY",
        help="bearer key; DYN_API_KEY or OPENAI_API_KEY set the default",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """For commands that run an engine."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="llamacpp",
        help="llamacpp: a real model on the CPU; mocker: a simulated one; echo: answers with the prompt",
    )
    group.add_argument("--name", metavar="NAME", help="what clients call the model (default: the file's name)")
    group.add_argument("--context-length", type=int, metavar="N", help="tokens of prompt and answer together")
    group.add_argument("--block-size", type=int, metavar="N", help="tokens of a cache block (default: 16)")
    group.add_argument("--slots", type=int, metavar="N", help="requests that a worker computes at a time (default: 4)")
    group.add_argument("--threads", type=int, metavar="N", help="llamacpp: threads of a worker (default: its share)")
    group.add_argument("--gpu-layers", type=int, metavar="N", help="llamacpp: layers on an accelerator, -1: all")
    group.add_argument("--embeddings", action="store_true", help="llamacpp: answer /v1/embeddings, too")
    group.add_argument("--speedup", type=float, metavar="X", help="mocker: faster than real time; 0: without waiting")
    group.add_argument("--delay", type=float, metavar="S", help="echo: seconds before each token")
    group.add_argument("--set", action="append", metavar="KEY=VALUE", help="another setting of the engine; repeatable")


def add_frontend_options(parser: argparse.ArgumentParser) -> None:
    """For commands that run a front end."""
    group = parser.add_argument_group("front end")
    group.add_argument(
        "--router",
        choices=ROUTERS,
        help="who gets a request; kv: the worker that holds most of its prefix and has the least to do "
        "(DYN_ROUTER_MODE sets the default; else kv)",
    )
    group.add_argument("--host", default=os.environ.get("DYN_HTTP_HOST") or "127.0.0.1", help="address to listen on")
    group.add_argument(
        "--port",
        type=_port,
        default=os.environ.get("DYN_HTTP_PORT") or 8000,
        help="port to listen on, 0: any (DYN_HTTP_PORT sets the default; else 8000)",
    )
    group.add_argument(
        "--api-key",
        default=os.environ.get("DYN_API_KEY"),
        metavar="KEY",
        help="clients must send it as bearer key; better given by DYN_API_KEY (command lines can be seen by others)",
    )
    group.add_argument(
        "--tls-cert-path",
        default=os.environ.get("DYN_TLS_CERT_PATH"),
        metavar="FILE",
        help="serve https: the certificate and its chain (PEM)",
    )
    group.add_argument(
        "--tls-key-path",
        default=os.environ.get("DYN_TLS_KEY_PATH"),
        metavar="FILE",
        help="the certificate's key (PEM)",
    )
    group.add_argument("--allow-origin", metavar="ORIGIN", help="let pages of this origin (or *) call the API (CORS)")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} must be 0 to 65535 (DYN_HTTP_PORT sets the default)")
    return int(text)


def check_frontend(args: argparse.Namespace) -> None:
    """Do the variables of a front end make sense? Said before anything is started. Settles `args.router`."""
    from dynamo.cli import CommandError
    from dynamo.errors import DynamoError
    from dynamo.frontend.settings import Settings
    from dynamo.llm.router_config import RouterMode

    try:
        settings = Settings.from_environment(
            router=args.router, tls_cert_path=args.tls_cert_path, tls_key_path=args.tls_key_path
        )
        settings.tls()
    except (DynamoError, OSError, ValueError) as error:
        raise CommandError(str(error), 2) from None
    # As the command line spells it: LeastLoaded -> least-loaded.
    mode = RouterMode.parse(settings.router)
    plain = "".join("-" + letter.lower() if letter.isupper() else letter for letter in mode.name).lstrip("-")
    args.router = "kv" if mode is RouterMode.KV else plain


def add_discovery_options(parser: argparse.ArgumentParser, everyone: bool = False) -> "argparse._ArgumentGroup":
    """For commands that find others, or are found."""
    group = parser.add_argument_group("discovery")
    group.add_argument(
        "--namespace",
        default=os.environ.get("DYN_NAMESPACE") or (None if everyone else "dynamo"),
        help="only workers of this namespace (default: all)" if everyone else "who belongs together",
    )
    group.add_argument(
        "--discovery",
        choices=("file", "mem"),
        default=os.environ.get("DYN_DISCOVERY_BACKEND") or os.environ.get("DYN_STORE_KV") or "file",
        help="file: through a folder ($DYN_FILE_KV); mem: only inside one process",
    )
    return group


def check_model(args: argparse.Namespace) -> None:
    """Is there what the engine needs? Said before anything is started."""
    import importlib.util

    from dynamo.cli import CommandError

    if args.model is not None and not os.path.exists(args.model):
        raise CommandError(f"{args.model}: there is no such file or folder", 2)
    if args.engine != "llamacpp":
        return
    if args.model is None:
        raise CommandError("MODEL is missing: a GGUF file (or --engine mocker, which needs none)", 2)
    if importlib.util.find_spec("xllamacpp") is None:
        raise CommandError("the llamacpp engine needs the package 'xllamacpp': pip install 'dynamo[llamacpp]'")
