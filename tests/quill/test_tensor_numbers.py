"""What tensors compute, with NumPy and ml_dtypes as the judges."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo.quill import DType, Tensor

NARROW = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]
REAL = ["float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2"]
WHOLE = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
RNG = np.random.default_rng(7)


def np_type(name):
    return DType.from_name(name).numpy


def of(array):
    return Tensor.from_numpy(array, copy=False)


def same(ours, theirs):
    """Bit for bit, but any NaN is like any other of its sign."""
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    nan = np.isnan(b)
    assert np.array_equal(np.isnan(a), nan)
    assert np.array_equal(a[~nan], b[~nan])
    assert np.array_equal(np.signbit(a), np.signbit(b))


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_every_code_widens_to_its_value(name):
    size = DType.from_name(name).element_size
    codes = np.arange(1 << 8 * size, dtype=f"uint{8 * size}")
    wide = of(codes).view(name).astype("float32").to_numpy()
    same(wide, codes.view(np_type(name)).astype(np.float32))


def edges():
    """float32 of every kind: all upper halves with tails around ties, and anything."""
    high = np.arange(65536, dtype=np.uint32) << 16
    tails = [0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF]
    bits = np.concatenate([high | tail for tail in tails] + [RNG.integers(0, 1 << 32, 200_000, np.uint32)])
    return bits.view(np.float32)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value")
def test_float32_is_rounded_as_the_judges_do(name):
    array = edges()
    same(of(array).astype(name).to_numpy(), array.astype(np_type(name)))


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_float64_is_rounded_once():
    # A value just above the middle of two float16, too close to it for a float32 to tell.
    middle = 1 + 2**-11
    array = np.array(
        [middle, np.nextafter(middle, 2), np.nextafter(middle, 0), -np.nextafter(middle, 2), 65519.999999999]
    )
    same(of(array).astype("float16").to_numpy(), array.astype(np.float16))
    wild = np.concatenate([RNG.standard_normal(50_000) * 10.0 ** RNG.integers(-12, 12, 50_000), array])
    same(of(wild).astype("float16").to_numpy(), wild.astype(np.float16))
    same(of(wild).astype("float32").to_numpy(), wild.astype(np.float32))
    ours = of(np.array([1 + 2**-8 + 2**-40])).astype("bfloat16").to_numpy().astype(float)
    assert ours[0] == 1 + 2**-7  # by way of a float32 it would be the tie, and 1


@pytest.mark.parametrize("source", [*WHOLE, "bool", "float32", "float64"])
@pytest.mark.parametrize("target", [*WHOLE, "bool", "float32", "float64", "complex64", "float16"])
def test_numbers_that_fit_become_what_numpy_makes_of_them(source, target):
    array = RNG.integers(0, 100, 3000).astype(source)
    if np.dtype(source).kind in "if" and target[0] != "u":
        array[::3] = -array[::3]
    if np.dtype(source).kind == "f" and target not in WHOLE:
        array += np.dtype(source).type(0.375)
    assert np.array_equal(of(array).astype(target).to_numpy(), array.astype(target))


@pytest.mark.parametrize("source", WHOLE)
@pytest.mark.parametrize("target", [*WHOLE, "float32", "float64"])
def test_wide_integers_wrap_or_round_as_in_numpy(source, target):
    array = RNG.integers(0, 1 << 64, 1000, np.uint64).view(source)
    assert np.array_equal(of(array).astype(target).to_numpy(), array.astype(target))


def test_integers_become_narrow_floats_in_one_rounding():
    array = np.array([257, 259, (1 << 24) + (1 << 16) + 1, -((1 << 40) + (1 << 32) + 1), (1 << 62) + (1 << 54) + 1])
    got = of(array).astype("bfloat16").to_numpy().astype(float).tolist()
    assert got == [256, 260, (1 << 24) + (1 << 17), -float((1 << 40) + (1 << 33)), float((1 << 62) + (1 << 55))]


def test_what_does_not_fit_an_integer_is_bounded():
    array = np.array([np.nan, np.inf, -np.inf, 1e30, -1.9, 255.9])
    assert of(array).astype("uint8").to_numpy().tolist() == [0, 255, 0, 255, 0, 255]
    assert of(array).astype("int64").to_numpy().tolist() == [0, 2**63 - 1, -(2**63), 2**63 - 1, -1, 255]
    with pytest.raises(ValueError, match="complex64 as float32 would lose its imaginary part"):
        Tensor([1], dtype="complex64").astype("float32")


@pytest.mark.parametrize("name", [*REAL, *WHOLE, "bool", "complex64"])
def test_reductions_agree_with_numpy(name):
    values = RNG.integers(0, 100, (41, 67))
    array = (values > 50 if name == "bool" else values).astype(np_type(name))
    wide = array.astype(np.complex128 if name == "complex64" else np.float64)
    for tensor, judge in [(of(array), wide), (of(array)[::3, ::-2], wide[::3, ::-2]), (of(array).T, wide.T)]:
        assert tensor.sum() == judge.sum()
        assert math.isclose(abs(tensor.mean()), abs(judge.mean()))
        assert tensor.dot(tensor) == (judge * judge).sum()
        assert tensor.equals(tensor.copy()) and tensor == tensor.copy()
        assert tensor.allclose(judge.astype(np.complex64 if name == "complex64" else np.float64))
        if name != "complex64":
            assert (tensor.min(), tensor.max()) == (judge.min(), judge.max())
            assert (tensor.argmin(), tensor.argmax()) == (judge.argmin(), judge.argmax())


@given(st.lists(st.floats(width=32), min_size=1, max_size=80), st.integers(-3, 3).filter(bool))
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_floats_reduce_as_in_numpy(values, step):
    array = np.array(values, np.float32)[::step]
    tensor = of(array)
    assert np.array_equal([tensor.min(), tensor.max()], [array.min(), array.max()], equal_nan=True)
    assert (tensor.argmin(), tensor.argmax()) == (array.argmin(), array.argmax())
    assert tensor.equals(array.copy()) == np.array_equal(array, array)
    assert tensor.equals(array.copy(), equal_nan=True)
    ours, exact = tensor.sum(), float(array.sum(dtype=np.float64))
    assert math.isnan(ours) == math.isnan(exact)
    assert (
        math.isnan(ours)
        or ours == exact
        or math.isclose(ours, exact, rel_tol=1e-9, abs_tol=1e-6 * max(map(abs, values)))
    )


def test_the_sum_is_at_least_as_exact_as_numpys():
    array = RNG.standard_normal(1_000_003).astype(np.float32)
    exact = math.fsum(array.tolist())
    assert abs(of(array).sum() - exact) <= abs(float(array.sum()) - exact)
    double = RNG.standard_normal(1_000_003) * 1e6
    exact = math.fsum(double.tolist())
    assert abs(of(double).sum() - exact) <= max(abs(double.sum() - exact), 1e-6)


def test_sums_of_integers_are_exact():
    assert Tensor.full([3], 2**63 - 1, "int64").sum() == 3 * (2**63 - 1)
    assert Tensor.full([3], -(2**63), "int64").sum() == -3 * 2**63
    assert Tensor.full([5], 2**64 - 1, "uint64").sum() == 5 * (2**64 - 1)
    assert Tensor.full([1000], 255, "uint8").sum() == 255_000
    assert Tensor.zeros([0]).sum() == 0 and math.isnan(Tensor.zeros([0]).mean())


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=9),
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=9),
    st.sampled_from([0.0, 0.1, 1.0]),
)
@settings(max_examples=200, deadline=None)
def test_closeness_is_numpys(a, b, tolerance):
    n = min(len(a), len(b))
    x, y = np.array(a[:n]), np.array(b[:n], np.float32)
    assert of(x).allclose(y, rtol=tolerance, atol=tolerance / 2) == np.allclose(
        x, y, rtol=tolerance, atol=tolerance / 2
    )


def test_comparison_has_its_corners():
    nan, inf = float("nan"), float("inf")
    assert Tensor([0.0]) == Tensor([-0.0]) and Tensor([nan]) != Tensor([nan])
    assert Tensor([nan]).allclose(Tensor([nan]), equal_nan=True) and not Tensor([nan]).allclose(Tensor([nan]))
    assert Tensor([inf]).allclose(Tensor([inf])) and not Tensor([inf]).allclose(Tensor([-inf]))
    assert not Tensor([1e30]).allclose(Tensor([inf]))
    assert Tensor([1.0]) != Tensor([1.0], dtype="float64") and Tensor([1.0]) != Tensor([[1.0]])
    assert Tensor([1.0]).__eq__(1.0) is NotImplemented and (Tensor([1.0]) == "x") is False
    with pytest.raises(ValueError, match="shapes differ"):
        Tensor([1.0]).allclose(np.ones((1, 1)))
    with pytest.raises(ValueError, match="float32 with int8: the types must be the same"):
        Tensor([1.0]).dot(Tensor([1], dtype="int8"))
    with pytest.raises(ValueError, match="1 elements with 2"):
        Tensor([1.0]).dot(Tensor([1.0, 2.0]))
    for bad in (Tensor.zeros([0]), Tensor([1j], dtype="complex64")):
        for name in ("min", "max", "argmin", "argmax"):
            with pytest.raises(ValueError, match=r"no smallest or largest|no order"):
                getattr(bad, name)()


def test_misaligned_memory_is_read_right():
    raw = np.zeros(4 * 100 + 1, np.uint8)
    values = RNG.standard_normal(100).astype(np.float32)
    raw[1:] = values.view(np.uint8)
    array = raw[1:].view(np.float32)
    tensor = of(array)
    assert tensor.sum() == of(values).sum() and tensor.argmax() == values.argmax()
    same(tensor.astype("bfloat16").to_numpy(), values.astype(ml_dtypes.bfloat16))
    assert tensor.equals(values) and tensor[3] == values[3]
