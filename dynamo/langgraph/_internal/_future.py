"""Futures of threads and of event loops, tied together."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import sys
from collections.abc import Awaitable, Coroutine
from typing import Any

from dynamo.langgraph._internal._names import own

CONTEXT_NOT_SUPPORTED = sys.version_info < (3, 11)  # create_task(context=...)
_EAGER = sys.version_info >= (3, 12)

AnyFuture = asyncio.Future[Any] | concurrent.futures.Future[Any]

# A result changes its kind of exception with the kind of future it moves to.
_AS_ASYNCIO: dict[type[BaseException], type[BaseException]] = {
    concurrent.futures.CancelledError: asyncio.CancelledError,
    concurrent.futures.TimeoutError: asyncio.TimeoutError,
    concurrent.futures.InvalidStateError: asyncio.InvalidStateError,
}


def _loop_of(future: AnyFuture) -> asyncio.AbstractEventLoop | None:
    return future.get_loop() if isinstance(future, asyncio.Future) else None


def _settle(future: AnyFuture, source: AnyFuture) -> None:
    """Give `future` the outcome of the finished `source`."""
    if isinstance(future, asyncio.Future):
        if future.done():
            return
    else:
        if source.cancelled():
            future.cancel()
        if not future.set_running_or_notify_cancel():
            return
    if source.cancelled():
        future.cancel()
        return
    error = source.exception()
    if error is None:
        future.set_result(source.result())
        return
    kind = _AS_ASYNCIO.get(type(error))
    future.set_exception(error if kind is None else kind(*error.args))


def _is_future(thing: Any) -> bool:
    return asyncio.isfuture(thing) or isinstance(thing, concurrent.futures.Future)


def chain_future(source: AnyFuture, target: AnyFuture) -> AnyFuture:
    """Make `target` end as `source` does, and `source` be cancelled when `target` is.

    Each may belong to a thread or to an event loop.
    """
    for name, future in (("source", source), ("target", target)):
        if not _is_future(future):
            raise TypeError(f"A future is required for {name}, not {type(future).__name__}")
    home, away = _loop_of(target), _loop_of(source)

    def forward(done: AnyFuture) -> None:
        if home is None or home is away:
            _settle(target, done)
        elif not home.is_closed():
            home.call_soon_threadsafe(_settle, target, done)

    def cancel(done: AnyFuture) -> None:
        if not done.cancelled():
            return
        if away is None or away is home:
            source.cancel()
        elif not away.is_closed():
            away.call_soon_threadsafe(source.cancel)

    target.add_done_callback(cancel)
    source.add_done_callback(forward)
    return target


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _start(
    work: Awaitable[Any],
    loop: asyncio.AbstractEventLoop,
    name: str | None,
    context: contextvars.Context | None,
    lazy: bool,
) -> asyncio.Task[Any]:
    if not inspect.isawaitable(work):
        raise TypeError(f"only a coroutine or another awaitable can be run on a loop, not {type(work).__name__}")
    coro = work if asyncio.iscoroutine(work) else _await(work)
    try:
        if CONTEXT_NOT_SUPPORTED or context is None:
            return loop.create_task(coro, name=name)
        if lazy or not _EAGER:
            return loop.create_task(coro, name=name, context=context)  # type: ignore[call-arg, unused-ignore]
        return asyncio.eager_task_factory(loop, coro, name=name, context=context)  # type: ignore[attr-defined, no-any-return, unused-ignore]
    except RuntimeError:  # the loop is closed: nobody will ever await this
        coro.close()
        raise


def run_coroutine_threadsafe(
    coro: Coroutine[None, None, Any],
    loop: asyncio.AbstractEventLoop,
    *,
    lazy: bool,
    name: str | None = None,
    context: contextvars.Context | None = None,
) -> asyncio.Future[Any]:
    """Start a coroutine on `loop`, from there or from another thread.

    Parameters
    ----------
    lazy
        Do not run it before the next turn of the loop.
    """
    here = asyncio._get_running_loop()
    if here is loop:
        return _start(coro, loop, name, context, lazy)
    promise: asyncio.Future[Any] = asyncio.Future(loop=loop)

    def begin() -> None:
        try:
            chain_future(_start(coro, loop, name, context, True), promise)
        except BaseException as error:
            if not isinstance(error, (KeyboardInterrupt, SystemExit)):
                promise.set_exception(error)
            raise

    loop.call_soon_threadsafe(begin, context=context)
    return promise


own(globals())
