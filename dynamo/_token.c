/* _token.c -- the type dynamo.Token, by hand: see _token.h for why. */
#define PY_SSIZE_T_CLEAN
#include "dynamo/_token.h"

#include <math.h>
#include <structmember.h>

#include "dynamo/tokens.h"

static PyTypeObject Token_Type;

enum { ID, POSITION, TEXT, LOGPROB, IS_SPECIAL, FIELDS };
static const char *const FIELD_NAMES[FIELDS] = {"id", "position", "text", "logprob", "is_special"};
static PyObject *field_names[FIELDS]; /* the same, interned; set once when the module is made */
static int (*check)(int);             /* dynamo._errors.check; likewise */

/* ---- arguments ---- */

static PyObject *wrong_type(int field, const char *want, PyObject *got)
{
    PyErr_Format(PyExc_TypeError, "Token %s must be %s, not %.200s", FIELD_NAMES[field], want, Py_TYPE(got)->tp_name);
    return NULL;
}

static PyObject *number_of(int field, PyObject *value)
{
    int overflow;
    PyObject *whole = value;
    if (PyLong_Check(value)) {
        Py_INCREF(whole);
    } else {
        if (!PyIndex_Check(value)) return wrong_type(field, "an int", value);
        if ((whole = PyNumber_Index(value)) == NULL) return NULL;
    }
    long long number = PyLong_AsLongLongAndOverflow(whole, &overflow);
    if (overflow != 0 || number < 0 || number > UINT32_MAX) {
        PyErr_Format(PyExc_OverflowError, "Token %s must be between 0 and 4294967295, not %R", FIELD_NAMES[field],
                     whole);
        Py_DECREF(whole);
        return NULL;
    }
    if (!PyLong_CheckExact(whole)) {
        Py_DECREF(whole);
        whole = PyLong_FromLongLong(number);
    }
    return whole;
}

static PyObject *text_of(PyObject *value)
{
    if (value == NULL || value == Py_None || PyUnicode_CheckExact(value)) {
        value = value == NULL ? Py_None : value;
        Py_INCREF(value);
        return value;
    }
    if (!PyUnicode_Check(value)) return wrong_type(TEXT, "a str or None", value);
    return PyUnicode_FromObject(value); /* of a subclass: an exact copy */
}

/* Kept as float32, as it travels. */
static PyObject *logprob_of(PyObject *value)
{
    if (value == NULL || value == Py_None) {
        Py_INCREF(Py_None);
        return Py_None;
    }
    double wide;
    if (PyFloat_CheckExact(value)) {
        wide = PyFloat_AS_DOUBLE(value);
    } else {
        PyNumberMethods *as = Py_TYPE(value)->tp_as_number;
        if (as == NULL || (as->nb_float == NULL && as->nb_index == NULL))
            return wrong_type(LOGPROB, "a float or None", value);
        wide = PyFloat_AsDouble(value);
        if (wide == -1.0 && PyErr_Occurred()) return NULL;
    }
    double narrow = (double)(float)wide;
    if (PyFloat_CheckExact(value) && (narrow == wide || isnan(wide))) {
        Py_INCREF(value);
        return value;
    }
    return PyFloat_FromDouble(narrow);
}

static int flag_of(PyObject *value)
{
    if (value == NULL || value == Py_False) return 0;
    if (value == Py_True) return 1;
    const char *type = Py_TYPE(value)->tp_name;
    if (strcmp(type, "numpy.bool") == 0 || strcmp(type, "numpy.bool_") == 0) return PyObject_IsTrue(value);
    wrong_type(IS_SPECIAL, "a bool", value);
    return -1;
}

static PyObject *make(PyObject *const *fields)
{
    int special = flag_of(fields[IS_SPECIAL]);
    if (special < 0) return NULL;
    PyObject *id = number_of(ID, fields[ID]);
    if (id == NULL) return NULL;
    PyObject *position = number_of(POSITION, fields[POSITION]), *text = NULL, *logprob = NULL;
    if (position != NULL && (text = text_of(fields[TEXT])) != NULL) logprob = logprob_of(fields[LOGPROB]);
    return dyn_token_make(&Token_Type, id, position, text, logprob, special);
}

