import asyncio
import contextlib
import gc
import json
import socket

import aiohttp
import aiohttp.web
import pytest

from dynamo._http import Request, Response, Server
from dynamo._metrics import Registry
from dynamo.errors import InvalidArgument, NotFound, Overloaded

LIMIT = 20  # seconds for any one test


def run(main):
    return asyncio.run(asyncio.wait_for(main, LIMIT))


@contextlib.asynccontextmanager
async def serving(*routes, **settings):
    """A server with (method, path, handler) routes, listening."""
    server = Server(**settings)
    for method, path, handler in routes:
        server.route(method, path, handler)
    server.start()
    try:
        yield server
    finally:
        server.close()


async def raw(server, data, *, eof=False):
    """Send bytes, read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    if eof:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def echo(request):
    return Response(
        memoryview(request).tobytes(), content_type="application/octet-stream", headers={"x-method": request.method}
    )


def test_a_request_and_its_answer():
    async def handler(request):
        assert isinstance(request, Request)
        assert request.query == {"a": "1", "b": ""}
        assert request.header("X-Up") == "Yes" and request.header("no") is None and request.header("no", "d") == "d"
        assert request.headers["x-twice"] == "1, 2"
        assert request.json() == {"n": 1} == json.loads(request.body) and bytes(memoryview(request)) == b'{"n":1}'
        assert request.peer.startswith("127.0.0.1:") and request.id == "my-id"
        with pytest.raises(TypeError):
            memoryview(request)[0] = 1
        return {"ok": True}

    async def main():
        async with serving(("POST", "/x", handler)) as server, aiohttp.ClientSession() as client:
            headers = [("X-Up", "Yes"), ("X-Twice", "1"), ("X-Twice", "2"), ("x-request-id", "my-id")]
            async with client.post(f"{server.url}/x?a=1&b=", data=b'{"n":1}', headers=headers) as answer:
                assert (answer.status, await answer.json()) == (200, {"ok": True})
                assert answer.headers["x-request-id"] == "my-id" and "Date" in answer.headers

    run(main())


def test_what_a_handler_returns_or_raises_is_the_answer():
    cases = {
        "bytes": (b"b", 200, b"b"),
        "str": ("s", 200, b"s"),
        "json": ([1], 200, b"[1]"),
        "response": (Response("t", 201, "text/x", {"x-a": "1"}), 201, b"t"),
        "bad": (InvalidArgument("no"), 400, b'{"error":{"message":"no"'),
        "missing": (NotFound("gone"), 404, b'"not_found_error"'),
        "busy": (Overloaded("full"), 529, b'"overloaded_error"'),
        "bug": (ZeroDivisionError("secret"), 500, b"internal error"),
    }

    async def handler(request):
        value = cases[request.path[1:]][0]
        if isinstance(value, Exception):
            raise value
        return value

    async def nothing(request):
        return None

    async def main():
        server_routes = [("GET", f"/{name}", handler) for name in cases]
        async with serving(*server_routes, ("GET", "/nothing", nothing)) as server, aiohttp.ClientSession() as client:
            for name, (_, status, text) in cases.items():
                async with client.get(f"{server.url}/{name}") as answer:
                    body = await answer.read()
                    assert (name, answer.status) == (name, status) and text in body, body
                    assert b"secret" not in body
            async with client.get(f"{server.url}/nothing") as answer:
                assert answer.status == 500  # nobody answered, and nobody can any more

    run(main())


# The same bytes to aiohttp and to us. None where the two may differ, with the reason.
POST = b"POST /e HTTP/1.1\r\nHost: x\r\n"
RAW = [
    (b"GET /e HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "get"),
    (b"HEAD /e HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "head"),
    (b"GET /e HTTP/1.0\r\n\r\n", "1.0"),
    (b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"),
    (b"DELETE /e HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "405"),
    (POST + b"Connection: close\r\nContent-Length: 3\r\n\r\nabc", "sized"),
    (POST + b"Connection: close\r\n\r\n", "no body, no length"),
    (
        POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
        "chunked",
    ),
    (
        POST + b"Connection: close\r\nTransfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
        "trailer",
    ),
    (
        POST + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        "100",
    ),
    (POST + b"Expect: magic\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", "417"),
    (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "two lengths"),
    (
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "length and chunked",
    ),
    (POST + b"Content-Length: x\r\n\r\nabc", "length x"),
    (POST + b"Content-Length: -3\r\n\r\nabc", "length -3"),
    (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n", "bad chunk"),
    (b"GET /e HTTP/1.1\r\nHost: x\r\nBad Name: b\r\n\r\n", "space in a name"),
    (b"GET /e HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", "NUL in a value"),
    (b"GET /e SMTP/1.1\r\nHost: x\r\n\r\n", "not HTTP"),
    (b"\x00\x01\x02\x03\r\n\r\n", "garbage"),
    (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", None),  # aiohttp: 400; ours names it: 414
    (b"GET /e HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 50000 + b"\r\n\r\n", None),  # aiohttp: 400; ours: 431
]


def test_the_status_is_that_of_aiohttp():
    async def theirs(request):
        return aiohttp.web.Response(body=await request.read())

    async def main():
        app = aiohttp.web.Application()
        app.router.add_get("/e", theirs)  # and HEAD
        app.router.add_post("/e", theirs)
        runner = aiohttp.web.AppRunner(app, handle_signals=False, access_log=None)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        try:
            async with serving(("GET", "/e", echo), ("POST", "/e", echo)) as server:
                for data, name in RAW:
                    got = []
                    for each in (port, server.port):
                        reader, writer = await asyncio.open_connection("127.0.0.1", each)
                        writer.write(data)
                        text = await asyncio.wait_for(reader.read(), 10)
                        writer.close()
                        lines = text.split(b"\r\n\r\n", 1)
                        if lines[0] == b"HTTP/1.1 100 Continue":
                            lines = lines[1].split(b"\r\n\r\n", 1)
                        status = int(lines[0].split()[1])
                        got.append((status, lines[1] if status == 200 else b""))
                    if name is None:
                        assert [status // 100 for status, _ in got] == [4, 4], data[:60]
                    else:
                        assert got[0] == got[1], name
        finally:
            await runner.cleanup()

    run(main())


def test_pipelined_requests_are_answered_in_order():
    async def slow(request):
        await asyncio.sleep(0.01 if request.path == "/0" else 0)
        return request.path + ";"

    async def main():
        async with serving(*(("GET", f"/{i}", slow) for i in range(5))) as server:
            data = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(4))
            text = await raw(server, data + b"GET /4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert [text.index(b"/%d;" % i) for i in range(5)] == sorted(text.index(b"/%d;" % i) for i in range(5))
            # A client that closed its sending side still gets all of them.
            text = await raw(server, data, eof=True)
            assert text.count(b"HTTP/1.1 200") == 4

    run(main())


def test_a_large_body_arrives_whole_and_a_larger_one_is_refused():
    async def main():
        async with serving(("POST", "/e", echo), max_body_bytes=8 << 20) as server, aiohttp.ClientSession() as client:
            body = bytes(range(256)) * (8 << 12)
            async with client.post(f"{server.url}/e", data=body) as answer:
                assert await answer.read() == body

            async def pieces():
                for at in range(0, len(body), 100_000):
                    yield body[at : at + 100_000]

            async with client.post(f"{server.url}/e", data=pieces()) as answer:
                assert await answer.read() == body
            text = await raw(server, b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 8388609\r\n\r\n" + b"x" * 100_000)
            assert text.startswith(b"HTTP/1.1 413")
            assert server.stats()["body_bytes"] == 0

    run(main())


def test_a_client_that_leaves_is_told_to_the_handler():
    async def main():
        left = asyncio.Event()
        over = asyncio.get_running_loop().create_future()

        async def handler(request):
            request.on_closed(left.set)
            request.begin()
            try:
                while True:
                    request.event(b"1")
                    await asyncio.sleep(0.005)
            except ConnectionResetError as error:
                over.set_result(error)
                raise

        async with serving(("GET", "/s", handler)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"data: 1")
            writer.transport.abort()
            await left.wait()
            await over

    run(main())


def test_a_reader_that_stops_holds_its_producer_and_costs_bounded_memory():
    async def main():
        most, written, resumed = 0, 0, asyncio.Event()

        async def handler(request):
            nonlocal most, written
            request.begin(content_type="application/octet-stream")
            block = b"x" * 32768
            for _ in range(2000):
                if not request.write(block):
                    await request.drain()
                    resumed.set()
                written += len(block)
                most = max(most, request.pending)
            request.end()

        async with serving(("GET", "/s", handler)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=65536)
            writer.write(b"GET /s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            stuck = -1
            while stuck != written:  # nobody reads: it comes to a stop
                stuck = written
                await asyncio.sleep(0.1)
            assert written < 2000 * 32768
            total = 0
            while data := await reader.read(1 << 20):
                total += len(data)
            assert total > 2000 * 32768 and resumed.is_set()
            assert most < 1 << 20

    run(main())


@pytest.mark.parametrize("write_timeout", [0.2, None])
def test_a_client_that_never_reads_is_cut_when_there_is_a_limit(write_timeout):
    """Without a limit it is not: what is seen below is the limit's doing, not that of a full socket."""

    async def main():
        ended = asyncio.get_running_loop().create_future()

        async def handler(request):
            request.begin()
            refusals = 0
            while True:
                try:
                    request.write(b"x" * 65536)
                except BlockingIOError:
                    refusals += 1
                    await request.drain()
                except ConnectionResetError:
                    ended.set_result(refusals)
                    raise

        async with serving(("GET", "/s", handler), write_timeout=write_timeout, max_pending_bytes=1 << 20) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.send(b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n")
                if write_timeout is None:
                    with pytest.raises(asyncio.TimeoutError):
                        await asyncio.wait_for(asyncio.shield(ended), 1.0)
                    assert server.stats()["cut"] == 0
                    client.close()
                assert await ended >= 1
                assert server.stats()["cut"] == 1

    run(main())


def test_an_error_in_a_stream_cuts_it():
    async def handler(request):
        request.begin()
        request.event(b"1")
        await asyncio.sleep(0)
        raise ValueError("late")

    async def main():
        async with serving(("GET", "/s", handler)) as server, aiohttp.ClientSession() as client:
            with pytest.raises(aiohttp.ClientError):
                async with client.get(f"{server.url}/s") as answer:
                    await answer.read()

    run(main())


def test_slow_clients_are_told_or_cut():
    async def main():
        async with serving(("POST", "/e", echo), header_timeout=0.1, body_timeout=0.1, idle_timeout=0.2) as server:
            slow_header, slow_body, silent = await asyncio.gather(
                raw(server, b"POST /e HT"),
                raw(server, b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"),
                raw(server, b""),
            )
            assert slow_header.startswith(b"HTTP/1.1 408") and slow_body.startswith(b"HTTP/1.1 408") and silent == b""

    run(main())


def test_a_thousand_connections_at_once():
    async def main():
        async with serving(("POST", "/e", echo)) as server:
            pairs = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(1000)]
            for i, (_, writer) in enumerate(pairs):
                writer.write(b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n%04d" % i)
            for i, (reader, _) in enumerate(pairs):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200") and await reader.readexactly(4) == b"%04d" % i
            assert server.stats()["connections"] == 1000
            for _, writer in pairs:
                writer.close()

    run(main())


def test_key_cors_metrics_and_fixed_answers():
    async def main():
        registry = Registry()
        registry.counter("a_total").inc()
        async with (
            serving(("POST", "/e", echo), api_key="k", allow_origin="*") as server,
            aiohttp.ClientSession() as client,
        ):
            server.route_static("/live", "{}", open=True)
            server.route_static("/live", '{"v":2}', status=503, open=True, replace=True)
            server.route_metrics("/metrics", registry)
            with pytest.raises(ValueError, match="route already"):
                server.route_static("/live", "{}")
            async with client.get(f"{server.url}/live") as answer:
                assert (answer.status, await answer.text()) == (503, '{"v":2}')
            async with client.get(f"{server.url}/metrics") as answer:
                assert "a_total 1" in await answer.text() and answer.content_type == "text/plain"
            async with client.post(f"{server.url}/e", data=b"1") as answer:
                assert answer.status == 401 and (await answer.json())["error"]["type"] == "authentication_error"
            async with client.post(f"{server.url}/e", data=b"1", headers={"Authorization": "Bearer k"}) as answer:
                assert answer.status == 200 and answer.headers["Access-Control-Allow-Origin"] == "*"

    run(main())


def test_a_graceful_stop_lets_answers_end_and_cuts_late_ones():
    async def main():
        started = asyncio.Event()

        async def handler(request):
            started.set()
            await asyncio.sleep(float(request.query["for"]))
            return "done"

        for seconds, grace, want in ((0.1, 5, b"done"), (15, 0.05, b"")):
            server = Server()
            server.route("GET", "/s", handler)
            server.start()
            started.clear()
            client = asyncio.ensure_future(raw(server, b"GET /s?for=%g HTTP/1.1\r\nHost: x\r\n\r\n" % seconds))
            await started.wait()
            await server.stop(grace)
            assert (await client).endswith(want)
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", server.port)
            with pytest.raises(RuntimeError, match="closed"):
                server.start()

    run(main())


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="port"):
        Server(port=70000)
    with pytest.raises(ValueError, match="timeout"):
        Server(idle_timeout=0)
    with pytest.raises(ValueError, match="api key"):
        Server(api_key="a b")
    with pytest.raises(ValueError, match="no address"):
        Server("no.such.host.invalid").start()
    busy = Server()
    busy.start()
    with pytest.raises(OSError, match="address already in use"):
        Server(port=busy.port).start()
    busy.close()


def test_headers_of_an_answer_cannot_be_split():
    async def handler(request):
        return Response("x", headers={"x-a": "1\r\nSet-Cookie: evil"})

    async def main():
        async with serving(("GET", "/", handler)) as server:
            text = await raw(server, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"evil" not in text and text.startswith(b"HTTP/1.1 400")

    run(main())


def test_nothing_is_left_of_a_request():
    async def handler(request):
        request.on_closed(lambda: None)
        return "x"

    async def main():
        async with serving(("GET", "/", handler)) as server, aiohttp.ClientSession() as client:
            for _ in range(50):
                async with client.get(server.url) as answer:
                    await answer.read()
            await asyncio.sleep(0.05)
            gc.collect()
            assert sum(isinstance(each, Request) for each in gc.get_objects()) == 0

    run(main())


def test_a_server_in_a_program_that_forks_or_just_ends(run_python):
    program = """
import asyncio, os
from dynamo._http import Server
async def main():
    server = Server()
    async def hello(request): return "hello"
    server.route("GET", "/", hello)
    server.start()
    pid = os.fork()
    if pid == 0:
        del server
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print((await reader.readuntil(b"hello"))[-5:].decode())
asyncio.run(main())
"""
    # 3.12 warns of any fork beside threads.
    process = run_python("-W", "ignore:This process:DeprecationWarning", "-c", program)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out.strip()) == (0, "hello")


def test_two_asyncio_loops_have_their_own_handlers(run_python):
    program = """
import asyncio, threading
from dynamo._http import Server
async def main(text):
    server = Server()
    async def hello(request): return text
    server.route("GET", "/", hello)
    server.start()
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        assert (await reader.read()).endswith(text.encode())
    server.close()
threads = [threading.Thread(target=asyncio.run, args=(main(f"loop{i}"),)) for i in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
print("ok")
"""
    process = run_python("-c", program)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out.strip()) == (0, "ok"), out


def test_an_exact_route_and_a_prefix_of_one_path_come_and_go_apart():
    async def prefixed(request):
        return f"prefix {request.path}"

    async def main():
        server = Server()
        server.route("GET", "/a", prefixed, prefix=True)
        server.route_static("/a", "exact", "text/plain")
        server.start()
        try:
            async with aiohttp.ClientSession() as client:

                async def get(path):
                    async with client.get(server.url + path) as answer:
                        return await answer.text() if answer.status == 200 else answer.status

                assert await get("/a") == "exact" and await get("/a/b") == "prefix /a/b"
                server.route_static("/a", "another", "text/plain", replace=True)
                assert await get("/a") == "another" and await get("/a/b") == "prefix /a/b"
                server.unroute("GET", "/a")
                assert await get("/a") == "prefix /a"
                with pytest.raises(NotFound, match="no route of its own"):
                    server.unroute("GET", "/a")
                server.unroute("GET", "/a", prefix=True)
                assert await get("/a") == 404
                with pytest.raises(NotFound, match="no prefix route"):
                    server.unroute("GET", "/a", prefix=True)
        finally:
            server.close()

    run(main())
