"""QuillClient: what its calls promise, against our server, aiohttp, nginx and servers that misbehave."""

import asyncio
import copy
import gc
import json
import os
import pickle
import signal
import socket
import threading
import time

import pytest

from dynamo import errors, quill
from dynamo._quill import compress, decompress

from .peers import aiohttp_server, answer, frame, mirror, nginx_server, problem, scripted_server

ECHO = ("test.v1.Echo", "Say")


@pytest.fixture(scope="module")
def server():
    server = quill.QuillServer()

    @server.method(*ECHO)
    async def say(request):
        return request

    @server.method("test.v1.Echo", "Count")
    async def count(request):
        for i in range(int(request)):
            yield b"message %d" % i

    @server.method("test.v1.Echo", "Slow")
    async def slow(request):
        await asyncio.sleep(float(request))
        return request

    @server.method("test.v1.Echo", "Join", stream_request=True)
    async def join(requests):
        return b"".join([request async for request in requests])

    @server.method("test.v1.Echo", "Shout", stream_request=True)
    async def shout(requests):
        async for request in requests:
            yield request + b"!"

    @server.method("test.v1.Echo", "Refuse")
    async def refuse(request):
        raise quill.RpcError(409, "Conflict", "held by another", "urn:test:held")

    with server:
        yield server


@pytest.fixture
def client(server):
    with quill.QuillClient(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def mirrored():
    with aiohttp_server(mirror) as url:
        yield url


# ---- what it is


def test_it_shows_itself_as_documented():
    client = quill.QuillClient("http://x", timeout_ms=5000, enable_compression=True)
    assert repr(client) == "QuillClient(base_url='http://x', timeout_ms=5000, compression=true)"
    assert (client.base_url, client.timeout_ms, client.compression_enabled) == ("http://x", 5000, True)
    assert quill.QuillClient("http://x").timeout_ms == 30000
    assert quill.QuillClient("http://x").compression_enabled is False


def test_it_says_why_it_cannot_be_pickled():
    client = quill.QuillClient("http://x")
    with pytest.raises(TypeError, match="send its arguments"):
        pickle.dumps(client)
    with pytest.raises(TypeError, match="send its arguments"):
        copy.copy(client)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:80", "ftp://a", "http://", "http://a:0", "http://a:99999", "http://u:p@a", "http://a?b", "http://ä",
     "http://a b", "http://a\r\nX: y", "http://a\0b"],
)  # fmt: skip
def test_a_url_that_cannot_be_is_refused(url):
    with pytest.raises(ValueError):
        quill.QuillClient(url)


@pytest.mark.parametrize("timeout", [0, -1, 1 << 32])
def test_a_timeout_that_cannot_be_is_refused(timeout):
    with pytest.raises(ValueError, match="timeout_ms"):
        quill.QuillClient("http://a", timeout_ms=timeout)


# ---- headers are really sent


def test_headers_token_and_key_reach_the_server(mirrored):
    client = quill.QuillClient(mirrored)
    client.set_header("X-Request-Source", "tests")
    client.set_bearer_token("my-token")
    client.set_api_key("k1")
    client.set_api_key("k2", "X-Other-Key")
    assert client.get_headers() == {
        "X-Request-Source": "tests",
        "Authorization": "Bearer my-token",
        "X-API-Key": "k1",
        "X-Other-Key": "k2",
    }
    seen = client.call_json("a.B", "C", {})["headers"]
    assert seen["x-request-source"] == "tests"
    assert seen["authorization"] == "Bearer my-token"
    assert (seen["x-api-key"], seen["x-other-key"]) == ("k1", "k2")
    client.get_headers().clear()
    client.remove_header("x-api-KEY")
    client.remove_header("never there")
    client.set_header("x-REQUEST-source", "again")
    seen = client.call_json("a.B", "C", {})["headers"]
    assert "x-api-key" not in seen
    assert seen["x-request-source"] == "again"


