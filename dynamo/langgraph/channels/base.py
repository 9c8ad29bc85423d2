"""The class that all channels share."""

from typing import TypeVar

from dynamo import _channels
from dynamo._channels import BaseChannel
from dynamo.langgraph._internal._typing import MISSING
from dynamo.langgraph.errors import EmptyChannelError, ErrorCode, InvalidUpdateError, create_error_message

Value = TypeVar("Value")
Update = TypeVar("Update")
Checkpoint = TypeVar("Checkpoint")


def _concurrent_update(message: str) -> InvalidUpdateError:
    """The refusal of several writes where one is allowed, with a pointer to its explanation."""
    return InvalidUpdateError(
        create_error_message(message=message, error_code=ErrorCode.INVALID_CONCURRENT_GRAPH_UPDATE)
    )


_channels.bind(MISSING, EmptyChannelError, InvalidUpdateError, _concurrent_update)

__all__ = ("MISSING", "BaseChannel", "Checkpoint", "EmptyChannelError", "InvalidUpdateError", "Update", "Value")
