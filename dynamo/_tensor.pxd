# Tensors, shared between the extensions.
from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t, uint64_t

from dynamo._dtype cimport DType
from dynamo.c_common cimport dyn_buf
from dynamo.c_tensor cimport dyn_tensor

cdef enum:
    SMALL_DIMS = 4


cdef class Tensor:
    cdef dyn_tensor c           # what C sees; its data lives as long as this object
    cdef object base            # what keeps the data alive when c.owner does not
    cdef readonly object name   # str or None
    cdef DType _dtype
    cdef uint64_t count         # elements
    cdef uint64_t nbytes        # of the elements, without gaps
    cdef bint packed            # C order without gaps
    cdef bint made
    cdef int64_t small[2 * SMALL_DIMS]
    cdef int64_t *dims          # ndim sizes, then ndim strides: `small` or allocated
    cdef object __weakref__


# A tensor of C order over bytes of a buffer, which it references: the caller keeps its own reference.
# shape    measured and copied; name  str or None.  ValueError: the buffer ends before the tensor does.
cdef Tensor tensor_from_buf(dyn_buf *buf, size_t offset, int dtype, int ndim, const int64_t *shape, object name)
# A new tensor of C order, contents undefined: c.data is to be filled.
cdef Tensor tensor_empty(int dtype, int ndim, const int64_t *shape, object name)
# What C needs, borrowed while the object lives. TypeError: it is not a Tensor.
cdef const dyn_tensor *tensor_of(object tensor) except NULL
# A Tensor out of anything that holds numbers, without a copy where there is a way. TypeError.
cdef Tensor tensor_take(object numbers)
