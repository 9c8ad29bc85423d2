"""Element types of tensors."""
cimport cython
from dynamo._made cimport dyn_only_library_makes
from dynamo.c_tensor cimport (
    DYN_BFLOAT16, DYN_BOOL, DYN_COMPLEX64, DYN_DTYPE_COUNT, DYN_FLOAT8_E4M3FN, DYN_FLOAT8_E5M2, DYN_FLOAT16,
    DYN_FLOAT32, DYN_FLOAT64, DYN_INT8, DYN_INT16, DYN_INT32, DYN_INT64, DYN_KIND_BOOL, DYN_KIND_COMPLEX,
    DYN_KIND_FLOAT, DYN_KIND_INT, DYN_KIND_UINT, DYN_UINT8, DYN_UINT16, DYN_UINT32, DYN_UINT64, dyn_dtype)


@cython.final
cdef class DType:
    """What the elements of a tensor are: ``DType.float32()`` and its like.

    There is one object of each type, so `is` works as well as ``==``. Where a dtype is asked for, its name and NumPy's
    dtypes are taken too.

    Attributes
    ----------
    name : str
        ``"float32"`` and its like; also what `str` gives.

    Examples
    --------
    >>> DType.bfloat16()
    DType.bfloat16
    >>> DType.bfloat16().element_size
    2
    """

    def __init__(self, *args, **kwargs):
        raise TypeError("a DType is made by DType.float32() and its like, DType.from_name() or DType.from_numpy()")

    @staticmethod
    def float32():
        """IEEE 754, 32 bits."""
        return dtype_of(DYN_FLOAT32)

    @staticmethod
    def float16():
        """IEEE 754, 16 bits."""
        return dtype_of(DYN_FLOAT16)

    @staticmethod
    def bfloat16():
        """The upper half of a float32."""
        return dtype_of(DYN_BFLOAT16)

    @staticmethod
    def float64():
        """IEEE 754, 64 bits."""
        return dtype_of(DYN_FLOAT64)

    @staticmethod
    def float8_e4m3fn():
        """4 bits of exponent, 3 of fraction, no infinity; up to 448."""
        return dtype_of(DYN_FLOAT8_E4M3FN)

    @staticmethod
    def float8_e5m2():
        """5 bits of exponent, 2 of fraction: the upper half of a float16."""
        return dtype_of(DYN_FLOAT8_E5M2)

    @staticmethod
    def int8():
        """Signed, 8 bits."""
        return dtype_of(DYN_INT8)

    @staticmethod
    def int16():
        """Signed, 16 bits."""
        return dtype_of(DYN_INT16)

    @staticmethod
    def int32():
        """Signed, 32 bits."""
        return dtype_of(DYN_INT32)

    @staticmethod
    def int64():
        """Signed, 64 bits."""
        return dtype_of(DYN_INT64)

    @staticmethod
    def uint8():
        """Unsigned, 8 bits."""
        return dtype_of(DYN_UINT8)

    @staticmethod
    def uint16():
        """Unsigned, 16 bits."""
        return dtype_of(DYN_UINT16)

    @staticmethod
    def uint32():
        """Unsigned, 32 bits."""
        return dtype_of(DYN_UINT32)

    @staticmethod
    def uint64():
        """Unsigned, 64 bits."""
        return dtype_of(DYN_UINT64)

    @staticmethod
    def bool_():
        """A byte, 0 or 1."""
        return dtype_of(DYN_BOOL)

    @staticmethod
    def complex64():
        """Two float32: real and imaginary part."""
        return dtype_of(DYN_COMPLEX64)

    @staticmethod
    def from_name(str name not None):
        """The type of this name: ``DType.from_name("float32")``.

        Raises
        ------
        TypeError
            There is none.
        """
        return dtype_of(code_of_name(name))

    @staticmethod
    def from_numpy(dtype):
        """The type that NumPy calls so; of ml_dtypes too. Anything that ``numpy.dtype()`` takes.

        Raises
        ------
        TypeError
            There is none, or its bytes are swapped.
        """
        return dtype_of(code_of(dtype))

    @property
    def element_size(self):
        """Bytes of one element."""
        return self.info.size

    def is_float(self):
        """Is it a real floating-point type?"""
        return self.info.kind == DYN_KIND_FLOAT

    def is_integer(self):
        """Is it an integer type? bool is none."""
        return self.info.kind == DYN_KIND_INT or self.info.kind == DYN_KIND_UINT

    def is_signed(self):
        """Can it be negative?"""
        return self.info.kind != DYN_KIND_UINT and self.info.kind != DYN_KIND_BOOL

    def is_complex(self):
        """Has it an imaginary part?"""
        return self.info.kind == DYN_KIND_COMPLEX

    @property
    def numpy(self):
        """The `numpy.dtype` of this type.

        bfloat16 and float8 come from ml_dtypes. Where that is not installed it is the unsigned integer of their size,
        with a warning.
        """
        if self.in_numpy is None:
            import numpy
            if self.info.format != NULL:
                self.in_numpy = numpy.dtype(self.name)
            else:
                try:
                    import ml_dtypes
                    self.in_numpy = numpy.dtype(getattr(ml_dtypes, self.name))
                except (ImportError, AttributeError):       # not there, or from before this type
                    import warnings
                    bits = 8 * self.info.size
                    warnings.warn(f"NumPy has no {self.name}: its bits are shown as uint{bits}. "
                                  "Install ml_dtypes to have the type", stacklevel=2)
                    return numpy.dtype(f"uint{bits}")
        return self.in_numpy

    @property
    def typestr(self):
        """As NumPy's array interface has it: ``"<f4"``."""
        return self.info.typestr.decode()

    @property
    def dlpack(self):
        """DLPack's (code, bits)."""
        return self.info.dl_code, self.info.size * 8

    @property
    def code(self):
        """The number on the wire."""
        return self.info.code

    def __str__(self):
        return self.name

    def __repr__(self):
        return f"DType.{self.name}"

    def __eq__(self, other):
        if not isinstance(other, DType):
            return NotImplemented
        return self is other

    def __hash__(self):
        return hash(self.name)

    def __reduce__(self):
        return DType.from_name, (self.name,)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


