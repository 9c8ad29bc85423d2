"""Tensors in files, as safetensors has them: read by mapping, written whole or not at all."""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from dynamo._safetensors import read_head, type_name
from dynamo._tensor import Tensor


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a file by their names; each is a read-only view of the mapped file until it is copied.

    Replace such a file (`save_tensors` does), do not cut it: memory that is mapped beyond its end cannot be read.

    Attributes
    ----------
    metadata : dict of str to str
        The file's own texts.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._map: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        tensors, self.metadata = read_head(self._map)
        self._places = {name: (dtype, shape, begin, end) for name, dtype, shape, begin, end in tensors}

    def __getitem__(self, name: str) -> Tensor:
        dtype, shape, begin, end = self._places[name]
        return Tensor.from_bytes(memoryview(self._map)[begin:end], shape, dtype, name, copy=False)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Any:
        return iter(self._places)

    def __repr__(self) -> str:
        return f"TensorFile({self.path!r}, {len(self)} tensors)"

    def _repr_html_(self) -> str:
        from dynamo._html import html_table

        rows = [(name, dtype.name, shape, end - begin) for name, (dtype, shape, begin, end) in self._places.items()]
        return html_table(self.path, rows, ["name", "dtype", "shape", "bytes"])


def load_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Map a safetensors file: nothing is read before it is looked at.

    Raises
    ------
    ValueError
        The file is none, or it is not whole.
    NotImplementedError
        It has an element type that we do not have.
    """
    return TensorFile(path)


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any] | Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, which appears under its name when it is whole.

    Parameters
    ----------
    path : path
    tensors : mapping of names to tensors or arrays, or iterable of tensors with names
    metadata : mapping of str to str, optional
        The file's own texts.
    """
    named: dict[str, Tensor] = {}
    pairs = tensors.items() if isinstance(tensors, Mapping) else ((tensor.name, tensor) for tensor in tensors)
    for name, value in pairs:
        if not isinstance(name, str) or not name or name == "__metadata__" or "\0" in name:
            raise ValueError(f"a tensor is called {name!r}: must be a text without NUL, and not __metadata__")
        if name in named:
            raise ValueError(f"two tensors are called {name!r}")
        named[name] = Tensor.from_numpy(value, copy=False).contiguous()
    for key, text in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"metadata {key!r}: {text!r}: must be texts")
        if "\0" in key + text:
            raise ValueError(f"metadata {key!r}: {text!r}: must be without NUL, which readers in C refuse")
    # Large elements first: every tensor is then aligned to its own, as long as the head is padded to 8.
    order = sorted(named, key=lambda name: (-named[name].dtype.element_size, named[name].dtype.name, name))
    head: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name in order:
        tensor = named[name]
        head[name] = {
            "dtype": type_name(tensor.dtype),
            "shape": tensor.shape,
            "data_offsets": [at, at + tensor.size_bytes],
        }
        at += tensor.size_bytes
    head_bytes = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    head_bytes += b" " * (-len(head_bytes) % 8)
    folder, base = os.path.split(os.fspath(path))
    handle, beside = tempfile.mkstemp(prefix=f".{base}.", dir=folder or ".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(len(head_bytes).to_bytes(8, "little") + head_bytes)
            for name in order:
                file.write(memoryview(named[name].reshape(-1).view("uint8")))
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(beside, 0o666 & ~mask)  # as open() would have made it
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
