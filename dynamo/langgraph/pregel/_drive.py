"""A run from its input to its output, without anything that only a spectator needs.

``Pregel.invoke`` and ``ainvoke`` come here when nobody looks on (`unwatched`): no handler, no tracer, no stream around
the run. What a spectator would need (callback managers, queues, generators) is not made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CACHE,
    CONFIG_KEY_DURABILITY,
    CONFIG_KEY_NODE_FINISHED,
    CONFIG_KEY_RUNNER_SUBMIT,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_STREAM,
    INTERRUPT,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.errors import ErrorCode, GraphDrained, GraphRecursionError, create_error_message
from dynamo.langgraph.pregel._loop import AsyncPregelLoop, SyncPregelLoop

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.main import Pregel


def unwatched(config: Any) -> bool:
    """Whether a run with this (complete) config has nobody who looks on: then it may come here.

    The caller has made sure that no tracer is configured from outside (environment, context).
    """
    callbacks = config.get("callbacks")
    handlers = callbacks if isinstance(callbacks, list) else getattr(callbacks, "handlers", None)
    conf = config[CONF]
    return not handlers and conf.get(CONFIG_KEY_STREAM) is None and conf.get(CONFIG_KEY_RUNNER_SUBMIT) is None


def loop_options(graph: Pregel[Any], config: Any, **options: Any) -> dict[str, Any]:
    """The arguments of a loop for this graph, apart from the input.

    Parameters
    ----------
    config
        Complete, with its runtime.
    options
        `checkpointer`, `output_keys`, `interrupt_before` and the like: what this run has of its own.
    """
    conf = config[CONF]
    runtime = conf[CONFIG_KEY_RUNTIME]
    return {
        "stream": None,
        "config": config,
        "store": runtime.store,
        "cache": conf.get(CONFIG_KEY_CACHE, graph.cache),
        "checkpointer": None,
        "nodes": graph.nodes,
        "specs": graph.channels,
        "trigger_to_nodes": graph.trigger_to_nodes,
        "durability": conf.get(CONFIG_KEY_DURABILITY) or "async",
        "input_keys": graph.input_channels,
        "output_keys": graph.output_channels,
        "stream_keys": graph.stream_channels_asis,
        "interrupt_after": graph.interrupt_after_nodes,
        "interrupt_before": graph.interrupt_before_nodes,
        "migrate_checkpoint": graph._migrate_checkpoint,
        "retry_policy": graph.retry_policy,
        "cache_policy": graph.cache_policy,
        **options,
    }


def _prepared(loop: Any, graph: Pregel[Any]) -> Any:
    loop.step_timeout = graph.step_timeout
    loop.node_finished = loop.config[CONF].get(CONFIG_KEY_NODE_FINISHED)
    loop.error_handlers = graph.node_error_handler_map
    return loop


def _result(loop: Any) -> Any:
    check_end(loop)
    value = loop.latest()
    if not loop.interrupts:
        return value
    return {**value, INTERRUPT: loop.interrupts} if isinstance(value, dict) else {INTERRUPT: loop.interrupts}


def check_end(loop: Any) -> None:
    """Raise what a run that did not come to its end means."""
    if loop.status == "out_of_steps":
        text = (
            f"Recursion limit of {loop.config['recursion_limit']} reached without hitting a stop condition. "
            "You can increase the limit by setting the `recursion_limit` config key."
        )
        raise GraphRecursionError(create_error_message(message=text, error_code=ErrorCode.GRAPH_RECURSION_LIMIT))
    if loop.status == "draining":
        raise GraphDrained(loop.control.drain_reason or "shutdown")


def invoke(graph: Pregel[Any], input: Any, config: Any, **options: Any) -> Any:
    """What ``graph.invoke`` gives, in stream mode "values"."""
    with _prepared(SyncPregelLoop(input, **loop_options(graph, config, **options)), graph) as loop:
        loop.run()
    return _result(loop)


async def ainvoke(graph: Pregel[Any], input: Any, config: Any, **options: Any) -> Any:
    """`invoke` in an event loop."""
    async with _prepared(AsyncPregelLoop(input, **loop_options(graph, config, **options)), graph) as loop:
        await loop.arun()
    return _result(loop)


own(globals())
