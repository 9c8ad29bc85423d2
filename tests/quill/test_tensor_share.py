"""Whose memory it is: views, DLPack, the buffer protocol, pickles, the collector, threads."""

import copy
import gc
import hashlib
import pickle
import sys
import threading
import weakref

import ml_dtypes
import numpy as np
import pytest

from dynamo._dtype import supported_names
from dynamo.quill import DType, Tensor, TensorMeta

ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def address(array):
    return array.__array_interface__["data"][0]


# ---- the buffer protocol ----


def test_memoryviews_are_the_memory():
    tensor = Tensor.from_numpy(ARRAY)
    view = memoryview(tensor)
    assert (view.format, view.shape, view.strides, view.readonly) == ("f", (2, 3, 4), (48, 16, 4), False)
    view[0, 0, 0] = 5
    assert tensor[0, 0, 0] == 5
    assert address(np.asarray(tensor)) == address(np.asarray(view)) and address(np.asarray(tensor)) % 64 == 0
    del tensor
    assert view[1, 2, 3] == 23  # the view keeps it


@pytest.mark.parametrize("name", ["float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16",
                                  "uint32", "uint64", "bool", "complex64"])  # fmt: skip
def test_numpy_sees_every_type_it_has(name):
    array = np.ones((2, 3), name)
    seen = np.asarray(Tensor.from_numpy(array))
    assert seen.dtype == array.dtype and seen.dtype.type is array.dtype.type and np.array_equal(seen, array)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_types_without_a_format_reach_numpy_by_ml_dtypes(name):
    tensor = Tensor([1.0, 2.0]).astype(name)
    seen = np.asarray(tensor)
    assert seen.dtype == getattr(ml_dtypes, name) and seen.astype(float).tolist() == [1, 2]
    assert np.shares_memory(seen, np.asarray(tensor))
    with pytest.raises(BufferError, match=f"no format for {name}"):
        memoryview(tensor)
    assert bytes(tensor.view("uint8")) == tensor.tobytes()
    assert not hasattr(tensor, "__array_interface__")


def test_read_only_stays_read_only():
    array = ARRAY.copy()
    array.flags.writeable = False
    tensor = Tensor.from_numpy(array, copy=False)
    assert tensor.readonly and memoryview(tensor).readonly and not np.asarray(tensor).flags.writeable
    assert tensor[0].readonly and not tensor.copy().readonly
    with pytest.raises(BufferError, match="only DLPack 1 can say"):
        tensor.__dlpack__()
    assert not np.from_dlpack(tensor).flags.writeable
    assert Tensor.from_dlpack(tensor).readonly
    assert Tensor.from_bytes(b"12345678", [2], "float32", copy=False).readonly


def test_contiguity_is_refused_where_it_is_not():
    turned = Tensor.from_numpy(ARRAY).T
    assert memoryview(turned).shape == (4, 3, 2) and memoryview(turned).f_contiguous
    with pytest.raises(BufferError, match=r"without gaps: use t\.contiguous"):
        hashlib.sha256(turned)
    assert hashlib.sha256(turned.contiguous()).digest() == hashlib.sha256(ARRAY.T.tobytes()).digest()
    assert turned.tobytes() == ARRAY.T.tobytes() and turned.contiguous().is_contiguous
    assert turned[:, 0].contiguous() == turned[:, 0] and Tensor([1.0]).contiguous().is_contiguous


# ---- DLPack ----


def test_dlpack_shares_in_both_directions():
    tensor = Tensor.from_numpy(ARRAY)
    theirs = np.from_dlpack(tensor)
    assert address(theirs) == address(np.asarray(tensor)) and theirs.flags.writeable
    ours = Tensor.from_dlpack(theirs, name="back")
    theirs[0, 0, 0] = 7
    assert ours[0, 0, 0] == tensor[0, 0, 0] == 7 and ours.name == "back"
    assert tensor.__dlpack_device__() == (1, 0)
    del tensor, theirs
    assert ours[1, 2, 3] == 23


@pytest.mark.parametrize("name", supported_names().split(", "))
@pytest.mark.parametrize("version", [None, (1, 0)])
def test_every_type_survives_dlpack(name, version):
    tensor = Tensor([0, 1, 1], dtype=name)[::2]
    back = Tensor.from_dlpack(tensor.__dlpack__(max_version=version))
    assert back.dtype is tensor.dtype and back == tensor and back.strides == tensor.strides


