/* discovery/file.h -- the backend "file": folders (folder.c) and the files in them (file.c). */
#ifndef DYN_SRC_DISCOVERY_FILE_H
#define DYN_SRC_DISCOVERY_FILE_H

#include "discovery/store.h"

#define MS UINT64_C(1000000)

struct folder {
    struct folder *next;
    dyn_store *store;
    char *prefix; /* "v1/instances/" */
    char *path;   /* ROOT/v1/instances */
    int fd;       /* the folder; -1: could not be opened the last time */
    uv_fs_event_t event;
    bool renewed; /* the folder had gone away since the last tick */
    bool warned;
};

struct file_state {
    struct folder *folders;
    uv_timer_t tick, expiry;
    int timers; /* open ones; the last one frees the state */
    uint64_t interval_ns;
    uint64_t due_ns; /* when expiry fires; 0: not armed */
    uint64_t scan;
    uint64_t touched_ns, touched_wall_ms;
    bool late, was_late; /* did the last touch, or the one before, come so late that others may have cleared us? */
    bool warned_no_events;
};

/* DYN_EIO and its kin, with the path and the system's words in the detail. */
int dyn__io_error(int err, const char *what, const char *path);
/* Say once for each folder that something in it is ignored. */
void dyn__folder_warn(struct folder *folder, const char *name, const char *fault);
int dyn__folders_make(char *path); /* mkdir -p, for this user only; existing folders stay as they are */
/* The folder may have been removed or replaced under us: then make and open it again. */
int dyn__folder_check(struct folder *folder);
struct folder *dyn__folder_find(dyn_store *store, const char *key, size_t length); /* NULL: not used yet */
int dyn__folder_get(dyn_store *store, const char *key, size_t length, struct folder **out);
void dyn__folder_close(struct folder *folder);
void dyn__folder_on_event(uv_fs_event_t *handle, const char *filename, int events, int status); /* file.c */

#endif
