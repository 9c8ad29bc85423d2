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

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dynamo import _pregel
from dynamo._pregel import copy_checkpoint, empty_checkpoint
from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_CHECKPOINT_ID, NS_END, NS_SEP, SNAPSHOT_BUMPS
from dynamo.langgraph._internal._errors import CheckpointError
from dynamo.langgraph._internal._script import Script, ask, awaiting, plainly
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.channels.base import BaseChannel
from dynamo.langgraph.channels.binop import BinaryOperatorAggregate
from dynamo.langgraph.channels.delta import DeltaChannel
from dynamo.langgraph.pregel._deltas import early_id as exit_delta_task_id

DELTA_MAX_SUPERSTEPS_SINCE_SNAPSHOT = 5000
COUNTERS = "counters_since_delta_snapshot"
Counters = Mapping[str, tuple[int, int]]

__all__ = (
    "COUNTERS",
    "DELTA_MAX_SUPERSTEPS_SINCE_SNAPSHOT",
    "achannels_from_checkpoint",
    "add_snapshots",
    "advance_counters",
    "channels_from_checkpoint",
    "copy_checkpoint",
    "delta_channels_to_snapshot",
    "delta_names",
    "empty_checkpoint",
    "exit_delta_task_id",
    "is_superseded",
    "load_channels",
    "note_counters",
    "versions_seen_without_bumps",
)


# ------------------------------------------------------------------ which delta channels get a snapshot
def delta_names(channels: Mapping[str, Any]) -> set[str]:
    """The delta channels among these."""
    return {name for name, channel in channels.items() if isinstance(channel, DeltaChannel)}


