"""What can be found out about nodes without running them: graphs inside them, whether they are asynchronous."""

import dis
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeAlias

from dynamo.langgraph._internal._langchain import is_runnable, loaded, runnable_class
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._runnable import RunnableCallable, RunnableSeq, run_in_executor

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

    from dynamo.langgraph.pregel.protocol import PregelProtocol

ChannelVersions: TypeAlias = dict[str, str | int | float]


def get_new_channel_versions(previous_versions: ChannelVersions, current_versions: ChannelVersions) -> ChannelVersions:
    """The versions of the channels that have moved."""
    if not previous_versions:
        return current_versions
    return {
        name: version
        for name, version in current_versions.items()
        if name not in previous_versions or version > previous_versions[name]  # type: ignore[operator]
    }


def is_xxh3_128_hexdigest(value: str) -> bool:
    """Whether a text can be the id of an interrupt."""
    return len(value) == 32 and set(value) <= set("0123456789abcdef")


# ------------------------------------------------------------------ graphs inside nodes
def find_subgraph_pregel(candidate: "Runnable[Any, Any]") -> "PregelProtocol[Any, Any, Any, Any] | None":
    """The first graph that a node is, consists of, or refers to; one that never saves its state does not count."""
    from dynamo.langgraph.pregel.protocol import PregelProtocol

    open_: list[Any] = [candidate]
    met = {id(candidate)}  # a function may use the runnable that it is in
    for thing in open_:  # grows meanwhile: breadth first
        if isinstance(thing, PregelProtocol):
            if getattr(thing, "checkpointer", None) is not False:
                return thing
        else:
            fresh = {id(part): part for part in _inside(thing) if id(part) not in met}
            met.update(fresh)
            open_.extend(fresh.values())
    return None


def _inside(thing: Any) -> Iterable[Any]:
    """What a runnable is made of, as far as it shows."""
    if isinstance(thing, RunnableCallable):
        functions = [function for function in (thing.func, thing.afunc) if function is not None]
        return [found for function in functions for found in _runnables_of(function)]
    return _parts(thing, "RunnableSequence", "RunnableLambda") or ()


def _runnables_of(function: Any) -> Iterator[Any]:
    for value in get_function_nonlocals(function):
        owner = getattr(value, "__self__", value)  # `run = graph.invoke` stands for the graph
        if is_runnable(owner):
            yield owner


# Kinds of runnables of langchain-core -> what one consists of.
_BASE, _PASSTHROUGH = "langchain_core.runnables.base", "langchain_core.runnables.passthrough"
_KINDS: dict[str, tuple[str, Callable[[Any], Iterable[Any]]]] = {
    "RunnableSequence": (_BASE, lambda thing: thing.steps),
    "RunnableParallel": (_BASE, lambda thing: thing.steps__.values()),
    "RunnableBindingBase": (_BASE, lambda thing: (thing.bound,)),
    "RunnableAssign": (_PASSTHROUGH, lambda thing: (thing.mapper,)),
    "RunnableLambda": (_BASE, lambda thing: thing.deps),
}


def _parts(thing: Any, *kinds: str) -> Iterable[Any] | None:
    """What a sequence of ours consists of, or a runnable of one of these kinds; None for any other."""
    if isinstance(thing, RunnableSeq):
        return thing.steps
    for name in kinds:
        if _is(thing, name):
            return _KINDS[name][1](thing)
    return None


def _is(thing: Any, name: str) -> bool:
    kind = loaded(_KINDS[name][0], name)
    return kind is not None and isinstance(thing, kind)


# Values of exactly these types lead nowhere; a subclass may have attributes.
_LEAF_TYPES = frozenset(
    (str, bytes, bytearray, int, float, complex, bool, type(None), list, tuple, dict, set, frozenset)
)


def get_function_nonlocals(func: Callable[..., Any]) -> list[Any]:
    """What a function can reach by name: captured variables, globals that it uses, and attributes of both.

    Read from its byte code, so no source is needed. A nested function counts for what was captured, not for globals.
    What ``__wrapped__`` leads to counts too.
    """
    found: list[Any] = []
    met: set[int] = set()
    function: Any = func
    while function is not None and id(function) not in met:
        met.add(id(function))
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            found.extend(_reached(function, code))
        function = getattr(function, "__wrapped__", None)
    return found


def _reached(function: Any, code: CodeType) -> Iterator[Any]:
    captured: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            captured[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    everything = getattr(function, "__globals__", {})
    named = {name: everything[name] for name in code.co_names if name in everything}
    roots = [*captured.values(), *named.values()]
    yield from captured.values()
    if all(type(value) in _LEAF_TYPES for value in roots):
        return
    for name, *attributes in sorted(set(_chains(code, named, captured))):
        value = captured[name] if name in captured else named[name]
        if name in named and name not in captured:
            yield value
        for attribute in attributes:
            try:
                value = getattr(value, attribute)
            except Exception:  # it may be a property, of anything
                break
            yield value


_ROOTS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
_STEPS = ("LOAD_ATTR", "LOAD_METHOD")


def _chains(
    code: CodeType, named: Mapping[str, Any], captured: Mapping[str, Any], nested: bool = False
) -> Iterator[tuple[str, ...]]:
    """The paths ``name.attribute...`` that code loads."""
    path: tuple[str, ...] = ()
    for instruction in dis.get_instructions(code):
        if instruction.opname == "EXTENDED_ARG":
            continue
        if path and instruction.opname in _STEPS:
            path = (*path, instruction.argval)
            continue
        if path:
            yield path
        path = ()
        if instruction.opname in _ROOTS:
            name = instruction.argval
            if name in captured if "DEREF" in instruction.opname else not nested and name in named:
                path = (name,)
    if path:
        yield path
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = {name: captured[name] for name in constant.co_freevars if name in captured}
            if inner:
                yield from _chains(constant, {}, inner, nested=True)


# ------------------------------------------------------------------ asynchronous nodes
def validate_timeout_supported(runnable: "Runnable[Any, Any]", *, name: str) -> None:
    """Refuse a time limit for a node that runs on a thread, where nothing can stop it."""
    if not _natively_async(runnable):
        raise ValueError(
            "Node timeouts are only supported for async nodes because sync Python execution cannot be safely "
            f"cancelled in-process. Node '{name}' is sync."
        )


def _natively_async(runnable: Any) -> bool:
    if isinstance(runnable, RunnableCallable):
        return runnable.afunc is not None and not _only_threads(runnable.afunc)
    parts = _parts(runnable, "RunnableSequence", "RunnableParallel", "RunnableBindingBase", "RunnableAssign")
    if parts is not None:
        return all(map(_natively_async, parts))
    if _is(runnable, "RunnableLambda"):
        return hasattr(runnable, "afunc")
    return is_runnable(runnable) and type(runnable).ainvoke is not runnable_class().ainvoke


def _only_threads(function: Any) -> bool:
    """Whether a coroutine function is langchain-core's way of running a plain one on a thread."""
    hops = (run_in_executor, loaded("langchain_core.runnables.config", "run_in_executor"))
    return isinstance(function, functools.partial) and function.func in hops


own(globals())
