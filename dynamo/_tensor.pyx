# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Tensors: numbers of one type in many dimensions, shared with C and with whoever speaks DLPack or the buffer protocol."""
cimport cython
from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS, PyBUF_C_CONTIGUOUS, PyBUF_F_CONTIGUOUS, PyBUF_FORMAT, PyBUF_ND, PyBUF_RECORDS_RO,
    PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_AsDouble
from cpython.list cimport PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from dynamo._dtype cimport DType, code_of, code_of_format, dtype_of
from dynamo._errors cimport check
from dynamo.c_common cimport dyn_buf, dyn_buf_data, dyn_buf_new, dyn_buf_new_zeroed, dyn_buf_ref, dyn_buf_size
from dynamo.c_common cimport dyn_buf_unref
from dynamo.c_tensor cimport *

from dynamo._dtype import supported_names


cdef extern from "Python.h":
    void PyObject_GC_UnTrack(void *)
    bint PyFloat_CheckExact(object)

cdef enum:
    GIL_FROM = 1 << 18      # bytes: about 10 microseconds of copying
    MAX_DIMS = 64


@cython.final
@cython.no_gc_clear         # a cycle goes through somebody else's object, and that one is cleared
@cython.freelist(16)
cdef class _Lease:
    # A buffer that somebody lends us, given back when the last tensor over it goes.
    cdef Py_buffer view
    cdef object none        # an object attribute makes Cython write a traverse, which visits view.obj too

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


# ---- shapes ----------------------------------------------------------------------------------------------------------

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


# ---- making ----------------------------------------------------------------------------------------------------------

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


# ---- taking what others have ------------------------------------------------------------------------------------------

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
    if hasattr(numbers, "__array__"):
        import numpy
        return over_buffer(numpy.asarray(numbers), 0)
    raise TypeError(f"a {type(numbers).__name__} holds no array: must have the buffer protocol, __dlpack__ or __array__")


# float32 out of a sequence of numbers, flat or nested.
cdef Tensor from_sequence(object numbers, object name):
    cdef Tensor self
    cdef float *out
    cdef int64_t i, n
    if isinstance(numbers, (str, bytes, dict, set)) or not hasattr(numbers, "__len__"):
        raise TypeError(f"data is a {type(numbers).__name__}: must be an array or a sequence of numbers")
    fast = numbers if type(numbers) is list else list(numbers)
    n = PyList_GET_SIZE(fast)
    if n and hasattr(fast[0], "__len__"):
        import numpy
        return copied(over_buffer(numpy.array(fast, numpy.float32), 0), name)
    self = tensor_empty(DYN_FLOAT32, 1, &n, name)
    out = <float *>self.c.data
    for i in range(n):
        if PyList_GET_SIZE(fast) != n:
            raise RuntimeError("the list changed while it was read")
        item = fast[i]
        try:
            out[i] = <float>(PyFloat_AS_DOUBLE(item) if PyFloat_CheckExact(item) else PyFloat_AsDouble(item))
        except TypeError:
            raise TypeError(f"element {i} is a {type(item).__name__}: must be a number") from None
    return self


# ---- TensorMeta ----------------------------------------------------------------------------------------------------------

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


# ---- Tensor --------------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc_clear         # see _Lease
cdef class Tensor:
    """Numbers of one type in many dimensions.

    Parameters
    ----------
    data : array or sequence of numbers
        An array keeps its type; a sequence (nested ones too) becomes float32. Copied.
    name : str, optional

    Notes
    -----
    ``len(t)`` counts the elements, so an empty tensor is false. Memory of its own is 64-byte aligned; what views it, by
    slicing, ``memoryview``, DLPack or ``to_numpy(copy=False)``, keeps it alive.

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

    def __init__(self, data, *, name=None):
        cdef Tensor made
        if self.made:
            raise TypeError("a Tensor cannot be made twice")
        name_of(name)
        if type(data) is Tensor or PyObject_CheckBuffer(data) or hasattr(data, "__array__"):
            made = tensor_take(data)
        else:
            made = from_sequence(data, name)
        init_tensor(self, made.c.dtype, made.c.ndim, made.c.shape, name)
        if made.c.owner != NULL and made.packed and type(data) is not Tensor:
            self.c.owner = dyn_buf_ref(made.c.owner)    # fresh out of a sequence: nobody else has it
            self.c.data = made.c.data
            PyObject_GC_UnTrack(<void *>self)
        else:
            allocate(self, False)
            copy_out(made, self.c.data)

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
            Of NumPy, or anything else with the buffer protocol or ``__array__``. Its strides do not matter.
        name : str, optional
        copy : bool
            False: a view of the array's memory, which lives as long as the tensor and shows later writes.

        Raises
        ------
        TypeError
            There is no such element type, or its bytes are swapped.
        """
        cdef Tensor self = tensor_take(array)
        if name is not None:
            name_of(name)
        if copy:
            return copied(self, name)
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

    # -- other views --

    def view(self, dtype):
        """The same bytes as another type of the same size; of contiguous tensors also of another size."""
        cdef int code = code_of(dtype), i
        cdef int64_t size = dtype_of(code).info.size, mine = self._dtype.info.size, last
        cdef Tensor out
        if size != mine:
            if self.c.ndim == 0 or not self.packed:
                raise ValueError(f"a view of {self._dtype.name} as {dtype_of(code).name} needs a contiguous tensor with "
                                 "a last dimension: use t.contiguous()")
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
