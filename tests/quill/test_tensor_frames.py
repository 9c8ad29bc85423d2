"""Tensors as frames: the golden bytes both ways, and what is refused."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo import errors, quill
from dynamo.quill import Tensor, TensorReader

from ..conftest import DATA

VECTORS = json.loads((DATA / "quill_golden_vectors.json").read_text())
STREAMS = {
    name: b"".join(map(bytes.fromhex, frames))
    for name, frames in VECTORS["tensor_stream"].items()
    if isinstance(frames, list) and not name.startswith("TensorDataChunk")
}
CASES = {
    "float32 [2,2] name=w data=1,2,3,4": (np.array([[1, 2], [3, 4]], np.float32), "w", 65536),
    "int64 [3] unnamed 1,-1,2": (np.array([1, -1, 2]), None, 65536),
    "uint8 scalar shape [] value 7": (np.array(7, np.uint8), None, 65536),
    "uint8 empty shape [0]": (np.empty(0, np.uint8), None, 65536),
    "uint8 [10] chunk_size 4": (np.arange(10, dtype=np.uint8), None, 4),
}


def frame(kind, payload=b"", flags=b"\0\0\0\0"):
    return bytes([kind]) + flags + len(payload).to_bytes(4, "big") + payload


def meta(shape, code=8, name=b"", nbytes=0):
    dims = b"".join(size.to_bytes(8, "little") for size in shape)
    head = bytes([len(shape)]) + dims + bytes([code, 0]) + nbytes.to_bytes(8, "little")
    return frame(0x10, head + len(name).to_bytes(2, "little") + name)


FRAMES = {  # kind, payload; what the reader makes of it
    "meta payload 'meta'": ("meta", b"meta", "tensor metadata of 4 bytes|109 dimensions"),
    "payload 01020304": ("payload", bytes([1, 2, 3, 4]), "before TENSOR_META"),
    "token_batch empty batch": ("tokens", b"\0\0\0", [("tokens", b"\0\0\0")]),
    "proto_msg 'x'": ("message", b"x", [("message", b"x")]),
    "end_stream": ("end", None, [("end", None)]),
    "cancel none": ("cancel", None, [("cancel", "")]),
    "cancel 'timeout'": ("cancel", "timeout", [("cancel", "timeout")]),
    "credit 1048576": ("credit", 1 << 20, [("credit", 1 << 20)]),
    "reserved 01000000 payload aa": (None, b"\xaa", "reserved bytes 01 00 00 00"),
    "type ff": (None, b"", "unknown frame type: 0xff"),
}


@pytest.mark.parametrize("row", VECTORS["tensor_frame"], ids=lambda row: row["name"])
def test_frames_are_quills_to_the_byte(row):
    kind, payload, read = FRAMES[row["name"]]
    data = bytes.fromhex(row["hex"]) if "hex" in row else b"\xff" + bytes(8)
    if kind is not None:
        assert quill.encode_tensor_frame(kind, payload) == data
    if isinstance(read, list):
        assert TensorReader().feed(data) == read
        return
    with pytest.raises(ValueError, match=read):
        TensorReader().feed(meta([1]) * read.startswith("reserved") + data)


def test_chunks_are_quills_to_the_byte():
    rows = [bytes.fromhex(row) for row in VECTORS["tensor_stream"]["TensorDataChunk [10] by 4"]]
    elements = bytes(range(1, 11)) if rows[0][9] == 1 else bytes(range(10))
    for i, row in enumerate(rows):
        piece = elements[4 * i : 4 * i + 4]
        assert quill.encode_tensor_chunk(i, 3, piece) == row
        assert quill.decode_tensor_chunk(row) == (i, 3, i == 2, piece)
    for bad, error in [(rows[0][:8], errors.Truncated), (b"\3" + rows[0][1:], ValueError), (b"", errors.Truncated)]:
        with pytest.raises(error, match="chunk"):
            quill.decode_tensor_chunk(bad)
    for sequence, total in [(-1, 3), (3, 3), (0, 1 << 32)]:
        with pytest.raises(OverflowError):
            quill.encode_tensor_chunk(sequence, total, b"")


def test_every_vector_of_tensors_is_used():
    whole = set(STREAMS) - {"bfloat16 [2] device cuda"}
    said = {"payload before meta", "empty tensor is_complete", "TensorDataChunk [10] by 4", "bfloat16 [2] device cuda"}
    assert whole == set(CASES) and set(VECTORS["tensor_stream"]) == whole | said
    assert set(FRAMES) == {row["name"] for row in VECTORS["tensor_frame"]}


def test_frames_that_cannot_be_are_not_made():
    for kind, value, error, word in [
        ("bye", None, ValueError, "must be one of message, end"),
        ("bye", 5, ValueError, "must be one of message, end"),
        ("end", b"x", ValueError, "must be empty"),
        ("credit", b"x", TypeError, "credit is a bytes"),
        ("credit", -1, OverflowError, "must be 0 to"),
        ("message", 5, TypeError, "is a int"),
        ("tokens", "x", TypeError, "is a str"),
    ]:
        with pytest.raises(error, match=word):
            quill.encode_tensor_frame(kind, value)


@given(st.binary(max_size=300), st.integers(0, 2**64 - 1), st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_what_stands_between_tensors_arrives(message, credit, reason):
    batch = quill.TokenBatch.from_tokens([quill.Token(1, 2, reason)])
    frames = [("message", message), ("credit", credit), ("tokens", batch), ("cancel", reason)]
    data = b"".join(quill.encode_tensor_frame(*frame) for frame in frames)
    frames[2] = ("tokens", batch.encode())
    assert TensorReader().feed(data) == frames


@pytest.mark.parametrize("name", CASES)
def test_streams_are_quills_to_the_byte(name):
    array, label, chunk = CASES[name]
    tensor = Tensor.from_numpy(array, label)
    assert b"".join(tensor.to_frames(chunk_size=chunk)) == tensor.framed(chunk) == STREAMS[name]
    back = Tensor.from_frames(STREAMS[name])
    assert back.name == label and back.to_numpy().dtype == array.dtype and np.array_equal(back.to_numpy(), array)
    assert back.shape == list(array.shape)


def test_a_tensor_that_was_on_a_gpu_is_read():
    tensor = Tensor.from_frames(STREAMS["bfloat16 [2] device cuda"])
    assert (tensor.dtype.name, tensor.shape, tensor.device) == ("bfloat16", [2], "cpu")
    assert tensor.view("uint16").to_numpy().tolist() == [0x3F80, 0x4000]


def test_a_large_stream_in_one_piece_is_the_joined_one():
    turned = Tensor.from_numpy(np.arange(3 << 20, dtype=np.uint16).reshape(1024, -1).T, "long " * 200, copy=False)
    one = turned.framed(100_000)
    assert one == b"".join(turned.to_frames(100_000)) and one.format == "B" and one.nbytes > 6 << 20
    assert Tensor.from_frames(one) == turned and Tensor.from_frames(one).name == turned.name
    with pytest.raises(ValueError, match="chunk_size is 0"):
        turned.framed(0)
    with pytest.raises(OverflowError, match="a frame holds 65535"):
        turned.renamed("x" * 65536).framed()


def test_payloads_are_views_and_not_copies():
    array = np.zeros(1 << 18, np.float32)
    tensor = Tensor.from_numpy(array, copy=False)
    frames = tensor.to_frames()
    assert len(frames) == 1 + 16 + 15 + 1
    array[:] = 1
    assert bytes(frames[1]) == b"\0\0\x80\x3f" * (65536 // 4)
    assert np.array_equal(Tensor.from_frames(frames).to_numpy(), array)


def test_a_tensor_with_gaps_is_put_together_first():
    array = np.arange(24, dtype=np.int16).reshape(4, 6)[::2, 1::2]
    assert np.array_equal(Tensor.from_frames(Tensor.from_numpy(array, copy=False).to_frames(5)).to_numpy(), array)


@given(
    st.sampled_from(["f4", "f2", "f8", "i1", "i4", "i8", "u1", "?", "i2", "u2", "u4", "u8", "c8"]),
    st.lists(st.integers(0, 5), max_size=5),
    st.one_of(st.none(), st.text(min_size=1, max_size=40)),
    st.integers(1, 200),
    st.integers(1, 60),
)
@settings(max_examples=200, deadline=None)
def test_what_is_sent_arrives(dtype, shape, name, chunk, step):
    raw = np.random.default_rng(1).integers(0, 2, np.prod(shape, dtype=int) * np.dtype(dtype).itemsize, np.uint8)
    array = raw.view(dtype).reshape(shape) if raw.size else np.empty(shape, dtype)
    tensor = Tensor.from_numpy(array, name)
    data = b"".join(tensor.to_frames(chunk))
    reader = TensorReader()
    events = [event for at in range(0, len(data), step) for event in reader.feed(data[at : at + step])]
    reader.end()
    assert [kind for kind, _ in events] == ["tensor", "end"]
    back = events[0][1]
    assert (back.name, back.shape, back.dtype) == (name, tensor.shape, tensor.dtype)
    assert back.tobytes() == array.tobytes()


@given(st.binary(max_size=200), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data, start):
    data = [b"", frame(0x10), meta([3]), meta([3]) + frame(0x11, b"abc")][start] + data
    with contextlib.suppress(ValueError, OverflowError, errors.Overloaded, errors.Cancelled):
        Tensor.from_frames(data, max_bytes=1 << 16)


def test_cancel_and_credit_are_events():
    reader = TensorReader()
    data = meta([4]) + frame(0x11, b"ab") + frame(0x08, (1 << 20).to_bytes(8, "little")) + frame(0x04, b"timeout")
    assert reader.feed(data) == [("credit", 1 << 20), ("cancel", "timeout")]
    reader.end()
    with pytest.raises(errors.Cancelled, match="timeout"):
        Tensor.from_frames(data)


def test_messages_and_token_batches_pass_between_tensors():
    reader = TensorReader()
    events = reader.feed(frame(0x01, b"x") + frame(0x20, b"\0\0\0") + meta([0]) + frame(0x02))
    assert events[:2] == [("message", b"x"), ("tokens", b"\0\0\0")]
    assert [kind for kind, _ in events[2:]] == ["tensor", "end"] and events[2][1].shape == [0]


REFUSALS = {
    "unknown frame type: 0xff": b"\xff",
    "missing tensor metadata: TENSOR_PAYLOAD received before TENSOR_META": b"\x11",
    "tensor size mismatch: expected 4 bytes, got 2": meta([4]) + frame(0x11, b"ab") + b"\x02",
    "inside of a tensor": meta([4]) + meta([4]),
    "5 bytes of payload": meta([4]) + b"\x11\0\0\0\0\0\0\0\x05",
    "more payload": meta([4]) + frame(0x11, b"abcd") + b"\x11",
    "after the end": meta([0]) + frame(0x02) + b"\x02",
    "reserved bytes": frame(0x10, flags=b"\1\0\0\0"),
    "dtype 0": meta([1], code=0),
    "states 3 bytes": meta([4], nbytes=3),
    "more than one tensor": meta([0]) + meta([0]) + frame(0x02),
    "without a tensor": frame(0x02),
    "without an END frame": meta([0]),
    "ends after 2 of the 4 bytes": meta([4]) + frame(0x11, b"ab"),
}


@pytest.mark.parametrize("text", REFUSALS)
def test_what_cannot_be_is_refused_at_once(text):
    with pytest.raises(ValueError, match=text):
        Tensor.from_frames(REFUSALS[text])


def test_a_tensor_is_refused_when_it_is_announced():
    with pytest.raises(errors.Overloaded, match="1025 bytes: at most 1024"):
        TensorReader(max_bytes=1024).feed(meta([1025]))
    with pytest.raises(OverflowError, match="dimension 1"):
        TensorReader().feed(meta([1 << 40, 1 << 40]))
    with pytest.raises(errors.Overloaded, match="4194305"):
        TensorReader().feed(b"\x01\0\0\0\0" + (4194305).to_bytes(4, "big"))


def test_a_broken_reader_stays_broken():
    reader = TensorReader()
    for _ in range(2):
        with pytest.raises(ValueError, match="unknown frame type: 0x07"):
            reader.feed(b"\x07")


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="chunk_size is 0"):
        Tensor([1.0]).to_frames(chunk_size=0)
    with pytest.raises(OverflowError, match="name"):
        Tensor([1.0], name="x" * 70000).to_frames()
    long = Tensor([1.0], name="x" * 65535)
    assert Tensor.from_frames(long.to_frames()).name == long.name
