"""One run of a graph: from the caller's arguments to a loop, and from what the loop shows to the caller.

    Run(graph, input, config, ...)    what is asked for (_terms.py), who looks on (_watch.py), what is shown (_show.py)
      invoke, ainvoke                 loop.run()                     nothing is queued when only the result counts
      stream, astream                 for _ in loop.steps(waiter)    what is shown goes through a queue

Most runs have nobody who looks on. They get no run manager of langchain, no queue and no stream; what a spectator
needs is made when there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any
from warnings import warn

from dynamo._pregel import runtime_of_run
from dynamo.langgraph._internal._config import ensure_config, recast_checkpoint_ns
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CACHE,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_DURABILITY,
    CONFIG_KEY_NODE_FINISHED,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_STREAM,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import aplay, play
from dynamo.langgraph.errors import ErrorCode, GraphDrained, GraphRecursionError, create_error_message
from dynamo.langgraph.pregel import _loop
from dynamo.langgraph.pregel._complaints import goes_round
from dynamo.langgraph.pregel._shape import Shape
from dynamo.langgraph.pregel._show import Show, nowhere
from dynamo.langgraph.pregel._terms import context_for, default_mode, runtime_around, saver_for, server_info
from dynamo.langgraph.pregel._validate import validate_keys
from dynamo.langgraph.pregel._watch import Watch
from dynamo.langgraph.pregel.protocol import StreamProtocol
from dynamo.langgraph.runtime import Runtime

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.main import Pregel

__all__ = ("Run", "ainvoke", "astream", "default_mode", "invoke", "stream")

_EAGER = {"messages", "custom", "tools"}  # shown while a superstep runs, not only after it


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

    loop: Any

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
        printed = ["updates", "values"] if debug or (debug is None and graph.debug) else print_mode
        whole = output_keys is None or output_keys is graph.output_channels
        mappers = graph._output_mapper if whole else None, graph._state_mapper
        self.shape = Shape(stream_mode, printed, subgraphs, version, *mappers)
        self.show = Show(self.shape.given | self.shape.printed, self.shape)
        self.config = ensure_config(graph.config, config)
        self.conf: dict[str, Any] = self.config[CONF]
        if self.config["recursion_limit"] < 1:
            limit = self.config["recursion_limit"]
            raise ValueError(f"recursion_limit must be at least 1, and is {limit!r}: it counts supersteps")
        self.saver = saver_for(graph, self.conf)
        if graph.checkpointer is True and CONFIG_KEY_CHECKPOINT_NS in self.conf:
            self.conf[CONFIG_KEY_CHECKPOINT_NS] = recast_checkpoint_ns(self.conf[CONFIG_KEY_CHECKPOINT_NS])
        if durability is not None:
            self.conf[CONFIG_KEY_DURABILITY] = durability
            if self.saver is None:
                warn(f"durability={durability!r} has no effect: the graph has no checkpointer", stacklevel=5)
        if not whole:
            validate_keys(output_keys, graph.channels)
        self.output_keys = graph.stream_channels_asis if output_keys is None else output_keys
        self.before = interrupt_before or graph.interrupt_before_nodes
        self.after = interrupt_after or graph.interrupt_after_nodes
        self.conf[CONFIG_KEY_RUNTIME] = self._runtime(context, control)
        self.watch = Watch(self.config, in_loop)

    def _runtime(self, context: Any, control: Any) -> Runtime[Any]:
        writer: Any = None
        if "custom" in self.show.modes:
            writer = self.show.custom
        elif CONFIG_KEY_STREAM not in self.conf:
            writer = nowhere  # the graph around shows none of the graphs inside
        around = runtime_around(self.conf.get(CONFIG_KEY_RUNTIME))
        context = context_for(self.graph.context_schema, context)
        return runtime_of_run(  # type: ignore[no-any-return]
            around, context, self.graph.store, writer, server_info(self.conf), control
        )

    def eager(self) -> bool:
        """Whether to show things while a superstep runs."""
        return self.graph.stream_eager or self.subgraphs or not self.show.modes.isdisjoint(_EAGER)

    def open(self, kind: Any, stream: Any) -> Any:
        """The loop, not yet entered."""
        graph, conf, watch = self.graph, self.conf, self.watch
        if stream is None and conf.get(CONFIG_KEY_STREAM) is not None:
            stream = StreamProtocol(nowhere, set())
        self.loop = loop = kind(
            self.input,
            graph=graph,
            config=self.config,
            checkpointer=self.saver,
            stream=stream,
            manager=watch.manager,
            output_keys=self.output_keys,
            stream_keys=self.output_keys if stream is None else graph.stream_channels_asis,
            interrupt_before=self.before,
            interrupt_after=self.after,
            store=conf[CONFIG_KEY_RUNTIME].store,
            cache=conf.get(CONFIG_KEY_CACHE, graph.cache),
            durability=conf.get(CONFIG_KEY_DURABILITY) or "async",
            node_finished=conf.get(CONFIG_KEY_NODE_FINISHED),
            use_astream=self.in_loop and watch.taps(),
            has_graph_lifecycle_callbacks=watch.tells(),
        )
        self.shape.ns = loop.checkpoint_ns
        for handler in watch.ours:
            handler.parent_ns = loop.checkpoint_ns or None
        if self.subgraphs:
            loop.config[CONF].update({CONFIG_KEY_STREAM: loop.stream})
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

    def result(self) -> Any:
        """The last value, with what the run stopped for."""
        return self.shape.result(self.loop.latest(), self.loop.interrupts)


# ------------------------------------------------------------------ in the calling thread
def invoke(run: Run) -> Any:
    """Run, and give the result; a list of what was shown when other modes than "values" were asked for."""
    if not run.last_counts():
        return list(stream(run, eager=False))
    for _ in stream(run, eager=False) if run.shape.printed else _drive(run, None, None):
        pass
    return run.result()


def stream(run: Run, *, eager: bool | None = None) -> Iterator[Any]:
    """Run, and give what is shown on the way."""
    eager = run.eager() if eager is None else eager
    stream = run.show.open(eager, in_loop=False)
    for _ in _drive(run, stream, run.show.queue.arrival if eager else None):
        yield from run.show.items()


def _drive(run: Run, stream: Any, waiter: Any) -> Iterator[None]:
    """The run itself; yields whenever something may have been shown, but nothing when nobody is to see it."""
    watch = run.watch
    watch.add_streams(run.show.modes, run.show.push, run.subgraphs)
    if watch.looks_on():
        play(watch.begin(run.graph.get_name(), run.input))
    try:
        loop = run.open(_loop.SyncPregelLoop, stream)
        with loop:
            if loop.events is not None:
                play(watch.tell(loop))
            if stream is not None:
                yield from loop.steps(waiter)
            else:
                loop.run()
        if stream is not None:
            yield
        if loop.events is not None:
            play(watch.tell(loop))
        run.check()
    except BaseException as error:
        play(watch.fail(error))
        raise
    if watch.manager is not None:
        play(watch.end(loop.output))


# ------------------------------------------------------------------ in an event loop
async def ainvoke(run: Run) -> Any:
    """`invoke` in an event loop."""
    if not run.last_counts():
        return [shown async for shown in astream(run, eager=False)]
    async for _ in astream(run, eager=False) if run.shape.printed else _adrive(run, None, False):
        pass
    return run.result()


async def astream(run: Run, *, eager: bool | None = None) -> AsyncIterator[Any]:
    """`stream` in an event loop."""
    eager = run.eager() if eager is None else eager
    driver = _adrive(run, run.show.open(eager, in_loop=True), eager)
    try:
        async for _ in driver:
            for shown in run.show.items():
                yield shown
    finally:
        await driver.aclose()  # type: ignore[attr-defined]


async def _adrive(run: Run, stream: Any, eager: bool) -> AsyncIterator[None]:
    """`_drive` in an event loop."""
    watch = run.watch
    waiting: list[Any] = []
    watch.add_streams(run.show.modes, run.show.push, run.subgraphs)
    if watch.looks_on():
        await aplay(watch.begin(run.graph.get_name(), run.input))

    def waiter() -> Any:
        if not waiting or waiting[0].done():
            waiting[:] = [asyncio.create_task(run.show.queue.wait())]
        return waiting[0]

    try:
        loop = run.open(_loop.AsyncPregelLoop, stream)
        async with loop:
            if loop.events is not None:
                await aplay(watch.tell(loop))
            if stream is not None:
                steps = loop.asteps(waiter if eager else None)
                try:
                    async for _ in steps:
                        yield
                finally:
                    await steps.aclose()
            else:
                await loop.arun()
        if stream is not None:
            yield
        if loop.events is not None:
            await aplay(watch.tell(loop))
        run.check()
    except BaseException as error:
        if watch.manager is not None:
            await asyncio.shield(aplay(watch.fail(error)))
        raise
    finally:
        if waiting and not waiting[0].done():
            waiting[0].cancel()
            await asyncio.wait(waiting)
    if watch.manager is not None:
        await aplay(watch.end(loop.output))


own(globals())
