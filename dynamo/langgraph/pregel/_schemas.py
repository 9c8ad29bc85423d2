"""Models and JSON schemas of what a graph takes and gives. pydantic is loaded when one is asked for."""

from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._pydantic import create_model, is_model
from dynamo.langgraph.channels.base import BaseChannel

if TYPE_CHECKING:
    from pydantic import BaseModel


def config_model(graph: Any, include: Sequence[str] | None) -> "type[BaseModel]":
    """A model of configs: the context as "configurable", and the keys named."""
    from langchain_core.runnables import RunnableConfig

    fields: dict[str, Any] = {}
    if graph.context_schema is not None:
        fields["configurable"] = (graph.context_schema, None)
    hints = get_type_hints(RunnableConfig) if include else {}
    for name in include or ():
        if name != "configurable" and name in hints:
            fields[name] = (hints[name], None)
    return create_model(graph.get_name("Config"), field_definitions=fields)


def context_schema(schema: Any) -> dict[str, Any] | None:
    """The JSON schema of a context."""
    if schema is None:
        return None
    if is_model(schema):
        return schema.model_json_schema()  # type: ignore[no-any-return]
    if is_dataclass(schema) or (isinstance(schema, type) and hasattr(schema, "__total__")):
        from pydantic import TypeAdapter

        return TypeAdapter(schema).json_schema()
    raise ValueError(f"Invalid context schema type: {schema}. Must be a BaseModel, TypedDict or dataclass.")


def channels_model(graph: Any, suffix: str, names: Sequence[str], side: str) -> "type[BaseModel]":
    """A model with a field for each of some channels, of what they take or give."""
    channels = {name: graph.channels[name] for name in names or graph.channels}
    fields = {
        name: (getattr(channel, side), None) for name, channel in channels.items() if isinstance(channel, BaseChannel)
    }
    return create_model(graph.get_name(suffix), field_definitions=fields)


own(globals())
