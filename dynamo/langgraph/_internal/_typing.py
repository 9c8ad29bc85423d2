"""Small types and marks that several modules share."""

import typing
from dataclasses import Field, FrozenInstanceError
from typing import Any, ClassVar, Protocol, TypedDict, TypeVar

from dynamo.langgraph._internal._names import own

if typing.TYPE_CHECKING:
    from typing import TypeAlias

    from pydantic import BaseModel

MISSING = object()  # "no value", where None is one
EMPTY_SEQ: tuple[str, ...] = ()


C = TypeVar("C", bound=type)


def sealed(cls: C) -> C:
    """Refuse to change instances of a frozen dataclass with slots.

    The refusal that `dataclass` writes for such a class names a class that was replaced, and so fails with a TypeError
    where ``Generic`` expects an AttributeError, as in ``Command[str](goto="a")``.
    """

    def refuse(self: Any, name: str, value: Any = None) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    cls.__setattr__ = cls.__delattr__ = refuse  # type: ignore[method-assign, assignment]
    return cls


class TypedDictLikeV1(Protocol):
    """A typed dictionary as checkers before ``ClassVar`` keys see it."""

    __required_keys__: ClassVar[frozenset[str]]
    __optional_keys__: ClassVar[frozenset[str]]


class TypedDictLikeV2(Protocol):
    """A typed dictionary with its keys on the instance."""

    __required_keys__: frozenset[str]
    __optional_keys__: frozenset[str]


class DataclassLike(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class DeprecatedKwargs(TypedDict):
    """Keyword arguments that an older version took."""


def __getattr__(name: str) -> Any:
    if name != "StateLike":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pydantic import BaseModel

    value = TypedDictLikeV1 | TypedDictLikeV2 | DataclassLike | BaseModel
    globals()[name] = value
    return value


if typing.TYPE_CHECKING:
    StateLike: TypeAlias = TypedDictLikeV1 | TypedDictLikeV2 | DataclassLike | BaseModel

own(globals())
