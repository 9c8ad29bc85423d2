"""What a graph raises.

Errors of channels are ChannelErrors and errors of runs are PregelErrors (both from `dynamo.langgraph`). What descends
from GraphBubbleUp is no failure: it carries a decision of a node out to the engine, so a node must let it pass.
"""

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any, Literal
from warnings import warn

from dynamo.langgraph._internal._errors import ChannelError, PregelError
from dynamo.langgraph._internal._langchain import when_imported
from dynamo.langgraph._internal._names import own

if typing.TYPE_CHECKING:
    from dynamo.langgraph.types import Command, Interrupt

__all__ = (
    "EmptyChannelError",
    "EmptyInputError",
    "ErrorCode",
    "GraphBubbleUp",
    "GraphDrained",
    "GraphInterrupt",
    "GraphRecursionError",
    "InvalidUpdateError",
    "NodeCancelledError",
    "NodeError",
    "NodeInterrupt",
    "NodeTimeoutError",
    "ParentCommand",
    "TaskNotFound",
    "UnknownInterruptError",
    "is_invalid_resume",
)


class ErrorCode(Enum):
    """Failures that have a page of their own in LangGraph's documentation."""

    GRAPH_RECURSION_LIMIT = "GRAPH_RECURSION_LIMIT"
    INVALID_CONCURRENT_GRAPH_UPDATE = "INVALID_CONCURRENT_GRAPH_UPDATE"
    INVALID_GRAPH_NODE_RETURN_VALUE = "INVALID_GRAPH_NODE_RETURN_VALUE"
    MULTIPLE_SUBGRAPHS = "MULTIPLE_SUBGRAPHS"
    INVALID_CHAT_HISTORY = "INVALID_CHAT_HISTORY"


_PAGES = "https://docs.langchain.com/oss/python/langgraph/errors/"


def create_error_message(*, message: str, error_code: ErrorCode) -> str:
    """Add to a message where to read more."""
    return f"{message}\nFor troubleshooting, visit: {_PAGES}{error_code.value}"


# ------------------------------------------------------------------ channels
class EmptyChannelError(ChannelError):
    """A channel was read that has no value yet."""


class InvalidUpdateError(ChannelError):
    """A channel got writes that it cannot take together, or a node returned what is not an update."""


def _join_checkpoint_tree(module: ModuleType) -> None:
    # Savers catch the class of that name that langgraph-checkpoint has.
    EmptyChannelError.__bases__ = (ChannelError, module.EmptyChannelError)


when_imported("langgraph.checkpoint.base", _join_checkpoint_tree)


# ------------------------------------------------------------------ runs
class GraphRecursionError(PregelError, RecursionError):
    """The graph did not come to an end within the allowed number of steps.

    Most often two nodes send each other work for ever. Where many steps are right, allow more of them:
    ``graph.invoke(x, {"recursion_limit": 1000})``.
    """


class EmptyInputError(PregelError):
    """A run was started without an input, and there is no saved state to go on from."""


class TaskNotFound(PregelError):
    """The executor was asked for a task that it does not know (distributed runs)."""


