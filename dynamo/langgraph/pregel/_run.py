"""One run of a graph: from the caller's arguments to a loop, and from what the loop shows to the caller.

    Run(graph, input, config, ...)    what is asked for: modes, saver, durability, runtime
      invoke, ainvoke                 loop.run()                     nothing is queued when only the result counts
      stream, astream                 for _ in loop.steps(waiter)    what is shown goes through a queue

Most runs have nobody who looks on. They get no run manager of langchain, no queue and no stream; what a spectator
needs is made when there is one.

I1  Whoever was told that the run starts is told how it ends.
I2  A handler that shows one graph only is not handed to the runs of others.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._install import install_if_free
from dynamo.langgraph._internal._config import (
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    recast_checkpoint_ns,
)
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CACHE,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_DURABILITY,
    CONFIG_KEY_NODE_FINISHED,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_STREAM,
    CONFIG_KEY_STREAM_MESSAGES_V2,
    CONFIG_KEY_TASK_ID,
    NS_SEP,
)
from dynamo.langgraph._internal._errors import CheckpointError
from dynamo.langgraph._internal._langchain import child_config, loaded, tracing
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._pydantic import is_model
from dynamo.langgraph._internal._queue import AsyncQueue, SyncQueue
from dynamo.langgraph._internal._serde import apply_checkpointer_allowlist
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.errors import ErrorCode, GraphDrained, GraphRecursionError, create_error_message
from dynamo.langgraph.pregel._complaints import goes_round
from dynamo.langgraph.pregel._shape import Shape, mode_set
from dynamo.langgraph.pregel._validate import validate_keys
from dynamo.langgraph.pregel.protocol import StreamProtocol
from dynamo.langgraph.runtime import DEFAULT_RUNTIME, Runtime, ServerInfo

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.main import Pregel

_EAGER = {"messages", "custom", "tools"}  # shown while a superstep runs, not only after it
_PLACES = "thread_id, checkpoint_ns, checkpoint_id"


# ------------------------------------------------------------------ what a run is told
def checkpointer_for(graph: Pregel[Any, Any, Any, Any], conf: Any) -> Any:
    """The saver of a run: the graph's own, that of the graph around it, or None."""
    if graph.checkpointer:
        install_if_free()  # a saver makes its objects from langgraph.types
    if graph.checkpointer is False:
        return None
    if CONFIG_KEY_CHECKPOINTER in conf:
        return apply_checkpointer_allowlist(conf[CONFIG_KEY_CHECKPOINTER], graph._serde_allowlist)
    if graph.checkpointer is True:
        raise RuntimeError("checkpointer=True cannot be used for root graphs.")
    return graph.checkpointer


def context_for(schema: Any, context: Any) -> Any:
    """The context as an instance of the graph's context schema, if it was given as a mapping."""
    if isinstance(context, dict) and isinstance(schema, type) and (is_dataclass(schema) or is_model(schema)):
        return schema(**context)
    return context


def runtime_around(value: Any) -> Runtime[Any]:
    """The runtime that a config brings from outside; it may be a mapping, or of a class of somebody else."""
    if isinstance(value, Runtime):
        return value
    if value is None:
        return DEFAULT_RUNTIME
    names = Runtime.__dataclass_fields__
    if isinstance(value, dict):
        return Runtime(**{name: value[name] for name in names if name in value})
    return Runtime(**{name: getattr(value, name) for name in names if hasattr(value, name)})


def server_info(conf: Any) -> ServerInfo | None:
    """What a LangGraph server says of itself in a config."""
    assistant, graph = conf.get("assistant_id"), conf.get("graph_id")
    user = conf.get("langgraph_auth_user")
    if assistant is None and graph is None and user is None:
        return None
    known = user if hasattr(user, "identity") else None
    return ServerInfo(assistant_id=str(assistant or ""), graph_id=str(graph or ""), user=known)


