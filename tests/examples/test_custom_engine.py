"""examples/custom_engine: a worker and a front end, as its README starts them."""

import json
import re
import signal
import urllib.request

from ..conftest import ROOT


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def wait_for_model(url):
    import time

    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                return json.load(answer)["models"]
        except OSError:
            time.sleep(0.05)
    raise AssertionError("no model in 20 s")


def test_a_bigram_model_answers_openai_clients(run_python):
    worker = run_python(str(ROOT / "examples/custom_engine/worker.py"), env={"XDG_CACHE_HOME": "cache"})
    front = run_python("-m", "dynamo", "frontend", "--port", "0")
    line = front.stdout.readline()
    url = re.search(r"http://[\d.]+:\d+", line).group()
    assert wait_for_model(url) == ["bigram"]
    body = {"model": "bigram", "prompt": "The riv", "max_tokens": 12, "temperature": 0}
    first = post(f"{url}/v1/completions", body)["choices"][0]
    assert first["text"].startswith("er") and first["finish_reason"] == "length"
    body |= {"temperature": 1, "seed": 7}
    assert post(f"{url}/v1/completions", body) | {"id": 0, "created": 0} == post(f"{url}/v1/completions", body) | {
        "id": 0,
        "created": 0,
    }
    chat = {"model": "bigram", "messages": [{"role": "user", "content": "The old"}], "max_tokens": 20, "stop": ["r"]}
    answer = post(f"{url}/v1/chat/completions", chat)
    assert "r" not in answer["choices"][0]["message"]["content"]
    for process in (front, worker):
        process.send_signal(signal.SIGTERM)
    assert front.wait(20) == 0 and worker.wait(20) == 0
