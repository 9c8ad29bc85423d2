"""Which nodes the engine may run itself, and how: a node's runnables as steps of ``dynamo._superstep``.

Only classes of ours, as we made them, are taken apart; a subclass or anything else is invoked as it stands.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from dynamo import _superstep
from dynamo._superstep import Step
from dynamo.langgraph._internal._langchain import child_config
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._runnable import RunnableCallable, RunnableSeq, run_in_executor
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.errors import GraphBubbleUp, GraphInterrupt, NodeCancelledError, ParentCommand, is_invalid_resume
from dynamo.langgraph.pregel._algo import should_interrupt
from dynamo.langgraph.pregel._io import task_updates
from dynamo.langgraph.pregel._retry import add_task_note, take_parent_command
from dynamo.langgraph.pregel._runner import without_our_frames
from dynamo.langgraph.pregel._task_status import CONTROL_WRITES
from dynamo.langgraph.pregel._write import (
    PASSTHROUGH,
    SKIP_WRITE,
    ChannelWrite,
    ChannelWriteEntry,
    ChannelWriteTupleEntry,
)
from dynamo.langgraph.pregel.debug import map_debug_checkpoint, map_debug_task_results, map_debug_tasks

CALL, WRITE, BRANCH, INVOKE, GRAPH = range(5)
_EMPTY = inspect.Parameter.empty


def recipe_for(node: Any) -> list[Step]:
    """The steps of a node."""
    return [_step(each) for each in (node.steps if type(node) is RunnableSeq else (node,))]


def _step(runnable: Any) -> Step:
    made = None
    if type(runnable) is ChannelWrite:
        made = _write(runnable)
    elif type(runnable) is RunnableCallable and not _is_branch(getattr(runnable.func, "__self__", None)):
        made = Step(CALL, runnable, **_function(runnable))
    elif isinstance(runnable, RunnableCallable):
        made = _branch(runnable)
    return Step(GRAPH if _is_graph(runnable) else INVOKE, runnable) if made is None else made


def _is_graph(runnable: Any) -> bool:
    module = sys.modules.get("dynamo.langgraph.pregel.main")  # which imports us
    return module is not None and isinstance(runnable, module.Pregel)


def _is_branch(owner: Any) -> bool:
    module = sys.modules.get("dynamo.langgraph.graph._branch")  # which imports us
    return module is not None and type(owner) is module.BranchSpec


def _function(runnable: Any) -> dict[str, Any]:
    accepts = [(name, key, MISSING if d is _EMPTY else d) for name, (key, d) in runnable.func_accepts.items()]
    return {
        "func": runnable.func,
        "afunc": runnable.afunc,
        "hops": _only_hops(runnable.afunc, runnable.func),
        "kwargs": runnable.kwargs,
        "accepts": accepts,
        "explode": runnable.explode_args,
        "recurse": runnable.recurse,
    }


def _only_hops(afunc: Any, func: Any) -> bool:
    """Whether an asynchronous function is what `coerce_to_runnable` makes of a plain one."""
    made = type(afunc) is functools.partial and afunc.func is run_in_executor
    return made and afunc.args == (None, func) and not afunc.keywords


def _write(runnable: Any) -> Step | None:
    entries: list[tuple[Any, Any, bool, Callable[..., Any] | None]] = []
    for entry in runnable.writes:
        if type(entry) is ChannelWriteTupleEntry:
            entries.append((None, entry.value, False, entry.mapper))
        elif type(entry) is ChannelWriteEntry and entry.channel != "__pregel_tasks":
            entries.append((entry.channel, entry.value, entry.skip_none, entry.mapper))
        else:
            return None
    quiet = all(mapper is None or getattr(mapper, "quiet", False) is True for *_, mapper in entries)
    return Step(WRITE, runnable, entries=entries, quiet=quiet)


def _branch(runnable: Any) -> Step | None:
    spec: Any = getattr(runnable.func, "__self__", None)
    if not _is_branch(spec) or runnable.func != spec._route or runnable.kwargs.keys() != {"reader", "writer"}:
        return None
    path = spec.path
    if type(path) is not RunnableCallable or path.explode_args:
        return None
    return Step(
        BRANCH,
        runnable,
        **_function(path),
        reader=runnable.kwargs["reader"],
        writer=runnable.kwargs["writer"],
        finish=spec._finish,
        pairs=getattr(runnable, "pairs", None),
        merges=spec.input_schema is None,
    )


@functools.cache
def _runnable_class() -> Any:
    from langchain_core.runnables import Runnable

    return Runnable


def _is_runnable(value: Any) -> bool:
    return isinstance(value, _runnable_class())


own(globals())
_superstep.bind(
    {
        "variable": child_config,
        "GraphBubbleUp": GraphBubbleUp,
        "GraphInterrupt": GraphInterrupt,
        "ParentCommand": ParentCommand,
        "NodeCancelledError": NodeCancelledError,
        "take_parent_command": take_parent_command,
        "add_task_note": add_task_note,
        "without_our_frames": without_our_frames,
        "recipe_for": recipe_for,
        "is_runnable": _is_runnable,
        "PASSTHROUGH": PASSTHROUGH,
        "SKIP_WRITE": SKIP_WRITE,
        "should_interrupt": should_interrupt,
        "is_invalid_resume": is_invalid_resume,
        "CONTROL_WRITES": CONTROL_WRITES,
        "map_debug_tasks": map_debug_tasks,
        "map_debug_task_results": map_debug_task_results,
        "map_debug_checkpoint": map_debug_checkpoint,
        "task_updates": task_updates,
    }
)
