from dynamo.c_mailbox cimport dyn_mail, dyn_mailbox


# Whoever gets mail. `dyn_mail.owner` is the receiver as a PyObject *, so it must outlive its last mail:
# take a reference (Py_INCREF) before C may post for it, give it back in the on_mail of the final one.
cdef class Receiver:
    # With the GIL, on the mailbox's thread. Takes the mail: frees it. Must not raise.
    cdef void on_mail(self, dyn_mail *mail) noexcept


cdef class Mailbox:
    cdef dyn_mailbox *ptr       # owned
    cdef object loop            # the asyncio loop, weakly; None for a box that a plain thread waits on
    cpdef int drain(self) except -1


cpdef Mailbox mailbox_of(object loop)
