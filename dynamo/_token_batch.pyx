# cython: boundscheck=False, wraparound=False
"""Tokens in columns, as they travel and as they are looked at."""
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer,
    PyObject_GetBuffer)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject, PyTypeObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.math cimport NAN, isnan
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from dynamo._errors cimport check
from dynamo._token cimport Token, dyn_token_make
from dynamo.c_tokens cimport *

from array import array

cdef extern from "Python.h":
    int Py_REFCNT(object)
    # Declared by pointer: what they return goes straight into a Token.
    PyObject *new_int "PyLong_FromUnsignedLong"(unsigned long)
    PyObject *new_float "PyFloat_FromDouble"(double)
    PyObject *new_str "PyUnicode_DecodeUTF8"(const char *, Py_ssize_t, const char *)
    void Py_INCREF(PyObject *)

cdef enum:
    LONG = 4096     # tokens whose copying takes more than about 10 us: the GIL is not needed meanwhile


cdef class _Columns:
    # The memory of a batch. Iterators hold it, so that what they walk over stays when the batch is cleared.

    def __cinit__(self):
        check(dyn_token_batch_new(&self.ptr, 0))

    def __dealloc__(self):
        dyn_token_batch_free(self.ptr)


cdef class _Column:
    # One column of a batch, shown by the buffer protocol.
    cdef _Columns columns
    cdef void *data
    cdef bytes format
    cdef Py_ssize_t itemsize
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

    def __getbuffer__(self, Py_buffer *view, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("the columns of a TokenBatch are read-only")
        view.buf = self.data
        view.obj = self
        view.len = self.shape[0] * self.itemsize
        view.itemsize = self.itemsize
        view.readonly = 1
        view.ndim = 1
        view.format = PyBytes_AS_STRING(self.format) if flags & PyBUF_FORMAT else NULL
        view.shape = self.shape if flags & PyBUF_ND else NULL
        view.strides = self.strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL
        self.columns.pins += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.columns.pins -= 1


cdef object new_token(const dyn_token_batch *batch, size_t index):
    cdef dyn_token token
    cdef PyObject *text = <PyObject *>None
    cdef PyObject *logprob = <PyObject *>None
    dyn_token_batch_get(batch, index, &token)
    if token.flags & DYN_TOKEN_HAS_TEXT:
        text = new_str(token.text, token.text_size, NULL)
    else:
        Py_INCREF(text)
    if token.flags & DYN_TOKEN_HAS_LOGPROB:
        logprob = new_float(token.logprob)
    else:
        Py_INCREF(logprob)
    return dyn_token_make(<PyTypeObject *>Token, new_int(token.id), new_int(token.position), text, logprob,
                          token.flags & DYN_TOKEN_IS_SPECIAL)


cdef class _Tokens:
    # Makes the tokens that were there when iter() was called, one at a time.
    cdef _Columns columns
    cdef size_t at
    cdef size_t end

    def __iter__(self):
        return self

    def __next__(self):
        if self.at >= self.end:
            raise StopIteration
        self.at += 1
        return new_token(self.columns.ptr, self.at - 1)

    def __length_hint__(self):
        return self.end - self.at


cdef const uint32_t[::1] _numbers(object values, str what):
    # Lists are taken too: convenience, not the fast path.
    try:
        return values
    except (TypeError, ValueError):
        pass
    try:
        return array("I", values)
    except TypeError:
        raise TypeError(f"{what} must be an array of uint32 or a sequence of ints, "
                        f"not {type(values).__name__}") from None


cdef int fill(Token token, dyn_token *out) except -1:
    # The text is borrowed from the str.
    cdef Py_ssize_t size
    out.id = token.id
    out.position = token.position
    out.flags = DYN_TOKEN_IS_SPECIAL if token.is_special is True else 0
    out.logprob = 0
    out.text = NULL
    out.text_size = 0
    if token.logprob is not None:
        out.flags |= DYN_TOKEN_HAS_LOGPROB
        out.logprob = <float><double>token.logprob
    if token.text is not None:
        out.flags |= DYN_TOKEN_HAS_TEXT
        out.text = PyUnicode_AsUTF8AndSize(token.text, &size)
        out.text_size = size
    return 0


cdef bint same(const dyn_token_batch *a, const dyn_token_batch *b) noexcept nogil:
    cdef size_t i, count = dyn_token_batch_count(a)
    cdef dyn_token x, y
    if count != dyn_token_batch_count(b):
        return False
    for i in range(count):
        dyn_token_batch_get(a, i, &x)
        dyn_token_batch_get(b, i, &y)
        if x.id != y.id or x.position != y.position or x.flags != y.flags or x.text_size != y.text_size:
            return False
        if x.logprob != y.logprob and not (isnan(x.logprob) and isnan(y.logprob)):
            return False
        if x.text_size and memcmp(x.text, y.text, x.text_size) != 0:
            return False
    return True


cdef class TokenBatch:
    """Tokens in columns: ids, positions, log probabilities, texts.

    Parameters
    ----------
    sequence_id : int, optional
        The sequence that the tokens belong to, 0 to 4294967295.

    Notes
    -----
    `ids`, `positions` and `logprobs` are views of the batch's memory and cost nothing to take; while one
    lives, what would change the batch raises BufferError. Tokens are made when they are asked for: `batch[i]`
    and iteration give new ones every time. Batches are equal when their tokens, `sequence_id` and `is_final` are;
    metadata, which never travels, does not count.

    Examples
    --------
    >>> from dynamo import Token, TokenBatch
    >>> batch = TokenBatch.from_tokens([Token.with_text(5, "Hi", 0), Token(6, 1, logprob=-0.5)])
    >>> batch.text(), batch.ids.tolist(), batch[1]
    ('Hi', [5, 6], Token(id=6, pos=1))
    >>> TokenBatch.decode(batch.encode()) == batch
    True
    """

    def __cinit__(self, *args, **kwargs):
        self.columns = _Columns()
        self.metadata = {}

    def __init__(self, sequence_id=None):
        self.sequence_id = sequence_id

    @classmethod
    def from_tokens(cls, tokens, sequence_id=None):
        """A batch of these tokens."""
        self = cls(sequence_id)
        self.extend(tokens)
        return self

    # ---- adding ----

    cdef int ready_to_write(self) except -1:
        if self.columns.pins:
            raise BufferError(f"the batch has {self.columns.pins} reader(s): drop the arrays that view it first")
        return 0

    cdef int put(self, object token) except -1:
        cdef dyn_token value
        if type(token) is not Token:
            raise TypeError(f"a TokenBatch holds Token objects, not {type(token).__name__}")
        fill(<Token>token, &value)
        check(dyn_token_batch_add(self.columns.ptr, &value))
        return 0

    def add(self, token, /):
        """Add one token to the end."""
        self.ready_to_write()
        self.put(token)

    def append(self, ids, positions=None, logprobs=None):
        """Add one Token, or tokens without texts as columns.

        Parameters
        ----------
        ids : Token, or uint32 array or sequence of int
        positions : array of the same length, optional
            They count on from the last one when not given.
        logprobs : float32 array or sequence of float or None, optional
            NaN and None: not known.
        """
        if type(ids) is Token and positions is None and logprobs is None:
            self.add(ids)
            return
        cdef const uint32_t[::1] id_view = _numbers(ids, "ids")
        cdef const uint32_t[::1] position_view = None if positions is None else _numbers(positions, "positions")
        cdef const float[::1] logprob_view = None
        cdef Py_ssize_t count = id_view.shape[0]
        if logprobs is not None:
            try:
                logprob_view = logprobs
            except (TypeError, ValueError):
                logprob_view = array("f", [NAN if value is None else value for value in logprobs])
        if (positions is not None and position_view.shape[0] != count) or (
                logprobs is not None and logprob_view.shape[0] != count):
            raise ValueError(f"the columns differ in length; ids has {count}")
        self.ready_to_write()
        if count:
            check(dyn_token_batch_append(self.columns.ptr, &id_view[0],
                                         NULL if positions is None else &position_view[0],
                                         NULL if logprobs is None else &logprob_view[0], count))

    def extend(self, tokens, /):
        """Add all tokens of an iterable or of another batch; none of them when one is refused."""
        cdef size_t before
        self.ready_to_write()
        if isinstance(tokens, TokenBatch):
            check(dyn_token_batch_extend(self.columns.ptr, (<TokenBatch>tokens).columns.ptr, 0, 1, len(tokens)))
            return
        items = tokens if type(tokens) is list or type(tokens) is tuple else list(tokens)
        self.ready_to_write()       # the iterable may have taken a view
        before = dyn_token_batch_count(self.columns.ptr)
        try:
            for token in items:
                self.put(token)
        except BaseException:
            dyn_token_batch_truncate(self.columns.ptr, before)
            raise

    def clear(self):
        """Forget all tokens; sequence, metadata and memory stay."""
        self.ready_to_write()
        if Py_REFCNT(self.columns) > 1:     # an iterator is on its way over them
            self.columns = _Columns()
        else:
            dyn_token_batch_truncate(self.columns.ptr, 0)

    # ---- columns ----

    cdef object column(self, const void *data, bytes format):
        import numpy
        cdef _Column column
        if data == NULL:
            return numpy.empty(0, format.decode())
        column = _Column()
        column.columns = self.columns
        column.data = <void *>data
        column.format = format
        column.itemsize = 1 if format == b"B" else 4
        column.shape[0] = dyn_token_batch_count(self.columns.ptr)
        column.strides[0] = column.itemsize
        return numpy.asarray(column)

    @property
    def ids(self):
        """uint32 view."""
        return self.column(dyn_token_batch_ids(self.columns.ptr), b"I")

    @property
    def positions(self):
        """uint32 view; called, it is a list: `batch.positions()`."""
        from dynamo._arrays import CallableArray
        return self.column(dyn_token_batch_positions(self.columns.ptr), b"I").view(CallableArray)

    @property
    def logprobs(self):
        """float32 view, NaN where unknown."""
        return self.column(dyn_token_batch_logprobs(self.columns.ptr), b"f")

    @property
    def nbytes(self):
        """Memory in use, in bytes."""
        return dyn_token_batch_bytes(self.columns.ptr)

    # ---- tokens ----

    def __len__(self):
        return dyn_token_batch_count(self.columns.ptr)

    def __iter__(self):
        cdef _Tokens tokens = _Tokens()
        tokens.columns = self.columns
        tokens.end = dyn_token_batch_count(self.columns.ptr)
        return tokens

    def __getitem__(self, index):
        """`batch[i]` is a new Token; a slice is a new batch of the same sequence, neither final nor with metadata."""
        cdef Py_ssize_t start, stop, step, count = dyn_token_batch_count(self.columns.ptr)
        cdef TokenBatch part
        if isinstance(index, slice):
            start, stop, step = index.indices(count)
            part = type(self)(self.sequence_id)
            count = len(range(start, stop, step))
            if count:
                check(dyn_token_batch_extend(part.columns.ptr, self.columns.ptr, start, step, count))
            return part
        if not hasattr(index, "__index__"):
            raise TypeError(f"a TokenBatch is indexed by int or slice, not {type(index).__name__}")
        start = index
        if start < 0:
            start += count
        if not 0 <= start < count:
            raise IndexError(f"token {index}: the batch has {count}")
        return new_token(self.columns.ptr, start)

    def get(self, size_t index, /):
        """The token at `index`, or None behind the end."""
        return new_token(self.columns.ptr, index) if index < dyn_token_batch_count(self.columns.ptr) else None

    def tokens(self):
        """A new list of new tokens."""
        cdef size_t i
        return [new_token(self.columns.ptr, i) for i in range(dyn_token_batch_count(self.columns.ptr))]

    def token_ids(self):
        """A new list of the ids; `ids` is the same without a copy."""
        cdef const uint32_t *ids = dyn_token_batch_ids(self.columns.ptr)
        cdef size_t i
        return [ids[i] for i in range(dyn_token_batch_count(self.columns.ptr))]

    def to_dicts(self):
        """A list of `Token.to_dict()`."""
        return [token.to_dict() for token in self]

    def text(self):
        """All texts joined; tokens without one are skipped."""
        cdef size_t size
        cdef const char *data = dyn_token_batch_text(self.columns.ptr, &size)
        return PyUnicode_DecodeUTF8(data, size, NULL) if size else ""

    def is_empty(self):
        """Are there no tokens?"""
        return dyn_token_batch_count(self.columns.ptr) == 0

    # ---- beside the tokens ----

    @property
    def sequence_id(self):
        """The sequence that the tokens belong to, or None."""
        return self.sequence if self.has_sequence else None

    @sequence_id.setter
    def sequence_id(self, value):
        if value is None:
            self.has_sequence = False
            return
        if not hasattr(value, "__index__"):
            raise TypeError(f"sequence_id must be an int or None, not {type(value).__name__}")
        number = value.__index__()
        if not 0 <= number <= 0xFFFFFFFF:
            raise OverflowError(f"sequence_id must be between 0 and 4294967295, not {number}")
        self.sequence = number
        self.has_sequence = True

    @property
    def is_final(self):
        """No tokens of this sequence follow."""
        return self.final

    @is_final.setter
    def is_final(self, value):
        if value is not True and value is not False:
            raise TypeError(f"is_final must be a bool, not {type(value).__name__}")
        self.final = value

    def set_metadata(self, str key not None, str value not None):
        """Keep a word about the batch; it stays here and does not travel."""
        self.metadata[key] = value

    def get_metadata(self, str key not None):
        """What was kept under that key, or None."""
        return self.metadata.get(key)

    def metadata_dict(self):
        """A copy of the metadata."""
        return dict(self.metadata)

    # ---- as bytes ----

    cdef dyn_token_batch_head head(self):
        return dyn_token_batch_head(has_sequence=self.has_sequence, final=self.final, sequence=self.sequence)

    def encode(self):
        """The bytes that travel: flags, sequence, count, then the tokens one after the other; big-endian.

        Raises
        ------
        OverflowError
            More than 65,535 tokens, or a text of more than 65,535 bytes; slices of the batch travel apart.
        """
        cdef dyn_token_batch_head head = self.head()
        cdef dyn_token_batch *batch = self.columns.ptr
        cdef size_t size
        cdef bytes out
        cdef uint8_t *at
        check(dyn_token_batch_encoded_size(batch, &head, &size))
        out = PyBytes_FromStringAndSize(NULL, size)
        at = <uint8_t *>PyBytes_AS_STRING(out)
        if dyn_token_batch_count(batch) < LONG:
            dyn_token_batch_encode(batch, &head, at)
        else:
            self.columns.pins += 1
            with nogil:
                dyn_token_batch_encode(batch, &head, at)
            self.columns.pins -= 1
        return out

    @classmethod
    def decode(cls, data, /):
        """The batch at the start of `data`; what follows it is ignored. Bytes that are no UTF-8 become U+FFFD.

        Raises
        ------
        Truncated
            The bytes end too early (also a ValueError and an EOFError).
        """
        cdef Py_buffer view
        cdef TokenBatch self = cls()
        cdef dyn_token_batch *batch = self.columns.ptr
        cdef dyn_token_batch_head head
        if not PyObject_CheckBuffer(data):
            raise TypeError(f"TokenBatch.decode takes bytes or another buffer, not {type(data).__name__}")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len < LONG * 8:
                check(dyn_token_batch_decode(batch, <const uint8_t *>view.buf, view.len, &head, NULL))
            else:
                with nogil:
                    check(dyn_token_batch_decode(batch, <const uint8_t *>view.buf, view.len, &head, NULL))
        finally:
            PyBuffer_Release(&view)
        self.has_sequence = head.has_sequence
        self.sequence = head.sequence
        self.final = head.final
        return self

    # ---- as a Python object ----

    def __eq__(self, other):
        if not isinstance(other, TokenBatch):
            return NotImplemented
        cdef TokenBatch that = other
        return (self.sequence_id == that.sequence_id and self.final == that.final
                and same(self.columns.ptr, that.columns.ptr))

    __hash__ = None

    def __reduce_ex__(self, protocol):
        cdef size_t i, size, count = dyn_token_batch_count(self.columns.ptr)
        cdef dyn_token token
        cdef const char *text = dyn_token_batch_text(self.columns.ptr, &size)
        columns = [self.ids, self.column(dyn_token_batch_positions(self.columns.ptr), b"I"), self.logprobs,
                   self.column(dyn_token_batch_flags(self.columns.ptr), b"B")]
        sizes = array("I", bytes(4 * count))
        cdef uint32_t[::1] size_view = sizes
        for i in range(count):
            dyn_token_batch_get(self.columns.ptr, i, &token)
            size_view[i] = token.text_size
        if protocol >= 5:
            from pickle import PickleBuffer
            columns = [PickleBuffer(column) for column in columns]
        else:
            columns = [column.tobytes() for column in columns]
        return _restore, (type(self), *columns, sizes.tobytes(), text[:size], self.sequence_id, self.is_final,
                          self.metadata)

    def __copy__(self):
        cdef TokenBatch copy = self[:]
        copy.final = self.final
        copy.metadata = dict(self.metadata)
        return copy

    def __deepcopy__(self, memo):
        return self.__copy__()

    def __repr__(self):
        sequence = f"Some({self.sequence})" if self.has_sequence else "None"
        return f"TokenBatch(len={len(self)}, seq_id={sequence}, is_final={'true' if self.final else 'false'})"

    def _repr_html_(self):
        from dynamo._html import MOST_ROWS, html_table
        rows = [(token.position, token.id, token.text if token.text is not None else "",
                 "" if token.logprob is None else f"{token.prob():.3f}", "special" if token.is_special else "")
                for token in self[:MOST_ROWS]]
        return html_table(repr(self), rows, head=("position", "id", "text", "probability", ""), total=len(self))


def _restore(cls, ids, positions, logprobs, flags, sizes, bytes text not None, sequence_id, is_final, metadata):
    # What pickle calls. It goes through the same door as every token, so bytes that someone made up do no harm.
    cdef TokenBatch self = cls(sequence_id)
    cdef const uint32_t[::1] id_view = memoryview(ids).cast("B").cast("I")
    cdef const uint32_t[::1] position_view = memoryview(positions).cast("B").cast("I")
    cdef const float[::1] logprob_view = memoryview(logprobs).cast("B").cast("f")
    cdef const uint8_t[::1] flag_view = memoryview(flags).cast("B")
    cdef const uint32_t[::1] size_view = memoryview(sizes).cast("I")
    cdef Py_ssize_t i, at = 0, count = id_view.shape[0]
    cdef const char *data = PyBytes_AS_STRING(text)
    cdef dyn_token token
    if not (position_view.shape[0] == logprob_view.shape[0] == flag_view.shape[0] == size_view.shape[0] == count):
        raise ValueError("the columns of a pickled TokenBatch differ in length")
    for i in range(count):
        if size_view[i] > len(text) - at:
            raise ValueError("the texts of a pickled TokenBatch are cut off")
        token.id, token.position = id_view[i], position_view[i]
        token.logprob, token.flags = logprob_view[i], flag_view[i]
        token.text, token.text_size = data + at, size_view[i]
        at += size_view[i]
        check(dyn_token_batch_add(self.columns.ptr, &token))
    self.is_final = is_final
    self.metadata = dict(metadata)
    return self
