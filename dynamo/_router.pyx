# cython: boundscheck=False, wraparound=False
"""Picking a worker: hash the prompt, find who holds it, pick and book, in one call. The C area `router`."""
import asyncio
import json

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from dynamo._errors cimport check, error_of
from dynamo._hash cimport Hashes, Tokens, drop_hashes, seed_of, take_hashes, take_tokens, u64
from dynamo._mailbox cimport Mailbox, Receiver, mailbox_of
from dynamo._metrics cimport Metric
from dynamo.c_common cimport DYN_EAGAIN, DYN_ENOENT, DYN_ENOMEM, DYN_OK, dyn_error_clear, dyn_now_ns
from dynamo.c_hash cimport dyn_hash_block_count, dyn_hash_blocks, dyn_hash_chain
from dynamo.c_index cimport *
from dynamo.c_metrics cimport dyn_series_observe, dyn_series_ref, dyn_series_unref
from dynamo.c_mailbox cimport dyn_mail, dyn_mailbox, dyn_mailbox_put, dyn_mailbox_ref, dyn_mailbox_unref
from dynamo.c_router cimport *

from dynamo.errors import InvalidArgument
from dynamo.llm.router_config import KvRouterConfig, RouterMode, RoutingConstraints

# One row type, two headers: what a find gave goes to the router as it is.
cdef extern from *:
    """
    #include <stddef.h>
    #include "dynamo/index.h"
    #include "dynamo/router.h"
    #define SAME(a, b) (offsetof(dyn_overlap, a) == offsetof(dyn_router_held, b))
    _Static_assert(sizeof(dyn_overlap) == sizeof(dyn_router_held) && SAME(worker, worker) && SAME(dp_rank, rank) &&
                   SAME(blocks, blocks) && SAME(held, tree), "dyn_overlap and dyn_router_held differ");
    """

cdef enum:
    WITH_GIL = 16384        # prompts of more tokens are hashed without the GIL

_POLICIES = {
    RouterMode.KV: DYN_ROUTER_KV,
    RouterMode.RoundRobin: DYN_ROUTER_ROUND_ROBIN,
    RouterMode.Random: DYN_ROUTER_RANDOM,
    RouterMode.PowerOfTwoChoices: DYN_ROUTER_TWO_CHOICES,
    RouterMode.LeastLoaded: DYN_ROUTER_LEAST_LOADED,
    RouterMode.DeviceAwareWeighted: DYN_ROUTER_LEAST_LOADED,     # with the weights of the workers
    RouterMode.Direct: DYN_ROUTER_DIRECT,
}
_FORMULAS = {"credit": DYN_ROUTER_COST_CREDIT, "weight": DYN_ROUTER_COST_WEIGHT, "product": DYN_ROUTER_COST_PRODUCT}
_TIES = {"random": DYN_ROUTER_TIE_RANDOM, "smallest_tree": DYN_ROUTER_TIE_SMALLEST_TREE}
_QUEUES = {"fcfs": DYN_ROUTER_FCFS, "lcfs": DYN_ROUTER_LCFS, "wspt": DYN_ROUTER_WSPT}
_TYPES = {"aggregated": DYN_ROUTER_AGGREGATED, "prefill": DYN_ROUTER_PREFILL, "decode": DYN_ROUTER_DECODE,
          "encode": DYN_ROUTER_ENCODE}
_TYPE_NAMES = {value: name for name, value in _TYPES.items()}
_VERDICTS = {DYN_ROUTER_ELIGIBLE: "eligible", DYN_ROUTER_NOT_ALLOWED: "not allowed", DYN_ROUTER_TAINTED: "tainted",
             DYN_ROUTER_BUSY: "busy", DYN_ROUTER_AVOIDED: "avoided"}
_OVERRIDES = ("overlap_score_weight", "overlap_score_credit", "prefill_load_scale", "router_temperature",
              "assume_kv_reuse", "track_prefill_tokens", "shared_cache_multiplier")


# ---- scratch -------------------------------------------------------------------------------------------------------

cdef int grow(void **items, size_t *room, size_t want, size_t item) except -1:
    if want <= room[0]:
        return 0
    want += want // 2 + 64
    cdef void *larger = PyMem_RawRealloc(items[0], want * item)
    if larger == NULL:
        raise MemoryError()
    items[0] = larger
    room[0] = want
    return 0


cdef void drop(Scratch *scratch) noexcept nogil:
    PyMem_RawFree(scratch.local)
    PyMem_RawFree(scratch.rows)


# ---- finding -------------------------------------------------------------------------------------------------------

