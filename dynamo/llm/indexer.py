"""Indexes by component, as Dynamo 0.6 had them: tokens or hashes in, overlaps out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dynamo._hash import compute_block_hashes
from dynamo._index import ApproxTree, OverlapScores, RadixTree

if TYPE_CHECKING:
    from dynamo.llm.publisher import EventFollower

__all__ = ["ApproxKvIndexer", "KvIndexer"]


def _lora_name(lora_id: int | str | None) -> str | None:
    # 0.6 numbered adapters and used 0 for none; a name is what the hashes are made from.
    if lora_id is None or lora_id == 0:
        return None
    return lora_id if isinstance(lora_id, str) else str(lora_id)


class KvIndexer:
    """The index of one component, kept by the KV events of its workers.

    Parameters
    ----------
    component : Component, Endpoint or None
        Whose workers' events are wanted: all its publishers in discovery are listened to, from now on, or from the
        first question on when this is not made inside asyncio. None: events come by hand, through `tree`.
    kv_block_size : int
        Tokens per block; workers with another one are not understood.
    tree : RadixTree, optional
        The index to fill and to ask; by default a new one. Events may be applied to it at any time, also from other
        threads.

    Attributes
    ----------
    tree : RadixTree
    """

    def __init__(self, component: Any, kv_block_size: int, *, tree: RadixTree | None = None) -> None:
        if kv_block_size < 1:
            raise ValueError(f"kv_block_size is {kv_block_size}: must be 1 or more")
        self.component = component
        self.tree = RadixTree() if tree is None else tree
        self._block_size = kv_block_size
        self._follower: EventFollower | None = None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self._follow()

    def _follow(self) -> EventFollower | None:
        if self._follower is None and self.component is not None:
            from dynamo.llm.publisher import EventFollower, names_of

            namespace, component = names_of(self.component)
            # A publisher that is gone says no more what its worker holds: forget it.
            self._follower = EventFollower(
                self.component._runtime.store,
                namespace,
                component,
                self.tree,
                on_gone=self.tree.remove_worker,
            )
        return self._follower

    async def synced(self) -> None:
        """Wait until every publisher that was there at the start is listened to."""
        follower = self._follow()
        if follower is not None:
            await follower.synced()

    def close(self) -> None:
        """Stop listening. What is known stays."""
        if self._follower is not None:
            self._follower.close()
            self._follower = self.component = None

    def block_size(self) -> int:
        """Tokens per block."""
        return self._block_size

    async def find_matches(self, hashes: Sequence[int]) -> OverlapScores:
        """Who holds how many leading blocks of these local hashes."""
        self._follow()
        return self.tree.find_matches(hashes)

    async def find_matches_for_request(
        self, token_ids: Sequence[int], lora_id: int | str | None = None
    ) -> OverlapScores:
        """Who holds how many leading blocks of this prompt."""
        self._follow()
        return self.tree.find_matches(compute_block_hashes(token_ids, self._block_size, lora_name=_lora_name(lora_id)))

    def __repr__(self) -> str:
        return f"<KvIndexer {self.tree!r}, blocks of {self._block_size}>"


class ApproxKvIndexer:
    """An index for workers that send no events: it believes that a worker holds what was routed to it, for a while.

    Parameters
    ----------
    component : Component or None
        Kept, not asked: nothing comes from the workers.
    kv_block_size : int
        Tokens per block.
    ttl : float, optional
        Seconds for which a decision is believed.
    """

    def __init__(self, component: Any, kv_block_size: int, ttl: float = 120.0, *, max_bytes: int = 0) -> None:
        if kv_block_size < 1:
            raise ValueError(f"kv_block_size is {kv_block_size}: must be 1 or more")
        self.component = component
        self.tree = ApproxTree(ttl, max_bytes=max_bytes)
        self._block_size = kv_block_size

    def block_size(self) -> int:
        """Tokens per block."""
        return self._block_size

    async def find_matches_for_request(
        self, token_ids: Sequence[int], lora_id: int | str | None = None
    ) -> OverlapScores:
        """Who is believed to hold how many leading blocks of this prompt."""
        return self.tree.find_matches(compute_block_hashes(token_ids, self._block_size, lora_name=_lora_name(lora_id)))

    async def process_routing_decision_for_request(
        self, tokens: Sequence[int], worker_id: int, dp_rank: int = 0, lora_id: int | str | None = None
    ) -> None:
        """This prompt went to this worker."""
        hashes = compute_block_hashes(tokens, self._block_size, lora_name=_lora_name(lora_id))
        self.tree.routed(worker_id, hashes, dp_rank)

    def __repr__(self) -> str:
        return f"<ApproxKvIndexer {self.tree!r}, blocks of {self._block_size}>"
