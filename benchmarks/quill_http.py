"""QuillClient and QuillServer beside their peers, by turns in one run.

usage: python benchmarks/quill_http.py [client] [server] [--rounds 5] [--cpu-client 0 --cpu-server 1]

client: POST of 1 KiB to nginx with a fixed answer of 1 KiB. raw socket, http.client, urllib3, httpx, pycurl, aiohttp
        and ours, one call at a time (p50 of each round, median of rounds) and 64 in flight (calls/s, best of rounds).
server: the same request echoed by our server, by uvicorn+starlette and by granian (RSGI), each one process, loaded by
        ours over 64 connections; CPU time of the server per request is what does not depend on who else runs.

Peers that are not installed are left out. Needs nginx for `client`.
"""

import argparse
import asyncio
import json
import os
import pathlib
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
HOST, SERVICE, METHOD = "127.0.0.1", "inference.v1.LLMService", "Generate"
BODY = json.dumps({"prompt": "Hello " * 150, "max_tokens": 100, "temperature": 0.7}).encode().ljust(1024)
JSON = {"Content-Type": "application/json"}


def free_port():
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]


class Child:
    def __init__(self, command, port, cpu=None, env=None):
        pin = ["taskset", "-c", str(cpu)] if cpu is not None else []
        self.port = port
        self.process = subprocess.Popen(
            [*pin, *command], stdout=subprocess.DEVNULL, env=dict(os.environ, **(env or {}))
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((HOST, port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def cpu_seconds(self):
        """Of it and its children."""
        total, pids = 0, [self.process.pid]
        while pids:
            pid = pids.pop()
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
            pids += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return total / os.sysconf("SC_CLK_TCK")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(10)


def nginx(folder, cpu):
    port, answer = free_port(), BODY.decode()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (folder / "logs").mkdir()
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;"
        "events { worker_connections 1024; } http { access_log off; keepalive_requests 100000000;"
        + "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        + f"client_body_buffer_size 64k; server {{ listen {HOST}:{port}; default_type application/json;"
        f"location / {{ return 200 '{answer}'; }} }} }}"
    )
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    return Child([binary, "-c", str(folder / "nginx.conf"), "-p", str(folder)], port, cpu)


def one_at_a_time(port):
    """name -> a function that makes one call"""
    path = f"/{SERVICE}/{METHOD}"
    url = f"http://{HOST}:{port}{path}"
    raw = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    s = socket.create_connection((HOST, port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def raw_socket():
        s.sendall(raw)
        got = b""
        while b"\r\n\r\n" not in got:
            got += s.recv(65536)
        head, _, body = got.partition(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < size:
            body += s.recv(65536)

    yield "raw socket", raw_socket
    from dynamo import quill

    client = quill.QuillClient(f"http://{HOST}:{port}")
    yield "QuillClient.call", lambda: client.call(SERVICE, METHOD, BODY)
    try:
        import io

        import pycurl

        curl = pycurl.Curl()
        for option, value in (
            (curl.URL, url), (curl.POST, 1), (curl.POSTFIELDS, BODY), (curl.POSTFIELDSIZE, len(BODY)),
            (curl.HTTPHEADER, ["Content-Type: application/json", "Expect:"]),
        ):  # fmt: skip
            curl.setopt(option, value)

        def by_curl():
            curl.setopt(curl.WRITEDATA, io.BytesIO())
            curl.perform()

        yield "pycurl", by_curl
    except ImportError:
        pass
    import http.client

    stdlib = http.client.HTTPConnection(HOST, port)

    def by_stdlib():
        stdlib.request("POST", path, BODY, JSON)
        stdlib.getresponse().read()

    yield "http.client", by_stdlib
    try:
        import urllib3

        pool = urllib3.HTTPConnectionPool(HOST, port, maxsize=8)
        yield "urllib3", lambda: pool.request("POST", path, body=BODY, headers=JSON).data
    except ImportError:
        pass
    try:
        import httpx

        by_httpx = httpx.Client()
        yield "httpx", lambda: by_httpx.post(url, content=BODY).content
    except ImportError:
        pass


def p50(call, count):
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def cpu_us():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1e6


async def at_once(call, in_flight, count):
    """(calls/s, CPU us of this process for each)"""

    async def worker():
        for _ in range(count // in_flight):
            await call()

    await asyncio.gather(*[call() for _ in range(in_flight)])
    cpu, start = cpu_us(), time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(in_flight)])
    return count / (time.perf_counter() - start), (cpu_us() - cpu) / count


async def flood(port, count=20000):
    """Ours, 64 in flight, at a server."""
    from dynamo import quill

    client = quill.QuillClient(f"http://{HOST}:{port}")
    return await at_once(lambda: client.acall(SERVICE, METHOD, BODY), 64, count)


class Floor(asyncio.Protocol):
    """What a hand-written client of fixed requests and answers can do."""

    def __init__(self, raw, size, count, done):
        self.raw, self.size, self.left, self.done, self.have = raw, size, count, done, 0

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.raw)

    def data_received(self, data):
        self.have += len(data)
        if self.have >= self.size:
            self.have = 0
            self.left -= 1
            if self.left:
                self.transport.write(self.raw)
            else:
                self.transport.close()
                self.done.set_result(None)


async def floor(port, count=40000):
    raw = f"POST /x/y HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    with socket.create_connection((HOST, port)) as s:
        s.sendall(raw)
        size = len(s.recv(65536))
    loop = asyncio.get_running_loop()
    cpu, start, waits = cpu_us(), time.perf_counter(), []
    for _ in range(64):
        done = loop.create_future()
        waits.append(done)
        await loop.create_connection(lambda done=done: Floor(raw, size, count // 64, done), HOST, port)
    await asyncio.gather(*waits)
    return count / (time.perf_counter() - start), (cpu_us() - cpu) / count


async def aiohttp_flood(port, count=5120):
    import aiohttp

    url = f"http://{HOST}:{port}/{SERVICE}/{METHOD}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:

        async def call():
            async with session.post(url, data=BODY, headers=JSON) as answer:
                return await answer.read()

        return await at_once(call, 64, count)


def threads_flood(port, count=40000):
    import threading

    from dynamo import quill

    client = quill.QuillClient(f"http://{HOST}:{port}")

    def work(n):
        for _ in range(n):
            client.call(SERVICE, METHOD, BODY)

    threads = [threading.Thread(target=work, args=(count // 64,)) for _ in range(64)]
    cpu, start = cpu_us(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (time.perf_counter() - start), (cpu_us() - cpu) / count


def runner():
    try:
        import uvloop

        return uvloop.run
    except ImportError:
        return asyncio.run


def bench_client(rounds, cpu):
    run = runner()
    with tempfile.TemporaryDirectory() as folder, nginx(pathlib.Path(folder), cpu) as server:
        calls = dict(one_at_a_time(server.port))
        found = {name: [] for name in calls}
        for call in calls.values():
            p50(call, 50)
        for _ in range(rounds):
            for name, call in calls.items():
                found[name].append(p50(call, 1000 if name != "httpx" else 300))
        raw = statistics.median(found["raw socket"])
        print("| one call at a time | p50, us | of raw socket |\n|---|---:|---:|")
        for name, values in found.items():
            ratios = [value / floor_ for value, floor_ in zip(values, found["raw socket"], strict=True)]
            print(f"| {name} | {statistics.median(values):.1f} | {statistics.median(ratios):.2f} |")
        assert raw > 0
        floods = {"hand-written protocol": floor, "QuillClient.acall": lambda port: flood(port, 40000)}
        try:
            import aiohttp  # noqa: F401

            floods["aiohttp"] = aiohttp_flood
        except ImportError:
            pass
        many = {name: [] for name in [*floods, "QuillClient.call, 64 threads"]}
        for _ in range(rounds):
            for name, go in floods.items():
                many[name].append(run(go(server.port)))
            many["QuillClient.call, 64 threads"].append(threads_flood(server.port))
        print("\n| 64 in flight | calls/s, best | CPU of the client, us each |\n|---|---:|---:|")
        for name, values in many.items():
            print(f"| {name} | {max(v[0] for v in values):,.0f} | {statistics.median(v[1] for v in values):.1f} |")


OURS = """
import asyncio, sys
from dynamo import quill
server = quill.QuillServer()
@server.method("inference.v1.LLMService", "Generate")
async def echo(request):
    return request
main = server.serve(port=int(sys.argv[1]))
try:
    import uvloop; uvloop.run(main)
except ImportError:
    asyncio.run(main)
"""
STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
async def echo(request):
    return Response(await request.body(), media_type="application/proto")
app = Starlette(routes=[Route("/inference.v1.LLMService/Generate", echo, methods=["POST"])])
"""
RSGI = """
async def app(scope, proto):
    proto.response_bytes(200, [("content-type", "application/proto")], await proto())
"""


def bench_server(rounds, cpu):
    run = runner()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for file, text in (("ours.py", OURS), ("starlette_app.py", STARLETTE), ("rsgi_app.py", RSGI)):
            (folder / file).write_text(text)
        env = {"PYTHONPATH": f"{ROOT}:{folder}"}
        commands = {"QuillServer": lambda port: [sys.executable, str(folder / "ours.py"), str(port)]}
        python = [sys.executable, "-m"]
        for module, name, command in (
            (
                "uvicorn",
                "uvicorn+starlette",
                ["uvicorn", "starlette_app:app", "--no-access-log", "--log-level", "error"],
            ),
            (
                "granian",
                "granian RSGI",
                ["granian", "--interface", "rsgi", "rsgi_app:app", "--workers", "1", "--no-log"],
            ),
        ):
            try:
                __import__(module)
            except ImportError:
                continue
            commands[name] = lambda port, command=command: [*python, *command, "--host", HOST, "--port", str(port)]
        found = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                port = free_port()
                with Child(command(port), port, cpu, env) as server:
                    run(flood(port, 2000))
                    before = server.cpu_seconds()
                    rate, _ = run(flood(port))
                    found[name].append((rate, (server.cpu_seconds() - before) / 20064 * 1e6))
        print("\n| server, echo of 1 KiB | requests/s, best | CPU of the server, us each |\n|---|---:|---:|")
        for name, values in found.items():
            print(f"| {name} | {max(v[0] for v in values):,.0f} | {statistics.median(v[1] for v in values):.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="client, server; both when none is named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-client", type=int)
    parser.add_argument("--cpu-server", type=int)
    args = parser.parse_args()
    if args.cpu_client is not None:
        os.sched_setaffinity(0, {args.cpu_client})
    if not args.what or "client" in args.what:
        bench_client(args.rounds, args.cpu_server)
    if not args.what or "server" in args.what:
        bench_server(args.rounds, args.cpu_server)


if __name__ == "__main__":
    main()
