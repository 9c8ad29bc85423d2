# Mirrors dynamo/loop.h.
cdef extern from "dynamo/loop.h" nogil:
    ctypedef struct dyn_loop:
        pass
    ctypedef struct dyn_task:
        dyn_task *next
        void (*run)(dyn_task *self) noexcept nogil
    int dyn_loop_new(dyn_loop **out)
    dyn_loop *dyn_loop_ref(dyn_loop *self)
    void dyn_loop_unref(dyn_loop *self)
    void dyn_loop_post(dyn_loop *self, dyn_task *task)
    int dyn_loop_run(dyn_loop *self, int (*fn)(void *arg) noexcept nogil, void *arg)
    bint dyn_loop_here(const dyn_loop *self)
