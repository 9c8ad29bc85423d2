# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Tensors: numbers of one type in many dimensions, shared with C and whoever speaks DLPack or the buffer protocol."""
cimport cython
from cpython.pycapsule cimport (
    PyCapsule_CheckExact, PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New, PyCapsule_SetName)
from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS, PyBUF_C_CONTIGUOUS, PyBUF_F_CONTIGUOUS, PyBUF_FORMAT, PyBUF_ND, PyBUF_RECORDS_RO,
    PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_AsDouble
from cpython.list cimport PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.sequence cimport PySequence_GetSlice
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from dynamo._dtype cimport DType, code_of, code_of_format, dtype_of, is_name
from dynamo._errors cimport check
from dynamo.c_common cimport dyn_buf, dyn_buf_data, dyn_buf_new, dyn_buf_new_zeroed, dyn_buf_ref, dyn_buf_size
from dynamo.c_common cimport dyn_buf_unref
from dynamo.c_dlpack cimport *
from dynamo.c_tensor cimport *
from dynamo.c_tensor_frames cimport *

from pickle import PickleBuffer

from dynamo._dtype import supported_names
from dynamo.errors import Cancelled, InvalidArgument


cdef extern from "Python.h":
    void PyObject_GC_UnTrack(void *)
    bint PyFloat_CheckExact(object)
    object PyMemoryView_FromObject(object)
    bint Py_IsInitialized() nogil
    object PyObject_VectorcallMethod(object, PyObject **, size_t, object)
    Py_ssize_t PyNumber_AsSsize_t(object, object) except? -1
    int PySlice_Unpack(object, Py_ssize_t *, Py_ssize_t *, Py_ssize_t *) except -1
    Py_ssize_t PySlice_AdjustIndices(Py_ssize_t, Py_ssize_t *, Py_ssize_t *, Py_ssize_t)

cdef enum:
    MAX_DIMS = 64

cdef uint64_t GIL_FROM = 1 << 18    # bytes: about 10 microseconds of copying
cdef uint64_t LARGE = 4 << 20       # bytes: from here on our memory is quicker to get than anybody's


@cython.final
@cython.no_gc_clear         # a cycle goes through somebody else's object, and that one is cleared
@cython.freelist(16)
cdef class _Lease:
    # A buffer that somebody lends us, given back when the last tensor over it goes.
    cdef Py_buffer view
    cdef object none        # an object attribute makes Cython write a traverse, which visits view.obj too

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


# ---- shapes --------------------------------------------------------------------------------------------------------

# Sizes out of any sequence of ints (or one int); how many there are.
cdef int shape_of(object shape, int64_t *out) except -1:
    cdef int n = 0
    if isinstance(shape, int):
        shape = (shape,)
    elif isinstance(shape, (str, bytes)):
        raise TypeError(f"shape is {shape!r}: must be a sequence of ints")
    try:
        sizes = list(shape)
    except TypeError:
        raise TypeError(f"shape is {shape!r}: must be a sequence of ints") from None
    if len(sizes) > MAX_DIMS:
        raise ValueError(f"{len(sizes)} dimensions: a tensor has at most {MAX_DIMS}")
    for size in sizes:
        try:
            size = size.__index__()
        except AttributeError:
            raise TypeError(f"shape {list(sizes)!r}: dimension {n} is a {type(size).__name__}, must be int") from None
        if not 0 <= size < 1 << 63:
            raise OverflowError(f"shape {list(sizes)!r}: dimension {n} must be 0 to 2^63 - 1")
        out[n] = size
        n += 1
    return n


cdef list list_of(const int64_t *numbers, int count):
    return [numbers[i] for i in range(count)]


cdef object name_of(object name):
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name is a {type(name).__name__}: must be str or None")
    return name


# ---- making --------------------------------------------------------------------------------------------------------

cdef int set_dims(Tensor self, int ndim) except -1:
    if ndim <= SMALL_DIMS:
        self.dims = self.small
    else:
        self.dims = <int64_t *>PyMem_Malloc(2 * ndim * sizeof(int64_t))
        if self.dims == NULL:
            self.dims = self.small
            raise MemoryError()
    self.c.ndim = ndim
    self.c.shape = self.dims
    self.c.strides = self.dims + ndim
    return 0


# No data yet: C order over nothing.
cdef Tensor new_tensor(int dtype, int ndim, const int64_t *shape, object name):
    cdef Tensor self = Tensor.__new__(Tensor)
    init_tensor(self, dtype, ndim, shape, name)
    return self


cdef int init_tensor(Tensor self, int dtype, int ndim, const int64_t *shape, object name) except -1:
    cdef uint64_t count, nbytes
    check(dyn_tensor_measure(dtype, ndim, shape, &count, &nbytes))
    set_dims(self, ndim)
    memcpy(self.dims, shape, ndim * sizeof(int64_t))
    dyn_tensor_c_strides(dtype, ndim, shape, self.dims + ndim)
    self.c.dtype = dtype
    self._dtype = dtype_of(dtype)
    self.count = count
    self.nbytes = nbytes
    self.packed = True
    self.name = name
    self.made = True
    return 0


# Own memory, and nothing that the collector would have to look for.
cdef int allocate(Tensor self, bint zeroed) except -1:
    cdef dyn_buf *buf = NULL
    check(dyn_buf_new_zeroed(&buf, self.nbytes) if zeroed else dyn_buf_new(&buf, self.nbytes))
    self.c.owner = buf
    self.c.data = dyn_buf_data(buf)
    PyObject_GC_UnTrack(<void *>self)
    return 0


cdef Tensor tensor_empty(int dtype, int ndim, const int64_t *shape, object name):
    cdef Tensor self = new_tensor(dtype, ndim, shape, name)
    allocate(self, False)
    return self


cdef Tensor tensor_from_buf(dyn_buf *buf, size_t offset, int dtype, int ndim, const int64_t *shape, object name):
    cdef Tensor self = new_tensor(dtype, ndim, shape, name)
    if offset > dyn_buf_size(buf) or self.nbytes > dyn_buf_size(buf) - offset:
        raise ValueError(f"a tensor of {self.nbytes} bytes at {offset} in a buffer of {dyn_buf_size(buf)} bytes")
    self.c.owner = dyn_buf_ref(buf)
    self.c.data = dyn_buf_data(buf) + offset
    PyObject_GC_UnTrack(<void *>self)
    return self


cdef const dyn_tensor *tensor_of(object tensor) except NULL:
    if type(tensor) is not Tensor:
        raise TypeError(f"a {type(tensor).__name__}: must be a Tensor")
    return &(<Tensor>tensor).c


# Another tensor over the same data; shape and strides are to be set.
cdef Tensor sibling(Tensor self, int dtype, int ndim):
    cdef Tensor out = Tensor.__new__(Tensor)
    set_dims(out, ndim)
    out.c.dtype = dtype
    out._dtype = dtype_of(dtype)
    out.c.data = self.c.data
    out.c.readonly = self.c.readonly
    out.name = self.name
    out.made = True
    if self.c.owner != NULL:
        out.c.owner = dyn_buf_ref(self.c.owner)
        PyObject_GC_UnTrack(<void *>out)
    else:
        out.base = self.base
    return out


# After shape and strides were set by hand; the product is known to fit.
cdef void settle(Tensor self) noexcept:
    self.count = dyn_tensor_count(&self.c)
    self.nbytes = self.count * self._dtype.info.size
    self.packed = dyn_tensor_is_contiguous(&self.c)


cdef void copy_out(Tensor self, void *out) noexcept:
    if self.nbytes >= GIL_FROM:
        with nogil:
            dyn_tensor_copy(&self.c, out)
    elif self.packed:
        memcpy(out, self.c.data, self.nbytes)
    else:
        dyn_tensor_copy(&self.c, out)


