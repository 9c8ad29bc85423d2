"""The protocol that every engine speaks, and what engines share: the request, the answer, the events.

An engine turns token ids into token ids. It knows nothing of HTTP, text, discovery or routing; `serve_engine`
puts it behind an endpoint.

    class Parrot(Engine):
        async def start(self, events=None, progress=None):
            return EngineInfo(model_name="parrot", context_length=1024)

        async def generate(self, request, context):
            asked = GenerateRequest.parse(request, self.info)
            for token in asked.token_ids[: asked.max_tokens]:
                yield {"token_ids": [token]}
            yield {"token_ids": [], "finish_reason": "stop"}

Items of an answer are LLMEngineOutput maps: ``token_ids`` holds the new ids only; beside it there may be
``log_probs`` (one number for each new id, None where the engine cannot tell), ``top_logprobs``
([[{rank, token_id, token, logprob, bytes}]]), and in the last item ``finish_reason`` ("eos", "stop", "length",
"cancelled", {"error": text}), ``stop_reason`` (the id that stopped it) and ``completion_usage`` (prompt_tokens,
completion_tokens, total_tokens, prompt_tokens_details.cached_tokens).
"""

import abc
import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from dynamo.errors import DynamoError, InvalidArgument

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes: TypeAlias = Sequence[int] | NDArray[np.uint64]

__all__ = [
    "Engine",
    "EngineContext",
    "EngineInfo",
    "EngineStats",
    "EventSink",
    "GenerateRequest",
    "Progress",
    "usage",
]

# Called while a model loads: what happens now, and how much of it is done (0..1, None when it cannot be told).
Progress = Callable[[str, "float | None"], None]


class EventSink(Protocol):
    """Where an engine says what its cache holds. Called from the loop that runs the engine; must not block.

    Hashes are those of `dynamo.llm.compute_block_hash_for_seq` (``tokens_hashes``, one block's tokens) and their
    chain (``block_hashes``, a block together with all before it).
    """

    def stored(self, parent: int | None, block_hashes: "Hashes", tokens_hashes: "Hashes") -> None:
        """These blocks, each following the one before, the first following `parent`, can now be reused."""

    def removed(self, block_hashes: "Hashes") -> None:
        """These blocks are gone."""

    def cleared(self) -> None:
        """Nothing is held any more."""


class EngineContext(Protocol):
    """What an engine may ask about the request it works on (a `dynamo.runtime.Context`)."""

    def id(self) -> str | None: ...

    def is_stopped(self) -> bool: ...

    def is_killed(self) -> bool: ...


@dataclass
class EngineInfo:
    """What an engine says of itself once it is ready.

    Attributes
    ----------
    context_length : tokens of prompt and answer together, of one request
    block_size : tokens of one cache block; what events and the model card use
    total_kv_blocks : blocks that fit the cache
    max_num_seqs : requests that are computed at a time
    max_num_batched_tokens : tokens of one step, None when the engine does not say
    eos_token_ids : tokens that end an answer
    assets : the files a front end needs: "model" (a GGUF or a folder), "tokenizer", "chat_template"
    embeds : `embed` works
    """

    model_name: str
    context_length: int
    block_size: int = 16
    total_kv_blocks: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    assets: dict[str, str] = field(default_factory=dict)
    data_parallel_size: int = 1
    embeds: bool = False


@dataclass
class EngineStats:
    """How busy an engine is. ``counts`` are its own totals since the start, by name."""

    running: int = 0
    waiting: int = 0
    max_num_seqs: int = 0
    active_blocks: int = 0
    total_blocks: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    counts: dict[str, int] = field(default_factory=dict)


class Engine(abc.ABC):
    """Computes tokens. Every method is called from one asyncio loop; `start` comes first, `shutdown` last."""

    info: EngineInfo

    @abc.abstractmethod
    async def start(self, events: EventSink | None = None, progress: Progress | None = None) -> EngineInfo:
        """Load the model. Returns (and keeps as ``info``) what the engine can do; raises DynamoError when it cannot."""

    @abc.abstractmethod
    def generate(self, request: Mapping[str, Any], context: EngineContext) -> AsyncIterator[dict[str, Any]]:
        """Answer one PreprocessedRequest with LLMEngineOutput maps; many run at a time.

        Closing the iterator, or ``context.is_stopped()``, ends the work soon. A request that cannot be served
        raises InvalidArgument before the first item.
        """

    async def embed(self, request: Mapping[str, Any], context: EngineContext) -> list[list[float]]:
        """One vector for each prompt in ``batch_token_ids``."""
        raise InvalidArgument(f"the engine of {self.info.model_name!r} makes no embeddings")

    def stats(self) -> EngineStats:
        return EngineStats()

    async def failed(self) -> DynamoError:
        """Waits until the engine cannot go on, and says why; for ever while it can."""
        await asyncio.Event().wait()
        raise AssertionError("never set")

    async def shutdown(self) -> None:  # noqa: B027
        """Free everything. Running answers end with an error; may be called twice."""


