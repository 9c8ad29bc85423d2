import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self, disjoint_base

from dynamo._http import Request
from dynamo._metrics import Metric
from dynamo._router import SelectionCore
from dynamo._runtime import Pool
from dynamo._tokens import StopStrings, Vocab

class ChoiceSummary(NamedTuple):
    finish: str | None
    completion_tokens: int
    calls: int
    worker: int
    first_ns: int
    cached_tokens: int
    mirror_tokens: int
    cause: str

class Summary(NamedTuple):
    started_ns: int
    first_ns: int
    last_ns: int
    ended_ns: int
    prompt_tokens: int
    completion_tokens: int
    status: int
    cancelled: bool
    failed: bool
    choices: tuple[ChoiceSummary, ...]

@disjoint_base
class Booking: ...

class RouterBooking(Booking):
    def __new__(cls, core: SelectionCore, ticket: int) -> Self: ...

@disjoint_base
class Answer:
    done: asyncio.Future[Summary]
    choices: int
    def __init__(
        self,
        request: Request,
        *,
        chat: bool,
        stream: bool,
        include_usage: bool = False,
        metrics: bool = False,
        id: str,
        model: str,
        created: int,
        choices: list[tuple[bytes, int, int, int]],
        vocab: Vocab | None = None,
        special: bool = False,
        stops: StopStrings | None = None,
        include_stop: bool = False,
        stop_ids: Iterable[int] = (),
        logprobs: int = -1,
        tokens_as_ids: bool = False,
        headers: list[tuple[bytes, bytes]] | None = None,
        preamble: bytes = b"",
        extra: bytes = b"",
        first: Metric | None = None,
        between: Metric | None = None,
        tokens: Metric | None = None,
        on_broke: Callable[[int, str, str, str], object] | None = None,
    ) -> None: ...
    def call(
        self,
        choice: int,
        pool: Pool,
        address: bytes,
        payload: bytes,
        headers: list[tuple[bytes, bytes]],
        worker: int,
        booking: Booking | None = None,
        quiet_ms: int = 0,
    ) -> None: ...
    def fail(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after: int = 0,
    ) -> None: ...
    def tokens(self, choice: int) -> NDArray[np.uint32]: ...

def json_escape(text: str) -> bytes: ...
def holdings(core: SelectionCore, worker: int, dp_rank: int = 0) -> int | None: ...
