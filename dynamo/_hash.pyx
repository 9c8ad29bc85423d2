# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Names for blocks of tokens, from anything that holds token ids."""
cimport cython
from cpython.buffer cimport PyBUF_CONTIG_RO, PyBUF_FORMAT, PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_CheckBuffer
from cpython.buffer cimport PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.sequence cimport PySequence_Check, PySequence_Fast
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from dynamo._errors cimport check
from dynamo.c_hash cimport (
    dyn_hash_block_count, dyn_hash_block_mm, dyn_hash_blocks, dyn_hash_chain, dyn_hash_narrow, dyn_hash_seed,
    dyn_hash_simd, dyn_hash_text)

import sys


cdef extern from *:
    """
    /* Small ints without a call. Returns 0 and sets *out, or 1: ask PyLong_As... */
    #if PY_VERSION_HEX >= 0x030C0000
    #define DYN_DIGITS(o) (((PyLongObject *)(o))->long_value.ob_digit)
    #define DYN_NDIGITS(o) ((((PyLongObject *)(o))->long_value.lv_tag & 3) == 2 ? -1 : \
                            (Py_ssize_t)(((PyLongObject *)(o))->long_value.lv_tag >> 3))
    #else
    #define DYN_DIGITS(o) (((PyLongObject *)(o))->ob_digit)
    #define DYN_NDIGITS(o) Py_SIZE(o)
    #endif
    static inline int dyn_fast_u32(PyObject *o, uint32_t *out)
    {
    #if PYLONG_BITS_IN_DIGIT == 30 && !defined(PYPY_VERSION)
        if (PyLong_CheckExact(o)) {
            Py_ssize_t n = DYN_NDIGITS(o);
            if (n == 1) { *out = DYN_DIGITS(o)[0]; return 0; }
            if (n == 0) { *out = 0; return 0; }
            if (n == 2 && DYN_DIGITS(o)[1] < 4) {
                *out = DYN_DIGITS(o)[0] | (uint32_t)DYN_DIGITS(o)[1] << 30;
                return 0;
            }
        }
    #endif
        return 1;
    }
    static inline int dyn_fast_u64(PyObject *o, uint64_t *out)
    {
    #if PYLONG_BITS_IN_DIGIT == 30 && !defined(PYPY_VERSION)
        if (PyLong_CheckExact(o)) {
            Py_ssize_t n = DYN_NDIGITS(o);
            const digit *d = DYN_DIGITS(o);
            if (n == 3 && d[2] < 16) { *out = d[0] | (uint64_t)d[1] << 30 | (uint64_t)d[2] << 60; return 0; }
            if (n == 2) { *out = d[0] | (uint64_t)d[1] << 30; return 0; }
            if (n == 1) { *out = d[0]; return 0; }
            if (n == 0) { *out = 0; return 0; }
        }
    #endif
        return 1;
    }
    static inline PyObject *dyn_item(PyObject *seq, Py_ssize_t i) { return PySequence_Fast_GET_ITEM(seq, i); }
    /* As many leading u64 as there are. Hashes lie scattered: each is asked for ahead. (Tokens do
       not: many are the same objects, and prefetching them cost a fifth.) */
    #if defined(__GNUC__)
    #define DYN_FETCH(p) (__builtin_prefetch((const char *)(p) + 8), __builtin_prefetch((const char *)(p) + 32))
    #else
    #define DYN_FETCH(p) ((void)(p))
    #endif
    static inline Py_ssize_t dyn_fast_u64s(PyObject *seq, Py_ssize_t n, uint64_t *out)
    {
        enum { AHEAD = 64 };
        Py_ssize_t i = 0, fetched = n;
        if (n > AHEAD)
            for (fetched = 0; fetched < AHEAD; fetched++) DYN_FETCH(PySequence_Fast_GET_ITEM(seq, fetched));
        for (; i < n; i++, fetched++) {
            if (fetched < n) DYN_FETCH(PySequence_Fast_GET_ITEM(seq, fetched));
            if (dyn_fast_u64(PySequence_Fast_GET_ITEM(seq, i), &out[i])) break;
        }
        return i;
    }
    static inline PyObject *dyn_list_of_u64(const uint64_t *from, Py_ssize_t n)
    {
        PyObject *list = PyList_New(n);
        for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
            PyObject *value = PyLong_FromUnsignedLongLong(from[i]);
            if (value == NULL) { Py_DECREF(list); return NULL; }
            PyList_SET_ITEM(list, i, value);
        }
        return list;
    }
    """
    int dyn_fast_u32(PyObject *value, uint32_t *out) noexcept
    int dyn_fast_u64(PyObject *value, uint64_t *out) noexcept
    PyObject *dyn_item(object fast, Py_ssize_t i) noexcept
    Py_ssize_t dyn_fast_u64s(object fast, Py_ssize_t n, uint64_t *out) noexcept
    list dyn_list_of_u64(const uint64_t *hashes, Py_ssize_t n)
    Py_ssize_t PySequence_Fast_GET_SIZE(object fast)