def _handlers(callbacks: Any) -> Sequence[Any]:
    if callbacks is None or isinstance(callbacks, (list, tuple)):
        return callbacks or ()
    return (*callbacks.handlers, *callbacks.inheritable_handlers)


def _shows_one_graph(handler: Any) -> bool:
    """Whether a handler is there for the stream of another run, and only for the graph of that."""
    for module, name in (
        ("dynamo.langgraph.pregel._message_stream", "StreamMessagesHandler"),
        ("dynamo.langgraph.pregel._tools", "StreamToolCallHandler"),
    ):
        kind = loaded(module, name)
        if kind is not None and isinstance(handler, kind):
            return not handler.subgraphs
    return False


class Run:
    """What one call of ``invoke``, ``stream`` or their asynchronous twins asks for.

    Parameters
    ----------
    graph, input, config
        Of the caller.
    in_loop
        Whether the run is asynchronous.
    given
        The other arguments, see `Pregel.stream`.
    """

    def __init__(
        self,
        graph: Pregel[Any, Any, Any, Any],
        input: Any,
        config: Any,
        *,
        in_loop: bool,
        stream_mode: Any,
        print_mode: Any = (),
        context: Any = None,
        output_keys: Any = None,
        interrupt_before: Any = None,
        interrupt_after: Any = None,
        durability: Any = None,
        control: Any = None,
        subgraphs: bool = False,
        debug: bool | None = None,
        version: str = "v1",
    ) -> None:
        self.graph, self.input, self.in_loop, self.subgraphs = graph, input, in_loop, subgraphs
        if graph.debug if debug is None else debug:
            print_mode = ["updates", "values"]
        self.modes = mode_set(stream_mode) | mode_set(print_mode)
        whole = output_keys is None or output_keys is graph.output_channels
        self.shape = Shape(
            stream_mode, print_mode, subgraphs, version, graph._output_mapper if whole else None, graph._state_mapper
        )
        self.config = config = ensure_config(graph.config, config)
        self.conf = conf = config[CONF]
        if config["recursion_limit"] < 1:
            raise ValueError("recursion_limit must be at least 1")
        self.saver = checkpointer_for(graph, conf)
        if self.saver and not conf:
            raise CheckpointError(
                f"Checkpointer requires one or more of the following 'configurable' keys: {_PLACES}; for example "
                "config={'configurable': {'thread_id': 'one'}}"
            )
        if graph.checkpointer is True and CONFIG_KEY_CHECKPOINT_NS in conf:
            conf[CONFIG_KEY_CHECKPOINT_NS] = recast_checkpoint_ns(conf[CONFIG_KEY_CHECKPOINT_NS])
        if durability is not None:
            conf[CONFIG_KEY_DURABILITY] = durability
        if not whole:
            validate_keys(output_keys, graph.channels)
        self.output_keys = graph.stream_channels_asis if output_keys is None else output_keys
        self.before = interrupt_before or graph.interrupt_before_nodes
        self.after = interrupt_after or graph.interrupt_after_nodes
        self.queue: Any = None
        self.manager: Any = None
        self.handlers: list[Any] = []
        self.loop: Any = None
        self._runtime(context, control)

    def _runtime(self, context: Any, control: Any) -> None:
        around = runtime_around(self.conf.get(CONFIG_KEY_RUNTIME))
        told: dict[str, Any] = {}
        if "custom" in self.modes:
            told["stream_writer"] = self._custom
        elif CONFIG_KEY_STREAM not in self.conf:
            told["stream_writer"] = _nowhere  # the graph around shows none of the graphs inside
        mine: Runtime[Any] = Runtime(
            context=context_for(self.graph.context_schema, context),
            store=None if around.store is not None else self.graph.store,
            server_info=server_info(self.conf),
            control=control,
            **told,
        )
        self.conf[CONFIG_KEY_RUNTIME] = around.merge(mine)

    def _custom(self, item: Any) -> None:
        """Somebody in the run writes to the stream "custom"."""
        config = child_config.get()
        ns = config[CONF].get(CONFIG_KEY_CHECKPOINT_NS) if config else None
        self.push((tuple(ns.split(NS_SEP))[:-1] if ns else self.shape.ns, "custom", item))

    # ---------------------------------------------------------------- what is shown
    def listen(self, eager: bool) -> Any:
        """Get ready to show something; returns the stream for the loop."""
        if not eager:
            items: deque[Any] = deque()
            self.push: Callable[[Any], None] = items.append
            self.rest, self.take = items.__len__, items.popleft
        elif self.in_loop:
            self.queue = AsyncQueue()
            self.rest, self.take = self.queue.qsize, self.queue.get_nowait
            home, here, put = asyncio.get_running_loop(), threading.get_ident(), self.queue.put_nowait

            def push(chunk: Any) -> None:
                if threading.get_ident() == here:
                    put(chunk)
                else:
                    home.call_soon_threadsafe(put, chunk)

            self.push = push
        else:
            self.queue = SyncQueue()
            self.push = self.queue.put
            self.rest, self.take = self.queue.items.__len__, self.queue.items.popleft
        return StreamProtocol(self.push, self.modes)

    def shown(self) -> Iterator[Any]:
        """What the caller gets for what has been shown since."""
        while self.rest():
            given = self.shape(self.take())
            if given is not MISSING:
                yield given

    # ---------------------------------------------------------------- who looks on
    def watch(self) -> Any:
        """The manager that tells handlers of the run; None when there are none."""
        callbacks = self.config.get("callbacks")
        if "messages" in self.modes:
            from dynamo.langgraph.pregel import _messages

            v2 = self.conf.pop(CONFIG_KEY_STREAM_MESSAGES_V2, False)
            kind = _messages.StreamMessagesHandlerV2 if v2 else _messages.StreamMessagesHandler
            self.handlers.append(kind(self.push, self.subgraphs))
        if "tools" in self.modes:
            from dynamo.langgraph.pregel._tools import StreamToolCallHandler

            self.handlers.append(StreamToolCallHandler(self.push, self.subgraphs))
        pieces = any(type(handler).__name__ == "StreamMessagesHandler" for handler in self.handlers)

        def foreign(handler: Any) -> bool:
            return _shows_one_graph(handler) or (pieces and type(handler).__name__ == "StreamMessagesHandlerV2")

        # A model streams events as soon as one handler wants them, and then no pieces of messages.
        others = [handler for handler in _handlers(callbacks) if foreign(handler)]
        if len(others) == len(_handlers(callbacks)) and not self.handlers and not tracing():
            if others:
                self.config["callbacks"] = None
            return None
        make = get_async_callback_manager_for_config if self.in_loop else get_callback_manager_for_config
        manager: Any = make(self.config)
        if others:
            manager = manager.copy()
            manager.handlers = [one for one in manager.handlers if not foreign(one)]
            manager.inheritable_handlers = [one for one in manager.inheritable_handlers if not foreign(one)]
        if "ls_integration" not in manager.metadata:
            manager.add_metadata({"ls_integration": "langgraph"})
        return manager

    def start(self) -> dict[str, Any]:
        """How handlers are told that the run starts."""
        name = self.config.get("run_name") or self.graph.get_name()
        return {"name": name, "run_id": self.config.get("run_id")}

    def started(self, manager: Any) -> None:
        """The handlers know; those of our streams are only for what happens inside."""
        self.manager = manager
        manager.inheritable_handlers = [*manager.inheritable_handlers, *self.handlers]

    def taps(self) -> bool:
        """Whether a handler listens to what nodes stream, as that of ``astream_events`` does."""
        kind = loaded("langchain_core.tracers._streaming", "_StreamingCallbackHandler")
        if kind is None or self.manager is None:
            return False
        ours = {type(handler) for handler in self.handlers}
        return any(isinstance(one, kind) and type(one) not in ours for one in self.manager.handlers)

    def tells(self) -> bool:
        """Whether somebody wants to know of interrupts and resumes."""
        kind = loaded("dynamo.langgraph.callbacks", "GraphCallbackHandler")
        return kind is not None and any(isinstance(one, kind) for one in _handlers(self.config.get("callbacks")))

    def teller(self) -> Any:
        """The manager of such events."""
        from dynamo.langgraph import callbacks

        make = (
            callbacks.get_async_graph_callback_manager_for_config
            if self.in_loop
            else callbacks.get_sync_graph_callback_manager_for_config
        )
        return make(self.config, run_id=getattr(self.manager, "run_id", None))

    def events(self) -> Iterator[tuple[str, Any]]:
        """What has happened since: the method of a handler, and the event."""
        while (event := self.loop._pop_lifecycle_event()) is not None:
            how = "on_interrupt" if hasattr(event, "interrupts") else "on_resume"
            yield how, replace(event, run_id=getattr(self.manager, "run_id", None))

    # ---------------------------------------------------------------- the loop
    def open(self, kind: Any, stream: Any) -> Any:
        """The loop, not yet entered."""
        graph, conf = self.graph, self.conf
        outer = conf.get(CONFIG_KEY_STREAM)
        if stream is None and outer is not None:
            stream = StreamProtocol(_nowhere, set())
        self.loop = loop = kind(
            self.input,
            stream=stream,
            config=self.config,
            store=conf[CONFIG_KEY_RUNTIME].store,
            cache=conf.get(CONFIG_KEY_CACHE, graph.cache),
            checkpointer=self.saver,
            nodes=graph.nodes,
            specs=graph.channels,
            trigger_to_nodes=graph.trigger_to_nodes,
            durability=conf.get(CONFIG_KEY_DURABILITY) or "async",
            input_keys=graph.input_channels,
            output_keys=self.output_keys,
            stream_keys=graph.stream_channels_asis,
            interrupt_after=self.after,
            interrupt_before=self.before,
            manager=self.manager,
            migrate_checkpoint=graph._migrate_checkpoint,
            retry_policy=graph.retry_policy,
            cache_policy=graph.cache_policy,
            has_graph_lifecycle_callbacks=self.tells(),
        )
        loop.step_timeout = graph.step_timeout
        loop.node_finished = conf.get(CONFIG_KEY_NODE_FINISHED)
        loop.error_handlers = graph.node_error_handler_map
        loop.use_astream = self.in_loop and self.taps()
        self.shape.ns = loop.checkpoint_ns
        for handler in self.handlers:
            handler.parent_ns = loop.checkpoint_ns or None
        if self.subgraphs:
            loop.config[CONF][CONFIG_KEY_STREAM] = loop.stream
        return loop

    def check(self) -> None:
        """Raise what a run that did not come to its end means."""
        if self.loop.status == "out_of_steps":
            text = (
                f"Recursion limit of {self.config['recursion_limit']} reached without hitting a stop condition. "
                "You can increase the limit by setting the `recursion_limit` config key."
            )
            error = GraphRecursionError(create_error_message(message=text, error_code=ErrorCode.GRAPH_RECURSION_LIMIT))
            goes_round(error, self.loop.tasks.values())
            raise error
        if self.loop.status == "draining":
            raise GraphDrained(self.loop.control.drain_reason or "shutdown")

    def last_counts(self) -> bool:
        """Whether a result is the last value, not a list of what was shown."""
        return self.shape.single and self.shape.given == {"values"}

    def eager(self) -> bool:
        """Whether to show things while a superstep runs."""
        return self.graph.stream_eager or self.subgraphs or not self.modes.isdisjoint(_EAGER)


