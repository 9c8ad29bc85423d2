"""A run: where it starts from, and what it saves.

    enter: load the checkpoint --> Start: is it new input, a resume, a replay, a fork? --> supersteps (_superstep.pyx)
                                                                                               |
    leave: durability "exit" saves here, interrupts end here  <---------------------------------

Delta channels are saved as writes, and a checkpoint may only be saved after the writes that it is made of; `Deltas`
keeps book of that. What a saver has to do is started without waiting, in an order that keeps what is saved whole.

I1  A checkpoint is saved after the one before it and after the delta writes that lead to it, or not at all.
I2  Writes that were loaded with a checkpoint are never saved again.
I3  A run that starts from a checkpoint which may have children stores nothing on it: it forks.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import uuid
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from dynamo._superstep import LoopCore
from dynamo.langgraph._internal._config import patch_configurable
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_REPLAY_STATE,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_STREAM,
    CONFIG_KEY_STRICT_RESUME,
    CONFIG_KEY_TASK_ID,
    CONFIG_KEY_THREAD_ID,
    ERROR,
    ERROR_SOURCE_NODE,
    INPUT,
    INTERRUPT,
    NS_END,
    NS_SEP,
    NULL_TASK_ID,
    PUSH,
    RESUME,
    TASKS,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._replay import ReplayState
from dynamo.langgraph._internal._scratchpad import PregelScratchpad
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.channels.binop import _get_overwrite
from dynamo.langgraph.channels.delta import DeltaChannel
from dynamo.langgraph.channels.untracked_value import UntrackedValue
from dynamo.langgraph.errors import EmptyInputError, GraphInterrupt, UnknownInterruptError
from dynamo.langgraph.pregel import _plain  # noqa: F401  (binds the engine)
from dynamo.langgraph.pregel._algo import (
    Call,
    PregelTaskWrites,
    apply_writes,
    increment,
    prepare_next_tasks,
    prepare_node_error_handler_task,
    prepare_single_task,
    sanitize_untracked_values_in_send,
    task_path_str,
)
from dynamo.langgraph.pregel._checkpoint import (
    COUNTERS,
    achannels_from_checkpoint,
    acheckpoint_superseded,
    advance_counters,
    channels_from_checkpoint,
    checkpoint_superseded,
    copy_checkpoint,
    create_checkpoint,
    delta_channels_to_snapshot,
    delta_channels_with_pending_writes,
    empty_checkpoint,
    exit_delta_late_task_id,
    exit_delta_task_id,
    put_writes_accepts_task_path,
)
from dynamo.langgraph.pregel._executor import AsyncBackgroundExecutor, BackgroundExecutor
from dynamo.langgraph.pregel._io import map_command, map_input
from dynamo.langgraph.pregel._retry import arun_with_retry, run_with_retry
from dynamo.langgraph.pregel._runner import Crowd, PregelRunner, without_our_frames
from dynamo.langgraph.pregel._task_status import read_task_statuses
from dynamo.langgraph.pregel.protocol import StreamProtocol
from dynamo.langgraph.runtime import Runtime
from dynamo.langgraph.types import Command, PregelExecutableTask, Send

Writes = Sequence[tuple[str, Any]]


def _both(first: Any, second: Any) -> StreamProtocol:
    """One stream that leads to two."""

    def pass_on(chunk: Any) -> None:
        for stream in (first, second):
            if chunk[1] in stream.modes:
                stream(chunk)

    return StreamProtocol(pass_on, first.modes | second.modes)


class Deltas:
    """The book of a run's delta channels.

    Attributes
    ----------
    names : set of str
        The delta channels.
    forced : set of str
        Those that need a snapshot in the next checkpoint, whatever their counters say: they were overwritten, or
        the checkpoint that this branch starts from has writes to them which belong to another branch.
    saving : list of futures
        Writes to them that are being saved; the next checkpoint waits.
    late : list or None
        With durability "exit": ``(step, task id, task path, channel, value)``, to be saved when the run ends.
    loaded : sequence
        A resume's pending writes, until it is known which of them go back to their tasks.
    returned : set of str
        The tasks that got theirs back.
    """

    def __init__(self, names: set[str], keep_late: bool) -> None:
        self.names = names
        self.forced: set[str] = set()
        self.saving: list[Any] = []
        self.late: list[tuple[int, str, str, str, Any]] | None = [] if keep_late else None
        self.loaded: Sequence[tuple[str, str, Any]] = ()
        self.returned: set[str] = set()
        self.stored: set[tuple[str, str]] = set()  # (task, channel) of writes that the saver had before this run
        self.commanded: list[tuple[str, Any]] = []  # what a command of this run wrote
        self.first_step: int | None = None

    def of(self, writes: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Those writes that concern delta channels."""
        return [write for write in writes if write[0] in self.names]

    def overwritten(self, writes: Iterable[tuple[str, Any]]) -> None:
        """Snapshot what one of these writes replaces."""
        self.forced.update(name for name, value in self.of(writes) if _get_overwrite(value)[0])

    def dropped(self) -> None:
        """After the first superstep of a resume: writes that no task got back must not be replayed."""
        self.forced.update(w[1] for w in self.loaded if w[1] in self.names and w[0] not in self.returned)
        self.loaded = ()

    def keep(self, loop: PregelLoop) -> None:
        """Note the writes of a superstep for the end of the run."""
        late = self.late
        if late is None:
            return
        first = self.first_step is None
        if first:
            self.first_step = loop.step
            late.extend((loop.step, NULL_TASK_ID, "", name, value) for name, value in self.commanded)
        for task_id, name, value in loop.checkpoint_pending_writes:
            if name not in self.names:
                continue
            if first and (task_id == NULL_TASK_ID or (task_id, name) in self.stored):
                continue  # the saver has it
            late.append((loop.step, task_id, loop.path_of(task_id), name, value))

    def late_groups(self, snapshots: set[str]) -> dict[tuple[str, str], list[tuple[str, Any]]]:
        """What to save at the end, by the task id and path that make readers replay it in order.

        The superstep of the checkpoint itself keeps its task paths among those that are stored there already; later
        ones sort behind every real path and id.
        """
        groups: dict[tuple[str, str], list[tuple[str, Any]]] = {}
        for step, task_id, path, name, value in self.late or ():
            if name in snapshots:
                continue
            if task_id == NULL_TASK_ID:
                place = exit_delta_task_id(step, task_id), ""
            elif step == self.first_step:
                place = exit_delta_task_id(step, task_id), path
            else:
                place = exit_delta_late_task_id(step, task_id), f"~~{step:010d}{path}"
            groups.setdefault(place, []).append((name, value))
        return groups


