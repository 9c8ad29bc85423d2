"""The transformers that come with the package.

Subgraphs are found in the events of mode `tasks` alone. A namespace segment ``node:id`` names the task of the parent
graph in which the subgraph runs:

    start  at (.., "node:id")        first of its namespace: the subgraph has started
    result at (..), of task "id"     the subgraph has ended, as that task did
"""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict, cast

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.stream._types import StreamTransformer
from dynamo.langgraph.stream.stream_channel import StreamChannel

if typing.TYPE_CHECKING:
    from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream
    from langchain_core.messages import BaseMessage
    from langchain_protocol.protocol import LifecycleCause, MessagesData
    from typing_extensions import NotRequired

    from dynamo.langgraph.stream._mux import StreamMux
    from dynamo.langgraph.stream._types import ProtocolEvent
    from dynamo.langgraph.stream.run_stream import AsyncSubgraphRunStream, SubgraphRunStream

    Handle = SubgraphRunStream | AsyncSubgraphRunStream

SubgraphStatus: TypeAlias = Literal["started", "completed", "failed", "interrupted", "drained"]
Transition = tuple[tuple[str, ...], SubgraphStatus, "str | None"]
_TASKS = "tasks"


class _Projection(StreamTransformer):
    """A transformer that comes with the package: it has one channel, which is an attribute of the run.

    Class keywords
    --------------
    key : the name of the projection
    mode : the stream mode it is made of, and the name of the projection if that is not given
    announced : each item is an event of that name in the log of the run, too
    """

    _native = True
    _key: ClassVar[str]
    _mode: ClassVar[str]
    _announced: ClassVar[str | None] = None

    def __init_subclass__(cls, key: str = "", mode: str = "", announced: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if mode:
            cls._mode, cls.required_stream_modes = mode, (mode,)
        if key or mode:
            cls._key, cls._announced = key or mode, announced

    def __init__(self, scope: tuple[str, ...] = ()) -> None:
        super().__init__(scope)
        self._log: StreamChannel[Any] = StreamChannel(self._announced)
        self._begin()

    def _begin(self) -> None:
        """Make what a subclass keeps beside its channel."""

    def init(self) -> dict[str, Any]:
        return {self._key: self._log}


class _ScopeTransformer(_Projection):
    """The data of one stream mode, of the events of this scope alone."""

    def process(self, event: ProtocolEvent) -> bool:
        if event["method"] == self._mode and (*event["params"]["namespace"],) == self.scope:
            self._take(event)
        return True

    def _take(self, event: ProtocolEvent) -> None:
        self._log.push(event["params"]["data"])


class UpdatesTransformer(_ScopeTransformer, mode="updates"):
    """`run.updates`: what each node wrote."""


class CustomTransformer(_ScopeTransformer, mode="custom"):
    """`run.custom`: what nodes gave to their stream writer."""


class CheckpointsTransformer(_ScopeTransformer, mode="checkpoints"):
    """`run.checkpoints`: each checkpoint, as it is made."""


class DebugTransformer(_ScopeTransformer, mode="debug"):
    """`run.debug`: checkpoints and tasks, with their step."""


class TasksTransformer(_ScopeTransformer, mode="tasks"):
    """`run.tasks`: each task as it starts and as it ends."""


class ValuesTransformer(_ScopeTransformer, mode="values"):
    """`run.values`: the state after each step, and whether the run waits for somebody."""

    def _begin(self) -> None:
        self._interrupts: list[Any] = []

    @property
    def _interrupted(self) -> bool:
        return len(self._interrupts) > 0

    @property
    def error(self) -> BaseException | None:
        """What broke the run, if anything did."""
        log = self._log
        return log._error

    def _take(self, event: ProtocolEvent) -> None:
        self._interrupts += event["params"].get("interrupts") or ()
        super()._take(event)


class MessagesTransformer(_ScopeTransformer, mode="messages"):
    """`run.messages`: a stream for each message of a model, from its first token on.

    A message that a node returns whole is played as such a stream. Chunks of the older protocol and the messages of
    tools are passed over.
    """

    def _begin(self) -> None:
        self._by_run: dict[str, ChatModelStream | AsyncChatModelStream] = {}
        self._ignored_runs: set[str] = set()
        self._pump_fn: Callable[[], bool] | None = None
        self._apump_fn: Callable[[], Awaitable[bool]] | None = None

    def _bind_pump(self, pump: Callable[[], bool]) -> None:
        self._pump_fn = pump

    def _bind_apump(self, pump: Callable[[], Awaitable[bool]]) -> None:
        self._apump_fn = pump

    def _open_stream(self, node: str | None, name: str | None) -> ChatModelStream | AsyncChatModelStream:
        """A stream for one message, already on its way to the reader."""
        from langchain_core.language_models import chat_model_stream as kinds

        new: ChatModelStream | AsyncChatModelStream
        if self._log._is_async is False:
            new = kinds.ChatModelStream(namespace=[*self.scope], node=node, message_id=name)
            if pump := self._pump_fn:
                new.set_request_more(pump)
        else:
            new = kinds.AsyncChatModelStream(namespace=[*self.scope], node=node, message_id=name)
            if apump := self._apump_fn:
                new.set_arequest_more(apump)
        self._log.push(new)
        return new

    def _take(self, event: ProtocolEvent) -> None:
        from langchain_core.messages import AIMessageChunk, BaseMessage, ToolMessage

        payload, about = event["params"]["data"]
        node, run = about.get("langgraph_node"), str(about.get("run_id", ""))
        if isinstance(payload, BaseMessage):
            if not isinstance(payload, (AIMessageChunk, ToolMessage)):
                self._play(payload, node)
        elif isinstance(payload, dict) and "event" in payload:
            self._follow(payload, run, node)

    def _follow(self, step: dict[str, Any], run: str, node: str | None) -> None:
        kind, of_tool = step["event"], run in self._ignored_runs
        if kind == "message-start":
            if step.get("role") == "tool":
                self._ignored_runs.add(run)
                return
            of_tool = False
            self._by_run[run] = self._open_stream(node, step.get("message_id") or step.get("id"))
        if not of_tool and run in self._by_run:
            self._by_run[run].dispatch(cast("MessagesData", step))
        if kind in ("message-finish", "error"):
            self._by_run.pop(run, None)
            self._ignored_runs.discard(run)

    def _play(self, message: BaseMessage, node: str | None) -> None:
        from langchain_core.language_models._compat_bridge import message_to_events

        new = self._open_stream(node, message.id)
        for step in message_to_events(message, message_id=message.id):
            new.dispatch(step)

    def finalize(self) -> None:
        self._by_run, self._ignored_runs = {}, set()

    def fail(self, err: BaseException) -> None:
        cut_off = list(self._by_run.values())
        MessagesTransformer.finalize(self)
        for unfinished in cut_off:
            unfinished.fail(err)


class LifecyclePayload(TypedDict, total=False):
    """What happened to a subgraph, and to which."""

    event: SubgraphStatus
    namespace: list[str]
    graph_name: NotRequired[str]
    trigger_call_id: NotRequired[str]
    cause: NotRequired[LifecycleCause]
    error: NotRequired[str]


def _parse_ns_segment(segment: str) -> tuple[str, str | None]:
    node, colon, task_id = segment.partition(":")
    return node, task_id if colon else None


def _how_it_broke(err: BaseException) -> tuple[SubgraphStatus, str | None]:
    from dynamo.langgraph import errors

    quiet: SubgraphStatus | None = None
    if isinstance(err, errors.GraphInterrupt):
        quiet = "interrupted"
    elif isinstance(err, errors.GraphDrained):
        quiet = "drained"
    return (quiet, None) if quiet else ("failed", str(err))


def _how_it_ended(result: dict[str, Any]) -> tuple[SubgraphStatus, str | None]:
    waits, error = bool(result.get("interrupts")), result.get("error")
    status: SubgraphStatus = "interrupted" if waits else "failed" if error else "completed"
    return status, str(error) if status == "failed" else None


def _tool_call_id(given: Any) -> str | None:
    """The id of the tool call that a task was made for, if its input is one."""
    if isinstance(given, dict):
        given = [given.get("tool_call")]
    if isinstance(given, (list, tuple)):
        for call in given:
            if isinstance(call, dict) and isinstance(call.get("id"), str):
                return cast("str", call["id"])
    return None


class _TasksLifecycleBase(StreamTransformer):
    """Finds out from tasks which subgraphs start and how they end.

    I1  `_on_started` is called once for a namespace, `_on_terminal` at most once after it.
    I2  `_pending_cause` is what led to the subgraph, while `_on_started` runs.
    """

    required_stream_modes: ClassVar[tuple[str, ...]] = (_TASKS,)

    def __init__(self, scope: tuple[str, ...] = ()) -> None:
        super().__init__(scope)
        self._running: dict[tuple[str | None, ...], tuple[str, ...]] = {}  # graph around it and its task: namespace
        self._lc_by_ns: dict[tuple[str, ...], str | None] = {}
        self._seen: set[tuple[str, ...]] = set()
        self._pending_tool_calls: dict[str, str] = {}  # id of a task: id of its tool call
        self._pending_cause: LifecycleCause | None = None

    def _should_track(self, ns: tuple[str, ...]) -> bool:
        return len(ns) > len(self.scope) and ns[: len(self.scope)] == self.scope

    def _on_started(self, ns: tuple[str, ...], graph_name: str | None, trigger_call_id: str | None) -> None:
        """A subgraph did its first task."""

    def _on_terminal(self, ns: tuple[str, ...], status: SubgraphStatus, error: str | None) -> None:
        """A subgraph ended."""

    def process(self, event: ProtocolEvent) -> bool:
        for ended in self._read(event):
            self._on_terminal(*ended)
        return event["method"] != _TASKS

    def _read(self, event: ProtocolEvent) -> list[Transition]:
        """Learn from an event; what it ended is for the caller to tell."""
        if event["method"] != _TASKS:
            return []
        ns, task = tuple(event["params"]["namespace"]), event["params"]["data"]
        if "result" in task:
            return self._pop_terminal_transitions(ns, task)
        self._record_identity(ns, task)
        self._record_pending_tool_calls(task)
        self._handle_task_start(ns, task)
        return []

    # Transformers of other packages that read events themselves call these three, in this order.

    def _record_identity(self, ns: tuple[str, ...], data: dict[str, Any]) -> None:
        self._lc_by_ns.setdefault(ns, (data.get("metadata") or {}).get("lc_agent_name"))

    def _record_pending_tool_calls(self, data: dict[str, Any]) -> None:
        if (call := _tool_call_id(data.get("input"))) is not None:
            self._pending_tool_calls[data["id"]] = call

    def _handle_task_start(self, ns: tuple[str, ...], data: dict[str, Any]) -> None:
        if ns in self._seen or not ns or not self._should_track(ns):
            return
        self._seen.add(ns)
        name, task = _parse_ns_segment(ns[-1])
        self._running[(*ns[:-1], task) if task else ns] = ns
        if agent := self._lc_by_ns[ns]:
            name = agent
            call = self._pending_tool_calls.get(task or "")
            if call is not None:
                self._pending_cause = {"type": "toolCall", "tool_call_id": call}
        try:
            self._on_started(ns, name, task)
        finally:
            self._pending_cause = None

    def _pop_terminal_transitions(self, ns: tuple[str, ...], data: dict[str, Any]) -> list[Transition]:
        task = data.get("id")
        self._pending_tool_calls.pop(task or "", None)
        ended = self._running.pop((*ns, task), None)
        return [] if ended is None else [(ended, *_how_it_ended(data))]

    def _rest(self, status: SubgraphStatus, error: str | None) -> list[Transition]:
        """That all which still run have ended so."""
        spaces, self._running = [*self._running.values()], {}
        return [(ns, status, error) for ns in spaces]

    def finalize(self) -> None:
        for ended in self._rest("completed", None):
            self._on_terminal(*ended)

    def fail(self, err: BaseException) -> None:
        for ended in self._rest(*_how_it_broke(err)):
            self._on_terminal(*ended)


class LifecycleTransformer(_Projection, _TasksLifecycleBase, key="lifecycle", announced="lifecycle"):
    """`run.lifecycle`: the start and the end of each subgraph below the scope, however deep."""

    def _begin(self) -> None:
        self._channel: StreamChannel[LifecyclePayload] = self._log

    def _on_started(self, ns: tuple[str, ...], graph_name: str | None, trigger_call_id: str | None) -> None:
        told = {"graph_name": graph_name, "trigger_call_id": trigger_call_id, "cause": self._pending_cause}
        self._tell("started", ns, told)

    def _on_terminal(self, ns: tuple[str, ...], status: SubgraphStatus, error: str | None) -> None:
        self._tell(status, ns, {"error": error})

    def _tell(self, status: SubgraphStatus, ns: tuple[str, ...], told: dict[str, Any]) -> None:
        known = {key: value for key, value in told.items() if value is not None}
        self._channel.push(cast("LifecyclePayload", {"event": status, "namespace": [*ns], **known}))


# What a mux is to be told: itself, the method, and its arguments. The asynchronous lane has the method with an "a".
Deed = tuple["StreamMux", str, tuple[Any, ...]]


def _perform(deeds: Iterable[Deed]) -> None:
    """Tell all muxes; the first error is raised when everyone has been told."""
    broken: list[Exception] = []
    for mux, method, what in deeds:
        try:
            getattr(mux, method)(*what)
        except Exception as err:
            broken.append(err)
    _raise_first(broken)


async def _aperform(deeds: Iterable[Deed]) -> None:
    broken: list[Exception] = []
    for mux, method, what in deeds:
        try:
            await getattr(mux, f"a{method}")(*what)
        except Exception as err:
            broken.append(err)
    _raise_first(broken)


def _raise_first(broken: list[Exception]) -> None:
    if broken:
        raise broken[0]


class SubgraphTransformer(_Projection, _TasksLifecycleBase, key="subgraphs"):
    """`run.subgraphs`: a handle for each direct child, a run in itself with a mux of its own.

    The events at and below a child's namespace are shown to its mux too, until it is closed. What there is to do is
    found out once (`_deeds`, `_endings`), and performed in the lane of the run.
    """

    supports_sync = True

    def _begin(self) -> None:
        self._handles: dict[tuple[str, ...], Handle] = {}
        self._mux: StreamMux | None = None

    def _on_register(self, mux: Any) -> None:
        self._mux = mux

    def _should_track(self, ns: tuple[str, ...]) -> bool:
        return len(ns) == len(self.scope) + 1 and super()._should_track(ns)

    def _on_started(self, ns: tuple[str, ...], graph_name: str | None, trigger_call_id: str | None) -> None:
        from dynamo.langgraph.stream import run_stream

        if (mux := self._mux) is None:
            raise RuntimeError("a SubgraphTransformer makes muxes for subgraphs: register it with a StreamMux first")
        kind = run_stream.AsyncSubgraphRunStream if mux.is_async else run_stream.SubgraphRunStream
        child = kind(mux._make_child(ns), path=ns, graph_name=graph_name, trigger_call_id=trigger_call_id)
        self._handles[ns] = child
        self._log.push(child)

    # ------------------------------------------------------------ what there is to do
    def _endings(self, ended: Iterable[Transition], err: BaseException | None = None) -> Iterator[Deed]:
        """Note how children ended, and tell their muxes; `err` is what broke the whole run, if that is why."""
        for ns, status, error in ended:
            child = self._handles[ns]
            if child._seen_terminal:
                continue
            child.status, child.error, child._seen_terminal = status, error, True
            if child._mux._events._closed:
                continue
            broken = RuntimeError(error) if err is None and status == "failed" else err
            yield (child._mux, "close", ()) if broken is None else (child._mux, "fail", (broken,))

    def _deeds(self, event: ProtocolEvent) -> Iterator[Deed]:
        yield from self._endings(self._read(event))
        child = self._handles.get(tuple(event["params"]["namespace"][: len(self.scope) + 1]))
        if child is not None and not child._mux._events._closed:
            child._observe_event(event)
            yield child._mux, "push", (event,)

    # ------------------------------------------------------------ both lanes
    def _on_terminal(self, ns: tuple[str, ...], status: SubgraphStatus, error: str | None) -> None:
        _perform(self._endings([(ns, status, error)]))

    def process(self, event: ProtocolEvent) -> bool:
        _perform(self._deeds(event))
        return event["method"] != _TASKS

    async def aprocess(self, event: ProtocolEvent) -> bool:
        await _aperform(self._deeds(event))
        return event["method"] != _TASKS

    def finalize(self) -> None:
        _perform(self._endings(self._rest("completed", None)))

    async def afinalize(self) -> None:
        await _aperform(self._endings(self._rest("completed", None)))

    def fail(self, err: BaseException) -> None:
        _perform(self._endings(self._rest(*_how_it_broke(err)), err))

    async def afail(self, err: BaseException) -> None:
        await _aperform(self._endings(self._rest(*_how_it_broke(err)), err))


own(globals())
