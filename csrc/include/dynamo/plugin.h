/* plugin.h -- for extensions of others: the C library through one table of functions, in the capsule dynamo._core._C_API.
 *
 *   #include "dynamo/plugin.h"       after Python's own header; the folder is dynamo.get_include()
 *
 *   static const dyn_plugin_api *dyn;
 *   ... in PyInit_mine():  if ((dyn = dyn_plugin_import()) == NULL) return NULL;
 *       then               dyn->register_cost("mine", my_cost, NULL);
 *
 * A plug-in links nothing: what it calls is in the table. The table only grows at its end, so one that was built against
 * version n runs with every later version, and is refused with an ImportError by an earlier one. DYN_PLUGIN_TARGET, defined
 * before this header, asks for less than the newest, so that older dynamos take the plug-in, too.
 *
 * Errors   as in the headers of the areas: DYN_OK or a negative code, with a sentence in error_detail().
 * Threads  the functions of the areas may be called without the GIL, as their headers say; those that take a Python object
 *          (struct _object *, which is PyObject) and register_* need it.
 */
#ifndef DYNAMO_PLUGIN_H
#define DYNAMO_PLUGIN_H

#include "dynamo/common.h"
#include "dynamo/hash.h"
#include "dynamo/index.h"
#include "dynamo/router.h"
#include "dynamo/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DYN_PLUGIN_VERSION 2
#define DYN_PLUGIN_CAPSULE "dynamo._core._C_API"
#ifndef DYN_PLUGIN_TARGET
#define DYN_PLUGIN_TARGET DYN_PLUGIN_VERSION
#endif

struct _object; /* PyObject */

#if DYN_PLUGIN_TARGET >= 2
/* A conversion between element types of its own: read `in` (any strides), write its elements to `out` in C order.
 * Called without the GIL, from any thread, at the same time from several.  errors  a negative code: it is raised. */
typedef int (*dyn_plugin_kernel)(void *user, const dyn_tensor *in, void *out);
#endif

typedef struct dyn_plugin_api {
    uint32_t version; /* of the table that is there */
    uint32_t size;    /* of it, bytes */
    /* ---- version 1 ---- */
    const char *(*strerror)(int code);
    const char *(*error_detail)(void);
    int (*buf_new)(dyn_buf **out, size_t size);
    dyn_buf *(*buf_ref)(dyn_buf *self);
    void (*buf_unref)(dyn_buf *self);
    uint8_t *(*buf_data)(dyn_buf *self);
    size_t (*buf_size)(const dyn_buf *self);
    void (*hash_blocks)(const uint32_t *tokens, size_t count, size_t block_size, bool eagle, uint64_t seed,
                        uint64_t *out);
    void (*hash_chain)(const uint64_t *local, size_t count, const uint64_t *parent, uint64_t *out);
    size_t (*index_find)(const dyn_index *self, const uint64_t *tokens_hashes, size_t count, dyn_overlap *out,
                         size_t room);
    const dyn_dtype_info *(*dtype)(int code);
    int (*tensor_measure)(int dtype, int ndim, const int64_t *shape, uint64_t *elements, uint64_t *bytes);
    void (*tensor_copy)(const dyn_tensor *self, void *out);
    int (*tensor_convert)(const dyn_tensor *self, int dtype, void *out);
    /* The inside of a Python object, borrowed while that lives; NULL with a TypeError set. */
    const dyn_tensor *(*tensor_of)(struct _object *tensor); /* a dynamo.Tensor */
    dyn_index *(*index_of)(struct _object *tree);           /* a dynamo.llm.RadixTree */
    /* A new dynamo.Tensor of C order over a buffer, which it references; NULL with an exception set. */
    struct _object *(*tensor_new)(dyn_buf *buf, size_t offset, int dtype, int ndim, const int64_t *shape);
    /* ---- version 2 ---- */
#if DYN_PLUGIN_TARGET >= 2
    /* Name a cost function: KvRouterConfig(router_cost_formula=name) uses it. -1 with an exception set when the name is
     * taken. Kept until the process ends, and so must be what it uses. */
    int (*register_cost)(const char *name, dyn_router_cost cost, void *user);
    /* Name a conversion to the dtype out_dtype: tensor.astype(name) and dynamo.quill.convert(tensor, name) use it. As
     * register_cost; no dtype's name.
     * in_dtype  0: it takes any. */
    int (*register_kernel)(const char *name, int in_dtype, int out_dtype, dyn_plugin_kernel kernel, void *user);
#endif
} dyn_plugin_api;

#ifdef Py_PYTHON_H
/* The table; NULL with an ImportError set when dynamo is not there or is older than this plug-in needs. */
static inline const dyn_plugin_api *dyn_plugin_import(void)
{
    PyObject *core = PyImport_ImportModule("dynamo._core");
    PyObject *capsule = core == NULL ? NULL : PyObject_GetAttrString(core, "_C_API");
    const dyn_plugin_api *api = NULL;
    if (capsule != NULL) api = (const dyn_plugin_api *)PyCapsule_GetPointer(capsule, DYN_PLUGIN_CAPSULE);
    Py_XDECREF(capsule); /* the module keeps it */
    Py_XDECREF(core);
    if (api != NULL && (api->version < DYN_PLUGIN_TARGET || api->size < sizeof(dyn_plugin_api))) {
        PyErr_Format(PyExc_ImportError,
                     "this plug-in needs version %d of dynamo's C table, the installed dynamo has version %u: upgrade "
                     "dynamo, or build the plug-in with -DDYN_PLUGIN_TARGET=%u",
                     DYN_PLUGIN_TARGET, api->version, api->version);
        return NULL;
    }
    return api;
}
#endif

#ifdef __cplusplus
}
#endif
#endif
