# cython: boundscheck=False, wraparound=False
"""Quill stream frames and varints: the C area `wire`, seen from Python."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from dynamo._errors cimport check, error_of
from dynamo.c_common cimport DYN_EAGAIN, DYN_EINVAL, DYN_EPROTO, DYN_ETRUNC
from dynamo.c_wire cimport *

DATA = DYN_QUILL_DATA
END_STREAM = DYN_QUILL_END
CANCEL = DYN_QUILL_CANCEL
CREDIT = DYN_QUILL_CREDIT
MAX_PAYLOAD = int(DYN_QUILL_MAX_PAYLOAD)


cdef int borrow(object data, Py_buffer *view, str where) except -1:
    if not PyObject_CheckBuffer(data):
        raise TypeError(f"{where} takes bytes or another buffer, not {type(data).__name__}")
    PyObject_GetBuffer(data, view, PyBUF_SIMPLE)
    return 0


def encode_varint(value, /):
    """A number as a varint: 7 bits a byte, the lowest first.

    Parameters
    ----------
    value : int
        0 to 2**64 - 1; else OverflowError.

    Examples
    --------
    >>> encode_varint(300).hex()
    'ac02'
    """
    cdef uint8_t out[10]
    if not hasattr(value, "__index__"):
        raise TypeError(f"encode_varint takes an int, not {type(value).__name__}")
    number = value.__index__()
    if not 0 <= number <= UINT64_MAX:
        raise OverflowError(f"a varint is between 0 and 2**64 - 1, not {number}")
    return (<char *>out)[:dyn_varint_write(out, number)]


def decode_varint(data, /):
    """The varint at the start of `data`; longer forms than needed are taken.

    Returns
    -------
    value, consumed : int

    Raises
    ------
    Truncated
        It may become one with more bytes (also a ValueError and an EOFError).
    ValueError
        It never can: no end within 10 bytes, or more than 64 bits.
    """
    cdef Py_buffer view
    cdef uint64_t value = 0
    cdef size_t used, size
    borrow(data, &view, "decode_varint")
    size = view.len
    used = dyn_varint_read(<const uint8_t *>view.buf, size, &value)
    PyBuffer_Release(&view)
    if used == 0:
        if size >= DYN_WIRE_VARINT_MAX:
            raise error_of(DYN_EPROTO, "Invalid varint encoding: it does not fit 64 bits")
        raise error_of(DYN_ETRUNC, f"a varint that is cut off after {size} bytes")
    return value, used


def encode_frame(flags, payload=b""):
    """One frame: varint size, flags, payload.

    Parameters
    ----------
    flags : int
        DATA 1, END_STREAM 2, CANCEL 4, CREDIT 8, or several.
    payload : buffer
        At most 4,194,304 bytes; else ValueError.

    Examples
    --------
    >>> encode_frame(3, b"Hello").hex()
    '050348656c6c6f'
    """
    cdef Py_buffer view
    cdef uint8_t head[DYN_QUILL_HEAD_MAX]
    cdef int size
    cdef bytes out
    cdef char *at
    if not hasattr(flags, "__index__"):
        raise TypeError(f"encode_frame takes flags as an int, not {type(flags).__name__}")
    number = flags.__index__()
    if not 0 <= number <= 255:
        raise OverflowError(f"flags are between 0 and 255, not {number}")
    borrow(payload, &view, "encode_frame")
    try:
        size = check(dyn_quill_head(head, <uint8_t>number, view.len))
        out = PyBytes_FromStringAndSize(NULL, size + view.len)
        at = PyBytes_AS_STRING(out)
        memcpy(at, head, size)
        if view.len:
            memcpy(at + size, view.buf, view.len)
        return out
    finally:
        PyBuffer_Release(&view)


def decode_frame(data, /):
    """The frame at the start of `data`.

    Returns
    -------
    flags : int
    payload : bytes
    consumed : int
        How many bytes of `data` it took.

    Raises
    ------
    Truncated
        More bytes are needed (also a ValueError and an EOFError); `needed` says how many from the start at least.
    ValueError
        It can never become a frame: a size without an end, or above 4,194,304.
    """
    cdef Py_buffer view
    cdef dyn_quill_frame frame
    cdef size_t used
    cdef int rc
    borrow(data, &view, "decode_frame")
    try:
        rc = dyn_quill_read(<const uint8_t *>view.buf, view.len, &frame, &used)
        if rc == DYN_EAGAIN:
            error = error_of(DYN_ETRUNC, f"a frame that is cut off after {view.len} bytes, it needs {used} at least")
            error.needed = used
            raise error
        check(rc)
        return frame.flags, (<const char *>frame.payload.data)[:frame.payload.size], used
    finally:
        PyBuffer_Release(&view)


cdef class FrameReader:
    """A stream of frames out of pieces of any size.

    Notes
    -----
    Frames without a known flag are skipped. After END_STREAM only CREDIT and CANCEL may follow, after CANCEL nothing.
    Of a cut frame only what has come is kept, never more than one frame.

    Examples
    --------
    >>> reader = FrameReader()
    >>> reader.feed(bytes.fromhex("050168656c"))
    []
    >>> reader.feed(bytes.fromhex("6c6f0002")), reader.ended
    ([(1, b'hello'), (2, b'')], True)
    """
    cdef dyn_quill_reader reader

    def __cinit__(self):
        memset(&self.reader, 0, sizeof(self.reader))

    def __dealloc__(self):
        dyn_quill_reader_free(&self.reader)

    def __reduce__(self):
        raise TypeError("a FrameReader is bound to a stream on its way: it cannot be pickled")

    def feed(self, data, /):
        """The frames that these bytes complete, as (flags, payload).

        Raises
        ------
        ValueError
            The stream can go on no more: every later call raises, too.
        """
        cdef Py_buffer view
        cdef dyn_slice piece
        cdef dyn_quill_frame frame
        cdef int rc
        out = []
        borrow(data, &view, "FrameReader.feed")
        piece.data = <const uint8_t *>view.buf
        piece.size = view.len
        try:
            while True:
                rc = check(dyn_quill_next(&self.reader, &piece, &frame))
                if rc == 0:
                    return out
                out.append((frame.flags, (<const char *>frame.payload.data)[:frame.payload.size]))
        finally:
            PyBuffer_Release(&view)

    def finish(self):
        """The bytes are over: StreamBroken when that was within a frame or before END_STREAM or CANCEL."""
        check(dyn_quill_finish(&self.reader))

    @property
    def ended(self):
        """END_STREAM was seen."""
        return self.reader.ended

    @property
    def cancelled(self):
        """CANCEL was seen."""
        return self.reader.cancelled

    def __repr__(self):
        state = "broken" if self.reader.broken else "cancelled" if self.cancelled else "ended" if self.ended else "open"
        return f"FrameReader({state})"


cdef class MessageCredits:
    """How many messages may be sent: 16 at first, given back 8 at a time.

    Examples
    --------
    >>> credits = MessageCredits()
    >>> credits.take(), credits.left
    (True, 15)
    >>> [credits.consumed(3), credits.consumed(5)]
    [0, 8]
    """
    cdef dyn_quill_credits credits

    def __cinit__(self, uint64_t initial=DYN_QUILL_CREDITS, uint64_t refill=DYN_QUILL_REFILL):
        check(dyn_quill_credits_init(&self.credits, initial, refill))

    def __reduce__(self):
        raise TypeError("a MessageCredits is bound to a stream on its way: it cannot be pickled")

    def take(self):
        """A message is sent, or arrives: False when none may be."""
        return dyn_quill_credits_take(&self.credits)

    def grant(self, uint64_t messages, /):
        """A CREDIT frame came."""
        check(dyn_quill_credits_grant(&self.credits, messages))

    def consumed(self, uint64_t messages=1, /):
        """The receiver has consumed so many: how many to grant in a CREDIT frame now, or 0."""
        return dyn_quill_credits_consumed(&self.credits, messages)

    @property
    def left(self):
        """Messages that may be sent now."""
        return self.credits.left

    def __repr__(self):
        return f"MessageCredits(left={self.credits.left}, refill={self.credits.refill})"


cdef class ByteCredits:
    """How many bytes may be sent, with hysteresis: paused below `low` until a grant lifts it above `high`.

    Parameters
    ----------
    initial, low, high : int
        Bytes. The defaults are 262,144, 131,072 and 524,288.
    """
    cdef dyn_quill_budget budget

    def __cinit__(self, uint64_t initial=262144, uint64_t low=131072, uint64_t high=524288):
        check(dyn_quill_budget_init(&self.budget, initial, low, high))

    @classmethod
    def preset(cls, str name not None, /):
        """`"default"`, `"small"` or `"large"`."""
        cdef ByteCredits self = cls()
        presets = {"default": DYN_QUILL_DEFAULT, "small": DYN_QUILL_SMALL, "large": DYN_QUILL_LARGE}
        if name not in presets:
            raise error_of(DYN_EINVAL, f"preset {name!r}: default, small or large")
        dyn_quill_budget_preset(&self.budget, presets[name])
        return self

    def __reduce__(self):
        raise TypeError("a ByteCredits is bound to a stream on its way: it cannot be pickled")

    def consume(self, uint64_t size, /):
        """So many bytes went: is it paused now?"""
        return dyn_quill_budget_consume(&self.budget, size)

    def grant(self, uint64_t size, /):
        """So many more may go: does it go on because of that?"""
        return dyn_quill_budget_grant(&self.budget, size)

    def suggest(self):
        """What a receiver would grant now: up to the middle of `low` and `high`; 0 at or above `high`."""
        return dyn_quill_budget_suggest(&self.budget)

    @property
    def left(self):
        """Bytes that may go; negative when more went than might."""
        return self.budget.left

    @property
    def low(self):
        return self.budget.low

    @property
    def high(self):
        return self.budget.high

    @property
    def paused(self):
        return self.budget.paused

    def __repr__(self):
        return f"ByteCredits(left={self.left}, low={self.low}, high={self.high}, paused={self.paused})"
