"""One set of modules under two names.

    import langgraph.graph            --install()-->   dynamo.langgraph.graph, the same module object
    import dynamo.langgraph.prebuilt  ------------->   langgraph.prebuilt, of its own distribution

The distribution ``langgraph`` owns the modules in CORE; checkpoint, store, cache and prebuilt are distributions of
their own, which stay what they are: they meet our classes where they ask for ``langgraph.types`` and its like.

I1  After install() a name below ``langgraph.<core>`` is ours or does not exist; it is never the original's.
I2  A module has one object, whichever of its names was imported first.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

OURS = "dynamo.langgraph"
THEIRS = "langgraph"
CORE = frozenset(
    """_internal callbacks channels config constants errors func graph managed pregel runtime stream types typing
    utils version warnings""".split()  # noqa: SIM905
)
NEIGHBOURS = frozenset(("checkpoint", "store", "cache", "prebuilt"))


class _SameModule:
    """A loader that gives out a module that has another name already."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept: dict[str, Any] = {}

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.name)
        self.kept = {name: getattr(module, name, None) for name in ("__spec__", "__loader__", "__package__")}
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has written the second name into the module; the first one stays its own.
        for name, value in self.kept.items():
            setattr(module, name, value)


def _second_name(name: str, first: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(first)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}: it would be {first!r}, which is not there", name=name)
    package = spec.submodule_search_locations is not None
    return ModuleSpec(name, _SameModule(first), origin=spec.origin, is_package=package)  # type: ignore[arg-type]


class _Theirs:
    """Answers for ``langgraph.<core>``."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        top, _, rest = name.partition(".")
        if top != THEIRS:
            return None
        if not rest:
            # Without any distribution in it the namespace itself would be missing.
            if PathFinder.find_spec(name) is None:
                empty = ModuleSpec(name, None, is_package=True)
                empty.submodule_search_locations = []
                return empty
            return None
        return _second_name(name, f"{OURS}.{rest}") if rest.split(".")[0] in CORE else None


class _Neighbours:
    """Answers for ``dynamo.langgraph.checkpoint``, ``.store``, ``.cache`` and ``.prebuilt``."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(OURS + "."):
            return None
        rest = name[len(OURS) + 1 :]
        first = rest.split(".")[0]
        if first not in NEIGHBOURS:
            return None
        if first == "prebuilt":
            install()  # it imports the core by its public name
        try:
            return _second_name(name, f"{THEIRS}.{rest}")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"No module named {name!r}: pip install 'dynamo[langgraph]' brings langgraph's checkpointers, stores "
                "and prebuilt agents; langgraph-checkpoint-sqlite and -postgres are distributions of their own",
                name=name,
            ) from error


_theirs, _neighbours = _Theirs(), _Neighbours()


def foreign() -> list[str]:
    """The modules of the original's core that this process has imported."""
    return sorted(
        name
        for name, module in list(sys.modules.items())
        if name.startswith(THEIRS + ".")
        and name.split(".")[1] in CORE
        and module is not None
        and module is not sys.modules.get(f"{OURS}.{name[len(THEIRS) + 1 :]}")
    )


def installed() -> bool:
    """Whether ``import langgraph.<core>`` gives our modules."""
    return _theirs in sys.meta_path


def install() -> None:
    """Let ``import langgraph.graph`` and its like give the modules of ``dynamo.langgraph``.

    Call it before anything imports a module of the distribution ``langgraph``. Calling it again does nothing. It is
    for the whole process, and it is what langgraph-prebuilt, langchain's agents and stored checkpoints need to meet
    our classes.

    Raises
    ------
    ImportError
        When modules of the original have been imported already: their classes would not be ours.
    """
    if installed():
        return
    early = foreign()
    if early:
        raise ImportError(
            f"dynamo.langgraph.install() came too late: {', '.join(early[:3])}"
            f"{f' and {len(early) - 3} more' if len(early) > 3 else ''} of the original langgraph "
            "were imported before. Call it first in the program, or run: python -m dynamo.langgraph SCRIPT",
            name=early[0],
        )
    sys.meta_path.insert(0, _theirs)


def install_if_free() -> bool:
    """install() unless the original is in use here; for what reads checkpoints, which name ``langgraph.types``."""
    if installed():
        return True
    types = sys.modules.get(f"{THEIRS}.types")  # asked first: every run with a saver comes here
    if (types is not None and types is not sys.modules.get(f"{OURS}.types")) or foreign():
        return False
    install()
    return True


def attend() -> None:
    """Answer for the neighbours' modules under our name; done when ``dynamo.langgraph`` is imported."""
    if _neighbours not in sys.meta_path:
        sys.meta_path.insert(0, _neighbours)
