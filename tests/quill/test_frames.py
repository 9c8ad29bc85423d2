"""Frames and varints: the original's bytes, and what it never noticed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo import quill
from dynamo.errors import StreamBroken, Truncated
from dynamo.quill import ByteCredits, FrameReader, MessageCredits

from ..conftest import ROOT

VECTORS = json.loads((ROOT / "tests/data/quill_golden_vectors.json").read_text())
DATA, END, CANCEL, CREDIT = 1, 2, 4, 8
FRAMES = {
    "data hello": (DATA, b"hello"),
    "end_stream": (END, b""),
    "cancel": (CANCEL, b""),
    "data|end hello": (DATA | END, b"Hello"),
    "data 300 bytes of aa": (DATA, b"\xaa" * 300),
}


@pytest.mark.parametrize("row", VECTORS["varint"], ids=lambda row: row["name"])
def test_varints_are_the_originals(row):
    data = bytes.fromhex(row["hex"])
    assert quill.encode_varint(int(row["name"])) == data
    assert quill.decode_varint(data + b"\x05") == (int(row["name"]), len(data))
    for cut in range(len(data)):
        with pytest.raises(Truncated):
            quill.decode_varint(data[:cut])


@pytest.mark.parametrize("row", VECTORS["rpc_frame"], ids=lambda row: row["name"])
def test_frames_are_the_originals(row):
    name = row["name"]
    if name.startswith("credit"):
        flags, payload = CREDIT, quill.encode_varint(int(name.split()[1]))
    elif name in FRAMES:
        flags, payload = FRAMES[name]
    elif name.startswith("len "):
        with pytest.raises(ValueError, match=r"Frame too large: 4194305 bytes \(max 4194304\)"):
            quill.decode_frame(quill.encode_varint(4194305))
        return
    elif name.startswith("12 x ff"):
        with pytest.raises(ValueError, match="varint") as error:
            quill.decode_frame(b"\xff" * 12)  # the original waited for more
        assert not isinstance(error.value, Truncated)
        return
    else:
        assert name.startswith("8000 01")
        assert quill.decode_frame(b"\x80\x00\x01") == (DATA, b"", 3)
        return
    data = quill.encode_frame(flags, payload)
    assert data.hex() == row["hex"] if "hex" in row else data[:4].hex() == row["head_hex"] and len(data) == row["len"]
    assert quill.decode_frame(data + b"next") == (flags, payload, len(data))
    for cut in range(len(data)):
        with pytest.raises(Truncated) as error:
            quill.decode_frame(data[:cut])
        assert cut < error.value.needed <= len(data)


def test_truncated_and_broken_are_told_apart():
    for bad in (b"\x80" * 10, b"\xff" * 4, quill.encode_varint(4194305), b"\xff" * 9 + b"\x02"):
        with pytest.raises(ValueError, match=r"too large|varint") as error:
            quill.decode_frame(bad)
        assert not isinstance(error.value, EOFError)
    for cut in (b"", b"\x80", b"\x80" * 9, quill.encode_varint(4194304)):
        with pytest.raises(EOFError):
            quill.decode_frame(cut)
    with pytest.raises(ValueError, match="64 bits"):
        quill.decode_varint(b"\xff" * 9 + b"\x02")


def test_a_frame_of_the_largest_size_travels_and_one_more_byte_does_not():
    data = quill.encode_frame(DATA, bytes(4194304))
    assert quill.decode_frame(data)[2] == len(data) == 4194304 + 5
    with pytest.raises(ValueError, match=r"Frame too large: 4194305 bytes"):
        quill.encode_frame(DATA, bytes(4194305))


def test_wrong_arguments_are_named():
    for call, word in [
        (lambda: quill.encode_varint("1"), "not str"),
        (lambda: quill.decode_varint([1]), "not list"),
        (lambda: quill.encode_frame("x", b""), "not str"),
        (lambda: quill.encode_frame(1, "x"), "not str"),
        (lambda: quill.decode_frame(5), "not int"),
        (lambda: FrameReader().feed("x"), "not str"),
    ]:
        with pytest.raises(TypeError, match=word):
            call()
    for call in (
        lambda: quill.encode_varint(-1),
        lambda: quill.encode_varint(2**64),
        lambda: quill.encode_frame(256),
        lambda: quill.encode_frame(-1),
    ):
        with pytest.raises(OverflowError):
            call()


@given(st.integers(0, 2**64 - 1))
def test_any_number_survives(value):
    data = quill.encode_varint(value)
    assert quill.decode_varint(data) == (value, len(data)) and len(data) == max(1, -(-value.bit_length() // 7))


@given(
    st.lists(st.tuples(st.sampled_from([DATA, CREDIT, 0x40, DATA | 0x80]), st.binary(max_size=300)), max_size=6),
    st.integers(1, 400),
)
@settings(max_examples=200, deadline=None)
def test_pieces_of_any_size_give_the_same_frames(frames, step):
    data = b"".join(quill.encode_frame(*frame) for frame in frames) + quill.encode_frame(DATA | END, b"last")
    reader = FrameReader()
    got = []
    for at in range(0, len(data), step):
        assert not reader.ended
        got += reader.feed(data[at : at + step])
    assert got == [frame for frame in frames if frame[0] & 15] + [(DATA | END, b"last")]
    assert reader.ended
    reader.finish()


def test_a_stream_out_of_order_is_refused_for_good():
    for data in (b"\0\2\0\1", b"\0\2\0\2", b"\0\4\0\1", b"\1\x09\5", b"\xff" * 10):
        reader = FrameReader()
        for _ in range(2):
            with pytest.raises(ValueError):
                reader.feed(data)
        assert repr(reader) == "FrameReader(broken)"
    reader = FrameReader()
    assert reader.feed(b"\0\2\1\x08\5\0\4") == [(END, b""), (CREDIT, b"\5"), (CANCEL, b"")]
    assert reader.cancelled


def test_a_stream_that_breaks_off_is_said():
    reader = FrameReader()
    reader.feed(b"\5\1he")
    with pytest.raises(StreamBroken, match="within a frame, after 4 bytes"):
        reader.finish()
    reader.feed(b"llo")
    with pytest.raises(StreamBroken, match="without END_STREAM"):
        reader.finish()


def test_message_credits():
    sender, receiver = MessageCredits(), MessageCredits()
    assert [sender.take() for _ in range(17)] == [True] * 16 + [False]
    assert [receiver.consumed() for _ in range(8)] == [0] * 7 + [8]
    sender.grant(8)
    assert sender.left == 8
    with pytest.raises(ValueError, match="grant"):
        sender.grant(2**64 - 1)
    with pytest.raises(ValueError, match="refill of 0"):
        MessageCredits(16, 0)


def test_byte_credits_pause_below_low_and_go_on_above_high():
    credits = ByteCredits()
    assert (credits.left, credits.low, credits.high, credits.suggest()) == (262144, 131072, 524288, 65536)
    assert not credits.consume(131072) and credits.consume(1)
    assert not credits.grant(524288 - 131071) and credits.paused and credits.suggest() == 0
    assert credits.grant(1) and not credits.paused
    small, large = ByteCredits.preset("small"), ByteCredits.preset("large")
    assert (small.left, small.low, small.high) == (131072, 65536, 262144)
    assert (large.left, large.low, large.high) == (1 << 20, 512 << 10, 2 << 20)
    with pytest.raises(ValueError, match="low must be below high"):
        ByteCredits(0, 5, 5)
    with pytest.raises(ValueError, match="preset 'tiny'"):
        ByteCredits.preset("tiny")
