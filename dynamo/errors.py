"""The one tree of errors.

Every class is a `DynamoError` and, where Python has one, also the builtin a caller would catch:
``except TimeoutError`` works without importing anything from here. C codes become these classes in
`dynamo._errors`, nowhere else.
"""

__all__ = [
    "BlockError",
    "Cancelled",
    "ConnectionFailed",
    "DynamoError",
    "EngineShutdown",
    "InvalidArgument",
    "NotFound",
    "OutOfSpace",
    "Overloaded",
    "RemoteError",
    "RequestTimeout",
    "StreamBroken",
    "Truncated",
    "Unavailable",
]


class DynamoError(Exception):
    """Base of every error that dynamo raises for its own reasons."""


class InvalidArgument(DynamoError, ValueError):
    """An argument, a message or a file is not what it must be."""


class Truncated(InvalidArgument, EOFError):
    """Bytes that begin well and end too early: with more of them they may be whole.

    `needed` says how many are needed from the start at least, where that is known.
    """

    needed: int | None = None


class NotFound(DynamoError, LookupError):
    """What was asked for does not exist."""


class BlockError(DynamoError, RuntimeError):
    """A KV event names a block or parent that the index does not know for that worker."""


class ConnectionFailed(DynamoError, ConnectionError):
    """No connection could be made."""


class StreamBroken(DynamoError, ConnectionError):
    """The other side went away before its last item."""


class RequestTimeout(DynamoError, TimeoutError):
    """The time that was given is over."""


class Unavailable(DynamoError, ConnectionError):
    """Nobody is there who could serve this now; a later attempt may succeed."""


class Overloaded(DynamoError, RuntimeError):
    """A configured bound is reached; retry later."""


class Cancelled(DynamoError, RuntimeError):
    """The request was stopped by its caller."""


class EngineShutdown(DynamoError, RuntimeError):
    """The engine or runtime is shutting down."""


class RemoteError(DynamoError, RuntimeError):
    """The handler on the other side raised; its type, text and traceback are in the message and notes."""


class OutOfSpace(DynamoError, OSError):
    """A disk or a bounded store is full."""
