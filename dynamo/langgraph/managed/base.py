"""Values that a state can name and that the engine works out for each task."""

import typing
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeAlias, TypeGuard, TypeVar

from dynamo.langgraph._internal._names import own

if typing.TYPE_CHECKING:
    from dynamo.langgraph._internal._scratchpad import PregelScratchpad

__all__ = ("ManagedValueMapping", "ManagedValueSpec")

V = TypeVar("V")


class ManagedValue(ABC, Generic[V]):
    """Subclass it, and annotate a key of the state with the subclass: ``Annotated[int, StepsLeft]``."""

    @staticmethod
    @abstractmethod
    def get(scratchpad: "PregelScratchpad") -> V:
        """The value for the task that `scratchpad` belongs to."""


own(globals())

ManagedValueSpec: TypeAlias = type[ManagedValue[Any]]
ManagedValueMapping: TypeAlias = dict[str, ManagedValueSpec]


def is_managed_value(value: Any) -> TypeGuard[ManagedValueSpec]:
    """Whether an annotation names a managed value."""
    return isinstance(value, type) and issubclass(value, ManagedValue)


own(globals())
