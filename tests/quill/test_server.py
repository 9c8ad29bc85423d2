"""QuillServer, called by our client and by people's own: httpx and curl."""

import asyncio
import functools
import json
import shutil
import subprocess
import threading
import time

import httpx
import msgspec
import numpy as np
import pytest

from dynamo import errors, quill
from dynamo._quill import compress, decompress, messages

from .peers import frame, scripted_server


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Handlers:
    """What the tests can look at."""

    def __init__(self):
        self.stopped = threading.Event()
        self.cancelled = threading.Event()


@pytest.fixture(scope="module")
def seen():
    return Handlers()


@pytest.fixture(scope="module")
def server(seen):
    server = quill.QuillServer(max_body_bytes=1 << 20)

    @server.method("t.S", "Echo")
    async def echo(request):
        return request

    @server.method("t.S", "Plain")
    def plain(request):
        return {"thread": threading.current_thread().name, "request": len(request)}

    @server.method("t.S", "Move", request=Point)
    async def move(point):
        return Point(point.x + 1, point.y)

    @server.method("t.S", "Double", request=quill.Tensor)
    async def double(tensor):
        return quill.Tensor(tensor.to_numpy() * 2)

    @server.method("t.S", "Reverse", request=quill.TokenBatch)
    async def reverse(batch):
        return quill.TokenBatch.from_tokens(list(batch)[::-1])

    @server.method("t.S", "Count")
    async def count(request):
        for i in range(int(request)):
            yield {"i": i}

    @server.method("t.S", "PlainCount")
    def plain_count(request):
        for i in range(int(request)):
            yield b"%d" % i

    @server.method("t.S", "Context")
    async def with_context(request, context):
        return {"id": context.id(), "stopped": context.is_stopped()}

    @server.method("t.S", "Sleep")
    async def sleep(request, context):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            if context.is_stopped():
                seen.stopped.set()
            seen.cancelled.set()
            raise

    @server.method("t.S", "Endless")
    async def endless(request):
        try:
            while True:
                yield b"x" * 100_000
                await asyncio.sleep(0)
        finally:
            seen.cancelled.set()

    @server.method("t.S", "Broken")
    async def broken(request):
        raise ZeroDivisionError("a secret of ours")

    @server.method("t.S", "BrokenStream")
    async def broken_stream(request):
        yield b"one"
        raise ZeroDivisionError("a secret of ours")

    @server.method("t.S", "Refuses")
    async def refuses(request):
        raise {
            "busy": errors.Overloaded("full"),
            "what": errors.InvalidArgument("no"),
            "where": errors.NotFound("gone"),
        }[request.decode()]

    @server.method("t.S", "Raise")
    async def refuse_so(request):
        raise quill.RpcError(request["status"], request.get("title", ""), detail="why", type=request.get("type", ""))

    said = {
        b"late": errors.RequestTimeout("late"),
        b"nobody": errors.Unavailable("nobody"),
        b"stopped": errors.Cancelled("stopped"),
        b"busy": errors.Overloaded("full"),
    }

    @server.method("t.S", "Say")
    async def say(request):
        raise said.get(request, KeyError("of ours"))

    @server.method("t.S", "SayStream")
    async def say_stream(request):
        raise said.get(request, KeyError("of ours"))
        yield b""

    with server:
        yield server


@pytest.fixture
def client(server):
    with quill.QuillClient(server.address) as client:
        yield client


