"""One way in for the events of a run, many ways out.

                 +--> transformer --> its channels --+ (a named one)
    push(event) -+--> transformer --> its channels   |
                 +--> ...                            v
                 \\--- if nobody objects ---> _events, the log of the run

I1  every transformer sees every event, those with `before_builtins` first, else in the order given.
I2  `seq` is given on entering the log, so it grows there without gaps; a child's log gives none, because the
    same event object goes on to the log of its parent.
I3  after close or fail every channel is closed, whatever a transformer did.
"""

from __future__ import annotations

import asyncio
import logging
import time
import typing
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any, TypeAlias, cast

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.stream._types import StreamTransformer, transformer_requires_async
from dynamo.langgraph.stream.stream_channel import StreamChannel, channels_of

if typing.TYPE_CHECKING:
    from dynamo.langgraph.stream._types import ProtocolEvent

TransformerFactory: TypeAlias = "Callable[[tuple[str, ...]], StreamTransformer]"

logger = logging.getLogger("langgraph.stream._mux")


class StreamMux:
    """Hands each event of a run to its transformers and keeps their projections.

    Parameters
    ----------
    transformers : ready made ones; a mux with these alone can have no children
    is_async : which lane is used: push/close/fail, or apush/aclose/afail
    factories : each makes a transformer for a scope, here and again in every child
    scope : the namespace whose events are this mux's own
    """

    def __init__(
        self,
        transformers: list[StreamTransformer] | None = None,
        *,
        is_async: bool = False,
        factories: list[TransformerFactory] | None = None,
        scope: tuple[str, ...] = (),
    ) -> None:
        self.is_async, self.scope, self._recipe = is_async, scope, factories
        self.extensions: dict[str, Any] = {}
        self.native_keys: set[str] = set()
        self.stamps = count(1)
        self.pump: Callable[[], bool] | None = None
        self.apump: Callable[[], Awaitable[bool]] | None = None
        self._numbers: Iterator[int] | None = count(1)
        self._giver: dict[str, StreamTransformer] = {}
        self._events: StreamChannel[ProtocolEvent] = StreamChannel()
        self._channels: list[StreamChannel[Any]] = []
        self._adopt(self._events)
        everyone = [*(transformers or ()), *(make(scope) for make in factories or ())]
        self._transformers = sorted(everyone, key=lambda one: not one.before_builtins)
        for one in self._transformers:
            self._admit(one)

    def transformer_by_key(self, key: str) -> StreamTransformer | None:
        """The transformer that gave the projection `key`."""
        return self._giver.get(key)

    # Registration

    def _adopt(self, channel: StreamChannel[Any]) -> None:
        channel._bind(is_async=self.is_async)
        channel.stamps = self.stamps
        self._channels.append(channel)

    def _admit(self, one: StreamTransformer) -> None:
        kind = type(one).__name__
        if transformer_requires_async(one) and not self.is_async:
            raise RuntimeError(
                f"{kind} requires an async run: it has requires_async = True or methods of the asynchronous lane "
                "(aprocess, afinalize, afail); use astream_events()"
            )
        given = one.init()
        if not isinstance(given, dict):
            raise TypeError(f"{kind}.init() must return a dict of projections, not {type(given).__name__}")
        if taken := given.keys() & self.extensions.keys():
            owners = ", ".join(f"{key!r} (of {type(self._giver[key]).__name__})" for key in sorted(taken))
            raise ValueError(f"projections of {kind} conflict with those of another transformer: {owners}; rename them")
        native = bool(getattr(one, "_native", False))
        for channel in channels_of(given):
            self._adopt(channel)
            if channel.name is not None:
                channel._wire(self._announcer(channel.name if native else "custom:" + channel.name))
        self.extensions |= given
        self._giver |= dict.fromkeys(given, one)
        if native:
            self.native_keys |= given.keys()
        one._on_register(self)

    def _announcer(self, method: str) -> Callable[[Any], None]:
        def announce(item: Any) -> None:
            params = {"namespace": [], "timestamp": time.time_ns() // 1_000_000, "data": item}
            self._enter(cast("ProtocolEvent", {"type": "event", "method": method, "params": params}))

        return announce

    def _make_child(self, scope: tuple[str, ...]) -> StreamMux:
        if not self._recipe:
            raise RuntimeError(
                f"a child mux for {scope!r} needs transformers of its own: construct the StreamMux with factories=, "
                "not with ready made transformers"
            )
        child = StreamMux(is_async=self.is_async, factories=self._recipe, scope=scope)
        child._numbers = None
        child.pump, child.apump = self.pump, self.apump
        return child

    def bind_pump(self, fn: Callable[[], bool]) -> None:
        """Let readers that find nothing call `fn`, which does a step of the run and says whether there are more."""
        self.pump = fn
        for channel in self._channels:
            channel._request_more = fn
        self._tell("_bind_pump", fn)

    def bind_apump(self, fn: Callable[[], Awaitable[bool]]) -> None:
        """The same for asynchronous readers."""
        self.apump = fn
        for channel in self._channels:
            channel._arequest_more = fn
        self._tell("_bind_apump", fn)

    def _tell(self, hook: str, fn: Any) -> None:
        for listener in [getattr(one, hook, None) for one in self._transformers]:
            if listener is not None:
                listener(fn)

    # Events

    def _enter(self, event: ProtocolEvent) -> None:
        if (numbers := self._numbers) is not None:
            event["seq"] = next(numbers)
        self._events.push(event)

    def push(self, event: ProtocolEvent) -> None:
        """Show an event to all transformers; it enters the log if none objects."""
        if all([one.process(event) for one in self._transformers]):  # noqa: C419 -- all of them are to see it
            self._enter(event)

    async def apush(self, event: ProtocolEvent) -> None:
        """`push` for a run under asyncio: each transformer is waited for before the next one looks."""
        wanted = True
        for one in self._transformers:
            plain = type(one).aprocess is StreamTransformer.aprocess
            wanted &= bool(one.process(event) if plain else await one.aprocess(event))
        if wanted:
            self._enter(event)

    # The end

    def _shut(self, err: BaseException | None) -> None:
        for channel in reversed(self._channels):  # the log, which is the first, as the last
            if err is None:
                channel.close()
            else:
                channel.fail(err)

    def close(self) -> None:
        """The run is over: finish all transformers, then close all channels.

        The first error of a transformer fails the channels and is raised, after everyone was asked.
        """
        broken: list[Exception] = []
        for one in self._transformers:
            try:
                one.finalize()
            except Exception as err:
                broken.append(err)
        self._conclude(broken)

    async def aclose(self) -> None:
        """`close`, after all scheduled work is done."""
        broken = await self._join_scheduled()
        for one in self._transformers:
            try:
                await one.afinalize()
            except Exception as err:
                broken.append(err)
        self._conclude(broken)

    def _conclude(self, broken: list[Exception]) -> None:
        self._shut(broken[0] if broken else None)
        if broken:
            raise broken[0]

    def fail(self, err: BaseException) -> None:
        """The run broke: tell all transformers, then fail all channels."""
        for one in self._transformers:
            try:
                one.fail(err)
            except Exception:
                logger.exception("%s.fail() failed itself", type(one).__name__)
        self._shut(err)

    async def afail(self, err: BaseException) -> None:
        """`fail`, after all scheduled work was cancelled."""
        work = self._scheduled()
        for job in work:
            job.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        for one in self._transformers:
            try:
                await one.afail(err)
            except Exception:
                logger.exception("%s.afail() failed itself", type(one).__name__)
        self._shut(err)

    def _scheduled(self) -> set[asyncio.Task[Any]]:
        return set().union(*(one._jobs() for one in self._transformers))

    async def _join_scheduled(self) -> list[Exception]:
        joined: set[asyncio.Task[Any]] = set()
        while work := self._scheduled() - joined:  # work may schedule more work
            joined |= work
            await asyncio.wait(work)
        ended = [job.exception() for job in joined if not job.cancelled()]
        return [err for err in ended if isinstance(err, Exception)]


own(globals())
