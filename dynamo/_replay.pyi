from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

def replay(
    arrival_ms: NDArray[np.float64],
    input_tokens: NDArray[np.uint32],
    output_tokens: NDArray[np.uint32],
    first: NDArray[np.uint64],
    ids: NDArray[np.uint32],
    *,
    trace_block: int,
    router: str,
    workers: int,
    block_size: int,
    blocks: int,
    speedup: float,
    temperature: float,
    overlap_score_credit: float,
    timing: int,
    max_sequences: int,
    max_batched_tokens: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[Any], dict[str, float]]: ...
