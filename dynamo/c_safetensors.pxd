# Mirrors dynamo/safetensors.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t


cdef extern from "dynamo/safetensors.h" nogil:
    ctypedef struct dyn_safetensors:
        pass
    ctypedef struct dyn_safetensor:
        const char *name
        int dtype
        int32_t ndim
        const int64_t *shape
        uint64_t begin
        uint64_t end
    int dyn_safetensors_read(const uint8_t *bytes, size_t size, uint64_t file_size, dyn_safetensors **out)
    void dyn_safetensors_free(dyn_safetensors *self)
    size_t dyn_safetensors_count(const dyn_safetensors *self)
    const dyn_safetensor *dyn_safetensors_at(const dyn_safetensors *self, size_t at)
    bint dyn_safetensors_metadata(const dyn_safetensors *self, size_t at, const char **key, const char **value)
