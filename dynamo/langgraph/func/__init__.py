"""Workflows written as functions: `entrypoint` makes one that can be resumed, `task` a step whose result is kept."""

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, get_args, get_origin, overload

from dynamo.langgraph._internal._constants import CACHE_NS_WRITES, PREVIOUS
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._old_names import renamed
from dynamo.langgraph._internal._runnable import is_async_callable, is_async_generator
from dynamo.langgraph._internal._timeout import coerce_timeout_policy, sync_timeout_unsupported
from dynamo.langgraph.constants import END, START
from dynamo.langgraph.types import CachePolicy, RetryPolicy, TimeoutPolicy
from dynamo.langgraph.typing import ContextT, WithDefaults
from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV05, LangGraphDeprecatedSinceV10

if typing.TYPE_CHECKING:
    from langgraph.cache.base import BaseCache
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.store.base import BaseStore

    from dynamo.langgraph.pregel._call import SyncAsyncFuture
    from dynamo.langgraph.pregel.main import Pregel

__all__ = ("entrypoint", "task")

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


def _policies(policy: RetryPolicy | Sequence[RetryPolicy] | None) -> Sequence[RetryPolicy]:
    return () if policy is None else (policy,) if isinstance(policy, RetryPolicy) else policy


class _TaskFunction(Generic[P, T]):
    """A function whose calls are tasks of the workflow that is running. Calling it gives a future."""

    def __init__(
        self,
        func: "Callable[P, Awaitable[T]] | Callable[P, T]",
        *,
        retry_policy: Sequence[RetryPolicy],
        cache_policy: "CachePolicy[Callable[P, str | bytes]] | None" = None,
        timeout: TimeoutPolicy | None = None,
        name: str | None = None,
    ) -> None:
        if name is not None:
            # Tasks are called after their functions.
            named: Any = func
            if hasattr(named, "__func__"):
                func = named = functools.partial(named.__func__, named.__self__)
            named.__name__ = name
        self.func, self.timeout = func, timeout
        self.retry_policy, self.cache_policy = retry_policy, cache_policy
        functools.update_wrapper(self, func)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> "SyncAsyncFuture[T]":
        from dynamo.langgraph.config import get_config
        from dynamo.langgraph.pregel._call import _call_with_options

        try:
            get_config()
        except RuntimeError as error:
            name = getattr(self.func, "__name__", "task")
            raise RuntimeError(f"{error}. The task {name!r} is called from an entrypoint, a task or a node") from None
        policies = {name: getattr(self, name) for name in ("retry_policy", "cache_policy", "timeout")}
        return _call_with_options(self.func, args, kwargs, **policies)

    def _cached_under(self) -> tuple[str, str]:
        from dynamo.langgraph.pregel._call import identifier

        return CACHE_NS_WRITES, identifier(self.func) or "__dynamic__"

    def clear_cache(self, cache: "BaseCache[Any]") -> None:
        """Forget the results of this task."""
        if self.cache_policy:
            cache.clear((self._cached_under(),))

    async def aclear_cache(self, cache: "BaseCache[Any]") -> None:
        """Forget the results of this task."""
        if self.cache_policy:
            await cache.aclear((self._cached_under(),))


class _MakesTask(typing.Protocol):
    """What `task` with arguments gives: a decorator."""

    @overload
    def __call__(self, func: Callable[P, Awaitable[T]], /) -> _TaskFunction[P, T]: ...
    @overload
    def __call__(self, func: Callable[P, T], /) -> _TaskFunction[P, T]: ...


@overload
def task(
    __func_or_none__: None = None,
    *,
    name: str | None = None,
    retry_policy: RetryPolicy | Sequence[RetryPolicy] | None = None,
    cache_policy: "CachePolicy[Callable[..., str | bytes]] | None" = None,
    timeout: float | timedelta | TimeoutPolicy | None = None,
    **kwargs: Any,
) -> _MakesTask: ...
@overload
def task(__func_or_none__: Callable[P, Awaitable[T]]) -> _TaskFunction[P, T]: ...
@overload
def task(__func_or_none__: Callable[P, T]) -> _TaskFunction[P, T]: ...


def task(
    __func_or_none__: "Callable[P, Awaitable[T]] | Callable[P, T] | None" = None,
    *,
    name: str | None = None,
    retry_policy: RetryPolicy | Sequence[RetryPolicy] | None = None,
    cache_policy: "CachePolicy[Callable[..., str | bytes]] | None" = None,
    timeout: float | timedelta | TimeoutPolicy | None = None,
    **kwargs: Any,
) -> "_MakesTask | _TaskFunction[P, T]":
    """Make a function a task, with or without arguments to the decorator.

    Called from an entrypoint, a task or a node, it starts at once and gives a future: ``.result()`` in sync code,
    ``await`` in async code. With a checkpointer its result is saved, so that a resumed workflow does not run it again.

    Parameters
    ----------
    name : in streams and traces; that of the function by default
    retry_policy : when to try again; of several, the first that fits the error
    cache_policy : reuse results for equal arguments
    timeout : how long an attempt may take (async functions)
    """
    retry_policy = renamed(kwargs, "retry", "retry_policy", retry_policy, LangGraphDeprecatedSinceV05)
    limit = coerce_timeout_policy(timeout)

    def decorate(func: Any) -> _TaskFunction[P, T]:
        if limit is not None and not is_async_callable(func):
            raise sync_timeout_unsupported(name or str(getattr(func, "__name__", type(func).__name__)), kind="Task")
        policies: Any = {"retry_policy": _policies(retry_policy), "cache_policy": cache_policy, "timeout": limit}
        return _TaskFunction(func, name=name, **policies)

    return typing.cast("_MakesTask", decorate) if __func_or_none__ is None else decorate(__func_or_none__)


