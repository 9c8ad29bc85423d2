"""The requests of the OpenAI API: their fields, and what values make sense.

Types are checked while the JSON is read; ranges and combinations by `check_*` afterwards, so that every
refusal names the field (``param``) and says what is allowed. Fields that are not known are ignored, as OpenAI's
own clients expect.
"""

from typing import Any

import msgspec

from dynamo.frontend.errors import ApiError, bad_request

__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "EmbeddingRequest",
    "check_chat",
    "check_completion",
    "check_embedding",
    "read",
]

MAX_CHOICES = 128
MAX_STOPS = 32
MAX_STOP_BYTES = 4096
MAX_LOGPROBS = 20
MAX_PROMPTS = 1024
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class AgentHints(msgspec.Struct):
    priority: int | None = None
    strict_priority: int | None = None
    osl: int | None = None
    speculative_prefill: bool | None = None
    latency_sensitivity: float | None = None


class NvExt(msgspec.Struct):
    """Dynamo's extension of the requests."""

    greed_sampling: bool | None = None
    use_raw_prompt: bool | None = None
    annotations: list[str] | None = None
    backend_instance_id: int | None = None
    token_data: list[int] | None = None
    max_thinking_tokens: int | None = None
    cache_salt: str | None = None
    extra_fields: list[str] | None = None
    prefill_worker_id: int | None = None
    decode_worker_id: int | None = None
    dp_rank: int | None = None
    prefill_dp_rank: int | None = None
    agent_hints: AgentHints | None = None
    routing_constraints: dict[str, Any] | None = None
    router: dict[str, Any] | None = None


