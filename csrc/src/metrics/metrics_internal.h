/* metrics_internal.h -- registry, metric, series.
 *
 *   registry --metrics--> [ metric, metric, ... ]      in the order of definition, never removed
 *   metric   --table----> open addressing by label values; `shown` lists the series in the order of making
 *
 * I1  The numbers of a series are atomics; nothing else of it changes after it is made.
 * I2  registry->lock guards the list of metrics and of callbacks, metric->lock the table. A scrape takes them in
 * this order.
 */
#ifndef DYN_SRC_METRICS_INTERNAL_H
#define DYN_SRC_METRICS_INTERNAL_H

#include <pthread.h>

#include "common/common.h"
#include "dynamo/metrics.h"

struct dyn_series {
    atomic_size_t refs;
    const dyn_metric *metric;
    dyn_metrics *registry; /* a reference, so that metric stays */
    uint64_t hash;
    size_t label_length;
    char *label_text; /* name="value",... escaped, ready for the scrape */
    char *key;        /* the values, each with a NUL */
    size_t key_length;
    _Atomic uint64_t whole;     /* counted in whole numbers */
    _Atomic uint64_t part;      /* the bits of a double: the rest of a counter, a gauge, a histogram's sum */
    _Atomic uint64_t buckets[]; /* a histogram: bound_count + 1, not cumulative */
};

struct dyn_metric {
    dyn_metrics *registry; /* not a reference */
    enum dyn_metric_kind kind;
    char *name, *help;
    char **labels;
    size_t label_count;
    double *bounds;
    size_t bound_count;
    pthread_mutex_t lock;
    dyn_series **table; /* by hash; NULL: free */
    size_t slots, shown;
    dyn_series *hidden; /* what those over the limit get; made at the first need */
    _Atomic uint64_t refused;
};

struct scrape_call {
    void (*fn)(void *user);
    void *user;
};

struct dyn_metrics {
    atomic_size_t refs; /* the users' and each series' */
    size_t max_series;
    pthread_mutex_t lock;
    dyn_metric **metrics;
    size_t count, room;
    pthread_mutex_t calls_lock; /* held while callbacks run, so that off_scrape() can promise */
    struct scrape_call *calls;
    size_t call_count;
};

double dyn__metrics_double(const _Atomic uint64_t *bits);

#endif