cdef Tensor copied(Tensor self, object name):
    cdef Tensor out = tensor_empty(self.c.dtype, self.c.ndim, self.c.shape, name)
    copy_out(self, out.c.data)
    return out


# ---- taking what others have ---------------------------------------------------------------------------------------

cdef object unsupported(object array, str format):
    dtype = getattr(array, "dtype", None)
    text = str(getattr(dtype, "name", None) or dtype or f"a buffer of {format!r}")
    if (getattr(dtype, "byteorder", None) == ">" or format[:1] in (">", "!")) and text != "object":
        return TypeError(f"Unsupported numpy dtype: {getattr(dtype, 'str', format)} is big-endian; convert with "
                         "array.astype(array.dtype.newbyteorder('<'))")
    return TypeError(f"Unsupported numpy dtype: {text}. Supported: {supported_names()}")


# A tensor over the memory of an exporter: dtype 0 means that of its format.
cdef Tensor over_buffer(object exporter, int dtype):
    cdef _Lease lease = _Lease.__new__(_Lease)
    cdef Py_buffer *view = &lease.view
    cdef Tensor self
    cdef int i
    try:
        PyObject_GetBuffer(exporter, view, PyBUF_RECORDS_RO)
    except (ValueError, BufferError):
        if not hasattr(exporter, "dtype"):
            raise
        return over_unspoken(exporter)
    if dtype == 0:
        dtype = code_of_format(view.format, view.itemsize)
        if dtype == 0 or (view.format != NULL and (view.format[0] == b">" or view.format[0] == b"!")):
            raise unsupported(exporter, view.format.decode("utf-8", "replace") if view.format != NULL else "B")
    if view.ndim > MAX_DIMS:
        raise ValueError(f"{view.ndim} dimensions: a tensor has at most {MAX_DIMS}")
    self = Tensor.__new__(Tensor)
    set_dims(self, view.ndim)
    self.c.dtype = dtype
    self._dtype = dtype_of(dtype)
    self.c.data = view.buf
    self.c.readonly = view.readonly
    self.made = True
    for i in range(view.ndim):
        self.dims[i] = view.shape[i]
        self.dims[view.ndim + i] = view.strides[i]
    settle(self)
    self.base = lease
    return self


# The short way to a copy: without a tensor between the exporter and it.
cdef Tensor copied_buffer(object exporter, object name):
    cdef Py_buffer view
    cdef dyn_tensor c
    cdef Tensor out
    cdef int code
    try:
        PyObject_GetBuffer(exporter, &view, PyBUF_RECORDS_RO)
    except (ValueError, BufferError):
        return copied(over_buffer(exporter, 0), name)
    try:
        code = code_of_format(view.format, view.itemsize)
        if code == 0 or view.ndim > MAX_DIMS:
            return copied(over_buffer(exporter, 0), name)       # which says what is wrong
        c.data = view.buf
        c.shape = <int64_t *>view.shape
        c.strides = <int64_t *>view.strides
        c.ndim = view.ndim
        c.dtype = code
        out = tensor_empty(code, view.ndim, <int64_t *>view.shape, name)
        if out.nbytes >= GIL_FROM:
            with nogil:
                dyn_tensor_copy(&c, out.c.data)
        else:
            dyn_tensor_copy(&c, out.c.data)
        return out
    finally:
        PyBuffer_Release(&view)


# NumPy arrays of types that the buffer protocol has no words for: bfloat16 and float8 of ml_dtypes.
cdef Tensor over_unspoken(object array):
    cdef int dtype
    cdef Tensor self
    try:
        dtype = code_of(array.dtype)
    except TypeError:
        raise unsupported(array, "") from None
    self = over_buffer(array.view(f"uint{8 * dtype_of(dtype).info.size}"), 0)
    self.c.dtype = dtype
    self._dtype = dtype_of(dtype)
    return self


cdef Tensor tensor_take(object numbers):
    if type(numbers) is Tensor:
        return <Tensor>numbers
    if PyObject_CheckBuffer(numbers):
        return over_buffer(numbers, 0)
    if hasattr(numbers, "__dlpack__"):
        return from_dlpack(numbers)
    if hasattr(numbers, "__array__"):
        import numpy
        return over_buffer(numpy.asarray(numbers), 0)
    if hasattr(numbers, "tobytes") and hasattr(numbers, "shape") and hasattr(numbers, "dtype"):
        return Tensor.from_bytes(numbers.tobytes(), numbers.shape, numbers.dtype)   # all that Quill's asked for
    raise TypeError(f"a {type(numbers).__name__} holds no array: must have the buffer protocol, __dlpack__ or "
                    "__array__")


# Elements of one type out of a sequence of numbers, flat or nested.
cdef Tensor from_sequence(object numbers, int code):
    cdef Tensor self
    cdef float *out
    cdef uint8_t *at
    cdef int64_t i, n
    cdef int size = dtype_of(code).info.size
    if isinstance(numbers, (str, bytes, dict, set)) or not hasattr(numbers, "__len__"):
        raise TypeError(f"data is a {type(numbers).__name__}: must be an array or a sequence of numbers")
    fast = numbers if type(numbers) is list else list(numbers)
    n = PyList_GET_SIZE(fast)
    if n and hasattr(fast[0], "__len__"):
        import numpy
        self = copied(over_buffer(numpy.array(fast, numpy.float32 if code == DYN_FLOAT32 else None), 0), None)
        return self if self.c.dtype == code else converted(self, code)
    self = tensor_empty(code, 1, &n, None)
    out = <float *>self.c.data
    at = <uint8_t *>self.c.data
    for i in range(n):
        if PyList_GET_SIZE(fast) != n:
            raise RuntimeError("the list changed while it was read")
        item = fast[i]
        if code == DYN_FLOAT32 and PyFloat_CheckExact(item):
            out[i] = <float>PyFloat_AS_DOUBLE(item)
            continue
        try:
            store(code, at + i * size, item)
        except TypeError:
            raise TypeError(f"element {i} is a {type(item).__name__}: must be a number") from None
    return self


# One number into an element.
cdef int store(int code, void *at, object number) except -1:
    cdef int kind = dtype_of(code).info.kind, size = dtype_of(code).info.size
    cdef object width
    cdef double wide
    cdef float parts[2]
    cdef int64_t one = 1
    cdef uint64_t bits
    cdef dyn_tensor c
    if kind == DYN_KIND_FLOAT:
        wide = PyFloat_AsDouble(number)
        memset(&c, 0, sizeof(c))
        c.data = &wide
        c.shape = &one
        c.ndim = 1
        c.dtype = DYN_FLOAT64
        check(dyn_tensor_convert(&c, code, at))
    elif kind == DYN_KIND_COMPLEX:
        z = complex(number)
        parts[0] = z.real
        parts[1] = z.imag
        memcpy(at, parts, sizeof(parts))
    elif kind == DYN_KIND_BOOL:
        (<uint8_t *>at)[0] = bool(number)
    else:
        value = int(number) if isinstance(number, float) and number.is_integer() else number.__index__() if hasattr(
            number, "__index__") else None
        if value is None:
            raise TypeError(f"{number!r} is no whole number: {dtype_of(code).name} holds those")
        width = 8 * size - (kind == DYN_KIND_INT)       # a Python int: C's shift ends at its own width
        high = (<object>1 << width) - 1
        low = -high - 1 if kind == DYN_KIND_INT else 0
        if not low <= value <= high:
            raise OverflowError(f"{value} does not fit {dtype_of(code).name}: {low} to {high}")
        bits = <uint64_t>(value & 0xffffffffffffffff)
        memcpy(at, &bits, size)     # little-endian: the low bytes
    return 0