class _Sampling(msgspec.Struct, kw_only=True):
    """What chat and text completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    cache_salt: str | None = None
    nvext: NvExt | None = None


class ChatRequest(_Sampling, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    chat_template_args: dict[str, Any] | None = None


class CompletionRequest(_Sampling, kw_only=True):
    prompt: str | list[Any]
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: int | None = None
    add_special_tokens: bool | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[Any]
    encoding_format: str | None = None
    dimensions: int | None = None
    user: str | None = None


def read(body: bytes, kind: type[Any], defaults: dict[str, Any] | None = None) -> Any:
    """A request out of JSON.

    Raises
    ------
    ApiError
        400 with the field in `param`.
    """
    if not body.strip():
        raise bad_request("The body is empty; send a JSON object.")
    try:
        if not defaults:
            return msgspec.json.decode(body, type=kind)
        fields = msgspec.json.decode(body, type=dict[str, Any])
        return msgspec.convert({**defaults, **{k: v for k, v in fields.items() if v is not None}}, kind)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        param = where.rstrip("`").lstrip(".") or None
        if param is None and "required field `" in text:
            param = text.split("`")[1]
        raise bad_request(f"{text.rstrip('.')}{f' in {param!r}' if where else ''}.", param) from None
    except msgspec.DecodeError as error:
        raise bad_request(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    except RecursionError:
        raise bad_request("The body is nested too deeply.", code="invalid_json") from None
    except UnicodeDecodeError:
        raise bad_request("The body is not valid UTF-8.", code="invalid_json") from None


def _between(request: Any, field: str, low: float, high: float) -> None:
    value = getattr(request, field)
    if value is not None and not (low <= value <= high):
        raise bad_request(f"{field} is {value}; it must be between {low} and {high}.", field)


def _check_sampling(request: Any) -> None:
    if not request.model:
        raise bad_request("model is empty; name one of those that /v1/models lists.", "model")
    _between(request, "temperature", 0, 2)
    _between(request, "top_p", 0, 1)
    _between(request, "min_p", 0, 1)
    _between(request, "presence_penalty", -2, 2)
    _between(request, "frequency_penalty", -2, 2)
    _between(request, "n", 1, MAX_CHOICES)
    _between(request, "max_tokens", 1, 2**31 - 1)
    _between(request, "min_tokens", 0, 2**31 - 1)
    _between(request, "top_k", -1, 2**31 - 1)
    _between(request, "seed", -(2**63), 2**63 - 1)
    value = request.repetition_penalty
    if value is not None and not (0 < value <= 2):
        raise bad_request(f"repetition_penalty is {value}; it must be above 0 and at most 2.", "repetition_penalty")
    for i, token in enumerate(request.stop_token_ids or ()):
        if not 0 <= token < 2**32:
            raise bad_request(f"stop_token_ids[{i}] is {token}; token ids are 0 to 4294967295.", "stop_token_ids")
    if len(request.stop_token_ids or ()) > 1024:
        raise bad_request("stop_token_ids has more than 1024 ids.", "stop_token_ids")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > MAX_STOPS:
        raise bad_request(f"stop has {len(stops)} strings; at most {MAX_STOPS} are taken.", "stop")
    if any(not text for text in stops):
        raise bad_request("stop has an empty string; leave it out.", "stop")
    if sum(len(text.encode("utf-8", "replace")) for text in stops) > MAX_STOP_BYTES:
        raise bad_request(f"the stop strings are longer than {MAX_STOP_BYTES} bytes together.", "stop")
    if request.logit_bias:
        raise bad_request("logit_bias is not supported; leave it out.", "logit_bias")
    if request.stream_options is not None and not request.stream:
        raise bad_request("stream_options is only allowed with stream=true.", "stream_options")
    if request.min_tokens is not None and request.max_tokens is not None and request.min_tokens > request.max_tokens:
        raise bad_request(
            f"min_tokens is {request.min_tokens}, more than max_tokens {request.max_tokens}.", "min_tokens"
        )
    ext = request.nvext
    if ext is not None:
        for field in ("backend_instance_id", "prefill_worker_id", "decode_worker_id"):
            value = getattr(ext, field)
            if value is not None and not 0 <= value < 2**64:
                raise bad_request(f"nvext.{field} is {value}; ids are 0 to 2^64-1.", f"nvext.{field}")
        for field in ("dp_rank", "prefill_dp_rank"):
            value = getattr(ext, field)
            if value is not None and not 0 <= value < 2**32 - 1:
                raise bad_request(f"nvext.{field} is {value}; ranks are 0 to 2^32-2.", f"nvext.{field}")
        _token_ids(ext.token_data, "nvext.token_data")


def _token_ids(ids: Any, param: str) -> None:
    for i, token in enumerate(ids or ()):
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < 2**32:
            raise bad_request(f"{param}[{i}] is {token!r}; token ids are 0 to 4294967295.", param)


def stop_strings(request: Any) -> list[str]:
    """The stop strings of a request as a list."""
    return [request.stop] if isinstance(request.stop, str) else list(request.stop or ())


def _message(i: int, message: dict[str, Any]) -> None:
    where = f"messages[{i}]"
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise bad_request(f"{where}.role is {role!r}; it must be one of {', '.join(sorted(ROLES))}.", f"{where}.role")
    content = message.get("content")
    if isinstance(content, str):
        return
    if content is None:
        if role == "assistant":
            return
        raise bad_request(f"{where}.content is missing.", f"{where}.content")
    if not isinstance(content, list):
        raise bad_request(f"{where}.content must be a string or a list of parts.", f"{where}.content")
    for k, part in enumerate(content):
        at = f"{where}.content[{k}]"
        if not isinstance(part, dict):
            raise bad_request(f"{at} must be an object with a type.", at)
        if part.get("type") not in ("text", "refusal"):
            raise bad_request(f"{at}.type is {part.get('type')!r}; only text parts are supported.", f"{at}.type")
        if not isinstance(part.get(part["type"]), str):
            raise bad_request(f"{at}.{part['type']} must be a string.", at)


def check_chat(request: ChatRequest) -> None:
    """Refuse a chat request whose values make no sense."""
    if request.max_completion_tokens is not None:
        _between(request, "max_completion_tokens", 1, 2**31 - 1)
        request.max_tokens = request.max_completion_tokens
    _check_sampling(request)
    if not request.messages:
        raise bad_request("messages is empty; send at least one message.", "messages")
    for i, message in enumerate(request.messages):
        _message(i, message)
    _between(request, "top_logprobs", 0, MAX_LOGPROBS)
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request("top_logprobs needs logprobs=true.", "top_logprobs")
    kind = (request.response_format or {}).get("type", "text")
    if kind != "text":
        raise bad_request(f"response_format {kind!r} is not supported; only 'text' is.", "response_format")
    if request.tool_choice is not None and request.tool_choice not in ("none", "auto"):
        raise bad_request("tool_choice must be 'none' or 'auto': a call cannot be forced.", "tool_choice")
    if (request.modalities or ["text"]) != ["text"] or request.audio is not None:
        raise bad_request("modalities: only text is supported.", "modalities")
    if request.add_generation_prompt and request.continue_final_message:
        raise bad_request(
            "add_generation_prompt and continue_final_message exclude each other.", "continue_final_message"
        )


def prompts_of(request: CompletionRequest) -> list[str | list[int]]:
    """The prompts of a text completion: strings or lists of token ids."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise bad_request("prompt is empty.", "prompt")
    if isinstance(prompt[0], int) and not isinstance(prompt[0], bool):
        _token_ids(prompt, "prompt")
        return [prompt]
    if len(prompt) > MAX_PROMPTS:
        raise bad_request(f"prompt has {len(prompt)} entries; at most {MAX_PROMPTS} are taken.", "prompt")
    for i, one in enumerate(prompt):
        if isinstance(one, list):
            if not one:
                raise bad_request(f"prompt[{i}] is empty.", "prompt")
            _token_ids(one, f"prompt[{i}]")
        elif not isinstance(one, str):
            raise bad_request(
                f"prompt[{i}] is {type(one).__name__}; prompts are strings or lists of token ids.", "prompt"
            )
    if len({isinstance(one, str) for one in prompt}) > 1:
        raise bad_request("prompt mixes strings and lists of token ids.", "prompt")
    return prompt


