# cython: boundscheck=False, wraparound=False
"""HTTP/1.1 for asyncio: parsing, limits, timeouts and sending happen in C on the loop thread."""
import asyncio
import logging

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer, PyBUF_SIMPLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport UINT32_MAX, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid

from dynamo._errors cimport check
from dynamo._made cimport dyn_only_library_makes
from dynamo._loop cimport default_loop
from dynamo._mailbox cimport mailbox_of
from dynamo._metrics cimport Registry
from dynamo._pieces cimport Pieces
from dynamo._tls cimport TlsContext
from dynamo._unbox cimport utf8
from dynamo.c_common cimport DYN_EAGAIN, DYN_ECLOSED, dyn_error_clear
from dynamo.c_http cimport (
    DYN_HTTP_EVENT_BODY, DYN_HTTP_EVENT_CLOSED, DYN_HTTP_EVENT_DRAIN, DYN_HTTP_LIVE, DYN_HTTP_OPEN, DYN_HTTP_PREFIX,
    DYN_HTTP_REPLACE, dyn_http_abort, dyn_http_begin, dyn_http_begun, dyn_http_body, dyn_http_closed,
    dyn_http_commit, dyn_http_congested, dyn_http_end, dyn_http_event_from_mail, dyn_http_exchange,
    dyn_http_exchange_unref, dyn_http_fail, dyn_http_from_mail, dyn_http_header, dyn_http_header_at,
    dyn_http_header_count, dyn_http_method, dyn_http_path, dyn_http_peer, dyn_http_pending,
    dyn_http_query, dyn_http_read, dyn_http_request_id, dyn_http_reserve, dyn_http_respond, dyn_http_respond_pieces,
    dyn_http_route_mail, dyn_http_route_metrics, dyn_http_route_static, dyn_http_server_free,
    dyn_http_server_listen, dyn_http_server_new, dyn_http_server_stats, dyn_http_server_stop, dyn_http_set_header,
    dyn_http_settings, dyn_http_started_ns, dyn_http_stats, dyn_http_unroute, dyn_http_unwatch_mail,
    dyn_http_watch_mail, dyn_http_write)
from dynamo.c_mailbox cimport dyn_mail, dyn_mailbox, dyn_mailbox_put, dyn_mailbox_ref, dyn_mailbox_unref

from dynamo.errors import Cancelled, DynamoError, InvalidArgument, NotFound, Overloaded, RequestTimeout, Unavailable

_log = logging.getLogger("dynamo.http")

cdef enum:
    READ_BYTES = 64 * 1024
    HELD_BYTES = 64 * 1024     # copying less than this is cheaper than being told when it is sent


cdef uint32_t milliseconds(object seconds) except? 0:
    if seconds is None:
        return UINT32_MAX
    cdef double ms = float(seconds) * 1000
    if not ms > 0:
        raise ValueError(f"a timeout of {seconds} s: must be over 0, or None for no limit")
    return <uint32_t>min(max(ms, 1.0), 4e9)


# Something that a thread of C says once, by mail; who gets it frees it.
cdef class _Told(Receiver):
    cdef dyn_mail mail
    cdef dyn_mailbox *box

    def __dealloc__(self):
        dyn_mailbox_unref(self.box)

    cdef int expect(self, object loop) except -1:
        cdef Mailbox box = mailbox_of(loop)
        self.box = dyn_mailbox_ref(box.ptr)
        self.mail.owner = <void *>self
        self.mail.drop = keep_mail
        self.mail.next = <dyn_mail *>box.ptr
        Py_INCREF(self)              # given back by its mail
        return 0


# The stop of a server.
cdef class _Stopped(_Told):
    cdef object future

    cdef void on_mail(self, dyn_mail *mail) noexcept:
        if not self.future.done():
            self.future.set_result(None)
        Py_DECREF(self)


cdef void keep_mail(dyn_mail *mail) noexcept nogil:
    pass


# The buffers of an answer that is sent from where they lie. A loop that is closed before that keeps them for ever.
cdef class _Held(_Told):
    cdef Pieces pieces

    cdef void on_mail(self, dyn_mail *mail) noexcept:
        Py_DECREF(self)


