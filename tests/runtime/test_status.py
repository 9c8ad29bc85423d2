"""The status server: health, metrics and engine routes of a worker."""

import asyncio
import json
import urllib.error
import urllib.request

import pytest

from dynamo.runtime import DistributedRuntime
from dynamo.runtime.settings import flag, number, port


def fetch(url, data=None):
    try:
        with urllib.request.urlopen(url, data, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_metrics_and_engine_routes(monkeypatch):
    monkeypatch.setenv("DYN_SYSTEM_PORT", "0")

    async def handler(request):
        if request == "fail":
            raise ValueError
        yield request

    async def status(request):
        return {"got": request}

    async def main():
        runtime = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
        second = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
        assert second.system_status_server_url() is None  # one for a process
        url = runtime.system_status_server_url()

        async def get(path, data=None):
            return await asyncio.to_thread(fetch, url + path, data)

        code, body = await get("/health")
        assert code == 503 and json.loads(body)["status"] == "notready"
        endpoint = runtime.endpoint("stat.comp.ep")
        task = asyncio.ensure_future(endpoint.serve_endpoint(handler, metrics_labels=[("model", "m")]))
        client = await endpoint.client()
        await client.wait_for_instances()
        code, body = await get("/health")
        body = json.loads(body)
        assert (code, body["status"], body["endpoints"]) == (200, "ready", {"stat.comp.ep": "ready"})
        assert set(body["uptime"]) == {"secs", "nanos"}
        assert (await get("/live"))[0] == 200

        for _ in range(3):
            assert [x async for x in client.generate(1, annotated=False)] == [1]
        with pytest.raises(ValueError):
            [x async for x in client.generate("fail")]
        mine = endpoint.metrics.counter("stat_test_total", "Mine.")
        mine.inc(2)
        _, text = await get("/metrics")
        labels = 'dynamo_namespace="stat",dynamo_component="comp",dynamo_endpoint="ep",model="m"'
        assert f"dynamo_component_requests_total{{{labels}}} 4" in text
        assert f"dynamo_component_request_duration_seconds_count{{{labels}}} 4" in text
        assert f'dynamo_component_errors_total{{{labels},error_type="generate"}} 1' in text
        assert f"dynamo_component_inflight_requests{{{labels}}} 0" in text
        assert f"stat_test_total{{{labels}}} 2" in text

        runtime.register_engine_route("status", status)
        assert await get("/engine/status", b'{"a": 1}') == (200, '{"got":{"a":1}}')
        assert (await get("/engine/none", b"{}"))[0] == 404
        runtime.set_health_status(False)
        assert (await get("/health"))[0] == 503
        runtime.shutdown()
        second.shutdown()
        await task

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_handler_that_does_not_answer_its_health_check_is_not_ready(monkeypatch):
    monkeypatch.setenv("DYN_CANARY_WAIT_TIME", "0.05")
    probes = []

    async def handler(request):
        probes.append(request)
        if sick:
            raise RuntimeError
        yield "well"

    async def main():
        global sick
        sick = True
        runtime = DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
        endpoint = runtime.endpoint("can.comp.ep")
        task = asyncio.ensure_future(endpoint.serve_endpoint(handler, health_check_payload={"n": 1}))
        for state in ("notready", "ready"):
            while runtime.health()["endpoints"].get("can.comp.ep") != state:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            sick = False
        assert probes[0] == {"n": 1, "_HEALTH_CHECK": True}
        runtime.shutdown()
        await task

    asyncio.run(asyncio.wait_for(main(), 30))


def test_settings_say_what_is_wrong(monkeypatch):
    monkeypatch.setenv("X", "many")
    with pytest.raises(ValueError, match="X='many': must be a number"):
        number("X", 1)
    monkeypatch.setenv("X", "70000")
    with pytest.raises(ValueError, match="must be a port"):
        port("X", 1)
    for value, want in (("1", True), ("on", True), ("Yes", True), ("0", False), ("", False)):
        monkeypatch.setenv("X", value)
        assert flag("X") is want
