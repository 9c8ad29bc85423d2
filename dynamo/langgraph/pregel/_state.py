"""A thread's state, read out of its checkpoints.

What has to be asked of a saver is the same for plain and asynchronous callers, so it is written down once, as a
script: a generator that yields calls and is given their results. `play` and `aplay` are the two ways to perform one.

    get_state(config) --namespace of a subgraph?--> get_state of that graph, with our saver
          |
          v
    saved checkpoint --> channels --> tasks that come next --> StateSnapshot
                                        (with the state of the graphs in them, or where to find it)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._install import install_if_free
from dynamo.langgraph._internal._config import (
    merge_configs,
    patch_checkpoint_map,
    patch_configurable,
    recast_checkpoint_ns,
)
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_THREAD_ID,
    INPUT,
    NS_END,
    NS_SEP,
    NULL_TASK_ID,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import Script, aplay, ask, play
from dynamo.langgraph._internal._serde import apply_checkpointer_allowlist
from dynamo.langgraph.pregel._algo import PregelTaskWrites, apply_writes, prepare_next_tasks
from dynamo.langgraph.pregel._checkpoint import copy_checkpoint, load_channels
from dynamo.langgraph.pregel._io import read_channels
from dynamo.langgraph.pregel._task_status import read_task_statuses
from dynamo.langgraph.pregel.debug import tasks_w_writes
from dynamo.langgraph.types import StateSnapshot

__all__ = ("Script", "View", "ahistory", "aplay", "ask", "history", "play", "read", "saver_of", "subgraph_for")

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.main import Pregel

Graph = Any


# ------------------------------------------------------------------ whose state
def saver_of(graph: Pregel[Any, Any, Any, Any], config: Any) -> Any:
    """The saver that has the state a config names."""
    saver = graph.checkpointer
    if saver is not False:  # that one never has any, whoever asks
        saver = (config.get(CONF) or {}).get(CONFIG_KEY_CHECKPOINTER, saver)
    if saver is True:
        raise RuntimeError("checkpointer=True cannot be used for root graphs.")
    if not saver:
        raise ValueError("No checkpointer set")
    install_if_free()  # a saver makes its objects from langgraph.types
    return apply_checkpointer_allowlist(saver, graph._serde_allowlist)


def subgraph_for(graph: Graph, config: Any, saver: Any, *, needed: bool = False) -> tuple[Graph, Any] | None:
    """The graph whose state a config names, if it is one inside this one, and the config for it.

    Parameters
    ----------
    needed
        Raise when the namespace names a graph that is not there.
    """
    conf = config[CONF]
    ns = conf.get(CONFIG_KEY_CHECKPOINT_NS)
    if not ns or CONFIG_KEY_CHECKPOINTER in conf:
        return None  # ours, or we are that graph
    path = recast_checkpoint_ns(ns)
    for _, inner in graph.get_subgraphs(namespace=path, recurse=True):
        return inner, patch_configurable(config, {CONFIG_KEY_CHECKPOINTER: saver})
    if needed:
        raise ValueError(f"Subgraph {path} not found")
    return None


def own_config(graph: Graph, config: Any) -> Any:
    """A config as the saver knows our checkpoints."""
    config = merge_configs(graph.config, config) if graph.config else config
    conf = config[CONF]
    changes: dict[str, Any] = {}
    if graph.checkpointer is True and conf.get(CONFIG_KEY_CHECKPOINT_NS):
        ns = conf[CONFIG_KEY_CHECKPOINT_NS]
        nth = ns.rpartition(NS_SEP)[2]  # of several calls in one task, all but the first have a number
        kept = f"{NS_SEP}{nth}" if nth.isdigit() else ""
        changes[CONFIG_KEY_CHECKPOINT_NS] = recast_checkpoint_ns(ns) + kept
    thread = conf.get(CONFIG_KEY_THREAD_ID)
    if thread is not None and not isinstance(thread, str):
        changes[CONFIG_KEY_THREAD_ID] = str(thread)
    return patch_configurable(config, changes) if changes else config


# ------------------------------------------------------------------ a snapshot
class View:
    """A saved checkpoint with live channels and the tasks that come next."""

    def __init__(self, graph: Graph, saved: Any, saver: Any, channels: Any, managed: Any) -> None:
        self.graph, self.saved, self.saver = graph, saved, saver
        self.channels, self.managed = channels, managed
        self.checkpoint = copy_checkpoint(saved.checkpoint)
        self.step = saved.metadata.get("step", -1) + 1
        self.pending = saved.pending_writes or []
        commands = [write[1:] for write in self.pending if write[0] == NULL_TASK_ID]
        if commands:
            self.apply([PregelTaskWrites((), INPUT, commands, ())])
        self.tasks = prepare_next_tasks(
            self.checkpoint,
            self.pending,
            graph.nodes,
            channels,
            managed,
            saved.config,
            self.step,
            self.step + 2,
            for_execution=True,
            store=graph.store,
            checkpointer=saver,
            manager=None,
        )

    def apply(self, tasks: Any) -> None:
        """Apply writes to the channels."""
        apply_writes(self.checkpoint, self.channels, tasks, self.saver.get_next_version, self.graph.trigger_to_nodes)

    def finish(self) -> None:
        """Give the tasks that have finished what they wrote."""
        for task_id, status in read_task_statuses(self.pending).items():
            if task_id in self.tasks:
                self.tasks[task_id].writes.extend(status.output)

    def inner(self, recurse: bool) -> Iterator[tuple[str, Graph, Any]]:
        """The tasks that are graphs: id, graph, and the config of its state."""
        graphs = dict(self.graph.get_subgraphs())
        if not graphs:
            return
        conf = self.saved.config[CONF]
        above = conf.get(CONFIG_KEY_CHECKPOINT_NS, "")
        for task in self.tasks.values():
            if task.name in graphs:
                ns = f"{task.name}{NS_END}{task.id}"
                place = {
                    CONFIG_KEY_THREAD_ID: conf[CONFIG_KEY_THREAD_ID],
                    CONFIG_KEY_CHECKPOINT_NS: f"{above}{NS_SEP}{ns}" if above else ns,
                }
                if recurse:
                    place[CONFIG_KEY_CHECKPOINTER] = self.saver
                yield task.id, graphs[task.name], {CONF: place}

    def snapshot(self, states: dict[str, Any], live: bool) -> StateSnapshot:
        """What the caller gets.

        Parameters
        ----------
        states
            Per task, the state of the graph in it.
        live
            Show what finished tasks have written already, as a run that goes on would find it.
        """
        saved = self.saved
        shown = tasks_w_writes(self.tasks.values(), self.pending, states, self.graph.stream_channels_asis, live=live)
        waiting = list(self.tasks.values())
        if live:
            self.finish()
            finished = [task for task in waiting if task.writes]
            if finished:
                self.apply(finished)
            waiting = [task for task in waiting if not task.writes]
        return StateSnapshot(
            values=read_channels(self.channels, self.graph.stream_channels_asis),
            next=tuple(task.name for task in waiting),
            config=patch_checkpoint_map(saved.config, saved.metadata),
            metadata=saved.metadata,
            created_at=saved.checkpoint["ts"],
            parent_config=patch_checkpoint_map(saved.parent_config, saved.metadata),
            tasks=shown,
            interrupts=tuple(interrupt for task in shown for interrupt in task.interrupts),
        )


def load(graph: Graph, saved: Any, saver: Any) -> Script:
    """A saved checkpoint as a `View`."""
    graph._migrate_checkpoint(saved.checkpoint)
    channels, managed = yield from load_channels(graph.channels, saved.checkpoint, saver=saver, config=saved.config)
    return View(graph, saved, saver, channels, managed)


def snapshot(graph: Graph, config: Any, saved: Any, saver: Any, *, recurse: bool, live: bool) -> Script:
    """A saved checkpoint, or None, as a snapshot."""
    if saved is None:
        named = {key: value for key, value in config[CONF].items() if not key.startswith("__pregel_")}
        nothing: Any = {**config, CONF: named}
        return StateSnapshot(
            values={},
            next=(),
            config=nothing,
            metadata=None,
            created_at=None,
            parent_config=None,
            tasks=(),
            interrupts=(),
        )
    view = yield from load(graph, saved, saver)
    states: dict[str, Any] = {}
    for task_id, inner, place in view.inner(recurse):
        states[task_id] = (yield ask(inner, "get_state", place, subgraphs=True)) if recurse else place
    return view.snapshot(states, live)


def read(graph: Graph, config: Any, subgraphs: bool) -> Script:
    """The script of ``get_state``."""
    config = own_config(graph, config)
    saver = saver_of(graph, config)
    inside = subgraph_for(graph, config, saver)
    if inside is not None:
        return (yield ask(inside[0], "get_state", inside[1], subgraphs=subgraphs))
    saved = yield ask(saver, "get_tuple", config)
    live = not config[CONF].get(CONFIG_KEY_CHECKPOINT_ID)
    return (yield from snapshot(graph, config, saved, saver, recurse=subgraphs, live=live))


# ------------------------------------------------------------------ history
def _history_of(graph: Graph, config: Any) -> tuple[Any, Any, tuple[Graph, Any] | None]:
    config = own_config(graph, config)
    if CONFIG_KEY_CHECKPOINT_NS not in config[CONF]:  # a saver would show the histories of all graphs
        config = patch_configurable(config, {CONFIG_KEY_CHECKPOINT_NS: ""})
    saver = saver_of(graph, config)
    return config, saver, subgraph_for(graph, config, saver)


def history(graph: Graph, config: Any, options: dict[str, Any]) -> Iterator[StateSnapshot]:
    """The states of a thread, the latest first."""
    config, saver, inside = _history_of(graph, config)
    if inside is not None:
        yield from inside[0].get_state_history(inside[1], **options)
        return
    for saved in list(saver.list(config, **options)):  # not to keep a cursor open while the caller thinks
        yield play(snapshot(graph, saved.config, saved, saver, recurse=False, live=False))


async def ahistory(graph: Graph, config: Any, options: dict[str, Any]) -> AsyncIterator[StateSnapshot]:
    """`history` in an event loop."""
    config, saver, inside = _history_of(graph, config)
    if inside is not None:
        async for state in inside[0].aget_state_history(inside[1], **options):
            yield state
        return
    for saved in [saved async for saved in saver.alist(config, **options)]:
        yield await aplay(snapshot(graph, saved.config, saved, saver, recurse=False, live=False))


own(globals())
