/* log.c -- see dynamo/common.h for the contract. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/common.h"

/* The process has one standard error, hence one level and one form. */
static _Atomic int threshold = DYN_LOG_WARN;
static _Atomic unsigned form;

void dyn_log_set_level(enum dyn_log_level level)
{
    atomic_store_explicit(&threshold, (int)level, memory_order_relaxed);
}

enum dyn_log_level dyn_log_get_level(void)
{
    return (enum dyn_log_level)atomic_load_explicit(&threshold, memory_order_relaxed);
}

void dyn_log_set_form(unsigned wanted)
{
    atomic_store_explicit(&form, wanted, memory_order_relaxed);
}

static size_t put_time(char *out, size_t room, bool local)
{
    struct timespec now;
    struct tm at;
    char zone[8] = "Z";
    clock_gettime(CLOCK_REALTIME, &now);
    if (local) {
        localtime_r(&now.tv_sec, &at);
        if (strftime(zone, sizeof zone, "%z", &at) == 5) { /* +0100 -> +01:00 */
            memmove(zone + 4, zone + 3, 3);
            zone[3] = ':';
        }
    } else {
        gmtime_r(&now.tv_sec, &at);
    }
    size_t used = strftime(out, room, "%Y-%m-%dT%H:%M:%S", &at);
    return used + (size_t)snprintf(out + used, room - used, ".%03ld%s", now.tv_nsec / 1000000, zone);
}

/* The inside of a JSON string, as much as fits; the text is whatever a peer made us say, so bytes that are no ASCII
 * go as they are only when they are UTF-8 by their look.  Returns the bytes written. */
static size_t put_json(char *out, size_t room, const char *text)
{
    size_t used = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0';) {
        size_t more = *at < 0xC2 ? 0 : *at < 0xE0 ? 1 : *at < 0xF0 ? 2 : *at < 0xF5 ? 3 : 0, seen = 0;
        while (seen < more && (at[1 + seen] & 0xC0) == 0x80) seen++;
        if (used + 8 > room) break;
        if (*at == '"' || *at == '\\')
            out[used++] = '\\', out[used++] = (char)*at++;
        else if (*at < 0x20 || *at == 0x7F)
            used += (size_t)snprintf(out + used, room - used, "\\u%04x", *at++);
        else if (*at < 0x80 || (more > 0 && seen == more))
            for (size_t i = 0; i <= more; i++) out[used++] = (char)*at++;
        else
            out[used++] = '?', at++;
    }
    return used;
}

void dyn_log(enum dyn_log_level level, const char *area, const char *format, ...)
{
    static const char *const names[] = {"TRACE", "DEBUG", "INFO", "WARN", "ERROR"};
    char line[2048], time[48], text[1900];
    va_list args;

    if (level < dyn_log_get_level() || level >= DYN_LOG_OFF) return;
    unsigned how = atomic_load_explicit(&form, memory_order_relaxed);
    put_time(time, sizeof time, how & DYN_LOG_LOCAL_TIME);
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int head;
    if (how & DYN_LOG_JSON)
        head =
            snprintf(line, sizeof line, "{\"time\":\"%s\",\"level\":\"%s\",\"target\":\"dynamo.%.40s\",\"message\":\"",
                     time, names[level], area);
    else
        head = snprintf(line, sizeof line, "%s %5s dynamo.%.40s: %s\n", time, names[level], area, text);
    size_t used = head > 0 ? (size_t)head : 0;
    if (how & DYN_LOG_JSON) {
        used += put_json(line + used, sizeof line - used - 4, text);
        memcpy(line + used, "\"}\n", 3);
        used += 3;
    }
    for (size_t done = 0; done < used;) {
        ssize_t wrote = write(2, line + done, used - done);
        if (wrote <= 0) return;
        done += (size_t)wrote;
    }
}
