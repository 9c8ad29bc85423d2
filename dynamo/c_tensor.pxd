# Mirrors dynamo/tensor.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from dynamo.c_common cimport dyn_buf


cdef extern from "dynamo/tensor.h" nogil:
    enum:
        DYN_FLOAT32
        DYN_FLOAT16
        DYN_BFLOAT16
        DYN_FLOAT64
        DYN_INT8
        DYN_INT32
        DYN_INT64
        DYN_UINT8
        DYN_BOOL
        DYN_FLOAT8_E4M3FN
        DYN_FLOAT8_E5M2
        DYN_INT16
        DYN_UINT16
        DYN_UINT32
        DYN_UINT64
        DYN_COMPLEX64
        DYN_DTYPE_COUNT
        DYN_KIND_FLOAT
        DYN_KIND_INT
        DYN_KIND_UINT
        DYN_KIND_BOOL
        DYN_KIND_COMPLEX
        DYN_TENSOR_MAX_DIMS
        DYN_DEVICE_CPU
        DYN_DEVICE_CUDA
    ctypedef struct dyn_dtype_info:
        const char *name
        const char *typestr
        const char *format
        const char *safetensors
        uint8_t code
        uint8_t size
        uint8_t kind
        uint8_t dl_code
    const dyn_dtype_info *dyn_dtype(int code)
    ctypedef struct dyn_tensor:
        void *data
        dyn_buf *owner
        const int64_t *shape
        const int64_t *strides
        int32_t ndim
        uint8_t dtype
        uint8_t device
        uint8_t readonly
    int dyn_tensor_measure(int dtype, int ndim, const int64_t *shape, uint64_t *elements, uint64_t *bytes)
    void dyn_tensor_c_strides(int dtype, int ndim, const int64_t *shape, int64_t *strides)
    bint dyn_tensor_is_contiguous(const dyn_tensor *self)
    uint64_t dyn_tensor_count(const dyn_tensor *self)
    void dyn_tensor_copy(const dyn_tensor *self, void *out)

    int dyn_tensor_convert(const dyn_tensor *self, int dtype, void *out)
    const char *dyn_tensor_simd()
    struct dyn_number_integer "dyn_number.as.integer":
        uint64_t low
        int64_t high
    struct dyn_number_complex "dyn_number.as.complex":
        double re
        double im
    union dyn_number_as "dyn_number.as":
        dyn_number_integer integer
        double real
        dyn_number_complex complex
    ctypedef struct dyn_number:
        int kind
        dyn_number_as as_ "as"
    void dyn_tensor_item(int dtype, const void *at, dyn_number *out)
    void dyn_tensor_sum(const dyn_tensor *self, dyn_number *out)
    int dyn_tensor_dot(const dyn_tensor *self, const dyn_tensor *other, dyn_number *out)
    int dyn_tensor_bounds(const dyn_tensor *self, dyn_number *least, dyn_number *most)
    int dyn_tensor_argmax(const dyn_tensor *self, uint64_t *index)
    int dyn_tensor_argmin(const dyn_tensor *self, uint64_t *index)
    bint dyn_tensor_equal(const dyn_tensor *self, const dyn_tensor *other, bint nan_equal)
    int dyn_tensor_close(const dyn_tensor *self, const dyn_tensor *other, double relative, double absolute,
                         bint nan_equal)
