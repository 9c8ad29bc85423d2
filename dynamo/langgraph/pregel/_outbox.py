"""What a run gives its saver to keep, and in which order.

    writes of tasks ------------------> saver.put_writes      each on its own
          | (of those to delta channels the checkpoint must wait for the end)
          v
    checkpoints ---> line ------------> saver.put             one at a time, the oldest first

A saver that keeps things in memory is called at once: its calls are shorter than it takes to have somebody else make
them. For any other, a thread or a task of the event loop does it while the run goes on.

I1  A checkpoint is saved after the one before it, and after the writes that it waits for, or not at all: behind a
    failure nothing more is saved.
I2  A failure is raised where the run waits for the saver (durability "sync"), else when it ends; never in between.
I3  What is saved is forgotten. What waits is kept once, not by a chain of futures, and a run that is `AHEAD`
    checkpoints ahead of its saver waits for it.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from dynamo._pregel import copy_checkpoint
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import Script, aplay, ask, play
from dynamo.langgraph.pregel._complaints import unsaved
from dynamo.langgraph.pregel._executor import Tasks, Workplace

_IN_MEMORY = "langgraph.checkpoint.memory"
AHEAD = 32
_CALLS = ("put", "put_writes", "aput", "aput_writes")


def is_prompt(saver: Any) -> bool:
    """Whether a saver does nothing but remember; one that overrides any of this may do more."""
    return all(getattr(getattr(saver, name), "__module__", None) == _IN_MEMORY for name in _CALLS)


def knows_paths(put_writes: Callable[..., Any]) -> bool:
    """Whether a saver's ``put_writes`` takes the path of the task; old ones do not."""
    return "task_path" in inspect.signature(put_writes).parameters


class Outbox:
    """The way to the saver.

    Parameters
    ----------
    saver
        Where to.
    place : Workplace
        Who does it meanwhile.
    """

    def __init__(self, saver: Any, place: Workplace) -> None:
        self.saver, self.place = saver, place
        self.prompt = is_prompt(saver)
        in_loop = isinstance(place, Tasks)
        self.perform: Any = aplay if in_loop else play
        self.deliver: Any = self.acall if in_loop else self.call
        self.takes_paths: bool | None = True if self.prompt else None
        self.line: deque[tuple[Sequence[Any], tuple[Any, ...]]] = deque()
        self.guard = threading.Lock()  # of the line and `busy`, which stays true after a failure (I1)
        self.busy = False
        self.last: Any = None  # the future of who works, or worked, on the line

    def writes(self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, path: str) -> Any:
        """Save writes; returns a future, or None when it is done."""
        if self.takes_paths is None:
            awaited = self.perform is aplay
            self.takes_paths = knows_paths(self.saver.aput_writes if awaited else self.saver.put_writes)
        given = (config, writes, task_id, path) if self.takes_paths else (config, writes, task_id)
        if self.prompt:
            return self._at_once("put_writes", given)
        return self.place.submit(self.deliver, "put_writes", given)

    def checkpoint(self, waits: Sequence[Any], config: Any, checkpoint: Any, metadata: Any, versions: Any) -> None:
        """Save a checkpoint once `waits` have ended well; the dictionaries in it may change meanwhile."""
        if self.prompt:
            failed = self.last or next(filter(None, waits), None)
            self.last = failed or self._at_once("put", (config, checkpoint, metadata, versions))
            return
        with self.guard:
            self.line.append((waits, (config, copy_checkpoint(checkpoint), metadata, dict(versions))))
            if self.busy:
                return
            self.busy = True
        self.last = self.place.submit(self.perform, self._work())

    @property
    def behind(self) -> bool:
        """Whether so much waits for the saver that the run should, too."""
        return len(self.line) >= AHEAD

    def call(self, name: str, given: tuple[Any, ...]) -> None:
        """Call the saver; an error says which value it could not save."""
        try:
            getattr(self.saver, name)(*given)
        except Exception as error:
            unsaved(error, self.saver, given)
            raise

    async def acall(self, name: str, given: tuple[Any, ...]) -> None:
        """`call` in an event loop."""
        try:
            await getattr(self.saver, f"a{name}")(*given)
        except Exception as error:
            unsaved(error, self.saver, given)
            raise

    def _at_once(self, name: str, given: tuple[Any, ...]) -> Any:
        try:
            self.call(name, given)
        except Exception as error:
            return self.place.failure(error)
        return None

    def _next(self) -> Any:
        with self.guard:
            if self.line:
                return self.line.popleft()
            self.busy = False
            return None

    def _work(self) -> Script:
        while (item := self._next()) is not None:
            yield ask(self, "ended", item[0])
            yield ask(self, "call", "put", item[1])

    def settled(self) -> Script:
        """Wait until all checkpoints are saved."""
        if self.last is not None:
            yield ask(self, "ended", (self.last,))

    def ended(self, futures: Sequence[Any]) -> None:
        """Wait for the end of each; raises what failed."""
        for future in futures:
            if future is not None:
                future.result()

    async def aended(self, futures: Sequence[Any]) -> None:
        """`ended` in an event loop."""
        for future in futures:
            if future is not None:
                await future


own(globals())
