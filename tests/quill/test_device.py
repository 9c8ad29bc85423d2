"""Buffers of bytes, and what is said of devices that this build has not."""

import numpy as np
import pytest

from dynamo import quill


def test_no_device_is_promised():
    status = quill.GpuStatus.detect()
    assert (status.is_available, status.device_count, status.cuda_compiled) == (False, 0, False)
    assert status.message() == "CUDA feature not compiled"
    assert repr(status) == "GpuStatus(available=false, devices=0)"


def test_a_buffer_holds_bytes():
    buffer = quill.TensorBuffer.from_bytes(b"abc")
    assert (buffer.size, len(buffer), buffer.is_cpu, buffer.is_gpu) == (3, 3, True, False)
    assert buffer.to_bytes() == b"abc" == buffer.to_cpu().to_bytes()
    assert repr(quill.TensorBuffer.cpu_zeros(1024)) == "TensorBuffer(1024 bytes on CPU)"
    assert quill.TensorBuffer.try_allocate_gpu(8).is_cpu
    with pytest.raises(RuntimeError, match="not compiled"):
        buffer.to_gpu(0)


def test_views_share_the_bytes():
    buffer = quill.TensorBuffer.cpu_zeros(4)
    np.asarray(buffer)[1] = 7
    assert buffer.to_bytes() == b"\x00\x07\x00\x00"
    assert np.from_dlpack(buffer).tolist() == [0, 7, 0, 0]


def test_a_tensor_in_a_file_of_its_own(tmp_path):
    path = tmp_path / "one.safetensors"
    quill.Tensor([1.0, 2.0], name="w").save(path)
    loaded = quill.Tensor.load(path)
    assert loaded.name == "w" and loaded.tolist() == [1.0, 2.0]
    quill.save_tensors(path, {"a": np.zeros(2, "float32"), "b": np.ones(2, "float32")})
    assert quill.Tensor.load(path, "b").tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="name= one of"):
        quill.Tensor.load(path)
    with pytest.raises(KeyError):
        quill.Tensor.load(path, "c")
