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
from typing import Any
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
from dynamo.langgraph.pregel import _checkpoint
from dynamo.langgraph.pregel._algo import (
    PregelTaskWrites,
    _scratchpad,
    apply_writes,
    local_read,
    prepare_next_tasks,
    task_path_str,
)
from dynamo.langgraph.pregel._deltas import Deltas
from dynamo.langgraph.pregel._io import map_input
from dynamo.langgraph.pregel._messages import ensure_message_ids
from dynamo.langgraph.pregel._outbox import knows_paths
from dynamo.langgraph.pregel._saving import savable
from dynamo.langgraph.pregel._state import Graph, View, own_config, saver_of, subgraph_for
from dynamo.langgraph.pregel._utils import get_new_channel_versions
from dynamo.langgraph.runtime import Runtime
from dynamo.langgraph.types import StateUpdate

COPY = "__copy__"
Saved = tuple[str, list[tuple[str, Any]], str]  # task, writes, path of the task


def update(graph: Graph, config: Any, supersteps: Sequence[Sequence[StateUpdate]]) -> Script:
    """The script of ``bulk_update_state``; returns the config of the last checkpoint."""
    config = own_config(graph, config)
    saver = saver_of(graph, config)
    if not supersteps:
        raise ValueError("No supersteps provided")
    if not all(supersteps):
        raise ValueError("No updates provided")
    inside = subgraph_for(graph, config, saver, needed=True)
    if inside is not None:
        return (yield ask(inside[0], "bulk_update_state", inside[1], supersteps))
    for nth, updates in enumerate(supersteps):
        config = yield from Superstep(graph, saver, config, first=nth == 0).run(list(updates))
    return config


