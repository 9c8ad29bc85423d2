# Mirrors dynamo/discovery.h.
from libc.stdint cimport uint32_t, uint64_t

from dynamo.c_common cimport dyn_buf
from dynamo.c_loop cimport dyn_loop


cdef extern from "dynamo/discovery.h" nogil:
    ctypedef struct dyn_store:
        pass
    ctypedef struct dyn_lease:
        pass
    ctypedef struct dyn_watch:
        pass
    enum:
        DYN_KEY_MAX
        DYN_VALUE_MAX
        DYN_LEASE_TTL_MS
    int dyn_store_open(dyn_store **out, dyn_loop *loop, const char *backend, const char *root, uint32_t ttl_ms)
    dyn_store *dyn_store_ref(dyn_store *self)
    void dyn_store_unref(dyn_store *self)
    const char *dyn_store_backend(const dyn_store *self)
    const char *dyn_store_root(const dyn_store *self)
    uint32_t dyn_store_ttl_ms(const dyn_store *self)
    int dyn_store_put(dyn_store *self, const char *key, const void *data, size_t size, dyn_lease *lease,
                      bint create_only)
    int dyn_store_get(dyn_store *self, const char *key, dyn_buf **out)
    int dyn_store_delete(dyn_store *self, const char *key)
    int dyn_store_list(dyn_store *self, const char *prefix,
                       int (*each)(void *user, const char *key, dyn_buf *value) noexcept nogil, void *user)
    int dyn_lease_new(dyn_store *store, dyn_lease **out)
    uint64_t dyn_lease_id(const dyn_lease *self)
    void dyn_lease_revoke(dyn_lease *self)
    ctypedef struct dyn_watch_events:
        int (*on_put)(void *user, const char *key, dyn_buf *value) noexcept nogil
        int (*on_delete)(void *user, const char *key) noexcept nogil
        int (*on_synced)(void *user) noexcept nogil
    int dyn_store_watch(dyn_store *self, const char *prefix, const dyn_watch_events *events, void *user,
                        dyn_watch **out)
    void dyn_watch_resume(dyn_watch *self)
    void dyn_watch_close(dyn_watch *self)
