"""Everything answers to its public path, and nothing heavy is loaded for it."""

import json
import subprocess
import sys

import pytest

from ..conftest import ROOT

pytest.importorskip("langchain_core")
pytest.importorskip("langgraph.checkpoint")


def run(code):
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return json.loads(out.stdout)


def test_types_are_known_by_their_public_path():
    from dynamo.langgraph import errors, types

    for name in ("Send", "Command", "Interrupt", "StateSnapshot", "PregelTask", "TimeoutPolicy", "Overwrite"):
        assert getattr(types, name).__module__ == "langgraph.types"
    assert types.TaskPayload.__module__ == "langgraph.types"
    assert errors.GraphInterrupt.__module__ == "langgraph.errors"


def test_a_hook_runs_before_others_can_import_names():
    assert run("""
import json, sys
from dynamo.langgraph._internal._langchain import when_imported, VirtualRunnable, child_config
seen = []
when_imported("langchain_core.runnables.base", lambda m: seen.append(hasattr(m, "Runnable")))
class Node(VirtualRunnable):
    def invoke(self, input, config=None):
        return input + 1
before = "langchain_core" in sys.modules
from langchain_core.runnables import Runnable, config
node = Node()
print(json.dumps([before, seen, isinstance(node, Runnable), config.var_child_runnable_config is child_config,
                  (node | (lambda x: x * 2)).invoke(1), node.batch([1, 2])]))
""") == [False, [True], True, True, 4, [2, 3]]


def test_the_variable_is_langchains_when_that_came_first():
    assert run("""
import json
from langchain_core.runnables.config import var_child_runnable_config
from dynamo.langgraph._internal._langchain import VirtualRunnable, child_config
from langchain_core.runnables import Runnable
print(json.dumps([child_config is var_child_runnable_config, issubclass(VirtualRunnable, Runnable)]))
""") == [True, True]


def test_the_first_use_of_a_runnables_method_loads_langchain():
    assert run("""
import json, sys
from dynamo.langgraph._internal._langchain import VirtualRunnable
class Node(VirtualRunnable):
    def invoke(self, input, config=None):
        return input + 1
node = Node()
first = [hasattr(node, "nothing_of_that_name"), "langchain_core" in sys.modules]
print(json.dumps([*first, node.batch([1]), "langchain_core" in sys.modules]))
""") == [False, False, [2], True]


def test_commands_join_the_outputs_of_tools():
    assert run("""
import json
from dynamo.langgraph.types import Command
command = Command(goto="a")
from langchain_core.messages.tool import ToolOutputMixin
import copy
print(json.dumps([isinstance(command, ToolOutputMixin), isinstance(Command[str](goto="b"), ToolOutputMixin),
                  copy.deepcopy(command) == command, repr(command)]))
""") == [True, True, True, "Command(goto='a')"]


def test_an_empty_channel_is_also_the_savers_error():
    from langgraph.checkpoint.base import EmptyChannelError as Theirs

    from dynamo.langgraph import ChannelError
    from dynamo.langgraph.errors import EmptyChannelError

    with pytest.raises(Theirs):
        raise EmptyChannelError("x")
    assert issubclass(EmptyChannelError, ChannelError)
