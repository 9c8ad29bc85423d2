/* mailbox.h -- many threads put, one thread takes, one file descriptor says that there is something.
 *
 *   loop thread --put--> [ lock-free stack ] --take (all, oldest first)--> the thread that owns it
 *                              |
 *                    wake fd becomes readable when the box was empty
 *
 * A mail is the first member of the sender's own structure: nothing is allocated to send it.
 * Threads  put: any thread. take, wait: one thread at a time. ref, unref: any thread.
 */
#ifndef DYNAMO_MAILBOX_H
#define DYNAMO_MAILBOX_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_mail {
    struct dyn_mail *next;
    void *owner;                     /* whom it is for; the taker gives it its meaning */
    void (*drop)(struct dyn_mail *); /* frees a mail that nobody took; must not be NULL */
} dyn_mail;

typedef struct dyn_mailbox dyn_mailbox;
/* Make an empty box with one reference.
 * errors  DYN_ENOMEM, or the code of a refused file descriptor. */
DYN_API int dyn_mailbox_new(dyn_mailbox **out);
DYN_API dyn_mailbox *dyn_mailbox_ref(dyn_mailbox *self);
/* Give a reference back. The last one drops the mails that are left and closes the fd. NULL is allowed. */
DYN_API void dyn_mailbox_unref(dyn_mailbox *self);
/* Readable (poll, epoll, add_reader) while mails wait. Borrowed: never read it, never close it. */
DYN_API int dyn_mailbox_fd(const dyn_mailbox *self);
/* Put a mail. Cannot fail, never blocks.  mail: taken. */
DYN_API void dyn_mailbox_put(dyn_mailbox *self, dyn_mail *mail);
/* Take everything that is there, oldest first, linked by `next`; NULL when empty. The list is the caller's. */
DYN_API dyn_mail *dyn_mailbox_take(dyn_mailbox *self);
/* Wait until there is something.
 * timeout_ms  -1: for ever.
 * errors      DYN_ETIMEDOUT; DYN_EAGAIN when a signal came in between. */
DYN_API int dyn_mailbox_wait(dyn_mailbox *self, int timeout_ms);

#ifdef __cplusplus
}
#endif
#endif