def test_headers_go_with_every_kind_of_call():
    good, stream, health = answer(b"{}"), answer(frame(b"", 2)), answer(b"ok")
    with scripted_server(*[good] * 4, *[stream] * 2, *[good] * 2, *[stream] * 2, health) as (url, heard):
        client = quill.QuillClient(url)
        client.set_header("X-Mine", "yes")
        client.set_bearer_token("t")
        client.call("a.B", "C", b"")
        client.call_json("a.B", "C", {})
        asyncio.run(client.acall("a.B", "C", b""))
        asyncio.run(client.acall_json("a.B", "C", {}))
        list(client.call_stream("a.B", "C", b""))

        async def read(stream):
            return [m async for m in stream]

        asyncio.run(read(client.acall_stream("a.B", "C", b"")))
        client.upload_stream("a.B", "C", [])
        asyncio.run(client.aupload_stream("a.B", "C", []))
        list(client.call_bidirectional("a.B", "C", []))
        asyncio.run(read(client.acall_bidirectional("a.B", "C", [])))
        assert client.health_check()
        assert len(heard) == 11
        for request in heard:
            assert b"\r\nX-Mine: yes\r\nAuthorization: Bearer t\r\n" in request
        assert [b"quill-credits: 16\r\n" in request for request in heard] == [False] * 8 + [True] * 2 + [False]


def test_the_server_is_told_how_long_it_has(mirrored):
    client = quill.QuillClient(mirrored, timeout_ms=7000)
    assert client.call_json("a.B", "C", {})["headers"]["quill-timeout-ms"] == "7000"
    assert client.call_json("a.B", "C", {}, timeout_ms=900)["headers"]["quill-timeout-ms"] == "900"
    client.set_header("Quill-Timeout-MS", "5")
    assert client.call_json("a.B", "C", {}, timeout_ms=900)["headers"]["quill-timeout-ms"] == "5"


@pytest.mark.parametrize(
    ("name", "value"),
    [("X", "a\r\nY: b"), ("X", "a\nb"), ("X", "a\0b"), ("X Y", "a"), ("", "a"), ("X:", "a"), ("Content-Length", "3"),
     ("transfer-encoding", "chunked"), ("Host", "other"), ("X", "a" * 20000)],
)  # fmt: skip
def test_a_header_that_cannot_be_is_refused_and_the_old_ones_stay(name, value):
    client = quill.QuillClient("http://a")
    client.set_header("Keep", "me")
    with pytest.raises(ValueError):
        client.set_header(name, value)
    assert client.get_headers() == {"Keep": "me"}


@pytest.mark.parametrize("bad", ["", "a b", "a/b", "a?b", "a#b", "a\r\nb", "ü", "../x"])
def test_names_that_cannot_be_are_refused(client, bad):
    with pytest.raises(ValueError, match="service"):
        client.call(bad, "M", b"")
    with pytest.raises(ValueError, match="method"):
        client.call("s.S", bad, b"")


def test_the_request_is_what_quill_servers_expect(mirrored):
    client = quill.QuillClient(mirrored + "/base/")
    seen = json.loads(client.call("inference.v1.LLM", "Generate", b"\x08\x01"))
    assert (seen["method"], seen["path"], seen["text"]) == ("POST", "/base/inference.v1.LLM/Generate", "\x08\x01")
    assert seen["headers"]["content-type"] == seen["headers"]["accept"] == "application/proto"
    assert "prism=classic" in seen["headers"]["prefer"]
    seen = client.call_json("inference.v1.LLM", "Generate", {"a": [1, "ü"]})
    assert seen["headers"]["content-type"] == "application/json"
    assert json.loads(seen["text"].encode("latin-1")) == {"a": [1, "ü"]}


# ---- calls


@pytest.mark.parametrize("size", [0, 1, 1024, 8191, 8192, 8193, 65536, 70000, 3_000_000])
@pytest.mark.parametrize("compression", [False, True])
def test_bodies_of_any_size_come_back(server, size, compression):
    client = quill.QuillClient(server.address, enable_compression=compression)
    body = bytes(i * i >> 3 & 255 for i in range(size))
    assert client.call(*ECHO, body) == body
    assert asyncio.run(client.acall(*ECHO, body)) == body


def test_anything_with_the_buffer_protocol_is_sent(client):
    import numpy as np

    array = np.arange(10000, dtype=np.float32)
    assert client.call(*ECHO, array) == array.tobytes()
    assert client.call(*ECHO, memoryview(b"abc")) == b"abc"
    assert client.call(*ECHO, bytearray(b"abc")) == b"abc"
    with pytest.raises(TypeError):
        client.call(*ECHO, "text")


