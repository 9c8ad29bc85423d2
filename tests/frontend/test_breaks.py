"""Workers that die, clients that leave or do not read: no token lost or doubled, nothing left behind."""

import asyncio
import json
import os
import signal

import httpx
import openai
import pytest

from .stack import EOS, make_tokenizer, run, says, stack, text_of

HI = [{"role": "user", "content": "hi"}]
STORY = "".join(f"line {i} of the story, 世界.\n" for i in range(40))


def follows(story, delay=0.0, die_after=None, died=None):
    """A deterministic worker: it says the part of the story that follows what the prompt has of it already."""
    data = story.encode()

    async def handler(request, context):
        prompt = bytes(i for i in request["token_ids"] if i < 256)
        at = prompt.rfind(b"assistant\n") + len(b"assistant\n")
        have = len(prompt) - at
        assert data.startswith(prompt[at:])
        left = request["stop_conditions"].get("max_tokens") or len(data)
        for n, byte in enumerate(data[have : have + left]):
            if die_after is not None and n == die_after:
                died.set()
                await asyncio.sleep(3600)
            await asyncio.sleep(delay)
            yield {"token_ids": [byte]}
        yield (
            {"token_ids": [EOS], "finish_reason": "eos"}
            if have + left > len(data)
            else {"token_ids": [], "finish_reason": "length"}
        )

    return handler


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("die_after", [0, 1, 300])
def test_a_dying_worker_loses_no_token(tmp_path, stream, die_after):
    async def main():
        async with stack(tmp_path) as s:
            died = asyncio.Event()
            first = await s.worker(follows(STORY, die_after=die_after, died=died), context_length=8192)
            await s.worker(follows(STORY), context_length=8192)
            extra = {"nvext": {}, "max_tokens": 900}
            found = s.front.models["m"].workers
            others = [id for id in found if id != first.id]
            found[others[0]].inhibited_until = float("inf")  # the first request goes to the one that will die

            async def ask():
                if not stream:
                    chat = await s.client.chat.completions.create(model="m", messages=HI, extra_body=extra)
                    return chat.choices[0].message.content, chat.choices[0].finish_reason, chat.usage.completion_tokens
                text, finish, usage = "", None, None
                more = {"stream_options": {"include_usage": True}}
                async for chunk in await s.client.chat.completions.create(
                    model="m", messages=HI, stream=True, extra_body={**extra, **more}
                ):
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        text += choice.delta.content or ""
                        finish = choice.finish_reason or finish
                return text, finish, usage.completion_tokens

            asked = asyncio.ensure_future(ask())
            await asyncio.wait_for(died.wait(), 10)
            found[others[0]].inhibited_until = 0
            await first.die()
            want = STORY.encode()[:900].decode("utf-8", "replace")
            assert await asked == (want, "length", 900)
            await s.quiet()
            record = s.front.records.recent[0]
            assert (record.calls, record.worker, record.cause) == (2, others[0], "migrated")
            assert s.front.models["m"].core.stats()["booked"] == 0
            # A single token may die with the connection on which it was written, and comes from the other worker.
            kinds = {0: ["new_request"], 1: ["new_request", "ongoing_request"], 300: ["ongoing_request"]}[die_after]
            text = (await s.http.get("/metrics")).text
            counted = [f'dynamo_frontend_model_migration_total{{model="m",migration_type="{k}"}} 1' for k in kinds]
            assert sum(line in text for line in counted) == 1

    run(main())


