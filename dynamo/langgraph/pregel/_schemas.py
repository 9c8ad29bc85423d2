"""Models and JSON schemas of what a graph takes and gives. pydantic is loaded when one is asked for."""

from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from dynamo.langgraph._internal._config import merge_configs
from dynamo.langgraph._internal._langchain import runnable_class
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


class Side(NamedTuple):
    """One of the two sides of a graph, and what its channels say of themselves there."""

    name: str
    channels: str  # the attribute of the graph that names them
    told: str  # the attribute of a channel that tells its type

    def type_of(self, graph: Any) -> Any:
        """The type, where a single channel makes up this side; else None."""
        names = getattr(graph, self.channels)
        return getattr(graph.channels[names], self.told, None) if isinstance(names, str) else None

    def model_of(self, graph: Any, config: Any) -> "type[BaseModel]":
        """A model; of several channels with a field for each."""
        names = getattr(graph, self.channels)
        if isinstance(names, str):  # langchain-core makes one of `type_of`
            find = getattr(runnable_class(), f"get_{self.name.lower()}_schema")
            return find(graph, merge_configs(graph.config, config))  # type: ignore[no-any-return]
        chosen = {name: graph.channels[name] for name in names or graph.channels}
        fields = {name: (getattr(one, self.told), None) for name, one in chosen.items() if isinstance(one, BaseChannel)}
        return create_model(graph.get_name(self.name), field_definitions=fields)


INPUT = Side("Input", "input_channels", "UpdateType")
OUTPUT = Side("Output", "output_channels", "ValueType")

own(globals())
