"""The command `dynamo`. Each subcommand is a module with `HELP`, `EPILOG`, `add_arguments` and `run`.

Exit codes: 0 done, or stopped on request; 1 it failed; 2 wrong arguments; 130 and 143 stopped by force.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

# In the order in which a newcomer meets them. Modules import nothing heavy before run().
COMMANDS = ("serve", "chat", "bench", "replay", "top", "frontend", "worker")

EPILOG = """\
a first try, in two terminals:
  dynamo serve model.gguf --workers 2     answer OpenAI clients on http://127.0.0.1:8000/v1
  dynamo chat                             talk to it

without a model:
  dynamo serve --engine mocker --workers 4

`dynamo COMMAND --help` explains a command and shows how it is used.
"""


class Help(argparse.RawDescriptionHelpFormatter):
    """Epilogs as they are written; defaults where they are worth saying."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(110, _columns()))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        worth = action.default not in (None, False, argparse.SUPPRESS) and action.option_strings
        if text and worth and "%(default)" not in text and "default" not in text:
            text += " (default: %(default)s)"
        return text


def _columns() -> int:
    try:
        return max(60, os.get_terminal_size(sys.stdout.fileno()).columns)
    except (OSError, ValueError):
        return 100


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    top = argparse.ArgumentParser(
        "dynamo",
        description="Serve language models: requests go where their prefix is cached.",
        epilog=EPILOG,
        formatter_class=Help,
    )
    top.add_argument("--version", action="store_true", help="print versions and what this machine has, and exit")
    commands = top.add_subparsers(metavar="COMMAND", dest="command")
    for name in COMMANDS:
        module = importlib.import_module(f"dynamo.cli.{name}")
        sub = commands.add_parser(
            name, help=module.HELP, description=module.__doc__, epilog=module.EPILOG, formatter_class=Help
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code."""
    top = parser()
    args = top.parse_args(argv)
    if args.version:
        from dynamo import show_config

        show_config()
        return 0
    if args.command is None:
        top.print_help()
        return 2
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `dynamo bench | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except CommandError as error:
        print(f"dynamo {args.command}: {error}", file=sys.stderr)
        return error.code


class CommandError(Exception):
    """A reason to stop that a person can read; `code` becomes the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
