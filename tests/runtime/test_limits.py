"""Bounds of the request plane that the environment sets, and what a caller is told at them."""

import asyncio
import socket

import pytest

from dynamo import errors
from dynamo.runtime import DistributedRuntime

from .test_calls import items, run, serving, until


def runtime_of_this_loop():
    return DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")


def test_a_worker_with_too_many_requests_refuses_and_says_what_to_do(monkeypatch):
    monkeypatch.setenv("DYN_TCP_MAX_REQUESTS", "2")

    async def main():
        go = asyncio.Event()

        async def handler(request):
            yield "begun"
            await go.wait()
            yield "done"

        async with serving(handler) as client:
            streams = [await client.random({}, False) for _ in range(2)]
            assert [await stream.__anext__() for stream in streams] == ["begun", "begun"]
            with pytest.raises(errors.Overloaded, match=r"2 requests are running.*another worker.*DYN_TCP_MAX_REQ"):
                await items(await client.random({}, False))
            go.set()
            assert [await items(stream) for stream in streams] == [["done"], ["done"]]
            assert await items(await client.random({}, False)) == ["begun", "done"]

    run(main())


def test_a_call_that_is_refused_goes_to_another_worker(monkeypatch):
    monkeypatch.setenv("DYN_TCP_MAX_REQUESTS", "1")

    async def main():
        go = asyncio.Event()

        def named(name):
            async def handler(request):
                yield name
                await go.wait()

            return handler

        workers = [runtime_of_this_loop() for _ in "ab"]
        served = [
            asyncio.ensure_future(worker.endpoint("ns.comp.ep").serve_endpoint(named(name)))
            for worker, name in zip(workers, "ab", strict=True)
        ]
        runtime = runtime_of_this_loop()
        client = await runtime.endpoint("ns.comp.ep").client()
        await until(lambda: len(client.instance_ids()) == 2, "both are there")
        streams = [await client.random({}, False) for _ in range(2)]  # wherever chance sends the second one
        assert sorted([await stream.__anext__() for stream in streams]) == ["a", "b"]
        with pytest.raises(errors.Overloaded, match="1 requests are running"):
            await items(await client.random({}, False))
        with pytest.raises(errors.Overloaded):  # who names an instance gets that one or an error
            await items(await client.direct({}, client.instance_ids()[0], False))
        go.set()
        for stream in streams:
            await items(stream)
        assert await (await client.random({}, False)).__anext__() in "ab"
        for each in (*workers, runtime):
            each.shutdown()
        await asyncio.gather(*served)

    run(main())


def test_a_message_over_the_bound_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setenv("DYN_TCP_MAX_MESSAGE_SIZE", "8192")

    async def main():
        async def echo(request):
            yield request

        async with serving(echo) as client:
            assert await items(await client.random("x" * 4000, False)) == ["x" * 4000]
            with pytest.raises(errors.DynamoError, match=r"at most 8192; DYN_TCP_MAX_MESSAGE_SIZE"):
                await client.random("x" * 9000, False)

        async def much(request):
            yield "x" * 20000

        async with serving(much, "ns.comp.much") as client:
            with pytest.raises(errors.DynamoError, match="the caller takes 8192"):
                await items(await client.random({}, False))

    run(main())


def test_a_worker_that_says_nothing_is_given_up_after_the_request_timeout(monkeypatch):
    monkeypatch.setenv("DYN_TCP_REQUEST_TIMEOUT", "0.5")

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and nothing else
            runtime = runtime_of_this_loop()
            from dynamo._runtime import Caller

            caller = Caller(runtime.pool, "ns.comp.ep")
            caller.put(1, f"127.0.0.1:{mute.getsockname()[1]}/1/ep")
            began = asyncio.get_running_loop().time()
            with pytest.raises(errors.StreamBroken, match="no sign of life"):
                await items(caller.call({}, 2, 1, False, None))
            assert 0.4 < asyncio.get_running_loop().time() - began < 10
            runtime.shutdown()

    run(main())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DYN_TCP_REQUEST_TIMEOUT", "soon"),
        ("DYN_TCP_CONNECT_TIMEOUT", "-1"),
        ("DYN_TCP_MAX_MESSAGE_SIZE", "12"),
        ("DYN_TCP_MAX_MESSAGE_SIZE", "1e9"),
        ("DYN_TCP_SHRINK_MESSAGE_SIZE", "lots"),
        ("DYN_LOG", "loud"),
        ("DYN_LOG", "warn,dynamo.router=very"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    async def main():
        with pytest.raises(errors.InvalidArgument, match=rf"(?s){name}.*must be"):
            runtime_of_this_loop()

    run(main())


def test_a_wrong_number_of_requests_is_named_when_something_is_served(monkeypatch):
    monkeypatch.setenv("DYN_TCP_MAX_REQUESTS", "0")

    async def main():
        runtime = runtime_of_this_loop()
        with pytest.raises(errors.InvalidArgument, match="DYN_TCP_MAX_REQUESTS='0': must be a whole number, 1 to"):
            _ = runtime.server
        runtime.shutdown()

    run(main())
