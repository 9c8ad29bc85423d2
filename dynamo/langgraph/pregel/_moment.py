"""A thread at one of its checkpoints: live channels, and the tasks that come next."""

from __future__ import annotations

from typing import Any

from dynamo.langgraph._internal._constants import INPUT, NULL_TASK_ID
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import Script
from dynamo.langgraph.pregel._algo import PregelTaskWrites, apply_writes, prepare_next_tasks
from dynamo.langgraph.pregel._checkpoint import copy_checkpoint, empty_checkpoint, load_channels
from dynamo.langgraph.pregel._task_status import read_task_statuses

Graph = Any


class Moment:
    """A checkpoint, or the time before the first.

    Attributes
    ----------
    saved : CheckpointTuple or None
        What the saver has.
    checkpoint : dict
        A copy of it, in today's form.
    pending : sequence of (str, str, Any)
        The writes on it.
    versions : dict
        Those that are saved.
    step : int
        The number of the superstep that comes next.
    """

    channels: Any
    managed: Any

    def __init__(self, graph: Graph, saver: Any, saved: Any) -> None:
        self.graph, self.saver, self.saved = graph, saver, saved
        nothing: tuple[Any, ...] = (None, empty_checkpoint(), {}, None, None)
        self.config, checkpoint, self.metadata, _, pending = saved or nothing
        self.pending: list[tuple[str, str, Any]] = pending or []
        graph._migrate_checkpoint(checkpoint)
        self.checkpoint = copy_checkpoint(checkpoint)
        self.step = self.metadata.get("step", -1) + 1
        self.versions = dict(self.checkpoint["channel_versions"])

    def load(self) -> Script:
        """Make the channels; returns this."""
        specs, kept = self.graph.channels, self.checkpoint
        self.channels, self.managed = yield from load_channels(specs, kept, saver=self.saver, config=self.config)
        return self

    def apply(self, tasks: Any) -> None:
        """Apply writes to the channels."""
        apply_writes(self.checkpoint, self.channels, tasks, self.saver.get_next_version, self.graph.trigger_to_nodes)

    def upcoming(self, *, live: bool, **other: Any) -> dict[str, Any]:
        """The tasks that come next, by id.

        Parameters
        ----------
        live
            As a run would make them: with what commands have written.
        other
            Another `checkpoint`, `pending_writes` or `step`.
        """
        if live:
            loose = [write[1:] for write in self.pending if write[0] == NULL_TASK_ID]
            if loose:
                self.apply([PregelTaskWrites((), INPUT, loose, ())])
            other |= {"store": self.graph.store, "checkpointer": self.saver}
        facts = {"checkpoint": self.checkpoint, "pending_writes": self.pending, "step": self.step, **other}
        facts |= {"channels": self.channels, "managed": self.managed, "processes": self.graph.nodes}
        return prepare_next_tasks(**facts, config=self.config, stop=facts["step"] + 2, for_execution=live)

    def give_back(self, tasks: dict[str, Any]) -> None:
        """Give the tasks that have finished what they wrote."""
        for task_id, status in read_task_statuses(self.pending).items():
            if task_id in tasks:
                tasks[task_id].writes.extend(status.output)


own(globals())