def test_a_capsule_is_used_once():
    capsule = Tensor([1.0]).to_dlpack()
    assert Tensor.from_dlpack(capsule) == Tensor([1.0])
    with pytest.raises(ValueError, match="has been used"):
        Tensor.from_dlpack(capsule)
    with pytest.raises(TypeError, match="no __dlpack__"):
        Tensor.from_dlpack(3)


def test_dlpack_arguments_are_checked():
    tensor = Tensor([1.0])
    with pytest.raises(BufferError, match="stream"):
        tensor.__dlpack__(stream=1)
    with pytest.raises(BufferError, match="CPU"):
        tensor.__dlpack__(dl_device=(2, 0))
    copied = Tensor.from_dlpack(tensor.__dlpack__(max_version=(1, 0), copy=True))
    assert copied == tensor and address(np.asarray(copied)) != address(np.asarray(tensor))
    odd = Tensor.from_numpy(np.zeros(3, [("a", "u1"), ("b", "<i2")])["b"], copy=False)
    with pytest.raises(BufferError, match="stride of 3 bytes"):
        odd.__dlpack__(max_version=(1, 0))
    assert odd.sum() == 0


def test_a_dropped_capsule_gives_its_memory_back():
    class Lender(bytearray):
        pass

    lender = Lender(64)
    alive = weakref.ref(lender)
    tensor = Tensor.from_bytes(lender, [16], "float32", copy=False)
    capsule = tensor.__dlpack__(max_version=(1, 0))
    back = Tensor.from_dlpack(tensor)
    del lender, tensor
    gc.collect()
    assert alive() is not None
    del capsule, back
    gc.collect()
    assert alive() is None


# ---- arrays ----


def test_array_interface_and_array():
    tensor = Tensor.from_numpy(ARRAY)
    interface = tensor.__array_interface__
    assert interface["typestr"] == "<f4" and interface["shape"] == (2, 3, 4) and interface["strides"] is None
    assert tensor.T.__array_interface__["strides"] == (4, 16, 48)
    assert np.array(tensor, np.float64).dtype == np.float64
    assert np.shares_memory(tensor.__array__(), tensor.__array__())
    assert not np.shares_memory(tensor.__array__(copy=True), tensor.__array__())
    assert np.add(tensor, 1).sum() == ARRAY.sum() + 24
    with pytest.raises(ValueError, match="needs a copy"):
        tensor.__array__(np.float64, copy=False)


def test_to_numpy_without_a_copy_is_the_memory():
    tensor = Tensor.from_numpy(ARRAY)
    tensor.to_numpy(copy=False)[0, 0, 0] = 3
    assert tensor[0, 0, 0] == 3 and ARRAY[0, 0, 0] == 0


# ---- views ----


def test_indices_are_numpys():
    tensor = Tensor.from_numpy(ARRAY, name="x")
    keys = [0, -1, (1, 2), slice(1, 3), (slice(None, None, -1), ..., 2), (..., None, slice(0, 4, 2)), (None, ...), ()]
    keys += [slice(10, 2), (slice(3, 0, -2), 1), (1, 2, 3), ..., (1, 2, 3, ...), slice(-100, 100, 7)]
    for key in keys:
        got, want = tensor[key], ARRAY[key]
        if isinstance(got, Tensor):
            assert got.shape == list(want.shape) and np.array_equal(got.to_numpy(), want), key
            assert got.num_elements == 0 or np.shares_memory(np.asarray(got), np.asarray(tensor)), key
            assert got.name == "x"
        else:
            assert got == want and type(got) is float
    assert [row.shape for row in tensor] == [[3, 4], [3, 4]] and list(Tensor([1, 2])) == [1.0, 2.0]


@pytest.mark.parametrize(("key", "error", "text"), [
    (2, IndexError, "index 2 in dimension 0 of size 2"),
    (-3, IndexError, "index -3"),
    (1 << 70, IndexError, "cannot fit"),
    ((0, 0, 0, 0), IndexError, "4 indices for 3 dimensions"),
    ((..., ...), IndexError, "at most one ellipsis"),
    ("a", TypeError, "must be an int, a slice"),
    (True, TypeError, "must be an int, a slice"),
    ([0, 1], TypeError, "use to_numpy"),
    (slice(None, None, 0), ValueError, "zero"),
    ((None,) * 65, IndexError, "at most 64"),
])  # fmt: skip
def test_bad_indices_are_refused(key, error, text):
    with pytest.raises(error, match=text):
        Tensor.from_numpy(ARRAY)[key]