/* Arguments by position, in the order of `order`, and by name, into fields[]; borrowed. `required` come first in `order`. */
static int unpack(const char *function, const int *order, int count, int required, PyObject *const *args,
                  Py_ssize_t given, PyObject *names, PyObject **fields)
{
    if (given > count) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional arguments (%zd given)", function, count, given);
        return -1;
    }
    for (Py_ssize_t i = 0; i < given; i++) fields[order[i]] = args[i];
    for (Py_ssize_t i = 0; names != NULL && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int field = -1;
        for (int k = 0; k < count && field < 0; k++)
            if (name == field_names[order[k]]) field = order[k];
        for (int k = 0; k < count && field < 0; k++)
            if (PyUnicode_Compare(name, field_names[order[k]]) == 0) field = order[k];
        if (field < 0 || fields[field] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         field < 0 ? "%s() got an unexpected keyword argument '%U'"
                                   : "%s() got multiple values for argument '%U'",
                         function, name);
            return -1;
        }
        fields[field] = args[given + i];
    }
    for (int k = 0; k < required; k++) {
        if (fields[order[k]] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() is missing the argument '%s'", function, FIELD_NAMES[order[k]]);
            return -1;
        }
    }
    return 0;
}

static PyObject *Token_vectorcall(PyObject *Py_UNUSED(type), PyObject *const *args, size_t nargsf, PyObject *names)
{
    static const int order[] = {ID, POSITION, TEXT, LOGPROB, IS_SPECIAL};
    PyObject *fields[FIELDS] = {NULL};
    if (unpack("Token", order, 5, 2, args, PyVectorcall_NARGS(nargsf), names, fields) < 0) return NULL;
    return make(fields);
}

/* Token.__new__(Token, ...): the same by tuple and dict. */
static PyObject *Token_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"id", "position", "text", "logprob", "is_special", NULL};
    PyObject *fields[FIELDS] = {NULL};
    (void)type; /* final: always Token itself */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OOO:Token", names, &fields[ID], &fields[POSITION], &fields[TEXT],
                                     &fields[LOGPROB], &fields[IS_SPECIAL]))
        return NULL;
    return make(fields);
}

static PyObject *Token_with_text(PyObject *Py_UNUSED(type), PyObject *const *args, Py_ssize_t given, PyObject *names)
{
    static const int order[] = {ID, TEXT, POSITION, LOGPROB};
    PyObject *fields[FIELDS] = {NULL};
    if (unpack("Token.with_text", order, 4, 3, args, given, names, fields) < 0) return NULL;
    if (fields[TEXT] == Py_None) return wrong_type(TEXT, "a str", fields[TEXT]);
    return make(fields);
}

static void Token_dealloc(DynTokenObject *self)
{
    Py_DECREF(self->id);
    Py_DECREF(self->position);
    Py_DECREF(self->text);
    Py_DECREF(self->logprob);
    Py_DECREF(self->is_special);
    PyObject_Free(self);
}

/* ---- as bytes ---- */

/* The token as C knows it; its text is borrowed from the str. */
static int as_c(DynTokenObject *self, dyn_token *out)
{
    Py_ssize_t size;
    *out = (dyn_token){.id = (uint32_t)PyLong_AsLongLong(self->id),
                       .position = (uint32_t)PyLong_AsLongLong(self->position)};
    if (self->is_special == Py_True) out->flags |= DYN_TOKEN_IS_SPECIAL;
    if (self->logprob != Py_None) {
        out->flags |= DYN_TOKEN_HAS_LOGPROB;
        out->logprob = (float)PyFloat_AS_DOUBLE(self->logprob);
    }
    if (self->text != Py_None) {
        out->flags |= DYN_TOKEN_HAS_TEXT;
        if ((out->text = PyUnicode_AsUTF8AndSize(self->text, &size)) == NULL) return -1;
        out->text_size = (size_t)size;
    }
    return 0;
}

static PyObject *Token_encode(DynTokenObject *self, PyObject *Py_UNUSED(ignored))
{
    dyn_token token;
    size_t size;
    if (as_c(self, &token) < 0) return NULL;
    int rc = dyn_token_encoded_size(&token, &size);
    if (rc < 0) return check(rc), NULL;
    PyObject *out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (out != NULL) dyn_token_encode(&token, (uint8_t *)PyBytes_AS_STRING(out));
    return out;
}

