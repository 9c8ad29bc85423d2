"""Whatever goes out of a type comes back the same, by every way there is."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo._dtype import supported_names
from dynamo.quill import DType, Tensor, TensorMeta, load_tensors, save_tensors

DTYPES = st.sampled_from(supported_names().split(", ")).map(DType.from_name)
NAMES = st.none() | st.text(min_size=1, max_size=20)
TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5)
SHAPES = st.lists(st.integers(0, 4), max_size=4)


@st.composite
def tensors(draw):
    """Any bits of any type, in any order in memory: C, turned round, with gaps, backwards."""
    dtype, shape, name = draw(DTYPES), draw(SHAPES), draw(NAMES)
    size = int(np.prod(shape, dtype=int)) * dtype.element_size
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype.name == "bool":
        data = bytes(byte & 1 for byte in data)
    tensor = Tensor.from_bytes(data, shape, dtype, name)
    if tensor.ndim and draw(st.booleans()):
        tensor = tensor.transpose(draw(st.permutations(range(tensor.ndim))))
    if tensor.ndim and draw(st.booleans()):
        tensor = tensor[tuple(slice(None, None, draw(st.sampled_from([1, 2, -1, -2]))) for _ in range(tensor.ndim))]
    return tensor


def same(back, tensor, named=True):
    assert (back.dtype, back.shape, back.tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes())
    assert not named or back.name == tensor.name


@given(tensors(), st.integers(1, 100))
@settings(max_examples=150, deadline=None)
def test_tensors(tensor, chunk):
    same(Tensor.from_frames(tensor.to_frames(chunk)), tensor)
    same(Tensor.from_frames(tensor.framed(chunk)), tensor)
    same(Tensor.from_bytes(tensor.tobytes(), tensor.shape, tensor.dtype, tensor.name), tensor)
    same(Tensor.from_bytes(tensor.contiguous().view("uint8") if tensor.ndim else tensor.tobytes(), tensor.shape,
                           tensor.dtype, tensor.name, copy=False), tensor)  # fmt: skip
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        same(pickle.loads(pickle.dumps(tensor, protocol)), tensor)
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(tensor, protocol=5, buffer_callback=buffers.append)
    same(pickle.loads(head, buffers=buffers), tensor)
    for other in (copy.copy(tensor), copy.deepcopy(tensor), tensor.copy(), tensor.contiguous(), tensor[...]):
        same(other, tensor)
    same(Tensor.from_numpy(tensor.to_numpy(), tensor.name), tensor)
    same(Tensor.from_numpy(tensor.to_numpy(copy=False), copy=False), tensor, named=False)
    same(tensor.renamed("x").renamed(tensor.name), tensor)
    if tensor.dtype.name != "complex64" or tensor.dtype.element_size == 8:
        same(tensor.astype(tensor.dtype), tensor)


@given(tensors())
@settings(max_examples=100, deadline=None)
def test_tensors_by_dlpack(tensor):
    for version in (None, (1, 0)):
        same(Tensor.from_dlpack(tensor.__dlpack__(max_version=version)), tensor, named=False)
    if tensor.dtype.name not in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        assert np.from_dlpack(tensor).tobytes() == tensor.tobytes() == memoryview(tensor).tobytes()


@given(st.lists(tensors(), max_size=4), st.dictionaries(TEXTS, TEXTS, max_size=3))
@settings(max_examples=30, deadline=None)
def test_tensors_in_files(tmp_path_factory, items, metadata):
    path = tmp_path_factory.mktemp("round") / "some.safetensors"
    named = {f"{i} {tensor.name}".replace("\0", "0"): tensor for i, tensor in enumerate(items)}
    save_tensors(path, named, metadata=metadata)
    file = load_tensors(path)
    assert set(file) == set(named) and file.metadata == metadata
    for name, tensor in named.items():
        same(file[name], tensor, named=False)
        assert file[name].name == name


@given(SHAPES, DTYPES, NAMES)
@settings(max_examples=200, deadline=None)
def test_metas(shape, dtype, name):
    meta = TensorMeta(shape, dtype, name)
    assert meta == Tensor.zeros(shape, dtype, name).meta == pickle.loads(pickle.dumps(meta)) == copy.deepcopy(meta)
    assert hash(meta) == hash(TensorMeta(tuple(shape), dtype.name, name))
    assert (meta.shape, meta.dtype, meta.name) == (shape, dtype, name)
    assert meta.size_bytes == meta.nbytes == meta.num_elements * dtype.element_size


@pytest.mark.parametrize("name", supported_names().split(", "))
def test_dtypes(name):
    dtype = DType.from_name(name)
    assert DType.from_numpy(dtype.numpy) is dtype and DType.from_numpy(dtype.numpy.name) is dtype
    assert pickle.loads(pickle.dumps(dtype)) is dtype and DType.from_name(str(dtype)) is dtype


@given(st.lists(st.floats(width=32), max_size=50))
@settings(max_examples=100, deadline=None)
def test_sequences_of_numbers(values):
    back = Tensor(values).tolist()
    assert np.array_equal(np.array(back, np.float32), np.array(values, np.float32), equal_nan=True)
    whole = [int(value) % 256 if np.isfinite(value) else 0 for value in values]
    assert Tensor(whole, dtype="uint8").tolist() == whole
