"""From a part of a stream to an event."""

from __future__ import annotations

import time
import typing
from typing import Any, cast

from dynamo.langgraph._internal._names import own

if typing.TYPE_CHECKING:
    from dynamo.langgraph.stream._types import ProtocolEvent
    from dynamo.langgraph.types import StreamPart


def convert_to_protocol_event(part: StreamPart[Any, Any]) -> ProtocolEvent:
    """The event of a typed stream part, with the time of now in milliseconds."""
    params: dict[str, Any] = {"namespace": [*part["ns"]], "timestamp": time.time_ns() // 1_000_000}
    params["data"] = part["data"]
    if "interrupts" in part:
        params["interrupts"] = part["interrupts"]  # type: ignore[typeddict-item]
    return cast("ProtocolEvent", {"type": "event", "method": part["type"], "params": params})


own(globals())
