from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from typing_extensions import Self, disjoint_base

_V = TypeVar("_V")
_U = TypeVar("_U")
_C = TypeVar("_C")

def bind(
    missing: object,
    empty_channel_error: type[Exception],
    invalid_update_error: type[Exception],
    concurrent_update: Callable[[str], Exception],
) -> None: ...
def strip_extras(typ: Any) -> Any: ...
def operators_equal(left: Any, right: Any) -> bool: ...
def get_overwrite(value: Any) -> tuple[bool, Any]: ...

EXTRAS: tuple[str, ...]
EMPTY_OF: dict[Any, type]

@disjoint_base
class BaseChannel(Generic[_V, _U, _C]):
    key: str
    typ: Any
    def __init__(self, typ: Any, key: str = "") -> None: ...
    @property
    def ValueType(self) -> Any: ...
    @property
    def UpdateType(self) -> Any: ...
    def copy(self) -> Self: ...
    def checkpoint(self) -> _C | Any: ...
    def from_checkpoint(self, checkpoint: _C | Any) -> Self: ...
    def get(self) -> _V: ...
    def is_available(self) -> bool: ...
    def update(self, values: Sequence[_U]) -> bool: ...
    def consume(self) -> bool: ...
    def finish(self) -> bool: ...

class Native(BaseChannel[_V, _U, _C]): ...

@disjoint_base
class Held(Native[_V, _U, _C]):
    value: _V | Any

@disjoint_base
class Guarded(Held[_V, _U, _C]):
    guard: bool
    def __init__(self, typ: Any, guard: bool = True) -> None: ...

class LastValue(Held[_V, _V, _V]): ...

@disjoint_base
class LastValueAfterFinish(Held[_V, _V, tuple[_V, bool]]):
    finished: bool

class AnyValue(Held[_V, _V, _V]): ...
class EphemeralValue(Guarded[_V, _V, _V]): ...
class UntrackedValue(Guarded[_V, _V, _V]): ...

@disjoint_base
class BinaryOperatorAggregate(Held[_V, _V, _V]):
    operator: Callable[[_V, _V], _V]
    def __init__(self, typ: type[_V], operator: Callable[[_V, _V], _V]) -> None: ...

@disjoint_base
class DeltaChannel(Held[_V, Any, Any]):
    reducer: Callable[[Any, Sequence[Any]], Any]
    snapshot_frequency: int
    def __init__(
        self,
        reducer: Callable[[Any, Sequence[Any]], Any],
        typ: type[_V] | None = None,
        *,
        snapshot_frequency: int = 100,
    ) -> None: ...
    def replay_writes(self, writes: Iterable[tuple[str, str, Any]]) -> None: ...

@disjoint_base
class Barrier(Native[_V, _V, Any]):
    names: set[_V]
    seen: set[_V]
    def __init__(self, typ: type[_V], names: set[_V]) -> None: ...

class NamedBarrierValue(Barrier[_V]): ...

@disjoint_base
class NamedBarrierValueAfterFinish(Barrier[_V]):
    finished: bool

@disjoint_base
class Topic(Native[Sequence[_V], _V | list[_V], list[_V]]):
    accumulate: bool
    values: list[_V]
    def __init__(self, typ: type[_V], accumulate: bool = False) -> None: ...
