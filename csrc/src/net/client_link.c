/* client_link.c -- one connection: names, connect, TLS, bytes. See client_internal.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "net/client_internal.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* SO_NOSIGPIPE is set instead */
#endif

int dyn__link_new(dyn__link **out, dyn_http_client *client, dyn_http_hub *hub)
{
    dyn__link *self = dyn__malloc(sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    memset(self, 0, offsetof(dyn__link, in)); /* 64 KiB of `in` stay untouched until they are needed */
    self->fd = -1;
    self->hub = hub;
    self->client = client;
    *out = self;
    return DYN_OK;
}

static void close_fd(dyn__link *self)
{
    if (self->fd < 0) return;
    dyn__poller *poller = self->hub != NULL ? dyn__hub_poller(self->hub) : NULL;
    if (poller != NULL) dyn__poller_remove(poller, self->fd);
    close(self->fd);
    self->fd = -1;
}

void dyn__link_free(dyn__link *self)
{
    if (self == NULL) return;
    if (self->tls != NULL && self->phase == DYN__READY && !self->ended && self->client->pid == getpid()) {
        dyn_tls_goodbye(self->tls);
        dyn__link_flush(self);
    }
    close_fd(self);
    dyn_tls_free(self->tls);
    dyn__names_unref(self->names);
    dyn__free(self);
}

static int watch(dyn__link *self)
{
    self->readable = self->writable = self->ending = false;
    if (self->hub == NULL) return DYN_OK;
    int rc = dyn__poller_add(dyn__hub_poller(self->hub), self->fd, self);
    return rc < 0 ? dyn__fail(rc, "a socket cannot be watched: %s", strerror(errno)) : DYN_OK;
}

/* ---- opening ----------------------------------------------------------------------------------- */

static int open_socket(dyn__link *self)
{
    int family = self->names->address[self->address].ss_family, one = 1;
    (void)one;
#ifdef SOCK_NONBLOCK
    self->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (self->fd < 0) return errno;
#else
    self->fd = socket(family, SOCK_STREAM, 0);
    if (self->fd < 0) return errno;
    fcntl(self->fd, F_SETFL, O_NONBLOCK);
    fcntl(self->fd, F_SETFD, FD_CLOEXEC);
    setsockopt(self->fd, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof(one));
#endif
    setsockopt(self->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return 0;
}

/* Try addresses from self->address on until one is connected or being connected. `error`: of the one before. */
static int try_addresses(dyn__link *self, int error, uint64_t deadline_ns)
{
    dyn__names *names = self->names;
    for (; self->address < names->count; self->address++) {
        close_fd(self);
        if ((error = open_socket(self)) != 0) continue;
        const struct sockaddr *to = (const struct sockaddr *)&names->address[self->address];
        error = connect(self->fd, to, names->length[self->address]) < 0 ? errno : 0;
        if (error != 0 && error != EINPROGRESS) continue;
        int rc = watch(self);
        if (rc < 0) return rc;
        /* An address that does not answer must leave time for the next ones. */
        uint64_t now = dyn_now_ns(), left = names->count - self->address;
        uint64_t time = deadline_ns == UINT64_MAX ? UINT64_C(30000000000) : deadline_ns > now ? deadline_ns - now : 0;
        self->attempt_ends_ns = left > 1 ? now + time / left : UINT64_MAX;
        self->phase = DYN__CONNECT;
        self->writable = error == 0;
        return error == 0 ? DYN_OK : DYN_EAGAIN;
    }
    close_fd(self);
    dyn__client_forget_names(self->client);
    return dyn__fail(DYN_ECONN, "no connection to %s: %s", self->client->url,
                     error != 0 ? strerror(error) : "the host has no address");
}

static int start_tls(dyn__link *self)
{
    self->attempt_ends_ns = UINT64_MAX;
    if (!self->client->https) {
        self->phase = DYN__READY;
        return DYN_OK;
    }
    self->phase = DYN__SECURE;
    return dyn_tls_new(&self->tls, self->client->limits.tls, self->client->host);
}

static int shake(dyn__link *self)
{
    for (;;) {
        int done = dyn_tls_handshake(self->tls), rc = dyn__link_flush(self);
        if (rc < 0 && rc != DYN_EAGAIN) return done < 0 && done != DYN_EAGAIN ? done : rc;
        if (done == DYN_OK) self->phase = DYN__READY;
        if (done != DYN_EAGAIN) return done;
        if (!self->readable) return DYN_EAGAIN;
        char *room;
        size_t size;
        if ((rc = dyn_tls_room(self->tls, &room, &size)) < 0) return rc;
        ssize_t got = recv(self->fd, room, size, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            self->readable = false;
            return DYN_EAGAIN;
        }
        if (got <= 0)
            return dyn__fail(DYN_ECONN, "no connection to %s: the server ended the TLS handshake: %s",
                             self->client->url, got < 0 ? strerror(errno) : "it closed the connection");
        dyn_tls_fed(self->tls, (size_t)got);
        if ((size_t)got < size && !self->ending) self->readable = false;
    }
}

int dyn__link_open(dyn__link *self, uint64_t deadline_ns)
{
    int rc;
    for (;;) {
        switch (self->phase) {
        case DYN__NAMES:
            if (self->names == NULL && (rc = dyn__client_names(self->client, &self->names)) < 0) return rc;
            if (!atomic_load_explicit(&self->names->done, memory_order_acquire)) {
                if (self->fd >= 0) return DYN_EAGAIN;
                self->fd = fcntl(self->names->read_fd, F_DUPFD_CLOEXEC, 0);
                if (self->fd < 0) return dyn__fail(DYN_EIO, "no descriptor: %s", strerror(errno));
                if ((rc = watch(self)) < 0) return rc;
                self->attempt_ends_ns = UINT64_MAX;
                /* It may have become known before the descriptor was watched: the poller tells that too. */
                return DYN_EAGAIN;
            }
            close_fd(self);
            if (self->names->gai != 0) {
                dyn__client_forget_names(self->client);
                return dyn__fail(DYN_ECONN, "no connection to %s: no address for %s: %s", self->client->url,
                                 self->client->host, gai_strerror(self->names->gai));
            }
            self->address = 0;
            if ((rc = try_addresses(self, 0, deadline_ns)) < 0) return rc;
            break;
        case DYN__CONNECT: {
            if (!self->writable && dyn_now_ns() < self->attempt_ends_ns) return DYN_EAGAIN;
            int error = 0;
            socklen_t length = sizeof(error);
            if (!self->writable)
                error = ETIMEDOUT;
            else if (getsockopt(self->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
                error = errno;
            if (error == 0) {
                atomic_fetch_add_explicit(&self->client->opened, 1, memory_order_relaxed);
                if ((rc = start_tls(self)) < 0) return rc;
                break;
            }
            self->address++;
            if ((rc = try_addresses(self, error, deadline_ns)) < 0) return rc;
            break;
        }
        case DYN__SECURE:
            if ((rc = shake(self)) < 0) return rc;
            break;
        case DYN__READY: return DYN_OK;
        }
    }
}

short dyn__link_wants(const dyn__link *self, bool more_to_send)
{
    const char *data;
    switch (self->phase) {
    case DYN__NAMES: return POLLIN;
    case DYN__CONNECT: return POLLOUT;
    default: break;
    }
    if (self->tls != NULL) more_to_send |= dyn_tls_pending(self->tls, &data) > 0;
    return (short)(POLLIN | (more_to_send && !self->writable ? POLLOUT : 0));
}

/* ---- bytes ------------------------------------------------------------------------------------- */

static int broken(dyn__link *self, int error)
{
    self->ended = true;
    return dyn__fail(error == ENOMEM ? DYN_ENOMEM : DYN_EBROKEN, "the connection to %s broke: %s", self->client->url,
                     strerror(error));
}

/* DYN_ECLOSED at the end of what the other side sends. */
static int receive(dyn__link *self, void *out, size_t size, size_t *got)
{
    if (!self->readable) return DYN_EAGAIN;
    ssize_t n;
    do {
        n = recv(self->fd, out, size, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        self->readable = false;
        return DYN_EAGAIN;
    }
    if (n < 0) return broken(self, errno);
    if (n == 0) {
        self->ended = true;
        return DYN_ECLOSED;
    }
    if ((size_t)n < size && !self->ending) self->readable = false; /* I3 */
    *got = (size_t)n;
    return DYN_OK;
}

int dyn__link_read(dyn__link *self, void *out, size_t size, size_t *got)
{
    if (self->tls == NULL) return receive(self, out, size, got);
    for (;;) {
        int rc = dyn_tls_read(self->tls, out, size, got);
        if (rc != DYN_EAGAIN) {
            if (rc == DYN_ECLOSED) self->ended = true;
            return rc;
        }
        char *room;
        size_t space, n;
        if ((rc = dyn_tls_room(self->tls, &room, &space)) < 0) return rc;
        if ((rc = receive(self, room, space, &n)) == DYN_ECLOSED)
            return dyn__fail(DYN_EBROKEN, "the connection to %s ended without TLS's goodbye", self->client->url);
        if (rc < 0) return rc;
        dyn_tls_fed(self->tls, n);
    }
}

static int transmit(dyn__link *self, struct iovec *pieces, int count, size_t *taken)
{
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)count};
    if (!self->writable) return DYN_EAGAIN;
    ssize_t n;
    do {
        n = count == 1 ? send(self->fd, pieces[0].iov_base, pieces[0].iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
                       : sendmsg(self->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        self->writable = false;
        return DYN_EAGAIN;
    }
    if (n < 0) return broken(self, errno);
    size_t all = 0;
    for (int i = 0; i < count; i++) all += pieces[i].iov_len;
    if ((size_t)n < all) self->writable = false;
    *taken = (size_t)n;
    return DYN_OK;
}

int dyn__link_flush(dyn__link *self)
{
    const char *data;
    size_t length, n = 0;
    if (self->tls == NULL) return DYN_OK;
    while ((length = dyn_tls_pending(self->tls, &data)) > 0) {
        struct iovec piece = {(void *)(uintptr_t)data, length};
        int rc = transmit(self, &piece, 1, &n);
        if (rc < 0) return rc;
        dyn_tls_sent(self->tls, n);
    }
    return DYN_OK;
}

int dyn__link_write(dyn__link *self, struct iovec *pieces, int count, size_t *taken)
{
    enum { AT_ONCE = 256 * 1024 }; /* of plain bytes in TLS's hands */
    if (self->tls == NULL) return transmit(self, pieces, count, taken);
    int rc = dyn__link_flush(self);
    if (rc < 0) return rc;
    *taken = 0;
    for (int i = 0; i < count && *taken < AT_ONCE; i++) {
        size_t length = pieces[i].iov_len < AT_ONCE ? pieces[i].iov_len : AT_ONCE;
        if ((rc = dyn_tls_write(self->tls, pieces[i].iov_base, length)) < 0) return rc;
        *taken += length;
        if (length < pieces[i].iov_len) break;
    }
    rc = dyn__link_flush(self);
    return rc == DYN_EAGAIN ? DYN_OK : rc; /* taken all the same: flush goes on */
}

bool dyn__link_good(dyn__link *self, uint64_t now)
{
    char byte;
    size_t got;
    if (self->ended || now - self->idle_since_ns > self->client->limits.idle_timeout_ms * UINT64_C(1000000))
        return false;
    if (self->tls == NULL) {
        ssize_t n = recv(self->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    }
    self->readable = true; /* session tickets may be there; plain bytes may not */
    return dyn__link_read(self, &byte, 1, &got) == DYN_EAGAIN;
}
