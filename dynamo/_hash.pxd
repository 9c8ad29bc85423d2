# Token ids and hashes out of whatever Python gives, for every module that takes them.
#
#   cdef Tokens t = take_tokens(obj)     t.data, t.count; a view or a copy, kept alive by t
cimport cython
from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    SMALL_HASHES = 64


# uint32 token ids, contiguous. Zero-copy from a buffer of uint32 (or of int32 without negatives).
@cython.final
cdef class Tokens:
    cdef const uint32_t *data
    cdef size_t count
    cdef uint32_t *owned
    cdef Py_buffer view
    cdef bint viewed

    cdef int reserve(self, Py_ssize_t count) except -1

# list, tuple, range, any sequence of ints, any buffer of integers, anything with __array__ or __dlpack__.
# OverflowError: not in 0 .. 2^32 - 1. TypeError: not a sequence of ints.
cdef Tokens take_tokens(object tokens)


# u64 hashes on the stack of the caller: `Hashes h`, take_hashes(obj, &h), use, drop_hashes(&h).
cdef struct Hashes:
    const uint64_t *data
    size_t count
    uint64_t *owned
    bint viewed
    Py_buffer view
    uint64_t small[SMALL_HASHES]

# From a list, a tuple, a buffer of (u)int64 or any sequence of ints; negative ones are reinterpreted.
# On error nothing needs to be dropped.
cdef int take_hashes(object hashes, Hashes *out) except -1
cdef void drop_hashes(Hashes *self) noexcept
# One u64 out of an int; negative ones down to -2^63 are reinterpreted. OverflowError beyond.
cdef uint64_t u64(object value) except? 0xdeadbeef
# A new uint64 array, as NumPy sees it, with a pointer to its data.
cdef object new_u64(size_t count, uint64_t **data)
# The seed of local hashes under an adapter and a namespace (None and "": absent).
cdef uint64_t seed_of(object lora_name, object cache_namespace) except? 0
