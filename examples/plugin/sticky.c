/* sticky.c -- a plug-in for dynamo: a cost function for the router, a conversion for tensors, and a question to the index.
 *
 *   cost "sticky"        whoever holds most of the prompt gets it, however busy it is; the load decides among equals
 *   conversion "unpack4" uint8 -> float32: a byte as its two signed 4-bit halves, added (a toy of a real format)
 *   covered(tree, hashes) how many of these blocks the best worker holds
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "dynamo/plugin.h"

static const dyn_plugin_api *dyn;

static double sticky(void *user, const dyn_router_cost_input *in)
{
    (void)user;
    return -1e6 * in->overlap_blocks + (double)in->waiting_tokens + in->requests;
}

static float half(int bits)
{
    return (float)(bits < 8 ? bits : bits - 16);
}

static int unpack4(void *user, const dyn_tensor *in, void *out)
{
    (void)user;
    uint64_t count = 1;
    for (int i = 0; i < in->ndim; i++) count *= (uint64_t)in->shape[i];
    uint8_t *bytes = malloc(count + 1);
    if (bytes == NULL) return DYN_ENOMEM;
    dyn->tensor_copy(in, bytes); /* whatever the strides are: C order from here on */
    for (uint64_t i = 0; i < count; i++) ((float *)out)[i] = half(bytes[i] & 15) + half(bytes[i] >> 4);
    free(bytes);
    return DYN_OK;
}

static PyObject *covered(PyObject *self, PyObject *args)
{
    PyObject *tree;
    Py_buffer hashes;
    (void)self;
    if (!PyArg_ParseTuple(args, "Oy*:covered", &tree, &hashes)) return NULL;
    dyn_index *index = dyn->index_of(tree);
    uint32_t best = 0;
    if (index != NULL) {
        dyn_overlap found[64];
        size_t count;
        Py_BEGIN_ALLOW_THREADS count = dyn->index_find(index, hashes.buf, (size_t)hashes.len / 8, found, 64);
        Py_END_ALLOW_THREADS for (size_t i = 0; i < count && i < 64; i++) if (found[i].blocks > best) best =
            found[i].blocks;
    }
    PyBuffer_Release(&hashes);
    return index == NULL ? NULL : PyLong_FromUnsignedLong(best);
}

/* A tensor whose memory the plug-in made: 0, 1, 2 ... as float32. */
static PyObject *ramp(PyObject *self, PyObject *arg)
{
    long long count = PyLong_AsLongLong(arg);
    int64_t shape[1] = {count};
    uint64_t elements, bytes;
    dyn_buf *buf;
    (void)self;
    if (count == -1 && PyErr_Occurred()) return NULL;
    if (dyn->tensor_measure(DYN_FLOAT32, 1, shape, &elements, &bytes) < 0 || dyn->buf_new(&buf, bytes) < 0)
        return PyErr_Format(PyExc_ValueError, "%s", dyn->error_detail());
    for (uint64_t i = 0; i < elements; i++) ((float *)dyn->buf_data(buf))[i] = (float)i;
    PyObject *tensor = dyn->tensor_new(buf, 0, DYN_FLOAT32, 1, shape);
    dyn->buf_unref(buf); /* the tensor has its own reference */
    return tensor;
}

static PyMethodDef methods[] = {
    {"covered", covered, METH_VARARGS,
     "covered(tree, hashes)\n--\n\nBlocks of a uint64 array that the best worker holds."},
    {"ramp", ramp, METH_O, "ramp(count)\n--\n\nA float32 tensor 0, 1, 2 ..."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "sticky", "A plug-in for dynamo.", -1, methods, 0, 0, 0, 0};

PyMODINIT_FUNC PyInit_sticky(void)
{
    if ((dyn = dyn_plugin_import()) == NULL) return NULL;
    if (dyn->register_cost("sticky", sticky, NULL) < 0) return NULL;
    if (dyn->register_kernel("unpack4", DYN_UINT8, DYN_FLOAT32, unpack4, NULL) < 0) return NULL;
    return PyModule_Create(&module);
}