cdef void tell(void *user) noexcept nogil:
    cdef dyn_mail *mail = <dyn_mail *>user
    # The mail is a member of its owner; its box is remembered in `next` until it is put.
    dyn_mailbox_put(<dyn_mailbox *>mail.next, mail)


cdef class Server:
    """An HTTP/1.1 server whose handlers run on asyncio.

    Parameters
    ----------
    host, port : where to listen; port 0 takes any free one
    max_connections, max_header_bytes, max_headers, max_url_bytes, max_body_bytes, max_total_body_bytes,
    max_pending_bytes : bounds on what clients can make it hold (0: the default of dynamo/http.h)
    header_timeout, body_timeout, idle_timeout, write_timeout : seconds; None: no limit
    api_key : when given, requests need ``Authorization: Bearer <key>``, except on routes that are `open`
    allow_origin : "*" or one origin: answer CORS preflights and allow that origin; off by default
    tls : a `TlsContext` made for a server; None: plain HTTP

    Examples
    --------
    >>> async def main():
    ...     server = Server(port=8000)
    ...     async def hello(request):
    ...         return {"hello": request.path}
    ...     server.route("GET", "/hello", hello)
    ...     server.start()
    ...     await asyncio.Event().wait()
    """

    def __cinit__(self, host="127.0.0.1", int port=0, *, uint32_t max_connections=0, uint32_t max_header_bytes=0,
                  uint32_t max_headers=0, uint32_t max_url_bytes=0, size_t max_body_bytes=0,
                  size_t max_total_body_bytes=0, size_t max_pending_bytes=0, header_timeout=10.0, body_timeout=30.0,
                  idle_timeout=75.0, write_timeout=30.0, api_key=None, allow_origin=None, TlsContext tls=None):
        cdef dyn_http_settings settings
        cdef bytes key, origin
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port}: must be 0 to 65535")
        memset(&settings, 0, sizeof(settings))
        settings.max_connections = max_connections
        settings.max_header_bytes = max_header_bytes
        settings.max_headers = max_headers
        settings.max_url_bytes = max_url_bytes
        settings.max_body_bytes = max_body_bytes
        settings.max_total_body_bytes = max_total_body_bytes
        settings.max_pending_bytes = max_pending_bytes
        settings.header_timeout_ms = milliseconds(header_timeout)
        settings.body_timeout_ms = milliseconds(body_timeout)
        settings.idle_timeout_ms = milliseconds(idle_timeout)
        settings.write_timeout_ms = milliseconds(write_timeout)
        if api_key is not None:
            key = api_key.encode()
            settings.api_key = key
        if allow_origin is not None:
            origin = allow_origin.encode()
            settings.allow_origin = origin
        settings.tls = NULL if tls is None else tls.ptr
        self.secure = tls is not None
        self.loop = default_loop()
        self.pid = getpid()
        self.host = host or "127.0.0.1"
        self.port = port
        self.tasks = set()
        check(dyn_http_server_new(&self.ptr, self.loop.ptr, &settings))

    def __dealloc__(self):
        cdef dyn_http_server *ptr = self.ptr
        self.ptr = NULL
        if ptr != NULL and self.pid == getpid():     # a child of fork has no loop thread to ask
            with nogil:
                dyn_http_server_free(ptr)

    cdef int ready(self) except -1:
        if self.ptr == NULL:
            raise RuntimeError("this server is closed")
        return 0

    def route(self, method, path, handler, *, bint prefix=False, bint open=False, bint live=False):
        """Send requests to `await handler(request)`.

        What it returns is the answer: a `Response`, bytes or str (text/plain), None (it answered through `request`, or
        handed it on), or anything msgspec can encode as JSON. Call it on the thread of the asyncio loop. On a `live`
        route the handler starts when the header is there, and gets the body by ``await request.read()``.
        """
        cdef Route route = Route.__new__(Route)
        cdef bytes raw_method = utf8(method, "method").upper(), raw_path = utf8(path, "path")
        cdef unsigned flags = (DYN_HTTP_PREFIX if prefix else 0) | (DYN_HTTP_OPEN if open else 0)
        flags |= DYN_HTTP_LIVE if live else 0
        self.ready()
        route.handler = handler
        route.loop = asyncio.get_running_loop()
        route.tasks = self.tasks
        cdef Mailbox box = mailbox_of(route.loop)
        Py_INCREF(route)             # given back by its last mail
        cdef int rc = dyn_http_route_mail(self.ptr, raw_method, raw_path, flags, box.ptr, <void *>route)
        if rc < 0:
            Py_DECREF(route)
        check(rc)

    def route_static(self, path, body, content_type="application/json", *, int status=200, bint prefix=False,
                     bint open=False, bint replace=False):
        """Answer GET `path` with these bytes, without Python; `replace` takes the place of the route that is there."""
        cdef bytes raw_path = utf8(path, "path"), raw_type = utf8(content_type, "content_type")
        cdef bytes data = body.encode() if isinstance(body, str) else bytes(memoryview(body))
        cdef unsigned flags = (DYN_HTTP_PREFIX if prefix else 0) | (DYN_HTTP_OPEN if open else 0)
        flags |= DYN_HTTP_REPLACE if replace else 0
        self.ready()
        check(dyn_http_route_static(self.ptr, raw_path, flags, status, raw_type, PyBytes_AS_STRING(data),
                                    PyBytes_GET_SIZE(data)))

    def route_metrics(self, path, Registry registry not None, *, bint open=True):
        """Answer GET `path` with the registry's text, without Python."""
        cdef bytes raw_path = utf8(path, "path")
        self.ready()
        check(dyn_http_route_metrics(self.ptr, raw_path, DYN_HTTP_OPEN if open else 0, registry.ptr))

    def unroute(self, method, path, *, bint prefix=False):
        """Take a route away: that of the path alone, or that of all paths which begin so."""
        cdef bytes raw_method = utf8(method, "method").upper(), raw_path = utf8(path, "path")
        self.ready()
        check(dyn_http_unroute(self.ptr, raw_method, raw_path, DYN_HTTP_PREFIX if prefix else 0))

    def start(self):
        """Listen; returns the port."""
        cdef bytes raw_host = self.host.encode()
        cdef const char *host = raw_host
        cdef uint16_t bound = 0, port = self.port
        cdef int rc
        self.ready()
        with nogil:
            rc = dyn_http_server_listen(self.ptr, host, port, &bound)
        check(rc)
        self.port = bound
        return self.port

    async def stop(self, grace=5.0):
        """Accept nothing more, let running requests end for `grace` seconds (None: as long as it takes), then close."""
        cdef uint32_t ms = milliseconds(grace) if grace is None or grace > 0 else 1
        cdef _Stopped stopped
        cdef int rc
        if self.ptr == NULL:
            return
        if self.stopped is None:
            loop = asyncio.get_running_loop()
            stopped = _Stopped.__new__(_Stopped)
            stopped.future = loop.create_future()
            stopped.expect(loop)
            with nogil:
                rc = dyn_http_server_stop(self.ptr, ms, tell, &stopped.mail)
            if rc < 0:
                Py_DECREF(stopped)
            check(rc)
            self.stopped = stopped.future
        await asyncio.shield(self.stopped)
        self.close()

    def close(self):
        """Cut every connection now. Requests that are held stay valid and say that their client is gone."""
        cdef dyn_http_server *ptr = self.ptr
        self.ptr = NULL
        if ptr != NULL and self.pid == getpid():
            with nogil:
                dyn_http_server_free(ptr)

    def stats(self):
        """Counts since the start: connections, requests, answers by class of status, refusals, bytes."""
        cdef dyn_http_stats got
        self.ready()
        dyn_http_server_stats(self.ptr, &got)
        return {
            "accepted": got.accepted, "refused": got.refused, "requests": got.requests,
            "answers": {f"{i}xx": got.answers[i] for i in range(1, 6)}, "malformed": got.malformed,
            "timed_out": got.timed_out, "cut": got.cut, "bytes_in": got.bytes_in, "bytes_out": got.bytes_out,
            "connections": got.connections, "body_bytes": got.body_bytes, "bad_handshakes": got.bad_handshakes,
        }

    @property
    def url(self):
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.secure else ''}://{host}:{self.port}"

    def __repr__(self):
        return f"<Server {self.url}{' closed' if self.ptr == NULL else ''}>"


