"""What a client is told when something is wrong: OpenAI's error shape."""

import msgspec

__all__ = ["ApiError", "bad_request", "not_found", "overloaded", "unavailable"]


class ApiError(Exception):
    """An answer that is an error.

    Attributes
    ----------
    status : HTTP status
    message : one or two sentences: what is wrong, the value, what to do
    type, param, code : OpenAI's fields; param names the field of the request
    retry_after : seconds for the header Retry-After, or None
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or ("server_error" if status >= 500 else "invalid_request_error")
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> bytes:
        """The JSON body."""
        return msgspec.json.encode(
            {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}
        )


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def not_found(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(404, message, param=param, code=code)


def unavailable(message: str, retry_after: int = 1) -> ApiError:
    """503: nobody can serve this now."""
    return ApiError(503, message, "service_unavailable", code="unavailable", retry_after=retry_after)


def overloaded(message: str, status: int = 529, retry_after: int = 1) -> ApiError:
    """529 (or what DYN_HTTP_OVERLOAD_STATUS_CODE says): everybody is busy."""
    return ApiError(status, message, "overloaded_error", code="overloaded", retry_after=retry_after)
