"""OpenAI's chunks and whole answers: one out of the other."""

from typing import Any

__all__ = ["Aggregate", "ChatAggregate", "CompletionAggregate"]


class Aggregate:
    """Collects the chunks of a streamed answer into the one object that a client gets who did not ask to stream."""

    object = ""

    def __init__(self) -> None:
        self._first: dict[str, Any] | None = None
        self._choices: dict[int, dict[str, Any]] = {}
        self._extra: dict[str, Any] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        """Take one chunk."""
        if self._first is None:
            self._first = chunk
        for key in ("usage", "nvext", "service_tier", "system_fingerprint"):
            if chunk.get(key) is not None:
                self._extra[key] = chunk[key]
        for choice in chunk.get("choices") or ():
            index = choice.get("index") or 0
            whole = self._choices.get(index)
            if whole is None:
                whole = self._choices[index] = self._choice(index)
            if choice.get("finish_reason") is not None:
                whole["finish_reason"] = choice["finish_reason"]
            self._merge(whole, choice)
            if choice.get("logprobs"):
                _merge_lists(whole, "logprobs", choice["logprobs"])

    def result(self) -> dict[str, Any]:
        """The whole answer.

        Raises
        ------
        ValueError
            Nothing was added.
        """
        if self._first is None:
            raise ValueError("the engine ended without an answer")
        answer = {
            "id": self._first.get("id") or "",
            "object": self.object,
            "created": self._first.get("created") or 0,
            "model": self._first.get("model") or "",
            "choices": [self._choices[index] for index in sorted(self._choices)],
        }
        answer.update(self._extra)
        return answer

    def _choice(self, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def _merge(self, whole: dict[str, Any], choice: dict[str, Any]) -> None:
        raise NotImplementedError


class ChatAggregate(Aggregate):
    """chat.completion.chunk objects into one chat.completion."""

    object = "chat.completion"

    def _choice(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": None}

    def _merge(self, whole: dict[str, Any], choice: dict[str, Any]) -> None:
        message = whole["message"]
        # An engine that does not stream gives the whole message at once.
        for key, value in (choice.get("delta") or choice.get("message") or {}).items():
            if value is None:
                continue
            if key == "tool_calls":
                _merge_tool_calls(message.setdefault("tool_calls", []), value)
            elif key != "role" and isinstance(value, str) and isinstance(message.get(key), str):
                message[key] += value
            else:
                message[key] = value

    def result(self) -> dict[str, Any]:
        answer = super().result()
        for choice in answer["choices"]:
            for call in choice["message"].get("tool_calls") or ():
                call.pop("index", None)
        return answer


class CompletionAggregate(Aggregate):
    """text_completion chunks into one text_completion."""

    object = "text_completion"

    def _choice(self, index: int) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": None}

    def _merge(self, whole: dict[str, Any], choice: dict[str, Any]) -> None:
        whole["text"] += choice.get("text") or ""


def _merge_lists(whole: dict[str, Any], key: str, part: dict[str, Any]) -> None:
    if whole.get(key) is None:
        whole[key] = {}
    for name, values in part.items():
        if isinstance(values, list) and isinstance(whole[key].get(name), list):
            whole[key][name] = whole[key][name] + values
        elif values is not None or name not in whole[key]:
            whole[key][name] = values


def _merge_tool_calls(calls: list[dict[str, Any]], parts: list[dict[str, Any]]) -> None:
    for part in parts:
        index = part.get("index")
        call = next((call for call in calls if index is not None and call.get("index") == index), None)
        if call is None:
            calls.append({**part, "function": dict(part.get("function") or {})})
            continue
        for key in ("id", "type"):
            if part.get(key):
                call[key] = part[key]
        for key, text in (part.get("function") or {}).items():
            call["function"][key] = (call["function"].get(key) or "") + text if isinstance(text, str) else text
