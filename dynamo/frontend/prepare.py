"""From an HTTP body to token ids: read, check, template, tokenise. Nothing here knows of workers or sockets.

Every function may run on a thread: it only reads the model.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from dynamo.errors import InvalidArgument, NotFound
from dynamo.frontend.errors import ApiError, bad_request
from dynamo.frontend.protocol import ChatRequest, CompletionRequest, NvExt, prompts_of, stop_strings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dynamo.frontend.models import Model
    from dynamo.llm.assets import ModelAssets

__all__ = ["Prompt", "Routing", "payload", "prepare_chat", "prepare_completion", "routing_of"]


@dataclass
class Prompt:
    """One prompt in the form a worker gets."""

    tokens: "NDArray[np.uint32]"
    echo: bytes = b""
    formatted: str | None = None


@dataclass
class Routing:
    """What a request says about where it should go."""

    worker_id: int | None = None
    dp_rank: int | None = None
    priority: float | None = None
    strict_priority: int | None = None
    expected_output: int | None = None
    cache_namespace: str | None = None
    constraints: dict[str, Any] | None = None
    override: dict[str, Any] | None = None
    session: str | None = None
    only_ask: bool = False
    annotations: list[str] = field(default_factory=list)


def _ids(values: "list[int] | Any") -> "NDArray[np.uint32]":
    import numpy as np

    return np.array(values, np.uint32)


def _tokenizer_missing(error: NotFound) -> ApiError:
    return bad_request(f"{str(error).rstrip('.')}.", "model", "tokenizer_missing")


def _check_length(model: "Model", count: int, param: str) -> None:
    if count == 0:
        raise bad_request(f"{param} is empty: a prompt needs at least one token.", param)
    if model.context_length and count >= model.context_length:
        raise bad_request(
            f"This model's maximum context length is {model.context_length} tokens, and the prompt has {count}; at "
            f"least one token must fit after it. Shorten the {param}.",
            param,
            "context_length_exceeded",
        )


def _check_text(model: "Model", text: str, param: str) -> None:
    """Refuse at once what is too long however well it goes into tokens, instead of tokenising it for seconds."""
    most = model.context_length * model.assets.tokenizer.longest
    if most and len(text) > most:
        raise bad_request(
            f"This model's maximum context length is {model.context_length} tokens; {len(text)} characters of {param} "
            f"cannot fit. Shorten the {param}.",
            param,
            "context_length_exceeded",
        )


def prepare_chat(model: "Model", request: ChatRequest) -> list[Prompt]:
    """The conversation as the model's text and ids."""
    ext = request.nvext or NvExt()
    assets: ModelAssets = model.assets
    if ext.token_data:
        prompt = Prompt(_ids(ext.token_data))
        _check_length(model, len(prompt.tokens), "nvext.token_data")
        return [prompt]
    options: dict[str, Any] = {**(request.chat_template_args or {}), **(request.chat_template_kwargs or {})}
    if request.tools and request.tool_choice != "none":
        options["tools"] = request.tools
    if request.continue_final_message:
        options["continue_final_message"] = True
    elif request.add_generation_prompt is not None:
        options["add_generation_prompt"] = request.add_generation_prompt
    try:
        if ext.use_raw_prompt:
            content = request.messages[-1].get("content")
            text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())
            _check_text(model, text, "messages")
            prompt = Prompt(assets.encode(text), formatted=text)
        else:
            text = assets.render(request.messages, **options)
            _check_text(model, text, "messages")
            prompt = Prompt(assets.encode_chat(text), formatted=text)
    except NotFound as error:
        raise _tokenizer_missing(error) from None
    except InvalidArgument as error:
        raise bad_request(f"{str(error).rstrip('.')}.", "messages") from None
    except TypeError as error:
        raise bad_request(f"chat_template_kwargs: {error}.", "chat_template_kwargs") from None
    _check_length(model, len(prompt.tokens), "messages")
    return [prompt]


def prepare_completion(model: "Model", request: CompletionRequest) -> list[Prompt]:
    """Every prompt as ids."""
    ext = request.nvext or NvExt()
    prompts = []
    size = len(model.assets.tokenizer) if model.assets.has_tokenizer else None
    for one in [ext.token_data] if ext.token_data else prompts_of(request):
        try:
            if isinstance(one, str):
                special = request.add_special_tokens is not False
                _check_text(model, one, "prompt")
                tokens = model.assets.tokenizer.encode(one, add_special=special)
                prompt = Prompt(tokens, one.encode("utf-8", "replace") if request.echo else b"", one)
            else:
                if size is not None and max(one) >= size:
                    raise bad_request(f"token id {max(one)} is not in the vocabulary of {size} tokens.", "prompt")
                prompt = Prompt(_ids(one))
                if request.echo:
                    prompt.echo = model.assets.tokenizer.decode(one, skip_special=True).encode("utf-8", "replace")
        except NotFound as error:
            raise _tokenizer_missing(error) from None
        except InvalidArgument as error:
            raise bad_request(f"{str(error).rstrip('.')}.", "prompt") from None
        _check_length(model, len(prompt.tokens), "prompt")
        prompts.append(prompt)
    return prompts


