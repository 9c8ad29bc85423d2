# cython: boundscheck=False, wraparound=False
"""Calls and endpoints for Python: requests out, items in, on any asyncio loop.

    caller   ResponseStream: an async iterator; items that are there already cost no turn of the loop
    worker   Serving: requests of one endpoint;  Handling: drives one handler's generator inside a Task

What a turn of the loop has to say leaves in one write per connection (the cork of its Port). What a handler yields
without suspending travels in one frame, unless a step took long: then it leaves at once.
"""
import asyncio
import os
import time
import weakref

cimport cython

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset

from dynamo._errors cimport check, error_of
from dynamo._made cimport dyn_only_library_makes
from dynamo._loop cimport Loop, default_loop
from dynamo._mailbox cimport Receiver, mailbox_of
from dynamo._metrics cimport Metric, Registry
from dynamo.c_common cimport (
    DYN_EBROKEN, DYN_ECANCELED, DYN_ECLOSED, DYN_ECONN, DYN_ENOENT, DYN_EOVERLOAD, DYN_EREMOTE, DYN_ESHUTDOWN,
    DYN_EUNAVAIL, DYN_LOG_JSON, DYN_LOG_LOCAL_TIME, DYN_OK, dyn_log, dyn_log_level, dyn_log_set_form, dyn_log_set_level,
    dyn_now_ns)
from dynamo.c_mailbox cimport dyn_mail
from dynamo.c_metrics cimport (
    dyn_metrics_off_scrape, dyn_metrics_on_scrape, dyn_series, dyn_series_count, dyn_series_observe,
    dyn_series_ref, dyn_series_set)
from dynamo.c_service cimport *
from dynamo.c_wire cimport *

from dynamo import errors

cdef extern from *:
    """
    /* The value an awaitable of one step ends with, without a StopIteration object where CPython has a way. */
    typedef PySendResult (*dyn_sender)(PyObject *, PyObject *, PyObject **);
    static void dyn_set_sender(PyObject *type, dyn_sender sender)
    {
        ((PyTypeObject *)type)->tp_as_async->am_send = (sendfunc)sender;
    }
    /* The next item of an asynchronous iterator, as something that can be sent to; a new reference. */
    static PyObject *dyn_anext(PyObject *iterator)
    {
        PyAsyncMethods *methods = Py_TYPE(iterator)->tp_as_async;
        if (methods == NULL || methods->am_anext == NULL) {
            PyErr_Format(PyExc_TypeError, "%.100s is no asynchronous iterator", Py_TYPE(iterator)->tp_name);
            return NULL;
        }
        return methods->am_anext(iterator);
    }
    /* Which worker comes next: not a secret. */
    static uint64_t dyn_splitmix(uint64_t *seed)
    {
        uint64_t x = *seed += UINT64_C(0x9E3779B97F4A7C15);
        x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
        return x ^ (x >> 31);
    }
    /* What `await thing` would drive; takes the reference. */
    static PyObject *dyn_awaited(PyObject *thing)
    {
        if (thing == NULL || PyCoro_CheckExact(thing)) return thing;
        PyAsyncMethods *methods = Py_TYPE(thing)->tp_as_async;
        PyObject *driven = NULL;
        if (methods != NULL && methods->am_await != NULL) driven = methods->am_await(thing);
        else PyErr_Format(PyExc_TypeError, "%.100s cannot be awaited", Py_TYPE(thing)->tp_name);
        Py_DECREF(thing);
        return driven;
    }
    """
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(PyObject *iterator, PyObject *value, PyObject **result)
    void dyn_set_sender(PyObject *type, PySendResult (*sender)(PyObject *, PyObject *, PyObject **) noexcept)
    PyObject *dyn_anext(PyObject *iterator)
    uint64_t dyn_splitmix(uint64_t *seed) nogil
    PyObject *dyn_awaited(PyObject *thing)
    PyObject *Py_None
    int PyCoro_CheckExact(PyObject *thing)

cdef enum:
    ROUND_ROBIN = 0
    RANDOM = 1
    DIRECT = 2
cdef enum:          # how a handler wants its context
    BARE = 0
    POSITIONAL = 1
    KEYWORD = 2
cdef enum:          # what a Handling waits for
    CALLING = 0     # an awaitable that the handler returned instead of an iterator
    ITEMS = 1
    CLOSING = 2
    DONE = 3

cdef enum:
    BATCH_ITEMS = 64            # items that may wait for each other
    BATCH_BYTES = 16384
    STREAK = 256                # items after which other tasks get their turn
cdef uint64_t LONG_STEP_NS = 10_000
# A handler that does not look at its context gets this long to yield, then its task is cancelled.
KILL_GRACE_SECS = 0.2

cdef object _get_running_loop = asyncio.get_running_loop
cdef object _Task = asyncio.Task
cdef object _InvalidStateError = asyncio.InvalidStateError


def set_log_level(int level):
    """From which level on the C library logs: 0 trace, 1 debug, 2 info, 3 warn, 4 error, 5 nothing."""
    dyn_log_set_level(<dyn_log_level>level)


def set_log_form(bint jsonl, bint local_time):
    """How the lines of the C library look."""
    dyn_log_set_form((DYN_LOG_JSON if jsonl else 0) | (DYN_LOG_LOCAL_TIME if local_time else 0))


_LOG_LEVELS = {"trace": 0, "debug": 1, "info": 2, "warn": 3, "warning": 3, "error": 4, "critical": 4}


def log_message(str level, str message, str module, str file, int line):
    """Write a line to the log of the C library, whose level and form ``DYN_LOG`` and ``DYN_LOGGING_JSONL`` set.

    Parameters
    ----------
    level : trace, debug, info, warn, error
    module : who speaks
    file, line : taken for compatibility; not written
    """
    cdef int number = _LOG_LEVELS.get(level.lower(), -1)
    cdef bytes area = module.removeprefix("dynamo.").encode("utf-8", "replace")
    cdef bytes text = message.encode("utf-8", "replace")
    if number < 0:
        raise errors.InvalidArgument(f"log level {level!r}: must be trace, debug, info, warn or error")
    dyn_log(<dyn_log_level>number, area, "%s", <const char *>text)