cdef size_t find(SelectionCore core, Scratch *scratch, size_t blocks) except? 0xffffffffffffffff:
    """Who holds how much: rows of scratch. The index and the own decisions each give rows; the larger counts."""
    cdef size_t count = 0, more, i, j, own
    cdef dyn_overlap *rows
    if core.index != NULL:
        while True:
            count = dyn_index_find(core.index, scratch.local, blocks, <dyn_overlap *>scratch.rows, scratch.row_room)
            if count <= scratch.row_room:
                break
            grow(&scratch.rows, &scratch.row_room, count, sizeof(dyn_overlap))
    if core.approx != NULL:
        while True:
            rows = <dyn_overlap *>scratch.rows
            more = dyn_approx_find(core.approx, scratch.local, blocks, dyn_now_ns() // 1000000, rows + count,
                                   scratch.row_room - count)
            if count + more <= scratch.row_room:
                break
            grow(&scratch.rows, &scratch.row_room, count + more, sizeof(dyn_overlap))
        if count == 0:
            return more
        own = count
        for i in range(count, count + more):
            for j in range(own):
                if rows[j].worker == rows[i].worker and rows[j].dp_rank == rows[i].dp_rank:
                    if rows[i].blocks > rows[j].blocks:
                        rows[j].blocks = rows[i].blocks
                    break
            else:
                rows[count] = rows[i]
                count += 1
    return count


# ---- events --------------------------------------------------------------------------------------------------------

cdef int on_stored(void *user, uint64_t worker, uint32_t dp_rank, const uint64_t *parent, const uint64_t *block_hashes,
                   const uint64_t *tokens_hashes, size_t count) noexcept nogil:
    cdef Ears *ears = <Ears *>user
    dyn_router_heard(ears.router, worker, dp_rank)
    if ears.index == NULL:      # a mode that keeps no index
        return 0
    return dyn_index_on_stored(ears.index, worker, dp_rank, parent, block_hashes, tokens_hashes, count)


cdef int on_removed(void *user, uint64_t worker, uint32_t dp_rank, const uint64_t *block_hashes,
                    size_t count) noexcept nogil:
    cdef Ears *ears = <Ears *>user
    dyn_router_heard(ears.router, worker, dp_rank)
    if ears.index == NULL:      # a mode that keeps no index
        return 0
    return dyn_index_on_removed(ears.index, worker, dp_rank, block_hashes, count)


cdef int on_cleared(void *user, uint64_t worker, uint32_t dp_rank) noexcept nogil:
    cdef Ears *ears = <Ears *>user
    dyn_router_heard(ears.router, worker, dp_rank)
    if ears.index == NULL:      # a mode that keeps no index
        return 0
    return dyn_index_on_cleared(ears.index, worker, dp_rank)


# ---- waiting -------------------------------------------------------------------------------------------------------

# One request that may have to wait: made before the pick, mailed when its turn comes.
cdef struct TurnMail:
    dyn_mail mail
    dyn_mailbox *box
    dyn_approx *approx
    int rc
    dyn_router_choice choice
    size_t blocks
    uint64_t local[1]


cdef void drop_turn(dyn_mail *mail) noexcept nogil:
    cdef TurnMail *turn = <TurnMail *>mail
    dyn_mailbox_unref(turn.box)
    dyn_approx_unref(turn.approx)
    PyMem_RawFree(turn)


