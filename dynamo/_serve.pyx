# cython: boundscheck=False, wraparound=False
"""Answers: the items of worker calls become an OpenAI response in C; see dynamo/serve.h."""
import asyncio
from typing import NamedTuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from dynamo._errors cimport check
from dynamo._http cimport Request
from dynamo._mailbox cimport Mailbox, mailbox_of
from dynamo._metrics cimport Metric
from dynamo._router cimport SelectionCore
from dynamo._runtime cimport Pool
from dynamo._tokens cimport StopStrings, Vocab
from dynamo.c_common cimport dyn_error_name
from dynamo.c_http cimport dyn_http_exchange_ref
from dynamo.c_index cimport dyn_index_held
from dynamo.c_router cimport (
    dyn_router, dyn_router_free, dyn_router_output, dyn_router_prefill_done, dyn_router_ref, dyn_router_unref)
from dynamo.c_serve cimport *
from dynamo.c_service cimport dyn_call_request
from dynamo.c_tokens cimport dyn_text, dyn_text_free, dyn_token_batch, dyn_token_batch_count, dyn_token_batch_ids
from dynamo.c_wire cimport dyn_pair, dyn_slice


class ChoiceSummary(NamedTuple):
    """How one choice of an answer went. Counts of -1: the engine did not say."""

    finish: str | None
    completion_tokens: int
    calls: int
    worker: int
    first_ns: int
    cached_tokens: int
    mirror_tokens: int
    cause: str


class Summary(NamedTuple):
    """How an answer went; times on the monotonic clock in ns, 0 when it did not happen."""

    started_ns: int
    first_ns: int
    last_ns: int
    ended_ns: int
    prompt_tokens: int
    completion_tokens: int
    status: int
    cancelled: bool
    failed: bool
    choices: tuple


cdef class Booking:
    """A call that nobody else needs to hear of."""

    def __dealloc__(self):
        if not self.taken and self.hooks.on_end != NULL:
            self.hooks.on_end(self.hooks.user)


cdef dyn_slice slice_of(bytes data):
    cdef dyn_slice out
    out.data = <const uint8_t *>PyBytes_AS_STRING(data)
    out.size = PyBytes_GET_SIZE(data)
    return out


cdef dyn_pair *pairs_of(list headers) except? NULL:
    # Borrows from the bytes in the list. Freed by PyMem_Free.
    cdef dyn_pair *pairs
    cdef Py_ssize_t i
    if not headers:
        return NULL
    pairs = <dyn_pair *>PyMem_Calloc(len(headers), sizeof(dyn_pair))
    if pairs == NULL:
        raise MemoryError()
    for i in range(len(headers)):
        pairs[i].key = slice_of(headers[i][0])
        pairs[i].value = slice_of(headers[i][1])
    return pairs