cdef object _encode = None


cdef object _encode_json(object value):
    global _encode
    if _encode is None:
        import msgspec

        _encode = msgspec.json.Encoder().encode
    return _encode(value)


class Response:
    """A complete answer, for a handler to return."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(self, body=b"", status=200, content_type=None, headers=None):
        if not isinstance(body, (bytes, str, bytearray, memoryview)):
            body = _encode_json(body)
            content_type = content_type or "application/json"
        self.body = body
        self.status = status
        self.content_type = content_type or "text/plain; charset=utf-8"
        self.headers = headers


def status_of(error):
    """The status and text that tell a client of an exception in a handler."""
    if isinstance(error, Overloaded):
        return 529, str(error)
    if isinstance(error, (InvalidArgument, msgspec_error())):
        return 400, str(error)
    if isinstance(error, NotFound):
        return 404, str(error)
    if isinstance(error, RequestTimeout):
        return 504, str(error)
    if isinstance(error, Cancelled):
        return 499, str(error)
    if isinstance(error, Unavailable):
        return 503, str(error)
    if isinstance(error, DynamoError):
        return 500, str(error)
    return 500, "internal error"


cdef object msgspec_error():
    import msgspec

    return msgspec.MsgspecError


async def _run(Request request, handler):
    try:
        answer = await handler(request)
        if answer is not None:
            request.answer(answer)
    except asyncio.CancelledError:
        request.fail_quietly(503, "the server is stopping")
        raise
    except Exception as error:
        status, text = status_of(error)
        if status == 500:
            _log.exception("%s %s failed", request.method, request.path)
        request.fail_quietly(status, text)
    finally:
        request.stop_watch()


cdef class Route(Receiver):
    cdef void on_mail(self, dyn_mail *mail) noexcept:
        cdef dyn_http_exchange *x = dyn_http_from_mail(mail)
        cdef Request request
        if x == NULL:
            Py_DECREF(self)
            return
        try:
            request = Request.__new__(Request)
            request.x = x
            request.loop = self.loop
        except BaseException:
            dyn_http_exchange_unref(x)      # answers 500
            return
        try:
            task = self.loop.create_task(_run(request, self.handler))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        except BaseException:
            _log.exception("a request could not be started")


cdef object future_setter(object future):
    def done():
        if not future.done():
            future.set_result(None)
    return done


cdef class Request(Receiver):
    """One request and the answer to it. Use it on the thread of its asyncio loop.

    Answer it once: by returning something from the handler, by `respond`, or by `begin`, `write` ..., `end`.
    Its body is also its buffer: ``memoryview(request)`` and ``msgspec.json.decode(request)`` copy nothing.
    """

    def __init__(self, *args, **kwargs):
        raise TypeError("requests are made by the server")

    def __dealloc__(self):
        dyn_http_exchange_unref(self.x)

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef size_t length
        cdef const void *body = dyn_http_body(self.x, &length)
        if flags & PyBUF_WRITABLE:
            raise BufferError("the body of a request is read-only")
        PyBuffer_FillInfo(view, self, <void *>body, length, True, flags)

    # ---- the request

    @property
    def method(self):
        return dyn_http_method(self.x).decode("ascii")

    @property
    def path(self):
        cdef size_t length
        cdef const char *path = dyn_http_path(self.x, &length)
        return path[:length].decode("utf-8", "replace")

    @property
    def query_string(self):
        cdef size_t length
        cdef const char *query = dyn_http_query(self.x, &length)
        return query[:length].decode("utf-8", "replace")

    @property
    def query(self):
        """The query as a dict; of a name that comes twice the last value."""
        from urllib.parse import parse_qsl

        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    @property
    def headers(self):
        """Names in lower case; values that come twice joined by a comma."""
        cdef size_t i, name_length, value_length
        cdef const char *name
        cdef const char *value
        if self.header_dict is None:
            found = {}
            for i in range(dyn_http_header_count(self.x)):
                name = dyn_http_header_at(self.x, i, &name_length, &value, &value_length)
                key = name[:name_length].decode("latin-1")
                text = value[:value_length].decode("latin-1")
                found[key] = f"{found[key]}, {text}" if key in found else text
            self.header_dict = found
        return self.header_dict

    def header(self, name, default=None):
        """One header field, without making the dict of all of them."""
        cdef bytes raw = utf8(name, "the name of a header").lower()
        cdef size_t length
        cdef const char *value = dyn_http_header(self.x, raw, &length)
        return default if value == NULL else value[:length].decode("latin-1")

    @property
    def body(self):
        """The body as bytes, copied; ``memoryview(request)`` does not copy."""
        cdef size_t length
        cdef const unsigned char *body = dyn_http_body(self.x, &length)
        return (<const char *>body)[:length]

    async def read(self):
        """On a live route: the next bytes of the body as they come; b"" at its end.

        What is not read waits in the client, but for `body_window_bytes` of dynamo/http.h. Raises StreamBroken when the
        client leaves before the end, InvalidArgument when its chunks are malformed.
        """
        cdef size_t got
        cdef int rc
        cdef bytes room = PyBytes_FromStringAndSize(NULL, READ_BYTES)
        self.start_watch()
        while True:
            rc = dyn_http_read(self.x, PyBytes_AS_STRING(room), READ_BYTES, &got)
            if rc == 0:
                return room[:got]
            if rc == DYN_ECLOSED:
                dyn_error_clear()
                return b""
            if rc != DYN_EAGAIN:
                check(rc)
            dyn_error_clear()
            future = self.loop.create_future()
            self.body_call = future_setter(future)
            await future

    def json(self, type=None):
        """The body decoded by msgspec, into `type` when given."""
        import msgspec

        return msgspec.json.decode(self) if type is None else msgspec.json.decode(self, type=type)

    @property
    def id(self):
        """x-request-id, or one that the server made."""
        return dyn_http_request_id(self.x).decode("ascii")

    @property
    def peer(self):
        return dyn_http_peer(self.x).decode("ascii")

    @property
    def started_ns(self):
        """When its header was complete, on the monotonic clock."""
        return dyn_http_started_ns(self.x)

    # ---- the answer

    cdef int put_headers(self, object headers) except -1:
        cdef bytes name, value
        for key, text in (headers.items() if hasattr(headers, "items") else headers):
            name = str(key).encode("latin-1")
            value = str(text).encode("latin-1")
            if b"\0" in name or b"\0" in value:
                raise ValueError(f"header field {key!r} has a NUL")
            check(dyn_http_set_header(self.x, name, value))
        return 0

    def respond(self, body=b"", int status=200, content_type="text/plain; charset=utf-8", headers=None):
        """Answer completely. False when the client is gone."""
        cdef bytes raw_type, data
        cdef Py_buffer view
        cdef int rc
        if headers is not None:
            self.put_headers(headers)
        if isinstance(body, str):
            body = body.encode()
        raw_type = content_type.encode("latin-1")
        if type(body) is bytes and PyBytes_GET_SIZE(body) >= HELD_BYTES:
            return self.respond_pieces([body], status, content_type)
        if type(body) is bytes:
            data = body
            rc = dyn_http_respond(self.x, status, raw_type, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
            rc = dyn_http_respond(self.x, status, raw_type, view.buf, view.len)
            PyBuffer_Release(&view)
        if rc == DYN_ECLOSED:
            dyn_error_clear()
            return False
        check(rc)
        return True

    def respond_pieces(self, list pieces not None, int status=200, content_type="application/octet-stream",
                       headers=None):
        """Answer completely with the bytes of these buffers, one behind the other. False when the client is gone.

        They are sent from where they lie, without a copy, and held until the kernel has them: do not change them.
        """
        cdef bytes raw_type = content_type.encode("latin-1")
        cdef _Held held = _Held.__new__(_Held)
        cdef int rc
        if headers is not None:
            self.put_headers(headers)
        held.pieces = Pieces.__new__(Pieces)
        held.pieces.take(pieces)
        held.expect(self.loop)
        rc = dyn_http_respond_pieces(self.x, status, raw_type, held.pieces.list, held.pieces.count, tell,
                                     &held.mail)
        if rc < 0:
            Py_DECREF(held)
        if rc == DYN_ECLOSED:
            dyn_error_clear()
            return False
        check(rc)
        return True

    def respond_json(self, value, int status=200, headers=None):
        """Answer with JSON."""
        return self.respond(_encode_json(value), status, "application/json", headers)

    def fail(self, int status, message, *, type=None, param=None, code=None, headers=None):
        """Answer with an error in OpenAI's shape. False when the client is gone."""
        cdef bytes raw_message = str(message).encode("utf-8", "replace")
        cdef bytes raw_type = None if type is None else str(type).encode()
        cdef bytes raw_param = None if param is None else str(param).encode()
        cdef bytes raw_code = None if code is None else str(code).encode()
        cdef const char *c_type = NULL
        cdef const char *c_param = NULL
        cdef const char *c_code = NULL
        if headers is not None:
            self.put_headers(headers)
        if raw_type is not None:
            c_type = raw_type
        if raw_param is not None:
            c_param = raw_param
        if raw_code is not None:
            c_code = raw_code
        cdef int rc = dyn_http_fail(self.x, status, PyBytes_AS_STRING(raw_message), c_type, c_param, c_code)
        if rc == DYN_ECLOSED:
            dyn_error_clear()
            return False
        check(rc)
        return True

    cdef int fail_quietly(self, int status, object message) except -1:
        # After the answer began nothing can be said any more: cut it, so that it does not pass for whole.
        if dyn_http_begun(self.x):
            dyn_http_abort(self.x)
            return 0
        try:
            self.fail(status, message)
        except Exception:
            dyn_http_abort(self.x)
        return 0

    cdef int answer(self, object value) except -1:
        if isinstance(value, Response):
            self.respond(value.body, value.status, value.content_type, value.headers)
        elif isinstance(value, (bytes, str, bytearray, memoryview)):
            self.respond(value)
        else:
            self.respond_json(value)
        return 0

    def begin(self, int status=200, content_type="text/event-stream", headers=None):
        """Begin an answer that is written piece by piece."""
        cdef bytes raw_type = content_type.encode("latin-1")
        if headers is not None:
            self.put_headers(headers)
        cdef int rc = dyn_http_begin(self.x, status, raw_type)
        if rc == DYN_ECLOSED:
            dyn_error_clear()
            return False
        check(rc)
        return True

    cdef object wrote(self, int rc):
        if rc == DYN_ECLOSED:
            self.is_closed = True
            dyn_error_clear()
            raise ConnectionResetError("the client is gone")
        if rc == DYN_EAGAIN:
            dyn_error_clear()
            raise BlockingIOError("the client does not read: too much is pending; await drain() before writing on")
        check(rc)
        return not dyn_http_congested(self.x)

    def write(self, data):
        """Append bytes (or str, as UTF-8) to the answer; never blocks.

        Returns False when it is time to ``await request.drain()``. Raises ConnectionResetError when the client is
        gone and BlockingIOError, taking nothing, when the server's bound on pending bytes is reached.
        """
        cdef Py_buffer view
        cdef bytes raw
        cdef int rc
        if type(data) is bytes:
            raw = data
            return self.wrote(dyn_http_write(self.x, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw)))
        if isinstance(data, str):
            data = data.encode()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        rc = dyn_http_write(self.x, view.buf, view.len)
        PyBuffer_Release(&view)
        return self.wrote(rc)

    def event(self, bytes data not None, event=None):
        """Append one server-sent event. `data` must not hold line ends, which JSON never does."""
        cdef bytes name = b"" if event is None else str(event).encode()
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), name_size = PyBytes_GET_SIZE(name)
        cdef char *to
        cdef int rc = dyn_http_reserve(self.x, size + name_size + 16, &to)
        if rc == 0:
            at = to
            if name_size != 0:
                memcpy(at, b"event: ", 7)
                memcpy(at + 7, PyBytes_AS_STRING(name), name_size)
                at[7 + name_size] = c"\n"
                at += 8 + name_size
            memcpy(at, b"data: ", 6)
            memcpy(at + 6, PyBytes_AS_STRING(data), size)
            memcpy(at + 6 + size, b"\n\n", 2)
            dyn_http_commit(self.x, at + 8 + size - to)
        return self.wrote(rc)

    async def drain(self):
        """Wait until the client has read most of what is pending, or is gone."""
        if not dyn_http_congested(self.x) or self.is_closed:
            return
        self.start_watch()
        if self.drained is None or self.drained.done():
            self.drained = self.loop.create_future()
        # It may have drained, or gone, before the watch was on.
        if not dyn_http_congested(self.x) or dyn_http_closed(self.x):
            return
        await asyncio.shield(self.drained)

    def end(self):
        """The answer is complete. False when the client is gone."""
        cdef int rc = dyn_http_end(self.x)
        self.stop_watch()
        if rc == DYN_ECLOSED:
            dyn_error_clear()
            return False
        check(rc)
        return True

    def abort(self):
        """Cut the connection, so that the client sees that the answer is not whole."""
        dyn_http_abort(self.x)
        self.stop_watch()

    @property
    def pending(self):
        """Bytes of the answer that the kernel has not taken yet."""
        return dyn_http_pending(self.x)

    @property
    def begun(self):
        return dyn_http_begun(self.x)

    @property
    def closed(self):
        """Has the client left (or closed its sending side)?"""
        return self.is_closed or dyn_http_closed(self.x)

    def on_closed(self, call):
        """Have `call()` run when the client leaves before the answer is complete; at once when it has left already."""
        if self.closed:
            call()
            return
        if self.closed_calls is None:
            self.closed_calls = []
        self.closed_calls.append(call)
        self.start_watch()
        if dyn_http_closed(self.x) and not self.is_closed:
            self.told_closed()

    cdef void told_closed(self) noexcept:
        self.is_closed = True
        calls = self.closed_calls
        self.closed_calls = None
        if calls is not None:
            for call in calls:
                try:
                    call()
                except Exception:
                    _log.exception("on_closed")
        if self.drained is not None and not self.drained.done():
            self.drained.set_result(None)

    cdef int start_watch(self) except -1:
        cdef Mailbox box
        if self.watch != 0:
            return 0
        box = mailbox_of(self.loop)
        check(dyn_http_watch_mail(self.x, box.ptr, <void *>self))
        self.watch = 1
        Py_INCREF(self)
        return 0

    cdef int stop_watch(self) except -1:
        if self.watch != 1:
            return 0
        self.watch = 2
        if dyn_http_unwatch_mail(self.x):
            self.watch = 3
            Py_DECREF(self)
        return 0

    cdef void on_mail(self, dyn_mail *mail) noexcept:
        cdef Request _me = self     # what it calls may end the watch, and with it the last reference
        cdef bint last = self.watch == 2
        cdef unsigned bits = dyn_http_event_from_mail(mail)
        if bits & DYN_HTTP_EVENT_CLOSED and not self.is_closed:
            self.told_closed()
        if bits & (DYN_HTTP_EVENT_BODY | DYN_HTTP_EVENT_CLOSED) and self.body_call is not None:
            try:
                self.body_call()
            except Exception:
                _log.exception("a body that came could not be taken")
        if bits & DYN_HTTP_EVENT_DRAIN and self.drained is not None and not self.drained.done():
            self.drained.set_result(None)
        if last:
            self.watch = 3
            Py_DECREF(self)

    def __repr__(self):
        return f"<Request {self.method} {self.path} from {self.peer}>"


dyn_only_library_makes(Request)
