# cython: boundscheck=False, wraparound=False
"""KV events: channels to publish them, subscribers that keep an index, queues and tables for those who look."""
import _thread
import os
import weakref

cimport cython
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from dynamo._errors cimport check
from dynamo._made cimport dyn_only_library_makes
from dynamo._index cimport RadixTree
from dynamo._metrics cimport Registry
from dynamo._unbox cimport real, utf8
from dynamo.c_common cimport dyn_now_ns
from dynamo.c_events cimport (
    DYN_EVENT_CLEARED, DYN_EVENT_INNER, DYN_EVENT_REMOVED, DYN_EVENT_ROUTER, DYN_EVENT_STORED, DYN_LOAD_FIELDS,
    DYN_LOAD_GPU_CACHE_USAGE_PERC, DYN_WIRE_ENGINE, DYN_WIRE_PLANE, dyn_event,
    dyn_event_hash_of_bytes, dyn_event_pub_endpoint, dyn_event_pub_flush, dyn_event_pub_free, dyn_event_pub_get_stats,
    dyn_event_pub_new, dyn_event_pub_options, dyn_event_pub_replay_endpoint, dyn_event_pub_send,
    dyn_event_pub_send_load, dyn_event_pub_sink, dyn_event_pub_stats, dyn_event_queue_dropped, dyn_event_queue_fd,
    dyn_event_queue_free, dyn_event_queue_new, dyn_event_queue_on_event, dyn_event_queue_take,
    dyn_event_source_options,
    dyn_event_source_stats, dyn_event_sub_add, dyn_event_sub_expect, dyn_event_sub_free, dyn_event_sub_get_stats,
    dyn_event_sub_new, dyn_event_sub_remove, dyn_event_sub_show, dyn_event_text, dyn_event_text_free,
    dyn_load, dyn_load_field, dyn_load_field_name, dyn_load_table_free, dyn_load_table_get, dyn_load_table_new,
    dyn_load_table_on_load, dyn_load_table_remove)
from dynamo.c_hash cimport dyn_hash_block_count, dyn_hash_blocks, dyn_hash_seed
from dynamo.c_index cimport dyn_index_on_cleared, dyn_index_on_removed, dyn_index_on_stored

from dynamo.errors import InvalidArgument, StreamBroken


# ---- arrays ---------------------------------------------------------------------------------------

cdef extern from *:
    """
    /* A Python integer of either sign as u64 (two's complement); -1 with an error set when it has more than 64 bits. */
    static inline int dyn_py_u64(PyObject *number, unsigned long long *out)
    {
        *out = PyLong_AsUnsignedLongLong(number);
        if (*out != (unsigned long long)-1 || !PyErr_Occurred()) return 0;
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return -1;
        PyErr_Clear();
        *out = (unsigned long long)PyLong_AsLongLong(number);
        return *out == (unsigned long long)-1 && PyErr_Occurred() ? -1 : 0;
    }
    """
    int dyn_py_u64(object number, unsigned long long *out) except -1


