"""What a server says when it refuses: RFC 7807 problem details, as an exception and as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamo.errors import RemoteError, RequestTimeout

__all__ = ["DeadlineExceeded", "RpcError", "problem"]

_TITLES = {
    400: "Bad request",
    401: "Unauthenticated",
    403: "Permission denied",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    412: "Failed precondition",
    413: "Payload too large",
    415: "Unsupported media type",
    429: "Resource exhausted",
    499: "Cancelled",
    500: "Internal server error",
    501: "Unimplemented",
    503: "Unavailable",
    504: "Deadline exceeded",
}


class RpcError(RemoteError):
    """The server answered with a status that is not 2xx.

    Attributes
    ----------
    status : int
        The HTTP status.
    title, detail : str
        What the server's problem details say; without them the status in words, and the start of the body.
    type : str
        The kind of problem, a URI; ``urn:quill:error:<status>`` when the server names none.
    instance : str or None
        The URI of this occurrence, when the server gives one.
    headers : dict
        Of the answer, names in lower case (``retry-after``).
    """

    status: int
    title: str
    detail: str
    type: str
    instance: str | None
    headers: dict[str, str]

    def __init__(
        self,
        status: int,
        title: str = "",
        detail: str = "",
        type: str = "",
        instance: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.title = title or _TITLES.get(status, f"Status {status}")
        self.detail = detail
        self.type = type or f"urn:quill:error:{status}"
        self.instance = instance
        self.headers = dict(headers or {})
        super().__init__(f"RPC error: [{status}] {self.title}" + (f": {detail}" if detail else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.title, self.detail, self.type, self.instance, self.headers)

    @staticmethod
    def from_answer(status: int, headers: Mapping[str, str], body: bytes) -> RpcError:
        """The exception for an answer; any body is taken, problem details are read."""
        cls = DeadlineExceeded if status == 504 else RpcError
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        found: Any = None
        if kind.endswith("json"):
            import msgspec

            try:
                found = msgspec.json.decode(body)
            except ValueError:
                found = None
        if not isinstance(found, dict):
            text = bytes(body[:512]).decode("utf-8", "replace").strip()
            detail = f"RPC failed with status {status}: {text}" if text else f"RPC failed with status {status}"
            return cls(status, detail=detail, headers=headers)
        nested = found.get("error")
        if isinstance(nested, dict):  # as OpenAI's servers, and ours for what they refuse themselves, say it
            return cls(status, detail=_text(nested.get("message")), type=_text(nested.get("type")), headers=headers)
        return cls(
            status,
            _text(found.get("title")),
            _text(found.get("detail")),
            _text(found.get("type")),
            _text(found.get("instance")) or None,
            headers,
        )


class DeadlineExceeded(RpcError, RequestTimeout):
    """The server gave up first (504): a `TimeoutError` like one of the client's own."""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def problem(status: int, detail: str = "", title: str = "", type: str = "", instance: str | None = None) -> bytes:
    """Problem details as JSON, for a body of type ``application/problem+json``."""
    import msgspec

    fields: dict[str, Any] = {
        "type": type or f"urn:quill:error:{status}",
        "title": title or _TITLES.get(status, f"Status {status}"),
        "status": status,
    }
    if detail:
        fields["detail"] = detail
    if instance:
        fields["instance"] = instance
    return msgspec.json.encode(fields)
