"""https: whom the client trusts, who it is, and what it says when it does not connect."""

import asyncio
import os
import socket
import ssl
import threading

import pytest

from dynamo import quill

from .authority import Authority
from .peers import aiohttp_server, frame, mirror, nginx_server


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(authority):
    with aiohttp_server(mirror, authority.server_context()) as url:
        yield url


async def echo(request):
    from aiohttp import web

    return web.Response(body=await request.read())


async def stream(request):
    from aiohttp import web

    response = web.StreamResponse()
    await response.prepare(request)
    for i in range(500):
        await response.write(frame(b"message %d" % i))
    await response.write(frame(b"", 2))
    return response


def test_calls_go_over_tls(secure, authority):
    client = quill.QuillClient(secure, ca_file=authority("ca.pem"))
    for i in range(20):
        assert client.call_json("a.B", "C", {"i": i})["path"] == "/a.B/C"
    assert client.stats()["opened"] == 1

    async def main():
        seen = await asyncio.gather(*[client.acall_json("a.B", "C", {"i": i}) for i in range(100)])
        assert len(seen) == 100

    asyncio.run(main())
    assert client.health_check()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 5_000_000])
def test_bodies_of_any_size_come_back(authority, version, size):
    body = bytes(i * i >> 3 & 255 for i in range(size))
    with aiohttp_server(echo, authority.server_context(version=version)) as url:
        client = quill.QuillClient(url, ca_file=authority("ca.pem"))
        for _ in range(2):
            assert client.call("a.B", "C", body) == body
        assert asyncio.run(client.acall("a.B", "C", body)) == body
        assert client.stats()["opened"] == 2


def test_streams_go_over_tls(authority):
    with aiohttp_server(stream, authority.server_context()) as url:
        client = quill.QuillClient(url, ca_file=authority("ca.pem"))
        wanted = [b"message %d" % i for i in range(500)]
        assert list(client.call_stream("a.B", "C", b"")) == wanted

        async def main():
            assert [m async for m in client.acall_stream("a.B", "C", b"")] == wanted

        asyncio.run(main())


def test_the_name_in_the_url_counts(authority):
    with aiohttp_server(mirror, authority.server_context()) as url:
        local = url.replace("127.0.0.1", "localhost")
        assert quill.QuillClient(local, ca_file=authority("ca.pem")).call_json("a.B", "C", {})
    with aiohttp_server(mirror, authority.server_context("wrong")) as url:
        with pytest.raises(ConnectionError, match="IP address mismatch"):
            quill.QuillClient(url, ca_file=authority("ca.pem")).call("a.B", "C", b"")
        with pytest.raises(ConnectionError, match="hostname mismatch"):
            local = url.replace("127.0.0.1", "localhost")
            quill.QuillClient(local, ca_file=authority("ca.pem")).call("a.B", "C", b"")


@pytest.mark.parametrize("name", ["stranger", "expired"])
def test_a_certificate_that_nobody_vouches_for_is_refused(authority, name):
    with aiohttp_server(mirror, authority.server_context(name)) as url:
        client = quill.QuillClient(url, ca_file=authority("ca.pem"))
        with pytest.raises(ConnectionError, match="certificate"):
            client.call("a.B", "C", b"")
        with pytest.raises(ConnectionError, match="certificate"):
            asyncio.run(client.acall("a.B", "C", b""))
        assert client.health_check() is False
        trusting = quill.QuillClient(url, tls=quill.TlsContext(trust_anyone=True))
        assert trusting.call_json("a.B", "C", {})


def test_the_systems_store_is_the_default(secure, authority, run_python):
    code = (
        f"from dynamo import quill\n"
        f"try:\n    print(quill.QuillClient({secure!r}).call_json('a.B', 'C', {{}})['path'])\n"
        f"except ConnectionError as error:\n    print('refused', error)\n"
    )
    out, _ = run_python("-c", code).communicate(timeout=30)
    assert out.startswith("refused") and "certificate" in out
    env = {"SSL_CERT_FILE": authority("ca.pem")}
    out, _ = run_python("-c", code, env=env).communicate(timeout=30)
    assert out.strip() == "/a.B/C"


