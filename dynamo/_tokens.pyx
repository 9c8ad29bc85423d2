# cython: boundscheck=False, wraparound=False
"""Token ids to text, a token at a time: the C area `tokens`."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from dynamo._errors cimport check
from dynamo.c_tokens cimport *

from array import array


cdef class Vocab:
    """What each token id stands for: an immutable table of bytes.

    Parameters
    ----------
    tokens : sequence of bytes
        The bytes of every id, in order. A token may be part of a character.
    special : iterable of int
        Ids of control tokens, which a detokeniser hides unless asked for.
    strip_leading_space : bool
        A text that begins with a space loses it (SentencePiece adds one).
    """

    @classmethod
    def from_table(cls, data, ends, flags, strip_leading_space=False):
        """From columns: the bytes of all tokens, where each one ends (uint32), their flags (uint8, 1: special)."""
        cdef const uint8_t[::1] data_view = data
        cdef const uint32_t[::1] end_view = ends
        cdef const uint8_t[::1] flag_view = flags
        cdef Vocab self = cls.__new__(cls, ())
        cdef dyn_vocab *made = NULL
        cdef size_t count = end_view.shape[0], size = data_view.shape[0]
        if <size_t>flag_view.shape[0] != count:
            raise ValueError(f"{count} ends and {flag_view.shape[0]} flags")
        check(dyn_vocab_new(&made, &data_view[0] if size else NULL, size, &end_view[0] if count else NULL,
                            &flag_view[0] if count else NULL, count,
                            DYN_VOCAB_STRIP_SPACE if strip_leading_space else 0))
        dyn_vocab_unref(self.ptr)
        self.ptr = made
        return self

    def __cinit__(self, tokens, special=(), *, bint strip_leading_space=False):
        try:
            tokens = list(tokens)
        except TypeError:
            raise TypeError(f"a Vocab is made of a sequence of bytes, not of {type(tokens).__name__}") from None
        cdef bytes blob = b"".join(tokens)
        cdef size_t count = len(tokens), i
        cdef uint32_t at = 0
        cdef int rc
        cdef uint32_t *ends = <uint32_t *>PyMem_Malloc((count + 1) * sizeof(uint32_t))
        cdef uint8_t *flags = <uint8_t *>PyMem_Malloc(count + 1)
        try:
            if ends == NULL or flags == NULL:
                raise MemoryError()
            memset(flags, 0, count)
            if PyBytes_GET_SIZE(blob) >= 1 << 31:
                raise OverflowError("a vocabulary of 2 GiB or more")
            i = 0
            for token in tokens:
                at += len(token)
                ends[i] = at
                i += 1
            for token in special:
                if not 0 <= token < count:
                    raise ValueError(f"special token {token}: the vocabulary has ids 0 to {count - 1}")
                flags[<size_t>token] = DYN_TOKEN_SPECIAL
            rc = dyn_vocab_new(&self.ptr, <const uint8_t *>PyBytes_AS_STRING(blob), PyBytes_GET_SIZE(blob), ends, flags,
                               count, DYN_VOCAB_STRIP_SPACE if strip_leading_space else 0)
            check(rc)
        finally:
            PyMem_Free(ends)
            PyMem_Free(flags)

    def __dealloc__(self):
        dyn_vocab_unref(self.ptr)

    def __len__(self):
        return dyn_vocab_count(self.ptr)

    def __getitem__(self, id):
        """The bytes of one id."""
        if not 0 <= id < dyn_vocab_count(self.ptr):
            raise IndexError(f"token {id}: the vocabulary has ids 0 to {len(self) - 1}")
        cdef size_t size
        cdef const uint8_t *data = dyn_vocab_bytes(self.ptr, id, &size)
        return (<const char *>data)[:size]

    def is_special(self, uint32_t id):
        return dyn_vocab_special(self.ptr, id)

    def __repr__(self):
        return f"Vocab({len(self)} tokens)"


cdef const uint32_t[::1] _ids(object ids):
    # Lists are taken too: convenience, not the fast path.
    try:
        return ids
    except (TypeError, ValueError):
        return array("I", ids)


cdef str _take(dyn_text *text):
    try:
        return PyUnicode_DecodeUTF8(text.data, text.size, "strict") if text.size else ""
    finally:
        dyn_text_free(text)


cdef class Detokenizer:
    """Text out of ids as they come; only complete characters appear.

    Parameters
    ----------
    vocab : Vocab
    skip_special_tokens : bool
    at_start : bool
        The text begins here, so the vocabulary's `strip_leading_space` applies. False for what follows a prompt.

    Examples
    --------
    >>> d = Detokenizer(Vocab([b"caf", b"\\xc3", b"\\xa9"]))
    >>> d.push([0, 1]), d.push([2])
    ('caf', 'é')
    """

    def __cinit__(self, Vocab vocab not None, *, bint skip_special_tokens=True, bint at_start=False):
        check(dyn_detok_new(&self.ptr, vocab.ptr, (0 if skip_special_tokens else DYN_DETOK_SPECIAL)
                            | (DYN_DETOK_AT_START if at_start else 0)))

    def __dealloc__(self):
        dyn_detok_free(self.ptr)

    def push(self, ids):
        """The text that these ids complete."""
        cdef const uint32_t[::1] view = _ids(ids)
        cdef dyn_text out
        memset(&out, 0, sizeof(out))
        try:
            check(dyn_detok_push(self.ptr, &view[0] if view.shape[0] else NULL, view.shape[0], &out))
        except BaseException:
            dyn_text_free(&out)
            raise
        return _take(&out)

    def __repr__(self):
        return "Detokenizer()"

    def end(self):
        """No more ids: an unfinished character becomes U+FFFD."""
        cdef dyn_text out
        memset(&out, 0, sizeof(out))
        check(dyn_detok_end(self.ptr, &out))
        return _take(&out)


cdef class StopStrings:
    """A compiled set of stop strings; share it between matchers."""

    def __cinit__(self, strings):
        if isinstance(strings, str):
            strings = [strings]
        try:
            self.strings = tuple(strings)
        except TypeError:
            raise TypeError(f"stop strings are an iterable of str, not {type(strings).__name__}") from None
        for text in self.strings:
            if not isinstance(text, str):
                raise TypeError(f"a stop string is a str, not {type(text).__name__}")
        encoded = [text.encode() for text in self.strings]
        cdef size_t count = len(encoded), i
        cdef const char **texts = <const char **>PyMem_Malloc((count + 1) * sizeof(char *))
        cdef size_t *sizes = <size_t *>PyMem_Malloc((count + 1) * sizeof(size_t))
        try:
            if texts == NULL or sizes == NULL:
                raise MemoryError()
            for i in range(count):
                texts[i] = PyBytes_AS_STRING(encoded[i])
                sizes[i] = PyBytes_GET_SIZE(encoded[i])
            check(dyn_stops_new(&self.ptr, texts, sizes, count))
        finally:
            PyMem_Free(texts)
            PyMem_Free(sizes)

    def __dealloc__(self):
        dyn_stops_unref(self.ptr)

    def __repr__(self):
        return f"StopStrings({list(self.strings)!r})"


cdef class StopMatcher:
    """One text on its way past stop strings; what may still become one is held back.

    Parameters
    ----------
    stops : StopStrings or iterable of str
    include_stop : bool
        Show the stop string itself.
    """

    def __cinit__(self, stops, *, bint include_stop=False):
        self.stops = stops if isinstance(stops, StopStrings) else StopStrings(stops)
        dyn_jail_init(&self.jail, self.stops.ptr, include_stop)

    def push(self, str text not None):
        """What may be shown now, and whether a stop string is complete."""
        cdef bytes data = text.encode()
        cdef dyn_text out
        cdef int done
        memset(&out, 0, sizeof(out))
        done = check(dyn_jail_push(&self.jail, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &out))
        return _take(&out), done == 1

    def end(self):
        """No more text: what was held back."""
        cdef dyn_text out
        memset(&out, 0, sizeof(out))
        check(dyn_jail_end(&self.jail, &out))
        return _take(&out)

    @property
    def held(self):
        """Bytes held back."""
        return dyn_jail_held(&self.jail)

    def __repr__(self):
        return f"StopMatcher({list(self.stops.strings)!r}, held={self.held}, matched={self.matched!r})"

    @property
    def matched(self):
        """The stop string that matched, or None."""
        return self.stops.strings[self.jail.matched] if self.jail.matched >= 0 else None