@pytest.mark.parametrize("size", [1, 4000, 16384, 20000, 2_000_000])
def test_a_tensor_is_sent_from_its_own_memory(server, client, size):
    import numpy as np

    tensor = quill.Tensor.from_numpy(np.arange(size, dtype=np.float32), name="t")
    want = b"".join(tensor.to_frames())
    assert client.call(*ECHO, tensor) == want
    assert asyncio.run(client.acall(*ECHO, tensor)) == want
    assert client.call(*ECHO, [b"", b"ab", memoryview(b"c"), b"", want, b""]) == b"abc" + want
    assert client.call(*ECHO, [b"", b""]) == client.call(*ECHO, []) == b""
    packed = quill.QuillClient(server.address, enable_compression=True)
    assert packed.call(*ECHO, tensor) == want
    turned = quill.Tensor.from_numpy(np.arange(2 * size, dtype=np.float32).reshape(2, size)).transpose()
    back = quill.Tensor.from_frames(client.call(*ECHO, turned))
    assert back.shape == [size, 2] and back.to_numpy()[-1].tolist() == [size - 1, 2 * size - 1]


def test_pieces_are_sent_again_as_a_whole_when_a_kept_connection_was_dead():
    pieces = [b"x" * 9000, b"", b"y" * 9000]
    closing = answer(b"first", headers="Keep-Alive: timeout=5\r\n")
    with scripted_server(closing, answer(b"second")) as (url, heard):
        client = quill.QuillClient(url, retries=1)
        assert client.call("a.B", "C", pieces, idempotent=True) == b"first"
        assert client.call("a.B", "C", pieces, idempotent=True) == b"second"
        assert [request.endswith(b"".join(pieces)) for request in heard] == [True, True]


def test_what_is_not_a_buffer_is_refused_also_among_pieces(client):
    for bad in ("text", 5, [b"a", "text"], [b"a", 5]):
        with pytest.raises(TypeError):
            client.call(*ECHO, bad)
    assert client.call(*ECHO, b"on") == b"on"


def test_json_goes_both_ways_and_is_checked(client):
    import msgspec

    class Point(msgspec.Struct):
        x: int

    assert client.call_json(*ECHO, {"x": 1}, type=Point) == Point(1)
    assert client.call_json(*ECHO, [1, None, "a"]) == [1, None, "a"]
    with pytest.raises(ValueError, match="JSON"):
        client.call_json(*ECHO, {"x": "no"}, type=Point)


def test_an_answer_that_is_not_json_is_a_value_error():
    with scripted_server(answer(b"\xff\xfe"), answer(b"{")) as (url, _):
        client = quill.QuillClient(url)
        for _ in range(2):
            with pytest.raises(ValueError, match="JSON"):
                client.call_json("a.B", "C", {})


def test_one_connection_serves_one_thread(server):
    client = quill.QuillClient(server.address)
    for _ in range(100):
        client.call(*ECHO, b"x")
    stats = client.stats()
    assert (stats["opened"], stats["reused"], stats["calls"], stats["idle"]) == (1, 99, 100, 1)
    client.close()
    assert client.stats()["idle"] == 0
    assert client.call(*ECHO, b"again") == b"again"


def test_threads_share_a_client(server):
    client = quill.QuillClient(server.address)
    wrong = []

    def work(name):
        for i in range(50):
            body = b"%d %d" % (name, i)
            if client.call(*ECHO, body) != body:
                wrong.append(body)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert client.stats()["opened"] <= 8
    assert client.stats()["calls"] == 400


def test_other_threads_run_during_a_call(client):
    ran = []

    def other():
        while not done.is_set():
            ran.append(1)
            time.sleep(0.001)

    done = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    client.call("test.v1.Echo", "Slow", b"0.2")
    done.set()
    thread.join(5)
    assert len(ran) > 20


# ---- errors


def test_a_refusal_carries_what_the_server_said(client):
    with pytest.raises(RuntimeError) as caught:
        client.call("test.v1.Echo", "Refuse", b"")
    error = caught.value
    assert isinstance(error, quill.RpcError)
    assert isinstance(error, errors.DynamoError)
    assert (error.status, error.title, error.detail, error.type) == (
        409,
        "Conflict",
        "held by another",
        "urn:test:held",
    )
    assert str(error) == "RPC error: [409] Conflict: held by another"
    again = pickle.loads(pickle.dumps(error))
    assert (again.status, again.detail, str(again)) == (409, "held by another", str(error))


