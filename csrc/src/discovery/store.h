/* discovery/store.h -- inside csrc/src/discovery only: what the store and its backends share.
 *
 *   put, delete, lease --> owned (what this store has put) --> backend --> view (what is there, by key)
 *                                                                            |  pump: view - told
 *                                          watch: told (key, version) <------+---> on_put, on_delete
 *
 * All of this lives on the loop thread; the public calls go there first.
 *
 * I1  Tables are sorted by the bytes of their keys, without doubles.
 * I2  A version is given once: an entry of the view whose version a watch knows has been told as it is.
 * I3  A change of the view raises `generation`; a watch whose `seen` equals it has been told everything.
 * I4  mem: every key of the view is in owned. file: the view follows the folder, owned is ours to touch and delete.
 */
#ifndef DYN_SRC_DISCOVERY_STORE_H
#define DYN_SRC_DISCOVERY_STORE_H

#include <sys/types.h>
#include <uv.h>

#include "common/common.h"
#include "dynamo/discovery.h"

#define DYN__STORE_KEYS 65536 /* more than that in one store is a mistake or an attack */

/* ---- key.c: keys, buckets, file names ---------------------------------------------------------- */
/* Is it a key? Leaves the length of its bucket "a/b" in *bucket. */
int dyn__key_check(const char *key, size_t *bucket);
/* A copy of the prefix that has its second slash, from dyn__malloc. */
int dyn__prefix_check(const char *prefix, char **out, size_t *bucket);
/* The file name of the part of a key behind its bucket; false when longer than DYN_KEY_MAX. */
bool dyn__name_encode(const char *rest, char name[DYN_KEY_MAX + 1]);
/* The opposite, for names of exactly the form that encode gives; false for everything else. */
bool dyn__name_decode(const char *name, char rest[DYN_KEY_MAX + 1]);

/* ---- table.c: items whose first member is their key --------------------------------------------- */
struct table {
    char ***items; /* pointers to structures that begin with `char *key` */
    size_t count, room;
};
size_t dyn__table_seek(const struct table *self, const char *key); /* the first that is not before the key */
void *dyn__table_find(const struct table *self, const char *key);  /* NULL when it is not there */
int dyn__table_reserve(struct table *self);                        /* room for one more */
void dyn__table_insert(struct table *self, size_t at, void *item); /* there must be room */
void *dyn__table_remove(struct table *self, size_t at);
void dyn__table_clear(struct table *self); /* the array, not the items */

/* ---- store.c ----------------------------------------------------------------------------------- */
struct entry { /* what is there */
    char *key;
    dyn_buf *value;
    uint64_t version;
    /* file: */
    uint64_t inode, mtime_ns, ctime_ns, size;
    uint64_t looked_ns, deadline_ns; /* monotonic */
    uint64_t scan;
};

struct own { /* what we put */
    char *key;
    dyn_buf *value;
    dyn_lease *lease; /* NULL: the store's */
    uint64_t inode;   /* file: as long as the file has it, the file is ours */
};

struct backend {
    const char *name;
    int (*open)(dyn_store *store, const char *root, uint32_t ttl_ms);
    void (*close)(dyn_store *store);                                    /* stops handles; after withdraw of all */
    int (*follow)(dyn_store *store, const char *prefix, size_t bucket); /* keep the view of that bucket true */
    int (*look)(dyn_store *store, const char *key, size_t bucket);      /* make the view of that key true */
    int (*publish)(dyn_store *store, struct own *own, size_t bucket, bool create_only);
    void (*withdraw)(dyn_store *store, struct own *own, size_t bucket); /* delete if still ours */
    int (*remove)(dyn_store *store, const char *key, size_t bucket);    /* delete, whoever put it */
};
extern const struct backend dyn__store_mem, dyn__store_file;

struct dyn_store {
    const struct backend *backend;
    dyn_loop *loop;
    atomic_size_t users;  /* dyn_store_ref */
    atomic_size_t memory; /* the users together, each lease, watch and open handle: one each */
    bool closed;
    size_t handles; /* open uv handles */
    uv_sem_t *all_closed;

    struct table view, owned;
    uint64_t version, generation;
    struct dyn_watch *watches;
    bool pumping, again;
    uv_timer_t retry; /* for watches that did not take what they were told */
    void *state;      /* the backend's */
    char *root;
    uint32_t ttl_ms;
};

struct dyn_lease {
    dyn_store *store;
    uint64_t id;
};

/* Handles: count them in, so that the store's memory outlives them. */
void dyn__store_opened(dyn_store *store);
void dyn__store_handle_closed(dyn_store *store);
void dyn__store_memory_ref(dyn_store *store);
void dyn__store_memory_unref(dyn_store *store);
/* The view of a key becomes this; a NULL value: it is gone. `value` is referenced. What is told is up to pump. */
int dyn__view_set(dyn_store *store, const char *key, dyn_buf *value, struct entry **out);
void dyn__view_drop(dyn_store *store, size_t at);
void dyn__own_free(struct own *own);
/* Tell the watches. Backends call it after they changed the view on their own account. */
void dyn__store_pump(dyn_store *store);
void dyn__watches_close(dyn_store *store); /* no more callbacks; the handles stay */
uint64_t dyn__random64(void);

#endif