cdef object number_of(const dyn_number *n):
    if n.kind == DYN_KIND_FLOAT:
        return n.as_.real
    if n.kind == DYN_KIND_COMPLEX:
        return complex(n.as_.complex.re, n.as_.complex.im)
    if n.kind == DYN_KIND_BOOL:
        return n.as_.integer.low != 0
    if n.as_.integer.high == 0:
        return n.as_.integer.low
    return (<object>n.as_.integer.high << 64) | n.as_.integer.low


cdef object item_at(int code, const void *at):
    cdef dyn_number n
    dyn_tensor_item(code, at, &n)
    return number_of(&n)


cdef Tensor converted(Tensor self, int code):
    cdef Tensor out = tensor_empty(code, self.c.ndim, self.c.shape, self.name)
    cdef int rc
    if self.nbytes + out.nbytes >= GIL_FROM // 4:
        with nogil:
            rc = dyn_tensor_convert(&self.c, code, out.c.data)
    else:
        rc = dyn_tensor_convert(&self.c, code, out.c.data)
    check(rc)
    return out


# ---- DLPack --------------------------------------------------------------------------------------------------------

@cython.final
@cython.freelist(8)
cdef class _Managed:
    # A tensor that came by DLPack, deleted when the last tensor over it goes.
    cdef dyn_dl_managed *managed
    cdef dyn_dl_versioned *versioned

    def __dealloc__(self):
        if self.managed != NULL and self.managed.deleter != NULL:
            self.managed.deleter(self.managed)
        if self.versioned != NULL and self.versioned.deleter != NULL:
            self.versioned.deleter(self.versioned)


cdef object _dlpack_names = ("max_version",)
cdef object _dlpack_version = (1, 1)


cdef Tensor from_dlpack(object source):
    cdef PyObject *arguments[2]
    if PyCapsule_CheckExact(source):
        return from_capsule(source)
    arguments[0] = <PyObject *>source
    arguments[1] = <PyObject *>_dlpack_version
    try:
        capsule = PyObject_VectorcallMethod("__dlpack__", arguments, 1, _dlpack_names)
    except AttributeError:
        if hasattr(source, "__dlpack__"):
            raise
        raise TypeError(f"a {type(source).__name__} has no __dlpack__") from None
    except TypeError:               # from before DLPack 1
        capsule = source.__dlpack__()
    return from_capsule(capsule)


cdef Tensor from_capsule(object capsule):
    cdef _Managed managed = _Managed.__new__(_Managed)
    cdef dyn_dl_versioned *versioned = NULL
    cdef dyn_dl_managed *unversioned = NULL
    cdef const dyn_dl_tensor *dl
    cdef int64_t dims[2 * MAX_DIMS]
    cdef dyn_tensor c
    cdef Tensor self
    if PyCapsule_IsValid(capsule, b"dltensor_versioned"):
        versioned = <dyn_dl_versioned *>PyCapsule_GetPointer(capsule, b"dltensor_versioned")
        if versioned.major != DYN_DL_MAJOR:
            raise BufferError(f"DLPack {versioned.major}.{versioned.minor}: version {DYN_DL_MAJOR} is spoken here")
        dl = &versioned.tensor
    elif PyCapsule_IsValid(capsule, b"dltensor"):
        unversioned = <dyn_dl_managed *>PyCapsule_GetPointer(capsule, b"dltensor")
        dl = &unversioned.tensor
    else:
        raise ValueError("the capsule holds no DLPack tensor, or it has been used")
    check(dyn_dlpack_take(dl, dims, &c))
    self = Tensor.__new__(Tensor)
    set_dims(self, c.ndim)
    memcpy(self.dims, dims, 2 * c.ndim * sizeof(int64_t))
    self.c.data = c.data
    self.c.dtype = c.dtype
    self._dtype = dtype_of(c.dtype)
    self.made = True
    settle(self)
    # Ours from here on: whoever renames the capsule deletes the tensor.
    PyCapsule_SetName(capsule, b"used_dltensor" if versioned == NULL else b"used_dltensor_versioned")
    managed.versioned = versioned
    managed.managed = unversioned
    if versioned != NULL:
        self.c.readonly = versioned.flags & DYN_DL_READ_ONLY != 0
    self.base = managed
    return self


cdef void capsule_deleted(object capsule) noexcept:
    cdef dyn_dl_versioned *versioned
    cdef dyn_dl_managed *unversioned
    if PyCapsule_IsValid(capsule, b"dltensor_versioned"):
        versioned = <dyn_dl_versioned *>PyCapsule_GetPointer(capsule, b"dltensor_versioned")
        versioned.deleter(versioned)
    elif PyCapsule_IsValid(capsule, b"dltensor"):
        unversioned = <dyn_dl_managed *>PyCapsule_GetPointer(capsule, b"dltensor")
        unversioned.deleter(unversioned)


# On any thread, perhaps when Python is gone.
cdef void drop_reference(void *context) noexcept nogil:
    if Py_IsInitialized():
        with gil:
            Py_DECREF(<object>context)


cdef object to_capsule(Tensor self, bint versioned, uint64_t flags):
    cdef dyn_dl_versioned *v
    cdef dyn_dl_managed *u
    cdef void (*release)(void *) noexcept nogil
    release = NULL
    if self.c.owner == NULL:
        release = drop_reference
    if self.c.readonly:
        flags |= DYN_DL_READ_ONLY
    try:
        if versioned:
            check(dyn_dlpack_give_versioned(&self.c, flags, release, <void *>self, &v))
            if release != NULL:
                Py_INCREF(self)
            return PyCapsule_New(v, b"dltensor_versioned", capsule_deleted)
        check(dyn_dlpack_give(&self.c, release, <void *>self, &u))
        if release != NULL:
            Py_INCREF(self)
        return PyCapsule_New(u, b"dltensor", capsule_deleted)
    except ValueError as error:
        raise BufferError(str(error)) from None


# ---- TensorMeta ----------------------------------------------------------------------------------------------------

@cython.final
cdef class TensorMeta:
    """What a tensor is like, without its data.

    Parameters
    ----------
    shape : sequence of int
    dtype : DType
    name : str, optional

    Raises
    ------
    OverflowError
        A size is negative, or the product does not fit.

    Examples
    --------
    >>> TensorMeta([2, 3], DType.float32(), name="w")
    TensorMeta(name='w', shape=[2, 3], dtype=float32)
    """
    cdef readonly object name
    cdef readonly DType dtype
    cdef tuple sizes
    cdef readonly uint64_t num_elements
    cdef readonly uint64_t size_bytes

    def __init__(self, shape, dtype, name=None):
        cdef int64_t dims[MAX_DIMS]
        cdef uint64_t count = 0, nbytes = 0
        cdef int ndim = shape_of(shape, dims), code = code_of(dtype)
        if self.sizes is not None:
            raise TypeError("a TensorMeta cannot be made twice")
        check(dyn_tensor_measure(code, ndim, dims, &count, &nbytes))
        self.name = name_of(name)
        self.dtype = dtype_of(code)
        self.sizes = tuple(list_of(dims, ndim))
        self.num_elements = count
        self.size_bytes = nbytes

    @property
    def shape(self):
        """Sizes, as a new list."""
        return list(self.sizes)

    @property
    def ndim(self):
        """How many dimensions there are."""
        return len(self.sizes)

    @property
    def nbytes(self):
        """Bytes of the elements, as `size_bytes`."""
        return self.size_bytes

    def __eq__(self, other):
        if type(other) is not TensorMeta:
            return NotImplemented
        cdef TensorMeta that = <TensorMeta>other
        return self.dtype is that.dtype and self.sizes == that.sizes and self.name == that.name

    def __hash__(self):
        return hash((self.sizes, self.dtype, self.name))

    def __reduce__(self):
        return TensorMeta, (self.shape, self.dtype, self.name)

    def __repr__(self):
        shown = "unnamed" if self.name is None else self.name
        return f"TensorMeta(name='{shown}', shape={self.shape}, dtype={self.dtype.name})"


