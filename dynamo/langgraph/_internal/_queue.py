"""Queues that one can wait for without taking anything."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from dynamo.langgraph._internal._names import own


class AsyncQueue(asyncio.Queue[Any]):
    """An asyncio queue with ``wait()``: returns as soon as there is an item, and leaves it."""

    async def wait(self) -> None:
        """Wait until the queue holds something."""
        while self.empty():
            waiter = asyncio.get_running_loop().create_future()
            self._getters.append(waiter)  # type: ignore[attr-defined]
            try:
                await waiter
            except BaseException:
                waiter.cancel()
                if waiter in self._getters:  # type: ignore[attr-defined]
                    self._getters.remove(waiter)  # type: ignore[attr-defined]
                # We were woken for an item and cancelled before we could say so: pass the word on.
                if not waiter.cancelled() and not self.empty():
                    self._wakeup_next(self._getters)  # type: ignore[attr-defined]
                raise


class SyncQueue:
    """A queue between threads with one reader, who is told of an item instead of waiting for it."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.bell: Future[None] | None = None

    def put(self, item: Any) -> None:
        """Add an item; never waits."""
        self.items.append(item)
        self._ring(self.bell)

    def arrival(self) -> Future[None]:
        """A future that is done as soon as there is an item: no thread has to wait for one."""
        bell = self.bell
        if bell is None or bell.done():
            bell = self.bell = Future()
        if self.items:  # it may have come before the bell was there to be rung
            self._ring(bell)
        return bell

    @staticmethod
    def _ring(bell: Future[None] | None) -> None:
        if bell is not None and not bell.done():
            with suppress(InvalidStateError):  # two writers at once
                bell.set_result(None)


own(globals())
