"""Endpoints and clients in one process, over the mem store."""

import array
import asyncio
import contextlib
import gc
import sys
import threading

import pytest

from dynamo import errors
from dynamo._runtime import Caller, decode, encode
from dynamo.runtime import (
    Context,
    DistributedRuntime,
    UnaryClient,
    dynamo_endpoint,
    serve_unary_endpoint,
)

PATIENCE = 20.0


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


def runtime_of_this_loop(**kwargs):
    return DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp", **kwargs)


@contextlib.asynccontextmanager
async def serving(handler, path="ns.comp.ep", runtime=None, **kwargs):
    """A client of an endpoint that is served while the block runs."""
    runtime = runtime or runtime_of_this_loop()
    endpoint = runtime.endpoint(path)
    task = asyncio.ensure_future(endpoint.serve_endpoint(handler, **kwargs))
    client = await endpoint.client()
    waiting = asyncio.ensure_future(client.wait_for_instances())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiting.cancel()
        task.result()
    yield client
    runtime.shutdown()
    await task


async def until(condition, what):
    for _ in range(int(PATIENCE * 200)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"never came true: {what}")


async def items(stream):
    return [item async for item in stream]


async def count_to(request):
    for i in range(request):
        yield i


# ---- items ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["random", "round_robin", "generate", "static"])
@pytest.mark.parametrize("awaited", [False, True])
def test_items_come_whether_the_stream_is_awaited_or_not(method, awaited):
    async def main():
        async with serving(count_to) as client:
            stream = getattr(client, method)(3, annotated=False)
            assert await items(await stream if awaited else stream) == [0, 1, 2]

    run(main())


def test_items_are_annotated_unless_told_otherwise():
    async def main():
        async with serving(count_to) as client:
            (item,) = await items(client.generate(1))
            assert (item.data(), item.event(), item.comments(), item.id()) == (0, None, [], None)
            assert not item.is_error()
            assert repr(item) == "Annotated(data=0, event=None, comment=[], id=None)"
            assert await items(client.generate(1, annotated=None)) == [0]

    run(main())


def test_values_survive_the_way():
    async def echo(request):
        yield request

    values = [None, True, 1, -1, 2**64 - 1, 1.5, "ü\0", b"\xff\0", [1, [2]], {"a": {"b": None}}, "x" * 300_000]

    async def main():
        async with serving(echo) as client:
            for value in values:
                assert await items(client.generate(value, annotated=False)) == [value]

    run(main())


def test_arrays_arrive_as_lists_or_as_arrays_when_asked():
    numpy = pytest.importorskip("numpy")
    seen = []

    async def handler(request):
        seen.append(request["ids"])
        yield {"back": numpy.arange(3, dtype=numpy.float32)}

    async def main(arrays):
        async with serving(handler, arrays=arrays) as client:
            client.caller.arrays = arrays
            return await items(client.generate({"ids": numpy.array([7, 2**32 - 1], numpy.uint32)}, annotated=False))

    (answer,) = run(main(False))
    assert seen.pop() == [7, 2**32 - 1]
    assert answer == {"back": [0.0, 1.0, 2.0]}
    (answer,) = run(main(True))
    assert seen[0].dtype == numpy.uint32
    assert seen.pop().tolist() == [7, 2**32 - 1]
    assert answer["back"].dtype == numpy.float32


@pytest.mark.parametrize("code", "bBhHiIqQfd")
def test_every_kind_of_array_keeps_its_values(code):
    assert decode(encode(array.array(code, [1, 2, 3]))) == [1, 2, 3]


def test_matrices_and_scalars_become_lists_and_numbers():
    numpy = pytest.importorskip("numpy")
    assert decode(encode(numpy.eye(2))) == [[1.0, 0.0], [0.0, 1.0]]
    assert decode(encode({"n": numpy.int64(5)})) == {"n": 5}
    assert decode(encode(numpy.array([True, False]))) == [True, False]
    with pytest.raises(TypeError, match="cannot be sent"):
        encode(object())


