import asyncio
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self, disjoint_base

from dynamo._mailbox import Receiver

@disjoint_base
class MockerStream:
    request: int
    cached_tokens: int | None
    finished: bool
    def __new__(cls, loop: asyncio.AbstractEventLoop, request: int) -> Self: ...
    def take(self) -> list[int]: ...
    async def wait(self) -> None: ...

@disjoint_base
class MockerEngine(Receiver):
    def __new__(
        cls,
        loop: asyncio.AbstractEventLoop,
        *,
        speedup: float = 1.0,
        on_stored: Callable[[int | None, NDArray[np.uint64], NDArray[np.uint64]], object] | None = None,
        on_removed: Callable[[NDArray[np.uint64]], object] | None = None,
        blocks: int = 16384,
        block_size: int = 64,
        max_sequences: int = 256,
        max_batched_tokens: int = 8192,
        max_waiting: int = 65536,
        prefix_caching: bool = True,
        chunked_prefill: bool = True,
        watermark: float = 0.01,
        timing: int = 2025,
        preemption: str = "newest",
        token_low: int = 1000,
        token_high: int = 32000,
    ) -> Self: ...
    def submit(self, tokens: NDArray[np.uint32], output: int) -> MockerStream: ...
    def cancel(self, stream: MockerStream) -> None: ...
    def clear(self) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def shutdown(self) -> None: ...
