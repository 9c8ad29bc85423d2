"""Run a trace through one router, or the same trace through several and compare them."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo.errors import InvalidArgument
from dynamo.replay.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUTERS = ("kv", "round-robin", "random", "least-loaded", "two-choices")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What became of every request of a replay.

    Attributes
    ----------
    ttft_ms, itl_ms, total_ms : float64 (n,)
        Time to first token, mean time between tokens, time to the last token, in simulated milliseconds; negative
        where it never came.
    cached_tokens, overlap_blocks, worker : uint32 (n,)
    status : int32 (n,), 0 or the code for which the request was refused
    summary : totals by name: duration_ms, finished, refused, prompt_tokens, cached_tokens, prefilled_tokens, ...
    wall_seconds : how long the replay itself took
    """

    router: str
    workers: int
    trace: str
    ttft_ms: NDArray[np.float64]
    itl_ms: NDArray[np.float64]
    total_ms: NDArray[np.float64]
    cached_tokens: NDArray[np.uint32]
    overlap_blocks: NDArray[np.uint32]
    worker: NDArray[np.uint32]
    status: NDArray[np.int32]
    summary: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Cached prompt tokens among all prompt tokens."""
        return self.summary["cached_tokens"] / max(1.0, self.summary["prompt_tokens"])

    @property
    def requests_per_worker(self) -> NDArray[np.int64]:
        """How many requests each worker got, shape (workers,)."""
        return np.bincount(self.worker[self.status == 0], minlength=self.workers)

    def percentile(self, column: str, q: float) -> float:
        """The q-th percentile of "ttft_ms", "itl_ms" or "total_ms" over the requests that have it."""
        values = getattr(self, column)
        values = values[values >= 0]
        return float(np.percentile(values, q)) if len(values) else float("nan")

    def row(self) -> dict[str, float | str]:
        """The figures of one line of a comparison."""
        share = self.requests_per_worker
        return {
            "router": self.router,
            "hit rate %": 100 * self.hit_rate,
            "TTFT p50 ms": self.percentile("ttft_ms", 50),
            "TTFT p99 ms": self.percentile("ttft_ms", 99),
            "ITL p50 ms": self.percentile("itl_ms", 50),
            "ITL p99 ms": self.percentile("itl_ms", 99),
            "prefilled Mtok": self.summary["prefilled_tokens"] / 1e6,
            "least / most per worker": f"{share.min()} / {share.max()}",
            "refused": float(self.summary["refused"]),
        }

    def __repr__(self) -> str:
        return (
            f"<Result {self.trace!r} by {self.router}: {int(self.summary['finished'])} of {len(self.status)} requests "
            f"on {self.workers} workers, hit rate {100 * self.hit_rate:.1f} %, "
            f"TTFT p50 {self.percentile('ttft_ms', 50):.0f} ms>"
        )

    def _repr_html_(self) -> str:
        return Comparison([self])._repr_html_()


def _show(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.1f}" if value < 1e5 else f"{value:,.0f}"


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Results of one trace under several routers: prints as a table, shows itself in a notebook."""

    results: Sequence[Result]

    def __getitem__(self, router: str) -> Result:
        for result in self.results:
            if result.router == router:
                return result
        raise KeyError(router)

    def _cells(self) -> list[list[str]]:
        rows = [result.row() for result in self.results]
        return [list(rows[0])] + [[_show(value) for value in row.values()] for row in rows]

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in cells]
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rows = ([html.escape(text) for text in row] for row in self._cells())
        body = "".join("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in rows)
        return "<table><tr>" + "".join(f"<th>{text}</th>" for text in head) + f"</tr>{body}</table>"

    def plot(self, ax: Any = None) -> Any:
        """Draw how TTFT is distributed under each router (needs matplotlib); returns the axes."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(7, 4))
        for result in self.results:
            values = np.sort(result.ttft_ms[result.ttft_ms >= 0])
            ax.plot(
                values, np.linspace(0, 100, len(values)), label=f"{result.router} ({100 * result.hit_rate:.0f} % hit)"
            )
        ax.set_xscale("log")
        ax.set_xlabel("time to first token, simulated ms")
        ax.set_ylabel("% of requests")
        ax.set_title(f"{self.results[0].trace}, {self.results[0].workers} workers")
        ax.grid(alpha=0.3)
        ax.legend()
        return ax


def run(
    trace: Trace,
    *,
    router: str = "kv",
    workers: int = 4,
    block_size: int = 64,
    blocks: int = 16384,
    speedup: float = 1.0,
    temperature: float = 0.0,
    overlap_score_credit: float = 1.0,
    timing: int = 2025,
    max_sequences: int = 256,
    max_batched_tokens: int = 8192,
    seed: int = 42,
    progress: Progress | None = None,
) -> Result:
    """Replay a trace on simulated workers.

    Parameters
    ----------
    router : "kv", "round-robin", "random", "least-loaded" or "two-choices"
    workers : how many engines
    block_size, blocks : of each engine's cache, in tokens and blocks
    speedup : 2 lets requests arrive twice as fast as recorded
    temperature, overlap_score_credit : of the kv router
    timing : 2025 or 2026, which fit of prefill and decode times
    progress : called with (done, all) now and then; what it raises ends the replay

    Raises
    ------
    InvalidArgument
        A parameter makes no sense; the message names it.
    """
    from dynamo._replay import replay

    if router not in ROUTERS:
        raise InvalidArgument(f"router {router!r}: must be one of {', '.join(ROUTERS)}")
    if timing not in (2025, 2026):
        raise InvalidArgument(f"timing {timing}: must be 2025 or 2026")
    start = time.perf_counter()
    columns, summary = replay(
        trace.arrival_ms,
        trace.input_tokens,
        trace.output_tokens,
        trace.first,
        trace.ids,
        trace_block=trace.block,
        router=router,
        workers=workers,
        block_size=block_size,
        blocks=blocks,
        speedup=speedup,
        temperature=temperature,
        overlap_score_credit=overlap_score_credit,
        timing=timing,
        max_sequences=max_sequences,
        max_batched_tokens=max_batched_tokens,
        seed=seed,
        progress=progress,
    )
    return Result(
        router=router,
        workers=workers,
        trace=trace.name,
        summary=summary,
        wall_seconds=time.perf_counter() - start,
        **{name: columns[name] for name in columns.dtype.names or ()},
    )


def compare(
    trace: Trace,
    routers: Sequence[str] = ("kv", "round-robin", "random"),
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Replay a trace under several routers with the same options; see `run`."""
    return Comparison([run(trace, router=router, progress=progress, **options) for router in routers])
