"""A queue with one reader, which is filled only because somebody reads it.

    push --> [stamp, item] [stamp, item] ... --> the reader
                                                   | nothing there
                                                   v
                                        request_more(): one step of the run

I1  nothing is kept before there is a reader.
I2  stamps of the channels of one mux grow in the order of the pushes; 0 without a mux.
I3  what was pushed before a failure is read before it is raised.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar

from dynamo.langgraph._internal._names import own

T = TypeVar("T")


class StreamChannel(Generic[T]):
    """What a transformer pushes and one reader iterates, with ``for`` or ``async for``.

    Parameters
    ----------
    name : given, each item also enters the log of the run as an event of that name
    maxlen : a hint of how much is to be buffered; a push never waits and drops nothing
    """

    def __init__(self, name: str | None = None, *, maxlen: int | None = None) -> None:
        if maxlen is not None and maxlen < 1:
            raise ValueError(f"maxlen of a StreamChannel is {maxlen}; it must be a positive int or None")
        self.name, self._maxlen = name, maxlen
        self._items: deque[tuple[int, T]] = deque()
        self._subscribed = self._closed = False
        self._error: BaseException | None = None
        self._is_async: bool | None = None  # which lane, once it is known
        self.stamps: Iterator[int] | None = None  # those of the mux
        self._wire_fn: Callable[[T], None] | None = None  # told of each item, whether it is read or not
        self._request_more: Callable[[], bool] | None = None
        self._arequest_more: Callable[[], Awaitable[bool]] | None = None

    # What the mux does with it

    def _bind(self, *, is_async: bool) -> None:
        if self._is_async is not None:
            raise RuntimeError("StreamChannel is already bound; give each transformer a channel of its own")
        self._is_async = is_async

    def _wire(self, tell: Callable[[T], None]) -> None:
        self._wire_fn = tell

    # The writing end

    def push(self, item: T) -> None:
        """Hand an item to the reader; without one it is dropped."""
        if self._closed:
            raise RuntimeError("Cannot push to a closed StreamChannel")
        if self._subscribed:
            self._items.append((next(self.stamps) if self.stamps else 0, item))
        if (tell := self._wire_fn) is not None:
            tell(item)

    def close(self) -> None:
        """No more items; closing twice is no error."""
        self._closed = True

    def fail(self, err: BaseException) -> None:
        """No more items, and the reader gets `err` after the last one."""
        self._closed = True
        self._error = err if self._error is None else self._error

    # The reading end

    def _claim(self, *, is_async: bool) -> None:
        if (lane := self._is_async) is None:
            raise TypeError("StreamChannel has not been bound to a run; register its transformer with a mux first")
        if lane is not is_async:
            mode, remedy = ("async", "async for") if lane else ("sync", "for")
            raise TypeError(f"StreamChannel is bound to {mode} mode; read it with '{remedy}'")
        taken, self._subscribed = self._subscribed, True
        if taken:
            raise RuntimeError("StreamChannel already has a subscriber; tee(n) or atee(n) gives several")

    def _release(self) -> None:
        self._subscribed = False
        self._items.clear()

    def __iter__(self) -> Iterator[T]:
        self._claim(is_async=False)
        return self._read()

    def __aiter__(self) -> AsyncIterator[T]:
        self._claim(is_async=True)
        return self._aread()

    def _ended(self) -> bool:
        if (broken := self._error) is not None:
            raise broken
        return self._closed

    def _read(self) -> Iterator[T]:
        items = self._items
        running = True
        while True:
            while items:
                yield items.popleft()[1]
            if self._ended() or not running:
                return
            # The last step may have pushed and closed: look once more before giving up.
            running = self._request_more is not None and self._request_more()

    async def _aread(self) -> AsyncIterator[T]:
        items = self._items
        running = True
        while True:
            while items:
                yield items.popleft()[1]
            if self._ended() or not running:
                return
            running = self._arequest_more is not None and await self._arequest_more()

    def tee(self, n: int = 2) -> tuple[Iterator[T], ...]:
        """`n` readers of all items; what the slowest has not read is kept."""
        if n < 1:
            raise ValueError(f"tee({n}): at least one reader is needed, tee() requires n >= 1")
        return itertools.tee(iter(self), n)

    def atee(self, n: int = 2) -> tuple[AsyncIterator[T], ...]:
        """`n` asynchronous readers of all items; what the slowest has not read is kept."""
        if n < 1:
            raise ValueError(f"atee({n}): at least one reader is needed, atee() requires n >= 1")
        items = aiter(self)
        lock = asyncio.Lock()
        shares: list[deque[T]] = [deque() for _ in range(n)]
        over: list[BaseException | None] = []

        async def reader(mine: deque[T]) -> AsyncIterator[T]:
            while True:
                if not mine:
                    async with lock:
                        if not mine and not over:
                            try:
                                item = await anext(items)
                            except StopAsyncIteration:
                                over.append(None)
                            except Exception as err:
                                over.append(err)
                            else:
                                for share in shares:
                                    share.append(item)
                if mine:
                    yield mine.popleft()
                elif over[0] is not None:
                    raise over[0]
                else:
                    return

        return tuple(reader(share) for share in shares)


def channels_of(projection: dict[str, Any]) -> list[StreamChannel[Any]]:
    """The channels among the values of a projection."""
    return [value for value in projection.values() if isinstance(value, StreamChannel)]


own(globals())
