"""Values of the state that the engine works out: how many steps are left."""

from dynamo.langgraph.managed.is_last_step import IsLastStep, RemainingSteps

__all__ = ("IsLastStep", "RemainingSteps")