@pytest.mark.parametrize(
    ("said", "title", "detail"),
    [
        (answer(b"broken pipe in kitchen", "500 Oops"), "Internal server error", "kitchen"),
        (answer(b"", "500 Oops"), "Internal server error", "status 500"),
        (answer(b"[1]", "500 Oops", "Content-Type: application/json\r\n"), "Internal server error", "[1]"),
        (answer(b"{", "500 Oops", "Content-Type: application/problem+json\r\n"), "Internal server error", "{"),
        (problem(500, title="Out of ink", detail="cyan"), "Out of ink", "cyan"),
        (problem(500, title=5, detail=None), "5", ""),
        (answer(b"moved", "302 Found", "Location: /x\r\n"), "Status 302", "moved"),
    ],
)
def test_any_refusal_is_an_rpc_error(said, title, detail):
    with scripted_server(said) as (url, _), pytest.raises(quill.RpcError) as caught:
        quill.QuillClient(url).call("a.B", "C", b"")
    assert caught.value.title == title
    assert detail in caught.value.detail


def test_a_refused_connection_is_a_connection_error():
    with socket.create_server(("127.0.0.1", 0)) as s:
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
    client = quill.QuillClient(url)
    with pytest.raises(ConnectionError, match="refused"):
        client.call("a.B", "C", b"")
    with pytest.raises(errors.ConnectionFailed, match="refused"):
        asyncio.run(client.acall("a.B", "C", b""))


def test_a_name_without_an_address_is_a_connection_error():
    with pytest.raises((ConnectionError, TimeoutError)):
        quill.QuillClient("http://no-such-host.invalid", timeout_ms=10000).call("a.B", "C", b"")


def test_time_is_kept(client):
    start = time.monotonic()
    with pytest.raises(TimeoutError):  # the server may say so first
        client.call("test.v1.Echo", "Slow", b"5", timeout_ms=50)
    with scripted_server(b"", b"", linger=True) as (url, _):
        silent = quill.QuillClient(url, timeout_ms=50)
        with pytest.raises(TimeoutError, match="Request timed out after 50ms, waiting"):
            silent.call("a.B", "C", b"")
        with pytest.raises(errors.RequestTimeout, match="Request timed out after 50ms, waiting"):
            asyncio.run(silent.acall("a.B", "C", b""))
    assert time.monotonic() - start < 2


def test_a_server_that_drips_does_not_stretch_the_time():
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not stop.wait(0.01):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        client = quill.QuillClient(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_ms=150)
        with pytest.raises(TimeoutError, match="receiving"):
            client.call("a.B", "C", b"")
        stop.set()
        thread.join(5)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", ConnectionError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", ConnectionError),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", RuntimeError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", RuntimeError),
        (answer(b"x" * 2001), RuntimeError),
        (answer(b"", headers="X: " + "y" * 70000 + "\r\n"), RuntimeError),
        (answer(b"zip", headers="Content-Encoding: gzip\r\n"), RuntimeError),
        (answer(b"not zstd", headers="Content-Encoding: zstd\r\n"), ValueError),
        (answer(compress(bytes(1 << 20)), headers="Content-Encoding: zstd\r\n"), RuntimeError),
    ],
)
def test_an_answer_that_cannot_be_taken_is_an_error_in_threads_and_in_asyncio(said, kind):
    with scripted_server(said, said) as (url, _):
        client = quill.QuillClient(url, max_response_bytes=2000)
        with pytest.raises(kind) as one:
            client.call("a.B", "C", b"")
        with pytest.raises(kind) as other:
            asyncio.run(client.acall("a.B", "C", b""))
    assert type(one.value) is type(other.value)


def test_a_signal_ends_a_call_that_waits(run_python, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = run_python(
            "-c",
            # Who was started in the background of a script ignores the signal, and so do its children.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from dynamo import quill\n"
            f"client = quill.QuillClient('http://127.0.0.1:{listener.getsockname()[1]}')\n"
            "try:\n    client.call('a.B', 'C', b'')\n"
            "except KeyboardInterrupt:\n    print('interrupted')\n",
        )
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=20)
    assert out.strip() == "interrupted"


# ---- compression


def test_only_large_bodies_are_compressed(mirrored):
    client = quill.QuillClient(mirrored, enable_compression=True)
    seen = json.loads(client.call("a.B", "C", b"a" * 1024))
    assert "content-encoding" not in seen["headers"]
    assert seen["headers"]["accept-encoding"] == "zstd"
    assert seen["size"] == 1024


