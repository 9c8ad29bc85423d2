"""What belongs to a run and is not state: its context, store, stream, and the control over it."""

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypedDict

from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_RUNTIME
from dynamo.langgraph._internal._langchain import when_imported
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._typing import sealed
from dynamo.langgraph.config import get_config
from dynamo.langgraph.types import StreamWriter
from dynamo.langgraph.typing import ContextT, WithDefaults

if typing.TYPE_CHECKING:
    from langgraph.store.base import BaseStore
    from langgraph_sdk.auth.types import BaseUser
    from typing_extensions import Unpack

__all__ = ("BaseUser", "ExecutionInfo", "RunControl", "Runtime", "ServerInfo", "get_runtime")


def __getattr__(name: str) -> Any:
    if name != "BaseUser":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from langgraph_sdk.auth.types import BaseUser

    globals()[name] = BaseUser
    return BaseUser


@sealed
@dataclass(frozen=True, slots=True)
class ExecutionInfo:
    """Where in the run a node is.

    Attributes
    ----------
    checkpoint_id, checkpoint_ns : the checkpoint it started from, and the namespace of its task
    task_id, thread_id, run_id : whose work it is; the last two are None if the caller named none
    node_attempt : 1 for the first try, 2 for the first retry
    node_first_attempt_time : when the first try began, in seconds since 1970
    """

    checkpoint_id: str
    checkpoint_ns: str
    task_id: str
    thread_id: str | None = None
    run_id: str | None = None
    node_attempt: int = 1
    node_first_attempt_time: float | None = None

    def patch(self, **overrides: Any) -> "ExecutionInfo":
        """A copy with some fields replaced."""
        return _changed(self, overrides)  # type: ignore[no-any-return]


@sealed
@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Set by LangGraph servers: which assistant runs, and for whom."""

    assistant_id: str
    graph_id: str
    user: "BaseUser | None" = None


class RunControl:
    """A handle on a run from outside: hand it to ``invoke(..., control=)`` and ask the run to stop between steps."""

    __slots__ = ("_reason",)

    def __init__(self) -> None:
        self._reason: str | None = None

    def request_drain(self, reason: str = "shutdown") -> None:
        """Let the present step end and its checkpoint be saved, then stop with GraphDrained."""
        self._reason = reason

    @property
    def drain_requested(self) -> bool:
        return self._reason is not None

    @property
    def drain_reason(self) -> str | None:
        return self._reason


def _no_op_stream_writer(_: Any) -> None:
    """A writer whose stream nobody reads."""


def _no_op_heartbeat() -> None:
    """A sign of life that nobody waits for."""


class _RuntimeOverrides(TypedDict, total=False):
    context: Any
    store: "BaseStore | None"
    stream_writer: StreamWriter
    heartbeat: Callable[[], None]
    previous: Any
    execution_info: ExecutionInfo
    server_info: ServerInfo | None
    control: RunControl | None


@sealed
@dataclass(kw_only=True, slots=True, frozen=True)
class Runtime(WithDefaults, Generic[ContextT]):
    """Given to a node that has a parameter annotated with this class.

    Attributes
    ----------
    context : what the caller passed as ``context``, as the graph's `context_schema` describes it
    store : the store with which the graph was compiled
    stream_writer : adds to the "custom" stream
    heartbeat : tells a TimeoutPolicy that the node is alive
    previous : what the same thread returned the last time (functional API)
    execution_info, server_info : where in the run the node is; None outside of a run, or of a server
    control : the caller's handle on the run
    """

    context: ContextT = None  # type: ignore[assignment]
    store: "BaseStore | None" = None
    stream_writer: StreamWriter = _no_op_stream_writer
    heartbeat: Callable[[], None] = _no_op_heartbeat
    previous: Any = None
    execution_info: ExecutionInfo | None = None
    server_info: ServerInfo | None = None
    control: RunControl | None = None

    def merge(self, other: "Runtime[ContextT]") -> "Runtime[ContextT]":
        """What `other` says, and where it says nothing what this one does."""
        said = {name: getattr(other, name) for name in _WHERE_TRUE if getattr(other, name)}
        if other.previous is not None:
            said["previous"] = other.previous
        for name, silent in (("stream_writer", _no_op_stream_writer), ("heartbeat", _no_op_heartbeat)):
            if getattr(other, name) is not silent:
                said[name] = getattr(other, name)
        return _changed(self, said)  # type: ignore[no-any-return]

    def override(self, **overrides: "Unpack[_RuntimeOverrides]") -> "Runtime[ContextT]":
        """A copy with some fields replaced."""
        return _changed(self, overrides)  # type: ignore[no-any-return]

    def patch_execution_info(self, **overrides: Any) -> "Runtime[ContextT]":
        """A copy with some fields of its `execution_info` replaced."""
        info = self.execution_info
        if info is None:
            raise RuntimeError("Cannot patch execution_info before it has been set: this runtime is of no task")
        return _changed(self, {"execution_info": _changed(info, overrides)})  # type: ignore[no-any-return]

    @property
    def drain_requested(self) -> bool:
        return self.control is not None and self.control.drain_requested

    @property
    def drain_reason(self) -> str | None:
        return None if self.control is None else self.control.drain_reason


def _changed(record: Any, changes: Any) -> Any:
    """`dataclasses.replace` for the records above, several times as fast: it runs for every task."""
    cls = type(record)
    copy = object.__new__(cls)
    fields = cls.__dataclass_fields__
    for name in fields:
        _set(copy, name, changes[name] if name in changes else getattr(record, name))
    for name in changes:
        if name not in fields:
            raise TypeError(f"{cls.__name__} has no field {name!r}; it has {', '.join(fields)}")
    return copy


_set = object.__setattr__
# What another runtime says by these counts if it is not empty.
_WHERE_TRUE = ("context", "store", "execution_info", "server_info", "control")

DEFAULT_RUNTIME: Runtime[Any] = Runtime()


def get_runtime(context_schema: type[ContextT] | None = None) -> Runtime[ContextT]:
    """The runtime of the node that is running.

    Parameters
    ----------
    context_schema : only for type checkers: the type of ``runtime.context``

    Raises
    ------
    RuntimeError
        outside of a node
    """
    runtime: Any = get_config()[CONF].get(CONFIG_KEY_RUNTIME)
    return runtime  # type: ignore[no-any-return]


own(globals())

# Schemas of tools that take a runtime are made of its annotations: all names in them have to be there by then.
when_imported("langchain_core.tools.base", lambda _: __getattr__("BaseUser"))
