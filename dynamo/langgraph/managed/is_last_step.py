"""How many steps a run has left, for nodes that want to end it in good order."""

import typing
from typing import Annotated, TypeAlias

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.managed.base import ManagedValue

if typing.TYPE_CHECKING:
    from dynamo.langgraph._internal._scratchpad import PregelScratchpad

__all__ = ("IsLastStep", "RemainingSteps", "RemainingStepsManager")


class IsLastStepManager(ManagedValue[bool]):
    """True in the last step that the recursion limit allows."""

    @staticmethod
    def get(scratchpad: "PregelScratchpad") -> bool:
        return bool(scratchpad.step == scratchpad.stop - 1)


class RemainingStepsManager(ManagedValue[int]):
    """How many steps are left, this one included."""

    @staticmethod
    def get(scratchpad: "PregelScratchpad") -> int:
        return int(scratchpad.stop - scratchpad.step)


IsLastStep: TypeAlias = Annotated[bool, IsLastStepManager]
RemainingSteps: TypeAlias = Annotated[int, RemainingStepsManager]

own(globals())
