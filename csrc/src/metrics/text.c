/* text.c -- the registry as Prometheus text 0.0.4, and the process's own figures. See dynamo/metrics.h. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <dirent.h>
#endif

#include "metrics/metrics_internal.h"

/* The text as it grows; after a failed allocation nothing more is added. */
struct text {
    char *data;
    size_t length, room;
    bool failed;
};

static void put(struct text *text, const char *data, size_t length)
{
    if (text->failed) return;
    if (length > text->room - text->length) {
        size_t room = 2 * text->room + length + 4096;
        char *bigger = dyn__realloc(text->data, room);
        if (bigger == NULL) {
            text->failed = true;
            return;
        }
        text->data = bigger;
        text->room = room;
    }
    memcpy(text->data + text->length, data, length);
    text->length += length;
}
static void put_text(struct text *text, const char *data)
{
    put(text, data, strlen(data));
}

static void put_number(struct text *text, double value)
{
    char number[40];
    if (isnan(value))
        put_text(text, "NaN");
    else if (isinf(value))
        put_text(text, value > 0 ? "+Inf" : "-Inf");
    else if (value == floor(value) && fabs(value) < 1e15) {
        put(text, number, (size_t)snprintf(number, sizeof(number), "%.0f", value));
    } else {
        snprintf(number, sizeof(number), "%.15g", value);
        if (strtod(number, NULL) != value) snprintf(number, sizeof(number), "%.17g", value);
        for (char *at = number; *at != 0; at++)
            if (*at == ',') *at = '.'; /* a locale's decimal comma */
        put_text(text, number);
    }
}

static void put_head(struct text *text, const dyn_metric *metric)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    if (metric->help != NULL) {
        put_text(text, "# HELP ");
        put_text(text, metric->name);
        put_text(text, " ");
        for (const char *at = metric->help; *at != 0; at++)
            if (*at == '\n')
                put(text, "\\n", 2);
            else if (*at == '\\')
                put(text, "\\\\", 2);
            else
                put(text, at, 1);
        put_text(text, "\n");
    }
    put_text(text, "# TYPE ");
    put_text(text, metric->name);
    put_text(text, " ");
    put_text(text, kinds[metric->kind]);
    put_text(text, "\n");
}

/* name_suffix{labels,le="bound"} */
static void put_name(struct text *text, const dyn_series *series, const char *suffix, const char *bound)
{
    put_text(text, series->metric->name);
    put_text(text, suffix);
    if (series->label_length != 0 || bound != NULL) put_text(text, "{");
    put(text, series->label_text, series->label_length);
    if (bound != NULL) {
        put_text(text, series->label_length != 0 ? ",le=\"" : "le=\"");
        put_text(text, bound);
        put_text(text, "\"");
    }
    put_text(text, series->label_length != 0 || bound != NULL ? "} " : " ");
}

static void put_series(struct text *text, const dyn_series *series)
{
    const dyn_metric *metric = series->metric;
    char number[40];
    if (metric->kind != DYN_HISTOGRAM) {
        put_name(text, series, "", NULL);
        if (metric->kind == DYN_COUNTER && dyn__metrics_double(&series->part) == 0)
            put(text, number,
                (size_t)snprintf(number, sizeof(number), "%" PRIu64,
                                 atomic_load_explicit(&series->whole, memory_order_relaxed)));
        else
            put_number(text, dyn_series_value(series));
        put_text(text, "\n");
        return;
    }
    uint64_t count = 0;
    for (size_t i = 0; i <= metric->bound_count; i++) {
        count += atomic_load_explicit(&series->buckets[i], memory_order_relaxed);
        struct text bound = {.data = number, .room = sizeof(number)};
        if (i < metric->bound_count)
            put_number(&bound, metric->bounds[i]);
        else
            put_text(&bound, "+Inf");
        number[bound.length] = 0;
        put_name(text, series, "_bucket", number);
        put(text, number, (size_t)snprintf(number, sizeof(number), "%" PRIu64 "\n", count));
    }
    put_name(text, series, "_sum", NULL);
    put_number(text, dyn__metrics_double(&series->part));
    put_text(text, "\n");
    put_name(text, series, "_count", NULL);
    put(text, number, (size_t)snprintf(number, sizeof(number), "%" PRIu64 "\n", count));
}

static void put_refused(struct text *text, const dyn_metrics *self)
{
    bool first = true;
    for (size_t i = 0; i < self->count; i++) {
        char number[40];
        uint64_t refused = atomic_load_explicit(&self->metrics[i]->refused, memory_order_relaxed);
        if (refused == 0) continue;
        if (first)
            put_text(text,
                     "# HELP dynamo_metrics_series_refused_total Series asked for beyond the limit of their metric.\n"
                     "# TYPE dynamo_metrics_series_refused_total counter\n");
        first = false;
        put_text(text, "dynamo_metrics_series_refused_total{metric=\"");
        put_text(text, self->metrics[i]->name);
        put(text, number, (size_t)snprintf(number, sizeof(number), "\"} %" PRIu64 "\n", refused));
    }
}

