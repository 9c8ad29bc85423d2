"""Who is there: small values under keys that live as long as their owner."""
import asyncio
import atexit
import collections
import os
import weakref

cimport cython

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport strdup

from dynamo._errors cimport check, error_of
from dynamo._loop cimport Loop, default_loop
from dynamo._mailbox cimport Mailbox, Receiver, mailbox_of
from dynamo._unbox cimport utf8
from dynamo.c_common cimport (
    DYN_EAGAIN, DYN_ECLOSED, DYN_ENOENT, DYN_ENOMEM, dyn_buf, dyn_buf_data, dyn_buf_ref, dyn_buf_size, dyn_buf_unref,
    dyn_error_clear)
from dynamo.c_discovery cimport (
    dyn_lease_id, dyn_lease_new, dyn_lease_revoke, dyn_store_backend, dyn_store_delete, dyn_store_get, dyn_store_list,
    dyn_store_open, dyn_store_put, dyn_store_ref, dyn_store_root, dyn_store_ttl_ms, dyn_store_unref, dyn_store_watch,
    dyn_watch, dyn_watch_close, dyn_watch_events, dyn_watch_resume)
from dynamo.c_mailbox cimport dyn_mail, dyn_mailbox, dyn_mailbox_put

cdef extern from *:
    """
    static inline int dyn_count(int *at, int n) { return __atomic_add_fetch(at, n, __ATOMIC_ACQ_REL); }
    static inline int dyn_swap(int *at, int n) { return __atomic_exchange_n(at, n, __ATOMIC_ACQ_REL); }
    """
    int dyn_count(int *at, int n) noexcept nogil
    int dyn_swap(int *at, int n) noexcept nogil

Change = collections.namedtuple("Change", "kind key value")
Change.__doc__ = "What a watch saw: kind is 'put', 'delete' or 'synced' (once: all that was there has been told)."

# Changes that wait for Python; what comes later waits in the store, as a difference.
cdef enum:
    LIMIT = 1024
cdef enum:
    PUT
    DELETE
    SYNCED
    END


cdef bytes _bytes_of(dyn_buf *value):
    return PyBytes_FromStringAndSize(<char *>dyn_buf_data(value), <Py_ssize_t>dyn_buf_size(value))


# ---- leases ---------------------------------------------------------------------------------------------------------
@cython.final
cdef class Lease:
    """Keys that end together; made by `Store.lease`."""

    @property
    def id(self):
        """A random positive integer below 2**63; serves as an instance id."""
        return self.number

    cpdef revoke(self):
        """Delete the keys of this lease. It cannot be used again."""
        cdef dyn_lease *ptr = self.ptr
        self.ptr = NULL
        if ptr != NULL and self.generation == _generation:
            with nogil:
                dyn_lease_revoke(ptr)

    def __dealloc__(self):
        if self.ptr != NULL and self.generation == _generation:
            with nogil:
                dyn_lease_revoke(self.ptr)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.revoke()

    def __repr__(self):
        return f"<Lease {self.number:x}{'' if self.ptr != NULL else ', revoked'}>"


# ---- the store ------------------------------------------------------------------------------------------------------
cdef dyn_store *_mem = NULL     # the one mem store of the process
cdef int _generation = 0        # how many forks ago the first process was
cdef object _open = weakref.WeakSet()


cdef struct found:
    found *after
    char *key
    dyn_buf *value


cdef int _collect(void *user, const char *key, dyn_buf *value) noexcept nogil:
    cdef found **tail = <found **>user
    cdef found *item = <found *>malloc(sizeof(found))
    if item == NULL:
        return DYN_ENOMEM
    item.key = strdup(key)
    if item.key == NULL:
        free(item)
        return DYN_ENOMEM
    item.value = dyn_buf_ref(value)
    item.after = tail[0]
    tail[0] = item
    return 0


