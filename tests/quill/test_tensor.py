"""Tensors: what they keep, what they refuse, whose memory they show."""

import ml_dtypes
import numpy as np
import pytest

from dynamo.quill import DType, Tensor, TensorMeta


def test_numbers_come_back_as_they_went_in():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = Tensor.from_numpy(array, name="w")
    assert (tensor.name, tensor.shape, tensor.dtype, tensor.ndim) == ("w", [2, 3], DType.float32(), 2)
    assert (tensor.num_elements, tensor.size_bytes, len(tensor)) == (6, 24, 6)
    back = tensor.to_numpy()
    assert np.array_equal(back, array) and back.flags.writeable
    back[0, 0] = 9
    assert tensor.to_numpy()[0, 0] == 0
    assert tensor.tobytes() == array.tobytes()


def test_a_view_shows_the_array_and_a_copy_does_not():
    array = np.zeros(3, np.int64)
    view, copy = Tensor.from_numpy(array, copy=False), Tensor.from_numpy(array)
    array[0] = 5
    assert view.to_numpy()[0] == 5 and copy.to_numpy()[0] == 0


def test_swapped_and_object_arrays_are_refused():
    with pytest.raises(TypeError, match="big-endian"):
        Tensor.from_numpy(np.zeros(2, ">f4"))
    with pytest.raises(TypeError, match=r"Unsupported numpy dtype: object\. Supported: float32, float64"):
        Tensor.from_numpy(np.zeros(2, object))
    with pytest.raises(TypeError, match="complex128"):
        Tensor.from_numpy(np.zeros(2, np.complex128))


def test_bfloat16_comes_through_ml_dtypes():
    array = np.arange(4).astype(ml_dtypes.bfloat16)
    tensor = Tensor.from_numpy(array)
    assert tensor.dtype is DType.bfloat16()
    assert tensor.to_numpy().dtype == ml_dtypes.bfloat16 and np.array_equal(tensor.to_numpy(), array)


def test_wrong_sizes_are_named():
    with pytest.raises(
        ValueError, match=r"Data size 10 does not match expected size 16 for shape \[2, 2\] and dtype float32"
    ):
        Tensor.from_bytes(b"0123456789", [2, 2], DType.float32())
    for shape in ([-1], [1 << 63], [1 << 40, 1 << 40], [0, 1 << 40, 1 << 40]):
        with pytest.raises(OverflowError):
            TensorMeta(shape, DType.float32())
        with pytest.raises(OverflowError):
            Tensor.zeros(shape, DType.float32())


# ---- what programs for Quill rely on ----


def test_old_programs_find_what_they_know():
    zeros = Tensor.zeros([2, 3], DType.float32())
    assert repr(zeros) == "Tensor(name='unnamed', shape=[2, 3], dtype=float32)"
    assert repr(Tensor.zeros([1], DType.int8(), name="w")) == "Tensor(name='w', shape=[1], dtype=int8)"
    assert zeros.tobytes() == bytes(24) and type(zeros.tobytes()) is bytes
    assert len(zeros) == zeros.num_elements == 6 and bool(zeros) and not Tensor.zeros([2, 0], DType.int8())
    assert zeros.shape == [2, 3] and type(zeros.shape) is list and zeros.name is None
    assert (zeros.meta.size_bytes, zeros.size_bytes, zeros.ndim, zeros.dtype) == (24, 24, 2, DType.float32())
    with pytest.raises(AttributeError):
        zeros.shape = [6]


def test_what_looks_like_an_array_is_one():
    class Lookalike:
        shape, dtype = (2, 1), np.dtype("int16")

        def tobytes(self):
            return b"\1\0\2\0"

    assert Tensor.from_numpy(Lookalike(), "n").tolist() == [[1], [2]]
    Lookalike.dtype = np.dtype(">i2")
    with pytest.raises(TypeError, match="big-endian"):
        Tensor.from_numpy(Lookalike())
    with pytest.raises(TypeError, match="holds no array"):
        Tensor.from_numpy(object())


def test_names_are_shown_as_they_are():
    assert repr(TensorMeta([1], "int8", "it's\n")) == "TensorMeta(name='it's\n', shape=[1], dtype=int8)"
    assert repr(Tensor([1.0], name="a'b")) == "Tensor(name='a'b', shape=[1], dtype=float32)"


