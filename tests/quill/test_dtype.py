"""Element types: the table of Quill's nine, the newer ones, what they are to NumPy."""

import copy
import pickle
import sys

import ml_dtypes
import numpy as np
import pytest

import dynamo
from dynamo.quill import DType, Tensor

# name: constructor, code, element_size, is_float, is_integer, is_signed, numpy, (DLPack code, bits), typestr
QUILL = {
    "float32": ("float32", 1, 4, True, False, True, np.float32, (2, 32), "<f4"),
    "float16": ("float16", 2, 2, True, False, True, np.float16, (2, 16), "<f2"),
    "bfloat16": ("bfloat16", 3, 2, True, False, True, ml_dtypes.bfloat16, (4, 16), "<V2"),
    "float64": ("float64", 4, 8, True, False, True, np.float64, (2, 64), "<f8"),
    "int8": ("int8", 5, 1, False, True, True, np.int8, (0, 8), "|i1"),
    "int32": ("int32", 6, 4, False, True, True, np.int32, (0, 32), "<i4"),
    "int64": ("int64", 7, 8, False, True, True, np.int64, (0, 64), "<i8"),
    "uint8": ("uint8", 8, 1, False, True, False, np.uint8, (1, 8), "|u1"),
    "bool": ("bool_", 9, 1, False, False, False, np.bool_, (6, 8), "|b1"),
}
NEWER = {
    "float8_e4m3fn": ("float8_e4m3fn", 10, 1, True, False, True, ml_dtypes.float8_e4m3fn, (10, 8), "|V1"),
    "float8_e5m2": ("float8_e5m2", 11, 1, True, False, True, ml_dtypes.float8_e5m2, (12, 8), "|V1"),
    "int16": ("int16", 12, 2, False, True, True, np.int16, (0, 16), "<i2"),
    "uint16": ("uint16", 13, 2, False, True, False, np.uint16, (1, 16), "<u2"),
    "uint32": ("uint32", 14, 4, False, True, False, np.uint32, (1, 32), "<u4"),
    "uint64": ("uint64", 15, 8, False, True, False, np.uint64, (1, 64), "<u8"),
    "complex64": ("complex64", 16, 8, False, False, True, np.complex64, (5, 64), "<c8"),
}
ALL = {**QUILL, **NEWER}


@pytest.mark.parametrize("name", ALL)
def test_a_type_is_what_the_table_says(name):
    make, code, size, is_float, is_integer, is_signed, numpy_type, dlpack, typestr = ALL[name]
    dtype = getattr(DType, make)()
    assert (dtype.name, str(dtype), repr(dtype)) == (name, name, f"DType.{name}")
    assert (dtype.code, dtype.element_size, dtype.dlpack, dtype.typestr) == (code, size, dlpack, typestr)
    assert (dtype.is_float(), dtype.is_integer(), dtype.is_signed()) == (is_float, is_integer, is_signed)
    assert dtype.is_complex() == (name == "complex64")
    assert dtype.numpy == np.dtype(numpy_type) and isinstance(dtype.numpy, np.dtype)
    assert DType.from_numpy(numpy_type) is DType.from_numpy(np.dtype(numpy_type)) is DType.from_name(name) is dtype


def test_there_is_one_object_of_each():
    assert DType.float32() is DType.float32() is dynamo.DType.float32()
    assert len({getattr(DType, row[0])() for row in ALL.values()}) == len(ALL)
    assert DType.float32() == DType.float32() and DType.float32() != DType.float16()
    assert DType.float32() != "float32" and (DType.float32() == 1) is False
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(DType.bfloat16(), protocol)) is DType.bfloat16()
    assert copy.deepcopy(DType.int8()) is copy.copy(DType.int8()) is DType.int8()


def test_there_is_no_other_way_to_make_one():
    with pytest.raises(TypeError, match="is made by"):
        DType()
    with pytest.raises(TypeError, match="no dtype is called 'float31': there are float32"):
        DType.from_name("float31")
    with pytest.raises(TypeError, match="Unsupported numpy dtype: complex128"):
        DType.from_numpy(np.complex128)
    with pytest.raises(TypeError, match="big-endian"):
        DType.from_numpy(">i4")
    with pytest.raises(TypeError, match="must be a DType, a name or a numpy"):
        Tensor.zeros([1], object())
    with pytest.raises(AttributeError):
        DType.float32().name = "x"


def test_without_ml_dtypes_bits_are_shown_and_it_is_said(run_python):
    code = """
import sys, warnings
sys.modules["ml_dtypes"] = None
from dynamo.quill import DType, Tensor
t = Tensor([1.0, -2.0]).astype("bfloat16")
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    array = t.to_numpy()
assert array.dtype == "uint16" and array.tolist() == [0x3F80, 0xC000], array
assert "Install ml_dtypes" in str(seen[0].message)
assert t.astype("float32").to_numpy().tolist() == [1, -2]
print("fine")
"""
    process = run_python("-c", code)
    assert process.communicate(timeout=60)[0] == "fine\n"


def test_ml_dtypes_is_not_loaded_for_types_that_numpy_has(run_python):
    process = run_python(
        "-c", "import sys, dynamo.quill as q; q.Tensor([1.0]).to_numpy(); print('ml_dtypes' in sys.modules)"
    )
    assert process.communicate(timeout=60)[0] == "False\n"
    assert "ml_dtypes" in sys.modules
