# The hand-written type of dynamo/_token.c, for modules that make or read many.
from cpython.object cimport PyObject, PyTypeObject


cdef extern from "dynamo/_token.h":
    ctypedef class dynamo._token.Token [object DynTokenObject]:
        cdef object id
        cdef object position
        cdef object text
        cdef object logprob
        cdef object is_special
    object dyn_token_make(PyTypeObject *type, PyObject *id, PyObject *position, PyObject *text, PyObject *logprob,
                          bint is_special)