class UnknownInterruptError(PregelError):
    """A resume value, under strict resume, does not fit the interrupts that are waiting.

    Attributes
    ----------
    reason : what is wrong: an id that no task waits for, an empty mapping, or one value for several interrupts
    interrupt_ids : the ids that were answered
    pending_ids : the ids that wait for an answer
    """

    reason: Literal["not_pending", "empty_map", "ambiguous"]
    interrupt_ids: tuple[str, ...]
    pending_ids: tuple[str, ...]

    def __init__(
        self,
        message: str,
        *,
        reason: Literal["not_pending", "empty_map", "ambiguous"],
        interrupt_ids: Sequence[str] = (),
        pending_ids: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.reason, self.interrupt_ids, self.pending_ids = reason, (*interrupt_ids,), (*pending_ids,)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


# ------------------------------------------------------------------ decisions on their way out
class GraphBubbleUp(Exception):
    """Base of what a node raises in order to talk to the engine."""


class GraphDrained(GraphBubbleUp):
    """A run stopped between two steps because it was asked to; it can be resumed."""

    def __init__(self, reason: str = "shutdown") -> None:
        self.reason = reason
        super().__init__("Graph drained: " + reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,)


class GraphInterrupt(GraphBubbleUp):
    """A (sub)graph waits for an answer; the outermost graph swallows this and reports the interrupts."""

    def __init__(self, interrupts: "Sequence[Interrupt[Any]]" = ()) -> None:
        Exception.__init__(self, interrupts)


class NodeInterrupt(GraphInterrupt):
    """The old way for a node to interrupt; `langgraph.types.interrupt` is the present one."""

    __deprecated__ = "NodeInterrupt is deprecated. Please use [`interrupt`][langgraph.types.interrupt] instead."

    def __init__(self, value: Any, id: str | None = None) -> None:
        from dynamo.langgraph.types import Interrupt
        from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV10

        text = "NodeInterrupt is deprecated. Please use `langgraph.types.interrupt` instead."
        warn(text, LangGraphDeprecatedSinceV10, stacklevel=2)
        super().__init__([Interrupt(value=value) if id is None else Interrupt(value=value, id=id)])


class ParentCommand(GraphBubbleUp):
    """A command for the graph around the one whose node gave it."""

    args: "tuple[Command[Any]]"

    def __init__(self, command: "Command[Any]") -> None:
        Exception.__init__(self, command)


# ------------------------------------------------------------------ nodes
@dataclass(frozen=True, slots=True)
class NodeError:
    """What an error handler is told: which node failed, and with what."""

    node: str
    error: BaseException


class NodeCancelledError(PregelError):
    """A node raised ``asyncio.CancelledError`` though nobody had cancelled its task."""

    node: str

    def __init__(self, node: str, message: str | None = None) -> None:
        super().__init__(f"Node {node!r} raised asyncio.CancelledError" if message is None else message)
        self.node = node

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.node, self.args[0])


class NodeTimeoutError(PregelError):
    """A node took longer than its policy allows.

    Attributes
    ----------
    kind : "run" when the whole attempt was too long, "idle" when nothing was heard of it for too long
    timeout : the limit that was hit, in seconds
    elapsed : how long the attempt had run, in seconds
    """

    node: str
    timeout: float
    run_timeout: float | None
    idle_timeout: float | None
    elapsed: float
    kind: Literal["idle", "run"]

    def __init__(
        self,
        node: str,
        elapsed: float,
        *,
        kind: Literal["idle", "run"],
        idle_timeout: float | None = None,
        run_timeout: float | None = None,
    ) -> None:
        if kind not in ("idle", "run"):
            raise ValueError(f"kind must be 'idle' or 'run', not {kind!r}")
        limit = run_timeout if kind == "run" else idle_timeout
        if limit is None:
            raise ValueError(f"{kind}_timeout is required when kind={kind!r}")
        why = " without making progress" if kind == "idle" else ""
        super().__init__(f"Node {node!r} exceeded its {kind} timeout of {limit:.3f}s{why} (elapsed: {elapsed:.3f}s).")
        self.node, self.kind, self.timeout, self.elapsed = node, kind, limit, elapsed
        self.run_timeout, self.idle_timeout = run_timeout, idle_timeout

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


# ------------------------------------------------------------------ answers that do not fit
_INVALID_RESUME: str = "_langgraph_invalid_resume"


def _mark_invalid_resume(error: BaseException) -> None:
    """Note on an error that the answer to an interrupt caused it."""
    vars(error)[_INVALID_RESUME] = True


def is_invalid_resume(error: BaseException) -> bool:
    """Whether an error says that an answer did not match the `response_schema` of its interrupt.

    The interrupt is still pending then and can be answered again.
    """
    return bool(getattr(error, _INVALID_RESUME, False))


own(globals())