class PregelLoop(LoopCore):
    """One run of a graph.

    Parameters
    ----------
    input : Any
        New input, a `Command`, or None to go on.
    stream : StreamProtocol or None
        Gets what is to be shown.
    config, store, cache, checkpointer
        Those of the run.
    nodes, specs, trigger_to_nodes, input_keys, output_keys, stream_keys
        Those of the graph.
    durability : {"sync", "async", "exit"}
        When checkpoints are saved.
    interrupt_after, interrupt_before
        Names of nodes, or "*".
    manager
        The run manager of langchain, or None when nobody looks on.
    migrate_checkpoint : callable, optional
        Brings an old checkpoint into today's form, in place.
    retry_policy, cache_policy
        For nodes without their own.
    has_graph_lifecycle_callbacks : bool
        Whether somebody asks for lifecycle events.
    """

    submit: Any  # of the executor
    _saver_put_writes: Any
    _cache_set: Any
    _save_in_order: Any
    _handler_makers: Any
    _from_latest = False  # the thread's latest checkpoint was loaded, not one that was asked for by id

    def __init__(
        self,
        input: Any,
        *,
        stream: Any,
        config: Any,
        store: Any,
        cache: Any,
        checkpointer: Any,
        nodes: Mapping[str, Any],
        specs: Mapping[str, Any],
        trigger_to_nodes: Mapping[str, Sequence[str]],
        durability: Any,
        input_keys: Any = (),
        output_keys: Any = (),
        stream_keys: Any = (),
        interrupt_after: Any = (),
        interrupt_before: Any = (),
        manager: Any = None,
        migrate_checkpoint: Any = None,
        retry_policy: Sequence[Any] = (),
        cache_policy: Any = None,
        has_graph_lifecycle_callbacks: bool = False,
    ) -> None:
        LoopCore.__init__(self)
        conf = config[CONF]
        self.input, self.stream = input, stream
        self.store, self.cache, self.checkpointer = store, cache, checkpointer
        self.nodes, self.specs, self.trigger_to_nodes = nodes, specs, trigger_to_nodes
        self.input_keys, self.output_keys, self.stream_keys = input_keys, output_keys, stream_keys
        self.interrupt_after, self.interrupt_before = interrupt_after, interrupt_before
        self.manager, self.durability = manager, durability
        self.retry_policy, self.cache_policy = retry_policy, cache_policy
        self._migrate_checkpoint = migrate_checkpoint
        self.is_nested = CONFIG_KEY_TASK_ID in conf
        self.saves = checkpointer is not None and checkpointer is not False
        self.next_version = checkpointer.get_next_version if self.saves else increment
        self.events: deque[Any] | None = deque() if has_graph_lifecycle_callbacks else None
        self.ledger = self.has_deltas = False
        self._put_checkpoint_fut: Any = None
        self._runner: PregelRunner | None = None
        outer = conf.get(CONFIG_KEY_STREAM)
        if stream is not None and outer is not None:
            self.stream = _both(stream, outer)
        self.listen()
        self.config = self._placed(config)
        self._address()
        runtime = conf.get(CONFIG_KEY_RUNTIME)
        if isinstance(runtime, Runtime):
            self.control = runtime.control

    # ---------------------------------------------------------------- where we are

    def _placed(self, config: Any) -> Any:
        """The config with this graph's namespace: of several subgraphs in one task all but the first get a number."""
        conf = config[CONF]
        pad = conf.get(CONFIG_KEY_SCRATCHPAD)
        if isinstance(pad, PregelScratchpad):
            nth = pad.subgraph_counter()
            if nth:
                ns = f"{conf[CONFIG_KEY_CHECKPOINT_NS]}{NS_SEP}{nth}"
                config = patch_configurable(config, {CONFIG_KEY_CHECKPOINT_NS: ns})
        if not self.is_nested and conf.get(CONFIG_KEY_CHECKPOINT_NS):
            config = patch_configurable(config, {CONFIG_KEY_CHECKPOINT_NS: "", CONFIG_KEY_CHECKPOINT_ID: None})
        return config

    def _address(self) -> None:
        """Which checkpoint the run starts from, as far as the config says."""
        conf = self.config[CONF]
        ns = conf.get(CONFIG_KEY_CHECKPOINT_NS)
        self.checkpoint_config = self.config
        known = conf.get(CONFIG_KEY_CHECKPOINT_MAP)
        if known is not None and ns in known:
            self.checkpoint_config = patch_configurable(self.config, {CONFIG_KEY_CHECKPOINT_ID: known[ns]})
        thread = self.checkpoint_config[CONF].get(CONFIG_KEY_THREAD_ID)
        if thread and not isinstance(thread, str):
            self.checkpoint_config = patch_configurable(self.checkpoint_config, {CONFIG_KEY_THREAD_ID: str(thread)})
        self.checkpoint_ns = tuple(ns.split(NS_SEP)) if ns else ()
        # A task's config always has the key checkpoint_id, so only a value counts.
        self._addressed = bool(
            self.checkpoint_config[CONF].get(CONFIG_KEY_CHECKPOINT_ID) or conf.get(CONFIG_KEY_REPLAY_STATE)
        )
        self._superseded = False  # the addressed checkpoint may have children

    def path_of(self, task_id: str) -> str:
        """The path of a task of this superstep as text; empty for others."""
        task = self.tasks.get(task_id) if self.tasks is not None else None
        return "" if task is None else task_path_str(task.path)

    def _at_checkpoint(self) -> Any:
        """The config that says to a saver: this checkpoint."""
        ns = self.config[CONF].get(CONFIG_KEY_CHECKPOINT_NS, "")
        return patch_configurable(
            self.checkpoint_config,
            {CONFIG_KEY_CHECKPOINT_NS: ns, CONFIG_KEY_CHECKPOINT_ID: self.checkpoint["id"]},
        )

    # ---------------------------------------------------------------- loading

    def _begin(self, saved: Any) -> None:
        """Take over what the saver had."""
        self._has_parent = saved is not None
        if saved is None:
            config, parent = self.checkpoint_config, None
            loaded: Any = ()
            self.checkpoint, self.checkpoint_metadata = empty_checkpoint(), {"step": -2}
        else:
            config, parent, loaded = saved.config, saved.parent_config, saved.pending_writes or ()
            self.checkpoint, self.checkpoint_metadata = saved.checkpoint, saved.metadata
            if self._migrate_checkpoint is not None:
                self._migrate_checkpoint(self.checkpoint)
        conf = {CONFIG_KEY_CHECKPOINT_NS: "", **self.checkpoint_config.get(CONF, {}), **config.get(CONF, {})}
        self.checkpoint_config = {**self.checkpoint_config, **config, CONF: conf}
        self.prev_checkpoint_config = parent
        self._start_config = self.checkpoint_config
        self._start_id = self.checkpoint["id"]
        self.checkpoint_pending_writes = [(str(task_id), name, value) for task_id, name, value in loaded]

    def _start(self) -> None:
        """The channels are there: apply the input, and be ready to tick."""
        names = {name for name, spec in self.specs.items() if isinstance(spec, DeltaChannel)}
        self.has_deltas = bool(names)
        self.has_untracked = any(isinstance(spec, UntrackedValue) for spec in self.specs.values())
        self.deltas = Deltas(names, self.saves and self.durability == "exit")
        self.ledger = self.has_deltas and self.saves
        self._handler_saves: list[Any] = []
        self._stored_versions = self.checkpoint["channel_versions"].copy() if self.saves else {}
        self.step = 1 + self.checkpoint_metadata["step"]
        self.stop = self.step + 1 + self.config["recursion_limit"]
        self.ready()
        known = self.checkpoint.get("updated_channels")
        self.updated_channels = self._first(set(known) if known else None)

    # ---------------------------------------------------------------- the input

    def _resuming(self) -> bool:
        """Whether the run goes on from the checkpoint instead of starting anew."""
        if not self.checkpoint["channel_versions"]:
            return False
        told = self.config[CONF].get(CONFIG_KEY_RESUMING)  # by a parent graph
        if told is not None or CONFIG_KEY_RESUMING in self.config[CONF]:
            return bool(told)
        if self.input is None or isinstance(self.input, Command):
            return True
        run = self.config.get("metadata", {}).get("run_id")
        return not self.is_nested and run == self.checkpoint_metadata.get("run_id", MISSING)

    def _time_travelling(self) -> bool:
        """Whether the run replays an addressed checkpoint: then interrupts are raised again."""
        if not self._addressed:
            return False
        conf = self.config[CONF]
        ns = conf.get(CONFIG_KEY_CHECKPOINT_NS, "")
        if self.is_nested and ns in conf.get(CONFIG_KEY_CHECKPOINT_MAP, {}):
            return True  # a subgraph's own entry is there only when it was addressed itself
        answered = isinstance(self.input, Command) and self.input.resume is not None
        return not (answered or conf.get(CONFIG_KEY_RESUMING))

    def _first(self, updated: set[str] | None) -> set[str] | None:
        """Make the input, a command or a resume into the state before the first superstep."""
        told = CONFIG_KEY_RESUMING in self.config[CONF]
        resuming = self._resuming()
        travelling = self._time_travelling()
        source = self.checkpoint_metadata.get("source")
        forks = resuming and travelling and (self._superseded or source not in ("update", "fork"))
        self.is_replaying = travelling or self._superseded
        pending = self.checkpoint_pending_writes
        if travelling:
            pending[:] = [write for write in pending if write[1] != RESUME]
        self._note_loaded(resuming and not self.is_replaying)
        carried: list[tuple[str, str, Any]] = []
        if isinstance(self.input, Command):
            carried = self._command(self.input, forks)
        updated = self._apply_taskless(carried, updated)
        bound = None
        if resuming:
            bound = self._resume(forks, source)
        else:
            writes = list(map_input(self.input_keys, self.input))
            if writes:
                updated = self._take_input(writes, updated)
            elif not told:
                raise EmptyInputError(f"Received no input for {self.input_keys}")
        if not self.is_nested:
            replay = self._replay_state(bound) if travelling else None
            self.config = patch_configurable(
                self.config, {CONFIG_KEY_RESUMING: resuming, CONFIG_KEY_REPLAY_STATE: replay}
            )
        self.status = "pending"
        if resuming:
            self._event("GraphResumeEvent")
        return updated

    def _note_loaded(self, gives_back: bool) -> None:
        """Note which delta writes came with the checkpoint."""
        if not self.has_deltas:
            return
        book, pending = self.deltas, self.checkpoint_pending_writes
        tasks = [write for write in pending if write[0] != NULL_TASK_ID]
        book.stored = {write[:2] for write in tasks if write[1] in book.names}
        if gives_back:
            book.loaded = tasks
        else:
            book.forced = delta_channels_with_pending_writes(self.specs, pending)

    def _command(self, command: Command[Any], forks: bool) -> list[tuple[str, str, Any]]:
        """Take a command's writes; a fork carries them itself, and they are returned."""
        is_map = command.resume is not None and self._answers(command.resume)
        by_task: dict[str, list[tuple[str, Any]]] = {}
        for task_id, name, value in map_command(command):
            if not (is_map and name == RESUME):
                by_task.setdefault(task_id, []).append((name, value))
        if not by_task and not is_map:
            raise EmptyInputError("Received empty Command input")
        carried: list[tuple[str, str, Any]] = []
        for task_id, writes in by_task.items():
            if not forks:
                self.put_writes(task_id, writes)
                if task_id == NULL_TASK_ID:
                    self.deltas.commanded.extend(self.deltas.of(writes))
                continue
            if self.has_deltas:
                self.name_messages(writes)
            carried.extend((task_id, name, value) for name, value in writes)
        self.deltas.forced |= delta_channels_with_pending_writes(self.specs, carried)
        return carried

    def _answers(self, resume: Any) -> bool:
        """Check the answers to interrupts; True when they say by id which interrupt each is for."""
        if not self.saves:
            raise RuntimeError("Cannot use Command(resume=...) without checkpointer")
        waiting = self._waiting()
        strict = self.config[CONF].get(CONFIG_KEY_STRICT_RESUME) and not self.is_nested and not self._superseded
        if isinstance(resume, dict) and all(_is_interrupt_id(key) for key in resume):
            if strict and not resume:
                raise UnknownInterruptError(
                    "The resume map names no interrupt", reason="empty_map", pending_ids=sorted(waiting)
                )
            unknown = sorted(resume.keys() - waiting) if strict else ()
            if unknown:
                raise UnknownInterruptError(
                    f"Unknown or already-consumed interrupt: {unknown[0]}",
                    reason="not_pending",
                    interrupt_ids=unknown,
                    pending_ids=sorted(waiting),
                )
            self.config[CONF][CONFIG_KEY_RESUME_MAP] = resume
            return True
        if len(waiting) > 1:
            text = (
                "When there are multiple pending interrupts, you must specify the interrupt id when resuming: "
                "Command(resume={interrupt_id: answer}). "
                "Docs: https://docs.langchain.com/oss/python/langgraph/interrupts#handling-multiple-interrupts."
            )
            if strict:
                raise UnknownInterruptError(text, reason="ambiguous", pending_ids=sorted(waiting))
            raise RuntimeError(text)
        return False

    def _waiting(self) -> set[str]:
        """The ids of interrupts without an answer."""
        statuses = read_task_statuses(self.checkpoint_pending_writes).values()
        return {interrupt.id for status in statuses for interrupt in status.pending_interrupts}

    def _apply_taskless(self, carried: list[tuple[str, str, Any]], updated: set[str] | None) -> set[str] | None:
        """Apply the writes that belong to no task: those of commands."""
        writes = [w[1:] for w in (*self.checkpoint_pending_writes, *carried) if w[0] == NULL_TASK_ID]
        if writes:
            moved = self._apply([PregelTaskWrites((), INPUT, writes, ())])
            if updated is not None:
                updated |= moved
        return updated

    def _apply(self, tasks: list[Any]) -> set[str]:
        changed: set[str] = apply_writes(
            self.checkpoint, self.channels, tasks, self.next_version, self.trigger_to_nodes
        )
        return changed

    def _resume(self, forks: bool, source: Any) -> Any:
        """Go past the interrupt that the checkpoint stopped for; returns what subgraphs of a moved fork replay from."""
        bound = None
        versions = self.checkpoint["channel_versions"]
        passed = self.checkpoint["versions_seen"].setdefault(INTERRUPT, {})
        passed.update({name: versions[name] for name in self.channels if name in versions})
        if forks:
            if source in ("update", "fork"):
                bound = self.prev_checkpoint_config
            # The fork has another id, hence other task ids: old interrupts would wait for ever.
            pending = self.checkpoint_pending_writes
            pending[:] = [write for write in pending if write[1] != INTERRUPT]
            self.save_step({"source": "fork"})
        self.show_values()
        return bound

    def _take_input(self, writes: list[tuple[str, Any]], updated: set[str] | None) -> set[str]:
        """Start anew from input: what an earlier run left undone is dropped."""
        if self.has_deltas:
            self.name_messages(writes)
            self.deltas.overwritten(writes)
        undone: list[Any] = []
        if self.checkpoint["channel_versions"]:
            nobody = {"store": None, "checkpointer": None, "manager": None}
            facts = {**self._circumstances(), **nobody}
            undone.extend(
                prepare_next_tasks(config=self.config, for_execution=True, updated_channels=updated, **facts).values()
            )
        self.updated_channels = changed = self._apply([*undone, PregelTaskWrites((), INPUT, writes, ())])
        if self.ledger:
            self._keep_input(self.deltas.of(writes))
        self.save_step({"source": "input"})
        return changed

    def _keep_input(self, writes: list[tuple[str, Any]]) -> None:
        """Input to delta channels: stored on the checkpoint the run starts from, or in a snapshot."""
        book = self.deltas
        if book.late is not None:
            book.late.extend((self.step, NULL_TASK_ID, "", name, value) for name, value in writes)
        elif writes and self._has_parent and self._from_latest:
            # Not as the null task's: these count as part of the checkpoint itself.
            self.put_writes(str(uuid.uuid5(uuid.UUID(self.checkpoint["id"]), INPUT)), writes)
        else:
            book.forced.update(name for name, _ in writes)

    def _replay_state(self, bound: Any) -> ReplayState:
        """Before which checkpoint of ours subgraphs have to look for theirs: a fork is younger than they are."""
        if bound is None and self.checkpoint_metadata.get("source") in ("update", "fork"):
            bound = self.prev_checkpoint_config
        here = self.checkpoint["id"]
        return ReplayState(here if bound is None else bound[CONF].get(CONFIG_KEY_CHECKPOINT_ID, here))

    # ---------------------------------------------------------------- writes

    def put_writes(self, task_id: str, writes: Writes, *, cached: bool = False) -> None:
        """Take what a task wrote, for the end of the superstep."""
        self.store_writes(task_id, writes, cached)

    def name_messages(self, writes: Any) -> None:
        """Give messages that are written to delta channels their ids, before anybody stores them."""
        from dynamo.langgraph.pregel._messages import ensure_message_ids

        ensure_message_ids(self.specs, writes)

    def _savable(self, writes: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
        kept = []
        for name, value in writes:
            if name == TASKS and isinstance(value, Send):
                kept.append((name, sanitize_untracked_values_in_send(value, self.channels)))
            elif not isinstance(self.specs.get(name), UntrackedValue):
                kept.append((name, value))
        return kept

    def _submit_writes(self, config: Any, writes: Writes, task_id: str, path: str) -> Any:
        put = self._saver_put_writes
        if self._knows_paths():
            return self.submit(put, config, writes, task_id, path)
        return self.submit(put, config, writes, task_id)

    def _knows_paths(self) -> bool:
        known = self.__dict__.get("_paths_known")
        if known is None:
            known = self._paths_known = put_writes_accepts_task_path(self._saver_put_writes)
        return known

    def save_writes(self, task_id: str, to_save: Any, writes: Any) -> None:
        """Start to save the writes of a task."""
        if self.has_untracked:
            to_save = self._savable(to_save)
        future = self._submit_writes(self._at_checkpoint(), to_save, task_id, self.path_of(task_id))
        if self.has_deltas and self.deltas.of(to_save):
            self.deltas.saving.append(future)
        if any(name == ERROR_SOURCE_NODE for name, _ in writes):
            self._handler_saves.append(future)

    def cache_writes(self, task_id: str, writes: Any) -> None:
        """Start to put the writes of a finished task into the cache."""
        task = self.tasks.get(task_id)
        if task is not None and task.cache_key is not None and not any(w[0] in (INTERRUPT, ERROR) for w in writes):
            key = task.cache_key
            self.submit(self._cache_set, {(key.ns, key.key): (task.writes, key.ttl)})

    def _uncached(self) -> dict[Any, Any]:
        """The tasks that the cache may know, by key."""
        tasks = (task for task in self.tasks.values() if task.cache_key and not task.writes)
        return {(task.cache_key.ns, task.cache_key.key): task for task in tasks}

    @staticmethod
    def _from_cache(wanted: dict[Any, Any], found: Mapping[Any, Any]) -> list[Any]:
        for key, writes in found.items():
            wanted[key].writes.extend(writes)
        return [wanted[key] for key in found]

    # ---------------------------------------------------------------- hooks of the supersteps

    def before_apply(self, tasks: list[Any]) -> None:
        """Delta channels: what has to be known of the writes before they are applied."""
        self.deltas.overwritten(write for task in tasks for write in task.writes)
        if self.deltas.loaded:
            self.deltas.dropped()

    def after_apply(self) -> None:
        """Delta channels: keep the writes, if the end of the run saves them."""
        self.deltas.keep(self)

    def restore_finished(self) -> None:
        """Give tasks that had finished before the writes back that were loaded, and failed ones to their handlers."""
        self._give_back(self.tasks)
        failed: dict[str, Any] = {}
        marked = {task_id for task_id, name, _ in self.checkpoint_pending_writes if name == ERROR_SOURCE_NODE}
        for task_id, name, value in self.checkpoint_pending_writes:
            if task_id in marked and name == ERROR and task_id in self.tasks:
                failed.setdefault(task_id, value)
        for task_id, error in failed.items():
            task = self.tasks[task_id]
            handler = self._handler_task(task, error)
            if self.nodes[task.name].error_handler_node:
                task.writes.append((ERROR, error))  # with a write, it is not run again
            if handler is not None:
                self.tasks[handler.id] = handler

    def _give_back(self, tasks: Mapping[str, Any]) -> None:
        mine = (write for write in self.checkpoint_pending_writes if write[0] in tasks)
        for task_id, status in read_task_statuses(mine).items():
            tasks[task_id].writes.extend(status.output)
            self.deltas.returned.add(task_id)

    def _handler_task(self, failed: Any, error: BaseException) -> Any:
        name = self.nodes[failed.name].error_handler_node
        if not name:
            return None
        return prepare_node_error_handler_task(
            failed, handler_node_name=name, failed_error=error, config=failed.config, **self._circumstances()
        )

    def _circumstances(self) -> dict[str, Any]:
        """What making a single task needs to know."""
        return {
            "checkpoint": self.checkpoint,
            "pending_writes": self.checkpoint_pending_writes,
            "processes": self.nodes,
            "channels": self.channels,
            "managed": self.managed,
            "step": self.step,
            "stop": self.stop,
            "store": self.store,
            "checkpointer": self.checkpointer,
            "manager": self.manager,
            "retry_policy": self.retry_policy,
            "cache_policy": self.cache_policy,
        }

    def _accept(self, task: Any, number: int, call: Call | None) -> Any:
        """Make the task for a call from another one."""
        path = (PUSH, task.path, number, task.id, call)
        made = prepare_single_task(path, None, for_execution=True, config=task.config, **self._circumstances())
        if made is not None:
            self.show_tasks([made])
            self.tasks[made.id] = made
            if not self.is_replaying:
                self._give_back({made.id: made})
        return made

    def _take_handler(self, made: Any) -> Any:
        if made is not None:
            self.tasks[made.id] = made
            if not self.is_replaying:
                self._give_back({made.id: made})
        return made

    @property
    def runner(self) -> PregelRunner:
        """The complete way of running tasks; made when one needs it."""
        if self._runner is None:
            self._runner = PregelRunner(
                submit=weakref.WeakMethod(self._submit_work),
                put_writes=weakref.WeakMethod(self.put_writes),
                node_finished=self.node_finished,
                use_astream=getattr(self, "use_astream", False),
                node_error_handler_map=self.error_handlers,
                **self._handler_makers(),
            )
        return self._runner

    def _submit_work(self, *args: Any, **kwargs: Any) -> Any:
        return self.submit(*args, **kwargs)

    def commit_failed(self, task: Any, error: BaseException) -> None:
        """Take note of a failed task."""
        self.runner.commit(task, error)

    def task_failed(self, task: Any, error: BaseException, crowd: Crowd | None) -> BaseException | None:
        """The only task of a superstep has failed: what is to be raised, unless tasks that it called come first."""
        self.runner.commit(task, error)
        if crowd is None or not crowd.futures:
            return without_our_frames(error)  # type: ignore[no-any-return]
        crowd.add_failure(error)
        return None

    def conclude(self, errors: list[BaseException]) -> None:
        """Raise what the tasks of a superstep raised: the first error, else all interrupts as one."""
        interrupts = [error for error in errors if isinstance(error, GraphInterrupt)]
        for error in errors:
            if not isinstance(error, GraphInterrupt):
                raise without_our_frames(error)
        if interrupts:
            raise GraphInterrupt(tuple(each for error in interrupts for each in error.args[0]))

    # ---------------------------------------------------------------- checkpoints

    def _put_checkpoint(self, metadata: dict[str, Any]) -> None:
        """The checkpoint after a superstep; with durability "exit" it is only counted."""
        counters = {}
        if self.has_deltas:
            updated = self.updated_channels or ()
            counters = advance_counters(self.channels, self.checkpoint_metadata.get(COUNTERS), updated)
        metadata.update(step=self.step, parents=self.config[CONF].get(CONFIG_KEY_CHECKPOINT_MAP) or {})
        self.checkpoint_metadata = metadata
        if self.durability == "exit":
            self.checkpoint = create_checkpoint(
                self.checkpoint, None, self.step, updated_channels=self.updated_channels
            )
            _count(metadata, counters)
        else:
            self._save(counters, None)
        self.step += 1

    def _put_last_checkpoint(self) -> None:
        """Durability "exit": the checkpoint of the whole run."""
        if self.saves and self.checkpoint["id"] != self._start_id:
            self._save(dict(self.checkpoint_metadata.get(COUNTERS) or {}), self.checkpoint["id"])

    def _save(self, counters: dict[str, tuple[int, int]], same_id: str | None) -> None:
        snapshots: set[str] = set()
        if self.has_deltas:
            due = delta_channels_to_snapshot(self.channels, counters, self.checkpoint["channel_versions"])
            snapshots = due | self.deltas.forced
        made = create_checkpoint(
            self.checkpoint,
            self.channels,
            self.step,
            id=same_id,
            updated_channels=self.updated_channels,
            get_next_version=self.next_version,
            channels_to_snapshot=snapshots,
            stored_versions=self._stored_versions,
            trigger_to_nodes=self.trigger_to_nodes,
        )
        self.checkpoint = made
        if self.has_deltas:
            self.deltas.forced -= snapshots
            _count(self.checkpoint_metadata, {n: pair for n, pair in counters.items() if n not in snapshots})
        if self.has_untracked and TASKS in made["channel_values"]:
            made["channel_values"][TASKS] = [
                sanitize_untracked_values_in_send(value, self.channels) if isinstance(value, Send) else value
                for value in made["channel_values"][TASKS]
            ]
        before = self.checkpoint_config
        self.prev_checkpoint_config = before if before[CONF].get(CONFIG_KEY_CHECKPOINT_ID) else None
        place = patch_configurable(
            before, {CONFIG_KEY_CHECKPOINT_NS: self.config[CONF].get(CONFIG_KEY_CHECKPOINT_NS, "")}
        )
        versions, stored = made["channel_versions"], self._stored_versions
        moved = {n: v for n, v in versions.items() if n not in stored or v > stored[n]} if stored else versions
        self._stored_versions = versions.copy()
        waits, self.deltas.saving = self.deltas.saving, []
        self._submit_checkpoint(waits, place, copy_checkpoint(made), self.checkpoint_metadata, dict(moved))
        self.checkpoint_config = patch_configurable(place, {CONFIG_KEY_CHECKPOINT_ID: made["id"]})

    def _submit_checkpoint(self, waits: Sequence[Any], *what: Any) -> None:
        self._put_checkpoint_fut = self.submit(self._save_in_order, self._put_checkpoint_fut, waits, *what)

    def _put_late_deltas(self) -> None:
        """Durability "exit": save the delta writes that no snapshot makes superfluous, before the last checkpoint."""
        book = self.deltas
        if not book.late:
            return
        if self._has_parent and not self._from_latest:
            book.forced.update(write[3] for write in book.late)  # the checkpoint we started from may have children
        counters = self.checkpoint_metadata.get(COUNTERS) or {}
        due = delta_channels_to_snapshot(self.channels, counters, self.checkpoint["channel_versions"])
        groups = book.late_groups(due | book.forced)
        if not groups:
            return
        anchor = self._start_config
        if not self._has_parent:
            # Nothing is stored yet that the writes could hang on: an empty first checkpoint.
            root = {**empty_checkpoint(), "id": self._start_id}
            nowhere = patch_configurable(anchor, {CONFIG_KEY_CHECKPOINT_ID: None})
            self._submit_checkpoint((), nowhere, root, {"step": -2}, {})
            anchor = patch_configurable(anchor, {CONFIG_KEY_CHECKPOINT_ID: self._start_id})
            self.checkpoint_config = anchor
        ns = self.config[CONF].get(CONFIG_KEY_CHECKPOINT_NS, "")
        at = patch_configurable(anchor, {CONFIG_KEY_CHECKPOINT_NS: ns})
        for (task_id, path), writes in groups.items():
            book.saving.append(self._submit_writes(at, writes, task_id, path))

    def _put_pending(self) -> None:
        """Durability "exit": save the writes of tasks whose superstep did not end."""
        by_task: dict[str, list[tuple[str, Any]]] = {}
        for task_id, name, value in self.checkpoint_pending_writes:
            if task_id in self.written:
                by_task.setdefault(task_id, []).append((name, value))
        config = self._at_checkpoint() if by_task else None
        for task_id, writes in by_task.items():
            self._submit_writes(config, writes, task_id, self.path_of(task_id))

    # ---------------------------------------------------------------- the end

    def _finish(self, error: BaseException | None) -> bool:
        """The run ends; True when it ends in an interrupt that stays here."""
        if self.durability == "exit" and self.saves and self._saves_at_exit(error):
            self._put_late_deltas()
            self._put_last_checkpoint()
            self._put_pending()
        stopped = isinstance(error, GraphInterrupt) and not self.is_nested
        if stopped:
            self._show_stop(tuple(error.args[0]) if error is not None and error.args else ())
        if stopped or error is None:
            self.output = self.read_output()
        return stopped

    def _let_go(self, error: BaseException | None) -> None:
        """An exception knows the frames it came through, these know this loop: so the loop forgets the exception."""
        if error is not None and self.checkpoint_pending_writes is not None:
            self.tasks = None
            self.checkpoint_pending_writes.clear()

    def _saves_at_exit(self, error: BaseException | None) -> bool:
        """A graph of its own always saves; a subgraph when it has failed, or keeps its state between runs."""
        return not self.is_nested or error is not None or not any(NS_END in part for part in self.checkpoint_ns)

    def _show_stop(self, interrupts: tuple[Any, ...]) -> None:
        self._event("GraphInterruptEvent", interrupts=interrupts)
        tasks = list(self.tasks.values()) if self.tasks is not None else []
        if self.checkpoint_pending_writes and any(task.writes for task in tasks):
            # Show the state with what the finished tasks wrote; it is not saved.
            changed = self._apply(tasks)
            wanted = {self.output_keys} if isinstance(self.output_keys, str) else set(self.output_keys)
            if changed & wanted and any(name in wanted for task in tasks for name, _ in task.writes):
                self.show_values()
        if not interrupts:
            self.show_update({INTERRUPT: ()})

    def _event(self, kind: str, **details: Any) -> None:
        if self.events is not None:  # only then: their module needs langchain-core
            from dynamo.langgraph import callbacks

            made = getattr(callbacks, kind)(
                run_id=None,
                status=self.status,
                checkpoint_id=self.checkpoint["id"],
                checkpoint_ns=self.checkpoint_ns,
                **details,
            )
            self.events.append(made)

    def _pop_lifecycle_event(self) -> Any:
        """The oldest event that nobody has taken, or None."""
        return self.events.popleft() if self.events else None


def _count(metadata: dict[str, Any], counters: Mapping[str, tuple[int, int]]) -> None:
    kept = {name: pair for name, pair in counters.items() if pair != (0, 0)}
    if kept:
        metadata[COUNTERS] = kept
    else:
        metadata.pop(COUNTERS, None)


def _is_interrupt_id(key: Any) -> bool:
    return isinstance(key, str) and len(key) == 32 and all(digit in "0123456789abcdef" for digit in key)


class SyncPregelLoop(PregelLoop):
    """A run in the calling thread; used as a context manager."""

    def __init__(self, input: Any, **options: Any) -> None:
        PregelLoop.__init__(self, input, **options)
        self.stack = ExitStack()
        if self.saves:
            self._saver_put_writes = self.checkpointer.put_writes
        if self.cache is not None:
            self._cache_set = self.cache.set

    def _save_in_order(
        self, previous: Any, waits: Sequence[Any], config: Any, checkpoint: Any, metadata: Any, versions: Any
    ) -> None:
        for future in waits:
            future.result()
        if previous is not None:
            previous.result()
        self.checkpointer.put(config, checkpoint, metadata, versions)

    def saved(self) -> None:
        """Wait for the checkpoint that is being saved."""
        if self._put_checkpoint_fut is not None:
            self._put_checkpoint_fut.result()

    def match_cached_writes(self) -> Sequence[PregelExecutableTask]:
        """Give tasks that the cache knows their writes; returns these tasks."""
        wanted = self._uncached() if self.cache is not None else None
        return self._from_cache(wanted, self.cache.get(tuple(wanted))) if wanted else ()

    def take_cached(self) -> None:
        """Finish the tasks that the cache knows."""
        for task in self.match_cached_writes():
            self.put_writes(task.id, task.writes, cached=True)

    def accept_push(
        self, task: PregelExecutableTask, write_idx: int, call: Call | None = None
    ) -> PregelExecutableTask | None:
        """The task for a call from another one."""
        made = self._accept(task, write_idx, call)
        if made is not None:
            self.take_cached()
        return made  # type: ignore[no-any-return]

    def schedule_error_handler(
        self, failed_task: PregelExecutableTask, error: BaseException
    ) -> PregelExecutableTask | None:
        """The task that takes care of a failed one; its failure is saved first."""
        waits, self._handler_saves = self._handler_saves, []
        concurrent.futures.wait(waits)
        made = self._take_handler(self._handler_task(failed_task, error))
        if made is not None:
            self.take_cached()
        return made  # type: ignore[no-any-return]

    def _handler_makers(self) -> dict[str, Any]:
        return {
            "schedule_error_handler": _weakly(self.schedule_error_handler),
            "attempt": _weakly(self.attempt),
        }

    def new_crowd(self) -> Crowd:
        """For the calls of a plain task."""
        return self.runner.crowd(_weakly(self.accept_push))

    def complete(self, *args: Any, **kwargs: Any) -> Any:
        """Run a task the complete way."""
        return run_with_retry(*args, **kwargs)

    def __enter__(self) -> SyncPregelLoop:
        saver, config = self.checkpointer, self.checkpoint_config
        saved = None

        replay = self.config[CONF].get(CONFIG_KEY_REPLAY_STATE)
        if self.saves and config[CONF].get(CONFIG_KEY_CHECKPOINT_ID):
            saved = saver.get_tuple(config)
            self._superseded = saved is not None and checkpoint_superseded(saver, config, saved)
        elif self.saves and replay:
            saved = replay.get_checkpoint(self.config[CONF].get(CONFIG_KEY_CHECKPOINT_NS, ""), saver, config)
            self.config[CONF].pop(CONFIG_KEY_RESUMING, None)
        elif self.saves:
            saved = saver.get_tuple(config)
            self._from_latest = True
        self._begin(saved)
        executor = BackgroundExecutor(self.config)
        self.submit = self.stack.enter_context(executor)
        self.channels, self.managed = channels_from_checkpoint(
            self.specs, self.checkpoint, saver=saver, config=self.checkpoint_config
        )
        self.stack.push(self._leave)
        try:
            self._start()
        except BaseException as error:
            if not self.stack.__exit__(type(error), error, error.__traceback__):
                raise
        return self

    def _leave(self, kind: Any, error: Any, trace: Any) -> bool:
        return self._finish(error)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> bool | None:
        try:
            return self.stack.__exit__(exc_type, exc_value, traceback)
        finally:
            self._let_go(exc_value)


def _weakly(method: Any) -> Any:
    """A bound method that does not keep its object alive."""
    found = weakref.WeakMethod(method)

    def call(*args: Any, **kwargs: Any) -> Any:
        alive = found()
        return None if alive is None else alive(*args, **kwargs)

    return call


class AsyncPregelLoop(PregelLoop):
    """A run in an event loop; used as an asynchronous context manager."""

    def __init__(self, input: Any, **options: Any) -> None:
        PregelLoop.__init__(self, input, **options)
        self.stack = AsyncExitStack()
        if self.saves:
            self._saver_put_writes = self.checkpointer.aput_writes
        if self.cache is not None:
            self._cache_set = self.cache.aset

    async def _save_in_order(
        self, previous: Any, waits: Sequence[Any], config: Any, checkpoint: Any, metadata: Any, versions: Any
    ) -> None:
        if waits:
            await asyncio.gather(*waits)
        if previous is not None:
            await previous
        await self.checkpointer.aput(config, checkpoint, metadata, versions)

    async def asaved(self) -> None:
        """Wait for the checkpoint that is being saved."""
        if self._put_checkpoint_fut is not None:
            await self._put_checkpoint_fut

    async def amatch_cached_writes(self) -> Sequence[PregelExecutableTask]:
        """Give tasks that the cache knows their writes; returns these tasks."""
        wanted = self._uncached() if self.cache is not None else None
        return self._from_cache(wanted, await self.cache.aget(tuple(wanted))) if wanted else ()

    async def atake_cached(self) -> None:
        """Finish the tasks that the cache knows."""
        for task in await self.amatch_cached_writes():
            self.put_writes(task.id, task.writes, cached=True)

    async def aaccept_push(
        self, task: PregelExecutableTask, write_idx: int, call: Call | None = None
    ) -> PregelExecutableTask | None:
        """The task for a call from another one."""
        made = self._accept(task, write_idx, call)
        if made is not None:
            await self.atake_cached()
        return made  # type: ignore[no-any-return]

    async def aschedule_error_handler(
        self, failed_task: PregelExecutableTask, error: BaseException
    ) -> PregelExecutableTask | None:
        """The task that takes care of a failed one; its failure is saved first."""
        waits, self._handler_saves = self._handler_saves, []
        if waits:
            await asyncio.gather(*waits)
        made = self._take_handler(self._handler_task(failed_task, error))
        if made is not None:
            await self.atake_cached()
        return made  # type: ignore[no-any-return]

    def _handler_makers(self) -> dict[str, Any]:
        return {"aschedule_error_handler": _weakly(self.aschedule_error_handler)}

    def new_crowd(self) -> Crowd:
        """For the calls of a plain task."""
        return self.runner.acrowd(_weakly(self.aaccept_push), home=self.home)

    async def complete(self, *args: Any, **kwargs: Any) -> Any:
        """Run a task the complete way."""
        return await arun_with_retry(*args, **kwargs)

    async def __aenter__(self) -> AsyncPregelLoop:
        saver, config = self.checkpointer, self.checkpoint_config
        saved = None

        replay = self.config[CONF].get(CONFIG_KEY_REPLAY_STATE)
        if self.saves and config[CONF].get(CONFIG_KEY_CHECKPOINT_ID):
            saved = await saver.aget_tuple(config)
            self._superseded = saved is not None and await acheckpoint_superseded(saver, config, saved)
        elif self.saves and replay:
            saved = await replay.aget_checkpoint(self.config[CONF].get(CONFIG_KEY_CHECKPOINT_NS, ""), saver, config)
            self.config[CONF].pop(CONFIG_KEY_RESUMING, None)
        elif self.saves:
            saved = await saver.aget_tuple(config)
            self._from_latest = True
        self._begin(saved)
        executor = AsyncBackgroundExecutor(self.config)
        self.home = executor.home  # a node that runs on a thread may call tasks
        self.submit = await self.stack.enter_async_context(executor)
        self.channels, self.managed = await achannels_from_checkpoint(
            self.specs, self.checkpoint, saver=saver, config=self.checkpoint_config
        )
        self.stack.push(self._leave)
        try:
            self._start()
        except BaseException as error:
            if not await self.stack.__aexit__(type(error), error, error.__traceback__):
                raise
        return self

    def _leave(self, kind: Any, error: Any, trace: Any) -> bool:
        return self._finish(error)

    async def __aexit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> bool | None:
        # What has to be saved is saved even when the run is cancelled meanwhile.
        leaving = asyncio.create_task(self.stack.__aexit__(exc_type, exc_value, traceback))
        try:
            return await asyncio.shield(leaving)
        except asyncio.CancelledError as error:
            if not leaving.done():
                error.args = (*error.args, leaving)
            raise
        finally:
            self._let_go(exc_value)


__all__ = ("AsyncPregelLoop", "PregelLoop", "SyncPregelLoop")

own(globals())