int dyn_metrics_text(dyn_metrics *self, dyn_buf **out, size_t *length)
{
    struct text text = {0};
    pthread_mutex_lock(&self->calls_lock);
    for (size_t i = 0; i < self->call_count; i++) self->calls[i].fn(self->calls[i].user);
    pthread_mutex_unlock(&self->calls_lock);
    pthread_mutex_lock(&self->lock);
    for (size_t i = 0; i < self->count; i++) {
        dyn_metric *metric = self->metrics[i];
        pthread_mutex_lock(&metric->lock);
        if (metric->shown > 0) put_head(&text, metric);
        for (size_t slot = 0; slot < metric->slots; slot++)
            if (metric->table[slot] != NULL) put_series(&text, metric->table[slot]);
        pthread_mutex_unlock(&metric->lock);
    }
    put_refused(&text, self);
    pthread_mutex_unlock(&self->lock);
    int rc = text.failed ? DYN_ENOMEM : dyn_buf_new(out, text.length);
    if (rc == DYN_OK) {
        if (text.length > 0) memcpy(dyn_buf_data(*out), text.data, text.length);
        *length = text.length;
    }
    dyn__free(text.data);
    return rc;
}

/* ---- at the scrape ----------------------------------------------------------------------------- */

int dyn_metrics_on_scrape(dyn_metrics *self, void (*fn)(void *user), void *user)
{
    int rc = DYN_ENOMEM;
    pthread_mutex_lock(&self->calls_lock);
    struct scrape_call *calls = dyn__realloc(self->calls, (self->call_count + 1) * sizeof(*calls));
    if (calls != NULL) {
        self->calls = calls;
        calls[self->call_count++] = (struct scrape_call){fn, user};
        rc = DYN_OK;
    }
    pthread_mutex_unlock(&self->calls_lock);
    return rc;
}

int dyn_metrics_off_scrape(dyn_metrics *self, void (*fn)(void *user), void *user)
{
    int rc = DYN_ENOENT;
    pthread_mutex_lock(&self->calls_lock);
    for (size_t i = 0; i < self->call_count && rc != DYN_OK; i++) {
        if (self->calls[i].fn != fn || self->calls[i].user != user) continue;
        self->calls[i] = self->calls[--self->call_count];
        rc = DYN_OK;
    }
    pthread_mutex_unlock(&self->calls_lock);
    return rc;
}

enum { RESIDENT, CPU, FDS, STARTED, PROCESS_FIGURES };
static const struct {
    const char *name, *help;
} process_figures[PROCESS_FIGURES] = {
    [RESIDENT] = {"process_resident_memory_bytes", "Resident memory size in bytes."},
    [CPU] = {"process_cpu_seconds_total", "Total user and system CPU time spent in seconds."},
    [FDS] = {"process_open_fds", "Number of open file descriptors."},
    [STARTED] = {"process_start_time_seconds",
                 "Start time of the process since 1970 in seconds, as far as these metrics know."},
};

static void read_process(void *user)
{
    dyn_metrics *self = user;
    double figures[PROCESS_FIGURES] = {NAN, NAN, NAN, NAN};
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        figures[CPU] = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
#ifdef __linux__
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long size, resident;
    if (file != NULL) {
        if (fscanf(file, "%lu %lu", &size, &resident) == 2)
            figures[RESIDENT] = (double)resident * (double)sysconf(_SC_PAGESIZE);
        fclose(file);
    }
    DIR *fds = opendir("/proc/self/fd");
    if (fds != NULL) {
        figures[FDS] = -3; /* ".", ".." and the one that reads */
        while (readdir(fds) != NULL) figures[FDS]++;
        closedir(fds);
    }
#endif
    pthread_mutex_lock(&self->lock);
    for (size_t i = 0; i < self->count; i++)
        for (int f = 0; f < PROCESS_FIGURES; f++)
            if (!isnan(figures[f]) && strcmp(self->metrics[i]->name, process_figures[f].name) == 0) {
                dyn_series *series = self->metrics[i]->table[0]; /* no labels: */
                for (size_t slot = 0; series == NULL && slot < self->metrics[i]->slots; slot++)
                    series = self->metrics[i]->table[slot]; /* the only one */
                uint64_t raw;
                memcpy(&raw, &figures[f], sizeof(raw));
                if (series != NULL) atomic_store_explicit(&series->part, raw, memory_order_relaxed);
            }
    pthread_mutex_unlock(&self->lock);
}

int dyn_metrics_add_process(dyn_metrics *self)
{
    for (int f = 0; f < PROCESS_FIGURES; f++) {
        dyn_metric *metric;
        dyn_series *series;
        int rc = dyn_metrics_define(self, f == CPU ? DYN_COUNTER : DYN_GAUGE, process_figures[f].name,
                                    process_figures[f].help, NULL, 0, NULL, 0, &metric);
        if (rc == DYN_OK) rc = dyn_metric_series(metric, NULL, &series);
        if (rc < 0) return rc;
        if (f == STARTED) dyn_series_set(series, (double)dyn_wall_ms() / 1e3);
        dyn_series_unref(series);
    }
    dyn_metrics_off_scrape(self, read_process, self);
    return dyn_metrics_on_scrape(self, read_process, self);
}
