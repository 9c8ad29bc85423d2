"""Engines as others write them, and the hashes by another implementation; for the tests beside this file."""

import json
import struct
import threading
import time

import msgpack
import xxhash
import zmq

DEADLINE = 20.0
SEED = 1337


def local_hash(tokens, seed=SEED, mm=()):
    data = struct.pack(f"<{len(tokens)}I", *tokens) + struct.pack(f"<{len(mm)}Q", *sorted(mm))
    return xxhash.xxh3_64_intdigest(data, seed=seed & (2**64 - 1))


def lora_seed(lora=None, salt=None):
    seed = SEED
    if lora:
        seed += xxhash.xxh3_64_intdigest(lora.encode(), seed=0)
    if salt:
        seed += xxhash.xxh3_64_intdigest(salt.encode(), seed=1)
    return seed & (2**64 - 1)


class Engine:
    """A publisher as vLLM is one: PUB, and a ROUTER that answers with what was published."""

    def __init__(self, topic=b"", replay="new", endpoint="tcp://127.0.0.1:*"):
        self.context = zmq.Context()
        self.pub = self.context.socket(zmq.PUB)
        self.pub.linger = 0
        self.pub.bind(endpoint)
        self.endpoint = self.pub.getsockopt_string(zmq.LAST_ENDPOINT)
        self.topic, self.sequence, self.log, self.replay = topic, 0, [], replay
        self.requests = []
        self.replay_endpoint = None
        if replay:
            self.router = self.context.socket(zmq.ROUTER)
            self.router.linger = 0
            self.router.bind("tcp://127.0.0.1:*")
            self.replay_endpoint = self.router.getsockopt_string(zmq.LAST_ENDPOINT)
            self.stop = threading.Event()
            self.thread = threading.Thread(target=self._serve)
            self.thread.start()

    def _serve(self):
        while not self.stop.is_set():
            if not self.router.poll(20):
                continue
            who, _empty, start = self.router.recv_multipart()
            start = int.from_bytes(start, "big")
            self.requests.append(start)
            topic = [self.topic] if self.replay == "new" else []
            for number, payload in list(self.log):
                if number >= start:
                    self.router.send_multipart([who, b"", *topic, number.to_bytes(8, "big"), payload])
            self.router.send_multipart([who, b"", *([b""] if topic else []), b"\xff" * 8, b""])

    def keep(self, events, rank=None, as_map=False):
        """Published while nobody listened."""
        batch = {"ts": time.time(), "events": events} if as_map else [time.time(), events]
        if rank is not None:
            batch = {**batch, "data_parallel_rank": rank} if as_map else [*batch, rank]
        payload = msgpack.packb(batch)
        self.log.append((self.sequence, payload))
        self.sequence += 1
        return payload

    def send(self, events, rank=None, as_map=False):
        payload = self.keep(events, rank, as_map)
        self.pub.send_multipart([self.topic, (self.sequence - 1).to_bytes(8, "big"), payload])

    def close(self):
        if self.replay:
            self.stop.set()
            self.thread.join()
            self.router.close()
        self.pub.close()
        self.context.term()


def until(condition):
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)
    return value


def take(queue, count):
    events = []
    until(lambda: events.extend(queue.take()) or len(events) >= count)
    return [json.loads(e) for e in events]
