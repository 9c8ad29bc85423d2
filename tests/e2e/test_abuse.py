"""Bad clients and dying processes against `dynamo serve`: errors in OpenAI's shape, nothing ends, nothing grows."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import pytest

from ..conftest import ROOT

pytestmark = pytest.mark.timeout(180)


class Served:
    """`dynamo serve` on any free port. Workers that send KV events, and a router that keeps no index for them."""

    def __init__(self, model, folder, *extra):
        env = dict(os.environ, DYN_FILE_KV=str(folder / "store"), PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1")
        command = [sys.executable, "-m", "dynamo", "serve", str(model), "--workers", "2", "--port", "0", *extra]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log, start_new_session=True)
        self.wait(lambda: "live page" in self.output(), "ready", 100)
        self.port = int(re.search(r"live page +http://127.0.0.1:(\d+)/", self.output())[1])
        self.model = json.loads(self.get("/v1/models")[2])["data"][0]["id"]

    def output(self):
        return os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")

    def wait(self, condition, what, seconds=30):
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < end, f"{what}: not within {seconds} s\n{self.output()}"
            time.sleep(0.05)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()

    def pids(self, name):
        """The processes of this name that started last: "front end", "worker"."""
        found = re.findall(rf"({name}[ \d]*) is ready(?: again)? \(pid (\d+)", self.output())
        return {who: int(pid) for who, pid in found}

    def connect(self, wait=30):
        made = socket.create_connection(("127.0.0.1", self.port), timeout=wait)
        made.settimeout(wait)
        return made

    def raw(self, data, half_close=False, wait=30):
        """Status, head and body of what comes back until the connection ends."""
        with self.connect(wait) as made:
            got = b""
            try:
                made.sendall(data)
                if half_close:
                    made.shutdown(socket.SHUT_WR)
                while piece := made.recv(1 << 16):
                    got += piece
            except (ConnectionResetError, BrokenPipeError):
                pass
        head, _, body = got.partition(b"\r\n\r\n")
        return (int(head.split()[1]) if head else 0), head.lower(), body

    def get(self, path):
        return self.raw(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())

    def ask(self, **more):
        return self.raw(post({"model": self.model, "prompt": "hi", "max_tokens": 2, **more}))

    def memory(self):
        """Resident MiB of each process."""
        found = {}
        for who, pid in {**self.pids("front end"), **self.pids("worker")}.items():
            with open(f"/proc/{pid}/status") as status:
                found[who] = int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) >> 10
        return found

    def well(self):
        """A stream from its begin to its end."""
        status, _, body = self.ask(stream=True, max_tokens=20, ignore_eos=True)
        assert status == 200 and body.count(b"data: [DONE]") == 1 and b'"error"' not in body, body

    def at_rest(self):
        """No request is left: not in the front end, not in the router's books."""
        state = json.loads(self.get("/dashboard/state")[2])
        return not any(worker["active_requests"] for model in state["models"] for worker in model["workers"])


def post(body, path="/v1/completions", headers=b""):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n"
    return head % (path.encode(), headers, len(body)) + body


def shaped(body):
    try:
        error = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError):
        return False
    return set(error) == {"message", "type", "param", "code"} and bool(error["message"])


@pytest.fixture(scope="module")
def server(tiny_gguf, tmp_path_factory):
    made = Served(tiny_gguf, tmp_path_factory.mktemp("abuse"), "--router", "round-robin")
    yield made
    made.stop()


CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
BODIES = {
    "empty": b"", "cut": b'{"model":', "array": b"[]", "null": b"null", "number": b"1", "NUL": b"\0",
    "invalid UTF-8": b'{"model":"\xff\xfe"}',
    "lone surrogate": b'{"model":"\\ud800"}', "byte order mark": b"\xef\xbb\xbf{}",
    "deep": b"[" * 100_000, "deep objects": b'{"a":' * 50_000, "rest": b"{} x",
    "deep and closed": b'{"model":"m","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
}  # fmt: skip
HOST = b"Host: x\r\nConnection: close\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\n" + HOST
GET = b"GET /v1/models HTTP/1.1\r\n" + HOST
PREFLIGHT = b"OPTIONS /v1/chat/completions HTTP/1.1\r\nOrigin: http://x\r\nAccess-Control-Request-Method: POST\r\n"
HTTP = {
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505),
    "TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"a" * 100 + b"\r\n\r\n", 400),
    "no host": (b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
    "length and chunks": (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "huge length": (POST + b"Content-Length: 1000000000000\r\n\r\n", 413),
    "bad chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "huge chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffff\r\n", (400, 413)),
    "unknown coding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "NUL in a header": (GET + b"x: a\0b\r\n\r\n", 400),
    "huge header": (GET + b"x: " + b"a" * 100_000 + b"\r\n\r\n", 431),
    "many headers": (GET + b"x: 1\r\n" * 300 + b"\r\n", 431),
    "bare LF": (b"GET /v1/models HTTP/1.1\nHost: x\n\n", 400),
    "blank before a colon": (GET + b"Transfer-Encoding : chunked\r\n\r\n", 400),
    "folded": (GET + b"a: b\r\n c\r\n\r\n", 400),
    "long path": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "dots": (b"GET /../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n", (400, 404)),
    "escaped dots": (b"GET /v1/models/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "escaped NUL": (b"GET /v1/models/%00 HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "escaped bad UTF-8": (b"GET /v1/models/%ff HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "near a route": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "wrong method": (b"DELETE /v1/chat/completions HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "preflight without CORS": (PREFLIGHT + HOST + b"\r\n", 405),
    "proxy": (b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", (400, 501)),
}  # fmt: skip


def test_what_is_no_request_is_told_so(server):
    wrong = []
    cases = [(f"{path} {name}", post(body, path), 400) for path in (CHAT, TEXT, EMBED) for name, body in BODIES.items()]
    cases += [(name, data, wanted) for name, (data, wanted) in HTTP.items()]
    for name, data, wanted in cases:
        status, _, body = server.raw(data)
        if status not in (wanted if isinstance(wanted, tuple) else (wanted,)) or not shaped(body):
            wrong.append((name, status, body[:200]))
    assert not wrong
    server.well()


def test_http_1_0_pipelining_head_and_half_closed_clients_are_served(server):
    body = json.dumps({"model": server.model, "prompt": "hi", "max_tokens": 2}).encode()
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    assert server.raw(b"POST /v1/completions HTTP/1.0\r\n" + length + body)[0] == 200
    one = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + length + body
    status, _, rest = server.raw(one * 3 + b"GET /live HTTP/1.1\r\n" + HOST + b"\r\n")
    assert status == 200 and rest.count(b"text_completion") == 3 and rest.endswith(b'{"status":"live"}')
    status, _, rest = server.raw(b"HEAD /v1/models HTTP/1.1\r\n" + HOST + b"\r\n")
    assert status == 200 and rest == b""
    status, _, rest = server.raw(one, half_close=True)
    assert status in (200, 499) and (status == 200 or shaped(rest))


FIELDS = """
    model stream stream_options n temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty
    seed stop stop_token_ids max_tokens min_tokens ignore_eos logit_bias user cache_salt nvext messages
    max_completion_tokens logprobs top_logprobs response_format tools tool_choice modalities add_generation_prompt
    continue_final_message chat_template_kwargs chat_template_args prompt suffix echo best_of input dimensions
"""
VALUES = r"""
    true -1 1e308 1e400 99999999999999999999999999 0.5 "x" "\u0000" "\ud800" [] [1] ["a"] [[]] [null] {} {"a":1}
    [{}] NaN -0 [99999999999] 2147483648 {"config_override":{"zzz":1}}
"""


def test_a_wrong_value_in_any_field_is_refused_or_does_no_harm(server):
    wrong = []
    whole = {CHAT: {"messages": [{"role": "user", "content": "hi"}]}, TEXT: {"prompt": "hi"}, EMBED: {"input": "hi"}}
    for path, fields in whole.items():
        for field in FIELDS.split():
            for value in VALUES.split():
                body = {"model": server.model, "max_tokens": 2, **fields}
                body.pop(field, None)
                text = json.dumps(body)[:-1] + f',"{field}":{value}}}'
                status, _, answer = server.raw(post(text.encode(), path))
                if status not in (200, 400, 404) or (status != 200 and not shaped(answer)):
                    wrong.append((path, field, value, status, answer[:200]))
    assert not wrong
    server.well()


def test_absurd_requests_are_refused_and_the_field_is_named(server):
    cases = [
        (TEXT, {"prompt": "word " * 200_000}, "prompt"),
        (TEXT, {"prompt": [5] * 100_000}, "prompt"),
        (TEXT, {"prompt": [99_999_999]}, "prompt"),
        (TEXT, {"prompt": [1, "x"]}, "prompt"),
        (TEXT, {"prompt": ["a"] * 1024, "n": 2}, "n"),
        (TEXT, {"stop": [str(i) for i in range(1000)]}, "stop"),
        (TEXT, {"stop": "a" * 5000}, "stop"),
        (TEXT, {"logit_bias": {"x": 1}}, "logit_bias"),
        (TEXT, {"seed": 2**63}, "seed"),
        (TEXT, {"n": 129}, "n"),
        (TEXT, {"nvext": {"dp_rank": 77}}, "nvext"),
        (TEXT, {"nvext": {"dp_rank": 77, "annotations": ["query_instance_id"]}}, "nvext"),
        (TEXT, {"nvext": {"backend_instance_id": 5, "annotations": ["query_instance_id"]}}, "nvext"),
        (CHAT, {"messages": [{"role": {}, "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": {}, "text": "x"}]}]}, "messages[0].content[0].type"),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 200_000}]}, "messages"),
    ]
    for path, fields, param in cases:
        status, _, body = server.raw(post({"model": server.model, "max_tokens": 2, "prompt": "hi", **fields}, path))
        assert status == 400 and shaped(body) and json.loads(body)["error"]["param"] == param, (fields.keys(), body)


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised(server):
    # Blanks are what a vocabulary joins most: a second of work for every 100,000 of them.
    before = time.monotonic()
    status, _, body = server.ask(prompt=" " * 20_000_000)
    assert status == 400 and json.loads(body)["error"]["code"] == "context_length_exceeded"
    assert time.monotonic() - before < 10


