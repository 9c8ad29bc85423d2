"""What a checkpoint's pending writes say about its tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._constants import ERROR, ERROR_SOURCE_NODE, INTERRUPT, NULL_TASK_ID, RESUME
from dynamo.langgraph._internal._names import own

if TYPE_CHECKING:
    from dynamo.langgraph.types import Interrupt

CONTROL_WRITES = frozenset((ERROR, ERROR_SOURCE_NODE, INTERRUPT, RESUME))  # say how a task ended, not what it made


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """How far a task came.

    Attributes
    ----------
    output : tuple of (str, Any)
        Its writes in order; empty as long as it has not finished.
    interrupts : tuple of Interrupt
        Those that it raised last, answered or not.
    error : BaseException or None
        What it failed with.
    """

    output: tuple[tuple[str, Any], ...] = ()
    interrupts: tuple[Interrupt[Any], ...] = ()
    error: BaseException | None = None

    @property
    def finished(self) -> bool:
        """Whether it has run to its end."""
        return len(self.output) > 0

    @property
    def pending_interrupts(self) -> tuple[Interrupt[Any], ...]:
        """The interrupts that wait for an answer."""
        return () if self.output else self.interrupts


def read_task_statuses(pending_writes: Iterable[tuple[str, str, Any]]) -> dict[str, TaskStatus]:
    """The status of every task that wrote something, by id."""
    said: dict[str, dict[str, list[Any]]] = {}
    for owner, channel, value in pending_writes:
        if owner != NULL_TASK_ID:
            mine = said.setdefault(owner, {"": []})
            if channel in CONTROL_WRITES:
                mine.setdefault(channel, []).append(value)
            else:
                mine[""].append((channel, value))
    return {owner: _status(mine) for owner, mine in said.items()}


def _status(said: dict[str, list[Any]]) -> TaskStatus:
    raised = (value if isinstance(value, Sequence) else (value,) for value in said.get(INTERRUPT, ()))
    return TaskStatus(tuple(said[""]), tuple(chain.from_iterable(raised)), next(iter(said.get(ERROR, ())), None))


own(globals())
