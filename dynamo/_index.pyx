# cython: boundscheck=False, wraparound=False, initializedcheck=False, freethreading_compatible=False
"""Which worker holds which blocks: the exact index fed by events, and the approximate one fed by decisions."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from dynamo._errors cimport check
from dynamo._hash cimport Hashes, drop_hashes, new_u64, take_hashes, u64
from dynamo._unbox cimport real
from dynamo.c_common cimport DYN_ENOMEM, DYN_EPROTO, dyn_error_clear, dyn_error_detail, dyn_now_ns
from dynamo.c_events cimport (
    DYN_EVENT_INNER, DYN_EVENT_REMOVED, DYN_EVENT_ROUTER, DYN_EVENT_STORED, DYN_TIER_DEVICE, dyn_event,
    dyn_event_init, dyn_event_json_bound, dyn_event_read_json, dyn_event_reset, dyn_event_write_json)
from dynamo.c_index cimport (
    dyn_approx_dump, dyn_approx_find, dyn_approx_new, dyn_approx_remove_worker, dyn_approx_routed,
    dyn_approx_stats_get, dyn_approx_unref, dyn_index_block, dyn_index_clear_worker, dyn_index_cleared,
    dyn_index_dump, dyn_index_find, dyn_index_find_counted, dyn_index_find_early, dyn_index_held, dyn_index_new,
    dyn_index_options, dyn_index_remove_worker, dyn_index_removed, dyn_index_stats, dyn_index_stats_get,
    dyn_index_stored, dyn_index_unref, dyn_index_workers, dyn_overlap)

cdef enum:
    GIL_FROM = 2048     # blocks: about 10 microseconds


@cython.freelist(32)
@cython.final
cdef class OverlapScores:
    """OverlapScores()\n--\n\nWhat each worker holds of a sequence.

    Attributes
    ----------
    scores : dict of {(worker_id, dp_rank): int}
        Leading blocks that the worker holds; workers that hold none are absent. Made when it is asked for.
    frequencies : list of int
        For each matched block how often it was found lately, zeros left out; empty unless the tree has an expiration.
    tree_sizes : dict of {(worker_id, dp_rank): int}
        All blocks that each of these workers holds.
    workers, dp_ranks, counts : numpy.ndarray of uint64, uint32, uint32
        The same as `scores` in three arrays, shortest overlap first. Much cheaper than the dict for many workers.
    """

    def __cinit__(self):
        self.many = NULL
        self.count = 0

    def __dealloc__(self):
        PyMem_RawFree(self.many)

    cdef dyn_overlap *rows(self) noexcept:
        return self.many if self.many != NULL else self.few

    cdef dyn_overlap *reserve(self, size_t room) except NULL:
        cdef dyn_overlap *more = <dyn_overlap *>PyMem_RawRealloc(self.many, room * sizeof(dyn_overlap))
        if more == NULL:
            raise MemoryError()
        self.many = more
        return more

    def __reduce__(self):
        cdef size_t i
        cdef dyn_overlap *row = self.rows()
        rows = [(row[i].worker, row[i].dp_rank, row[i].blocks, row[i].held) for i in range(self.count)]
        return _overlap_scores, (rows, self._frequencies)

    @property
    def scores(self):
        """Leading blocks by (worker_id, dp_rank)."""
        cdef size_t i
        cdef dyn_overlap *row = self.rows()
        if self._scores is None:
            scores = {}
            for i in range(self.count):
                scores[(row[i].worker, row[i].dp_rank)] = row[i].blocks
            self._scores = scores
        return self._scores

    @property
    def frequencies(self):
        """How often each matched block was found lately."""
        return self._frequencies if self._frequencies is not None else []

    @property
    def tree_sizes(self):
        """All blocks that each of these workers holds, by (worker_id, dp_rank)."""
        cdef size_t i
        cdef dyn_overlap *row = self.rows()
        return {(row[i].worker, row[i].dp_rank): row[i].held for i in range(self.count)}

    @property
    def workers(self):
        """Their ids, shortest overlap first."""
        cdef size_t i
        cdef uint64_t *to = NULL
        cdef dyn_overlap *row = self.rows()
        array = new_u64(self.count, &to)
        for i in range(self.count):
            to[i] = row[i].worker
        return array

    @property
    def dp_ranks(self):
        """Their ranks, in the order of `workers`."""
        return self.column(0)

    @property
    def counts(self):
        """Their leading blocks, in the order of `workers`."""
        return self.column(1)

    cdef object column(self, int which):
        cdef size_t i
        cdef uint32_t[::1] to
        cdef dyn_overlap *row = self.rows()
        import numpy
        array = numpy.empty(self.count, numpy.uint32)
        if self.count > 0:
            to = array
            for i in range(self.count):
                to[i] = row[i].blocks if which else row[i].dp_rank
        return array

    def __len__(self):
        return self.count

    def __repr__(self):
        cdef size_t i
        cdef dyn_overlap *row = self.rows()
        best = sorted(((row[i].blocks, row[i].worker, row[i].dp_rank) for i in range(self.count)), reverse=True)
        shown = ", ".join(f"{worker:x}/{rank}: {blocks}" for blocks, worker, rank in best[:8])
        return f"<OverlapScores {shown or 'nobody'}{', ...' if self.count > 8 else ''}>"

    def _repr_html_(self):
        cdef size_t i
        cdef dyn_overlap *row = self.rows()
        from dynamo._html import html_table
        rows = sorted(
            ((row[i].blocks, row[i].worker, row[i].dp_rank, row[i].held) for i in range(self.count)), reverse=True)
        rows = [(f"{worker:x}", rank, blocks, held) for blocks, worker, rank, held in rows]
        return html_table("OverlapScores", rows, ("worker", "rank", "leading blocks", "all its blocks"))


def _overlap_scores(rows, frequencies):
    cdef OverlapScores scores = OverlapScores.__new__(OverlapScores)
    cdef dyn_overlap *to = scores.few
    cdef size_t i
    if len(rows) > FEW_OVERLAPS:
        to = scores.reserve(len(rows))
    for i, (worker, rank, blocks, held) in enumerate(rows):
        to[i].worker, to[i].dp_rank, to[i].blocks, to[i].held = worker, rank, blocks, held
    scores.count = len(rows)
    scores._frequencies = frequencies
    return scores


cdef int not_json(int rc) except? -1:
    # A sentence of its own: this is what a program that feeds us sees first.
    if rc == DYN_EPROTO:
        detail = dyn_error_detail().decode("utf-8", "replace")
        dyn_error_clear()
        from dynamo.errors import InvalidArgument
        raise InvalidArgument(f"not a KV cache event: {detail}")
    return check(rc)


cdef struct Rows:
    dyn_index_block *at
    size_t count, room


cdef int collect(void *user, const dyn_index_block *block) noexcept nogil:
    # The index is locked: nothing of Python may run here.
    cdef Rows *rows = <Rows *>user
    cdef dyn_index_block *at
    if rows.count == rows.room:
        rows.room = rows.room * 2 if rows.room else 256
        at = <dyn_index_block *>PyMem_RawRealloc(rows.at, rows.room * sizeof(dyn_index_block))
        if at == NULL:
            return DYN_ENOMEM
        rows.at = at
    rows.at[rows.count] = block[0]
    rows.count += 1
    return 0


cdef list events_of(Rows *rows):
    cdef size_t i, size
    cdef char small[1024]
    cdef dyn_event event
    cdef list out = []
    dyn_event_init(&event)
    event.kind = DYN_EVENT_STORED
    event.tier = DYN_TIER_DEVICE
    event.count = 1
    for i in range(rows.count):
        event.event_id = i
        event.worker_id = rows.at[i].worker
        event.dp_rank = rows.at[i].dp_rank
        event.has_parent = rows.at[i].has_parent
        event.parent = rows.at[i].parent_hash
        event.block_hashes = &rows.at[i].block_hash
        event.tokens_hashes = &rows.at[i].tokens_hash
        assert dyn_event_json_bound(&event) <= sizeof(small)
        size = dyn_event_write_json(&event, DYN_EVENT_ROUTER, small)
        out.append(small[:size].decode("ascii"))
    return out


def _bytes(n):
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"


cdef dict stats_dict(dyn_index_stats *s):
    return {
        "blocks": s.blocks, "worker_blocks": s.worker_blocks, "workers": s.workers, "sets": s.sets,
        "bytes": s.bytes, "max_bytes": s.max_bytes, "evicted": s.evicted, "limbo_bytes": s.limbo_bytes,
    }


cdef class RadixTree:
    """RadixTree(expiration_duration_secs=None, *, max_bytes=0, aliases=False)\n--\n\n\
