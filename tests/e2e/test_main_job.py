"""The main job on real input: `dynamo serve` with two workers on a real engine, through the `openai` client."""

import asyncio
import json
import os
import re
import signal
import sys
import time

import pytest

from ..conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from conversations import Server, figures, run_conversations

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def serve(tiny_gguf):
    servers = []

    def start(router="kv", workers=2, engine="llamacpp", extra=(), model=tiny_gguf):
        server = Server(model, router, workers, engine, extra)
        servers.append(server)
        server.wait_ready(workers, 120)
        server.model = state(server)["models"][0]["name"]
        return server

    yield start
    for server in servers:
        server.stop()


def state(server):
    return json.loads(server.get("/dashboard/state"))


def ready_workers(server):
    models = state(server)["models"]
    return [w["id"] for m in models for w in m["workers"] if w["state"] == "ready"]


def until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.05)
    pytest.fail(f"{what}: not within {seconds} s")


def worker_pids(server):
    """instance id (hex) -> pid, of the workers that started last."""
    lines = re.findall(r"worker \d+ is ready(?: again)? \(pid (\d+), instance ([0-9a-f]+)", server.output())
    return {instance: int(pid) for pid, instance in lines}


def client_of(server):
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=server.url + "/v1", api_key="none", timeout=120, max_retries=0)


def test_follow_up_turns_go_where_their_prefix_is(serve):
    server = serve("kv")
    rows = asyncio.run(run_conversations(server.url, server.model, 8, 4, 12))
    assert len(rows) == 32
    until(lambda: sum(state(server)["sums"]["causes"].values()) == 32, "every answer is recorded")
    for record in state(server)["requests"]:
        costs = [w["cost"] for w in record["why"] if w["verdict"] == "eligible"]
        assert len(costs) == 2, record
        # Where another worker held more of the prefix, the load there was what decided.
        assert record["cost"] <= min(costs) + 1e-9
    assert figures(rows)["follow-ups on the same worker, %"] >= 75
    # The engine's count is what the mirror of the chosen slot said at admission, always; and it is what the index
    # promised whenever the slot that holds the prefix was idle. The other cases are counted by cause.
    now = state(server)
    for record in now["requests"]:
        assert record["cached_tokens"] == record["mirror_tokens"] >= 0, record
        held = min(record["overlap_blocks"], (record["prompt_tokens"] - 1) // record["block_size"])
        if record["cause"] == "as-predicted":
            assert record["cached_tokens"] // record["block_size"] == held, record
        else:
            assert record["cause"] in ("slot-busy", "slot-taken", "stored-since", "copy-too-dear"), record
            assert record["cause"] == record["engine_cause"] in now["meanings"]
    causes = now["sums"]["causes"]
    assert sum(causes.values()) == 32
    assert causes.get("as-predicted", 0) >= 24, causes
    metrics = server.get("/metrics").decode()
    for cause, count in causes.items():
        assert re.search(rf'cache_prediction_total{{model="[^"]+",cause="{cause}"}} {count}\b', metrics), cause
    followups = [row for row in rows if row[1] > 0]
    assert sum(row[4] for row in followups) > 0.5 * sum(row[3] for row in followups)


def test_kv_routing_computes_fewer_tokens_than_round_robin(serve):
    computed = {}
    for router in ("kv", "round-robin"):
        server = serve(router)
        # One conversation: round-robin cannot keep it on one worker by luck.
        computed[router] = figures(asyncio.run(run_conversations(server.url, server.model, 1, 4, 8)))
        server.stop()
    assert computed["kv"]["prompt tokens computed"] < computed["round-robin"]["prompt tokens computed"]


async def stream_text(client, model, prompt, tokens, on_chunk=None):
    text, worker = [], None
    async with client.completions.with_streaming_response.create(
        model=model, prompt=prompt, max_tokens=tokens, temperature=0, stream=True, extra_body={"ignore_eos": True}
    ) as response:
        worker = response.headers["x-dynamo-worker-instance-id"]
        async for line in response.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                text += [choice["text"] for choice in chunk["choices"]]
                if on_chunk:
                    on_chunk(len(text), worker)
    return "".join(text), worker


@pytest.mark.parametrize("engine", ["mocker", "llamacpp"])
def test_a_killed_worker_loses_and_doubles_no_token(serve, engine):
    extra = ["--speedup", "1"] if engine == "mocker" else []
    tokens = 60 if engine == "mocker" else 1500
    server = serve("kv", engine=engine, extra=extra)
    prompt = "The quick brown fox jumps over the lazy dog. " * 4

    async def main():
        async with client_of(server) as client:
            undisturbed, _ = await stream_text(client, server.model, prompt, tokens)
            pids, killed = worker_pids(server), []

            def kill_once(chunks, worker):
                if chunks == 10 and not killed:
                    killed.append(worker)
                    os.kill(pids[f"{int(worker):x}" if worker.isdigit() else worker], signal.SIGKILL)

            disturbed, _ = await stream_text(client, server.model, prompt, tokens, kill_once)
            assert killed
            return undisturbed, disturbed

    undisturbed, disturbed = asyncio.run(main())
    if engine == "mocker":
        assert disturbed == undisturbed
    else:  # a real engine's numbers differ a little with and without reuse: the count is what must be exact
        assert len(disturbed) > 0
    # The record of a request is closed after its last byte has gone out.
    until(lambda: state(server)["requests"][0]["state"] != "running", "the answer is recorded")
    requests = state(server)["requests"]
    assert requests[0]["calls"] == 2
    assert requests[0]["completion_tokens"] == requests[1]["completion_tokens"] == tokens
    until(lambda: len(ready_workers(server)) == 2, "the killed worker is started again")


def test_both_workers_dead_is_a_clear_503_and_the_front_end_lives(serve):
    import httpx

    server = serve("kv", engine="mocker")
    for pid in worker_pids(server).values():
        os.kill(pid, signal.SIGSTOP)  # not killed: the supervisor would start others
    try:
        until(lambda: not ready_workers(server), "stopped workers leave when their lease is over", 40)
        answer = httpx.post(
            server.url + "/v1/completions", json={"model": server.model, "prompt": "x", "max_tokens": 1}, timeout=30
        )
        assert answer.status_code == 503 and answer.json()["error"]["message"], answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert httpx.get(server.url + "/live").status_code == 200
        assert httpx.get(server.url + "/health").status_code == 503
    finally:
        for pid in worker_pids(server).values():
            os.kill(pid, signal.SIGCONT)
    until(lambda: len(ready_workers(server)) == 2, "workers that go on are back", 40)


def test_ctrl_c_ends_everything(serve):
    server = serve("kv", engine="echo")
    pids = list(worker_pids(server).values())
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) in (0, 130)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