cdef uint64_t hash_of(object item) except? 0xdead:
    """A block hash: an integer of either sign, or the bytes of one."""
    cdef unsigned long long value
    if isinstance(item, bytes):
        return dyn_event_hash_of_bytes(<const uint8_t *>PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
    if not isinstance(item, int):
        item = PyNumber_Index(item)
    dyn_py_u64(item, &value)
    return value


@cython.final
cdef class _U64:
    """Hashes as C wants them: the caller's own array when it is one of 64-bit integers, else a copy."""
    cdef uint64_t *data
    cdef size_t count
    cdef Py_buffer view
    cdef bint viewed

    def __cinit__(self, object items):
        cdef Py_ssize_t i, n
        cdef char kind
        if isinstance(items, (bytes, str)):
            raise InvalidArgument(f"hashes are a sequence of integers, not {type(items).__name__}")
        if PyObject_CheckBuffer(items):
            PyObject_GetBuffer(items, &self.view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
            self.viewed = True
            kind = self.view.format[0] if self.view.format != NULL else c'B'
            if kind in (c'<', c'=', c'@'):
                kind = self.view.format[1]
            if self.view.ndim == 1 and self.view.itemsize == 8 and kind in (c'Q', c'q', c'L', c'l'):
                self.data = <uint64_t *>self.view.buf
                self.count = self.view.shape[0]
                return
            PyBuffer_Release(&self.view)
            self.viewed = False
            if kind in (c'd', c'f', c'e', c'g'):
                raise InvalidArgument("hashes are integers, not floats")
        items = items if isinstance(items, (list, tuple)) else list(items)
        n = len(items)
        self.data = <uint64_t *>PyMem_Malloc(max(n, 1) * sizeof(uint64_t))
        if self.data == NULL:
            raise MemoryError
        for i in range(n):
            self.data[i] = hash_of(items[i])
        self.count = n

    def __dealloc__(self):
        if self.viewed:
            PyBuffer_Release(&self.view)
        else:
            PyMem_Free(self.data)


@cython.final
cdef class _U32:
    """Token ids likewise: an array of 32-bit integers as it is, else a copy."""
    cdef uint32_t *data
    cdef size_t count
    cdef Py_buffer view
    cdef bint viewed

    def __cinit__(self, object items):
        cdef Py_ssize_t i, n
        cdef char kind
        cdef unsigned long long value
        if isinstance(items, (bytes, str)):
            raise InvalidArgument(f"token ids are a sequence of integers, not {type(items).__name__}")
        if PyObject_CheckBuffer(items):
            PyObject_GetBuffer(items, &self.view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
            self.viewed = True
            kind = self.view.format[0] if self.view.format != NULL else c'B'
            if kind in (c'<', c'=', c'@'):
                kind = self.view.format[1]
            if self.view.ndim == 1 and self.view.itemsize == 4 and kind in (c'I', c'i', c'L', c'l'):
                self.data = <uint32_t *>self.view.buf
                self.count = self.view.shape[0]
                return
            PyBuffer_Release(&self.view)
            self.viewed = False
            if kind in (c'd', c'f', c'e', c'g'):
                raise InvalidArgument("token ids are integers, not floats")
        items = items if isinstance(items, (list, tuple)) else list(items)
        n = len(items)
        self.data = <uint32_t *>PyMem_Malloc(max(n, 1) * sizeof(uint32_t))
        if self.data == NULL:
            raise MemoryError
        for i in range(n):
            item = items[i]
            dyn_py_u64(item if isinstance(item, int) else PyNumber_Index(item), &value)
            if value > 0xffffffff:
                raise OverflowError(f"token id {item} does not fit into 32 bits")
            self.data[i] = <uint32_t>value
        self.count = n

    def __dealloc__(self):
        if self.viewed:
            PyBuffer_Release(&self.view)
        else:
            PyMem_Free(self.data)


# ---- sinks ----------------------------------------------------------------------------------------

cdef class KvSink:
    """Where cache events go, as C sees it. Made by what keeps an index; not by hand."""


cdef KvSink sink_of(object target):
    cdef KvSink sink
    if isinstance(target, KvSink):
        return <KvSink>target
    if isinstance(target, RadixTree):
        sink = KvSink.__new__(KvSink)
        sink.sink.user = (<RadixTree>target).ptr
        sink.sink.stored = dyn_index_on_stored
        sink.sink.removed = dyn_index_on_removed
        sink.sink.cleared = dyn_index_on_cleared
        sink.owner = target
        return sink
    make = getattr(target, "_kv_sink", None)
    if make is None:
        raise TypeError(f"{type(target).__name__} is nothing that KV events can be written into: an index is")
    made = make()
    if isinstance(made, (KvSink, RadixTree)):
        return sink_of(made)
    sink = KvSink.__new__(KvSink)
    sink.sink = (<dyn_kv_sink *>PyCapsule_GetPointer(made, "dyn_kv_sink"))[0]
    sink.owner = (target, made)
    return sink


# ---- publishing -----------------------------------------------------------------------------------

cdef dict _load_names():
    cdef int i
    return {dyn_load_field_name(<dyn_load_field>i).decode(): i for i in range(DYN_LOAD_FIELDS)}

_LOADS = _load_names()


@cython.final
@cython.no_gc_clear
cdef class EventChannel:
    """A publisher of KV events: a ZMQ socket that counts its batches and keeps the last ones for who missed them.

    Parameters
    ----------
    worker_id : int
        Whose cache it is: the instance id of the worker.
    subject : str
        ``wire="plane"``: the scope, as ``namespace.ns.component.c``; ``.kv-events`` and ``.kv_metrics`` are appended.
        ``wire="engine"``: the topic.
    endpoint, replay_endpoint : str
        Bound; port 0 takes a free one. `replay_endpoint` None: nothing can be fetched later.
    wire : {"plane", "engine"}
        Dynamo's event plane, or batches as vLLM writes them (those need token ids).
    dp_rank : int
        Of events that name none.
    block_size : int
        Tokens in a block; for what is published with token ids.
    hwm, ring_batches, ring_bytes : int
        Batches queued for a slow subscriber (100,000); kept for replay (10,000; 256 MiB). 0: these defaults.
    mirror_blocks : int or None
        ``wire="plane"``: so many blocks of the worker's cache are known at most (0: 4 Mi), and told to who missed
        more than is kept for replay. None: such a one has lost them.
    batch_ms : int
        Wait as long for more events before sending a batch.
    connect : bool
        Connect to `endpoint` instead of binding it.
    publisher_id : int, optional
        Random by default, so that a restart is seen.
    """

    def __init__(self, worker_id, subject="", *, endpoint="tcp://127.0.0.1:0", replay_endpoint="tcp://127.0.0.1:0",
                 wire="plane", dp_rank=0, block_size=0, hwm=0, ring_batches=0, ring_bytes=0, mirror_blocks=0,
                 batch_ms=0, connect=False, publisher_id=None):
        cdef dyn_event_pub_options options
        cdef unsigned long long worker, publisher
        memset(&options, 0, sizeof(options))
        if self.ptr != NULL:
            raise RuntimeError("an event channel is opened once")
        if wire not in ("plane", "engine"):
            raise InvalidArgument(f"wire {wire!r}: it is 'plane' or 'engine'")
        dyn_py_u64(int(worker_id), &worker)
        if publisher_id is None:
            publisher_id = int.from_bytes(os.urandom(8), "big")
        dyn_py_u64(int(publisher_id), &publisher)
        endpoint_ = utf8(endpoint, "endpoint")
        replay_ = None if replay_endpoint is None else utf8(replay_endpoint, "replay_endpoint")
        subject_ = utf8(subject, "subject")
        options.endpoint = PyBytes_AS_STRING(endpoint_)
        options.replay_endpoint = NULL if replay_ is None else PyBytes_AS_STRING(replay_)
        options.topic = PyBytes_AS_STRING(subject_)
        options.connect = connect
        options.wire = DYN_WIRE_ENGINE if wire == "engine" else DYN_WIRE_PLANE
        options.publisher_id = publisher
        options.worker_id = worker
        options.dp_rank = dp_rank
        options.block_size = block_size
        options.hwm = hwm
        options.ring_batches = ring_batches
        options.ring_bytes = ring_bytes
        options.mirror_blocks = 0xFFFFFFFF if mirror_blocks is None else mirror_blocks
        options.batch_ms = batch_ms
        check(dyn_event_pub_new(&self.ptr, &options))
        _open.add(self)
        self.engine = wire == "engine"
        self.publisher_id = publisher
        self.worker_id = worker
        self.block_size = block_size
        self.dp_rank = dp_rank
        self.subject = subject
        self._endpoint = dyn_event_pub_endpoint(self.ptr).decode()
        self._replay_endpoint = dyn_event_pub_replay_endpoint(self.ptr).decode() or None

    def __dealloc__(self):
        cdef dyn_event_pub *ptr = self.ptr
        self.ptr = NULL
        if ptr != NULL:
            with nogil:
                dyn_event_pub_free(ptr)

    cdef dyn_event_pub *live(self) except NULL:
        if self.ptr == NULL:
            raise StreamBroken("the event channel is closed")
        return self.ptr

    @property
    def endpoint(self):
        """Where subscribers connect, with the port that was chosen."""
        return self._endpoint

    @property
    def replay_endpoint(self):
        """Where subscribers fetch what they missed, or None."""
        return self._replay_endpoint

    def publish_stored(self, block_hashes, tokens_hashes, parent=None, dp_rank=None, start_position=None):
        """Blocks, one following the other, are in the cache now.

        Parameters
        ----------
        block_hashes, tokens_hashes : sequence or array of 64-bit integers
            The engine's names of the blocks, and their local hashes. Arrays are read in place.
        parent : int, optional
            The engine's name of the block before the first; None at the start of a sequence.
        """
        cdef _U64 blocks = _U64(block_hashes)
        cdef _U64 tokens = _U64(tokens_hashes)
        cdef dyn_event event
        memset(&event, 0, sizeof(event))
        if blocks.count != tokens.count:
            raise InvalidArgument(f"{blocks.count} block hashes, {tokens.count} token hashes: one of each for a block")
        event.kind = DYN_EVENT_STORED
        event.dp_rank = self.dp_rank if dp_rank is None else dp_rank
        event.count = blocks.count
        event.block_hashes = blocks.data
        event.tokens_hashes = tokens.data
        if parent is not None:
            event.has_parent = True
            event.parent = hash_of(parent)
        if start_position is not None:
            event.has_start_position = True
            event.start_position = start_position
        check(dyn_event_pub_send(self.live(), &event, NULL, NULL))

    def publish_stored_tokens(self, token_ids, block_hashes, parent=None, dp_rank=None, *, lora_name=None,
                              cache_salt=None, is_eagle=False, block_mm_infos=None):
        """The same from token ids: len(block_hashes) * block_size of them (one more with `is_eagle`).

        Blocks that have no tokens are left out. Returns the number of blocks that were published.
        """
        cdef _U64 blocks = _U64(block_hashes)
        cdef _U32 tokens = _U32(token_ids)
        cdef dyn_event event
        cdef uint64_t seed
        cdef size_t size = self.block_size
        cdef size_t have = dyn_hash_block_count(tokens.count, size, is_eagle)
        cdef uint64_t *local
        memset(&event, 0, sizeof(event))
        if size == 0:
            raise InvalidArgument("this channel has no block size: give block_size to publish token ids")
        lora = b"" if not lora_name else lora_name.encode()
        salt = b"" if not cache_salt else cache_salt.encode()
        event.kind = DYN_EVENT_STORED
        event.dp_rank = self.dp_rank if dp_rank is None else dp_rank
        event.count = min(blocks.count, have)
        event.block_hashes = blocks.data
        if parent is not None:
            event.has_parent = True
            event.parent = hash_of(parent)
        if self.engine:
            check(dyn_event_pub_send(self.live(), &event, tokens.data, PyBytes_AS_STRING(lora) if lora else NULL))
            return event.count
        seed = dyn_hash_seed(PyBytes_AS_STRING(lora), len(lora), PyBytes_AS_STRING(salt), len(salt))
        local = <uint64_t *>PyMem_Malloc((have + 1) * sizeof(uint64_t))
        if local == NULL:
            raise MemoryError
        try:
            dyn_hash_blocks(tokens.data, tokens.count, size, is_eagle, seed, local)
            if block_mm_infos is not None:
                rehash(tokens, size, is_eagle, seed, event.count, block_mm_infos, local)
            event.tokens_hashes = local
            check(dyn_event_pub_send(self.live(), &event, NULL, NULL))
        finally:
            PyMem_Free(local)
        return event.count

    def publish_removed(self, block_hashes, dp_rank=None):
        """Blocks, by the engine's names, are in the cache no more."""
        cdef _U64 blocks = _U64(block_hashes)
        cdef dyn_event event
        memset(&event, 0, sizeof(event))
        event.kind = DYN_EVENT_REMOVED
        event.dp_rank = self.dp_rank if dp_rank is None else dp_rank
        event.count = blocks.count
        event.block_hashes = blocks.data
        check(dyn_event_pub_send(self.live(), &event, NULL, NULL))

    def publish_cleared(self, dp_rank=None):
        """The cache is empty now."""
        cdef dyn_event event
        memset(&event, 0, sizeof(event))
        event.kind = DYN_EVENT_CLEARED
        event.dp_rank = self.dp_rank if dp_rank is None else dp_rank
        check(dyn_event_pub_send(self.live(), &event, NULL, NULL))

    def publish_load(self, dp_rank=None, **numbers):
        """How busy the worker is: active_decode_blocks, active_prefill_tokens, kv_used_blocks; and those of
        ForwardPassMetrics (request_active_slots ... gpu_prefix_cache_hit_rate). None: not known."""
        cdef dyn_load load
        cdef int i
        memset(&load, 0, sizeof(load))
        load.worker_id = self.worker_id
        load.dp_rank = self.dp_rank if dp_rank is None else dp_rank
        for name, value in numbers.items():
            if value is None:
                continue
            place = _LOADS.get(name)
            if place is None:
                raise TypeError(f"{name!r} is no number of a load; those are {', '.join(_LOADS)}")
            i = place
            if not value >= 0:
                raise InvalidArgument(f"{name} {value}: must be 0 or more")
            load.value[i] = int(value * 1000000 + 0.5) if i >= DYN_LOAD_GPU_CACHE_USAGE_PERC else int(value)
            load.known |= 1 << i
        check(dyn_event_pub_send_load(self.live(), &load))

    def flush(self):
        """Send what `batch_ms` holds back."""
        check(dyn_event_pub_flush(self.live()))

    def stats(self):
        """What was sent.

        Keys: next_sequence, events, blocks, bytes, replays, replayed_batches, ring_first, ring_batches, ring_bytes,
        snapshots, mirror_blocks, mirror_bytes.
        """
        cdef dyn_event_pub_stats s
        dyn_event_pub_get_stats(self.live(), &s)
        return {
            "next_sequence": s.next_sequence, "events": s.events, "blocks": s.blocks, "bytes": s.bytes,
            "replays": s.replays, "replayed_batches": s.replayed_batches, "ring_first": s.ring_first,
            "ring_batches": s.ring_batches, "ring_bytes": s.ring_bytes, "snapshots": s.snapshots,
            "mirror_blocks": s.mirror_blocks, "mirror_bytes": s.mirror_bytes,
        }

    def _kv_sink(self):
        cdef KvSink sink = KvSink.__new__(KvSink)
        sink.sink = dyn_event_pub_sink(self.live())
        sink.owner = self
        return sink

    @property
    def closed(self):
        return self.ptr == NULL

    def close(self):
        """Send what waits and close the sockets. Twice is allowed."""
        cdef dyn_event_pub *ptr = self.ptr
        self.ptr = NULL
        if ptr != NULL:
            with nogil:
                dyn_event_pub_free(ptr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return f"<EventChannel {self._endpoint}{' (closed)' if self.ptr == NULL else ''}>"


cdef int rehash(_U32 tokens, size_t size, bint eagle, uint64_t seed, size_t count, object infos,
                uint64_t *local) except -1:
    """The local hashes of blocks with multimodal objects: token bytes, then the sorted mm_hash values."""
    cdef size_t i, k, window = size + (1 if eagle else 0)
    cdef uint32_t *words
    cdef uint64_t mm
    for i in range(min(count, len(infos))):
        objects = (infos[i] or {}).get("mm_objects") or ()
        if not objects:
            continue
        hashes = sorted(hash_of(item["mm_hash"]) for item in objects)
        words = <uint32_t *>PyMem_Malloc((window + 2 * len(hashes)) * sizeof(uint32_t))
        if words == NULL:
            raise MemoryError
        memcpy(words, tokens.data + i * size, window * sizeof(uint32_t))
        for k in range(len(hashes)):
            mm = hashes[k]
            words[window + 2 * k] = <uint32_t>(mm & 0xffffffff)
            words[window + 2 * k + 1] = <uint32_t>(mm >> 32)
        dyn_hash_blocks(words, window + 2 * len(hashes), window + 2 * len(hashes), False, seed, local + i)
        PyMem_Free(words)
    return 0


# ---- keeping --------------------------------------------------------------------------------------

@cython.final
cdef class EventQueue:
    """Events as JSON texts, for a reader that comes by now and then. Full: the newest are dropped and counted."""

    def __cinit__(self, size_t bound=0, bint router=False):
        check(dyn_event_queue_new(&self.ptr, DYN_EVENT_ROUTER if router else DYN_EVENT_INNER, bound))

    def __dealloc__(self):
        dyn_event_queue_free(self.ptr)

    def __repr__(self):
        return f"EventQueue(dropped={self.dropped})"

    def fileno(self):
        """Readable while something waits."""
        return dyn_event_queue_fd(self.ptr)

    def take(self):
        """All that waits, oldest first."""
        cdef dyn_event_text *text = dyn_event_queue_take(self.ptr)
        cdef dyn_event_text *after
        taken = []
        while text != NULL:
            after = text.next
            taken.append(PyUnicode_DecodeUTF8(text.text, text.size, NULL))
            dyn_event_text_free(text)
            text = after
        return taken

    @property
    def dropped(self):
        return dyn_event_queue_dropped(self.ptr)


@cython.final
cdef class LoadTable:
    """The latest load that each worker reported."""

    def __cinit__(self):
        check(dyn_load_table_new(&self.ptr))

    def __dealloc__(self):
        dyn_load_table_free(self.ptr)

    def __repr__(self):
        return f"LoadTable({dyn_load_table_get(self.ptr, NULL, 0)} rows)"

    def remove(self, worker_id):
        """Forget a worker that is gone."""
        dyn_load_table_remove(self.ptr, hash_of(worker_id))

    def get(self):
        """{(worker_id, dp_rank): {name: number}}; numbers that were never reported are left out."""
        cdef size_t n, room = dyn_load_table_get(self.ptr, NULL, 0) + 8
        cdef dyn_load *loads = <dyn_load *>PyMem_Malloc(room * sizeof(dyn_load))
        cdef size_t i
        cdef int k
        if loads == NULL:
            raise MemoryError
        try:
            n = min(dyn_load_table_get(self.ptr, loads, room), room)
            result = {}
            for i in range(n):
                numbers = {}
                for k in range(DYN_LOAD_FIELDS):
                    if loads[i].known >> k & 1:
                        value = loads[i].value[k]
                        numbers[dyn_load_field_name(<dyn_load_field>k).decode()] = (
                            value / 1e6 if k >= DYN_LOAD_GPU_CACHE_USAGE_PERC else value)
                result[loads[i].worker_id, loads[i].dp_rank] = numbers
            return result
        finally:
            PyMem_Free(loads)


# ---- subscribing ----------------------------------------------------------------------------------

@cython.final
@cython.no_gc_clear
cdef class EventSubscriber:
    """One C thread that listens to many publishers and writes what they say into indexes, without the GIL.

    Missed batches are fetched from the publisher's replay endpoint; a publisher that was started again has its worker
    cleared and rebuilt; a worker whose events do not come is named in a warning, in `EventSource.stats()` and in
    metrics.

    Parameters
    ----------
    silence : float
        Seconds after which an expected event (`EventSource.expect`) is missed.
    """

    def __init__(self, silence=10.0):
        if self.ptr != NULL:
            raise RuntimeError("an event subscriber is opened once")
        self.lock = _thread.allocate_lock()
        self.owners = {}
        check(dyn_event_sub_new(&self.ptr, max(1, int(real(silence, "silence") * 1000))))
        _open.add(self)

    def __dealloc__(self):
        cdef dyn_event_sub *ptr = self.ptr
        self.ptr = NULL
        if ptr != NULL:
            with nogil:
                dyn_event_sub_free(ptr)

    def add(self, worker_id, endpoint, sink=None, *, block_size=0, replay_endpoint=None, topic="", dp_rank=0,
            worker_from_event=False, events=None, loads=None, hwm=0):
        """Listen to a publisher.

        Parameters
        ----------
        worker_id : int
            Whose events these are.
        endpoint : str
            To connect to.
        sink : RadixTree, or what gives one by `_kv_sink()`; optional
            Gets what is stored, removed and cleared on the device.
        block_size : int
            Tokens in a block; needed for engines (vLLM, SGLang), whose batches have token ids instead of hashes.
        replay_endpoint : str, optional
            Where missed batches can be fetched.
        topic : str
            Prefix of the topics to listen to.
        dp_rank : int
            Of engine batches that name none.
        worker_from_event : bool
            Take the worker from each event instead (event plane).
        events : EventQueue or EventChannel, optional
            Gets every event as JSON, or publishes it on, instead of `sink`.
        loads : LoadTable, optional
            Gets the loads (event plane).

        Returns
        -------
        EventSource
        """
        cdef dyn_event_source_options options
        cdef EventSource source = EventSource.__new__(EventSource)
        cdef KvSink target = None
        cdef EventQueue queue
        memset(&options, 0, sizeof(options))
        endpoint_ = utf8(endpoint, "endpoint")
        topic_ = utf8(topic, "topic")
        replay_ = None if replay_endpoint is None else utf8(replay_endpoint, "replay_endpoint")
        options.endpoint = PyBytes_AS_STRING(endpoint_)
        options.replay_endpoint = NULL if replay_ is None else PyBytes_AS_STRING(replay_)
        options.topic = PyBytes_AS_STRING(topic_)
        options.worker_id = hash_of(worker_id)
        options.worker_from_event = worker_from_event
        options.dp_rank = dp_rank
        options.block_size = block_size
        options.hwm = hwm
        if isinstance(events, EventQueue):
            queue = <EventQueue>events
            options.event = dyn_event_queue_on_event
            options.user = queue.ptr
        elif events is not None:
            target = sink_of(events)
        elif sink is not None:
            target = sink_of(sink)
        if target is not None:
            options.sink = target.sink
        if loads is not None:
            options.load = dyn_load_table_on_load
            options.load_user = (<LoadTable?>loads).ptr
        with self.lock:
            if self.ptr == NULL:
                raise StreamBroken("the event subscriber is closed")
            check(dyn_event_sub_add(self.ptr, &options, &source.ptr))
            source.subscriber = self
            source.worker_id = options.worker_id
            source.endpoint = endpoint
            source.key = object()
            self.owners[source.key] = (target, events, loads)
        return source

    def show(self, Registry registry not None):
        """Show every source in a metrics registry, by worker_id (dynamo_kv_events_*)."""
        with self.lock:
            if self.ptr == NULL:
                raise StreamBroken("the event subscriber is closed")
            check(dyn_event_sub_show(self.ptr, registry.ptr))

    def close(self):
        """Stop listening to all; when it returns nothing is written any more. Twice is allowed."""
        cdef dyn_event_sub *ptr
        with self.lock:
            ptr = self.ptr
            self.ptr = NULL
            if ptr != NULL:
                with nogil:
                    dyn_event_sub_free(ptr)
            self.owners.clear()

    def __repr__(self):
        return f"EventSubscriber({'closed' if self.ptr == NULL else f'{len(self.owners)} sources'})"

    @property
    def closed(self):
        return self.ptr == NULL

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@cython.final
cdef class EventSource:
    """One publisher that a subscriber listens to. Made by `EventSubscriber.add`; lives without being held."""

    def __init__(self):
        raise TypeError("an EventSource is made by EventSubscriber.add()")

    def expect(self):
        """A request that must cause events went to this worker: if none come, it is named."""
        if self.ptr != NULL and self.subscriber.ptr != NULL:
            dyn_event_sub_expect(self.subscriber.ptr, self.ptr)

    def stats(self):
        """What came and what was missed.

        Keys: connected, silent, replaying, known, next_sequence, batches, events, blocks, loads, gaps, lost, restarts,
        replays, replayed, replay_failures, snapshots, malformed, refused, other_tier, age (seconds since the last
        event, or None), unknown, wrong_block_size, short_of_tokens, ignored_kind, ignored_place.
        """
        cdef dyn_event_source_stats s
        if self.ptr == NULL or self.subscriber.ptr == NULL:
            raise StreamBroken("this event source is closed")
        dyn_event_sub_get_stats(self.subscriber.ptr, self.ptr, &s)
        return {
            "worker_id": s.worker_id, "connected": bool(s.connected), "silent": bool(s.silent),
            "replaying": bool(s.replaying), "known": bool(s.known), "next_sequence": s.next_sequence,
            "batches": s.batches, "events": s.events, "blocks": s.blocks, "loads": s.loads, "gaps": s.gaps,
            "lost": s.lost, "restarts": s.restarts, "replays": s.replays, "replayed": s.replayed,
            "replay_failures": s.replay_failures, "snapshots": s.snapshots, "malformed": s.malformed,
            "refused": s.refused, "other_tier": s.other_tier,
            "age": None if s.last_event_ns == 0 else max(0.0, (<double>dyn_now_ns() - <double>s.last_event_ns) / 1e9),
            "unknown": s.decoder.unknown, "wrong_block_size": s.decoder.wrong_block_size,
            "short_of_tokens": s.decoder.short_of_tokens, "ignored_kind": s.decoder.ignored_kind,
            "ignored_place": s.decoder.ignored_place,
        }

    def close(self):
        """Stop listening; what was written stays. Twice is allowed."""
        cdef dyn_event_source *ptr
        cdef EventSubscriber subscriber = self.subscriber
        with subscriber.lock:
            ptr = self.ptr
            self.ptr = NULL
            if ptr != NULL and subscriber.ptr != NULL:
                with nogil:
                    dyn_event_sub_remove(subscriber.ptr, ptr)
                subscriber.owners.pop(self.key, None)

    @property
    def closed(self):
        return self.ptr == NULL or self.subscriber.ptr == NULL

    def __repr__(self):
        return f"<EventSource worker {self.worker_id} at {self.endpoint}>"


dyn_only_library_makes(EventSource)


# ---- fork ---------------------------------------------------------------------------------------------------------
cdef object _open = weakref.WeakSet()


def _forget():
    # A child of fork has neither our threads nor their sockets: there all are closed, and their memory is left alone.
    for one in list(_open):
        if isinstance(one, EventChannel):
            (<EventChannel>one).ptr = NULL
        else:
            (<EventSubscriber>one).ptr = NULL
            (<EventSubscriber>one).lock = _thread.allocate_lock()
    _open.clear()


os.register_at_fork(after_in_child=_forget)
