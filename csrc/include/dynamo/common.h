/* common.h -- what every area stands on: status codes, memory, buffers, log, clock.
 *
 * Errors   functions that can fail return DYN_OK or a negative enum dyn_error. A function that fails
 *          may leave one sentence about it for dyn_error_detail() on the same thread.
 * Threads  everything here may be called from any thread.
 */
#ifndef DYNAMO_COMMON_H
#define DYNAMO_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define DYN_API __attribute__((visibility("default")))
#define DYN_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define DYN_API
#define DYN_PRINTF(fmt, args)
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define DYN_VERSION "0.1.0"

/* ---- status codes ------------------------------------------------------------------------------
 * One list, so that name, number and text cannot part. Numbers are ABI: append, never renumber.
 * dynamo/_errors.pyx has one exception class for each; a test holds the two together.
 */
#define DYN_ERROR_MAP(X)                                          \
    X(ENOMEM, -1, "out of memory")                                \
    X(ERANGE, -2, "a number or size does not fit")                \
    X(EINVAL, -3, "invalid argument")                             \
    X(ENOENT, -4, "not found")                                    \
    X(EEXIST, -5, "already exists")                               \
    X(ECLOSED, -6, "already closed")                              \
    X(ECANCELED, -7, "cancelled")                                 \
    X(ETIMEDOUT, -8, "timed out")                                 \
    X(ECONN, -9, "no connection")                                 \
    X(EBROKEN, -10, "the stream broke before its end")            \
    X(EOVERLOAD, -11, "overloaded")                               \
    X(EUNAVAIL, -12, "nobody can serve this now")                 \
    X(EPROTO, -13, "malformed bytes")                             \
    X(ELIMIT, -14, "over a configured limit")                     \
    X(ESHUTDOWN, -15, "shutting down")                            \
    X(EREMOTE, -16, "the remote side failed")                     \
    X(EIO, -17, "input or output failed")                         \
    X(EACCES, -18, "not allowed")                                 \
    X(EAGAIN, -19, "try again later")                             \
    X(ENOSPC, -20, "no space left")                               \
    X(ENOTSUP, -21, "not supported here")                         \
    X(EBUSY, -22, "in use")                                       \
    X(EBLOCK, -23, "the event does not fit what the index holds") \
    X(ETRUNC, -24, "the bytes end too early")

enum dyn_error {
    DYN_OK = 0,
#define X(name, number, text) DYN_##name = number,
    DYN_ERROR_MAP(X)
#undef X
};

/* The text of a code; never NULL, static. */
DYN_API const char *dyn_strerror(int code);
/* The name of a code without its prefix ("ENOMEM"); "UNKNOWN" for others. Static. */
DYN_API const char *dyn_error_name(int code);
/* All codes, zero-terminated: for bindings that keep a table of their own. Static. */
DYN_API const int *dyn_error_codes(void);
/* What the last failed call on this thread said beyond its code; "" when it said nothing.
 * Borrowed until the next call into the library on this thread. */
DYN_API const char *dyn_error_detail(void);
/* Forget the detail of this thread: who turns a code into an error calls it afterwards. */
DYN_API void dyn_error_clear(void);
/* A code out of an errno. */
DYN_API int dyn_error_from_errno(int err);

/* ---- buffers -----------------------------------------------------------------------------------
 * Bytes with a reference count. The memory is 64-byte aligned and does not move; from 4 MiB on it is whole pages of
 * its own, huge ones where the system has them.
 */
typedef struct dyn_buf dyn_buf;
/* Make a buffer of `size` bytes, contents undefined, one reference.
 * out     receives a new buffer, to be passed to dyn_buf_unref().
 * errors  DYN_ENOMEM. */
DYN_API int dyn_buf_new(dyn_buf **out, size_t size);
DYN_API int dyn_buf_new_zeroed(dyn_buf **out, size_t size); /* the same, all bytes 0 */
DYN_API dyn_buf *dyn_buf_ref(dyn_buf *self);                /* another reference to the same buffer */
DYN_API void dyn_buf_unref(dyn_buf *self);                  /* NULL is allowed */
DYN_API uint8_t *dyn_buf_data(dyn_buf *self);               /* borrowed while a reference lives */
DYN_API size_t dyn_buf_size(const dyn_buf *self);

/* ---- log ---------------------------------------------------------------------------------------
 * One line per message on standard error, written by one write(2), never through Python:
 *   2026-11-21T10:00:00.123Z  WARN dynamo.events: text
 *   {"time":"2026-11-21T10:00:00.123Z","level":"WARN","target":"dynamo.events","message":"text"}
 */
enum dyn_log_level { DYN_LOG_TRACE, DYN_LOG_DEBUG, DYN_LOG_INFO, DYN_LOG_WARN, DYN_LOG_ERROR, DYN_LOG_OFF };
DYN_API void dyn_log_set_level(enum dyn_log_level level); /* DYN_LOG_WARN at start */
DYN_API enum dyn_log_level dyn_log_get_level(void);
enum dyn_log_form { DYN_LOG_JSON = 1, DYN_LOG_LOCAL_TIME = 2 }; /* bits; local: times with their offset, not UTC */
DYN_API void dyn_log_set_form(unsigned form);                   /* 0 at start */
/* `area` names who speaks ("events"); the message has no trailing newline. Longer than 2 KiB: cut. */
DYN_API void dyn_log(enum dyn_log_level level, const char *area, const char *format, ...) DYN_PRINTF(3, 4);

/* ---- clock ----------------------------------------------------------------------------------- */
DYN_API uint64_t dyn_now_ns(void);  /* monotonic, since some start */
DYN_API uint64_t dyn_wall_ms(void); /* since 1970 */

#ifdef __cplusplus
}
#endif
#endif