def post(server, method, body=b"", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{server.address}/t.S/{method}", content=body, headers=headers)


# ---- other people's clients


def test_httpx_calls_it(server):
    answer = post(server, "Echo", b"hello", content_type="application/proto")
    assert (answer.status_code, answer.content) == (200, b"hello")
    assert answer.headers["content-type"] == "application/proto"
    answer = post(server, "Echo", b'{"a": [1, 2]}', content_type="application/json; charset=utf-8")
    assert (answer.json(), answer.headers["content-type"]) == ({"a": [1, 2]}, "application/json")


def test_curl_calls_it(server):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    out = subprocess.run(
        ["curl", "-sS", "-H", "Content-Type: application/json", "-d", '{"x": 41}', f"{server.address}/t.S/Move"],
        capture_output=True, check=True, timeout=20,
    )  # fmt: skip
    assert json.loads(out.stdout) == {"x": 42, "y": 0}


def test_a_stream_is_frames_for_others_too(server):
    with httpx.stream("POST", f"{server.address}/t.S/Count", content=b"3") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        body = answer.read()
    assert body == b"".join(frame(b'{"i":%d}' % i) for i in range(3)) + frame(b"", 2)
    assert messages(body) == [b'{"i":0}', b'{"i":1}', b'{"i":2}']


def test_who_takes_only_json_gets_the_items_as_a_list(server, client):
    assert client.call_json("t.S", "Count", 3) == [{"i": 0}, {"i": 1}, {"i": 2}]


# ---- arguments and results


def test_types_are_made_from_json_and_checked(server, client):
    assert client.call_json("t.S", "Move", {"x": 1}, type=Point) == Point(2, 0)
    with pytest.raises(quill.RpcError) as caught:
        client.call_json("t.S", "Move", {"x": "one"})
    assert caught.value.status == 400
    assert "x" in caught.value.detail


def test_tensors_and_tokens_are_arguments_and_results(client):
    tensor = quill.Tensor.from_numpy(np.arange(100_000, dtype=np.float32).reshape(100, 1000), name="w")
    got = quill.Tensor.from_frames(client.call("t.S", "Double", tensor))
    assert got.shape == tensor.shape
    assert np.array_equal(got.to_numpy(), tensor.to_numpy() * 2)
    batch = quill.TokenBatch.from_tokens([quill.Token(i, i) for i in range(10)])
    assert quill.TokenBatch.decode(client.call("t.S", "Reverse", batch)).token_ids() == list(range(10))[::-1]
    with pytest.raises(quill.RpcError) as caught:
        client.call("t.S", "Double", b"no tensor")
    assert caught.value.status == 400


def test_large_answers_are_sent_from_where_they_lie():
    """Without a copy, held until they are sent, given back then: also when the client leaves, or asks for HEAD."""
    import gc
    import weakref

    server = quill.QuillServer()
    made = []

    @server.method("t.S", "Large", request=memoryview)
    async def large(request):
        assert isinstance(request, memoryview) and request.readonly
        tensor = quill.Tensor(np.arange(int(bytes(request)), dtype=np.float32))
        made.append(weakref.ref(tensor))
        return tensor

    @server.method("t.S", "Bytes")
    async def large_bytes(request):
        return b"x" * int(request)

    def gone():
        deadline = time.monotonic() + 60
        while any(ref() is not None for ref in made) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        return all(ref() is None for ref in made)

    with server:
        client = quill.QuillClient(server.address)
        for count in (10, 5000, 100_000, 4_000_000):
            got = quill.Tensor.from_frames(client.call("t.S", "Large", b"%d" % count))
            assert np.array_equal(got.to_numpy(), np.arange(count, dtype=np.float32))
        for size in (65535, 65536, 10_000_000):
            assert client.call("t.S", "Bytes", b"%d" % size) == b"x" * size
        assert gone()
        made.clear()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                slow = quill.QuillClient(server.address, max_response_bytes=1 << 30)
                slow.call("t.S", "Large", b"6000000", timeout_ms=1)
        plain = {"accept-encoding": "identity"}
        with httpx.stream("POST", f"{server.address}/t.S/Large", content=b"6000000", headers=plain) as answer:
            assert int(answer.headers["content-length"]) > 24_000_000
        assert gone()


def test_plain_functions_run_in_threads(client):
    assert client.call_json("t.S", "Plain", [1, 2])["thread"] not in ("MainThread", "quill-server")
    assert list(client.call_stream("t.S", "PlainCount", b"20")) == [b"%d" % i for i in range(20)]


def test_a_handler_gets_a_context_when_it_wants_one(client):
    client.set_header("X-Request-Id", "r-17")
    assert client.call_json("t.S", "Context", {}) == {"id": "r-17", "stopped": False}


def test_bodies_are_decompressed_within_the_limit(server):
    text = b"again and " * 1000
    answer = post(server, "Echo", compress(text), content_encoding="zstd")
    assert answer.content == text
    raw = httpx.Client(headers={"accept-encoding": "zstd"})
    with raw.stream("POST", f"{server.address}/t.S/Echo", content=text) as answer:
        assert answer.headers["content-encoding"] == "zstd"
        assert decompress(b"".join(answer.iter_raw()), len(text)) == text
    assert post(server, "Echo", compress(bytes(2 << 20)), content_encoding="zstd").status_code == 429
    assert post(server, "Echo", b"not zstd", content_encoding="zstd").status_code == 400
    assert post(server, "Echo", b"zip", content_encoding="gzip").status_code == 415
    assert post(server, "Echo", bytes(2 << 20)).status_code == 413


# ---- refusals


def test_problems_are_told_as_problem_json(server):
    answer = httpx.post(f"{server.address}/x/y")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:quill:error:404",
        "title": "Method not found",
        "status": 404,
        "detail": "No handler registered for path: /x/y",
    }
    answer = httpx.get(f"{server.address}/t.S/Echo")
    assert (answer.status_code, answer.json()["title"]) == (405, "Method not allowed")
    assert answer.json()["detail"] == "Only POST is supported for RPC calls"


