"""What nodes and callers exchange with a graph: commands, sends, interrupts, policies and snapshots."""

import typing
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, final
from warnings import warn

from dynamo.langgraph._internal._cache import default_cache_key
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_SEND,
    NS_SEP,
    RESUME,
)
from dynamo.langgraph._internal._langchain import when_imported
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._retry import default_retry_on
from dynamo.langgraph._internal._typing import MISSING, sealed

if typing.TYPE_CHECKING:
    from datetime import timedelta

    from langchain_core.runnables.config import RunnableConfig
    from langgraph.checkpoint.base import CheckpointMetadata

    from dynamo.langgraph._internal._payloads import (
        Checkpointer,
        CheckpointPayload,
        CheckpointStreamPart,
        CheckpointTask,
        CustomStreamPart,
        DebugPayload,
        DebugStreamPart,
        MessagesStreamPart,
        StreamPart,
        TaskPayload,
        TaskResultPayload,
        TasksStreamPart,
        UpdatesStreamPart,
        ValuesStreamPart,
    )
    from dynamo.langgraph.pregel.protocol import PregelProtocol

__all__ = (
    "All",
    "CachePolicy",
    "CheckpointPayload",
    "CheckpointStreamPart",
    "CheckpointTask",
    "Checkpointer",
    "Command",
    "CustomStreamPart",
    "DebugPayload",
    "DebugStreamPart",
    "Durability",
    "GraphOutput",
    "Interrupt",
    "MessagesStreamPart",
    "Overwrite",
    "PregelExecutableTask",
    "PregelTask",
    "RetryPolicy",
    "Send",
    "StateSnapshot",
    "StateUpdate",
    "StreamMode",
    "StreamPart",
    "StreamWriter",
    "TaskPayload",
    "TaskResultPayload",
    "TasksStreamPart",
    "TimeoutPolicy",
    "TracePolicy",
    "UpdatesStreamPart",
    "ValuesStreamPart",
    "ensure_valid_checkpointer",
    "interrupt",
    "omit_payload",
)

_PAYLOADS = frozenset(
    """Checkpointer TaskPayload TaskResultPayload CheckpointTask CheckpointPayload DebugPayload ValuesStreamPart
    UpdatesStreamPart MessagesStreamPart CustomStreamPart CheckpointStreamPart TasksStreamPart DebugStreamPart
    StreamPart _DebugCheckpointPayload _DebugTaskPayload _DebugTaskResultPayload""".split()  # noqa: SIM905
)


def __getattr__(name: str) -> Any:
    if name not in _PAYLOADS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dynamo.langgraph._internal import _payloads

    value = globals()[name] = getattr(_payloads, name)
    return value


# ------------------------------------------------------------------ words
All = Literal["*"]  # every node, where node names are expected
Durability = Literal["sync", "async", "exit"]  # checkpoints are written before the next step, beside it, at the end
StreamMode = Literal["values", "updates", "checkpoints", "tasks", "debug", "messages", "custom"]
StreamWriter = Callable[[Any], None]  # takes what a node adds to the "custom" stream

OutputT = TypeVar("OutputT")
if typing.TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar

    ResponseT = _TypeVar("ResponseT", default=Any)
else:
    ResponseT = TypeVar("ResponseT")
KeyFuncT = TypeVar("KeyFuncT", bound=Callable[..., str | bytes])
N = TypeVar("N", bound=Hashable)

_DC_KWARGS: dict[str, bool] = dict.fromkeys(("kw_only", "slots", "frozen"), True)


def ensure_valid_checkpointer(checkpointer: "Checkpointer") -> "Checkpointer":
    """Refuse what cannot be a checkpointer; give the others back."""
    fits = checkpointer is None or checkpointer in (True, False)
    if not fits:
        from langgraph.checkpoint.base import BaseCheckpointSaver

        fits = isinstance(checkpointer, BaseCheckpointSaver)
    if fits:
        return checkpointer
    kind = type(checkpointer).__name__
    remedy = "Pass a saver such as InMemorySaver(), True or False (for a graph inside another), or None"
    raise TypeError(f"Invalid checkpointer provided: a {kind}. {remedy}")


