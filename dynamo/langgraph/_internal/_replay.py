"""Which checkpoint a subgraph starts from when the graph around it replays an old one."""

from __future__ import annotations

from typing import Any

from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_CHECKPOINT_ID, NS_END
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import Script, ask, every


class ReplayState:
    """Handed down by a graph that replays.

    The first run of a subgraph in the replay starts from its last checkpoint before that of the graph around it; a
    later one goes on from where the first left off.

    Parameters
    ----------
    bound : str
        The id of the checkpoint that is replayed.
    """

    __slots__ = ("begun", "bound")

    def __init__(self, bound: str) -> None:
        self.bound = bound
        self.begun: set[str] = set()

    def find(self, ns: str, saver: Any, config: Any) -> Script:
        """The checkpoint for a run in this namespace, or None."""
        path, _, task = ns.rpartition(NS_END)  # each run of a subgraph has a task id of its own
        path = path or task
        if path in self.begun:
            return (yield ask(saver, "get_tuple", config))
        self.begun.add(path)
        older = {CONF: {CONFIG_KEY_CHECKPOINT_ID: self.bound}}
        return next(iter((yield every(saver, "list", config, before=older, limit=1))), None)


own(globals())
