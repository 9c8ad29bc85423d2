"""Traces: who asked when, how much, and which blocks prompts have in common."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dynamo.errors import InvalidArgument

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LINE = 16 << 20  # bytes: a prompt of a million blocks
MAX_REQUESTS = 10_000_000


class _Row(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """A trace as columns.

    Attributes
    ----------
    arrival_ms : float64 (n,), not decreasing, from 0
    input_tokens, output_tokens : uint32 (n,)
    first : uint64 (n + 1,)
        Request i has the blocks ``ids[first[i]:first[i + 1]]``.
    ids : uint32 (blocks,)
        Equal ids are equal blocks, together with everything before them.
    block : tokens of a block; the last one of a request may be partial
    name : where it came from
    """

    arrival_ms: NDArray[np.float64]
    input_tokens: NDArray[np.uint32]
    output_tokens: NDArray[np.uint32]
    first: NDArray[np.uint64]
    ids: NDArray[np.uint32]
    block: int = 512
    name: str = "trace"

    def __len__(self) -> int:
        return len(self.arrival_ms)

    @property
    def reusable(self) -> float:
        """The share of blocks that an endless cache would have seen before."""
        return 1.0 - len(np.unique(self.ids)) / max(1, len(self.ids))

    def __repr__(self) -> str:
        minutes = float(self.arrival_ms[-1]) / 60_000 if len(self) else 0.0
        return (
            f"<Trace {self.name!r}: {len(self)} requests in {minutes:.1f} min, {len(self.ids)} blocks of "
            f"{self.block} tokens, {100 * self.reusable:.1f} % seen before>"
        )

    def head(self, count: int) -> Trace:
        """The first `count` requests."""
        count = max(0, min(count, len(self)))
        return Trace(
            self.arrival_ms[:count],
            self.input_tokens[:count],
            self.output_tokens[:count],
            self.first[: count + 1],
            self.ids[: int(self.first[count])],
            self.block,
            self.name,
        )


def _columns(rows: list[_Row], block: int, name: str) -> Trace:
    first = np.zeros(len(rows) + 1, np.uint64)
    first[1:] = np.cumsum([len(row.hash_ids) for row in rows])
    ids = np.fromiter((i for row in rows for i in row.hash_ids), np.uint32, int(first[-1]))
    return Trace(
        np.array([row.timestamp for row in rows], np.float64),
        np.array([row.input_length for row in rows], np.uint32),
        np.array([row.output_length for row in rows], np.uint32),
        first,
        ids,
        block,
        name,
    )


def load_trace(path: str | os.PathLike[str], *, block: int = 512, limit: int | None = None) -> Trace:
    """Read a trace in Mooncake's form: JSON lines, plain or gzip.

    Parameters
    ----------
    path : file of ``{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}`` lines
    block : tokens that one id stands for
    limit : read no more than this many requests

    Raises
    ------
    InvalidArgument
        A line is not of that form: the message has its number and what is wrong.
    """
    path = os.fspath(path)
    opener: Any = gzip.open if path.endswith(".gz") else open
    decode = msgspec.json.Decoder(_Row).decode
    rows: list[_Row] = []
    last = 0.0
    with opener(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise InvalidArgument(f"{path}:{number}: the line is longer than {MAX_LINE} bytes")
            if not line.strip():
                continue
            try:
                row = decode(line)
            except msgspec.DecodeError as error:
                raise InvalidArgument(f"{path}:{number}: {error}") from None
            covered = len(row.hash_ids) * block
            if not 1 <= row.input_length <= covered:
                raise InvalidArgument(
                    f"{path}:{number}: input_length {row.input_length} does not fit {len(row.hash_ids)} blocks "
                    f"of {block} tokens"
                )
            if row.output_length < 0 or any(not 0 <= i < 2**32 for i in row.hash_ids):
                raise InvalidArgument(f"{path}:{number}: output_length and hash_ids must be numbers below 2**32")
            if row.timestamp < last:
                raise InvalidArgument(f"{path}:{number}: timestamp {row.timestamp} is before the line above")
            last = row.timestamp
            rows.append(row)
            if len(rows) == limit:
                break
            if len(rows) > MAX_REQUESTS:
                raise InvalidArgument(f"{path}: more than {MAX_REQUESTS} requests; give a limit")
    if not rows:
        raise InvalidArgument(f"{path}: no request in it")
    return _columns(rows, block, os.path.basename(path).removesuffix(".gz").removesuffix(".jsonl"))


def synthetic_trace(
    requests: int = 1000,
    *,
    rate: float = 10.0,
    input_tokens: int = 1024,
    output_tokens: int = 64,
    prefixes: int = 10,
    shared: float = 0.5,
    block: int = 64,
    seed: int = 42,
) -> Trace:
    """Poisson arrivals of equal requests that share one of a few prefixes.

    Parameters
    ----------
    rate : requests a second
    shared : share of the prompt that is one of the `prefixes`
    """
    if requests < 1 or rate <= 0 or input_tokens < 1 or prefixes < 1 or not 0 <= shared <= 1 or block < 1:
        raise InvalidArgument("requests, rate, input_tokens, prefixes and block must be above 0, shared from 0 to 1")
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1000.0 / rate, requests))
    arrivals -= arrivals[0]
    blocks = -(-input_tokens // block)
    common = int(blocks * shared)
    ids = np.empty((requests, blocks), np.uint32)
    group = rng.integers(0, prefixes, requests)
    ids[:, :common] = group[:, None] * common + np.arange(common)
    ids[:, common:] = prefixes * common + np.arange(requests * (blocks - common), dtype=np.uint32).reshape(requests, -1)
    return Trace(
        arrivals,
        np.full(requests, input_tokens, np.uint32),
        np.full(requests, output_tokens, np.uint32),
        np.arange(0, requests * blocks + 1, blocks, dtype=np.uint64),
        ids.reshape(-1),
        block,
        "synthetic",
    )
