"""Threads that outlive the run they were made for.

    keeper.idle --take--> Crew of a run: free <--> called --> at work        the last that came is the first to go
         ^                                             (jobs in the order they were put)
         '------- close (the run has ended), or idle for some seconds: the thread ends

A thread that waits does so on a lock of its own without the GIL; waking it is one system call. It looks whether it is
still wanted before it asks for the GIL: work that another thread has taken meanwhile costs it nothing.

I1  Everything here changes with the GIL held.
I2  A thread that waits knows no run; what was kept for it in threading.local goes when its run ends.
I3  A job that was put is performed, unless its process ends by force: at exit the interpreter waits for it.
I4  A worker is in one place: in the keeper, or free or called in a crew, or (counted only) at work for it.
"""

import os
import threading
import time
from collections import deque

cdef extern from "Python.h":
    object PyContext_New()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()
    PyThreadState *PyThreadState_Get()
    int PyErr_CheckSignals() except -1
    void PyErr_WriteUnraisable(object where)

cdef extern from "pythread.h" nogil:
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    void PyThread_release_lock(PyThread_type_lock lock)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, PY_TIMEOUT_T microseconds, int intr_flag)

cdef extern from *:
    """
    static inline int dyn_peek(int *at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
    static inline void dyn_poke(int *at, int value) { __atomic_store_n(at, value, __ATOMIC_RELAXED); }

    /* What the end of a thread does to the values of threading.local. */
    static void dyn_forget_locals(PyThreadState *state)
    {
    #if PY_VERSION_HEX >= 0x030D0000
        Py_CLEAR(state->threading_local_key);
        Py_CLEAR(state->threading_local_sentinel);
    #endif
        if (state->dict != NULL) PyDict_Clear(state->dict);
    }
    """
    void dyn_forget_locals(PyThreadState *state)
    int dyn_peek(int *at) nogil
    void dyn_poke(int *at, int value) nogil


cdef class Job:
    cdef int perform(self) except -1:
        raise NotImplementedError


cdef class Bell:
    def __cinit__(self):
        self.heard = True
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError("no lock could be made")
        PyThread_acquire_lock_timed(self.lock, 0, 0)

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef int wait(self, PY_TIMEOUT_T us) except -1:
        """Wait for `us` microseconds at most, or for ever if negative. Signals are served."""
        cdef PyLockStatus status
        self.heard = False
        with nogil:
            status = PyThread_acquire_lock_timed(self.lock, us, 1)
        self.heard = True
        if status == PY_LOCK_INTR:
            PyErr_CheckSignals()
        return 0

    cdef void ring(self) noexcept:
        if not self.heard:
            self.heard = True
            PyThread_release_lock(self.lock)


# ------------------------------------------------------------------ the threads of all runs

cdef class Keeper:
    """The threads that no run needs now.

    Attributes
    ----------
    patience : float
        Seconds after which a thread that nobody needs ends.
    """
    cdef public double patience
    cdef list idle                  # of Worker
    cdef set everybody              # threads that have not ended
    cdef bint closed
    cdef int era
    cdef Py_ssize_t made

    def __init__(self):
        self.patience = 5.0
        self.forget()

    def forget(self):
        """Begin anew: a child of fork has none of its parent's threads."""
        self.era += 1
        self.idle, self.everybody = [], set()

    @property
    def waiting(self):
        """How many threads wait for a run."""
        return len(self.idle)

    @property
    def threads(self):
        """How many there are."""
        return len(self.everybody)

    cdef Worker take(self):
        """A worker without work; the thread of one that is new has not started."""
        cdef Worker worker
        hooks = threading.gettrace(), threading.getprofile()
        while self.idle:
            worker = self.idle.pop()
            worker.kept = False
            if worker.hooks == hooks:           # else a debugger or profiler came or went meanwhile
                return worker
            self.send_away(worker)
        worker = Worker.__new__(Worker)
        worker.bell, worker.hooks, worker.era = Bell(), hooks, self.era
        self.made += 1
        worker.thread = threading.Thread(target=worker.run, name=f"dynamo-worker-{self.made}", daemon=False)
        return worker

    cdef int keep(self, Worker worker) except -1:
        """Take a thread back that has no work."""
        if worker.state != NULL:
            dyn_forget_locals(worker.state)
        if self.closed:
            return self.send_away(worker)
        worker.kept, worker.since = True, time.monotonic()
        self.idle.append(worker)
        return 0

    cdef int send_away(self, Worker worker) except -1:
        worker.leaving = True
        worker.want(None)
        return 0

    def close(self):
        """The interpreter is about to exit: threads end as soon as they have no work."""
        self.closed = True
        self.idle.clear()
        for worker in list(self.everybody):
            if (<Worker>worker).crew is None:
                self.send_away(worker)