def check_completion(request: CompletionRequest) -> None:
    """Refuse a completion request whose values make no sense."""
    _check_sampling(request)
    prompts_of(request)
    _between(request, "logprobs", 0, MAX_LOGPROBS)
    if request.suffix:
        raise bad_request("suffix is not supported: these models do not fill in the middle.", "suffix")
    n = request.n or 1
    if request.best_of is not None and request.best_of != n:
        raise bad_request(f"best_of is {request.best_of}; only best_of equal to n ({n}) is supported.", "best_of")
    if request.echo and request.logprobs is not None:
        raise bad_request("echo with logprobs is not supported: prompts have no log probabilities.", "logprobs")
    if len(prompts_of(request)) * n > 1024:
        raise bad_request(f"{len(prompts_of(request))} prompts with n={n} are more than 1024 choices.", "n")


def check_embedding(request: EmbeddingRequest) -> list[str | list[int]]:
    """Refuse an embedding request whose values make no sense; its inputs."""
    if request.encoding_format not in (None, "float", "base64"):
        raise bad_request(
            f"encoding_format is {request.encoding_format!r}; it must be float or base64.", "encoding_format"
        )
    if request.dimensions is not None and request.dimensions < 1:
        raise bad_request(f"dimensions is {request.dimensions}; it must be 1 or more.", "dimensions")
    try:
        inputs = prompts_of(CompletionRequest(model=request.model, prompt=request.input))
    except ApiError as error:
        raise bad_request(error.message.replace("prompt", "input"), "input") from None
    if any(not one for one in inputs):
        raise bad_request("input has an empty text.", "input")
    return inputs