cdef enum:
    GIL_FROM = 32768    # tokens: about 10 microseconds of hashing


cdef uint64_t u64(object value) except? 0xdeadbeef:
    cdef uint64_t small
    if dyn_fast_u64(<PyObject *>value, &small) == 0:
        return small
    if not hasattr(value, "__index__"):
        raise TypeError(f"an int is required, not {type(value).__name__}")
    number = value.__index__()
    if not -(1 << 63) <= number < 1 << 64:
        raise OverflowError(f"{number} does not fit in 64 bits")
    return <uint64_t>(number & 0xffffffffffffffff)


cdef uint32_t token_of(object value, Py_ssize_t at) except? 0xdeadbee:
    if not isinstance(value, int):
        if not hasattr(value, "__index__"):
            raise TypeError(f"token {at} is {type(value).__name__}: must be int")
        value = value.__index__()
    if not 0 <= value <= 0xffffffff:
        raise OverflowError(f"token {at} is {value}: must be 0 to 2^32 - 1")
    return <uint32_t>value


# The kind of an integer buffer: i or u, and its size; or 0.
cdef char kind_of(const char *format, Py_ssize_t itemsize) noexcept:
    if format == NULL:
        return b"u" if itemsize == 1 else 0
    if format[0] == b"@" or format[0] == b"=" or (format[0] == b"<" and LITTLE):
        format += 1
    if format[0] == 0 or format[1] != 0:
        return 0
    if format[0] in (b"b", b"h", b"i", b"l", b"q", b"n"):
        return b"i"
    if format[0] in (b"B", b"H", b"I", b"L", b"Q", b"N"):
        return b"u"
    return 0

cdef bint LITTLE = sys.byteorder == "little"


@cython.freelist(8)
@cython.final
cdef class Tokens:
    """Token ids of one call, as C sees them."""

    def __dealloc__(self):
        if self.viewed:
            PyBuffer_Release(&self.view)
        PyMem_RawFree(self.owned)

    cdef int reserve(self, Py_ssize_t count) except -1:
        self.owned = <uint32_t *>PyMem_RawMalloc(max(<size_t>count, 1) * sizeof(uint32_t))
        if self.owned == NULL:
            raise MemoryError()
        self.data = self.owned
        self.count = count
        return 0


cdef int tokens_of_sequence(Tokens self, object tokens) except -1:
    cdef Py_ssize_t i, n
    cdef uint32_t *to
    fast = PySequence_Fast(tokens, "tokens must be a sequence of ints")
    n = PySequence_Fast_GET_SIZE(fast)
    self.reserve(n)
    to = self.owned
    for i in range(n):
        if dyn_fast_u32(dyn_item(fast, i), &to[i]) != 0:
            to[i] = token_of(<object>dyn_item(fast, i), i)
            if PySequence_Fast_GET_SIZE(fast) != n:
                raise RuntimeError("the list of tokens changed while it was read")
    return 0


cdef int tokens_of_buffer(Tokens self, object tokens) except -1:
    cdef Py_ssize_t i, n, step
    cdef char kind
    cdef const char *at
    PyObject_GetBuffer(tokens, &self.view, PyBUF_STRIDED_RO | PyBUF_FORMAT)
    self.viewed = True
    if self.view.ndim != 1:
        raise ValueError(f"tokens have {self.view.ndim} dimensions: must be 1")
    kind = kind_of(self.view.format, self.view.itemsize)
    n = self.view.shape[0]
    step = self.view.strides[0] if self.view.strides != NULL else self.view.itemsize
    at = <const char *>self.view.buf
    if kind == b"u" and self.view.itemsize == 4 and step == 4 and <size_t>at % 4 == 0:
        self.data = <const uint32_t *>at
        self.count = n
        return 0
    if kind == b"i" and self.view.itemsize == 8 and step == 8 and <size_t>at % 8 == 0:
        self.reserve(n)
        check(dyn_hash_narrow(<const int64_t *>at, n, self.owned))
        return 0
    if kind == 0:
        text = self.view.format.decode() if self.view.format != NULL else "?"
        if text[0] in "<>!@=" and text[1:] in "bhilqnBHILQN":
            return tokens_of_sequence(self, tokens.tolist() if hasattr(tokens, "tolist") else tokens)
        raise TypeError(f"tokens are a buffer of {text!r}: must be integers")
    self.reserve(n)
    for i in range(n):
        self.owned[i] = widened(at + i * step, kind, self.view.itemsize, i)
    return 0


