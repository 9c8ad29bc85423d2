"""Channels: what one superstep leaves for the next, and what an idle one costs."""

import copy
import operator
import pickle
import time

import pytest

from dynamo import _channels
from dynamo.langgraph.channels import (
    AnyValue,
    BaseChannel,
    BinaryOperatorAggregate,
    DeltaChannel,
    EphemeralValue,
    LastValue,
    LastValueAfterFinish,
    NamedBarrierValue,
    NamedBarrierValueAfterFinish,
    Topic,
    UntrackedValue,
)
from dynamo.langgraph.channels.base import MISSING
from dynamo.langgraph.channels.binop import _get_overwrite
from dynamo.langgraph.errors import EmptyChannelError, InvalidUpdateError
from dynamo.langgraph.types import Overwrite


def extend(state, writes):
    return state + [item for write in writes for item in write]


SAMPLES = [
    LastValue(int),
    LastValueAfterFinish(int),
    AnyValue(int),
    EphemeralValue(int),
    EphemeralValue(int, False),
    UntrackedValue(int),
    BinaryOperatorAggregate(int, operator.add),
]


@pytest.mark.parametrize("spec", SAMPLES, ids=lambda spec: type(spec).__name__)
def test_an_empty_channel_says_so_and_a_refused_update_changes_nothing(spec):
    channel = spec.from_checkpoint(MISSING)
    if not isinstance(spec, BinaryOperatorAggregate):
        assert not channel.is_available()
        with pytest.raises(EmptyChannelError):
            channel.get()
    channel.update([3])
    before = channel.checkpoint()
    try:
        channel.update([1, 2])
    except InvalidUpdateError as error:
        assert "one value per step" in str(error)
        assert channel.checkpoint() == before


@pytest.mark.parametrize("spec", SAMPLES, ids=lambda spec: type(spec).__name__)
def test_a_copy_changes_on_its_own(spec):
    channel = spec.from_checkpoint(MISSING)
    channel.key = "k"
    channel.update([3])
    other = channel.copy()
    assert type(other) is type(channel)
    assert other == channel
    assert other.key == "k"
    other.update([4])
    assert channel.copy().checkpoint() == channel.checkpoint()


def test_reducers_start_empty_and_replace_when_told():
    channel = BinaryOperatorAggregate(list, operator.add).from_checkpoint(MISSING)
    channel.update([[1], [2]])
    channel.update([[3], Overwrite([9]), [4]])
    assert channel.get() == [9]
    with pytest.raises(InvalidUpdateError, match="one Overwrite"):
        channel.update([Overwrite([1]), Overwrite([2])])
    assert channel.get() == [9]


@pytest.mark.parametrize(
    ("write", "said"),
    [
        ({"__overwrite__": 1}, (True, 1)),
        ({"type": "__overwrite__", "value": 2}, (True, 2)),
        ({"value": 2}, (False, None)),
        ({"__overwrite__": 1, "more": 2}, (False, None)),
        (7, (False, None)),
        (Overwrite([1]), (True, [1])),
    ],
)
def test_an_overwrite_is_known_in_all_its_forms(write, said):
    assert _get_overwrite(write) == said


def test_a_delta_channel_replays_from_the_last_overwrite():
    channel = DeltaChannel(extend, list).from_checkpoint(MISSING)
    channel.replay_writes([("a", "c", [1]), ("b", "c", Overwrite([5])), ("c", "c", [6]), ("d", "c", [7])])
    assert channel.get() == [5, 6, 7]
    assert channel.checkpoint() is MISSING
    with pytest.raises(ValueError, match="snapshot_frequency must be a positive int, got 0"):
        DeltaChannel(extend, list, snapshot_frequency=0)


def test_barriers_open_when_all_came_and_close_when_consumed():
    channel = NamedBarrierValue(str, {"a", "b"})
    assert channel.update(["a"])
    assert not channel.update(["a"])
    assert not channel.is_available()
    channel.update(["b"])
    assert channel.is_available()
    assert channel.consume()
    assert not channel.is_available()
    with pytest.raises(InvalidUpdateError, match="Value z not in"):
        channel.update(["z"])
    late = NamedBarrierValueAfterFinish(str, {"a"})
    late.update(["a"])
    assert not late.is_available()
    assert late.finish()
    assert late.is_available()


def test_a_topic_flattens_and_keeps_only_when_told():
    topic = Topic(int)
    topic.update([1, [2, 3]])
    assert topic.get() == [1, 2, 3]
    assert topic.update([])
    assert not topic.is_available()
    kept = Topic(int, accumulate=True)
    kept.update([1])
    kept.update([[2]])
    assert kept.get() == [1, 2]


def test_channels_pickle_empty_and_full():
    for spec in (*SAMPLES[:6], Topic(int), NamedBarrierValue(str, {"a"})):
        for channel in (spec, spec.copy()):
            again = copy.copy(channel)
            assert type(again) is type(channel)
            assert again == channel
    restore, fields = LastValue(int).__reduce_ex__(4)
    assert "value" not in fields[1]
    assert not restore(*fields).is_available()
    assert pickle.loads(pickle.dumps(fields[1])) == fields[1]


def test_a_channel_of_a_user_works_and_must_be_whole():
    class Highest(BaseChannel[int, int, int]):
        def __init__(self, typ, key=""):
            super().__init__(typ, key)
            self.top = MISSING

        def from_checkpoint(self, checkpoint):
            made = Highest(self.typ, self.key)
            made.top = checkpoint
            return made

        def update(self, values):
            if not values:
                return False
            self.top = max(values if self.top is MISSING else [self.top, *values])
            return True

        def get(self):
            if self.top is MISSING:
                raise EmptyChannelError()
            return self.top

    channel = Highest(int)
    assert not channel.is_available()
    channel.update([3, 9, 4])
    assert channel.copy().get() == 9

    class Half(BaseChannel[int, int, int]):
        pass

    with pytest.raises(TypeError, match="without from_checkpoint, get, update"):
        Half(int)


def test_names_are_those_that_stored_threads_know():
    assert LastValue.__module__ == "langgraph.channels.last_value"
    assert NamedBarrierValueAfterFinish.__module__ == "langgraph.channels.named_barrier_value"
    assert not issubclass(UntrackedValue, EphemeralValue)
    assert _channels.BaseChannel is BaseChannel


def test_an_update_takes_far_less_than_a_microsecond():
    channel = LastValue(int)
    began = time.thread_time()
    for value in range(20_000):
        channel.update([value])
    assert (time.thread_time() - began) / 20_000 < 2e-6
