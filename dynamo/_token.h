/* _token.h -- how a dynamo.Token lies in memory, for _token.c and for the modules that make many of them.
 *
 * The five members are Python objects, never NULL and never changed: CPython 3.11 and newer reads such a member inline, for
 * nothing; a getter or a C number would cost 10 to 20 ns a read. They are an exact int, int, str or None, float or None,
 * bool, so a Token can be no part of a cycle and needs no garbage collection.
 */
#ifndef DYNAMO_TOKEN_OBJECT_H
#define DYNAMO_TOKEN_OBJECT_H
#include <Python.h>

typedef struct {
    PyObject_HEAD PyObject *id, *position, *text, *logprob, *is_special;
} DynTokenObject;

/* A new Token. id, position, text, logprob: taken, also on failure; any may be NULL, which is a failure that has set its
 * exception. The objects must be of the kinds above. */
static inline PyObject *dyn_token_make(PyTypeObject *type, PyObject *id, PyObject *position, PyObject *text,
                                       PyObject *logprob, int is_special)
{
    DynTokenObject *self = NULL;
    if (id != NULL && position != NULL && text != NULL && logprob != NULL) self = PyObject_New(DynTokenObject, type);
    if (self == NULL) {
        Py_XDECREF(id);
        Py_XDECREF(position);
        Py_XDECREF(text);
        Py_XDECREF(logprob);
        return NULL;
    }
    self->id = id, self->position = position, self->text = text, self->logprob = logprob;
    self->is_special = is_special ? Py_True : Py_False;
    Py_INCREF(self->is_special);
    return (PyObject *)self;
}

#endif
