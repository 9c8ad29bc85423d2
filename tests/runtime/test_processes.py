"""Workers and clients as processes of their own, over the file store: what happens when one of them dies."""

import asyncio
import os
import signal
import subprocess
import time

import pytest

from dynamo import errors
from dynamo.runtime import DistributedRuntime

PATIENCE = 30.0
FORKS_BESIDE_THREADS = "ignore:This process:DeprecationWarning"  # what 3.12 says of every such fork

WORKER = """
import asyncio, os, sys
from dynamo.runtime import DistributedRuntime, dynamo_worker

@dynamo_worker()
async def worker(runtime: DistributedRuntime):
    component = runtime.namespace("my-ns").component("my-component")
    endpoint = component.endpoint("generate")
    async def handler(request):
        yield {"result": "hello", "pid": os.getpid()}
        for i in range(request.get("n", 0)):
            await asyncio.sleep(request.get("pause", 0))
            yield {"i": i}
    await endpoint.serve_endpoint(handler)
    print("worker returned", flush=True)

if __name__ == "__main__":
    asyncio.run(worker())
    print("clean exit", flush=True)
"""

CLIENT = """
import asyncio
from dynamo.runtime import DistributedRuntime, dynamo_worker

@dynamo_worker()
async def main(runtime: DistributedRuntime):
    endpoint = runtime.namespace("my-ns").component("my-component").endpoint("generate")
    client = await endpoint.client()
    await client.wait_for_instances()
    request = {}
    async for response in client.generate(request):      # also: async for x in await client.generate(request)
        print(response.data()["result"])
    async for x in await client.generate(request):
        print(x.data()["result"])

asyncio.run(main())
"""


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


async def items(stream):
    return [item async for item in stream]


async def until(condition, what, patience=PATIENCE):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never came true: {what}")


async def client_of(path="my-ns.my-component.generate", count=1):
    runtime = DistributedRuntime(asyncio.get_running_loop(), "file", "tcp")
    client = await runtime.endpoint(path).client()
    await until(lambda: len(client.instance_ids()) >= count, f"{count} instances of {path}")
    return runtime, client


def end(process, number, patience=PATIENCE):
    process.send_signal(number)
    return process.wait(patience), process.stdout.read()


