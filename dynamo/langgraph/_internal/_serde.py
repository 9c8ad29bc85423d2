"""Which classes a strict serializer may rebuild: those that the state of a graph can hold."""

import os
import types
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._pydantic import get_fields, is_model

# As langgraph-checkpoint reads it.
STRICT_MSGPACK_ENABLED = os.getenv("LANGGRAPH_STRICT_MSGPACK", "false").lower() in ("1", "true", "yes")

_warned: list[str] = []


def apply_checkpointer_allowlist(checkpointer: Any, allowlist: set[tuple[str, ...]] | None) -> Any:
    """A checkpointer that may rebuild the classes in `allowlist`, beside those that it knew."""
    with_allowlist = getattr(checkpointer, "with_allowlist", None)
    if allowlist is not None and with_allowlist is not None:
        return with_allowlist(allowlist)
    kind = type(checkpointer).__name__
    if allowlist is not None and not isinstance(checkpointer, bool | None) and not _warned:
        import logging

        _warned.append(kind)
        logging.getLogger("langgraph._internal._serde").warning(
            "%s takes no list of classes; update langgraph-checkpoint", kind
        )
    return checkpointer


def curated_core_allowlist() -> set[tuple[str, ...]]:
    """The messages of langchain-core."""
    try:
        from langchain_core import messages
    except ImportError:
        return set()
    found = (
        getattr(messages, f"{kind}Message{form}", None)
        for kind in ("", "AI", "Base", "Chat", "Function", "Human", "Remove", "System", "Tool")
        for form in ("", "Chunk")
    )
    return {(cls.__module__, cls.__name__) for cls in found if isinstance(cls, type)}


def strict_allowlist(schemas: Iterable[Any], channels: dict[str, Any]) -> set[tuple[str, ...]] | None:
    """What savers may rebuild where they are strict: messages, and every class that schemas and channels name."""
    if not STRICT_MSGPACK_ENABLED:
        return None
    named = [schema for schema in schemas if schema is not None]
    return curated_core_allowlist() | collect_allowlist_from_schemas(schemas=named, channels=channels)


def collect_allowlist_from_schemas(
    *, schemas: list[type[Any]] | None = None, channels: dict[str, Any] | None = None
) -> set[tuple[str, ...]]:
    """(module, name) of every dataclass, model and enumeration that the types are made of, however deep."""
    waiting: list[Any] = list(schemas or ())
    for channel in (channels or {}).values():
        waiting += [getattr(channel, side, None) for side in ("ValueType", "UpdateType")]
    allowed: set[tuple[str, ...]] = set()
    seen: list[Any] = []
    met: set[Any] = set()
    while waiting:
        type_ = waiting.pop()
        try:
            if type_ in met:
                continue
            met.add(type_)
        except TypeError:  # not hashable: known by identity
            if any(type_ is other for other in seen):
                continue
            seen.append(type_)
        named = isinstance(type_, type) and get_origin(type_) is None
        if named and (is_dataclass(type_) or is_model(type_) or issubclass(type_, Enum)):
            allowed.add((type_.__module__, type_.__name__))
        waiting.extend(_parts(type_))
    return allowed


def _parts(type_: Any) -> Iterator[Any]:
    """The types that a type is made of."""
    if type_ is None or type_ is Any or isinstance(type_, str):
        return
    generic = get_origin(type_)
    if generic == Literal:
        return
    if hasattr(type_, "__metadata__"):  # Annotated: its notes are not types
        yield type_.__origin__
    elif generic is not None:
        if generic not in (Union, types.UnionType):
            yield generic
        yield from (arg for arg in get_args(type_) if arg is not ...)
    elif hasattr(type_, "__supertype__"):
        yield type_.__supertype__
    elif isinstance(type_, type):
        if is_model(type_):
            yield from (field.annotation for field in get_fields(type_).values())
        elif is_dataclass(type_) or hasattr(type_, "__total__"):
            yield from _hints(type_).values()


def _hints(type_: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(type_, include_extras=True)
    except Exception:  # an annotation that cannot be resolved names nothing that could be rebuilt
        return {}


own(globals())
