"""What runs a node: a function wrapped so that it can be invoked either way, and a sequence of such steps.

    RunnableSeq          a node: its function, then its writers        one traced run per node
      steps[0]           the function, in a context of its own
      steps[1:]          writers and path functions
    RunnableCallable     one function; arguments that it names are filled in from the run

The engine calls plain functions past all this (docs/design/langgraph.md); here is the exact path, which is also what
anybody gets who invokes these objects by themselves. Callback managers are made only when somebody listens.

I1  A function gets only what it names: `config`, `writer`, `store`, `previous`, `runtime`, and `error` by its type.
I2  child_config is the configuration of the run in every function with trace=True and in the first step of a sequence.
"""

import inspect
import sys
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial, wraps
from types import FunctionType
from typing import Any, Final, TypeGuard
from warnings import warn

from dynamo.langgraph._internal._config import (
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    patch_config,
)
from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_NODE_ERROR, CONFIG_KEY_RUNTIME
from dynamo.langgraph._internal._langchain import (
    VirtualRunnable,
    child_config,
    is_runnable,
    loaded,
    runnable_class,
    tracing,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.types import StreamWriter, TracePolicy

if typing.TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Executor

    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.runnables import Runnable, RunnableConfig

ASYNCIO_ACCEPTS_CONTEXT: Final = sys.version_info >= (3, 11)


def __getattr__(name: str) -> Any:
    value: Any
    if name == "Runnable":
        value = runnable_class()
    elif name == "RunnableLike":
        from langchain_core.runnables.base import RunnableLike as LangChainLike

        value = LangChainLike | Callable[..., Any]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


# ------------------------------------------------------------------ kinds of functions
def is_async_callable(func: Any) -> "TypeGuard[Callable[..., Awaitable[Any]]]":
    """Whether calling `func` gives a coroutine: a coroutine function, or an object whose ``__call__`` is one."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004


def is_async_generator(func: Any) -> "TypeGuard[Callable[..., AsyncIterator[Any]]]":
    """Whether calling `func` gives an async generator."""
    return inspect.isasyncgenfunction(func) or inspect.isasyncgenfunction(getattr(func, "__call__", None))  # noqa: B004


async def run_in_executor(
    executor_or_config: "Executor | RunnableConfig | None", func: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Run a blocking function on a thread, in a copy of the present context."""

    import asyncio
    from concurrent.futures import Executor

    def call() -> Any:
        try:
            return func(*args, **kwargs)
        except StopIteration as stop:  # a future cannot carry it
            raise RuntimeError from stop

    executor = executor_or_config if isinstance(executor_or_config, Executor) else None
    return await asyncio.get_running_loop().run_in_executor(executor, copy_context().run, call)


# ------------------------------------------------------------------ the context of a run
def context_for(config: "RunnableConfig", run: Any = None) -> Context:
    """A copy of the present context in which `config` is the current configuration.

    If a LangSmith tracer records `run`, what is traced in that context becomes its child there too.
    """
    context = copy_context()
    context.run(child_config.set, config)
    tracer_class = loaded("langchain_core.tracers.langchain", "LangChainTracer") if run is not None else None
    if tracer_class is not None:
        for handler in run.handlers:
            if isinstance(handler, tracer_class):
                parent = handler.run_map.get(str(run.run_id))
                if parent is not None:
                    from langsmith.run_helpers import _set_tracing_context

                    context.run(_set_tracing_context, {"parent": parent})
                break
    return context


@contextmanager
def set_config_context(config: "RunnableConfig", run: Any = None) -> Iterator[Context]:
    """The same as a context manager: run what belongs to the configuration with ``context.run``."""
    yield context_for(config, run)


def create_task_in_config_context(
    coro_factory: Callable[[], Coroutine[Any, Any, Any]], config: "RunnableConfig"
) -> "asyncio.Task[Any]":
    """Start a coroutine as a task whose current configuration is `config`."""
    import asyncio

    context = context_for(config)
    if sys.version_info >= (3, 11):
        return asyncio.create_task(coro_factory(), context=context)
    return context.run(lambda: asyncio.get_running_loop().create_task(coro_factory()))


def watched(config: "RunnableConfig") -> bool:
    """Whether anybody would be told of a run with this configuration."""
    callbacks = config.get("callbacks")
    if callbacks and (isinstance(callbacks, list) or callbacks.handlers or callbacks.inheritable_handlers):
        return True
    return tracing()


# ------------------------------------------------------------------ arguments filled in
_REQUIRED = inspect.Parameter.empty
_NAMED_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_FILLED_IN = frozenset({"config", "writer", "store", "previous", "runtime", "error"})


def _unwatched_writer(_: Any) -> None:
    """For functions that are invoked outside of a graph."""


def _type_name(annotation: Any) -> tuple[str, bool]:
    """The last name of an annotation, also of one that is still a string, and whether None is allowed beside it."""
    if isinstance(annotation, str):
        text = annotation.strip("\"' ").replace(" ", "")
        optional = False
        for head in ("typing.Optional[", "Optional["):
            if text.startswith(head) and text.endswith("]"):
                text, optional = text[len(head) : -1], True
        arms = [arm for arm in text.split("|") if arm != "None"]
        if len(arms) != 1:
            return "", optional
        return arms[0].strip("\"'").rpartition(".")[2], optional or "|" in text
    arms_ = getattr(annotation, "__args__", ())
    if type(None) in arms_ and len(arms_) == 2:
        (inner,) = (arm for arm in arms_ if arm is not type(None))
        return _type_name(inner)[0], True
    return ("StreamWriter" if annotation == StreamWriter else getattr(annotation, "__name__", "")), False


def _fillings(func: Callable[..., Any]) -> dict[str, tuple[str, Any]]:
    """Which parameters of a function are filled in: name -> (where from, what if it is not there)."""
    if type(func) is FunctionType:
        # Reading the code object is enough for nearly every function, and twenty times as fast.
        code = func.__code__
        count = code.co_argcount + code.co_kwonlyargcount
        if _FILLED_IN.isdisjoint(code.co_varnames[:count]) and "__wrapped__" not in func.__dict__:
            return {}
    try:
        parameters = inspect.signature(func).parameters
    except ValueError:  # some builtins have none
        return {}
    found: dict[str, tuple[str, Any]] = {}
    for name, parameter in parameters.items():
        if name not in _FILLED_IN or parameter.kind not in _NAMED_KINDS:
            continue
        bare = parameter.annotation is _REQUIRED
        type_name, optional = ("", False) if bare else _type_name(parameter.annotation)
        if name == "config":
            if bare or type_name == "RunnableConfig":
                found[name] = ("config", _REQUIRED)
            else:
                text = (
                    "The 'config' parameter should be typed as 'RunnableConfig' or 'RunnableConfig | None', not "
                    f"'{parameter.annotation}'. "
                )
                warn(text, UserWarning, stacklevel=4)
        elif name == "writer" and (bare or type_name == "StreamWriter"):
            found[name] = ("stream_writer", _unwatched_writer)
        elif name == "store" and (bare or type_name == "BaseStore"):
            found[name] = ("store", None if optional else _REQUIRED)
        elif name in ("previous", "runtime"):
            found[name] = (name, _REQUIRED)
        elif name == "error" and type_name == "NodeError" and not optional:
            found[name] = ("error", None)
    return found


# ------------------------------------------------------------------ one function
class RunnableCallable(VirtualRunnable):
    """A function as a Runnable.

    Parameters
    ----------
    func, afunc : the function, its coroutine function, or both; with only `func`, async runs call it in place
    name : shown in traces; that of the function, unless it is a lambda
    tags : tags of its traced runs
    trace : whether it is a run of its own, which also sets the current configuration
    recurse : whether a Runnable that it returns is invoked on the same input
    explode_args : the input is a pair (args, kwargs) to call the function with
    kwargs : passed to every call

    Attributes
    ----------
    func_accepts : the parameters that are filled in: name -> (where from, what if it is not there)
    plain : whether a call is just ``func(input)``
    """

    def __init__(
        self,
        func: "Callable[..., Any | Runnable[Any, Any]] | None",
        afunc: "Callable[..., Awaitable[Any | Runnable[Any, Any]]] | None" = None,
        *,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        trace: bool = True,
        recurse: bool = True,
        explode_args: bool = False,
        **kwargs: Any,
    ) -> None:
        shown = func if func is not None else afunc
        if shown is None:
            raise ValueError("At least one of func or afunc must be provided: there is nothing to call")
        if name is None:
            name = getattr(shown, "__name__", None)
            if name == "<lambda>":
                name = None
        self.name = name
        self.func, self.afunc, self.kwargs = func, afunc, kwargs
        self.tags, self.trace = tags, trace
        self.recurse, self.explode_args = recurse, explode_args
        self.func_accepts = _fillings(shown)

    @property
    def plain(self) -> bool:
        return not (self.func_accepts or self.kwargs or self.explode_args)

    def __repr__(self) -> str:
        said = {k: getattr(self, k) for k in ("tags", "recurse", "explode_args", "func_accepts")}
        return f"{self.get_name()}({', '.join(f'{key}={value!r}' for key, value in said.items())})"

    def _arguments(
        self, input: Any, config: "RunnableConfig", given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What to call the function with."""
        args: tuple[Any, ...] = (input,)
        kwargs = {**self.kwargs, **given}
        if self.explode_args:
            args, exploded = input
            kwargs = {**self.kwargs, **exploded, **given}
        if not self.func_accepts:
            return args, kwargs
        conf: dict[str, Any] = config.get(CONF) or {}
        runtime = conf.get(CONFIG_KEY_RUNTIME)
        for name, (source, default) in self.func_accepts.items():
            if name in kwargs:
                continue
            if source == "config":
                value: Any = config
            elif source == "error":
                value = conf.get(CONFIG_KEY_NODE_ERROR, default)
            elif source == "runtime":
                value = default if runtime is None else runtime
            else:
                value = default if runtime is None else getattr(runtime, source, default)
            if value is _REQUIRED:
                raise ValueError(
                    f"Missing required config key {source!r} for {self.name!r}. A graph provides it; to invoke the "
                    f"function by itself, pass {name}= or a Runtime in config['configurable']['{CONFIG_KEY_RUNTIME}']."
                )
            kwargs[name] = value
        return args, kwargs

    def invoke(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> Any:
        function = self.func
        if function is None:
            raise TypeError(
                f'No synchronous function provided to "{self.name}".\nEither initialize with a synchronous function '
                "or invoke via the async API (ainvoke, astream, etc.)"
            )
        config = ensure_config() if config is None else config
        args, kwargs = self._arguments(input, config, kwargs)
        if not self.trace:
            result = function(*args, **kwargs)
        elif not watched(config):
            result = context_for(patch_config(config)).run(function, *args, **kwargs)
        else:
            manager = get_callback_manager_for_config(config, self.tags)
            run = manager.on_chain_start(
                None, input, name=config.get("run_name") or self.get_name(), run_id=config.pop("run_id", None)
            )
            try:
                context = context_for(patch_config(config, callbacks=run.get_child()), run)
                result = context.run(function, *args, **kwargs)
            except BaseException as error:
                run.on_chain_error(error)
                raise
            run.on_chain_end(result)
        if self.recurse and is_runnable(result):
            return result.invoke(input, config)
        return result

    async def ainvoke(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> Any:
        if self.afunc is None:
            return self.invoke(input, config, **kwargs)
        config = ensure_config() if config is None else config
        args, kwargs = self._arguments(input, config, kwargs)
        if not self.trace:
            result = await self.afunc(*args, **kwargs)
        elif not watched(config):
            result = await _in_task(context_for(patch_config(config)), self.afunc, *args, **kwargs)
        else:
            manager = get_async_callback_manager_for_config(config, self.tags)
            run = await manager.on_chain_start(
                None, input, name=config.get("run_name") or self.get_name(), run_id=config.pop("run_id", None)
            )
            try:
                context = context_for(patch_config(config, callbacks=run.get_child()), run)
                result = await _in_task(context, self.afunc, *args, **kwargs)
            except BaseException as error:
                await run.on_chain_error(error)
                raise
            await run.on_chain_end(result)
        if self.recurse and is_runnable(result):
            return await result.ainvoke(input, config)
        return result


async def _in_task(context: Context, func: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
    """Await a coroutine in a context, which takes a task of its own. Before Python 3.11 a task cannot be given one."""
    if sys.version_info < (3, 11):
        return await context.run(func, *args, **kwargs)
    awaitable = context.run(func, *args, **kwargs)
    if not inspect.iscoroutine(awaitable):
        return await awaitable
    import asyncio

    return await asyncio.create_task(awaitable, context=context)


def coerce_to_runnable(thing: Any, *, name: str | None, trace: bool) -> Any:
    """A Runnable from whatever can be a node: a Runnable, any kind of function, or a mapping of those."""
    made: Any = thing if is_runnable(thing) else None
    if made is None and (is_async_generator(thing) or inspect.isgeneratorfunction(thing)):
        from langchain_core.runnables import RunnableLambda

        made = RunnableLambda(thing, name=name)
    elif made is None and callable(thing):
        threaded = None if is_async_callable(thing) else wraps(thing)(partial(run_in_executor, None, thing))
        both = (None, thing) if threaded is None else (thing, threaded)
        made = RunnableCallable(*both, name=name, trace=trace)
    elif made is None and isinstance(thing, dict):
        from langchain_core.runnables import RunnableParallel

        made = RunnableParallel(thing)
    elif made is None and isinstance(thing, loaded("dynamo.runtime.client", "Client") or ()):
        from dynamo.graphs.endpoint import endpoint_node

        made = endpoint_node(thing, name=name)
    if made is not None:
        return made
    which = "" if name is None else f" for {name!r}"
    raise TypeError(f"Expected a Runnable, callable or dict{which}. Instead got an unsupported type: {type(thing)}")


# ------------------------------------------------------------------ several steps
class _Split:
    """A run that is told to some handlers in one way and to tracers in another.

    Both see the same run id, and children of the run have the handlers of both.
    """

    def __init__(self, seen: Any, traced: Any, children: Any) -> None:
        self.seen = seen
        self.traced = traced
        self.children = children

    @property
    def run_id(self) -> Any:
        return self.children.run_id

    @property
    def handlers(self) -> list[Any]:
        return self.children.handlers  # type: ignore[no-any-return]

    def get_child(self, tag: str | None = None) -> Any:
        return self.children.get_child(tag)


def _is_stream_handler(handler: "BaseCallbackHandler") -> bool:
    """Whether a handler passes on what a run gives, as `astream_events` does, rather than recording it."""
    streaming = loaded("langchain_core.tracers._streaming", "_StreamingCallbackHandler")
    # By descent: the class is a protocol, which any handler with methods of those names would fulfil.
    return streaming is not None and streaming in type(handler).__mro__


def _is_recording(handler: "BaseCallbackHandler") -> bool:
    tracer = loaded("langchain_core.tracers.base", "BaseTracer")
    return tracer is not None and isinstance(handler, tracer) and not _is_stream_handler(handler)


def _split_handlers(manager: Any) -> tuple[Any, Any]:
    """A manager's handlers as two managers: those that record, and the rest."""
    recording, others = manager.copy(), manager.copy()
    for part, wanted in ((recording, True), (others, False)):
        part.handlers = [h for h in part.handlers if _is_recording(h) is wanted]
        part.inheritable_handlers = [h for h in part.inheritable_handlers if _is_recording(h) is wanted]
    return recording, others


def _trace_payload(value: Any, transform: Callable[[Any], Any] | None) -> Any:
    """What to record instead of `value`; when the policy's function fails, the value itself."""
    try:
        return value if transform is None else transform(value)
    except Exception:
        import logging

        logging.getLogger("langgraph._internal._runnable").warning("A trace policy failed", exc_info=True)
        return value


class RunnableSeq(VirtualRunnable):
    """Two or more steps, each on the result of the one before.

    Parameters
    ----------
    steps : Runnables or functions; sequences among them are taken apart
    name : shown in traces
    trace_inputs : changes what every handler is told of the input
    trace_policy : changes what tracers record of input and output
    """

    def __init__(
        self,
        *steps: Any,
        name: str | None = None,
        trace_inputs: Callable[[Any], Any] | None = None,
        trace_policy: TracePolicy | None = None,
    ) -> None:
        flat: list[Any] = []
        for given in steps:
            inner = sequence_steps(given)
            flat += [coerce_to_runnable(given, name=None, trace=True)] if inner is None else inner
        if len(flat) < 2:
            raise ValueError(f"RunnableSeq must have at least 2 steps, got {len(flat)}")
        self.steps, self.name = flat, name
        self.trace_inputs, self.trace_policy = trace_inputs, trace_policy or TracePolicy()

    def __or__(self, other: Any) -> Any:
        return RunnableSeq(*self.steps, other, name=self.name, trace_policy=self.trace_policy)

    def __ror__(self, other: Any) -> Any:
        return RunnableSeq(other, *self.steps, name=self.name, trace_policy=self.trace_policy)

    # What handlers are told. With a policy that changes something there are two tellings of one run.
    def _told(self, input: Any, config: "RunnableConfig") -> tuple[dict[str, Any], Any]:
        labels = {"name": config.get("run_name") or self.get_name(), "run_id": config.pop("run_id", None)}
        return labels, self.trace_inputs(input) if self.trace_inputs is not None else input

    @property
    def _masked(self) -> bool:
        return self.trace_policy.process_inputs is not None or self.trace_policy.process_outputs is not None

    def _start(self, input: Any, config: "RunnableConfig") -> Any:
        manager = get_callback_manager_for_config(config)
        labels, told = self._told(input, config)
        if not self._masked:
            return manager.on_chain_start(None, told, **labels)
        recording, others = _split_handlers(manager)
        traced = recording.on_chain_start(None, _trace_payload(told, self.trace_policy.process_inputs), **labels)
        seen = others.on_chain_start(None, told, **{**labels, "run_id": traced.run_id})
        return _Split(seen, traced, _rejoined(manager, traced))

    async def _astart(self, input: Any, config: "RunnableConfig") -> Any:
        manager = get_async_callback_manager_for_config(config)
        labels, told = self._told(input, config)
        if not self._masked:
            return await manager.on_chain_start(None, told, **labels)
        recording, others = _split_handlers(manager)
        traced = await recording.on_chain_start(None, _trace_payload(told, self.trace_policy.process_inputs), **labels)
        seen = await others.on_chain_start(None, told, **{**labels, "run_id": traced.run_id})
        return _Split(seen, traced, _rejoined(manager, traced))

    def _ends(self, run: Any, output: Any) -> Iterator[tuple[Any, Any]]:
        """Which managers are told of the end, and of which output."""
        if isinstance(run, _Split):
            yield run.traced, _trace_payload(output, self.trace_policy.process_outputs)
            run = run.seen
        yield run, output

    def _end(self, run_manager: Any, output: Any) -> None:
        for part, told in self._ends(run_manager, output):
            part.on_chain_end(told)

    async def _aend(self, run_manager: Any, output: Any) -> None:
        for part, told in self._ends(run_manager, output):
            await part.on_chain_end(told)

    async def _shielded_end(self, run: Any, output: Any) -> None:
        # Whoever is cancelled here has ended its run all the same, and handlers are to hear of it. One telling is
        # shielded by langchain-core already.
        if not isinstance(run, _Split):
            return await self._aend(run, output)
        import asyncio

        await asyncio.shield(self._aend(run, output))

    def invoke(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> Any:
        config = ensure_config() if config is None else config
        first, *others = self.steps
        if not watched(config):
            if self._masked:
                self._mask_unseen(input)
            quiet = without_run(config)
            result = context_for(quiet).run(first.invoke, input, quiet, **kwargs)
            for step in others:
                result = step.invoke(result, quiet)
            return result
        run = self._start(input, config)
        try:
            own_config = patch_config(config, callbacks=run.get_child("seq:step:1"))
            result = context_for(own_config, run).run(first.invoke, input, own_config, **kwargs)
            for number, step in enumerate(others, 2):
                result = step.invoke(result, patch_config(config, callbacks=run.get_child(f"seq:step:{number}")))
        except BaseException as error:
            for part in _tellings(run):
                part.on_chain_error(error)
            raise
        self._end(run, result)
        return result

    async def ainvoke(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> Any:
        config = ensure_config() if config is None else config
        first, *others = self.steps
        if not watched(config):
            if self._masked:
                self._mask_unseen(input)
            quiet = without_run(config)
            result = await _in_task(context_for(quiet), first.ainvoke, input, quiet, **kwargs)
            for step in others:
                result = await step.ainvoke(result, quiet)
            return result
        run = await self._astart(input, config)
        try:
            own_config = patch_config(config, callbacks=run.get_child("seq:step:1"))
            result = await _in_task(context_for(own_config, run), first.ainvoke, input, own_config, **kwargs)
            for number, step in enumerate(others, 2):
                result = await step.ainvoke(result, patch_config(config, callbacks=run.get_child(f"seq:step:{number}")))
        except BaseException as error:
            for part in _tellings(run):
                await part.on_chain_error(error)
            raise
        await self._shielded_end(run, result)
        return result

    def stream(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> Iterator[Any]:
        """Like `invoke`, in the pieces in which the steps give it; handlers that pass pieces on get each of them."""
        config = ensure_config() if config is None else config
        if not watched(config):
            yield self.invoke(input, config, **kwargs)
            return
        run = self._start(input, config)
        output: Any = MISSING
        try:
            own_config = patch_config(config, callbacks=run.get_child("seq:step:1"))
            context = context_for(own_config, run)
            pieces = _within(context, context.run(self.steps[0].stream, input, own_config, **kwargs))
            for number, step in enumerate(self.steps[1:], 2):
                pieces = step.transform(pieces, patch_config(config, callbacks=run.get_child(f"seq:step:{number}")))
            for handler in run.handlers:
                if _is_stream_handler(handler):
                    pieces = handler.tap_output_iter(run.run_id, pieces)
            for piece in pieces:
                output = _joined(output, piece)
                yield piece
        except GeneratorExit:
            self._end(run, None if output is MISSING else output)
            raise
        except BaseException as error:
            for part in _tellings(run):
                part.on_chain_error(error)
            raise
        self._end(run, None if output is MISSING else output)

    async def astream(self, input: Any, config: "RunnableConfig | None" = None, **kwargs: Any) -> AsyncIterator[Any]:
        """Like `ainvoke`, in the pieces in which the steps give it; handlers that pass pieces on get each of them."""
        config = ensure_config() if config is None else config
        if not watched(config):
            yield await self.ainvoke(input, config, **kwargs)
            return
        run = await self._astart(input, config)
        output: Any = MISSING
        try:
            own_config = patch_config(config, callbacks=run.get_child("seq:step:1"))
            context = context_for(own_config, run)
            first = self.steps[0]
            if isinstance(first, RunnableCallable):
                pieces = _once(context, first.ainvoke, input, own_config, **kwargs)
            else:
                pieces = _awithin(context, context.run(first.astream, input, own_config, **kwargs))
            for number, step in enumerate(self.steps[1:], 2):
                pieces = step.atransform(pieces, patch_config(config, callbacks=run.get_child(f"seq:step:{number}")))
            for handler in run.handlers:
                if _is_stream_handler(handler):
                    pieces = handler.tap_output_aiter(run.run_id, pieces)
            async for piece in pieces:
                output = _joined(output, piece)
                yield piece
        except GeneratorExit:
            await self._aend(run, None if output is MISSING else output)
            raise
        except BaseException as error:
            for part in _tellings(run):
                await part.on_chain_error(error)
            raise
        await self._shielded_end(run, None if output is MISSING else output)

    def _mask_unseen(self, input: Any) -> None:
        _trace_payload(input, self.trace_policy.process_inputs)


def without_run(config: "RunnableConfig") -> "RunnableConfig":
    """A configuration for the steps of a run that nobody is told of: its name and id are not theirs."""
    if "run_name" in config or "run_id" in config:
        config = {k: v for k, v in config.items() if k not in ("run_name", "run_id")}  # type: ignore[assignment]
    return config or {}


def _tellings(run: Any) -> Sequence[Any]:
    return (run.traced, run.seen) if isinstance(run, _Split) else (run,)


def _rejoined(manager: Any, run: Any) -> Any:
    """The run as one manager with all the handlers, for its children."""
    parts = ("handlers", "tags", "metadata")
    named = ("parent_run_id", *parts, *(f"inheritable_{part}" for part in parts))
    return type(run)(run_id=run.run_id, **{name: getattr(manager, name) for name in named})


def _within(context: Context, pieces: Iterator[Any]) -> Iterator[Any]:
    """An iterator each step of which runs in a context."""
    while True:
        piece = context.run(next, pieces, MISSING)
        if piece is MISSING:
            return
        yield piece


async def _awithin(context: Context, pieces: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async def step() -> Any:
        return await anext(pieces, MISSING)

    while True:
        piece = await _in_task(context, step)
        if piece is MISSING:
            return
        yield piece


async def _once(context: Context, func: Callable[..., Any], *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    yield await _in_task(context, func, *args, **kwargs)


def _joined(output: Any, piece: Any) -> Any:
    """What the pieces so far amount to: their sum, or the last one where they cannot be added."""
    if output is MISSING or output is None:
        return piece
    try:
        return output + piece
    except TypeError:
        return piece


def sequence_steps(runnable: Any) -> list[Any] | None:
    """The steps of one of our sequences or one of langchain-core's; None for anything else."""
    if isinstance(runnable, RunnableSeq):
        return list(runnable.steps)
    theirs = loaded("langchain_core.runnables.base", "RunnableSequence")
    return list(runnable.steps) if theirs is not None and isinstance(runnable, theirs) else None


own(globals())
