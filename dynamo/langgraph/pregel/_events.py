"""A run as a stream of events, version 3: what it shows goes through transformers, each with a projection of its own.

stream(version="v2", subgraphs=True) --parts--> StreamMux --> values, messages, subgraphs, ... and yours
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._config import ensure_config, patch_configurable
from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_CHECKPOINT_NS, CONFIG_KEY_STREAM_MESSAGES_V2, NS_SEP
from dynamo.langgraph._internal._names import own

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.main import Pregel

_VERSIONS = ("v3",)
_FIXED = ("stream_mode", "subgraphs")
_UNSAID: dict[str, Any] = {"interrupt_before": None, "interrupt_after": None, "control": None}
_ALWAYS = ("ValuesTransformer", "MessagesTransformer", "LifecycleTransformer", "SubgraphTransformer")
Factory = Callable[[tuple[str, ...]], Any]


def factories_of(specs: Sequence[Factory] | None) -> list[Factory]:
    """Check that transformers come as classes or functions that take a scope."""
    from dynamo.langgraph.stream._types import StreamTransformer

    found: list[Factory] = list(specs or ())
    for nth, given in enumerate(found):
        kind = type(given).__name__
        made = isinstance(given, StreamTransformer)
        if made or not callable(given):
            what = f"pre-built instance {kind}" if made else kind
            raise TypeError(
                f"stream_events(version='v3') transformers must be scope-aware callables, got {what} at {nth}. "
                "Pass a class, or a function such as `lambda scope: Transformer(scope, ...)`."
            )
    return found


class _Show:
    """What a run needs in order to be shown as events: the mux, and how to run."""

    def __init__(self, graph: Pregel[Any, Any, Any, Any], config: Any, more: Any, options: Any, in_loop: bool) -> None:
        from dynamo.langgraph.stream import transformers
        from dynamo.langgraph.stream._mux import StreamMux

        fixed = [name for name in _FIXED if name in options]
        if fixed:
            raise TypeError(
                f"stream_events(version='v3') / astream_events(version='v3') do not accept {', '.join(fixed)}: the "
                "modes are those that the transformers require, and subgraphs are always shown"
            )
        ns = ensure_config(graph.config, config)[CONF].get(CONFIG_KEY_CHECKPOINT_NS)
        ours = [getattr(transformers, name) for name in _ALWAYS]
        makers = ours + factories_of(graph.stream_transformers) + factories_of(more)
        self.mux = StreamMux(factories=makers, is_async=in_loop, scope=tuple(ns.split(NS_SEP)) if ns else ())
        modes = {mode for each in self.mux._transformers for mode in each.required_stream_modes}
        self.config = patch_configurable(config, {CONFIG_KEY_STREAM_MESSAGES_V2: True})
        self.how = {**_UNSAID, **options, "stream_mode": sorted(modes), "subgraphs": True, "version": "v2"}


def run_stream(
    graph: Pregel[Any, Any, Any, Any], input: Any, config: Any, version: str, transformers: Any, options: Any
) -> Any:
    """The run as a `GraphRunStream`."""
    if version not in _VERSIONS:
        raise NotImplementedError(
            f"stream_events(version={version!r}) is not supported: a run without an event loop has version='v3' only; "
            "astream_events() has 'v1' and 'v2' too"
        )
    from dynamo.langgraph.stream.run_stream import GraphRunStream

    show = _Show(graph, config, transformers, options, in_loop=False)
    return GraphRunStream(iter(graph.stream(input, show.config, **show.how)), show.mux)


async def arun_stream(
    graph: Pregel[Any, Any, Any, Any], input: Any, config: Any, transformers: Any, options: Any
) -> Any:
    """The run as an `AsyncGraphRunStream`."""
    from dynamo.langgraph.stream.run_stream import AsyncGraphRunStream

    show = _Show(graph, config, transformers, options, in_loop=True)
    return AsyncGraphRunStream(aiter(graph.astream(input, show.config, **show.how)), show.mux)


own(globals())
