# cython: boundscheck=False, wraparound=False
"""The messages of a request while it comes, for the handlers of `dynamo.quill.QuillServer`.

 socket -> window in C (64 KiB) -> pull(): frames -> items (256 KiB) -> async for, or for in a thread
                                            CREDIT -> credits -> who writes the answer waits for them
"""
import asyncio
import threading
from collections import deque

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from dynamo._errors cimport check, error_of
from dynamo._made cimport dyn_only_library_makes
from dynamo.c_common cimport DYN_EAGAIN, DYN_ECLOSED, dyn_error_clear, dyn_error_detail
from dynamo.c_http cimport dyn_http_begun, dyn_http_commit, dyn_http_read, dyn_http_reserve, dyn_http_write
from dynamo.c_wire cimport (
    DYN_QUILL_CANCEL, DYN_QUILL_CREDIT, DYN_QUILL_CREDITS, DYN_QUILL_DATA, DYN_QUILL_END, DYN_QUILL_REFILL, dyn_bytes,
    dyn_bytes_free, dyn_quill_credit_read, dyn_quill_credit_write, dyn_quill_credits_consumed, dyn_quill_credits_init,
    dyn_quill_finish, dyn_quill_frame, dyn_quill_head, dyn_quill_next, dyn_quill_reader_free, dyn_slice)

from dynamo.errors import Cancelled, Overloaded, StreamBroken, Truncated

CREDITS = DYN_QUILL_CREDITS
cdef enum:
    QUEUE_BYTES = 256 * 1024        # of messages that nobody has taken; then the request is not read on
    SPACE = 64 * 1024
    EACH = 64                       # that a message costs beside its bytes
cdef uint8_t space[SPACE]           # empty between two reads, all of them under the GIL


def write_frame(Request request not None, payload, int flags=DYN_QUILL_DATA):
    """Append one frame to an answer, copied once. As `Request.write`: False means that it is time to drain."""
    cdef Py_buffer view
    cdef uint8_t head[16]
    cdef char *room
    cdef int size, rc
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        size = check(dyn_quill_head(head, flags, view.len))
        rc = dyn_http_reserve(request.x, size + view.len, &room)
        if rc == 0:
            memcpy(room, head, size)
            if view.len:
                memcpy(room + size, view.buf, view.len)
            dyn_http_commit(request.x, size + view.len)
    finally:
        PyBuffer_Release(&view)
    return request.wrote(rc)


cdef object said(int rc):
    detail = dyn_error_detail().decode("utf-8", "replace")
    dyn_error_clear()
    return error_of(rc, detail)


cdef class Budget:
    """How many bytes of requests the streams of a server may hold together."""

    def __cinit__(self, size_t limit):
        self.limit = limit


