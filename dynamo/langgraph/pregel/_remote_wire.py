"""What is said to a server that runs graphs, and what is read from its answers; nothing here does I/O.

Ask       one request, described once, for the client that waits and for the one that is awaited
Chunks    a streamed run: what to ask for, and what each chunk means to the caller and to the graphs around it
portable  a configuration as JSON can carry it
"""

import typing
from collections.abc import Callable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from dynamo.langgraph._internal._constants import (
    _CHECKPOINT_COORDINATE_KEYS,
    CONF,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_STREAM,
    CONFIG_KEY_STRICT_RESUME,
    CONFIG_KEY_TASK_ID,
    CONFIG_KEY_THREAD_ID,
    INTERRUPT,
    NS_SEP,
)
from dynamo.langgraph._internal._errors import PregelError
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.errors import GraphInterrupt, ParentCommand
from dynamo.langgraph.pregel._shape import without_interrupts
from dynamo.langgraph.types import Command, Interrupt, PregelTask, Send, StateSnapshot

if typing.TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph

# Where we are ourselves: it would lead the server astray, which numbers its own checkpoints and tasks.
_STAYS_HERE = frozenset({*_CHECKPOINT_COORDINATE_KEYS, CONFIG_KEY_TASK_ID, CONFIG_KEY_STRICT_RESUME})
_STAYS_HERE -= {CONFIG_KEY_THREAD_ID}


class RemoteException(PregelError):
    """A run failed on the server; the argument is what the server said of it."""


class Ask(NamedTuple):
    """A request: a method of a client, its arguments, and how to read the answer."""

    method: str  # "threads.get_state"
    options: dict[str, Any]
    read: Callable[[Any], Any]

    def of(self, client: Any) -> Any:
        """Ask a client that waits."""
        return self.read(attrgetter(self.method)(client)(**self.options))

    async def aof(self, client: Any) -> Any:
        """Ask one that is awaited."""
        return self.read(await attrgetter(self.method)(client)(**self.options))


# ------------------------------------------------------------------ what we send
def portable_value(value: Any) -> Any:
    """A value as JSON can carry it, without the parts that it cannot; None when nothing is left."""
    if isinstance(value, (str, int, float, UUID)):
        return value
    if isinstance(value, Mapping):
        return {key: said for key in value if isinstance(key, str) and (said := portable_value(value[key])) is not None}
    if isinstance(value, (list, tuple)):
        return [said for item in value if (said := portable_value(item)) is not None]
    return None


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration is the server's business."""
    sent: dict[str, Any] = {}
    if config.get("recursion_limit") is not None:
        sent["recursion_limit"] = config["recursion_limit"]
    if config.get("tags") is not None:
        sent["tags"] = [tag for tag in config["tags"] if isinstance(tag, str)]
    for part in ("metadata", CONF):
        if config.get(part) is not None:
            sent[part] = portable_value({key: said for key, said in config[part].items() if key not in _STAYS_HERE})
    return sent


def checkpoint_of(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The checkpoint that a configuration points at, in the server's form."""
    place = (config or {}).get(CONF) or {}
    return {key: place[key] for key in _CHECKPOINT_COORDINATE_KEYS if key in place} or None


def command_of(command: Command[Any]) -> dict[str, Any]:
    """A command in the server's form."""

    def send(goal: Any) -> Any:
        return {"node": goal.node, "input": goal.arg} if isinstance(goal, Send) else goal

    goto = command.goto
    said = {
        "graph": command.graph,
        "update": command.update,
        "resume": command.resume,
        "goto": ([send(goal) for goal in goto] or None) if isinstance(goto, (list, tuple)) else send(goto),
    }
    return {key: value for key, value in said.items() if value is not None}


# ------------------------------------------------------------------ what we get
def command_from(said: Mapping[str, Any]) -> Command[Any]:
    """A command that a remote node has for the graph around it."""

    def goal(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return Send(value["node"], value["arg"] if "arg" in value else value.get("input"))

    goto = said.get("goto")
    if isinstance(goto, (list, tuple)):
        said = {**said, "goto": [goal(value) for value in goto]}
    elif goto is not None:
        said = {**said, "goto": goal(goto)}
    return Command(**said)


def config_of(checkpoint: Mapping[str, Any] | None) -> Any:
    """The configuration that points at a checkpoint of the server; None for none."""
    if not checkpoint:
        return None
    known = {key: checkpoint[key] for key in _CHECKPOINT_COORDINATE_KEYS if key in checkpoint}
    return {CONF: {CONFIG_KEY_CHECKPOINT_MAP: {}, **known}}


def interrupts_of(said: Any) -> tuple[Interrupt[Any], ...]:
    """Interrupts out of JSON."""
    return tuple(Interrupt(**one) for one in said or ())


# Fields of our objects: the server's name for each, and how to read it.
_TASK: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "id": ("id", str),
    "name": ("name", str),
    "error": ("error", lambda text: Exception(text) if text else None),
    "interrupts": ("interrupts", interrupts_of),
    "result": ("result", lambda value: value),
}
_STATE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "values": ("values", lambda value: value),
    "next": ("next", lambda names: tuple(names or ())),
    "config": ("checkpoint", config_of),
    "parent_config": ("parent_checkpoint", config_of),
    "metadata": ("metadata", lambda metadata: {**(metadata or {})}),
    "created_at": ("created_at", lambda when: when),
    "tasks": ("tasks", lambda tasks: tuple(map(_task_of, tasks or ()))),
}


