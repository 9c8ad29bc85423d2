# cython: boundscheck=False, wraparound=False
"""HTTP calls as Quill makes them: in the caller's thread, or many at once in an asyncio loop.

`Channel` is a server with its kept-alive connections; a `Call` is one request and its answer, a `Stream` one whose
answer (and request) are frames. `dynamo.quill.QuillClient` is the face of it.
"""
import asyncio
import os
import weakref

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from dynamo._errors cimport check, error_of
from dynamo._made cimport dyn_only_library_makes
from dynamo._pieces cimport Pieces
from dynamo._tls cimport TlsContext
from dynamo.c_common cimport DYN_EAGAIN, DYN_EPROTO, dyn_error_clear, dyn_error_detail
from dynamo.c_http_client cimport (
    DYN_HTTP_CALL_DONE, DYN_HTTP_CALL_FAILED, DYN_HTTP_CALL_HEAD, DYN_HTTP_CALL_IDEMPOTENT, DYN_HTTP_CALL_SEND_LATER,
    DYN_HTTP_CALL_STOP_LARGE, DYN_HTTP_CALL_STREAM, dyn_http_call, dyn_http_call_body, dyn_http_call_consume,
    dyn_http_call_error, dyn_http_call_flush, dyn_http_call_free, dyn_http_call_header, dyn_http_call_header_at,
    dyn_http_call_header_count, dyn_http_call_into, dyn_http_call_length, dyn_http_call_new, dyn_http_call_phase_of,
    dyn_http_call_run, dyn_http_call_send, dyn_http_call_send_end, dyn_http_call_set_timeout, dyn_http_call_status,
    dyn_http_call_unsent, dyn_http_call_user, dyn_http_client_close_idle, dyn_http_client_new,
    dyn_http_client_settings, dyn_http_client_stats, dyn_http_client_stats_read, dyn_http_client_unref,
    dyn_http_header_check, dyn_http_hub_close_idle, dyn_http_hub_fd, dyn_http_hub_free, dyn_http_hub_go_on,
    dyn_http_hub_new, dyn_http_hub_news, dyn_http_hub_start, dyn_http_hub_turn, dyn_http_request)
from dynamo.c_wire cimport (
    DYN_QUILL_CANCEL, DYN_QUILL_CREDIT, DYN_QUILL_CREDITS, DYN_QUILL_DATA, DYN_QUILL_END, DYN_QUILL_REFILL,
    dyn_bytes, dyn_bytes_free, dyn_quill_credit_read, dyn_quill_credit_write, dyn_quill_credits_consumed,
    dyn_quill_credits_init, dyn_quill_finish, dyn_quill_frame, dyn_quill_head, dyn_quill_next, dyn_quill_reader,
    dyn_quill_reader_free, dyn_slice)
from dynamo.c_zstd cimport DYN_ZSTD_LEVEL, DYN_ZSTD_THRESHOLD, dyn_zstd_compress, dyn_zstd_decompress

from dynamo.errors import Cancelled, RemoteError, StreamBroken, Truncated

IDEMPOTENT = DYN_HTTP_CALL_IDEMPOTENT
CREDITS = DYN_QUILL_CREDITS
cdef enum:
    UNSENT_BYTES = 256 * 1024      # of a streamed request; then its sender waits
    ERROR_BYTES = 1 << 20          # of the text of an error that answers a stream
    GOODBYE_MS = 50                # between the last frame and the end of the answer


# What `out` holds, as bytes; `out` is freed.
cdef object taken(dyn_bytes *out, int rc):
    try:
        check(rc)
        return PyBytes_FromStringAndSize(<const char *>out.data, out.size)
    finally:
        dyn_bytes_free(out)


def compress(data, int level=DYN_ZSTD_LEVEL):
    """`data` as one zstd frame."""
    cdef Py_buffer view
    cdef dyn_bytes out
    cdef int rc
    memset(&out, 0, sizeof(out))
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    with nogil:
        rc = dyn_zstd_compress(&out, view.buf, view.len, level)
    PyBuffer_Release(&view)
    return taken(&out, rc)


