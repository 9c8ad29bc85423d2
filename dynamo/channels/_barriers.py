"""Channels that open when all have come."""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple, TypeVar, overload

from dynamo import _channels as native
from dynamo.channels._channel import MISSING, Channel, ChannelType
from dynamo.langgraph.channels.base import EmptyChannelError, InvalidUpdateError

__all__ = ["DynamicBarrier", "DynamicBarrierValue", "NamedBarrier", "NamedBarrierValue", "WaitForNames"]

N = TypeVar("N")


class _Barrier(Channel[None, N]):
    """A channel that is open or waits for names."""

    def _shown(self, state: Any) -> str:
        if state.is_available():
            return ", open"
        return f", waits for {sorted(state.names - state.seen, key=str)}"


class NamedBarrier(_Barrier[N]):
    """Opens when every name was written: `get` gives None then, and `wait` comes back. `consume` closes it again.

    Parameters
    ----------
    typ : type, optional
        The type of a name; it is not checked. ``NamedBarrier(names)`` will do.
    names : iterable
        Who is waited for, one name at least.
    name : str
        What messages call the channel.
    """

    channel_type = ChannelType.NamedBarrier
    _lends = True

    @overload
    def __init__(self, typ: Iterable[N], *, name: str = "") -> None: ...
    @overload
    def __init__(self, typ: type[N], names: Iterable[N], name: str = "") -> None: ...
    def __init__(self, typ: Any = Any, names: Any = MISSING, name: str = "") -> None:
        if names is MISSING:
            typ, names = Any, typ
        super().__init__(partial(_barrier, _some(names)), typ, name, names)


def _some(names: Any) -> frozenset[Any]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"names to wait for are needed, as a set, not {names!r}")
    found = frozenset(names)
    if not found:
        raise ValueError("a barrier waits for one name at least: an empty one would never open")
    return found


def _barrier(names: frozenset[Any], typ: Any) -> Any:
    return native.NamedBarrierValue(typ, set(names))


class WaitForNames(NamedTuple):
    """A write that tells a `DynamicBarrier` for whom to wait."""

    names: Iterable[Any]


class DynamicBarrier(_Barrier[Any]):
    """A barrier that is told for whom to wait: write ``WaitForNames({"a", "b"})``, then the names.

    It opens when all have been written; `consume` closes it, and it waits for nobody then.

    Parameters
    ----------
    typ : type, optional
        The type of a name; it is not checked.
    name : str
        What messages call the channel.
    """

    channel_type = ChannelType.DynamicBarrier

    def __init__(self, typ: Any = Any, name: str = "") -> None:
        super().__init__(_Told, typ, name)


class _Told(native.BaseChannel[None, Any, Any]):
    """The channel of a graph that a `DynamicBarrier` stands for.

    Saved as (names, those that have come); `names` is empty while nobody is waited for.
    """

    names: frozenset[Any] = frozenset()
    seen: frozenset[Any] = frozenset()

    @property
    def ValueType(self) -> Any:
        return type(None)

    @property
    def UpdateType(self) -> Any:
        return self.typ | WaitForNames

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Told)

    __hash__ = None  # type: ignore[assignment]

    def _become(self, names: frozenset[Any], seen: frozenset[Any]) -> "_Told":
        self.names, self.seen = names, seen
        return self

    def copy(self) -> "_Told":
        return type(self)(self.typ, self.key)._become(self.names, self.seen)

    def checkpoint(self) -> Any:
        return (set(self.names), set(self.seen)) if self.names else MISSING

    def from_checkpoint(self, checkpoint: Any) -> "_Told":
        names, seen = ((), ()) if checkpoint is MISSING else checkpoint
        return type(self)(self.typ, self.key)._become(frozenset(names), frozenset(seen))

    def is_available(self) -> bool:
        return bool(self.names) and self.seen == self.names

    def get(self) -> None:
        if not self.is_available():
            raise EmptyChannelError(f"{len(self.names - self.seen)} names have not come yet")

    def update(self, values: Any) -> bool:
        told = [write for write in values if isinstance(write, WaitForNames)]
        came = [write for write in values if not isinstance(write, WaitForNames)]
        if len(told) > 1:
            raise InvalidUpdateError(f"At key {self.key!r}: {len(told)} WaitForNames at once; write one")
        names, seen = (_some(told[0].names), frozenset()) if told else (self.names, self.seen)
        for name in came:
            if name not in names:
                waited = (
                    f"it waits for {set(names)}" if names else "it waits for nobody: write WaitForNames(names) first"
                )
                raise InvalidUpdateError(f"At key {self.key!r}: nobody waits for {name!r}; {waited}")
        seen |= frozenset(came)
        changed = bool(told) or seen != self.seen
        self._become(names, seen)
        return changed

    def consume(self) -> bool:
        was_open = self.is_available()
        if was_open:
            self._become(frozenset(), frozenset())
        return was_open


NamedBarrierValue = NamedBarrier
DynamicBarrierValue = DynamicBarrier
