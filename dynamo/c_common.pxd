# Mirrors dynamo/common.h.
from libc.stdint cimport uint8_t, uint64_t


cdef extern from "dynamo/common.h" nogil:
    const char *DYN_VERSION
    enum:
        DYN_OK
        DYN_ENOMEM
        DYN_ERANGE
        DYN_EINVAL
        DYN_ENOENT
        DYN_EEXIST
        DYN_ECLOSED
        DYN_ECANCELED
        DYN_ETIMEDOUT
        DYN_ECONN
        DYN_EBROKEN
        DYN_EOVERLOAD
        DYN_EUNAVAIL
        DYN_EPROTO
        DYN_ELIMIT
        DYN_ESHUTDOWN
        DYN_EREMOTE
        DYN_EIO
        DYN_EACCES
        DYN_EAGAIN
        DYN_ENOSPC
        DYN_ENOTSUP
        DYN_EBUSY
        DYN_EBLOCK
        DYN_ETRUNC
    const char *dyn_strerror(int code)
    const char *dyn_error_name(int code)
    const int *dyn_error_codes()
    const char *dyn_error_detail()
    void dyn_error_clear()
    int dyn_error_from_errno(int err)

    ctypedef struct dyn_buf:
        pass
    int dyn_buf_new(dyn_buf **out, size_t size)
    int dyn_buf_new_zeroed(dyn_buf **out, size_t size)
    dyn_buf *dyn_buf_ref(dyn_buf *self)
    void dyn_buf_unref(dyn_buf *self)
    uint8_t *dyn_buf_data(dyn_buf *self)
    size_t dyn_buf_size(const dyn_buf *self)

    enum dyn_log_level:
        DYN_LOG_TRACE
        DYN_LOG_DEBUG
        DYN_LOG_INFO
        DYN_LOG_WARN
        DYN_LOG_ERROR
        DYN_LOG_OFF
    void dyn_log_set_level(dyn_log_level level)
    dyn_log_level dyn_log_get_level()
    enum dyn_log_form:
        DYN_LOG_JSON
        DYN_LOG_LOCAL_TIME
    void dyn_log_set_form(unsigned form)
    void dyn_log(dyn_log_level level, const char *area, const char *format, ...)

    uint64_t dyn_now_ns()
    uint64_t dyn_wall_ms()