def decompress(data, size_t max_size):
    """What the zstd frames in `data` hold; more than `max_size` bytes are refused before they take memory."""
    cdef Py_buffer view
    cdef dyn_bytes out
    cdef int rc
    memset(&out, 0, sizeof(out))
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    with nogil:
        rc = dyn_zstd_decompress(&out, view.buf, view.len, max_size)
    PyBuffer_Release(&view)
    return taken(&out, rc)


def messages(data):
    """The messages of a whole stream of frames, up to its END. What is not one raises InvalidArgument."""
    cdef Py_buffer view
    cdef dyn_quill_reader reader
    cdef dyn_quill_frame one
    cdef dyn_slice piece
    cdef int rc = 0
    found = []
    memset(&reader, 0, sizeof(reader))
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        piece.data = <const uint8_t *>view.buf
        piece.size = view.len
        while True:
            rc = dyn_quill_next(&reader, &piece, &one)
            if rc != 1:
                break
            if one.flags & DYN_QUILL_CANCEL:
                raise Cancelled("the client cancelled the stream")
            if one.flags & DYN_QUILL_DATA:
                found.append(PyBytes_FromStringAndSize(<const char *>one.payload.data, one.payload.size))
        check(rc)
        if dyn_quill_finish(&reader) < 0:
            detail = dyn_error_detail().decode("utf-8", "replace")
            dyn_error_clear()
            raise Truncated(detail)
        return found
    finally:
        dyn_quill_reader_free(&reader)
        PyBuffer_Release(&view)


def header_line(name, value):
    """`name` and `value` as a line of a request's head; what cannot be one raises InvalidArgument."""
    cdef bytes raw_name = name.encode("utf-8") if isinstance(name, str) else bytes(name)
    cdef bytes raw_value = value.encode("utf-8") if isinstance(value, str) else bytes(value)
    check(dyn_http_header_check(raw_name, PyBytes_GET_SIZE(raw_name), raw_value, PyBytes_GET_SIZE(raw_value)))
    return raw_name + b": " + raw_value + b"\r\n"


