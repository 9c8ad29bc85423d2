"""A thread's state, read out of its checkpoints.

get_state(config) --namespace of a subgraph?--> get_state of that graph, with our saver
      |
      v
saved checkpoint --> Moment --> tasks that come next --> StateSnapshot
                                  (with the state of the graphs in them, or where to find it)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

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
    NS_END,
    NS_SEP,
)
from dynamo.langgraph._internal._errors import CheckpointError
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import Script, aplay, ask, play
from dynamo.langgraph._internal._serde import apply_checkpointer_allowlist
from dynamo.langgraph.pregel._io import read_channels
from dynamo.langgraph.pregel._moment import Graph, Moment
from dynamo.langgraph.pregel.debug import tasks_w_writes
from dynamo.langgraph.types import StateSnapshot


# ------------------------------------------------------------------ whose state
def saver_of(graph: Graph, config: Any) -> Any:
    """The saver that has the state a config names."""
    saver = graph.checkpointer
    if saver is not False:  # that one never has any, whoever asks
        saver = (config.get(CONF) or {}).get(CONFIG_KEY_CHECKPOINTER, saver)
    if saver is True:
        raise RuntimeError("checkpointer=True cannot be used for root graphs: their state is read with a saver")
    if not saver:
        raise CheckpointError("No checkpointer set: only a graph compiled with a checkpointer has a state")
    install_if_free()  # a saver makes its objects from langgraph.types
    return apply_checkpointer_allowlist(saver, graph._serde_allowlist)


def subgraph_for(graph: Graph, config: Any, saver: Any, *, needed: bool = False) -> tuple[Graph, Any] | None:
    """The graph whose state a config names, if it is one inside this one, and the config for it.

    Parameters
    ----------
    needed
        Raise when the namespace names a graph that is not there.
    """
    place = config[CONF]
    if CONFIG_KEY_CHECKPOINTER in place or not place.get(CONFIG_KEY_CHECKPOINT_NS):
        return None  # we are that graph
    path = recast_checkpoint_ns(place[CONFIG_KEY_CHECKPOINT_NS])
    found = next(iter(graph.get_subgraphs(namespace=path, recurse=True)), None)
    if found is None and needed:
        raise ValueError(f"Subgraph {path} not found")
    return found and (found[1], patch_configurable(config, {CONFIG_KEY_CHECKPOINTER: saver}))


def own_config(graph: Graph, config: Any) -> Any:
    """A config as the saver knows our checkpoints."""
    config = merge_configs(graph.config, config) if graph.config else config
    ns, thread = (config[CONF].get(key) for key in (CONFIG_KEY_CHECKPOINT_NS, CONFIG_KEY_THREAD_ID))
    told: dict[str, Any] = {}
    if ns and graph.checkpointer is True:
        nth = ns.rpartition(NS_SEP)[2]  # of several calls in one task, all but the first have a number
        told[CONFIG_KEY_CHECKPOINT_NS] = recast_checkpoint_ns(ns) + (f"{NS_SEP}{nth}" if nth.isdigit() else "")
    if not isinstance(thread, (str, type(None))):
        told[CONFIG_KEY_THREAD_ID] = str(thread)
    return patch_configurable(config, told) if told else config


# ------------------------------------------------------------------ a snapshot
def _inner(moment: Moment, tasks: dict[str, Any], with_saver: bool) -> Iterator[tuple[str, Graph, Any]]:
    """The tasks that are graphs: id, graph, and the config of its state."""
    graphs = dict(moment.graph.get_subgraphs())
    place = moment.config[CONF]
    above = place.get(CONFIG_KEY_CHECKPOINT_NS, "")
    for task in [task for task in tasks.values() if task.name in graphs]:
        ns = f"{task.name}{NS_END}{task.id}"
        inside: dict[str, Any] = {CONFIG_KEY_THREAD_ID: place[CONFIG_KEY_THREAD_ID]}
        inside[CONFIG_KEY_CHECKPOINT_NS] = f"{above}{NS_SEP}{ns}" if above else ns
        if with_saver:
            inside[CONFIG_KEY_CHECKPOINTER] = moment.saver
        yield task.id, graphs[task.name], {CONF: inside}


def snapshot(graph: Graph, config: Any, saved: Any, saver: Any, *, recurse: bool, live: bool) -> Script:
    """A saved checkpoint, or None, as a snapshot.

    Parameters
    ----------
    recurse
        Show the states of the graphs inside, not only where to find them.
    live
        Show what finished tasks have written already, as a run that goes on would find it.
    """
    if not saved:
        named = {key: value for key, value in config[CONF].items() if not key.startswith("__pregel_")}
        asked: Any = {**config, CONF: named}
        return StateSnapshot({}, (), asked, None, None, None, (), ())
    moment = yield from Moment(graph, saver, saved).load()
    tasks = moment.upcoming(live=True)
    states: dict[str, Any] = {}
    for task_id, inner, place in _inner(moment, tasks, recurse):
        states[task_id] = (yield ask(inner, "get_state", place, subgraphs=True)) if recurse else place
    keys = graph.stream_channels_asis
    shown = tasks_w_writes(tasks.values(), moment.pending, states, keys, live=live)
    if live:
        moment.give_back(tasks)
        finished = [task for task in tasks.values() if task.writes]
        if finished:
            moment.apply(finished)
    waiting = tuple(task.name for task in tasks.values() if not (live and task.writes))
    config, above = (patch_checkpoint_map(place, saved.metadata) for place in (saved.config, saved.parent_config))
    open_ = tuple(interrupt for task in shown for interrupt in task.interrupts)
    values, when = read_channels(moment.channels, keys), saved.checkpoint["ts"]
    return StateSnapshot(values, waiting, config, saved.metadata, when, above, shown, open_)


def read(graph: Graph, config: Any, subgraphs: bool) -> Script:
    """The script of ``get_state``."""
    config = own_config(graph, config)
    saver = saver_of(graph, config)
    inside = subgraph_for(graph, config, saver)
    if inside is not None:
        return (yield ask(inside[0], "get_state", inside[1], subgraphs=subgraphs))
    found = yield ask(saver, "get_tuple", config)
    live = not config[CONF].get(CONFIG_KEY_CHECKPOINT_ID)
    return (yield from snapshot(graph, config, found, saver, recurse=subgraphs, live=live))


# ------------------------------------------------------------------ history
class _History:
    """Whose history, and as whom to show it."""

    def __init__(self, graph: Graph, config: Any, options: dict[str, Any]) -> None:
        self.graph, self.options = graph, options
        config = own_config(graph, config)
        if CONFIG_KEY_CHECKPOINT_NS not in config[CONF]:  # a saver would show the histories of all graphs
            config = patch_configurable(config, {CONFIG_KEY_CHECKPOINT_NS: ""})
        self.config, self.saver = config, saver_of(graph, config)
        self.inside = subgraph_for(graph, config, self.saver)

    def shown(self, saved: Any) -> Script:
        """A checkpoint as it was when it was saved."""
        return snapshot(self.graph, saved.config, saved, self.saver, recurse=False, live=False)


def history(graph: Graph, config: Any, options: dict[str, Any]) -> Iterator[StateSnapshot]:
    """The states of a thread, the latest first."""
    past = _History(graph, config, options)
    if past.inside is not None:
        yield from past.inside[0].get_state_history(past.inside[1], **options)
        return
    for saved in list(past.saver.list(past.config, **options)):  # no cursor stays open while the caller thinks
        yield play(past.shown(saved))


async def ahistory(graph: Graph, config: Any, options: dict[str, Any]) -> AsyncIterator[StateSnapshot]:
    """`history` in an event loop."""
    past = _History(graph, config, options)
    if past.inside is not None:
        async for shown in past.inside[0].aget_state_history(past.inside[1], **options):
            yield shown
        return
    for saved in [saved async for saved in past.saver.alist(past.config, **options)]:
        yield await aplay(past.shown(saved))


own(globals())
