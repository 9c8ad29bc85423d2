"""The one table from C status codes to exceptions."""
from dynamo.c_common cimport (
    DYN_EACCES, DYN_EAGAIN, DYN_EBLOCK, DYN_EBROKEN, DYN_EBUSY, DYN_ECANCELED, DYN_ECLOSED, DYN_ECONN, DYN_EEXIST,
    DYN_EINVAL, DYN_EIO, DYN_ELIMIT, DYN_ENOENT, DYN_ENOMEM, DYN_ENOSPC, DYN_ENOTSUP, DYN_EOVERLOAD, DYN_EPROTO,
    DYN_ERANGE, DYN_EREMOTE, DYN_ESHUTDOWN, DYN_ETIMEDOUT, DYN_ETRUNC, DYN_EUNAVAIL, dyn_error_clear, dyn_error_codes,
    dyn_error_detail, dyn_error_name, dyn_strerror)

from dynamo import errors

_EXCEPTIONS = {
    DYN_ENOMEM: MemoryError,
    DYN_ERANGE: OverflowError,
    DYN_EINVAL: errors.InvalidArgument,
    DYN_ENOENT: errors.NotFound,
    DYN_EEXIST: errors.InvalidArgument,
    DYN_ECLOSED: errors.StreamBroken,
    DYN_ECANCELED: errors.Cancelled,
    DYN_ETIMEDOUT: errors.RequestTimeout,
    DYN_ECONN: errors.ConnectionFailed,
    DYN_EBROKEN: errors.StreamBroken,
    DYN_EOVERLOAD: errors.Overloaded,
    DYN_EUNAVAIL: errors.Unavailable,
    DYN_EPROTO: errors.InvalidArgument,
    DYN_ELIMIT: errors.Overloaded,
    DYN_ESHUTDOWN: errors.EngineShutdown,
    DYN_EREMOTE: errors.RemoteError,
    DYN_EIO: OSError,
    DYN_EACCES: PermissionError,
    DYN_EAGAIN: BlockingIOError,
    DYN_ENOSPC: errors.OutOfSpace,
    DYN_ENOTSUP: NotImplementedError,
    DYN_EBUSY: OSError,
    DYN_EBLOCK: errors.BlockError,
    DYN_ETRUNC: errors.Truncated,
}


def table():
    """Every C code with its name, text and exception class, for tests and documentation."""
    cdef const int *code = dyn_error_codes()
    rows = []
    while code[0] != 0:
        rows.append((code[0], dyn_error_name(code[0]).decode(), dyn_strerror(code[0]).decode(), _EXCEPTIONS[code[0]]))
        code += 1
    return rows


cdef object error_of(int rc, object detail=None):
    text = dyn_strerror(rc).decode()
    if detail:
        text = f"{detail} ({text})"
    return _EXCEPTIONS.get(rc, RuntimeError)(text)


cdef int check(int rc) except? -1 nogil:
    if rc >= 0:
        return rc
    with gil:
        detail = dyn_error_detail().decode("utf-8", "replace")
        dyn_error_clear()
        raise error_of(rc, detail)