def delta_channels_to_snapshot(
    channels: Mapping[str, Any], counters_since_delta_snapshot: Counters, channel_versions: Mapping[str, Any]
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
    for name in delta_names(channels).intersection(channel_versions, counters_since_delta_snapshot):
        updates, steps = counters_since_delta_snapshot[name]
        full = updates >= channels[name].snapshot_frequency or steps >= DELTA_MAX_SUPERSTEPS_SINCE_SNAPSHOT
        if full and channels[name].is_available():
            due.add(name)
    return due


def advance_counters(
    channels: Mapping[str, Any], counters: Counters | None, updated: Iterable[str]
) -> dict[str, tuple[int, int]]:
    """The counters one superstep later, given which channels it updated."""
    written = set(updated)
    before = counters or {}
    after = {}
    for name in channels:
        if isinstance(channels[name], DeltaChannel):
            updates, steps = before.get(name, (0, 0))
            after[name] = updates + (name in written), steps + 1
    return after


def note_counters(metadata: dict[str, Any], counters: Counters, snapshots: Iterable[str] = ()) -> None:
    """Put the counters into a checkpoint's metadata; those of snapshots begin anew, and nothing counted is left out."""
    kept = {name: pair for name, pair in counters.items() if any(pair) and name not in snapshots}
    metadata.pop(COUNTERS, None)
    if kept:
        metadata[COUNTERS] = kept


# ------------------------------------------------------------------ snapshots
def add_snapshots(
    made: Any,
    channels: Mapping[str, Any],
    wanted: Iterable[str],
    next_version: Callable[[Any, None], Any],
    stored: Mapping[str, Any],
    trigger_to_nodes: Mapping[str, Sequence[str]],
) -> None:
    """Put the values of delta channels whole into a new checkpoint.

    Parameters
    ----------
    made
        The checkpoint; its versions are its own, `versions_seen` may be shared and is replaced.
    stored
        The versions that the saver has: a channel that is still at the same one gets a bump (I1).
    trigger_to_nodes
        Who is triggered by which channel.
    """
    from langgraph.checkpoint.serde.types import _DeltaSnapshot

    versions, values = made["channel_versions"], made["channel_values"]
    bumps: dict[str, tuple[Any, Any]] = {}
    for name in sorted(channels.keys() & set(wanted)):
        before = versions.get(name)
        if before is None or stored.get(name) == before:
            versions[name] = next_version(before, None)
            bumps[name] = before, versions[name]
        values[name] = _DeltaSnapshot(channels[name].get())
    made["channel_values"] = {name: values[name] for name in channels if name in values}  # in the order of channels
    if bumps:
        if isinstance(channels, _pregel.ChannelMap):
            channels.forget_top()
        made["versions_seen"] = _seen_with_bumps(made["versions_seen"], bumps, trigger_to_nodes)


def _seen_with_bumps(
    versions_seen: Mapping[str, Any], bumps: Mapping[str, tuple[Any, Any]], trigger_to_nodes: Mapping[str, Any]
) -> dict[str, Any]:
    """Count each bump as seen by whoever had seen the version before; the notes say what was really seen (I2)."""
    seen = {node: dict(entry) for node, entry in versions_seen.items()}
    notes = seen.pop(SNAPSHOT_BUMPS, {})
    for channel, (before, after) in bumps.items():
        if before is None:  # never written: nodes that have not run yet must not start because of it
            for node in trigger_to_nodes.get(channel, ()):
                seen.setdefault(node, {})
        for node in [node for node, entry in seen.items() if entry.get(channel) == before]:
            now, really = f"{node}{NS_SEP}{channel}", f"{node}{NS_END}{channel}"
            if before not in (None, notes.get(now)):
                notes[really] = before
            notes[now] = seen[node][channel] = after
    return {**seen, SNAPSHOT_BUMPS: notes} if notes else seen


def versions_seen_without_bumps(versions_seen: Mapping[str, Any]) -> dict[str, Any]:
    """`versions_seen` with every bump taken back to what the node had really read."""
    clean = {node: dict(entry) for node, entry in versions_seen.items()}
    notes = clean.pop(SNAPSHOT_BUMPS, {})
    for node, entry in clean.items() if notes else ():
        for channel in [name for name, version in entry.items() if notes.get(f"{node}{NS_SEP}{name}") == version]:
            really = notes.get(f"{node}{NS_END}{channel}")
            if really is None:
                del entry[channel]
            else:
                entry[channel] = really
    return clean


# ------------------------------------------------------------------ loading
def _replayed(spec: Any, history: Mapping[str, Any]) -> Any:
    """A channel out of what was written to it."""
    made = spec.from_checkpoint(history.get("seed", MISSING))
    if isinstance(spec, DeltaChannel):
        made.replay_writes(history["writes"])
    else:
        for write in history["writes"]:  # of many supersteps: one overwrite each is allowed
            made.update([write[2]])
    return made


def load_channels(specs: Mapping[str, Any], checkpoint: Any, *, saver: Any = None, config: Any = None) -> Script:
    """Live channels and managed values out of a checkpoint; one call to the saver for all histories.

    A reducer channel without a stored value was a delta channel when it was saved, so its history counts too.
    """
    values, versions = checkpoint["channel_values"], checkpoint["channel_versions"]
    if not versions:
        return _pregel.fresh_channels(specs, values)
    channels = {name: spec for name, spec in specs.items() if isinstance(spec, BaseChannel)}
    managed = {name: spec for name, spec in specs.items() if name not in channels}
    replayed = (DeltaChannel, BinaryOperatorAggregate)
    old = [n for n, spec in channels.items() if n in versions and n not in values and isinstance(spec, replayed)]
    histories: Mapping[str, Any] = {}
    if old:
        if saver is None or config is None:
            raise CheckpointError(
                f"The delta channels {old} are saved as writes and no checkpointer (or no config) was given to read "
                "them: pass saver= and config="
            )
        histories = yield ask(saver, "get_delta_channel_history", config=config, channels=old)
    live = {
        name: _replayed(spec, histories[name]) if name in histories else spec.from_checkpoint(values.get(name, MISSING))
        for name, spec in channels.items()
    }
    return live, managed


channels_from_checkpoint = plainly(load_channels)
achannels_from_checkpoint = awaiting(load_channels)


def is_superseded(saver: Any, config: Any, saved: Any) -> Script:
    """Whether the thread has gone on since `saved`, which `config` asked for by id."""
    if saved is None or not config[CONF].get(CONFIG_KEY_CHECKPOINT_ID):
        return False
    latest = {**config, CONF: {**config[CONF], CONFIG_KEY_CHECKPOINT_ID: None}}
    head = yield ask(saver, "get_tuple", latest)
    return head is not None and head.checkpoint["id"] != saved.checkpoint["id"]
