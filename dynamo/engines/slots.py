"""What the slots of an engine hold, told truthfully.

    slot 0   t0 .. t15 | t16 .. t31 | t32 ..      tokens whose keys and values are there
               S0           S1                    their complete blocks, by sequence hash
    refs     S0: 2  S1: 1                         how many slots hold a block: events are 0 -> 1 and 1 -> 0

The engine (llama.cpp) says how many tokens of a slot it reused, never which. So the worker chooses the slot itself,
mirrors its tokens here, foretells what will be reused, and compares. A slot whose mirror was wrong is forgotten.

I1  `tokens` of a slot are a prefix of what the engine holds there, as far as the engine can be known.
I2  `exact` is false when the engine may hold more than `tokens` (a cancelled answer, a token that was not seen).
I3  a block is announced as stored exactly while some slot holds it complete within `tokens`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dynamo.engines.base import EventSink

__all__ = ["Choice", "Slot", "Slots", "common_prefix"]


@dataclass
class Slot:
    """One place for a sequence in the engine."""

    id: int
    tokens: list[int] = field(default_factory=list)
    exact: bool = True
    blocks: list[int] = field(default_factory=list)  # sequence hashes of the complete blocks of `tokens`
    busy: bool = False
    soon: bool = False  # busy for some milliseconds only: it is being copied, or its answer was cut off
    used: int = 0  # when it was last taken, in requests


class Choice(NamedTuple):
    """A slot for a prompt."""

    slot: Slot
    donor: Slot | None = None  # its prefix is to be copied into the slot first
    cause: str = ""  # why the slot has less of the prompt than another one: "slot-busy", "copy-too-dear"; or "copied"


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens are equal."""
    size = min(len(a), len(b))
    if a[:size] == b[:size]:
        return size
    low, high = 0, size  # a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Slots:
    """The mirror of all slots.

    Parameters
    ----------
    count : slots of the engine
    block_size : tokens of a block
    sink : where stored, removed and cleared go
    """

    def __init__(self, count: int, block_size: int, sink: EventSink | None = None) -> None:
        self.slots = [Slot(i) for i in range(count)]
        self.block_size, self._sink = block_size, sink
        self._refs: dict[int, int] = {}
        self._clock = 0

    @property
    def held_blocks(self) -> int:
        """Different blocks that are held."""
        return len(self._refs)

    def choose(
        self, prompt: Sequence[int], copy_pays: Callable[[int, int], bool] = lambda reused, held: True
    ) -> Choice | None:
        """The slot for a prompt, and the slot whose prefix should first be copied into it; None: wait.

        The free slot with the longest common prefix wins; of several that are as good, one that loses nothing, then
        the one used longest ago. Where taking it would destroy what another conversation may come back for, and
        another slot is free, its prefix is copied there instead, if that pays; an empty slot is taken even if it does
        not. Without a block in common the slot is an empty one, or the one that was used longest ago. A slot that holds
        more than all free ones and will be free in a moment is waited for.

        Parameters
        ----------
        copy_pays : (tokens that would be reused, tokens the slot holds) -> copying is faster than computing
        """
        free = [slot for slot in self.slots if not slot.busy]
        if not free:
            return None
        size = self.block_size
        shared = [common_prefix(slot.tokens, prompt) for slot in self.slots]
        oldest = min(free, key=lambda slot: (bool(slot.tokens), slot.used))
        best = max(free, key=lambda slot: (shared[slot.id], len(slot.tokens) - shared[slot.id] < size, -slot.used))
        reused, lost = shared[best.id], len(best.tokens) - shared[best.id]
        elsewhere = max((shared[slot.id] for slot in self.slots if slot.busy), default=0)
        if elsewhere // size > reused // size:
            if any(slot.soon and shared[slot.id] == elsewhere for slot in self.slots):
                return None
            cause = "slot-busy"
        else:
            cause = ""
        if reused < min(size, len(prompt)):
            return self._take(oldest, None, cause)
        if best is not oldest and lost >= size and shared[oldest.id] + size <= reused:
            if copy_pays(reused, len(best.tokens)):
                return self._take(oldest, best, cause or "copied")
            if not oldest.tokens or lost > 2 * reused:
                return self._take(oldest, None, cause or "copy-too-dear")
        return self._take(best, None, cause)

    def _take(self, slot: Slot, donor: Slot | None, cause: str) -> Choice:
        self._clock += 1
        slot.busy, slot.soon, slot.used = True, False, self._clock
        return Choice(slot, donor, cause)

    def foretell(self, slot: Slot, prompt: Sequence[int]) -> int:
        """How many tokens of a prompt the engine will reuse: at least one is always computed."""
        return min(common_prefix(slot.tokens, prompt), len(prompt) - 1)

    def set(self, slot: Slot, tokens: list[int], exact: bool = True) -> None:
        """The slot now holds these tokens: say what came and what went."""
        size = self.block_size
        kept = common_prefix(slot.tokens, tokens) // size
        gone = slot.blocks[kept:]
        slot.tokens, slot.exact = tokens, exact
        del slot.blocks[kept:]
        removed = []
        for block in gone:
            left = self._refs[block] - 1
            if left:
                self._refs[block] = left
            else:
                del self._refs[block]
                removed.append(block)
        if removed and self._sink is not None:
            self._sink.removed(removed)
        if len(tokens) // size > kept:
            self._extend(slot, kept)

    def _extend(self, slot: Slot, kept: int) -> None:
        local, chain = block_hashes(slot.tokens[kept * self.block_size :], self.block_size, slot.blocks)
        new = 0
        for block in chain:
            count = self._refs.get(block, 0)
            self._refs[block] = count + 1
            new += count == 0
        if new and self._sink is not None:
            # Who holds a block holds all before it, so the blocks that are new here are the last ones.
            first = len(chain) - new
            parent = chain[first - 1] if first else (slot.blocks[-1] if slot.blocks else None)
            self._sink.stored(parent, chain[first:], local[first:])
        slot.blocks += chain

    def forget(self, slot: Slot) -> None:
        """The mirror of a slot was wrong: it holds nothing that can be relied on."""
        self.set(slot, [], exact=False)

    def clear(self) -> None:
        """The engine holds nothing any more."""
        for slot in self.slots:
            slot.tokens, slot.blocks, slot.exact = [], [], True
        self._refs.clear()
        if self._sink is not None:
            self._sink.cleared()


def block_hashes(tokens: Sequence[int], block_size: int, before: Sequence[int] = ()) -> tuple[list[int], list[int]]:
    """Local and sequence hashes of the complete blocks of `tokens`, which follow the blocks `before`."""
    import numpy as np

    from dynamo._hash import compute_block_hashes, compute_sequence_hashes

    local = compute_block_hashes(np.array(tokens, np.uint32), block_size)
    chain = compute_sequence_hashes(local, before[-1] if before else None)
    return local.tolist(), chain.tolist()
