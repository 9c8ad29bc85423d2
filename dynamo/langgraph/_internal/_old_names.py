"""Names of older versions: they work, and whoever uses one is told today's."""

from typing import Any
from warnings import warn

from dynamo.langgraph._internal._names import own


def discourage(old: str, remedy: str, since: type[Warning], *, depth: int = 1) -> None:
    """Warn of a name.

    Parameters
    ----------
    remedy : how the sentence goes on: " and will be removed. Please use `new`"
    depth : how many functions of ours there are between the user and this one
    """
    warn(f"`{old}` is deprecated{remedy} instead.", since, stacklevel=2 + depth)


def renamed(kwargs: dict[str, Any], old: str, new: str, value: Any, since: type[Warning], *, depth: int = 1) -> Any:
    """The value of an argument that had another name in older versions; takes it out of `kwargs`."""
    given = kwargs.pop(old, None)
    if given is None:
        return value
    discourage(old, f" and will be removed. Please use `{new}`", since, depth=depth + 1)
    return given if value is None else value


own(globals())
