/* resolve.c -- the addresses of a host; see client_internal.h.
 *
 * getaddrinfo may take seconds and knows no deadline, so a thread of its own runs it while who asked waits on a
 * descriptor. Numeric addresses need neither.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "net/client_internal.h"

static void look_up(dyn__names *self, int flags)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags}, *found = NULL;
    char port[8];
    snprintf(port, sizeof(port), "%u", self->port);
    self->gai = getaddrinfo(self->host, port, &hints, &found);
    for (struct addrinfo *at = found; at != NULL && self->count < DYN__ADDRESSES; at = at->ai_next) {
        if (at->ai_addrlen > sizeof(self->address[0])) continue;
        memcpy(&self->address[self->count], at->ai_addr, at->ai_addrlen);
        self->length[self->count++] = at->ai_addrlen;
    }
    if (found != NULL) freeaddrinfo(found);
}

static void *run(void *arg)
{
    dyn__names *self = arg;
    look_up(self, AI_ADDRCONFIG);
    atomic_store_explicit(&self->done, true, memory_order_release);
    close(self->write_fd);
    self->write_fd = -1;
    dyn__names_unref(self);
    return NULL;
}

int dyn__names_new(dyn__names **out, const char *host, uint16_t port)
{
    dyn__names *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    int rc = DYN_ENOMEM, fds[2];
    atomic_init(&self->refs, 1);
    self->read_fd = self->write_fd = -1;
    self->port = port;
    self->since_ns = dyn_now_ns();
    if ((self->host = dyn__strdup(host)) == NULL) goto fail;
    look_up(self, AI_NUMERICHOST);
    if (self->gai == 0) {
        atomic_init(&self->done, true);
        *out = self;
        return DYN_OK;
    }
    if (pipe(fds) < 0) {
        rc = dyn_error_from_errno(errno);
        goto fail;
    }
    self->read_fd = fds[0], self->write_fd = fds[1];
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    fcntl(fds[1], F_SETFD, FD_CLOEXEC);
    sigset_t all, before; /* signals are for the threads of the program */
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    dyn__names_ref(self);
    int failed = pthread_create(&thread, NULL, run, self);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed == 0) {
        pthread_detach(thread);
        *out = self;
        return DYN_OK;
    }
    rc = dyn__fail(DYN_EIO, "no thread to look up %s: %s", host, strerror(failed));
    dyn__names_unref(self);
fail:
    dyn__names_unref(self);
    return rc;
}

dyn__names *dyn__names_ref(dyn__names *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn__names_unref(dyn__names *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    if (self->read_fd >= 0) close(self->read_fd);
    if (self->write_fd >= 0) close(self->write_fd);
    dyn__free(self->host);
    dyn__free(self);
}
