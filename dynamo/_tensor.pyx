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
from cpython.sequence cimport PySequence_GetSlice
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from dynamo._dtype cimport DType, code_of, code_of_format, dtype_of
from dynamo._errors cimport check
from dynamo.c_common cimport dyn_buf, dyn_buf_data, dyn_buf_new, dyn_buf_new_zeroed, dyn_buf_ref, dyn_buf_size
from dynamo.c_common cimport dyn_buf_unref
from dynamo.c_tensor cimport *
from dynamo.c_tensor_frames cimport *

from dynamo._dtype import supported_names
from dynamo.errors import Cancelled, InvalidArgument


cdef extern from "Python.h":
    void PyObject_GC_UnTrack(void *)
    bint PyFloat_CheckExact(object)
    object PyMemoryView_FromObject(object)

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


# ---- frames ------------------------------------------------------------------------------------------------------------

cdef bytes _end = b"\x02\0\0\0\0\0\0\0\0"


# The bytes of a packed tensor in one dimension.
cdef Tensor flat_bytes(Tensor self):
    cdef Tensor out = sibling(self, DYN_UINT8, 1)
    out.dims[0] = self.nbytes
    out.dims[1] = 1
    settle(out)
    return out


cdef list frames_of(Tensor self, object chunk_size):
    cdef dyn_tensor_meta meta
    cdef uint8_t small[512]
    cdef uint8_t *heads = small
    cdef size_t meta_end
    cdef uint64_t at, chunk
    cdef bytes name = b"" if self.name is None else (<str>self.name).encode()
    cdef bytes full
    cdef list out
    if not 1 <= chunk_size <= 0xffffffff:
        raise ValueError(f"chunk_size is {chunk_size}: must be 1 to 2^32 - 1")
    chunk = chunk_size
    meta.dtype = self.c.dtype
    meta.device = DYN_DEVICE_CPU
    meta.ndim = self.c.ndim
    memcpy(meta.shape, self.c.shape, self.c.ndim * sizeof(int64_t))
    meta.name = name
    meta.name_size = len(name)
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
