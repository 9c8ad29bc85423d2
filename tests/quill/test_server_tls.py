"""QuillServer over TLS, called by our client and by people's own: httpx and curl."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time

import httpx
import pytest

from dynamo import quill
from dynamo._http import Server
from dynamo._tls import TlsContext

from .authority import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def made(authority, name="server", **options):
    server = quill.QuillServer(certfile=authority(f"{name}.pem"), keyfile=authority(f"{name}.key"), **options)

    @server.method("t.S", "Echo")
    async def echo(request):
        return request

    @server.method("t.S", "Count")
    async def count(request):
        for i in range(int(request)):
            yield b"%d" % i

    @server.method("t.S", "Bulk")
    async def bulk(request):
        for _ in range(64):
            yield bytes(256 * 1024)

    return server


@pytest.fixture(scope="module")
def server(authority):
    with made(authority) as server:
        yield server


def dial(server):
    port = int(server.address.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def read_all(sock):
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            found += data
    return found


# ---- everybody's clients


def test_our_client_calls_it(server, authority):
    assert server.address.startswith("https://127.0.0.1:")
    client = quill.QuillClient(server.address, ca_file=authority("ca.pem"))
    for i in range(20):
        assert client.call("t.S", "Echo", b"%d" % i) == b"%d" % i
    assert client.stats()["opened"] == 1
    assert list(client.call_stream("t.S", "Count", b"500")) == [b"%d" % i for i in range(500)]
    assert client.health_check()

    async def main():
        async with quill.QuillClient(server.address, ca_file=authority("ca.pem")) as client:
            bodies = [bytes([i]) * (i * 977) for i in range(100)]
            assert await asyncio.gather(*[client.acall("t.S", "Echo", body) for body in bodies]) == bodies

    asyncio.run(main())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [0, 1, 16384, 65537, 5_000_000])
def test_bodies_of_any_size_come_back(server, authority, version, size):
    context = ssl.create_default_context(cafile=authority("ca.pem"))
    context.minimum_version = context.maximum_version = version
    body = bytes(i * i >> 3 & 255 for i in range(size))
    with httpx.Client(verify=context) as client:
        for _ in range(2):
            answer = client.post(f"{server.address}/t.S/Echo", content=body)
            assert (answer.status_code, answer.content == body) == (200, True)


def test_pieces_go_over_tls_in_both_directions(server, authority):
    client = quill.QuillClient(server.address, ca_file=authority("ca.pem"))
    pieces = [bytes([i]) * (i * 3000) for i in range(200)]
    assert client.call("t.S", "Echo", pieces) == b"".join(pieces)
    assert asyncio.run(client.acall("t.S", "Echo", pieces)) == b"".join(pieces)


def test_curl_calls_it(server, authority):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    out = subprocess.run(
        ["curl", "-sS", "--cacert", authority("ca.pem"), "-d", "hello", f"{server.address}/t.S/Echo",
         "-w", " %{http_code} %{http_version}"],
        capture_output=True, check=True, timeout=20,
    )  # fmt: skip
    assert out.stdout == b"hello 200 1.1"


def test_http_1_1_is_chosen_where_protocols_are_named(server, authority):
    context = ssl.create_default_context(cafile=authority("ca.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(dial(server), server_hostname="127.0.0.1") as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"


def test_a_handshake_is_short_when_the_client_was_there_before(server, authority):
    context = ssl.create_default_context(cafile=authority("ca.pem"))
    session = None
    for known in (False, True):
        with context.wrap_socket(dial(server), server_hostname="127.0.0.1", session=session) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")
            assert sock.session_reused is known
            session = sock.session


def test_the_end_is_said_in_tls(server, authority):
    context = ssl.create_default_context(cafile=authority("ca.pem"))
    with context.wrap_socket(dial(server), server_hostname="127.0.0.1", suppress_ragged_eofs=False) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert read_all(sock).endswith(b'{"status":"healthy"}')


# ---- whom it trusts, and who trusts it


@pytest.mark.parametrize("name", ["wrong", "expired", "stranger"])
def test_a_certificate_that_is_not_right_is_refused_by_clients(authority, name):
    with made(authority, name) as server:
        with pytest.raises(ConnectionError, match="certificate"):
            quill.QuillClient(server.address, ca_file=authority("ca.pem")).call("t.S", "Echo", b"")
        with pytest.raises(httpx.ConnectError):
            httpx.post(f"{server.address}/t.S/Echo", verify=ssl.create_default_context(cafile=authority("ca.pem")))
        client = quill.QuillClient(server.address, tls=TlsContext(trust_anyone=True))
        assert client.call("t.S", "Echo", b"all the same") == b"all the same"


def test_clients_show_a_certificate_where_it_is_asked_for(authority):
    ca, crt, key = authority("ca.pem"), authority("client.pem"), authority("client.key")
    with made(authority, client_ca=ca) as server:
        client = quill.QuillClient(server.address, ca_file=ca, certificate=crt, key=key)
        assert client.call("t.S", "Echo", b"me") == b"me"
        for more in ({}, {"certificate": authority("stranger.pem"), "key": authority("stranger.key")}):
            with pytest.raises(ConnectionError):
                quill.QuillClient(server.address, ca_file=ca, **more).call("t.S", "Echo", b"")
        assert client.call("t.S", "Echo", b"still") == b"still"


def test_files_that_do_not_serve_are_refused_with_their_name(authority, tmp_path):
    with pytest.raises(LookupError, match=r"gone\.pem"):
        quill.QuillServer(certfile=tmp_path / "gone.pem")
    with pytest.raises(ValueError, match=r"fit|match"):
        quill.QuillServer(certfile=authority("server.pem"), keyfile=authority("client.key"))
    with pytest.raises(OSError, match=r"locked\.key"):
        quill.QuillServer(certfile=authority("client.pem"), keyfile=authority("locked.key"), key_password="wrong")
    quill.QuillServer(certfile=authority("client.pem"), keyfile=authority("locked.key"), key_password="sesame")
    with pytest.raises(ValueError, match="certificate"):
        quill.QuillServer(client_ca=authority("ca.pem"))
    with pytest.raises(ValueError, match="client's"):
        Server(tls=TlsContext(trust_anyone=True))


# ---- what is no TLS, or too slow


def test_plain_http_is_told_what_the_port_speaks(server):
    with dial(server) as sock:
        sock.sendall(b"POST /t.S/Echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"https://" in answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head


@pytest.mark.parametrize("said", [b"\x16\x03\x01\x00\x05hello", b"\x00" * 600, b"\x16\x03\x01\xff\xff" + b"x" * 70000])
def test_bytes_that_are_no_tls_end_the_connection(server, authority, said):
    with dial(server) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
        assert b"HTTP" not in read_all(sock)
    assert quill.QuillClient(server.address, ca_file=authority("ca.pem")).call("t.S", "Echo", b"on") == b"on"


def test_a_slow_handshake_is_cut(authority):
    tls = TlsContext(server=True, certificate=authority("server.pem"), key=authority("server.key"))

    async def main():
        server = Server(tls=tls, header_timeout=0.3)
        port = server.start()
        start = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        silent, _ = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        assert await silent.read() == b""
        assert time.monotonic() - start < 10
        writer.close()
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_an_answer_that_is_cut_does_not_end_in_goodbye(authority):
    server = made(authority)
    go = threading.Event()

    @server.method("t.S", "Cut")
    async def cut(request):
        yield b"one"
        go.set()
        raise ConnectionError("gone")

    context = ssl.create_default_context(cafile=authority("ca.pem"))
    with server, context.wrap_socket(dial(server), server_hostname="127.0.0.1", suppress_ragged_eofs=False) as sock:
        sock.sendall(b"POST /t.S/Cut HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises((ssl.SSLEOFError, ConnectionError)):
            while sock.recv(65536):
                pass
        assert go.is_set()


def test_a_reader_that_stops_holds_the_handler_over_tls_too(server, authority):
    client = quill.QuillClient(server.address, ca_file=authority("ca.pem"))
    with client.call_stream("t.S", "Bulk", b"") as stream:
        next(stream)
        time.sleep(0.1)
        assert sum(len(item) for item in stream) == 63 * 256 * 1024


def test_a_stop_and_a_fork_leave_tls_connections_in_order(authority):
    server = made(authority).start()
    client = quill.QuillClient(server.address, ca_file=authority("ca.pem"))
    assert client.call("t.S", "Echo", b"1") == b"1"
    address = server.address
    server.stop()
    with pytest.raises(ConnectionError):
        client.call("t.S", "Echo", b"2")
    server.start(port=int(address.rpartition(":")[2]))
    assert client.call("t.S", "Echo", b"3") == b"3"
    server.stop()
