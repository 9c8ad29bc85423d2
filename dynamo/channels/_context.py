"""A channel around a context manager."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from dynamo import _channels as native
from dynamo.channels._channel import MISSING, Channel, ChannelType, ClosedChannelError
from dynamo.langgraph.channels.base import EmptyChannelError, InvalidUpdateError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Context"]

V = TypeVar("V")


class Context(Channel[V, Any]):
    """Shows what a context manager gives, from entering the channel to leaving it.

    Nobody writes to it and nothing of it is saved. As a note of a state's key it shows nodes what it holds during the
    run: enter it around the run.

    Parameters
    ----------
    manager : callable
        Makes the context manager, anew whenever the channel is entered.
    amanager : callable, optional
        Makes the asynchronous one for ``async with``; otherwise `manager` does, and may give either kind.
    typ : type, optional
        The type of what it gives.
    name : str
        What messages call the channel.

    Examples
    --------
    >>> import tempfile
    >>> with Context(tempfile.TemporaryFile) as file:
    ...     file.get_sync().write(b"four")
    4
    """

    channel_type = ChannelType.Context

    def __init__(
        self,
        manager: Callable[[], AbstractContextManager[V]] | Callable[[], AbstractAsyncContextManager[V]],
        amanager: Callable[[], AbstractAsyncContextManager[V]] | None = None,
        typ: Any = Any,
        name: str = "",
    ) -> None:
        if not callable(manager):
            raise TypeError(f"a function that makes a context manager is needed, not {manager!r}")
        super().__init__(_Lent, typ, name)
        self._makers = manager, amanager or manager
        self._inside: Any = None

    def __enter__(self) -> "Self":
        self.open()
        try:
            inside: Any = self._makers[0]()
            self._show(inside, inside.__enter__())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> Any:
        self.close()  # first, so that nobody gets what is being torn down
        return self._left().__exit__(*error)

    async def __aenter__(self) -> "Self":
        self.open()
        try:
            inside: Any = self._makers[1]()
            self._show(inside, await inside.__aenter__() if hasattr(inside, "__aenter__") else inside.__enter__())
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> Any:
        self.close()
        inside = self._left()
        return await inside.__aexit__(*error) if hasattr(inside, "__aexit__") else inside.__exit__(*error)

    def _show(self, inside: Any, value: V) -> None:
        self._inside = inside
        shown = self.spec.copy()
        shown.value = value
        self.publish(shown)

    def _left(self) -> Any:
        inside, self._inside = self._inside, None
        return inside

    def restore_sync(self, saved: Any) -> None:
        """Nothing was saved: only `MISSING` can be restored, and changes nothing."""
        if saved is not MISSING:
            _not_written(self.spec.key)

    def __reduce__(self) -> Any:
        return type(self), (*self._makers, self.spec.typ, self.spec.key)

    def __state_channel__(self, annotation: Any) -> Any:
        window = _Window(annotation)
        window.source = self
        return window


def _not_written(key: str) -> NoReturn:
    raise InvalidUpdateError(f"At key {key!r}: a Context shows what its context manager gives; it cannot be written")


class _Lent(native.UntrackedValue[V]):
    """What the context manager gave; not to be written."""

    def update(self, values: Sequence[Any]) -> bool:
        return bool(values) and _not_written(self.key)


class _Window(_Lent[Any]):
    """The key of a graph's state through which its nodes see a Context; it has nothing of its own."""

    source: Context[Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Window) and other.source is self.source

    __hash__ = None  # type: ignore[assignment]

    def copy(self) -> "_Window":
        return self

    def from_checkpoint(self, checkpoint: Any) -> "_Window":
        return self

    def is_available(self) -> bool:
        return self.source.is_available()

    def get(self) -> Any:
        try:
            return self.source.get_sync()
        except ClosedChannelError as error:
            raise EmptyChannelError(*error.args) from None
