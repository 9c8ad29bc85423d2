"""Token and TokenBatch: the original's bytes and names, views of columns, what is refused."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo import Token, TokenBatch
from dynamo.errors import Truncated
from dynamo.quill import Token as SameToken

from ..conftest import ROOT

VECTORS = json.loads((ROOT / "tests/data/quill_golden_vectors.json").read_text())
TOKENS = {
    "id=42,pos=0": Token(42, 0),
    "id=42,text=hello,pos=0": Token.with_text(42, "hello", 0),
    "id=42,text=hello,pos=0,logprob=-0.5": Token.with_text(42, "hello", 0, -0.5),
    "id=1234,text=test,pos=5,logprob=-1.5,special": Token(1234, 5, "test", -1.5, True),
    "id=2,pos=7,special": Token(2, 7, is_special=True),
    "id=4294967295,pos=4294967295,logprob=0.0": Token(2**32 - 1, 2**32 - 1, logprob=0.0),
    "id=9,text=(empty),pos=1": Token(9, 1, ""),
    "id=9,text=U+00E9 U+1F600,pos=1": Token(9, 1, "é\U0001f600"),
}


def batch_of(tokens, sequence_id=None, final=False):
    batch = TokenBatch.from_tokens(tokens, sequence_id)
    batch.is_final = final
    return batch


BATCHES = {
    "empty": TokenBatch(),
    "empty,seq=1": TokenBatch(1),
    "final,empty": batch_of([], final=True),
    "seq=1,[Hello/0, space/1, World/2]": batch_of(
        [Token(1, 0, "Hello"), Token(2, 1, " "), Token(3, 2, "World")], sequence_id=1
    ),
    "seq=42,final,[1/0,2/1]": batch_of([Token(1, 0), Token(2, 1)], sequence_id=42, final=True),
}
u32 = st.integers(0, 2**32 - 1)
tokens = st.builds(
    Token,
    u32,
    u32,
    st.none() | st.text(max_size=20),
    st.none() | st.floats(width=32, allow_nan=False),
    st.booleans(),
)


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_is_the_originals_bytes_both_ways(name):
    data = bytes.fromhex(next(row["hex"] for row in VECTORS["token"] if row["name"] == name))
    assert TOKENS[name].encode() == data
    assert Token.decode(data) == TOKENS[name]
    assert Token.decode(data + b"more") == TOKENS[name]
    for cut in range(len(data)):
        with pytest.raises(Truncated, match=f"after {cut} bytes"):
            Token.decode(data[:cut])


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_the_originals_bytes_both_ways(name):
    data = bytes.fromhex(next(row["hex"] for row in VECTORS["token_batch"] if row["name"] == name))
    assert BATCHES[name].encode() == data
    assert TokenBatch.decode(data) == BATCHES[name]
    assert TokenBatch.decode(bytearray(data) + b"more") == BATCHES[name]
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="cut off"):
            TokenBatch.decode(data[:cut])


def test_every_vector_is_used():
    assert len(TOKENS) == len(VECTORS["token"]) - 2 and len(BATCHES) == len(VECTORS["token_batch"]) - 1


def test_what_wrapped_around_in_the_original_is_refused():
    assert len(Token(1, 0, "x" * 65535).encode()) == 65546
    with pytest.raises(OverflowError, match="65539 bytes"):
        Token(1, 0, "x" * 65539).encode()
    batch = TokenBatch()
    batch.append(np.arange(65535, dtype=np.uint32))
    assert len(batch.encode()) == 3 + 9 * 65535
    assert TokenBatch.decode(batch.encode()) == batch
    batch.add(Token(1, 0))
    with pytest.raises(OverflowError, match="65536 tokens"):
        batch.encode()
    with pytest.raises(OverflowError, match="token 0 has a text of 65536 bytes"):
        TokenBatch.from_tokens([Token(1, 0, "x" * 65536)]).encode()


@given(st.lists(tokens, max_size=20), st.none() | u32, st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_batch_survives_the_way_there_and_back(items, sequence_id, final):
    batch = batch_of(items, sequence_id, final)
    assert list(batch) == items == batch.tokens() and batch.text() == "".join(t.text or "" for t in items)
    back = TokenBatch.decode(batch.encode())
    assert back == batch and back.sequence_id == sequence_id and back.is_final is final
    assert batch.encode()[3 + 4 * (sequence_id is not None) :] == b"".join(t.encode() for t in items)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(batch, protocol)) == batch
    for item in items:
        assert Token.decode(item.encode()) == item and pickle.loads(pickle.dumps(item)) == item


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_batch_or_truncated(data):
    try:
        batch = TokenBatch.decode(data)
    except Truncated:
        return
    # Texts were made valid, so what it says from here on it says for good.
    assert TokenBatch.decode(batch.encode()) == batch


# ---- Token ----


def test_a_token_says_what_the_original_says():
    token = Token(42, 0, "hello", -0.1)
    assert (token.id, token.position, token.text, token.is_special) == (42, 0, "hello", False)
    assert token.logprob == float(np.float32(-0.1)) and Token(1, 2, logprob=-0.5).logprob == -0.5
    assert token.prob() == math.exp(np.float32(-0.1)) and Token(1, 0).prob() is None
    assert list(token.to_dict().items()) == [
        ("id", 42),
        ("text", "hello"),
        ("logprob", token.logprob),
        ("position", 0),
        ("is_special", False),
    ]
    assert (repr(token), str(token)) == ("Token(id=42, text='hello', pos=0)", "hello")
    assert (repr(Token(42, 1)), str(Token(42, 1))) == ("Token(id=42, pos=1)", "<42>")
    assert repr(Token(1, 0, "it's\n")) == "Token(id=1, text='it's\n', pos=0)"
    assert [Token(i, 0, is_special=s).is_eos() for i, s in [(2, True), (3, True), (0, False), (0, True)]] == [
        True, False, False, True,
    ]  # fmt: skip
    assert Token is SameToken


def test_tokens_are_values():
    a, b = Token(1, 2, "x", -0.5, True), Token(id=1, position=2, text="x", logprob=-0.5, is_special=True)
    assert a == b and hash(a) == hash(b) and len({a, b, Token(1, 2)}) == 2
    assert a != Token(1, 2, "x", -0.5) and a != (1, 2, "x", -0.5, True)
    assert copy.copy(a) is a and copy.deepcopy(a) is a
    with pytest.raises(AttributeError):
        a.id = 5
    with pytest.raises(TypeError):
        a < b  # noqa: B015
    match a:
        case Token(1, position, text):
            assert (position, text) == (2, "x")
        case _:
            pytest.fail("did not match")


def test_a_token_refuses_what_it_cannot_hold():
    for wrong in (-1, 2**32, 2**64, -(2**70)):
        with pytest.raises(OverflowError, match=str(wrong)):
            Token(wrong, 0)
        with pytest.raises(OverflowError, match="position"):
            Token(0, wrong)
    for args, word in [
        (("1", 0), "id must be an int, not str"),
        ((1, 0.5), "position must be an int, not float"),
        ((1, 0, b"x"), "text must be a str or None, not bytes"),
        ((1, 0, None, "x"), "logprob must be a float or None, not str"),
        ((1, 0, None, None, 1), "is_special must be a bool, not int"),
        ((1,), "missing the argument 'position'"),
        ((1, 2, None, None, False, 6), "at most 5"),
    ]:
        with pytest.raises(TypeError, match=word):
            Token(*args)
    with pytest.raises(TypeError, match="unexpected keyword argument 'pos'"):
        Token(1, pos=2)
    with pytest.raises(TypeError, match="multiple values for argument 'id'"):
        Token(1, 2, id=3)
    with pytest.raises(TypeError, match="text must be a str"):
        Token.with_text(1, None, 0)
    with pytest.raises(TypeError, match="buffer, not str"):
        Token.decode("abc")
    with pytest.raises(ValueError, match="surrogates"):
        Token(1, 0, "\ud800").encode()


def test_numbers_of_numpy_are_numbers():
    class Text(str):
        pass

    token = Token(np.uint32(7), np.int64(8), Text("a"), np.float32(-0.25), np.bool_(True))
    assert token == Token(7, 8, "a", -0.25, True)
    assert [type(x) for x in (token.id, token.position, token.text, token.logprob, token.is_special)] == [
        int, int, str, float, bool,
    ]  # fmt: skip
    assert Token.__new__(Token, 7, position=8) == Token(7, 8)
    assert type(Token(True, 0).id) is int


# ---- TokenBatch ----


def test_a_batch_says_what_the_original_says():
    batch = TokenBatch(sequence_id=1)
    assert (repr(batch), batch.is_empty(), bool(batch), len(batch)) == (
        "TokenBatch(len=0, seq_id=Some(1), is_final=false)", True, False, 0,
    )  # fmt: skip
    batch.add(Token(5, 0, "a"))
    batch.extend([Token(6, 1), Token(7, 2, "b")])
    batch.is_final = True
    batch.sequence_id = None
    assert repr(batch) == "TokenBatch(len=3, seq_id=None, is_final=true)"
    assert (batch.text(), batch.token_ids(), batch.positions()) == ("ab", [5, 6, 7], [0, 1, 2])
    assert batch.get(2) == Token(7, 2, "b") and batch.get(3) is None
    with pytest.raises(OverflowError):
        batch.get(-1)
    batch.set_metadata("k", "v")
    assert batch.get_metadata("k") == "v" and batch.get_metadata("x") is None
    batch.metadata_dict()["k"] = "w"
    assert batch.metadata_dict() == {"k": "v"}
    assert batch.to_dicts()[0] == {"id": 5, "text": "a", "logprob": None, "position": 0, "is_special": False}
    assert batch.tokens()[0] is not batch.tokens()[0]
    batch.clear()
    assert batch.is_empty() and batch.metadata_dict() == {"k": "v"} and batch.is_final


def test_a_batch_is_a_sequence():
    items = [Token(i, i, str(i), -i / 2 if i % 2 else None) for i in range(10)]
    batch = TokenBatch.from_tokens(iter(items), sequence_id=3)
    assert [batch[0], batch[-1], batch[np.int64(3)]] == [items[0], items[9], items[3]]
    for part in (slice(2, 5), slice(None, None, -2), slice(8, 1, -3), slice(5, 5), slice(-3, None)):
        assert list(batch[part]) == items[part] and batch[part].sequence_id == 3
    assert batch[::-1].text() == "9876543210" and list(reversed(batch)) == items[::-1]
    assert items[4] in batch and Token(4, 5) not in batch
    for wrong in (10, -11):
        with pytest.raises(IndexError, match="the batch has 10"):
            batch[wrong]
    with pytest.raises(TypeError, match="not str"):
        batch["a"]
    batch.extend(batch)
    assert list(batch) == items + items
    assert copy.copy(batch) == batch and copy.copy(batch) is not batch
    other = TokenBatch()
    other.append([1, 2, 3])
    other.extend(batch[:2])
    assert [t.text for t in other] == [None, None, None, "0", "1"]


def test_iteration_is_over_what_was_there_when_it_began():
    batch = TokenBatch.from_tokens([Token(1, 0, "a"), Token(2, 1, "b")])
    seen = []
    for token in batch:
        seen.append(token.text)
        batch.add(Token(9, 9, "z"))
    assert seen == ["a", "b"] and len(batch) == 4
    rest = iter(batch)
    next(rest)
    batch.clear()
    batch.add(Token(5, 5))
    assert [t.text for t in rest] == ["b", "z", "z"] and list(batch) == [Token(5, 5)]


def test_columns_are_views_and_hold_the_batch_still():
    batch = TokenBatch.from_tokens([Token(1, 5, "a", -0.5), Token(2, 6)])
    ids, positions, logprobs = batch.ids, batch.positions, batch.logprobs
    assert (ids.dtype, positions.dtype, logprobs.dtype) == (np.uint32, np.uint32, np.float32)
    assert ids.tolist() == [1, 2] and positions.tolist() == [5, 6] and logprobs[0] == -0.5 and np.isnan(logprobs[1])
    assert not ids.flags.owndata and not ids.flags.writeable and np.shares_memory(ids, batch.ids)
    for change in (
        lambda: batch.add(Token(1, 0)),
        lambda: batch.append([1]),
        lambda: batch.extend([Token(1, 0)]),
        lambda: batch.extend(batch),
        batch.clear,
    ):
        with pytest.raises(BufferError, match="3 reader"):
            change()
    assert len(batch) == 2
    part = ids[1:]
    del ids, positions, logprobs
    assert part.tolist() == [2]
    with pytest.raises(BufferError, match="1 reader"):
        batch.clear()
    del part
    batch.clear()


def test_a_view_outlives_its_batch():
    part = TokenBatch.from_tokens([Token(1, 0), Token(2, 1)]).ids[1:]
    assert part.tolist() == [2]


def test_an_extend_that_is_refused_adds_nothing():
    batch = TokenBatch.from_tokens([Token(1, 0, "a")])
    for wrong in ([Token(2, 0, "b"), "x"], [Token(2, 0), Token(3, 0, "\ud800")], (Token(2, 0), None)):
        with pytest.raises((TypeError, ValueError)):
            batch.extend(wrong)
        assert list(batch) == [Token(1, 0, "a")] and batch.text() == "a"
    with pytest.raises(TypeError, match="Token objects, not str"):
        batch.add("x")
    with pytest.raises(TypeError, match="not iterable"):
        batch.extend(5)
    with pytest.raises(TypeError, match="ids must be an array of uint32 or a sequence of ints, not object"):
        batch.append(object())
    with pytest.raises(TypeError, match="buffer, not str"):
        TokenBatch.decode("abc")


def test_what_stands_beside_the_tokens_is_checked():
    batch = TokenBatch()
    for wrong in (-1, 2**32):
        with pytest.raises(OverflowError, match=str(wrong)):
            batch.sequence_id = wrong
    with pytest.raises(TypeError, match="not str"):
        TokenBatch("1")
    with pytest.raises(TypeError, match="is_final must be a bool, not int"):
        batch.is_final = 1
    with pytest.raises(TypeError):
        batch.set_metadata("k", 1)
    with pytest.raises(TypeError):
        hash(batch)
    assert TokenBatch(1) != TokenBatch() != 5


def test_pickle_takes_columns_out_of_band_and_keeps_what_stands_beside():
    batch = TokenBatch.from_tokens([Token(i, i, "é", -0.5) for i in range(5000)], sequence_id=7)
    batch.is_final = True
    batch.set_metadata("k", "v")
    buffers = []
    data = pickle.dumps(batch, 5, buffer_callback=buffers.append)
    assert len(buffers) == 4 and buffers[0].raw().nbytes == 20000
    back = pickle.loads(data, buffers=buffers)
    assert back == batch and back.metadata_dict() == {"k": "v"} and back.is_final
    with pytest.raises(BufferError):
        batch.clear()
    del buffers
    batch.clear()


def test_broken_text_is_replaced_as_python_does():
    data = bytes.fromhex("000000010000000001") + b"\x00\x05a\xff\xc3\xa9\xe2"
    assert Token.decode(data).text == "a�é�"
    assert TokenBatch.decode(b"\x00\x00\x01" + data).text() == "a�é�"
    assert TokenBatch.decode(b"\xfc\x00\x01" + bytes.fromhex("0000000100000000f8"))[0] == Token(1, 0)


def test_a_notebook_shows_a_table():
    batch = TokenBatch.from_tokens([Token(i, i, "<b>", -0.5) for i in range(50)])
    html = batch._repr_html_()
    assert "&lt;b&gt;" in html and "0.607" in html and "30 more" in html