An index of cached blocks, kept by the events of the workers.

    Parameters
    ----------
    expiration_duration_secs : float, optional
        Count finds per block for this long: `OverlapScores.frequencies`. Such finds take a lock.
    max_bytes : int, optional
        Never allocate more; at the bound, blocks at the end of a prefix that nobody asked for make room. 0: no bound.
    aliases : bool, optional
        A worker may remove a block by the differing hash under which it stored it, where another worker was first.
        Dynamo's tree refuses that (the default here); engines that salt their hashes need it.

    Notes
    -----
    Finds may run on any thread, beside events on another one. Memory is about 49 bytes per block, however many
    workers hold it.

    Examples
    --------
    >>> tree = RadixTree()
    >>> tree.apply_stored(7, [1, 2, 3], [101, 102, 103])
    >>> tree.find_matches([101, 102, 999]).scores
    {(7, 0): 2}
    """

    def __cinit__(self, expiration_duration_secs=None, *, max_bytes=0, aliases=False):
        cdef dyn_index_options options
        memset(&options, 0, sizeof(options))
        if expiration_duration_secs is not None:
            if not 0 < real(expiration_duration_secs, "expiration_duration_secs") < 1e12:
                raise ValueError(f"expiration_duration_secs is {expiration_duration_secs}: must be above 0")
            options.expiration_ms = max(int(expiration_duration_secs * 1000), 1)
        options.max_bytes = max_bytes
        options.aliases = bool(aliases)
        self.expiration_ms = options.expiration_ms
        check(dyn_index_new(&self.ptr, &options))

    def __dealloc__(self):
        dyn_index_unref(self.ptr)

    def find_matches(self, sequence, early_exit=False):
        """Who holds how many leading blocks of this sequence.

        Parameters
        ----------
        sequence : list of int or uint64 array
            Local block hashes (``tokens_hash``) from the start of the sequence.
        early_exit : bool, optional
            Stop, as Dynamo's tree does, where one worker is left and its run of blocks ends: its score may then be less
            than it holds. Not faster here.

        Returns
        -------
        OverlapScores
        """
        cdef Hashes hashes
        cdef OverlapScores found = OverlapScores.__new__(OverlapScores)
        cdef bint early = early_exit
        take_hashes(sequence, &hashes)
        try:
            if self.expiration_ms != 0:
                self.find_counted(&hashes, found)
            else:
                self.find(&hashes, found, early)
        finally:
            drop_hashes(&hashes)
        return found

    cdef int find(self, Hashes *hashes, OverlapScores found, bint early) except -1:
        cdef size_t room = FEW_OVERLAPS, n
        cdef dyn_overlap *rows = found.few
        while True:
            if early:
                n = dyn_index_find_early(self.ptr, hashes.data, hashes.count, rows, room)
            elif hashes.count < GIL_FROM:
                n = dyn_index_find(self.ptr, hashes.data, hashes.count, rows, room)
            else:
                with nogil:
                    n = dyn_index_find(self.ptr, hashes.data, hashes.count, rows, room)
            if n <= room:
                break
            room = n + n // 8
            rows = found.reserve(room)
        found.count = n
        return 0

    cdef int find_counted(self, Hashes *hashes, OverlapScores found) except -1:
        cdef size_t room, n = 0, counted = 0
        cdef uint64_t now = dyn_now_ns() // 1000000
        cdef dyn_index_stats stats
        cdef uint32_t *frequencies = <uint32_t *>PyMem_RawMalloc(max(hashes.count, 1) * sizeof(uint32_t))
        if frequencies == NULL:
            raise MemoryError()
        try:
            dyn_index_stats_get(self.ptr, &stats)
            room = max(stats.workers, FEW_OVERLAPS) + 64    # a find counts: it is not made twice
            found.reserve(room)
            check(dyn_index_find_counted(self.ptr, hashes.data, hashes.count, now, found.many, room, &n, frequencies,
                                         &counted))
            found.count = min(n, room)
            found._frequencies = [frequencies[i] for i in range(counted)]
        finally:
            PyMem_RawFree(frequencies)
        return 0

    def apply_event(self, worker_id, kv_cache_event_bytes):
        """Apply one event: ``{"event_id": ..., "data": ..., "dp_rank": 0}`` as JSON bytes.

        Raises
        ------
        ValueError
            The bytes are not such an event.
        RuntimeError
            The event refers to a block or parent that this worker does not hold (`dynamo.errors.BlockError`).
            The other blocks of a removal are removed nevertheless.
        TypeError
            Not bytes.
        """
        cdef uint64_t worker = u64(worker_id)
        cdef dyn_event event
        cdef int rc
        if not PyBytes_CheckExact(kv_cache_event_bytes):
            raise TypeError(f"an event is a {type(kv_cache_event_bytes).__name__}: must be bytes")
        dyn_event_init(&event)
        rc = dyn_event_read_json(&event, DYN_EVENT_INNER, PyBytes_AS_STRING(kv_cache_event_bytes),
                                 PyBytes_GET_SIZE(kv_cache_event_bytes))
        if rc < 0:
            dyn_event_reset(&event)
            not_json(rc)
        if event.tier != DYN_TIER_DEVICE:
            rc = 0      # copies in host memory or on disk are not what a router looks for here
        elif event.kind == DYN_EVENT_STORED:
            rc = dyn_index_stored(self.ptr, worker, event.dp_rank, &event.parent if event.has_parent else NULL,
                                  event.block_hashes, event.tokens_hashes, event.count)
        elif event.kind == DYN_EVENT_REMOVED:
            rc = dyn_index_removed(self.ptr, worker, event.dp_rank, event.block_hashes, event.count)
        else:
            with nogil:
                rc = dyn_index_cleared(self.ptr, worker, event.dp_rank)
        dyn_event_reset(&event)
        check(rc)

    def apply_stored(self, worker_id, block_hashes, tokens_hashes, parent=None, dp_rank=0):
        """The worker stored blocks, one below the other.

        Parameters
        ----------
        worker_id : int
        block_hashes, tokens_hashes : list of int or uint64 array
            The engine's names of the blocks and their local hashes; equally many.
        parent : int, optional
            The name of the block above the first one; None: the first is at the start of a sequence.
        dp_rank : int, optional

        Raises
        ------
        RuntimeError
            The worker does not hold `parent` (`dynamo.errors.BlockError`).
        """
        cdef uint64_t worker = u64(worker_id), above = 0
        cdef uint32_t rank = dp_rank
        cdef bint has_parent = parent is not None
        cdef Hashes names, tokens
        cdef int rc
        if has_parent:
            above = u64(parent)
        take_hashes(block_hashes, &names)
        try:
            take_hashes(tokens_hashes, &tokens)
        except BaseException:
            drop_hashes(&names)
            raise
        if names.count != tokens.count:
            drop_hashes(&names)
            drop_hashes(&tokens)
            raise ValueError(f"{names.count} block_hashes and {tokens.count} tokens_hashes: must be equally many")
        rc = dyn_index_stored(self.ptr, worker, rank, &above if has_parent else NULL, names.data, tokens.data,
                              names.count)
        drop_hashes(&names)
        drop_hashes(&tokens)
        check(rc)

    def apply_removed(self, worker_id, block_hashes, dp_rank=0):
        """The worker removed these blocks.

        Raises
        ------
        RuntimeError
            It did not hold one of them (`dynamo.errors.BlockError`); the others are removed.
        """
        cdef uint64_t worker = u64(worker_id)
        cdef uint32_t rank = dp_rank
        cdef Hashes names
        cdef int rc
        take_hashes(block_hashes, &names)
        rc = dyn_index_removed(self.ptr, worker, rank, names.data, names.count)
        drop_hashes(&names)
        check(rc)

    def apply_cleared(self, worker_id, dp_rank=0):
        """The worker holds nothing on this rank any more."""
        cdef uint64_t worker = u64(worker_id)
        cdef uint32_t rank = dp_rank
        cdef int rc
        with nogil:
            rc = dyn_index_cleared(self.ptr, worker, rank)
        check(rc)

    def remove_worker(self, worker_id):
        """Forget a worker, on all its ranks. An unknown one is fine."""
        cdef uint64_t worker = u64(worker_id)
        cdef int rc
        with nogil:
            rc = dyn_index_remove_worker(self.ptr, worker)
        check(rc)

    def clear_all_blocks(self, worker_id):
        """The worker holds nothing any more, on all its ranks."""
        cdef uint64_t worker = u64(worker_id)
        cdef int rc
        with nogil:
            rc = dyn_index_clear_worker(self.ptr, worker)
        check(rc)

    def dump_tree_as_events(self):
        """Everything as stored events of one block each, parents first.

        Returns
        -------
        list of str
            JSON, ``{"worker_id": ..., "event": {...}}``; ``apply_event(worker_id, event)`` of each rebuilds the tree.
        """
        cdef Rows rows
        cdef int rc
        memset(&rows, 0, sizeof(rows))
        try:
            with nogil:
                rc = dyn_index_dump(self.ptr, collect, &rows)
            check(rc)
            return events_of(&rows)
        finally:
            PyMem_RawFree(rows.at)

    def held(self, worker_id, dp_rank=0):
        """How many blocks a worker holds on a rank."""
        return dyn_index_held(self.ptr, u64(worker_id), dp_rank)

    def workers(self):
        """All known workers with the blocks that they hold: ``{(worker_id, dp_rank): int}``."""
        cdef size_t i, room = 64, n
        cdef dyn_overlap *rows = NULL
        try:
            while True:
                PyMem_RawFree(rows)
                rows = <dyn_overlap *>PyMem_RawMalloc(room * sizeof(dyn_overlap))
                if rows == NULL:
                    raise MemoryError()
                n = dyn_index_workers(self.ptr, rows, room)
                if n <= room:
                    break
                room = n + 64
            return {(rows[i].worker, rows[i].dp_rank): rows[i].held for i in range(n)}
        finally:
            PyMem_RawFree(rows)

    def stats(self):
        """Sizes: blocks, worker_blocks, workers, sets, bytes, max_bytes, evicted, limbo_bytes."""
        cdef dyn_index_stats stats
        dyn_index_stats_get(self.ptr, &stats)
        return stats_dict(&stats)

    @property
    def nbytes(self):
        """Bytes allocated by the index, exactly."""
        cdef dyn_index_stats stats
        dyn_index_stats_get(self.ptr, &stats)
        return stats.bytes

    @property
    def max_bytes(self):
        """The bound of `nbytes`; 0 when there is none."""
        cdef dyn_index_stats stats
        dyn_index_stats_get(self.ptr, &stats)
        return stats.max_bytes

    def __len__(self):
        cdef dyn_index_stats stats
        dyn_index_stats_get(self.ptr, &stats)
        return stats.blocks

    def __bool__(self):
        return True

    def __sizeof__(self):
        return object.__sizeof__(self) + self.nbytes

    def __repr__(self):
        s = self.stats()
        return f"<RadixTree {s['blocks']} blocks, {s['workers']} workers, {_bytes(s['bytes'])}>"

    def _repr_html_(self):
        from dynamo._html import MOST_ROWS, html_table
        s = self.stats()
        names = self.workers()
        rows = [(f"{worker:x}", rank, held) for (worker, rank), held in sorted(names.items())[:MOST_ROWS]]
        title = f"RadixTree: {s['blocks']} blocks, {_bytes(s['bytes'])}"
        return html_table(title, rows, ("worker", "rank", "blocks"), len(names))

    def __reduce__(self):
        raise TypeError("a RadixTree cannot be pickled: other threads may be writing to it; send dump_tree_as_events()")


cdef class ApproxTree:
    """ApproxTree(ttl_secs=120.0, *, max_bytes=0)\n--\n\n\
