"""The detokeniser, the stop matcher and the batch, seen from Python."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo._token_batch import TokenBatch
from dynamo._tokens import Detokenizer, StopMatcher, StopStrings, Vocab

BYTES = Vocab([bytes([i]) for i in range(256)])
SCRIPTS = [
    "Grüße aus Köln", "Γειά σου Κόσμε", "Привет, мир", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया",
    "สวัสดีชาวโลก", "こんにちは世界", "안녕하세요 세계", "你好，世界", "𐍈𐌰𐌻𐌻𐍉", "👩‍👩‍👧‍👦 👍🏽",
    "🇪🇺", "a\u0301e\u0308", "\x00\x01\x7f",
]  # fmt: skip


def pieces(data: bytes, rng: random.Random) -> list[bytes]:
    out = []
    while data:
        n = rng.randint(1, 4)
        out.append(data[:n])
        data = data[n:]
    return out


@pytest.mark.parametrize("text", SCRIPTS)
def test_every_script_survives_being_cut_anywhere(text):
    rng = random.Random(1)
    for _ in range(20):
        tokens = pieces(text.encode(), rng)
        detok = Detokenizer(Vocab(tokens))
        shown = ""
        for i in range(len(tokens)):
            shown += detok.push([i])
            assert text.startswith(shown)
        assert shown + detok.end() == text


@given(st.binary(max_size=64), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_broken_bytes_are_replaced_as_python_does(data, piece):
    detok = Detokenizer(BYTES)
    ids = np.frombuffer(data, np.uint8).astype(np.uint32)
    # When a bad byte is given up may differ from Python's reader, which waits a little longer for some; the text not.
    shown = "".join(detok.push(ids[i : i + piece]) for i in range(0, len(data), piece))
    assert shown + detok.end() == data.decode("utf-8", "replace")


def test_special_tokens_and_the_first_space():
    vocab = Vocab([b"<s>", b" Hello", b" there"], special=[0], strip_leading_space=True)
    assert Detokenizer(vocab).push([0, 1, 2]) == " Hello there"
    assert Detokenizer(vocab, at_start=True).push([0, 1, 2]) == "Hello there"
    assert Detokenizer(vocab, skip_special_tokens=False).push([0, 1]) == "<s> Hello"
    assert (len(vocab), vocab[1], vocab.is_special(0)) == (3, b" Hello", True)
    with pytest.raises(ValueError, match="special token 7"):
        Vocab([b"a"], special=[7])
    with pytest.raises(IndexError):
        vocab[3]


def naive_stop(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        hits = [s for s in stops if text[:end].endswith(s)]
        if hits:
            best = max(hits, key=len)
            return text[: end if include else end - len(best)], best
    return text, None


@given(
    st.text("abc€", max_size=30),
    st.lists(st.text("abc€", min_size=1, max_size=5), min_size=1, max_size=6),
    st.booleans(),
    st.integers(1, 7),
)
@settings(max_examples=300, deadline=None)
def test_stop_strings_agree_with_the_naive_search(text, stops, include, piece):
    want, hit = naive_stop(text, stops, include)
    matcher = StopMatcher(stops, include_stop=include)
    shown, done = "", False
    for i in range(0, len(text), piece):
        part, done = matcher.push(text[i : i + piece])
        shown += part
        assert want.startswith(shown)
        if done:
            break
    assert (shown + matcher.end(), matcher.matched) == (want, hit)


def test_what_may_become_a_stop_string_is_held_back_and_no_more():
    matcher = StopMatcher(StopStrings(["STOP"]))
    assert matcher.push("go ST") == ("go ", False)
    assert matcher.held == 2
    assert matcher.push("AY") == ("STAY", False)
    with pytest.raises(ValueError, match="empty"):
        StopStrings([""])


def test_a_batch_shows_its_columns_without_copies():
    batch = TokenBatch()
    assert batch.ids.dtype == np.uint32 and len(batch.ids) == 0
    batch.append([5, 6], logprobs=[-0.5, None])
    batch.append(np.array([7], np.uint32), positions=[40])
    ids = batch.ids
    assert ids.tolist() == [5, 6, 7] and not ids.flags.owndata and not ids.flags.writeable
    with pytest.raises(BufferError, match="1 reader"):
        batch.append([8])
    del ids
    assert batch.positions.tolist() == [0, 1, 40]
    assert batch.logprobs[0] == -0.5 and np.isnan(batch.logprobs[1:]).all()
    batch.clear()
    assert len(batch) == 0 and batch.nbytes > 0
    with pytest.raises(ValueError, match="differ in length"):
        batch.append([1], positions=[1, 2])
