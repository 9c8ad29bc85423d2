"""Functions as tasks: what ``@task`` and ``@entrypoint`` make of them, and how one task calls another."""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_CALL, RETURN
from dynamo.langgraph._internal._names import own

if TYPE_CHECKING:
    from dynamo.langgraph.types import CachePolicy, RetryPolicy, TimeoutPolicy

P = ParamSpec("P")
P1 = TypeVar("P1")
T = TypeVar("T")

# Runnables of functions that can be found again under their name; (function, is it a task).
CACHE: dict[tuple[Callable[..., Any], bool], Any] = {}


class SyncAsyncFuture(concurrent.futures.Future[T], Generic[T]):
    """The result of a task: ``result()`` in a synchronous run, ``await`` in an asynchronous one."""

    def __await__(self) -> Generator[Any, None, T]:
        result: Any = yield ...
        return result  # type: ignore[no-any-return]


def identifier(obj: Any, name: str | None = None) -> str | None:
    """``module.qualname`` of a function, or of the one inside a node; None when it has no name."""
    from dynamo.langgraph._internal._runnable import RunnableCallable, RunnableSeq
    from dynamo.langgraph.pregel._read import PregelNode

    wrappers: Any = ((PregelNode, lambda node: node.bound), (RunnableSeq, lambda seq: seq.steps[0]))
    for kind, inner in (*wrappers, (RunnableCallable, lambda runnable: runnable.func)):
        if isinstance(obj, kind):
            obj = inner(obj)
    name = name or getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    module = getattr(obj, "__module__", None)
    return f"{module}.{name}" if name and module else None


def _importable(func: Any) -> bool:
    """Whether a module holds this very object under its qualified name (and is not the program itself)."""
    path = getattr(func, "__qualname__", None) or getattr(func, "__name__", None)
    module = getattr(func, "__module__", None)
    if path is None or module is None or module == "__main__" or "<locals>" in path:
        return False
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is func


def _on_thread(func: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """The function for an asynchronous run: awaits it on a thread, in this context."""
    from langchain_core.runnables.config import run_in_executor

    return functools.update_wrapper(functools.partial(run_in_executor, None, func), func)


def _kept(key: tuple[Callable[..., Any], bool], runnable: Any) -> Any:
    return CACHE.setdefault(key, runnable) if _importable(key[0]) else runnable


def _name_of(func: Any) -> str:
    for candidate in (func, getattr(func, "func", None), type(func)):
        name = getattr(candidate, "__name__", None)
        if name is not None:
            return str(name)
    return str(func)


def get_runnable_for_entrypoint(func: Callable[..., Any]) -> Any:
    """The runnable of an entrypoint's function."""
    from dynamo.langgraph._internal._runnable import RunnableCallable, is_async_callable

    key = func, False
    found = CACHE.get(key)
    if found is not None:
        return found
    pair = (None, func) if is_async_callable(func) else (func, _on_thread(func))
    return _kept(key, RunnableCallable(*pair, name=func.__name__, trace=False, recurse=False))


def get_runnable_for_task(func: Callable[..., Any]) -> Any:
    """The runnable of a task's function: called with ``(args, kwargs)``, writes what it returns."""
    from dynamo.langgraph._internal._runnable import RunnableCallable, RunnableSeq, is_async_callable
    from dynamo.langgraph.pregel._write import ChannelWrite, ChannelWriteEntry

    key = func, True
    found = CACHE.get(key)
    if found is not None:
        return found
    name = _name_of(func)
    pair = (None, func) if is_async_callable(func) else (func, _on_thread(func))
    run = RunnableCallable(*pair, explode_args=True, name=name, trace=False, recurse=False)
    shown = functools.partial(_explode_args_trace_inputs, inspect.signature(func))
    return _kept(key, RunnableSeq(run, ChannelWrite([ChannelWriteEntry(RETURN)]), name=name, trace_inputs=shown))


def _explode_args_trace_inputs(sig: inspect.Signature, input: tuple[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any]:
    """The arguments of a call by parameter name, for a trace."""
    arguments = sig.bind_partial(*input[0], **input[1])
    arguments.apply_defaults()
    shown: dict[str, Any] = {}
    for name, value in arguments.arguments.items():
        if sig.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            shown.update(value)
        elif name not in ("self", "cls"):
            shown[name] = value
    return shown


def call(
    func: Callable[..., Any],
    *args: Any,
    retry_policy: Sequence[RetryPolicy] | None = None,
    cache_policy: CachePolicy[Any] | None = None,
    timeout: float | timedelta | TimeoutPolicy | None = None,
    **kwargs: Any,
) -> SyncAsyncFuture[Any]:
    """Run a function as a task of the current run.

    Returns
    -------
    SyncAsyncFuture
        Its result.
    """
    from dynamo.langgraph._internal._timeout import coerce_timeout_policy

    limit = coerce_timeout_policy(timeout)
    policies = {"retry_policy": retry_policy, "cache_policy": cache_policy, "timeout": limit}
    return _call_with_options(func, args, kwargs, **policies)


def _call_with_options(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], **policies: Any
) -> SyncAsyncFuture[Any]:
    from dynamo.langgraph.config import get_config

    if policies.get("timeout") is not None:
        from dynamo.langgraph._internal._runnable import is_async_callable
        from dynamo.langgraph._internal._timeout import sync_timeout_unsupported

        if not is_async_callable(func):
            raise sync_timeout_unsupported(_name_of(func), kind="Task")
    current: Any = get_config()
    start = current[CONF][CONFIG_KEY_CALL]
    future: SyncAsyncFuture[Any] = start(func, (args, kwargs), callbacks=current["callbacks"], **policies)
    return future


own(globals())