def test_clients_that_leave_in_mid_stream_leave_nothing_behind(server):
    def leave(i):
        body = {"model": server.model, "prompt": "The fox " * 5, "stream": True, "max_tokens": 400, "ignore_eos": True}
        data = post(body)
        with server.connect() as made:
            made.sendall(data[: 20 * i % len(data)] if i % 5 == 2 else data)
            if i % 5 in (1, 3):
                made.recv(300)
            if i % 5 == 3:
                made.shutdown(socket.SHUT_WR)
            if i % 2:  # with a reset
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    for i in range(100):
        leave(i)
    server.wait(server.at_rest, "requests of clients that left are gone")
    before = server.memory()
    for i in range(400):
        leave(i)
    server.well()
    server.wait(server.at_rest, "requests of clients that left are gone")
    after = server.memory()
    assert all(after[who] - before[who] < 24 for who in before), (before, after)


def test_clients_that_never_read_hold_up_nobody(server):
    before, held = server.memory(), []
    # Some 600 KB each: more than sockets hold.
    body = {
        "model": server.model,
        "prompt": "The fox",
        "stream": True,
        "max_tokens": 1200,
        "logprobs": 9,
        "ignore_eos": True,
    }
    try:
        for _ in range(10):
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.settimeout(30)
            made.connect(("127.0.0.1", server.port))
            made.sendall(post(body))
            held.append(made)
        server.well()
        server.wait(server.at_rest, "answers that nobody reads are made to their end", 60)
        after = server.memory()
        assert all(after[who] - before[who] < 64 for who in before), (before, after)
    finally:
        for made in held:
            made.close()
    server.well()


@pytest.mark.slow
def test_clients_that_are_slow_are_told_408_and_hold_up_nobody(server):
    held = [server.connect() for _ in range(100)]
    begin = time.monotonic()
    for i, made in enumerate(held):
        made.sendall(b"GET / HTTP/1.1\r\n" if i % 2 else post({}, headers=b"a: b\r\n")[:-60])
    answered = {}
    while len(answered) < len(held) and time.monotonic() < begin + 45:
        for made in held:
            if made in answered:
                continue
            try:
                made.settimeout(0.001)
                answered[made] = made.recv(100)
            except TimeoutError:
                try:
                    made.sendall(b"a")
                except OSError:
                    answered[made] = b""
            except OSError:
                answered[made] = b""
        server.well()
        time.sleep(0.3)
    assert len(answered) == len(held)
    assert any(b" 408 " in text for text in answered.values())
    for made in held:
        made.close()


@pytest.mark.slow
def test_killed_processes_come_back_and_clients_are_told_to_wait(server):
    seen = set()

    def served():
        status, head, body = server.ask()
        seen.add(status)
        assert status == 200 or (status == 503 and b"retry-after: " in head and shaped(body)), body
        return status == 200

    for pid in server.pids("worker").values():
        os.kill(pid, signal.SIGKILL)
    server.wait(served, "killed workers are back", 60)
    [front] = server.pids("front end").values()
    os.kill(front, signal.SIGKILL)

    def listens():
        try:
            return server.get("/live")[0] == 200
        except OSError:
            return False

    server.wait(lambda: server.pids("front end")["front end"] != front and listens(), "on the same port again", 60)
    server.wait(served, "the new front end serves")
    server.well()


@pytest.mark.slow
def test_a_model_whose_workers_hang_is_unavailable_not_unknown(server):
    pids = server.pids("worker").values()
    server.wait(lambda: json.loads(server.get("/v1/models")[2])["data"], "workers are there")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        server.wait(lambda: server.get("/health")[0] == 503, "stopped workers leave when their lease is over", 60)
        server.wait(lambda: not json.loads(server.get("/dashboard/state")[2])["models"], "so does the model", 60)
        status, head, body = server.ask()
        assert status == 503 and b"retry-after: " in head and shaped(body), body
        assert server.get("/live")[0] == 200
        assert server.raw(post({"model": "another", "prompt": "x"}))[0] == 404
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    server.wait(lambda: server.ask()[0] == 200, "workers that go on are back", 60)