def test_with_nobody_left_the_answer_is_503_and_the_front_end_lives(tmp_path):
    async def main():
        async with stack(tmp_path) as s:
            died = asyncio.Event()
            workers = [await s.worker(follows(STORY, die_after=5, died=died), context_length=8192) for _ in range(2)]
            plain = asyncio.ensure_future(s.http.post("/v1/chat/completions", json={"model": "m", "messages": HI}))
            streamed = asyncio.ensure_future(
                s.http.post("/v1/chat/completions", json={"model": "m", "messages": HI, "stream": True})
            )
            await asyncio.wait_for(died.wait(), 10)
            await s.until(lambda: len(s.front.records.running) == 2)
            tokens = s.front.metrics.output_tokens.labels("m")
            await s.until(lambda: tokens.value == 10)
            for worker in workers:
                await worker.die()
            got = await plain
            assert (
                got.status_code == 503
                and got.headers["retry-after"]
                and "nobody else" in got.json()["error"]["message"]
            )
            got = await streamed
            assert got.status_code == 200 and "[DONE]" not in got.text
            last = got.text.strip().split("\n\n")[-1]
            assert (
                last.startswith("event: error\ndata: ")
                and json.loads(last.split("data: ")[1])["error"]["code"] == "unavailable"
            )
            got = await s.http.post("/v1/chat/completions", json={"model": "m", "messages": HI})
            assert got.status_code == 503 and got.headers["retry-after"]
            await s.worker(says("back"))
            assert (await s.client.chat.completions.create(model="m", messages=HI)).choices[0].message.content == "back"

    run(main())


def test_a_worker_that_only_looks_alive_is_passed_over(tmp_path):
    """Discovery still knows it, but nobody listens there: the request goes on before anything was sent."""

    async def main():
        async with stack(tmp_path) as s:
            dead = await s.worker(says("never"))
            await s.worker(says("alive"))
            dead.runtime.server.close()
            for _ in range(4):
                chat = await s.client.chat.completions.create(model="m", messages=HI)
                assert chat.choices[0].message.content == "alive"

    run(main())


def test_the_migration_limit_holds(tmp_path):
    async def fails(request, context):
        from dynamo.errors import EngineShutdown

        yield {"token_ids": [65]}
        raise EngineShutdown("going down")

    async def main():
        async with stack(tmp_path, migration_limit=1) as s:
            for _ in range(3):
                await s.worker(fails)
            got = await s.http.post("/v1/chat/completions", json={"model": "m", "messages": HI})
            assert got.status_code == 503 and "1 times only" in got.json()["error"]["message"]

    run(main())


