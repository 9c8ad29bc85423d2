/* loop.c -- see dynamo/loop.h for the contract.
 *
 *   any thread --post--> [ lock-free stack ] --uv_async_send--> loop thread runs them, oldest first
 *
 * I1  A task is run exactly once, also when it was posted while the loop was stopping.
 * I2  uv_async_send is called only when the stack was empty; the handler takes the whole stack.
 */
#include <pthread.h>
#include <stdio.h>

#include <uv.h>

#include "common/common.h"
#include "dynamo/loop.h"

struct dyn_loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_thread_t thread;
    _Atomic(dyn_task *) newest;
    atomic_size_t refs;
    atomic_bool stopping;
    bool detached; /* nobody will join: the thread frees the loop itself */
};

static void run_posted(dyn_loop *self)
{
    dyn_task *task = atomic_exchange_explicit(&self->newest, NULL, memory_order_acq_rel);
    dyn_task *oldest = NULL;
    while (task != NULL) {
        dyn_task *next = task->next;
        task->next = oldest;
        oldest = task;
        task = next;
    }
    while (oldest != NULL) {
        dyn_task *next = oldest->next;
        oldest->run(oldest);
        oldest = next;
    }
}

static void on_wake(uv_async_t *wake)
{
    dyn_loop *self = DYN__CONTAINER(wake, dyn_loop, wake);
    run_posted(self);
    if (atomic_load_explicit(&self->stopping, memory_order_acquire) && !uv_is_closing((uv_handle_t *)wake))
        uv_close((uv_handle_t *)wake, NULL); /* the loop ends when the last handle is closed */
}

static void finish(dyn_loop *self)
{
    run_posted(self);
    uv_run(&self->uv, UV_RUN_DEFAULT); /* what those tasks closed */
    int rc = uv_loop_close(&self->uv);
    assert(rc == 0 && "a handle was left open on the loop");
    if (rc == 0) dyn__free(self); /* else leak it rather than free memory that libuv still knows */
}

static void thread_main(void *arg)
{
    dyn_loop *self = arg;
    uv_run(&self->uv, UV_RUN_DEFAULT);
    if (self->detached) finish(self);
}

int dyn_loop_new(dyn_loop **out)
{
    dyn_loop *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    atomic_init(&self->newest, NULL);
    atomic_init(&self->refs, 1);
    atomic_init(&self->stopping, false);
    if (uv_loop_init(&self->uv) != 0) goto no_loop;
    if (uv_async_init(&self->uv, &self->wake, on_wake) != 0) goto no_async;
    if (uv_thread_create(&self->thread, thread_main, self) != 0) goto no_thread;
    *out = self;
    return DYN_OK;
no_thread:
    uv_close((uv_handle_t *)&self->wake, NULL);
    uv_run(&self->uv, UV_RUN_DEFAULT);
no_async:
    uv_loop_close(&self->uv);
no_loop:
    dyn__free(self);
    return dyn__fail(DYN_EIO, "the loop thread could not start");
}

dyn_loop *dyn_loop_ref(dyn_loop *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_loop_unref(dyn_loop *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    uv_thread_t thread = self->thread;
    bool here = dyn_loop_here(self);
    self->detached = here;
    atomic_store_explicit(&self->stopping, true, memory_order_release);
    uv_async_send(&self->wake);
    if (here) {
        pthread_detach(thread); /* nobody is left to join it */
        return;
    }
    uv_thread_join(&thread);
    finish(self);
}

void dyn_loop_post(dyn_loop *self, dyn_task *task)
{
    dyn_task *old = atomic_load_explicit(&self->newest, memory_order_relaxed);
    do {
        task->next = old;
    } while (
        !atomic_compare_exchange_weak_explicit(&self->newest, &old, task, memory_order_acq_rel, memory_order_relaxed));
    if (old == NULL) uv_async_send(&self->wake);
}

bool dyn_loop_here(const dyn_loop *self)
{
    uv_thread_t me = uv_thread_self();
    return uv_thread_equal(&me, &self->thread) != 0;
}

struct call {
    dyn_task task;
    int (*fn)(void *arg);
    void *arg;
    int result;
    char detail[512]; /* the sentence about a failure belongs to the thread that asked */
    uv_sem_t done;
};

static void run_call(dyn_task *task)
{
    struct call *call = DYN__CONTAINER(task, struct call, task);
    call->result = call->fn(call->arg);
    if (call->result < 0) {
        snprintf(call->detail, sizeof(call->detail), "%s", dyn_error_detail());
        dyn_error_clear();
    }
    uv_sem_post(&call->done);
}

int dyn_loop_run(dyn_loop *self, int (*fn)(void *arg), void *arg)
{
    if (dyn_loop_here(self)) return fn(arg);
    struct call call = {.task = {.run = run_call}, .fn = fn, .arg = arg};
    if (uv_sem_init(&call.done, 0) != 0) return DYN_EIO;
    dyn_loop_post(self, &call.task);
    uv_sem_wait(&call.done);
    uv_sem_destroy(&call.done);
    if (call.result < 0 && call.detail[0] != '\0') return dyn__fail(call.result, "%s", call.detail);
    return call.result;
}

struct uv_loop_s *dyn_loop_uv(dyn_loop *self)
{
    return &self->uv;
}