def test_64_calls_at_once():
    async def main():
        async with serving(count_to) as client:
            got = await asyncio.gather(*(items(client.generate(i, annotated=False)) for i in range(64)))
            assert got == [list(range(i)) for i in range(64)]

    run(main())


def test_long_streams_keep_their_order():
    async def main():
        async with serving(count_to) as client:
            assert await items(client.generate(20_000, annotated=False)) == list(range(20_000))

    run(main())


def test_items_larger_than_the_window_travel():
    async def handler(request):
        for _ in range(3):
            yield b"x" * 1_000_000

    async def main():
        async with serving(handler) as client:
            assert [len(x) for x in await items(client.generate(0, annotated=False))] == [1_000_000] * 3

    run(main())


def test_items_of_a_slow_handler_do_not_wait_for_each_other():
    async def handler(request):
        for i in range(3):
            yield i
            await gate.wait()
            gate.clear()

    async def main():
        global gate
        gate = asyncio.Event()
        async with serving(handler) as client:
            stream = client.generate(0, annotated=False)
            for i in range(3):
                assert await stream.__anext__() == i  # comes before the handler goes on
                gate.set()
            with pytest.raises(StopAsyncIteration):
                await stream.__anext__()

    run(main())


# ---- handlers --------------------------------------------------------------------------------------------------------
def test_handlers_get_their_context_by_name_or_as_second_argument():
    async def by_name(request, context=None):
        yield context.id()

    async def second(request, ctx):
        yield ctx.id()

    async def none(request, flag=True):
        yield flag

    async def main():
        for handler, want in ((by_name, ["me"]), (second, ["me"]), (none, [True])):
            async with serving(handler) as client:
                assert await items(client.generate(0, annotated=False, context=Context("me"))) == want

    run(main())


def test_handlers_may_be_methods_or_return_iterators_or_one_value():
    class Engine:
        async def generate(self, request, context):
            yield [request, context.is_stopped()]

    async def one(request):
        return {"one": request}

    async def iterator(request):
        return count_to(request)

    async def main():
        for handler, want in ((Engine().generate, [[2, False]]), (one, [{"one": 2}]), (iterator, [0, 1])):
            async with serving(handler) as client:
                assert await items(client.generate(2, annotated=False)) == want

    run(main())


def test_a_handler_that_cannot_be_one_says_so_to_its_caller():
    async def main():
        async with serving(lambda request: 5) as client:
            with pytest.raises(errors.RemoteError, match="must be an async generator"):
                await items(client.generate(0))
        with pytest.raises(errors.InvalidArgument, match="async generator function"):
            async with serving(5):
                pass

    run(main())


def test_remote_errors_have_type_text_and_traceback():
    async def handler(request):
        yield 1
        raise {"ValueError": ValueError, "KeyError": KeyError, "Own": type("Own", (Exception,), {})}[request]("no good")

    async def main():
        async with serving(handler) as client:
            for name, cls in (("ValueError", ValueError), ("KeyError", KeyError), ("Own", RuntimeError)):
                got = []
                with pytest.raises(errors.RemoteError) as caught:
                    async for item in client.generate(name, annotated=False):
                        got.append(item)
                assert got == [1]  # what came before the error came
                assert isinstance(caught.value, cls)
                assert name in str(caught.value) and "no good" in str(caught.value)
                assert "in handler" in "".join(caught.value.__notes__)

    run(main())


def test_errors_of_dynamo_keep_their_class():
    async def handler(request):
        raise getattr(errors, request)("why")
        yield

    async def main():
        async with serving(handler) as client:
            for name in ("Overloaded", "EngineShutdown", "Cancelled", "InvalidArgument", "RequestTimeout", "NotFound"):
                with pytest.raises(getattr(errors, name), match="why"):
                    await items(client.direct(name, client.instance_ids()[0]))

    run(main())


def test_an_error_at_the_call_itself_arrives():
    def handler(request):
        raise TypeError("at once")

    async def main():
        async with serving(handler) as client:
            with pytest.raises(TypeError, match="at once"):
                await items(client.generate(0))

    run(main())


