"""Graphs of `dynamo.langgraph` whose nodes do next to nothing: what the engine costs.

The same graphs beside langgraph itself are in ``benchmarks/langgraph_table.py``.
"""

import asyncio
import os
import subprocess
import sys

from .langgraph_cases import CASES

MODULE = "dynamo.langgraph"


class _Runs:
    """Runs of some cases in each mode."""

    param_names = ("case", "mode")

    def setup(self, case, mode):
        self.loop = None if mode == "invoke" else asyncio.new_event_loop()
        self.run = CASES[case].runner(MODULE, mode, self.loop)
        self.run()

    def teardown(self, case, mode):
        if self.loop is not None:
            self.loop.close()

    def time_run(self, case, mode):
        self.run()


class Supersteps(_Runs):
    """A ring of one node and a path function, and nodes in a row."""

    params = (("ring 1", "ring 100", "ring 1000", "row 10", "row 1000"), ("invoke", "ainvoke", "astream"))


class Tasks(_Runs):
    """Tasks made with Send, which run beside one another."""

    params = (("fan 10", "fan 100", "fan 1000"), ("invoke", "ainvoke"))


class Subgraphs(_Runs):
    """Six graphs, each a node of the next."""

    params = (("nest 5",), ("invoke", "ainvoke"))


class Keys(_Runs):
    """A ring of 100 supersteps with 101 state keys, of which one or all are written."""

    params = (("one of 101 keys", "all of 101 keys"), ("invoke", "ainvoke"))


class Saved(_Runs):
    """A ring that an InMemorySaver keeps."""

    params = (("ring 1, saver", "ring 100, saver"), ("invoke", "ainvoke"))

    def setup(self, case, mode):
        try:
            import langgraph.checkpoint.memory  # noqa: F401
        except ImportError:
            raise NotImplementedError("langgraph-checkpoint is not installed") from None
        super().setup(case, mode)


class Start:
    """A fresh process: the import alone, and up to the first result of a graph of one node."""

    timeout = 120
    params = ("import", "first result")
    param_names = ("what",)

    def setup(self, what):
        self.code = f"from {MODULE}.graph import StateGraph"
        if what == "first result":
            self.code += "\ng = StateGraph(dict)\ng.add_node('n', lambda s: s)\ng.set_entry_point('n')\n"
            self.code += "g.compile().invoke({'a': 1})"

    def time_process(self, what):
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
        subprocess.run([sys.executable, "-c", self.code], check=True, env=env)
