"""What all channels have: two faces on one content, which `SharedChannel` keeps."""

import threading
from asyncio import AbstractEventLoop, Future, get_running_loop, sleep
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from dynamo import _shared_channel
from dynamo._shared_channel import SharedChannel, listed
from dynamo.errors import RequestTimeout
from dynamo.langgraph._internal._errors import ChannelError
from dynamo.langgraph.channels.base import MISSING, EmptyChannelError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MISSING", "Channel", "ChannelType", "ClosedChannelError"]

Value = TypeVar("Value")
Update = TypeVar("Update")


class ClosedChannelError(ChannelError):
    """A channel was used after it had been left."""

    __module__ = "dynamo.channels"


_shared_channel.bind(EmptyChannelError, ClosedChannelError, ChannelError)


class ChannelType(str, Enum):
    """The kinds of channels; each is equal to its name."""

    LastValue = "LastValue"
    Context = "Context"
    Topic = "Topic"
    DynamicBarrier = "DynamicBarrier"
    NamedBarrier = "NamedBarrier"
    EphemeralValue = "EphemeralValue"
    AnyValue = "AnyValue"
    BinaryOperator = "BinaryOperator"

    __str__ = str.__str__


class Channel(SharedChannel, Generic[Value, Update]):
    """A channel: it takes the writes of a step as a list, and shows one value.

    It is made by its kinds: `LastValue`, `Topic` and so on.

    Notes
    -----
    Every method is atomic, two calls together are not: what depends on the old value belongs into a `BinaryOperator`.
    No lock is held while a reducer runs; when somebody else was faster, it is called again on the new value.

    In a ``with`` statement (or ``async with``) the channel is closed at the end: its value is let go, and who waits for
    it gets a `ClosedChannelError`. It can be entered again, then empty. Nothing needs to be entered but a `Context`.
    Channels can be copied and pickled, with what they hold.
    """

    channel_type: ClassVar[ChannelType]
    _lends: ClassVar[bool] = False  # whether its checkpoint is a container of its own

    def __init__(self, make: Callable[[Any], Any], typ: Any, name: str, *more: Any) -> None:
        self._make = make  # of a type: a graph's channel
        self._made_of = typ, *more  # what the kind was given
        native = make(typ)
        native.key = name
        super().__init__(native)

    if TYPE_CHECKING:  # what SharedChannel has

        def get_sync(self) -> Value: ...
        def update_sync(self, writes: Sequence[Update]) -> bool: ...

    @property
    def name(self) -> str:
        """What messages call it; empty unless it was given."""
        return self.spec.key  # type: ignore[no-any-return]

    @property
    def value_type(self) -> Any:
        """The type of what `get` gives."""
        return self.spec.ValueType

    @property
    def update_type(self) -> Any:
        """The type of one write."""
        return self.spec.UpdateType

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        try:
            shown = self._shown(self.native())
        except EmptyChannelError:
            shown = ", empty"
        except ClosedChannelError:
            shown = ", closed"
        return f"<{type(self).__name__}{name}{shown}>"

    def _shown(self, state: Any) -> str:
        return f": {state.get()!r}"

    # ---------------------------------------------------------------- tasks
    async def get(self) -> Value:
        """`get_sync`; it does not wait either."""
        return self.get_sync()

    async def update(self, writes: Sequence[Update]) -> bool:
        """`update_sync`; when somebody else was faster, other tasks run before the next try."""
        taken = listed(writes)
        changed = self.attempt(taken)
        return await self._again(taken) if changed is None else changed

    async def consume(self) -> bool:
        """`consume_sync`."""
        changed = self.attempt(None)
        return await self._again(None) if changed is None else changed

    async def _again(self, writes: list[Update] | None) -> bool:
        changed = None
        while changed is None:
            await sleep(0)
            changed = self.attempt(writes)
        return changed

    async def checkpoint(self) -> Any:
        """`checkpoint_sync`."""
        return self.checkpoint_sync()

    async def restore(self, saved: Any) -> None:
        """`restore_sync`."""
        self.restore_sync(saved)

    async def wait(self) -> Value:
        """The value, as soon as there is one.

        Raises
        ------
        ClosedChannelError
            When the channel is left.
        """
        loop = get_running_loop()
        while True:
            news = loop.create_future()
            with _Watch(self, partial(_wake, loop, news)):
                if self.closed or self.is_available():
                    with suppress(EmptyChannelError):  # somebody has taken it in between
                        return await self.get()
                await news

    # ---------------------------------------------------------------- threads
    def checkpoint_sync(self) -> Any:
        """What is to be saved of the content: `MISSING` when there is nothing, else what `restore` takes.

        It is what a graph saves of such a channel; it is the caller's.
        """
        saved = self.native().checkpoint()
        return saved.copy() if self._lends else saved

    def restore_sync(self, saved: Any) -> None:
        """Have the content that was saved, or none for `MISSING`."""
        self.replace(saved)

    def wait_sync(self, timeout: float | None = None) -> Value:
        """The value, as soon as there is one.

        Parameters
        ----------
        timeout : float, optional
            How many seconds to wait; for ever if None.

        Raises
        ------
        RequestTimeout
            When there is none by then; a TimeoutError.
        ClosedChannelError
            When the channel is left.
        """
        ends = None if timeout is None else monotonic() + timeout
        while True:
            news = threading.Event()
            with _Watch(self, news.set):
                if self.closed or self.is_available():
                    with suppress(EmptyChannelError):
                        return self.get_sync()
                if not news.wait(None if ends is None else max(0.0, ends - monotonic())):
                    raise RequestTimeout(f"{self!r} got no value within {timeout} s")

    def __reduce__(self) -> Any:
        saved = self.checkpoint_sync()
        return _rebuilt, (type(self), self._made_of, self.name, () if saved is MISSING else (saved,))

    # ---------------------------------------------------------------- entering and leaving
    def __enter__(self) -> "Self":
        self.open()
        return self

    def __exit__(self, *error: object) -> Any:
        self.close()

    async def __aenter__(self) -> "Self":
        self.open()
        return self

    async def __aexit__(self, *error: object) -> Any:
        self.close()

    # ---------------------------------------------------------------- in a graph
    def __state_channel__(self, annotation: Any) -> Any:
        """The graph's channel for a key with this note; `annotation` is the type that the note is on."""
        return self._make(annotation if self.spec.typ is Any else self.spec.typ)


class _Watch:
    """Hear of the next change; not any more at the end."""

    def __init__(self, channel: SharedChannel, tell: Any) -> None:
        self.channel, self.tell = channel, tell

    def __enter__(self) -> None:
        self.channel.watch(self.tell)

    def __exit__(self, *error: object) -> None:
        self.channel.unwatch(self.tell)


def _wake(loop: AbstractEventLoop, news: "Future[None]") -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
        loop.call_soon_threadsafe(_set, news)


def _set(news: "Future[None]") -> None:
    if not news.done():
        news.set_result(None)


def _rebuilt(kind: Any, made_of: tuple[Any, ...], name: str, content: tuple[Any, ...]) -> Any:
    channel = kind(*made_of, name=name)
    for saved in content:
        channel.restore_sync(saved)
    return channel
