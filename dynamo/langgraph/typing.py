"""The type variables of graphs.

`StateT` is what a graph keeps, `ContextT` what it is run with, `InputT` and `OutputT` what goes in and comes out; the
last two are the state where nothing else is said.
"""

import sys
import typing
from typing import Any, TypeVar

from dynamo.langgraph._internal._names import public

__all__ = ("ContextT", "InputT", "OutputT", "StateT", "StateT_co", "StateT_contra")

_REQUIRED = object()


def _variable(name: str, *, default: Any = _REQUIRED, **variance: bool) -> Any:
    """A type variable that knows its default also before Python 3.13."""
    if sys.version_info >= (3, 13) and default is not _REQUIRED:
        variable = TypeVar(name, default=default, **variance)  # type: ignore[misc]
    else:
        variable = TypeVar(name, **variance)  # type: ignore[misc]
        if default is not _REQUIRED:
            variable.__default__ = default  # type: ignore[attr-defined]
            variable.has_default = lambda: True  # type: ignore[attr-defined]
    variable.__module__ = public(__name__)
    return variable


class WithDefaults:
    """Lets a generic class be subscripted with its first parameters only: the others take their defaults.

    From Python 3.13 on `typing` does so itself.
    """

    __slots__ = ()

    def __class_getitem__(cls, items: Any) -> Any:
        given = items if isinstance(items, tuple) else (items,)
        variables = getattr(cls, "__parameters__", ())
        chosen = dict(zip(variables, given, strict=False))
        for variable in variables[len(given) :]:
            default = getattr(variable, "__default__", _REQUIRED)
            if default is _REQUIRED:
                break
            given = (*given, chosen.get(default, default))
            chosen[variable] = given[-1]
        return super().__class_getitem__(given)  # type: ignore[misc]


if typing.TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar

    from dynamo.langgraph._internal._typing import StateLike

    StateT = _TypeVar("StateT", bound=StateLike)
    StateT_co = _TypeVar("StateT_co", bound=StateLike, covariant=True)
    StateT_contra = _TypeVar("StateT_contra", bound=StateLike, contravariant=True)
    ContextT = _TypeVar("ContextT", bound=StateLike | None, default=None)
    ContextT_contra = _TypeVar("ContextT_contra", bound=StateLike | None, contravariant=True, default=None)
    InputT = _TypeVar("InputT", bound=StateLike, default=StateT)
    OutputT = _TypeVar("OutputT", bound=StateLike, default=StateT)
    NodeInputT = _TypeVar("NodeInputT", bound=StateLike)
    NodeInputT_contra = _TypeVar("NodeInputT_contra", bound=StateLike, contravariant=True)
else:
    StateT = _variable("StateT")
    StateT_co = _variable("StateT_co", covariant=True)
    StateT_contra = _variable("StateT_contra", contravariant=True)
    ContextT = _variable("ContextT", default=None)
    ContextT_contra = _variable("ContextT_contra", default=None, contravariant=True)
    InputT = _variable("InputT", default=StateT)
    OutputT = _variable("OutputT", default=StateT)
    NodeInputT = _variable("NodeInputT")
    NodeInputT_contra = _variable("NodeInputT_contra", contravariant=True)
WithDefaults.__module__ = public(__name__)