# ---- Tensor --------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc_clear         # see _Lease
cdef class Tensor:
    """Numbers of one type in many dimensions.

    Parameters
    ----------
    data : array or sequence of numbers
        An array keeps its type; a sequence (nested ones too) becomes float32. Copied.
    dtype : DType, optional
        What the elements become: converted as `astype` does.
    name : str, optional

    Notes
    -----
    ``len(t)`` counts the elements, so an empty tensor is false. Memory of its own is 64-byte aligned; what views it, by
    slicing, ``memoryview``, DLPack or ``to_numpy(copy=False)``, keeps it alive. A notebook shows a preview and, of two
    dimensions, a heat map.

    Examples
    --------
    >>> Tensor([1.0, 2.0, 3.0])
    Tensor(name='unnamed', shape=[3], dtype=float32)
    """

    def __cinit__(self):
        # A tensor that nobody has initialised has no elements.
        self.dims = self.small
        self.c.ndim = 1
        self.c.shape = self.small
        self.c.strides = self.small + 1
        self.small[0] = 0
        self.small[1] = 4
        self.c.dtype = DYN_FLOAT32
        self.c.owner = NULL
        self.c.data = self.small
        self._dtype = dtype_of(DYN_FLOAT32)
        self.packed = True

    def __init__(self, data, dtype=None, name=None):
        cdef Tensor made
        cdef int code = code_of(dtype) if dtype is not None else 0
        cdef bint fresh = False
        if self.made:
            raise TypeError("a Tensor cannot be made twice")
        name_of(name)
        if type(data) is Tensor or PyObject_CheckBuffer(data) or hasattr(data, "__array__"):
            made = tensor_take(data)
        elif hasattr(data, "__dlpack__"):
            made = from_dlpack(data)
        else:
            made = from_sequence(data, code if code else DYN_FLOAT32)
            fresh = True
        if code and code != made.c.dtype:
            made = converted(made, code)
            fresh = True
        if not fresh:
            made = copied(made, None)
        init_tensor(self, made.c.dtype, made.c.ndim, made.c.shape, name)
        self.c.owner = dyn_buf_ref(made.c.owner)    # of its own: `made` goes
        self.c.data = made.c.data
        PyObject_GC_UnTrack(<void *>self)

    def __dealloc__(self):
        dyn_buf_unref(self.c.owner)
        if self.dims != self.small:
            PyMem_Free(self.dims)

    @staticmethod
    def from_numpy(array, name=None, *, bint copy=True):
        """A tensor of an array's numbers.

        Parameters
        ----------
        array : array
            Of NumPy, or anything else with the buffer protocol, ``__dlpack__`` or ``__array__``; with any strides.
        name : str, optional
        copy : bool
            False: a view of the array's memory, which lives as long as the tensor and shows later writes.

        Raises
        ------
        TypeError
            There is no such element type, or its bytes are swapped.
        """
        cdef Tensor self
        if name is not None:
            name_of(name)
        if copy:
            if type(array) is not Tensor and PyObject_CheckBuffer(array):
                return copied_buffer(array, name)
            return copied(tensor_take(array), name)
        self = tensor_take(array)
        if self is array:
            self = same(self)
        self.name = name
        return self

    @staticmethod
    def zeros(shape, dtype="float32", name=None):
        """All elements 0."""
        cdef int64_t dims[MAX_DIMS]
        cdef int ndim = shape_of(shape, dims)
        cdef Tensor self = new_tensor(code_of(dtype), ndim, dims, name_of(name))
        allocate(self, True)
        return self

    @staticmethod
    def empty(shape, dtype="float32", name=None):
        """Elements of any value, to be written to."""
        cdef int64_t dims[MAX_DIMS]
        cdef int ndim = shape_of(shape, dims)
        return tensor_empty(code_of(dtype), ndim, dims, name_of(name))

    @staticmethod
    def full(shape, value, dtype="float32", name=None):
        """All elements `value`."""
        cdef int64_t dims[MAX_DIMS]
        cdef int ndim = shape_of(shape, dims)
        cdef Tensor self = tensor_empty(code_of(dtype), ndim, dims, name_of(name))
        cdef uint8_t *at = <uint8_t *>self.c.data
        cdef uint64_t done = self._dtype.info.size     # doubles
        if self.nbytes:
            store(self.c.dtype, at, value)
            with nogil:
                while done < self.nbytes:
                    memcpy(at + done, at, min(done, self.nbytes - done))
                    done *= 2
        return self

    @staticmethod
    def from_dlpack(source, name=None):
        """A view of another library's tensor, by DLPack.

        Parameters
        ----------
        source : object with ``__dlpack__``, or its capsule
            On the CPU.
        name : str, optional

        Raises
        ------
        ValueError
            It is elsewhere, or of a type that we do not have.
        """
        cdef Tensor self = from_dlpack(source)
        self.name = name_of(name)
        return self

    @staticmethod
    def from_bytes(data, shape, dtype, name=None, *, bint copy=True):
        """A tensor of little-endian bytes in C order.

        Parameters
        ----------
        data : bytes-like or iterable of int
        shape : sequence of int
        dtype : DType
        name : str, optional
        copy : bool
            False: a view of `data`, which must be bytes-like.

        Raises
        ------
        ValueError
            `data` has another length.
        """
        cdef int64_t dims[MAX_DIMS]
        cdef int ndim = shape_of(shape, dims), code = code_of(dtype)
        cdef Tensor self = new_tensor(code, ndim, dims, name_of(name))
        cdef _Lease lease = _Lease.__new__(_Lease)
        if not PyObject_CheckBuffer(data):
            if isinstance(data, (str, int)):
                raise TypeError(f"data is a {type(data).__name__}: must be bytes-like")
            if not copy:
                raise TypeError(f"data is a {type(data).__name__}: without a copy it must be bytes-like")
            data = bytes(data)
        PyObject_GetBuffer(data, &lease.view, PyBUF_ANY_CONTIGUOUS)
        if <uint64_t>lease.view.len != self.nbytes:
            raise ValueError(f"Data size {lease.view.len} does not match expected size {self.nbytes} for shape "
                             f"{list_of(dims, ndim)} and dtype {self._dtype.name}")
        if copy:
            allocate(self, False)
            if self.nbytes >= GIL_FROM:
                with nogil:
                    memcpy(self.c.data, lease.view.buf, self.nbytes)
            else:
                memcpy(self.c.data, lease.view.buf, self.nbytes)
        else:
            self.c.data = lease.view.buf
            self.c.readonly = lease.view.readonly
            self.base = lease
        return self

    # -- what it is --

    @property
    def shape(self):
        """Sizes, as a new list."""
        return list_of(self.c.shape, self.c.ndim)

    @property
    def strides(self):
        """Bytes from one element to the next along each dimension, as a new list."""
        return list_of(self.c.strides, self.c.ndim)

    @property
    def ndim(self):
        """How many dimensions there are."""
        return self.c.ndim

    @property
    def num_elements(self):
        """The product of the shape; 1 when there are no dimensions."""
        return self.count

    @property
    def size_bytes(self):
        """Bytes of the elements."""
        return self.nbytes

    @property
    def dtype(self):
        """The type of the elements."""
        return self._dtype

    @property
    def meta(self):
        """Name, shape and type as a TensorMeta."""
        return TensorMeta(list_of(self.c.shape, self.c.ndim), self._dtype, self.name)

    @property
    def device(self):
        """Where the elements are: ``"cpu"``."""
        return "cpu"

    @property
    def readonly(self):
        """Is the memory somebody else's who does not want it written to?"""
        return bool(self.c.readonly)

    @property
    def is_contiguous(self):
        """Do the elements lie in C order without gaps?"""
        return self.packed

    def __len__(self):
        return self.count

    def __repr__(self):
        shown = "unnamed" if self.name is None else self.name
        return f"Tensor(name='{shown}', shape={self.shape}, dtype={self._dtype.name})"

    # -- giving it to others --

    def to_numpy(self, *, bint copy=True):
        """The numbers as a NumPy array.

        Parameters
        ----------
        copy : bool
            True: a new, writable array. False: a view of this memory.
        """
        import numpy
        cdef Py_buffer view
        dtype = self._dtype.numpy
        if not copy:
            return viewed(self, dtype)
        if self.nbytes >= LARGE:
            return viewed(copied(self, None), dtype)    # into pages that are there already
        array = numpy.empty(list_of(self.c.shape, self.c.ndim), dtype)
        if self._dtype.info.format != NULL:
            PyObject_GetBuffer(array, &view, PyBUF_WRITABLE)
        else:
            PyObject_GetBuffer(array.view(numpy.uint8 if self._dtype.info.size == 1 else numpy.uint16), &view,
                               PyBUF_WRITABLE)
        copy_out(self, view.buf)
        PyBuffer_Release(&view)
        return array

    def tobytes(self):
        """The elements in C order as bytes: a copy. ``memoryview(t)`` is none."""
        data = PyBytes_FromStringAndSize(NULL, self.nbytes)
        copy_out(self, PyBytes_AS_STRING(data))
        return data

    def __getbuffer__(self, Py_buffer *view, int flags):
        if flags & PyBUF_WRITABLE and self.c.readonly:
            raise BufferError("the tensor is read-only")
        if flags & PyBUF_FORMAT and self._dtype.info.format == NULL:
            raise BufferError(f"the buffer protocol has no format for {self._dtype.name}: view the bits as "
                              f"t.view('uint{8 * self._dtype.info.size}'), or use np.asarray or DLPack")
        if not self.packed:
            if flags & PyBUF_STRIDES != PyBUF_STRIDES or flags & PyBUF_C_CONTIGUOUS == PyBUF_C_CONTIGUOUS:
                raise BufferError("the tensor's elements do not lie in C order without gaps: use t.contiguous()")
        if flags & PyBUF_F_CONTIGUOUS == PyBUF_F_CONTIGUOUS or (
                not self.packed and flags & PyBUF_ANY_CONTIGUOUS == PyBUF_ANY_CONTIGUOUS):
            if not fortran(self):
                raise BufferError("the tensor's elements do not lie in the order that was asked for")
        view.buf = self.c.data
        view.obj = self
        view.len = self.nbytes
        view.itemsize = self._dtype.info.size
        view.readonly = self.c.readonly
        view.ndim = self.c.ndim if flags & PyBUF_ND else 1
        view.format = <char *>self._dtype.info.format if flags & PyBUF_FORMAT else NULL
        view.shape = <Py_ssize_t *>self.c.shape if flags & PyBUF_ND else NULL
        view.strides = <Py_ssize_t *>self.c.strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """A DLPack capsule over this memory; versioned where the asker knows that."""
        cdef bint versioned = max_version is not None and max_version[0] >= 1
        cdef Tensor own = self
        cdef uint64_t flags = 0
        if stream is not None:
            raise BufferError(f"stream is {stream!r}: memory on the CPU has none")
        if dl_device is not None and tuple(dl_device) != (DYN_DL_CPU, 0):
            raise BufferError(f"dl_device is {dl_device}: the tensor is on the CPU")
        if copy:
            own = copied(self, None)
            flags = DYN_DL_COPIED
        elif self.c.readonly and not versioned:
            raise BufferError("the tensor is read-only, which only DLPack 1 can say: ask for max_version=(1, 0)")
        return to_capsule(own, versioned, flags)

    def __dlpack_device__(self):
        """(1, 0): the CPU."""
        return DYN_DL_CPU, 0

    @staticmethod
    def load(path, name=None):
        """A tensor of a safetensors file, a read-only view of the mapped file.

        Parameters
        ----------
        path : path
        name : str, optional
            Which one; not needed where the file has only one.

        Raises
        ------
        KeyError
            The file has no such tensor.
        ValueError
            It is no whole safetensors file, or `name` is needed.
        """
        from dynamo.quill.safetensors import load_tensors

        tensors = load_tensors(path)
        if name is None:
            if len(tensors) != 1:
                raise ValueError(f"{path} has {len(tensors)} tensors: say which, name= one of {list(tensors)[:8]}")
            name = next(iter(tensors))
        return tensors[name]

    def save(self, path):
        """Write a safetensors file that has this tensor alone, called "tensor" where it has no name."""
        from dynamo.quill.safetensors import save_tensors

        save_tensors(path, {self.name or "tensor": self})

    def to_dlpack(self):
        """A capsule of DLPack before version 1, for consumers that take capsules."""
        return self.__dlpack__()

    def __array__(self, dtype=None, copy=None):
        """For NumPy: a view when that will do."""
        array = self.to_numpy(copy=bool(copy))
        if dtype is None or array.dtype == dtype:
            return array
        if copy is False:
            raise ValueError(f"{self._dtype.name} as {dtype} needs a copy")
        return array.astype(dtype)

    @property
    def __array_interface__(self):
        """NumPy's description of this memory; types that NumPy lacks have none."""
        if self._dtype.info.format == NULL:
            raise AttributeError(f"NumPy's array interface has no {self._dtype.name}")
        return {
            "version": 3,
            "shape": tuple(self.shape),
            "typestr": self._dtype.typestr,
            "data": (<size_t>self.c.data, bool(self.c.readonly)),
            "strides": None if self.packed else tuple(self.strides),
        }

    def tolist(self):
        """The elements as Python numbers in nested lists; one number when there are no dimensions."""
        return listed(self, 0, <const uint8_t *>self.c.data)

    def item(self):
        """The only element as a Python number."""
        if self.count != 1:
            raise ValueError(f"a tensor of {self.count} elements: item() is for one")
        return item_at(self.c.dtype, self.c.data)

    def __reduce_ex__(self, protocol):
        cdef Tensor whole = self if self.packed else copied(self, self.name)
        if protocol >= 5:
            data = PickleBuffer(flat_bytes(whole))
        else:
            data = whole.tobytes()
        return _rebuilt, (data, self._dtype.name, self.shape, self.name)

    def __copy__(self):
        return copied(self, self.name)

    def __deepcopy__(self, memo):
        return copied(self, self.name)

    # -- frames --

    def to_frames(self, chunk_size=65536):
        """The tensor as frames of a stream: META, PAYLOAD in chunks, END.

        Parameters
        ----------
        chunk_size : int
            Bytes of a PAYLOAD, 1 to 2^32 - 1.

        Returns
        -------
        list of buffers
            Heads as bytes, payloads as views of this memory, in the order of the stream: for ``writelines`` and
            ``sendmsg``. ``b"".join()`` makes them one string. A tensor with gaps is copied once.
        """
        return frames_of(self, chunk_size)

    def framed(self, chunk_size=65536):
        """What `to_frames` gives, copied into one piece: for those who take one buffer.

        Parameters
        ----------
        chunk_size : int
            Bytes of a PAYLOAD, 1 to 2^32 - 1.

        Returns
        -------
        memoryview
            Of bytes. From 4 MiB on it is made several times as fast as ``b"".join(t.to_frames())``.
        """
        return PyMemoryView_FromObject(joined_frames(self if self.packed else copied(self, self.name), chunk_size))

    @staticmethod
    def from_frames(data, *, max_bytes=1 << 30):
        """The one tensor of a whole stream of frames.

        Parameters
        ----------
        data : bytes-like or iterable of them
            What `to_frames` gives, cut anywhere.
        max_bytes : int
            A larger tensor is refused when it is announced, before there is memory for it.

        Raises
        ------
        ValueError
            The frames are malformed, out of order or incomplete; `Overloaded` for a tensor above `max_bytes`.
        dynamo.errors.Cancelled
            The sender gave up.
        """
        return one_of_frames(data, max_bytes)

    # -- other views --

    def view(self, dtype):
        """The same bytes as another type of the same size; of contiguous tensors also of another size."""
        cdef int code = code_of(dtype), i
        cdef int64_t size = dtype_of(code).info.size, mine = self._dtype.info.size, last
        cdef Tensor out
        if size != mine:
            if self.c.ndim == 0 or not self.packed:
                raise ValueError(f"a view of {self._dtype.name} as {dtype_of(code).name} needs a contiguous tensor "
                                 "with a last dimension: use t.contiguous()")
            last = self.c.shape[self.c.ndim - 1] * mine
            if last % size:
                raise ValueError(f"{last} bytes in the last dimension are no whole number of {dtype_of(code).name}")
        out = sibling(self, code, self.c.ndim)
        for i in range(2 * self.c.ndim):
            out.dims[i] = self.dims[i]
        if size != mine:
            out.dims[self.c.ndim - 1] = last // size
            dyn_tensor_c_strides(code, self.c.ndim, out.c.shape, out.dims + self.c.ndim)
        settle(out)
        return out

    def __getitem__(self, key):
        """Views by numbers, slices, ``...`` and None, as NumPy has them; a Python number where no dimension is left."""
        return indexed(self, key)

    def __iter__(self):
        if self.c.ndim == 0:
            raise TypeError("a tensor without dimensions cannot be iterated over")
        return (indexed(self, i) for i in range(self.c.shape[0]))

    def reshape(self, *shape):
        """The elements in C order in another shape: a view of a contiguous tensor, else a copy. One size may be -1."""
        return reshaped(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes):
        """The same elements with their dimensions in another order; without `axes` the reverse one. A view."""
        return transposed(self, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes)

    @property
    def T(self):
        """The dimensions in reverse order."""
        return transposed(self, ())

    def renamed(self, name):
        """The same memory under another name."""
        cdef Tensor out = same(self)
        out.name = name_of(name)
        return out

    def astype(self, dtype):
        """A copy with elements of another type.

        Floats are rounded once, to the nearest, ties to even; NaN stays NaN; too large becomes infinity (NaN in
        float8_e4m3fn). Floats become integers toward zero, NaN 0 and what does not fit the nearest that does; integers
        become narrower ones modulo 2^bits; bool is what is not 0.

        Parameters
        ----------
        dtype : DType or str
            Also the name of a conversion that a plug-in has registered (`dynamo.quill.convert`).

        Raises
        ------
        ValueError
            complex64 to what has no imaginary part.
        """
        if type(dtype) is str and not is_name(dtype):
            from dynamo._plugin import convert, kernel_names
            if dtype in kernel_names():
                return convert(self, dtype)
        return converted(self, code_of(dtype))

    # -- numbers --

    def sum(self):
        """The sum of all elements: of integers exactly, of floats in double precision. 0 when there are none."""
        cdef dyn_number n
        if self.nbytes >= GIL_FROM:
            with nogil:
                dyn_tensor_sum(&self.c, &n)
        else:
            dyn_tensor_sum(&self.c, &n)
        return number_of(&n)

    def mean(self):
        """The sum by the number of elements; NaN when there are none."""
        return self.sum() / self.count if self.count else float("nan")

    def min(self):
        """The smallest element; NaN when one is NaN.

        Raises
        ------
        ValueError
            There are none, or they are complex.
        """
        return bounds(self)[0]

    def max(self):
        """The largest element; NaN when one is NaN. Raises as `min`."""
        return bounds(self)[1]

    def argmin(self):
        """Where the first smallest element is, counted in C order; the first NaN when there is one."""
        cdef uint64_t index
        cdef int rc
        with nogil:
            rc = dyn_tensor_argmin(&self.c, &index)
        check(rc)
        return index

    def argmax(self):
        """Where the first largest element is, counted in C order; the first NaN when there is one."""
        cdef uint64_t index
        cdef int rc
        with nogil:
            rc = dyn_tensor_argmax(&self.c, &index)
        check(rc)
        return index

    def dot(self, other):
        """The sum of the products with another tensor of the same type and number of elements, in double precision."""
        cdef Tensor that = tensor_take(other)
        cdef dyn_number n
        cdef int rc
        with nogil:
            rc = dyn_tensor_dot(&self.c, &that.c, &n)
        check(rc)
        return number_of(&n)

    def equals(self, other, *, bint equal_nan=False):
        """Has `other` the same shape, type and values? ``==`` is the same with tensors."""
        cdef Tensor that = tensor_take(other)
        cdef bint same
        if self.nbytes >= GIL_FROM:
            with nogil:
                same = dyn_tensor_equal(&self.c, &that.c, equal_nan)
        else:
            same = dyn_tensor_equal(&self.c, &that.c, equal_nan)
        return same

    def allclose(self, other, rtol=1e-5, atol=1e-8, *, bint equal_nan=False):
        """Is ``|a - b| <= atol + rtol * |b|`` everywhere? The types may differ, the shapes not."""
        cdef Tensor that = tensor_take(other)
        cdef double relative = rtol, absolute = atol
        cdef int rc
        with nogil:
            rc = dyn_tensor_close(&self.c, &that.c, relative, absolute, equal_nan)
        return check(rc) == 1

    def __eq__(self, other):
        if type(other) is not Tensor:
            return NotImplemented
        return self.equals(other)

    __hash__ = None

    def _repr_html_(self):
        from dynamo.quill._html import tensor_html
        return tensor_html(self)

    def contiguous(self):
        """The tensor itself when its elements lie in C order without gaps, else a copy of which that is true."""
        return self if self.packed else copied(self, self.name)

    def copy(self):
        """A tensor of its own memory."""
        return copied(self, self.name)


