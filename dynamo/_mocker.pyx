# cython: boundscheck=False, wraparound=False
"""The simulated engine, in real time, for asyncio."""
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from dynamo._errors cimport check
from dynamo._mailbox cimport Mailbox, Receiver, mailbox_of
from dynamo.c_common cimport DYN_ENOENT, dyn_error_clear
from dynamo.c_mailbox cimport dyn_mail, dyn_mailbox, dyn_mailbox_put, dyn_mailbox_ref, dyn_mailbox_unref
from dynamo.c_mocker cimport (
    DYN_MOCKER_2025, DYN_MOCKER_2026, DYN_MOCKER_NEWEST, DYN_MOCKER_OLDEST, dyn_mocker_config,
    dyn_mocker_config_init, dyn_mocker_engine, dyn_mocker_engine_cancel, dyn_mocker_engine_clear,
    dyn_mocker_engine_free, dyn_mocker_engine_get_stats, dyn_mocker_engine_new, dyn_mocker_engine_submit,
    dyn_mocker_mail, dyn_mocker_sink, dyn_mocker_stats)

from dynamo.errors import InvalidArgument

# A change of the cache on its way to Python: | head | sequence hashes | local hashes (stored only) |
cdef struct CacheMail:
    dyn_mail mail
    bint stored
    bint has_parent
    uint64_t parent
    size_t count


# What the engine's thread needs, apart from the Python object that may be going away.
cdef struct Route:
    dyn_mailbox *box
    void *owner


cdef void drop_change(dyn_mail *mail) noexcept nogil:
    free(mail)


cdef void post_change(Route *route, bint stored, const uint64_t *parent, const uint64_t *names,
                      const uint64_t *locals_, size_t count) noexcept nogil:
    cdef size_t arrays = 2 if stored else 1
    cdef CacheMail *change = <CacheMail *>malloc(sizeof(CacheMail) + arrays * count * sizeof(uint64_t))
    cdef uint64_t *hashes
    if change == NULL:
        return                   # the index misses blocks, which costs a hit, not an answer
    hashes = <uint64_t *>(change + 1)
    change.mail.owner = route.owner
    change.mail.drop = drop_change
    change.stored = stored
    change.has_parent = parent != NULL
    change.parent = parent[0] if parent != NULL else 0
    change.count = count
    memcpy(hashes, names, count * sizeof(uint64_t))
    if stored:
        memcpy(hashes + count, locals_, count * sizeof(uint64_t))
    dyn_mailbox_put(route.box, &change.mail)


cdef void tell_stored(void *user, const uint64_t *parent, const uint64_t *names, const uint64_t *locals_,
                      size_t count) noexcept nogil:
    post_change(<Route *>user, True, parent, names, locals_, count)


cdef void tell_removed(void *user, const uint64_t *names, size_t count) noexcept nogil:
    post_change(<Route *>user, False, NULL, names, NULL, count)


cdef class MockerStream:
    """The tokens of one request: filled by the engine, read by one task."""

    cdef readonly uint64_t request
    cdef readonly object cached_tokens      # of the prompt, None until the first token
    cdef readonly bint finished
    cdef list _tokens
    cdef object _loop, _waiter

    def __cinit__(self, loop, uint64_t request):
        self._loop = loop
        self.request = request
        self._tokens = []

    cdef void push(self, uint32_t token, size_t cached, bint finished):
        self._tokens.append(token)
        if self.cached_tokens is None:
            self.cached_tokens = cached
        self.finished = finished
        self.wake()

    cdef void wake(self):
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take(self):
        """The token ids that came since the last call; empty when none did."""
        tokens, self._tokens = self._tokens, []
        return tokens

    async def wait(self):
        """Return when there is something to take, or nothing more to come."""
        if not self._tokens and not self.finished:
            self._waiter = self._loop.create_future()
            await self._waiter