def _nowhere(chunk: Any) -> None:
    """Where a run shows what nobody, or only the graph around it, wants to see."""


def default_mode(graph: Pregel[Any, Any, Any, Any], config: Any) -> Any:
    """The mode of a stream for which none was named: as a node of another graph only values count."""
    inside = config is not None and CONFIG_KEY_TASK_ID in config.get(CONF, ())
    return "values" if inside else graph.stream_mode


# ------------------------------------------------------------------ in the calling thread
def invoke(run: Run) -> Any:
    """Run, and give the result; a list of what was shown when other modes than "values" were asked for."""
    if not run.last_counts():
        return list(stream(run, eager=False))
    for _ in stream(run, eager=False) if run.shape.printed else _drive(run, None, None):
        pass
    return run.shape.result(run.loop.latest(), run.loop.interrupts)


def stream(run: Run, *, eager: bool | None = None) -> Iterator[Any]:
    """Run, and give what is shown on the way."""
    eager = run.eager() if eager is None else eager
    seen = run.listen(eager)
    for _ in _drive(run, seen, run.queue.arrival if eager else None):
        yield from run.shown()


def _drive(run: Run, seen: Any, get_waiter: Any) -> Iterator[None]:
    """The run itself; yields whenever something may have been shown, but nothing when nobody is to see it."""
    from dynamo.langgraph.pregel._loop import SyncPregelLoop

    manager = run.watch()
    if manager is not None:
        run.started(manager.on_chain_start(None, run.input, **run.start()))
    try:
        loop = run.open(SyncPregelLoop, seen)
        teller = run.teller() if loop.events is not None else None
        with loop:
            _tell(run, teller)
            if seen is None:
                loop.run()
            else:
                yield from loop.steps(get_waiter)
        if seen is not None:
            yield
        _tell(run, teller)
        run.check()
    except BaseException as error:
        if manager is not None:
            run.manager.on_chain_error(error)
        raise
    if manager is not None:
        run.manager.on_chain_end(loop.output)