def test_large_bodies_are_compressed_and_answers_made_whole():
    text = b"the same again " * 1000
    packed = answer(compress(text), headers="Content-Encoding: zstd\r\n")
    with scripted_server(packed, packed) as (url, heard):
        client = quill.QuillClient(url, enable_compression=True)
        assert client.call("a.B", "C", text) == text
        assert asyncio.run(client.acall("a.B", "C", text)) == text
        for request in heard:
            head, _, body = request.partition(b"\r\n\r\n")
            assert b"Content-Encoding: zstd\r\n" in head
            assert len(body) < len(text)
            assert decompress(body, len(text)) == text


def test_compression_works_for_json_and_for_the_request_of_a_stream(client):
    text = "again and " * 500
    packed = quill.QuillClient(client.base_url, enable_compression=True)
    assert packed.call_json(*ECHO, {"text": text}) == {"text": text}
    assert asyncio.run(packed.acall_json(*ECHO, {"text": text})) == {"text": text}
    with scripted_server(answer(frame(b"x", 3))) as (url, heard):
        assert list(quill.QuillClient(url, enable_compression=True).call_stream("a.B", "C", text.encode())) == [b"x"]
        head, _, body = heard[0].partition(b"\r\n\r\n")
        assert b"Content-Encoding: zstd\r\n" in head
        assert decompress(body, 10000) == text.encode()


def test_what_does_not_shrink_is_sent_as_it_is(mirrored):
    client = quill.QuillClient(mirrored, enable_compression=True)
    seen = json.loads(client.call("a.B", "C", os.urandom(5000)))
    assert "content-encoding" not in seen["headers"]
    assert seen["size"] == 5000


def test_zstd_is_bounded():
    bomb = compress(bytes(50_000_000))
    assert len(bomb) < 10000
    with pytest.raises(errors.Overloaded, match="1000 bytes"):
        decompress(bomb, 1000)
    with pytest.raises(ValueError):
        decompress(b"no", 1000)
    assert decompress(compress(b"yes"), 3) == b"yes"


# ---- streams


def test_a_stream_is_iterated(client):
    assert list(client.call_stream("test.v1.Echo", "Count", b"1000")) == [b"message %d" % i for i in range(1000)]
    assert list(client.call_stream("test.v1.Echo", "Count", b"0")) == []
    assert client.stats()["opened"] == 1  # the connection was kept


def test_a_stream_can_be_left(client):
    with client.call_stream("test.v1.Echo", "Count", b"100000") as stream:
        assert next(stream) == b"message 0"
    with pytest.raises(StopIteration):
        next(stream)


def test_a_stream_that_is_refused_raises_at_once(client):
    with pytest.raises(quill.RpcError, match="held by another"):
        client.call_stream("test.v1.Echo", "Refuse", b"")


def test_streams_in_asyncio(client):
    async def main():
        got = [message async for message in client.acall_stream("test.v1.Echo", "Count", b"1000")]
        assert got == [b"message %d" % i for i in range(1000)]
        with pytest.raises(quill.RpcError, match="held by another"):
            await client.acall_stream("test.v1.Echo", "Refuse", b"").open()
        async with client.acall_stream("test.v1.Echo", "Count", b"100000") as stream:
            async for message in stream:
                assert message == b"message 0"
                break
        counts = await asyncio.gather(*[total(100) for _ in range(50)])
        assert counts == [100] * 50

    async def total(n):
        found = 0
        async for _ in client.acall_stream("test.v1.Echo", "Count", b"%d" % n):
            found += 1
        return found

    asyncio.run(main())


def chunked(*pieces):
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces
    )