@dataclass
class GenerateRequest:
    """A PreprocessedRequest, checked. Ranges are those of the OpenAI API where it has them."""

    token_ids: list[int]
    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: frozenset[int] = frozenset()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logprobs: int | None = None  # None: none are asked for; 0: those of the chosen tokens
    guided: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, request: Mapping[str, Any], info: EngineInfo) -> "GenerateRequest":
        """Check a request against an engine.

        Raises
        ------
        InvalidArgument : a value is of the wrong type or out of range, or the prompt does not fit the context
        """
        tokens = _ids(request.get("token_ids"), "token_ids")
        if not tokens:
            raise InvalidArgument("token_ids is empty: a request needs at least one token")
        room = info.context_length - len(tokens)
        if room < 1:
            raise InvalidArgument(
                f"the prompt has {len(tokens)} tokens, the context of {info.model_name!r} is {info.context_length}, "
                f"and at least one token must fit after it; shorten the prompt"
            )
        stop = _section(request, "stop_conditions")
        sampling = _section(request, "sampling_options")
        output = _section(request, "output_options")
        max_tokens = _integer(stop, "max_tokens", 0, 1 << 40, None)
        hidden = [_ids(stop.get(f"stop_token_ids{end}"), "stop_token_ids") for end in ("", "_visible", "_hidden")]
        if (n := _integer(sampling, "n", 1, 128, None)) not in (None, 1):
            raise InvalidArgument(f"n is {n}: an engine answers once, ask it {n} times")
        if sampling.get("use_beam_search"):
            raise InvalidArgument("use_beam_search is not supported")
        top_k = _integer(sampling, "top_k", -1, 1 << 31, None)
        return cls(
            token_ids=tokens,
            max_tokens=room if max_tokens is None else min(max_tokens, room),
            min_tokens=_integer(stop, "min_tokens", 0, 1 << 40, None) or 0,
            ignore_eos=bool(stop.get("ignore_eos")),
            stop_token_ids=frozenset(i for ids in hidden for i in ids),
            temperature=_number(sampling, "temperature", 0.0, 100.0, 1.0),
            top_p=_number(sampling, "top_p", 0.0, 1.0, 1.0),
            top_k=0 if top_k is None or top_k < 0 else top_k,
            min_p=_number(sampling, "min_p", 0.0, 1.0, 0.0),
            presence_penalty=_number(sampling, "presence_penalty", -2.0, 2.0, 0.0),
            frequency_penalty=_number(sampling, "frequency_penalty", -2.0, 2.0, 0.0),
            repetition_penalty=_number(sampling, "repetition_penalty", 1e-6, 100.0, 1.0),
            seed=_integer(sampling, "seed", -(1 << 63), (1 << 64) - 1, None),
            logprobs=_integer(output, "logprobs", 0, 100, None),
            guided={k: v for k, v in _section(sampling, "guided_decoding").items() if v is not None},
        )


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    """The ``completion_usage`` of a last item."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def reused(cached: int, mirror: int | None = None, cause: str = "") -> dict[str, Any]:
    """The ``engine_data`` of a first and a last item: what the cache gave.

    In the first item already, because whoever asked may stop reading before the last one.

    Parameters
    ----------
    cached : tokens of the prompt that were not computed
    mirror : tokens that were expected to be cached, where the engine keeps a mirror of its cache
    cause : why it is not what a router could expect, a word of `dynamo.frontend.records.CAUSES`
    """
    data: dict[str, Any] = {"cached_tokens": cached}
    if mirror is not None:
        data["mirror_tokens"] = mirror
    if cause:
        data["cause"] = cause
    return data


def _section(request: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = request.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{name} is {value!r}: it must be an object")
    return value


def _ids(value: object, name: str) -> list[int]:
    if value is None:
        return []
    try:
        ids = value.tolist() if hasattr(value, "tolist") else list(value)  # type: ignore[call-overload]
    except TypeError:
        raise InvalidArgument(f"{name} is {value!r}: it must be a list of token ids") from None
    for i in ids:
        if type(i) is not int or not 0 <= i < 1 << 32:
            raise InvalidArgument(f"{name} has {i!r}: token ids are integers from 0 to 2^32-1")
    return ids  # type: ignore[no-any-return]


def _integer(section: Mapping[str, Any], name: str, low: int, high: int, default: int | None) -> int | None:
    value = section.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise InvalidArgument(f"{name} is {value!r}: it must be an integer from {low} to {high}")
    return value


def _number(section: Mapping[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = section.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        raise InvalidArgument(f"{name} is {value!r}: it must be a number from {low:g} to {high:g}")
    return float(value)
