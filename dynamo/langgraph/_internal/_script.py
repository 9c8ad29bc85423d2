"""What has to be asked of savers, caches and other graphs, written down once for plain and asynchronous callers.

A script is a generator that yields calls and is given their results.

    play(script)     performs the calls in this thread
    aplay(script)    awaits the twins of what is called: their names begin with an "a"
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from functools import wraps
from typing import Any, NamedTuple

from dynamo.langgraph._internal._names import own


class Ask(NamedTuple):
    """A call of a method; with `many`, of one that gives an iterator, whose items are wanted as a list."""

    owner: Any
    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    many: bool = False


class Done(NamedTuple):
    """A call that was made already: its result for plain callers, what is to be awaited for others."""

    begun: Any


Script = Generator[Ask | Done, Any, Any]


def ask(owner: Any, name: str, *args: Any, **options: Any) -> Ask:
    """Call a method."""
    return Ask(owner, name, args, options)


def every(owner: Any, name: str, *args: Any, **options: Any) -> Ask:
    """Call a method that gives an iterator."""
    return Ask(owner, name, args, options, many=True)


def done(begun: Any) -> Done:
    """Give back a result, or wait for it."""
    return Done(begun)


def play(script: Script) -> Any:
    """Perform a script; returns what it returns."""
    answer: Any = None
    while True:
        try:
            call = script.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(call, Done):
            answer = call.begun
            continue
        answer = getattr(call.owner, call.name)(*call.args, **call.options)
        if call.many:
            answer = list(answer)


async def aplay(script: Script) -> Any:
    """Perform a script in an event loop."""
    answer: Any = None
    while True:
        try:
            call = script.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(call, Done):
            answer = await call.begun
            continue
        begun = getattr(call.owner, f"a{call.name}")(*call.args, **call.options)
        answer = [item async for item in begun] if call.many else await begun


def plainly(script: Callable[..., Script]) -> Callable[..., Any]:
    """The function that performs this script."""

    @wraps(script)
    def perform(*args: Any, **options: Any) -> Any:
        return play(script(*args, **options))

    return perform


def awaiting(script: Callable[..., Script]) -> Callable[..., Awaitable[Any]]:
    """The coroutine function that performs this script."""

    @wraps(script)
    async def perform(*args: Any, **options: Any) -> Any:
        return await aplay(script(*args, **options))

    return perform


own(globals())