@cython.final
cdef class Store:
    """Small values under keys, alive as long as their owner is, watched by everybody.

    Parameters
    ----------
    backend : {"file", "mem"}
        "file" is shared by all processes of this user and machine that use the same root; "mem" is one map for
        the whole process.
    root : path, optional
        The folder of "file". Default: the environment's ``DYN_FILE_KV``, else ``$TMPDIR/dynamo_store_kv``.
    ttl : float, optional
        Seconds after which others see a killed owner's keys vanish, 2 to 3600, the same for all processes on one
        root. Default: the environment's ``DYN_FILE_KV_TTL``, else 10.

    Notes
    -----
    Keys look like ``v1/instances/ns/component/endpoint/1f``: the first two parts name a bucket. Values are bytes
    of at most 1 MiB. Leases are kept alive by the loop thread in C: blocked Python does not lose them.
    """

    def __init__(self, backend="file", root=None, ttl=None):
        global _mem
        cdef bytes kind = utf8(backend, "backend"), path = b"" if root is None else os.fsencode(root)
        cdef const char *c_kind = kind
        cdef const char *c_path = NULL
        cdef uint32_t ttl_ms = 0
        cdef Loop loop = default_loop()
        cdef dyn_store *ptr = NULL
        cdef int rc = 0
        if self.ptr != NULL:
            raise RuntimeError("the store is open already")
        if b"\0" in kind or b"\0" in path:
            raise ValueError("a null character in the backend's name or the root")
        if root is not None:
            c_path = path
        if ttl is not None:
            if not 2 <= ttl <= 3600:
                raise ValueError(f"ttl={ttl!r}: must be 2 to 3600 seconds")
            ttl_ms = int(ttl * 1000)
        if kind == b"mem":
            if _mem == NULL:
                with nogil:
                    rc = dyn_store_open(&ptr, loop.ptr, c_kind, NULL, 0)
                check(rc)
                _mem = ptr
            ptr = dyn_store_ref(_mem)
        else:
            with nogil:
                rc = dyn_store_open(&ptr, loop.ptr, c_kind, c_path, ttl_ms)
            check(rc)
        self.ptr = ptr
        self.leases = set()
        self.watches = weakref.WeakSet()
        self.session = self.lease()
        _open.add(self)

    def __dealloc__(self):
        cdef dyn_store *ptr = self.ptr
        if ptr != NULL:
            with nogil:
                dyn_store_unref(ptr)

    cdef dyn_store *open_ptr(self) except NULL:
        if self.ptr == NULL:
            raise error_of(DYN_ECLOSED, "the store")
        return self.ptr

    @property
    def backend(self):
        """"mem" or "file"."""
        return dyn_store_backend(self.open_ptr()).decode()

    @property
    def root(self):
        """The folder of "file"; empty for "mem"."""
        return os.fsdecode(dyn_store_root(self.open_ptr()))

    @property
    def ttl(self):
        """Seconds after which a killed owner's keys vanish; 0 for "mem", whose owners are in this process."""
        return dyn_store_ttl_ms(self.open_ptr()) / 1000

    @property
    def closed(self):
        return self.ptr == NULL

    def lease(self):
        """A new lease: keys that end together. It ends with the store at the latest."""
        cdef dyn_store *ptr = self.open_ptr()
        cdef Lease lease = Lease.__new__(Lease)
        check(dyn_lease_new(ptr, &lease.ptr))
        lease.generation = _generation
        lease.number = dyn_lease_id(lease.ptr)
        self.leases.add(lease)
        return lease

    def put(self, str key, value, Lease lease=None, create=False):
        """Put a value.

        Parameters
        ----------
        key : str
        value : bytes-like, at most 1 MiB
        lease : Lease, optional
            Whose end deletes the key. Default: the store's own, which ends when the store is closed.
        create : bool
            Refuse an existing key (ValueError); otherwise it is replaced.
        """
        cdef dyn_store *ptr = self.open_ptr()
        cdef bytes name = _name(key)
        cdef const char *c_key = name
        cdef const uint8_t[::1] view = value
        cdef size_t size = <size_t>view.shape[0]
        cdef const void *data = &view[0] if size else NULL
        cdef bint create_only = create
        cdef int rc
        if lease is None:
            lease = self.session
        cdef dyn_lease *c_lease = lease.ptr
        if c_lease == NULL:
            raise error_of(DYN_ECLOSED, "the lease")
        with nogil:
            rc = dyn_store_put(ptr, c_key, data, size, c_lease, create_only)
        check(rc)

    def get(self, str key):
        """The value of a key as bytes, None when there is none."""
        cdef dyn_store *ptr = self.open_ptr()
        cdef bytes name = _name(key)
        cdef const char *c_key = name
        cdef dyn_buf *value = NULL
        cdef int rc
        with nogil:
            rc = dyn_store_get(ptr, c_key, &value)
        if rc == DYN_ENOENT:
            dyn_error_clear()
            return None
        check(rc)
        try:
            return _bytes_of(value)
        finally:
            dyn_buf_unref(value)

    def delete(self, str key):
        """Delete a key, whoever put it. False when there was none."""
        cdef dyn_store *ptr = self.open_ptr()
        cdef bytes name = _name(key)
        cdef const char *c_key = name
        cdef int rc
        with nogil:
            rc = dyn_store_delete(ptr, c_key)
        if rc == DYN_ENOENT:
            dyn_error_clear()
            return False
        check(rc)
        return True

    def list(self, str prefix):
        """All keys with this prefix and their values, sorted by key."""
        cdef dyn_store *ptr = self.open_ptr()
        cdef bytes name = _name(prefix)
        cdef const char *c_prefix = name
        cdef found *first = NULL
        cdef found *item
        cdef int rc
        with nogil:
            rc = dyn_store_list(ptr, c_prefix, _collect, &first)
        items = []
        while first != NULL:            # newest first
            item = first
            first = item.after
            if rc >= 0:
                items.append((item.key.decode(), _bytes_of(item.value)))
            dyn_buf_unref(item.value)
            free(item.key)
            free(item)
        check(rc)
        items.reverse()
        return dict(items)

    def watch(self, str prefix):
        """Watch the keys with a prefix: an async iterator of `Change`.

        What is there comes first, then one "synced", then what changes. Changes that follow each other quickly may
        come as one; the last state always comes. Call it where an asyncio loop runs. Ends with the store, with
        ``close()``, or when it is dropped.

        Examples
        --------
        >>> async for kind, key, value in store.watch("v1/instances/my-ns/"):   # doctest: +SKIP
        ...     print(kind, key)
        """
        cdef Watch watch = Watch(self, prefix)
        self.watches.add(watch)
        return watch

    cpdef close(self):
        """Delete what this store has put, end its watches. Closing twice is allowed."""
        cdef dyn_store *ptr = self.ptr
        self.ptr = NULL
        if ptr == NULL:
            return
        _open.discard(self)
        for watch in list(self.watches):
            watch.close()
        for lease in self.leases:
            lease.revoke()
        self.leases.clear()
        with nogil:
            dyn_store_unref(ptr)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        if self.ptr == NULL:
            return "<Store, closed>"
        return f"<Store {self.backend}{' ' if self.root else ''}{self.root}>"