def test_from_bytes_takes_bytes_bytearrays_and_lists():
    for data in (b"\1\0\2\0", bytearray(b"\1\0\2\0"), [1, 0, 2, 0], memoryview(b"\1\0\2\0")):
        assert Tensor.from_bytes(data, [2], DType.int16(), name="n").tolist() == [1, 2]
    with pytest.raises(TypeError, match="must be bytes-like"):
        Tensor.from_bytes("ab", [2], DType.int8())
    with pytest.raises(TypeError, match="without a copy it must be bytes-like"):
        Tensor.from_bytes([1], [1], DType.int8(), copy=False)
    with pytest.raises(ValueError, match="Data size 1 does not match expected size 0"):
        Tensor.from_bytes(b"x", [0], DType.int8())


def test_memory_that_was_lent_is_shown():
    lender = bytearray(8)
    tensor = Tensor.from_bytes(lender, [2], "float32", copy=False)
    lender[3] = 0x40
    assert tensor[0] == 2.0
    with pytest.raises(BufferError):
        lender.append(0)  # it is lent
    del tensor
    lender.append(0)


def test_sequences_become_tensors():
    assert Tensor([1.0, 2.0, 3.0]).dtype is DType.float32()
    assert Tensor([1, True, 2.5], name="x").tolist() == [1.0, 1.0, 2.5]
    assert Tensor(range(3), dtype="int64").tolist() == [0, 1, 2] and Tensor((), dtype="bool").shape == [0]
    assert Tensor([[1, 2], [3, 4]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert Tensor([1, 2j], dtype="complex64").tolist() == [1, 2j]
    assert Tensor(np.arange(3)).dtype is DType.int64() and Tensor(np.arange(3), DType.float32()).dtype.name == "float32"
    assert Tensor([2**63 - 1, -(2**63)], dtype="int64").tolist() == [2**63 - 1, -(2**63)]
    same = Tensor(tensor := Tensor([1.0]))
    assert same == tensor and not np.shares_memory(np.asarray(same), np.asarray(tensor))
    for bad, text in [("abc", "is a str"), ({1: 2}, "is a dict"), (5, "is a int"), ([None], "element 0 is a NoneType")]:
        with pytest.raises(TypeError, match=text):
            Tensor(bad)
    with pytest.raises(OverflowError, match="300 does not fit uint8: 0 to 255"):
        Tensor([300], dtype="uint8")
    with pytest.raises(TypeError):
        Tensor([1.5], dtype="int8")


def test_tensors_of_one_value():
    assert Tensor.full([2, 2], 7, "int8").tolist() == [[7, 7], [7, 7]]
    assert Tensor.full([100_003], 0.5, DType.bfloat16()).sum() == 100_003 / 2
    assert Tensor.full([], 3).item() == 3.0 and Tensor.full([0], 3).tolist() == []
    assert Tensor.empty([5], "int16").shape == [5] and Tensor.zeros(4).shape == [4]
    assert Tensor.zeros([1 << 21], "int64").sum() == 0  # pages of its own
    with pytest.raises(ValueError, match="item"):
        Tensor([1.0, 2.0]).item()


@pytest.mark.parametrize(("shape", "error", "text"), [
    ("12", TypeError, "must be a sequence of ints"),
    (3.5, TypeError, "must be a sequence of ints"),
    ([1.5], TypeError, "dimension 0 is a float"),
    ([1] * 65, ValueError, "at most 64"),
    ([-1], OverflowError, "must be 0 to"),
    ([1 << 64], OverflowError, "must be 0 to"),
])  # fmt: skip
def test_bad_shapes_are_named(shape, error, text):
    for make in (Tensor.zeros, Tensor.empty, lambda s, d: TensorMeta(s, d), lambda s, d: Tensor.from_bytes(b"", s, d)):
        with pytest.raises(error, match=text):
            make(shape, "float32")


def test_names_are_texts():
    for make in (
        lambda: Tensor([1.0], name=3),
        lambda: Tensor.zeros([1], name=3),
        lambda: Tensor.from_numpy(np.zeros(1), 3),
    ):
        with pytest.raises(TypeError, match="name is a int"):
            make()
