"""Where work runs beside the superstep: on threads in a synchronous run, in tasks of the event loop in another.

    submit(fn, ...) -> future --ended well--> forgotten
                              --failed------> kept; the end of the run raises it, unless somebody else does (`Fate`)

Threads come with the first piece of work, most runs need none, and go back where they are kept (``dynamo._workers``)
when the run ends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import time
import weakref
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import cache
from typing import Any, NamedTuple

from dynamo._workers import Crew
from dynamo.langgraph._internal._future import CONTEXT_NOT_SUPPORTED, run_coroutine_threadsafe
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.errors import GraphBubbleUp

# Futures whose exception is somebody else's to raise.
SKIP_RERAISE_SET: weakref.WeakSet[Any] = weakref.WeakSet()


class Fate(NamedTuple):
    """What becomes of a piece of work that is still there when the run ends."""

    cancel: bool
    reraise: bool


class Workplace:
    """Work that was handed out and has not ended well. How it is done is left to the two kinds of workplace.

    `submit(fn, *args, **kwargs)` takes four options that no function's parameters are called by: ``__name__``,
    ``__cancel_on_exit__``, ``__reraise_on_exit__`` and ``__next_tick__`` (not before the caller has gone on).
    """

    submit: Any
    new_future: Callable[[], Any]

    def __init__(self) -> None:
        self.open: dict[Any, Fate] = {}

    def enter(self, future: Any, cancel: bool = False, reraise: bool = True) -> Any:
        """Take note of a piece of work."""
        self.open[future] = Fate(cancel, reraise)
        future.add_done_callback(self._ended)
        return future

    def failure(self, error: BaseException) -> Any:
        """A future for work that was done at once, and failed."""
        future = self.new_future()
        future.set_exception(error)
        return self.enter(future)

    def _ended(self, future: Any) -> None:
        failed = not future.cancelled() and future.exception()
        if not failed or isinstance(failed, GraphBubbleUp):
            self.open.pop(future, None)

    def call_off(self) -> dict[Any, Fate]:
        """Cancel what may be cancelled; returns what is left."""
        left = dict(self.open)
        for future in [future for future, fate in left.items() if fate.cancel]:
            future.cancel()
        return left


def raise_first(left: dict[Any, Fate]) -> None:
    """Raise the first failure of ended work that is nobody else's."""
    for future, fate in left.items():
        if fate.reraise and not future.cancelled() and future not in SKIP_RERAISE_SET:
            future.result()


@cache
def _usual_limit() -> int:
    return min(32, (os.cpu_count() or 1) + 4)  # a pool's; asking costs 5 us


class Threads(Workplace):
    """Runs functions on threads, each in a copy of the caller's context.

    Parameters
    ----------
    limit
        How many threads there may be; None for as many as a pool of threads has by default.
    """

    new_future = concurrent.futures.Future

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.limit = limit
        self._crew: Crew | None = None

    @property
    def crew(self) -> Crew:
        """The threads of the run."""
        if self._crew is None:
            self._crew = Crew(_usual_limit() if self.limit is None else self.limit)
        return self._crew

    def submit(
        self,
        fn: Callable[..., Any],
        *args: Any,
        __name__: str | None = None,
        __cancel_on_exit__: bool = False,
        __reraise_on_exit__: bool = True,
        __next_tick__: bool = False,
        **kwargs: Any,
    ) -> concurrent.futures.Future[Any]:
        """Run ``fn(*args, **kwargs)`` on a thread."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        if __next_tick__:
            fn, args = _let_others, (fn, *args)
        self.crew.submit(future, fn, args, kwargs)
        return self.enter(future, __cancel_on_exit__, __reraise_on_exit__)  # type: ignore[no-any-return]

    def close(self, failing: bool) -> None:
        """Wait for what is left; unless the run fails anyhow, raise what failed there."""
        left = self.call_off()
        if self._crew is not None:
            self._crew.close()
        if not failing:
            raise_first(left)


def _let_others(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    time.sleep(0)  # whoever started us is in the middle of noting that we are on our way
    return fn(*args, **kwargs)


class Tasks(Workplace):
    """Runs coroutine functions as tasks of the running loop, each in a copy of the caller's context.

    Parameters
    ----------
    limit
        How many may run at a time; None for no bound.
    home
        The event loop; the running one if none is named, as on a thread it has to be.
    """

    def __init__(self, limit: int | None, home: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__()
        self.home = home or asyncio.get_running_loop()
        self.new_future = self.home.create_future
        self.turnstile = asyncio.Semaphore(limit) if limit else None

    def submit(
        self,
        fn: Callable[..., Awaitable[Any]],
        *args: Any,
        __name__: str | None = None,
        __cancel_on_exit__: bool = False,
        __reraise_on_exit__: bool = True,
        __next_tick__: bool = False,
        **kwargs: Any,
    ) -> asyncio.Future[Any]:
        """Start ``fn(*args, **kwargs)``."""
        if self.turnstile is None:
            work: Any = fn(*args, **kwargs)
        else:
            work = _in_turn(self.turnstile, fn, args, kwargs)
        context = None if CONTEXT_NOT_SUPPORTED else copy_context()
        future = run_coroutine_threadsafe(work, self.home, name=__name__, lazy=__next_tick__, context=context)
        return self.enter(future, __cancel_on_exit__, __reraise_on_exit__)  # type: ignore[no-any-return]

    async def aclose(self, failing: bool) -> None:
        """Wait for what is left; unless the run fails anyhow, raise what failed there."""
        left = self.call_off()
        if left:
            await asyncio.wait(left)
        if not failing:
            raise_first(left)


async def _in_turn(turnstile: asyncio.Semaphore, fn: Callable[..., Awaitable[Any]], args: Any, kwargs: Any) -> Any:
    async with turnstile:
        return await fn(*args, **kwargs)


own(globals())
