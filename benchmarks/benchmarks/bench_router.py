"""Picking a worker: hash, find, cost, book; like the peer's figure with 8 ranks, blocks of 16, approximate index."""

import asyncio
import random

import numpy as np

from dynamo._router import SelectionCore
from dynamo.llm import KvRouterConfig

PROMPTS = 200


def _prompts(tokens):
    rng = random.Random(1)
    prefix = [rng.randrange(150_000) for _ in range(tokens // 2)]
    return [prefix + [rng.randrange(150_000) for _ in range(tokens - tokens // 2)] for _ in range(PROMPTS)]


def _core(workers=8, **options):
    core = SelectionCore(16, KvRouterConfig(use_kv_events=False, **options))
    for rank in range(workers):
        core.put_worker(1, rank, total_kv_blocks=100_000, max_num_batched_tokens=8192)
    return core


class BestWorker:
    """200 questions; nothing is booked."""

    params, param_names = [[160, 1024, 8192], ["list", "array"]], ["tokens", "form"]

    def setup(self, tokens, form):
        self.core = _core()
        self.prompts = _prompts(tokens)
        if form == "array":
            self.prompts = [np.array(prompt, np.uint32) for prompt in self.prompts]

    def time_ask(self, tokens, form):
        for prompt in self.prompts:
            self.core.best_worker(prompt)

    def time_ask_from_a_coroutine(self, tokens, form):
        async def ask(prompt):
            return self.core.best_worker(prompt)

        async def all_of_them():
            for prompt in self.prompts:
                await ask(prompt)

        asyncio.run(all_of_them())


class Cycle:
    """200 requests from pick to free: book, believe the decision, first token, end."""

    params, param_names = [160, 1024, 8192], ["tokens"]

    def setup(self, tokens):
        self.core = _core()
        self.prompts = _prompts(tokens)

    def time_cycle(self, tokens):
        core = self.core
        for i, prompt in enumerate(self.prompts):
            name = str(i)
            core.best_worker(prompt, name, True)
            core.prefill_done(name)
            core.free(name)


class ManyWorkers:
    """200 questions with 4 requests running on each worker."""

    params, param_names = [8, 128, 1000], ["workers"]

    def setup(self, workers):
        self.core = _core(workers)
        self.prompts = [np.array(prompt, np.uint32) for prompt in _prompts(1024)]
        for i in range(workers * 4):
            self.core.pick(self.prompts[i % PROMPTS], str(i), update_index=False)

    def time_ask(self, workers):
        for prompt in self.prompts:
            self.core.best_worker(prompt)

    def track_bytes_per_booked_block(self, workers):
        stats = self.core.stats()
        return stats["bytes"] / max(1, stats["blocks"])

    track_bytes_per_booked_block.unit = "bytes"
