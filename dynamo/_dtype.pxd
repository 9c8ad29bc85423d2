# Element types, shared between the extensions.
from dynamo.c_tensor cimport dyn_dtype_info


cdef class DType:
    cdef const dyn_dtype_info *info     # static
    cdef readonly str name
    cdef object in_numpy                # a numpy.dtype once it was asked for

# The one object of this code, which must be valid.
cdef DType dtype_of(int code)
# Is this one of our names?
cdef bint is_name(str name) noexcept
# The code of a DType, of a name ("float32") or of anything numpy.dtype() takes. TypeError: it is none.
cdef int code_of(object dtype) except -1
# The code of a struct format with this item size; 0: not one of ours.
cdef int code_of_format(const char *format, Py_ssize_t itemsize) noexcept