def test_what_breaks_inside_is_not_told_outside(server, client):
    answer = post(server, "Broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text and "Zero" not in answer.text
    assert answer.json()["title"] == "Internal server error"
    stream = client.call_stream("t.S", "BrokenStream", b"")
    assert next(stream) == b"one"
    with pytest.raises(errors.Cancelled):
        next(stream)


@pytest.mark.parametrize(("word", "status"), [("busy", 429), ("what", 400), ("where", 404)])
def test_our_errors_have_their_status(server, word, status):
    assert post(server, "Refuses", word.encode()).status_code == status


@pytest.mark.parametrize("body", [b"\xff" * 11, frame(b"a")[:1], frame(b"", 4)])
def test_streams_that_cannot_be_are_refused(body):
    server = quill.QuillServer()

    @server.method("t.S", "Join", stream_request=True)
    async def join(requests):
        return b"".join([request async for request in requests])

    with server:
        assert 400 <= post(server, "Join", body).status_code < 500
        assert post(server, "Join", frame(b"a") + frame(b"b", 3)).content == b"ab"


def test_registration_is_checked():
    server = quill.QuillServer()
    server.method("a.B", "C")(lambda request: request)
    with pytest.raises(ValueError, match="already"):
        server.method("a.B", "C")(lambda request: request)
    with pytest.raises(ValueError, match="service"):
        server.method("a/b", "C")
    with pytest.raises(RuntimeError, match="does not run"):
        server.address  # noqa: B018
    assert repr(server) == "<QuillServer not running, 1 method>"
    with server:
        with pytest.raises(RuntimeError, match="before the server starts"):
            server.method("a.B", "D")(lambda request: request)
        with pytest.raises(RuntimeError, match="runs already"):
            server.start()


# ---- time, cancellation, limits


def test_a_client_that_leaves_stops_its_handler(client, seen):
    seen.cancelled.clear()
    with pytest.raises(TimeoutError):
        client.call("t.S", "Sleep", b"", timeout_ms=100)
    assert seen.cancelled.wait(10)
    assert seen.stopped.is_set()
    seen.cancelled.clear()
    with client.call_stream("t.S", "Endless", b"") as stream:
        next(stream)
    assert seen.cancelled.wait(10)


def test_a_call_has_the_time_that_its_client_gives_it(server):
    start = time.monotonic()
    answer = post(server, "Sleep", quill_timeout_ms="50")
    assert (answer.status_code, answer.json()["title"]) == (504, "Deadline exceeded")
    assert time.monotonic() - start < 10
    client = quill.QuillClient(server.address)
    client.set_header("Quill-Timeout-Ms", "50")
    with pytest.raises(quill.DeadlineExceeded) as caught:
        client.call("t.S", "Sleep", b"", timeout_ms=10000)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.status == 504


def test_calls_at_one_time_are_limited():
    server = quill.QuillServer(max_concurrency=2)
    go = threading.Event()

    @server.method("t.S", "Wait")
    def wait(request):
        go.wait(10)
        return b"done"

    with server:
        client = quill.QuillClient(server.address)

        async def main():
            calls = [asyncio.create_task(client.acall("t.S", "Wait", b"")) for _ in range(5)]
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 3:
                done, _ = await asyncio.wait(calls, timeout=0.05)
            go.set()
            return await asyncio.gather(*calls, return_exceptions=True)

        results = asyncio.run(main())
    assert results.count(b"done") == 2
    assert [e.status for e in results if isinstance(e, quill.RpcError)] == [429] * 3


def test_the_auth_hook_decides():
    async def check(headers):
        if headers.get("x-api-key") == "banned":
            raise quill.RpcError(403, detail="not you")
        return headers.get("authorization") == "Bearer good"

    server = quill.QuillServer(auth=check)
    server.method("t.S", "Echo")(lambda request: request)
    with server:
        client = quill.QuillClient(server.address)
        with pytest.raises(quill.RpcError) as caught:
            client.call("t.S", "Echo", b"")
        assert caught.value.status == 401
        client.set_bearer_token("good")
        assert client.call("t.S", "Echo", b"in") == b"in"
        client.set_api_key("banned")
        with pytest.raises(quill.RpcError, match="not you"):
            client.call("t.S", "Echo", b"")
        assert quill.QuillClient(server.address).health_check()


def test_a_stop_lets_calls_end():
    server = quill.QuillServer()
    begun = threading.Event()

    @server.method("t.S", "Slow")
    async def slow(request):
        begun.set()
        await asyncio.sleep(0.2)
        return b"done"

    server.start()
    address, results = server.address, []
    client = quill.QuillClient(address)
    thread = threading.Thread(target=lambda: results.append(client.call("t.S", "Slow", b"")))
    thread.start()
    assert begun.wait(10)
    server.stop()
    thread.join(10)
    assert results == [b"done"]
    with pytest.raises(ConnectionError):
        quill.QuillClient(address).call("t.S", "Slow", b"")
    server.start()  # it can start again
    assert quill.QuillClient(server.address).call("t.S", "Slow", b"") == b"done"
    server.stop()


def test_a_port_that_is_taken_is_an_error(server):
    with pytest.raises(OSError):
        quill.QuillServer().start(port=int(server.address.rpartition(":")[2]))


def test_health_and_metrics_are_there(server, client):
    client.call("t.S", "Echo", b"")
    assert httpx.get(f"{server.address}/health").json() == {"status": "healthy"}
    text = httpx.get(f"{server.address}/metrics").text
    assert 'quill_calls_total{method="/t.S/Echo",status="200"}' in text
    assert "quill_call_seconds_bucket" in text


# ---- beside the runtime


def test_an_endpoint_of_the_runtime_is_exposed_in_one_line(run_python, tmp_path):
    from dynamo.runtime import DistributedRuntime

    async def main():
        runtime = DistributedRuntime(asyncio.get_running_loop(), "file", "tcp")
        endpoint = runtime.namespace("ns").component("c").endpoint("generate")

        async def generate(request):
            for i in range(request["n"]):
                yield {"token": i}

        serving = asyncio.create_task(endpoint.serve_endpoint(generate))
        client = await endpoint.client()
        await client.wait_for_instances()
        server = quill.QuillServer()
        server.expose("llm.v1.LLM", "Generate", client)
        running = asyncio.create_task(server.serve())
        while True:
            await asyncio.sleep(0.005)
            try:
                address = server.address
                break
            except RuntimeError:
                continue
        caller = quill.QuillClient(address)
        assert await caller.acall_json("llm.v1.LLM", "Generate", {"n": 3}) == [{"token": i} for i in range(3)]
        caller.set_header("Content-Type", "application/json")
        got = [json.loads(m) async for m in caller.acall_stream("llm.v1.LLM", "Generate", b'{"n": 2}')]
        assert got == [{"token": 0}, {"token": 1}]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        runtime.shutdown()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 30))