class entrypoint(WithDefaults, Generic[ContextT]):
    """Make a function a workflow: an object with `invoke`, `stream` and the rest of a compiled graph.

    The function gets the input as its first argument, and whatever else it names: ``previous`` (what it returned for
    this thread the last time), ``config``, ``store``, ``writer``, ``runtime``.

    Parameters
    ----------
    checkpointer : saves results of tasks and of the workflow, so that threads can be resumed
    store : kept across threads
    cache : for tasks with a cache policy
    context_schema : what a run is given beside the input, for ``runtime.context``
    cache_policy, retry_policy, timeout : of the workflow itself

    Examples
    --------
    >>> @task
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> @entrypoint()
    ... def twice(n: int) -> int:
    ...     return double(n).result() + double(n).result()
    >>> twice.invoke(3)
    12
    """

    def __init__(
        self,
        checkpointer: "BaseCheckpointSaver[Any] | None" = None,
        store: "BaseStore | None" = None,
        cache: "BaseCache[Any] | None" = None,
        context_schema: type[ContextT] | None = None,
        cache_policy: CachePolicy[Any] | None = None,
        retry_policy: RetryPolicy | Sequence[RetryPolicy] | None = None,
        timeout: float | timedelta | TimeoutPolicy | None = None,
        **kwargs: Any,
    ) -> None:
        self.context_schema = renamed(
            kwargs, "config_schema", "context_schema", context_schema, LangGraphDeprecatedSinceV10
        )
        self.retry_policy = _policies(
            renamed(kwargs, "retry", "retry_policy", retry_policy, LangGraphDeprecatedSinceV05)
        )
        self.checkpointer, self.store, self.cache = checkpointer, store, cache
        self.cache_policy, self.timeout = cache_policy, coerce_timeout_policy(timeout)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class final(Generic[R, S]):
        """Return one thing and keep another for the next run of the thread.

        Attributes
        ----------
        value : what the caller gets
        save : what the next run gets as ``previous``
        """

        value: R
        save: S

    def __call__(self, func: Callable[..., Any]) -> "Pregel[Any, Any, Any, Any]":
        """The workflow of a function."""
        from dynamo.langgraph.channels.ephemeral_value import EphemeralValue
        from dynamo.langgraph.channels.last_value import LastValue
        from dynamo.langgraph.pregel._call import get_runnable_for_entrypoint
        from dynamo.langgraph.pregel._read import PregelNode
        from dynamo.langgraph.pregel._write import ChannelWrite, ChannelWriteEntry
        from dynamo.langgraph.pregel.main import Pregel

        if inspect.isgeneratorfunction(func) or is_async_generator(func):
            raise NotImplementedError("Generators are not supported in the Functional API.")
        name = getattr(func, "__name__", None) or type(func).__name__
        if self.timeout is not None and not is_async_callable(func):
            raise sync_timeout_unsupported(name, kind="Node")
        taken, returned, saved = _types_of(func)
        results = [ChannelWriteEntry(END, mapper=_value), ChannelWriteEntry(PREVIOUS, mapper=_save)]
        bound, writers = get_runnable_for_entrypoint(func), [ChannelWrite(results)]
        node = PregelNode(channels=START, triggers=(START,), bound=bound, writers=writers, timeout=self.timeout)
        ends: dict[str, Any] = {END: LastValue(returned, END), PREVIOUS: LastValue(saved, PREVIOUS)}
        given = ("checkpointer", "store", "cache", "cache_policy", "retry_policy", "context_schema")
        options: Any = {option: getattr(self, option) for option in given}
        shown: Any = {"input_channels": START, "output_channels": END, "stream_channels": END}
        return Pregel(
            nodes={name: node},
            channels={START: EphemeralValue(taken), **ends},
            **shown,
            **options,
            stream_eager=True,
            stream_mode="updates",
        )


def _value(result: Any) -> Any:
    return result.value if isinstance(result, entrypoint.final) else result


def _save(result: Any) -> Any:
    return result.save if isinstance(result, entrypoint.final) else result


def _types_of(func: Callable[..., Any]) -> tuple[Any, Any, Any]:
    """What a workflow takes, returns and saves, as far as its annotations say."""
    signature = inspect.signature(func)
    first = next(iter(signature.parameters.values()), None)
    if first is None:
        raise ValueError("Entrypoint function must have at least one parameter: its input")
    taken = Any if first.annotation is inspect.Parameter.empty else first.annotation
    returned = signature.return_annotation
    if returned is inspect.Signature.empty or returned is entrypoint.final:
        return taken, Any, Any
    if get_origin(returned) is entrypoint.final:
        value, save = get_args(returned)
        return taken, value, save
    return taken, returned, returned


own(globals())
