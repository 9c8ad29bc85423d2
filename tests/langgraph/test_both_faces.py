"""dynamo.channels: one content with two faces, for tasks and for threads at once; plain Python is the oracle."""

import asyncio
import contextlib
import copy
import operator
import pickle
import random
import threading
from collections import Counter
from typing import Annotated, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo import channels
from dynamo.channels import (
    MISSING,
    AnyValue,
    BinaryOperator,
    ChannelError,
    ChannelType,
    ClosedChannelError,
    Context,
    DynamicBarrier,
    EmptyChannelError,
    EphemeralValue,
    InvalidUpdateError,
    LastValue,
    NamedBarrier,
    Topic,
    WaitForNames,
)
from dynamo.errors import DynamoError
from dynamo.langgraph.graph import START, StateGraph

WAIT = 30  # seconds; a bound, not a pause


def merged(left, right):
    return left | right


@contextlib.contextmanager
def lent(events):
    events.append("in")
    try:
        yield "a thing"
    finally:
        events.append("out")


class AsyncLent:
    def __init__(self, events):
        self.events = events

    async def __aenter__(self):
        self.events.append("ain")
        return "an async thing"

    async def __aexit__(self, *error):
        self.events.append("aout")


KINDS = {
    "LastValue": lambda: LastValue(int, name="c"),
    "AnyValue": lambda: AnyValue(int, name="c"),
    "EphemeralValue": lambda: EphemeralValue(int, name="c"),
    "Topic": lambda: Topic(int, True, name="c"),
    "BinaryOperator": lambda: BinaryOperator(operator.add, name="c"),
    "NamedBarrier": lambda: NamedBarrier({1, 2}, name="c"),
    "DynamicBarrier": lambda: DynamicBarrier(int, name="c"),
    "Context": lambda: Context(lambda: lent([]), typ=str, name="c"),
}
WRITES = {name: [7] for name in KINDS} | {"NamedBarrier": [1, 2], "DynamicBarrier": [WaitForNames({1}), 1]}
WRITTEN = [name for name in KINDS if name != "Context"]


# ------------------------------------------------------------------ what all have
@pytest.mark.parametrize("kind", KINDS)
def test_a_channel_says_what_it_is(kind):
    channel = KINDS[kind]()
    assert channel.name == "c" and channel.channel_type == kind and channel.channel_type is ChannelType(kind)
    assert isinstance(channel, channels.Channel) and repr(channel).startswith(f"<{kind} 'c', ")


def test_older_names_are_the_same_classes():
    assert channels.NamedBarrierValue is NamedBarrier and channels.DynamicBarrierValue is DynamicBarrier
    assert channels.BinaryOperatorAggregate is BinaryOperator
    for name in channels.__all__:
        assert getattr(channels, name) is not None


@pytest.mark.parametrize("kind", WRITTEN)
def test_both_faces_show_the_same_content(kind):
    channel = KINDS[kind]()
    assert not channel.is_available()
    with pytest.raises(EmptyChannelError, match="'c' has no value"):
        channel.get_sync()
    with pytest.raises(EmptyChannelError, match="'c' has no value"):
        asyncio.run(channel.get())
    assert asyncio.run(channel.update(WRITES[kind])) is True
    assert channel.is_available()
    assert channel.get_sync() == asyncio.run(channel.get()) == asyncio.run(channel.wait()) == channel.wait_sync(0)
    twin = KINDS[kind]()
    assert twin.update_sync(tuple(WRITES[kind]))
    assert twin.get_sync() == channel.get_sync()
    assert twin.checkpoint_sync() == asyncio.run(channel.checkpoint())


@pytest.mark.parametrize("kind", WRITTEN)
def test_content_is_saved_and_restored(kind):
    channel = KINDS[kind]()
    if kind not in ("Topic", "NamedBarrier"):  # these are never without a list or a set
        assert channel.checkpoint_sync() is MISSING
    channel.update_sync(WRITES[kind])
    saved = channel.checkpoint_sync()
    twin = KINDS[kind]()
    asyncio.run(twin.restore(saved))
    assert twin.get_sync() == channel.get_sync()
    twin.restore_sync(MISSING)
    assert not twin.is_available()
    for made in (pickle.loads(pickle.dumps(channel)), copy.copy(channel), copy.deepcopy(channel)):
        assert made.get_sync() == channel.get_sync() and made.name == "c" and made.spec == channel.spec
        assert made.update_sync(WRITES[kind]) or kind.endswith("Barrier")


