# Mirrors dynamo/mailbox.h.
cdef extern from "dynamo/mailbox.h" nogil:
    ctypedef struct dyn_mail:
        dyn_mail *next
        void *owner
        void (*drop)(dyn_mail *) noexcept nogil
    ctypedef struct dyn_mailbox:
        pass
    int dyn_mailbox_new(dyn_mailbox **out)
    dyn_mailbox *dyn_mailbox_ref(dyn_mailbox *self)
    void dyn_mailbox_unref(dyn_mailbox *self)
    int dyn_mailbox_fd(const dyn_mailbox *self)
    void dyn_mailbox_put(dyn_mailbox *self, dyn_mail *mail)
    dyn_mail *dyn_mailbox_take(dyn_mailbox *self)
    int dyn_mailbox_wait(dyn_mailbox *self, int timeout_ms)
