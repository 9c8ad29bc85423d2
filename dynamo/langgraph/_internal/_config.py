"""Making one configuration out of several: what a caller gives, what a graph is bound to, what surrounds the call."""

import typing
from collections.abc import Callable, Mapping, Sequence
from os import getenv
from typing import Any, Final, TypeAlias

from dynamo.langgraph._internal._constants import (
    _CHECKPOINT_COORDINATE_KEYS,
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    NS_END,
    NS_SEP,
)
from dynamo.langgraph._internal._langchain import child_config
from dynamo.langgraph._internal._names import own

if typing.TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManager, CallbackManager, Callbacks
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import CheckpointMetadata

_Config: TypeAlias = "RunnableConfig | Mapping[str, Any] | None"


class _DefaultRecursionLimit(int):
    """The limit that nobody chose: it gives way to any that somebody did, even to an equal one."""


DEFAULT_RECURSION_LIMIT = _DefaultRecursionLimit(getenv("LANGGRAPH_DEFAULT_RECURSION_LIMIT") or 10_007)
DELTA_MAX_SUPERSTEPS_SINCE_SNAPSHOT = int(getenv("LANGGRAPH_DELTA_MAX_SUPERSTEPS_SINCE_SNAPSHOT") or 5_000)

# The keys of a configuration; any other that a caller writes beside them belongs into "configurable".
CONFIG_KEYS = ["tags", "metadata", "callbacks", "run_name", "max_concurrency", "recursion_limit", CONF, "run_id"]
_KNOWN = frozenset(CONFIG_KEYS)
_TAGS = CONFIG_KEYS[0]
# What identifies a run is copied from "configurable" into the metadata, where traces and streams look for it.
_PROPAGATE_TO_METADATA: Final = frozenset(
    {"assistant_id", "checkpoint_id", "checkpoint_ns", "graph_id", "run_id", "task_id", "thread_id"}
)


# ------------------------------------------------------------------ namespaces
def recast_checkpoint_ns(ns: str) -> str:
    """Drop the task ids and counters of a namespace: ``a:1|2|b:3`` -> ``a|b``."""
    if NS_SEP not in ns and NS_END not in ns:
        return "" if ns.isdigit() else ns
    return NS_SEP.join(part.partition(NS_END)[0] for part in ns.split(NS_SEP) if not part.isdigit())


def patch_checkpoint_map(config: "RunnableConfig | None", metadata: "CheckpointMetadata | None") -> "RunnableConfig":
    """Tell a configuration which checkpoints of the graphs around it belong to its own."""
    parents = metadata.get("parents") if metadata else None
    if config is None or not parents:
        return config  # type: ignore[return-value]
    place = config[CONF]
    here = {place[CONFIG_KEY_CHECKPOINT_NS]: place[CONFIG_KEY_CHECKPOINT_ID]}
    return patch_configurable(config, {CONFIG_KEY_CHECKPOINT_MAP: {**parents, **here}})


# ------------------------------------------------------------------ patching and merging
def patch_configurable(config: "RunnableConfig | None", patch: dict[str, Any]) -> "RunnableConfig":
    """A copy of `config` with `patch` laid over what is configurable."""
    whole: Any = config or {}
    whole = {**whole, CONF: {**whole[CONF], **patch} if CONF in whole else patch}
    return whole  # type: ignore[no-any-return]


def patch_config(
    config: "RunnableConfig | None",
    *,
    callbacks: "Callbacks" = None,
    recursion_limit: int | None = None,
    max_concurrency: int | None = None,
    run_name: str | None = None,
    configurable: dict[str, Any] | None = None,
) -> "RunnableConfig":
    """A copy of `config` with some parts replaced.

    New callbacks are those of a child run, which has a name and an id of its own: the old ones go.
    """
    patched: dict[str, Any] = dict(config) if config else {}
    new = callbacks is not None
    if new:
        patched = {key: value for key, value in patched.items() if key not in ("run_name", "run_id")}
        patched["callbacks"] = callbacks
    given = {"recursion_limit": recursion_limit, "max_concurrency": max_concurrency, "run_name": run_name}
    patched.update({key: value for key, value in given.items() if value is not None})
    return patch_configurable(patched, configurable) if configurable is not None else patched  # type: ignore[arg-type, return-value]


