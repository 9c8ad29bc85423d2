"""The names under which our classes and functions are known to everybody else.

A checkpoint stores the class ``langgraph.types.Send``, a drawn graph names ``langgraph._internal._runnable``: what we
define has to answer to the same path. A module calls ``own(globals())`` as its last statement.
"""

import sys
from collections.abc import MutableMapping
from types import FunctionType, ModuleType
from typing import Any

OURS = "dynamo."


def public(module: str) -> str:
    """The name of one of our modules as the rest of the world knows it."""
    return module[len(OURS) :] if module.startswith(OURS + "langgraph") else module


def own(names: MutableMapping[str, Any], *, module: str | None = None) -> None:
    """Give every class and function that a module defines its public ``__module__``.

    Parameters
    ----------
    names : the module's ``globals()``
    module : the public path, where it is not that of the file
    """
    here = names["__name__"]
    _rename(names.values(), here, module or public(here))


def _rename(values: Any, here: str, path: str) -> None:
    for value in list(values):
        if getattr(value, "__module__", None) != here:
            continue
        if isinstance(value, type):
            value.__module__ = path
            _rename(vars(value).values(), here, path)
        elif isinstance(value, FunctionType):
            value.__module__ = path


def namespace(cls: Any) -> dict[str, Any]:
    """The globals in which the string annotations of a class or function are to be read.

    Our own classes name a module that may not be imported under that name.
    """
    name = getattr(cls, "__module__", None) or ""
    found: ModuleType | None = None
    if name == "langgraph" or name.startswith("langgraph."):
        ours = sys.modules.get(OURS + name)
        if ours is not None and vars(ours).get(getattr(cls, "__name__", "")) is cls:
            found = ours
    if found is None:
        found = sys.modules.get(name)
    return vars(found) if found is not None else {}