cdef class Channel:
    """One server, and the kept-alive connections to it. Any thread and any asyncio loop may use it.

    Parameters
    ----------
    url : "http://host:port/prefix" or https
    refuse : ``refuse(status, headers, body)`` makes the exception for an answer that is not 2xx
    tls : a `TlsContext`; None: the system's store
    max_response_bytes : of a body, before and after decompression; 0: 256 MiB
    max_connections : at one time for each asyncio loop; further calls wait; 0: 100
    max_idle, idle_timeout_ms : kept-alive connections that nobody uses; 0: 100, and one minute
    """

    def __cinit__(self, str url not None, refuse, *, TlsContext tls=None, size_t max_response_bytes=0,
                  uint32_t max_connections=0, uint32_t max_idle=0, uint32_t idle_timeout_ms=0):
        cdef dyn_http_client_settings settings
        cdef bytes raw
        cdef int rc
        memset(&settings, 0, sizeof(settings))
        try:
            raw = url.encode("ascii")
        except UnicodeEncodeError:
            raw = url.encode("utf-8", "surrogatepass")   # refused below, with the reason
        if b"\0" in raw:
            raise ValueError(f"the URL {url!r} has a NUL")
        self.url = url
        self.refuse = refuse
        self.max_response_bytes = max_response_bytes or (256 << 20)
        settings.max_response_bytes = self.max_response_bytes
        settings.max_connections = max_connections
        settings.max_idle = max_idle
        settings.idle_timeout_ms = idle_timeout_ms
        settings.tls = NULL if tls is None else tls.ptr
        cdef const char *text = raw
        with nogil:                         # the system's certificates take milliseconds to read
            rc = dyn_http_client_new(&self.ptr, text, &settings)
        check(rc)

    def __dealloc__(self):
        cdef dyn_http_client *ptr = self.ptr
        self.ptr = NULL
        if ptr != NULL:
            with nogil:
                dyn_http_client_unref(ptr)

    cdef Hub hub_here(self):
        loop = asyncio.get_running_loop()
        if self.hub is None or self.hub.ptr == NULL or self.hub.loop() is not loop:
            self.hub = hub_of(loop)
        return self.hub

    cdef int make(self, Call call, bytes method, bytes path, bytes headers, object body, unsigned int timeout_ms,
                  unsigned int flags, bint compress) except -1:
        cdef dyn_http_request request
        cdef dyn_bytes out
        cdef int rc
        memset(&request, 0, sizeof(request))
        call.channel = self
        if type(body) is list:
            if compress:
                body = b"".join(body)
            else:
                call.pieces = Pieces.__new__(Pieces)
                call.pieces.take(body)
                request.pieces = call.pieces.list
                request.piece_count = call.pieces.count
                body = None
        if body is not None:
            PyObject_GetBuffer(body, &call.view, PyBUF_SIMPLE)
            call.viewed = True
            if compress and call.view.len > DYN_ZSTD_THRESHOLD:
                memset(&out, 0, sizeof(out))
                with nogil:
                    rc = dyn_zstd_compress(&out, call.view.buf, call.view.len, DYN_ZSTD_LEVEL)
                try:
                    check(rc)
                    if <Py_ssize_t>out.size < call.view.len:      # else it is not worth the other side's time
                        call.packed = PyBytes_FromStringAndSize(<const char *>out.data, out.size)
                finally:
                    dyn_bytes_free(&out)
                if call.packed is not None:
                    PyBuffer_Release(&call.view)
                    call.viewed = False
                    PyObject_GetBuffer(call.packed, &call.view, PyBUF_SIMPLE)
                    call.viewed = True
                    headers = headers + b"Content-Encoding: zstd\r\n"
            request.body = call.view.buf
            request.length = call.view.len
        request.method = PyBytes_AS_STRING(method)
        request.path = PyBytes_AS_STRING(path)
        request.headers = PyBytes_AS_STRING(headers)
        request.headers_length = PyBytes_GET_SIZE(headers)
        request.timeout_ms = timeout_ms
        request.flags = flags
        check(dyn_http_call_new(&call.ptr, self.ptr, &request))
        return 0

    def unary(self, bytes path not None, bytes headers not None, body, unsigned int timeout_ms, *,
              unsigned int flags=0, bint compress=False):
        """POST `body`, a buffer or a list of them, and give the body of the answer, in this thread."""
        cdef Call call = Call.__new__(Call)
        self.make(call, b"POST", path, headers, body, timeout_ms, flags | DYN_HTTP_CALL_STOP_LARGE, compress)
        call.run()
        return call.body()

    def start(self, bytes path not None, bytes headers not None, body, unsigned int timeout_ms, *,
              unsigned int flags=0, bint compress=False):
        """The same without waiting: a `Call` whose `future` gets the body. For the running asyncio loop."""
        cdef Call call = Call.__new__(Call)
        cdef Hub hub = self.hub_here()
        self.make(call, b"POST", path, headers, body, timeout_ms, flags | DYN_HTTP_CALL_STOP_LARGE, compress)
        call.future = hub.loop().create_future()
        call.start(hub)
        return call

    def stream(self, bytes path not None, bytes headers not None, body, unsigned int timeout_ms, *,
               bint here=True, bint compress=False):
        """A `Stream` of frames. With `body` None the request is a stream, too: see `send`.

        here : run by whichever thread waits for it; False: by the running asyncio loop
        """
        cdef Stream call = Stream.__new__(Stream)
        cdef Hub hub = None if here else self.hub_here()
        cdef unsigned flags = DYN_HTTP_CALL_STREAM | (DYN_HTTP_CALL_SEND_LATER if body is None else 0)
        self.make(call, b"POST", path, headers, body, timeout_ms, flags, compress)
        call.two_way = body is None
        call.timeout_ms = timeout_ms
        if hub is not None:
            call.start(hub)
        return call

    def upload(self, bytes path not None, bytes headers not None, unsigned int timeout_ms, *, bint here=True):
        """A `Call` whose body follows by `send` and `send_end`; `result` gives the answer's body."""
        cdef Call call = Call.__new__(Call)
        cdef Hub hub = None if here else self.hub_here()
        self.make(call, b"POST", path, headers, None, timeout_ms, DYN_HTTP_CALL_SEND_LATER | DYN_HTTP_CALL_STOP_LARGE,
                  False)
        if hub is not None:
            call.future = hub.loop().create_future()
            call.start(hub)
        return call

    def get(self, bytes path not None, bytes headers not None, unsigned int timeout_ms):
        """GET: (status, body), whatever the status."""
        cdef Call call = Call.__new__(Call)
        self.make(call, b"GET", path, headers, None, timeout_ms, DYN_HTTP_CALL_IDEMPOTENT | DYN_HTTP_CALL_STOP_LARGE,
                  False)
        call.run()
        cdef size_t length
        cdef const uint8_t *data = dyn_http_call_body(call.ptr, &length)
        body = call.into if call.into is not None else PyBytes_FromStringAndSize(<const char *>data, length)
        return dyn_http_call_status(call.ptr), body

    def close_idle(self):
        """Close the connections that nobody uses: those of threads, and those of the running loop."""
        with nogil:
            dyn_http_client_close_idle(self.ptr)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        cdef Hub hub = _hubs.get(loop)
        if hub is not None and hub.ptr != NULL:
            dyn_http_hub_close_idle(hub.ptr, self.ptr)

    def stats(self):
        """Connections opened and reused, calls done and failed, idle connections."""
        cdef dyn_http_client_stats stats
        dyn_http_client_stats_read(self.ptr, &stats)
        return {"opened": stats.opened, "reused": stats.reused, "calls": stats.calls, "failed": stats.failed,
                "idle": stats.idle}


