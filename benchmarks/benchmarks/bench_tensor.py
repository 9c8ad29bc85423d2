"""Tensors: in and out of NumPy, into frames, between element types, into sums."""

import pickle

import numpy as np

from dynamo.quill import Tensor


class Share:
    """What it costs to hand an array over, by copy and by view."""

    params = (4096, 1 << 20, 64 << 20)
    param_names = ("bytes",)

    def setup(self, nbytes):
        self.array = np.random.default_rng(0).standard_normal(nbytes // 4).astype(np.float32)
        self.target = np.empty_like(self.array)
        self.tensor = Tensor.from_numpy(self.array)

    def time_memcpy(self, nbytes):
        np.copyto(self.target, self.array)

    def time_numpy_copy(self, nbytes):
        self.array.copy()

    def time_from_numpy(self, nbytes):
        Tensor.from_numpy(self.array)

    def time_from_numpy_view(self, nbytes):
        Tensor.from_numpy(self.array, copy=False)

    def time_from_dlpack(self, nbytes):
        Tensor.from_dlpack(self.array)

    def time_memoryview(self, nbytes):
        memoryview(self.tensor)

    def time_dlpack(self, nbytes):
        self.tensor.__dlpack__(max_version=(1, 0))

    def time_to_numpy(self, nbytes):
        self.tensor.to_numpy()

    def time_to_numpy_view(self, nbytes):
        self.tensor.to_numpy(copy=False)

    def time_to_frames(self, nbytes):
        self.tensor.to_frames()

    def time_pickle_out_of_band(self, nbytes):
        pickle.dumps(self.tensor, protocol=5, buffer_callback=[].append)


class FromFrames:
    """A stream of frames into a tensor: one copy."""

    params = (4096, 1 << 20, 64 << 20)
    param_names = ("bytes",)

    def setup(self, nbytes):
        self.frames = Tensor.zeros([nbytes // 4]).to_frames()

    def time_from_frames(self, nbytes):
        Tensor.from_frames(self.frames)


class Convert:
    """astype, its new memory included."""

    params = (
        [1 << 20, 64 << 20],
        [
            ("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "float32"), ("float32", "float16"),
            ("float32", "float8_e4m3fn"), ("float64", "bfloat16"), ("int32", "float32"),
        ],
    )  # fmt: skip
    param_names = ("float32 bytes", "types")

    def setup(self, nbytes, types):
        self.tensor = Tensor.from_numpy(np.arange(nbytes // 4) % 1000).astype(types[0])
        self.target = types[1]

    def time_astype(self, nbytes, types):
        self.tensor.astype(self.target)


class Reduce:
    """Numbers out of float32."""

    params = (4096, 1 << 20, 64 << 20)
    param_names = ("bytes",)

    def setup(self, nbytes):
        self.array = np.random.default_rng(0).standard_normal(nbytes // 4).astype(np.float32)
        self.tensor = Tensor.from_numpy(self.array, copy=False)

    def time_sum(self, nbytes):
        self.tensor.sum()

    def time_numpy_sum(self, nbytes):
        self.array.sum()

    def time_max(self, nbytes):
        self.tensor.max()

    def time_dot(self, nbytes):
        self.tensor.dot(self.tensor)

    def time_argmax(self, nbytes):
        self.tensor.argmax()
