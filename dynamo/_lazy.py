"""Names that are imported when they are first used, so that `import dynamo` costs almost nothing."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, table: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for a package whose names live in other modules.

    Parameters
    ----------
    package : the package's ``__name__``
    table : public name -> module that has it ("dynamo.llm.router"); a name equal to the last part of
        its module is the module itself
    """

    def getattr_(name: str) -> Any:
        module = table.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        loaded = importlib.import_module(module)
        value = loaded if module.endswith(f".{name}") else getattr(loaded, name)
        setattr(sys.modules[package], name, value)
        return value

    def dir_() -> list[str]:
        return sorted({*vars(sys.modules[package]), *table})

    return getattr_, dir_, sorted(table)
