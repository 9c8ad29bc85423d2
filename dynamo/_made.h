/* _made.h -- types whose objects only the library makes: one that was made by hand would have nothing inside. */
#ifndef DYNAMO_MADE_H
#define DYNAMO_MADE_H
#include <Python.h>

static int dyn_refuse_init(PyObject *self, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    PyErr_Format(PyExc_TypeError, "cannot make a %.200s: the library hands them out", Py_TYPE(self)->tp_name);
    return -1;
}

/* From here on kind() and kind.__new__(kind) raise TypeError, while Cython's kind.__new__(kind), which goes by the slot, works
 * on: what Python finds without __new__ is object's, and that one refuses types with memory of their own. The type is
 * final from then on, in Python; call it once, behind the class and those that Cython derives from it. An __init__ of the class that raises may say more. */
static inline int dyn_only_library_makes(PyObject *kind)
{
    PyTypeObject *type = (PyTypeObject *)kind;
    if (type->tp_init == NULL || type->tp_init == PyBaseObject_Type.tp_init) type->tp_init = dyn_refuse_init;
    if (PyDict_DelItemString(type->tp_dict, "__new__") < 0) return -1;
    type->tp_flags &= ~Py_TPFLAGS_BASETYPE; /* a subclass could come without its __init__ */
    PyType_Modified(type);
    return 0;
}

#endif
