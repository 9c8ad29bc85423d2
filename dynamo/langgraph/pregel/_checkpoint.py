"""Checkpoints: making, copying and loading them, and what delta channels keep in them.

A delta channel saves nothing of its value in most checkpoints: the writes of the supersteps say how it came about.
So that a load need not go back to the first one, a snapshot is put into a checkpoint now and then, and whenever
the writes before it must not be replayed (an overwrite, a fork).

    c1 [snapshot] --writes--> c2 --writes--> c3 --writes--> c4 [snapshot] ...
                                              load(c3) = snapshot of c1 + writes of c1, c2

I1  A saver stores a value only under a version that moved. A snapshot of a channel that was not written in the
    step therefore gets a version of its own, a bump, and whoever had seen the old version counts as having seen
    the bump: nothing is triggered by it.
I2  `SNAPSHOT_BUMPS` in versions_seen remembers for each bump what was really seen, so that they can be taken back.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamo import _pregel
from dynamo._pregel import copy_checkpoint, empty_checkpoint
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    NS_END,
    NS_SEP,
    NULL_TASK_ID,
    PUSH,
    SNAPSHOT_BUMPS,
)
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.channels.base import BaseChannel
from dynamo.langgraph.channels.binop import BinaryOperatorAggregate, _get_overwrite
from dynamo.langgraph.channels.delta import DeltaChannel

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointTuple

LATEST_VERSION = 4
DELTA_MAX_SUPERSTEPS_SINCE_SNAPSHOT = 5000
COUNTERS = "counters_since_delta_snapshot"

__all__ = (
    "DELTA_MAX_SUPERSTEPS_SINCE_SNAPSHOT",
    "LATEST_VERSION",
    "achannels_from_checkpoint",
    "acheckpoint_superseded",
    "channels_from_checkpoint",
    "checkpoint_superseded",
    "copy_checkpoint",
    "create_checkpoint",
    "create_checkpoint_plan_for_update_state_api",
    "delta_channels_overwritten",
    "delta_channels_to_snapshot",
    "delta_channels_with_pending_writes",
    "empty_checkpoint",
    "exit_delta_late_task_id",
    "exit_delta_task_id",
    "get_updated_channels_from_tasks",
    "put_writes_accepts_task_path",
    "versions_seen_without_bumps",
)


def put_writes_accepts_task_path(put_writes: Callable[..., Any]) -> bool:
    """Whether a saver's ``put_writes`` knows the parameter ``task_path`` (old savers do not)."""
    return "task_path" in inspect.signature(put_writes).parameters


# ------------------------------------------------------------------ ids for writes that are saved at the end


def exit_delta_task_id(step: int, task_id: str) -> str:
    """A task id that sorts by superstep, for delta writes that durability "exit" saves late.

    The step takes the place of the first eight digits; the result is a UUID and never the null id.
    """
    tail = str(uuid.UUID(task_id))[8:]
    made = f"{step:08d}{tail}"
    return f"{made[:-1]}1" if made == NULL_TASK_ID else made


def exit_delta_late_task_id(step: int, task_id: str) -> str:
    """The same for supersteps after the one that the writes hang on: sorts behind every real task id."""
    tail = str(uuid.UUID(task_id))[18:]
    high, low = divmod(step, 1 << 16)
    return f"ffffffff-{high:04x}-{low:04x}{tail}"


# ------------------------------------------------------------------ which delta channels get a snapshot


def _deltas(channels: Mapping[str, Any]) -> list[tuple[str, DeltaChannel[Any]]]:
    return [(name, channel) for name, channel in channels.items() if isinstance(channel, DeltaChannel)]