# ---- the rest of the contract, row by row


@pytest.mark.parametrize(
    ("status", "title"),
    [(400, "Bad request"), (401, "Unauthenticated"), (403, "Permission denied"), (404, "Not found"), (409, "Conflict"),
     (412, "Failed precondition"), (429, "Resource exhausted"), (499, "Cancelled"), (500, "Internal server error"),
     (501, "Unimplemented"), (503, "Unavailable"), (504, "Deadline exceeded")],
)  # fmt: skip
def test_every_status_of_an_rpc_error_arrives_with_all_its_fields(client, server, status, title):
    with pytest.raises(quill.RpcError) as caught:
        client.call_json("t.S", "Raise", {"status": status})
    error = caught.value
    assert (error.status, error.title, error.detail, error.type) == (status, title, "why", f"urn:quill:error:{status}")
    assert isinstance(error, quill.DeadlineExceeded) is (status == 504)
    answer = post(server, "Raise", b'{"status": %d, "type": "urn:t:x", "title": "T"}' % status,
                  content_type="application/json")  # fmt: skip
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {"type": "urn:t:x", "title": "T", "status": status, "detail": "why"}


def test_what_a_problem_says_beside_its_title_is_kept():
    said = b'{"type": "urn:a", "title": "Busy", "status": 503, "detail": "d", "instance": "/calls/7", "more": 1}'
    head = (
        b"HTTP/1.1 503 Busy\r\nContent-Type: application/problem+json\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n"
    )
    with scripted_server(head % len(said) + said) as (url, _), pytest.raises(quill.RpcError) as caught:
        quill.QuillClient(url).call("a.B", "C", b"")
    error = caught.value
    assert (error.instance, error.headers["retry-after"], error.type) == ("/calls/7", "7", "urn:a")