def test_items_that_cannot_be_sent_are_an_error_of_the_handler():
    async def handler(request):
        yield object()

    async def main():
        async with serving(handler) as client:
            with pytest.raises(TypeError, match="a object cannot be sent"):
                await items(client.generate(0))
            with pytest.raises(TypeError, match="cannot be sent"):
                client.generate(object())

    run(main())


# ---- context ---------------------------------------------------------------------------------------------------------
def test_ids_traces_and_metadata_travel():
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def handler(request, context):
        yield [
            context.id(),
            context.request_id,
            context.trace_id,
            context.span_id,
            context.trace_headers(),
            context.metadata,
        ]

    async def main():
        async with serving(handler) as client:
            context = Context("id-1", {"k": "v"}, headers={"traceparent": trace, "x-request-id": "http-1"})
            (got,) = await items(client.generate(0, annotated=False, context=context))
            assert got == ["id-1", "http-1", trace[3:35], trace[36:52], {"traceparent": trace}, {"k": "v"}]
            (got,) = await items(client.generate(0, annotated=False))
            assert len(got[0]) == 36 and got[2:] == [None, None, None, {}]

    run(main())


def test_stopping_a_context_lets_the_handler_finish():
    async def handler(request, context):
        while not context.is_stopped():
            yield "tick"
            await asyncio.sleep(0.005)
        yield [context.is_stopped(), context.is_killed()]

    async def main():
        async with serving(handler) as client:
            context = Context()
            got = []
            async for item in client.generate(0, annotated=False, context=context):
                got.append(item)
                context.stop_generating()
            assert got[0] == "tick" and got[-1] == [True, False]

    run(main())


def test_stop_and_kill_wake_who_waits_for_them():
    seen = []

    async def handler(request, context):
        yield "begun"
        seen.append(await context.async_killed_or_stopped())
        yield "done"

    async def main():
        async with serving(handler) as client:
            stream = client.generate(0, annotated=False)
            assert await stream.__anext__() == "begun"
            stream.stop()
            assert await items(stream) == ["done"]
            stream = client.generate(0, annotated=False)
            assert await stream.__anext__() == "begun"
            stream.kill()
            with pytest.raises(errors.Cancelled):
                await items(stream)
            await until(lambda: seen == [True, True], "both woke")

    run(main())


def test_a_dropped_iterator_stops_the_handler():
    ended = []

    async def handler(request):
        try:
            while True:
                yield 1
                await asyncio.sleep(0.001)
        finally:
            ended.append(request)

    async def main():
        async with serving(handler) as client:
            async for _ in client.generate("break"):
                break
            stream = client.generate("del")
            await stream.__anext__()
            del stream
            stream = client.generate("aclose")
            await stream.__anext__()
            await stream.aclose()
            task = asyncio.ensure_future(items(client.generate("cancel")))
            await asyncio.sleep(0.02)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            del task  # before 3.11 a cancelled task keeps its traceback, and the frames in it hold the stream
            gc.collect()
            await until(lambda: sorted(ended) == ["aclose", "break", "cancel", "del"], f"{ended}")

    run(main())


def test_a_handler_that_waits_for_ever_is_cancelled_when_its_caller_left():
    ended = []

    async def handler(request):
        yield 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main():
        async with serving(handler) as client:
            async for _ in client.generate(0):
                break
            await until(lambda: ended, "the handler was cancelled")

    run(main())


def test_a_handlers_context_reaches_the_calls_it_makes():
    inner_states = []

    async def inner(request, context):
        while not context.is_stopped():
            yield context.id()
            await asyncio.sleep(0.002)
        inner_states.append(context.is_killed())

    async def main():
        runtime = runtime_of_this_loop()
        async with serving(inner, "ns.comp.inner", runtime_of_this_loop()) as inner_client:

            async def outer(request, context):
                async for item in inner_client.generate(request, annotated=False, context=context):
                    yield item

            async with serving(outer, "ns.comp.outer", runtime) as client:
                context = Context("one-id")
                async for item in client.generate(0, annotated=False, context=context):
                    assert item == "one-id"
                    context.stop_generating()
                assert inner_states == [False]

    run(main())


