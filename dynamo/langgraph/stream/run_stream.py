"""A run in the hands of its caller: nothing happens in the graph but what somebody asks for by reading.

    for x in run.values -> channel empty -> run._advance() -> next(graph) -> event -> mux -> channels

A subgraph's handle has no graph of its own: its pump is that of its parent, until the subgraph has ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import typing
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.stream._convert import convert_to_protocol_event

if typing.TYPE_CHECKING:
    from types import TracebackType

    from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream

    from dynamo.langgraph.stream._mux import StreamMux
    from dynamo.langgraph.stream._types import ProtocolEvent
    from dynamo.langgraph.stream.stream_channel import StreamChannel
    from dynamo.langgraph.stream.transformers import LifecyclePayload, SubgraphStatus


class _Watcher:
    """What both kinds of run know of themselves: the last state, and what it waits for."""

    _mux: StreamMux
    _advance: Callable[[], Any]
    _told: typing.ClassVar[set[type]] = set()

    def _start(self, mux: StreamMux, bind: Callable[[Any], None] | None) -> None:
        """Belong to a mux; `bind` is how it learns to ask for the next step."""
        self._warn_once()
        self._mux, self._exhausted = mux, False
        self._state: Any = None
        self._waits_for: list[Any] = []
        self._here = [*mux.scope]
        self.extensions = MappingProxyType(mux.extensions)
        vars(self).update((key, mux.extensions[key]) for key in mux.native_keys)
        if bind is not None:
            bind(self._advance)

    def __getattr__(self, name: str) -> StreamChannel[Any]:
        mux = vars(self).get("_mux")  # not self._mux: that would come back here while the run is being made
        known = ", ".join(sorted(mux.native_keys)) if mux is not None else ""
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}; its projections are: {known or 'none'}"
        )

    def _warn_once(self) -> None:
        kind = type(self)
        if kind not in (GraphRunStream, AsyncGraphRunStream) or kind in self._told:
            return
        from langchain_core._api import LangChainBetaWarning

        self._told.add(kind)
        warnings.warn("The v3 streaming protocol on Pregel is experimental.", LangChainBetaWarning, stacklevel=4)

    def _observe_event(self, event: ProtocolEvent) -> ProtocolEvent:
        """Look at an event that goes to the mux."""
        about = event["params"]
        if event["method"] == "values" and about["namespace"] == self._here:
            self._state = about["data"]
            self._waits_for += about.get("interrupts") or ()
        return event

    def _known(self, what: Any) -> Any:
        """`what`, unless the run broke on its way to it."""
        if (broken := self._mux._events._error) is not None:
            raise broken
        return what


class GraphRunStream(_Watcher):
    """A run of a graph, which goes on as it is read.

    Iterate it for all events, or one of its projections (`values`, `messages`, ...) for what they select; `output`
    runs to the end. As a context manager it is aborted on leaving.
    """

    values: StreamChannel[dict[str, Any]]
    messages: StreamChannel[ChatModelStream]
    lifecycle: StreamChannel[LifecyclePayload]
    subgraphs: StreamChannel[SubgraphRunStream]
    updates: StreamChannel[dict[str, Any]]
    custom: StreamChannel[Any]
    checkpoints: StreamChannel[dict[str, Any]]
    debug: StreamChannel[dict[str, Any]]
    tasks: StreamChannel[dict[str, Any]]

    def __init__(self, graph_iter: Iterator[Any] | None, mux: StreamMux, *, wire_pump: bool = True) -> None:
        self._parts = graph_iter
        self._start(mux, mux.bind_pump if wire_pump else None)

    def _advance(self) -> bool:
        if self._exhausted or self._parts is None:
            return False
        try:
            part: Any = next(self._parts, self)
            if part is not self:
                self._mux.push(self._observe_event(convert_to_protocol_event(part)))
                return True
        except BaseException as err:
            self._finish("fail", err)
            if not isinstance(err, Exception):
                raise
            return False
        with suppress(Exception):  # its channels have the error, and with them every reader
            self._finish("close")
        return False

    def _finish(self, how: str, *why: BaseException) -> None:
        """Let the graph go, and tell the mux that the run is over."""
        graph, self._parts, self._exhausted = self._parts, None, True
        if (close := getattr(graph, "close", None)) is not None:
            close()
        getattr(self._mux, how)(*why)

    def abort(self) -> None:
        """Stop the run where it is; readers get what was there and then end. Again is no error."""
        if not self._exhausted:
            self._finish("close")

    def __enter__(self) -> GraphRunStream:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.abort()

    def _to_the_end(self) -> GraphRunStream:
        more = True
        while more:
            more = self._advance()
        return self

    @property
    def output(self) -> dict[str, Any] | None:
        """The last state; runs to the end for it, and raises what broke the run."""
        run = self._to_the_end()
        return typing.cast("dict[str, Any] | None", run._known(run._state))

    @property
    def interrupted(self) -> bool:
        """Whether the run, at its end, waits for somebody."""
        return len(self.interrupts) > 0

    @property
    def interrupts(self) -> list[Any]:
        """What the run, at its end, waits for."""
        run = self._to_the_end()
        return typing.cast("list[Any]", run._known(run._waits_for))

    def __iter__(self) -> Iterator[ProtocolEvent]:
        return iter(self._mux._events)

    def interleave(self, *names: str) -> Iterator[tuple[str, Any]]:
        """The items of several projections with their names, in the order in which they came."""
        merged: dict[str, StreamChannel[Any]] = {}
        try:
            for name in names:
                channel = self.extensions[name]
                channel._claim(is_async=False)
                merged[name] = channel
            running = True
            while True:
                waiting = [(channel._items[0][0], name) for name, channel in merged.items() if channel._items]
                if waiting:
                    name = min(waiting)[1]
                    yield name, merged[name]._items.popleft()[1]
                    continue
                ended = [channel._ended() for channel in merged.values()]  # raises for any that failed
                if all(ended) or not running:
                    return
                pump = self._mux.pump
                running = pump is not None and pump()
        finally:
            for channel in merged.values():
                channel._release()


class AsyncGraphRunStream(_Watcher):
    """`GraphRunStream` under asyncio; several tasks may read at once, and one step of the graph serves all of them."""

    values: StreamChannel[dict[str, Any]]
    messages: StreamChannel[AsyncChatModelStream]
    lifecycle: StreamChannel[LifecyclePayload]
    subgraphs: StreamChannel[AsyncSubgraphRunStream]
    updates: StreamChannel[dict[str, Any]]
    custom: StreamChannel[Any]
    checkpoints: StreamChannel[dict[str, Any]]
    debug: StreamChannel[dict[str, Any]]
    tasks: StreamChannel[dict[str, Any]]

    def __init__(self, graph_aiter: AsyncIterator[Any] | None, mux: StreamMux, *, wire_pump: bool = True) -> None:
        self._parts = graph_aiter
        self._step: asyncio.Task[bool] | None = None  # the one in flight
        self._readers = 0  # who waits for it
        self._context: contextvars.Context | None = None
        self._start(mux, mux.bind_apump if wire_pump else None)

    async def _advance(self) -> bool:
        step = self._step
        if step is None:
            if self._exhausted or self._parts is None:
                return False
            step = self._step = self._begin_step()
        self._readers += 1
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            if step.cancelled():
                return False  # the run was aborted; the channels say how it ended
            if self._readers == 1:
                step.cancel()  # nobody is left who wants it
            raise
        finally:
            self._readers -= 1

    def _begin_step(self) -> asyncio.Task[bool]:
        # All steps in one context: the graph's generator keeps tokens of context variables from step to step.
        if self._context is None:
            self._context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 11):
            step = loop.create_task(self._do_step(), context=self._context)
        else:
            step = self._context.run(loop.create_task, self._do_step())
        step.add_done_callback(self._end_step)
        return step

    def _end_step(self, step: asyncio.Task[bool]) -> None:
        self._step = None
        if not step.cancelled():
            step.exception()  # told to whoever waited

    async def _do_step(self) -> bool:
        assert self._parts is not None
        try:
            part: Any = await anext(self._parts, self)
            if part is not self:
                await self._mux.apush(self._observe_event(convert_to_protocol_event(part)))
                return True
        except BaseException as err:
            if not self._exhausted:  # else it is an abort, which sees to the rest
                await self._finish("afail", err)
            if not isinstance(err, Exception):
                raise
            return False
        with suppress(Exception):  # its channels have the error, and with them every reader
            await self._finish("aclose")
        return False

    async def _finish(self, how: str, *why: BaseException) -> None:
        graph, self._parts, self._exhausted = self._parts, None, True
        if (close := getattr(graph, "aclose", None)) is not None:
            await close()
        await getattr(self._mux, how)(*why)

    async def abort(self) -> None:
        """Stop the run where it is, also in the middle of a node; again is no error."""
        over, self._exhausted = self._exhausted, True
        if over:
            return
        step = self._step
        if step is not None and step is not asyncio.current_task():
            step.cancel()
            await asyncio.wait([step])
        await self._finish("aclose")

    async def __aenter__(self) -> AsyncGraphRunStream:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.abort()

    async def _to_the_end(self) -> AsyncGraphRunStream:
        more = True
        while more:
            more = await self._advance()
        return self

    async def output(self) -> dict[str, Any] | None:
        """The last state; runs to the end for it, and raises what broke the run."""
        run = await self._to_the_end()
        return typing.cast("dict[str, Any] | None", run._known(run._state))

    async def interrupted(self) -> bool:
        """Whether the run, at its end, waits for somebody."""
        return len(await self.interrupts()) > 0

    async def interrupts(self) -> list[Any]:
        """What the run, at its end, waits for."""
        run = await self._to_the_end()
        return typing.cast("list[Any]", run._known(run._waits_for))

    def __aiter__(self) -> AsyncIterator[ProtocolEvent]:
        return self._mux._events.__aiter__()


class _SubgraphRunStreamMixin:
    path: tuple[str, ...]
    graph_name: str | None
    trigger_call_id: str | None
    status: SubgraphStatus
    error: str | None
    _seen_terminal: bool

    def _identify(self, path: tuple[str, ...], graph_name: str | None, trigger_call_id: str | None) -> None:
        self.path, self.graph_name, self.trigger_call_id = path, graph_name, trigger_call_id
        self.status, self.error, self._seen_terminal = "started", None, False


class SubgraphRunStream(GraphRunStream, _SubgraphRunStreamMixin):
    """The part of a run that a subgraph does; reading it moves the whole run, no further than the subgraph's end.

    Attributes
    ----------
    path : its namespace
    graph_name : the node it runs as, or the agent it is
    trigger_call_id : the id of the task it runs in
    status, error : how it stands
    """

    def __init__(
        self,
        mux: StreamMux,
        *,
        path: tuple[str, ...],
        graph_name: str | None = None,
        trigger_call_id: str | None = None,
    ) -> None:
        self._parent_step = mux.pump
        self._identify(path, graph_name, trigger_call_id)
        super().__init__(None, mux)

    def _advance(self) -> bool:
        step = self._parent_step
        return not (step is None or self._seen_terminal or self._exhausted) and step()


class AsyncSubgraphRunStream(AsyncGraphRunStream, _SubgraphRunStreamMixin):
    """`SubgraphRunStream` under asyncio."""

    def __init__(
        self,
        mux: StreamMux,
        *,
        path: tuple[str, ...],
        graph_name: str | None = None,
        trigger_call_id: str | None = None,
    ) -> None:
        self._parent_step = mux.apump
        self._identify(path, graph_name, trigger_call_id)
        super().__init__(None, mux)

    async def _advance(self) -> bool:
        step = self._parent_step
        return not (step is None or self._seen_terminal or self._exhausted) and await step()


own(globals())
