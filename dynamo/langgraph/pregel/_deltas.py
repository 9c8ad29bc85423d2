"""A run's book of its delta channels: which need a snapshot, and which writes have still to be saved.

    write of a superstep --durability sync, async--> saved with its task; the next checkpoint waits for it
                         --durability exit---------> kept here, saved at the end, in an order that replays it right

I1  A write that the saver had before this run is never saved again.
I2  A write that must not be replayed (its task did not get it back, another branch owns it, an overwrite replaced
    what was before) forces a snapshot.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from dynamo.langgraph._internal._constants import NULL_TASK_ID
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.channels.binop import _get_overwrite

Write = tuple[str, Any]
Owned = tuple[str, str, Any]  # task id, channel, value


class Late(NamedTuple):
    """A write that is saved when the run ends."""

    step: int
    task: str
    path: str
    channel: str
    value: Any


def early_id(step: int, task_id: str) -> str:
    """A task id that sorts by superstep, before the ids of real tasks: the step takes the place of eight digits.

    The result is a UUID and never the null id.
    """
    made = f"{step:08d}{str(uuid.UUID(task_id))[8:]}"
    return made[:-1] + "1" if made == NULL_TASK_ID else made


def late_id(step: int, task_id: str) -> str:
    """The same for supersteps after the one that the writes hang on: sorts behind every real task id."""
    high, low = divmod(step, 1 << 16)
    return f"ffffffff-{high:04x}-{low:04x}{str(uuid.UUID(task_id))[18:]}"


class Deltas:
    """The book.

    Parameters
    ----------
    names : set of str
        The delta channels.
    keeps : bool
        Whether writes are saved at the end of the run.

    Attributes
    ----------
    forced : set of str
        Those that need a snapshot in the next checkpoint, whatever their counters say.
    saving : list of futures
        Writes to them that are being saved; the next checkpoint waits.
    late : list of Late
        What is saved at the end.
    """

    def __init__(self, names: set[str], keeps: bool) -> None:
        self.names, self.keeps = names, keeps
        self.forced: set[str] = set()
        self.saving: list[Any] = []
        self.late: list[Late] = []
        self.first_step: int | None = None  # the superstep whose writes hang on the checkpoint we started from
        self.loaded: list[Owned] = []  # a resume's, until it is known which go back to their tasks
        self.stored: set[tuple[str, str]] = set()  # (task, channel) of what the saver had before this run
        self.returned: set[str] = set()  # tasks that got theirs back
        self.commanded: list[Write] = []  # by a command of this run

    def of(self, writes: Iterable[Write]) -> list[Write]:
        """Those writes that concern delta channels."""
        return [write for write in writes if write[0] in self.names]

    def found(self, pending: Sequence[Owned], gives_back: bool) -> None:
        """Take note of the writes that came with the checkpoint; they go back to their tasks, or nobody has them."""
        ours = [write for write in pending if write[1] in self.names]
        owned = [write for write in ours if write[0] != NULL_TASK_ID]
        self.stored = {write[:2] for write in owned}
        if gives_back:
            self.loaded = owned
        else:
            self.force(name for _, name, _ in ours)

    def force(self, names: Iterable[str]) -> None:
        """Snapshot those of these channels that are ours."""
        self.forced.update(self.names.intersection(names))

    def overwritten(self, writes: Iterable[Write]) -> None:
        """Snapshot what one of these writes replaces."""
        self.forced.update(name for name, value in self.of(writes) if _get_overwrite(value)[0])

    def dropped(self) -> None:
        """After the first superstep of a resume: snapshot what no task got back."""
        self.force(name for task, name, _ in self.loaded if task not in self.returned)
        self.loaded = []

    def keep_input(self, step: int, writes: Iterable[Write]) -> None:
        """Note new input for the end of the run."""
        self.late.extend(Late(step, NULL_TASK_ID, "", *write) for write in writes)

    def keep(self, step: int, pending: Iterable[Owned], path_of: Callable[[str], str]) -> None:
        """Note the writes of a superstep for the end of the run."""
        first = self.first_step is None
        if first:
            self.first_step = step
            self.keep_input(step, self.commanded)
        for task, name, value in pending:
            known = first and (task == NULL_TASK_ID or (task, name) in self.stored)
            if name in self.names and not known:
                self.late.append(Late(step, task, path_of(task), name, value))

    def parcels(self, whole: set[str]) -> dict[tuple[str, str], list[Write]]:
        """What to save at the end, but for channels whose snapshot holds it, by task id and path.

        The first superstep keeps its paths: it sorts among what is stored on that checkpoint already. Later ones sort
        behind every real path and id.
        """
        made: dict[tuple[str, str], list[Write]] = {}
        for step, task, path, name, value in self.late:
            if name in whole:
                continue
            if task == NULL_TASK_ID or step == self.first_step:
                label = early_id(step, task), path
            else:
                label = late_id(step, task), f"~~{step:010d}{path}"
            made.setdefault(label, []).append((name, value))
        return made


own(globals())
