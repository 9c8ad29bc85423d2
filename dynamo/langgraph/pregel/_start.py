"""How a run begins, once its checkpoint is loaded.

                  a dict, and nothing is saved                 --> input, and no further question
                  nothing to go on from, or new input          --> input: what was left undone is dropped
    input         None, a Command, or the graph around says so --> goes on, past the interrupt
    checkpoint    asked for by id                              --> replays: interrupts are raised again
                  that has, or may have, children              --> and forks: nothing more is stored on it

I1  Writes that were loaded with a checkpoint are never saved again.
I2  A fork has another id, hence other task ids: interrupts of the old ones would wait for ever, so they go.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._config import patch_configurable
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_REPLAY_STATE,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_STRICT_RESUME,
    INPUT,
    INTERRUPT,
    NULL_TASK_ID,
    RESUME,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._replay import ReplayState
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.errors import EmptyInputError
from dynamo.langgraph.pregel import _answers
from dynamo.langgraph.pregel._algo import PregelTaskWrites, prepare_next_tasks
from dynamo.langgraph.pregel._io import map_command, map_input
from dynamo.langgraph.types import Command

if TYPE_CHECKING:
    from dynamo.langgraph.pregel._loop import PregelLoop


def start(loop: PregelLoop) -> None:
    """Get the state before the first superstep."""
    given = loop.input
    simple = type(given) is dict and not (loop.saves or loop.addressed or loop.has_deltas)
    if not simple or type(loop.input_keys) is not str:
        Start(loop).run()
        return
    loop.take_input()
    if not loop.is_nested:
        loop.config = patch_configurable(loop.config, {CONFIG_KEY_RESUMING: False, CONFIG_KEY_REPLAY_STATE: None})
    loop.hand_on()


class Start:
    """Makes input, command or resume into the state before the first superstep; used once.

    Attributes
    ----------
    told : object
        What the graph around says: True and False for going on or not, None for neither, MISSING if there is none.
    goes_on, replays, forks : bool
        See above.
    edited : bool
        Whether somebody made the checkpoint from outside: a superstep that saved it is not to be had again.
    updated : set of str or None
        The channels that the last superstep updated, if that is known.
    """

    def __init__(self, loop: PregelLoop) -> None:
        self.loop, self.conf, self.input = loop, loop.config[CONF], loop.input
        self.command = self.input if isinstance(self.input, Command) else None
        self.told = self.conf.get(CONFIG_KEY_RESUMING, MISSING)
        self.edited = loop.checkpoint_metadata.get("source") in ("update", "fork")
        self.parent = loop.prev_checkpoint_config
        self.goes_on = bool(loop.checkpoint["channel_versions"]) and self._goes_on()
        self.replays = loop.addressed and self._replays()
        self.forks = self.goes_on and self.replays and (loop.superseded or not self.edited)
        self.updated: set[str] | None = set(loop.checkpoint.get("updated_channels") or ()) or None

    def _goes_on(self) -> bool:
        if self.told is not MISSING:
            return bool(self.told)
        if self.input is None or self.command is not None:
            return True
        metadata = self.loop.config.get("metadata") or {}
        same = metadata.get("run_id") == self.loop.checkpoint_metadata.get("run_id", MISSING)
        return same and not self.loop.is_nested

    def _replays(self) -> bool:
        ns = self.conf.get(CONFIG_KEY_CHECKPOINT_NS, "")
        if self.loop.is_nested and ns in self.conf.get(CONFIG_KEY_CHECKPOINT_MAP, {}):
            return True  # a subgraph's own entry is there only when it was addressed itself
        answered = self.command is not None and self.command.resume is not None
        return not answered and self.told in (MISSING, None, False)

    def run(self) -> None:
        """Begin."""
        loop = self.loop
        here = loop.checkpoint["id"]
        loop.is_replaying = self.replays or loop.superseded
        if self.replays:
            self._forget(RESUME)
        if loop.has_deltas:
            loop.deltas.found(loop.checkpoint_pending_writes, self.goes_on and not loop.is_replaying)
        carried = self._take_command() if self.command is not None else []
        self._take_taskless(carried)
        if self.goes_on:
            self._go_on()
        else:
            self._take_input()
            here = loop.checkpoint["id"]
        if not loop.is_nested:
            for_inner = {CONFIG_KEY_RESUMING: self.goes_on, CONFIG_KEY_REPLAY_STATE: self._bound(here)}
            loop.config = patch_configurable(loop.config, for_inner)
        loop.updated_channels = self.updated
        loop.status = "pending"
        if self.goes_on:
            loop.tell("GraphResumeEvent")

    def _bound(self, here: str) -> ReplayState | None:
        """Before which checkpoint of ours the graphs inside look for theirs: an edited one is younger than they are."""
        if not self.replays:
            return None
        edited = self.goes_on and self.edited and self.parent
        return ReplayState(self.parent[CONF].get(CONFIG_KEY_CHECKPOINT_ID, here) if edited else here)

    def _forget(self, channel: str) -> None:
        pending = self.loop.checkpoint_pending_writes
        pending[:] = [write for write in pending if write[1] != channel]

    # ---------------------------------------------------------------- commands
    def _take_command(self) -> list[tuple[str, str, Any]]:
        """Take a command's writes; those that a fork has to carry itself are returned."""
        loop, command = self.loop, self.command
        assert command is not None
        addressed = command.resume is not None and self._take_answers(command.resume)
        writes = [write for write in map_command(command) if not (addressed and write[1] == RESUME)]
        if not writes and not addressed:
            raise EmptyInputError("Received empty Command input")
        pairs = [write[1:] for write in writes]  # all of them the null task's
        if self.forks:
            if loop.has_deltas:
                loop.name_messages(pairs)
                loop.deltas.force(name for name, _ in pairs)
            return [(NULL_TASK_ID, *pair) for pair in pairs]
        if pairs:
            loop.put_writes(NULL_TASK_ID, pairs)
            loop.deltas.commanded.extend(loop.deltas.of(pairs))
        return []

    def _take_answers(self, answers: Any) -> bool:
        """Check the answers to interrupts; True when they say by id which interrupt each is for."""
        loop = self.loop
        if not loop.saves:
            raise RuntimeError("Cannot use Command(resume=...) without checkpointer")
        strict = self.conf.get(CONFIG_KEY_STRICT_RESUME) and not loop.is_nested and not loop.superseded
        _answers.check(answers, loop.checkpoint_pending_writes, bool(strict))
        if not _answers.are_addressed(answers):
            return False
        self.conf[CONFIG_KEY_RESUME_MAP] = answers
        return True

    def _take_taskless(self, carried: list[tuple[str, str, Any]]) -> None:
        """Apply the writes that belong to no task."""
        loose = [w[1:] for w in (*self.loop.checkpoint_pending_writes, *carried) if w[0] == NULL_TASK_ID]
        if loose:
            moved = self.loop.apply([PregelTaskWrites((), INPUT, loose, ())])
            if self.updated is not None:
                self.updated |= moved

    # ---------------------------------------------------------------- going on
    def _go_on(self) -> None:
        """Everything that the checkpoint has counts as seen: the run does not stop there again."""
        loop = self.loop
        versions = loop.checkpoint["channel_versions"]
        seen = loop.checkpoint["versions_seen"]
        seen[INTERRUPT] = {**seen.get(INTERRUPT, {}), **{n: versions[n] for n in loop.channels if n in versions}}
        if self.forks:
            self._forget(INTERRUPT)
            loop.save_step({"source": "fork"})
        loop.show_values()

    # ---------------------------------------------------------------- new input
    def _take_input(self) -> None:
        loop = self.loop
        writes = map_input(loop.input_keys, self.input)
        if not writes:
            if self.told is MISSING:
                raise EmptyInputError(
                    f"Received no input for {loop.input_keys}, but {self.input!r}; None only goes on with a thread "
                    "that a checkpointer has, and has not ended"
                )
            return
        if loop.has_deltas:
            loop.name_messages(writes)
            loop.deltas.overwritten(writes)
        tasks: list[Any] = [PregelTaskWrites((), INPUT, writes, ())]
        if loop.checkpoint["channel_versions"]:  # what an earlier run left undone counts as seen
            facts = {**loop.circumstances(), "store": None, "checkpointer": None, "manager": None}
            facts |= {"config": loop.config, "for_execution": True, "updated_channels": self.updated}
            tasks[:0] = prepare_next_tasks(**facts).values()
        loop.updated_channels = self.updated = loop.apply(tasks)
        if loop.ledger:
            self._keep_input(loop.deltas.of(writes))
        loop.save_step({"source": "input"})

    def _keep_input(self, writes: list[tuple[str, Any]]) -> None:
        """Input to delta channels: stored on the checkpoint the run starts from, or in a snapshot."""
        loop = self.loop
        if loop.deltas.keeps:
            loop.deltas.keep_input(loop.step, writes)
        elif writes and loop.has_parent and loop.from_latest:
            # Not as the null task's: these count as part of the checkpoint itself.
            loop.put_writes(str(uuid.uuid5(uuid.UUID(loop.checkpoint["id"]), INPUT)), writes)
        else:
            loop.deltas.force(name for name, _ in writes)


own(globals())
