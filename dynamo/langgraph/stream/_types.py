"""What flows through a mux, and what a transformer is."""

from __future__ import annotations

import asyncio
import logging
import typing
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, ClassVar, Literal, TypedDict

from dynamo.langgraph._internal._names import own

if typing.TYPE_CHECKING:
    from typing_extensions import NotRequired

logger = logging.getLogger("langgraph.stream._types")


class _ProtocolEventParams(TypedDict):
    namespace: list[str]
    timestamp: int
    data: Any
    interrupts: NotRequired[tuple[Any, ...]]


class ProtocolEvent(TypedDict):
    """One thing that happened in a run; `seq` is given when the event enters the log of the whole run."""

    type: Literal["event"]
    event_id: NotRequired[str]
    seq: NotRequired[int]
    method: str
    params: _ProtocolEventParams


class StreamTransformer(ABC):
    """Turns the events of a run into projections of its own.

    A subclass gives its projections in `init` and fills them in `process` (or `aprocess`, for runs under asyncio).

    Attributes
    ----------
    required_stream_modes : what the graph must be asked for, so that there is something to see
    requires_async : refuse a run that has no event loop
    supports_sync : the asynchronous methods are a second way, the others work alone
    before_builtins : see each event before the transformers that come with the package
    """

    requires_async: ClassVar[bool] = False
    supports_sync: ClassVar[bool] = False
    required_stream_modes: ClassVar[tuple[str, ...]] = ()
    before_builtins: ClassVar[bool] = False

    def __init__(self, scope: tuple[str, ...] = ()) -> None:
        self.scope = scope

    @abstractmethod
    def init(self) -> dict[str, Any]:
        """The projections by name; asked for once, at registration."""

    def _on_register(self, mux: Any) -> None:  # noqa: B027
        """Told once which mux the transformer now belongs to."""

    def process(self, event: ProtocolEvent) -> bool:
        """Look at an event; a false answer keeps it out of the log of the run, not from other transformers."""
        raise NotImplementedError(f"{type(self).__name__} has no process() and no aprocess(); define one of them")

    async def aprocess(self, event: ProtocolEvent) -> bool:
        """The same for a run under asyncio; the next transformer waits for it."""
        return self.process(event)

    def finalize(self) -> None:  # noqa: B027
        """The run is over."""

    async def afinalize(self) -> None:
        """The run is over, and so is all scheduled work."""
        self.finalize()

    def fail(self, err: BaseException) -> None:  # noqa: B027
        """The run broke."""

    async def afail(self, err: BaseException) -> None:
        """The run broke, and scheduled work was cancelled."""
        self.fail(err)

    def schedule(
        self, coro: Coroutine[Any, Any, Any], *, on_error: Literal["log", "raise"] = "log"
    ) -> asyncio.Task[Any]:
        """Work beside the run, which does not end before this is done.

        Parameters
        ----------
        coro : taken; not touched where there is no loop
        on_error : "log" what goes wrong, or "raise" it when the run ends
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                f"{type(self).__name__}.schedule() requires a running event loop: stream with astream_events(), and "
                "set requires_async = True on the class so that other runs refuse it at once"
            ) from None
        job = loop.create_task(coro if on_error == "raise" else _logged(coro))
        self._jobs().add(job)
        job.add_done_callback(self._forget_unless_broken)
        return job

    def _forget_unless_broken(self, job: asyncio.Task[Any]) -> None:
        # An error to be raised has to be there still when the run ends.
        if job.cancelled() or job.exception() is None:
            self._jobs().discard(job)

    def _jobs(self) -> set[asyncio.Task[Any]]:
        # Made here because subclasses need not call our __init__.
        found: set[asyncio.Task[Any]] = self.__dict__.setdefault("_scheduled", set())
        return found


async def _logged(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except Exception:
        logger.exception("scheduled work of a stream transformer failed")


def transformer_requires_async(transformer: StreamTransformer) -> bool:
    """Whether a transformer can only work in a run under asyncio."""
    kind = type(transformer)
    if kind.requires_async:
        return True
    return not kind.supports_sync and any(
        getattr(kind, lane) is not getattr(StreamTransformer, lane) for lane in ("aprocess", "afinalize", "afail")
    )


own(globals())
