# Mirrors dynamo/metrics.h.
from libc.stdint cimport uint64_t

from dynamo.c_common cimport dyn_buf


cdef extern from "dynamo/metrics.h" nogil:
    ctypedef struct dyn_metrics:
        pass
    ctypedef struct dyn_metric:
        pass
    ctypedef struct dyn_series:
        pass
    enum dyn_metric_kind:
        DYN_COUNTER
        DYN_GAUGE
        DYN_HISTOGRAM
    const char *DYN_METRICS_CONTENT_TYPE
    int dyn_metrics_new(dyn_metrics **out, size_t max_series)
    dyn_metrics *dyn_metrics_ref(dyn_metrics *self)
    void dyn_metrics_unref(dyn_metrics *self)
    int dyn_metrics_define(dyn_metrics *self, dyn_metric_kind kind, const char *name, const char *help,
                           const char *const *labels, size_t label_count, const double *bounds, size_t bound_count,
                           dyn_metric **out)
    const double *dyn_metrics_seconds(size_t *count)
    int dyn_metric_series(dyn_metric *self, const char *const *values, dyn_series **out)
    int dyn_metric_remove(dyn_metric *self, const char *const *values)
    dyn_metric_kind dyn_metric_kind_of(const dyn_metric *self)
    size_t dyn_metric_label_count(const dyn_metric *self)
    size_t dyn_metric_series_count(dyn_metric *self)
    dyn_series *dyn_series_ref(dyn_series *self)
    void dyn_series_unref(dyn_series *self)
    void dyn_series_count(dyn_series *self, uint64_t n)
    void dyn_series_add(dyn_series *self, double amount)
    void dyn_series_set(dyn_series *self, double value)
    void dyn_series_observe(dyn_series *self, double value)
    double dyn_series_value(const dyn_series *self)
    double dyn_series_sum(const dyn_series *self)
    int dyn_metrics_on_scrape(dyn_metrics *self, void (*fn)(void *user) noexcept nogil, void *user)
    int dyn_metrics_off_scrape(dyn_metrics *self, void (*fn)(void *user) noexcept nogil, void *user)
    int dyn_metrics_add_process(dyn_metrics *self)
    int dyn_metrics_text(dyn_metrics *self, dyn_buf **out, size_t *length)