def test_what_is_saved_is_the_callers():
    topic = Topic(int, accumulate=True)
    topic.update_sync([1])
    topic.checkpoint_sync().append(2)
    topic.get_sync().append(3)
    saved = [1]
    topic.restore_sync(saved)
    saved.append(4)
    assert topic.get_sync() == [1]
    barrier = NamedBarrier({"a", "b"})
    barrier.checkpoint_sync().add("a")
    assert barrier.checkpoint_sync() == set()


def test_a_copy_changes_on_its_own():
    channel = LastValue(int)
    channel.update_sync([1])
    twin = copy.copy(channel)
    twin.update_sync([2])
    assert (channel.get_sync(), twin.get_sync()) == (1, 2)


@pytest.mark.parametrize("wrong", [5, "ab", None, {1: 2}, {1}])
def test_an_update_takes_a_list(wrong):
    channel = LastValue(int)
    with pytest.raises(TypeError, match=r"update takes a list of writes, not .*update\(\[value\]\)"):
        channel.update_sync(wrong)
    with pytest.raises(TypeError, match="update takes a list of writes"):
        asyncio.run(channel.update(wrong))


def test_a_refused_update_changes_nothing():
    last, ephemeral, barrier = LastValue(int, name="l"), EphemeralValue(int, name="e"), NamedBarrier({"a"}, name="b")
    for channel, writes, message in (
        (last, [1, 2], "'l': Can receive only one value"),
        (ephemeral, [1, 2], "'e': EphemeralValue"),
        (barrier, ["a", "z"], "'b': Value z not in"),
    ):
        with pytest.raises(InvalidUpdateError, match=message) as caught:
            channel.update_sync(writes)
        assert isinstance(caught.value, ChannelError) and isinstance(caught.value, DynamoError)
        assert not channel.is_available()

    def fails(value, write):
        if write == 3:
            raise ZeroDivisionError
        return value + write

    total = BinaryOperator(int, fails)
    with pytest.raises(ZeroDivisionError):
        total.update_sync([1, 2, 3])
    assert total.get_sync() == 0


# ------------------------------------------------------------------ the kinds, beside plain Python
class Model:
    """What each kind does, said as simply as possible; MISSING where it is empty."""

    def __init__(self, kind):
        self.kind, self.value = kind, {"BinaryOperator": 0, "Topic": []}.get(kind, MISSING)

    def update(self, writes):
        if self.kind in ("LastValue", "EphemeralValue") and len(writes) > 1:
            return InvalidUpdateError
        if self.kind == "Topic":
            self.value = self.value + writes
        elif self.kind == "BinaryOperator":
            self.value = sum(writes, self.value)
        elif writes:
            self.value = writes[-1]
        elif self.kind in ("AnyValue", "EphemeralValue"):
            self.value = MISSING
        return None

    def get(self):
        return EmptyChannelError if self.value is MISSING or (self.kind == "Topic" and not self.value) else self.value


def outcome(call, *arguments):
    try:
        return call(*arguments)
    except ChannelError as error:
        return type(error)


