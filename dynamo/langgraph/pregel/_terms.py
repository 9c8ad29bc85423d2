"""What a run is told by the caller, the graph and the graph around it."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._install import install_if_free
from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_CHECKPOINTER, CONFIG_KEY_TASK_ID
from dynamo.langgraph._internal._errors import CheckpointError
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._pydantic import is_model
from dynamo.langgraph._internal._serde import apply_checkpointer_allowlist
from dynamo.langgraph.runtime import DEFAULT_RUNTIME, Runtime, ServerInfo

if TYPE_CHECKING:
    from dynamo.langgraph.pregel.main import Pregel

_PLACES = "thread_id, checkpoint_ns, checkpoint_id"


def saver_for(graph: Pregel[Any, Any, Any, Any], conf: Any) -> Any:
    """The saver of a run: the graph's own, that of the graph around it, or None."""
    own_saver = graph.checkpointer
    if own_saver:
        install_if_free()  # a saver makes its objects from langgraph.types
    if own_saver is False:
        return None
    saver = conf.get(CONFIG_KEY_CHECKPOINTER, own_saver)
    if saver is True:
        raise RuntimeError(
            "checkpointer=True cannot be used for root graphs: it lends a graph the checkpointer of the one around it"
        )
    if saver and not conf:
        raise CheckpointError(
            f"Checkpointer requires one or more of the following 'configurable' keys: {_PLACES}; for example "
            "config={'configurable': {'thread_id': 'one'}}"
        )
    return apply_checkpointer_allowlist(saver, graph._serde_allowlist) if CONFIG_KEY_CHECKPOINTER in conf else saver


def context_for(schema: Any, context: Any) -> Any:
    """The context as an instance of the graph's context schema, if it was given as a mapping."""
    if isinstance(context, dict) and isinstance(schema, type) and (is_dataclass(schema) or is_model(schema)):
        return schema(**context)
    return context


def runtime_around(value: Any) -> Runtime[Any]:
    """The runtime that a config brings from outside; it may be a mapping, or of a class of somebody else."""
    if value is None or isinstance(value, Runtime):
        return value or DEFAULT_RUNTIME
    fields = Runtime.__dataclass_fields__
    said = value if isinstance(value, dict) else {name: getattr(value, name) for name in fields if hasattr(value, name)}
    return Runtime(**{name: said[name] for name in fields if name in said})


def server_info(conf: Any) -> ServerInfo | None:
    """What a LangGraph server says of itself in a config."""
    assistant, graph, user = map(conf.get, ("assistant_id", "graph_id", "langgraph_auth_user"))
    if assistant is graph is user is None:
        return None
    known = user if hasattr(user, "identity") else None
    return ServerInfo(assistant_id=str(assistant or ""), graph_id=str(graph or ""), user=known)


def default_mode(graph: Pregel[Any, Any, Any, Any], config: Any) -> Any:
    """The mode of a stream for which none was named: as a node of another graph only values count."""
    inside = config is not None and CONFIG_KEY_TASK_ID in config.get(CONF, ())
    return "values" if inside else graph.stream_mode


own(globals())
