"""What a safetensors file says about its tensors."""
from libc.stdint cimport uint8_t

from dynamo._dtype cimport code_of, dtype_of
from dynamo._errors cimport check
from dynamo.c_safetensors cimport *


def read_head(const uint8_t[::1] file not None):
    """The tensors of a file and its own texts.

    Parameters
    ----------
    file : bytes-like
        All of it; only its head is looked at.

    Returns
    -------
    tensors : list of (str, DType, list of int, int, int)
        Name, type, shape, first byte and the byte behind the last, in the order of the file.
    metadata : dict of str to str
    """
    cdef dyn_safetensors *head = NULL
    cdef const dyn_safetensor *t
    cdef const char *key
    cdef const char *value
    cdef size_t i
    check(dyn_safetensors_read(&file[0] if file.shape[0] else NULL, file.shape[0], file.shape[0], &head))
    try:
        tensors = []
        for i in range(dyn_safetensors_count(head)):
            t = dyn_safetensors_at(head, i)
            tensors.append((t.name.decode(), dtype_of(t.dtype), [t.shape[k] for k in range(t.ndim)], t.begin, t.end))
        metadata = {}
        i = 0
        while dyn_safetensors_metadata(head, i, &key, &value):
            metadata[key.decode()] = value.decode()
            i += 1
        return tensors, metadata
    finally:
        dyn_safetensors_free(head)


def type_name(dtype):
    """What safetensors calls an element type."""
    return dtype_of(code_of(dtype)).info.safetensors.decode()