cdef bytes _name(str key):
    cdef bytes name = utf8(key, "key")
    if b"\0" in name:
        raise ValueError(f"key {key!r}: it has a null character")
    return name


# ---- watches --------------------------------------------------------------------------------------------------------
cdef struct change_mail:
    dyn_mail mail               # first
    int kind
    char *key
    dyn_buf *value


# What the callbacks on the loop thread may touch.
cdef struct feed_state:
    void *owner                 # the feed
    dyn_mailbox *box            # borrowed from the feed
    int queued                  # changes under way and not handed out; both threads
    int refused                 # the store waits for dyn_watch_resume(); both threads


# Gets the mails. Apart from Watch, so that a dropped Watch can be closed while mails for it are on their way: the
# feed is kept alive by one reference until its END mail, which is put after the C watch was closed.
cdef class _Feed(Receiver):
    cdef dyn_watch *ptr
    cdef Mailbox box
    cdef object changes         # collections.deque of Change; None in it: the end
    cdef object waiter          # asyncio.Future, or None
    cdef bint closing
    cdef feed_state state

    cdef void on_mail(self, dyn_mail *mail) noexcept:
        cdef change_mail *change = <change_mail *>mail
        cdef int kind = change.kind
        if kind == END:
            self.changes.append(None)
        elif not self.closing:
            if kind == PUT:
                self.changes.append(Change("put", change.key.decode("utf-8", "replace"), _bytes_of(change.value)))
            elif kind == DELETE:
                self.changes.append(Change("delete", change.key.decode("utf-8", "replace"), None))
            else:
                self.changes.append(Change("synced", None, None))
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)
        mail.drop(mail)         # the END mail gives the feed's reference back

    cdef handed_out(self):
        cdef dyn_watch *ptr = self.ptr
        if dyn_count(&self.state.queued, -1) <= LIMIT // 2 and ptr != NULL and dyn_swap(&self.state.refused, 0):
            with nogil:
                dyn_watch_resume(ptr)

    cdef close(self):
        cdef dyn_watch *ptr = self.ptr
        cdef change_mail *mail
        if ptr == NULL:
            return
        self.ptr = NULL
        self.closing = True
        with nogil:
            dyn_watch_close(ptr)
        mail = <change_mail *>malloc(sizeof(change_mail))
        if mail == NULL:
            return              # the feed leaks rather than dies under a mail
        mail.mail.owner = <void *>self
        mail.mail.drop = _drop_end
        mail.kind = END
        dyn_mailbox_put(self.box.ptr, &mail.mail)