def _number(value: str | None, name: str, high: int) -> int | None:
    if value is None:
        return None
    try:
        number = int(value, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= high:
        raise bad_request(f"the header {name} is {value!r}; it must be a number of 0 to {high}.", name)
    return number


def routing_of(request: Any, header: Any) -> Routing:
    """From ``nvext`` and the x-dynamo headers; headers win.

    Parameters
    ----------
    header : callable(name) -> str or None
    """
    ext: NvExt = request.nvext or NvExt()
    hints = ext.agent_hints
    out = Routing(
        worker_id=ext.backend_instance_id if ext.backend_instance_id is not None else ext.decode_worker_id,
        dp_rank=ext.dp_rank,
        cache_namespace=ext.cache_salt or request.cache_salt or None,
        constraints=ext.routing_constraints,
        override=(ext.router or {}).get("config_override") or None,
        annotations=list(ext.annotations or ()),
    )
    if hints is not None:
        out.priority, out.strict_priority, out.expected_output = hints.priority, hints.strict_priority, hints.osl
        for field_, low, high in (
            ("priority", -(10**6), 10**6),
            ("strict_priority", -(2**31), 2**31 - 1),
            ("osl", 0, 2**40),
        ):
            value = getattr(hints, field_)
            if value is not None and not low <= value <= high:
                raise bad_request(
                    f"nvext.agent_hints.{field_} is {value}; it must be {low} to {high}.", f"nvext.agent_hints.{field_}"
                )
    worker = _number(header("x-dynamo-worker-instance-id"), "x-dynamo-worker-instance-id", 2**64 - 1)
    rank = _number(header("x-dynamo-dp-rank"), "x-dynamo-dp-rank", 2**32 - 2)
    priority = _number(header("x-dynamo-request-priority"), "x-dynamo-request-priority", 10**6)
    strict = _number(header("x-dynamo-request-strict-priority"), "x-dynamo-request-strict-priority", 2**31 - 1)
    out.worker_id = out.worker_id if worker is None else worker
    out.dp_rank = out.dp_rank if rank is None else rank
    out.priority = out.priority if priority is None else priority
    out.strict_priority = out.strict_priority if strict is None else strict
    out.session = header("x-dynamo-session-id")
    out.only_ask = any(note.partition(":")[0] == "query_instance_id" for note in out.annotations)
    return out


def max_tokens(model: "Model", request: Any, count: int) -> int | None:
    """How many tokens an answer to a prompt of `count` may have: what is asked for, and what fits the context."""
    room = model.context_length - count if model.context_length else None
    asked = request.max_tokens
    if asked is None and isinstance(request, CompletionRequest):
        asked = 16  # OpenAI's default for text completions
    if room is None:
        return asked  # type: ignore[no-any-return]
    return room if asked is None else min(asked, room)


def payload(
    model: "Model", request: Any, tokens: Any, limit: int | None, choice: int, eos: "tuple[int, ...]"
) -> dict[str, Any]:
    """A PreprocessedRequest, without its routing."""
    ext: NvExt = request.nvext or NvExt()
    if isinstance(request, ChatRequest):
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
    else:
        logprobs = request.logprobs
    stop = {
        "max_tokens": limit,
        "stop": stop_strings(request) or None,
        "stop_token_ids_hidden": request.stop_token_ids or None,
        "min_tokens": request.min_tokens,
        "ignore_eos": request.ignore_eos,
        "max_thinking_tokens": ext.max_thinking_tokens,
    }
    sampling = {
        "temperature": 0.0 if ext.greed_sampling else request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "seed": None if request.seed is None else (request.seed + choice + 2**63) % 2**64 - 2**63,
        "include_stop_str_in_output": request.include_stop_str_in_output,
    }
    output = {"logprobs": logprobs, "skip_special_tokens": request.skip_special_tokens}
    return {
        "model": model.name,
        "token_ids": tokens,
        "stop_conditions": {k: v for k, v in stop.items() if v is not None},
        "sampling_options": {k: v for k, v in sampling.items() if v is not None},
        "output_options": {k: v for k, v in output.items() if v is not None},
        "eos_token_ids": list(eos),
        "mdc_sum": model.sum,
        "annotations": list(ext.annotations or ()),
    }


def annotation(name: str, value: Any) -> bytes:
    """An SSE event without data: a name and a comment, as Dynamo sends them. Readers that keep to the standard pass
    over it; that of the `openai` package does not, so it is sent only to who asks for it."""
    return b"event: " + name.encode() + b"\n: " + msgspec.json.encode(value) + b"\n\n"