def test_shapes_change_without_copies():
    tensor = Tensor.from_numpy(ARRAY)
    for shape in [(24,), (4, -1), [2, 12], -1, (1, 24, 1)]:
        got = tensor.reshape(shape)
        assert np.array_equal(got.to_numpy(), ARRAY.reshape(shape)) and np.shares_memory(
            np.asarray(got), np.asarray(tensor)
        )
    assert tensor.reshape(6, 4).shape == [6, 4]
    assert np.array_equal(tensor.T.reshape(-1).to_numpy(), ARRAY.T.reshape(-1))
    assert np.array_equal(tensor.transpose(1, -1, 0).to_numpy(), ARRAY.transpose(1, 2, 0))
    assert tensor.transpose([0, 2, 1]).shape == [2, 4, 3] and tensor == tensor.T.T
    assert Tensor.zeros([0, 3]).reshape(3, 0).shape == [3, 0]
    assert Tensor.full([], 5).reshape(1, 1).tolist() == [[5.0]]
    for bad in [(5,), (-1, -1), (7, -1)]:
        with pytest.raises(ValueError, match=r"elements do not fit|only one size"):
            tensor.reshape(bad)
    with pytest.raises(OverflowError):
        tensor.reshape(-2, 3)
    with pytest.raises(ValueError, match="each of the 3 dimensions once"):
        tensor.transpose(0, 1)


def test_bits_are_viewed_as_another_type():
    tensor = Tensor([1.0, -2.0])
    assert tensor.view("uint32").tolist() == [0x3F800000, 0xC0000000]
    assert tensor.view("uint16").shape == [4] and tensor.view("uint8").view("float32") == tensor
    with pytest.raises(ValueError, match="no whole number of float64"):
        Tensor([1.0, 2.0, 3.0]).view("float64")
    with pytest.raises(ValueError, match="needs a contiguous tensor"):
        Tensor.zeros([2, 2]).T.view("uint8")


# ---- copies and pickles ----


def test_copies_are_apart():
    tensor = Tensor.from_numpy(ARRAY, "x")
    for other in (copy.copy(tensor), copy.deepcopy(tensor), tensor.copy()):
        np.asarray(other)[0, 0, 0] = 9
        assert tensor[0, 0, 0] == 0 and other.name == "x"
    assert tensor.renamed("y").name == "y" and tensor.name == "x" and tensor.renamed("y") == tensor


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["float32", "bfloat16", "bool"])
def test_pickles_come_back(protocol, name):
    for tensor in (
        Tensor.from_numpy(ARRAY > 3, "x").astype(name),
        Tensor.zeros([0, 2], name),
        Tensor.full([], 1, name),
    ):
        for view in (tensor, tensor.T):
            back = pickle.loads(pickle.dumps(view, protocol))
            assert back == view and back.name == view.name and not back.readonly


def test_pickles_leave_the_memory_out_of_band():
    tensor = Tensor.from_numpy(np.zeros(1 << 16, np.float32))
    buffers = []
    head = pickle.dumps(tensor, protocol=5, buffer_callback=buffers.append)
    assert len(head) < 200 and len(buffers) == 1
    back = pickle.loads(head, buffers=buffers)
    np.asarray(tensor)[3] = 1
    assert back[3] == 1  # the very same memory


def test_metas_have_values():
    meta = TensorMeta([2, 3], DType.float32(), name="w")
    assert repr(meta) == "TensorMeta(name='w', shape=[2, 3], dtype=float32)"
    assert repr(TensorMeta([], DType.int8())) == "TensorMeta(name='unnamed', shape=[], dtype=int8)"
    assert (meta.num_elements, meta.size_bytes, meta.nbytes, meta.ndim) == (6, 24, 24, 2)
    assert TensorMeta([], DType.int8()).num_elements == 1
    assert meta == TensorMeta((2, 3), "float32", "w") and hash(meta) == hash(TensorMeta((2, 3), "float32", "w"))
    assert meta != TensorMeta([2, 3], DType.float32()) and meta != TensorMeta([3, 2], "float32", "w") and meta != 3
    assert pickle.loads(pickle.dumps(meta)) == meta
    meta.shape.append(1)
    assert meta.shape == [2, 3]
    assert Tensor.zeros([2, 3], name="w").meta == meta
    with pytest.raises(AttributeError):
        meta.name = "x"
    with pytest.raises(TypeError, match="cannot be made twice"):
        meta.__init__([1], "int8")


# ---- lifetime ----


