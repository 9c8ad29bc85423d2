"""From C threads into Python: one mailbox for each asyncio loop, drained under one hold of the GIL."""
import os
import weakref

from dynamo._errors cimport check
from dynamo.c_mailbox cimport dyn_mailbox_fd, dyn_mailbox_new, dyn_mailbox_take, dyn_mailbox_unref, dyn_mailbox_wait


cdef class Receiver:
    cdef void on_mail(self, dyn_mail *mail) noexcept:
        mail.drop(mail)


cdef class Mailbox:
    """A box of mails from C threads. Used on the thread of its loop only."""

    def __cinit__(self):
        check(dyn_mailbox_new(&self.ptr))

    def __dealloc__(self):
        dyn_mailbox_unref(self.ptr)

    def fileno(self):
        """The descriptor that is readable while something waits."""
        return dyn_mailbox_fd(self.ptr)

    cpdef int drain(self) except -1:
        """Hand out everything that is there; returns how many mails that were."""
        cdef dyn_mail *mail = dyn_mailbox_take(self.ptr)
        cdef dyn_mail *after
        cdef int count = 0
        while mail != NULL:
            after = mail.next
            (<Receiver>mail.owner).on_mail(mail)
            mail = after
            count += 1
        return count

    def wait(self, timeout=None):
        """Block, without the GIL, until something is there, then drain. False when the time is over."""
        cdef int ms = -1 if timeout is None else max(0, int(timeout * 1000))
        cdef int rc
        with nogil:
            rc = dyn_mailbox_wait(self.ptr, ms)
        if rc >= 0:
            self.drain()
            return True
        return False


# An entry goes with its loop. Mails for a loop that is closed stay in the box until it is freed.
cdef object _boxes = weakref.WeakKeyDictionary()


cpdef Mailbox mailbox_of(object loop):
    """The mailbox of an asyncio loop, made and registered on first use; call on the loop's thread."""
    cdef Mailbox box = _boxes.get(loop)
    if box is None:
        box = Mailbox()
        box.loop = weakref.ref(loop)
        loop.add_reader(box.fileno(), box.drain)
        _boxes[loop] = box
    return box


def _forget_boxes():
    # A child of fork has the parent's descriptors but none of its C threads.
    _boxes.clear()


os.register_at_fork(after_in_child=_forget_boxes)
