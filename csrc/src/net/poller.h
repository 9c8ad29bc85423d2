/* poller.h -- which of many sockets can be read or written, told once at each change; and one timer.
 *
 * Its own descriptor is readable when there is something to tell, so that it fits into another event loop. epoll and a
 * timerfd on Linux, kqueue elsewhere.
 */
#ifndef DYN_NET_POLLER_H
#define DYN_NET_POLLER_H

#include "common/common.h"

typedef struct dyn__poller {
    int fd, timer_fd; /* timer_fd: -1 where the poller has timers itself */
} dyn__poller;
typedef struct dyn__ready {
    void *user;
    bool readable, writable; /* also when the socket failed or ended: reading or writing tells */
    bool ending;             /* the other side has sent its last byte: nothing more will be told */
} dyn__ready;

int dyn__poller_open(dyn__poller *self);
void dyn__poller_close(dyn__poller *self);
int dyn__poller_add(dyn__poller *self, int fd, void *user);
void dyn__poller_remove(dyn__poller *self, int fd);
/* Become readable at this time of dyn_now_ns(); 0: never. */
void dyn__poller_timer(dyn__poller *self, uint64_t at_ns);
/* What is ready now, without waiting; how many. The timer's user is NULL. */
int dyn__poller_take(dyn__poller *self, dyn__ready *out, int room);

#endif
