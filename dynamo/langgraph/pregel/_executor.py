"""Where work runs beside the superstep: threads in a synchronous run, tasks of the event loop in an asynchronous one.

    submit(fn, ...) -> future --ended well--> forgotten
                              --failed------> kept; leaving the executor raises it, unless somebody else does (`Fate`)

Threads belong to the run and are made with the first piece of work: most runs need none.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from typing import Any, NamedTuple, Protocol

from dynamo.langgraph._internal._future import CONTEXT_NOT_SUPPORTED, run_coroutine_threadsafe
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.errors import GraphBubbleUp

# Futures whose exception is somebody else's to raise.
SKIP_RERAISE_SET: weakref.WeakSet[Any] = weakref.WeakSet()


class Fate(NamedTuple):
    """What becomes of a piece of work that is still there when its executor is left."""

    cancel: bool
    reraise: bool


class Submit(Protocol):
    """How work is handed to either executor; the options have names that no function's parameters have."""

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class _Ledger:
    """The work of an executor that has not ended well."""

    def __init__(self) -> None:
        self.fates: dict[Any, Fate] = {}

    def enter(self, future: Any, cancel: bool, reraise: bool) -> Any:
        self.fates[future] = Fate(cancel, reraise)
        future.add_done_callback(self.ended)
        return future

    def ended(self, future: Any) -> None:
        failed = not future.cancelled() and future.exception()
        if not failed or isinstance(failed, GraphBubbleUp):
            self.fates.pop(future, None)

    def closing(self) -> list[Any]:
        """Cancel what may be; returns everything that is left."""
        left = list(self.fates.items())
        for future, fate in left:
            if fate.cancel:
                future.cancel()
        self.left = left
        return [future for future, _ in left]

    def failures(self) -> Iterator[BaseException]:
        for future, fate in self.left:
            if fate.reraise and not future.cancelled() and future not in SKIP_RERAISE_SET:
                error = future.exception()
                if error is not None:
                    yield error


class BackgroundExecutor:
    """Runs functions on threads, each in a copy of the caller's context.

    Parameters
    ----------
    config : RunnableConfig
        Its ``max_concurrency`` bounds the threads.
    """

    def __init__(self, config: Any) -> None:
        self.limit = config.get("max_concurrency")
        self.threads: concurrent.futures.ThreadPoolExecutor | None = None
        self.ledger = _Ledger()

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
        if self.threads is None:
            self.threads = concurrent.futures.ThreadPoolExecutor(self.limit)
        run: Any = copy_context().run
        if __next_tick__:
            run, args = _after_the_others, (run, fn, *args)
        else:
            args = (fn, *args)
        future = self.threads.submit(run, *args, **kwargs)
        return self.ledger.enter(future, __cancel_on_exit__, __reraise_on_exit__)  # type: ignore[no-any-return]

    def __enter__(self) -> Any:
        return self.submit

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if self.threads is not None:
            concurrent.futures.wait(self.ledger.closing())
            self.threads.shutdown()
            if exc_type is None:
                for error in self.ledger.failures():
                    raise error


class AsyncBackgroundExecutor:
    """Runs coroutine functions as tasks of the running loop, each in a copy of the caller's context.

    Parameters
    ----------
    config : RunnableConfig
        Its ``max_concurrency`` bounds how many run at a time.
    """

    def __init__(self, config: Any) -> None:
        limit = config.get("max_concurrency")
        self.turnstile = asyncio.Semaphore(limit) if limit else None
        self.home = asyncio.get_running_loop()
        self.ledger = _Ledger()

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
        work: Any = fn(*args, **kwargs)
        future = run_coroutine_threadsafe(
            work if self.turnstile is None else _in_turn(self.turnstile, work),
            self.home,
            lazy=__next_tick__,
            name=__name__,
            context=None if CONTEXT_NOT_SUPPORTED else copy_context(),
        )
        return self.ledger.enter(future, __cancel_on_exit__, __reraise_on_exit__)  # type: ignore[no-any-return]

    async def __aenter__(self) -> Any:
        return self.submit

    async def __aexit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        left = self.ledger.closing()
        if left:
            await asyncio.wait(left)
            if exc_type is None:
                for error in self.ledger.failures():
                    raise error


async def _in_turn(turnstile: asyncio.Semaphore, work: Awaitable[Any]) -> Any:
    async with turnstile:
        return await work


def _after_the_others(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    time.sleep(0)  # the caller is in the middle of noting that we are on our way
    return run(*args, **kwargs)


own(globals())
