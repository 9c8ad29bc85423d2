/* file.c -- the backend of one machine: a folder that every process reads and writes. Layout in dynamo/discovery.h.
 *
 *   ROOT/v1/instances/           one bucket: a folder, held open
 *     ns%2Fcomp%2Fep%2F1f        one key; mtime younger than the TTL: its owner lives
 *     .tmp_00c0ffee00c0ffee      being written, or an expired file on its way out; hidden from readers
 *
 *   tick, every max(TTL/3, 1 s):  touch our own files; scan every bucket (inotify may lose or lack events)
 *   inotify event:                look at that one file
 *   expiry timer:                 look at the files whose time is over
 *
 * I1  A reader sees whole values only: a file gets its name by link or rename after it was written.
 * I2  A known file expires when its mtime has stood still for a TTL of the monotonic clock, so that setting the
 *     wall clock kills nobody; only at first sight is the mtime compared with the wall clock.
 * I3  A file of ours that vanished is written again if others could think us dead (we were late, or the whole folder
 *     went away); otherwise somebody deleted it on purpose, and it is no longer ours.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "discovery/file.h"

#ifdef __APPLE__
#define ST_MTIME(st) ((uint64_t)(st)->st_mtimespec.tv_sec * 1000 * MS + (uint64_t)(st)->st_mtimespec.tv_nsec)
#define ST_CTIME(st) ((uint64_t)(st)->st_ctimespec.tv_sec * 1000 * MS + (uint64_t)(st)->st_ctimespec.tv_nsec)
#else
#define ST_MTIME(st) ((uint64_t)(st)->st_mtim.tv_sec * 1000 * MS + (uint64_t)(st)->st_mtim.tv_nsec)
#define ST_CTIME(st) ((uint64_t)(st)->st_ctim.tv_sec * 1000 * MS + (uint64_t)(st)->st_ctim.tv_nsec)
#endif

/* ---- reading ----------------------------------------------------------------------------------- */
static void on_expiry(uv_timer_t *timer);

static void arm(dyn_store *store, uint64_t deadline_ns)
{
    struct file_state *state = store->state;
    if (state->due_ns != 0 && state->due_ns <= deadline_ns) return;
    uint64_t now = dyn_now_ns();
    state->due_ns = deadline_ns;
    uv_update_time(dyn_loop_uv(store->loop));
    uv_timer_start(&state->expiry, on_expiry, deadline_ns > now ? (deadline_ns - now) / MS + 2 : 1, 0);
}

static void random_name(char name[32])
{
    snprintf(name, 32, ".tmp_%016" PRIx64, dyn__random64());
}

/* Delete a file that nobody touches any more. Its owner may wake up right now, so take it out first, look again,
 * and give it back if it was touched in between. */