cdef class MockerEngine(Receiver):
    """A simulated engine on a thread of its own. Use it on the thread of its asyncio loop.

    Parameters
    ----------
    loop : the asyncio loop on which tokens arrive
    speedup : how many times faster than the timing formulas; 0 for no waiting
    on_stored, on_removed : called with ``(parent or None, block_hashes, tokens_hashes)`` and ``(block_hashes)``, uint64
        arrays, when the cache changes
    blocks, block_size, max_sequences, max_batched_tokens, max_waiting : sizes in blocks, tokens, requests
    prefix_caching, chunked_prefill, watermark, timing, preemption, token_low, token_high : see dynamo/mocker.h
    """

    cdef dyn_mocker_engine *ptr     # owned
    cdef Route *route               # owned; outlives ptr
    cdef Mailbox box
    cdef object _loop, _on_stored, _on_removed
    cdef dict _streams
    cdef uint64_t _next
    cdef object __weakref__

    def __cinit__(self, loop, *, double speedup=1.0, on_stored=None, on_removed=None, size_t blocks=16384,
                  size_t block_size=64, size_t max_sequences=256, size_t max_batched_tokens=8192,
                  size_t max_waiting=65536, bint prefix_caching=True, bint chunked_prefill=True,
                  double watermark=0.01, int timing=2025, str preemption="newest", uint32_t token_low=1000,
                  uint32_t token_high=32000):
        cdef dyn_mocker_config config
        cdef dyn_mocker_sink sink
        if timing not in (2025, 2026):
            raise InvalidArgument(f"timing {timing}: must be 2025 or 2026")
        if preemption not in ("newest", "oldest"):
            raise InvalidArgument(f"preemption {preemption!r}: must be 'newest' or 'oldest'")
        dyn_mocker_config_init(&config)
        config.blocks = blocks
        config.block_size = block_size
        config.max_sequences = max_sequences
        config.max_batched_tokens = max_batched_tokens
        config.max_waiting = max_waiting
        config.prefix_caching = prefix_caching
        config.chunked_prefill = chunked_prefill
        config.watermark = watermark
        config.timing = DYN_MOCKER_2026 if timing == 2026 else DYN_MOCKER_2025
        config.preemption = DYN_MOCKER_OLDEST if preemption == "oldest" else DYN_MOCKER_NEWEST
        config.token_low = token_low
        config.token_high = token_high
        self._loop = loop
        self._streams = {}
        self._on_stored = on_stored
        self._on_removed = on_removed
        self.box = mailbox_of(loop)
        self.route = <Route *>malloc(sizeof(Route))
        if self.route == NULL:
            raise MemoryError
        self.route.owner = <void *>self
        self.route.box = dyn_mailbox_ref(self.box.ptr)
        sink.user = self.route
        sink.token = NULL
        sink.admitted = NULL
        sink.stored = NULL
        sink.removed = NULL
        if on_stored is not None:
            sink.stored = tell_stored
        if on_removed is not None:
            sink.removed = tell_removed
        check(dyn_mocker_engine_new(&self.ptr, &config, speedup, &sink, self.box.ptr, <void *>self))
        Py_INCREF(self)          # mails name this object: it lives until shutdown()

    def __dealloc__(self):
        if self.route != NULL:
            dyn_mailbox_unref(self.route.box)
            free(self.route)

    cdef void stop(self):
        cdef dyn_mocker_engine *ptr = self.ptr
        self.ptr = NULL
        if ptr != NULL:
            with nogil:          # its thread may be in the middle of a step
                dyn_mocker_engine_free(ptr)

    cdef void on_mail(self, dyn_mail *mail) noexcept:
        if mail.drop == drop_change:
            self.on_change(<CacheMail *>mail)
        else:
            self.on_step(<dyn_mocker_mail *>mail)
        mail.drop(mail)

    cdef void on_step(self, dyn_mocker_mail *step):
        cdef size_t i
        cdef MockerStream stream
        for i in range(step.count):
            stream = self._streams.get(step.tokens[i].request)
            if stream is None:
                continue         # cancelled while its token was on the way
            if step.tokens[i].finished:
                del self._streams[step.tokens[i].request]
            stream.push(step.tokens[i].token, step.tokens[i].cached_tokens, step.tokens[i].finished)

    cdef void on_change(self, CacheMail *change):
        import numpy
        cdef uint64_t *hashes = <uint64_t *>(change + 1)
        cdef size_t count = change.count
        cdef uint64_t[::1] view
        names = numpy.empty(count, numpy.uint64)
        view = names
        memcpy(&view[0], hashes, count * sizeof(uint64_t))
        try:
            if change.stored:
                contents = numpy.empty(count, numpy.uint64)
                view = contents
                memcpy(&view[0], hashes + count, count * sizeof(uint64_t))
                self._on_stored(change.parent if change.has_parent else None, names, contents)
            else:
                self._on_removed(names)
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": "a listener of cache events failed", "exception": error, "engine": self})

    cdef dyn_mocker_engine *running(self) except NULL:
        if self.ptr == NULL:
            raise InvalidArgument("the engine was shut down")
        return self.ptr

    def __repr__(self):
        return f"MockerEngine({self.stats()})"

    def submit(self, const uint32_t[::1] tokens, size_t output):
        """Hand in a prompt (uint32 array); returns the MockerStream of its `output` tokens."""
        cdef dyn_mocker_engine *ptr = self.running()
        cdef uint64_t request = self._next
        cdef size_t count = tokens.shape[0]
        cdef const uint32_t *data = &tokens[0] if count else NULL
        cdef int rc
        stream = MockerStream(self._loop, request)
        self._next += 1
        self._streams[request] = stream
        try:
            with nogil:
                rc = dyn_mocker_engine_submit(ptr, request, data, count, output)
            check(rc)
        except BaseException:
            del self._streams[request]
            raise
        return stream

    def cancel(self, MockerStream stream not None):
        """Drop a request; its stream ends. Fine when it is over already."""
        if self._streams.pop(stream.request, None) is None or self.ptr == NULL:
            return
        if dyn_mocker_engine_cancel(self.ptr, stream.request) == DYN_ENOENT:
            dyn_error_clear()    # it finished this moment; its mail is on the way
        stream.finished = True
        stream.wake()

    def clear(self):
        """Forget what is cached and not in use."""
        dyn_mocker_engine_clear(self.running())

    def stats(self):
        """Figures by name: waiting, running, active_blocks, ..., generated_tokens."""
        cdef dyn_mocker_stats s
        dyn_mocker_engine_get_stats(self.running(), &s)
        return {"waiting": s.waiting, "running": s.running, "active_blocks": s.active_blocks,
                "inactive_blocks": s.inactive_blocks, "total_blocks": s.total_blocks, "steps": s.steps,
                "preemptions": s.preemptions, "evicted_blocks": s.evicted_blocks, "finished": s.finished,
                "cancelled": s.cancelled, "prompt_tokens": s.prompt_tokens, "cached_tokens": s.cached_tokens,
                "prefilled_tokens": s.prefilled_tokens, "generated_tokens": s.generated_tokens}

    def shutdown(self):
        """Stop the thread; streams that are open end as they are. An engine lives until this is called."""
        if self.ptr == NULL:
            return
        self.stop()
        self.box.drain()         # the last mails that name this object
        for stream in self._streams.values():
            (<MockerStream>stream).finished = True
            (<MockerStream>stream).wake()
        self._streams.clear()
        Py_DECREF(self)
