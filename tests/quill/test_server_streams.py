"""Requests that are streams: what the handler gets while they come, and what holds both sides back."""

import asyncio
import contextlib
import gc
import os
import shutil
import socket
import subprocess
import threading
import time

import httpx
import msgspec
import numpy as np
import pytest

from dynamo import errors, quill
from dynamo._http import Server
from dynamo._quill import compress
from dynamo._quill_stream import ready_made

from .peers import frame

HEAD = b"POST /t.S/%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/proto\r\nTransfer-Encoding: chunked\r\n%s\r\n"


class Point(msgspec.Struct):
    x: int


class Seen:
    """What the handlers did; each test looks at its own part."""

    def __init__(self):
        self.errors = []
        self.told = threading.Event()
        self.taken = 0
        self.go = threading.Event()


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def server(seen):
    server = quill.QuillServer(max_body_bytes=1 << 20)

    @server.method("t.S", "Shout", stream_request=True)
    async def shout(requests):
        async for request in requests:
            yield request + b"!"

    @server.method("t.S", "PlainShout", stream_request=True)
    def plain_shout(requests):
        for request in requests:
            yield request + b"!"

    @server.method("t.S", "Sum", stream_request=True)
    async def total(requests):
        size = 0
        async for request in requests:
            size += len(request)
            if request == b"enough":
                break
        return b"%d" % size

    @server.method("t.S", "PlainSum", stream_request=True)
    def plain_total(requests):
        return b"%d" % sum(len(request) for request in requests)

    @server.method("t.S", "Points", stream_request=True, request=Point)
    async def points(requests):
        return {"sum": sum([point.x async for point in requests])}

    @server.method("t.S", "Tensors", stream_request=True, request=quill.Tensor)
    async def tensors(requests):
        async for tensor in requests:
            yield quill.Tensor(tensor.to_numpy() * 2)

    @server.method("t.S", "Deaf", stream_request=True)
    async def deaf(requests):
        while not seen.go.is_set():  # noqa: ASYNC110 -- the test's thread sets it
            await asyncio.sleep(0.005)
        async for request in requests:
            seen.taken += len(request)
        return b"%d" % seen.taken

    @server.method("t.S", "Talker", stream_request=True)
    async def talker(requests):
        for i in range(1000):
            yield b"%d" % i
            seen.taken = i + 1

    @server.method("t.S", "Wait", stream_request=True)
    async def wait(requests):
        try:
            async for _ in requests:
                seen.taken += 1
        except BaseException as error:
            seen.errors.append(error)
            raise
        finally:
            seen.told.set()

    @server.method("t.S", "PlainWait", stream_request=True)
    def plain_wait(requests):
        try:
            for _ in requests:
                seen.taken += 1
        except BaseException as error:
            seen.errors.append(error)
            raise
        finally:
            seen.told.set()

    @server.method("t.S", "Refuse", stream_request=True)
    async def refuse(requests):
        async for _ in requests:
            raise quill.RpcError(403, detail="not this one")
        yield b""

    with server:
        yield server


@pytest.fixture
def client(server):
    with quill.QuillClient(server.address, timeout_ms=20000) as client:
        yield client


class Raw:
    """A client by hand: chunks out, frames in."""

    def __init__(self, server, method, *headers):
        port = int(server.address.rpartition(":")[2])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.socket.sendall(HEAD % (method, lines))
        self.got = b""

    def send(self, *frames):
        data = b"".join(frames)
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self):
        self.socket.sendall(b"0\r\n\r\n")

    def until(self, text):
        while text not in self.got:
            data = self.socket.recv(65536)
            assert data, self.got
            self.got += data
        return self.got

    def rest(self):
        with contextlib.suppress(ConnectionError):
            while data := self.socket.recv(65536):
                self.got += data
        return self.got

    def silent(self, seconds=0.2):
        """What comes until nothing has come for a while."""
        self.socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            while data := self.socket.recv(65536):
                self.got += data
        self.socket.settimeout(10)
        return self.got

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()


# ---- live