static void expire(struct folder *folder, const char *name, const struct stat *seen)
{
    char aside[32];
    struct stat now;
    random_name(aside);
    if (renameat(folder->fd, name, folder->fd, aside) < 0) return;
    if (fstatat(folder->fd, aside, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
        (now.st_ino != seen->st_ino || ST_MTIME(&now) != ST_MTIME(seen)))
        linkat(folder->fd, aside, folder->fd, name, 0); /* EEXIST: there is a newer one */
    else
        dyn_log(DYN_LOG_DEBUG, "discovery", "%s/%s has expired", folder->path, name);
    unlinkat(folder->fd, aside, 0);
}

static int read_value(struct folder *folder, const char *name, struct stat *st, dyn_buf **out)
{
    dyn_buf *value = NULL;
    int rc = DYN_OK, fd = openat(folder->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? DYN_ENOENT : dyn__io_error(errno, "cannot read", name);
    if (fstat(fd, st) < 0 || !S_ISREG(st->st_mode))
        rc = DYN_EPROTO;
    else if ((uint64_t)st->st_size > DYN_VALUE_MAX)
        rc = DYN_ELIMIT;
    else
        rc = dyn_buf_new(&value, (size_t)st->st_size);
    for (size_t done = 0; rc == DYN_OK && done < (size_t)st->st_size;) {
        ssize_t got = read(fd, dyn_buf_data(value) + done, (size_t)st->st_size - done);
        if (got > 0)
            done += (size_t)got;
        else if (got == 0)
            rc = DYN_EPROTO; /* shorter than it said: somebody writes it in place */
        else if (errno != EINTR)
            rc = dyn__io_error(errno, "cannot read", name);
    }
    close(fd);
    if (rc < 0)
        dyn_buf_unref(value);
    else
        *out = value;
    return rc;
}

static struct own *own_of(dyn_store *store, const char *key, const struct stat *st)
{
    struct own *own = dyn__table_find(&store->owned, key);
    return own != NULL && own->inode == (uint64_t)st->st_ino ? own : NULL;
}

static bool same_bytes(dyn_buf *a, dyn_buf *b)
{
    size_t size = dyn_buf_size(a);
    return size == dyn_buf_size(b) && memcmp(dyn_buf_data(a), dyn_buf_data(b), size) == 0;
}

static void drop_key(dyn_store *store, const char *key)
{
    size_t at = dyn__table_seek(&store->view, key);
    if (at < store->view.count && strcmp(*store->view.items[at], key) == 0) dyn__view_drop(store, at);
}

/* Make the view of this one file true. An error leaves it as it was. */
static int look_at(struct folder *folder, const char *name, const char *key)
{
    dyn_store *store = folder->store;
    struct file_state *state = store->state;
    struct entry *entry = dyn__table_find(&store->view, key);
    uint64_t now = dyn_now_ns(), ttl = store->ttl_ms * MS;
    struct stat st;
    if (fstatat(folder->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno != ENOENT) return dyn__io_error(errno, "cannot look at", name);
        drop_key(store, key);
        return DYN_OK;
    }
    const char *fault = !S_ISREG(st.st_mode)                   ? "it is not a plain file"
                        : (uint64_t)st.st_size > DYN_VALUE_MAX ? "it is over 1 MiB"
                                                               : NULL;
    if (fault != NULL) {
        dyn__folder_warn(folder, name, fault);
        drop_key(store, key);
        return DYN_OK;
    }
    bool same_file = entry != NULL && entry->inode == (uint64_t)st.st_ino && entry->mtime_ns == ST_MTIME(&st);
    uint64_t deadline = same_file ? entry->deadline_ns : 0;
    if (!same_file) {
        uint64_t wall = dyn_wall_ms() * MS, age = wall > ST_MTIME(&st) ? wall - ST_MTIME(&st) : 0;
        if (entry != NULL && now - entry->looked_ns < age) age = now - entry->looked_ns; /* I2 */
        deadline = age < ttl ? now + ttl - age : now;
    }
    if (deadline <= now) {
        if (own_of(store, key, &st) != NULL) { /* we are late, but alive */
            utimensat(folder->fd, name, NULL, AT_SYMLINK_NOFOLLOW);
            deadline = now + ttl;
        } else {
            expire(folder, name, &st);
            drop_key(store, key);
            return DYN_OK;
        }
    }
    if (!same_file || entry->ctime_ns != ST_CTIME(&st) || entry->size != (uint64_t)st.st_size) {
        dyn_buf *value = NULL;
        int rc = read_value(folder, name, &st, &value);
        if (rc == DYN_ENOENT) drop_key(store, key);
        if (rc == DYN_ENOENT || rc == DYN_EPROTO || rc == DYN_ELIMIT) return DYN_OK; /* it changes: an event comes */
        if (rc == DYN_EACCES) dyn__folder_warn(folder, name, "it may not be read");
        if (rc < 0) return rc == DYN_EACCES ? DYN_OK : rc;
        if (entry == NULL || !same_bytes(entry->value, value)) rc = dyn__view_set(store, key, value, &entry);
        dyn_buf_unref(value);
        if (rc == DYN_ELIMIT) dyn__folder_warn(folder, name, "there are too many files");
        if (rc < 0) return rc == DYN_ELIMIT ? DYN_OK : rc;
    }
    entry->inode = (uint64_t)st.st_ino, entry->size = (uint64_t)st.st_size;
    entry->mtime_ns = ST_MTIME(&st), entry->ctime_ns = ST_CTIME(&st);
    entry->looked_ns = now, entry->deadline_ns = deadline;
    entry->scan = state->scan;
    arm(store, deadline);
    return DYN_OK;
}

/* "ns%2Fa" -> "v1/instances/ns/a"; false for a name that stands for no key. */
static bool key_of(const struct folder *folder, const char *name, char *key, size_t size)
{
    char rest[DYN_KEY_MAX + 1];
    return dyn__name_decode(name, rest) && (size_t)snprintf(key, size, "%s%s", folder->prefix, rest) < size;
}

/* What a killed writer left behind. */
static void clear_temporary(struct folder *folder, const char *name)
{
    struct stat st;
    if (strncmp(name, ".tmp_", 5) != 0 || fstatat(folder->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) return;
    if (ST_MTIME(&st) / MS + folder->store->ttl_ms < dyn_wall_ms()) unlinkat(folder->fd, name, 0);
}

static int scan(struct folder *self)
{
    dyn_store *store = self->store;
    struct file_state *state = store->state;
    char key[512], name[DYN_KEY_MAX + 1];
    size_t length = strlen(self->prefix);
    int rc = DYN_OK, fd = openat(self->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (folder == NULL) {
        rc = dyn__io_error(errno, "cannot list", self->path);
        if (fd >= 0) close(fd);
        return rc;
    }
    state->scan++;
    for (struct dirent *file; errno = 0, (file = readdir(folder)) != NULL;) {
        if (file->d_name[0] == '.') {
            clear_temporary(self, file->d_name);
        } else if (!key_of(self, file->d_name, key, sizeof(key))) {
            dyn__folder_warn(self, file->d_name, "its name is not an encoded key");
        } else {
            int bad = look_at(self, file->d_name, key);
            if (bad < 0) rc = bad;
        }
    }
    if (errno != 0) rc = dyn__io_error(errno, "cannot list", self->path);
    closedir(folder);
    /* What was not listed is gone; look again, because a file that is being replaced may slip through a listing. */
    for (size_t i = dyn__table_seek(&store->view, self->prefix); rc == DYN_OK && i < store->view.count;) {
        struct entry *entry = (struct entry *)store->view.items[i];
        size_t count = store->view.count;
        if (strncmp(entry->key, self->prefix, length) != 0) break;
        if (entry->scan != state->scan && dyn__name_encode(entry->key + length, name)) {
            snprintf(key, sizeof(key), "%s", entry->key);
            rc = look_at(self, name, key);
        }
        if (store->view.count == count) i++;
    }
    return rc;
}

void dyn__folder_on_event(uv_fs_event_t *handle, const char *filename, int events, int status)
{
    struct folder *self = DYN__CONTAINER(handle, struct folder, event);
    char key[512];
    (void)events;
    if (self->store->closed || (filename != NULL && filename[0] == '.')) return;
    if (self->fd < 0 || filename == NULL || status < 0) {
        if (dyn__folder_check(self) == DYN_OK) scan(self);
    } else if (!key_of(self, filename, key, sizeof(key))) {
        dyn__folder_warn(self, filename, "its name is not an encoded key");
    } else {
        look_at(self, filename, key);
        struct stat held;
        if (fstat(self->fd, &held) < 0 || held.st_nlink == 0)
            dyn__folder_check(self); /* rm -r: the tick writes ours again */
    }
    dyn_error_clear(); /* nobody asked; the next tick tries again */
    dyn__store_pump(self->store);
}

static void on_expiry(uv_timer_t *timer)
{
    struct file_state *state = DYN__CONTAINER(timer, struct file_state, expiry);
    dyn_store *store = timer->data;
    uint64_t now = dyn_now_ns(), next = 0;
    char key[512], name[DYN_KEY_MAX + 1];
    state->due_ns = 0;
    for (size_t i = store->view.count; i-- > 0;) {
        struct entry *entry = (struct entry *)store->view.items[i];
        if (entry->deadline_ns > now) continue;
        size_t length = 0;
        snprintf(key, sizeof(key), "%s", entry->key);
        dyn__key_check(key, &length);
        struct folder *folder = dyn__folder_find(store, key, length);
        if (folder != NULL && folder->fd >= 0 && dyn__name_encode(key + length + 1, name) &&
            look_at(folder, name, key) < 0)
            entry->deadline_ns = now + state->interval_ns; /* could not look: once more later */
    }
    for (size_t i = 0; i < store->view.count; i++) {
        uint64_t deadline = ((struct entry *)store->view.items[i])->deadline_ns;
        if (next == 0 || deadline < next) next = deadline;
    }
    if (next != 0) arm(store, next);
    dyn__store_pump(store);
}

/* ---- writing ----------------------------------------------------------------------------------- */
static int write_file(struct folder *folder, const char *name, struct own *own, bool create_only)
{
    char temporary[32];
    struct stat st;
    random_name(temporary);
    int rc = DYN_OK, fd = openat(folder->fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return dyn__io_error(errno, "cannot write to", folder->path);
    for (size_t done = 0, size = dyn_buf_size(own->value); rc == DYN_OK && done < size;) {
        ssize_t wrote = write(fd, dyn_buf_data(own->value) + done, size - done);
        if (wrote >= 0)
            done += (size_t)wrote;
        else if (errno != EINTR)
            rc = dyn__io_error(errno, "cannot write to", folder->path);
    }
    if (rc == DYN_OK && fstat(fd, &st) < 0) rc = dyn__io_error(errno, "cannot write to", folder->path);
    close(fd);
    if (rc == DYN_OK && !create_only && renameat(folder->fd, temporary, folder->fd, name) < 0)
        rc = dyn__io_error(errno, "cannot write to", folder->path);
    if (rc == DYN_OK && create_only && linkat(folder->fd, temporary, folder->fd, name, 0) < 0)
        rc = errno == EEXIST ? dyn__fail(DYN_EEXIST, "key \"%.100s\"", own->key)
                             : dyn__io_error(errno, "cannot write to", folder->path);
    if (rc < 0 || create_only) unlinkat(folder->fd, temporary, 0);
    if (rc == DYN_OK) own->inode = (uint64_t)st.st_ino;
    return rc;
}

static int file_publish(dyn_store *store, struct own *own, size_t length, bool create_only)
{
    char name[DYN_KEY_MAX + 1];
    struct folder *folder;
    int rc = dyn__folder_get(store, own->key, length, &folder);
    if (rc < 0) return rc;
    dyn__name_encode(own->key + length + 1, name);
    /* The file in the way may be a dead one's: looking at it clears it. */
    if (create_only && (rc = look_at(folder, name, own->key)) < 0) return rc;
    if ((rc = write_file(folder, name, own, create_only)) < 0) return rc;
    look_at(folder, name, own->key); /* when that fails, the next tick does it */
    return DYN_OK;
}

static void file_withdraw(dyn_store *store, struct own *own, size_t length)
{
    char name[DYN_KEY_MAX + 1];
    struct stat st;
    struct folder *folder = dyn__folder_find(store, own->key, length);
    if (folder == NULL || folder->fd < 0 || !dyn__name_encode(own->key + length + 1, name)) return;
    if (fstatat(folder->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || (uint64_t)st.st_ino != own->inode) return;
    unlinkat(folder->fd, name, 0);
    drop_key(store, own->key);
}

static int file_remove(dyn_store *store, const char *key, size_t length)
{
    char name[DYN_KEY_MAX + 1];
    struct folder *folder;
    int rc = dyn__folder_get(store, key, length, &folder);
    if (rc < 0) return rc;
    dyn__name_encode(key + length + 1, name);
    if (unlinkat(folder->fd, name, 0) < 0)
        return errno == ENOENT ? dyn__fail(DYN_ENOENT, "key \"%.100s\"", key)
                               : dyn__io_error(errno, "cannot delete", name);
    drop_key(store, key);
    return DYN_OK;
}

/* Touch a file of ours. False: it is no longer ours. */
static bool touch(dyn_store *store, struct own *own)
{
    struct file_state *state = store->state;
    char name[DYN_KEY_MAX + 1];
    struct stat st;
    size_t length = 0;
    dyn__key_check(own->key, &length);
    struct folder *folder = dyn__folder_find(store, own->key, length);
    if (folder == NULL || folder->fd < 0) return true; /* the folder cannot be opened now */
    dyn__name_encode(own->key + length + 1, name);
    if (fstatat(folder->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if ((uint64_t)st.st_ino != own->inode) return false;
        utimensat(folder->fd, name, NULL, AT_SYMLINK_NOFOLLOW);
        return true;
    }
    if (errno != ENOENT) return true;
    if (!state->late && !state->was_late && !folder->renewed) return false; /* I3 */
    int rc = write_file(folder, name, own, true);
    if (rc == DYN_OK) dyn_log(DYN_LOG_INFO, "discovery", "%s was gone and is back", own->key);
    return rc != DYN_EEXIST;
}

static void on_tick(uv_timer_t *timer)
{
    struct file_state *state = DYN__CONTAINER(timer, struct file_state, tick);
    dyn_store *store = timer->data;
    uint64_t now = dyn_now_ns(), wall = dyn_wall_ms(), late = store->ttl_ms * MS - state->interval_ns / 2;
    state->was_late = state->late;
    state->late = now - state->touched_ns > late || wall > state->touched_wall_ms + late / MS;
    state->touched_ns = now, state->touched_wall_ms = wall;
    for (struct folder *folder = state->folders; folder != NULL; folder = folder->next) dyn__folder_check(folder);
    for (size_t i = store->owned.count; i-- > 0;)
        if (!touch(store, (struct own *)store->owned.items[i])) dyn__own_free(dyn__table_remove(&store->owned, i));
    for (struct folder *folder = state->folders; folder != NULL; folder = folder->next) {
        folder->renewed = false;
        if (folder->fd >= 0) scan(folder);
    }
    dyn_error_clear();
    dyn__store_pump(store);
}

/* ---- open and close ---------------------------------------------------------------------------- */
static int file_follow(dyn_store *store, const char *prefix, size_t length)
{
    struct folder *folder;
    int rc = dyn__folder_get(store, prefix, length, &folder);
    return rc < 0 ? rc : scan(folder);
}

static int file_look(dyn_store *store, const char *key, size_t length)
{
    char name[DYN_KEY_MAX + 1];
    struct folder *folder;
    int rc = dyn__folder_get(store, key, length, &folder);
    if (rc < 0) return rc;
    dyn__name_encode(key + length + 1, name);
    return look_at(folder, name, key);
}

static int choose_ttl(dyn_store *store, uint32_t ttl_ms)
{
    const char *text = getenv("DYN_FILE_KV_TTL");
    char *end = NULL;
    store->ttl_ms = ttl_ms != 0 ? ttl_ms : DYN_LEASE_TTL_MS;
    if (ttl_ms == 0 && text != NULL && text[0] != '\0') {
        double seconds = strtod(text, &end);
        if (*end != '\0' || !(seconds >= 2 && seconds <= 3600))
            return dyn__fail(DYN_EINVAL, "DYN_FILE_KV_TTL=%.40s: must be 2 to 3600 seconds", text);
        store->ttl_ms = (uint32_t)(seconds * 1000);
    }
    if (store->ttl_ms < 2000 || store->ttl_ms > 3600000)
        return dyn__fail(DYN_EINVAL, "a lease of %u ms: must be 2000 to 3600000", store->ttl_ms);
    return DYN_OK;
}

static int choose_root(dyn_store *store, const char *root)
{
    const char *temporary = getenv("TMPDIR");
    char text[4096], here[2048] = "";
    bool chosen = true; /* by a person, who answers for it */
    if (root == NULL || root[0] == '\0') root = getenv("DYN_FILE_KV");
    if (root == NULL || root[0] == '\0') {
        chosen = false;
        snprintf(text, sizeof(text), "%s/dynamo_store_kv", temporary && temporary[0] ? temporary : "/tmp");
        root = text;
    }
    /* Absolute: the program may change its folder later. */
    if (root[0] != '/' && getcwd(here, sizeof(here)) == NULL) return dyn__io_error(errno, "cannot resolve", root);
    size_t size = strlen(here) + strlen(root) + 2;
    if (size > 3500) return dyn__fail(DYN_EINVAL, "the store's root is a path of %zu bytes: too long", size);
    if ((store->root = dyn__malloc(size)) == NULL) return DYN_ENOMEM;
    strcpy(store->root, here);
    if (here[0] != '\0') strcat(store->root, "/");
    strcat(store->root, root);
    for (size_t n = strlen(store->root); n > 1 && store->root[n - 1] == '/'; n--) store->root[n - 1] = '\0';
    int rc = dyn__folders_make(store->root);
    struct stat st;
    if (rc < 0 || chosen) return rc;
    /* In a folder that everybody may write, somebody else may have been there first to lead our clients astray. */
    if (lstat(store->root, &st) < 0) return dyn__io_error(errno, "cannot look at", store->root);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
        return dyn__fail(DYN_EACCES, "%s belongs to another user: set DYN_FILE_KV to a folder of your own",
                         store->root);
    return DYN_OK;
}

static int file_open(dyn_store *store, const char *root, uint32_t ttl_ms)
{
    int rc = choose_ttl(store, ttl_ms);
    if (rc < 0 || (rc = choose_root(store, root)) < 0) return rc;
    struct file_state *state = dyn__calloc(1, sizeof(*state));
    if (state == NULL) return DYN_ENOMEM;
    uint64_t interval_ms = store->ttl_ms / 3 > 1000 ? store->ttl_ms / 3 : 1000;
    state->interval_ns = interval_ms * MS;
    state->touched_ns = dyn_now_ns(), state->touched_wall_ms = dyn_wall_ms();
    store->state = state;
    uv_timer_init(dyn_loop_uv(store->loop), &state->tick);
    uv_timer_init(dyn_loop_uv(store->loop), &state->expiry);
    state->tick.data = state->expiry.data = store;
    state->timers = 2;
    dyn__store_opened(store);
    dyn__store_opened(store);
    uv_timer_start(&state->tick, on_tick, interval_ms, interval_ms);
    return DYN_OK;
}

static void on_timer_closed(uv_handle_t *handle)
{
    dyn_store *store = handle->data;
    struct file_state *state = store->state;
    if (--state->timers == 0) {
        store->state = NULL;
        dyn__free(state);
    }
    dyn__store_handle_closed(store);
}

static void file_close(dyn_store *store)
{
    struct file_state *state = store->state;
    if (state == NULL) return; /* it never opened */
    for (struct folder *folder = state->folders, *next; folder != NULL; folder = next) {
        next = folder->next;
        dyn__folder_close(folder);
    }
    state->folders = NULL;
    uv_close((uv_handle_t *)&state->tick, on_timer_closed);
    uv_close((uv_handle_t *)&state->expiry, on_timer_closed);
}

const struct backend dyn__store_file = {
    .name = "file",
    .open = file_open,
    .close = file_close,
    .follow = file_follow,
    .look = file_look,
    .publish = file_publish,
    .withdraw = file_withdraw,
    .remove = file_remove,
};
