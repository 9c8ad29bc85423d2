"""Living beside langchain-core without importing it before somebody needs it.

langchain-core costs a second of start-up, and a graph of plain functions needs nothing of it. Yet once it is there, our
graphs are Runnables, our commands may be returned by tools, and both sides see the same current configuration:

    ours                                    when langchain-core is imported (before us or after us)
    child_config (a ContextVar)        <->  langchain_core.runnables.config.var_child_runnable_config: one variable
    VirtualRunnable                     ->  registered with the ABC Runnable, whose methods it then has
    types.Command, errors.EmptyChannelError: see there

I1  There is one variable for the current configuration in a process, whoever came first.
I2  isinstance(x, Runnable) holds for every VirtualRunnable from the moment at which Runnable exists.
I3  Importing this module imports nothing outside the standard library.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from dynamo.langgraph._internal._names import own

_waiting: dict[str, list[Callable[[ModuleType], None]]] = {}


class _Announcer(Loader):
    """Loads a module as its own loader does, then tells who waits for it."""

    def __init__(self, loader: Any, name: str) -> None:
        self.loader = loader
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        for callback in _waiting.pop(self.name, ()):
            callback(module)
        if not _waiting and _finder in sys.meta_path:
            sys.meta_path.remove(_finder)


class _Finder(MetaPathFinder):
    """Answers for the modules somebody waits for, with what the other finders say."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _waiting:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Announcer(spec.loader, fullname)
                return spec
        return None


_finder = _Finder()


def when_imported(name: str, callback: Callable[[ModuleType], None]) -> None:
    """Call back with a module as soon as it has been imported: now, if it is there already.

    The callback runs before anybody else can import names from the module.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        callback(module)
        return
    _waiting.setdefault(name, []).append(callback)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


# ------------------------------------------------------------------ the current configuration
def _config_variable() -> ContextVar[Any]:
    module = sys.modules.get("langchain_core.runnables.config")
    theirs = getattr(module, "var_child_runnable_config", None)
    if theirs is not None:
        return theirs  # type: ignore[no-any-return]
    return ContextVar("child_runnable_config", default=None)


child_config: ContextVar[Any] = _config_variable()


def _share_variable(module: ModuleType) -> None:
    if module.var_child_runnable_config is not child_config:
        module.var_child_runnable_config = child_config  # type: ignore[attr-defined]


when_imported("langchain_core.runnables.config", _share_variable)

# ------------------------------------------------------------------ Runnables
# What Runnable has and we do not define ourselves; fetched on first use.
_INHERITED = frozenset(
    """InputType OutputType abatch abatch_as_completed ainvoke as_tool assign astream astream_events astream_log
    atransform batch batch_as_completed bind config_schema config_specs get_config_jsonschema get_graph
    get_input_jsonschema get_input_schema get_output_jsonschema get_output_schema get_prompts input_schema
    invoke map output_schema pick pipe stream stream_events transform with_alisteners with_config with_fallbacks
    with_listeners with_retry with_types _abatch_with_config _acall_with_config _astream_events_v1_v2
    _astream_events_v3_unsupported _atransform_stream_with_config _batch_with_config _call_with_config
    _transform_stream_with_config""".split()  # noqa: SIM905
)


class VirtualRunnable:
    """A Runnable that exists without langchain-core.

    Subclasses define ``invoke`` and ``ainvoke``. Every other method of Runnable is taken from there: all of them once
    langchain-core is loaded, and the first use of one loads it.
    """

    name: str | None = None

    def __getattr__(self, name: str) -> Any:
        if name in _INHERITED:
            runnable_class()
            if hasattr(VirtualRunnable, name):
                return object.__getattribute__(self, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        """The name of its runs: the one it was given, or that of its class, with `suffix` added in the same style."""
        chosen = name or self.name or type(self).__name__
        if not suffix:
            return chosen
        return chosen + suffix.title() if chosen[0].isupper() else f"{chosen}_{suffix.lower()}"

    def __or__(self, other: Any) -> Any:
        return runnable_class().__or__(self, other)

    def __ror__(self, other: Any) -> Any:
        return runnable_class().__ror__(self, other)


def _become_runnable(module: ModuleType) -> None:
    for name, value in vars(module.Runnable).items():
        if not name.startswith("__") and not name.startswith("_abc") and name not in vars(VirtualRunnable):
            setattr(VirtualRunnable, name, value)
    module.Runnable.register(VirtualRunnable)


when_imported("langchain_core.runnables.base", _become_runnable)


def runnable_class() -> Any:
    """langchain-core's Runnable, loaded now if it was not."""
    from langchain_core.runnables.base import Runnable

    return Runnable


def is_runnable(thing: Any) -> bool:
    """Whether `thing` is a Runnable; nobody can have one of langchain-core's before its module is there."""
    if isinstance(thing, VirtualRunnable):
        return True
    module = sys.modules.get("langchain_core.runnables.base")
    return module is not None and isinstance(thing, module.Runnable)


def loaded(module: str, name: str) -> Any:
    """An attribute of a module if it has been imported, else None."""
    return getattr(sys.modules.get(module), name, None)


# ------------------------------------------------------------------ tracing
_TRACE_FLAGS = (
    *("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2"),
    *("LANGCHAIN_TRACING", "LANGCHAIN_HANDLER"),
)
_environ: Any = os.environ
# The environment as it keeps itself, if that is known: all flags are looked for at once, without encoding their names.
_told = getattr(_environ, "_data", _environ)
_FLAGS_TOLD = tuple(map(_environ.encodekey, _TRACE_FLAGS)) if _told is not _environ else _TRACE_FLAGS


def tracing() -> bool:
    """Whether a run without callbacks of its own would be watched all the same.

    That is so if the environment, the surrounding LangSmith trace, langchain-core's debug mode or one of its
    configure hooks says so.
    """
    for flag in () if _told.keys().isdisjoint(_FLAGS_TOLD) else _TRACE_FLAGS:
        if flag in _environ and _environ[flag] not in ("", "0", "false", "False"):
            return True
    modules = sys.modules
    langsmith = modules.get("langsmith.utils")
    if langsmith is not None and langsmith.tracing_is_enabled():
        return True
    helpers = modules.get("langsmith.run_helpers")
    if helpers is not None:
        context = helpers.get_tracing_context()
        if context["parent"] is not None or context["tags"] or context["metadata"]:
            return True
    if loaded("langchain_core.globals", "_debug"):
        return True
    context_module = modules.get("langchain_core.tracers.context")
    if context_module is not None:
        if context_module.tracing_v2_callback_var.get() is not None:
            return True
        for variable, _, handler, flag in context_module._configure_hooks:
            if variable.get() is not None or (handler is not None and flag is not None and os.environ.get(flag)):
                return True
    return False


own(globals())