def test_a_client_shows_its_certificate(authority):
    async def who(request):
        from aiohttp import web

        subject = request.transport.get_extra_info("peercert")["subject"]
        return web.json_response(dict(pair for group in subject for pair in group)["commonName"])

    with aiohttp_server(who, authority.server_context(ask_client=True)) as url:
        ca, certificate = authority("ca.pem"), authority("client.pem")
        known = quill.QuillClient(url, ca_file=ca, certificate=certificate, key=authority("client.key"))
        assert known.call_json("a.B", "C", {}) == "client"
        locked = quill.QuillClient(
            url, ca_file=ca, certificate=certificate, key=authority("locked.key"), key_password="sesame"
        )
        assert locked.call_json("a.B", "C", {}) == "client"
        with pytest.raises(ConnectionError):
            quill.QuillClient(url, ca_file=ca).call("a.B", "C", b"")


def test_files_that_are_no_certificates_are_refused_with_their_name(authority, tmp_path):
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(LookupError, match=r"no-such\.pem"):
        quill.TlsContext(ca_file=str(tmp_path / "no-such.pem"))
    with pytest.raises(ValueError, match=r"empty\.pem"):
        quill.TlsContext(ca_file=str(empty))
    with pytest.raises(ValueError, match=r"empty\.pem"):
        quill.TlsContext(certificate=str(empty))
    with pytest.raises(ValueError, match="without its certificate"):
        quill.TlsContext(key=authority("client.key"))
    with pytest.raises(ValueError, match="key"):
        quill.TlsContext(certificate=authority("client.pem"), key=authority("server.key"))
    for password in (None, "wrong"):
        with pytest.raises(PermissionError, match="password"):
            quill.TlsContext(certificate=authority("client.pem"), key=authority("locked.key"), password=password)
    with pytest.raises(ValueError, match="choose one"):
        quill.TlsContext(ca_file=authority("ca.pem"), trust_anyone=True)


def test_https_to_a_server_without_tls_and_the_other_way_round(authority, secure):
    with aiohttp_server(mirror) as plain:
        client = quill.QuillClient(plain.replace("http:", "https:"), ca_file=authority("ca.pem"), timeout_ms=5000)
        with pytest.raises(ConnectionError):
            client.call("a.B", "C", b"")
    with pytest.raises((RuntimeError, ConnectionError)):
        quill.QuillClient(secure.replace("https:", "http:"), timeout_ms=5000).call("a.B", "C", b"")


def test_a_server_that_is_silent_in_the_handshake_is_timed_out(authority):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = quill.QuillClient(
            f"https://127.0.0.1:{listener.getsockname()[1]}", timeout_ms=100, ca_file=authority("ca.pem")
        )
        with pytest.raises(TimeoutError, match="connecting"):
            client.call("a.B", "C", b"")
        with pytest.raises(TimeoutError, match="connecting"):
            asyncio.run(client.acall("a.B", "C", b""))


def test_an_end_without_tls_goodbye_is_not_the_end_of_an_answer(authority):
    context = authority.server_context()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut():
            for _ in range(2):
                raw, _ = listener.accept()
                connection = context.wrap_socket(raw, server_side=True, suppress_ragged_eofs=True)
                connection.recv(10000)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")  # to the end of the connection
                os.close(connection.detach())  # no close_notify

        thread = threading.Thread(target=cut)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        client = quill.QuillClient(url, ca_file=authority("ca.pem"), timeout_ms=5000)
        with pytest.raises(ConnectionError):
            client.call("a.B", "C", b"")
        with pytest.raises(ConnectionError):
            asyncio.run(client.acall("a.B", "C", b""))
        thread.join(10)


def test_nginx_over_tls(authority, tmp_path):
    lines = f"""ssl_protocols TLSv1.2 TLSv1.3;
                ssl_certificate {authority("server.pem")}; ssl_certificate_key {authority("server.key")};
                ssl_client_certificate {authority("ca.pem")}; ssl_verify_client optional;
                location / {{ return 200 '$ssl_protocol $ssl_client_s_dn'; }}"""
    with nginx_server(tmp_path / "nginx", lines, ssl=True) as url:
        client = quill.QuillClient(url, ca_file=authority("ca.pem"))
        for _ in range(50):
            assert client.call("a.B", "C", b"x" * 100) == b"TLSv1.3 "
        assert client.stats()["opened"] == 1
        known = quill.QuillClient(
            url, ca_file=authority("ca.pem"), certificate=authority("client.pem"), key=authority("client.key")
        )
        assert known.call("a.B", "C", b"") == b"TLSv1.3 CN=client"

        async def main():
            got = await asyncio.gather(*[known.acall("a.B", "C", b"") for _ in range(200)])
            assert set(got) == {b"TLSv1.3 CN=client"}

        asyncio.run(main())
