"""What a graph is made of, and what follows from that before anything runs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._constants import CACHE_NS_WRITES, TASKS
from dynamo.langgraph._internal._langchain import loaded
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._old_names import renamed
from dynamo.langgraph.channels.base import BaseChannel
from dynamo.langgraph.channels.topic import Topic
from dynamo.langgraph.pregel._node_builder import NodeBuilder
from dynamo.langgraph.pregel._utils import validate_timeout_supported
from dynamo.langgraph.pregel._validate import validate_graph
from dynamo.langgraph.types import RetryPolicy, Send, ensure_valid_checkpointer
from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV10

if TYPE_CHECKING:
    from langgraph.checkpoint.base import Checkpoint

    from dynamo.langgraph.pregel.main import Pregel
    from dynamo.langgraph.pregel.protocol import PregelProtocol

    Graph = Pregel[Any, Any, Any, Any]


def describe(given: dict[str, Any]) -> None:
    """Make a graph what the keywords of `Pregel` say: each is an attribute, some in a form that is easier to use.

    Parameters
    ----------
    given : the ``locals()`` of its ``__init__``
    """
    graph, validate, old = given["self"], given["auto_validate"], given["deprecated_kwargs"]
    told = {name: value for name, value in given.items() if name not in ("self", "auto_validate", "deprecated_kwargs")}
    policy, context = told["retry_policy"], told["context_schema"]
    told |= {
        "nodes": {name: one.build() if isinstance(one, NodeBuilder) else one for name, one in told["nodes"].items()},
        "channels": _with_tasks(told["channels"] or {}),
        "context_schema": renamed(old, "config_type", "context_schema", context, LangGraphDeprecatedSinceV10, depth=2),
        "retry_policy": (policy,) if isinstance(policy, RetryPolicy) else policy,
        "checkpointer": ensure_valid_checkpointer(told["checkpointer"]),
        "stream_transformers": tuple(told["stream_transformers"] or ()),
        **{name: told[name] or {} for name in ("trigger_to_nodes", "node_error_handler_map")},
    }
    if told["debug"] is None:
        told["debug"] = bool(loaded("langchain_core.globals", "_debug"))
    for name, value in told.items():
        setattr(graph, name, value)
    if validate:
        graph.validate()


def _with_tasks(channels: dict[str, Any]) -> dict[str, Any]:
    """The channels, with the one for packets that wait."""
    waiting = channels.get(TASKS)
    if waiting is None:
        waiting = Topic(Send, accumulate=False)
    elif not isinstance(waiting, Topic):
        raise ValueError(f"Channel {TASKS!r} is reserved for packets that wait, and is a {waiting!r}; rename it")
    return {**channels, TASKS: waiting}


_SEEN_FROM_OUTSIDE = (
    *("input_channels", "output_channels", "stream_channels"),
    *("interrupt_after_nodes", "interrupt_before_nodes"),
)


def checked(graph: "Graph") -> dict[str, list[str]]:
    """Refuse a graph that cannot run; returns which nodes each channel starts."""
    channels = {name: one for name, one in graph.channels.items() if isinstance(one, BaseChannel)}
    managed: Any = {name: one for name, one in graph.channels.items() if name not in channels}
    outside: Any = (getattr(graph, name) for name in _SEEN_FROM_OUTSIDE)
    validate_graph(graph.nodes, channels, managed, *outside)
    starts: dict[str, list[str]] = {}
    for key, node in graph.nodes.items():
        if node.timeout is not None and node.node is not None:
            validate_timeout_supported(node.node, name=key)
        for channel in node.triggers:
            starts.setdefault(channel, []).append(key)
    return starts


def graphs_inside(
    graph: "Graph", namespace: str | None, recurse: bool
) -> "Iterator[tuple[str, PregelProtocol[Any, Any, Any, Any]]]":
    """See `Pregel.get_subgraphs`."""
    from dynamo.langgraph.pregel.main import Pregel

    head, _, below = (namespace or "").partition("|")
    nodes = graph.nodes if namespace is None else {head: graph.nodes[head]} if head in graph.nodes else {}
    for name, node in nodes.items():
        for inner in node.subgraphs[:1]:
            if not below:
                yield name, inner
            if recurse and isinstance(inner, Pregel) and (below or namespace is None):
                for path, deeper in inner.get_subgraphs(namespace=below or None, recurse=True):
                    yield f"{name}|{path}", deeper


def cached(graph: "Graph", nodes: Sequence[str] | None) -> tuple[Any, list[tuple[str, ...]]]:
    """The cache of a graph, and where in it the results of these nodes are; of all for None."""
    from dynamo.langgraph.pregel._call import identifier

    if not graph.cache:
        raise ValueError("The graph has no cache that could be cleared; compile(cache=...) gives it one")
    chosen = [name for name in (graph.nodes if nodes is None else nodes) if name in graph.nodes]
    return graph.cache, [
        (CACHE_NS_WRITES, identifier(graph.nodes[name].bound) or "__dynamic__", name) for name in chosen
    ]


def bring_up_to_date(checkpoint: "Checkpoint") -> None:
    """Move packets that wait into their channel: before version 4 a checkpoint kept them beside the channels."""
    old: Any = checkpoint
    if old["v"] >= 4 or not old.get("pending_sends"):
        return
    old["channel_values"][TASKS] = old.pop("pending_sends")
    if versions := old["channel_versions"]:
        versions[TASKS] = max(versions.values())


own(globals())
