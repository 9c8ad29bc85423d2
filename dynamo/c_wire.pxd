# Mirrors dynamo/wire.h, as far as the bindings use it.
from libc.stdint cimport uint8_t, uint64_t


cdef extern from "dynamo/wire.h" nogil:
    const int DYN_WIRE_MAX_HEADERS
    const int DYN_WIRE_VARINT_MAX
    ctypedef struct dyn_bytes:
        uint8_t *data
        size_t size
        size_t room
    void dyn_bytes_free(dyn_bytes *self)
    int dyn_bytes_reserve(dyn_bytes *self, size_t more)
    int dyn_bytes_append(dyn_bytes *self, const void *data, size_t size)
    ctypedef struct dyn_slice:
        const uint8_t *data
        size_t size
    ctypedef struct dyn_pair:
        dyn_slice key
        dyn_slice value
    size_t dyn_varint_write(uint8_t *out, uint64_t value)
    size_t dyn_varint_read(const uint8_t *bytes, size_t size, uint64_t *out)
    int dyn_items_add(dyn_bytes *out, const void *item, size_t size)
    bint dyn_items_next(dyn_slice *rest, dyn_slice *item)
    bint dyn_items_valid(dyn_slice body)
