cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass

cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock
    ctypedef long long PY_TIMEOUT_T


# A piece of work for a thread. `perform` runs there, with the GIL; what it raises is reported and lost.
cdef class Job:
    cdef int perform(self) except -1


# Where one thread waits until others tell it something. What it waits for is looked at right before and after, with the
# GIL held all the time: a ring that nobody waits for is not heard, and one may wake up for nothing.
cdef class Bell:
    cdef PyThread_type_lock lock
    cdef bint heard                 # nobody waits, or who does was told already
    cdef int wait(self, PY_TIMEOUT_T us) except -1
    cdef void ring(self) noexcept


# The threads of one run, at most `limit`; they are those of the keeper until it is closed.
cdef class Crew:
    cdef readonly Py_ssize_t limit
    cdef object queue               # deque of Job, oldest first
    cdef list free                  # threads without work; the one that worked last at the end
    cdef list called                # threads that were woken and have not come yet
    cdef Py_ssize_t at_work
    cdef bint closed
    cdef Bell over                  # rings when nobody is at work, while somebody waits for it
    cdef int era                    # which process of those that fork made
    cdef int put(self, Job job) except -1
    cdef int call_in(self, Py_ssize_t most) except -1
    cdef int serve(self, Worker worker) except -1
    cdef int release(self) except -1


cdef class Worker:
    cdef Bell bell
    cdef int wanted                 # changed with the GIL held; its thread looks at it without
    cdef Crew crew                  # whom it works for; None while nobody needs it
    cdef bint leaving               # nobody will need it any more
    cdef bint kept                  # it waits in the keeper
    cdef double since               # when it began to
    cdef PyThreadState *state       # while the thread runs
    cdef object hooks               # what it was told to trace with
    cdef object thread              # its threading.Thread
    cdef bint started
    cdef int era                    # of the process it was made in
    cdef int want(self, Crew crew) except -1
    cdef bint rest(self) except -1