# ---- asyncio

cdef class Hub:
    def __cinit__(self):
        check(dyn_http_hub_new(&self.ptr))

    def __dealloc__(self):
        dyn_http_hub_free(self.ptr)

    def fileno(self):
        return dyn_http_hub_fd(self.ptr)

    cpdef int drain(self) except -1:
        """Read, write and hand out what there is."""
        if self.ptr == NULL:
            return 0
        with nogil:
            dyn_http_hub_turn(self.ptr)
        return self.deliver()

    cdef int deliver(self) except -1:
        cdef dyn_http_call *call
        cdef int count = 0
        while self.ptr != NULL:
            call = dyn_http_hub_news(self.ptr)
            if call == NULL:
                break
            (<Call>dyn_http_call_user(call)).news()
            count += 1
        return count


# An entry goes with its loop.
cdef object _hubs = weakref.WeakKeyDictionary()


cdef Hub hub_of(object loop):
    cdef Hub hub = _hubs.get(loop)
    if hub is None:
        hub = Hub()
        hub.loop = weakref.ref(loop)
        loop.add_reader(hub.fileno(), hub.drain)
        _hubs[loop] = hub
    return hub


def _forget_hubs():
    # A child of fork shares the parent's epoll: it closes its copies and touches nothing else.
    cdef Hub hub
    cdef dyn_http_hub *ptr
    for hub in list(_hubs.values()):
        ptr = hub.ptr
        hub.ptr = NULL
        dyn_http_hub_free(ptr)
    _hubs.clear()


os.register_at_fork(after_in_child=_forget_hubs)


