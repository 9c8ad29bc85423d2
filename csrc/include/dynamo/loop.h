/* loop.h -- the loop thread: one libuv loop on a thread of its own (area net).
 *
 * It moves bytes, keeps leases, fires timers and answers health checks, and never waits for Python.
 * Threads  post, run, ref, unref: any thread. What dyn_loop_uv() gives is for the loop thread alone.
 * Fork     the thread does not exist in a child: a child makes a new loop and forgets the old one.
 */
#ifndef DYNAMO_LOOP_H
#define DYNAMO_LOOP_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

struct uv_loop_s;
typedef struct dyn_loop dyn_loop;

/* Work for the loop thread; the first member of the sender's structure, so posting allocates nothing. */
typedef struct dyn_task {
    struct dyn_task *next;
    void (*run)(struct dyn_task *self); /* may free self */
} dyn_task;

/* Start a loop thread; one reference.
 * errors  DYN_ENOMEM, DYN_EIO (no thread, no descriptor). */
DYN_API int dyn_loop_new(dyn_loop **out);
DYN_API dyn_loop *dyn_loop_ref(dyn_loop *self);
/* Give a reference back. The last one runs what was posted, stops the thread and joins it. Handles of
 * others must be closed by then: whoever opens a handle holds a reference until its close callback.
 * On the loop thread itself the thread ends after the current turn instead. NULL is allowed. */
DYN_API void dyn_loop_unref(dyn_loop *self);
/* Run the task on the loop thread, in the order of posting. Cannot fail.  task: taken. */
DYN_API void dyn_loop_post(dyn_loop *self, dyn_task *task);
/* Run fn(arg) on the loop thread and wait for its result. At once when called on the loop thread. */
DYN_API int dyn_loop_run(dyn_loop *self, int (*fn)(void *arg), void *arg);
DYN_API bool dyn_loop_here(const dyn_loop *self); /* is this the loop thread? */
/* The loop itself; borrowed, for the loop thread only. */
DYN_API struct uv_loop_s *dyn_loop_uv(dyn_loop *self);

#ifdef __cplusplus
}
#endif
#endif