@pytest.mark.parametrize("method", ["Shout", "PlainShout"])
def test_each_message_is_answered_before_the_next_is_sent(client, method):
    async def main():
        answers = asyncio.Queue()

        async def ask():
            for i in range(200):
                yield b"%d" % i
                assert await asyncio.wait_for(answers.get(), 10) == b"%d!" % i

        count = 0
        async for message in client.acall_bidirectional("t.S", method, ask()):
            answers.put_nowait(message)
            count += 1
        assert count == 200

    asyncio.run(main())
    stats = client.stats()
    assert stats["opened"] == 1


def test_a_raw_peer_has_its_answer_at_once_too(server):
    with Raw(server, b"Shout") as raw:
        for i in range(20):
            raw.send(frame(b"%d" % i))
            raw.until(frame(b"%d!" % i))
        raw.send(frame(b"last", 3))
        raw.end()
        raw.until(frame(b"last!"))
        raw.until(frame(b"", 2) + b"\r\n0\r\n\r\n")
        assert b"quill-credits" not in raw.got  # nobody asked for them
        assert bytes([1, 8, 8]) not in raw.got


def test_httpx_streams_its_request(server):
    def messages():
        for i in range(100):
            yield frame(b"%d" % i)
        yield frame(b"", 2)

    answer = httpx.post(f"{server.address}/t.S/Sum", content=messages())
    assert answer.content == b"190"

    async def main():
        go = asyncio.Event()

        async def slowly():
            yield frame(b"one")
            await asyncio.wait_for(go.wait(), 10)
            yield frame(b"two", 3)

        async with httpx.AsyncClient(timeout=20) as client:
            call = asyncio.create_task(client.post(f"{server.address}/t.S/Sum", content=slowly()))
            await asyncio.sleep(0.05)
            go.set()
            assert (await call).content == b"6"

    asyncio.run(main())


def test_curl_streams_its_request_and_waits_for_the_100(server):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    out = subprocess.run(
        ["curl", "-sS", "-T", "-", "-X", "POST", "-H", "Expect: 100-continue", "-v", f"{server.address}/t.S/Shout"],
        input=frame(b"a") + frame(b"b", 3), capture_output=True, check=True, timeout=20,
    )  # fmt: skip
    assert out.stdout == frame(b"a!") + frame(b"b!") + frame(b"", 2)
    assert b"100 Continue" in out.stderr and b"200 OK" in out.stderr


@pytest.mark.parametrize("method", ["Sum", "PlainSum"])
def test_uploads_of_any_size_arrive(client, method):
    pieces = [b"%d," % i for i in range(3000)] + [os.urandom(1_000_000), b"", b"x" * 4_194_304]
    want = b"%d" % sum(map(len, pieces))
    assert client.upload_stream("t.S", method, pieces) == want
    assert asyncio.run(client.aupload_stream("t.S", method, pieces)) == want


def test_an_upload_may_be_answered_early(client):
    def endless():
        yield b"enough"
        while True:
            yield bytes(65536)

    assert client.upload_stream("t.S", "Sum", endless()) == b"6"
    assert asyncio.run(client.aupload_stream("t.S", "Sum", endless())) == b"6"
    assert client.upload_stream("t.S", "Sum", [b"a"]) == b"1"


def test_messages_have_the_type_that_was_asked_for(client):
    client.set_header("Content-Type", "application/json")
    assert client.upload_stream("t.S", "Points", [b'{"x": 1}', b'{"x": 41}']) == b'{"sum":42}'
    with pytest.raises(quill.RpcError) as caught:
        client.upload_stream("t.S", "Points", [b'{"x": 1}', b'{"x": "one"}'])
    assert caught.value.status == 400
    client.remove_header("Content-Type")
    given = [quill.Tensor.from_numpy(np.full((3, 5), i, np.float32), name=f"t{i}") for i in range(5)]
    got = [quill.Tensor.from_frames(m) for m in client.call_bidirectional("t.S", "Tensors", given)]
    assert [t.to_numpy()[0, 0] for t in got] == [0, 2, 4, 6, 8]


