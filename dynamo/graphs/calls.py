"""One call of an endpoint for a node or a chat model.

I1  However the reader of `items` ends, the request is over: its stream is killed.
I2  A call of a thread goes to the thread's worker; if that one cannot be reached it goes to another one.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextvars import copy_context
from typing import Any, TypeVar

from dynamo.errors import ConnectionFailed, EngineShutdown, RequestTimeout, Unavailable
from dynamo.llm.affinity import home_of
from dynamo.runtime import Context

__all__ = ["THREAD", "blocking_items", "current_thread", "items", "run_blocking", "thread_of"]

T = TypeVar("T")

THREAD = "thread_id"  # in a config's "configurable", and in the metadata of a call
_AGAIN = (ConnectionFailed, EngineShutdown, Unavailable)


def thread_of(config: Mapping[str, Any] | None) -> str | None:
    """The thread that a config names."""
    found = ((config or {}).get("configurable") or {}).get(THREAD)
    return None if found is None else str(found)


def current_thread() -> str | None:
    """The thread of the run that this is called in, if there is one."""
    from dynamo.langgraph._internal._langchain import child_config

    return thread_of(child_config.get())


def _path(client: Any) -> str:
    endpoint = getattr(client, "endpoint", None)
    return str(getattr(endpoint, "path", client))


async def items(
    client: Any, request: Any, *, thread: str | None = None, deadline: float | None = None, sticky: bool = True
) -> AsyncGenerator[Any, None]:
    """What an endpoint answers, item by item.

    Parameters
    ----------
    client : a `dynamo.runtime.Client`, or what has its `generate`
    thread : travels along as metadata, and decides which worker is asked if `sticky`
    deadline : seconds for the whole answer

    Raises
    ------
    RequestTimeout : the deadline is over
    DynamoError : as `Client.generate`
    """
    context = Context(metadata=None if thread is None else {THREAD: thread})
    home = None
    if sticky and thread is not None and hasattr(client, "direct"):
        ids = client.instance_ids()
        home = home_of(thread, ids) if len(ids) > 1 else None
    stream = (
        client.generate(request, annotated=False, context=context)
        if home is None
        else client.direct(request, home, annotated=False, context=context)
    )
    late, timer = False, None
    if deadline is not None:

        def stop() -> None:
            nonlocal late
            late = True
            stream.kill()

        timer = asyncio.get_running_loop().call_later(deadline, stop)
    begun = False
    try:
        while True:
            try:
                async for item in stream:
                    begun = True
                    yield item
            except _AGAIN:
                if home is None or begun or late:
                    raise
                home, stream = None, client.generate(request, annotated=False, context=context)
                continue
            break
        if late:
            raise _too_late(client, deadline)
    except Exception as error:
        if late and not isinstance(error, RequestTimeout):
            raise _too_late(client, deadline) from error
        raise
    finally:
        if timer is not None:
            timer.cancel()
        stream.kill()


def _too_late(client: Any, deadline: float | None) -> RequestTimeout:
    return RequestTimeout(
        f"endpoint {_path(client)}: its answer took longer than the node's deadline of {deadline:g} s"
    )


# ---- for synchronous callers: a loop of their own
def run_blocking(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end. Where a loop runs in this thread already, on another thread."""
    context = copy_context()

    def run() -> T:
        return context.run(lambda: asyncio.run(make()))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def blocking_items(make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
    """The items of an asynchronous iterator as they come; closing the generator ends the iterator."""
    came: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    context = copy_context()

    async def feed() -> None:
        loops.append((asyncio.get_running_loop(), asyncio.current_task()))  # type: ignore[arg-type]
        source = make()
        try:
            async for item in source:
                came.put(("item", item))
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    def work() -> None:
        try:
            context.run(lambda: asyncio.run(feed()))
            came.put(("end", None))
        except BaseException as error:
            came.put(("error", error))

    thread = threading.Thread(target=work, name="dynamo graphs", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = came.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        for loop, task in loops:
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(task.cancel)
        thread.join()
