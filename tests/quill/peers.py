"""Other people's servers, for the tests of the client: aiohttp in a thread, nginx as a process."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time

import pytest

NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else None)


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out + bytes([number]))


def frame(payload, flags=1):
    return varint(len(payload)) + bytes([flags]) + payload


@contextlib.contextmanager
def aiohttp_server(handler, ssl_context=None):
    """`await handler(request)` for every request; gives the URL."""
    from aiohttp import web

    ready, box = threading.Event(), {}

    async def main():
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
        await site.start()
        box["port"] = site._server.sockets[0].getsockname()[1]
        box["loop"], box["stop"] = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await box["stop"].wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http{'s' if ssl_context else ''}://127.0.0.1:{box['port']}"
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join(10)


async def mirror(request):
    """Answers with what it saw, as JSON."""
    from aiohttp import web

    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.path,
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "size": len(body),
            "text": body[:1000].decode("latin-1"),
        }
    )


@contextlib.contextmanager
def nginx_server(folder, server_lines, ssl=False):
    """nginx with these lines in its server block; gives the URL."""
    if NGINX is None:
        pytest.skip("nginx is not installed (make deps-test installs nginx-light)")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;"
        f"events {{ worker_connections 512; }} http {{ access_log off; {paths} client_max_body_size 100m;"
        f"server {{ listen 127.0.0.1:{port}{' ssl' if ssl else ''}; {server_lines} }} }}"
    )
    process = subprocess.Popen(
        [NGINX, "-c", str(folder / "nginx.conf"), "-p", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(process.stderr.read().decode()) from None
                time.sleep(0.01)
        yield f"http{'s' if ssl else ''}://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()


@contextlib.contextmanager
def scripted_server(*answers, linger=False):
    """Each connection gets the next answer once it has said something; gives the URL and what was heard."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard, open_ones = [], []

    def run():
        for answer in answers:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                heard.append(connection.recv(65536))
                connection.sendall(answer)
            if linger:
                open_ones.append(connection)
            else:
                connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        for connection in open_ones:
            connection.close()


def answer(body=b"", status="200 OK", headers=""):
    # "close", as the scripted server will: else the next call may meet the connection just before it goes
    return f"HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def problem(status, **fields):
    body = json.dumps({"status": status, **fields}).encode()
    return answer(body, f"{status} Problem", "Content-Type: application/problem+json\r\n")
