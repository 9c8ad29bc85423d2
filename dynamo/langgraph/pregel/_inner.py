"""A graph as a node of another one, when nobody looks on and nothing is saved: most subgraph runs.

Such a run needs no callback manager, no stream, no saver and no merging of configs: the task that it is has a complete
one. The engine makes these loops itself (``dynamo._superstep``, `Inner`); everything else goes through
``Pregel.invoke``.

I1  A loop made by the engine has every attribute that one made by `PregelLoop` has: here are those that are Python's.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from dynamo.langgraph._internal._config import DEFAULT_RECURSION_LIMIT  # noqa: F401  (the engine finds it here)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.channels import DeltaChannel, UntrackedValue
from dynamo.langgraph.pregel._algo import increment  # noqa: F401
from dynamo.langgraph.pregel._deltas import Deltas
from dynamo.langgraph.pregel._executor import Tasks, Threads
from dynamo.langgraph.pregel._loop import AsyncPregelLoop, PregelLoop, SyncPregelLoop
from dynamo.langgraph.pregel._run import Run
from dynamo.langgraph.pregel._show import nowhere  # noqa: F401
from dynamo.langgraph.pregel.main import Pregel
from dynamo.langgraph.types import Command  # noqa: F401


class _Unsaved(PregelLoop):
    """What is needed only where a task goes the complete way is made there."""

    migrate = events = _runner = None
    addressed = False
    _here = (None, None)

    start_config = property(lambda self: self.config)
    start_id = property(lambda self: self.checkpoint["id"])

    @cached_property
    def deltas(self) -> Deltas:  # type: ignore[override]
        return Deltas(set(), False)

    @cached_property
    def stored(self) -> dict[str, Any]:  # type: ignore[override]
        return {}

    @cached_property
    def failures(self) -> list[Any]:  # type: ignore[override]
        return []

    def check(self) -> None:
        """Raise what a run that did not come to its end means."""
        run: Any = self
        Run.check(run)


class SyncInner(_Unsaved, SyncPregelLoop):
    """In the calling thread."""

    loop = property(lambda self: self)

    @cached_property
    def place(self) -> Threads:  # type: ignore[override]
        return Threads(self.config.get("max_concurrency"))

    def leave(self, error: BaseException | None) -> None:
        """The run has ended."""
        if "place" in vars(self):
            self.place.close(error is not None)
        self.let_go(error)


class AsyncInner(_Unsaved, AsyncPregelLoop):
    """In an event loop."""

    loop = property(lambda self: self)

    @cached_property
    def place(self) -> Tasks:  # type: ignore[override]
        return Tasks(self.config.get("max_concurrency"))

    home = property(lambda self: self.place.home)

    async def leave(self, error: BaseException | None) -> None:
        """The run has ended."""
        if "place" in vars(self):
            await self.place.aclose(error is not None)
        self.let_go(error)


def plain_channels(graph: Any) -> bool:
    """Whether nothing in a graph's channels needs a book of its own."""
    return not any(isinstance(channel, (DeltaChannel, UntrackedValue)) for channel in graph.channels.values())


# A class that has others than these, or these replaced, runs as it wants to.
INVOKE, AINVOKE = Pregel.invoke, Pregel.ainvoke


own(globals())