cdef Tensor same(Tensor self):
    cdef Tensor out = sibling(self, self.c.dtype, self.c.ndim)
    memcpy(out.dims, self.dims, 2 * self.c.ndim * sizeof(int64_t))
    settle(out)
    return out


cdef bint fortran(Tensor self) noexcept:
    cdef int64_t step = self._dtype.info.size
    cdef int i
    for i in range(self.c.ndim):
        if self.c.shape[i] == 0:
            return True
        if self.c.shape[i] != 1 and self.c.strides[i] != step:
            return False
        step *= self.c.shape[i]
    return True


cdef object viewed(Tensor self, object dtype):
    import numpy
    if self._dtype.info.format != NULL:
        return numpy.asarray(self)
    return numpy.asarray(self.view(f"uint{8 * self._dtype.info.size}")).view(dtype)


def _rebuilt(data, dtype, shape, name):
    # What pickle calls. Bytes cannot be written to, so they are copied; other buffers are ours alone.
    return Tensor.from_bytes(data, shape, dtype, name, copy=isinstance(data, bytes))


cdef tuple bounds(Tensor self):
    cdef dyn_number least, most
    cdef int rc
    with nogil:
        rc = dyn_tensor_bounds(&self.c, &least, &most)
    check(rc)
    return number_of(&least), number_of(&most)


