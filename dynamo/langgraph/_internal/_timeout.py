"""Timeouts as callers write them, and why a sync node cannot have one."""

import typing
from typing import Literal

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.types import TimeoutPolicy

if typing.TYPE_CHECKING:
    from datetime import timedelta


def coerce_timeout_policy(value: "float | timedelta | TimeoutPolicy | None") -> TimeoutPolicy | None:
    """A policy with plain seconds, or None for no limit."""
    policy = TimeoutPolicy.coerce(value)
    return policy


def sync_timeout_unsupported(name: str, *, kind: Literal["Node", "Task"] = "Node") -> ValueError:
    """The error for a timeout on a sync node or task; the caller raises it."""
    why = "a running sync function cannot be stopped from outside"
    return ValueError(f"Timeouts are only supported for async nodes: {why}. {kind} {name!r} is sync; make it async")


own(globals())