cdef void _drop_change(dyn_mail *mail) noexcept nogil:
    cdef change_mail *change = <change_mail *>mail
    dyn_buf_unref(change.value)
    free(change.key)
    free(change)


cdef void _drop_end(dyn_mail *mail) noexcept nogil:
    with gil:
        feed = <object><PyObject *>mail.owner
        free(mail)
        Py_DECREF(feed)


cdef int _send(feed_state *feed, int kind, const char *key, dyn_buf *value) noexcept nogil:
    cdef change_mail *mail
    if dyn_count(&feed.queued, 1) > LIMIT:
        dyn_count(&feed.queued, -1)
        dyn_swap(&feed.refused, 1)
        return DYN_EAGAIN
    mail = <change_mail *>malloc(sizeof(change_mail))
    if mail != NULL:
        mail.key = strdup(key)
        if mail.key != NULL:
            mail.mail.owner = feed.owner
            mail.mail.drop = _drop_change
            mail.kind = kind
            mail.value = dyn_buf_ref(value) if value != NULL else NULL
            dyn_mailbox_put(feed.box, &mail.mail)
            return 0
        free(mail)
    dyn_count(&feed.queued, -1)
    return DYN_ENOMEM


cdef int _on_put(void *user, const char *key, dyn_buf *value) noexcept nogil:
    return _send(<feed_state *>user, PUT, key, value)


cdef int _on_delete(void *user, const char *key) noexcept nogil:
    return _send(<feed_state *>user, DELETE, key, NULL)


cdef int _on_synced(void *user) noexcept nogil:
    return _send(<feed_state *>user, SYNCED, "", NULL)


@cython.final
@cython.no_gc_clear         # __dealloc__ needs the feed
cdef class Watch:
    """An async iterator of `Change`; made by `Store.watch`."""

    cdef _Feed feed
    cdef Store store            # so that the store lives as long as it is watched
    cdef object loop
    cdef str prefix
    cdef object __weakref__

    def __init__(self, Store store, str prefix):
        cdef dyn_store *ptr = store.open_ptr()
        cdef bytes name = _name(prefix)
        cdef const char *c_prefix = name
        cdef dyn_watch_events events
        cdef _Feed feed = _Feed()
        cdef int rc
        self.loop = asyncio.get_running_loop()
        self.store = store
        self.prefix = prefix
        feed.box = mailbox_of(self.loop)
        feed.changes = collections.deque()
        feed.state.owner = <void *>feed
        feed.state.box = feed.box.ptr
        events.on_put = _on_put
        events.on_delete = _on_delete
        events.on_synced = _on_synced
        Py_INCREF(feed)         # until the END mail
        with nogil:
            rc = dyn_store_watch(ptr, c_prefix, &events, &feed.state, &feed.ptr)
        if rc < 0:
            Py_DECREF(feed)
            check(rc)
        self.feed = feed

    def __repr__(self):
        return f"Watch({self.prefix!r})"

    def __dealloc__(self):
        if self.feed is not None:
            self.feed.close()

    def close(self):
        """End the watch; its iteration ends."""
        if self.feed is not None:
            self.feed.changes.clear()
            self.feed.close()

    def __aiter__(self):
        return self

    async def __anext__(self):
        cdef _Feed feed = self.feed
        while not feed.changes:
            feed.waiter = self.loop.create_future()
            await feed.waiter
        change = feed.changes.popleft()
        if change is None:
            feed.changes.append(None)
            raise StopAsyncIteration
        feed.handed_out()
        return change


# ---- the ends of a process ------------------------------------------------------------------------------------------
def _forget():
    # A child of fork has no loop thread: its parent's stores go on in the parent only.
    global _mem, _generation
    cdef Store store
    cdef Lease lease
    cdef Watch watch
    _mem = NULL
    _generation += 1
    for item in list(_open):
        store = item
        store.ptr = NULL
        for lease in store.leases:
            lease.ptr = NULL
        for watch in list(store.watches):
            watch.feed.ptr = NULL
    _open.clear()


def _close_all():
    global _mem
    cdef dyn_store *ptr = _mem
    for store in list(_open):
        store.close()
    _mem = NULL
    if ptr != NULL:
        with nogil:
            dyn_store_unref(ptr)


os.register_at_fork(after_in_child=_forget)
atexit.register(_close_all)