# ---- back-pressure ---------------------------------------------------------------------------------------------------
def test_a_slow_reader_slows_its_producer_and_nobody_else():
    made = [0]

    async def handler(request):
        if request == "quick":
            yield "quick"
            return
        for _ in range(2000):
            made[0] += 1
            yield b"x" * 10_000

    async def main():
        async with serving(handler) as client:
            slow = client.generate("slow", annotated=False)
            await slow.__anext__()
            before = -1
            while made[0] != before:
                before = made[0]
                assert await items(client.generate("quick", annotated=False)) == ["quick"]
                await asyncio.sleep(0.05)
            assert made[0] < 200  # a window of 256 KiB and what one frame batched
            assert len(await items(slow)) == 1999

    run(main())


# ---- instances -------------------------------------------------------------------------------------------------------
def test_nobody_there_is_said_and_direct_names_the_instance():
    async def main():
        runtime = runtime_of_this_loop()
        client = await runtime.endpoint("ns.comp.nobody").client()
        assert client.instance_ids() == []
        with pytest.raises(errors.Unavailable, match=r"no instance of ns\.comp\.nobody"):
            client.generate(0)
        with pytest.raises(errors.Unavailable, match="instance_id=5 not found"):
            client.direct(0, 5)
        runtime.shutdown()

    run(main())


def test_round_robin_visits_everyone_and_instances_come_and_go():
    async def main():
        workers = [runtime_of_this_loop() for _ in range(3)]
        tasks = []
        for runtime in workers:

            async def handler(request, runtime=runtime):
                yield runtime.instance_id()

            tasks.append(asyncio.ensure_future(runtime.endpoint("ns.comp.ep").serve_endpoint(handler)))
        mine = runtime_of_this_loop()
        client = await mine.endpoint("ns.comp.ep").client()
        await until(lambda: len(client.instance_ids()) == 3, "three are there")
        assert client.instance_ids() == sorted(runtime.instance_id() for runtime in workers)
        assert {i.instance_id for i in client.instances()} == set(client.instance_ids())
        assert client.instances()[0].transport.kind == "tcp"
        got = [(await items(client.round_robin(0, annotated=False)))[0] for _ in range(6)]
        assert sorted(got) == sorted(client.instance_ids() * 2)
        target = client.instance_ids()[1]
        assert await items(client.direct(0, target, annotated=False)) == [target]
        assert {(await items(client.random(0, annotated=False)))[0] for _ in range(100)} == set(client.instance_ids())
        workers[0].shutdown()
        await tasks[0]
        await until(lambda: len(client.instance_ids()) == 2, "one has left")
        for runtime in [*workers, mine]:
            runtime.shutdown()
        await asyncio.gather(*tasks)

    run(main())


def test_an_instance_that_does_not_answer_is_left_out_and_another_one_asked():
    async def main():
        async with serving(count_to) as client:
            live = client.instance_ids()[0]
            client.caller.put(1, "127.0.0.1:1/1/ns/comp/ep")  # nobody listens there
            for _ in range(4):
                assert await items(client.round_robin(2, annotated=False)) == [0, 1]
            with pytest.raises(errors.ConnectionFailed, match="no connection to 127"):
                await items(client.direct(0, 1))
            client.caller.remove(live)
            with pytest.raises(ConnectionError):
                await items(client.round_robin(0))

    run(main())


def test_unregistering_hides_an_instance_that_still_serves():
    async def main():
        runtime = runtime_of_this_loop()
        async with serving(count_to, runtime=runtime) as client:
            (number,) = client.instance_ids()
            endpoint = runtime._served["ns.comp.ep"]
            address = client.caller.address(number)
            await endpoint.unregister_endpoint_instance()
            await until(lambda: not client.instance_ids(), "it is hidden")
            assert runtime.health()["status"] == "notready"
            client.caller.put(number, address)
            assert await items(client.direct(1, number, annotated=False)) == [0]
            client.caller.remove(number)
            await endpoint.register_endpoint_instance()
            await client.wait_for_instances()
            assert runtime.health() == {"status": "ready", "endpoints": {"ns.comp.ep": "ready"}}

    run(main())