@pytest.mark.parametrize(
    ("word", "status"), [("late", 504), ("nobody", 503), ("stopped", 499), ("busy", 429), ("a thing of ours", 500)]
)
def test_errors_of_the_house_in_streams_and_calls_alike(server, client, word, status):
    for method in ("Say", "SayStream"):
        assert post(server, method, word.encode()).status_code == status
    with pytest.raises(quill.RpcError) as caught:
        client.call_stream("t.S", "SayStream", word.encode())
    assert caught.value.status == status


def test_the_shortest_of_all_times_counts():
    server = quill.QuillServer(timeout_ms=10_000)

    @server.method("t.S", "Short", timeout_ms=50)
    async def short(request):
        await asyncio.sleep(30)

    @server.method("t.S", "Long")
    async def long(request):
        await asyncio.sleep(30)

    with server:
        client = quill.QuillClient(server.address, timeout_ms=20_000)
        for method, given in (("Short", None), ("Short", 10_000), ("Long", 60)):
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                client.call("t.S", method, b"", timeout_ms=given)
            assert time.monotonic() - start < 5


def test_a_plain_auth_hook_decides_for_streams_too():
    server = quill.QuillServer(auth=lambda headers: headers.get("x-api-key") == "k")

    @server.method("t.S", "Count")
    async def count(request):
        yield b"1"

    @server.method("t.S", "Join", stream_request=True)
    async def join(requests):
        return b"".join([request async for request in requests])

    with server:
        client = quill.QuillClient(server.address)
        for call in (
            lambda: list(client.call_stream("t.S", "Count", b"")),
            lambda: client.upload_stream("t.S", "Join", [b"a"]),
            lambda: asyncio.run(client.aupload_stream("t.S", "Join", [b"a"])),
            lambda: client.call("t.S", "Gone", b""),
        ):
            with pytest.raises(quill.RpcError) as caught:
                call()
            assert caught.value.status in (401, 404)
        client.set_api_key("k")
        assert list(client.call_stream("t.S", "Count", b"")) == [b"1"]
        assert client.upload_stream("t.S", "Join", [b"a", b"b"]) == b"ab"
        assert httpx.post(f"{server.address}/t.S/Count").json()["title"] == "Unauthenticated"


def test_connections_at_one_time_are_limited():
    server = quill.QuillServer(max_connections=1)
    server.method("t.S", "Echo")(lambda request: request)
    with server:
        client = quill.QuillClient(server.address)
        assert client.call("t.S", "Echo", b"first") == b"first"
        with pytest.raises(quill.RpcError, match="too many connections") as caught:
            quill.QuillClient(server.address).call("t.S", "Echo", b"")
        assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "1")
        assert client.call("t.S", "Echo", b"still") == b"still"


def test_a_stop_cuts_what_does_not_end_in_time():
    server = quill.QuillServer()
    begun, ended = threading.Event(), threading.Event()

    @server.method("t.S", "Sleep")
    async def sleep(request):
        begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    server.start()
    results = []

    def call():
        try:
            quill.QuillClient(server.address).call("t.S", "Sleep", b"")
        except (ConnectionError, quill.RpcError) as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(10)
    start = time.monotonic()
    server.stop(grace=0.1)
    thread.join(10)
    assert time.monotonic() - start < 5
    assert len(results) == 1
    assert ended.wait(10)


def test_any_callable_is_a_handler():
    class Counter:
        def __init__(self):
            self.calls = 0

        async def __call__(self, request, *, context):
            self.calls += 1
            return {"calls": self.calls, "id": context.id()}

    async def add(amount, request):
        return {"sum": amount + request}

    server = quill.QuillServer()
    counter = Counter()
    server.method("t.S", "Counter")(counter)
    server.method("t.S", "Add")(functools.partial(add, 40))
    with server:
        client = quill.QuillClient(server.address)
        client.set_header("X-Request-Id", "a")
        assert client.call_json("t.S", "Counter", None) == {"calls": 1, "id": "a"}
        assert client.call_json("t.S", "Add", 2) == {"sum": 42}


def test_an_exposed_endpoint_tells_its_errors():
    class Client:
        def generate(self, request, annotated, context):
            if request == "gone":
                raise errors.Unavailable("no instances")

            async def items():
                yield {"request": request}
                yield {"id": context.id()}

            return items()

    server = quill.QuillServer()
    server.expose("llm.v1.LLM", "Generate", Client(), timeout_ms=5000)
    with server:
        client = quill.QuillClient(server.address)
        client.set_header("X-Request-Id", "r1")
        assert client.call_json("llm.v1.LLM", "Generate", "a") == [{"request": "a"}, {"id": "r1"}]
        with pytest.raises(quill.RpcError, match="no instances") as caught:
            client.call_json("llm.v1.LLM", "Generate", "gone")
        assert caught.value.status == 503
