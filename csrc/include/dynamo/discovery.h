/* discovery.h -- who is there: small values under keys, alive as long as their owner is, watched by everybody.
 *
 *   worker: lease = dyn_lease_new(store)            client: dyn_store_watch(store, "v1/instances/ns/", ...)
 *           put("v1/instances/ns/c/e/1f", .., lease) ----------> on_put("v1/instances/ns/c/e/1f", ..)
 *           (killed) ---- within the TTL --------------------------> on_delete("v1/instances/ns/c/e/1f")
 *
 * Backends "mem"   one map, seen by whoever holds this store: tests, everything in one process.
 *          "file"  a folder, seen by every process of this machine and user that opens the same root:
 *                  v1/instances/ns/c/e/1f is the file ROOT/v1/instances/ns%2Fc%2Fe%2F1f, alive while its
 *                  mtime is younger than the TTL. All processes on one root must use the same TTL.
 * Keys     "a/b/rest": a and b (the bucket) of [A-Za-z0-9._-], the rest UTF-8 without control bytes; no empty,
 *          "." or ".." segment; the rest percent-encoded is at most DYN_KEY_MAX bytes.
 * Prefixes "a/b", or "a/b/" and the beginning of the rest.
 * Values   DYN_VALUE_MAX bytes at most.
 * Leases   are kept alive by the loop thread alone: a process whose Python is blocked keeps them.
 * Errors   int results are DYN_OK or a negative enum dyn_error; a failed call changes nothing.
 * Threads  every call may be made from any thread, callbacks included; they wait for the loop thread (some
 *          10 us for mem, a few file operations for file), never for another process.
 * Fork     a child has no loop thread: it forgets its parent's stores without touching them.
 */
#ifndef DYNAMO_DISCOVERY_H
#define DYNAMO_DISCOVERY_H

#include "dynamo/common.h"
#include "dynamo/loop.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DYN_KEY_MAX 240u         /* bytes of an encoded file name */
#define DYN_VALUE_MAX (1u << 20) /* bytes */
#define DYN_LEASE_TTL_MS 10000u  /* the default */

typedef struct dyn_store dyn_store;
typedef struct dyn_lease dyn_lease;
typedef struct dyn_watch dyn_watch;

/* ---- the store ---------------------------------------------------------------------------------
 * Open a store.
 * out      receives a new store with one reference.
 * loop     a reference is held until the store is gone.
 * backend  "mem" or "file".
 * root     the folder of "file"; NULL: the environment's DYN_FILE_KV, else $TMPDIR/dynamo_store_kv, which must
 *          then belong to this user. Made when missing. Not used by "mem".
 * ttl_ms   how long an entry outlives its killed owner, 2000 to 3600000; 0: the environment's DYN_FILE_KV_TTL
 *          (seconds), else DYN_LEASE_TTL_MS. Not used by "mem".
 * errors   DYN_EINVAL, DYN_ENOMEM, DYN_EACCES, DYN_EIO.
 */
DYN_API int dyn_store_open(dyn_store **out, dyn_loop *loop, const char *backend, const char *root, uint32_t ttl_ms);
DYN_API dyn_store *dyn_store_ref(dyn_store *self);
/* Give a reference back. The last one deletes what this store has put and not deleted, stops its watches and
 * makes its leases void; their handles must still be given back. NULL is allowed. */
DYN_API void dyn_store_unref(dyn_store *self);
DYN_API const char *dyn_store_backend(const dyn_store *self); /* static */
DYN_API const char *dyn_store_root(const dyn_store *self);    /* borrowed; "" for mem */
DYN_API uint32_t dyn_store_ttl_ms(const dyn_store *self);     /* 0 for mem */

/* Put a value.
 * data         size bytes, borrowed for the call; may be NULL when size is 0.
 * lease        whose end deletes the key; NULL: the key lives as long as the store is open.
 * create_only  an existing key is refused with DYN_EEXIST; otherwise it is replaced and is now ours.
 * errors       DYN_EINVAL (key, size), DYN_ELIMIT (too many keys), DYN_ECLOSED (lease), DYN_ENOMEM, DYN_EIO, DYN_ENOSPC.
 */
DYN_API int dyn_store_put(dyn_store *self, const char *key, const void *data, size_t size, dyn_lease *lease,
                          bool create_only);
/* The value of a key.  out: receives a new reference.  errors  DYN_ENOENT, DYN_EINVAL, DYN_ENOMEM, DYN_EIO. */
DYN_API int dyn_store_get(dyn_store *self, const char *key, dyn_buf **out);
/* Delete a key, whoever owns it.  errors  DYN_ENOENT, DYN_EINVAL, DYN_EIO. */
DYN_API int dyn_store_delete(dyn_store *self, const char *key);
/* All keys with this prefix, in the order of their bytes. `each` runs on the loop thread during the call; it must
 * not change the store; a negative result ends the list and is returned.  key, value: borrowed for the callback. */
DYN_API int dyn_store_list(dyn_store *self, const char *prefix,
                           int (*each)(void *user, const char *key, dyn_buf *value), void *user);

/* ---- leases ------------------------------------------------------------------------------------
 * Keys that end together. */
DYN_API int dyn_lease_new(dyn_store *store, dyn_lease **out); /* errors  DYN_ENOMEM */
/* Random, never 0, below 2^63; serves as an instance id. */
DYN_API uint64_t dyn_lease_id(const dyn_lease *self);
/* Delete its keys; the handle is gone afterwards. NULL is allowed. */
DYN_API void dyn_lease_revoke(dyn_lease *self);

/* ---- watches -----------------------------------------------------------------------------------
 * The watcher is told the difference between what it was told and what is: changes that follow each other
 * quickly may be told as one, the last state is always told.
 *
 * The callbacks run on the loop thread. A negative result means "not taken": the same thing is told again after
 * dyn_watch_resume(), or within a second.  key: borrowed for the callback.  value: borrowed, dyn_buf_ref() keeps it.
 */
typedef struct dyn_watch_events {
    int (*on_put)(void *user, const char *key, dyn_buf *value); /* new, or changed */
    int (*on_delete)(void *user, const char *key);              /* deleted, revoked or expired */
    int (*on_synced)(void *user); /* once: all that was there has been told; may be NULL */
} dyn_watch_events;
/* Start to watch.
 * events  copied.
 * out     receives a new watch before the first callback; on the loop thread the first callbacks run before this
 *         returns, otherwise soon after it is called.
 * errors  DYN_EINVAL, DYN_ENOMEM, DYN_EIO. */
DYN_API int dyn_store_watch(dyn_store *self, const char *prefix, const dyn_watch_events *events, void *user,
                            dyn_watch **out);
DYN_API void dyn_watch_resume(dyn_watch *self);
/* End a watch: no callback runs after this returned, save the one that it is called from. NULL is allowed. */
DYN_API void dyn_watch_close(dyn_watch *self);

#ifdef __cplusplus
}
#endif
#endif
