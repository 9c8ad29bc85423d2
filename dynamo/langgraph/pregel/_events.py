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

_FIXED = ("stream_mode", "subgraphs")
Factory = Callable[[tuple[str, ...]], Any]


def refuse_fixed(options: dict[str, Any]) -> None:
    """Refuse what this version decides itself."""
    given = [name for name in _FIXED if name in options]
    if given:
        raise TypeError(
            f"stream_events(version='v3') / astream_events(version='v3') do not accept {', '.join(given)}: the modes "
            "are those that the transformers require, and subgraphs are always shown"
        )


def factories_of(specs: Sequence[Factory] | None) -> list[Factory]:
    """Check that transformers come as classes or functions that take a scope."""
    from dynamo.langgraph.stream._types import StreamTransformer  # type: ignore[import-not-found,unused-ignore]

    for spec in specs or ():
        if isinstance(spec, StreamTransformer):
            raise TypeError(
                "stream_events(version='v3') transformers must be scope-aware callables, got pre-built instance "
                f"{type(spec).__name__}. Pass its class, or a function such as `lambda scope: Transformer(scope, ...)`."
            )
        if not callable(spec):
            raise TypeError(
                f"stream_events(version='v3') transformers must be scope-aware callables, got {type(spec).__name__}."
            )
    return list(specs or ())


def _mux(graph: Pregel[Any, Any, Any, Any], config: Any, more: Sequence[Factory] | None, in_loop: bool) -> Any:
    from dynamo.langgraph.stream import transformers  # type: ignore[import-not-found,unused-ignore]
    from dynamo.langgraph.stream._mux import StreamMux  # type: ignore[import-not-found,unused-ignore]

    native = [
        transformers.ValuesTransformer,
        transformers.MessagesTransformer,
        transformers.LifecycleTransformer,
        transformers.SubgraphTransformer,
    ]
    ns = ensure_config(graph.config, config)[CONF].get(CONFIG_KEY_CHECKPOINT_NS)
    return StreamMux(
        factories=[*native, *factories_of(graph.stream_transformers), *factories_of(more)],
        is_async=in_loop,
        scope=tuple(ns.split(NS_SEP)) if ns else (),
    )


def _options(mux: Any, config: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    modes = {mode for transformer in mux._transformers for mode in transformer.required_stream_modes}
    config = patch_configurable(config, {CONFIG_KEY_STREAM_MESSAGES_V2: True})
    options = {"interrupt_before": None, "interrupt_after": None, "control": None, **options}
    return config, {**options, "stream_mode": sorted(modes), "subgraphs": True, "version": "v2"}


def run_stream(
    graph: Pregel[Any, Any, Any, Any], input: Any, config: Any, version: str, transformers: Any, options: Any
) -> Any:
    """The run as a `GraphRunStream`."""
    if version != "v3":
        raise NotImplementedError(
            f"stream_events(version={version!r}) is not supported: a run without an event loop has version='v3' only; "
            "astream_events() has 'v1' and 'v2' too"
        )
    from dynamo.langgraph.stream.run_stream import GraphRunStream  # type: ignore[import-not-found,unused-ignore]

    refuse_fixed(options)
    mux = _mux(graph, config, transformers, False)
    config, options = _options(mux, config, options)
    return GraphRunStream(iter(graph.stream(input, config, **options)), mux)


async def arun_stream(
    graph: Pregel[Any, Any, Any, Any], input: Any, config: Any, transformers: Any, options: Any
) -> Any:
    """The run as an `AsyncGraphRunStream`."""
    from dynamo.langgraph.stream.run_stream import AsyncGraphRunStream  # type: ignore[import-not-found,unused-ignore]

    refuse_fixed(options)
    mux = _mux(graph, config, transformers, True)
    config, options = _options(mux, config, options)
    return AsyncGraphRunStream(aiter(graph.astream(input, config, **options)), mux)


own(globals())
