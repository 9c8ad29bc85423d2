/* poller.c -- see poller.h. */
#include <errno.h>
#include <unistd.h>

#include "net/poller.h"

enum { AT_ONCE = 128 };

#ifdef __linux__
#include <sys/epoll.h>
#include <sys/timerfd.h>

int dyn__poller_open(dyn__poller *self)
{
    struct epoll_event timer = {.events = EPOLLIN};
    self->timer_fd = -1;
    self->fd = epoll_create1(EPOLL_CLOEXEC);
    if (self->fd >= 0) self->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (self->timer_fd < 0 || epoll_ctl(self->fd, EPOLL_CTL_ADD, self->timer_fd, &timer) < 0) {
        int rc = dyn_error_from_errno(errno);
        dyn__poller_close(self);
        return dyn__fail(rc, "no descriptor for an epoll: raise the limit of open files (ulimit -n)");
    }
    return DYN_OK;
}

void dyn__poller_close(dyn__poller *self)
{
    if (self->timer_fd >= 0) close(self->timer_fd);
    if (self->fd >= 0) close(self->fd);
    self->fd = self->timer_fd = -1;
}

int dyn__poller_add(dyn__poller *self, int fd, void *user)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = user};
    return epoll_ctl(self->fd, EPOLL_CTL_ADD, fd, &event) < 0 ? dyn_error_from_errno(errno) : DYN_OK;
}

void dyn__poller_remove(dyn__poller *self, int fd)
{
    epoll_ctl(self->fd, EPOLL_CTL_DEL, fd, NULL);
}

void dyn__poller_timer(dyn__poller *self, uint64_t at_ns)
{
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(at_ns / 1000000000), .tv_nsec = (long)(at_ns % 1000000000)}};
    timerfd_settime(self->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

int dyn__poller_take(dyn__poller *self, dyn__ready *out, int room)
{
    struct epoll_event events[AT_ONCE];
    int count = epoll_wait(self->fd, events, room < AT_ONCE ? room : AT_ONCE, 0);
    for (int i = 0; i < count; i++) {
        uint32_t bits = events[i].events;
        out[i] = (dyn__ready){.user = events[i].data.ptr,
                              .readable = bits & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR),
                              .writable = bits & (EPOLLOUT | EPOLLHUP | EPOLLERR),
                              .ending = bits & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)};
        uint64_t times;
        if (out[i].user == NULL && read(self->timer_fd, &times, sizeof(times)) < 0)
            continue; /* read: no longer ready */
    }
    return count < 0 ? 0 : count;
}

#else
#include <sys/event.h>
#include <sys/time.h>

int dyn__poller_open(dyn__poller *self)
{
    self->timer_fd = -1;
    self->fd = kqueue();
    return self->fd < 0 ? dyn_error_from_errno(errno) : DYN_OK;
}

void dyn__poller_close(dyn__poller *self)
{
    if (self->fd >= 0) close(self->fd);
    self->fd = -1;
}

int dyn__poller_add(dyn__poller *self, int fd, void *user)
{
    struct kevent changes[2];
    EV_SET(&changes[0], fd, EVFILT_READ, EV_ADD | EV_CLEAR, 0, 0, user);
    EV_SET(&changes[1], fd, EVFILT_WRITE, EV_ADD | EV_CLEAR, 0, 0, user);
    if (kevent(self->fd, changes, 1, NULL, 0, NULL) < 0) return dyn_error_from_errno(errno);
    kevent(self->fd, changes + 1, 1, NULL, 0, NULL); /* the read end of a pipe has no such side */
    return DYN_OK;
}

void dyn__poller_remove(dyn__poller *self, int fd)
{
    struct kevent changes[2];
    EV_SET(&changes[0], fd, EVFILT_READ, EV_DELETE, 0, 0, NULL);
    EV_SET(&changes[1], fd, EVFILT_WRITE, EV_DELETE, 0, 0, NULL);
    for (int i = 0; i < 2; i++) kevent(self->fd, changes + i, 1, NULL, 0, NULL);
}

void dyn__poller_timer(dyn__poller *self, uint64_t at_ns)
{
    uint64_t now = dyn_now_ns();
    struct kevent change;
    if (at_ns == 0)
        EV_SET(&change, 1, EVFILT_TIMER, EV_DELETE, 0, 0, NULL);
    else
        EV_SET(&change, 1, EVFILT_TIMER, EV_ADD | EV_ONESHOT, 0,
               at_ns > now ? (intptr_t)((at_ns - now) / 1000000 + 1) : 0, NULL);
    kevent(self->fd, &change, 1, NULL, 0, NULL);
}

int dyn__poller_take(dyn__poller *self, dyn__ready *out, int room)
{
    struct kevent events[AT_ONCE];
    struct timespec none = {0, 0};
    int count = kevent(self->fd, NULL, 0, events, room < AT_ONCE ? room : AT_ONCE, &none);
    for (int i = 0; i < count; i++) {
        bool timer = events[i].filter == EVFILT_TIMER;
        out[i] = (dyn__ready){.user = timer ? NULL : events[i].udata,
                              .readable = events[i].filter == EVFILT_READ,
                              .writable = events[i].filter == EVFILT_WRITE,
                              .ending = events[i].flags & EV_EOF};
    }
    return count < 0 ? 0 : count;
}
#endif