def test_a_client_that_leaves_stops_the_worker(tmp_path):
    ended = []

    async def endless(request, context):
        try:
            while True:
                yield {"token_ids": [65]}
                await asyncio.sleep(0.005)
        finally:
            ended.append(context.is_stopped() or context.is_killed())

    async def main():
        async with stack(tmp_path) as s:
            await s.worker(endless)
            for stream in (True, False):
                reader, writer = await asyncio.open_connection("127.0.0.1", s.front.server.port)
                body = json.dumps({"model": "m", "messages": HI, "stream": stream, "max_tokens": 2000}).encode()
                writer.write(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                await s.until(lambda: s.front.models["m"].core.stats()["booked"] == 1)
                if stream:
                    await reader.readuntil(b"A")
                writer.close()
                await s.until(lambda: s.front.models["m"].core.stats()["booked"] == 0)
            await s.until(lambda: len(ended) == 2)
            await s.quiet()
            assert [record.state for record in s.front.records.recent] == ["cancelled"] * 2
            assert "disconnected_clients" in (await s.http.get("/metrics")).text

    run(main())


def test_a_worker_that_ignores_stop_is_killed(tmp_path):
    ended = []

    async def main():
        async def stubborn(request, context):
            try:
                while True:
                    yield {"token_ids": [ord("x")]}
                    await asyncio.sleep(0.01)
            finally:
                ended.append(context.is_killed())

        async with stack(tmp_path) as s:
            await s.worker(stubborn)
            chat = await s.client.chat.completions.create(model="m", messages=HI, max_tokens=2)
            assert chat.choices[0].message.content == "xx" and not ended
            await s.until(lambda: ended and not s.front.records.running)
            assert ended == [True]

    run(main())


def test_a_silent_worker_is_given_up_when_a_timeout_is_set(tmp_path):
    async def main():
        async def silent(request, context):
            yield {"token_ids": [ord("x")]}
            await asyncio.sleep(60)

        async with stack(tmp_path, stream_timeout=0.3) as s:
            await s.worker(silent)
            with pytest.raises(openai.APIStatusError) as failure:
                await s.client.chat.completions.create(model="m", messages=HI)
            assert failure.value.status_code == 504 and "silent" in failure.value.message
            await s.quiet()

    run(main())


def test_a_client_that_never_reads_holds_up_its_own_worker_only(tmp_path):
    made = {"slow": 0}

    async def many(request, context):
        name = text_of(request)
        for _ in range(60_000):
            if context.is_stopped():
                return
            made[name] = made.get(name, 0) + 1
            yield {"token_ids": [65] * 8}
        yield {"token_ids": [], "finish_reason": "stop"}

    async def main():
        async with stack(tmp_path) as s:
            await s.worker(many, context_length=1 << 20)
            reader, writer = await asyncio.open_connection("127.0.0.1", s.front.server.port, limit=1024)
            writer.transport.pause_reading()
            body = json.dumps({"model": "m", "prompt": "slow", "stream": True, "max_tokens": 500_000}).encode()
            writer.write(
                b"POST /v1/completions HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            before = -1
            while before != made["slow"] or before == 0:
                before = made["slow"]
                await asyncio.sleep(0.3)
            assert before < 60_000
            other = await s.client.completions.create(model="m", prompt="quick", max_tokens=80)
            assert other.usage.completion_tokens == 80
            assert made["slow"] == before
            writer.transport.resume_reading()
            answer = await reader.read()  # to the end of the connection
            assert answer.count(b"AAAAAAAA") == 60_000 and answer.count(b"[DONE]") == 1
            writer.close()

    run(main())


WORKER = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
from frontend.stack import card
from frontend.test_breaks import STORY, follows
from dynamo.runtime import DistributedRuntime
async def main():
    runtime = DistributedRuntime(asyncio.get_running_loop(), "file")
    endpoint = runtime.endpoint("test.worker.generate")
    id = runtime.instance_id()
    made = card("m", sys.argv[2], context_length=8192)
    entry = {"type": "Model", "namespace": "test", "component": "worker", "endpoint": "generate", "instance_id": id,
             "card_json": made.to_dict()}
    runtime.store.put(f"v1/mdc/test/worker/generate/{id:x}", json.dumps(entry).encode(), runtime.lease)
    await endpoint.serve_endpoint(follows(STORY, delay=0.001))
asyncio.run(main())
"""


def test_kill_9_in_the_middle_of_a_stream(tmp_path, run_python, monkeypatch):
    """Two worker processes; the one that answers is killed. The text is that of an undisturbed run."""
    import pathlib

    from dynamo.frontend import Frontend, Settings
    from dynamo.runtime import DistributedRuntime

    folder = make_tokenizer(tmp_path / "model")
    tests = str(pathlib.Path(__file__).resolve().parent.parent)
    processes = [run_python("-c", WORKER, tests, str(folder)) for _ in range(2)]

    async def main():
        runtime = DistributedRuntime(asyncio.get_running_loop(), "file")
        front = Frontend(runtime, port=0, settings=Settings.from_environment({}, router="round-robin"))
        await front.start()
        client = openai.AsyncOpenAI(base_url=front.url + "/v1", api_key="x", max_retries=0, timeout=30)
        try:
            for _ in range(1000):
                if "m" in front.models.models and len(front.models["m"].ready) == 2:
                    break
                await asyncio.sleep(0.02)
            calm = await client.chat.completions.create(model="m", messages=HI)
            assert calm.choices[0].message.content == STORY
            killed = False
            text = ""
            stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
                if len(text) > 100 and not killed:
                    killed = True
                    worker = next(iter(front.records.running.values())).worker
                    port = int(front.models["m"].workers[worker].address.split(b":")[1].split(b"/")[0])
                    victim = next(p for p in processes if listens(p.pid, port))
                    os.kill(victim.pid, signal.SIGKILL)
            assert killed and text == STORY
            assert front.records.migrations == 1 or front.records.recent[0].calls == 2
            for process in processes:
                process.kill()
            got = await httpx.AsyncClient().post(
                front.url + "/v1/chat/completions", json={"model": "m", "messages": HI}
            )
            assert got.status_code == 503 and got.headers["retry-after"]
        finally:
            await client.close()
            await front.stop(0.2)
            runtime.shutdown()

    run(main())


def listens(pid, port):
    """Does this process listen there? From /proc, so that the test needs nothing else."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    with open(f"/proc/{pid}/net/tcp") as table:
        for line in list(table)[1:]:
            fields = line.split()
            if int(fields[1].split(":")[1], 16) == port and fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                return True
    return False
