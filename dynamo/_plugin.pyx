"""The table of C functions for plug-ins (dynamo/plugin.h), and what plug-ins have registered."""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint32_t, uintptr_t

from dynamo._dtype cimport is_name
from dynamo._errors cimport check
from dynamo._index cimport RadixTree
from dynamo._tensor cimport Tensor, tensor_empty, tensor_from_buf, tensor_of
from dynamo.c_common cimport dyn_buf
from dynamo.c_index cimport dyn_index
from dynamo.c_router cimport dyn_router_cost
from dynamo.c_tensor cimport dyn_dtype, dyn_tensor

from dynamo import errors


cdef extern from *:
    """
    #include "dynamo/plugin.h"
    static dyn_plugin_api dyn_plugin_table = {
        .version = DYN_PLUGIN_VERSION,
        .size = sizeof(dyn_plugin_api),
        .strerror = dyn_strerror,
        .error_detail = dyn_error_detail,
        .buf_new = dyn_buf_new,
        .buf_ref = dyn_buf_ref,
        .buf_unref = dyn_buf_unref,
        .buf_data = dyn_buf_data,
        .buf_size = dyn_buf_size,
        .hash_blocks = dyn_hash_blocks,
        .hash_chain = dyn_hash_chain,
        .index_find = dyn_index_find,
        .dtype = dyn_dtype,
        .tensor_measure = dyn_tensor_measure,
        .tensor_copy = dyn_tensor_copy,
        .tensor_convert = dyn_tensor_convert,
    };
    """
    ctypedef int (*dyn_plugin_kernel)(void *user, const dyn_tensor *input, void *out) nogil
    ctypedef struct dyn_plugin_api:
        uint32_t version
        uint32_t size
        const dyn_tensor *(*tensor_of)(object tensor) except NULL
        dyn_index *(*index_of)(object tree) except NULL
        object (*tensor_new)(dyn_buf *buf, size_t offset, int dtype, int ndim, const int64_t *shape)
        int (*register_cost)(const char *name, dyn_router_cost cost, void *user) except -1
        int (*register_kernel)(const char *name, int in_dtype, int out_dtype, dyn_plugin_kernel kernel,
                               void *user) except -1
    dyn_plugin_api dyn_plugin_table
    const char *DYN_PLUGIN_CAPSULE

# name -> addresses; kept until the process ends. A configuration or a call looks its name up when it is made.
cdef dict _costs = {}
cdef dict _kernels = {}
cdef tuple _BUILT_IN = ("credit", "weight", "product")


cdef dyn_index *_index_of(object tree) except NULL:
    if not isinstance(tree, RadixTree):
        raise TypeError(f"a RadixTree is needed, not {type(tree).__name__}")
    return (<RadixTree>tree).ptr


cdef object _tensor_new(dyn_buf *buf, size_t offset, int dtype, int ndim, const int64_t *shape):
    return tensor_from_buf(buf, offset, dtype, ndim, shape, None)


cdef str _name(const char *name, dict taken):
    if name == NULL or name[0] == 0:
        raise errors.InvalidArgument("what a plug-in registers needs a name")
    text = name.decode()
    if text in taken or text in _BUILT_IN:
        raise errors.InvalidArgument(f"the name {text!r} is taken")
    return text


cdef int _register_cost(const char *name, dyn_router_cost cost, void *user) except -1:
    if cost == NULL:
        raise errors.InvalidArgument("a cost without its function")
    _costs[_name(name, _costs)] = (<uintptr_t>cost, <uintptr_t>user)
    return 0


cdef int _register_kernel(const char *name, int in_dtype, int out_dtype, dyn_plugin_kernel kernel,
                          void *user) except -1:
    if kernel == NULL or dyn_dtype(out_dtype) == NULL or (in_dtype != 0 and dyn_dtype(in_dtype) == NULL):
        raise errors.InvalidArgument(f"a kernel from dtype {in_dtype} to {out_dtype}: no such dtype, or no function")
    text = _name(name, _kernels)
    if is_name(text):
        raise errors.InvalidArgument(f"a kernel {text!r}: that is the name of a dtype")
    _kernels[text] = (in_dtype, out_dtype, <uintptr_t>kernel, <uintptr_t>user)
    return 0


dyn_plugin_table.tensor_of = tensor_of
dyn_plugin_table.index_of = _index_of
dyn_plugin_table.tensor_new = _tensor_new
dyn_plugin_table.register_cost = _register_cost
dyn_plugin_table.register_kernel = _register_kernel
_C_API = PyCapsule_New(&dyn_plugin_table, DYN_PLUGIN_CAPSULE, NULL)
VERSION = dyn_plugin_table.version


def cost_names():
    """The cost functions that plug-ins have registered."""
    return sorted(_costs)


def cost_address(str name not None):
    """Where a cost function and its user pointer are, as numbers: for the router."""
    if name not in _costs:
        raise errors.NotFound(f"no plug-in has registered the cost {name!r}: import it first; there are {cost_names()}")
    return _costs[name]


def kernel_names():
    """The conversions that plug-ins have registered."""
    return sorted(_kernels)


def convert(Tensor tensor not None, str name not None):
    """A new tensor, made by a conversion that a plug-in has registered.

    Parameters
    ----------
    tensor : Tensor
    name : str
        As the plug-in registered it (`register_kernel` in dynamo/plugin.h).

    Raises
    ------
    NotFound
        No plug-in has registered that name.
    ValueError
        The conversion takes another dtype.
    """
    cdef Tensor out
    cdef dyn_plugin_kernel kernel
    cdef void *user
    cdef int rc, taken
    if name not in _kernels:
        raise errors.NotFound(f"no plug-in has registered the conversion {name!r}: there are {kernel_names()}")
    taken, out_dtype, address, user_address = _kernels[name]
    if taken != 0 and taken != tensor.c.dtype:
        wanted, given = dyn_dtype(taken).name.decode(), dyn_dtype(tensor.c.dtype).name.decode()
        raise errors.InvalidArgument(f"the conversion {name!r} takes {wanted}, not {given}")
    out = tensor_empty(out_dtype, tensor.c.ndim, tensor.c.shape, tensor.name)
    kernel = <dyn_plugin_kernel><uintptr_t>address
    user = <void *><uintptr_t>user_address
    with nogil:
        rc = kernel(user, &tensor.c, out.c.data)
    check(rc)
    return out
