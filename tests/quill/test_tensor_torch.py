"""Tensors beside torch, where it is installed: one memory in both directions."""

import gc
import weakref

import numpy as np
import pytest

from dynamo.quill import Tensor

torch = pytest.importorskip("torch")

TYPES = ["float32", "float16", "bfloat16", "float64", "int8", "int32", "int64", "uint8", "bool", "int16", "complex64"]
NEWER = ["float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"]  # of torch 2.1 to 2.3


def address(tensor):
    return np.asarray(tensor.view("uint8") if tensor.ndim else tensor).__array_interface__["data"][0]


@pytest.mark.parametrize("name", TYPES + NEWER)
def test_torch_sees_our_memory(name):
    kind = getattr(torch, name, None)
    if kind is None:
        pytest.skip(f"this torch has no {name}")
    tensor = Tensor([[0, 1, 1], [1, 0, 1]], dtype=name)
    try:
        theirs = torch.from_dlpack(tensor)
    except RuntimeError as error:
        assert name.startswith("float8"), error  # DLPack had no code for it before 1.1
        pytest.skip(str(error))
    assert theirs.dtype is kind and tuple(theirs.shape) == (2, 3) and theirs.data_ptr() == address(tensor)
    theirs[0, 0] = 1
    assert tensor[0, 0] == 1 and Tensor.from_dlpack(theirs) == tensor


@pytest.mark.parametrize("name", TYPES)
def test_we_see_torchs_memory(name):
    theirs = torch.ones(4, 6, dtype=getattr(torch, name))
    ours = Tensor.from_dlpack(theirs, name="w")
    assert (ours.dtype.name, ours.shape, ours.name) == (name, [4, 6], "w") and address(ours) == theirs.data_ptr()
    theirs[3, 5] = 0
    assert ours[3, 5] == 0 and not ours.readonly
    assert Tensor(theirs) == ours  # a copy
    theirs[0, 0] = 0
    assert Tensor(theirs) == ours


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_strides_go_both_ways(name):
    tensor = Tensor.from_numpy(np.arange(24.0).reshape(2, 3, 4)).astype(name)
    size = tensor.dtype.element_size
    for view in (tensor.T, tensor[:, 1:, ::2], tensor[1], tensor[..., 3], tensor.transpose(1, 0, 2)):
        theirs = torch.from_dlpack(view)
        assert [stride * size for stride in theirs.stride()] == view.strides and theirs.tolist() == view.tolist()
        back = Tensor.from_dlpack(theirs)
        assert back == view and back.strides == view.strides
    theirs = torch.arange(24, dtype=torch.float32).reshape(4, 6).to(getattr(torch, name))
    for view in (theirs.t(), theirs[1:, ::3], theirs[:, 2], theirs.expand(5, 4, 6)):
        ours = Tensor.from_dlpack(view)
        assert ours.tolist() == view.tolist() and ours.strides == [stride * size for stride in view.stride()]
    with pytest.raises((BufferError, ValueError, RuntimeError), match=r"(?i)stride"):
        torch.from_dlpack(tensor[::-1])


@pytest.mark.parametrize("shape", [[], [0], [3, 0, 2], [1]])
def test_scalars_and_empty_ones(shape):
    theirs = torch.from_dlpack(Tensor.zeros(shape, "bfloat16"))
    assert list(theirs.shape) == shape and Tensor.from_dlpack(theirs).shape == shape
    assert Tensor.from_dlpack(torch.ones(shape)).tolist() == torch.ones(shape).tolist()


def test_conversions_of_float32_are_torchs():
    # Of float64 they are not: torch rounds those twice, by way of float32.
    scale = np.float32(10) ** np.arange(-8, 8, dtype=np.float32).repeat(256)
    wide = np.random.default_rng(0).standard_normal(4096).astype(np.float32) * scale
    tensor, theirs = Tensor.from_numpy(wide), torch.from_numpy(wide)
    for name in ("bfloat16", "float16", "float64"):
        want = theirs.to(getattr(torch, name))
        assert tensor.astype(name) == Tensor.from_dlpack(want)
        assert tensor.astype(name).astype("float32") == Tensor.from_dlpack(want.to(torch.float32))


def test_each_keeps_the_other_alive():
    theirs = torch.from_dlpack(Tensor([1.0, 2.0]))  # nobody else holds it
    gc.collect()
    rubbish = [Tensor([9.0, 9.0]) for _ in range(100)]
    assert theirs.tolist() == [1.0, 2.0] and len(rubbish) == 100
    owner = torch.ones(1 << 16)
    alive, ours = weakref.ref(owner), Tensor.from_dlpack(owner)
    view = ours[5:7]
    del owner, ours
    gc.collect()
    assert view.tolist() == [1.0, 1.0]  # the memory lives, whether or not torch's Python object does
    del view
    gc.collect()
    assert alive() is None


def test_what_torch_may_not_lend_is_its_own_refusal():
    with pytest.raises((BufferError, RuntimeError), match="grad"):
        Tensor.from_dlpack(torch.ones(2, requires_grad=True))
    assert Tensor.from_dlpack(torch.ones(2, requires_grad=True).detach()).sum() == 2


def test_torch_takes_a_tensor_as_an_array_too():
    tensor = Tensor([1.0, 2.0, 3.0])
    assert torch.frombuffer(tensor, dtype=torch.float32).data_ptr() == address(tensor)
    assert torch.as_tensor(np.asarray(tensor)).data_ptr() == address(tensor)
    assert torch.asarray(tensor).tolist() == [1.0, 2.0, 3.0]


def test_nothing_is_left_of_a_million_bytes_that_were_shared():
    tensor = Tensor.zeros([1 << 18])
    for _ in range(3000):
        Tensor.from_dlpack(torch.from_dlpack(tensor))
    lent = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert lent() is None
