import array

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from dynamo.llm import (
    compute_block_hash_for_seq,
    compute_block_hash_for_seq_py,
    compute_block_hashes,
    compute_sequence_hashes,
    mm_hash,
)


def tokens_of(form):
    if isinstance(form, list):
        return form
    if "range" in form:
        return list(range(*form["range"]))
    x, n = form["lcg"]
    tokens = []
    for _ in range(n):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        tokens.append(x >> 32)
    return tokens


FORMS = {
    "list": list,
    "tuple": tuple,
    "array I": lambda t: array.array("I", t),
    "uint32": lambda t: np.array(t, np.uint32),
    "int64": lambda t: np.array(t, np.int64),
    "uint64": lambda t: np.array(t, np.uint64),
    "big-endian": lambda t: np.array(t, ">i8"),
    "every second": lambda t: np.repeat(np.array(t, np.uint32), 2)[::2],
    "backwards": lambda t: np.array(t[::-1], np.uint32)[::-1],
    "memoryview": lambda t: memoryview(np.array(t, np.uint32)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_published_hash_comes_out(vectors, form):
    for case in vectors["block_hash"]["cases"]:
        tokens, size, kwargs = FORMS[form](tokens_of(case["tokens"])), case["block_size"], dict(case.get("kwargs", {}))
        assert compute_block_hash_for_seq(tokens, size, **kwargs) == case["hashes"], case
        kwargs["eagle"] = bool(kwargs.pop("is_eagle", False))
        got = compute_block_hashes(tokens, size, **kwargs)
        assert got.dtype == np.uint64
        assert got.tolist() == case["hashes"]


def test_every_published_sequence_hash_comes_out(vectors):
    for case in vectors["sequence_hash"]["cases"]:
        local = compute_block_hash_for_seq(tokens_of(case["tokens"]), case["block_size"], **case["kwargs"])
        assert local == case["local"]
        assert compute_sequence_hashes(local).tolist() == case["sequence"]
        assert compute_sequence_hashes(np.array(local, np.uint64)).tolist() == case["sequence"]
        rest = compute_sequence_hashes(local[1:], parent=case["sequence"][0])
        assert rest.tolist() == case["sequence"][1:]


def test_the_old_name_is_the_same_function():
    assert compute_block_hash_for_seq_py is compute_block_hash_for_seq


@given(st.lists(st.integers(0, 2**32 - 1), max_size=300), st.integers(1, 80), st.booleans())
def test_a_block_hash_is_xxh3_of_its_tokens(tokens, size, eagle):
    want = []
    for start in range(0, len(tokens), size):
        window = tokens[start : start + size + eagle]
        if len(window) == size + eagle:
            want.append(xxhash.xxh3_64_intdigest(np.array(window, "<u4").tobytes(), 1337))
    assert compute_block_hash_for_seq(tokens, size, is_eagle=eagle) == want
    assert compute_block_hashes(tokens, size, eagle=eagle).tolist() == want


def test_range_bytearray_and_small_arrays_are_sequences_of_ints():
    want = compute_block_hash_for_seq(list(range(64)), 16)
    for tokens in (
        range(64),
        bytearray(range(64)),
        bytes(range(64)),
        np.arange(64, dtype=np.int8),
        np.arange(64, dtype="u2"),
    ):
        assert compute_block_hash_for_seq(tokens, 16) == want


def test_numpy_integers_in_a_list_are_tokens():
    assert compute_block_hash_for_seq([np.int64(1), np.uint8(2), True, 4], 4) == compute_block_hash_for_seq(
        [1, 2, 1, 4], 4
    )


@pytest.mark.parametrize(
    ("tokens", "size", "error"),
    [
        ([1, 2], 0, ValueError),
        ([1, 2], -1, OverflowError),
        ([-1], 1, OverflowError),
        ([2**32], 1, OverflowError),
        ([2**70], 1, OverflowError),
        (np.array([-1]), 1, OverflowError),
        (np.array([2**32]), 1, OverflowError),
        (np.array([-1], np.int16), 1, OverflowError),
        (np.array([2**32], np.uint64), 1, OverflowError),
        ((i for i in range(4)), 2, TypeError),
        ([1.0], 1, TypeError),
        (["1"], 1, TypeError),
        ("1234", 2, TypeError),
        ({1: 2}, 1, TypeError),
        (None, 1, TypeError),
        (7, 1, TypeError),
        (np.array([1.0]), 1, TypeError),
        (np.zeros((2, 2), np.uint32), 1, ValueError),
    ],
)
def test_what_are_not_tokens_is_refused(tokens, size, error):
    with pytest.raises(error):
        compute_block_hash_for_seq(tokens, size)


def test_a_refusal_names_the_token():
    with pytest.raises(OverflowError, match="token 1 is 4294967296"):
        compute_block_hash_for_seq([1, 2**32], 1)
    with pytest.raises(OverflowError, match="token 1 is -5"):
        compute_block_hash_for_seq(np.array([1, -5]), 1)


def test_images_need_their_offsets():
    with pytest.raises(ValueError, match="offsets"):
        compute_block_hash_for_seq([1], 1, block_mm_infos=[{"mm_objects": [{"mm_hash": 1}]}])


def test_hashes_may_be_signed_as_some_engines_send_them():
    assert compute_sequence_hashes([-1]).tolist() == [2**64 - 1]
    assert compute_sequence_hashes(np.array([-1])).tolist() == [2**64 - 1]
    with pytest.raises(OverflowError):
        compute_sequence_hashes([2**64])
    with pytest.raises(TypeError):
        compute_sequence_hashes(np.array([1], np.uint32))


def test_an_image_is_named_by_hex_digits_or_by_any_text():
    assert mm_hash("00000000000000ff" + "0" * 48) == 255
    assert mm_hash("cat.png") == xxhash.xxh3_64_intdigest(b"cat.png")


def test_a_list_that_changes_while_it_is_read_is_noticed():
    class Shrinks:
        def __index__(self):
            tokens.clear()
            return 1

    tokens = [1, Shrinks(), 2, 3]
    with pytest.raises(RuntimeError, match="changed"):
        compute_block_hash_for_seq(tokens, 1)