static PyObject *Token_decode(PyObject *Py_UNUSED(type), PyObject *data)
{
    Py_buffer view;
    dyn_token token;
    PyObject *out = NULL, *text = Py_None, *logprob = Py_None;
    if (!PyObject_CheckBuffer(data)) {
        PyErr_Format(PyExc_TypeError, "Token.decode takes bytes or another buffer, not %.200s", Py_TYPE(data)->tp_name);
        return NULL;
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) return NULL;
    int rc = dyn_token_decode(view.buf, (size_t)view.len, &token, NULL);
    if (rc < 0) {
        check(rc);
        goto done;
    }
    if (token.flags & DYN_TOKEN_HAS_TEXT)
        text = PyUnicode_DecodeUTF8(token.text, (Py_ssize_t)token.text_size, "replace");
    else
        Py_INCREF(text);
    if (token.flags & DYN_TOKEN_HAS_LOGPROB)
        logprob = PyFloat_FromDouble(token.logprob);
    else
        Py_INCREF(logprob);
    out = dyn_token_make(&Token_Type, PyLong_FromUnsignedLong(token.id), PyLong_FromUnsignedLong(token.position), text,
                         logprob, token.flags & DYN_TOKEN_IS_SPECIAL);
done:
    PyBuffer_Release(&view);
    return out;
}

/* ---- what it says about itself ---- */

static PyObject *Token_is_eos(DynTokenObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->is_special == Py_True && PyLong_AsLongLong(self->id) <= 2);
}

static PyObject *Token_prob(DynTokenObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->logprob == Py_None) Py_RETURN_NONE;
    return PyFloat_FromDouble(exp(PyFloat_AS_DOUBLE(self->logprob)));
}

static PyObject *Token_to_dict(DynTokenObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *out = PyDict_New();
    if (out == NULL) return NULL;
    if (PyDict_SetItem(out, field_names[ID], self->id) < 0 || PyDict_SetItem(out, field_names[TEXT], self->text) < 0 ||
        PyDict_SetItem(out, field_names[LOGPROB], self->logprob) < 0 ||
        PyDict_SetItem(out, field_names[POSITION], self->position) < 0 ||
        PyDict_SetItem(out, field_names[IS_SPECIAL], self->is_special) < 0)
        Py_CLEAR(out);
    return out;
}

static PyObject *Token_repr(DynTokenObject *self)
{
    if (self->text == Py_None) return PyUnicode_FromFormat("Token(id=%S, pos=%S)", self->id, self->position);
    return PyUnicode_FromFormat("Token(id=%S, text='%U', pos=%S)", self->id, self->text, self->position);
}

static PyObject *Token_str(DynTokenObject *self)
{
    if (self->text == Py_None) return PyUnicode_FromFormat("<%S>", self->id);
    Py_INCREF(self->text);
    return self->text;
}

static PyObject *as_tuple(DynTokenObject *self)
{
    return PyTuple_Pack(5, self->id, self->position, self->text, self->logprob, self->is_special);
}

static PyObject *Token_reduce(DynTokenObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("ON", (PyObject *)&Token_Type, as_tuple(self));
}

static PyObject *Token_self(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Py_INCREF(self); /* it never changes: a copy is itself */
    return self;
}

static Py_hash_t Token_hash(DynTokenObject *self)
{
    PyObject *tuple = as_tuple(self);
    if (tuple == NULL) return -1;
    Py_hash_t hash = PyObject_Hash(tuple);
    Py_DECREF(tuple);
    return hash;
}

static PyObject *Token_richcompare(DynTokenObject *self, PyObject *other, int op)
{
    if ((op != Py_EQ && op != Py_NE) || Py_TYPE(other) != &Token_Type) Py_RETURN_NOTIMPLEMENTED;
    DynTokenObject *that = (DynTokenObject *)other;
    int same = self->is_special == that->is_special;
    if (same) same = PyObject_RichCompareBool(self->id, that->id, Py_EQ);
    if (same == 1) same = PyObject_RichCompareBool(self->position, that->position, Py_EQ);
    if (same == 1) same = PyObject_RichCompareBool(self->text, that->text, Py_EQ);
    if (same == 1) same = PyObject_RichCompareBool(self->logprob, that->logprob, Py_EQ);
    if (same < 0) return NULL;
    return PyBool_FromLong(op == Py_EQ ? same : !same);
}

#define MEMBER(name, doc) {#name, T_OBJECT_EX, offsetof(DynTokenObject, name), READONLY, doc}
static PyMemberDef Token_members[] = {
    MEMBER(id, "its number in the vocabulary"),
    MEMBER(position, "its place in the sequence"),
    MEMBER(text, "str, or None where it was not decoded"),
    MEMBER(logprob, "natural logarithm of its probability, as float32 has it, or None"),
    MEMBER(is_special, "a control token"),
    {NULL},
};

