# Mirrors dynamo/zstd.h.
from dynamo.c_wire cimport dyn_bytes


cdef extern from "dynamo/zstd.h" nogil:
    const int DYN_ZSTD_LEVEL
    const int DYN_ZSTD_THRESHOLD
    int dyn_zstd_compress(dyn_bytes *out, const void *data, size_t size, int level)
    int dyn_zstd_decompress(dyn_bytes *out, const void *data, size_t size, size_t max)
    size_t dyn_zstd_announced(const void *data, size_t size)
