"""The simulated engine as Python sees it: tokens, cached counts, cache events, cancellation."""

import asyncio

import numpy as np
import pytest

from dynamo import errors
from dynamo._mocker import MockerEngine

PROMPT = np.arange(100, 140, dtype=np.uint32)


def run(test):
    async def main():
        loop = asyncio.get_running_loop()
        engines = []

        def make(**options):
            engines.append(MockerEngine(loop, **{"speedup": 0, "block_size": 4, "blocks": 256, **options}))
            return engines[-1]

        try:
            await asyncio.wait_for(test(make), 30)
        finally:
            for engine in engines:
                engine.shutdown()

    asyncio.run(main())


async def collect(stream):
    tokens = []
    while True:
        await stream.wait()
        tokens += stream.take()
        if stream.finished:
            return tokens


def test_many_requests_at_once_get_what_each_gets_alone():
    async def test(make):
        alone = [await collect(make().submit(PROMPT[: 5 + i], 20)) for i in range(8)]
        engine = make()
        together = await asyncio.gather(*(collect(engine.submit(PROMPT[: 5 + i], 20)) for i in range(8)))
        assert together == alone
        assert all(len(tokens) == 20 for tokens in together)

    run(test)


def test_a_request_that_goes_on_elsewhere_gives_the_same_rest():
    async def test(make):
        whole = await collect(make().submit(PROMPT, 30))
        grown = np.concatenate([PROMPT, np.array(whole[:13], np.uint32)])
        assert await collect(make(block_size=16).submit(grown, 17)) == whole[13:]

    run(test)


def test_events_tell_what_a_later_request_finds():
    async def test(make):
        held = {}

        def stored(parent, names, contents):
            assert parent is None or parent in held
            held.update(zip(names.tolist(), contents.tolist(), strict=True))

        def removed(names):
            for name in names.tolist():
                del held[name]

        engine = make(on_stored=stored, on_removed=removed, blocks=40)
        first = engine.submit(PROMPT, 4)
        await collect(first)
        assert first.cached_tokens == 0
        again = engine.submit(np.append(PROMPT, np.uint32(7)), 4)
        await collect(again)
        assert again.cached_tokens == 40
        for start in range(1000, 1800, 100):  # more than the pool holds: old blocks leave
            await collect(engine.submit(np.arange(start, start + 60, dtype=np.uint32), 4))
        assert engine.stats()["evicted_blocks"] > 0
        assert len(held) == engine.stats()["inactive_blocks"]
        engine.clear()
        await asyncio.sleep(0)
        engine.shutdown()
        assert held == {}

    run(test)


def test_cancel_ends_the_stream_and_gives_the_blocks_back():
    async def test(make):
        engine = make(speedup=10.0)
        stream = engine.submit(PROMPT, 200)
        await stream.wait()
        engine.cancel(stream)
        engine.cancel(stream)
        assert stream.finished
        await stream.wait()
        assert engine.stats()["active_blocks"] == 0
        assert engine.stats()["cancelled"] == 1

    run(test)


def test_shutdown_ends_open_streams_and_refuses_new_ones():
    async def test(make):
        engine = make(speedup=0.001)
        stream = engine.submit(PROMPT, 200)
        engine.shutdown()
        await stream.wait()
        assert stream.finished
        with pytest.raises(ValueError, match="shut down"):
            engine.submit(PROMPT, 1)

    run(test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timing": 1999}, "timing 1999"),
        ({"preemption": "mean"}, "preemption 'mean'"),
        ({"block_size": 0}, "block_size 0"),
        ({"watermark": 2.0}, "watermark 2"),
        ({"speedup": -1.0}, "speedup -1"),
        ({"token_low": 5, "token_high": 5}, r"token range \[5, 5\)"),
    ],
)
def test_a_bad_setting_is_refused_by_name(options, message):
    async def test(make):
        with pytest.raises(errors.InvalidArgument, match=message):
            make(**options)

    run(test)


def test_a_request_that_can_never_fit_is_refused():
    async def test(make):
        with pytest.raises(errors.InvalidArgument, match="the pool has 256"):
            make().submit(np.zeros(2000, np.uint32), 1)

    run(test)