cdef void on_turn(void *user, int rc, const dyn_router_choice *choice) noexcept nogil:
    cdef TurnMail *turn = <TurnMail *>user
    cdef dyn_mailbox *box = dyn_mailbox_ref(turn.box)
    turn.rc = rc
    if rc == DYN_OK:
        turn.choice = choice[0]
        if turn.approx != NULL:
            dyn_approx_routed(turn.approx, choice.worker, choice.rank, turn.local, turn.blocks, dyn_now_ns() // 1000000)
    dyn_mailbox_put(box, &turn.mail)
    dyn_mailbox_unref(box)


@cython.final
cdef class Turn(Receiver):
    """A request that waits for its turn; await it to get the `Decision`. Cancelling gives the place up."""
    cdef SelectionCore core
    cdef object future
    cdef readonly uint64_t ticket

    cdef void on_mail(self, dyn_mail *mail) noexcept:
        cdef TurnMail *turn = <TurnMail *>mail
        try:
            if not self.future.done():
                if turn.rc == DYN_OK:
                    self.future.set_result(decision(&turn.choice, None))
                else:
                    self.future.set_exception(error_of(turn.rc, "the request waited in the router's queue"))
            elif turn.rc == DYN_OK:
                dyn_router_free(self.core.router, turn.choice.ticket)    # cancelled at the last moment
        finally:
            mail.drop(mail)
            Py_DECREF(self)

    def cancel(self):
        """Give the place in the queue up."""
        self.future.cancel()
        dyn_router_free(self.core.router, self.ticket)
        dyn_error_clear()

    def __await__(self):
        return self._wait().__await__()

    async def _wait(self):
        try:
            return await self.future
        except asyncio.CancelledError:
            self.cancel()
            raise


# ---- the answer ----------------------------------------------------------------------------------------------------

cdef class Decision:
    """Where a request goes.

    Attributes
    ----------
    worker_id, dp_rank : the worker
    overlap_blocks : leading blocks of the prompt that it holds
    required_blocks : blocks of the whole prompt, the last one perhaps not full
    eligible : how many workers the choice was among
    cost : of the chosen one, by the formula, also in modes that do not look at it
    ticket : of the booking, for `prefill_done`, `output` and `free`; 0 when nothing was booked
    reasons : one dict per worker that says why, or None when that was not asked for
    """

    def __repr__(self):
        return (f"Decision(worker_id={self.worker_id}, dp_rank={self.dp_rank}, overlap_blocks={self.overlap_blocks}, "
                f"required_blocks={self.required_blocks}, cost={self.cost:g}, ticket={self.ticket})")


cdef Decision decision(const dyn_router_choice *choice, list reasons):
    cdef Decision self = Decision.__new__(Decision)
    self.worker_id = choice.worker
    self.dp_rank = choice.rank
    self.overlap_blocks = choice.overlap_blocks
    self.required_blocks = choice.required_blocks
    self.eligible = choice.eligible
    self.cost = choice.cost
    self.ticket = choice.ticket
    self.reasons = reasons
    return self


cdef list why(const dyn_router_reason *rows, size_t count):
    return [{"worker_id": rows[i].worker, "dp_rank": rows[i].rank, "verdict": _VERDICTS[rows[i].verdict],
             "chosen": rows[i].chosen, "overlap_blocks": rows[i].overlap_blocks,
             "active_requests": rows[i].active_requests, "prefill_tokens": rows[i].prefill_tokens,
             "prefill_blocks": rows[i].prefill_blocks, "decode_blocks": rows[i].decode_blocks,
             "cost": rows[i].cost} for i in range(count)]


cdef int fill_override(dyn_router_override *override, object given) except -1:
    unknown = set(given) - set(_OVERRIDES)
    if unknown:
        raise InvalidArgument(f"router_config_override has unknown members: {', '.join(sorted(map(str, unknown)))}; "
                              f"known: {', '.join(_OVERRIDES)}")
    value = given.get("overlap_score_weight")
    if value is not None:
        override.set |= DYN_ROUTER_SET_WEIGHT
        override.overlap_score_weight = value
    value = given.get("overlap_score_credit")
    if value is not None:
        override.set |= DYN_ROUTER_SET_CREDIT
        override.overlap_score_credit = value
    value = given.get("prefill_load_scale")
    if value is not None:
        override.set |= DYN_ROUTER_SET_PREFILL_SCALE
        override.prefill_load_scale = value
    value = given.get("router_temperature")
    if value is not None:
        override.set |= DYN_ROUTER_SET_TEMPERATURE
        override.temperature = value
    value = given.get("shared_cache_multiplier")
    if value is not None:
        override.set |= DYN_ROUTER_SET_SHARED
        override.shared_cache_multiplier = value
    value = given.get("assume_kv_reuse")
    if value is not None:
        override.set |= DYN_ROUTER_SET_KV_REUSE
        override.assume_kv_reuse = value
    value = given.get("track_prefill_tokens")
    if value is not None:
        override.set |= DYN_ROUTER_SET_TRACK_PREFILL
        override.track_prefill_tokens = value
    return 0


cdef void *fill_eligibility(dyn_router_request *r, object allowed, object constraints) except NULL:
    """Allowed ids and taints, all in one block that is to be freed after the pick."""
    cdef list ids = [u64(value) for value in allowed] if allowed is not None else []
    cdef list required = [label.encode() for label in constraints.required_taints] if constraints is not None else []
    cdef dict preferred = constraints.preferred_taints if constraints is not None else {}
    cdef list labels = required + [label.encode() for label in preferred]
    cdef size_t i, size = 1 + len(ids) * sizeof(uint64_t) + len(preferred) * sizeof(double)
    size += len(labels) * sizeof(char *)
    for label in labels:
        size += len(label) + 1
    cdef char *block = <char *>PyMem_RawMalloc(size)
    if block == NULL:
        raise MemoryError()
    cdef uint64_t *id_at = <uint64_t *>block
    cdef double *weight_at = <double *>(id_at + len(ids))
    cdef char **label_at = <char **>(weight_at + len(preferred))
    cdef char *text_at = <char *>(label_at + len(labels))
    try:
        for i in range(<size_t>len(ids)):
            id_at[i] = ids[i]
        i = 0
        for weight in preferred.values():
            weight_at[i] = weight
            i += 1
        i = 0
        for label in labels:
            label_at[i] = text_at
            memcpy(text_at, PyBytes_AS_STRING(label), PyBytes_GET_SIZE(label) + 1)
            text_at += PyBytes_GET_SIZE(label) + 1
            i += 1
    except BaseException:
        PyMem_RawFree(block)
        raise
    r.only_allowed = allowed is not None
    r.allowed = id_at
    r.allowed_count = len(ids)
    r.required_taints = <const char *const *>label_at
    r.required_taint_count = len(required)
    r.preferred_taints = <const char *const *>(label_at + len(required))
    r.preferred_weights = weight_at
    r.preferred_taint_count = len(preferred)
    return block


cdef bytes name_of(object request_id):
    return request_id if isinstance(request_id, bytes) else str(request_id).encode()


@cython.final
cdef class SelectionCore:
    """The part of a router that decides: workers, their load, what they hold. No network, no asyncio needed.

    Parameters
    ----------
    block_size : int
        Tokens of a block; must be that of the workers.
    config : KvRouterConfig, optional
    mode : RouterMode or str
    thresholds : LoadThresholdConfig, optional
        Busy bounds.

    Notes
    -----
    Every pick with ``book=True`` counts as load at once, until `free`. Calls are safe from any thread.

    Examples
    --------
    >>> core = SelectionCore(4)
    >>> core.put_worker(7)
    >>> core.pick([1, 2, 3, 4, 5], "a").worker_id
    7
    >>> core.free("a")
    True
    """

    def __cinit__(self, uint32_t block_size, config=None, *, mode=RouterMode.KV, thresholds=None):
        if config is None:
            config = KvRouterConfig()
        self.block_size = block_size
        self.config = config
        self.mode = RouterMode.parse(mode)
        cdef dyn_router_config c = self._c_config(config, thresholds)
        check(dyn_router_new(&self.router, &c))
        cdef dyn_index_options options
        memset(&options, 0, sizeof(options))
        options.max_bytes = config.router_max_index_bytes
        options.aliases = True
        cdef double ttl = -1
        if self.mode == RouterMode.KV:
            if config.use_kv_events:
                check(dyn_index_new(&self.index, &options))
                if config.router_predicted_ttl_secs:
                    ttl = config.router_predicted_ttl_secs
            else:
                ttl = config.router_ttl_secs
            if ttl > 0:
                check(dyn_approx_new(&self.approx, <uint64_t>max(1.0, ttl * 1000), options.max_bytes))
        self.ears.index = self.index
        self.ears.router = self.router
        self.sink.user = &self.ears
        self.sink.stored = on_stored
        self.sink.removed = on_removed
        self.sink.cleared = on_cleared

    def __dealloc__(self):
        dyn_router_unref(self.router)
        dyn_index_unref(self.index)
        dyn_approx_unref(self.approx)
        drop(&self.spare)
        for stage in range(STAGES):
            dyn_series_unref(self.stages[stage])

    def time_stages(self, Metric block_hashing not None, Metric seq_hashing not None, Metric find not None,
                    Metric scheduling not None, Metric total not None):
        """Observe, in milliseconds, how long the stages of each booked pick take: histograms whose labels are given.

        What a request waits in the queue for is no part of it. Once, before the first pick.
        """
        cdef Metric metric
        if self.stages[0] != NULL:
            raise InvalidArgument("the stages are timed already")
        for metric in (block_hashing, seq_hashing, find, scheduling, total):
            metric.ready()
        for stage, metric in enumerate((block_hashing, seq_hashing, find, scheduling, total)):
            self.stages[stage] = dyn_series_ref(metric.series)

    cdef dyn_router_config _c_config(self, object config, object thresholds):
        cdef dyn_router_config c
        if not hasattr(config, "router_cost_formula"):
            raise TypeError(f"config must be a KvRouterConfig, not {type(config).__name__}")
        dyn_router_config_init(&c, self.block_size)
        c.policy = _POLICIES[self.mode]
        if config.router_cost_formula in _FORMULAS:
            c.formula = _FORMULAS[config.router_cost_formula]
        else:
            from dynamo import _plugin
            c.formula = DYN_ROUTER_COST_CUSTOM
            c.cost = <dyn_router_cost><uintptr_t>_plugin.cost_address(config.router_cost_formula)[0]
            c.cost_user = <void *><uintptr_t>_plugin.cost_address(config.router_cost_formula)[1]
        if "lmetric" in (config.router_prefill_policy, config.router_decode_policy):
            c.formula = DYN_ROUTER_COST_PRODUCT
        c.tie = _TIES[config.router_tie_break]
        c.overlap_score_weight = config.prefill_load_scale
        c.overlap_score_credit = config.overlap_score_credit
        c.overlap_score_credit_decay = config.overlap_score_credit_decay
        c.prefill_load_scale = config.prefill_load_scale
        c.decode_active_request_weight = config.decode_active_request_weight
        c.host_cache_hit_weight = config.host_cache_hit_weight
        c.disk_cache_hit_weight = config.disk_cache_hit_weight
        c.shared_cache_multiplier = config.shared_cache_multiplier or 0
        c.temperature = config.router_temperature
        c.track_active_blocks = config.router_track_active_blocks
        c.track_output_blocks = config.router_track_output_blocks
        c.track_prefill_tokens = config.router_track_prefill_tokens
        c.assume_kv_reuse = config.router_assume_kv_reuse
        c.expiry_seconds = config.router_active_request_expiry_secs
        events = self.mode == RouterMode.KV and config.use_kv_events
        c.silent_seconds = config.router_silent_worker_secs if events else 0
        if config.router_queue_threshold is not None:
            c.queue_threshold = config.router_queue_threshold
        c.queue_policy = _QUEUES[config.router_queue_policy]
        c.max_requests = config.router_max_active_requests
        c.seed = config.router_seed
        if thresholds is not None:
            if thresholds.active_decode_blocks_threshold is not None:
                c.busy_decode_blocks = thresholds.active_decode_blocks_threshold
            if thresholds.active_prefill_tokens_threshold is not None:
                c.busy_prefill_tokens = thresholds.active_prefill_tokens_threshold
            if thresholds.active_prefill_tokens_threshold_frac is not None:
                c.busy_prefill_fraction = thresholds.active_prefill_tokens_threshold_frac
        return c

    # -- workers

    def put_worker(self, worker_id, uint32_t dp_rank=0, *, total_kv_blocks=None, max_num_batched_tokens=None, taints=(),
                   str worker_type="aggregated", double weight=0.0):
        """Add a worker, or change the limits of one that is there."""
        cdef dyn_router_worker worker
        cdef const char **texts = NULL
        cdef size_t i = 0
        memset(&worker, 0, sizeof(worker))
        if worker_type not in _TYPES:
            raise InvalidArgument(f"worker_type is {worker_type!r}: one of {', '.join(_TYPES)}")
        labels = [label.encode() for label in sorted(taints)]
        worker.worker = u64(worker_id)
        worker.rank = dp_rank
        worker.type = _TYPES[worker_type]
        worker.total_kv_blocks = total_kv_blocks or 0
        worker.max_num_batched_tokens = max_num_batched_tokens or 0
        worker.weight = weight
        texts = <const char **>PyMem_RawMalloc((len(labels) + 1) * sizeof(char *))
        if texts == NULL:
            raise MemoryError()
        try:
            for label in labels:
                texts[i] = PyBytes_AS_STRING(label)
                i += 1
            worker.taints = texts
            worker.taint_count = i
            check(dyn_router_put_worker(self.router, &worker))
        finally:
            PyMem_RawFree(texts)

    def remove_worker(self, worker_id, dp_rank=None):
        """Take a worker out (all its ranks, or one) and forget what it holds. False when it was not there."""
        cdef uint64_t worker = u64(worker_id)
        cdef int rc = dyn_router_remove_worker(self.router, worker, DYN_ROUTER_ANY_RANK if dp_rank is None else dp_rank)
        if dp_rank is None:
            if self.index != NULL:
                check(dyn_index_remove_worker(self.index, worker))
            if self.approx != NULL:
                check(dyn_approx_remove_worker(self.approx, worker))
        elif self.index != NULL:
            check(dyn_index_cleared(self.index, worker, dp_rank))
        if rc == DYN_ENOENT:
            dyn_error_clear()
            return False
        check(rc)
        return True

    def report(self, worker_id, uint32_t dp_rank=0, *, active_decode_blocks=None, active_prefill_tokens=None,
               kv_used_blocks=None):
        """What a worker says about its load; the busy bounds use it. False when it is not in the table."""
        cdef uint64_t none = 0xffffffffffffffff
        cdef int rc = dyn_router_report(
            self.router, u64(worker_id), dp_rank,
            none if active_decode_blocks is None else <uint64_t>active_decode_blocks,
            none if active_prefill_tokens is None else <uint64_t>active_prefill_tokens,
            none if kv_used_blocks is None else <uint64_t>kv_used_blocks)
        if rc == DYN_ENOENT:
            dyn_error_clear()
            return False
        check(rc)
        return True

    def avoid(self, worker_id, double seconds, dp_rank=None):
        """Calls to a worker fail: for so long it is picked only when nobody else may serve. 0: it is well again.

        False when it is not in the table.
        """
        return self.told(dyn_router_avoid(self.router, u64(worker_id),
                                          DYN_ROUTER_ANY_RANK if dp_rank is None else dp_rank, seconds))

    def heard(self, worker_id, uint32_t dp_rank=0):
        """A cache event came from that worker."""
        dyn_router_heard(self.router, u64(worker_id), dp_rank)

    def configure(self, config=None, thresholds=None):
        """Change weights, bounds and busy thresholds; block size, mode and seed stay."""
        config = self.config if config is None else config
        cdef dyn_router_config c = self._c_config(config, thresholds)
        check(dyn_router_configure(self.router, &c))
        self.config = config

    # -- requests

    def pick(self, token_ids, request_id=None, **how):
        """Pick a worker for a prompt and book the request on it.

        Parameters
        ----------
        token_ids : array or sequence of int
            uint32 arrays are read in place.
        request_id : str, optional
            A name by which `prefill_done`, `output` and `free` find the booking; the ticket does as well.
        book : bool
            False: only ask. Then nothing counts as load. Default True.
        update_index : bool
            Without events, or with `router_predicted_ttl_secs`: believe this decision from now on. Default: as `book`.
        override : mapping
            Weights of this request: overlap_score_weight, overlap_score_credit, prefill_load_scale, router_temperature,
            assume_kv_reuse, track_prefill_tokens, shared_cache_multiplier.
        worker_id, dp_rank : int
            Only this worker; only this rank of it.
        allowed_worker_ids : iterable of int
            Only these.
        constraints : RoutingConstraints
            Required and preferred taints.
        expected_output_tokens : int
        strict_priority, priority_jump : int, float
            Place in the queue.
        ignore_busy : bool
        lora_name, cache_namespace, is_eagle :
            As for `compute_block_hash_for_seq`.
        block_hashes : uint64 array
            Local hashes of the complete blocks, when they are known already; `token_ids` may then be their number.
        why : bool
            Fill `Decision.reasons`.

        Returns
        -------
        Decision

        Raises
        ------
        Unavailable : no worker may serve the request
        Overloaded : all that may are busy, or a bound of the router is reached
        InvalidArgument : the request id is booked already, or a value that makes no sense
        """
        return self.decide(token_ids, request_id, how, None, True, True)

    def submit(self, token_ids, request_id=None, **how):
        """`pick`, but with a place in the queue: a `Decision`, or a `Turn` to await when every worker is full.

        Must be called on the thread of a running asyncio loop. Parameters as for `pick`.
        """
        cdef Turn turn
        if self.config.router_queue_threshold is None:
            return self.decide(token_ids, request_id, how, None, True, True)
        turn = Turn.__new__(Turn)
        turn.core = self
        turn.future = asyncio.get_running_loop().create_future()
        return self.decide(token_ids, request_id, how, turn, True, True)

    cdef object decide(self, object token_ids, object request_id, dict how, object turn, bint book, bint update):
        cdef Scratch scratch
        cdef Tokens ids
        cdef Hashes local
        cdef dyn_router_request r
        cdef dyn_router_choice choice
        cdef const uint32_t *tokens = NULL
        cdef size_t count = 0, blocks
        cdef uint64_t seed = 1337
        cdef bint eagle = False, want_why = False, mine
        cdef bytes name = None
        cdef int rc, stage
        cdef dyn_router_reason *reasons = NULL
        cdef size_t reason_room = 0, reason_count = 0
        cdef TurnMail *mail = NULL
        cdef Mailbox box
        cdef void *extra = NULL
        cdef uint64_t at[5]
        cdef bint timed = self.stages[0] != NULL
        hashes = None

        memset(&r, 0, sizeof(r))
        r.book = book
        at[0] = dyn_now_ns() if timed else 0
        if request_id is not None:
            name = name_of(request_id)
            r.name = PyBytes_AS_STRING(name)
            r.name_length = PyBytes_GET_SIZE(name)
        mine = not self.spare_taken
        if mine:
            scratch = self.spare
            self.spare_taken = True
        else:
            memset(&scratch, 0, sizeof(scratch))
        try:
            if how:
                how = dict(how)
                r.book = how.pop("book", book)
                update = how.pop("update_index", r.book)
                r.rank = DYN_ROUTER_ANY_RANK
                value = how.pop("override", None)
                if value:
                    fill_override(&r.override, value)
                value = how.pop("worker_id", None)
                rank = how.pop("dp_rank", None)
                if value is not None:
                    r.pinned = True
                    r.worker = u64(value)
                    if rank is not None:
                        r.rank = rank
                elif rank is not None:
                    r.rank_start = rank
                    r.rank_count = 1
                allowed = how.pop("allowed_worker_ids", None)
                constraints = RoutingConstraints.of(how.pop("constraints", None))
                if allowed is not None or constraints is not None:
                    extra = fill_eligibility(&r, allowed, constraints)
                r.expected_output = how.pop("expected_output_tokens", None) or 0
                r.strict_priority = how.pop("strict_priority", None) or 0
                r.priority_jump = how.pop("priority_jump", None) or 0.0
                r.ignore_busy = how.pop("ignore_busy", False)
                want_why = how.pop("why", False)
                eagle = how.pop("is_eagle", None) or False
                lora_name = how.pop("lora_name", None)
                cache_namespace = how.pop("cache_namespace", None)
                if lora_name or cache_namespace:
                    seed = seed_of(lora_name, cache_namespace)
                hashes = how.pop("block_hashes", None)
                if how:
                    raise TypeError(f"pick() has no argument {', '.join(how)}")
            if hashes is None:
                ids = take_tokens(token_ids)
                tokens, count = ids.data, ids.count
                blocks = dyn_hash_block_count(count, self.block_size, eagle)
                grow(<void **>&scratch.local, &scratch.block_room, 2 * blocks, sizeof(uint64_t))
                if count <= WITH_GIL:
                    dyn_hash_blocks(tokens, count, self.block_size, eagle, seed, scratch.local)
                    at[1] = dyn_now_ns() if timed else 0
                    dyn_hash_chain(scratch.local, blocks, NULL, scratch.local + blocks)
                else:
                    with nogil:
                        dyn_hash_blocks(tokens, count, self.block_size, eagle, seed, scratch.local)
                        at[1] = dyn_now_ns() if timed else 0
                        dyn_hash_chain(scratch.local, blocks, NULL, scratch.local + blocks)
            else:
                count = token_ids if isinstance(token_ids, int) else len(token_ids)
                take_hashes(hashes, &local)
                try:
                    blocks = local.count
                    grow(<void **>&scratch.local, &scratch.block_room, 2 * blocks, sizeof(uint64_t))
                    memcpy(scratch.local, local.data, blocks * sizeof(uint64_t))
                finally:
                    drop_hashes(&local)
                at[1] = dyn_now_ns() if timed else 0
                dyn_hash_chain(scratch.local, blocks, NULL, scratch.local + blocks)
            r.tokens = count
            r.sequence = scratch.local + blocks
            r.blocks = blocks
            at[2] = dyn_now_ns() if timed else 0
            r.overlap.count = find(self, &scratch, blocks)
            at[3] = dyn_now_ns() if timed else 0
            r.overlap.rows = <const dyn_router_held *>scratch.rows
            if want_why:
                reason_room = dyn_router_worker_count(self.router) + 8
                reasons = <dyn_router_reason *>PyMem_RawMalloc(reason_room * sizeof(dyn_router_reason))
                if reasons == NULL:
                    raise MemoryError()
            if turn is not None and r.book:
                box = mailbox_of((<Turn>turn).future.get_loop())
                mail = <TurnMail *>PyMem_RawMalloc(sizeof(TurnMail) + blocks * sizeof(uint64_t))
                if mail == NULL:
                    raise MemoryError()
                memset(mail, 0, sizeof(TurnMail))
                mail.mail.owner = <void *>turn
                mail.mail.drop = drop_turn
                mail.box = dyn_mailbox_ref(box.ptr)
                if update and self.approx != NULL:
                    mail.approx = dyn_approx_ref(self.approx)
                    mail.blocks = blocks
                    memcpy(mail.local, scratch.local, blocks * sizeof(uint64_t))
                r.ready = on_turn
                r.user = mail
                Py_INCREF(turn)     # given back by on_mail, or below when it does not wait
            rc = dyn_router_pick(self.router, &r, &choice, reasons, reason_room, &reason_count)
            if timed and r.book:
                at[4] = dyn_now_ns()
                for stage in range(4):
                    dyn_series_observe(self.stages[stage], (at[stage + 1] - at[stage]) / 1e6)
                dyn_series_observe(self.stages[4], (at[4] - at[0]) / 1e6)
            if mail != NULL:
                if rc == DYN_EAGAIN:
                    (<Turn>turn).ticket = choice.ticket
                    dyn_error_clear()
                    return turn
                drop_turn(&mail.mail)
                Py_DECREF(turn)
            check(rc)
            if update and self.approx != NULL and blocks > 0:
                check(dyn_approx_routed(self.approx, choice.worker, choice.rank, scratch.local, blocks,
                                        dyn_now_ns() // 1000000))
            return decision(&choice, why(reasons, reason_count) if want_why else None)
        finally:
            PyMem_RawFree(reasons)
            PyMem_RawFree(extra)
            if mine:
                self.spare = scratch
                self.spare_taken = False
            else:
                drop(&scratch)

    def best_worker(self, token_ids, request_id=None, bint update_index=False):
        """`(worker_id, dp_rank, overlap_blocks)`; books only with a request id. The short form of `pick`."""
        cdef Decision chosen = self.decide(token_ids, request_id, None, None, request_id is not None, update_index)
        return chosen.worker_id, chosen.dp_rank, chosen.overlap_blocks

    def explain(self, token_ids, **how):
        """What every worker's load would be with this prompt: one dict per worker, without a choice.

        Parameters as for `pick`, as far as they concern the prompt and the weights.
        """
        return self._explain(token_ids, how)

    cdef list _explain(self, object token_ids, dict how):
        how["book"] = False
        how["why"] = True
        how["ignore_busy"] = True
        if dyn_router_worker_count(self.router) == 0:
            return []
        return (<Decision>self.decide(token_ids, None, how, None, False, False)).reasons

    def potential_loads(self, token_ids, **how):
        """Per worker: `potential_prefill_tokens`, `potential_decode_blocks`, `active_requests`."""
        return [{"worker_id": row["worker_id"], "dp_rank": row["dp_rank"],
                 "potential_prefill_tokens": row["prefill_tokens"],
                 "potential_decode_blocks": int(row["decode_blocks"]),
                 "active_requests": row["active_requests"]} for row in self._explain(token_ids, how)]

    def overlaps(self, token_ids, **how):
        """(worker_id, dp_rank) -> leading blocks of the prompt that it holds; workers that hold none are left out."""
        return {(row["worker_id"], row["dp_rank"]): row["overlap_blocks"] for row in self._explain(token_ids, how)
                if row["overlap_blocks"]}

    cdef uint64_t ticket_of(self, object request) except? 0xffffffffffffffff:
        cdef bytes name
        if isinstance(request, int):
            return request
        name = name_of(request)
        return dyn_router_ticket(self.router, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))

    cdef object told(self, int rc):
        if rc == DYN_ENOENT:
            dyn_error_clear()
            return False
        check(rc)
        return True

    def ticket(self, request_id):
        """The ticket of a request id; 0 when it is neither booked nor waiting."""
        return self.ticket_of(request_id)

    def prefill_done(self, request):
        """The first token of a request came (a ticket, or a request id). False when it is not booked."""
        return self.told(dyn_router_prefill_done(self.router, self.ticket_of(request)))

    def output(self, request, uint64_t tokens):
        """So many more tokens came: a sign of life. False when it is not booked."""
        return self.told(dyn_router_output(self.router, self.ticket_of(request), tokens))

    def free(self, request):
        """A request is over. False when it is not booked (any more)."""
        return self.told(dyn_router_free(self.router, self.ticket_of(request)))

    def expire(self):
        """Drop bookings without a sign of life; picks do it by themselves. Returns how many."""
        return dyn_router_expire(self.router)

    # -- looking in

    def loads(self):
        """One dict per worker: limits, what is booked there, what it reported, whether it is busy or silent."""
        cdef size_t room = dyn_router_worker_count(self.router) + 8, count, i
        cdef dyn_router_load *rows = <dyn_router_load *>PyMem_RawMalloc(room * sizeof(dyn_router_load))
        if rows == NULL:
            raise MemoryError()
        try:
            count = min(room, dyn_router_loads(self.router, rows, room))
            return [{
                "worker_id": rows[i].worker,
                "dp_rank": rows[i].rank,
                "worker_type": _TYPE_NAMES[rows[i].type],
                "total_kv_blocks": rows[i].total_kv_blocks or None,
                "max_num_batched_tokens": rows[i].max_num_batched_tokens,
                "active_requests": rows[i].active_requests,
                "active_prefill_tokens": rows[i].active_prefill_tokens,
                "active_decode_blocks": rows[i].active_decode_blocks,
                "picks": rows[i].picks,
                "reported_decode_blocks": said(rows[i].reported_decode_blocks),
                "reported_prefill_tokens": said(rows[i].reported_prefill_tokens),
                "reported_kv_used_blocks": said(rows[i].reported_kv_used_blocks),
                "seconds_since_event": None if rows[i].seconds_since_event < 0 else rows[i].seconds_since_event,
                "busy": rows[i].busy,
                "avoided": rows[i].avoided,
                "silent": rows[i].silent,
            } for i in range(count)]
        finally:
            PyMem_RawFree(rows)

    def stats(self):
        """Counts and exact bytes of the router's own tables; `index_bytes` and `index_blocks` of the index."""
        cdef dyn_router_stats stats
        cdef dyn_index_stats held
        cdef size_t index_bytes = 0, index_blocks = 0, evicted = 0
        dyn_router_get_stats(self.router, &stats)
        if self.index != NULL:
            dyn_index_stats_get(self.index, &held)
            index_bytes, index_blocks, evicted = held.bytes, held.blocks, held.evicted
        if self.approx != NULL:
            dyn_approx_stats_get(self.approx, &held)
            index_bytes += held.bytes
            index_blocks += held.blocks
            evicted += held.evicted
        return {"workers": stats.workers, "booked": stats.booked, "waiting": stats.waiting, "blocks": stats.blocks,
                "bytes": stats.bytes, "picks": stats.picks, "waits": stats.waits, "expired": stats.expired,
                "refused": stats.refused, "index_bytes": index_bytes, "index_blocks": index_blocks,
                "index_evicted": evicted}

    def _kv_sink(self):
        # For `EventSubscriber.add(sink=core)`, which keeps this object as long as it writes into it.
        return PyCapsule_New(&self.sink, "dyn_kv_sink", NULL)

    def stored(self, worker_id, block_hashes, tokens_hashes, parent=None, uint32_t dp_rank=0):
        """The worker says that it holds these blocks, one below the other."""
        cdef Hashes blocks, local
        cdef uint64_t above = 0
        if self.index == NULL:
            raise InvalidArgument("this router does not listen to events: use_kv_events is off")
        if parent is not None:
            above = u64(parent)
        take_hashes(block_hashes, &blocks)
        try:
            take_hashes(tokens_hashes, &local)
            try:
                if blocks.count != local.count:
                    raise InvalidArgument(f"{blocks.count} block hashes, {local.count} tokens hashes: must be as many")
                if blocks.count > 0:
                    check(on_stored(&self.ears, u64(worker_id), dp_rank, NULL if parent is None else &above,
                                    blocks.data, local.data, blocks.count))
            finally:
                drop_hashes(&local)
        finally:
            drop_hashes(&blocks)

    def removed(self, worker_id, block_hashes, uint32_t dp_rank=0):
        """The worker says that it no longer holds these."""
        cdef Hashes blocks
        take_hashes(block_hashes, &blocks)
        try:
            if self.index != NULL and blocks.count > 0:
                check(on_removed(&self.ears, u64(worker_id), dp_rank, blocks.data, blocks.count))
        finally:
            drop_hashes(&blocks)

    def cleared(self, worker_id, uint32_t dp_rank=0):
        """The worker holds nothing any more."""
        if self.index != NULL:
            check(on_cleared(&self.ears, u64(worker_id), dp_rank))

    def dump_events(self):
        """What the index holds, as the JSON text of a list of router events; a parent comes before its children."""
        cdef list rows = []
        if self.index != NULL:
            check(dyn_index_dump(self.index, collect, <void *>rows))
        elif self.approx != NULL:
            check(dyn_approx_dump(self.approx, collect, <void *>rows))
        return json.dumps([{
            "worker_id": worker,
            "storage_tier": "device",
            "residency_domain": "worker",
            "event": {
                "event_id": event_id,
                "data": {"stored": {"parent_hash": parent, "start_position": None, "blocks": [
                    {"block_hash": block, "tokens_hash": local, "mm_extra_info": None}]}},
                "dp_rank": rank,
            },
        } for event_id, (worker, rank, parent, block, local) in enumerate(rows)], separators=(",", ":"))

    def __repr__(self):
        return (f"SelectionCore(block_size={self.block_size}, mode={self.mode.name}, "
                f"workers={dyn_router_worker_count(self.router)})")


cdef int collect(void *user, const dyn_index_block *block) noexcept with gil:
    try:
        (<list>user).append((block.worker, block.dp_rank, block.parent_hash if block.has_parent else None,
                             block.block_hash, block.tokens_hash))
    except MemoryError:
        return DYN_ENOMEM
    return DYN_OK


cdef object said(uint64_t value):
    return None if value == 0xffffffffffffffff else value
