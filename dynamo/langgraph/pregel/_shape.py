"""How chunks of a stream reach the caller.

                  one mode                    several modes                      version="v2"
alone             payload                     (mode, payload)                    {"type": mode, "ns": ns,
with subgraphs    (namespace, payload)        (namespace, mode, payload)          "data": payload, ...}
"""

from collections.abc import Callable, Sequence
from typing import Any, get_args
from warnings import warn

from dynamo.langgraph._internal._constants import INTERRUPT
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.pregel.debug import get_bolded_text
from dynamo.langgraph.types import GraphOutput, StreamMode

Mapper = Callable[[Any], Any]
KNOWN_MODES = frozenset((*get_args(StreamMode), "tools"))


class Shape:
    """Turns chunks into what the caller asked for.

    Parameters
    ----------
    stream_mode, print_mode
        One mode or several: what is given out, and what is printed.
    subgraphs
        Whether to say which graph a chunk is of.
    version
        "v1" or "v2"; any other counts as "v1".
    output_mapper, state_mapper
        Make instances of the graph's schemas, for "v2".
    """

    def __init__(
        self,
        stream_mode: Any,
        print_mode: Any,
        subgraphs: bool,
        version: str,
        output_mapper: Mapper | None = None,
        state_mapper: Mapper | None = None,
    ) -> None:
        self.single = not isinstance(stream_mode, list)
        self.given = mode_set(stream_mode)
        self.printed = mode_set(print_mode)
        if not self.given | self.printed <= KNOWN_MODES:
            warn_of_modes((self.given | self.printed) - KNOWN_MODES)
        self.subgraphs = subgraphs
        self.typed = version == "v2"
        self.output_mapper, self.state_mapper = output_mapper, state_mapper
        self.ns: tuple[str, ...] = ()  # the graph's own

    def __call__(self, chunk: tuple[tuple[str, ...], str, Any]) -> Any:
        """What the caller gets for a chunk; MISSING for nothing."""
        ns, mode, payload = chunk
        if mode in self.printed:
            where = "".join(get_bolded_text(f"[{word}]") + " " for word in (*ns, mode))
            print(f"{where}{payload}")
        if mode not in self.given:
            return MISSING
        if self.typed:
            return self.part(ns, mode, payload)
        told = ((ns,) if self.subgraphs else ()) + (() if self.single else (mode,))
        return (*told, payload) if told else payload

    def part(self, ns: tuple[str, ...], mode: str, payload: Any) -> dict[str, Any]:
        """A typed part."""
        mine = ns == self.ns
        if mode == "values":
            value, interrupts = without_interrupts(payload)
            if mine and self.output_mapper is not None and isinstance(value, dict):
                value = self.output_mapper(value)
            return {"type": mode, "ns": ns, "data": value, "interrupts": interrupts}
        if mine and self.state_mapper is not None:
            if mode == "checkpoints":
                payload = self.with_state(payload)
            elif mode == "debug" and payload["type"] == "checkpoint":
                payload = {**payload, "payload": self.with_state(payload["payload"])}
        return {"type": mode, "ns": ns, "data": payload}

    def with_state(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """A shown checkpoint, its values as an instance of the state's schema."""
        values = checkpoint["values"]
        if not values or not isinstance(values, dict) or checkpoint["metadata"].get("source") == "input":
            return checkpoint
        assert self.state_mapper is not None
        return {**checkpoint, "values": self.state_mapper(values)}

    def result(self, value: Any, interrupts: list[Any]) -> Any:
        """What a run gives that shows nothing: the last value, and what it stopped for."""
        if (value is None and self.typed) or (interrupts and not isinstance(value, dict)):
            value = {}
        if not self.typed:
            return {**value, INTERRUPT: interrupts} if interrupts else value
        if value and self.output_mapper is not None and isinstance(value, dict):
            value = self.output_mapper(value)
        return GraphOutput(value=value, interrupts=tuple(interrupts))


def warn_of_modes(unknown: set[Any]) -> None:
    """Nothing is ever shown in these modes."""
    named = ", ".join(sorted(map(repr, unknown)))
    warn(f"stream_mode {named} is unknown and shows nothing; there are {sorted(KNOWN_MODES)}", stacklevel=2)


def mode_set(modes: str | Sequence[str] | None) -> set[Any]:
    """Stream modes as a set."""
    return {modes} if isinstance(modes, str) else set(modes or ())


def without_interrupts(payload: Any) -> tuple[Any, tuple[Any, ...]]:
    """A value of mode "values", and the interrupts that came with it."""
    if not isinstance(payload, dict) or INTERRUPT not in payload:
        return payload, ()
    rest = {name: value for name, value in payload.items() if name != INTERRUPT}
    return rest, tuple(payload[INTERRUPT])


own(globals())