END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "messages", "kind"),
    [
        (chunked(frame(b"a") + frame(b"b", 3)) + END, [b"a", b"b"], None),  # DATA and END keep their payload
        (chunked(frame(b"a"), frame(b"", 2)) + END, [b"a"], None),
        (chunked(frame(b"abc")[:2], frame(b"abc")[2:] + frame(b"", 2)) + END, [b"abc"], None),
        (chunked(frame(b"\x10", 8) + frame(b"a") + frame(b"", 2)) + END, [b"a"], None),  # CREDIT
        (chunked(frame(b"a", 0) + frame(b"", 2)) + END, [], None),  # no known flag
        (chunked(frame(b"a")) + END, [b"a"], ConnectionError),  # no END frame
        (chunked(frame(b"a")), [b"a"], ConnectionError),
        (chunked(frame(b"a") + frame(b"", 4)) + END, [b"a"], errors.Cancelled),
        (chunked(frame(b"a") + b"\xff" * 11) + END, [b"a"], ValueError),
        (chunked(frame(b"a") + b"\x81\x80\x80\x02\x01") + END, [b"a"], ValueError),  # 4 MiB + 1 announced
        (answer(frame(b"a") + frame(b"b", 3)), [b"a", b"b"], None),
    ],
)
def test_every_kind_of_stream_ends_as_it_should(said, messages, kind):
    with scripted_server(said, said) as (url, _):
        client = quill.QuillClient(url, timeout_ms=5000)
        got = []
        try:
            for message in client.call_stream("a.B", "C", b""):
                got.append(message)
            assert kind is None
        except Exception as error:
            assert kind is not None and isinstance(error, kind), error
        assert got == messages

        async def main():
            got = []
            try:
                async for message in client.acall_stream("a.B", "C", b""):
                    got.append(message)
                assert kind is None
            except Exception as error:
                assert kind is not None and isinstance(error, kind), error
            assert got == messages

        asyncio.run(main())


def test_a_stream_that_falls_silent_is_timed_out_between_two_items():
    said = chunked(frame(b"a"))
    with scripted_server(said, said, linger=True) as (url, _):
        client = quill.QuillClient(url, timeout_ms=100)
        stream = client.call_stream("a.B", "C", b"")
        assert next(stream) == b"a"
        with pytest.raises(TimeoutError):
            next(stream)

        async def main():
            stream = client.acall_stream("a.B", "C", b"")
            assert await anext(stream) == b"a"
            with pytest.raises(TimeoutError):
                await anext(stream)

        asyncio.run(main())


def test_requests_can_be_streams(client):
    pieces = [b"%d," % i for i in range(1000)] + [b"x" * 1_000_000]
    assert client.upload_stream("test.v1.Echo", "Join", pieces) == b"".join(pieces)
    assert client.upload_stream("test.v1.Echo", "Join", iter(())) == b""
    assert list(client.call_bidirectional("test.v1.Echo", "Shout", [b"a", b"b"])) == [b"a!", b"b!"]

    async def some():
        for piece in pieces:
            yield piece

    async def main():
        assert await client.aupload_stream("test.v1.Echo", "Join", some()) == b"".join(pieces)
        got = [m async for m in client.acall_bidirectional("test.v1.Echo", "Shout", [b"a", b"b"])]
        assert got == [b"a!", b"b!"]

    asyncio.run(main())


async def both_ways(request):
    """An aiohttp handler that answers each message as it comes."""
    from aiohttp import web

    response = web.StreamResponse()
    await response.prepare(request)
    held = b""
    async for piece in request.content.iter_any():
        held += piece
        while len(held) >= 2 and len(held) >= 2 + held[0]:
            size, flags = held[0], held[1]
            payload, held = held[2 : 2 + size], held[2 + size :]
            if flags & 1:
                await response.write(frame(payload + b"!"))
    await response.write(frame(b"", 2))
    return response


def test_a_server_that_can_answers_before_the_request_is_over():
    with aiohttp_server(both_ways) as url:
        client = quill.QuillClient(url, timeout_ms=5000)

        async def main():
            answers = asyncio.Queue()

            async def ask():  # each question waits for the answer before it
                for i in range(100):
                    yield b"%d" % i
                    assert await answers.get() == b"%d!" % i

            count = 0
            async for message in client.acall_bidirectional("a.B", "C", ask()):
                answers.put_nowait(message)
                count += 1
            assert count == 100

        asyncio.run(main())
        assert list(client.call_bidirectional("a.B", "C", [b"a", b"b"])) == [b"a!", b"b!"]


def test_what_a_senders_iterable_raises_reaches_the_caller(client):
    def broken():
        yield b"a"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        client.upload_stream("test.v1.Echo", "Join", broken())
    with pytest.raises(KeyError, match="mine"):
        list(client.call_bidirectional("test.v1.Echo", "Shout", broken()))

    async def main():
        with pytest.raises(KeyError, match="mine"):
            await client.aupload_stream("test.v1.Echo", "Join", broken())
        with pytest.raises(KeyError, match="mine"):
            async for _ in client.acall_bidirectional("test.v1.Echo", "Shout", broken()):
                pass

    asyncio.run(main())


# ---- asyncio


