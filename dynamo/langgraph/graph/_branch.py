"""A path function between a node and those that may follow it."""

import inspect
import typing
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_SEND
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._runnable import RunnableCallable
from dynamo.langgraph.constants import END, START
from dynamo.langgraph.errors import InvalidUpdateError
from dynamo.langgraph.pregel._write import PASSTHROUGH, ChannelWrite, ChannelWriteEntry
from dynamo.langgraph.types import Send

if typing.TYPE_CHECKING:
    from langchain_core.runnables import Runnable, RunnableConfig

_Writer = Callable[[Sequence[str | Send], bool], Sequence[ChannelWriteEntry | Send]]
_Reader = Callable[[Any], Any]


def described(function: Any) -> dict[str, Any]:
    """The annotations of a function, a method or a callable object; none if they cannot be resolved."""
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        function = getattr(function, "__call__", None)  # noqa: B004
        if not inspect.ismethod(function):
            return {}
    try:
        return get_type_hints(function)
    except (NameError, TypeError):
        return {}


def first_annotation(function: Any) -> Any:
    """The resolved annotation of a function's first parameter, or None."""
    hints = described(function)
    if not hints:
        return None
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        function = function.__call__
    first = next(iter(inspect.signature(function).parameters), None)
    return hints.get(first) if first is not None else None


def schema_of_input(function: Any) -> type[Any] | None:
    """The class that a node or a path function names as its input, if it is one with fields."""
    hint = first_annotation(function)
    if not isinstance(hint, type):
        return None
    try:
        return hint if get_type_hints(hint) else None
    except (NameError, TypeError):
        return None


def _get_branch_path_input_schema(path: Any) -> type[Any] | None:
    # A function inside a Runnable speaks for it.
    function = getattr(path, "func", None) or getattr(path, "afunc", None) or path
    return schema_of_input(function)


class Destinations:
    """Makes entries of what a path function chose, and has those for plain node names ready.

    Parameters
    ----------
    trigger : the channel that starts a node of a given name
    """

    def __init__(self, trigger: Callable[[str], str]) -> None:
        self.trigger = trigger
        self._ready: dict[str, tuple[tuple[str, Any], ...]] = {END: ()}

    def __call__(self, chosen: Sequence[str | Send], static: bool = False) -> Sequence[ChannelWriteEntry | Send]:
        """Entries for several destinations; for drawings, END is one of them."""
        return [
            one if isinstance(one, Send) else ChannelWriteEntry(one if one == END else self.trigger(one), None)
            for one in chosen
            if static or one != END
        ]

    def pairs(self, name: str) -> tuple[tuple[str, Any], ...]:
        """What to write in order to go to one node."""
        ready = self._ready.get(name)
        if ready is None:
            ready = self._ready[name] = ((self.trigger(name), None),)
        return ready


class BranchSpec(NamedTuple):
    """A conditional edge.

    Attributes
    ----------
    path : the path function
    ends : what it may return -> the node that is meant; None if it returns node names
    input_schema : which keys of the state it gets, if its annotation says so
    """

    path: "Runnable[Any, Hashable | list[Hashable]]"
    ends: dict[Hashable, str] | None
    input_schema: type[Any] | None = None

    @classmethod
    def from_path(
        cls,
        path: "Runnable[Any, Hashable | list[Hashable]]",
        path_map: dict[Hashable, str] | list[str] | None,
        infer_schema: bool = False,
    ) -> "BranchSpec":
        """A branch for a path function.

        Parameters
        ----------
        path_map : names for what it may return; a list where these are node names already; without it the function's
            return annotation counts, if it is a Literal
        infer_schema : whether its annotation says which part of the state it gets
        """
        ends: dict[Hashable, str] | None = None
        if path_map is not None:
            named: Any = path_map if isinstance(path_map, dict) else zip(path_map, path_map, strict=True)
            ends = dict(named)
        else:
            function = getattr(path, "func", None) or getattr(path, "afunc", None)
            returned = described(function).get("return") if function is not None else None
            if get_origin(returned) is Literal:
                ends = {name: name for name in get_args(returned)}
        return cls(path, ends, _get_branch_path_input_schema(path) if infer_schema else None)

    def run(self, writer: _Writer, reader: _Reader | None = None) -> RunnableCallable:
        """The step that a node gets for this branch."""
        static = None
        if self.ends:
            entries = writer(list(self.ends.values()), True)
            static = list(zip(entries, map(str, self.ends), strict=False))
        step = RunnableCallable(self._route, self._aroute, name="_route", trace=False, reader=reader, writer=writer)
        return ChannelWrite.register_writer(step, static)

    def _state(self, input: Any, config: "RunnableConfig", reader: _Reader | None) -> Any:
        """What the path function gets."""
        state = reader(config) if reader is not None else input
        if reader is not None and self.input_schema is None and isinstance(state, dict) and isinstance(input, dict):
            return {**input, **state}  # a node's result can hold more than the keys of its schema
        return state

    def _route(
        self, input: Any, config: "RunnableConfig", *, reader: _Reader | None, writer: _Writer
    ) -> "Runnable[Any, Any]":
        result = self.path.invoke(self._state(input, config, reader), config)
        return self._finish(writer, input, result, config)  # type: ignore[no-any-return]

    async def _aroute(
        self, input: Any, config: "RunnableConfig", *, reader: _Reader | None, writer: _Writer
    ) -> "Runnable[Any, Any]":
        result = await self.path.ainvoke(self._state(input, config, reader), config)
        return self._finish(writer, input, result, config)  # type: ignore[no-any-return]

    def entries(self, writer: _Writer, result: Any) -> Sequence[ChannelWriteEntry | Send]:
        """What to write for what the path function returned."""
        chosen: list[Any] = list(result) if isinstance(result, list | tuple) else [result]
        known = self.ends or {}
        for at, one in enumerate(chosen if known else ()):
            if isinstance(one, Send):
                continue
            if one not in known:
                raise KeyError(f"{one!r}: not one of the branch's destinations {list(known)}")
            chosen[at] = known[one]
        for one in chosen:
            if one is None or one == START:
                raise ValueError(
                    f"Branch did not return a valid destination: {one!r}. Return the name of a node, END or a Send"
                )
            if isinstance(one, Send) and one.node == END:
                raise InvalidUpdateError("Cannot send a packet to the END node; return END to stop here")
        return writer(chosen, False)

    def _finish(self, writer: _Writer, input: Any, result: Any, config: "RunnableConfig") -> Any:
        if type(result) is str and type(writer) is Destinations:
            name = self.ends.get(result, START) if self.ends else result
            if name != START:  # else it says below what is wrong
                pairs = writer.pairs(name)
                if pairs:
                    config[CONF][CONFIG_KEY_SEND](pairs)
                return input
        write = ChannelWrite(self.entries(writer, result))
        if any(isinstance(entry, ChannelWriteEntry) and entry.value is PASSTHROUGH for entry in write.writes):
            return write
        return write.invoke(input, config) if write.writes else input


own(globals())
