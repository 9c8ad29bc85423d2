"""Tensors and tokens beside their peers, by turns in one run.

usage: python benchmarks/quill_tensors.py [share] [convert] [sum] [tokens] [tcp] [--rounds 15] [--cpu 1 --cpu-peer 0]

share    into a Tensor and out of it: by copy beside memcpy into memory that was used before, by view, into frames
convert  astype beside memcpy of as many bytes read and written, and ml_dtypes
sum      of float32 beside NumPy, with the error of both against math.fsum
tokens   a batch of 1,000, per token, beside msgspec
tcp      64 MiB to another process over loopback: a bare socket, tensor frames, QuillClient to QuillServer, gRPC

CPU time of this process, medians of the rounds and of the ratios within a round; for `tcp` of both processes, and wall
time.
Peers that are not installed are left out.
"""

import argparse
import importlib.util
import math
import multiprocessing
import os
import pathlib
import pickle
import socket
import statistics
import struct
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from dynamo import quill  # noqa: E402
from dynamo.quill import Tensor, TensorReader, Token, TokenBatch  # noqa: E402

HOST, SIZES, BIG = "127.0.0.1", (4096, 1 << 20, 64 << 20), 64 << 20


def by_turns(title, ways, rounds, budget=0.02, clock=time.process_time):
    """A table of medians; the first way is what the others are held against."""
    repeat, took = {}, {name: [] for name in ways}
    for name, call in ways.items():
        call()
        start = clock()
        call()
        repeat[name] = max(1, min(20000, int(budget / max(clock() - start, 1e-6))))
    for _ in range(rounds):
        for name, call in ways.items():
            start = clock()
            for _ in range(repeat[name]):
                call()
            took[name].append((clock() - start) / repeat[name])
    print(f"\n| {title} | us | of the first | over it, us |\n|---|---:|---:|---:|")
    first = next(iter(took.values()))
    for name, values in took.items():
        ratio = statistics.median(a / b for a, b in zip(values, first, strict=True))
        over = statistics.median(a - b for a, b in zip(values, first, strict=True))
        print(f"| {name} | {statistics.median(values) * 1e6:,.3f} | {ratio:.2f} | {over * 1e6:+,.3f} |")