def test_a_worker_and_a_client_find_each_other(run_python):
    worker = run_python("-c", WORKER)
    client = run_python("-c", CLIENT)
    out, _ = client.communicate(timeout=PATIENCE)
    assert (client.returncode, out) == (0, "hello\nhello\n")
    assert end(worker, signal.SIGTERM) == (0, "worker returned\nclean exit\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish(run_python, number):
    worker = run_python("-c", WORKER)

    async def main():
        runtime, client = await client_of()
        stream = client.generate({"n": 20, "pause": 0.02}, annotated=False)
        await stream.__anext__()
        worker.send_signal(number)
        assert [item["i"] for item in await items(stream)] == list(range(20))
        await until(lambda: not client.instance_ids(), "it left discovery")
        with pytest.raises(errors.Unavailable):
            client.generate({})
        runtime.shutdown()

    run(main())
    assert worker.wait(PATIENCE) == 0
    assert worker.stdout.read() == "worker returned\nclean exit\n"


def test_a_second_signal_forces(run_python):
    worker = run_python("-c", WORKER)

    async def main():
        runtime, client = await client_of()
        stream = client.generate({"n": 1, "pause": 60}, annotated=False)
        await stream.__anext__()
        worker.send_signal(signal.SIGINT)
        await until(lambda: not client.instance_ids(), "the first signal was handled")
        worker.send_signal(signal.SIGINT)
        with pytest.raises(errors.StreamBroken):
            await items(stream)
        runtime.shutdown()

    run(main())
    assert worker.wait(PATIENCE) == -signal.SIGINT


def test_a_client_ends_on_ctrl_c(run_python):
    client = run_python("-c", CLIENT)  # waits for a worker that does not come
    seen = subprocess.run(["true"], check=True)
    assert seen.returncode == 0
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and b"SigCgt" in (status := _status(client.pid)) and not _catches(status, 2):
        time.sleep(0.02)
    code, out = end(client, signal.SIGINT)
    assert code != 0 and "KeyboardInterrupt" in out


def _status(pid):
    with open(f"/proc/{pid}/status", "rb") as file:
        return file.read()


def _catches(status, number):
    """Has the process its own asyncio handler already?  Its wake-up descriptor comes with the first one: SIGTERM."""
    mask = int(status.split(b"SigCgt:")[1].split()[0], 16)
    return bool(mask >> (signal.SIGTERM - 1) & 1)


def test_kill_9_breaks_the_stream_at_once_and_the_instance_disappears(run_python, monkeypatch):
    monkeypatch.setenv("DYN_FILE_KV_TTL", "2")
    worker = run_python("-c", WORKER)

    async def main():
        runtime, client = await client_of()
        stream = client.generate({"n": 1000, "pause": 0.01}, annotated=False)
        await stream.__anext__()
        worker.kill()
        began = time.monotonic()
        with pytest.raises(errors.StreamBroken):
            await items(stream)
        assert time.monotonic() - began < 2
        # Nothing was streamed: a refused connection, and nobody else is there.
        with pytest.raises(ConnectionError):
            await items(client.generate({}))
        await until(lambda: not client.instance_ids(), "the lease ran out", 10)
        runtime.shutdown()

    run(main())


def test_calls_go_to_the_other_worker_when_one_is_dead(run_python):
    workers = [run_python("-c", WORKER) for _ in range(2)]

    async def main():
        runtime, client = await client_of(count=2)
        pids = {(await items(client.round_robin({}, annotated=False)))[0]["pid"] for _ in range(4)}
        assert pids == {worker.pid for worker in workers}
        workers[0].kill()
        workers[0].wait(PATIENCE)
        for _ in range(10):
            (item,) = await items(client.round_robin({}, annotated=False))
            assert item["pid"] == workers[1].pid
        runtime.shutdown()

    run(main())
    assert end(workers[1], signal.SIGTERM)[0] == 0


BLOCKED = """
import asyncio, time
from dynamo.runtime import DistributedRuntime, dynamo_worker

@dynamo_worker()
async def worker(runtime: DistributedRuntime):
    async def handler(request):
        yield "blocking"
        await asyncio.sleep(0.05)
        end = time.monotonic() + request
        while time.monotonic() < end:      # holds the GIL and the loop
            pass
        yield "free again"
    await runtime.endpoint("a.b.c").serve_endpoint(handler)

asyncio.run(worker())
"""


def test_a_worker_whose_python_is_blocked_keeps_its_lease_and_its_connections(run_python, monkeypatch):
    monkeypatch.setenv("DYN_FILE_KV_TTL", "2")
    worker = run_python("-c", BLOCKED)

    async def main():
        runtime, client = await client_of("a.b.c")
        stream = client.generate(5.0, annotated=False)
        assert await stream.__anext__() == "blocking"
        seen = set()

        async def watch():
            while True:
                seen.add(len(client.instance_ids()))
                await asyncio.sleep(0.05)

        watcher = asyncio.ensure_future(watch())
        assert await items(stream) == ["free again"]
        watcher.cancel()
        assert seen == {1}
        runtime.shutdown()

    run(main())
    assert end(worker, signal.SIGTERM)[0] == 0


def test_a_client_that_is_killed_stops_the_handlers_of_its_calls(run_python, tmp_path):
    caller = """
import asyncio
from dynamo.runtime import DistributedRuntime
async def main():
    runtime = DistributedRuntime(asyncio.get_running_loop(), "file", "tcp")
    client = await runtime.endpoint("a.b.c").client()
    await client.wait_for_instances()
    async for item in client.generate(0, annotated=False):
        print(item, flush=True)
asyncio.run(main())
"""
    ended = []

    async def handler(request, context):
        try:
            yield "begun"
            await context.async_killed_or_stopped()
            ended.append(context.is_killed())
        finally:
            ended.append("finally")

    async def main():
        runtime = DistributedRuntime(asyncio.get_running_loop(), "file", "tcp")
        task = asyncio.ensure_future(runtime.endpoint("a.b.c").serve_endpoint(handler))
        process = run_python("-c", caller)
        assert (await asyncio.to_thread(process.stdout.readline)).strip() == "begun"
        process.kill()
        await until(lambda: ended == [True, "finally"], f"{ended}")
        runtime.shutdown()
        await task

    run(main())


def test_a_forked_child_makes_its_own_runtime(run_python):
    code = """
import asyncio, os, sys
from dynamo.runtime import DistributedRuntime

async def once():
    runtime = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
    endpoint = runtime.endpoint("a.b.c")
    async def handler(request):
        yield request
    task = asyncio.ensure_future(endpoint.serve_endpoint(handler))
    client = await endpoint.client()
    await client.wait_for_instances()
    got = [x async for x in client.generate(7, annotated=False)]
    runtime.shutdown()
    await task
    return got

print(asyncio.run(once()), flush=True)
pid = os.fork()
if pid == 0:
    print("child", asyncio.run(asyncio.wait_for(once(), 10)), flush=True)
    sys.exit(0)
print("status", os.waitpid(pid, 0)[1], asyncio.run(once()), flush=True)
"""
    process = run_python("-W", FORKS_BESIDE_THREADS, "-c", code)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "[7]\nchild [7]\nstatus 0 [7]\n")