def delta_channels_to_snapshot(
    channels: Mapping[str, BaseChannel[Any, Any, Any]],
    counters_since_delta_snapshot: Mapping[str, tuple[int, int]],
    channel_versions: Mapping[str, Any],
) -> set[str]:
    """The delta channels whose snapshot is due.

    Parameters
    ----------
    channels
        The live channels.
    counters_since_delta_snapshot
        Per channel ``(updates, supersteps)`` since its last snapshot.
    channel_versions
        Channels that are not in it were never written and have nothing to save.
    """
    due = set()
    for name, channel in _deltas(channels):
        updates, steps = counters_since_delta_snapshot.get(name, (0, 0))
        late = updates >= channel.snapshot_frequency or steps >= DELTA_MAX_SUPERSTEPS_SINCE_SNAPSHOT
        if late and name in channel_versions and channel.is_available():
            due.add(name)
    return due


def advance_counters(
    channels: Mapping[str, BaseChannel[Any, Any, Any]],
    counters: Mapping[str, tuple[int, int]] | None,
    updated: Iterable[str],
) -> dict[str, tuple[int, int]]:
    """The counters one superstep later, given which channels it updated."""
    before = counters or {}
    written = updated if isinstance(updated, (set, frozenset)) else set(updated)
    after = {}
    for name, _ in _deltas(channels):
        updates, steps = before.get(name, (0, 0))
        after[name] = (updates + (name in written), steps + 1)
    return after


def delta_channels_with_pending_writes(
    specs: Mapping[str, Any], pending_writes: Iterable[tuple[str, str, Any]] | None
) -> set[str]:
    """Delta channels that a checkpoint's pending writes touch.

    These writes belong to the child that took them in. Another branch from that checkpoint must not replay them,
    so it begins with a snapshot of each.
    """
    touched = {write[1] for write in pending_writes or ()}
    return {name for name, _ in _deltas(specs) if name in touched}


def delta_channels_overwritten(specs: Mapping[str, Any], writes: Iterable[tuple[str, Any]]) -> set[str]:
    """Delta channels that one of these writes replaces: what came before must not be replayed."""
    return {name for name, value in writes if isinstance(specs.get(name), DeltaChannel) and _get_overwrite(value)[0]}


def get_updated_channels_from_tasks(run_tasks: Iterable[Any]) -> set[str]:
    """The channels that these tasks wrote."""
    return {name for task in run_tasks for name, _ in task.writes if name != PUSH}


def create_checkpoint_plan_for_update_state_api(
    channels: Mapping[str, BaseChannel[Any, Any, Any]],
    updated_channels: set[str],
    *,
    source: str,
    step: int,
    parents: dict[str, Any],
    saved_metadata: Mapping[str, Any] | None,
    is_fresh_thread: bool,
    fork_channels: set[str],
    channel_versions: Mapping[str, Any],
) -> tuple[set[str], dict[str, Any]]:
    """What ``update_state`` snapshots, and the metadata of the checkpoint that it makes."""
    metadata: dict[str, Any] = {"source": source, "step": step, "parents": parents}
    if is_fresh_thread:
        first = {n for n, channel in _deltas(channels) if n in channel_versions and channel.is_available()}
        return first, metadata
    counters = advance_counters(channels, (saved_metadata or {}).get(COUNTERS), updated_channels)
    snapshots = fork_channels | delta_channels_to_snapshot(channels, counters, channel_versions)
    kept = {name: pair for name, pair in counters.items() if name not in snapshots}
    if kept:
        metadata[COUNTERS] = kept
    return snapshots, metadata


# ------------------------------------------------------------------ making a checkpoint


