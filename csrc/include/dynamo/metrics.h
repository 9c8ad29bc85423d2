/* metrics.h -- counters, gauges and histograms, shown as Prometheus text.
 *
 *   registry --> metric (name, kind, label names) --> series (one set of label values) <- add, set, observe
 *
 * Look a series up once, keep it, and count on it: counting is one atomic addition and never locks.
 *
 * Bounds   a metric has at most `max_series` series. Who asks for one more gets a series that is shown nowhere,
 *          DYN_ELIMIT, and the registry counts it in dynamo_metrics_series_refused_total{metric}.
 * Threads  everything may be called from any thread. A scrape runs beside the counting: each number is whole, but a
 *          histogram's sum may be one observation ahead of its buckets.
 */
#ifndef DYNAMO_METRICS_H
#define DYNAMO_METRICS_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_metrics dyn_metrics; /* a registry */
typedef struct dyn_metric dyn_metric;   /* lives as long as its registry */
typedef struct dyn_series dyn_series;

enum dyn_metric_kind { DYN_COUNTER, DYN_GAUGE, DYN_HISTOGRAM };

/* Make an empty registry, one reference.
 * max_series  per metric; 0: 10000.    errors  DYN_ENOMEM. */
DYN_API int dyn_metrics_new(dyn_metrics **out, size_t max_series);
DYN_API dyn_metrics *dyn_metrics_ref(dyn_metrics *self);
DYN_API void dyn_metrics_unref(dyn_metrics *self); /* NULL is allowed */

/* Define a metric, or find it when the same kind, labels and bounds were defined before.
 * name    [a-zA-Z_:][a-zA-Z0-9_:]*, used as it is: a counter's should end in _total.
 * help    one sentence; may be NULL.
 * labels  label names, `label_count` of them; may be NULL when 0. Not "le" for a histogram, not "__...".
 * bounds  a histogram's upper bounds, rising, `bound_count` of them, without +Inf; NULL: dyn_metrics_seconds().
 *         For other kinds NULL and 0.
 * out     borrowed while the registry lives.
 * errors  DYN_ENOMEM; DYN_EINVAL (a bad name or bounds); DYN_EEXIST (defined otherwise). */
DYN_API int dyn_metrics_define(dyn_metrics *self, enum dyn_metric_kind kind, const char *name, const char *help,
                               const char *const *labels, size_t label_count, const double *bounds, size_t bound_count,
                               dyn_metric **out);
/* Bounds from 1 ms to 60 s for durations in seconds; static. */
DYN_API const double *dyn_metrics_seconds(size_t *count);

/* The series for these label values; made when it is not there. O(1), under the metric's lock.
 * values  one for each label, in the order of definition; copied; bytes that are not UTF-8 become '?'.
 * out     a new reference, to be given to dyn_series_unref(); also set when DYN_ELIMIT is returned, to a series that
 *         counts and is not shown.
 * errors  DYN_ENOMEM (out is NULL), DYN_ELIMIT. */
DYN_API int dyn_metric_series(dyn_metric *self, const char *const *values, dyn_series **out);
/* Stop showing a series, as when the worker that it tells of is gone. Holders may go on counting on it.
 * errors  DYN_ENOENT. */
DYN_API int dyn_metric_remove(dyn_metric *self, const char *const *values);
DYN_API enum dyn_metric_kind dyn_metric_kind_of(const dyn_metric *self);
DYN_API size_t dyn_metric_label_count(const dyn_metric *self);
DYN_API size_t dyn_metric_series_count(dyn_metric *self);

DYN_API dyn_series *dyn_series_ref(dyn_series *self);
DYN_API void dyn_series_unref(dyn_series *self);                 /* NULL is allowed */
DYN_API void dyn_series_count(dyn_series *self, uint64_t n);     /* a counter: up by n */
DYN_API void dyn_series_add(dyn_series *self, double amount);    /* a counter (never negative) or a gauge */
DYN_API void dyn_series_set(dyn_series *self, double value);     /* a gauge */
DYN_API void dyn_series_observe(dyn_series *self, double value); /* a histogram; NaN is left out */
DYN_API double dyn_series_value(const dyn_series *self);         /* a histogram's: the number of observations */
DYN_API double dyn_series_sum(const dyn_series *self);           /* a histogram's */

/* Have fn(user) run at the beginning of each scrape, on the thread that scrapes, to set gauges that are cheap to
 * read then and dear to keep. It may call anything here but a scrape and this.   errors  DYN_ENOMEM. */
DYN_API int dyn_metrics_on_scrape(dyn_metrics *self, void (*fn)(void *user), void *user);
/* Take that back; when it returns fn does not run any more. Not from fn itself. errors DYN_ENOENT. */
DYN_API int dyn_metrics_off_scrape(dyn_metrics *self, void (*fn)(void *user), void *user);
/* process_resident_memory_bytes, process_cpu_seconds_total, process_open_fds, process_start_time_seconds.
 * errors  as dyn_metrics_define(). */
DYN_API int dyn_metrics_add_process(dyn_metrics *self);

/* All of it as Prometheus text 0.0.4.
 * out     a new buffer;  length  of the text (the buffer may be larger).
 * errors  DYN_ENOMEM. */
DYN_API int dyn_metrics_text(dyn_metrics *self, dyn_buf **out, size_t *length);
#define DYN_METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

#ifdef __cplusplus
}
#endif
#endif
