/* folder.c -- the folders of the backend "file": made, opened, watched, and made again when somebody removes them. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "discovery/file.h"

#define FOLDERS 256

int dyn__io_error(int err, const char *what, const char *path)
{
    int code = dyn_error_from_errno(err);
    if (code == DYN_EINVAL || code == DYN_ENOENT || code == DYN_EAGAIN) code = DYN_EIO;
    return dyn__fail(code, "%s %s: %s", what, path, strerror(err));
}

void dyn__folder_warn(struct folder *self, const char *name, const char *fault)
{
    if (self->warned) return;
    self->warned = true;
    char shown[64];
    size_t n = 0;
    for (; name[n] != '\0' && n < sizeof(shown) - 1; n++) shown[n] = name[n] < ' ' || name[n] > '~' ? '?' : name[n];
    shown[n] = '\0';
    dyn_log(DYN_LOG_WARN, "discovery", "%s/%s is ignored: %s (said once for this folder)", self->path, shown, fault);
}

int dyn__folders_make(char *path)
{
    for (char *p = path + 1;; p++) {
        if (*p != '/' && *p != '\0') continue;
        char c = *p;
        *p = '\0';
        int rc =
            mkdir(path, 0700) < 0 && errno != EEXIST ? dyn__io_error(errno, "cannot make the folder", path) : DYN_OK;
        *p = c;
        if (rc < 0 || c == '\0') return rc;
    }
}

static int open_folder(struct folder *self)
{
    struct file_state *state = self->store->state;
    int rc = dyn__folders_make(self->path);
    if (rc < 0) return rc;
    self->fd = open(self->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (self->fd < 0) return dyn__io_error(errno, "cannot open the folder", self->path);
    uv_fs_event_stop(&self->event);
    if ((rc = uv_fs_event_start(&self->event, dyn__folder_on_event, self->path, 0)) < 0 && !state->warned_no_events) {
        state->warned_no_events = true;
        dyn_log(DYN_LOG_WARN, "discovery", "%s cannot be watched (%s): changes are seen every %" PRIu64 " ms only",
                self->path, uv_strerror(rc), state->interval_ns / MS);
    }
    return DYN_OK;
}

int dyn__folder_check(struct folder *self)
{
    struct stat held, now;
    if (self->fd >= 0) {
        if (fstat(self->fd, &held) == 0 && held.st_nlink > 0 && lstat(self->path, &now) == 0 &&
            held.st_ino == now.st_ino && held.st_dev == now.st_dev)
            return DYN_OK;
        close(self->fd);
        self->fd = -1;
        self->renewed = true;
    }
    return open_folder(self);
}

static void on_event_closed(uv_handle_t *handle)
{
    struct folder *self = DYN__CONTAINER((uv_fs_event_t *)handle, struct folder, event);
    dyn_store *store = self->store;
    dyn__free(self->prefix);
    dyn__free(self->path);
    dyn__free(self);
    dyn__store_handle_closed(store);
}

struct folder *dyn__folder_find(dyn_store *store, const char *key, size_t length)
{
    for (struct folder *b = ((struct file_state *)store->state)->folders; b != NULL; b = b->next)
        if (strncmp(b->prefix, key, length + 1) == 0 && b->prefix[length + 1] == '\0') return b;
    return NULL;
}

int dyn__folder_get(dyn_store *store, const char *key, size_t length, struct folder **out)
{
    struct file_state *state = store->state;
    struct folder *self = dyn__folder_find(store, key, length);
    if (self == NULL) {
        size_t count = 0, size = strlen(store->root) + length + 2;
        for (struct folder *b = state->folders; b != NULL; b = b->next) count++;
        if (count >= FOLDERS) return dyn__fail(DYN_ELIMIT, "the store has %d buckets, the most it takes", FOLDERS);
        if ((self = dyn__calloc(1, sizeof(*self))) == NULL) return DYN_ENOMEM;
        self->store = store, self->fd = -1;
        self->prefix = dyn__strndup(key, length + 1);
        self->path = dyn__malloc(size);
        if (self->prefix == NULL || self->path == NULL) {
            dyn__free(self->prefix);
            dyn__free(self->path);
            dyn__free(self);
            return DYN_ENOMEM;
        }
        snprintf(self->path, size, "%s/%.*s", store->root, (int)length, key);
        uv_fs_event_init(dyn_loop_uv(store->loop), &self->event);
        dyn__store_opened(store);
        self->next = state->folders;
        state->folders = self;
    }
    *out = self;
    return dyn__folder_check(self);
}

void dyn__folder_close(struct folder *self)
{
    if (self->fd >= 0) close(self->fd);
    self->fd = -1;
    uv_close((uv_handle_t *)&self->event, on_event_closed);
}
