"""KV events: publishing from Python, and from one process's socket into an index of the same process."""

import time

import numpy as np

from dynamo._events import EventChannel, EventSubscriber
from dynamo._index import RadixTree


class Publish:
    """EventChannel.publish_stored of 16 blocks, as arrays and as lists."""

    params, param_names = [["array", "list"]], ["form"]

    def setup(self, form):
        rng = np.random.default_rng(1)
        self.blocks = rng.integers(0, 2**64, 16, np.uint64)
        self.tokens = rng.integers(0, 2**64, 16, np.uint64)
        if form == "list":
            self.blocks, self.tokens = self.blocks.tolist(), self.tokens.tolist()
        self.channel = EventChannel(1)

    def teardown(self, form):
        self.channel.close()

    def time_stored(self, form):
        self.channel.publish_stored(self.blocks, self.tokens)


class Follow:
    """Batches of 16 blocks from a publisher's ring over TCP into an index, all of it."""

    batches = 5000
    timeout = 120

    def setup(self):
        rng = np.random.default_rng(1)
        self.channel = EventChannel(1)
        for _ in range(self.batches):
            self.channel.publish_stored(rng.integers(0, 2**64, 16, np.uint64), rng.integers(0, 2**64, 16, np.uint64))

    def teardown(self):
        self.channel.close()

    def time_replay(self):
        with EventSubscriber() as sub:
            channel = self.channel
            source = sub.add(1, channel.endpoint, RadixTree(), replay_endpoint=channel.replay_endpoint)
            while source.stats()["batches"] < self.batches:
                time.sleep(0.0005)