def test_many_calls_at_once(server):
    client = quill.QuillClient(server.address, max_connections=10)

    async def main():
        bodies = [b"%d" % i for i in range(500)]
        assert await asyncio.gather(*[client.acall(*ECHO, body) for body in bodies]) == bodies
        assert client.stats()["opened"] == 10
        assert await client.acall_json(*ECHO, {"a": 1}) == {"a": 1}
        async with client:
            pass

    asyncio.run(main())
    asyncio.run(main2(client))  # another loop has connections of its own


async def main2(client):
    assert await client.acall(*ECHO, b"x") == b"x"


def test_uvloop_too(client):
    uvloop = pytest.importorskip("uvloop")

    async def main():
        bodies = [b"%d" % i for i in range(200)]
        assert await asyncio.gather(*[client.acall(*ECHO, body) for body in bodies]) == bodies
        assert len([m async for m in client.acall_stream("test.v1.Echo", "Count", b"100")]) == 100
        with pytest.raises(TimeoutError):
            await client.acall("test.v1.Echo", "Slow", b"5", timeout_ms=50)

    uvloop.run(main())


def test_a_cancelled_call_closes_its_connection_and_the_others_go_on(client):
    async def main():
        slow = [asyncio.create_task(client.acall("test.v1.Echo", "Slow", b"5")) for _ in range(5)]
        fast = asyncio.create_task(client.acall("test.v1.Echo", "Slow", b"0.1"))
        await asyncio.sleep(0.03)
        for task in slow:
            task.cancel()
        assert await fast == b"0.1"
        assert all(isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*slow, return_exceptions=True))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.acall("test.v1.Echo", "Slow", b"5"), 0.05)
        assert await client.acall(*ECHO, b"x") == b"x"

    asyncio.run(main())


def test_a_stream_that_is_dropped_is_closed(client):
    async def main():
        stream = client.acall_stream("test.v1.Echo", "Count", b"100000000")
        assert await anext(stream) == b"message 0"
        del stream
        gc.collect()
        await asyncio.sleep(0)
        assert await client.acall(*ECHO, b"x") == b"x"

    asyncio.run(main())


def test_a_loop_that_ends_with_calls_under_way_does_no_harm(server):
    client = quill.QuillClient(server.address)
    loop, tasks = asyncio.new_event_loop(), []

    async def begin():
        tasks.append(asyncio.get_running_loop().create_task(client.acall("test.v1.Echo", "Slow", b"0.2")))
        await asyncio.sleep(0.02)

    loop.run_until_complete(begin())
    tasks.pop().cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop
    gc.collect()
    assert client.call(*ECHO, b"x") == b"x"


# ---- retries


def test_only_idempotent_calls_are_repeated():
    busy, good = problem(503, title="Busy"), answer(b"good")
    with scripted_server(busy, b"", good) as (url, heard):
        client = quill.QuillClient(url, retries=3)
        assert client.call("a.B", "C", b"", idempotent=True) == b"good"
        assert len(heard) == 3
    with scripted_server(busy, good) as (url, heard):
        client = quill.QuillClient(url, retries=3)
        with pytest.raises(quill.RpcError, match="Busy"):
            client.call("a.B", "C", b"")
        assert len(heard) == 1
    with scripted_server(problem(400, title="Bad"), good) as (url, heard):
        client = quill.QuillClient(url, retries=3)
        with pytest.raises(quill.RpcError, match="Bad"):
            client.call("a.B", "C", b"", idempotent=True)
        assert len(heard) == 1
    with scripted_server(busy, busy, good) as (url, heard):
        client = quill.QuillClient(url, retries=1)
        with pytest.raises(quill.RpcError, match="Busy"):
            asyncio.run(client.acall("a.B", "C", b"", idempotent=True))
        assert len(heard) == 2


def test_retries_are_off_by_default_and_stay_within_the_time():
    busy = problem(503, title="Busy")
    with scripted_server(busy, busy) as (url, heard):
        with pytest.raises(quill.RpcError):
            quill.QuillClient(url).call("a.B", "C", b"", idempotent=True)
        assert len(heard) == 1
        start = time.monotonic()
        with pytest.raises(quill.RpcError):
            quill.QuillClient(url, timeout_ms=50, retries=100).call("a.B", "C", b"", idempotent=True)
        assert time.monotonic() - start < 2