cdef uint32_t widened(const char *at, char kind, Py_ssize_t size, Py_ssize_t i) except? 0xdeadbee:
    cdef uint64_t u = 0
    cdef int64_t s = 0
    memcpy(&u, at, size)
    if not LITTLE:
        u >>= 64 - 8 * size
    if kind == b"i":
        s = <int64_t>(u << (64 - 8 * size)) >> (64 - 8 * size)
        if s < 0 or s > 0xffffffff:
            raise OverflowError(f"token {i} is {s}: must be 0 to 2^32 - 1")
    elif u > 0xffffffff:
        raise OverflowError(f"token {i} is {u}: must be 0 to 2^32 - 1")
    return <uint32_t>u


cdef Tokens take_tokens(object tokens):
    cdef Tokens self = Tokens.__new__(Tokens)
    if type(tokens) is list or type(tokens) is tuple:
        tokens_of_sequence(self, tokens)
    elif PyObject_CheckBuffer(tokens):
        tokens_of_buffer(self, tokens)
    elif hasattr(tokens, "__array__"):
        import numpy
        tokens_of_buffer(self, numpy.asarray(tokens))
    elif hasattr(tokens, "__dlpack__"):
        import numpy
        tokens_of_buffer(self, numpy.from_dlpack(tokens))
    elif isinstance(tokens, (str, dict)) or not PySequence_Check(tokens):
        raise TypeError(f"tokens are a {type(tokens).__name__}: must be a sequence or an array of ints")
    else:
        tokens_of_sequence(self, tokens)
    return self


cdef void drop_hashes(Hashes *self) noexcept:
    if self.viewed:
        PyBuffer_Release(&self.view)
        self.viewed = False
    if self.owned != NULL:
        PyMem_RawFree(self.owned)
        self.owned = NULL


cdef uint64_t *room_for(Hashes *out, Py_ssize_t count) except NULL:
    out.count = count
    if count <= SMALL_HASHES:
        out.data = out.small
        return out.small
    out.owned = <uint64_t *>PyMem_RawMalloc(count * sizeof(uint64_t))
    if out.owned == NULL:
        raise MemoryError()
    out.data = out.owned
    return out.owned


cdef int take_hashes(object hashes, Hashes *out) except -1:
    cdef Py_ssize_t i, n, step
    cdef uint64_t *to
    cdef char kind
    out.owned = NULL
    out.viewed = False
    if not (type(hashes) is list or type(hashes) is tuple) and PyObject_CheckBuffer(hashes):
        PyObject_GetBuffer(hashes, &out.view, PyBUF_STRIDED_RO | PyBUF_FORMAT)
        out.viewed = True
        try:
            kind = kind_of(out.view.format, out.view.itemsize)
            if kind == 0 or out.view.itemsize != 8 or out.view.ndim != 1:
                text = out.view.format.decode() if out.view.format != NULL else "?"
                raise TypeError(f"hashes are a buffer of {text!r} with {out.view.ndim} dimensions: "
                                "must be uint64 or int64 with 1")
            n = out.view.shape[0]
            step = out.view.strides[0] if out.view.strides != NULL else 8
            if step == 8 and <size_t>out.view.buf % 8 == 0:
                out.data = <const uint64_t *>out.view.buf
                out.count = n
                return 0
            to = room_for(out, n)
            for i in range(n):
                memcpy(&to[i], <const char *>out.view.buf + i * step, 8)
            return 0
        except BaseException:
            drop_hashes(out)
            raise
    if type(hashes) is list or type(hashes) is tuple:
        n = PySequence_Fast_GET_SIZE(hashes)
        if dyn_fast_u64s(hashes, n, room_for(out, n)) == n:
            return 0
        drop_hashes(out)
    elif isinstance(hashes, (str, dict)) or not PySequence_Check(hashes):
        raise TypeError(f"hashes are a {type(hashes).__name__}: must be a sequence or an array of ints")
    return take_slowly(hashes, out)


