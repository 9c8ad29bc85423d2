"""Block hashes from Python: lists, arrays, sizes; throughput is tokens / time."""

import random

import numpy as np

from dynamo.llm import compute_block_hash_for_seq, compute_block_hashes, compute_sequence_hashes


class BlockHash:
    """compute_block_hash_for_seq, as the peer has it: a list of ints out."""

    params = ([128, 4096, 131072], [16, 64], ["list", "uint32", "int64"])
    param_names = ("tokens", "block", "input")

    def setup(self, tokens, block, kind):
        rng = random.Random(1)
        ids = [rng.randrange(1000, 150000) for _ in range(tokens)]
        self.tokens = ids if kind == "list" else np.array(ids, kind)

    def time_list_out(self, tokens, block, kind):
        compute_block_hash_for_seq(self.tokens, block)

    def time_array_out(self, tokens, block, kind):
        compute_block_hashes(self.tokens, block)


class SequenceHash:
    """The chain over local hashes."""

    params = (64, 2048)
    param_names = ("blocks",)

    def setup(self, blocks):
        self.local = compute_block_hashes(np.arange(blocks * 16, dtype=np.uint32), 16)

    def time_chain(self, blocks):
        compute_sequence_hashes(self.local)