cdef class RequestStream:
    """The messages of a streamed request, as they come.

    A coroutine or an asynchronous generator says ``async for message in requests``; a plain function or generator,
    which runs in a thread, ``for message in requests``. What is not taken waits in the client: at most 256 KiB, one
    message of up to 4 MiB and the window of the connection are here.

    Raises
    ------
    StreamBroken
        The client left before its END.
    Cancelled
        It cancelled the call.
    InvalidArgument
        What came is no stream of messages.
    """

    def __init__(self, *args, **kwargs):
        raise TypeError("request streams are made by the server")

    def __cinit__(self):
        memset(&self.reader, 0, sizeof(self.reader))
        dyn_quill_credits_init(&self.ours, DYN_QUILL_CREDITS, DYN_QUILL_REFILL)
        self.items = deque()
        self.thread = threading.get_ident()

    def __dealloc__(self):
        dyn_quill_reader_free(&self.reader)

    # ---- what comes

    def pull(self):
        """Take what the connection has, as long as somebody takes the messages."""
        cdef size_t got = 0
        cdef int rc
        while not self.closed and self.queued < QUEUE_BYTES:
            rc = dyn_http_read(self.request.x, space, SPACE, &got)
            if rc == DYN_EAGAIN:
                dyn_error_clear()
                break
            if rc == DYN_ECLOSED:
                dyn_error_clear()
                self.closed = True
                if not self.over and dyn_quill_finish(&self.reader) < 0:
                    detail = dyn_error_detail().decode("utf-8", "replace")
                    dyn_error_clear()
                    self.fail(Truncated(detail))
            elif rc < 0:
                self.fail(said(rc))
            else:
                self.take_bytes(space, got)
                self.charge()
        self.wake()

    cdef int take_bytes(self, const uint8_t *data, size_t size) except -1:
        cdef dyn_slice piece
        cdef dyn_quill_frame frame
        cdef uint64_t credit = 0
        cdef int rc
        piece.data = data
        piece.size = size
        self.partial += size
        while True:
            rc = dyn_quill_next(&self.reader, &piece, &frame)
            if rc != 1:
                break
            self.partial = piece.size
            if frame.flags & DYN_QUILL_CANCEL:
                self.fail(Cancelled("the client cancelled the call"))
                if self.on_cancel is not None:
                    self.on_cancel()
                return 0
            if frame.flags & DYN_QUILL_CREDIT:
                rc = dyn_quill_credit_read(&frame, &credit)
                if rc < 0:
                    break
                self.credits = min(self.credits + <int64_t>min(credit, <uint64_t>1 << 32), <int64_t>1 << 40)
            elif frame.flags & DYN_QUILL_DATA and not self.over:
                self.items.append(PyBytes_FromStringAndSize(<const char *>frame.payload.data, frame.payload.size))
                self.queued += frame.payload.size + EACH
            if frame.flags & DYN_QUILL_END:
                self.over = True
        if rc < 0:
            self.error = said(rc)           # also behind END: who has not seen that yet is told
            self.over = self.closed = True
        return 0

    # Tell the budget what is held now; over it this stream is refused, and not the others.
    cdef int charge(self) except -1:
        cdef size_t held = 0 if self.closed else self.partial
        held += self.queued
        if self.budget is None:
            return 0
        self.budget.used += held - self.charged     # modulo 2^64, as unsigned numbers are
        if held > self.charged and self.budget.used > self.budget.limit:
            self.error = Overloaded(f"requests that are being received hold over {self.budget.limit} bytes")
            self.over = self.closed = True
        self.charged = held
        return 0

    cdef int fail(self, object error) except -1:
        self.closed = True
        if not self.over:
            self.over = True
            self.error = error
        return 0

    cdef int wake(self) except -1:
        for future in (self.message_waiter, self.credit_waiter):
            if future is not None and not future.done():
                future.set_result(None)
        return 0

    def close(self):
        """Nobody takes any more: a thread that waits is told."""
        self.fail(StreamBroken("the call is over"))
        if self.error is None:
            self.error = StreamBroken("the call is over")
        self.items.clear()
        self.queued = self.partial = 0
        self.charge()
        self.wake()
        self.on_cancel = None
        if self.request is not None:
            self.request.body_call = None

    # ---- who takes them

    # A message that is there, or None.
    cdef object pop(self):
        if not self.items:
            return None
        cdef bytes item = self.items.popleft()
        cdef bint full = self.queued >= QUEUE_BYTES
        self.queued -= PyBytes_GET_SIZE(item) + EACH
        if full and self.queued < QUEUE_BYTES and not self.closed:
            self.pull()
        self.charge()
        self.due += dyn_quill_credits_consumed(&self.ours, 1)
        self.grant()
        return item if self.decode is None else self.decode(item)

    # Tell the client how many more messages it may send, once the answer is begun.
    cdef int grant(self) except -1:
        cdef dyn_bytes out
        if self.due == 0 or not self.counts or self.over or not dyn_http_begun(self.request.x):
            return 0
        memset(&out, 0, sizeof(out))
        if dyn_quill_credit_write(&out, self.due) == 0 and dyn_http_write(self.request.x, out.data, out.size) == 0:
            self.due = 0
        else:
            dyn_error_clear()       # a full answer: the next message tells
        dyn_bytes_free(&out)
        return 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        while True:
            item = self.pop()
            if item is not None:
                return item
            if self.error is not None:
                raise self.error
            if self.over:
                raise StopAsyncIteration
            self.message_waiter = self.loop.create_future()
            await self.message_waiter

    async def _next(self):
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return None

    def __iter__(self):
        return self

    def __next__(self):
        if threading.get_ident() == self.thread:
            raise TypeError("the messages of a request come through this thread's loop: iterate with async for")
        item = asyncio.run_coroutine_threadsafe(self._next(), self.loop).result()
        if item is None:
            raise StopIteration
        return item

    # ---- who answers

    def begun(self):
        """The answer has begun: what was granted until now can be told."""
        self.grant()

    async def credit(self):
        """Wait until the client takes another message of the answer.

        Only who negotiated it is waited for, and only while a CREDIT can still arrive: not behind the end of the
        request, nor behind messages that nobody takes.
        """
        while self.counts and self.credits <= 0 and not self.closed and self.queued < QUEUE_BYTES:
            self.credit_waiter = self.loop.create_future()
            await self.credit_waiter
        self.credits -= 1

    def __repr__(self):
        return f"<RequestStream{' over' if self.over else ''}, {len(self.items)} here>"


def incoming(Request request not None, loop, decode, on_cancel, int64_t credits, Budget budget=None):
    """The stream of a request on a live route; `credits`: messages that its client takes at first, 0: any number."""
    cdef RequestStream self = RequestStream.__new__(RequestStream)
    self.request = request
    self.budget = budget
    self.loop = loop
    self.decode = decode
    self.on_cancel = on_cancel
    self.counts = credits > 0
    self.credits = credits
    request.body_call = self.pull
    request.start_watch()
    self.pull()
    return self


def ready_made(items, loop, decode):
    """A stream of messages that are all there."""
    cdef RequestStream self = RequestStream.__new__(RequestStream)
    self.loop = loop
    self.decode = decode
    self.over = self.closed = True
    self.items.extend(items)
    return self


dyn_only_library_makes(RequestStream)
