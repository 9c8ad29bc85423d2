"""Run a LangGraph program, unchanged, on dynamo's engine."""

import argparse
import os
import runpy
import sys

from dynamo.langgraph._install import install


def main() -> None:
    """The command ``python -m dynamo.langgraph``."""
    parser = argparse.ArgumentParser(
        prog="python -m dynamo.langgraph",
        description="Run a program written for LangGraph, unchanged: its `import langgraph` gives dynamo's engine.",
        epilog="examples:  python -m dynamo.langgraph agent.py --question why\n"
        "           python -m dynamo.langgraph -m my_package.agent\n"
        "In a program of your own: import dynamo.langgraph; dynamo.langgraph.install(), before langgraph is imported.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-m", dest="module", metavar="MODULE", help="run a module instead of a file")
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="SCRIPT | ARGUMENTS", help="the program, its arguments"
    )
    given = parser.parse_args()
    if given.module is None and not given.rest:
        parser.error("which program? Name a script, or a module with -m")
    install()
    if given.module is not None:
        sys.argv = [given.module, *given.rest]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(given.module, run_name="__main__", alter_sys=True)
        return
    script = given.rest[0]
    if not os.path.exists(script):
        parser.error(f"there is no file {script!r} here ({os.getcwd()})")
    sys.argv = given.rest
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
