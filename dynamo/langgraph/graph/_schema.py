"""From the class that describes a state to channels, and back to an instance of it."""

import inspect
import typing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args, get_origin
from warnings import warn

from dynamo.langgraph._internal._fields import get_field_default, hints_of
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._pydantic import create_model, is_model, is_supported_by_pydantic
from dynamo.langgraph.managed.base import is_managed_value

ROOT = "__root__"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def warn_invalid(schema: Any) -> None:
    """Warn of what is not a class: an instance given by mistake makes a graph without keys."""
    if not isinstance(schema, type) and not get_args(schema):
        text = "a schema is a class (a TypedDict, a dataclass, a pydantic model) or a type with a reducer"
        warn(f"Invalid state_schema: {schema}; {text}, Annotated[type, reducer]", stacklevel=4)


def channels_of(schema: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Channels, managed values and annotations of a schema, by key; one key for a type without fields."""
    if not hasattr(schema, "__annotations__") or not isinstance(schema, type):
        return {ROOT: channel_for(ROOT, schema, allow_managed=False)}, {}, {}
    hints = {name: hint for name, hint in hints_of(schema).items() if name != "__slots__"}
    every = {name: channel_for(name, hint) for name, hint in hints.items()}
    managed = {name: one for name, one in every.items() if is_managed_value(one)}
    return {name: one for name, one in every.items() if name not in managed}, managed, hints


def channel_for(name: str, annotation: Any, *, allow_managed: bool = True) -> Any:
    """The channel, or the managed value, for a key of the state.

    The last note of ``Annotated[T, ...]`` may be a managed value or a reducer; any of them may be a channel, as an
    instance or as a class. Everything else is a LastValue.
    """
    while getattr(get_origin(annotation), "_name", "") in ("Required", "NotRequired", "ReadOnly"):
        (annotation,) = get_args(annotation)
    notes = getattr(annotation, "__metadata__", ())
    if notes and is_managed_value(notes[-1]):
        if not allow_managed:
            raise ValueError(f"The managed value {annotation} is not allowed in this position")
        return notes[-1]
    channel = named_channel(annotation)
    if channel is None and notes and callable(notes[-1]):
        channel = reduced(annotation, notes[-1], name)
    if channel is None:
        from dynamo.langgraph.channels.last_value import LastValue

        channel = LastValue(annotation)
    channel.key = name
    return channel


def named_channel(annotation: Any) -> Any:
    """The channel that an annotation names, if it does."""
    from dynamo.langgraph.channels.base import BaseChannel
    from dynamo.langgraph.channels.delta import DeltaChannel

    for note in getattr(annotation, "__metadata__", ()):
        if hasattr(note, "__state_channel__"):  # one of dynamo.channels, or its class
            described = note(annotation.__origin__) if isinstance(note, type) else note
            return described.__state_channel__(annotation.__origin__)
        if isinstance(note, DeltaChannel):  # starts empty, for which it has to know its type
            return DeltaChannel(note.reducer, annotation.__origin__, snapshot_frequency=note.snapshot_frequency)
        if isinstance(note, BaseChannel):
            return note
        if isinstance(note, type) and issubclass(note, BaseChannel):
            return note(annotation.__origin__)
    return None


def reduced(annotation: Any, reducer: Callable[..., Any], name: str = "") -> Any:
    """The channel for a key whose writes a function of two arguments folds."""
    from dynamo.langgraph.channels.binop import BinaryOperatorAggregate

    key = f" for the key {name!r}" if name else ""
    try:
        signature = inspect.signature(reducer)
    except ValueError as error:
        raise ValueError(
            f"{error}: the reducer{key} must show that it takes two arguments; wrap it in a lambda"
        ) from None
    taken = sum(parameter.kind in _POSITIONAL for parameter in signature.parameters.values())
    if taken != 2:
        raise ValueError(f"Invalid reducer signature. Expected (a, b) -> c. Got {signature}{key}")
    return BinaryOperatorAggregate(annotation, reducer)


# ------------------------------------------------------------------ what a node gets
def make_state(schema: Any, values: dict[str, Any]) -> Any:
    """An instance of the schema from the values of the channels."""
    return schema(**values)


def mapper_for(keys: Sequence[str], schema: Any) -> Callable[[Any], Any] | None:
    """How the values of the channels become what a node gets; None where they are that already."""
    if list(keys) == [ROOT] or (isinstance(schema, type) and issubclass(schema, dict)):
        return None
    return partial(make_state, schema)


# ------------------------------------------------------------------ JSON schemas
def json_schema_of(schema: Any, keys: Any, channels: dict[str, Any], name: str) -> dict[str, Any]:
    """The JSON schema of what goes into a graph, or comes out of it.

    Parameters
    ----------
    schema : the class that describes it
    keys : its keys
    channels : the channels of the graph, whose types stand for classes that pydantic cannot read
    name : the title
    """
    if is_model(schema):
        return schema.model_json_schema()  # type: ignore[no-any-return]
    if is_typed_dict(schema) and is_supported_by_pydantic(schema):
        from pydantic import TypeAdapter

        return TypeAdapter(schema).json_schema()
    if list(keys) == [ROOT]:
        return create_model(name, root=(channels[ROOT].UpdateType, None)).model_json_schema()
    fields = {}
    for key in keys:
        update = getattr(channels.get(key), "UpdateType", None)
        if update is not None:
            fields[key] = (update, get_field_default(key, update, schema))
    return create_model(name, field_definitions=fields).model_json_schema()


def is_typed_dict(schema: Any) -> bool:
    if typing.is_typeddict(schema):
        return True
    return isinstance(schema, type) and issubclass(schema, dict) and hasattr(schema, "__total__")


own(globals(), module="langgraph.graph.state")
