"""What a sender puts between tensors on a stream of theirs, frame by frame; `TensorReader` reads it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dynamo._tensor import FRAME_KINDS, frame_head
from dynamo._token_batch import TokenBatch
from dynamo.errors import Truncated

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["decode_tensor_chunk", "encode_tensor_chunk", "encode_tensor_frame"]

_CHUNK = struct.Struct("<IIB")


def encode_tensor_frame(kind: str, value: Buffer | TokenBatch | str | int | None = None) -> bytes:
    """One frame of a tensor stream.

    Parameters
    ----------
    kind : str
        "message", "tokens", "cancel", "credit" or "end", as `TensorReader.feed` calls them; also "meta" and "payload",
        of which `Tensor.to_frames` makes a tensor.
    value : bytes-like, TokenBatch, str or int
        The payload: bytes, or the batch; of "cancel" the reason, of "credit" how many bytes the other side may send.
        None: nothing.

    Examples
    --------
    >>> encode_tensor_frame("cancel", "timeout").hex()
    '04000000000000000774696d656f7574'
    """
    if kind not in FRAME_KINDS:
        raise ValueError(f"a frame {kind!r}: must be one of {', '.join(FRAME_KINDS)}")
    if kind == "credit":
        if not isinstance(value, int):
            raise TypeError(f"credit is a {type(value).__name__}: must be an int")
        if not 0 <= value < 1 << 64:
            raise OverflowError(f"credit of {value} bytes: must be 0 to 2^64 - 1")
        payload = value.to_bytes(8, "little")
    elif isinstance(value, str) and kind == "cancel":
        payload = value.encode()
    elif value is None:
        payload = b""
    elif isinstance(value, TokenBatch):
        payload = value.encode()
    elif isinstance(value, int | str):
        raise TypeError(f"the payload of a frame {kind!r} is a {type(value).__name__}: must be bytes-like")
    else:
        payload = bytes(value)
    if kind == "end" and payload:
        raise ValueError(f"an end frame with {len(payload)} bytes: must be empty")
    return frame_head(kind, len(payload)) + payload


def encode_tensor_chunk(sequence: int, total: int, data: Buffer, *, final: bool | None = None) -> bytes:
    """One piece of a tensor's elements that says which piece it is, for those who cut a tensor over several calls.

    Parameters
    ----------
    sequence, total : int
        Which of how many, from 0 on.
    data : bytes-like
    final : bool, optional
        Is it the last one? By default when `sequence` says so.
    """
    if not 0 <= sequence < total < 1 << 32:
        raise OverflowError(f"chunk {sequence} of {total}: must be 0 to total - 1, total below 2^32")
    return _CHUNK.pack(sequence, total, sequence == total - 1 if final is None else final) + bytes(data)


def decode_tensor_chunk(data: Buffer) -> tuple[int, int, bool, memoryview]:
    """(sequence, total, final, elements) of such a piece; the elements are a view.

    Raises
    ------
    dynamo.errors.Truncated
        It is shorter than its head.
    ValueError
        The head cannot be.
    """
    view = memoryview(data).cast("B")
    if view.nbytes < _CHUNK.size:
        raise Truncated(f"a tensor chunk of {view.nbytes} bytes: its head alone has {_CHUNK.size}")
    sequence, total, final = _CHUNK.unpack_from(view)
    if sequence >= total or final > 1:
        raise ValueError(f"a tensor chunk {sequence} of {total}, final {final}: no such piece")
    return sequence, total, bool(final), view[_CHUNK.size :]