# ------------------------------------------------------------------ what a run gives back
@dataclass(frozen=True)
class GraphOutput(Generic[OutputT]):
    """The result of a run with ``version="v2"``: the value, and the interrupts that wait for an answer.

    ``output[key]`` and ``key in output`` read the value, as results of older versions do; that is discouraged.
    """

    value: OutputT
    interrupts: "tuple[Interrupt[Any], ...]" = ()

    def __getitem__(self, key: str) -> Any:
        self._discourage("result[key]")
        found = self._look_up(key)
        if found is MISSING:
            raise KeyError(key)
        return found

    def __contains__(self, key: object) -> bool:
        self._discourage("key in result")
        return len(self.interrupts) > 0 if key == "__interrupt__" else self._look_up(key) is not MISSING

    def _look_up(self, key: Any) -> Any:
        value: Any = self.value
        if key == "__interrupt__":
            value = {key: self.interrupts}
        if isinstance(value, dict):
            return value.get(key, MISSING)
        return getattr(value, key, MISSING) if isinstance(key, str) else MISSING

    @staticmethod
    def _discourage(how: str) -> None:
        from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV11

        text = f"Accessing GraphOutput via `{how}` is deprecated. Use `result.value` or `result.interrupts`."
        warn(text, LangGraphDeprecatedSinceV11, stacklevel=3)


# ------------------------------------------------------------------ policies of a node
class RetryPolicy(NamedTuple):
    """How often and when a failed node is tried again. Times are in seconds."""

    initial_interval: float = 0.5
    backoff_factor: float = 2.0
    max_interval: float = 128.0
    max_attempts: int = 3
    jitter: bool = True
    retry_on: type[Exception] | Sequence[type[Exception]] | Callable[[Exception], bool] = default_retry_on


def _seconds(value: "float | timedelta | None", field: str) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if hasattr(value, "total_seconds") else float(value)
    if seconds > 0 or seconds != seconds:
        return seconds
    raise ValueError(f"{field} must be greater than 0, not {value!r}")


@dataclass(kw_only=True, slots=True, frozen=True)
class TimeoutPolicy:
    """How long an attempt of an async node may take.

    Attributes
    ----------
    run_timeout : seconds, or a timedelta, from start to end
    idle_timeout : seconds, or a timedelta, without a sign of progress
    refresh_on : what counts as progress: "auto" (writes, streamed items, calls), or only "heartbeat"
    """

    run_timeout: "float | timedelta | None" = None
    idle_timeout: "float | timedelta | None" = None
    refresh_on: Literal["auto", "heartbeat"] = "auto"

    @classmethod
    def coerce(cls, value: "float | timedelta | TimeoutPolicy | None") -> "TimeoutPolicy | None":
        """A policy with plain seconds from whatever may stand for one; None if it limits nothing."""
        if value is None:
            return None
        policy = value if isinstance(value, TimeoutPolicy) else cls(run_timeout=value)
        run, idle = _seconds(policy.run_timeout, "run_timeout"), _seconds(policy.idle_timeout, "idle_timeout")
        if run is None and idle is None:
            return None
        if policy is value and type(policy.run_timeout) is type(run) and type(policy.idle_timeout) is type(idle):
            return policy
        return cls(run_timeout=run, idle_timeout=idle, refresh_on=policy.refresh_on)


@sealed
@dataclass(kw_only=True, slots=True, frozen=True)
class CachePolicy(Generic[KeyFuncT]):
    """Under which key a node's result is kept, and for how many seconds (None: until it is cleared)."""

    key_func: KeyFuncT = default_cache_key  # type: ignore[assignment]
    ttl: int | None = None


@dataclass(kw_only=True, slots=True, frozen=True)
class TracePolicy:
    """What traces show of a node. The functions change what is recorded, not what the node gets or gives."""

    process_inputs: Callable[[Any], Any] | None = None
    process_outputs: Callable[[Any], Any] | None = None


def omit_payload(_value: Any) -> dict[str, Any]:
    """For a TracePolicy: record nothing."""
    return {}


# ------------------------------------------------------------------ interrupts
_DEFAULT_INTERRUPT_ID: str = "placeholder-id"


def _hash(text: str) -> str:
    from xxhash import xxh3_128_hexdigest

    return xxh3_128_hexdigest(text.encode())


def _interrupt_id(ns: str, answered: int) -> str:
    """The id of the interrupt that a task raises after `answered` others have got their answer."""
    return _hash(f"{ns}{NS_SEP}{answered}" if answered else ns)


