from dynamo._mailbox cimport Receiver
from dynamo.c_mailbox cimport dyn_mail
from dynamo.c_serve cimport dyn_answer, dyn_answer_hooks


# What is told about one call, without Python. A subclass fills `hooks`; Answer.call() takes them, and then
# hooks.on_end frees hooks.user.
cdef class Booking:
    cdef dyn_answer_hooks hooks
    cdef bint taken


cdef class Answer(Receiver):
    cdef dyn_answer *ptr        # a reference; NULL before __init__ is through
    cdef object on_broke
    cdef readonly object done   # an asyncio future of the summary
    cdef bint armed             # C may post: a reference to self is held until the mail DONE
    cdef readonly int choices
    cdef int arm(self) except -1
    cdef object summary(self)