dyn_only_library_makes(DType)


cdef list _objects = [None] * DYN_DTYPE_COUNT   # by code; complete before the module is imported
cdef dict _codes = {}


cdef void _make() noexcept:
    cdef int code
    cdef DType self
    for code in range(1, DYN_DTYPE_COUNT):
        self = DType.__new__(DType)
        self.info = dyn_dtype(code)
        self.name = self.info.name.decode()
        _objects[code] = self
        _codes[self.name] = code

_make()


cdef DType dtype_of(int code):
    return <DType>_objects[code]


cdef int code_of_name(str name) except -1:
    code = _codes.get(name)
    if code is None:
        raise TypeError(f"no dtype is called {name!r}: there are {', '.join(_codes)}")
    return code


cdef bint is_name(str name) noexcept:
    return name in _codes


cdef int code_of(object dtype) except -1:
    if type(dtype) is DType:
        return (<DType>dtype).info.code
    if type(dtype) is str and dtype in _codes:
        return _codes[dtype]
    import numpy
    try:
        known = numpy.dtype(dtype)
    except TypeError:
        if type(dtype) is str:
            code_of_name(dtype)     # says which there are
        raise TypeError(f"dtype is {dtype!r}: must be a DType, a name or a numpy.dtype") from None
    code = _codes.get(known.name)
    if code is None:
        raise TypeError(f"Unsupported numpy dtype: {known.name}. Supported: {supported_names()}")
    if known.byteorder == ">":
        raise TypeError(f"Unsupported numpy dtype: {known.str} is big-endian; convert with "
                        "array.astype(array.dtype.newbyteorder('<'))")
    return code


def supported_names():
    """The names of all types, for messages."""
    # The first eight as Quill has them.
    first = ["float32", "float64", "float16", "int8", "int32", "int64", "uint8", "bool"]
    return ", ".join(first + [name for name in _codes if name not in first])


cdef int code_of_format(const char *format, Py_ssize_t itemsize) noexcept:
    cdef char kind
    if format == NULL:
        return DYN_UINT8 if itemsize == 1 else 0
    if format[0] == b"@" or format[0] == b"=" or format[0] == b"<":
        format += 1
    kind = format[0]
    if kind == b"Z":
        return DYN_COMPLEX64 if format[1] == b"f" and format[2] == 0 and itemsize == 8 else 0
    if kind == 0 or format[1] != 0:
        return 0
    if kind == b"f":
        return DYN_FLOAT32 if itemsize == 4 else 0
    if kind == b"d":
        return DYN_FLOAT64 if itemsize == 8 else 0
    if kind == b"e":
        return DYN_FLOAT16 if itemsize == 2 else 0
    if kind == b"?":
        return DYN_BOOL if itemsize == 1 else 0
    if kind in b"bhilqn":
        return (DYN_INT64 if itemsize == 8 else DYN_INT32 if itemsize == 4 else DYN_INT16 if itemsize == 2 else
                DYN_INT8 if itemsize == 1 else 0)
    if kind in b"BHILQN":
        return (DYN_UINT64 if itemsize == 8 else DYN_UINT32 if itemsize == 4 else DYN_UINT16 if itemsize == 2 else
                DYN_UINT8 if itemsize == 1 else 0)
    return 0
