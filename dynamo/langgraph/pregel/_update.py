"""Changing a thread's state from outside, as if nodes had written.

    supersteps: [[update, update], [update], ...]      each makes a checkpoint, the child of the one before

    as_node   END with no values     what comes next is dropped
              "__input__"            the values are new input
              "__copy__"             the checkpoint once more, as a brother of itself, perhaps with updates of its own
              a node, or None        its writers write the values; None is the node that wrote last

I1  A checkpoint that already has children gets no more writes: they would count for these children too. Delta
    channels then go whole into the new checkpoint.
I2  Writes are saved before the checkpoint that they lead to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from dynamo._pregel import next_checkpoint
from dynamo.langgraph._internal._config import patch_checkpoint_map, patch_config, patch_configurable
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_READ,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SEND,
    CONFIG_KEY_TASK_ID,
    INPUT,
    INTERRUPT,
    PUSH,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._runnable import RunnableSeq
from dynamo.langgraph._internal._script import Script, ask
from dynamo.langgraph.constants import END
from dynamo.langgraph.errors import InvalidUpdateError
from dynamo.langgraph.pregel._algo import PregelTaskWrites, _scratchpad, local_read, task_path_str
from dynamo.langgraph.pregel._checkpoint import (
    COUNTERS,
    add_snapshots,
    advance_counters,
    delta_channels_to_snapshot,
    delta_names,
    is_superseded,
    note_counters,
    versions_seen_without_bumps,
)
from dynamo.langgraph.pregel._deltas import Deltas
from dynamo.langgraph.pregel._io import map_input
from dynamo.langgraph.pregel._messages import ensure_message_ids
from dynamo.langgraph.pregel._moment import Graph, Moment
from dynamo.langgraph.pregel._outbox import knows_paths
from dynamo.langgraph.pregel._saving import savable
from dynamo.langgraph.pregel._state import own_config, saver_of, subgraph_for
from dynamo.langgraph.pregel._utils import get_new_channel_versions
from dynamo.langgraph.runtime import Runtime
from dynamo.langgraph.types import StateUpdate

COPY = "__copy__"
# What can only be done alone, by the node that is named for it.
_ALONE = {END: "clearing state", INPUT: "updating as input", COPY: "copying a checkpoint"}


class Parcel(NamedTuple):
    """Writes of a task, for the saver."""

    task: str
    writes: list[tuple[str, Any]]
    path: str = ""


def update(graph: Graph, config: Any, supersteps: Sequence[Sequence[StateUpdate]]) -> Script:
    """The script of ``bulk_update_state``; returns the config of the last checkpoint."""
    place = own_config(graph, config)
    saver = saver_of(graph, place)
    if not supersteps:
        raise ValueError("No supersteps provided: an update is a list of lists of StateUpdate")
    if not all(supersteps):
        raise ValueError("No updates provided: every superstep needs one at least")
    inside = subgraph_for(graph, place, saver, needed=True)
    if inside is not None:
        return (yield ask(inside[0], "bulk_update_state", inside[1], supersteps))
    addressed = True  # by the caller; all but the first are children of one that we have made just now
    for updates in supersteps:
        place = yield from Superstep(graph, saver, place, addressed).run(list(updates))
        addressed = False
    return place


class Superstep:
    """Updates that are applied together.

    Attributes
    ----------
    now : Moment
        What the new checkpoint will be the child of.
    config : RunnableConfig
        Of the caller; `place` is the same as the saver has it.
    shared : bool
        Whether that checkpoint has children already.
    """

    now: Moment

    def __init__(self, graph: Graph, saver: Any, config: Any, addressed: bool) -> None:
        self.graph, self.saver, self.config, self.addressed = graph, saver, config, addressed
        self.place = patch_configurable(
            config, {CONFIG_KEY_CHECKPOINT_NS: config[CONF].get(CONFIG_KEY_CHECKPOINT_NS, "")}
        )
        self.shared = False

    def run(self, updates: list[StateUpdate]) -> Script:
        """Apply them and save; returns the config of the new checkpoint."""
        saved = yield ask(self.saver, "get_tuple", self.config)
        if saved is not None:
            self.place = patch_configurable(self.place, saved.config[CONF])
            if self.addressed:
                self.shared = yield from is_superseded(self.saver, self.config, saved)
        self.now = yield from Moment(self.graph, self.saver, saved).load()
        self.step = self.now.step if saved is not None else 0
        values, node, *_ = updates[0]
        if node in _ALONE and len(updates) > 1:
            raise InvalidUpdateError(f"Cannot apply multiple updates when {_ALONE[node]}")
        ways: dict[Any, Any] = {INPUT: self._input, COPY: self._copy}
        if node == END and values is None:
            return (yield from self._clear())
        if node in ways:
            return (yield from ways[node](values))
        return (yield from self._write(updates))

    # ---------------------------------------------------------------- the ways
    def _clear(self) -> Script:
        """Let what comes next have happened, with what has been written of it."""
        if self.now.saved is not None:
            tasks = self.now.upcoming(live=True)
            self.now.give_back(tasks)
            self.now.apply(list(tasks.values()))
        return (yield from self._save("update", ()))

    def _input(self, values: Any) -> Script:
        """New input."""
        writes = map_input(self.graph.input_channels, values)
        if not writes:
            raise InvalidUpdateError(f"Received no input writes for {self.graph.input_channels}")
        ensure_message_ids(self.graph.channels, writes)
        self.now.apply([PregelTaskWrites((), INPUT, writes, ())])
        if self.now.saved is None:
            self.step = -1
        return (yield from self._save("input", [Parcel(self._made_up_id(INPUT), writes)]))

    def _copy(self, values: Any) -> Script:
        """The checkpoint once more."""
        now, saved = self.now, self.now.saved
        if saved is None:
            raise InvalidUpdateError("Cannot copy a non-existent checkpoint: the thread has none")
        twin = next_checkpoint(now.checkpoint, None, self.step)
        above = saved.parent_config or patch_configurable(saved.config, {CONFIG_KEY_CHECKPOINT_ID: None})
        made = yield ask(self.saver, "put", above, twin, self._metadata("fork", now.metadata.get(COUNTERS)), {})
        made = patch_checkpoint_map(made, now.metadata)
        if not (values and isinstance(values, list)):
            return made
        updates = self._for_tasks_of(twin, values)
        return (yield from Superstep(self.graph, self.saver, made, False).run(updates))

    def _for_tasks_of(self, checkpoint: Any, items: list[Any]) -> list[StateUpdate]:
        """Updates for the tasks that follow a copy, in the order in which the nodes are named first."""
        ids = self._task_ids(checkpoint=checkpoint, pending_writes=(), step=self.step + 1)
        by_node: dict[Any, list[StateUpdate]] = {}
        for item in items:
            if isinstance(item, Sequence):
                values, node, *_ = item
                left = ids.get(node)
                by_node.setdefault(node, []).append(StateUpdate(values, node, left.pop(0) if left else None))
            else:
                raise InvalidUpdateError(f"Invalid update item: {item} when copying checkpoint")
        return [one for updates in by_node.values() for one in updates]

    def _write(self, updates: list[StateUpdate]) -> Script:
        """Let nodes write."""
        several = len(updates) > 1
        if several and any(each.as_node is None for each in updates):
            raise InvalidUpdateError("as_node is required when applying multiple updates")
        ids = self._task_ids() if self.now.saved is not None else {}
        tasks: list[PregelTaskWrites] = []
        parcels: list[Parcel] = []
        for nth, (values, named, given) in enumerate(updates):
            node = self._last_writer() if named is None else named
            writers = self._writers(node)
            prepared = ids.get(node)
            task_id = given or (prepared.pop(0) if prepared else self._made_up_id(INTERRUPT, nth))
            writes: list[tuple[str, Any]] = []
            task = PregelTaskWrites((INTERRUPT, nth), node, writes, (INTERRUPT,))
            yield ask(writers, "invoke", values, self._config_for(task, task_id, writes))
            ensure_message_ids(self.graph.channels, writes)
            tasks.append(task)
            parcels.append(Parcel(task_id, writes, task_path_str(task.path)))
        self.now.apply(tasks)
        return (yield from self._save("update", parcels))

    # ---------------------------------------------------------------- nodes and tasks
    def _writers(self, node: str) -> Any:
        known = self.graph.nodes.get(node)
        if known is None:
            raise InvalidUpdateError(f"Node {node} does not exist: as_node is one of {sorted(self.graph.nodes)}")
        if not known.flat_writers:
            raise InvalidUpdateError(f"Node {node} has no writers: it cannot update the state")
        first, *others = known.flat_writers
        return RunnableSeq(first, *others) if others else first

    def _last_writer(self) -> str:
        """The node that an update comes from when it does not say so."""
        nodes: dict[str, Any] = self.graph.nodes
        seen = versions_seen_without_bumps(self.now.checkpoint["versions_seen"])
        first = self.graph.input_channels
        if len(nodes) == 1:
            return next(iter(nodes))
        if isinstance(first, str) and first in nodes and not any(seen.values()):
            return first
        newest = {node: max(seen[node].values()) for node in nodes if seen.get(node)}
        latest = max(newest.values(), default=None)
        who = [node for node, version in newest.items() if version == latest]
        if len(who) == 1:
            return who[0]
        raise InvalidUpdateError(f"Ambiguous update, specify as_node: it may come from any of {who or list(nodes)}")

    def _made_up_id(self, name: str, nth: int = 0) -> str:
        """A task id for writes of no task."""
        return str(uuid5(UUID(self.now.checkpoint["id"]), f"{name}:{nth}" if nth else name))

    def _task_ids(self, **other: Any) -> dict[str, list[str]]:
        """The ids of the tasks that come next, by node."""
        ids: dict[str, list[str]] = defaultdict(list)
        for task in self.now.upcoming(live=False, **other).values():
            ids[task.name].append(task.id)
        return ids

    def _config_for(self, task: PregelTaskWrites, task_id: str, writes: list[tuple[str, Any]]) -> Any:
        """What writers and path functions find when they run for an update."""
        pad = _scratchpad(None, [], task_id, "", None, self.step, self.step + 2)
        found: dict[str, Any] = {CONFIG_KEY_RUNTIME: Runtime(store=self.graph.store)} | self.config[CONF]
        found[CONFIG_KEY_SEND], found[CONFIG_KEY_TASK_ID] = writes.extend, task_id
        found[CONFIG_KEY_READ] = partial(local_read, pad, self.now.channels, self.now.managed, task)
        return patch_config(self.config, run_name=f"{self.graph.get_name()}UpdateState", configurable=found)

    # ---------------------------------------------------------------- the checkpoint
    def _metadata(self, source: str, counters: Any = None) -> dict[str, Any]:
        made = {"source": source, "step": self.step, "parents": self.now.metadata.get("parents", {})}
        return made if counters is None else {**made, COUNTERS: counters}

    def _save(self, source: str, parcels: Sequence[Parcel]) -> Script:
        """Save writes, then the checkpoint."""
        now, saver, specs = self.now, self.saver, self.graph.channels
        book = Deltas(delta_names(specs), keeps=False)
        if now.saved is not None:
            book.found(now.pending, gives_back=False)
            for parcel in parcels:
                book.overwritten(parcel.writes)
                kept = savable([write for write in parcel.writes if write[0] != PUSH], specs)
                if self.shared:
                    book.force(name for name, _ in parcel.writes)
                elif kept:
                    more = (parcel.path,) if knows_paths(saver.put_writes) else ()
                    yield ask(saver, "put_writes", self.place, kept, parcel.task, *more)
        metadata, versions, whole = self._metadata(source), now.checkpoint["channel_versions"], book.forced
        made = next_checkpoint(now.checkpoint, now.channels, self.step)
        if now.saved is None:
            whole |= {name for name in book.names if name in versions and now.channels[name].is_available()}
        else:
            updated = {name for parcel in parcels for name, _ in parcel.writes if name != PUSH}
            counters = advance_counters(now.channels, now.metadata.get(COUNTERS), updated)
            whole |= delta_channels_to_snapshot(now.channels, counters, versions)
            note_counters(metadata, counters, whole)
        if whole:
            add_snapshots(made, now.channels, whole, saver.get_next_version, now.versions, self.graph.trigger_to_nodes)
        moved = get_new_channel_versions(now.versions, made["channel_versions"])
        config = yield ask(saver, "put", self.place, made, metadata, moved)
        return patch_checkpoint_map(config, now.metadata)


own(globals())
