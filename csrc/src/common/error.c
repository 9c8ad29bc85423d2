/* error.c -- see dynamo/common.h for the contract. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/common.h"

/* Per thread, not per handle: parsers and constructors fail before there is a handle to hang it on. */
static _Thread_local char detail[512];

const char *dyn_strerror(int code)
{
    switch (code) {
    case DYN_OK: return "no error";
#define X(name, number, text) \
    case number: return text;
        DYN_ERROR_MAP(X)
#undef X
    default: return "unknown error";
    }
}

const char *dyn_error_name(int code)
{
    switch (code) {
    case DYN_OK: return "OK";
#define X(name, number, text) \
    case number: return #name;
        DYN_ERROR_MAP(X)
#undef X
    default: return "UNKNOWN";
    }
}

const int *dyn_error_codes(void)
{
    static const int codes[] = {
#define X(name, number, text) number,
        DYN_ERROR_MAP(X)
#undef X
            0};
    return codes;
}

const char *dyn_error_detail(void)
{
    return detail;
}

void dyn_error_clear(void)
{
    detail[0] = '\0';
}

int dyn__fail(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof(detail), format, args);
    va_end(args);
    return code;
}

int dyn_error_from_errno(int err)
{
    switch (err) {
    case 0: return DYN_OK;
    case ENOMEM: return DYN_ENOMEM;
    case EINVAL: return DYN_EINVAL;
    case ENOENT: return DYN_ENOENT;
    case EEXIST: return DYN_EEXIST;
    case ETIMEDOUT: return DYN_ETIMEDOUT;
    case ECONNREFUSED:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EADDRNOTAVAIL: return DYN_ECONN;
    case ECONNRESET:
    case EPIPE: return DYN_EBROKEN;
    case EACCES:
    case EPERM: return DYN_EACCES;
    case EAGAIN: return DYN_EAGAIN;
    case ENOSPC: return DYN_ENOSPC;
    case EADDRINUSE:
    case EBUSY: return DYN_EBUSY;
    default: return DYN_EIO;
    }
}