def test_a_forked_child_leaves_its_parents_calls_alone(run_python):
    code = """
import asyncio, os, sys
from dynamo.runtime import DistributedRuntime

async def main():
    runtime = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
    endpoint = runtime.endpoint("a.b.c")
    async def handler(request):
        for i in range(3):
            yield i
            await asyncio.sleep(0.05)
    task = asyncio.ensure_future(endpoint.serve_endpoint(handler))
    client = await endpoint.client()
    await client.wait_for_instances()
    stream = client.generate(0, annotated=False)
    got = [await stream.__anext__()]
    pid = os.fork()
    if pid == 0:
        try:
            client.generate(0)
        except ConnectionError as error:
            assert "parent" in str(error)
            del stream, client, endpoint, runtime
            import gc; gc.collect()
            os._exit(0)
        os._exit(1)
    status = os.waitpid(pid, 0)[1]
    got += [x async for x in stream]
    print(status, got)
    runtime.shutdown()
    await task

asyncio.run(asyncio.wait_for(main(), 20))
"""
    process = run_python("-W", FORKS_BESIDE_THREADS, "-c", code)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "0 [0, 1, 2]\n")


@pytest.mark.parametrize("how", ["pass", "sys.exit(3)", "raise KeyboardInterrupt", "os._exit(3)"])
def test_the_interpreter_ends_while_calls_are_under_way(run_python, how):
    code = f"""
import asyncio, os, sys
from dynamo.runtime import DistributedRuntime
streams = []
async def main():
    runtime = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
    endpoint = runtime.endpoint("a.b.c")
    async def handler(request):
        while True:
            yield "x" * 1000
            await asyncio.sleep(0)
    task = asyncio.ensure_future(endpoint.serve_endpoint(handler))
    client = await endpoint.client()
    await client.wait_for_instances()
    for _ in range(10):
        streams.append(client.generate(0))
        await streams[-1].__anext__()
    {how}
asyncio.run(main())
"""
    process = run_python("-c", code)
    out, _ = process.communicate(timeout=PATIENCE)
    want = {"pass": (0,), "raise KeyboardInterrupt": (1, 130, -2)}.get(how, (3,))
    assert process.returncode in want, out
    assert "Fatal" not in out and "Segmentation" not in out


def test_the_environment_says_where_a_worker_listens(run_python, monkeypatch):
    monkeypatch.setenv("DYN_TCP_RPC_HOST", "::1")
    worker = run_python("-c", WORKER)

    async def main():
        runtime, client = await client_of()
        assert client.instances()[0].transport.address.startswith("[::1]:")
        assert (await items(client.generate({}, annotated=False)))[0]["result"] == "hello"
        runtime.shutdown()

    if not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 here")
    run(main())
    assert end(worker, signal.SIGTERM)[0] == 0