class Superstep:
    """Updates that are applied together."""

    def __init__(self, graph: Graph, saver: Any, config: Any, *, first: bool) -> None:
        self.graph, self.saver, self.config, self.first = graph, saver, config, first

    def run(self, updates: list[StateUpdate]) -> Script:
        """Apply them and save; returns the config of the new checkpoint."""
        yield from self._load()
        values, as_node = updates[0][:2]
        special = {END: "clearing state", INPUT: "updating as input"}
        for name, what in special.items():
            if as_node == name and len(updates) > 1:
                raise InvalidUpdateError(f"Cannot apply multiple updates when {what}")
        if as_node == END and values is None:
            return (yield from self._clear())
        if as_node == INPUT:
            return (yield from self._input(values))
        if as_node == COPY:
            if len(updates) > 1:
                raise InvalidUpdateError("Cannot copy checkpoint with multiple updates")
            return (yield from self._copy(values))
        return (yield from self._write(updates))

    def _load(self) -> Script:
        """Get the checkpoint that this is the child of."""
        graph, saver = self.graph, self.saver
        self.saved = saved = yield ask(saver, "get_tuple", self.config)
        self.place = patch_configurable(
            self.config, {CONFIG_KEY_CHECKPOINT_NS: self.config[CONF].get(CONFIG_KEY_CHECKPOINT_NS, "")}
        )
        self.has_children = False
        if saved is None:
            self.checkpoint: Any = _checkpoint.empty_checkpoint()
            self.metadata: Any = {}
            at = None
        else:
            graph._migrate_checkpoint(saved.checkpoint)
            self.checkpoint = _checkpoint.copy_checkpoint(saved.checkpoint)
            self.metadata = saved.metadata
            if self.first:
                self.has_children = yield from _checkpoint.is_superseded(saver, self.config, saved)
            self.place = patch_configurable(self.place, saved.config[CONF])
            at = saved.config
        self.before = dict(self.checkpoint["channel_versions"])
        self.step = self.metadata.get("step", -1) + 1 if saved is not None else 0
        self.channels, self.managed = yield from _checkpoint.load_channels(
            graph.channels, self.checkpoint, saver=saver, config=at
        )

    # ---------------------------------------------------------------- the ways
    def _clear(self) -> Script:
        """Let what comes next have happened, with what has been written of it."""
        if self.saved is not None:
            view = View(self.graph, self.saved, self.saver, self.channels, self.managed)
            view.finish()
            self.checkpoint = view.checkpoint
            self._apply(list(view.tasks.values()))
        return (yield from self._save("update", set()))

    def _input(self, values: Any) -> Script:
        """New input."""
        writes = map_input(self.graph.input_channels, values)
        if not writes:
            raise InvalidUpdateError(f"Received no input writes for {self.graph.input_channels}")
        ensure_message_ids(self.graph.channels, writes)
        self._apply([PregelTaskWrites((), INPUT, writes, ())])
        if self.saved is None:
            self.step = -1
        task_id = str(uuid5(UUID(self.checkpoint["id"]), INPUT))
        return (yield from self._save("input", {name for name, _ in writes}, [(task_id, writes, "")]))

    def _copy(self, values: Any) -> Script:
        """The checkpoint once more."""
        saved = self.saved
        if saved is None:
            raise InvalidUpdateError("Cannot copy a non-existent checkpoint")
        twin = next_checkpoint(self.checkpoint, None, self.step)
        metadata = {"source": "fork", "step": self.step, "parents": self.metadata.get("parents", {})}
        if _checkpoint.COUNTERS in self.metadata:
            metadata[_checkpoint.COUNTERS] = self.metadata[_checkpoint.COUNTERS]
        parent = saved.parent_config or patch_configurable(saved.config, {CONFIG_KEY_CHECKPOINT_ID: None})
        made = yield ask(self.saver, "put", parent, twin, metadata, {})
        made = patch_checkpoint_map(made, self.metadata)
        if not isinstance(values, list) or not values:
            return made
        updates = self._for_tasks_of(twin, saved.config, values)
        return (yield from Superstep(self.graph, self.saver, made, first=False).run(updates))

    def _for_tasks_of(self, checkpoint: Any, config: Any, items: list[Any]) -> list[StateUpdate]:
        """Updates for the tasks that follow a checkpoint, in the order in which the nodes are named first."""
        self.step += 1  # the copy has made one of its own
        ids = self._task_ids(checkpoint, (), config)
        by_node: dict[Any, list[StateUpdate]] = {}
        for item in items:
            if not isinstance(item, Sequence):
                raise InvalidUpdateError(f"Invalid update item: {item} when copying checkpoint")
            values, node = item[:2]
            left = ids.get(node)
            by_node.setdefault(node, []).append(StateUpdate(values, node, left.pop(0) if left else None))
        return [one for updates in by_node.values() for one in updates]

    def _write(self, updates: list[StateUpdate]) -> Script:
        """Let nodes write."""
        if len(updates) == 1:
            (only,) = updates
            updates = [only._replace(as_node=self._node_of(only))]
        else:
            for one in updates:
                if one.as_node is None:
                    raise InvalidUpdateError("as_node is required when applying multiple updates")
        ids: dict[str, list[str]] = {}
        if self.saved is not None:
            ids = self._task_ids(self.checkpoint, self.saved.pending_writes or (), self.saved.config)
        tasks: list[PregelTaskWrites] = []
        saves: list[Saved] = []
        for nth, (values, node, given) in enumerate(updates):
            assert node is not None
            writers = self._writers(node)
            prepared = ids.get(node)
            task_id = given or (prepared.pop(0) if prepared else self._made_up_id(nth))
            writes: list[tuple[str, Any]] = []
            task = PregelTaskWrites((nth,) if len(updates) > 1 else (), node, writes, (INTERRUPT,))
            yield ask(writers, "invoke", values, self._config_for(task, task_id, writes))
            ensure_message_ids(self.graph.channels, writes)
            tasks.append(task)
            saves.append((task_id, writes, task_path_str(task.path)))
        self._apply(tasks)
        return (
            yield from self._save("update", {name for task in tasks for name, _ in task.writes if name != PUSH}, saves)
        )

    def _writers(self, node: str) -> Any:
        if node not in self.graph.nodes:
            raise InvalidUpdateError(f"Node {node} does not exist")
        writers = self.graph.nodes[node].flat_writers
        if not writers:
            raise InvalidUpdateError(f"Node {node} has no writers")
        return writers[0] if len(writers) == 1 else RunnableSeq(*writers)

    def _node_of(self, only: StateUpdate) -> str:
        """The node that an update is said to come from: if none is named, the one that wrote last."""
        if only.as_node is not None:
            return only.as_node
        nodes: dict[str, Any] = self.graph.nodes
        if len(nodes) == 1:
            return next(iter(nodes))
        seen = _checkpoint.versions_seen_without_bumps(self.checkpoint["versions_seen"])
        if not any(seen.values()):
            start = self.graph.input_channels
            if isinstance(start, str) and start in nodes:
                return start
        latest: Any = None
        who: set[str] = set()
        for node in nodes:
            for version in (seen.get(node) or {}).values():
                if latest is None or version > latest:
                    latest, who = version, {node}
                elif version == latest:
                    who.add(node)
        if len(who) != 1:
            raise InvalidUpdateError("Ambiguous update, specify as_node")
        return who.pop()

    def _made_up_id(self, nth: int) -> str:
        return str(uuid5(UUID(self.checkpoint["id"]), f"{INTERRUPT}:{nth}" if nth else INTERRUPT))

    def _task_ids(self, checkpoint: Any, pending: Any, config: Any) -> dict[str, list[str]]:
        """The ids of the tasks that follow a checkpoint, by node."""
        ids: dict[str, list[str]] = defaultdict(list)
        for task in prepare_next_tasks(
            checkpoint,
            pending,
            self.graph.nodes,
            self.channels,
            self.managed,
            config,
            self.step,
            self.step + 2,
            for_execution=False,
        ).values():
            ids[task.name].append(task.id)
        return ids

    def _config_for(self, task: PregelTaskWrites, task_id: str, writes: list[tuple[str, Any]]) -> Any:
        """What writers and path functions find when they run for an update."""
        pad = _scratchpad(None, [], task_id, "", None, self.step, self.step + 2)
        return patch_config(
            self.config,
            run_name=f"{self.graph.get_name()}UpdateState",
            configurable={
                CONFIG_KEY_RUNTIME: Runtime(store=self.graph.store),
                **self.config[CONF],
                CONFIG_KEY_SEND: writes.extend,
                CONFIG_KEY_TASK_ID: task_id,
                CONFIG_KEY_READ: partial(local_read, pad, self.channels, self.managed, task),
            },
        )

    # ---------------------------------------------------------------- the checkpoint
    def _apply(self, tasks: list[Any]) -> None:
        apply_writes(self.checkpoint, self.channels, tasks, self.saver.get_next_version, self.graph.trigger_to_nodes)

    def _save(self, source: str, updated: set[str], saves: Sequence[Saved] = ()) -> Script:
        """Save writes, then the checkpoint."""
        saver, specs, versions = self.saver, self.graph.channels, self.checkpoint["channel_versions"]
        book = Deltas(_checkpoint.delta_names(specs), keeps=False)
        if self.saved is not None:
            book.found(self.saved.pending_writes or (), gives_back=False)
            for task_id, writes, path in saves:
                book.overwritten(writes)
                kept = savable([write for write in writes if write[0] != PUSH], specs)
                if self.has_children:
                    book.force(name for name, _ in writes)
                elif kept:
                    more = (path,) if knows_paths(saver.put_writes) else ()
                    yield ask(saver, "put_writes", self.place, kept, task_id, *more)
        metadata = {"source": source, "step": self.step, "parents": self.metadata.get("parents", {})}
        made = next_checkpoint(self.checkpoint, self.channels, self.step)
        whole = book.forced
        if self.saved is None:
            whole |= {name for name in book.names if name in versions and self.channels[name].is_available()}
        else:
            counters = _checkpoint.advance_counters(self.channels, self.metadata.get(_checkpoint.COUNTERS), updated)
            whole |= _checkpoint.delta_channels_to_snapshot(self.channels, counters, versions)
            _checkpoint.note_counters(metadata, counters, whole)
        if whole:
            _checkpoint.add_snapshots(
                made, self.channels, whole, saver.get_next_version, self.before, self.graph.trigger_to_nodes
            )
        moved = get_new_channel_versions(self.before, made["channel_versions"])
        config = yield ask(saver, "put", self.place, made, metadata, moved)
        return patch_checkpoint_map(config, self.metadata)


own(globals())