def floats(size):
    return np.random.default_rng(0).standard_normal(size // 4).astype(np.float32)


def share(rounds):
    for size in SIZES:
        array = floats(size)
        target, tensor = np.ones_like(array), Tensor.from_numpy(array)
        frames = tensor.to_frames()
        ways = {
            "memcpy (np.copyto)": lambda array=array, target=target: np.copyto(target, array),
            "array.copy()": array.copy,
            "array.tobytes()": array.tobytes,
            "Tensor.from_numpy": lambda array=array: Tensor.from_numpy(array),
            "Tensor.to_numpy": tensor.to_numpy,
            "Tensor.from_frames": lambda frames=frames: Tensor.from_frames(frames),
        }
        by_turns(f"copies of {size >> 10:,} KiB", ways, rounds)
    array = floats(1 << 20)
    tensor, raw, view = Tensor.from_numpy(array), array.tobytes(), Tensor.from_numpy

    def python_frames():
        view, out = memoryview(raw), []
        for at in range(0, len(raw), 65536):
            out += (b"\x11\0\0\0\0" + min(65536, len(raw) - at).to_bytes(4, "big"), view[at : at + 65536])
        return out

    def pickled(value):
        return lambda: pickle.dumps(value, protocol=5, buffer_callback=lambda _: None)

    by_turns("views in: NumPy's, ours", {
        "np.frombuffer": lambda: np.frombuffer(raw, np.float32),
        "np.from_dlpack(array)": lambda: np.from_dlpack(array),
        "Tensor.from_numpy(copy=False)": lambda: view(array, copy=False),
        "Tensor.from_dlpack(array)": lambda: Tensor.from_dlpack(array),
    }, rounds)  # fmt: skip
    by_turns("views out: NumPy's, ours", {
        "memoryview(array)": lambda: memoryview(array),
        "array.__dlpack__()": lambda: array.__dlpack__(),
        "memoryview(tensor)": lambda: memoryview(tensor),
        "tensor.__dlpack__()": lambda: tensor.__dlpack__(),
        "np.asarray(tensor)": lambda: np.asarray(tensor),
    }, rounds)  # fmt: skip
    by_turns("1 MiB as frames, pickles", {
        "frames in Python, views": python_frames,
        "tensor.to_frames()": tensor.to_frames,
        "pickle array, out of band": pickled(array),
        "pickle tensor, out of band": pickled(tensor),
    }, rounds)  # fmt: skip


def convert(rounds):
    try:
        import ml_dtypes
    except ImportError:
        ml_dtypes = None
    for size in SIZES[1:]:
        array = floats(size)
        wide = Tensor.from_numpy(array)
        half, target = np.ones(size * 3 // 4, np.uint8), np.ones(size * 3 // 4, np.uint8)  # read and written: 1.5 sizes
        ways = {"memcpy of as many bytes": lambda half=half, target=target: np.copyto(target, half)}
        for name in ("bfloat16", "float16"):
            narrow = wide.astype(name)
            ways[f"float32 to {name}"] = lambda wide=wide, name=name: wide.astype(name)
            ways[f"{name} to float32"] = lambda narrow=narrow: narrow.astype("float32")
        ways["NumPy float32 to float16"] = lambda array=array: array.astype(np.float16)
        if ml_dtypes:
            ways["ml_dtypes float32 to bfloat16"] = lambda array=array: array.astype(ml_dtypes.bfloat16)
        by_turns(f"astype, {size >> 20} MiB of float32, memory included", ways, rounds)


def sum_(rounds):
    for size in SIZES:
        array = np.random.default_rng(1).random(size // 4, np.float32)
        tensor = Tensor.from_numpy(array, copy=False)
        by_turns(f"sum of {size >> 10:,} KiB of float32", {
            "NumPy": array.sum, "NumPy, in float64": lambda array=array: array.sum(dtype=np.float64),
            "Tensor.sum": tensor.sum,
        }, rounds)  # fmt: skip
        exact = math.fsum(array.tolist())
        print(f"\nrelative error: NumPy {abs(float(array.sum()) - exact) / exact:.1e}, "
              f"ours {abs(tensor.sum() - exact) / exact:.1e}")  # fmt: skip


def tokens(rounds):
    import msgspec

    class Record(msgspec.Struct, gc=False):
        id: int
        position: int
        text: str | None = None
        logprob: float | None = None
        is_special: bool = False

    def fields(i):
        return i, i, " token", -0.5

    batch = TokenBatch.from_tokens([Token(*fields(i)) for i in range(1000)])
    records = [Record(*fields(i)) for i in range(1000)]
    packed, decoder = msgspec.msgpack.encode(records), msgspec.msgpack.Decoder(list[Record])
    data = batch.encode()
    by_turns("batch of 1,000 (us of it = ns of a token)", {
        "msgspec msgpack encode": lambda: msgspec.msgpack.encode(records),
        "TokenBatch.encode": batch.encode,
        "msgspec msgpack decode": lambda: decoder.decode(packed),
        "TokenBatch.decode": lambda: TokenBatch.decode(data),
        "TokenBatch.decode and every Token": lambda: TokenBatch.decode(data).tokens(),
        "1,000 msgspec.Struct made and kept": lambda: [Record(i, i, " token", -0.5) for i in range(1000)],
        "1,000 Token made and kept": lambda: [Token(i, i, " token", -0.5) for i in range(1000)],
    }, rounds)  # fmt: skip


# ---- 64 MiB to another process: each receiver answers to each tensor that it has whole with its own CPU time


def used():
    return struct.pack("d", time.process_time())


def receive_bytes(connection):
    buffer = memoryview(np.ones(BIG, np.uint8))
    while True:
        got = 0
        while got < BIG:
            size = connection.recv_into(buffer[got:])
            if not size:
                return
            got += size
        connection.sendall(used())


def receive_frames(connection):
    view = memoryview(bytearray(1 << 16))  # stays in the first cache
    while True:
        reader, over = TensorReader(), False
        while not over:
            size = connection.recv_into(view)
            if not size:
                return
            for kind, value in reader.feed(view[:size]):
                over = kind == "end"
                assert kind != "tensor" or value.size_bytes == BIG
        connection.sendall(used())


def receive_call(connection):
    server = quill.QuillServer(max_body_bytes=BIG + 65536)

    @server.method("bench.v1.Tensors", "Put", request=Tensor)
    async def put(tensor):
        assert tensor.size_bytes == BIG
        return used()

    with server:
        connection.sendall(server.address.encode().ljust(64))
        connection.recv(1)


def receive_grpc(connection):
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    def put(request, context):
        assert np.frombuffer(request, np.float32).nbytes == BIG
        return used()

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(put)

    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    connection.sendall(f"{HOST}:{port}".encode().ljust(64))
    connection.recv(1)


def receiver(receive, port, cpu):
    os.sched_setaffinity(0, {cpu})
    with socket.create_connection((HOST, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        receive(connection)


def tcp(rounds, cpu_peer):
    fork = multiprocessing.get_context("fork")
    listener = socket.create_server((HOST, 0))
    sockets, children, array = [], [], floats(BIG)
    tensor, raw = Tensor.from_numpy(array, copy=False), memoryview(array).cast("B")

    def peer(receive):
        child = fork.Process(target=receiver, args=(receive, listener.getsockname()[1], cpu_peer), daemon=True)
        child.start()
        connection, _ = listener.accept()
        sockets.append(connection)
        children.append(child)
        return connection

    bare, framed = peer(receive_bytes), peer(receive_frames)

    def send_bytes():
        bare.sendall(raw)
        return bare.recv(8)

    def send_frames():
        frames = tensor.to_frames()
        for at in range(0, len(frames), 1024):  # as many as one call takes; a blocking socket takes them whole
            part = frames[at : at + 1024]
            assert framed.sendmsg(part) == sum(map(len, part))
        return framed.recv(8)

    # gRPC forks badly: its receiver starts before this process has loaded it, and ours too.
    address = importlib.util.find_spec("grpc") and peer(receive_grpc).recv(64).decode().strip()
    client = quill.QuillClient(peer(receive_call).recv(64).decode().strip())
    ways = {
        "bare socket": send_bytes,
        "tensor frames of 64 KiB": send_frames,
        "QuillClient.call(tensor)": lambda: client.call("bench.v1.Tensors", "Put", tensor),
    }
    if address:
        import grpc

        call = grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]).unary_unary("/b/Put")
        whole = raw.tobytes()
        ways["gRPC, bytes that are there"] = lambda: call(whole)
        ways["gRPC, bytes of the array"] = lambda: call(array.tobytes())

    took = {name: [] for name in ways}
    for _ in range(2 * rounds):
        for name, way in ways.items():
            (before,) = struct.unpack("d", way())
            wall, mine = time.perf_counter(), time.process_time()
            (after,) = struct.unpack("d", way())
            took[name].append((time.perf_counter() - wall, time.process_time() - mine + after - before))
    print("\n| 64 MiB over loopback TCP | wall, ms: best | median | CPU of both, ms | of the first |")
    print("|---|---:|---:|---:|---:|")
    first = took["bare socket"]
    for name, values in took.items():
        wall, cpu = zip(*values, strict=True)
        ratio = statistics.median(mine / theirs for (_, mine), (_, theirs) in zip(values, first, strict=True))
        best, middle, both = (x * 1e3 for x in (min(wall), statistics.median(wall), statistics.median(cpu)))
        print(f"| {name} | {best:.1f} | {middle:.1f} | {both:.1f} | {ratio:.2f} |")
    for connection in sockets:
        connection.close()
    for child in children:
        child.terminate()
        child.join(10)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="sections; all when none is named")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu", type=int, default=1)
    parser.add_argument("--cpu-peer", type=int, default=0)
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.cpu})
    sections = {"share": share, "convert": convert, "sum": sum_, "tokens": tokens}
    for name, section in sections.items():
        if not args.what or name in args.what:
            section(args.rounds)
    if not args.what or "tcp" in args.what:
        tcp(args.rounds, args.cpu_peer)


if __name__ == "__main__":
    main()