@pytest.mark.parametrize("kind", ["LastValue", "AnyValue", "EphemeralValue", "Topic", "BinaryOperator"])
@given(steps=st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_kind_does_what_its_model_does(kind, steps):
    channel, model = KINDS[kind](), Model(kind)
    if kind == "BinaryOperator":
        channel = BinaryOperator(int, operator.add)
    for writes in steps:
        expected = model.update(writes)
        assert outcome(channel.update_sync, writes) in ((expected,) if expected else (True, False))
        assert outcome(channel.get_sync) == model.get()


@given(steps=st.lists(st.lists(st.sampled_from("abcz"), max_size=3), max_size=10))
@settings(max_examples=60, deadline=None)
def test_a_barrier_opens_when_all_have_come(steps):
    names, seen = {"a", "b", "c"}, set()
    barrier = NamedBarrier(str, names)
    for writes in steps:
        if "z" in writes:
            assert outcome(barrier.update_sync, writes) is InvalidUpdateError
        else:
            assert barrier.update_sync(writes) == (not set(writes) <= seen)
            seen |= set(writes)
        assert barrier.is_available() == (seen == names)
        assert barrier.consume_sync() == (seen == names)
        if seen == names:
            seen = set()


def test_a_dynamic_barrier_is_told_for_whom_to_wait():
    barrier = DynamicBarrier(str, name="d")
    with pytest.raises(InvalidUpdateError, match=r"'d': nobody waits for 'a'.*write WaitForNames"):
        barrier.update_sync(["a"])
    assert barrier.update_sync([WaitForNames({"a", "b"}), "a"])
    assert not barrier.update_sync(["a"])
    with pytest.raises(InvalidUpdateError, match="nobody waits for 'c'"):
        barrier.update_sync(["b", "c"])
    assert repr(barrier) == "<DynamicBarrier 'd', waits for ['b']>"
    with pytest.raises(InvalidUpdateError, match="2 WaitForNames at once"):
        barrier.update_sync([WaitForNames({"a"}), WaitForNames({"b"})])
    assert barrier.update_sync(["b"]) and barrier.get_sync() is None and repr(barrier).endswith(", open>")
    assert barrier.consume_sync() and not barrier.consume_sync()
    with pytest.raises(InvalidUpdateError):
        barrier.update_sync(["a"])
    with pytest.raises(ValueError, match="one name at least"):
        barrier.update_sync([WaitForNames(())])


def test_a_topic_without_accumulation_holds_one_update():
    topic = Topic(int)
    topic.update_sync([1, [2, 3]])
    assert topic.get_sync() == [1, 2, 3]
    topic.update_sync([4])
    assert topic.get_sync() == [4]
    topic.update_sync([])
    assert not topic.is_available()


def test_reducers_that_cannot_work_are_refused_at_once():
    async def waits(value, write):
        return write

    with pytest.raises(TypeError, match="coroutine function: a fold does not wait"):
        BinaryOperator(int, waits)
    for wrong in ((), (5,), (int, None)):
        with pytest.raises(TypeError, match="needs a function of two arguments"):
            BinaryOperator(*wrong)
    with pytest.raises(TypeError, match="names to wait for"):
        NamedBarrier("ab")
    with pytest.raises(ValueError, match="would never open"):
        NamedBarrier(())
    assert BinaryOperator(int, operator.add).get_sync() == 0
    assert not BinaryOperator(operator.add).is_available()


# ------------------------------------------------------------------ entering and leaving
@pytest.mark.parametrize("kind", WRITTEN)
def test_leaving_closes_and_entering_opens_anew(kind):
    channel = KINDS[kind]()
    with channel as entered:
        assert entered is channel
        channel.update_sync(WRITES[kind])
        with pytest.raises(ChannelError, match="entered already"):
            channel.__enter__()
    for use in (channel.get_sync, lambda: channel.update_sync([]), channel.checkpoint_sync, channel.consume_sync):
        with pytest.raises(ClosedChannelError, match="'c' is closed"):
            use()
    assert channel.closed and not channel.is_available() and repr(channel).endswith(", closed>")

    async def again():
        async with channel:
            assert not channel.is_available()
            await channel.update(WRITES[kind])
            return await channel.get()

    asyncio.run(again())
    assert channel.closed


def test_a_context_shows_what_its_manager_gives():
    events = []
    channel = Context(lambda: lent(events))
    with pytest.raises(EmptyChannelError):
        channel.get_sync()
    with channel:
        assert channel.get_sync() == "a thing"
        assert channel.checkpoint_sync() is MISSING and channel.update_sync([]) is False
        with pytest.raises(InvalidUpdateError, match="cannot be written"):
            channel.update_sync([1])
        channel.restore_sync(MISSING)
        with pytest.raises(InvalidUpdateError):
            channel.restore_sync(1)
        assert channel.get_sync() == "a thing"
    assert events == ["in", "out"]
    with pytest.raises(ClosedChannelError):
        channel.get_sync()


def test_a_context_may_be_asynchronous():
    events = []

    async def program(channel):
        async with channel:
            return await channel.get()

    assert asyncio.run(program(Context(lambda: AsyncLent(events)))) == "an async thing"
    assert asyncio.run(program(Context(lambda: lent(events), lambda: AsyncLent(events)))) == "an async thing"
    assert asyncio.run(program(Context(lambda: lent(events)))) == "a thing"
    assert events == ["ain", "aout"] * 2 + ["in", "out"]


def test_a_context_that_cannot_be_entered_is_left():
    def refuse():
        raise OSError("no more")

    channel = Context(refuse)
    for _ in range(2):
        with pytest.raises(OSError, match="no more"), channel:
            pass
        assert channel.closed


def test_a_context_hands_errors_to_its_manager():
    channel = Context(lambda: contextlib.suppress(KeyError))
    with channel:
        raise KeyError
    with pytest.raises(ValueError), channel:
        raise ValueError


# ------------------------------------------------------------------ waiting
@pytest.mark.parametrize("kind", WRITTEN)
def test_who_waits_gets_what_another_thread_writes(kind):
    channel = KINDS[kind]()
    got = []
    waiter = threading.Thread(target=lambda: got.append(channel.wait_sync(WAIT)))
    waiter.start()

    async def tasks():
        waiting = [asyncio.create_task(channel.wait()) for _ in range(3)]
        writer = threading.Thread(target=channel.update_sync, args=(WRITES[kind],))
        writer.start()
        values = await asyncio.wait_for(asyncio.gather(*waiting), WAIT)
        writer.join(WAIT)
        return values

    values = asyncio.run(tasks())
    waiter.join(WAIT)
    assert values + got == [channel.get_sync()] * 4


def test_waiting_ends_with_its_time_and_with_the_channel():
    channel = LastValue(int, name="slow")
    with pytest.raises(TimeoutError, match=r"'slow'.* no value within 0 s"):
        channel.wait_sync(0)

    async def program():
        with channel:
            waiting = asyncio.create_task(channel.wait())
            cancelled = asyncio.create_task(channel.wait())
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait({cancelled})
            assert cancelled.cancelled()
        with pytest.raises(ClosedChannelError):
            await asyncio.wait_for(waiting, WAIT)

    asyncio.run(program())


def test_a_loop_that_is_gone_does_not_hinder_a_write():
    channel = LastValue(int)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(channel.wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert channel.update_sync([1]) and not waiting.done()
    waiting._log_destroy_pending = False  # meant so


# ------------------------------------------------------------------ together
def test_nobody_waits_for_a_reducer_and_who_was_slower_folds_again():
    inside, go_on, folded = threading.Event(), threading.Event(), []

    def slow(value, write):
        folded.append((value, write))
        if write == 10 and not go_on.is_set():
            inside.set()
            assert go_on.wait(WAIT)
        return value + write

    total = BinaryOperator(int, slow)
    thread = threading.Thread(target=total.update_sync, args=([10],))
    thread.start()
    assert inside.wait(WAIT)
    assert total.get_sync() == 0  # while a reducer runs
    assert asyncio.run(total.update([1])) and total.get_sync() == 1
    go_on.set()
    thread.join(WAIT)
    assert total.get_sync() == 11
    assert folded == [(0, 10), (0, 1), (1, 10)]


def test_an_update_that_was_slower_and_is_cancelled_has_changed_nothing():
    async def program():
        total = BinaryOperator(int, lambda value, write: value + write)

        def meddling(value, write):
            if write == 10:
                total.restore_sync(value + 1)  # always faster
            return value + write

        total = BinaryOperator(int, meddling)
        task = asyncio.create_task(total.update([10]))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() and 1 <= total.get_sync() < 10

    asyncio.run(program())


def test_reducers_of_two_channels_may_write_to_each_other():
    # With a lock per channel, two threads that do this in opposite order wait for each other for ever.
    left = right = None
    meet = threading.Barrier(2, timeout=WAIT)

    def fold_left(value, write):
        with contextlib.suppress(threading.BrokenBarrierError):
            if write == 1 and not met:
                meet.wait()
                met.append(1)
        if write == 1:
            right.update_sync([100])
        return value + write

    def fold_right(value, write):
        with contextlib.suppress(threading.BrokenBarrierError):
            if write == 1 and not met:
                meet.wait()
                met.append(1)
        if write == 1:
            left.update_sync([100])
        return value + write

    met = []
    left, right = BinaryOperator(int, fold_left), BinaryOperator(int, fold_right)
    threads = [threading.Thread(target=channel.update_sync, args=([1],), daemon=True) for channel in (left, right)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    assert left.get_sync() % 100 == right.get_sync() % 100 == 1


def _everywhere(work, threads=4, tasks=4):
    """Run `work(number)`, a coroutine function, in tasks of several loops on several threads at once."""
    errors, start = [], threading.Barrier(threads, timeout=WAIT)

    async def loop_of(number):
        start.wait()
        await asyncio.gather(*(work(number * tasks + task) for task in range(tasks)))

    def run(number):
        try:
            asyncio.run(loop_of(number))
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(2 * WAIT)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.fixture
def hasty():
    """Threads take turns after every few instructions."""
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_times_tasks_lose_no_update_and_read_no_half_of_one(hasty):
    total = BinaryOperator(int, lambda value, write: value + write)
    log = BinaryOperator(tuple, lambda value, write: (*value, write))
    topic, last = Topic(tuple, accumulate=True), LastValue(tuple)
    seen_total = []

    async def work(number):
        dice = random.Random(number)
        for turn in range(40):
            amount = dice.randrange(1, 100)
            # Half of the writes through each face; three at once, which must stay together.
            batch = [(number, turn, part) for part in range(3)]
            if dice.random() < 0.5:
                await total.update([amount, amount])
                await log.update(batch)
            else:
                total.update_sync([amount, amount])
                log.update_sync(batch)
            await topic.update([batch])
            last.update_sync([(number, turn)])
            before = await total.get()
            await asyncio.sleep(0)
            assert total.get_sync() >= before and before % 2 == 0
            sent[number] += 2 * amount
        seen_total.append(total.get_sync())

    sent = Counter()
    _everywhere(work)
    assert total.get_sync() == sum(sent.values()) == max(seen_total)
    entries = log.get_sync()
    assert len(entries) == 16 * 40 * 3
    order = []
    for i in range(0, len(entries), 3):
        number, turn, _ = entries[i]
        assert list(entries[i : i + 3]) == [(number, turn, part) for part in range(3)]
        order.append((number, turn))
    for number in range(16):  # of one writer, in the order in which he wrote
        assert [turn for who, turn in order if who == number] == list(range(40))
    assert Counter(topic.get_sync()) == Counter(entries)
    assert last.get_sync()[1] == 39


def test_one_of_many_consumes_an_open_barrier(hasty):
    rounds, everybody = 30, set(range(16))
    barrier, consumed = NamedBarrier(everybody), []
    here = [NamedBarrier(everybody) for _ in range(rounds)]
    gone = [NamedBarrier(everybody) for _ in range(rounds)]

    async def work(number):
        for turn in range(rounds):
            await barrier.update([number])
            await here[turn].update([number])
            await here[turn].wait()  # all names have come before anybody consumes: then one of them does
            if await barrier.consume():
                consumed.append(turn)
            await gone[turn].update([number])
            await gone[turn].wait()

    _everywhere(work)
    assert consumed == list(range(rounds))
    assert not barrier.is_available()


def test_producers_and_consumers_meet_through_waiting(hasty):
    # Each value is waited for by everybody and answered by everybody: no news may be missed.
    turns = 25
    questions = [LastValue(int) for _ in range(turns)]
    answers = [NamedBarrier(int, set(range(12))) for _ in range(turns)]

    async def work(number):
        for turn in range(turns):
            if number >= 12:  # four that ask; the first one is it
                if number == 12 + turn % 4:
                    await questions[turn].update([turn])
                await answers[turn].wait()
            else:
                assert await questions[turn].wait() == turn
                answers[turn].update_sync([number])

    _everywhere(work)
    assert all(answer.is_available() for answer in answers)


def test_closing_wakes_everybody(hasty):
    channel, ended = LastValue(int), []
    entered, waiting = threading.Event(), threading.Semaphore(0)

    def closer():
        with channel:
            entered.set()
            for _ in range(8):
                assert waiting.acquire(timeout=WAIT)

    async def work(number):
        waiting.release()
        try:
            await channel.wait()
        except ClosedChannelError:
            ended.append(number)

    thread = threading.Thread(target=closer)
    thread.start()
    assert entered.wait(WAIT)
    _everywhere(work, threads=2)
    thread.join(WAIT)
    assert sorted(ended) == list(range(8))


def test_nothing_stays_behind_who_waited():
    channel = LastValue(int)

    async def program():
        for _ in range(100):
            waiting = asyncio.create_task(channel.wait())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})

    asyncio.run(program())
    called = []
    channel.watch(lambda: called.append(1))
    channel.update_sync([1])
    channel.update_sync([2])
    assert called == [1]


# ------------------------------------------------------------------ in a graph
def test_a_channel_in_an_annotation_says_how_a_graph_keeps_the_key():
    events = []
    context = Context(lambda: lent(events))

    class State(TypedDict, total=False):
        total: Annotated[int, BinaryOperator(operator.add)]
        named: Annotated[int, channels.BinaryOperatorAggregate(int, operator.mul)]
        items: Annotated[list[str], Topic(accumulate=True)]
        word: Annotated[str, channels.LastValue]
        gone: Annotated[int, EphemeralValue(guard=False)]
        any: Annotated[int, AnyValue()]
        thing: Annotated[str, context]
        door: Annotated[None, DynamicBarrier(str)]

    def first(state):
        return {"total": 2, "items": ["a", "b"], "word": state.get("thing", "none"), "gone": 1, "any": 1}

    def second(state):
        return {"total": 3, "items": ["c"], "door": WaitForNames({"x"}), "any": state["gone"]}

    graph = (
        StateGraph(State)
        .add_node("first", first)
        .add_node("second", second)
        .add_edge(START, "first")
        .add_edge("first", "second")
        .compile()
    )
    types = {key: type(channel).__name__ for key, channel in graph.channels.items()}
    assert [types[key] for key in ("total", "named", "items", "word", "gone", "any")] == [
        *("BinaryOperatorAggregate", "BinaryOperatorAggregate", "Topic", "LastValue", "EphemeralValue", "AnyValue")
    ]
    assert graph.channels["total"].typ is int and graph.channels["items"].typ is str
    with context:
        result = graph.invoke({"total": 1})
        assert asyncio.run(graph.ainvoke({"total": 1})) == result
    assert result == {"total": 6, "named": 0, "items": ["a", "b", "c"], "word": "a thing", "any": 1, "thing": "a thing"}
    assert "thing" not in graph.invoke({"total": 1}) and graph.invoke({"total": 1})["word"] == "none"
    with pytest.raises(InvalidUpdateError, match="'thing': a Context shows"), context:
        graph.invoke({"thing": "mine"})


def test_two_keys_with_one_note_have_a_channel_each():
    note = BinaryOperator(operator.add)

    class State(TypedDict):
        a: Annotated[int, note]
        b: Annotated[int, note]

    graph = StateGraph(State).add_node("n", lambda _: {"a": 1, "b": 2}).add_edge(START, "n").compile()
    assert graph.invoke({"a": 1, "b": 1}) == {"a": 2, "b": 3}
    assert not note.is_available()


def test_a_value_of_a_graph_can_be_had_outside_and_the_other_way_round():
    from dynamo.langgraph import channels as of_graphs

    ours = BinaryOperator(int, operator.add)
    ours.update_sync([5])
    theirs = of_graphs.BinaryOperatorAggregate(int, operator.add).from_checkpoint(ours.checkpoint_sync())
    theirs.update([1])
    ours.restore_sync(theirs.checkpoint())
    assert ours.get_sync() == 6
