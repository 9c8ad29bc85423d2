"""What a checkpoint's pending writes say about its tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    output: dict[str, list[tuple[str, Any]]] = {}
    stopped: dict[str, list[Interrupt[Any]]] = {}
    failed: dict[str, BaseException] = {}
    for task_id, channel, value in pending_writes:
        if task_id == NULL_TASK_ID:
            continue
        mine = output.setdefault(task_id, [])
        if channel not in CONTROL_WRITES:
            mine.append((channel, value))
        elif channel == ERROR:
            failed.setdefault(task_id, value)
        elif channel == INTERRUPT:
            stopped.setdefault(task_id, []).extend(value if isinstance(value, Sequence) else (value,))
    return {
        task_id: TaskStatus(tuple(mine), tuple(stopped.get(task_id, ())), failed.get(task_id))
        for task_id, mine in output.items()
    }


own(globals())
