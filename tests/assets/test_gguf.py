"""The reader of GGUF headers: what it says, and what it refuses."""

import random
import struct

import pytest

from dynamo.errors import DynamoError, InvalidArgument
from dynamo.llm.gguf import is_gguf, read_gguf
from dynamo.llm.tokenizer import gguf_tokenizer


def test_the_header_says_what_the_model_is(tiny_gguf):
    gguf = read_gguf(tiny_gguf)
    assert is_gguf(tiny_gguf) and not is_gguf(tiny_gguf.parent)
    assert (gguf.architecture, gguf.name, gguf.context_length, gguf.version) == ("llama", "tiny", 8192, 3)
    assert "im_start" in gguf.chat_template
    assert len(gguf.metadata["tokenizer.ggml.tokens"]) == len(gguf.metadata["tokenizer.ggml.scores"])
    assert gguf.tensors[0].name == "token_embd.weight" and gguf.tensors[0].shape[0] == 64
    assert gguf.tensors[-1].offset < gguf.size


def head(version=3, tensors=0, pairs=1):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


def key(name, kind):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind)


DEEP = key(b"k", 9) + struct.pack("<IQ", 9, 1) * 6 + struct.pack("<IQ", 4, 0)
REFUSED = {
    "does not begin": b"GGML" + bytes(40),
    "too few": b"GGUF",
    "version 1": head(version=1) + bytes(16),
    "big-endian": head(version=3 << 24) + bytes(16),
    "number of tensors": head(tensors=1 << 40),
    "number of metadata pairs": head(pairs=1 << 63),
    "length of a metadata key": head() + struct.pack("<Q", 1 << 62),
    "cut short": head() + struct.pack("<Q", 1 << 20) + b"x",
    "unknown type 77": head() + key(b"k", 77) + bytes(8),
    "comes twice": head(pairs=2) + (key(b"k", 4) + bytes(4)) * 2,
    "length of 'k'": head() + key(b"k", 9) + struct.pack("<IQ", 4, 1 << 60),
    "needs 4000000 bytes": head() + key(b"k", 9) + struct.pack("<IQ", 4, 1000000),
    "a string of 'k' leaves": head() + key(b"k", 9) + struct.pack("<IQQ", 8, 3, 1 << 63),
    "arrays more than": head() + DEEP,
    "power of two": head() + key(b"general.alignment", 4) + struct.pack("<I", 33),
    "tensor 't' begins": head(tensors=1, pairs=0) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 4, 0, 1 << 40),
    "number of dimensions": head(tensors=1, pairs=0) + struct.pack("<Q1sI", 1, b"t", 9) + bytes(80),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_broken_header_is_refused_with_its_reason(reason, tmp_path):
    (tmp_path / "x.gguf").write_bytes(REFUSED[reason])
    with pytest.raises(InvalidArgument, match=reason):
        read_gguf(tmp_path / "x.gguf")


def test_no_damage_makes_the_reader_do_anything_but_refuse(tiny_gguf, tmp_path):
    whole = tiny_gguf.read_bytes()
    end = read_gguf(tiny_gguf).tensors[0].offset
    path, pick = tmp_path / "x.gguf", random.Random(3)
    for _ in range(300):
        data = bytearray(whole[:end])
        for _ in range(pick.randrange(1, 4)):
            at = pick.choice([pick.randrange(min(len(data), 2000)), pick.randrange(len(data))])
            data[at : at + 8] = pick.choice([pick.randbytes(8), b"\xff" * 8, bytes(8)])[: len(data) - at]
        if pick.random() < 0.3:
            del data[pick.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            gguf_tokenizer(read_gguf(path)).encode("Hello <s> 日本")
        except DynamoError as error:
            assert str(path) in str(error)