static PyMethodDef Token_methods[] = {
    {"with_text", (PyCFunction)(void (*)(void))Token_with_text, METH_FASTCALL | METH_KEYWORDS | METH_CLASS,
     "with_text($type, /, id, text, position, logprob=None)\n--\n\n"
     "A token with its text; mind the order of the arguments."},
    {"decode", Token_decode, METH_O | METH_CLASS,
     "decode($type, data, /)\n--\n\n"
     "The token at the start of `data`; what follows it is ignored. Bytes that are no UTF-8 become U+FFFD.\n\n"
     "Raises\n------\nTruncated\n    The bytes end too early (also a ValueError and an EOFError)."},
    {"encode", (PyCFunction)Token_encode, METH_NOARGS,
     "encode($self, /)\n--\n\n"
     "The bytes that travel: id and position u32, flags u8, logprob f32, u16 size and UTF-8 text; big-endian.\n\n"
     "Raises\n------\nOverflowError\n    The text is longer than 65,535 bytes."},
    {"is_eos", (PyCFunction)Token_is_eos, METH_NOARGS, "is_eos($self, /)\n--\n\nIs it special, with the id 0, 1 or 2?"},
    {"prob", (PyCFunction)Token_prob, METH_NOARGS, "prob($self, /)\n--\n\nexp(logprob), or None without one."},
    {"to_dict", (PyCFunction)Token_to_dict, METH_NOARGS,
     "to_dict($self, /)\n--\n\nA dict with the keys id, text, logprob, position, is_special."},
    {"__reduce__", (PyCFunction)Token_reduce, METH_NOARGS, NULL},
    {"__copy__", Token_self, METH_NOARGS, NULL},
    {"__deepcopy__", Token_self, METH_O, NULL},
    {NULL},
};

static PyTypeObject Token_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "dynamo._token.Token",
    .tp_basicsize = sizeof(DynTokenObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Token(id, position, text=None, logprob=None, is_special=False)\n--\n\n"
              "One token of a sequence; it never changes.\n\n"
              "Parameters\n----------\n"
              "id, position : int\n    0 to 4294967295; else OverflowError.\n"
              "text : str, optional\n"
              "logprob : float, optional\n    Natural logarithm of the probability; rounded to float32.\n"
              "is_special : bool\n    A control token.\n\n"
              "Notes\n-----\nTokens are equal when all five fields are, and hashable.",
    .tp_new = Token_new,
    .tp_vectorcall = Token_vectorcall,
    .tp_dealloc = (destructor)Token_dealloc,
    .tp_repr = (reprfunc)Token_repr,
    .tp_str = (reprfunc)Token_str,
    .tp_hash = (hashfunc)Token_hash,
    .tp_richcompare = (richcmpfunc)Token_richcompare,
    .tp_members = Token_members,
    .tp_methods = Token_methods,
};

/* The door to exceptions, as dynamo._errors exports it to Cython modules. */
static int find_check(void)
{
    PyObject *errors = PyImport_ImportModule("dynamo._errors"), *table = NULL, *capsule = NULL;
    if (errors != NULL) table = PyObject_GetAttrString(errors, "__pyx_capi__");
    if (table != NULL) capsule = PyMapping_GetItemString(table, "check");
    if (capsule != NULL) {
        void *function = PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));
        memcpy(&check, &function, sizeof check);
    }
    Py_XDECREF(capsule);
    Py_XDECREF(table);
    Py_XDECREF(errors);
    return check == NULL ? -1 : 0;
}

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "dynamo._token",
    .m_doc = "The type Token, with members that read inline.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__token(void)
{
    PyObject *self = NULL, *names = NULL;
    if (find_check() < 0 || PyType_Ready(&Token_Type) < 0) return NULL;
    for (int i = 0; i < FIELDS; i++)
        if (field_names[i] == NULL && (field_names[i] = PyUnicode_InternFromString(FIELD_NAMES[i])) == NULL)
            return NULL;
    names = Py_BuildValue("(OOOOO)", field_names[ID], field_names[POSITION], field_names[TEXT], field_names[LOGPROB],
                          field_names[IS_SPECIAL]);
    if (names == NULL || PyDict_SetItemString(Token_Type.tp_dict, "__match_args__", names) < 0) goto fail;
    PyType_Modified(&Token_Type);
    self = PyModule_Create(&module);
    Py_INCREF(&Token_Type);
    if (self == NULL || PyModule_AddObject(self, "Token", (PyObject *)&Token_Type) < 0) goto fail;
    Py_DECREF(names);
    return self;
fail:
    Py_XDECREF(names);
    Py_XDECREF(self);
    return NULL;
}