cdef class Answer(Receiver):
    """The answer to one HTTP request.

    Parameters
    ----------
    request : dynamo._http.Request
        From here on it is answered by this object alone.
    chat : bool
        Chat completions; else text completions.
    choices : list of (prefix: bytes, prompt_tokens, max_tokens, min_tokens)
    vocab : Vocab or None
        None: the workers send text.
    stops : StopStrings or None
    stop_ids : iterable of int
        Tokens that end a choice and are not shown.
    logprobs : int
        -1: none; else how many alternatives are shown.
    headers : list of (bytes, bytes)
    metrics : bool
        An event ``llm_metrics`` follows each chunk of a stream that brought tokens.
    preamble : bytes
        SSE that goes first.
    extra : bytes
        JSON members at the end of a body.
    first, between, tokens : metrics series or None
    on_broke : callable (choice, code, type, text)
        A call ended before its choice was finished. Must lead to `call` or `fail`.

    Attributes
    ----------
    done : asyncio.Future
        Its result is a `Summary`.
    """

    def __init__(self, Request request not None, *, bint chat, bint stream, bint include_usage=False,
                 bint metrics=False, id, model, uint64_t created, list choices not None, Vocab vocab=None,
                 bint special=False, StopStrings stops=None, bint include_stop=False, stop_ids=(), int logprobs=-1,
                 bint tokens_as_ids=False, list headers=None, bytes preamble=b"", bytes extra=b"", Metric first=None,
                 Metric between=None, Metric tokens=None, on_broke=None):
        cdef dyn_answer_options options
        cdef dyn_answer_choice *given = NULL
        cdef dyn_pair *pairs = NULL
        cdef uint32_t *ids = NULL
        cdef bytes raw_id = id.encode(), raw_model = model.encode("utf-8", "replace")
        cdef size_t count = len(choices), i
        cdef Mailbox box
        if self.ptr != NULL:
            raise TypeError("an Answer cannot be made twice")
        loop = asyncio.get_running_loop()
        box = mailbox_of(loop)
        self.done = loop.create_future()
        self.on_broke = on_broke
        self.choices = count
        memset(&options, 0, sizeof(options))
        options.kind = DYN_ANSWER_CHAT if chat else DYN_ANSWER_COMPLETION
        options.stream = stream
        options.include_usage = include_usage
        options.metrics = metrics
        options.id = raw_id
        options.model = raw_model
        options.created = created
        options.vocab = NULL if vocab is None else vocab.ptr
        options.special = special
        options.stops = NULL if stops is None else stops.ptr
        options.include_stop = include_stop
        options.logprobs = logprobs
        options.tokens_as_ids = tokens_as_ids
        options.preamble = slice_of(preamble)
        options.extra = slice_of(extra)
        options.first = NULL if first is None else first.series
        options.between = NULL if between is None else between.series
        options.tokens = NULL if tokens is None else tokens.series
        stop_list = sorted(set(stop_ids))
        try:
            given = <dyn_answer_choice *>PyMem_Calloc(count + 1, sizeof(dyn_answer_choice))
            ids = <uint32_t *>PyMem_Calloc(len(stop_list) + 1, sizeof(uint32_t))
            if given == NULL or ids == NULL:
                raise MemoryError()
            for i in range(len(stop_list)):
                ids[i] = stop_list[i]
            options.stop_ids = ids
            options.stop_id_count = len(stop_list)
            for i in range(count):
                prefix, prompt_tokens, max_tokens, min_tokens = choices[i]
                given[i].prefix = slice_of(prefix)
                given[i].prompt_tokens = prompt_tokens
                given[i].max_tokens = max_tokens
                given[i].min_tokens = min_tokens
            pairs = pairs_of(headers)
            options.headers = pairs
            options.header_count = 0 if headers is None else len(headers)
            check(dyn_answer_new_take(&self.ptr, dyn_http_exchange_ref(request.x), &options, given, count, box.ptr,
                                      <void *>self))
        finally:
            PyMem_Free(given)
            PyMem_Free(ids)
            PyMem_Free(pairs)

    def __dealloc__(self):
        dyn_answer_unref(self.ptr)

    cdef int arm(self) except -1:
        if self.ptr == NULL:
            raise RuntimeError("this Answer was not made")
        if not self.armed:
            self.armed = True
            Py_INCREF(self)          # given back by the mail DONE
        return 0

    def call(self, uint32_t choice, Pool pool not None, bytes address not None, bytes payload not None, list headers,
             uint64_t worker, Booking booking=None, uint32_t quiet_ms=0):
        """Give a choice a call: its first, or the next one after it broke.

        Parameters
        ----------
        address : "host:port/path" of the worker's endpoint
        payload : the msgpack of a PreprocessedRequest; its token_ids include what the choice has already
        headers : list of (bytes, bytes)
        booking : taken; told of the first token and the end
        quiet_ms : the call breaks with ETIMEDOUT when its worker sends nothing for so long; 0: never
        """
        cdef dyn_call_request request
        cdef dyn_answer_hooks hooks
        cdef dyn_pair *pairs = NULL
        memset(&request, 0, sizeof(request))
        memset(&hooks, 0, sizeof(hooks))
        if booking is not None and booking.taken:
            raise ValueError("this booking belongs to another call")
        self.arm()
        pairs = pairs_of(headers)
        request.address = address
        request.headers = pairs
        request.header_count = len(headers)
        request.payload = slice_of(payload)
        request.window = 65536
        request.quiet_ms = quiet_ms
        if booking is not None:
            hooks = booking.hooks
            booking.taken = True
        try:
            check(dyn_answer_call(self.ptr, choice, pool.ptr, &request, worker, &hooks))
        finally:
            PyMem_Free(pairs)

    def fail(self, int status, message, *, type=None, param=None, code=None, uint32_t retry_after=0):
        """End the answer with an error: a status, or an event when something was sent already."""
        cdef bytes raw_message = message.encode("utf-8", "replace").replace(b"\0", b" ")
        cdef bytes raw_type = b"" if type is None else type.encode()
        cdef bytes raw_param = b"" if param is None else param.encode()
        cdef bytes raw_code = b"" if code is None else code.encode()
        self.arm()
        check(dyn_answer_fail(self.ptr, status, raw_message, NULL if type is None else <const char *>raw_type,
                              NULL if param is None else <const char *>raw_param,
                              NULL if code is None else <const char *>raw_code, retry_after))

    def tokens(self, uint32_t choice):
        """The ids a choice has so far, as a new uint32 array. Only after it broke, or when all is done."""
        import numpy
        cdef const dyn_token_batch *batch = NULL if self.ptr == NULL else dyn_answer_tokens(self.ptr, choice)
        cdef size_t count = 0 if batch == NULL else dyn_token_batch_count(batch)
        cdef uint32_t[::1] view
        out = numpy.empty(count, numpy.uint32)
        if count:
            view = out
            memcpy(&view[0], dyn_token_batch_ids(batch), count * sizeof(uint32_t))
        return out

    cdef object summary(self):
        cdef dyn_answer_summary all
        cdef dyn_choice_summary one
        cdef uint32_t i
        dyn_answer_summarize(self.ptr, &all)
        names = {DYN_FINISH_STOP: "stop", DYN_FINISH_LENGTH: "length", DYN_FINISH_FILTER: "content_filter",
                 DYN_FINISH_TOOLS: "tool_calls"}
        choices = []
        for i in range(<uint32_t>self.choices):
            check(dyn_answer_summarize_choice(self.ptr, i, &one))
            cause = (<bytes>(<char *>one.cause)).decode("utf-8", "replace")
            choices.append(ChoiceSummary(
                names.get(one.finish), one.completion_tokens, one.calls, one.worker, one.first_ns, one.cached_tokens,
                one.mirror_tokens, cause))
        return Summary(
            all.started_ns, all.first_ns, all.last_ns, all.ended_ns, all.prompt_tokens, all.completion_tokens,
            all.status, all.cancelled, all.failed, tuple(choices))

    cdef void on_mail(self, dyn_mail *mail) noexcept:
        cdef dyn_answer_mail *told = <dyn_answer_mail *>mail
        cdef bint last = told.kind == DYN_ANSWER_DONE
        try:
            if not last:
                choice, code = told.choice, dyn_error_name(told.code).decode()
                kind, text = told.type.decode("utf-8", "replace"), told.text.decode("utf-8", "replace")
        finally:
            mail.drop(mail)
        try:
            if not last:
                self.on_broke(choice, code, kind, text)
            elif not self.done.done():
                self.done.set_result(self.summary())
        except BaseException as error:
            loop = self.done.get_loop()
            loop.call_exception_handler({"message": "an answer could not be carried on", "exception": error})
        if last:
            self.on_broke = None
            Py_DECREF(self)


