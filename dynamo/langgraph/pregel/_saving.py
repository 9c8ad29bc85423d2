"""The part of a run that its saver hears of: checkpoints and the writes on them.

    durability   sync, async                      exit
    writes       when a task ends                 of tasks whose superstep did not end
    checkpoint   after every superstep            one, when the run ends
    deltas       with their tasks                 those that no snapshot makes superfluous, before that checkpoint

I1  `checkpoint_config` names the checkpoint that the next one is the child of, and the versions in `stored` are those
    that the saver has of it.
I2  The id of a checkpoint changes with every superstep, saved or not: task ids depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from dynamo._pregel import next_checkpoint
from dynamo._superstep import LoopCore
from dynamo.langgraph._internal._config import patch_configurable
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
    ERROR_SOURCE_NODE,
    TASKS,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import Script
from dynamo.langgraph.channels.untracked_value import UntrackedValue
from dynamo.langgraph.pregel._algo import sanitize_untracked_values_in_send, task_path_str
from dynamo.langgraph.pregel._checkpoint import (
    COUNTERS,
    add_snapshots,
    advance_counters,
    delta_channels_to_snapshot,
    delta_names,
    empty_checkpoint,
    note_counters,
)
from dynamo.langgraph.pregel._deltas import Deltas
from dynamo.langgraph.pregel._messages import ensure_message_ids
from dynamo.langgraph.pregel._outbox import Outbox
from dynamo.langgraph.pregel._utils import get_new_channel_versions
from dynamo.langgraph.types import Send

Writes = Sequence[tuple[str, Any]]


def savable(writes: Iterable[tuple[str, Any]], specs: Any) -> list[tuple[str, Any]]:
    """Writes without what is never saved."""
    return [
        (name, sanitize_untracked_values_in_send(value, specs) if name == TASKS and isinstance(value, Send) else value)
        for name, value in writes
        if not isinstance(specs.get(name), UntrackedValue)
    ]


class SavingLoop(LoopCore):
    """Supersteps that are saved.

    Attributes
    ----------
    outbox : Outbox
        The way to the saver; only if the run saves.
    deltas : Deltas
        The book of delta channels.
    stored : dict
        The versions that the saver has; only if the run saves.
    has_parent, from_latest : bool
        Whether the run starts from a saved checkpoint, and from the thread's latest one.
    failures : list of futures
        Writes of failed tasks that are being saved; their error handlers wait for it.
    """

    outbox: Outbox
    stored: dict[str, Any]
    has_parent = from_latest = False
    start_config: Any = None
    start_id: Any = None
    _here: tuple[Any, Any] = None, None

    def open_books(self) -> None:
        """The checkpoint is loaded: get ready to follow what happens to it."""
        self.note_books()
        if self.saves:
            self.start_config, self.start_id = self.checkpoint_config, self.checkpoint["id"]
            self.stored = dict(self.checkpoint["channel_versions"])

    @cached_property
    def deltas(self) -> Deltas:
        names = delta_names(self.specs) if self.has_deltas else set()
        return Deltas(names, self.saves and self.durability == "exit")

    @cached_property
    def failures(self) -> list[Any]:
        return []

    # ---------------------------------------------------------------- writes
    def name_messages(self, writes: Any) -> None:
        """Give messages that are written to delta channels their ids, before anybody stores them."""
        ensure_message_ids(self.specs, writes)

    def path_of(self, task_id: str) -> str:
        """The path of a task of this superstep as text; empty for others."""
        task = (self.tasks or {}).get(task_id)
        return task_path_str(task.path) if task is not None else ""

    def _at_checkpoint(self) -> Any:
        """The config that says to a saver: this checkpoint."""
        now = self.checkpoint["id"]
        if self._here[0] != now:
            self._here = now, patch_configurable(self.checkpoint_config, {CONFIG_KEY_CHECKPOINT_ID: now})
        return self._here[1]

    def save_writes(self, task_id: str, to_save: Any, writes: Any) -> None:
        """Start to save the writes of a task."""
        if self.has_untracked:
            to_save = savable(to_save, self.specs)
        future = self.outbox.writes(self._at_checkpoint(), to_save, task_id, self.path_of(task_id))
        if future is not None:
            if self.has_deltas and self.deltas.of(to_save):
                self.deltas.saving.append(future)
            if any(name == ERROR_SOURCE_NODE for name, _ in writes):
                self.failures.append(future)

    # ---------------------------------------------------------------- around a superstep's end
    def before_apply(self, tasks: list[Any]) -> None:
        """Delta channels: what has to be known of the writes before they are applied."""
        self.deltas.overwritten(write for task in tasks for write in task.writes)
        if self.deltas.loaded:
            self.deltas.dropped()

    def after_apply(self) -> None:
        """Delta channels: keep the writes, if the end of the run saves them."""
        if self.deltas.keeps:
            self.deltas.keep(self.step, self.checkpoint_pending_writes, self.path_of)

    def _put_checkpoint(self, metadata: dict[str, Any]) -> None:
        """The checkpoint after a superstep; with durability "exit" it only gets a new id."""
        counters = {}
        if self.has_deltas:
            known = self.checkpoint_metadata.get(COUNTERS)
            counters = advance_counters(self.channels, known, self.updated_channels or ())
        above = self.config[CONF].get(CONFIG_KEY_CHECKPOINT_MAP) or {}
        self.checkpoint_metadata = metadata = {**metadata, "step": self.step, "parents": above}
        if self.durability == "exit":
            self.checkpoint = next_checkpoint(self.checkpoint, None, self.step, None, self.updated_channels)
            note_counters(metadata, counters)
        else:
            self._save(counters, None)
        self.step += 1

    def _save(self, counters: dict[str, tuple[int, int]], same_id: str | None) -> None:
        metadata, before = self.checkpoint_metadata, self.checkpoint_config
        made = next_checkpoint(self.checkpoint, self.channels, self.step, same_id, self.updated_channels)
        self.checkpoint = made
        waits: list[Any] = []
        if self.has_deltas:
            book = self.deltas
            due = delta_channels_to_snapshot(self.channels, counters, made["channel_versions"]) | book.forced
            if due:
                add_snapshots(made, self.channels, due, self.next_version, self.stored, self.trigger_to_nodes)
            note_counters(metadata, counters, due)
            book.forced -= due
            waits, book.saving = book.saving, []
        versions, values = made["channel_versions"], made["channel_values"]
        if self.has_untracked and TASKS in values:
            values[TASKS] = [value for _, value in savable([(TASKS, each) for each in values[TASKS]], self.specs)]
        self.outbox.checkpoint(waits, before, made, metadata, get_new_channel_versions(self.stored, versions))
        self.stored = dict(versions)
        self.prev_checkpoint_config = before if before[CONF].get(CONFIG_KEY_CHECKPOINT_ID) else None
        self.checkpoint_config = patch_configurable(before, {CONFIG_KEY_CHECKPOINT_ID: made["id"]})

    def settled(self) -> Script:
        """Wait until what was handed to the saver is saved."""
        yield from self.outbox.settled()

    # ---------------------------------------------------------------- durability "exit": the end of the run
    def save_all(self) -> None:
        """Save the run: late writes, the checkpoint, and what the superstep that did not end wrote."""
        if self.deltas.late:
            self._put_late_deltas()
        if self.checkpoint["id"] != self.start_id:
            self._save(dict(self.checkpoint_metadata.get(COUNTERS) or {}), self.checkpoint["id"])
        unsaved: dict[str, list[tuple[str, Any]]] = {}
        for task_id, *write in self.checkpoint_pending_writes:
            if task_id in self.written:
                unsaved.setdefault(task_id, []).append((write[0], write[1]))
        for task_id, writes in unsaved.items():
            writes = savable(writes, self.specs) if self.has_untracked else writes
            self.outbox.writes(self._at_checkpoint(), writes, task_id, self.path_of(task_id))

    def _put_late_deltas(self) -> None:
        book = self.deltas
        if self.has_parent and not self.from_latest:  # what we started from may have children: store nothing on it
            book.force(write.channel for write in book.late)
        counters = self.checkpoint_metadata.get(COUNTERS) or {}
        due = delta_channels_to_snapshot(self.channels, counters, self.checkpoint["channel_versions"])
        parcels = book.parcels(due | book.forced)
        if parcels and not self.has_parent:
            # Nothing is stored yet that the writes could hang on: an empty first checkpoint.
            nowhere = patch_configurable(self.start_config, {CONFIG_KEY_CHECKPOINT_ID: None})
            self.outbox.checkpoint((), nowhere, {**empty_checkpoint(), "id": self.start_id}, {"step": -2}, {})
            self.start_config = patch_configurable(nowhere, {CONFIG_KEY_CHECKPOINT_ID: self.start_id})
            self.checkpoint_config = self.start_config
        for (task_id, path), writes in parcels.items():
            book.saving.append(self.outbox.writes(self.start_config, writes, task_id, path))


own(globals())
