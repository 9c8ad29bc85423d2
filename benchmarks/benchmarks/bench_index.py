"""The index from Python: finds, events as JSON and as arrays, memory. The loads of the comparison with the peer."""

import json
import random

import numpy as np

from dynamo.llm import RadixTree


def chains(count, length, seed):
    bits = random.Random(seed).getrandbits
    return [[(bits(64), bits(64)) for _ in range(length)] for _ in range(count)]


def event(parent, blocks):
    stored = {"parent_hash": parent, "blocks": [{"block_hash": b, "tokens_hash": t} for b, t in blocks]}
    return json.dumps({"event_id": 0, "data": {"stored": stored}}).encode()


def columns(blocks):
    return np.array([b for b, _ in blocks], np.uint64), np.array([t for _, t in blocks], np.uint64)


class Find:
    """400 chains of 512 blocks, each on one worker, the first 64 blocks on three; one find per call."""

    params = ([8, 64, 512], [0, 50, 100], ["list", "array"])
    param_names = ("blocks", "hit", "input")

    def setup(self, blocks, hit, kind):
        self.tree = RadixTree()
        rng = random.Random(5)
        self.queries = []
        for s, chain in enumerate(chains(400, 512, 99)):
            names, tokens = columns(chain)
            self.tree.apply_stored(s % 8 + 1, names, tokens)
            for k in (1, 2):
                self.tree.apply_stored((s + k) % 8 + 1, names[:64], tokens[:64])
            held = blocks * hit // 100
            query = [t for _, t in chain[:held]] + [rng.getrandbits(64) for _ in range(blocks - held)]
            self.queries.append(query if kind == "list" else np.array(query, np.uint64))

    def time_400_finds(self, blocks, hit, kind):
        find = self.tree.find_matches
        for query in self.queries:
            find(query)

    def time_400_finds_with_scores(self, blocks, hit, kind):
        find = self.tree.find_matches
        for query in self.queries:
            find(query).scores  # noqa: B018


class Apply:
    """51,200 blocks stored, in events of so many blocks."""

    params = ([1, 16], ["json", "array"])
    param_names = ("per_event", "input")

    def setup(self, per, kind):
        self.events = []
        for s, chain in enumerate(chains(3200, 16, per)):
            for i in range(0, 16, per):
                parent, part = (chain[i - 1][0] if i else None), chain[i : i + per]
                self.events.append((s % 8 + 1, event(parent, part) if kind == "json" else (*columns(part), parent)))

    def time_stored(self, per, kind):
        tree = RadixTree()
        if kind == "json":
            for worker, text in self.events:
                tree.apply_event(worker, text)
        else:
            for worker, (names, tokens, parent) in self.events:
                tree.apply_stored(worker, names, tokens, parent)


class Memory:
    """Bytes per unique block, as the index counts them."""

    params = (1, 8)
    param_names = ("workers",)
    unit = "bytes"

    def track_bytes_per_block(self, workers):
        tree = RadixTree()
        rng = np.random.default_rng(3)
        for _ in range(400_000 // 512):
            hashes = rng.integers(0, 2**64, 512, dtype=np.uint64)
            for worker in range(workers):
                tree.apply_stored(worker, hashes, hashes)
        return tree.nbytes / len(tree)