@final
@dataclass(init=False, slots=True)
class Interrupt(Generic[ResponseT]):
    """A question that a node has asked.

    Attributes
    ----------
    value : the question, whatever the node gave
    id : the answer can be addressed to it, ``Command(resume={id: answer})``
    response_schema : the JSON schema that an answer must fit, if the node named one
    """

    value: Any
    id: str
    response_schema: "type[ResponseT] | dict[str, Any] | None" = None

    def __init__(
        self,
        value: Any,
        id: str = _DEFAULT_INTERRUPT_ID,
        *,
        response_schema: "type[ResponseT] | dict[str, Any] | None" = None,
        **deprecated_kwargs: Any,
    ) -> None:
        path = deprecated_kwargs.get("ns")  # before version 1 an interrupt kept its namespace, part by part
        if path is not None and id == _DEFAULT_INTERRUPT_ID:
            id = _hash(NS_SEP.join(path))
        self.value, self.id, self.response_schema = value, id, response_schema

    @classmethod
    def from_ns(
        cls, value: Any, ns: str, *, response_schema: "type[ResponseT] | dict[str, Any] | None" = None
    ) -> "Interrupt[ResponseT]":
        """The first interrupt of the task in namespace `ns`."""
        return cls(value=value, id=_hash(ns), response_schema=response_schema)

    @property
    def interrupt_id(self) -> str:
        from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV10

        known = self.id
        warn("`interrupt_id` is deprecated. Use `id` instead.", LangGraphDeprecatedSinceV10, stacklevel=2)
        return known


def interrupt(value: Any, *, response_schema: dict[str, Any] | type | None = None) -> Any:
    """Ask whoever runs the graph, and give back the answer.

    The first time, the run stops here and the caller sees `value`. When the caller resumes with
    ``Command(resume=answer)``, the node is run again from its start and this call returns `answer`. A node may ask
    several times: its calls are answered in their order. Needs a checkpointer.

    Parameters
    ----------
    value : the question, as the caller will see it
    response_schema : what an answer must look like: a JSON schema, which is only passed on, or a type (a pydantic
        model, dataclass or TypedDict), into which the answer is also turned

    Raises
    ------
    GraphInterrupt
        when there is no answer yet; let it pass
    """
    from dynamo.langgraph.config import get_config

    conf = get_config()[CONF]
    pad = conf[CONFIG_KEY_SCRATCHPAD]
    answers, number = pad.resume, pad.interrupt_counter()
    adapter: Any = None
    if response_schema is not None and not isinstance(response_schema, dict):
        from pydantic import TypeAdapter

        adapter = TypeAdapter(response_schema)
    if answers and number < len(answers):
        answer = answers[number] if adapter is None else _validate_resume(adapter, answers[number])
        conf[CONFIG_KEY_SEND]([(RESUME, answers[: number + 1])])  # those behind it have not been looked at yet
        return answer
    given = pad.get_null_resume(True)
    if given is not None:
        # Only an answer that fits is noted as this task's.
        answer = given if adapter is None else _validate_resume(adapter, given)
        answers.append(given)
        conf[CONFIG_KEY_SEND]([(RESUME, answers)])
        return answer
    from dynamo.langgraph.errors import GraphInterrupt

    question: Interrupt[Any] = Interrupt(
        value=value,
        id=_interrupt_id(conf[CONFIG_KEY_CHECKPOINT_NS], len(answers)),
        response_schema=adapter.json_schema() if adapter is not None else response_schema,
    )
    raise GraphInterrupt((question,))


def _validate_resume(adapter: Any, value: Any) -> Any:
    from pydantic import ValidationError

    from dynamo.langgraph.errors import _mark_invalid_resume

    try:
        answer = adapter.validate_python(value)
    except ValidationError as error:
        _mark_invalid_resume(error)
        raise
    return answer


# ------------------------------------------------------------------ what a node can return
class Send:
    """Run a node on an input of its own, beside whatever else the next step runs.

    Attributes
    ----------
    node : the name of the node
    arg : its input, in place of the state
    timeout : a limit for this one task
    """

    __slots__ = ("arg", "node", "timeout")

    node: str
    arg: Any
    timeout: TimeoutPolicy | None

    def __init__(self, /, node: str, arg: Any, *, timeout: "float | timedelta | TimeoutPolicy | None" = None) -> None:
        self.node = node
        self.arg = arg
        self.timeout = None if timeout is None else TimeoutPolicy.coerce(timeout)

    def __hash__(self) -> int:
        return hash(self._parts())

    def __repr__(self) -> str:
        limit = "" if self.timeout is None else f", timeout={self.timeout!r}"
        return f"Send(node={self.node!r}, arg={self.arg!r}{limit})"

    def __eq__(self, value: object) -> bool:
        return isinstance(value, Send) and self._parts() == value._parts()

    def _parts(self) -> tuple[Any, ...]:
        return self.node, self.arg, self.timeout


