"""Channels that hold what was written: one value, a folded one, or a list."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, ClassVar, TypeVar, get_args, overload

from dynamo import _channels as native
from dynamo.channels._channel import MISSING, Channel, ChannelType

__all__ = ["AnyValue", "BinaryOperator", "BinaryOperatorAggregate", "EphemeralValue", "LastValue", "Topic"]

V = TypeVar("V")


class _OneValue(Channel[V, V]):
    """A channel of one value.

    Parameters
    ----------
    typ : type, optional
        The type of the value; it is not checked.
    name : str
        What messages call the channel.
    """

    _native: ClassVar[Any]

    @overload
    def __init__(self, typ: type[V], name: str = "") -> None: ...
    @overload
    def __init__(self: "_OneValue[Any]", typ: Any = ..., name: str = "") -> None: ...
    def __init__(self, typ: Any = Any, name: str = "") -> None:
        super().__init__(self._native, typ, name)


class LastValue(_OneValue[V]):
    """Keeps the last value; an update may have one write. Made of a type, which is not checked, and a name."""

    channel_type = ChannelType.LastValue
    _native = native.LastValue


class AnyValue(_OneValue[V]):
    """Keeps the last of an update's writes; empty after an update without one. Made of a type and a name."""

    channel_type = ChannelType.AnyValue
    _native = native.AnyValue


class EphemeralValue(Channel[V, V]):
    """Holds what the last update wrote, and nothing after an update that wrote nothing.

    Parameters
    ----------
    typ : type, optional
        The type of the value; it is not checked.
    guard : bool
        Refuse an update with several writes; otherwise the last is kept.
    name : str
        What messages call the channel.
    """

    channel_type = ChannelType.EphemeralValue

    @overload
    def __init__(self, typ: type[V], guard: bool = True, name: str = "") -> None: ...
    @overload
    def __init__(self: "EphemeralValue[Any]", typ: Any = ..., guard: bool = True, name: str = "") -> None: ...
    def __init__(self, typ: Any = Any, guard: bool = True, name: str = "") -> None:
        super().__init__(partial(native.EphemeralValue, guard=guard), typ, name, guard)


class Topic(Channel[Sequence[V], V | list[V]]):
    """A list of what was written; a write is an item or a list of items.

    Parameters
    ----------
    typ : type, optional
        The type of an item; it is not checked.
    accumulate : bool
        Keep the items of earlier updates, too.
    name : str
        What messages call the channel.
    """

    channel_type = ChannelType.Topic
    _lends = True

    @overload
    def __init__(self, typ: type[V], accumulate: bool = False, name: str = "") -> None: ...
    @overload
    def __init__(self: "Topic[Any]", typ: Any = ..., accumulate: bool = False, name: str = "") -> None: ...
    def __init__(self, typ: Any = Any, accumulate: bool = False, name: str = "") -> None:
        super().__init__(partial(native.Topic, accumulate=accumulate), typ, name, accumulate)

    def __state_channel__(self, annotation: Any) -> Any:
        return super().__state_channel__((*get_args(annotation), Any)[0])


class BinaryOperator(Channel[V, Any]):
    """Folds the writes of an update into its value, one after the other.

    Parameters
    ----------
    typ : type, optional
        The type of the value; called without arguments for the first value when that works. Without a type, and where
        it does not work, the first write is the first value. ``BinaryOperator(operator)`` will do.
    operator : callable
        ``operator(value, write)`` gives the next value. It is called anew when somebody else's update was faster: it
        must not change what it is given nor have other effects. It may be slow; nobody waits for it.
    name : str
        What messages call the channel.

    Examples
    --------
    >>> import operator
    >>> log = BinaryOperator(list, operator.add)
    >>> log.update_sync([["a"], ["b", "c"]])
    True
    >>> log.get_sync()
    ['a', 'b', 'c']
    """

    channel_type = ChannelType.BinaryOperator

    @overload
    def __init__(self, typ: type[V], operator: Callable[[V, Any], Any], name: str = "") -> None: ...
    @overload
    def __init__(self, typ: Callable[[V, Any], V], *, name: str = "") -> None: ...
    @overload
    def __init__(
        self: "BinaryOperator[Any]", typ: Any = ..., operator: Callable[[Any, Any], Any] = ..., name: str = ""
    ) -> None: ...
    def __init__(self, typ: Any = Any, operator: Any = MISSING, name: str = "") -> None:
        if operator is MISSING:
            typ, operator = Any, typ
        if not callable(operator) or operator is Any:
            raise TypeError(f"a BinaryOperator needs a function of two arguments, not {operator!r}")
        if iscoroutinefunction(operator):
            raise TypeError(f"{operator!r} is a coroutine function: a fold does not wait. Await first, then write")
        super().__init__(partial(_folding, operator), typ, name, operator)


def _folding(operator: Callable[[Any, Any], Any], typ: Any) -> Any:
    return native.BinaryOperatorAggregate(typ, operator)


BinaryOperatorAggregate = BinaryOperator
