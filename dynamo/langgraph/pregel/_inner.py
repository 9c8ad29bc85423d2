"""A graph as a node of another one, when nobody looks on and nothing is saved: most subgraph runs.

Such a run needs no callback manager, no stream, no saver and no merging of configs: the task that it is has a complete
one. The engine makes these loops itself (``dynamo._superstep``, `Inner`); everything else goes through
``Pregel.invoke``.

I1  A loop made by the engine has every attribute that one made by `PregelLoop` has: here are those that are Python's.
"""

from __future__ import annotations

from typing import Any

from dynamo.langgraph._internal._config import DEFAULT_RECURSION_LIMIT  # noqa: F401  (the engine finds it here)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.pregel._algo import increment  # noqa: F401
from dynamo.langgraph.pregel._loop import AsyncPregelLoop, PregelLoop, SyncPregelLoop
from dynamo.langgraph.pregel._run import Run
from dynamo.langgraph.pregel._show import nowhere  # noqa: F401
from dynamo.langgraph.pregel.main import Pregel
from dynamo.langgraph.types import Command  # noqa: F401


class _Unsaved(PregelLoop):
    """What `PregelLoop` learns from its arguments, which these loops are made without."""

    migrate = None
    addressed = False

    def check(self) -> None:
        """Raise what a run that did not come to its end means."""
        run: Any = self
        Run.check(run)


class SyncInner(_Unsaved, SyncPregelLoop):
    """In the calling thread."""

    loop = property(lambda self: self)

    def leave(self, error: BaseException | None) -> None:
        """The run has ended."""
        if self.has_place():
            self.place.close(error is not None)
        self.let_go(error)


class AsyncInner(_Unsaved, AsyncPregelLoop):
    """In an event loop."""

    loop = property(lambda self: self)

    async def leave(self, error: BaseException | None) -> None:
        """The run has ended."""
        if self.has_place():
            await self.place.aclose(error is not None)
        self.let_go(error)


# A class that has others than these, or these replaced, runs as it wants to.
INVOKE, AINVOKE = Pregel.invoke, Pregel.ainvoke


own(globals())
