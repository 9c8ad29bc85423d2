"""Answers to interrupts: which interrupt is each for?"""

from __future__ import annotations

from typing import Any

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.errors import UnknownInterruptError
from dynamo.langgraph.pregel._task_status import read_task_statuses
from dynamo.langgraph.pregel._utils import is_xxh3_128_hexdigest

_GUIDE = "https://docs.langchain.com/oss/python/langgraph/interrupts"
_SEVERAL = (
    "When there are multiple pending interrupts, you must specify the interrupt id when resuming: "
    f"Command(resume={{interrupt_id: answer}}). See {_GUIDE}#handling-multiple-interrupts"
)


def open_interrupts(pending: Any) -> list[str]:
    """The ids of the interrupts that wait for an answer, sorted."""
    statuses = read_task_statuses(pending).values()
    return sorted({interrupt.id for status in statuses for interrupt in status.pending_interrupts})


def are_addressed(answers: Any) -> bool:
    """Whether answers say by id which interrupt each is for."""
    ids = answers if isinstance(answers, dict) else ("",)
    return all(isinstance(key, str) and is_xxh3_128_hexdigest(key) for key in ids)


def check(answers: Any, pending: Any, strict: bool) -> None:
    """Refuse answers that cannot be brought to their interrupts.

    Parameters
    ----------
    strict
        Refuse answers to interrupts that do not wait, too; a refusal is then an `UnknownInterruptError`.
    """
    waiting = open_interrupts(pending)

    def refuse(text: str, reason: Any, **about: Any) -> Exception:
        if not strict:
            return RuntimeError(text)
        return UnknownInterruptError(text, reason=reason, pending_ids=waiting, **about)

    if not are_addressed(answers):
        if len(waiting) > 1:
            raise refuse(_SEVERAL, "ambiguous")
        return
    if strict and not answers:
        raise refuse("The resume map names no interrupt", "empty_map")
    if strict and (strangers := sorted(answers.keys() - set(waiting))):
        text = f"Unknown or already-consumed interrupt: {strangers[0]}"
        raise refuse(text, "not_pending", interrupt_ids=strangers)


own(globals())
