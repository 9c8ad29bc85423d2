"""Safetensors files, with the safetensors library as the other side."""

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from dynamo.quill import Tensor, load_tensors, save_tensors

ARRAYS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "ids": np.arange(5),
    "flag": np.array([True, False]),
    "half": np.ones((3, 1), np.float16),
    "brain": np.ones(3, ml_dtypes.bfloat16),
    "empty": np.zeros((0, 4), np.int16),
    "one": np.array(7, np.uint8),
}


def test_what_we_write_the_library_reads(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, ARRAYS, metadata={"format": "np", "who": "me"})
    theirs = safetensors.numpy.load_file(path)
    assert theirs.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert theirs[name].dtype == array.dtype and theirs[name].shape == array.shape
        assert np.array_equal(theirs[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_the_library_writes_we_read(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(ARRAYS, path, metadata={"k": "v"})
    ours = load_tensors(path)
    assert ours.metadata == {"k": "v"} and len(ours) == len(ARRAYS) and set(ours) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert ours[name].name == name and ours[name].shape == list(array.shape)
        assert np.array_equal(ours[name].to_numpy(), array)
    assert "brain" in ours._repr_html_()


def test_one_type_is_written_byte_for_byte_alike(tmp_path):
    arrays = {name: np.full(3, i, np.float32) for i, name in enumerate(["b", "a", "c"])}
    save_tensors(tmp_path / "ours", arrays)
    assert (tmp_path / "ours").read_bytes() == safetensors.numpy.save(arrays)


def test_tensors_are_views_of_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, [Tensor.from_numpy(np.zeros(1 << 20, np.float32), "big"), Tensor([1.0], name="small")])
    file = load_tensors(path)
    assert file["big"].readonly and file["big"].sum() == 0
    small = file["small"]
    assert path.stat().st_size - 4 - (1 << 22) < 300  # "small" comes last
    with open(path, "r+b") as raw:
        raw.seek(-4, 2)
        raw.write(np.float32(5).tobytes())
    assert small[0] == 5


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"w": np.zeros(4, np.float32)})
    whole = path.read_bytes()
    for data in (b"", b"1234", whole[:-1], whole + b"x", whole[:20], b"\xff" * 40):
        path.write_bytes(data)
        with pytest.raises((ValueError, RuntimeError)):
            load_tensors(path)
    with pytest.raises(KeyError):
        path.write_bytes(whole)
        load_tensors(path)["v"]


def test_bad_arguments_are_refused_and_leave_no_file(tmp_path):
    path = tmp_path / "a.safetensors"
    for tensors in ({"": np.zeros(1)}, {"__metadata__": np.zeros(1)}, [Tensor([1.0])], {3: np.zeros(1)}):
        with pytest.raises(ValueError, match="must be a text"):
            save_tensors(path, tensors)
    with pytest.raises(ValueError, match="two tensors"):
        save_tensors(path, [Tensor([1.0], name="a"), Tensor([1.0], name="a")])
    for tensors, metadata in ([{"a\0": np.zeros(1)}, None], [{}, {"\0": ""}], [{}, {"a": "\0"}]):
        with pytest.raises(ValueError, match="without NUL"):
            save_tensors(path, tensors, metadata=metadata)
    with pytest.raises(TypeError, match="must be texts"):
        save_tensors(path, {}, metadata={"a": 1})
    with pytest.raises(TypeError, match="Unsupported numpy dtype"):
        save_tensors(path, {"a": np.zeros(1, "M8[s]")})
    assert list(tmp_path.iterdir()) == []
