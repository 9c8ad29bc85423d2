# Mirrors dynamo/dlpack.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from dynamo.c_tensor cimport dyn_tensor


cdef extern from "dynamo/dlpack.h" nogil:
    enum:
        DYN_DL_CPU
        DYN_DL_CUDA
        DYN_DL_CUDA_HOST
        DYN_DL_MAJOR
        DYN_DL_MINOR
    const uint64_t DYN_DL_READ_ONLY
    const uint64_t DYN_DL_COPIED
    ctypedef struct dyn_dl_tensor:
        void *data
        int32_t device_type
        int32_t device_id
        int32_t ndim
        uint8_t code
        uint8_t bits
        uint16_t lanes
        int64_t *shape
        int64_t *strides
        uint64_t byte_offset
    ctypedef struct dyn_dl_managed:
        dyn_dl_tensor tensor
        void *context
        void (*deleter)(dyn_dl_managed *self) noexcept
    ctypedef struct dyn_dl_versioned:
        uint32_t major
        uint32_t minor
        void *context
        void (*deleter)(dyn_dl_versioned *self) noexcept
        uint64_t flags
        dyn_dl_tensor tensor
    int dyn_dlpack_give_versioned(const dyn_tensor *self, uint64_t flags, void (*release)(void *context) noexcept,
                                  void *context, dyn_dl_versioned **out)
    int dyn_dlpack_give(const dyn_tensor *self, void (*release)(void *context) noexcept, void *context,
                        dyn_dl_managed **out)
    int dyn_dlpack_take(const dyn_dl_tensor *from_, int64_t *dims, dyn_tensor *out)
