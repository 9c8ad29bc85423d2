/* log.c -- see dynamo/common.h for the contract. */
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/common.h"

static _Atomic int threshold = DYN_LOG_WARN; /* the process has one standard error, hence one level */

void dyn_log_set_level(enum dyn_log_level level)
{
    atomic_store_explicit(&threshold, (int)level, memory_order_relaxed);
}

enum dyn_log_level dyn_log_get_level(void)
{
    return (enum dyn_log_level)atomic_load_explicit(&threshold, memory_order_relaxed);
}

void dyn_log(enum dyn_log_level level, const char *area, const char *format, ...)
{
    static const char *const names[] = {"TRACE", "DEBUG", "INFO", "WARN", "ERROR"};
    char line[2048];
    struct timespec now;
    struct tm utc;
    va_list args;

    if (level < dyn_log_get_level() || level >= DYN_LOG_OFF) return;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &utc);
    used += (size_t)snprintf(line + used, sizeof(line) - used, ".%03ldZ %5s dynamo.%s: ", now.tv_nsec / 1000000,
                             names[level], area);
    va_start(args, format);
    int n = vsnprintf(line + used, sizeof(line) - used - 1, format, args);
    va_end(args);
    if (n > 0) used += (size_t)n < sizeof(line) - used - 1 ? (size_t)n : sizeof(line) - used - 2;
    line[used++] = '\n';
    for (size_t done = 0; done < used;) {
        ssize_t wrote = write(2, line + done, used - done);
        if (wrote <= 0) return;
        done += (size_t)wrote;
    }
}
