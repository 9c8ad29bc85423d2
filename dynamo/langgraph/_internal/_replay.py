"""Which checkpoint a subgraph starts from when its parent replays an old one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._constants import NS_END
from dynamo.langgraph._internal._names import own

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple


class ReplayState:
    """Handed down by a parent that replays.

    The first run of a subgraph in the replay starts from its last checkpoint before the parent's; a later one goes on
    from where the first left off.

    Parameters
    ----------
    checkpoint_id : str
        The parent's checkpoint.
    """

    __slots__ = ("_visited_ns", "checkpoint_id")

    def __init__(self, checkpoint_id: str) -> None:
        self.checkpoint_id = checkpoint_id
        self._visited_ns: set[str] = set()

    def _is_first_visit(self, checkpoint_ns: str) -> bool:
        # The task id at the end differs between runs of the same subgraph.
        place = checkpoint_ns.rpartition(NS_END)[0] or checkpoint_ns
        first = place not in self._visited_ns
        self._visited_ns.add(place)
        return first

    def _before(self) -> Any:
        return {"configurable": {"checkpoint_id": self.checkpoint_id}}

    def get_checkpoint(
        self, checkpoint_ns: str, checkpointer: BaseCheckpointSaver[Any], checkpoint_config: Any
    ) -> CheckpointTuple | None:
        """The checkpoint to start from, or None."""
        if not self._is_first_visit(checkpoint_ns):
            return checkpointer.get_tuple(checkpoint_config)
        return next(iter(checkpointer.list(checkpoint_config, before=self._before(), limit=1)), None)

    async def aget_checkpoint(
        self, checkpoint_ns: str, checkpointer: BaseCheckpointSaver[Any], checkpoint_config: Any
    ) -> CheckpointTuple | None:
        """`get_checkpoint` for an asynchronous saver."""
        if not self._is_first_visit(checkpoint_ns):
            return await checkpointer.aget_tuple(checkpoint_config)
        async for saved in checkpointer.alist(checkpoint_config, before=self._before(), limit=1):
            return saved
        return None


own(globals())
