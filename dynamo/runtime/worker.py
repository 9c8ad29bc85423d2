"""The decorators of a worker program."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from dynamo import errors
from dynamo.runtime import settings
from dynamo.runtime.distributed import DistributedRuntime


def dynamo_worker(
    enable_nats: bool | None = None, *, static: bool = False
) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Coroutine[Any, Any, None]]]:
    """Make an async function a worker: its first argument is a DistributedRuntime.

    Parameters
    ----------
    enable_nats : bool, optional
        Accepted with a DeprecationWarning: nothing here needs NATS.
    static : bool
        As in dynamo 0.x.

    Notes
    -----
    On the main thread, SIGTERM and SIGINT leave discovery, let running requests finish and then let the function
    return; a second signal ends the process at once. A function that serves nothing is cancelled by the first.
    """
    if enable_nats is not None:
        warnings.warn("enable_nats is not needed any more", DeprecationWarning, stacklevel=2)

    def decorate(function: Callable[..., Awaitable[Any]]) -> Callable[..., Coroutine[Any, Any, None]]:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> None:
            runtime = (
                DistributedRuntime(asyncio.get_running_loop(), static)
                if static
                else DistributedRuntime(asyncio.get_running_loop())
            )
            await _run(runtime, function(runtime, *args, **kwargs))

        return wrapper

    return decorate


class _Signals:
    """SIGTERM and SIGINT while a worker runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_first: Callable[[int], None]) -> None:
        self.loop = loop
        self.on_first = on_first
        self.seen: int | None = None
        self.ours: list[int] = []
        self.before: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self.before[number] = signal.getsignal(number)
                self.loop.add_signal_handler(number, self.came, number)
            except (NotImplementedError, ValueError, RuntimeError):
                continue
            self.ours.append(number)

    def came(self, number: int) -> None:
        if self.seen is not None:  # the second one forces
            self.remove()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.seen = number
        self.on_first(number)

    def remove(self) -> None:
        for number in self.ours:
            self.loop.remove_signal_handler(number)
            if self.before[number] is not None:
                signal.signal(number, self.before[number])
        self.ours = []


async def _run(runtime: DistributedRuntime, work: Any) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    leaving: list[asyncio.Task[None]] = []

    def on_signal(number: int) -> None:
        if runtime._served:
            leaving.append(asyncio.ensure_future(_leave(runtime, task)))
        else:
            runtime.shutdown()
            task.cancel()

    signals = _Signals(loop, on_signal)
    signals.install()
    try:
        await task
    except asyncio.CancelledError:
        if signals.seen is None:
            raise
        if not leaving:  # a client: end as the signal says
            signals.remove()
            if signals.seen == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + signals.seen) from None
    finally:
        for one in leaving:
            one.cancel()
        runtime.shutdown()
        if not task.done():
            task.cancel()
        signals.remove()


async def _leave(runtime: DistributedRuntime, task: asyncio.Future[Any]) -> None:
    """Out of discovery first, so that no new requests come; then the rest."""
    grace = settings.number("DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS", 0.0)
    if grace:
        for endpoint in list(runtime._served.values()):
            await endpoint.unregister_endpoint_instance()
        await asyncio.sleep(grace)
    runtime.shutdown()
    await runtime.wait_closed()
    limit = settings.number("DYN_WORKER_GRACEFUL_SHUTDOWN_TIMEOUT", 30.0)
    await asyncio.wait({task}, timeout=limit)
    if not task.done():
        task.cancel()


def dynamo_endpoint(
    request_model: Any, response_model: Any
) -> Callable[[Callable[..., AsyncIterator[Any]]], Callable[..., AsyncIterator[Any]]]:
    """Parse requests into a model before the handler sees them.

    Parameters
    ----------
    request_model : a pydantic model class, or a msgspec Struct class; others: no parsing
        A text is parsed as JSON, a dict is validated; anything else is refused.
    response_model : type
        What is yielded; not checked.

    Raises
    ------
    ValueError
        When the request does not fit the model; at the first item, as the handler is a generator.
    """
    parse = _parser(request_model)

    def decorate(function: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            given = list(args)
            if parse is not None and len(given) in (1, 2):
                given[-1] = parse(given[-1])
            async for item in function(*given, **kwargs):
                yield item

        return wrapper

    return decorate


def _parser(model: Any) -> Callable[[Any], Any] | None:
    if hasattr(model, "model_validate"):
        from_text, from_dict = model.model_validate_json, model.model_validate
    elif hasattr(model, "__struct_fields__"):
        import msgspec

        def from_text(text: str) -> Any:
            return msgspec.json.decode(text, type=model)

        def from_dict(value: dict[str, Any]) -> Any:
            return msgspec.convert(value, model)
    else:
        return None

    def parse(value: Any) -> Any:
        try:
            if isinstance(value, str):
                return from_text(value)
            if isinstance(value, dict):
                return from_dict(value)
        except ValueError as error:
            raise ValueError(f"Invalid request: {error}") from error
        raise errors.InvalidArgument(f"Invalid request: {value!r}")

    return parse
