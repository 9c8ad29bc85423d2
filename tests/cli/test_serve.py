"""`dynamo serve` with real processes: the way up, a worker that dies, the way down."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

LIMIT = 60


class Serving:
    """A running `dynamo serve`, its lines as they come."""

    def __init__(self, process):
        self.process, self.lines, self.changed = process, [], threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.lines.append(None)
            self.changed.notify_all()

    def until(self, pattern, count=1):
        """The match of the count-th line with this pattern."""
        end = time.monotonic() + LIMIT
        with self.changed:
            while True:
                found = [m for m in (re.search(pattern, line) for line in self.lines if line is not None) if m]
                if len(found) >= count:
                    return found[count - 1]
                left = end - time.monotonic()
                assert left > 0 and None not in self.lines, f"no {pattern!r} in {self.lines}"
                self.changed.wait(left)

    @property
    def url(self):
        return self.until(r"OpenAI clients +(http://[\d.]+:\d+)/v1")[1]

    def pids(self):
        return {m[1]: int(m[2]) for m in (re.match(r"(.+) is ready.*\(pid (\d+)", x) for x in self.lines if x) if m}

    def stop(self, number=signal.SIGINT):
        self.process.send_signal(number)
        code = self.process.wait(LIMIT)
        self.reader.join(10)
        return code


@pytest.fixture
def serve(run_python, tmp_path):
    def start(*args, env=None):
        env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "DYN_FILE_KV_TTL": "3", **(env or {})}
        return Serving(run_python("-m", "dynamo", "serve", "--port", "0", *map(str, args), env=env))

    return start


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform == "linux":
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    return True


def wait_until(true, what):
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def post(url, body, key=None):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=LIMIT)


def chat(url, text, **more):
    body = {"model": "echo", "messages": [{"role": "user", "content": text}], **more}
    return post(f"{url}/v1/chat/completions", body)


def workers_of(url):
    with urllib.request.urlopen(f"{url}/dashboard/state", timeout=LIMIT) as answer:
        models = json.load(answer)["models"]
    return [w for model in models for w in model["workers"] if w["state"] in ("ready", "silent", "busy")]


def test_serve_answers_restarts_a_dead_worker_and_stops_cleanly(serve, dynamo):
    serving = serve("--engine", "echo", "--workers", 2)
    url = serving.url
    banner = "\n".join(serving.lines[-10:])
    assert "curl -s" in banner and "live page" in banner
    with chat(url, "hello") as answer:
        assert "hello" in json.load(answer)["choices"][0]["message"]["content"]
        assert re.fullmatch("[0-9a-f]+", answer.headers["x-dynamo-worker-instance-id"])

    code, text = dynamo("top", "--once", "--url", url, "--requests", 5)
    assert code == 0 and len(re.findall(r"^[0-9a-f]+ +(?:ready|silent)", text, re.M)) == 2, text

    before = serving.pids()
    os.kill(before["worker 2"], signal.SIGKILL)
    serving.until(r"worker 2 \(pid \d+\) was killed by SIGKILL; it is started again in 1 s")
    serving.until(r"worker 2 is ready again")
    wait_until(lambda: len(workers_of(url)) == 2, "two workers again")
    with chat(url, "again") as answer:
        assert answer.status == 200

    pids = serving.pids()
    assert pids["worker 2"] != before["worker 2"] and all(map(alive, pids.values()))
    assert serving.stop() == 0
    assert not any(map(alive, pids.values()))
    assert any("stopping" in line for line in serving.lines if line)


def test_the_curl_line_of_the_banner_works(serve):
    serving = serve("--engine", "mocker", "--speedup", 0, "--api-key", "s3cret", "--router", "round-robin")
    url = serving.url
    serving.until("Ctrl-C stops")
    text = "\n".join(line for line in serving.lines if line)
    command = re.search(r"curl -s .*?-d '.*?'(?=\s*\n)", text, re.S).group()
    out = subprocess.run(["bash", "-c", command], env={**os.environ, "DYN_API_KEY": "s3cret"}, capture_output=True)
    assert out.stdout, out.stderr
    assert json.loads(out.stdout)["choices"][0]["message"]["content"].strip()
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{url}/v1/chat/completions", {}, key="wrong")
    assert refused.value.code == 401
    # Nobody reads the key from the list of processes.
    for pid in serving.pids().values():
        if sys.platform == "linux":
            with open(f"/proc/{pid}/cmdline") as line:
                assert "s3cret" not in line.read()
    assert serving.stop(signal.SIGTERM) == 0


def test_the_first_ctrl_c_finishes_what_runs(serve):
    serving = serve("--engine", "echo", "--delay", 0.05)
    url = serving.url
    stream = chat(url, "a slow answer, letter by letter", stream=True)
    assert stream.readline().startswith(b"data: ")
    serving.process.send_signal(signal.SIGINT)
    serving.until("stopping")
    rest = stream.read().decode()
    pieces = [json.loads(x[6:])["choices"] for x in rest.splitlines() if x.startswith("data: {")]
    said = "".join(c["delta"].get("content") or "" for choices in pieces for c in choices)
    assert said.rstrip().endswith("assistant") or "letter by letter" in said
    assert rest.rstrip().endswith("data: [DONE]")
    assert serving.process.wait(LIMIT) == 0


def test_the_second_ctrl_c_ends_at_once(serve):
    serving = serve("--engine", "echo", "--delay", 1)
    stream = chat(serving.url, "this would take a minute or more", stream=True)
    assert stream.readline().startswith(b"data: ")
    pids = serving.pids()
    serving.process.send_signal(signal.SIGINT)
    serving.until("stopping")
    start = time.monotonic()
    assert serving.stop(signal.SIGINT) == 130
    assert time.monotonic() - start < 10
    wait_until(lambda: not any(map(alive, pids.values())), "a child is left")


def test_no_child_outlives_a_killed_supervisor(serve):
    serving = serve("--engine", "echo")
    serving.until("Ctrl-C stops")
    pids = serving.pids()
    assert serving.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not any(map(alive, pids.values())), "a child is left")


def test_mem_discovery_puts_all_into_one_process(serve):
    serving = serve("--engine", "echo", "--workers", 2, "--discovery", "mem")
    url = serving.url
    assert len(workers_of(url)) == 2
    with chat(url, "in one process") as answer:
        assert "in one process" in json.load(answer)["choices"][0]["message"]["content"]
    assert serving.stop() == 0


def test_ctrl_c_in_the_terminal_reaches_the_supervisor_only(terminal):
    serving = terminal("serve", "--engine", "mocker", "--speedup", 0, "--workers", 2, "--port", 0)
    text = serving.until("Ctrl-C stops")
    pids = [int(pid) for pid in re.findall(r"is ready \(pid (\d+)", text)]
    assert len(pids) == 3
    serving.type("\x03")
    assert serving.end() == 0
    assert "Traceback" not in serving.text and "killed by" not in serving.text
    assert not any(map(alive, pids))


def test_an_answer_goes_on_when_its_worker_is_killed(serve):
    serving = serve("--engine", "echo", "--delay", 0.03, "--workers", 2)
    url = serving.url
    text = "one two three four five six seven eight nine ten"
    stream = chat(url, text, stream=True)
    worker = f"{int(stream.headers['x-dynamo-worker-instance-id']):x}"
    said = ""
    for line in stream:
        data = line.decode().strip().removeprefix("data: ")
        if not data.startswith("{"):
            continue
        assert "error" not in data, data
        for choice in json.loads(data)["choices"]:
            said += choice["delta"].get("content") or ""
        if len(said) > 20 and worker:
            name = serving.until(rf"(worker \d) is ready.*instance {worker}")[1]
            os.kill(serving.pids()[name], signal.SIGKILL)
            worker = None
    assert worker is None and text in said
    assert serving.stop() == 0


def test_a_real_model_is_served_by_two_workers(serve, dynamo, tiny_gguf, tmp_path):
    pytest.importorskip("xllamacpp")
    serving = serve(tiny_gguf, "--workers", 2, "--slots", 2, "--name", "small", "--context-length", 512)
    url = serving.url
    out = tmp_path / "figures.json"
    args = ("--words", 20, "--max-tokens", 4, "--turns", 2, "--shared-prefix", 40, "--json", out)
    code, text = dynamo("bench", "--url", url, "-n", 8, "-c", 2, *args)
    assert code == 0, text
    figures = json.loads(out.read_text())
    assert figures["model"] == "small" and figures["completion_tokens"] == 32
    assert figures["cached_tokens"] > 0 and sum(figures["per_worker"].values()) == 8
    assert serving.stop() == 0


def test_what_cannot_start_says_why(serve, dynamo, tmp_path):
    code, text = dynamo("serve", tmp_path / "none.gguf")
    assert code == 2 and "none.gguf: there is no such file" in text
    code, text = dynamo("serve")
    assert code == 2 and "MODEL is missing" in text
    code, text = dynamo("serve", "--engine", "echo", "--speedup", 2)
    assert code == 2 and "--speedup is an option of mocker, not of echo" in text
    code, text = dynamo("serve", "--engine", "echo", "--workers", 0)
    assert code == 2 and "must be 1 to 256" in text
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    code, text = dynamo("serve", broken, "--port", 0)
    assert code == 1 and "worker 1" in text and "Traceback" not in text


def test_a_port_in_use_is_said(serve, dynamo):
    url = serve("--engine", "echo").url
    code, text = dynamo("serve", "--engine", "echo", "--port", url.rpartition(":")[2])
    assert code == 1 and "front end" in text and "Traceback" not in text