cdef int take_slowly(object hashes, Hashes *out) except -1:
    cdef Py_ssize_t i, n
    cdef uint64_t *to
    fast = PySequence_Fast(hashes, "hashes must be a sequence of ints")
    n = PySequence_Fast_GET_SIZE(fast)
    to = room_for(out, n)
    for i in range(n):
        if dyn_fast_u64(dyn_item(fast, i), &to[i]) != 0:
            try:
                to[i] = u64(<object>dyn_item(fast, i))
                if PySequence_Fast_GET_SIZE(fast) != n:
                    raise RuntimeError("the list of hashes changed while it was read")
            except AttributeError:
                drop_hashes(out)
                raise TypeError(f"hash {i} is {type(hashes[i]).__name__}: must be int") from None
            except BaseException:
                drop_hashes(out)
                raise
    return 0


cdef object new_u64(size_t count, uint64_t **data):
    cdef Py_buffer view
    import numpy
    array = numpy.empty(count, numpy.uint64)
    PyObject_GetBuffer(array, &view, PyBUF_CONTIG_RO)
    data[0] = <uint64_t *>view.buf
    PyBuffer_Release(&view)     # the array keeps its memory
    return array


cdef uint64_t seed_of(object lora_name, object cache_namespace) except? 0:
    cdef bytes lora, space
    if lora_name is None and cache_namespace is None:
        return dyn_hash_seed(NULL, 0, NULL, 0)
    lora = lora_name.encode() if lora_name is not None else b""
    space = cache_namespace.encode() if cache_namespace is not None else b""
    return dyn_hash_seed(lora, len(lora), space, len(space))


cdef int hash_into(Tokens tokens, size_t block_size, bint eagle, uint64_t seed, object mm_infos,
                   uint64_t *out) except -1:
    cdef size_t i, blocks = dyn_hash_block_count(tokens.count, block_size, eagle)
    cdef Hashes mm
    cdef int rc
    if tokens.count >= GIL_FROM:
        with nogil:
            dyn_hash_blocks(tokens.data, tokens.count, block_size, eagle, seed, out)
    else:
        dyn_hash_blocks(tokens.data, tokens.count, block_size, eagle, seed, out)
    if mm_infos is None:
        return 0
    for i, info in enumerate(mm_infos):
        if i >= blocks:
            break
        if info is None:
            continue
        try:
            hashes = [item["mm_hash"] for item in info["mm_objects"] if item["offsets"] is not None]
        except KeyError as error:
            raise ValueError(f"block_mm_infos[{i}]: {error} is missing; a block is None or "
                             '{"mm_objects": [{"mm_hash": int, "offsets": [[start, end]]}]}') from None
        if not hashes:
            continue
        take_hashes(hashes, &mm)
        rc = dyn_hash_block_mm(tokens.data + i * block_size, block_size + eagle, mm.data, mm.count, seed, &out[i])
        drop_hashes(&mm)
        check(rc)
    return 0


cdef size_t block_size_of(object kv_block_size) except 0:
    if kv_block_size == 0:
        raise ValueError("kv_block_size is 0: must be 1 or more")
    if kv_block_size < 0 or kv_block_size > 0xffffffff:
        raise OverflowError(f"kv_block_size is {kv_block_size}: must be 1 to 2^32 - 1")
    return kv_block_size


