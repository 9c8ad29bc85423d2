"""The examples with a server, as their READMEs run them."""

import json
import signal
import urllib.error
import urllib.request

import pytest

from ..conftest import ROOT


@pytest.fixture
def start(run_python):
    def start(example):
        process = run_python(str(ROOT / "examples" / example / "server.py"), "--port", "0")
        line = process.stdout.readline()
        assert line.startswith("listening on "), line + process.stdout.read()
        return process, line.split()[-1]

    return start


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_openai_service_repeats_what_it_hears(start):
    process, url = start("openai_service")
    body = {"model": "parrot", "messages": [{"role": "user", "content": "pieces of eight"}]}
    answer = post(f"{url}/chat/completions", body)
    assert answer["choices"][0]["message"]["content"] == "pieces of eight "
    assert answer["choices"][0]["finish_reason"] == "stop"
    body["messages"][0]["content"] = [{"type": "image_url"}]
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{url}/chat/completions", body)
    assert refused.value.code == 422 and "plain text" in refused.value.read().decode()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_custom_metrics_stand_beside_those_of_the_library(start):
    process, url = start("custom_metrics")
    for mood in ("calm", "calm", "wild"):
        post(
            f"{url}/chat/completions", {"model": "haiku", "user": mood, "messages": [{"role": "user", "content": "x"}]}
        )
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    assert 'haiku_written_total{mood="calm"} 2' in lines and 'haiku_written_total{mood="wild"} 1' in lines
    assert "haiku_line_seconds_count 9" in lines and "haiku_poets_busy 0" in lines
    assert any(line.startswith("dynamo_frontend_requests_total{") for line in lines)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
