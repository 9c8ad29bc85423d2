"""The mocker behind the engine protocol."""

import asyncio

import pytest

from dynamo.engines.mocker import MockerEngine, token_range
from dynamo.errors import InvalidArgument


class Context:
    """The part of a request's context that engines look at."""

    def __init__(self):
        self.stopped = False

    def id(self):
        return "test"

    def is_stopped(self):
        return self.stopped

    is_killed = is_stopped


class Events:
    def __init__(self):
        self.held = set()

    def stored(self, parent, block_hashes, tokens_hashes):
        assert parent is None or parent in self.held
        self.held.update(block_hashes.tolist())

    def removed(self, block_hashes):
        self.held.difference_update(block_hashes.tolist())

    def cleared(self):
        self.held.clear()


def with_engine(test, **options):
    async def main():
        engine, events = MockerEngine(speedup=0, **options), Events()
        await engine.start(events)
        try:
            await asyncio.wait_for(test(engine, events), 30)
        finally:
            await engine.shutdown()
            await engine.shutdown()

    asyncio.run(main())


async def answer(engine, prompt, context=None, **stop):
    request = {"token_ids": prompt, "stop_conditions": stop}
    items = [item async for item in engine.generate(request, context or Context())]
    return [i for item in items for i in item["token_ids"]], items[-1]


def test_an_answer_ends_with_its_reason_and_usage():
    async def test(engine, events):
        tokens, last = await answer(engine, list(range(40)), max_tokens=7)
        assert len(tokens) == 7
        assert last["finish_reason"] == "length"
        assert last["completion_usage"]["completion_tokens"] == 7
        _, last = await answer(engine, list(range(41)), max_tokens=1)
        assert last["completion_usage"]["prompt_tokens_details"]["cached_tokens"] == 32
        assert len(events.held) == 2

    with_engine(test)


def test_a_stop_token_ends_the_answer_unless_it_is_ignored():
    async def test(engine, events):
        whole, _ = await answer(engine, [1, 2, 3], max_tokens=20)
        stop = whole[4]
        assert stop not in whole[:4]
        tokens, last = await answer(engine, [1, 2, 3], max_tokens=20, stop_token_ids=[stop])
        assert (tokens, last["finish_reason"]) == (whole[:5], "stop")
        tokens, _ = await answer(engine, [1, 2, 3], max_tokens=20, stop_token_ids=[stop], min_tokens=6)
        assert len(tokens) > 5
        tokens, _ = await answer(engine, [1, 2, 3], max_tokens=20, stop_token_ids=[stop], ignore_eos=True)
        assert tokens == whole

    with_engine(test)


def test_a_stopped_context_ends_the_answer():
    async def test(engine, events):
        context = Context()
        seen = 0
        async for item in engine.generate({"token_ids": [1], "stop_conditions": {"max_tokens": 10**5}}, context):
            seen += len(item["token_ids"])
            context.stopped = True
        assert item["finish_reason"] == "cancelled"
        assert seen < 10**5
        assert engine.stats().running == 0

    with_engine(test)


def test_a_prompt_over_the_context_is_refused():
    async def test(engine, events):
        with pytest.raises(InvalidArgument, match="context"):
            await answer(engine, [1] * 100, max_tokens=1)

    with_engine(test, context_length=64)


def test_made_up_tokens_lie_in_the_vocabulary():
    for size in (2, 354, 32000, 262144):
        low, high = token_range(size)
        assert 0 <= low < high <= size