def _fields(table: Mapping[str, tuple[str, Callable[[Any], Any]]], said: Mapping[str, Any]) -> dict[str, Any]:
    return {field: read(said.get(theirs)) for field, (theirs, read) in table.items()}


def snapshot_of(state: Mapping[str, Any]) -> StateSnapshot:
    """The state of a thread out of JSON, with those of its subgraphs."""
    fields = _fields(_STATE, state)
    return StateSnapshot(**fields, interrupts=tuple(chain.from_iterable(task.interrupts for task in fields["tasks"])))


def _task_of(task: Mapping[str, Any]) -> PregelTask:
    inner, place = task.get("state"), task.get("checkpoint")
    state = snapshot_of(inner) if inner else {CONF: place} if place else None
    return PregelTask(**_fields(_TASK, task), path=(), state=state)  # type: ignore[arg-type]


def drawing_of(graph: Mapping[str, Any]) -> "Graph":
    """A drawing out of JSON."""
    from langchain_core.runnables import graph as drawn

    def node_of(said: Mapping[str, Any]) -> drawn.Node:
        key, data = str(said["id"]), said.get("data", {})
        name = data.get("name", key) if isinstance(data, dict) else key
        return drawn.Node(key, name, data, said.get("metadata"))

    nodes = map(node_of, graph["nodes"])
    return drawn.Graph({node.id: node for node in nodes}, [drawn.Edge(**said) for said in graph["edges"]])


# ------------------------------------------------------------------ a streamed run
# What a server calls the mode whose chunks are a message and its metadata; it sends them as "messages" all the same.
_ON_SERVER = {"messages": "messages-tuple"}
_HERE = {theirs: ours for ours, theirs in _ON_SERVER.items()}


class Chunks:
    """Reads the chunks of a run.

    Parameters
    ----------
    stream_mode, subgraphs, version
        What the caller asked `stream` for.
    place
        What is configurable: who else listens, and where in the graphs around us we are.

    Notes
    -----
    A chunk is called ``mode`` or ``mode|ns|ns``, where each ``ns`` is a level of nesting on the server. Called with a
    chunk, this returns what the caller gets, or MISSING. Updates are always asked for: interrupts come in them.
    """

    def __init__(self, stream_mode: Any, subgraphs: bool, version: str, place: Mapping[str, Any]) -> None:
        asked = stream_mode or "updates"
        self.single = isinstance(asked, str)
        names = [asked] if self.single else asked
        self.given = {_HERE.get(mode, mode) for mode in names}
        self.subgraphs, self.typed = subgraphs, version == "v2"
        ns = place.get(CONFIG_KEY_CHECKPOINT_NS)
        self.around: tuple[str, ...] = tuple(ns.split(NS_SEP)) if ns else ()
        self.outer = place.get(CONFIG_KEY_STREAM)
        wanted = [*names, *sorted(self.outer.modes if self.outer is not None else ()), "updates"]
        self.modes = [mode for mode in dict.fromkeys(_ON_SERVER.get(mode, mode) for mode in wanted) if mode != "events"]

    @property
    def wants_subgraphs(self) -> bool:
        """Whether the server is to show its subgraphs: the graphs around us show everything."""
        return self.subgraphs or self.outer is not None

    def __call__(self, part: Any) -> Any:
        mode, *inner = part.event.split(NS_SEP)
        data = tuple(part.data) if mode == "messages" and isinstance(part.data, list) else part.data
        ns = (*self.around, *inner)
        if self.outer is not None and mode in self.outer.modes:
            self.outer((ns, mode, data))
        self._stop(mode, data)
        # A message is shown once, whichever graph it comes from; other chunks of subgraphs only to who asked.
        shown = mode in self.given and (not inner or self.subgraphs or mode == "messages")
        return self._shaped(part, mode, ns, data) if shown else MISSING

    def _shaped(self, part: Any, mode: str, ns: tuple[str, ...], data: Any) -> Any:
        """A chunk as the caller asked for it."""
        if self.typed:
            data, stops = without_interrupts(data) if mode == "values" else (data, ())
            return {"type": mode, "ns": ns, "data": data, "interrupts": interrupts_of(stops)}
        if self.subgraphs:
            return (ns, data) if self.single else (ns, mode, data)
        return data if self.single else part._replace(data=data)

    def _stop(self, mode: str, data: Any) -> None:
        """Raise what a chunk says to this graph or to the one around it."""
        if mode == "error":
            raise RemoteException(data)
        if mode == "command" and data.get("graph") == Command.PARENT:
            raise ParentCommand(command_from(data))
        if mode == "updates" and self.around and isinstance(data, dict) and INTERRUPT in data:
            raise GraphInterrupt(list(interrupts_of(data[INTERRUPT])))


RemoteException.__module__ = "langgraph.pregel.remote"
own(globals())
