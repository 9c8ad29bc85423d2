"""examples/quill_llm: the server with both engines, its client, and curl's view of it."""

import json
import signal
import urllib.request

import pytest

from ..conftest import ROOT

HERE = ROOT / "examples" / "quill_llm"


def start(run_python, *arguments):
    process = run_python(str(HERE / "server.py"), "--port", "0", *arguments)
    for line in process.stdout:
        if line.startswith("listening on "):
            return process, line.split()[-1]
    raise AssertionError("the server ended")


def generate(url, **request):
    request = urllib.request.Request(
        f"{url}/inference.v1.LLMService/Generate",
        json.dumps(request).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.parametrize("engine", ["mocker", "llamacpp"])
def test_both_engines_answer_the_client(run_python, engine, tiny_gguf):
    arguments = ["--speedup", "0"]
    if engine == "llamacpp":
        pytest.importorskip("xllamacpp")
        arguments = ["--engine", "llamacpp", "--model", str(tiny_gguf)]
    process, url = start(run_python, *arguments)
    answer = generate(url, prompt="hello", max_tokens=7)
    assert 1 <= len(answer["tokens"]) <= 7
    assert answer["text"] == "".join(token["text"] for token in answer["tokens"])
    assert [token["position"] for token in answer["tokens"]] == list(range(len(answer["tokens"])))
    out, _ = run_python(str(HERE / "client.py"), url, "--prompt", "hello").communicate(timeout=60)
    assert "Traceback" not in out
    assert out.strip()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
