"""Timeouts as callers write them, and why a sync node cannot have one."""

from typing import TYPE_CHECKING, Literal

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.types import TimeoutPolicy

if TYPE_CHECKING:
    from datetime import timedelta

_SYNC_TIMEOUT_PREFIX = (
    "Node timeouts are only supported for async nodes because sync Python execution cannot be safely cancelled "
    "in-process."
)


def coerce_timeout_policy(value: "float | timedelta | TimeoutPolicy | None") -> TimeoutPolicy | None:
    """A policy with plain seconds, or None for no limit."""
    return TimeoutPolicy.coerce(value)


def sync_timeout_unsupported(name: str, *, kind: Literal["Node", "Task"] = "Node") -> ValueError:
    """The error for a timeout on a sync node or task; the caller raises it."""
    return ValueError(f"{_SYNC_TIMEOUT_PREFIX} {kind} {name!r} is sync.")


own(globals())