def _tell(run: Run, teller: Any) -> None:
    if teller is not None:
        for how, event in run.events():
            getattr(teller, how)(event)


# ------------------------------------------------------------------ in an event loop
async def ainvoke(run: Run) -> Any:
    """`invoke` in an event loop."""
    if not run.last_counts():
        return [shown async for shown in astream(run, eager=False)]
    async for _ in astream(run, eager=False) if run.shape.printed else _adrive(run, None, False):
        pass
    return run.shape.result(run.loop.latest(), run.loop.interrupts)


async def astream(run: Run, *, eager: bool | None = None) -> AsyncIterator[Any]:
    """`stream` in an event loop."""
    eager = run.eager() if eager is None else eager
    driver = _adrive(run, run.listen(eager), eager)
    try:
        async for _ in driver:
            for shown in run.shown():
                yield shown
    finally:
        await driver.aclose()  # type: ignore[attr-defined]


async def _adrive(run: Run, seen: Any, eager: bool) -> AsyncIterator[None]:
    from dynamo.langgraph.pregel._loop import AsyncPregelLoop

    manager = run.watch()
    if manager is not None:
        run.started(await manager.on_chain_start(None, run.input, **run.start()))
    waiting: list[Any] = []

    def get_waiter() -> Any:
        if not waiting or waiting[0].done():
            waiting[:] = [asyncio.create_task(run.queue.wait())]
        return waiting[0]

    try:
        loop = run.open(AsyncPregelLoop, seen)
        teller = run.teller() if loop.events is not None else None
        async with loop:
            await _atell(run, teller)
            if seen is None:
                await loop.arun()
            else:
                steps = loop.asteps(get_waiter if eager else None)
                try:
                    async for _ in steps:
                        yield
                finally:
                    await steps.aclose()
        if seen is not None:
            yield
        await _atell(run, teller)
        run.check()
    except BaseException as error:
        if manager is not None:
            await asyncio.shield(run.manager.on_chain_error(error))
        raise
    finally:
        if waiting and not waiting[0].done():
            waiting[0].cancel()
            await asyncio.wait(waiting)
    if manager is not None:
        await run.manager.on_chain_end(loop.output)


async def _atell(run: Run, teller: Any) -> None:
    if teller is not None:
        for how, event in run.events():
            await getattr(teller, how)(event)


own(globals())