def create_checkpoint(
    checkpoint: Checkpoint,
    channels: Mapping[str, BaseChannel[Any, Any, Any]] | None,
    step: int,
    *,
    id: str | None = None,
    updated_channels: set[str] | None = None,
    get_next_version: Callable[[Any, None], Any] | None = None,
    channels_to_snapshot: set[str] | None = None,
    stored_versions: Mapping[str, Any] | None = None,
    trigger_to_nodes: Mapping[str, Sequence[str]] | None = None,
) -> Checkpoint:
    """The checkpoint after `checkpoint`, with the content of the live channels.

    Parameters
    ----------
    checkpoint
        The one before; its versions are copied.
    channels
        None keeps the values of `checkpoint`.
    step
        Becomes part of the id.
    channels_to_snapshot
        Delta channels whose value goes in whole.
    stored_versions
        The versions that the saver has; a snapshot of a channel whose version is still the same gets a bump.
    trigger_to_nodes
        Who is triggered by which channel; for bumps.
    """
    made: Checkpoint = _pregel.next_checkpoint(checkpoint, channels, step, id, updated_channels)
    if channels is not None and channels_to_snapshot:
        _add_snapshots(made, channels, channels_to_snapshot, get_next_version, stored_versions, trigger_to_nodes or {})
    return made


def _add_snapshots(
    made: Checkpoint,
    channels: Mapping[str, BaseChannel[Any, Any, Any]],
    wanted: set[str],
    get_next_version: Callable[[Any, None], Any] | None,
    stored: Mapping[str, Any] | None,
    trigger_to_nodes: Mapping[str, Sequence[str]],
) -> None:
    from langgraph.checkpoint.serde.types import _DeltaSnapshot

    versions = made["channel_versions"]
    bumps: dict[str, tuple[Any, Any]] = {}
    for name in sorted(wanted & channels.keys()):
        before = versions.get(name)
        if before is None and get_next_version is None:
            continue
        unmoved = before is None or (stored is not None and stored.get(name) == before)
        if unmoved and get_next_version is not None:
            versions[name] = get_next_version(before, None)
            bumps[name] = (before, versions[name])
        made["channel_values"][name] = _DeltaSnapshot(channels[name].get())
    if bumps:
        if isinstance(channels, _pregel.ChannelMap):
            channels.forget_top()
        made["versions_seen"] = _bumps_as_seen(made["versions_seen"], bumps, trigger_to_nodes)


