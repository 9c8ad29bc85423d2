"""What happened to the last requests, and sums over all of them: the memory behind the live page.

Everything here is bounded: a ring of requests, a ring of seconds, counters.
"""

import collections
import time
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CAUSES", "Record", "Records", "cause_of"]

# Why the engine's count of cached tokens is, or is not, what the router expected.
CAUSES = {
    "as-predicted": "the engine reused exactly the blocks that the index promised",
    "more": "the engine reused more than the index knew of (events lag behind a prefill, or a part of a block)",
    "less": "the engine reused less than the index promised, and did not say why",
    "slot-busy": "the slot that holds the prefix was computing another request, so another slot computed it again",
    "slot-taken": "another prompt took the slot after the router had looked, before the request was there",
    "stored-since": "the worker held more by the time the request was there: it was stored after the router had looked",
    "copied": "the prefix was copied from the slot of another conversation",
    "copy-too-dear": "another slot holds more, but computing it again was cheaper than copying it",
    "copy-failed": "the prefix should have been copied from another slot, which failed",
    "mirror-knew-less": "the engine held tokens that the worker had not been told of, and reused them",
    "mirror-wrong": "the engine did not hold what the worker believed; the worker has forgotten that slot",
    "migrated": "the request went on after its first worker had gone",
    "not-said": "the engine does not count cached tokens",
    "other": "the engine gave a reason that is not in this list",
}


@dataclass
class Record:
    """One prompt on its way: where it went and why, and what came of it."""

    id: str
    model: str
    kind: str
    at: float
    prompt_tokens: int
    worker: int = 0
    dp_rank: int = 0
    mode: str = ""
    overlap_blocks: int = 0
    required_blocks: int = 0
    block_size: int = 0
    cost: float = 0.0
    eligible: int = 0
    why: list[dict[str, Any]] = field(default_factory=list)
    completion_tokens: int = 0
    cached_tokens: int = -1
    mirror_tokens: int = -1
    cause: str = ""
    engine_cause: str = ""
    ttft: float | None = None
    itl: float | None = None
    finish: str | None = None
    state: str = "running"
    calls: int = 1

    def row(self) -> dict[str, Any]:
        """For the page; ids of workers as text, since JavaScript's numbers are too short for them."""
        return {
            "id": self.id,
            "model": self.model,
            "kind": self.kind,
            "at": self.at,
            "prompt_tokens": self.prompt_tokens,
            "worker": f"{self.worker:x}",
            "dp_rank": self.dp_rank,
            "mode": self.mode,
            "overlap_blocks": self.overlap_blocks,
            "required_blocks": self.required_blocks,
            "block_size": self.block_size,
            "cost": self.cost,
            "eligible": self.eligible,
            "why": self.why,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "mirror_tokens": self.mirror_tokens,
            "cause": self.cause,
            "engine_cause": self.engine_cause,
            "ttft": self.ttft,
            "itl": self.itl,
            "finish": self.finish,
            "state": self.state,
            "calls": self.calls,
        }


def cause_of(record: Record, engine_cause: str) -> str:
    """Which of `CAUSES`: where the prediction did not come true, the engine's word for it."""
    if record.calls > 1:
        return "migrated"
    if record.cached_tokens < 0:
        return "not-said"
    if record.block_size and record.cached_tokens // record.block_size == min(
        record.overlap_blocks, max(0, record.prompt_tokens - 1) // record.block_size
    ):
        return "as-predicted"  # an engine computes at least the last token itself
    if engine_cause:
        return engine_cause if engine_cause in CAUSES else "other"  # it becomes a label: only so many
    return "more" if record.cached_tokens > record.overlap_blocks * record.block_size else "less"


class Records:
    """The last `size` requests and sums since the start."""

    def __init__(self, size: int = 200, seconds: int = 120) -> None:
        self.recent: collections.deque[Record] = collections.deque(maxlen=size)
        self.running: dict[str, Record] = {}
        self.seconds = seconds
        self.rates: collections.deque[tuple[int, int, int]] = collections.deque(
            maxlen=seconds
        )  # second, requests, tokens
        self.causes: collections.Counter[str] = collections.Counter()
        self.by_worker: collections.Counter[int] = collections.Counter()
        self.requests = self.errors = self.cancelled = self.migrations = 0
        self.prompt_tokens = self.cached_tokens = self.predicted_tokens = self.completion_tokens = 0
        self.counted = 0  # prompts whose engine said how much was cached
        self.ttfts: collections.deque[float] = collections.deque(maxlen=1000)
        self.itls: collections.deque[float] = collections.deque(maxlen=1000)
        self.version = 0
        self.started = time.time()

    def begin(self, record: Record) -> None:
        self.recent.appendleft(record)
        self.running[record.id] = record
        self.requests += 1
        self.by_worker[record.worker] += 1
        self.version += 1

    def end(self, record: Record, engine_cause: str = "") -> None:
        """Count what came of it; `record` has its figures by now."""
        self.running.pop(record.id, None)
        record.engine_cause = engine_cause
        self.version += 1
        self.completion_tokens += record.completion_tokens
        if record.state == "error":
            self.errors += 1
        elif record.state == "cancelled":
            self.cancelled += 1
        if record.calls > 1:
            self.migrations += record.calls - 1
        if record.ttft is not None:
            self.ttfts.append(record.ttft)
            record.cause = cause_of(record, engine_cause)
            self.causes[record.cause] += 1
            if record.cached_tokens >= 0:
                self.counted += 1
                self.prompt_tokens += record.prompt_tokens
                self.cached_tokens += record.cached_tokens
                self.predicted_tokens += min(record.overlap_blocks * record.block_size, record.prompt_tokens)
        if record.itl is not None:
            self.itls.append(record.itl)
        second = int(time.time())
        if self.rates and self.rates[-1][0] == second:
            _, requests, tokens = self.rates.pop()
            self.rates.append((second, requests + 1, tokens + record.completion_tokens))
        else:
            self.rates.append((second, 1, record.completion_tokens))

    def sums(self) -> dict[str, Any]:
        """For the page and /debug JSON."""
        return {
            "started": self.started,
            "requests": self.requests,
            "running": len(self.running),
            "errors": self.errors,
            "cancelled": self.cancelled,
            "migrations": self.migrations,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "predicted_tokens": self.predicted_tokens,
            "hit_rate": self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None,
            "causes": dict(self.causes),
            "ttft": _percentiles(self.ttfts),
            "itl": _percentiles(self.itls),
            "rates": [list(rate) for rate in self.rates],
        }


def _percentiles(values: "collections.deque[float]") -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1
    return {"p50": ordered[last // 2], "p99": ordered[round(last * 0.99)], "mean": sum(ordered) / len(ordered)}
