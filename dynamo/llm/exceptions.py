"""Dynamo's exception names. Where the meaning is the same, they are the classes of `dynamo.errors`, not copies."""

from dynamo.errors import Cancelled, DynamoError, EngineShutdown, InvalidArgument, Overloaded
from dynamo.errors import ConnectionFailed as CannotConnect
from dynamo.errors import DynamoError as DynamoException
from dynamo.errors import RequestTimeout as ConnectionTimeout
from dynamo.errors import StreamBroken as Disconnected
from dynamo.errors import StreamBroken as StreamIncomplete
from dynamo.errors import Unavailable as WorkerUnavailable

__all__ = [
    "Cancelled",
    "CannotConnect",
    "ConnectionTimeout",
    "Disconnected",
    "DynamoException",
    "EngineShutdown",
    "InvalidArgument",
    "RouterQueueLimitExceeded",
    "SelectionServiceError",
    "StreamIncomplete",
    "Unknown",
    "WorkerUnavailable",
]


class Unknown(DynamoError):
    """An error that fits no other class."""


class RouterQueueLimitExceeded(Overloaded):
    """The router may not hold more requests.

    Attributes
    ----------
    policy_class : name of the queue, or None
    limit_kind : what is limited ("requests")
    current, limit : how many there are, and how many there may be
    """

    def __init__(
        self,
        message: str = "the router's queue is full",
        *,
        policy_class: str | None = None,
        limit_kind: str | None = None,
        current: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(message)
        self.policy_class = policy_class
        self.limit_kind = limit_kind
        self.current = current
        self.limit = limit


class SelectionServiceError(DynamoError):
    """A selection failed.

    Attributes
    ----------
    kind : short name of the reason ("no_workers", "overloaded", "invalid")
    status_code : the HTTP status that says the same
    """

    def __init__(self, message: str, kind: str = "unknown", status_code: int = 500) -> None:
        super().__init__(message)
        self.kind = kind
        self.status_code = status_code