def _bumps_as_seen(
    versions_seen: dict[str, Any], bumps: Mapping[str, tuple[Any, Any]], trigger_to_nodes: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    notes = dict(versions_seen.get(SNAPSHOT_BUMPS, ()))
    seen = {node: dict(entry) for node, entry in versions_seen.items() if node != SNAPSHOT_BUMPS}
    for channel, (before, after) in bumps.items():
        if before is None:  # never written: nodes that have not run yet must not start because of it
            for node in trigger_to_nodes.get(channel, ()):
                seen.setdefault(node, {})
        for node, entry in seen.items():
            if entry.get(channel) == before:
                now, was = f"{node}{NS_SEP}{channel}", f"{node}{NS_END}{channel}"
                if before is not None and notes.get(now) != before:
                    notes[was] = before
                notes[now] = after
                entry[channel] = after
    if notes:
        seen[SNAPSHOT_BUMPS] = notes
    return seen


def versions_seen_without_bumps(versions_seen: dict[str, Any]) -> dict[str, Any]:
    """`versions_seen` with every bump taken back to what the node had really read."""
    notes = versions_seen.get(SNAPSHOT_BUMPS)
    if not notes:
        return versions_seen
    clean: dict[str, Any] = {}
    for node, entry in versions_seen.items():
        if node == SNAPSHOT_BUMPS:
            continue
        kept = clean[node] = dict(entry)
        for channel, version in entry.items():
            if notes.get(f"{node}{NS_SEP}{channel}") != version:
                continue
            real = notes.get(f"{node}{NS_END}{channel}")
            if real is None:
                del kept[channel]
            else:
                kept[channel] = real
    return clean


# ------------------------------------------------------------------ loading


def _split(
    specs: Mapping[str, Any], checkpoint: Checkpoint
) -> tuple[dict[str, BaseChannel[Any, Any, Any]], dict[str, Any], list[str]]:
    """Live channels, managed values, and the names of channels whose history must be replayed.

    A reducer channel without a stored value was a delta channel when it was saved, so its history counts too.
    """
    values, versions = checkpoint["channel_values"], checkpoint["channel_versions"]
    channels: dict[str, BaseChannel[Any, Any, Any]] = {}
    managed: dict[str, Any] = {}
    old = []
    for name, spec in specs.items():
        if not isinstance(spec, BaseChannel):
            managed[name] = spec
            continue
        value = values.get(name, MISSING)
        if value is MISSING and name in versions and isinstance(spec, (DeltaChannel, BinaryOperatorAggregate)):
            old.append(name)
        channels[name] = spec.from_checkpoint(value)
    return channels, managed, old


def _replayed(spec: Any, history: Mapping[str, Any]) -> BaseChannel[Any, Any, Any]:
    channel: BaseChannel[Any, Any, Any] = spec.from_checkpoint(history.get("seed", MISSING))
    if isinstance(channel, DeltaChannel):
        channel.replay_writes(history["writes"])
    else:
        for write in history["writes"]:  # of many supersteps: one overwrite each is allowed
            channel.update([write[2]])
    return channel


def _need(old: list[str], saver: Any, config: Any) -> None:
    if saver is None or config is None:
        raise ValueError(
            f"The delta channels {old} are saved as writes and no checkpointer (or no config) was given to read them: "
            "pass saver= and config="
        )


def channels_from_checkpoint(
    specs: Mapping[str, Any],
    checkpoint: Checkpoint,
    *,
    saver: BaseCheckpointSaver[Any] | None = None,
    config: Any = None,
) -> tuple[Mapping[str, BaseChannel[Any, Any, Any]], Mapping[str, Any]]:
    """Live channels and managed values out of a checkpoint; one call to the saver for all histories."""
    if not checkpoint["channel_versions"]:
        return _pregel.fresh_channels(specs, checkpoint["channel_values"])
    channels, managed, old = _split(specs, checkpoint)
    if old:
        _need(old, saver, config)
        histories = saver.get_delta_channel_history(config=config, channels=old)  # type: ignore[union-attr]
        channels.update({name: _replayed(specs[name], history) for name, history in histories.items()})
    return channels, managed


async def achannels_from_checkpoint(
    specs: Mapping[str, Any],
    checkpoint: Checkpoint,
    *,
    saver: BaseCheckpointSaver[Any] | None = None,
    config: Any = None,
) -> tuple[Mapping[str, BaseChannel[Any, Any, Any]], Mapping[str, Any]]:
    """`channels_from_checkpoint` for an asynchronous saver."""
    if not checkpoint["channel_versions"]:
        return _pregel.fresh_channels(specs, checkpoint["channel_values"])
    channels, managed, old = _split(specs, checkpoint)
    if old:
        _need(old, saver, config)
        histories = await saver.aget_delta_channel_history(config=config, channels=old)  # type: ignore[union-attr]
        channels.update({name: _replayed(specs[name], history) for name, history in histories.items()})
    return channels, managed


# ------------------------------------------------------------------ is an addressed checkpoint still the latest


def _latest_of(config: Any) -> Any:
    configurable = dict(config[CONF])
    configurable[CONFIG_KEY_CHECKPOINT_ID] = None
    return {**config, CONF: configurable}


def checkpoint_superseded(saver: BaseCheckpointSaver[Any], config: Any, saved: CheckpointTuple) -> bool:
    """Whether the thread has gone on since `saved`, which `config` asked for by id."""
    if not config[CONF].get(CONFIG_KEY_CHECKPOINT_ID):
        return False
    head = saver.get_tuple(_latest_of(config))
    return head is not None and head.checkpoint["id"] != saved.checkpoint["id"]


async def acheckpoint_superseded(saver: BaseCheckpointSaver[Any], config: Any, saved: CheckpointTuple) -> bool:
    """`checkpoint_superseded` for an asynchronous saver."""
    if not config[CONF].get(CONFIG_KEY_CHECKPOINT_ID):
        return False
    head = await saver.aget_tuple(_latest_of(config))
    return head is not None and head.checkpoint["id"] != saved.checkpoint["id"]