cdef object listed(Tensor self, int axis, const uint8_t *at):
    cdef int64_t i
    if axis == self.c.ndim:
        return item_at(self.c.dtype, at)
    return [listed(self, axis + 1, at + i * self.c.strides[axis]) for i in range(self.c.shape[axis])]


# ---- views ---------------------------------------------------------------------------------------------------------

cdef object indexed(Tensor self, object key):
    cdef int64_t shape[2 * MAX_DIMS]
    cdef int64_t strides[2 * MAX_DIMS]
    cdef int64_t offset = 0, size
    cdef Py_ssize_t start, stop, step, index
    cdef int n = 0, axis = 0, named = 0, dots = 0
    cdef Tensor out
    if type(key) is tuple and len(<tuple>key) == self.c.ndim:
        for one in <tuple>key:      # the short way to one element
            if type(one) is not int:
                break
            index = PyNumber_AsSsize_t(one, IndexError)
            if index < 0:
                index += self.c.shape[axis]
            if not 0 <= index < self.c.shape[axis]:
                break               # the long way says what is wrong
            offset += index * self.c.strides[axis]
            axis += 1
        else:
            return item_at(self.c.dtype, <uint8_t *>self.c.data + offset)
        offset = axis = 0
    keys = list(key) if type(key) is tuple else [key]
    for one in keys:
        dots += one is Ellipsis
        named += one is not None and one is not Ellipsis
    if named > self.c.ndim:
        raise IndexError(f"{named} indices for {self.c.ndim} dimensions")
    if dots > 1:
        raise IndexError("an index has at most one ellipsis")
    if len(keys) > MAX_DIMS:
        raise IndexError(f"{len(keys)} indices: at most {MAX_DIMS}")
    if dots == 0:
        keys.append(Ellipsis)
    for one in keys:
        if one is Ellipsis:
            for _ in range(self.c.ndim - named):
                shape[n] = self.c.shape[axis]
                strides[n] = self.c.strides[axis]
                n += 1
                axis += 1
        elif one is None:
            shape[n] = 1
            strides[n] = 0
            n += 1
        elif type(one) is slice:
            PySlice_Unpack(one, &start, &stop, &step)
            size = PySlice_AdjustIndices(self.c.shape[axis], &start, &stop, step)
            offset += start * self.c.strides[axis] if size else 0
            shape[n] = size
            strides[n] = self.c.strides[axis] * step if size > 1 else self.c.strides[axis]
            n += 1
            axis += 1
        else:
            if not hasattr(one, "__index__") or isinstance(one, bool):
                raise TypeError(f"index {one!r}: must be an int, a slice, ... or None; for others use "
                                "to_numpy(copy=False)")
            index = PyNumber_AsSsize_t(one, IndexError)
            if index < 0:
                index += self.c.shape[axis]
            if not 0 <= index < self.c.shape[axis]:
                raise IndexError(f"index {one} in dimension {axis} of size {self.c.shape[axis]}")
            offset += index * self.c.strides[axis]
            axis += 1
    if n > MAX_DIMS:
        raise IndexError(f"{n} dimensions: a tensor has at most {MAX_DIMS}")
    if n == 0 and dots == 0:
        return item_at(self.c.dtype, <uint8_t *>self.c.data + offset)
    out = sibling(self, self.c.dtype, n)
    memcpy(out.dims, shape, n * sizeof(int64_t))
    memcpy(out.dims + n, strides, n * sizeof(int64_t))
    out.c.data = <uint8_t *>self.c.data + offset
    settle(out)
    return out


