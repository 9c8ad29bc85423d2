"""What a GGUF file says about its model: metadata and the list of tensors, never the weights.

    magic "GGUF" | version u32 | tensors u64 | pairs u64 | key, type, value ... | name, shape, type, offset ... | data

The file comes from outside, so every length is checked against what is left of the file before it is used,
and every count against a bound. Strings keep bytes that are not UTF-8 (surrogateescape).
"""

import mmap
import os
import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dynamo.errors import InvalidArgument

__all__ = ["GGUF", "TensorInfo", "is_gguf", "read_gguf"]

MAX_PAIRS = 1 << 16
MAX_TENSORS = 1 << 20
MAX_ITEMS = 1 << 24  # of an array: the largest vocabularies have 2^18
MAX_STRING = 1 << 26
MAX_DEPTH = 4  # of arrays in arrays
# type number -> struct letter and size; 8 is a string, 9 an array
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class TensorInfo(NamedTuple):
    """One tensor: its shape (fastest dimension first), the number of its GGML type, its place in the file in bytes."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


@dataclass
class GGUF:
    """The header of one file.

    Attributes
    ----------
    metadata : key -> str, int, float, bool, list[str], NumPy array (numbers) or list of lists
    """

    path: str
    version: int
    size: int
    metadata: dict[str, Any] = field(repr=False)
    tensors: list[TensorInfo] = field(repr=False)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def context_length(self) -> int | None:
        """The longest context that the model was trained for, in tokens."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    @property
    def name(self) -> str | None:
        value = self.metadata.get("general.name")
        return value if isinstance(value, str) and value else None

    @property
    def chat_template(self) -> str | None:
        value = self.metadata.get("tokenizer.chat_template")
        return value if isinstance(value, str) and value else None


class _Reader:
    """A cursor that refuses to leave the file."""

    def __init__(self, data: "mmap.mmap | bytes", path: str) -> None:
        self.data, self.size, self.at, self.path = data, len(data), 0, path

    def refuse(self, what: str) -> InvalidArgument:
        return InvalidArgument(f"{self.path}: not a usable GGUF file: {what} (at byte {self.at} of {self.size})")

    def take(self, count: int, what: str) -> int:
        """Move on by `count` bytes; where they begin."""
        at = self.at
        if count > self.size - at:
            raise self.refuse(f"{what} needs {count} bytes and {self.size - at} are left; the file may be cut short")
        self.at = at + count
        return at

    def number(self, letter: str, what: str) -> Any:
        layout = "<" + letter
        return struct.unpack_from(layout, self.data, self.take(struct.calcsize(layout), what))[0]

    def bounded(self, letter: str, bound: int, what: str) -> int:
        value: int = self.number(letter, what)
        if value > bound:
            raise self.refuse(f"{what} is {value}, the bound is {bound}")
        return value

    def string(self, what: str) -> str:
        length = self.bounded("Q", MAX_STRING, f"length of {what}")
        at = self.take(length, what)
        return self.data[at : at + length].decode("utf-8", "surrogateescape")

    def strings(self, count: int, what: str) -> list[str]:
        # A vocabulary has 262,144 of them, so this is the one loop that is written for speed.
        data, at, size, out = self.data, self.at, self.size, []
        length_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > size or (length := length_at(data, at)[0]) > size - at - 8:
                self.at = at
                raise self.refuse(f"a string of {what} leaves the file")
            at += 8
            out.append(data[at : at + length].decode("utf-8", "surrogateescape"))
            at += length
        self.at = at
        return out

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind], what)
        if kind == _STRING:
            return self.string(what)
        if kind != _ARRAY:
            raise self.refuse(f"{what} has the unknown type {kind}")
        if depth >= MAX_DEPTH:
            raise self.refuse(f"{what} has arrays more than {MAX_DEPTH} deep")
        kind = self.number("I", f"type of {what}")
        count = self.bounded("Q", MAX_ITEMS, f"length of {what}")
        if kind in _SCALARS:
            import numpy as np

            letter = _SCALARS[kind]
            at = self.take(count * struct.calcsize("<" + letter), what)
            return np.frombuffer(self.data, np.dtype(letter).newbyteorder("<"), count, at).copy()
        if kind == _STRING:
            return self.strings(count, what)
        if count > (self.size - self.at) // 8:
            raise self.refuse(f"{what} has {count} items and {self.size - self.at} bytes are left")
        return [self.value(kind, what, depth + 1) for _ in range(count)]

    def tensor(self) -> TensorInfo:
        name = self.string("a tensor's name")
        dimensions = self.bounded("I", 8, f"number of dimensions of {name!r}")
        shape = struct.unpack_from(f"<{dimensions}Q", self.data, self.take(8 * dimensions, f"shape of {name!r}"))
        kind = self.number("I", f"type of {name!r}")
        return TensorInfo(name, shape, kind, self.number("Q", f"offset of {name!r}"))

    def file(self) -> GGUF:
        if bytes(self.data[:4]) != b"GGUF":
            raise self.refuse("it does not begin with 'GGUF'")
        self.at = 4
        version = self.number("I", "version")
        if version not in (2, 3):
            what = "a big-endian file" if version in (2 << 24, 3 << 24) else f"version {version}"
            raise self.refuse(f"{what} is not supported, only little-endian versions 2 and 3 are")
        count = self.bounded("Q", MAX_TENSORS, "number of tensors")
        pairs = self.bounded("Q", MAX_PAIRS, "number of metadata pairs")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.string("a metadata key")
            if key in metadata:
                raise self.refuse(f"the metadata key {key!r} comes twice")
            metadata[key] = self.value(self.number("I", f"type of {key!r}"), repr(key))
        tensors = [self.tensor() for _ in range(count)]
        align = metadata.get("general.alignment", 32)
        if not isinstance(align, int) or align <= 0 or align & (align - 1) or align > 1 << 20:
            raise self.refuse(f"general.alignment is {align!r}, not a power of two")
        start = -(-self.at // align) * align
        placed = []
        for name, shape, kind, offset in tensors:
            # A file may end with its header: that is all a front end needs.
            if offset % align or (start + offset > self.size and self.size != start):
                raise self.refuse(f"tensor {name!r} begins at byte {start + offset}; the file may be cut short")
            placed.append(TensorInfo(name, shape, kind, start + offset))
        return GGUF(self.path, version, self.size, metadata, placed)


def is_gguf(path: "str | os.PathLike[str]") -> bool:
    """Whether this is a file that begins like a GGUF."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def read_gguf(path: "str | os.PathLike[str]") -> GGUF:
    """Read the header of a GGUF file. The weights are not touched, so this takes milliseconds for any size.

    Raises
    ------
    InvalidArgument : the file is not a GGUF that this can read; the message says where and why
    OSError : it cannot be opened
    """
    name = os.fspath(path)
    with open(name, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 24:
            raise InvalidArgument(f"{name}: not a usable GGUF file: {size} bytes are too few")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data, name).file()