def json_escape(str text not None):
    """The inside of a JSON string, as bytes."""
    cdef bytes raw = text.encode("utf-8", "surrogatepass")
    cdef dyn_text out
    memset(&out, 0, sizeof(out))
    check(dyn_json_escape(&out, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw)))
    try:
        return out.data[:out.size] if out.size else b""
    finally:
        dyn_text_free(&out)


# ---- bookings with the router, freed on the loop thread --------------------------------------------------------------

cdef struct Ticket:
    dyn_router *router          # a reference
    uint64_t ticket


cdef void prefill_done(void *user) noexcept nogil:
    cdef Ticket *ticket = <Ticket *>user
    dyn_router_prefill_done(ticket.router, ticket.ticket)


cdef void more_tokens(void *user, uint32_t count) noexcept nogil:
    cdef Ticket *ticket = <Ticket *>user
    dyn_router_output(ticket.router, ticket.ticket, count)


cdef void free_ticket(void *user) noexcept nogil:
    cdef Ticket *ticket = <Ticket *>user
    dyn_router_free(ticket.router, ticket.ticket)
    dyn_router_unref(ticket.router)
    free(ticket)


cdef class RouterBooking(Booking):
    """A ticket of a `SelectionCore`: prefill_done, output and free happen in C. Freed when no call takes it."""

    def __cinit__(self, SelectionCore core not None, uint64_t ticket):
        cdef Ticket *kept = <Ticket *>malloc(sizeof(Ticket))
        if kept == NULL:
            raise MemoryError()
        kept.router = dyn_router_ref(core.router)
        kept.ticket = ticket
        self.hooks.user = kept
        self.hooks.on_first = prefill_done
        self.hooks.on_tokens = more_tokens
        self.hooks.on_end = free_ticket


def holdings(SelectionCore core not None, uint64_t worker, uint32_t dp_rank=0):
    """Blocks that the core's index says a worker holds; None where it follows no events."""
    return None if core.index == NULL else dyn_index_held(core.index, worker, dp_rank)