cdef Tensor reshaped(Tensor self, object shape):
    cdef int64_t dims[MAX_DIMS]
    cdef uint64_t count = 1, known = 1
    cdef int ndim, i, unknown = -1
    cdef Tensor out
    cdef Tensor source = self if self.packed else copied(self, self.name)
    sizes = [shape] if isinstance(shape, int) else list(shape)
    for i, size in enumerate(sizes):
        if size == -1:
            if unknown >= 0:
                raise ValueError(f"shape {sizes}: only one size may be -1")
            unknown = i
    if unknown >= 0:
        sizes[unknown] = 1
    ndim = shape_of(sizes, dims)
    check(dyn_tensor_measure(self.c.dtype, ndim, dims, &known, NULL))
    if unknown >= 0:
        if known == 0 or self.count % known:
            raise ValueError(f"{self.count} elements do not fit shape {list(shape)}")
        dims[unknown] = self.count // known
    check(dyn_tensor_measure(self.c.dtype, ndim, dims, &count, NULL))
    if count != self.count:
        raise ValueError(f"{self.count} elements do not fit shape {list_of(dims, ndim)}")
    out = sibling(source, self.c.dtype, ndim)
    memcpy(out.dims, dims, ndim * sizeof(int64_t))
    dyn_tensor_c_strides(self.c.dtype, ndim, dims, out.dims + ndim)
    settle(out)
    return out


cdef Tensor transposed(Tensor self, object axes):
    cdef int i, axis
    cdef Tensor out = sibling(self, self.c.dtype, self.c.ndim)
    order = [axis + self.c.ndim if axis < 0 else axis for axis in axes] if len(axes) else list(
        range(self.c.ndim - 1, -1, -1))
    if sorted(order) != list(range(self.c.ndim)):
        raise ValueError(f"axes {list(axes)}: must name each of the {self.c.ndim} dimensions once")
    for i in range(self.c.ndim):
        axis = order[i]
        out.dims[i] = self.c.shape[axis]
        out.dims[self.c.ndim + i] = self.c.strides[axis]
    settle(out)
    return out


# ---- frames --------------------------------------------------------------------------------------------------------

cdef bytes _end = b"\x02\0\0\0\0\0\0\0\0"


# The bytes of a packed tensor in one dimension.
cdef Tensor flat_bytes(Tensor self):
    cdef Tensor out = sibling(self, DYN_UINT8, 1)
    out.dims[0] = self.nbytes
    out.dims[1] = 1
    settle(out)
    return out


cdef uint64_t chunk_of(object chunk_size) except 0:
    if not 1 <= chunk_size <= 0xffffffff:
        raise ValueError(f"chunk_size is {chunk_size}: must be 1 to 2^32 - 1")
    return chunk_size


cdef void meta_of(Tensor self, bytes name, dyn_tensor_meta *meta) noexcept:
    meta.dtype = self.c.dtype
    meta.device = DYN_DEVICE_CPU
    meta.ndim = self.c.ndim
    memcpy(meta.shape, self.c.shape, self.c.ndim * sizeof(int64_t))
    meta.name = name
    meta.name_size = len(name)


cdef Tensor joined_frames(Tensor self, object chunk_size):
    cdef dyn_tensor_meta meta
    cdef bytes name = b"" if self.name is None else (<str>self.name).encode()
    cdef uint32_t chunk = <uint32_t>chunk_of(chunk_size)
    cdef size_t count = dyn_tensor_iov_count(self.nbytes, chunk), heads, i
    cdef int64_t total = 0
    cdef iovec *pieces
    cdef uint8_t *at
    cdef Tensor out
    meta_of(self, name, &meta)
    heads = dyn_tensor_heads_size(&meta)
    pieces = <iovec *>PyMem_Malloc(count * sizeof(iovec) + heads)
    if pieces == NULL:
        raise MemoryError()
    try:
        check(dyn_tensor_iov(&meta, self.c.data, chunk, <uint8_t *>(pieces + count), pieces))
        for i in range(count):
            total += pieces[i].iov_len
        out = tensor_empty(DYN_UINT8, 1, &total, None)
        at = <uint8_t *>out.c.data
        with nogil:
            for i in range(count):
                memcpy(at, pieces[i].iov_base, pieces[i].iov_len)
                at += pieces[i].iov_len
        return out
    finally:
        PyMem_Free(pieces)


