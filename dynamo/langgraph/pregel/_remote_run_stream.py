"""A run on a server as a stream of events, version 3: the face of `GraphRunStream` on a thread stream of langgraph_sdk.

    with graph.stream_events(input, version="v3") as run:        async with await graph.astream_events(...) as run:
        for message in run.messages: ...                             async for message in run.messages: ...
        run.output                                                   await run.output()

Entering opens the thread's stream and then starts the run, so that no event is missed. Leaving closes the stream;
`abort` also asks the server to stop the run.
"""

import sys
import typing
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from logging import getLogger
from typing import Any

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.types import Command

if typing.TYPE_CHECKING:
    from typing_extensions import Self

logger = getLogger(__name__)


def _translate_command_input(input: Any) -> Any:
    """The input of a run: an answer to an interrupt goes as it is, for the server knows what waits for it."""
    answering = isinstance(input, Command)
    if answering and (input.goto or input.update is not None):
        raise NotImplementedError(
            "Starting a remote run with version='v3' takes Command(resume=...) alone; a server does not take `goto` "
            "and `update` there: use invoke or stream for them"
        )
    return input.resume if answering else input


class _ChannelProjection:
    """The payloads of one of the server's channels, in the order of their events."""

    def __init__(self, sdk: Any, channel: str) -> None:
        self._stream, self._channel = sdk, channel

    def _open(self) -> tuple[Any, Any]:
        """The channel's events, and what takes the payload out of one."""
        from langgraph_sdk.stream.decoders import DataDecoder

        return self._stream.subscribe([self._channel]), DataDecoder(self._channel).feed

    def __iter__(self) -> Iterator[Any]:
        events, payloads = self._open()
        return (payload for event in events for payload in payloads(event))

    def __aiter__(self) -> AsyncIterator[Any]:
        events, payloads = self._open()
        return (payload async for event in events for payload in payloads(event))


class _ProjectionRegistry(Mapping[str, Any]):
    """Projections by name: those that the SDK makes, the plain channels of the protocol, and a graph's own."""

    # name -> whether its items are payloads as they are
    _NATIVE: typing.ClassVar[Mapping[str, bool]] = {
        **dict.fromkeys(("values", "messages", "tool_calls", "subgraphs"), False),
        **dict.fromkeys(("updates", "checkpoints", "tasks", "custom"), True),
    }

    def __init__(self, sdk: Any) -> None:
        self._stream = sdk

    def __getitem__(self, name: str) -> Any:
        plain = self._NATIVE.get(name)
        if plain is None:
            return self._stream.extensions[name]
        return _ChannelProjection(self._stream, name) if plain else getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        yield from self._NATIVE

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Theirs:
    """An attribute of a run that is one of the SDK's thread stream."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, run: Any, owner: type) -> Any:
        return self if run is None else getattr(run._stream, self.name)


class _RunStream:
    """What the two kinds of run streams have in common."""

    values = _Theirs("The state after each step.")
    messages = _Theirs("The messages of chat models, each a stream of its own.")
    tool_calls = _Theirs("The calls of tools.")
    subgraphs = _Theirs("The graphs inside, each with projections of its own.")

    def __init__(self, client: Any, sdk_thread: Any, **start: Any) -> None:
        self._client, self._stream = client, sdk_thread
        self._start_kwargs = {**start, "input": _translate_command_input(start["input"])}
        self._run_id: str | None = None
        self._events: Any = None
        self._aborted = False
        self.extensions = _ProjectionRegistry(sdk_thread)

    def _begins_abort(self) -> bool:
        """Whether nobody has aborted the run before."""
        before, self._aborted = self._aborted, True
        return not before

    @contextmanager
    def _cancelling(self) -> Iterator[list[tuple[str, str]]]:
        """The run to cancel, if one was started; what goes wrong is logged, for the stream has to be closed anyway."""
        try:
            yield [] if self._run_id is None else [(self._stream.thread_id, self._run_id)]
        except Exception:
            logger.warning("The remote run %s could not be cancelled; it may go on", self._run_id, exc_info=True)


class _RemoteGraphRunStream(_RunStream):
    """A run on a server, for plain callers: a context manager, and an iterator of events."""

    output = _Theirs("The last values; waits for the end of the run.")
    interrupted = _Theirs("Whether the run waits for an answer.")
    interrupts = _Theirs("What it waits for.")

    def __init__(self, *, sync_client: Any, sdk_thread: Any, input: Any, config: Any, metadata: Any) -> None:
        super().__init__(sync_client, sdk_thread, input=input, config=config, metadata=metadata)

    def __enter__(self) -> "Self":
        opened = self._stream.__enter__()
        try:
            self._run_id = opened.run.start(**self._start_kwargs)["run_id"]
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._stream.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        self._events = self._events or iter(self._stream.events)
        return self._events  # type: ignore[no-any-return]

    def interleave(self, *names: str) -> Iterator[tuple[str, Any]]:
        """Several projections at once, as ``(name, item)`` in the order in which things happened."""
        return self._stream.interleave_projections([*names])  # type: ignore[no-any-return]

    def abort(self) -> None:
        """Have the server stop the run, and close the stream."""
        if self._begins_abort():
            with self._cancelling() as started:
                for run in started:
                    self._client.runs.cancel(*run, wait=False)
            self._stream.close()


class _AsyncRemoteGraphRunStream(_RunStream):
    """A run on a server, in an event loop: an asynchronous context manager and iterator of events."""

    def __init__(self, *, client: Any, sdk_thread: Any, input: Any, config: Any, metadata: Any) -> None:
        super().__init__(client, sdk_thread, input=input, config=config, metadata=metadata)

    async def __aenter__(self) -> "Self":
        opened = await self._stream.__aenter__()
        try:
            answer = await opened.run.start(**self._start_kwargs)
            self._run_id = answer["run_id"]
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._stream.__aexit__(*error)

    def __aiter__(self) -> AsyncIterator[Any]:
        self._events = self._events or aiter(self._stream.events)
        return self._events  # type: ignore[no-any-return]

    async def output(self) -> Any:
        """The last values; waits for the end of the run."""
        return await self._stream.output

    async def interrupted(self) -> bool:
        """Whether the run waits for an answer."""
        return bool(self._stream.interrupted)

    async def interrupts(self) -> list[Any]:
        """What it waits for."""
        return [*self._stream.interrupts]

    async def abort(self) -> None:
        """Have the server stop the run, and close the stream."""
        if self._begins_abort():
            try:
                with self._cancelling() as started:
                    for run in started:
                        await self._client.runs.cancel(*run, wait=False)
            finally:
                await self._stream.close()


own(globals())