class _ToolOutput:
    """Stands where langchain-core's ToolOutputMixin goes once that is loaded."""


@sealed
@dataclass(kw_only=True, slots=True, frozen=True)
class Command(Generic[N], _ToolOutput):
    """An update of the state, where to go next, an answer to an interrupt, or several of them at once.

    Attributes
    ----------
    graph : which graph is meant: None for the one of the node, ``Command.PARENT`` for the one around it
    update : what to write to the state: a mapping, an object with the state's fields, or (key, value) pairs
    resume : the answer to a waiting interrupt, or a mapping from interrupt ids to answers
    goto : the node or nodes to run next, by name or as Sends
    """

    graph: str | None = None
    update: Any | None = None
    resume: dict[str, Any] | Any | None = None
    goto: "Send | Sequence[Send | N] | N" = ()

    PARENT: ClassVar[Literal["__parent__"]] = "__parent__"

    def __repr__(self) -> str:
        said = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return f"Command({', '.join(f'{name}={value!r}' for name, value in said if value)})"

    def _update_as_tuples(self) -> Sequence[tuple[str, Any]]:
        update = self.update
        if update is None:
            return []
        if isinstance(update, dict):
            return list(update.items())
        if isinstance(update, (list, tuple)):
            if all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in update):
                return list(update)
            return [("__root__", update)]
        if hints := getattr(type(update), "__annotations__", None) and _annotated_keys(type(update)):
            from dynamo.langgraph._internal._fields import get_update_as_tuples

            pairs: list[tuple[str, Any]] = get_update_as_tuples(update, hints)
            return pairs
        return [("__root__", update)]


def _annotated_keys(cls: type[Any]) -> tuple[str, ...]:
    from dynamo.langgraph._internal._fields import get_cached_annotated_keys

    keys: tuple[str, ...] = get_cached_annotated_keys(cls)
    return keys


def _join_tool_outputs(module: ModuleType) -> None:
    mixin = getattr(module, "ToolOutputMixin", None)
    if mixin is not None:
        Command.__bases__ = (Generic, mixin)


when_imported("langchain_core.messages.tool", _join_tool_outputs)


@dataclass(slots=True)
class Overwrite:
    """Put a value in a channel past its reducer. A channel takes one of them in a step."""

    value: Any
    type: Literal["__overwrite__"] = "__overwrite__"


# ------------------------------------------------------------------ tasks and snapshots
class StateUpdate(NamedTuple):
    """One update of `bulk_update_state`."""

    values: dict[str, Any] | None
    as_node: str | None = None
    task_id: str | None = None


class PregelTask(NamedTuple):
    """A task as `get_state` shows it."""

    id: str
    name: str
    path: tuple[str | int | tuple[Any, ...], ...]
    error: Exception | None = None
    interrupts: tuple[Interrupt[Any], ...] = ()
    state: "RunnableConfig | StateSnapshot | None" = None
    result: Any | None = None


class CacheKey(NamedTuple):
    """Where the result of a task is cached."""

    ns: tuple[str, ...]
    key: str
    ttl: int | None


class _Referable:
    """Gives a class with slots room for weak references, also before Python 3.11."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class PregelExecutableTask(_Referable):
    """A task as the engine runs it."""

    name: str
    input: Any
    proc: Any
    writes: deque[tuple[str, Any]]
    config: "RunnableConfig"
    triggers: Sequence[str]
    retry_policy: Sequence[RetryPolicy]
    cache_key: CacheKey | None
    id: str
    path: tuple[str | int | tuple[Any, ...], ...]
    writers: Sequence[Any] = ()
    subgraphs: "Sequence[PregelProtocol[Any, Any, Any, Any]]" = ()
    timeout: TimeoutPolicy | None = None


class StateSnapshot(NamedTuple):
    """The state of a thread at one checkpoint.

    Attributes
    ----------
    values : the state
    next : the nodes that would run next
    config : names the checkpoint
    metadata : how it came about: ``source``, ``step``, ``parents``
    created_at : ISO 8601
    parent_config : names the checkpoint before it
    tasks : the tasks that would run next, or have run and failed
    interrupts : the questions that wait for an answer
    """

    values: dict[str, Any] | Any
    next: tuple[str, ...]
    config: "RunnableConfig"
    metadata: "CheckpointMetadata | None"
    created_at: str | None
    parent_config: "RunnableConfig | None"
    tasks: tuple[PregelTask, ...]
    interrupts: tuple[Interrupt[Any], ...]


own(globals())
