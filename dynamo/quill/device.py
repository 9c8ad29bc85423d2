"""Where buffers live. This library moves memory of the host only, and says so when asked for more."""

from __future__ import annotations

from typing import Any

from dynamo._tensor import Tensor


class GpuStatus:
    """What this library can do with graphics processors: nothing, whatever the machine has.

    Attributes
    ----------
    is_available : bool
    device_count : int
    cuda_compiled : bool
    """

    is_available = False
    device_count = 0
    cuda_compiled = False

    @staticmethod
    def detect() -> GpuStatus:
        """The state of this build."""
        return GpuStatus()

    def message(self) -> str:
        """The state in words."""
        return "CUDA feature not compiled"

    def __repr__(self) -> str:
        return "GpuStatus(available=false, devices=0)"


class TensorBuffer:
    """Bytes without a shape, 64-byte aligned; ``np.asarray(buffer)`` and DLPack give views of them."""

    __slots__ = ("_bytes",)

    def __init__(self, size: int) -> None:
        self._bytes = Tensor.zeros([size], "uint8")

    @staticmethod
    def cpu_zeros(size: int) -> TensorBuffer:
        """A buffer of `size` zero bytes."""
        return TensorBuffer(size)

    @staticmethod
    def from_bytes(data: Any) -> TensorBuffer:
        """A copy of `data`, an object with the buffer protocol."""
        view = memoryview(data).cast("B")
        buffer = TensorBuffer.__new__(TensorBuffer)
        buffer._bytes = Tensor.from_bytes(view, [view.nbytes], "uint8")
        return buffer

    @staticmethod
    def try_allocate_gpu(size: int, device_id: int = 0) -> TensorBuffer:
        """A buffer on the device if there is one, else on the host: look at `is_gpu`."""
        return TensorBuffer(size)

    @property
    def size(self) -> int:
        """Bytes."""
        return self._bytes.size_bytes

    @property
    def is_gpu(self) -> bool:
        """Whether the bytes are in a device's memory."""
        return False

    @property
    def is_cpu(self) -> bool:
        """Whether the bytes are in the host's memory."""
        return True

    def to_bytes(self) -> bytes:
        """A copy."""
        return self._bytes.tobytes()

    def to_gpu(self, device_id: int = 0) -> TensorBuffer:
        """Refused: there is no device to copy to.

        Raises
        ------
        RuntimeError
            Always, in this build.
        """
        raise RuntimeError(
            f"{GpuStatus.detect().message()}: no copy to device {device_id}. "
            "Hand the buffer to a library that has devices: torch.from_dlpack(buffer).to('cuda')"
        )

    def to_cpu(self) -> TensorBuffer:
        """A copy in the host's memory."""
        return TensorBuffer.from_bytes(self._bytes)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"TensorBuffer({self.size} bytes on CPU)"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._bytes.__array__(dtype, copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self._bytes.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._bytes.__dlpack_device__()