def merge_configs(*configs: "RunnableConfig | None") -> "RunnableConfig":
    """Lay configurations over each other, later ones on top: lists are joined, mappings merged, the rest replaced."""
    merged: dict[str, Any] = {}
    for layer in configs:
        said: Any = layer or {}
        if type(said) is not dict and not isinstance(said, Mapping):
            raise TypeError(
                f"A config is a mapping, such as {{'configurable': {{'thread_id': 'one'}}}}, and not {said!r}; what a "
                "graph gets is its first argument"
            )
        for key in said:
            value = said[key]
            if value and type(value) is not _DefaultRecursionLimit:
                join = _JOINS.get(key)
                merged[key] = value if join is None else join(merged.get(key), value)
    merged.setdefault(CONF, {})
    return merged  # type: ignore[return-value]


def _join_tags(before: Any, more: Any) -> list[Any]:
    return [*(before or ()), *more]


def _join_mappings(before: Any, more: Any) -> dict[str, Any]:
    return {**(before or {}), **more}


def _own_copy(value: Any) -> Any:
    """Metadata that is a mapping is not to be shared with whoever gave it."""
    return {**value} if isinstance(value, Mapping) else value


def _merge_metadata(base: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge metadata key by key; the versions that packages note under one key are merged themselves."""
    joined = {name: _own_copy(noted) for layer in (base, new) for name, noted in (layer or {}).items()}
    versions = [(layer or {}).get("lc_versions") for layer in (base, new)]
    if all(isinstance(noted, Mapping) for noted in versions):
        joined["lc_versions"] = _join_mappings(*versions)
    return joined


def _merge_callbacks(base: "Callbacks", new: "Callbacks") -> "Callbacks":
    """Join two sets of callbacks, each a list of handlers or a manager; neither is changed."""
    if new is None:
        return base
    if base is None:
        return new.copy()
    base_list, new_list = isinstance(base, list), isinstance(new, list)
    if base_list and new_list:
        return [*base, *new]  # type: ignore[misc]
    from langchain_core.callbacks import BaseCallbackManager

    if not all(isinstance(one, list | BaseCallbackManager) for one in (base, new)):
        raise NotImplementedError(f"callbacks are handlers or a manager of them, not {type(base)} and {type(new)}")
    if not base_list and not new_list:
        return base.merge(new)  # type: ignore[union-attr, arg-type]
    handlers: Any = base if base_list else new
    joined: Any = (new if base_list else base).copy()
    for handler in handlers:
        joined.add_handler(handler, inherit=True)
    return joined  # type: ignore[no-any-return]


# How the parts of two configurations become one; all other parts are replaced.
_JOINS: dict[str, Callable[[Any, Any], Any]] = {
    "metadata": _merge_metadata,
    _TAGS: _join_tags,
    "callbacks": _merge_callbacks,
    CONF: _join_mappings,
}


# ------------------------------------------------------------------ the configuration of a run
def _is_not_empty(value: Any) -> bool:
    return len(value) > 0 if isinstance(value, list | tuple | dict) else value is not None


def ensure_config(*configs: "RunnableConfig | None") -> "RunnableConfig":
    """The complete configuration of a run: defaults, then what surrounds the call, then `configs` in their order.

    Who names a thread or a checkpoint starts a line of its own: then nothing that is configurable is taken over from
    the surroundings, least of all the namespace of the task that is calling.
    """
    result: dict[str, Any] = {
        "tags": [],
        "metadata": {},
        "callbacks": None,
        "recursion_limit": DEFAULT_RECURSION_LIMIT,
        CONF: {},
    }
    conf: dict[str, Any] = result[CONF]
    ambient = child_config.get()
    ambient_tags: Sequence[str] = ()
    if ambient:
        _take_ambient(result, ambient, configs)
        conf = result[CONF]
        ambient_tags = tuple(result["tags"])
    for layer in configs:
        said: Any = layer or {}
        if type(said) is not dict and not isinstance(said, Mapping):
            raise TypeError(
                f"A config is a mapping, such as {{'configurable': {{'thread_id': 'one'}}}}, and not {said!r}; what a "
                "graph gets is its first argument"
            )
        for key in said:
            value = said[key]
            if not _is_not_empty(value):
                continue
            if key not in _KNOWN:
                conf[key] = value
                continue
            if key == _TAGS:
                value = [tag for tag in value if tag not in ambient_tags]
            join = _JOINS.get(key)
            result[key] = value if join is None else join(result[key], value)
            conf = result[CONF]
    metadata = result["metadata"]
    for key in conf.keys() & _PROPAGATE_TO_METADATA:
        if conf[key]:
            metadata.setdefault(key, conf[key])
    return result  # type: ignore[return-value]


def _take_ambient(result: dict[str, Any], ambient: Any, configs: Sequence["RunnableConfig | None"]) -> None:
    fresh = any(
        _is_not_empty(config[CONF].get(key))
        for config in configs
        if config and config.get(CONF)
        for key in _CHECKPOINT_COORDINATE_KEYS
    )
    for key, value in ambient.items():
        if not _is_not_empty(value) or (key == CONF and fresh):
            continue
        if key in _JOINS:
            value = _merge_metadata(None, value) if _JOINS[key] is _merge_metadata else value.copy()
        result[key] = value


# ------------------------------------------------------------------ langchain-core's managers
def _exclude_as_metadata(key: str, value: Any) -> bool:
    """Whether a configurable value stays out of traces: what is not plain, what is internal, what may be a secret."""
    if key.startswith("__") or not isinstance(value, str | int | float | bool):
        return True
    lowered = key.lower()
    return any(word in lowered for word in ("key", "token", "secret", "password", "auth"))


def _shown_in_traces(config: "RunnableConfig") -> dict[str, Any] | None:
    shown = {k: v for k, v in (config.get(CONF) or {}).items() if not _exclude_as_metadata(k, v)}
    return shown or None


def get_callback_manager_for_config(config: "RunnableConfig", tags: Sequence[str] | None = None) -> "CallbackManager":
    """The manager of a configuration, for a sync run; its runs carry the configuration's tags and `tags`."""
    from langchain_core.callbacks import CallbackManager

    return _manager(CallbackManager, config, tags)  # type: ignore[no-any-return]


def get_async_callback_manager_for_config(
    config: "RunnableConfig", tags: Sequence[str] | None = None
) -> "AsyncCallbackManager":
    """The manager of a configuration, for an async run; its runs carry the configuration's tags and `tags`."""
    from langchain_core.callbacks import AsyncCallbackManager

    return _manager(AsyncCallbackManager, config, tags)  # type: ignore[no-any-return]


def _manager(kind: Any, config: "RunnableConfig", tags: Sequence[str] | None) -> Any:
    callbacks = config.get("callbacks")
    metadata = config.get("metadata")
    every_tag = [*(config.get("tags") or ()), *(tags or ())]
    if isinstance(callbacks, kind):
        if every_tag:
            callbacks.add_tags(every_tag)
        callbacks.add_metadata(metadata or {})
        return callbacks
    inherited = {"inheritable_callbacks": callbacks, "inheritable_tags": every_tag or None}
    noted = {"inheritable_metadata": metadata, "langsmith_inheritable_metadata": _shown_in_traces(config)}
    return kind.configure(**inherited, **noted)


def filter_to_user_tags(tags: Sequence[str] | None) -> list[str] | None:
    """The tags that people gave: those that number the steps of a sequence are ours."""
    return [tag for tag in tags or () if not tag.startswith("seq:step")] or None


own(globals())