def compute_block_hash_for_seq(tokens, kv_block_size, block_mm_infos=None, lora_name=None, is_eagle=None,
                               cache_namespace=None):
    """Local hashes of the complete blocks of a sequence, as a list of ints.

    Parameters
    ----------
    tokens : sequence or array of int
        Token ids, 0 to 2^32 - 1: list, tuple, range, ``array``, NumPy array, any buffer of integers. A uint32 array is
        read where it is.
    kv_block_size : int
        Tokens per block. A partial block at the end has no hash.
    block_mm_infos : list of (dict or None), optional
        For each block ``{"mm_objects": [{"mm_hash": int, "offsets": [[start, end], ...]}, ...]}`` or None.
    lora_name, cache_namespace : str, optional
        What else keeps caches apart; "" is the same as None.
    is_eagle : bool, optional
        A block looks one token further than its end.

    Returns
    -------
    list of int
        One u64 for each block.

    Raises
    ------
    ValueError
        The block size is 0.
    OverflowError
        A token is not a uint32.
    TypeError
        `tokens` is not a sequence of ints.

    Notes
    -----
    XXH3-64 of the tokens as little-endian u32, then the sorted ``mm_hash`` values; the seed is 1337, plus the hash of
    each name. The same hashes as Dynamo's.

    Examples
    --------
    >>> compute_block_hash_for_seq([1, 2, 3, 4, 5], 4)
    [14643705804678351452]
    """
    cdef size_t blocks, size = block_size_of(kv_block_size)
    cdef bint eagle = bool(is_eagle)
    cdef uint64_t small[256]
    cdef uint64_t *out = small
    cdef uint64_t seed = seed_of(lora_name, cache_namespace)
    cdef Tokens held = take_tokens(tokens)
    blocks = dyn_hash_block_count(held.count, size, eagle)
    if blocks > 256:
        out = <uint64_t *>PyMem_RawMalloc(blocks * sizeof(uint64_t))
        if out == NULL:
            raise MemoryError()
    try:
        hash_into(held, size, eagle, seed, block_mm_infos, out)
        return dyn_list_of_u64(out, blocks)
    finally:
        if out != small:
            PyMem_RawFree(out)


compute_block_hash_for_seq_py = compute_block_hash_for_seq


def compute_block_hashes(tokens, block_size, *, lora_name=None, cache_namespace=None, eagle=False, block_mm_infos=None):
    """Local hashes of the complete blocks of a sequence, as a uint64 array.

    The array form of `compute_block_hash_for_seq`; same parameters and errors.

    Examples
    --------
    >>> compute_block_hashes([1, 2, 3, 4, 5], 4)
    array([14643705804678351452], dtype=uint64)
    """
    cdef uint64_t *out = NULL
    cdef size_t size = block_size_of(block_size)
    cdef bint window = bool(eagle)
    cdef uint64_t seed = seed_of(lora_name, cache_namespace)
    cdef Tokens held = take_tokens(tokens)
    array = new_u64(dyn_hash_block_count(held.count, size, window), &out)
    hash_into(held, size, window, seed, block_mm_infos, out)
    return array


def compute_sequence_hashes(block_hashes, parent=None):
    """Sequence hashes of a run of blocks: each names a block together with all before it.

    Parameters
    ----------
    block_hashes : sequence or uint64 array
        Local hashes, as `compute_block_hashes` gives them.
    parent : int, optional
        The sequence hash of the block before the first; without it the first block starts the sequence.

    Returns
    -------
    numpy.ndarray of uint64

    Notes
    -----
    ``s[0] = local[0]`` without a parent, else and from there on ``s[i] = XXH3-64(s[i - 1] || local[i], seed 1337)``.

    Examples
    --------
    >>> compute_sequence_hashes([14643705804678351452, 16777012769546811212])
    array([14643705804678351452,  4945711292740353085], dtype=uint64)
    """
    cdef Hashes local
    cdef uint64_t *out = NULL
    cdef uint64_t above = 0
    if parent is not None:
        above = u64(parent)
    take_hashes(block_hashes, &local)
    try:
        array = new_u64(local.count, &out)
        if local.count >= GIL_FROM // 8:
            with nogil:
                dyn_hash_chain(local.data, local.count, &above if parent is not None else NULL, out)
        else:
            dyn_hash_chain(local.data, local.count, &above if parent is not None else NULL, out)
    finally:
        drop_hashes(&local)
    return array


def mm_hash(identifier):
    """The u64 that stands for an image or the like in block hashes.

    Parameters
    ----------
    identifier : str
        What the engine calls it: 64 hexadecimal digits give their first 16, anything else is hashed.

    Examples
    --------
    >>> hex(mm_hash("00000000000000ff" + 48 * "0"))
    '0xff'
    """
    cdef bytes text = identifier.encode()
    if len(text) == 64 and not set(identifier) - set("0123456789abcdefABCDEF"):
        return int(identifier[:16], 16)
    return dyn_hash_text(text, len(text))


def simd():
    """The instruction set that long blocks are hashed with on this machine."""
    return dyn_hash_simd().decode()