def test_weak_references_die_with_the_tensor():
    tensor = Tensor([1.0])
    alive = weakref.ref(tensor)
    assert alive() is tensor
    del tensor
    assert alive() is None


def test_cycles_through_a_lender_are_collected():
    class Lender(bytearray):
        pass

    lender = Lender(64)
    lender.tensor = Tensor.from_bytes(lender, [16], "float32", copy=False)
    lender.slice = lender.tensor[3:]
    alive = weakref.ref(lender)
    del lender
    gc.collect()
    assert alive() is None


def test_only_tensors_over_foreign_memory_are_tracked():
    assert not gc.is_tracked(Tensor([1.0])) and not gc.is_tracked(Tensor([1.0])[:1])
    assert gc.is_tracked(Tensor.from_numpy(ARRAY, copy=False))


def test_uninitialised_and_twice_initialised_objects_are_harmless():
    bare = Tensor.__new__(Tensor)
    assert (bare.shape, len(bare), bare.tobytes(), bare.dtype) == ([0], 0, b"", DType.float32())
    assert bare.copy() == bare and memoryview(bare).tobytes() == b"" and bare[:].shape == [0]
    tensor = Tensor([1.0])
    with pytest.raises(TypeError, match="cannot be made twice"):
        tensor.__init__([2.0])
    with pytest.raises(TypeError):
        type("Sub", (Tensor,), {})


@pytest.mark.parametrize("what", ["copy", "view", "dlpack", "slice", "frames", "pickle", "refused"])
def test_nothing_leaks(what):
    array = np.zeros(8, np.float32)
    tensor = Tensor.from_numpy(array, "x")
    frames = tensor.to_frames()

    def refused():
        with pytest.raises(ValueError):
            Tensor.from_frames(b"\x10\0\0\0\0\0\0\0\x01\xff")

    run = {
        "copy": lambda: Tensor.from_numpy(array),
        "view": lambda: Tensor.from_numpy(array, copy=False)[1:],
        "dlpack": lambda: np.from_dlpack(Tensor.from_dlpack(array)),
        "slice": lambda: tensor[2:4].T.reshape(-1),
        "frames": lambda: Tensor.from_frames(frames).to_frames(4),
        "pickle": lambda: pickle.loads(pickle.dumps(tensor, 5)),
        "refused": refused,
    }[what]
    rounds = 2000
    for _ in range(rounds):
        run()
    gc.collect()
    before, references = sys.getallocatedblocks(), sys.getrefcount(array)
    for _ in range(rounds):
        run()
    gc.collect()
    assert abs(sys.getallocatedblocks() - before) < rounds // 20 and sys.getrefcount(array) == references


def test_threads_read_one_tensor():
    array = np.random.default_rng(1).standard_normal(1 << 18).astype(np.float32)
    tensor = Tensor.from_numpy(array, copy=False)
    want = (tensor.sum(), tensor.astype("bfloat16").tobytes(), tensor.max())
    failures = []

    def work():
        for _ in range(5):
            view = tensor[::1].reshape(512, -1).T.T
            got = (view.sum(), view.astype("bfloat16").tobytes(), view.max())
            back = Tensor.from_frames(tensor.to_frames())
            if got != want or back != tensor:
                failures.append(got)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


# ---- what a notebook shows ----


def test_notebooks_show_a_preview_and_a_heat_map():
    shown = Tensor.from_numpy(np.arange(600.0).reshape(20, 30), "<w>")._repr_html_()
    assert "&lt;w&gt;" in shown and "float64, 20 x 30, 4,800 bytes, 0 to 599" in shown
    assert "data:image/png;base64," in shown and "..." in shown
    assert "0 <span" in shown and "a cell is" not in shown and "grey" not in shown
    wide = np.ones((3, 300))
    wide[1, 7] = np.nan
    shown = Tensor.from_numpy(wide)._repr_html_()
    assert (
        "bytes, with NaN" in shown
        and "a cell is the mean of 1 x 5; grey is not finite" in shown
        and "linear-gradient" in shown
    )
    assert "<img" not in Tensor([1.0, 2.0])._repr_html_()
    shapes = [[0], [], [3, 3], [2, 3, 4], [0, 5], [3, 300]]
    for shape in shapes:
        for value, name in [
            (float("nan"), "float32"),
            (float("inf"), "bfloat16"),
            (1, "int64"),
            (1, "bool"),
            (1j, "complex64"),
        ]:
            assert Tensor.full(shape, value, name)._repr_html_().endswith("</div>")
