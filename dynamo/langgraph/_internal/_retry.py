"""Which errors are worth another attempt when a policy does not say."""

import sys

from dynamo.langgraph._internal._names import own

# A second run of the same code on the same input ends in the same way.
_FINAL = (
    *(ValueError, TypeError, ArithmeticError, LookupError, NameError, ImportError, SyntaxError),
    *(RuntimeError, ReferenceError, StopIteration, StopAsyncIteration, OSError),
)


def default_retry_on(exc: Exception) -> bool:
    """Whether an error may pass: lost connections, HTTP servers in trouble, not mistakes of the program."""
    # An error of a client library can only be met once that library is loaded.
    httpx, requests = sys.modules.get("httpx"), sys.modules.get("requests")
    if httpx is not None and isinstance(exc, httpx.HTTPStatusError):
        return 500 <= int(exc.response.status_code) <= 599
    if requests is not None and isinstance(exc, requests.HTTPError):
        # A response is false when its status says failure, as that of an HTTPError does.
        return not exc.response or 500 <= int(exc.response.status_code) <= 599
    return isinstance(exc, ConnectionError) or not isinstance(exc, _FINAL)


own(globals())
