"""Does anything stay behind? Each kind of operation very often, then what Python and malloc still hold.

    python -m tests.binding.leaks [times, 1000000 each] [part of a name ...]

The test runs them some thousand times in a process of its own.
"""

import copy
import ctypes
import ctypes.util
import gc
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dynamo import errors, quill
from dynamo._tensor import Tensor, TensorMeta, TensorReader
from dynamo._token import Token
from dynamo._token_batch import TokenBatch
from dynamo.llm import RadixTree, compute_block_hashes, compute_sequence_hashes
from dynamo.quill import ByteCredits, DType, FrameReader


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(f"field_{i}", ctypes.c_size_t) for i in range(10)]  # 4: mapped, 7: in use


def in_use() -> int:
    """Bytes that malloc has handed out; 0 where it cannot say."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = _Mallinfo2
    info = libc.mallinfo2()
    return int(info.field_7 + info.field_4)


def refused(call: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        try:
            call()
        except (ValueError, TypeError, OverflowError, errors.DynamoError):
            return
        raise AssertionError("it was not refused")

    return run


def operations() -> dict[str, Callable[[], Any]]:
    array = np.arange(16, dtype=np.float32)
    tensor = Tensor.from_numpy(array, "w")
    view = Tensor.from_numpy(array, copy=False)
    square = tensor.reshape(4, 4)
    half = tensor.astype("bfloat16")
    frames, whole = tensor.to_frames(), b"".join(tensor.to_frames())
    pickled = pickle.dumps(tensor, 5)
    token = Token(1, 2, "x", -0.5)
    batch = TokenBatch.from_tokens([token, Token(3, 4)], 1)
    token_bytes, batch_bytes = token.encode(), batch.encode()
    batch_pickled = pickle.dumps(batch, 5)
    ids = np.arange(64, dtype=np.uint32)
    local = compute_block_hashes(ids, 16)
    chain = compute_sequence_hashes(local)
    tree = RadixTree()
    tree.apply_stored(1, chain, local)
    frame = quill.encode_frame(1, b"hello")

    def out_of_band() -> None:
        buffers: list[Any] = []
        head = pickle.dumps(tensor, protocol=5, buffer_callback=buffers.append)
        pickle.loads(head, buffers=buffers)

    def cycle() -> None:
        class_ = lender_type
        lender = class_(64)
        lender.tensor = Tensor.from_bytes(lender, [16], "float32", copy=False)

    class lender_type(bytearray):
        tensor: Tensor

    def blocks() -> None:
        tree.apply_stored(2, chain, local)
        tree.find_matches(local)
        tree.remove_worker(2)

    return {
        "DType by name": lambda: DType.from_name("bfloat16").numpy,
        "Tensor of a list": lambda: Tensor([1.0, 2.0, 3.0]),
        "Tensor from NumPy": lambda: Tensor.from_numpy(array),
        "Tensor over NumPy": lambda: Tensor.from_numpy(array, copy=False),
        "Tensor from bytes": lambda: Tensor.from_bytes(b"12345678", [2], "float32"),
        "Tensor refused": refused(lambda: Tensor.from_bytes(b"1", [2], "float32")),
        "Tensor of objects refused": refused(lambda: Tensor.from_numpy(np.array([None]))),
        "Tensor.full, of many dimensions": lambda: Tensor.full([1] * 40, 2),
        "Tensor attributes": lambda: (tensor.shape, tensor.strides, tensor.meta, tensor.dtype, tensor.name),
        "Tensor.to_numpy": lambda: (tensor.to_numpy(), half.to_numpy(), tensor.to_numpy(copy=False)),
        "memoryview": lambda: (memoryview(tensor), memoryview(view)),
        "array interface": lambda: (np.asarray(tensor), np.asarray(half), tensor.__array_interface__),
        "DLPack both ways": lambda: Tensor.from_dlpack(np.from_dlpack(tensor)),
        "DLPack capsules dropped": lambda: (tensor.to_dlpack(), view.__dlpack__(max_version=(1, 0))),
        "views": lambda: (square[1:, ::2].T, square[2], square[1, 1], square.reshape(-1), square[..., None]),
        "bad index": refused(lambda: square["a"]),
        "astype": lambda: (half.astype("float32"), tensor.astype("int8"), tensor.astype("float8_e5m2")),
        "reductions": lambda: (tensor.sum(), tensor.max(), tensor.argmin(), tensor.dot(view), tensor == view),
        "tolist, iteration": lambda: (square.tolist(), list(square)),
        "to_frames": lambda: (tensor.to_frames(16), tensor.framed()),
        "from_frames": lambda: (Tensor.from_frames(frames), Tensor.from_frames(whole)),
        "frames cut off": refused(lambda: Tensor.from_frames(whole[:-12])),
        "frames refused": refused(lambda: TensorReader().feed(b"\xff" * 9)),
        "pickle": lambda: pickle.loads(pickled),
        "pickle out of band": out_of_band,
        "copies": lambda: (copy.copy(tensor), copy.deepcopy(tensor), tensor.renamed("x")),
        "repr": lambda: (repr(tensor), repr(tensor.meta), repr(batch), repr(token)),
        "cycles": cycle,
        "TensorMeta": lambda: TensorMeta([2, 3], "float32", "w") == tensor.meta,
        "Token": lambda: Token(70000, 2, "word", -0.25, True),
        "Token both ways": lambda: (Token.decode(token_bytes), token.encode(), token.to_dict(), hash(token)),
        "Token refused": refused(lambda: Token.decode(token_bytes[:-1])),
        "Token of a wrong type": refused(lambda: Token(1, 0, 5)),
        "TokenBatch of tokens": lambda: TokenBatch.from_tokens([token, token]),
        "TokenBatch both ways": lambda: (TokenBatch.decode(batch_bytes), batch.encode()),
        "TokenBatch refused": refused(lambda: TokenBatch.decode(batch_bytes[:-1])),
        "TokenBatch columns": lambda: (batch.ids, batch.positions, batch.logprobs, batch[0], batch[:1], list(batch)),
        "TokenBatch written": lambda: TokenBatch(1).append([1, 2, 3]),
        "TokenBatch pickled": lambda: (pickle.loads(batch_pickled), copy.deepcopy(batch), batch.to_dicts()),
        "frames of calls": lambda: (quill.decode_frame(frame), quill.encode_frame(2), FrameReader().feed(frame)),
        "varints": lambda: quill.decode_varint(quill.encode_varint(300)),
        "credits": lambda: ByteCredits().consume(5),
        "hashes": lambda: compute_sequence_hashes(compute_block_hashes(ids, 16)),
        "index": blocks,
    }


def left_behind(call: Callable[[], Any], times: int) -> tuple[int, int]:
    """(blocks of Python, bytes of malloc) that are there after so many calls and were not before."""

    def settle() -> tuple[int, int]:
        gc.collect()
        return sys.getallocatedblocks(), in_use()

    for _ in range(min(times, 1000)):
        call()
    blocks, size = settle()
    for _ in range(times):
        call()
    blocks_after, size_after = settle()
    return blocks_after - blocks, size_after - size


def main() -> int:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    bad = 0
    for name, call in operations().items():
        if sys.argv[2:] and not any(part in name for part in sys.argv[2:]):
            continue
        start = time.process_time()
        blocks, size = left_behind(call, times)
        # A leak grows with the number of calls; caches and free lists do not.
        leaks = blocks > 200 + times // 1000 or size > 65536 + times
        bad += leaks
        print(f"{name:34} {blocks:7} blocks {size:9} bytes {time.process_time() - start:6.1f} s{'  LEAK' * leaks}")
    return bad


if __name__ == "__main__":
    sys.exit(main())