cdef list frames_of(Tensor self, object chunk_size):
    cdef dyn_tensor_meta meta
    cdef uint8_t small[512]
    cdef uint8_t *heads = small
    cdef size_t meta_end
    cdef uint64_t at, chunk = chunk_of(chunk_size)
    cdef bytes name = b"" if self.name is None else (<str>self.name).encode()
    cdef bytes full
    cdef list out
    meta_of(self, name, &meta)
    meta_end = DYN_TENSOR_HEAD + dyn_tensor_meta_size(&meta)
    if meta_end + DYN_TENSOR_HEAD > sizeof(small):
        if meta.name_size > 0xffff:
            raise OverflowError(f"a name of {meta.name_size} bytes: a frame holds 65,535")
        heads = <uint8_t *>PyMem_Malloc(meta_end + DYN_TENSOR_HEAD)
        if heads == NULL:
            raise MemoryError()
    try:
        check(dyn_tensor_meta_write(&meta, heads + DYN_TENSOR_HEAD))
        dyn_tensor_head_write(heads, DYN_TENSOR_META, <uint32_t>(meta_end - DYN_TENSOR_HEAD))
        if self.nbytes == 0:
            return [PyBytes_FromStringAndSize(<char *>heads, meta_end), _end]
        dyn_tensor_head_write(heads + meta_end, DYN_TENSOR_PAYLOAD, <uint32_t>min(chunk, self.nbytes))
        full = PyBytes_FromStringAndSize(<char *>heads + meta_end, DYN_TENSOR_HEAD)
        out = [PyBytes_FromStringAndSize(<char *>heads, meta_end + DYN_TENSOR_HEAD)]
    finally:
        if heads != small:
            PyMem_Free(heads)
    bytes_of = PyMemoryView_FromObject(flat_bytes(self if self.packed else copied(self, None)))
    if chunk >= self.nbytes:
        out.append(bytes_of)
    else:
        at = 0
        while self.nbytes - at > chunk:
            if at > 0:
                out.append(full)
            out.append(PySequence_GetSlice(bytes_of, at, at + chunk))
            at += chunk
        if self.nbytes - at == chunk:
            out.append(full)
        else:
            dyn_tensor_head_write(small, DYN_TENSOR_PAYLOAD, <uint32_t>(self.nbytes - at))
            out.append(PyBytes_FromStringAndSize(<char *>small, DYN_TENSOR_HEAD))
        out.append(PySequence_GetSlice(bytes_of, at, self.nbytes))
    out.append(_end)
    return out


# What a frame of a tensor stream is called.
FRAME_KINDS = {
    "message": DYN_TENSOR_PROTO, "end": DYN_TENSOR_END, "cancel": DYN_TENSOR_CANCEL, "credit": DYN_TENSOR_CREDIT,
    "meta": DYN_TENSOR_META, "payload": DYN_TENSOR_PAYLOAD, "tokens": DYN_TENSOR_TOKENS,
}


def frame_head(kind, size):
    """The bytes before a payload of `size` bytes; `kind` is one of FRAME_KINDS."""
    cdef uint8_t head[DYN_TENSOR_HEAD]
    dyn_tensor_head_write(head, FRAME_KINDS[kind], size)
    return PyBytes_FromStringAndSize(<char *>head, DYN_TENSOR_HEAD)


@cython.final
cdef class TensorReader:
    """A stream of tensor frames, read as its bytes come.

    Parameters
    ----------
    max_bytes : int
        A larger tensor is refused when it is announced, before there is memory for it.
    max_message : int
        The same for messages, token batches and reasons.

    Examples
    --------
    >>> reader = TensorReader()
    >>> for piece in Tensor([1.0], name="w").to_frames():
    ...     for kind, value in reader.feed(piece):
    ...         print(kind, value)
    tensor Tensor(name='w', shape=[1], dtype=float32)
    end None
    """
    cdef dyn_tensor_reader *ptr
    cdef bint busy

    def __cinit__(self, max_bytes=1 << 30, max_message=4 << 20):
        cdef dyn_tensor_limits limits
        if not 1 <= max_bytes < 1 << 63:
            raise ValueError(f"max_bytes is {max_bytes}: must be 1 or more")
        if not 1 <= max_message < 1 << 32:
            raise ValueError(f"max_message is {max_message}: must be 1 to 2^32 - 1")
        limits.tensor = max_bytes
        limits.message = max_message
        check(dyn_tensor_reader_new(&self.ptr, &limits))

    def __dealloc__(self):
        dyn_tensor_reader_free(self.ptr)

    def __repr__(self):
        return "TensorReader()"

    def feed(self, data):
        """Read more bytes.

        Returns
        -------
        list of (str, object)
            What is complete now: ("tensor", Tensor), ("message", bytes), ("tokens", bytes), ("credit", int),
            ("cancel", str), ("end", None).

        Raises
        ------
        ValueError
            The bytes cannot be such a stream; every later call says so again.
        """
        cdef _Lease lease = _Lease.__new__(_Lease)
        cdef dyn_tensor_event event
        cdef const uint8_t *at
        cdef size_t left, used
        cdef int rc
        cdef list out = []
        if self.busy:
            raise RuntimeError("another thread is feeding this reader")
        PyObject_GetBuffer(data, &lease.view, PyBUF_C_CONTIGUOUS)
        at = <const uint8_t *>lease.view.buf
        left = lease.view.len
        while True:
            if left >= GIL_FROM:
                self.busy = True
                with nogil:
                    rc = dyn_tensor_reader_feed(self.ptr, at, left, &used, &event)
                self.busy = False
            else:
                rc = dyn_tensor_reader_feed(self.ptr, at, left, &used, &event)
            check(rc)
            if event.type == DYN_TENSOR_EVENT_NONE:
                return out
            at += used
            left -= used
            if event.type == DYN_TENSOR_EVENT_TENSOR:
                out.append(("tensor", of_event(&event)))
            elif event.type == DYN_TENSOR_EVENT_MESSAGE:
                out.append(("message", (<const char *>event.data)[:event.size]))
            elif event.type == DYN_TENSOR_EVENT_TOKENS:
                out.append(("tokens", (<const char *>event.data)[:event.size]))
            elif event.type == DYN_TENSOR_EVENT_CREDIT:
                out.append(("credit", event.credit))
            elif event.type == DYN_TENSOR_EVENT_CANCEL:
                out.append(("cancel", (<const char *>event.data)[:event.size].decode("utf-8", "replace")))
            elif event.type == DYN_TENSOR_EVENT_END:
                out.append(("end", None))

    def end(self):
        """There are no more bytes.

        Raises
        ------
        dynamo.errors.Truncated
            The stream is not over.
        """
        check(dyn_tensor_reader_end(self.ptr))


cdef Tensor of_event(dyn_tensor_event *event):
    cdef object name = None
    try:
        if event.meta.name != NULL:
            name = event.meta.name[:event.meta.name_size].decode("utf-8", "replace")
        return tensor_from_buf(event.buf, 0, event.meta.dtype, event.meta.ndim, event.meta.shape, name)
    finally:
        dyn_buf_unref(event.buf)


cdef Tensor one_of_frames(object data, object max_bytes):
    cdef TensorReader reader = TensorReader(max_bytes)
    cdef Tensor out = None
    for piece in ((data,) if PyObject_CheckBuffer(data) else data):
        for kind, value in reader.feed(piece):
            if kind == "tensor":
                if out is not None:
                    raise InvalidArgument("the stream has more than one tensor: use TensorReader")
                out = value
            elif kind == "cancel":
                raise Cancelled(f"the sender cancelled: {value or 'no reason given'}")
    reader.end()
    if out is None:
        raise InvalidArgument("the stream ends without a tensor")
    return out