def test_a_caller_knows_its_instances_in_order():
    async def main():
        runtime = runtime_of_this_loop()
        caller = Caller(runtime.pool, "x", inhibit_secs=0.05)
        for number in (1, 2, 3):
            caller.put(number, "127.0.0.1:1/x")
        assert caller.ids() == [1, 2, 3]
        assert caller.address(2) == "127.0.0.1:1/x" and caller.address(9) is None
        caller.remove(2)
        assert caller.ids() == [1, 3]
        runtime.shutdown()

    run(main())


# ---- runtimes --------------------------------------------------------------------------------------------------------
def test_both_signatures_and_both_ways_to_an_endpoint(monkeypatch):
    monkeypatch.setenv("DYN_DISCOVERY_BACKEND", "mem")

    async def main():
        loop = asyncio.get_running_loop()
        for arguments, keywords in (
            (("mem", "tcp", None), {"event_plane": "zmq", "response_plane": "tcp"}),
            ((False,), {}),
            ((), {"is_static": True}),
            ((), {}),
        ):
            runtime = DistributedRuntime(loop, *arguments, **keywords)
            component = runtime.namespace("a").component("b")
            await component.create_service()
            assert component.endpoint("c").path == "a.b.c"
            assert runtime.endpoint("dyn://a.b.c").path == runtime.endpoint("a.b.c").path == "a.b.c"
            assert runtime.endpoint("a.b.c").lease_id() == runtime.endpoint("a.b.c").connection_id()
            assert runtime.event_loop() is loop and DistributedRuntime.detached() is runtime
            token = runtime.child_token()
            assert not token.is_cancelled()
            runtime.shutdown()
            runtime.shutdown()
            await token.cancelled()
            await runtime.wait_closed()
            with pytest.raises(errors.EngineShutdown):
                await runtime.endpoint("a.b.c").serve_endpoint(count_to)

    run(main())


@pytest.mark.parametrize("arguments", [("etcd", "tcp"), ("mem", "nats"), ("mem", "http")])
def test_planes_that_are_not_there_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        DistributedRuntime(None, *arguments)


@pytest.mark.parametrize("path", ["a.b", "a.b.c.d", "a/b/c", "a..c", "", "a.b.c d", "a.b.%"])
def test_bad_paths_are_refused(path):
    async def main():
        runtime = runtime_of_this_loop()
        with pytest.raises(ValueError):
            runtime.endpoint(path)
        runtime.shutdown()

    run(main())


@pytest.mark.parametrize("graceful", [True, False])
def test_shutdown_lets_requests_finish_or_sends_them_elsewhere(graceful):
    async def handler(request):
        yield 1
        await asyncio.sleep(0.3)
        yield 2

    async def main():
        # The client's own runtime: closing the worker's pool would cancel the call.
        mine, runtime = runtime_of_this_loop(), runtime_of_this_loop()
        task = asyncio.ensure_future(runtime.endpoint("a.b.c").serve_endpoint(handler, graceful_shutdown=graceful))
        client = await mine.endpoint("a.b.c").client()
        await client.wait_for_instances()
        stream = client.generate(0, annotated=False)
        assert await stream.__anext__() == 1
        runtime.shutdown()
        if graceful:
            assert await items(stream) == [2]
        else:
            with pytest.raises(errors.EngineShutdown):
                await items(stream)
        await task
        mine.shutdown()

    run(main())


def test_the_same_endpoint_is_served_once():
    async def main():
        runtime = runtime_of_this_loop()
        async with serving(count_to, runtime=runtime) as client:
            with pytest.raises(errors.InvalidArgument, match="already"):
                await runtime.endpoint("ns.comp.ep").serve_endpoint(count_to)
            assert await items(client.generate(1, annotated=False)) == [0]
            stats = runtime._served["ns.comp.ep"].stats()
            assert stats["requests"] == 1 and stats["items"] == 1

    run(main())