An index without events: a worker to which a sequence was routed holds its blocks for a while.

    Parameters
    ----------
    ttl_secs : float
        How long; the end is rounded up to 100 ms.
    max_bytes : int, optional
        Never allocate more; at the bound the oldest decisions are forgotten. 0: no bound.

    Examples
    --------
    >>> tree = ApproxTree(120)
    >>> tree.routed(7, [101, 102])
    >>> tree.find_matches([101, 102, 103]).scores
    {(7, 0): 2}
    """

    def __cinit__(self, ttl_secs=120.0, *, max_bytes=0):
        if not 0 < real(ttl_secs, "ttl_secs") < 1e9:
            raise ValueError(f"ttl_secs is {ttl_secs}: must be above 0")
        check(dyn_approx_new(&self.ptr, max(int(ttl_secs * 1000), 1), max_bytes))

    def __dealloc__(self):
        dyn_approx_unref(self.ptr)

    def routed(self, worker_id, sequence, dp_rank=0, *, now_ms=None):
        """The sequence (local block hashes) went to this worker.

        `now_ms` is for tests and replays: a clock that goes forward; by default the monotonic one.
        """
        cdef uint64_t worker = u64(worker_id), now = dyn_now_ns() // 1000000 if now_ms is None else now_ms
        cdef uint32_t rank = dp_rank
        cdef Hashes hashes
        cdef int rc
        take_hashes(sequence, &hashes)
        rc = dyn_approx_routed(self.ptr, worker, rank, hashes.data, hashes.count, now)
        drop_hashes(&hashes)
        check(rc)

    def find_matches(self, sequence, *, now_ms=None):
        """Who is believed to hold how many leading blocks of this sequence. See `RadixTree.find_matches`."""
        cdef uint64_t now = dyn_now_ns() // 1000000 if now_ms is None else now_ms
        cdef Hashes hashes
        cdef OverlapScores found = OverlapScores.__new__(OverlapScores)
        cdef size_t room = FEW_OVERLAPS, n
        cdef dyn_overlap *rows = found.few
        take_hashes(sequence, &hashes)
        try:
            while True:
                n = dyn_approx_find(self.ptr, hashes.data, hashes.count, now, rows, room)
                if n <= room:
                    break
                room = n + n // 8
                rows = found.reserve(room)
            found.count = n
        finally:
            drop_hashes(&hashes)
        return found

    def remove_worker(self, worker_id):
        """Forget a worker, on all its ranks. An unknown one is fine."""
        cdef uint64_t worker = u64(worker_id)
        cdef int rc
        with nogil:
            rc = dyn_approx_remove_worker(self.ptr, worker)
        check(rc)

    def dump_tree_as_events(self):
        """As `RadixTree.dump_tree_as_events`; a block's hash is its sequence hash."""
        cdef Rows rows
        cdef int rc
        memset(&rows, 0, sizeof(rows))
        try:
            with nogil:
                rc = dyn_approx_dump(self.ptr, collect, &rows)
            check(rc)
            return events_of(&rows)
        finally:
            PyMem_RawFree(rows.at)

    def stats(self):
        """As `RadixTree.stats`."""
        cdef dyn_index_stats stats
        dyn_approx_stats_get(self.ptr, &stats)
        return stats_dict(&stats)

    @property
    def nbytes(self):
        """Bytes allocated by the index, exactly."""
        return self.stats()["bytes"]

    def __len__(self):
        return self.stats()["blocks"]

    def __bool__(self):
        return True

    def __repr__(self):
        s = self.stats()
        return f"<ApproxTree {s['blocks']} blocks, {s['workers']} workers, {_bytes(s['bytes'])}>"