cdef class Call:
    """One request and its answer."""

    def __init__(self, *args, **kwargs):
        raise TypeError("calls are made by a Channel")

    def __dealloc__(self):
        dyn_http_call_free(self.ptr)
        if self.viewed:
            PyBuffer_Release(&self.view)

    cdef int start(self, Hub hub) except -1:
        self.hub = hub
        self.started = True
        Py_INCREF(self)                     # the hub's
        dyn_http_hub_start(hub.ptr, self.ptr, <void *>self)
        hub.deliver()
        return 0

    # The hub has ended with it, or must: give its reference back.
    cdef int stop(self) except -1:
        if self.started:
            self.started = False
            Py_DECREF(self)
        return 0

    def cancel(self):
        """Give up: the connection is closed unless the answer was complete. On the loop's thread."""
        cdef dyn_http_call *ptr = self.ptr
        cdef Call _me = self
        self.ptr = NULL
        dyn_http_call_free(ptr)
        if self.future is not None and not self.future.done():
            self.future.cancel()
        self.wake()
        self.stop()

    cdef int run(self) except -1:
        cdef int rc
        while True:
            with nogil:
                rc = dyn_http_call_run(self.ptr)
            if rc == 0:
                if self.streamed or dyn_http_call_phase_of(self.ptr) != DYN_HTTP_CALL_HEAD:
                    return 0
                self.make_room()
            elif rc == DYN_EAGAIN:
                dyn_error_clear()
                PyErr_CheckSignals()
            else:
                raise self.failure()

    # A large answer goes straight into the bytes that are handed out.
    cdef int make_room(self) except -1:
        self.into = PyBytes_FromStringAndSize(NULL, dyn_http_call_length(self.ptr))
        check(dyn_http_call_into(self.ptr, PyBytes_AS_STRING(self.into)))
        return 0

    cdef object failure(self):
        cdef int rc = dyn_http_call_error(self.ptr)
        detail = dyn_error_detail().decode("utf-8", "replace")
        dyn_error_clear()
        if rc == DYN_EPROTO:
            return RemoteError(detail)
        return error_of(rc, detail)

    cdef void news(self) noexcept:
        cdef Call _me = self
        phase = dyn_http_call_phase_of(self.ptr)
        try:
            if phase == DYN_HTTP_CALL_HEAD:
                try:
                    self.make_room()
                except MemoryError as error:
                    dyn_http_call_free(self.ptr)
                    self.ptr = NULL
                    self.stop()
                    if not self.future.done():
                        self.future.set_exception(error)
                    return
                dyn_http_hub_go_on(self.hub.ptr, self.ptr)
                return
            self.wake()
            if phase == DYN_HTTP_CALL_DONE:
                self.stop()
                if self.future.done():
                    return
                try:
                    body = self.body()
                except Exception as error:
                    self.future.set_exception(error)
                else:
                    self.future.set_result(body)
            elif phase == DYN_HTTP_CALL_FAILED:
                self.stop()
                if not self.future.done():
                    self.future.set_exception(self.failure())
        except BaseException:               # the loop is closed: nobody waits any more
            pass

    cdef void wake(self) noexcept:
        waiters = (self.waiter, self.sender)
        self.waiter = self.sender = None
        try:
            for waiter in waiters:
                if waiter is not None and not waiter.done():
                    waiter.set_result(None)
        except BaseException:               # the loop is closed
            pass

    @property
    def status(self):
        return dyn_http_call_status(self.ptr)

    @property
    def headers(self):
        """Names in lower case; values that come twice joined by a comma."""
        cdef size_t i, name_length, value_length
        cdef const char *name
        cdef const char *value
        found = {}
        for i in range(dyn_http_call_header_count(self.ptr)):
            name = dyn_http_call_header_at(self.ptr, i, &name_length, &value, &value_length)
            key = name[:name_length].decode("latin-1")
            text = value[:value_length].decode("latin-1")
            found[key] = f"{found[key]}, {text}" if key in found else text
        return found

    cdef object body(self):
        cdef size_t length
        cdef int status = dyn_http_call_status(self.ptr)
        cdef const uint8_t *data
        cdef const char *coding = dyn_http_call_header(self.ptr, "content-encoding", &length)
        body = self.into
        if body is None:
            data = dyn_http_call_body(self.ptr, &length)
            body = PyBytes_FromStringAndSize(<const char *>data, length)
        if coding != NULL:
            name = coding.decode("latin-1").strip().lower()
            if name == "zstd":
                body = decompress(body, self.channel.max_response_bytes)
            elif name not in ("", "identity"):
                raise RemoteError(
                    f"the answer of {self.channel.url} has content-encoding {name}, which nobody asked for")
        if status < 200 or status > 299:
            raise self.channel.refuse(status, self.headers, body)
        return body

    def result(self):
        """Wait, in this thread, for the body of the answer."""
        self.run()
        return self.body()

    # ---- a request that follows in pieces

    def send(self, payload, int flags=DYN_QUILL_DATA):
        """Append a frame to the request. True: enough is unsent that the sender should wait, by `flush` or `room`."""
        cdef Py_buffer view
        cdef uint8_t head[16]
        cdef int n, rc
        self.usable()
        PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
        try:
            n = check(dyn_quill_head(head, flags, view.len))
            rc = dyn_http_call_send(self.ptr, head, n)
            if rc == 0:
                rc = dyn_http_call_send(self.ptr, view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        if rc != 0:
            raise self.failure() if dyn_http_call_phase_of(self.ptr) == DYN_HTTP_CALL_FAILED else self.refused(rc)
        if self.hub is not None:
            dyn_http_hub_go_on(self.hub.ptr, self.ptr)
            self.hub.deliver()
        return self.ptr != NULL and dyn_http_call_unsent(self.ptr) > UNSENT_BYTES

    def send_end(self):
        """The last frame: END, and the end of the request."""
        self.send(b"", DYN_QUILL_END)
        if self.ptr != NULL:
            check(dyn_http_call_send_end(self.ptr))
            if self.hub is not None:
                dyn_http_hub_go_on(self.hub.ptr, self.ptr)
                self.hub.deliver()

    def flush(self, size_t left=UNSENT_BYTES):
        """Wait, in this thread, until no more than `left` bytes are unsent, or the answer is there."""
        cdef int rc
        self.usable()
        while True:
            with nogil:
                rc = dyn_http_call_flush(self.ptr, left)
            if rc == 0:
                return
            if rc != DYN_EAGAIN:
                raise self.failure()
            dyn_error_clear()
            PyErr_CheckSignals()

    def room(self):
        """A future that is done when most of what was sent has left, or something came; None when that is so now."""
        if self.done or (dyn_http_call_unsent(self.ptr) <= UNSENT_BYTES and not self.starved):
            return None
        self.sender = self.hub.loop().create_future()
        return self.sender

    @property
    def starved(self):
        """Must the sender wait until the server takes more messages?"""
        return False

    @property
    def done(self):
        """Has the answer ended, one way or the other?"""
        return self.ptr == NULL or dyn_http_call_phase_of(self.ptr) >= DYN_HTTP_CALL_DONE

    cdef int usable(self) except -1:
        if self.ptr == NULL:
            raise StreamBroken("this call was cancelled or closed")
        if self.hub is not None and self.hub.ptr == NULL:
            raise StreamBroken("this call belongs to the process that forked this one")
        return 0

    cdef object refused(self, int rc):
        detail = dyn_error_detail().decode("utf-8", "replace")
        dyn_error_clear()
        return error_of(rc, detail)


cdef class Stream(Call):
    """A call whose answer is frames: iterate over the messages, in a thread; `ready` and `more` are for asyncio."""

    def __cinit__(self):
        memset(&self.reader, 0, sizeof(self.reader))
        dyn_quill_credits_init(&self.credits, DYN_QUILL_CREDITS, DYN_QUILL_REFILL)
        self.streamed = True
        self.items = []

    def __dealloc__(self):
        dyn_quill_reader_free(&self.reader)

    # 0: go on; 1: the answer is an error whose text is still coming.
    cdef int check_head(self) except -1:
        cdef int status = dyn_http_call_status(self.ptr)
        cdef size_t length
        cdef const uint8_t *data
        if 200 <= status <= 299:
            if self.two_way and not self.counts:
                self.read_credits()
            coding = dyn_http_call_header(self.ptr, "content-encoding", &length)
            if coding != NULL and coding[:length].lower() != b"identity":
                raise RemoteError(f"the stream of {self.channel.url} has content-encoding "
                                  f"{coding[:length].decode('latin-1')}, which nobody asked for")
            return 0
        data = dyn_http_call_body(self.ptr, &length)
        if dyn_http_call_phase_of(self.ptr) < DYN_HTTP_CALL_DONE and length < ERROR_BYTES:
            return 1
        self.over = True
        error = self.channel.refuse(status, self.headers, PyBytes_FromStringAndSize(<const char *>data, length))
        self.close()
        raise error

    # Does the server count our messages? It says how many it takes at first.
    cdef int read_credits(self) except -1:
        cdef size_t length
        cdef const char *text = dyn_http_call_header(self.ptr, "quill-credits", &length)
        given = b"" if text == NULL else text[:length]
        if given.isdigit() and len(given) < 10 and int(given) > 0:
            self.counts = True
            self.allowed = int(given)
        return 0

    @property
    def starved(self):
        return self.counts and self.sent >= self.allowed and not self.over and not self.done

    def send(self, payload, int flags=DYN_QUILL_DATA):
        """Append a frame to the request. True: the sender should wait, by `flush` and `step`, or by `room`."""
        full = Call.send(self, payload, flags)
        if flags & DYN_QUILL_DATA:
            self.sent += 1
        return full or self.starved

    def send_end(self):
        """The last frame: END. The request itself stays open for our CREDIT frames, where the server takes them."""
        if not self.counts:
            Call.send_end(self)
            return
        self.send(b"", DYN_QUILL_END)
        self.end_due = True

    # Messages were taken: tell the server when enough of them were.
    cdef int consumed(self) except -1:
        cdef dyn_bytes out
        cdef uint64_t credit = dyn_quill_credits_consumed(&self.credits, 1)
        if credit == 0 or self.ptr == NULL:
            return 0
        memset(&out, 0, sizeof(out))
        if dyn_quill_credit_write(&out, credit) == 0 and dyn_http_call_send(self.ptr, out.data, out.size) != 0:
            self.two_way = False            # the request is complete: nothing can be granted any more
            dyn_error_clear()
        dyn_bytes_free(&out)
        if self.hub is not None and self.hub.ptr != NULL:
            dyn_http_hub_go_on(self.hub.ptr, self.ptr)
            self.hub.deliver()
        return 0

    # Frames that are there -> items.
    cdef int parse(self) except -1:
        cdef size_t length
        cdef dyn_slice piece
        cdef dyn_quill_frame frame
        cdef int rc = 0
        cdef uint64_t credit = 0
        piece.data = dyn_http_call_body(self.ptr, &length)
        piece.size = length
        while not self.over:
            rc = dyn_quill_next(&self.reader, &piece, &frame)
            if rc != 1:
                break
            if frame.flags & DYN_QUILL_CANCEL:
                self.over = True
                self.items.append(Cancelled(f"{self.channel.url} cancelled the stream"))
            elif frame.flags & DYN_QUILL_DATA:
                self.items.append(PyBytes_FromStringAndSize(<const char *>frame.payload.data, frame.payload.size))
            elif frame.flags & DYN_QUILL_CREDIT and self.counts:
                rc = dyn_quill_credit_read(&frame, &credit)
                if rc < 0:
                    break
                self.allowed += min(credit, <uint64_t>1 << 32)
            if frame.flags & DYN_QUILL_END:
                self.over = True
        if rc < 0:
            self.over = True
            self.items.append(self.refused(rc))
        dyn_http_call_consume(self.ptr, length if self.over else length - piece.size)
        if not self.over and dyn_http_call_phase_of(self.ptr) == DYN_HTTP_CALL_DONE:
            self.over = True
            self.items.append(StreamBroken(f"the stream of {self.channel.url} ended without its END frame"))
        if self.over and self.end_due:
            self.end_due = False
            if dyn_http_call_send_end(self.ptr) != 0:
                dyn_error_clear()
        if credit > 0 or self.over:
            waiter = self.sender
            self.sender = None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        return 0

    # An item that is there, or None.
    cdef object take(self):
        if self.at == len(self.items):
            return None
        item = self.items[self.at]
        self.at += 1
        if self.at == len(self.items):
            self.items = []
            self.at = 0
        if isinstance(item, Exception):
            self.close()
            raise item
        if self.two_way and not self.over:
            self.consumed()
        return item

    # The last frame is read: let the end of the answer come, so that the connection can be used again.
    cdef int leave(self) except -1:
        cdef int rc
        if self.ptr == NULL:
            return 0
        if dyn_http_call_phase_of(self.ptr) < DYN_HTTP_CALL_DONE:
            dyn_http_call_set_timeout(self.ptr, GOODBYE_MS)
            if self.hub is not None:
                dyn_http_hub_go_on(self.hub.ptr, self.ptr)
                self.hub.deliver()
                return 0
            with nogil:
                rc = dyn_http_call_run(self.ptr)
            if rc != 0:
                dyn_error_clear()
        self.close()
        return 0

    def close(self):
        """Drop the stream; the server sees the connection close unless the answer was complete."""
        self.over = True
        self.items = []
        self.at = 0
        self.cancel()

    def __iter__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __next__(self):
        if self.hub is not None:
            raise TypeError("this stream belongs to an asyncio loop: iterate with async for")
        while True:
            item = self.take()
            if item is not None:
                return item
            if self.over:
                self.leave()
                raise StopIteration
            self.usable()
            self.go_on_here()

    def open(self):
        """Send the request and wait, in this thread, until the server has taken or refused it."""
        if dyn_http_call_phase_of(self.ptr) < DYN_HTTP_CALL_HEAD:
            self.run()
            while self.check_head():
                self.run()
        return self

    def step(self):
        """Wait, in this thread, until something came."""
        self.usable()
        self.go_on_here()

    cdef int go_on_here(self) except -1:
        dyn_http_call_set_timeout(self.ptr, self.timeout_ms)
        try:
            self.run()
            if not self.check_head():
                self.parse()
        except BaseException:
            self.close()
            raise
        return 0

    def arrived(self):
        """The messages that are there, without waiting for more."""
        found = []
        while True:
            if self.ptr != NULL and not self.over and dyn_http_call_phase_of(self.ptr) >= DYN_HTTP_CALL_HEAD:
                if not self.check_head():
                    self.parse()
            item = self.take()
            if item is None:
                return found
            found.append(item)

    def ready(self):
        """For asyncio: the next message, or None when `more` must be awaited first. StopAsyncIteration at the end."""
        item = self.take()
        if item is not None:
            return item
        if self.over:
            self.leave()
            raise StopAsyncIteration
        self.usable()
        if dyn_http_call_phase_of(self.ptr) < DYN_HTTP_CALL_DONE:
            dyn_http_call_set_timeout(self.ptr, self.timeout_ms)
            dyn_http_hub_go_on(self.hub.ptr, self.ptr)
            self.hub.deliver()
        phase = dyn_http_call_phase_of(self.ptr)
        if phase == DYN_HTTP_CALL_FAILED:
            self.over = True
            raise self.failure()
        if phase >= DYN_HTTP_CALL_HEAD and not self.check_head():
            self.parse()
        item = self.take()
        if item is None and self.over:
            self.leave()
            raise StopAsyncIteration
        return item

    def opened(self):
        """For asyncio: has the server taken the request? None: await `more`; what it refused with is raised."""
        self.usable()
        if dyn_http_call_phase_of(self.ptr) == DYN_HTTP_CALL_FAILED:
            raise self.failure()
        if dyn_http_call_phase_of(self.ptr) < DYN_HTTP_CALL_HEAD:
            return None
        if self.check_head():
            dyn_http_hub_go_on(self.hub.ptr, self.ptr)
            self.hub.deliver()
            return None
        return True

    def more(self):
        """For asyncio: a future that is done when something came."""
        self.waiter = self.hub.loop().create_future()
        if self.done:
            self.waiter.set_result(None)
        return self.waiter

    cdef void news(self) noexcept:
        cdef Call _me = self
        if dyn_http_call_phase_of(self.ptr) >= DYN_HTTP_CALL_DONE:
            self.stop()
        self.wake()


dyn_only_library_makes(Stream)
dyn_only_library_makes(Call)