def test_several_loops_in_one_process():
    answers = []

    async def ask():
        runtime = runtime_of_this_loop()
        client = await runtime.endpoint("ns.comp.ep").client()
        await client.wait_for_instances()
        for _ in range(20):
            answers.extend(await items(client.generate(2, annotated=False)))
        runtime.shutdown()

    async def main():
        async with serving(count_to):
            threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join, PATIENCE)
            assert len(answers) == 120

    run(main())


def test_one_loop_after_the_other():
    for _ in range(3):

        async def main():
            async with serving(count_to) as client:
                assert await items(client.generate(2, annotated=False)) == [0, 1]

        run(main())


def test_uvloop_works_too():
    uvloop = pytest.importorskip("uvloop")

    async def main():
        async with serving(count_to) as client:
            got = await asyncio.gather(*(items(client.generate(50, annotated=False)) for _ in range(20)))
            assert got == [list(range(50))] * 20

    loop = uvloop.new_event_loop()
    loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    loop.close()


def test_one_waiter_at_a_time():
    async def handler(request):
        await asyncio.sleep(10)
        yield 1

    async def main():
        async with serving(handler, graceful_shutdown=False) as client:
            stream = client.generate(0)
            first = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0.01)
            with pytest.raises(RuntimeError, match="another task"):
                await stream.__anext__()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(first, 0.01)
            stream.kill()
            with pytest.raises(errors.Cancelled):
                await stream.__anext__()
            with pytest.raises(StopAsyncIteration):
                await stream.__anext__()

    run(main())


def test_nothing_is_left_behind():
    async def main():
        async with serving(count_to) as client:
            for _ in range(50):
                await items(client.generate(1))
            gc.collect()
            before = len(gc.get_objects())
            for _ in range(200):
                await items(client.generate(1))
            gc.collect()
            assert len(gc.get_objects()) - before < 100
            assert client.caller.pool.stats()["inflight"] == 0

    run(main())


def test_ctrl_c_in_a_handler_ends_the_loop():
    async def handler(request):
        raise KeyboardInterrupt
        yield

    async def main():
        async with serving(handler) as client:
            await items(client.generate(0))

    with pytest.raises(KeyboardInterrupt):
        run(main())


# ---- unary, models -------------------------------------------------------------------------------------------------
def test_unary_endpoints():
    async def double(request, *, context):
        return request * 2

    async def main():
        runtime = runtime_of_this_loop()
        endpoint = runtime.endpoint("ns.comp.ep")
        task = asyncio.ensure_future(serve_unary_endpoint(endpoint, double))
        client = await endpoint.client()
        await client.wait_for_instances()
        assert await UnaryClient(client).complete(21) == 42
        runtime.shutdown()
        await task
        async with serving(count_to) as client:
            for n in (0, 2):
                with pytest.raises(RuntimeError, match=f"{n} answers"):
                    await UnaryClient(client).complete(n)

    run(main())


def test_requests_are_parsed_into_a_model():
    msgspec = pytest.importorskip("msgspec")

    class Request(msgspec.Struct):
        data: str

    @dynamo_endpoint(Request, str)
    async def handler(request):
        for char in request.data:
            yield char

    async def main():
        async with serving(handler) as client:
            assert await items(client.generate({"data": "ab"}, annotated=False)) == ["a", "b"]
            assert await items(client.generate('{"data": "c"}', annotated=False)) == ["c"]
            for bad in ({"data": 1}, "{", 5):
                with pytest.raises(ValueError, match="Invalid request"):
                    await items(client.generate(bad))

    run(main())


def test_a_cold_import_is_light():
    import subprocess

    code = (
        "import sys, dynamo.runtime; from dynamo.runtime import Client;"
        "print('numpy' in sys.modules, 'msgspec' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]