def test_the_pauses_between_attempts_grow_and_differ():
    from dynamo.quill.client import _pause

    later = time.monotonic() + 1000
    broken = errors.ConnectionFailed("refused")
    for attempt, middle in enumerate([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30]):
        pauses = [_pause(broken, attempt, 100, later) for _ in range(200)]
        assert all(0.9 * middle <= pause <= 1.1 * middle for pause in pauses)
        assert len(set(pauses)) > 100
    asked = quill.RpcError(503, headers={"retry-after": "17"})
    assert _pause(asked, 0, 3, later) == 17
    assert _pause(asked, 0, 3, time.monotonic() + 16) is None  # it would be too late
    assert _pause(broken, 3, 3, later) is None  # that was the last
    assert _pause(errors.RequestTimeout("late"), 0, 3, later) is None
    for status in (408, 425, 429, 502, 503, 504):
        assert _pause(quill.RpcError(status), 0, 3, later) is not None
    for status in (400, 401, 403, 404, 409, 499, 500, 501):
        assert _pause(quill.RpcError(status), 0, 3, later) is None
    assert _pause(errors.RemoteError("no HTTP"), 0, 3, later) is None


# ---- health


def test_health_tells_the_truth(client):
    assert client.health_check() is True
    for said, healthy in [
        ([answer(b"ok")], True),
        ([answer(b"", "503 Busy")], False),
        ([answer(b"", "404 No"), answer(b"ok")], True),
        ([answer(b"", "404 No"), answer(b"", "500 Oops")], False),
        ([answer(b"", "404 No"), answer(b"", "405 No")], True),
        ([b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"], False),
        ([b""], False),
    ]:
        with scripted_server(*said) as (url, heard):
            assert quill.QuillClient(url).health_check() is healthy, said
            assert heard[0].startswith(b"GET /health ")
    assert quill.QuillClient(url).health_check() is False  # nobody listens any more
    with scripted_server(b"", linger=True) as (url, _):
        assert quill.QuillClient(url).health_check(timeout_ms=50) is False


# ---- fork


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_fork_leaves_the_parents_connections_alone(server):
    client = quill.QuillClient(server.address)
    assert client.call(*ECHO, b"before") == b"before"

    async def main():
        assert await client.acall(*ECHO, b"before") == b"before"
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if client.call(*ECHO, b"child") == b"child":
                    code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222
        assert status == 0
        assert await client.acall(*ECHO, b"after") == b"after"

    asyncio.run(main())
    assert client.call(*ECHO, b"after") == b"after"
    assert client.stats()["opened"] == 2  # one for threads, one for the loop; the child's is not counted here


# ---- nginx


def test_nginx_takes_our_requests(tmp_path):
    body = "x" * 100_000
    (tmp_path / "big").write_text(body)
    lines = f"""location /small.S/ {{ return 200 'hello'; }}
                location /closing.S/ {{ keepalive_timeout 0; return 200 'bye'; }}
                location /busy.S/ {{ return 503 'busy'; }}
                location = /health {{ return 200 'ok'; }}
                error_page 405 =200 /big;
                location = /big {{ root {tmp_path}; }}
                location /big.S/ {{ error_page 405 =200 /big; root {tmp_path}; }}"""
    with nginx_server(tmp_path / "nginx", lines) as url:
        client = quill.QuillClient(url)
        assert client.health_check()
        for i in range(100):
            assert client.call("small.S", "Get", b"y" * i * 700) == b"hello"
        assert client.stats()["opened"] == 1
        for _ in range(3):
            assert client.call("closing.S", "Get", b"") == b"bye"
        with pytest.raises(quill.RpcError, match="busy") as caught:
            client.call("busy.S", "Get", b"")
        assert caught.value.status == 503

        async def main():
            assert set(await asyncio.gather(*[client.acall("small.S", "Get", b"y") for _ in range(300)])) == {b"hello"}

        asyncio.run(main())


def test_nginx_in_front_of_our_server(server, tmp_path):
    lines = f"location / {{ proxy_pass {server.address}; proxy_http_version 1.1; proxy_buffering off; }}"
    with nginx_server(tmp_path / "nginx", lines) as url:
        client = quill.QuillClient(url, enable_compression=True)
        text = b"again " * 10000
        assert client.call(*ECHO, text) == text
        assert len(list(client.call_stream("test.v1.Echo", "Count", b"500"))) == 500
        assert client.upload_stream("test.v1.Echo", "Join", [b"a", b"b"]) == b"ab"