cdef class Worker:
    cdef int want(self, Crew crew) except -1:
        """Wake the thread up: to work for a crew, or to leave."""
        self.crew = crew
        dyn_poke(&self.wanted, 1)
        if self.started:
            PyThread_release_lock(self.bell.lock)
        else:
            self.started = True
            self.thread.start()
        return 0

    def run(self):
        """What the thread does."""
        cdef Crew crew
        self.state = PyThreadState_Get()
        keeper.everybody.add(self)
        try:
            while True:
                crew = self.crew
                if crew is not None:
                    crew.serve(self)
                    crew = None
                if self.leaving or not self.rest():
                    return
        finally:
            self.state, self.thread = NULL, None
            keeper.everybody.discard(self)

    cdef bint rest(self) except -1:
        """Wait until somebody needs the thread; False when nobody did for long."""
        cdef PyLockStatus status
        cdef PyThread_type_lock lock = self.bell.lock
        cdef double idle
        cdef PY_TIMEOUT_T us
        while self.crew is None and not self.leaving:
            if self.era != keeper.era or keeper.closed:     # it forked, and this is the child; or all is over
                return False
            us = <PY_TIMEOUT_T>(keeper.patience * 1e6)
            with nogil:
                while True:
                    status = PyThread_acquire_lock_timed(lock, us, 0)
                    if status != PY_LOCK_ACQUIRED or dyn_peek(&self.wanted):
                        break
            if self.kept and status != PY_LOCK_ACQUIRED:
                idle = time.monotonic() - self.since
                if idle >= keeper.patience * 0.9:
                    keeper.idle.remove(self)
                    return False
        return not self.leaving


# ------------------------------------------------------------------ the threads of a run

cdef class Crew:
    """The threads of one run.

    Parameters
    ----------
    limit
        How many may work at a time.
    """

    def __init__(self, Py_ssize_t limit):
        if limit < 1:
            raise ValueError(f"max_concurrency is {limit}: it must be at least 1")
        self.limit = limit
        self.queue, self.free, self.called, self.era = deque(), [], [], keeper.era

    def __del__(self):
        self.release()

    def submit(self, future, fn, args, kwargs):
        """Have ``fn(*args, **kwargs)`` called in a copy of this context, and its outcome put into a future."""
        cdef Errand job = Errand.__new__(Errand)
        job.future, job.fn, job.args, job.kwargs, job.context = future, fn, args, kwargs, PyContext_CopyCurrent()
        self.put(job)
        self.call_in(1)

    cdef int put(self, Job job) except -1:
        """Add work; somebody has to be called in for it."""
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.queue.append(job)
        return 0

    cdef int call_in(self, Py_ssize_t most) except -1:
        """Wake up threads for what is queued: at most as many as said, as there is work, and as there may be."""
        cdef Worker worker
        cdef Py_ssize_t wanted
        if self.era != keeper.era:              # our threads are in the process that we were forked off
            self.era = keeper.era
            self.free, self.called, self.at_work = [], [], 0
        wanted = min(most, len(self.queue) - len(self.called))
        while wanted > 0:
            wanted -= 1
            while self.free and (<Worker>self.free[-1]).leaving:
                self.free.pop()
            if self.free:
                worker = self.free.pop()
            elif self.at_work + len(self.called) < self.limit:
                worker = keeper.take()
            else:
                break
            self.called.append(worker)
            try:
                worker.want(self)
            except BaseException as error:      # no more threads can be made, or we were interrupted
                if worker in self.called and worker.thread.ident is None:
                    self.called.remove(worker)
                if not isinstance(error, RuntimeError):
                    raise
                if self.called or self.at_work:
                    break                       # those that we have must do
                self.queue.clear()
                raise
        return 0

    cdef int serve(self, Worker worker) except -1:
        """Perform what is queued; on a thread that was called in."""
        cdef Job job
        cdef Worker late
        if worker in self.called:
            self.called.remove(worker)
        self.at_work += 1
        context = PyContext_New()               # what a job's end leaves behind is not for the next run
        PyContext_Enter(context)
        while self.queue:
            job = <Job>self.queue.popleft()
            while len(self.called) > len(self.queue):
                late = <Worker>self.called.pop()
                late.crew = None
                if not keeper.closed:           # else it has to see that
                    dyn_poke(&late.wanted, 0)
                self.free.append(late)
            try:
                job.perform()
            except BaseException:
                PyErr_WriteUnraisable(job)
            job = None
        PyContext_Exit(context)
        self.at_work -= 1
        worker.crew = None
        dyn_poke(&worker.wanted, 0)
        if self.closed or keeper.closed:
            keeper.keep(worker)
        else:
            self.free.append(worker)
        if self.at_work == 0 and self.over is not None:
            self.over.ring()
        return 0

    def close(self):
        """Take no more work, wait for the end of what there is, and let the threads go."""
        self.closed = True
        try:
            if self.queue:
                self.call_in(len(self.queue))   # others may go on meanwhile
            if self.over is None:
                self.over = Bell()
            while self.at_work or self.queue:
                self.over.wait(-1)
        finally:
            self.release()

    cdef int release(self) except -1:
        if self.era == keeper.era:
            while self.free:
                keeper.keep(self.free.pop(0))
        return 0


cdef class Errand(Job):
    """A function to call, and the future of its result."""
    cdef object future
    cdef object fn
    cdef object args
    cdef object kwargs
    cdef object context

    cdef int perform(self) except -1:
        future, fn, args, kwargs = self.future, self.fn, self.args, self.kwargs
        self.future = self.fn = self.args = self.kwargs = None
        if not future.set_running_or_notify_cancel():
            return 0
        result = failure = None
        PyContext_Enter(self.context)
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            failure = error
        finally:
            PyContext_Exit(self.context)
        fn = args = kwargs = None
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)
        return 0


cdef Keeper keeper = Keeper()
globals()["keeper"] = keeper
os.register_at_fork(after_in_child=keeper.forget)
try:
    threading._register_atexit(keeper.close)    # before threads are waited for
except RuntimeError:
    keeper.closed = True                        # imported while the interpreter exits