# ---- msgpack --------------------------------------------------------------------------------------------------------
# Ext type 1: a one-dimensional array, a byte for its dtype and then its little-endian bytes.
_DTYPES = {"?": 0, "b": 1, "B": 2, "h": 3, "H": 4, "i": 5, "I": 6, "q": 7, "Q": 8, "f": 9, "d": 10, "e": 11}
_TYPECODES = {number: code for code, number in _DTYPES.items()}
_NAMES = {"?": "?", "b": "i1", "B": "u1", "h": "<i2", "H": "<u2", "i": "<i4", "I": "<u4", "q": "<i8", "Q": "<u8",
          "f": "<f4", "d": "<f8", "e": "<f2"}
cdef object _encode = None
cdef object _decode = None
cdef object _decode_arrays = None


def _enc_hook(value):
    import msgspec
    tolist = getattr(value, "tolist", None)
    if tolist is None:
        raise TypeError(f"a {type(value).__name__} cannot be sent: use numbers, texts, bytes, lists, dicts or arrays")
    try:
        view = memoryview(value)
    except (TypeError, ValueError):
        return tolist()
    code = view.format.lstrip("<=@")
    code = {"l": "q", "L": "Q"}.get(code, code) if view.itemsize == 8 else {"l": "i", "L": "I"}.get(code, code)
    if view.ndim != 1 or code not in _DTYPES:
        return tolist()
    return msgspec.msgpack.Ext(1, bytes((_DTYPES[code],)) + view.tobytes())


def _as_list(kind, data):
    if kind != 1 or not len(data) or data[0] not in _TYPECODES:
        raise ValueError(f"extension type {kind}: unknown")
    return data[1:].cast(_TYPECODES[data[0]]).tolist()


def _as_array(kind, data):
    import numpy
    if kind != 1 or not len(data) or data[0] not in _TYPECODES:
        raise ValueError(f"extension type {kind}: unknown")
    return numpy.frombuffer(data, dtype=_NAMES[_TYPECODES[data[0]]], offset=1)


cdef int _load_codec() except -1:
    global _encode, _decode, _decode_arrays
    import msgspec
    _encode = msgspec.msgpack.Encoder(enc_hook=_enc_hook).encode
    _decode_arrays = msgspec.msgpack.Decoder(ext_hook=_as_array).decode
    _decode = msgspec.msgpack.Decoder(ext_hook=_as_list).decode
    return 0


def encode(value):
    """The bytes that travel for a value: msgpack, arrays as extension type 1."""
    if _encode is None:
        _load_codec()
    return _encode(value)


def decode(data, arrays=False):
    """The value of such bytes; arrays become lists unless they are asked for."""
    if _encode is None:
        _load_codec()
    return (_decode_arrays if arrays else _decode)(data)


# ---- errors that travel ---------------------------------------------------------------------------------------------
cdef dict _remote_classes = {}
cdef dict _codes = None
# Builtins that can be a second base of RemoteError.
_BUILTINS = frozenset((
    "ArithmeticError", "AssertionError", "BufferError", "ConnectionError", "EOFError", "FileExistsError",
    "FileNotFoundError", "IndexError", "KeyError", "LookupError", "MemoryError", "NotImplementedError", "OSError",
    "OverflowError", "PermissionError", "TimeoutError", "TypeError", "ValueError", "ZeroDivisionError"))


cdef object _remote_class(str name):
    """RemoteError, and also the builtin that the handler raised, so that `except ValueError` works across processes."""
    cls = _remote_classes.get(name)
    if cls is None:
        import builtins
        builtin = getattr(builtins, name, None)
        cls = errors.RemoteError
        if name in _BUILTINS:
            cls = type("Remote" + name, (errors.RemoteError, builtin),
                       {"__str__": Exception.__str__, "__module__": "dynamo.errors",
                        "__doc__": f"A {name} that the handler on the other side raised."})
            _remote_classes[name] = cls
    return cls


cdef object _error_from(const dyn_failure *failure):
    text = failure.text.decode("utf-8", "replace")
    if failure.code != DYN_EREMOTE:
        error = error_of(failure.code, text)
    else:
        name = failure.type.decode("utf-8", "replace")
        error = _remote_class(name)(f"{name}: {text}" if name else text)
    trace = failure.trace.decode("utf-8", "replace")
    if trace:
        error.__notes__ = [*getattr(error, "__notes__", ()), "The handler's traceback:\n" + trace]
    return error


cdef int _code_of(object error):
    global _codes
    if _codes is None:
        from dynamo._errors import table
        _codes = {cls: code for code, _, _, cls in reversed(table()) if issubclass(cls, errors.DynamoError)}
        _codes.pop(errors.RemoteError, None)
    for cls in type(error).__mro__:
        if cls in _codes:
            return _codes[cls]
    return DYN_EREMOTE


# ---- a loop and its mailbox -----------------------------------------------------------------------------------------
cdef int _generation = 0    # of processes: a child of fork has the next one


cdef class Port(Receiver):
    def __cinit__(self):
        self.generation = _generation
        self.thread = PyThread_get_thread_ident()
        check(dyn_cork_new(&self.cork))

    def __dealloc__(self):
        if self.cork != NULL and self.generation == _generation:
            dyn_cork_free(self.cork)

    cdef object loop(self):
        return self.loop_ref()

    cdef void soon(self) noexcept:
        # The end of this turn: call_soon runs after the callbacks that are ready now.
        if self.flushing or not dyn_cork_dirty(self.cork):
            return
        loop = self.loop_ref()
        try:
            loop.call_soon(self.flush_call)
            self.flushing = True
        except Exception:       # the loop is closed or gone: nobody will come to flush
            dyn_cork_flush(self.cork)

    def flush(self):
        self.flushing = False
        if self.generation == _generation:
            dyn_cork_flush(self.cork)

    cdef void on_mail(self, dyn_mail *mail) noexcept:
        cdef dyn_call_mail *it = <dyn_call_mail *>mail
        cdef void *user = dyn_call_user(it.call)
        if user == NULL:
            mail.drop(mail)
        elif it.kind == DYN_CALL_ITEMS:
            (<ResponseStream>user).came(it)
        else:
            stream = <ResponseStream>user
            dyn_call_set_user(it.call, NULL)
            stream.finish(it.call)
            mail.drop(mail)


cdef object _ports = weakref.WeakKeyDictionary()
cdef object _last_loop = None       # weak
cdef Port _last_port = None


cdef Port _port_of(object loop):
    global _last_loop, _last_port
    if _last_loop is not None and _last_loop() is loop:
        return _last_port
    cdef Port port = _ports.get(loop)
    if port is None:
        port = Port()
        port.box = mailbox_of(loop)
        port.loop_ref = weakref.ref(loop)
        port.flush_call = _weak_flush(port)
        port.kept = []
        _ports[loop] = port
    _last_loop, _last_port = port.loop_ref, port
    return port


