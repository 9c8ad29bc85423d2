"""The three programs that people bring along, word for word: as processes over files, and in one process over memory.

Python's development mode and `-W error::ResourceWarning` hold: nothing may be left open, nothing awaited too late.
"""

import signal

import pytest

STRICT = ("-X", "dev", "-W", "error::ResourceWarning", "-W", "error::RuntimeWarning")

HEAD = """
import asyncio
from dynamo.llm import ModelInput, ModelType, register_llm
from dynamo.runtime import DistributedRuntime, dynamo_worker
"""

WORKER = """
@dynamo_worker()
async def worker(runtime: DistributedRuntime):
    component = runtime.namespace("my-ns").component("my-component")
    endpoint = component.endpoint("generate")
    async def handler(request):
        yield {"result": "hello"}
    await endpoint.serve_endpoint(handler)
"""

REGISTERED = """
@dynamo_worker()
async def worker(runtime: DistributedRuntime):
    endpoint = runtime.endpoint("my-ns.my-component.generate")
    await register_llm(model_input=ModelInput.Tokens, model_type=ModelType.Chat | ModelType.Completions,
                       endpoint=endpoint, model_name="Qwen/Qwen3-0.6B", block_size=64)
    async def handler(request):
        for token in request["token_ids"]:
            yield {"token_ids": [token]}
        yield {"token_ids": [], "finish_reason": "stop"}
    await endpoint.serve_endpoint(handler)
"""

CLIENT = """
@dynamo_worker()
async def client(runtime: DistributedRuntime):
    endpoint = runtime.namespace("my-ns").component("my-component").endpoint("generate")
    request = {"token_ids": [5, 6]}
    client = await endpoint.client()
    await client.wait_for_instances()
    async for response in client.generate(request):
        print(response.data())
    async for x in await client.generate(request):
        print(x.data())
    async for x in await client.static(request, annotated=False):
        print(x)
"""


@pytest.fixture
def start(run_python, tmp_path):
    def start(name, code):
        path = tmp_path / f"{name}.py"
        path.write_text(HEAD + code)
        return run_python(*STRICT, str(path))

    return start


def finish(process, number=None):
    """Its output once it ended by itself, or by a signal; it must say that all is well."""
    if number is not None:
        process.send_signal(number)
    text, _ = process.communicate(timeout=30)
    # Development mode also tells of slow turns of the loop, which there are on a loaded machine.
    text = "".join(line for line in text.splitlines(True) if not line.startswith("Executing <"))
    assert process.returncode == 0, text
    assert "Warning" not in text and "Traceback" not in text, text
    return text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_two_processes_find_and_call_each_other(start, number):
    worker = start("worker", WORKER + "asyncio.run(worker())")
    client = start("client", CLIENT + "asyncio.run(client())")
    assert finish(client).splitlines() == ["{'result': 'hello'}"] * 3
    assert finish(worker, number) == ""


def test_one_process_over_memory(start):
    both = (
        WORKER
        + CLIENT
        + """
async def both():
    serving = asyncio.create_task(worker())
    await client()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
import os
os.environ["DYN_DISCOVERY_BACKEND"] = "mem"
asyncio.run(both())
"""
    )
    assert finish(start("both", both)).splitlines() == ["{'result': 'hello'}"] * 3


SERVED = """
import json, urllib.error, urllib.request
from dynamo.frontend import Frontend

@dynamo_worker()
async def main(runtime: DistributedRuntime):
    front = Frontend(runtime, "127.0.0.1", 0)
    await front.start()
    url = front.url.removesuffix("/v1") + "/v1"

    def ask(path, **body):
        body = json.dumps({"model": "Qwen/Qwen3-0.6B", **body}).encode()
        request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["error"]["message"]

    while not front.models.get("Qwen/Qwen3-0.6B") or not front.models["Qwen/Qwen3-0.6B"].ready:
        await asyncio.sleep(0.02)
    print((await asyncio.to_thread(ask, "/completions", prompt=[5, 6, 7]))["usage"]["completion_tokens"])
    print(await asyncio.to_thread(ask, "/chat/completions", messages=[{"role": "user", "content": "hi"}]))
    await front.stop()
asyncio.run(main())
"""


def test_a_registered_name_is_served_by_token_ids(start):
    worker = start("worker", REGISTERED + "asyncio.run(worker())")
    answered, refused = finish(start("front", SERVED)).splitlines()
    assert answered == "3"
    assert refused.startswith("(400,") and "no tokeniser" in refused and "model_path" in refused
    finish(worker, signal.SIGTERM)


def test_a_client_that_waits_ends_with_ctrl_c(start):
    waiting = start(
        "waiting",
        """
@dynamo_worker()
async def main(runtime):
    client = await runtime.endpoint("a.b.c").client()
    print("waiting", flush=True)
    await client.wait_for_instances()
asyncio.run(main())
""",
    )
    assert waiting.stdout.readline() == "waiting\n"
    waiting.send_signal(signal.SIGINT)
    text, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == -signal.SIGINT and text.rstrip().endswith("KeyboardInterrupt"), text


def test_a_handler_that_would_block_is_refused_when_it_is_served(start):
    # It was accepted, and every request failed.
    refused = start(
        "blocking",
        """
@dynamo_worker()
async def main(runtime):
    def handler(request):
        yield 1
    try:
        await runtime.endpoint("a.b.c").serve_endpoint(handler)
    except ValueError as error:
        print(error)
asyncio.run(main())
""",
    )
    assert "plain generator" in finish(refused)
