"""Messages of langchain and the OpenAI API: one out of the other. Values from outside are believed in nothing."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamo.errors import InvalidArgument

if TYPE_CHECKING:
    from langchain_core.messages import AIMessageChunk, BaseMessage

__all__ = ["chunk_of", "is_chunk", "messages_of", "plain", "to_openai", "usage_of"]

MAX_DEPTH = 64


def messages_of(state: Any) -> Sequence[Any] | None:
    """The messages of a state; None for a state without a list of them."""
    found = state.get("messages") if isinstance(state, Mapping) else getattr(state, "messages", None)
    return found if isinstance(found, list | tuple) else None


def to_openai(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages in the form of a chat request; in their order, and each the same whenever it is sent."""
    from langchain_core.messages import convert_to_messages, convert_to_openai_messages

    made: Any = convert_to_openai_messages(convert_to_messages(list(messages)))
    return list(made)


def plain(value: Any, where: str = "the state", depth: int = 0) -> Any:
    """A value as msgpack carries it: messages, models and dataclasses become dicts.

    Raises
    ------
    InvalidArgument : it holds something else, or is nested too deeply
    """
    if value is None or isinstance(value, str | bytes | bool | int | float) or hasattr(value, "__array__"):
        return value
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"{where} is nested more than {MAX_DEPTH} deep: send a smaller part of it")
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{where}[{k!r}]", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one, f"{where}[{i}]", depth + 1) for i, one in enumerate(value)]
    if hasattr(value, "response_metadata") or hasattr(value, "additional_kwargs"):  # a message
        (message,) = to_openai([value])
        return {**message, "id": value.id} if value.id else message
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(), where, depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name), f"{where}.{f.name}", depth + 1) for f in dataclasses.fields(value)
        }
    raise InvalidArgument(
        f"{where} is a {type(value).__name__}, which an endpoint cannot be sent: make a dict, text or number of it, or "
        f"say what to send with endpoint_node(client, request=function)"
    )


def is_chunk(item: Any) -> bool:
    """Whether an item is a piece of a chat answer."""
    return isinstance(item, Mapping) and isinstance(item.get("choices"), list)


def _calls(delta: Mapping[str, Any]) -> list[Any]:
    made: list[Any] = []
    for at, call in enumerate(delta.get("tool_calls") or ()):
        function = call.get("function") or {}
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        index = call.get("index")
        made.append(
            {
                "type": "tool_call_chunk",
                "name": function.get("name"),
                "args": arguments,
                "id": call.get("id"),
                "index": at if index is None else index,
            }
        )
    return made


def chunk_of(item: Any, id: str | None = None) -> "AIMessageChunk | None":
    """A piece of a chat answer, or a text, as a piece of a message; None if it says nothing."""
    from langchain_core.messages import AIMessageChunk

    if isinstance(item, str):
        return AIMessageChunk(content=item, id=id) if item else None
    error = item.get("error")
    if error:
        from dynamo.errors import RemoteError

        raise RemoteError(str(error.get("message") if isinstance(error, Mapping) else error))
    made = None
    for choice in item["choices"][:1]:
        delta = choice.get("delta") or choice.get("message") or {}
        content = delta.get("content") or ""
        reason = choice.get("finish_reason")
        calls = _calls(delta)
        if content or calls or reason:
            made = AIMessageChunk(content=content, tool_call_chunks=calls, id=id)
            if reason:
                made.response_metadata = {"finish_reason": reason, "model_name": item.get("model") or ""}
    usage = item.get("usage")
    if usage:
        made = made or AIMessageChunk(content="", id=id)
        made.usage_metadata = _usage(usage)
    return made


def _usage(usage: Mapping[str, Any]) -> Any:
    prompt, completion = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    made: dict[str, Any] = {
        "input_tokens": prompt,
        "output_tokens": completion,
        "total_tokens": int(usage.get("total_tokens") or prompt + completion),
    }
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if cached is not None:
        made["input_token_details"] = {"cache_read": int(cached)}
    return made


def usage_of(messages: "Sequence[BaseMessage]") -> dict[str, Any]:
    """The sum of what messages cost, as OpenAI counts it."""
    prompt = completion = cached = 0
    for message in messages:
        usage = getattr(message, "usage_metadata", None)
        if usage:
            prompt += usage.get("input_tokens", 0)
            completion += usage.get("output_tokens", 0)
            cached += (usage.get("input_token_details") or {}).get("cache_read", 0) or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
