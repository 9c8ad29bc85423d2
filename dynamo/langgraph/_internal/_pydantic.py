"""Pydantic models made on the spot, from which JSON schemas come. pydantic is loaded when one is asked for."""

import sys
import typing
from dataclasses import is_dataclass
from typing import Any

from dynamo.langgraph._internal._langchain import loaded
from dynamo.langgraph._internal._names import own

if typing.TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


def get_fields(model: "type[BaseModel] | BaseModel") -> "dict[str, FieldInfo]":
    """The fields of a model or of its instance."""
    cls = model if isinstance(model, type) else type(model)
    return cls.model_fields


def create_model(
    model_name: str, *, field_definitions: dict[str, Any] | None = None, root: Any | None = None
) -> "type[BaseModel]":
    """A model with some fields, or around one type.

    Parameters
    ----------
    model_name : its name, the title of its JSON schema
    field_definitions : name -> (type, default), ``...`` as the default for a field that must be there; names that a
        model has for itself are allowed
    root : a type, or (type, default), instead of fields
    """
    from langchain_core.utils.pydantic import create_model_v2

    return create_model_v2(model_name, field_definitions=field_definitions, root=root)


def is_model(type_: Any) -> bool:
    """Whether a class is a pydantic model."""
    base = loaded("pydantic", "BaseModel")
    return base is not None and isinstance(type_, type) and issubclass(type_, base)


def is_supported_by_pydantic(type_: Any) -> bool:
    """Whether pydantic can describe a class field by field, as the input of a graph needs it."""
    if not isinstance(type_, type):
        return False
    if is_dataclass(type_) or is_model(type_):
        return True
    if not issubclass(type_, dict) or not hasattr(type_, "__total__"):
        return False
    # Before Python 3.12 pydantic takes typed dictionaries of typing_extensions only.
    return sys.version_info >= (3, 12) or type(type_).__module__ == "typing_extensions"


own(globals())
