"""The fields of a state schema: a TypedDict, a dataclass, a pydantic model or any class with annotations."""

import types
from collections.abc import Iterator, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import is_dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from dynamo.langgraph._internal._names import namespace, own
from dynamo.langgraph._internal._typing import MISSING

_UNIONS = (Union, types.UnionType)


def _is_optional_type(type_: Any) -> bool:
    """Whether None is one of the values of a type."""
    if type_ is None:
        return True
    if isinstance(type_, TypeVar):
        return type_.__bound__ is not None and _is_optional_type(type_.__bound__)
    if hasattr(type_, "__metadata__"):
        return _is_optional_type(type_.__origin__)
    if get_origin(type_) not in _UNIONS:
        return False
    return any(arm is type(None) or _is_optional_type(arm) for arm in get_args(type_))


def _marks(type_: Any) -> Iterator[str]:
    """The qualifiers around a type: Required, NotRequired, ReadOnly, in any order and through Annotated."""
    while True:
        origin = get_origin(type_)
        if origin is None:
            return
        name = getattr(origin, "_name", None) or getattr(origin, "__name__", "")
        if origin is Annotated or name == "Annotated":
            type_ = type_.__origin__
        elif name in ("Required", "NotRequired", "ReadOnly"):
            yield name
            (type_,) = get_args(type_)
        else:
            return


def _is_required_type(type_: Any) -> bool | None:
    """True and False as a field says so itself, None where it says nothing."""
    return next((mark == "Required" for mark in _marks(type_) if mark != "ReadOnly"), None)


def get_field_default(name: str, type_: Any, schema: type[Any]) -> Any:
    """What a field is when nobody sets it; ``...`` if it must be set.

    Parameters
    ----------
    name, type_ : the field, and its annotation with all qualifiers
    schema : the class that has it
    """
    if name in getattr(schema, "__optional_keys__", ()):
        # What the class body says of the field counts; `total` speaks for the others.
        return ... if _is_required_type(type_) else None
    if name in getattr(schema, "__required_keys__", ()) and _is_required_type(type_) is not None:
        return ... if _is_required_type(type_) else None
    if is_dataclass(schema):
        field = schema.__dataclass_fields__.get(name)
        if field is not None:
            if field.default is not NO_DEFAULT and field.default is not ...:
                return field.default
            if field.default_factory is not NO_DEFAULT:
                return field.default_factory()
    if _is_required_type(type_) is False:
        return None
    return None if _is_optional_type(type_) else ...


def hints_of(schema: type[Any], *, extras: bool = True) -> dict[str, Any]:
    """The resolved annotations of a class, those of its bases first.

    String annotations of our own classes are read in the module that defines them, wherever they say they are from.
    """
    names: dict[str, Any] = {}
    for base in reversed(getattr(schema, "__mro__", ())):
        if getattr(base, "__module__", "").startswith("langgraph."):
            names.update(namespace(base))
    return get_type_hints(schema, localns=names or None, include_extras=extras)


def get_enhanced_type_hints(type: type[Any]) -> Iterator[tuple[str, Any, Any, str | None]]:
    """Name, type, default and description of every field of a class; the last two are None where there are none."""
    described = getattr(type, "model_fields", None) or {}
    for name, hint in hints_of(type, extras=False).items():
        default, description = getattr(type, name, None), None
        field = described.get(name)
        if field is not None:
            made = field.is_required() or field.default_factory is not None
            description, default = field.description, None if made else field.default
        yield name, hint, default, description


def get_update_as_tuples(input: Any, keys: Sequence[str]) -> list[tuple[str, Any]]:
    """The fields of an object that are an update of the state.

    A pydantic model has every field all the time: one that is None counts only if somebody set it.
    """
    found = [(key, getattr(input, key, MISSING)) for key in keys]
    chosen = getattr(input, "model_fields_set", None) if hasattr(type(input), "model_fields") else None
    if chosen is None:
        return [pair for pair in found if pair[1] is not MISSING]
    return [(key, value) for key, value in found if value is not MISSING and (value is not None or key in chosen)]


ANNOTATED_KEYS_CACHE: WeakKeyDictionary[type[Any], tuple[str, ...]] = WeakKeyDictionary()


def get_cached_annotated_keys(obj: type[Any]) -> tuple[str, ...]:
    """The names of all annotated fields of a class, those of its bases first."""
    known = ANNOTATED_KEYS_CACHE.get(obj)
    if known is None:
        in_order = (name for base in reversed(obj.__mro__) for name in _annotations(base))
        known = ANNOTATED_KEYS_CACHE[obj] = tuple(dict.fromkeys(in_order))
    return known


def _annotations(cls: type[Any]) -> Sequence[str]:
    own_ones = cls.__dict__.get("__annotations__")  # noqa: RUF063
    if own_ones is None and "__annotate_func__" in cls.__dict__:  # Python 3.14 keeps a function in their place
        own_ones = cls.__annotations__
    return tuple(own_ones or ())


own(globals())
