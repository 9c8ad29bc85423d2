"""The mirror of an engine's slots: what it announces is what is held."""

import random

import pytest

from dynamo.engines.slots import Slots, block_hashes, common_prefix

BLOCK = 4


class Ledger:
    """A sink that keeps what was announced, and objects to nonsense."""

    def __init__(self):
        self.held = {}  # block -> parent

    def stored(self, parent, block_hashes, tokens_hashes):
        assert len(block_hashes) == len(tokens_hashes) > 0
        assert parent is None or parent in self.held
        for block in block_hashes:
            assert block not in self.held
            self.held[block] = parent
            parent = block

    def removed(self, block_hashes):
        for block in block_hashes:
            del self.held[block]

    def cleared(self):
        self.held.clear()


def hashes(tokens):
    return block_hashes(tokens, BLOCK)[1]


def test_a_common_prefix_is_found_at_every_length():
    pick = random.Random(0)
    for _ in range(500):
        a = [pick.randrange(3) for _ in range(pick.randrange(40))]
        b = a[: pick.randrange(len(a) + 1)] + [pick.randrange(3) for _ in range(pick.randrange(5))]
        naive = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert common_prefix(a, b) == common_prefix(b, a) == naive


def test_announced_blocks_are_those_held_whatever_happens():
    pick, ledger = random.Random(1), Ledger()
    slots = Slots(3, BLOCK, ledger)
    trunk = [pick.randrange(100) for _ in range(60)]
    for _ in range(2000):
        slot = pick.choice(slots.slots)
        kind = pick.random()
        if kind < 0.05:
            slots.forget(slot)
        elif kind < 0.07:
            slots.clear()
        elif kind < 0.3:
            slots.set(slot, slot.tokens[: pick.randrange(len(slot.tokens) + 1)])
        else:
            slots.set(slot, trunk[: pick.randrange(60)] + [pick.randrange(5) for _ in range(pick.randrange(9))])
        expected = {block for s in slots.slots for block in hashes(s.tokens)}
        assert set(ledger.held) == expected and slots.held_blocks == len(expected)
        assert all(s.blocks == hashes(s.tokens) for s in slots.slots)


def fill(slots, *contents):
    for slot, tokens in zip(slots.slots, contents, strict=False):
        slots.set(slot, tokens)
        slot.used = slot.id + 1
    slots._clock = len(contents)


def test_the_longest_prefix_is_chosen():
    slots = Slots(3, BLOCK)
    fill(slots, [1] * 8, [1] * 4 + [2] * 8, [3] * 8)
    slot, donor, cause = slots.choose([1] * 4 + [2] * 8 + [5])
    assert (slot.id, donor, cause) == (1, None, "")
    assert slots.foretell(slot, [1] * 4 + [2] * 8 + [5]) == 12
    assert slots.foretell(slot, [1] * 4 + [2] * 8) == 11  # one token is always computed


def test_without_a_block_in_common_the_empty_or_oldest_slot_is_chosen():
    slots = Slots(3, BLOCK)
    fill(slots, [1] * 8, [2] * 8)
    assert slots.choose([1, 1, 1, 9])[0].id == 2
    slots.slots[2].busy = False
    slots.set(slots.slots[2], [4] * 8)
    assert slots.choose([9] * 4)[0].id == 0


def test_a_prefix_is_copied_when_its_slot_holds_another_conversation():
    system, mine = [7] * 12, [8] * 12
    for pays, donor, why in ((True, 0, "copied"), (False, None, "copy-too-dear")):
        slots = Slots(2, BLOCK)
        fill(slots, system + mine)
        slot, source, cause = slots.choose(
            system + [9] * 4, lambda reused, held, pays=pays: pays and (reused, held) == (12, 24)
        )
        # Either way the other conversation keeps its slot: an empty one is there.
        assert slot.id == 1 and (source.id if source else None) == donor and cause == why
    slots = Slots(2, BLOCK)
    fill(slots, system + mine, [6] * 4)  # none is empty, and what would be lost is no more than what is reused
    assert slots.choose(system + [9] * 4, lambda reused, held: False)[:2] == (slots.slots[0], None)
    slots = Slots(2, BLOCK)
    fill(slots, system + mine * 4)  # much would be lost for little
    assert slots.choose(system + [9] * 4, lambda reused, held: False)[0].id == 1


def test_live_conversations_keep_their_tails_while_a_slot_is_free():
    system = [7] * 12
    slots = Slots(8, BLOCK)
    for n in range(8):  # each begins with the same system prompt and goes on by itself
        slot, donor, _ = slots.choose(system + [n] * 5)
        assert (slot.id, donor.id if donor else None) == (n, 0 if n else None)
        slots.set(slot, system + [n] * 9)
        slot.busy = False
    for n in (3, 0, 7, 1, 2, 4, 6, 5):  # every follow-up finds its own slot
        slot, donor, cause = slots.choose(system + [n] * 9 + [9])
        assert (slot.id, donor, cause) == (n, None, "")
        slot.busy = False
    # A ninth one takes the slot that was used longest ago, not the one that is shortest.
    slots.set(slots.slots[5], system + [5] * 4)
    assert slots.choose(system + [8] * 5)[0].id == 3


def test_a_slot_that_is_busy_says_so_and_one_that_will_be_free_soon_is_waited_for():
    slots = Slots(2, BLOCK)
    fill(slots, [1] * 12)
    slots.slots[0].busy = True
    slot, donor, cause = slots.choose([1] * 16)
    assert (slot.id, donor, cause) == (1, None, "slot-busy")
    slot.busy = False
    slots.slots[0].soon = True
    assert slots.choose([1] * 16) is None
    assert slots.choose([2] * 16)[0].id == 1  # who has nothing there does not wait


def test_busy_slots_are_left_alone():
    slots = Slots(2, BLOCK)
    fill(slots, [1] * 8, [2] * 8)
    assert slots.choose([1] * 9)[0].id == 0
    assert slots.choose([1] * 9)[0].id == 1
    assert slots.choose([1] * 9) is None


@pytest.mark.parametrize("sink", [None, Ledger()])
def test_hashes_are_those_of_the_routers(sink, vectors):
    from dynamo._hash import compute_block_hashes, compute_sequence_hashes

    slots = Slots(1, BLOCK, sink)
    tokens = list(range(1, 12))
    slots.set(slots.slots[0], tokens[:5])
    slots.set(slots.slots[0], tokens)
    local = compute_block_hashes(tokens, BLOCK)
    assert slots.slots[0].blocks == compute_sequence_hashes(local).tolist()
    assert block_hashes(tokens, BLOCK)[0] == local.tolist() == [14643705804678351452, 16777012769546811212]