def _weak_flush(port):
    ref = weakref.ref(port)

    def flush():
        port = ref()
        if port is not None:
            port.flush()
    return flush


cpdef Port port_of_running_loop():
    """What the running asyncio loop shares with the C side; made on first use."""
    return _port_of(_get_running_loop())


def _forget():
    # A child of fork has no loop thread and must not touch its parent's connections.
    global _last_loop, _last_port, _generation
    _generation += 1
    _ports.clear()
    _last_loop = _last_port = None


os.register_at_fork(after_in_child=_forget)


def _set_true(future):
    if not future.done():
        future.set_result(True)


# ---- the context of a request ---------------------------------------------------------------------------------------
cdef class Context:
    """Context(id=None, metadata=None, *, headers=None)\n--\n\nOne request: its id, cancellation, trace, metadata.

    Parameters
    ----------
    id : str, optional
        Default: a random UUID, made when it is first asked for.
    metadata : dict of str to str, optional
        Travels with the calls that are made with this context.
    headers : dict of str to str, optional
        ``traceparent``, ``tracestate`` and ``x-request-id`` of whoever asked us.
    """

    def __init__(self, id=None, metadata=None, *, headers=None):
        if id is not None and not isinstance(id, str):
            raise TypeError(f"the id of a Context must be a str, not {type(id).__name__}")
        self.name = id
        self._metadata = None if metadata is None else dict(metadata)
        if headers:
            self._traceparent = headers.get("traceparent")
            self._tracestate = headers.get("tracestate")
            self._request_id = headers.get("x-request-id")

    def __reduce__(self):
        raise TypeError("a Context cannot be pickled: it is one request of this process; send its id() and metadata")

    def id(self):
        """The request id."""
        if self.name is None:
            import uuid             # not needed before the first id is asked for
            self.name = str(uuid.uuid4())
        return self.name

    @property
    def request_id(self):
        """The ``x-request-id`` of the HTTP request that this belongs to; else the id."""
        return self._request_id if self._request_id is not None else self.id()

    @property
    def metadata(self):
        """A dict of texts that travels along."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    def is_stopped(self):
        """Was it asked to finish soon (or to drop everything)?"""
        return self.stopped

    def is_killed(self):
        """Is nobody there any more who would read an answer?"""
        return self.killed

    def stop_generating(self):
        """Ask for a graceful end: of the handler, and of calls that were made with this context."""
        self.halt(False)

    def async_killed_or_stopped(self):
        """A future that becomes True once it is stopped or killed."""
        future = _get_running_loop().create_future()
        if self.stopped:
            future.set_result(True)
        else:
            if self.waiters is None:
                self.waiters = []
            self.waiters.append(future)
        return future

    def detached(self, id):
        """A context with its own cancellation and the same trace and metadata."""
        other = Context(id, self._metadata)
        (<Context>other)._traceparent = self._traceparent
        (<Context>other)._tracestate = self._tracestate
        (<Context>other)._request_id = self._request_id
        return other

    cdef trace_part(self, int index, int size):
        if self._traceparent is None:
            return None
        parts = self._traceparent.split("-")
        return parts[index] if len(parts) >= 4 and len(parts[index]) == size else None

    @property
    def trace_id(self):
        """The W3C trace id, or None."""
        return self.trace_part(1, 32)

    @property
    def span_id(self):
        """The span of whoever called, or None."""
        return self.trace_part(2, 16)

    @property
    def parent_span_id(self):
        """Always None: the header does not carry the parent of the calling span."""
        return None

    def trace_headers(self):
        """The trace as headers for another request, or None."""
        if self._traceparent is None:
            return None
        headers = {"traceparent": self._traceparent}
        if self._tracestate is not None:
            headers["tracestate"] = self._tracestate
        return headers

    cdef void halt(self, bint kill):
        if self.killed or (self.stopped and not kill):
            return
        self.stopped = True
        self.killed = kill
        waiters, self.waiters = self.waiters, None
        for future in waiters or ():
            try:                    # from any thread
                future.get_loop().call_soon_threadsafe(_set_true, future)
            except RuntimeError:    # its loop is closed
                pass
        for reference in list(self.followers or ()):
            follower = reference()
            if follower is None:
                continue
            if isinstance(follower, ResponseStream):
                (follower.kill if kill else follower.stop)()

    cdef follow(self, object follower):
        if self.followers is None:
            self.followers = []
        elif len(self.followers) >= 16:
            self.followers = [ref for ref in self.followers if ref() is not None]
        self.followers.append(weakref.ref(follower))

    def __repr__(self):
        state = "killed" if self.killed else "stopped" if self.stopped else "running"
        return f"<Context {self.id()} {state}>"


# ---- what a caller gets ---------------------------------------------------------------------------------------------
@cython.final
@cython.freelist(8)
cdef class Annotated:
    """Annotated(data=None)\n--\n\nAn item with what its worker said about it.
    """
    cdef object _data

    def __init__(self, data=None):
        self._data = data

    def __reduce__(self):
        return Annotated, (self._data,)

    def __eq__(self, other):
        if not isinstance(other, Annotated):
            return NotImplemented
        return self._data == (<Annotated>other)._data

    def data(self):
        """The item."""
        return self._data

    def event(self):
        """The kind of a side message; None for items."""
        return None

    def comments(self):
        """What the worker remarked: nothing."""
        return []

    def id(self):
        """The number of a side message; None for items."""
        return None

    def is_error(self):
        """False: errors are raised."""
        return False

    def __repr__(self):
        return f"Annotated(data={self._data!r}, event=None, comment=[], id=None)"


@cython.final
@cython.freelist(64)
cdef class _Next:
    """`await stream.__anext__()`: finished at once while items are there."""
    cdef ResponseStream stream
    cdef bint begun

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef PyObject *result = NULL
        cdef PySendResult status = _next_send(<PyObject *>self, Py_None, &result)
        if status == PYGEN_ERROR:
            _raise_set()
        found = <object>result
        Py_XDECREF(result)
        if status == PYGEN_RETURN:
            raise StopIteration(found)
        return found

    def throw(self, error, value=None, trace=None):
        if isinstance(error, type):
            error = error() if value is None else value
        self.stream.waiter = None
        raise error

    def close(self):
        self.stream.waiter = None


dyn_only_library_makes(_Next)


cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()
    PyObject *PyErr_Occurred()
    void PyErr_SetObject(PyObject *type, PyObject *value)
    void PyErr_SetNone(PyObject *type)
    PyObject *PyExc_StopAsyncIteration


cdef int _raise_set() except -1:
    return -1 if PyErr_Occurred() != NULL else 0


cdef PySendResult _next_send(PyObject *self, PyObject *value, PyObject **result) noexcept:
    """am_send of _Next."""
    cdef ResponseStream stream = (<_Next>self).stream
    try:
        stream.waiter = None
        if stream.head != NULL:
            found = stream.take()
            Py_INCREF(found)
            result[0] = <PyObject *>found
            return PYGEN_RETURN
        if stream.ended:
            if stream.error is not None:
                error, stream.error = stream.error, None
                raise error
            PyErr_SetNone(PyExc_StopAsyncIteration)
            return PYGEN_ERROR
        future = stream.port.loop().create_future()
        future._asyncio_future_blocking = True
        stream.waiter = future
        Py_INCREF(future)
        result[0] = <PyObject *>future
        return PYGEN_NEXT
    except BaseException as caught:
        kind = type(caught)
        PyErr_SetObject(<PyObject *>kind, <PyObject *>caught)
        return PYGEN_ERROR


dyn_set_sender(<PyObject *>_Next, _next_send)


@cython.final
@cython.freelist(64)
cdef class _Ready:
    """`await client.generate(...)`: the stream itself, at once."""
    cdef object value

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration(self.value)


cdef class ResponseStream:
    """The items of one call, as they come: ``async for item in stream``; awaiting it first is allowed.

    A stream that is dropped before its end kills its request: the handler on the other side is stopped.
    """

    def __await__(self):
        cdef _Ready ready = _Ready.__new__(_Ready)
        ready.value = self
        return ready

    def __aiter__(self):
        return self

    def __anext__(self):
        if self.waiter is not None and not self.waiter.done():
            raise RuntimeError("another task waits for the next item of this stream already")
        cdef _Next step = _Next.__new__(_Next)
        step.stream = self
        return step

    def stop(self):
        """Ask the handler to finish soon; its last items still come."""
        if self.call == NULL or self.ended or self.generation != _generation:
            return
        if PyThread_get_thread_ident() != self.port.thread:
            dyn_call_stop(self.call, NULL)
            return
        dyn_call_stop(self.call, self.port.cork)
        self.port.soon()

    def kill(self):
        """Drop the request now; iterating further raises Cancelled."""
        if self.call != NULL and not self.ended and self.generation == _generation:
            dyn_call_kill(self.call, NULL)

    async def aclose(self):
        """Drop the request."""
        self.kill()

    def __cinit__(self):
        self.generation = _generation

    def __dealloc__(self):
        cdef dyn_call_mail *mail
        if self.generation != _generation:
            return              # a child of fork: the connection is its parent's
        while self.head != NULL:
            mail = self.head
            self.head = <dyn_call_mail *>mail.mail.next
            mail.mail.drop(&mail.mail)
        if self.call != NULL:
            dyn_call_set_user(self.call, NULL)
            if not self.ended:
                dyn_call_kill(self.call, NULL)
            dyn_call_unref(self.call)

    cdef int start(self) except -1:
        """Send the request to an instance; the stream is as new."""
        cdef dyn_pair headers[8]
        cdef dyn_call_request request
        cdef list kept = []
        cdef size_t count = 0
        cdef bytes address
        cdef Context context = self.context
        cdef dyn_call *call = NULL
        address = self.caller.address_of(self.instance_id)
        request.address = PyBytes_AS_STRING(address)
        request.deadline_ms = 0
        request.quiet_ms = 0
        request.window = 0
        request.manual_credit = True
        request.payload.data = <const uint8_t *>PyBytes_AS_STRING(self.payload)
        request.payload.size = PyBytes_GET_SIZE(self.payload)
        if context is not None:
            kept.append((b"x-dynamo-request-id", context.id().encode()))
            if context._request_id is not None:
                kept.append((b"x-request-id", context._request_id.encode()))
            if context._traceparent is not None:
                kept.append((b"traceparent", context._traceparent.encode()))
            if context._tracestate is not None:
                kept.append((b"tracestate", context._tracestate.encode()))
            if context._metadata:
                kept.append((b"x-dynamo-metadata", encode(context._metadata)))
            for key, value in kept:
                headers[count].key.data = <const uint8_t *>PyBytes_AS_STRING(key)
                headers[count].key.size = PyBytes_GET_SIZE(key)
                headers[count].value.data = <const uint8_t *>PyBytes_AS_STRING(value)
                headers[count].value.size = PyBytes_GET_SIZE(value)
                count += 1
        request.headers = headers
        request.header_count = count
        check(dyn_call_start_mail(self.caller.pool.ptr, &request, self.port.box.ptr, <void *>self.port, <void *>self,
                                  self.port.cork, &call))
        if self.call != NULL:
            dyn_call_unref(self.call)
        self.call = call
        self.port.soon()
        return 0

    cdef void came(self, dyn_call_mail *mail) noexcept:
        mail.mail.next = NULL
        if not self.streamed:
            self.streamed = True
            self.payload = None
            self.tried = None
        if self.head == NULL:
            self.head = mail
            self.rest = mail.items
        else:
            self.tail.mail.next = <dyn_mail *>mail
        self.tail = mail
        self.wake()

    cdef void finish(self, dyn_call *call) noexcept:
        cdef const dyn_failure *failure = dyn_call_failure(call)
        cdef int code = failure.code
        try:
            if code != DYN_OK:
                if code in (DYN_ECONN, DYN_EBROKEN, DYN_ENOENT, DYN_ESHUTDOWN, DYN_EUNAVAIL, DYN_EOVERLOAD) \
                        and self.elsewhere(code):
                    return
                self.error = _error_from(failure)
        except BaseException as error:
            self.error = error
        self.ended = True
        self.payload = None
        self.wake()

    cdef bint elsewhere(self, int code) except -1:
        """Nothing was streamed yet: try another instance.  False when there is none."""
        # ENOENT and the like come from the worker's own hand: it is leaving. The others: do not ask it again soon.
        # One that has too much to do is asked again when there is something new.
        if code != DYN_EOVERLOAD:
            self.caller.inhibit(self.instance_id)
        if self.streamed or self.mode == DIRECT:
            return False
        if self.tried is None:
            self.tried = set()
        self.tried.add(self.instance_id)
        if len(self.tried) > 8:
            return False
        try:
            self.instance_id = self.caller.pick(self.mode, self.tried)
        except errors.Unavailable:
            return False
        self.start()
        return True

    cdef void wake(self) noexcept:
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            try:
                waiter.set_result(None)
            except _InvalidStateError:      # cancelled a moment ago
                pass

    cdef object take(self):
        """The next item; only while rest or head have one."""
        cdef dyn_slice item
        cdef dyn_call_mail *mail
        cdef size_t size
        dyn_items_next(&self.rest, &item)
        data = PyBytes_FromStringAndSize(<const char *>item.data, <Py_ssize_t>item.size)
        if self.rest.size == 0:
            mail = self.head
            size = mail.items.size
            self.head = <dyn_call_mail *>mail.mail.next
            if self.head != NULL:
                self.rest = self.head.items
            mail.mail.drop(&mail.mail)
            if not self.ended:
                dyn_call_consumed(self.call, size, self.port.cork)
                self.port.soon()
        value = self.decode(data)
        if not self.annotated:
            return value
        cdef Annotated annotated = Annotated.__new__(Annotated)
        annotated._data = value
        return annotated

    def __repr__(self):
        return f"<ResponseStream of {self.caller.path}, {'ended' if self.ended else 'open'}>"


dyn_only_library_makes(ResponseStream)


cdef uint32_t _ms(seconds) except? 0:
    return <uint32_t>min(max(1, int(seconds * 1000)), 0xFFFFFFFF)


# ---- the caller's side ----------------------------------------------------------------------------------------------
cdef class Pool:
    """Connections to workers, shared by all clients of a runtime."""

    def __cinit__(self, connect_timeout=None, *, request_timeout=None, uint32_t max_message=0, uint32_t keep_room=0):
        cdef dyn_service_options options
        cdef Loop loop = default_loop()
        memset(&options, 0, sizeof(options))
        options.max_frame = max_message
        options.keep_room = keep_room
        if connect_timeout is not None:
            options.connect_timeout_ms = _ms(connect_timeout)
        if request_timeout is not None:     # who lives answers a ping at once: three of them fit into the time
            options.dead_ms = _ms(request_timeout)
            options.ping_ms = min(5000, max(1, options.dead_ms // 3))
        self.generation = _generation
        check(dyn_pool_new(&self.ptr, loop.ptr, &options))

    cdef int ours(self) except -1:
        if self.generation != _generation:
            raise error_of(DYN_ECLOSED, "this runtime belongs to the parent process: make one after the fork")
        return 0

    def close(self):
        """Close the connections: calls under way end with Cancelled."""
        if self.generation == _generation:
            with nogil:
                dyn_pool_close(self.ptr)

    def stats(self):
        """Counters: calls, failed, bytes_in, bytes_out, connections, inflight."""
        cdef dyn_pool_stats stats
        dyn_pool_get_stats(self.ptr, &stats)
        return stats

    def __dealloc__(self):
        cdef dyn_pool *ptr = self.ptr
        if ptr != NULL and self.generation == _generation:
            with nogil:
                dyn_pool_unref(ptr)


cdef uint64_t _seed = int.from_bytes(os.urandom(8), "little")


cdef size_t _random() noexcept:
    return <size_t>(dyn_splitmix(&_seed) >> 1)


def _reseed():
    global _seed
    _seed = int.from_bytes(os.urandom(8), "little")


os.register_at_fork(after_in_child=_reseed)


cdef class Caller:
    """The live instances of one endpoint, and the calls to them."""

    def __init__(self, Pool pool, str path, *, inhibit_secs=5.0, arrays=False):
        self.pool = pool
        self.path = path
        self.table = {}
        self.live = []
        self.inhibited = {}
        self.inhibit_secs = inhibit_secs
        self.arrays = arrays
        self.turn = _random()       # so that many clients do not start with the same worker

    def put(self, uint64_t instance_id, str address, record=None):
        """An instance is there, or has changed."""
        self.table[instance_id] = (address.encode(), record)
        self.inhibited.pop(instance_id, None)
        self.relist()

    def remove(self, uint64_t instance_id):
        """It is gone."""
        self.table.pop(instance_id, None)
        self.inhibited.pop(instance_id, None)
        self.relist()

    def inhibit(self, uint64_t instance_id):
        """It failed: leave it out for a while, as long as there are others."""
        if instance_id in self.table and self.inhibit_secs > 0:
            self.inhibited[instance_id] = time.monotonic() + self.inhibit_secs
            self.relist()

    def relist(self):
        self.live = sorted(id for id in self.table if id not in self.inhibited)

    def ids(self):
        """Ids of all instances that discovery knows, sorted."""
        return sorted(self.table)

    def records(self):
        return [record for _, record in self.table.values()]

    def address(self, uint64_t instance_id):
        """``host:port/path`` of an instance, or None."""
        address = self.address_of(instance_id)
        return None if address is None else address.decode()

    cdef bytes address_of(self, uint64_t instance_id):
        entry = self.table.get(instance_id)
        return None if entry is None else entry[0]

    cdef uint64_t pick(self, int mode, object avoid) except? 0:
        cdef list ids = self.live
        cdef size_t n
        if self.inhibited:
            now = time.monotonic()
            over = [id for id, until in self.inhibited.items() if until <= now]
            if over:
                for id in over:
                    del self.inhibited[id]
                self.relist()
            ids = self.live or sorted(self.table)
        if avoid:
            ids = [id for id in ids if id not in avoid] or [id for id in self.table if id not in avoid]
        n = len(ids)
        if n == 0:
            raise errors.Unavailable(f"no instance of {self.path} is there: start a worker, or wait_for_instances()")
        if n == 1:
            return ids[0]
        if mode == RANDOM:
            return ids[_random() % n]
        self.turn += 1
        return ids[self.turn % n]

    def call(self, request, int mode, instance_id, bint annotated, Context context):
        """Start a call.

        Parameters
        ----------
        mode : 0 round robin, 1 random, 2 the given instance
        """
        cdef ResponseStream stream = ResponseStream.__new__(ResponseStream)
        self.pool.ours()
        if _encode is None:
            _load_codec()
        if mode == DIRECT:
            if instance_id not in self.table:
                raise errors.Unavailable(f"instance_id={instance_id} not found for endpoint {self.path}")
            stream.instance_id = instance_id
        else:
            stream.instance_id = self.pick(mode, None)
        stream.caller = self
        stream.port = _port_of(_get_running_loop())
        stream.mode = mode
        stream.annotated = annotated
        stream.context = context
        stream.decode = _decode_arrays if self.arrays else _decode
        stream.payload = _encode(request)
        if context is not None:
            if context.killed:
                raise errors.Cancelled(f"the context {context.id()} was killed before the call")
            context.follow(stream)
        stream.start()
        if context is not None and context.stopped:
            stream.stop()
        return stream


# ---- the worker's side ----------------------------------------------------------------------------------------------
cdef class Server:
    """The listener of a runtime; its endpoints are served by `Serving`."""

    def __cinit__(self, str host="127.0.0.1", int port=0, *, uint32_t max_message=0, uint32_t max_requests=0,
                  uint32_t keep_room=0):
        cdef dyn_service_options options
        cdef bytes c_host = host.encode()
        cdef const char *where = c_host
        cdef Loop loop = default_loop()
        cdef dyn_server *ptr = NULL
        cdef int rc
        if not 0 <= port <= 65535:
            raise errors.InvalidArgument(f"port {port}: must be 0 to 65535")
        memset(&options, 0, sizeof(options))
        options.max_frame = max_message
        options.max_requests = max_requests
        options.keep_room = keep_room
        with nogil:
            rc = dyn_server_new(&ptr, loop.ptr, where, <uint16_t>port, &options)
        check(rc)
        self.ptr = ptr
        self.generation = _generation
        self.host = host
        self.port = dyn_server_port(ptr)

    def drain(self):
        """Accept no more; callers go elsewhere."""
        if self.ptr != NULL and self.generation == _generation:
            with nogil:
                dyn_server_drain(self.ptr)

    def close(self):
        """Close all connections; requests under way end as killed."""
        cdef dyn_server *ptr = self.ptr
        self.ptr = NULL
        if ptr != NULL and self.generation == _generation:
            with nogil:
                dyn_server_free(ptr)

    def __dealloc__(self):
        self.close()


# ---- metrics of an endpoint: counted on whichever thread ends a request, read when they are scraped ------------------
cdef struct endpoint_metrics:
    dyn_endpoint *endpoint      # a reference
    dyn_series *requests
    dyn_series *bytes_in
    dyn_series *bytes_out
    dyn_series *inflight
    dyn_series *duration
    dyn_series *failed          # the handler raised
    dyn_series *cancelled       # the caller left or the handler was cancelled
    dyn_series *other
    uint64_t seen_requests
    uint64_t seen_refused
    uint64_t seen_in
    uint64_t seen_out


cdef void _on_scrape(void *user) noexcept nogil:
    cdef endpoint_metrics *self = <endpoint_metrics *>user
    cdef dyn_endpoint_stats stats
    dyn_endpoint_get_stats(self.endpoint, &stats)
    dyn_series_count(self.requests, stats.requests - self.seen_requests)
    dyn_series_count(self.bytes_in, stats.bytes_in - self.seen_in)
    dyn_series_count(self.bytes_out, stats.bytes_out - self.seen_out)
    dyn_series_set(self.inflight, stats.inflight)
    dyn_series_count(self.other, stats.refused - self.seen_refused)
    self.seen_requests = stats.requests
    self.seen_refused = stats.refused
    self.seen_in = stats.bytes_in
    self.seen_out = stats.bytes_out


cdef void _on_request_end(void *user, int code, uint64_t duration_ns) noexcept nogil:
    cdef endpoint_metrics *self = <endpoint_metrics *>user
    dyn_series_observe(self.duration, duration_ns / 1e9)
    if code == DYN_EREMOTE:
        dyn_series_count(self.failed, 1)
    elif code == DYN_ECANCELED:
        dyn_series_count(self.cancelled, 1)
    elif code != DYN_OK:
        dyn_series_count(self.other, 1)


cdef dyn_series *_series(Metric metric) except NULL:
    if metric.series == NULL:
        raise errors.InvalidArgument(f"metric {metric.name}: its labels are not given")
    return dyn_series_ref(metric.series)


def _style_of(handler):
    """How a handler wants its context: by keyword when it has a parameter of that name, else as a second argument."""
    import inspect
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):
        return BARE
    for parameter in parameters:
        if parameter.name == "context" and parameter.kind != parameter.VAR_POSITIONAL:
            return POSITIONAL if parameter.kind == parameter.POSITIONAL_ONLY else KEYWORD
    needed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    if len(needed) >= 2:
        return POSITIONAL
    return BARE


def refuse_blocking(handler):
    """A generator that is not asynchronous would hold up every other request of the process while it works."""
    import functools
    import inspect
    inner = handler
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not inspect.isroutine(inner):
        inner = getattr(type(inner), "__call__", inner)
    if inspect.isgeneratorfunction(inner):
        name = getattr(inner, "__qualname__", repr(inner))
        raise errors.InvalidArgument(
            f"handler {name}: is a plain generator, which would block the loop; write `async def`, and work that takes "
            f"long with `await asyncio.to_thread(...)`")


cdef class Serving(Receiver):
    """One served endpoint: starts a task for each request, on the loop that was running when it was made."""

    def __init__(self, Server server, str path, handler, *, arrays=False):
        cdef bytes c_path = path.encode()
        if server.ptr == NULL or server.generation != _generation:
            raise error_of(DYN_ECLOSED, "the server")
        self.generation = _generation
        if not callable(handler):
            raise errors.InvalidArgument(f"handler {handler!r}: must be an async generator function")
        refuse_blocking(handler)
        if _encode is None:
            _load_codec()
        self.port = port_of_running_loop()
        self.handler = handler
        self.style = _style_of(handler)
        self.decode = _decode_arrays if arrays else _decode
        self.handlings = set()
        check(dyn_server_serve_mail(server.ptr, c_path, self.port.box.ptr, <void *>self, &self.ptr))
        self.port.kept.append(self)     # mails name it until the box is gone

    def close(self):
        """Take no more requests."""
        self.closing = True
        if self.ptr != NULL and self.generation == _generation:
            dyn_endpoint_stop(self.ptr)

    def cancel(self):
        """Cancel the handlers that run: their callers are told to go elsewhere."""
        for handling in list(self.handlings):
            (<Handling>handling).task.cancel()

    def stats(self):
        """Counters: requests, refused (too many ran), failed, items, bytes_in, bytes_out, duration_ns, inflight."""
        cdef dyn_endpoint_stats stats
        if self.ptr == NULL:
            raise error_of(DYN_ECLOSED, "this endpoint")
        dyn_endpoint_get_stats(self.ptr, &stats)
        return stats

    def count_in(self, Registry registry, requests, bytes_in, bytes_out, inflight, duration, failed, cancelled, other):
        """Keep these metrics (labels given) up to date. Once, before the first request."""
        cdef endpoint_metrics *kept
        if self.counted != NULL:
            raise errors.InvalidArgument("this endpoint is counted already")
        kept = <endpoint_metrics *>calloc(1, sizeof(endpoint_metrics))
        if kept == NULL:
            raise MemoryError()
        # Never freed: requests may end on other threads after this object is gone. Once for each served endpoint.
        self.counted = kept
        self.registry = registry
        kept.endpoint = self.ptr
        kept.requests = _series(requests)
        kept.bytes_in = _series(bytes_in)
        kept.bytes_out = _series(bytes_out)
        kept.inflight = _series(inflight)
        kept.duration = _series(duration)
        kept.failed = _series(failed)
        kept.cancelled = _series(cancelled)
        kept.other = _series(other)
        check(dyn_metrics_on_scrape(registry.ptr, _on_scrape, kept))
        dyn_endpoint_set_hook(self.ptr, _on_request_end, kept)

    def count_no_more(self):
        """Scrapes leave it out from now on, after a last look."""
        cdef void *kept = self.counted
        if kept == NULL or self.registry is None:
            return
        check(dyn_metrics_off_scrape(self.registry.ptr, _on_scrape, kept))
        self.registry = None
        _on_scrape(kept)

    def __dealloc__(self):
        if self.generation != _generation:
            return
        if self.counted != NULL and self.registry is not None:
            dyn_metrics_off_scrape(self.registry.ptr, _on_scrape, self.counted)
        if self.ptr != NULL:
            dyn_endpoint_stop(self.ptr)
            dyn_endpoint_unref(self.ptr)

    cdef void on_mail(self, dyn_mail *mail) noexcept:
        cdef dyn_stream_mail *it = <dyn_stream_mail *>mail
        cdef dyn_stream *stream = it.stream
        if it.kind == DYN_STREAM_REQUEST:
            it.stream = NULL        # taken
            try:
                self.request(stream)
            except BaseException as error:
                _fail(stream, error, self.port.cork)
                dyn_stream_unref(stream)
                self.port.soon()
            return
        dyn_stream_ref(stream)
        mail.drop(mail)             # before the state is read, so that a later change is told again
        if dyn_stream_user(stream) != NULL:
            try:
                (<Handling>dyn_stream_user(stream)).changed()
            except BaseException as error:
                self.port.loop().call_exception_handler({"message": "a change of a request", "exception": error})
        dyn_stream_unref(stream)

    cdef void request(self, dyn_stream *stream):
        cdef Handling handling
        cdef Context context = Context.__new__(Context)
        cdef dyn_slice payload = dyn_stream_payload(stream)
        cdef size_t i, n = dyn_stream_header_count(stream)
        cdef dyn_pair header
        for i in range(n):
            header = dyn_stream_header(stream, i)
            key = PyBytes_FromStringAndSize(<const char *>header.key.data, <Py_ssize_t>header.key.size)
            value = PyBytes_FromStringAndSize(<const char *>header.value.data, <Py_ssize_t>header.value.size)
            if key == b"x-dynamo-request-id":
                context.name = value.decode("utf-8", "replace")
            elif key == b"x-request-id":
                context._request_id = value.decode("utf-8", "replace")
            elif key == b"traceparent":
                context._traceparent = value.decode("utf-8", "replace")
            elif key == b"tracestate":
                context._tracestate = value.decode("utf-8", "replace")
            elif key == b"x-dynamo-metadata":
                context._metadata = _decode(value)
        value = self.decode(PyBytes_FromStringAndSize(<const char *>payload.data, <Py_ssize_t>payload.size))
        if self.style == KEYWORD:
            answer = self.handler(value, context=context)
        elif self.style == POSITIONAL:
            answer = self.handler(value, context)
        else:
            answer = self.handler(value)
        handling = Handling.__new__(Handling)
        handling.serving = self
        handling.context = context
        if hasattr(answer, "__anext__"):
            handling.agen = answer
            handling.phase = ITEMS
        elif hasattr(answer, "__aiter__"):
            handling.agen = answer.__aiter__()
            handling.phase = ITEMS
        elif hasattr(answer, "__await__"):
            handling.pending = _awaited(answer)
            handling.phase = CALLING
        else:
            raise TypeError(f"the handler returned a {type(answer).__name__}: it must be an async generator")
        handling.task = _Task(handling, loop=self.port.loop())
        handling.stream = stream
        dyn_stream_set_user(stream, <void *>handling)
        self.handlings.add(handling)
        self.running += 1
        if dyn_stream_state(stream) & (DYN_STREAM_STOPPED | DYN_STREAM_KILLED):
            handling.changed()


cdef object _awaited(object thing):
    cdef PyObject *raw
    Py_INCREF(thing)
    raw = dyn_awaited(<PyObject *>thing)
    if raw == NULL:
        _raise_set()
    driven = <object>raw
    Py_XDECREF(raw)
    return driven


cdef void _fail(dyn_stream *stream, object error, dyn_cork *cork) noexcept:
    """Tell the caller what went wrong, with the traceback."""
    cdef dyn_failure failure
    try:
        import traceback
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__)).encode("utf-8", "replace")
        kind = type(error).__qualname__.encode("utf-8", "replace")
        text = str(error).encode("utf-8", "replace")
        failure.code = _code_of(error)
    except BaseException:
        trace = text = b""
        kind = b"Exception"
        failure.code = DYN_EREMOTE
    failure.type = kind
    failure.text = text
    failure.trace = trace
    dyn_stream_fail(stream, &failure, cork)


cdef class Handling:
    """One request being answered: a coroutine, by its methods, that an ordinary Task drives."""

    def __dealloc__(self):
        dyn_bytes_free(&self.batch)
        if self.stream != NULL and self.serving is not None and self.serving.generation == _generation:
            dyn_stream_set_user(self.stream, NULL)
            dyn_stream_unref(self.stream)

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef PyObject *result = NULL
        cdef PySendResult status = _handling_send(<PyObject *>self, Py_None, &result)
        if status == PYGEN_ERROR:
            _raise_set()
        found = <object>result
        Py_XDECREF(result)
        if status == PYGEN_RETURN:
            raise StopIteration(found)
        return found

    def throw(self, error, value=None, trace=None):
        if isinstance(error, type):
            error = error() if value is None else value
        done, found = _handling_step(self, error)
        if done:
            raise StopIteration(found)
        return found

    def close(self):
        pending, self.pending = self.pending, None
        if pending is not None and hasattr(pending, "close"):
            pending.close()
        self.over()

    cdef int send_batch(self, bint now) except -2:
        """What was yielded leaves: at once, or with this turn of the loop.  1: the window is full."""
        cdef dyn_slice items
        cdef int rc
        cdef size_t count = self.count
        if count == 0:
            return 0
        items.data = self.batch.data
        items.size = self.batch.size
        self.count = 0
        self.batch.size = 0
        rc = dyn_stream_send_items(self.stream, items, count, NULL if now else self.serving.port.cork)
        if rc == DYN_ECANCELED:
            return 0            # the caller left; changed() knows
        check(rc)
        if not now:
            self.serving.port.soon()
        return rc

    cdef void over(self) noexcept:
        cdef dyn_stream *stream = self.stream
        self.phase = DONE
        if stream == NULL:
            return
        self.stream = NULL
        dyn_stream_set_user(stream, NULL)
        dyn_stream_unref(stream)
        self.agen = None
        self.pending = None
        self.waiter = None
        cdef Serving serving = self.serving
        serving.handlings.discard(self)
        serving.running -= 1
        if serving.closing and serving.running == 0 and serving.on_idle is not None:
            try:
                serving.on_idle()
            except Exception:
                pass

    cdef void changed(self):
        """The caller asked to stop, left, or has room again."""
        cdef unsigned state
        if self.stream == NULL:
            return
        state = dyn_stream_state(self.stream)
        if not (state & DYN_STREAM_FULL) or state & DYN_STREAM_KILLED:
            waiter, self.waiter = self.waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        if state & DYN_STREAM_KILLED and not self.context.killed:
            self.context.halt(True)
            self.serving.port.loop().call_later(KILL_GRACE_SECS, self.impatient)
        elif state & DYN_STREAM_STOPPED and not self.context.stopped:
            self.context.halt(False)

    def impatient(self):
        if self.stream != NULL:
            self.task.cancel()


cdef PySendResult _handling_send(PyObject *self, PyObject *value, PyObject **result) noexcept:
    """am_send of Handling."""
    try:
        done, found = _handling_step(<Handling>self, None)
    except BaseException as error:
        kind = type(error)
        PyErr_SetObject(<PyObject *>kind, <PyObject *>error)
        return PYGEN_ERROR
    Py_INCREF(found)
    result[0] = <PyObject *>found
    return PYGEN_RETURN if done else PYGEN_NEXT


cdef tuple _handling_step(Handling self, object thrown):
    """Go on until something has to wait.  (done, what to hand to the task)"""
    cdef uint64_t began, ended
    cdef PySendResult status
    cdef PyObject *raw
    cdef PyObject *found
    cdef int full
    if self.stream == NULL:
        return True, None
    try:
        ended = dyn_now_ns()
        while True:
            began = ended
            if self.waiter is not None and thrown is None and not self.waiter.done():
                return False, _block(self.waiter)
            if self.pending is None:
                if thrown is not None and self.phase == ITEMS:
                    # It was cancelled while the generator stood at a yield: it ends there.
                    self.waiter = None
                    if hasattr(self.agen, "athrow"):
                        self.pending = _awaited(self.agen.athrow(thrown))
                        thrown = None
                    else:
                        raise thrown
                elif self.phase == ITEMS and self.context.killed:
                    if not hasattr(self.agen, "aclose"):
                        raise errors.Cancelled("the caller left")
                    self.phase = CLOSING
                    self.pending = _awaited(self.agen.aclose())
                elif self.phase == ITEMS:
                    raw = dyn_awaited(dyn_anext(<PyObject *>self.agen))
                    if raw == NULL:
                        _raise_set()
                    self.pending = <object>raw
                    Py_XDECREF(raw)
            found = NULL
            if thrown is None:
                status = PyIter_Send(<PyObject *>self.pending, Py_None, &found)
                if status == PYGEN_ERROR:
                    _raise_set()
                value = <object>found
                Py_XDECREF(found)
            else:
                error, thrown = thrown, None
                try:
                    value = self.pending.throw(error)
                    status = PYGEN_NEXT
                except StopIteration as stop:
                    value = stop.value
                    status = PYGEN_RETURN
            if status == PYGEN_NEXT:        # it waits for something: what it said so far leaves
                if self.count:
                    self.send_batch(False)
                self.streak = 0
                return False, value
            self.pending = None
            if self.phase == CLOSING:
                break
            if self.phase == CALLING:
                if hasattr(value, "__aiter__"):
                    self.agen = value.__aiter__()
                    self.phase = ITEMS
                    continue
                self.phase = CLOSING
            data = _encode(value)
            check(dyn_items_add(&self.batch, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)))
            self.count += 1
            self.streak += 1
            ended = dyn_now_ns()
            full = 0
            if ended - began > LONG_STEP_NS:
                full = self.send_batch(True)
            elif self.count >= BATCH_ITEMS or self.batch.size >= BATCH_BYTES:
                full = self.send_batch(False)
            if self.phase == CLOSING:
                break
            if full == 1:
                self.streak = 0
                self.waiter = self.serving.port.loop().create_future()
                if not (dyn_stream_state(self.stream) & DYN_STREAM_FULL):
                    self.waiter = None      # credit came in between
                continue
            if self.streak >= STREAK:       # let the others have their turn
                self.streak = 0
                if self.count:
                    self.send_batch(False)
                return False, None
    except StopAsyncIteration:
        pass
    except asyncio.CancelledError as error:
        return _stopped(self, error)
    except (KeyboardInterrupt, SystemExit) as error:
        _stopped(self, error)
        raise
    except BaseException as error:
        if self.context.killed:
            return _stopped(self, error)
        if self.count:
            self.send_batch(False)
        _fail(self.stream, error, self.serving.port.cork)
        self.serving.port.soon()
        self.over()
        return True, None
    if self.count:
        self.send_batch(False)
    dyn_stream_end(self.stream, self.serving.port.cork)
    self.serving.port.soon()
    self.over()
    return True, None


cdef tuple _stopped(Handling self, object error):
    """Cancelled from outside, or nobody listens any more."""
    if not self.context.killed:
        self.send_batch(False)
        if self.serving.closing:
            _fail(self.stream, errors.EngineShutdown("the worker is shutting down"), self.serving.port.cork)
        else:
            _fail(self.stream, errors.Cancelled("the handler was cancelled"), self.serving.port.cork)
        self.serving.port.soon()
    self.over()
    return True, None


cdef object _block(object future):
    future._asyncio_future_blocking = True
    return future


dyn_set_sender(<PyObject *>Handling, _handling_send)
