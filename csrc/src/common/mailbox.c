/* mailbox.c -- see dynamo/mailbox.h for the contract.
 *
 * I1  The wake fd is readable whenever `newest` is not NULL and no take() is under way.
 *     put() writes it only when it found the box empty: a burst costs one system call.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

#include "common/common.h"
#include "dynamo/mailbox.h"

struct dyn_mailbox {
    _Atomic(dyn_mail *) newest;
    atomic_size_t refs;
    int read_fd, write_fd; /* the same eventfd on Linux, a pipe elsewhere */
};

static int open_wake(dyn_mailbox *self)
{
#ifdef __linux__
    self->read_fd = self->write_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return self->read_fd < 0 ? dyn_error_from_errno(errno) : DYN_OK;
#else
    int fds[2];
    if (pipe(fds) < 0) return dyn_error_from_errno(errno);
    for (int i = 0; i < 2; i++) {
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
    }
    self->read_fd = fds[0], self->write_fd = fds[1];
    return DYN_OK;
#endif
}

int dyn_mailbox_new(dyn_mailbox **out)
{
    dyn_mailbox *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    int rc = open_wake(self);
    if (rc < 0) {
        dyn__free(self);
        return rc;
    }
    atomic_init(&self->newest, NULL);
    atomic_init(&self->refs, 1);
    *out = self;
    return DYN_OK;
}

dyn_mailbox *dyn_mailbox_ref(dyn_mailbox *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_mailbox_unref(dyn_mailbox *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    for (dyn_mail *mail = dyn_mailbox_take(self), *next; mail != NULL; mail = next) {
        next = mail->next;
        mail->drop(mail);
    }
    close(self->read_fd);
    if (self->write_fd != self->read_fd) close(self->write_fd);
    dyn__free(self);
}

int dyn_mailbox_fd(const dyn_mailbox *self)
{
    return self->read_fd;
}

void dyn_mailbox_put(dyn_mailbox *self, dyn_mail *mail)
{
    static const uint64_t one = 1;
    dyn_mail *old = atomic_load_explicit(&self->newest, memory_order_relaxed);
    do {
        mail->next = old;
    } while (
        !atomic_compare_exchange_weak_explicit(&self->newest, &old, mail, memory_order_acq_rel, memory_order_relaxed));
    if (old != NULL) return; /* who made it non-empty wakes */
    ssize_t wrote;
    do {
        wrote = write(self->write_fd, &one, sizeof(one));
    } while (wrote < 0 && errno == EINTR);
    /* EAGAIN: the fd is readable already, which is all that is wanted (I1) */
}

dyn_mail *dyn_mailbox_take(dyn_mailbox *self)
{
    uint64_t sink[8];
    ssize_t got;
    /* Empty the fd before the box: a put() in between leaves it readable, never the other way round. */
    do {
        got = read(self->read_fd, sink, sizeof(sink));
    } while (got == (ssize_t)sizeof(sink) || (got < 0 && errno == EINTR));
    dyn_mail *mail = atomic_exchange_explicit(&self->newest, NULL, memory_order_acq_rel);
    dyn_mail *oldest = NULL;
    while (mail != NULL) {
        dyn_mail *next = mail->next;
        mail->next = oldest;
        oldest = mail;
        mail = next;
    }
    return oldest;
}

int dyn_mailbox_wait(dyn_mailbox *self, int timeout_ms)
{
    struct pollfd ready = {.fd = self->read_fd, .events = POLLIN};
    int n = poll(&ready, 1, timeout_ms);
    if (n > 0) return DYN_OK;
    if (n == 0) return DYN_ETIMEDOUT;
    return errno == EINTR ? DYN_EAGAIN : dyn_error_from_errno(errno);
}
