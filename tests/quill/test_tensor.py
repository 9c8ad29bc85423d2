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