def test_what_is_packed_as_a_whole_is_taken_as_a_whole(server):
    data = frame(b"ab") + frame(b"c") + frame(b"", 2)
    post = httpx.post(f"{server.address}/t.S/Sum", content=compress(data), headers={"content-encoding": "zstd"})
    assert post.content == b"3"
    bomb = compress(bytes(2 << 20))
    answer = httpx.post(f"{server.address}/t.S/Sum", content=bomb, headers={"content-encoding": "zstd"})
    assert answer.status_code == 429
    answer = httpx.post(f"{server.address}/t.S/Sum", content=os.urandom(2 << 20), headers={"content-encoding": "zstd"})
    assert answer.status_code == 413
    answer = httpx.post(f"{server.address}/t.S/Sum", content=b"", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


# ---- what cannot be


@pytest.mark.parametrize("method", [b"Sum", b"PlainSum"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\xff" * 11, b"400"),
        (frame(b"a")[:1], b"400"),
        (frame(b"a") + b"\x80\x80\x80\x04\x01", b"400"),
        (frame(b"a"), b"400"),
        (b"", b"400"),
        (frame(b"a", 3) + frame(b"b"), b"400"),
    ],
)
def test_what_is_no_stream_is_refused(server, method, body, status):
    with Raw(server, method) as raw:
        if body:
            raw.send(body)
        raw.end()
        answer = raw.until(b"}")
    assert answer.startswith(b"HTTP/1.1 " + status)


def test_chunks_that_are_none_are_refused(server):
    with Raw(server, b"Sum") as raw:
        raw.send(frame(b"a"))
        raw.socket.sendall(b"what is this\r\n")
        assert raw.rest().startswith(b"HTTP/1.1 400 ")  # and the connection ends


@pytest.mark.parametrize("method", [b"Wait", b"PlainWait"])
def test_a_client_that_leaves_in_the_middle_ends_the_handler(server, seen, method):
    with Raw(server, method) as raw:
        raw.send(frame(b"a"))
        deadline = time.monotonic() + 10
        while seen.taken == 0 and time.monotonic() < deadline:
            time.sleep(0.005)
    assert seen.told.wait(10)
    assert isinstance(seen.errors[0], (asyncio.CancelledError, errors.StreamBroken))


@pytest.mark.parametrize("method", [b"Wait", b"PlainWait"])
def test_a_cancel_frame_ends_the_handler(server, seen, method):
    with Raw(server, method) as raw:
        raw.send(frame(b"a"), frame(b"", 4))
        assert raw.until(b"\r\n\r\n").startswith(b"HTTP/1.1 499 ")
    assert seen.told.wait(10)
    assert isinstance(seen.errors[0], (asyncio.CancelledError, errors.Cancelled))


def test_a_refusal_in_the_middle_is_a_status_and_the_connection_goes_on(server, client):
    with pytest.raises(quill.RpcError, match="not this one") as caught:
        list(client.call_bidirectional("t.S", "Refuse", [b"a"]))
    assert caught.value.status == 403
    with Raw(server, b"Refuse") as raw:
        raw.send(frame(b"a"))
        raw.until(b"not this one")
        raw.send(frame(b"b"), frame(b"", 2))  # what still comes is read off
        raw.end()
        raw.socket.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        raw.until(b"healthy")


def test_the_deadline_covers_a_client_that_says_nothing(server, seen):
    with Raw(server, b"Wait", (b"Quill-Timeout-Ms", b"100")) as raw:
        raw.send(frame(b"a"))
        assert raw.until(b"\r\n\r\n").startswith(b"HTTP/1.1 504 ")
    assert seen.told.wait(10)


def test_plain_handlers_that_wait_do_not_hold_each_other(server):
    raws = [Raw(server, b"PlainSum") for _ in range(40)]  # more than the threads of an executor
    try:
        for raw in raws:
            raw.send(frame(b"abc"))
        for raw in reversed(raws):
            raw.send(frame(b"", 2))
            raw.end()
            raw.until(b"\r\n\r\n3")
    finally:
        for raw in raws:
            raw.socket.close()


# ---- back-pressure


def test_what_nobody_takes_waits_in_the_client(server, seen):
    with Raw(server, b"Deaf") as raw:
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        raw.socket.settimeout(0.5)
        piece = frame(bytes(60000))
        chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                sent += raw.socket.send(chunk[sent % len(chunk) :])
        assert 0 < sent < 32 << 20  # the rest is in the kernel's buffers
        server_side = next(o for o in gc.get_objects() if isinstance(o, quill.RequestStream))
        assert 0 < int(repr(server_side).split(",")[1].split()[0]) <= 8  # 256 KiB of 60,000
        seen.go.set()
        raw.socket.settimeout(10)
        while sent % len(chunk):
            sent += raw.socket.send(chunk[sent % len(chunk) :])
        raw.send(frame(b"", 2))
        raw.end()
        raw.until(b"\r\n\r\n%d" % (sent // len(chunk) * 60000))


def test_all_streams_together_hold_a_bounded_number_of_bytes():
    server = quill.QuillServer(max_total_body_bytes=1_500_000)

    @server.method("t.S", "Size", stream_request=True)
    async def size(requests):
        return b"%d" % sum([len(request) async for request in requests])

    big = frame(bytes(1_000_000))
    with server:
        first, second = Raw(server, b"Size"), Raw(server, b"Size")
        with first, second:
            first.send(big[:900_000])  # neither is whole
            server_side = server._budget
            deadline = time.monotonic() + 10
            while server_side.used < 800_000 and time.monotonic() < deadline:
                time.sleep(0.005)
            assert 800_000 < server_side.used < 1_000_000
            second.send(big[:900_000])
            assert second.until(b"\r\n\r\n").startswith(b"HTTP/1.1 429 ")
            first.send(big[900_000:], frame(b"", 2))  # who was there goes on
            first.end()
            first.until(b"\r\n\r\n1000000")
        deadline = time.monotonic() + 10
        while server_side.used and time.monotonic() < deadline:
            time.sleep(0.005)
        assert server_side.used == 0
        assert quill.QuillClient(server.address).upload_stream("t.S", "Size", [bytes(1_000_000)]) == b"1000000"


def test_a_client_that_counts_is_not_sent_more_than_it_grants(server, seen):
    with Raw(server, b"Talker", (b"Quill-Credits", b"5")) as raw:
        raw.until(b"quill-credits: 16")
        raw.silent()
        assert frame(b"4") in raw.got and frame(b"5") not in raw.got
        assert seen.taken in (4, 5)
        raw.send(b"\x01\x08\x03")
        raw.silent()
        assert frame(b"7") in raw.got and frame(b"8") not in raw.got
        raw.send(b"\x02\x08\xac\x02")  # 300
        raw.until(frame(b"307"))
        raw.silent()
        assert frame(b"308") not in raw.got
        raw.send(frame(b"", 2))  # the END of its messages: it may still grant
        raw.send(b"\x01\x08\x02")
        raw.until(frame(b"309"))
        raw.end()  # now nothing can be granted any more
        raw.until(frame(b"999"))


def test_messages_that_nobody_takes_do_not_lock_the_answer(server):
    """The CREDIT is behind them: it cannot be read, so the answer goes on as without credits."""
    with Raw(server, b"Talker", (b"Quill-Credits", b"1")) as raw:
        raw.until(frame(b"0"))
        for _ in range(8):
            raw.send(frame(bytes(60000)))
        raw.until(frame(b"999"))


def test_a_client_is_granted_what_the_handler_took(server):
    with Raw(server, b"Shout", (b"Quill-Credits", b"1000")) as raw:
        raw.send(frame(b"x"))
        raw.until(frame(b"x!"))
        assert b"\x01\x08" not in raw.got.partition(b"\r\n\r\n")[2].replace(frame(b"x!"), b"")
        raw.send(*[frame(b"y")] * 7)
        raw.until(b"\x01\x08\x08")
        raw.send(*[frame(b"y")] * 16)
        deadline = time.monotonic() + 10
        while raw.got.count(b"\x01\x08\x08") < 3 and time.monotonic() < deadline:
            raw.silent(0.05)
        assert raw.got.count(b"\x01\x08\x08") == 3
        raw.send(frame(b"", 2))
        raw.end()
        raw.until(b"\r\n0\r\n\r\n")


def test_our_client_stops_at_what_the_server_grants(server, client, seen):
    """Both sides keep to sixteen: the client's messages are not taken, so it does not make more of them."""
    made = 0

    def endless():
        nonlocal made
        while True:
            made += 1
            yield b"m"

    async def main():
        begun = asyncio.Event()

        async def after_the_head():  # before it nobody knows whether the server counts
            nonlocal made
            await begun.wait()
            while True:
                made += 1
                yield b"m"

        stream = client.acall_bidirectional("t.S", "Talker", after_the_head())
        assert await stream.__anext__() == b"0"
        begun.set()
        before, still = -1, 0
        deadline = time.monotonic() + 10
        while still < 20 and time.monotonic() < deadline:
            still = still + 1 if made == before else 0
            before = made
            await asyncio.sleep(0.01)
        assert still == 20
        assert made == 16
        assert seen.taken < 40  # the client takes no more, so the server sends no more
        count = 1
        async for _ in stream:
            count += 1
        assert count == 1000

    asyncio.run(asyncio.wait_for(main(), 30))
    made = 0
    stream = client.call_bidirectional("t.S", "Talker", endless())
    assert [int(message) for message in stream] == list(range(1000))


@pytest.mark.parametrize("method", ["Shout", "PlainShout"])
def test_many_messages_go_both_ways_under_credits(client, method):
    want = [b"%d!" % i for i in range(2000)]
    assert list(client.call_bidirectional("t.S", method, (b"%d" % i for i in range(2000)))) == want

    async def main():
        async def some():
            for i in range(2000):
                yield b"%d" % i

        got = [m async for m in client.acall_bidirectional("t.S", method, some())]
        assert got == want
        many = [client.acall_bidirectional("t.S", method, [b"%d" % i] * 50) for i in range(20)]

        async def count(stream):
            return sum([1 async for _ in stream])

        assert await asyncio.gather(*[count(stream) for stream in many]) == [50] * 20

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_slow_reader_of_a_two_way_call_costs_bounded_memory(server, client):
    """Its answers are large: the server's side holds a few of them, not the whole stream."""
    made = []

    @contextlib.contextmanager
    def other():
        server = quill.QuillServer()

        @server.method("t.S", "Bulk", stream_request=True)
        async def bulk(requests):
            for i in range(200):
                made.append(i)
                yield bytes(500_000)

        with server:
            yield quill.QuillClient(server.address, timeout_ms=20000)

    with other() as client:
        stream = client.call_bidirectional("t.S", "Bulk", iter(()))
        next(stream)
        before = -1
        while before != len(made):
            before = len(made)
            time.sleep(0.2)
        assert len(made) < 60
        assert sum(1 for _ in stream) == 199


# ---- the pieces


def test_a_request_stream_shows_itself_and_is_not_made_by_hand():
    async def main():
        stream = ready_made([b"a", b"b"], asyncio.get_running_loop(), None)
        assert repr(stream) == "<RequestStream over, 2 here>"
        with pytest.raises(TypeError, match="async for"):
            next(stream)
        assert [m async for m in stream] == [b"a", b"b"]

    asyncio.run(main())
    with pytest.raises(TypeError, match="server"):
        quill.RequestStream()


def test_a_live_route_reads_bytes():
    async def main():
        server = Server()
        seen = []

        async def take(request):
            while piece := await request.read():
                seen.append(piece)
            return {"pieces": len(b"".join(seen))}

        server.route("POST", "/in", take, live=True)
        port = server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /in HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        while not seen:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        writer.write(b"def")
        assert (await reader.readuntil(b"}")).endswith(b'{"pieces":6}')
        writer.write(b"POST /in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"2\r\nab\r\nzz\r\n")
        assert b" 400 " in await reader.read()
        writer.close()
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), 30))
