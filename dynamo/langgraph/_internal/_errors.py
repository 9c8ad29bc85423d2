"""The four bases under which a caller can catch what goes wrong with graphs."""

from dynamo.errors import DynamoError


class ChannelError(DynamoError):
    """A channel was empty, or was written in a way it does not take."""

    __module__ = "dynamo.langgraph"


class PregelError(DynamoError):
    """A run could not go on."""

    __module__ = "dynamo.langgraph"


class StateGraphError(DynamoError, ValueError):
    """A graph is not put together in a way that could run."""

    __module__ = "dynamo.langgraph"


class CheckpointError(DynamoError, ValueError):
    """Something that needs saved state has none, or what was saved cannot be used."""

    __module__ = "dynamo.langgraph"
