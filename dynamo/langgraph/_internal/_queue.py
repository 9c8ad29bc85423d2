"""Queues that one can wait for without taking anything."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import types
from collections import deque
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


class Semaphore(threading.Semaphore):
    """A semaphore with ``wait()``: returns when it could be taken, and does not take it."""

    def wait(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Wait until the count is above zero; False when it was not in time."""
        if timeout is not None and not blocking:
            raise ValueError("can't specify timeout for non-blocking acquire")
        until = None if timeout is None else time.monotonic() + timeout
        with self._cond:  # type: ignore[attr-defined]
            while self._value == 0:
                left = None if until is None else until - time.monotonic()
                if not blocking or (left is not None and left <= 0):
                    return False
                self._cond.wait(left)  # type: ignore[attr-defined]
        return True


class SyncQueue:
    """An unbounded queue between threads, with ``wait()``."""

    __class_getitem__: Any = classmethod(types.GenericAlias)

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._count = Semaphore(0)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; never waits."""
        self._items.append(item)
        self._count.release()

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        """Take the oldest item.

        Raises
        ------
        queue.Empty
            There is none (in time).
        """
        _positive(timeout)
        if self._count.acquire(block, timeout) and self._items:
            return self._items.popleft()
        raise queue.Empty

    def wait(self, block: bool = True, timeout: float | None = None) -> None:
        """Wait until there is an item, or until somebody releases the counter."""
        _positive(timeout)
        self._count.wait(block, timeout)

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._items

    def qsize(self) -> int:
        """How many items there are."""
        return len(self._items)


def _positive(timeout: float | None) -> None:
    if timeout is not None and timeout < 0:
        raise ValueError(f"'timeout' must be a non-negative number, not {timeout}")


own(globals())
