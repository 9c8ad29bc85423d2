"""Queues that one can wait for without taking anything."""

from __future__ import annotations

import asyncio
import threading
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


class SyncQueue:
    """A queue between threads, with ``wait()``."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.stir = threading.Condition()
        self.left = False

    def put(self, item: Any) -> None:
        """Add an item; never waits."""
        with self.stir:
            self.items.append(item)
            self.stir.notify_all()

    def leave(self) -> None:
        """Nobody takes anything any more: whoever waits goes home."""
        with self.stir:
            self.left = True
            self.stir.notify_all()

    def wait(self) -> None:
        """Wait until the queue holds something, or nobody is there to take it."""
        with self.stir:
            self.stir.wait_for(lambda: self.items or self.left)


own(globals())
