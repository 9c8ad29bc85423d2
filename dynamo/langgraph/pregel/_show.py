"""From what a run shows to what the caller gets.

loop, handlers, stream writers --push--> queue --> Shape --> the caller
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_CHECKPOINT_NS, NS_SEP
from dynamo.langgraph._internal._langchain import child_config
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._queue import AsyncQueue, SyncQueue
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.pregel._shape import Shape
from dynamo.langgraph.pregel.protocol import StreamProtocol


def nowhere(chunk: Any) -> None:
    """Where a run shows what nobody, or only the graph around it, wants to see."""


class Show:
    """What a run shows. It knows nothing of the run.

    Attributes
    ----------
    modes : set of str
        What is given out or printed.
    queue
        Can be waited for; only when things are shown while a superstep runs.
    """

    push: Callable[[Any], None] = staticmethod(nowhere)

    def __init__(self, modes: set[str], shape: Shape) -> None:
        self.modes, self.shape = modes, shape
        self.queue: Any = None

    def open(self, eager: bool, in_loop: bool) -> StreamProtocol:
        """Get ready; returns the stream for the loop."""
        if eager and in_loop:
            self.queue = AsyncQueue()
            self.push, self._size, self._take = _into(self.queue), self.queue.qsize, self.queue.get_nowait
        else:
            self.queue = SyncQueue() if eager else None
            items = self.queue.items if eager else deque()
            self.push, self._size, self._take = self.queue.put if eager else items.append, items.__len__, items.popleft
        return StreamProtocol(self.push, self.modes)  # type: ignore[arg-type]

    def items(self) -> Iterator[Any]:
        """What the caller gets for what has been shown since."""
        while self._size():
            given = self.shape(self._take())
            if given is not MISSING:
                yield given

    def custom(self, item: Any) -> None:
        """Somebody in the run writes to the stream "custom"."""
        config = child_config.get() or {}
        ns = config.get(CONF, {}).get(CONFIG_KEY_CHECKPOINT_NS)
        self.push((tuple(ns.split(NS_SEP))[:-1] if ns else self.shape.ns, "custom", item))


def _into(queue: AsyncQueue) -> Callable[[Any], None]:
    """Put things into a queue of the running event loop, from whatever thread."""
    home, here, put = asyncio.get_running_loop(), threading.get_ident(), queue.put_nowait

    def push(chunk: Any) -> None:
        if threading.get_ident() == here:
            put(chunk)
        else:
            home.call_soon_threadsafe(put, chunk)

    return push


own(globals())
