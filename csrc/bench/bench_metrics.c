/* bench_metrics.c -- what counting costs, alone and with a second thread on the same series. */
#include <pthread.h>
#include <stdio.h>

#include "common/common.h"
#include "dynamo/metrics.h"

enum { ROUNDS = 10000000 };
static dyn_series *counter, *histogram;

static void *count(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) dyn_series_count(counter, 1);
    return NULL;
}
static void *observe(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) dyn_series_observe(histogram, (i & 1023) * 0.001);
    return NULL;
}

static void bench(const char *name, void *(*work)(void *), int threads)
{
    pthread_t each[2];
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < threads; i++) pthread_create(&each[i], NULL, work, NULL);
    for (int i = 0; i < threads; i++) pthread_join(each[i], NULL);
    printf("%-10s %d threads %6.1f ns each\n", name, threads, (double)(dyn_now_ns() - start) / ROUNDS);
}

int main(void)
{
    dyn_metrics *registry;
    dyn_metric *a, *b;
    const char *label = "worker", *value = "42";
    if (dyn_metrics_new(&registry, 0) < 0) return 1;
    if (dyn_metrics_define(registry, DYN_COUNTER, "a_total", NULL, &label, 1, NULL, 0, &a) < 0) return 1;
    if (dyn_metrics_define(registry, DYN_HISTOGRAM, "b", NULL, NULL, 0, NULL, 0, &b) < 0) return 1;
    if (dyn_metric_series(a, &value, &counter) < 0 || dyn_metric_series(b, NULL, &histogram) < 0) return 1;
    for (int threads = 1; threads <= 2; threads++) {
        bench("count", count, threads);
        bench("observe", observe, threads);
    }
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < 1000000; i++) {
        dyn_series *found;
        dyn_metric_series(a, &value, &found);
        dyn_series_unref(found);
    }
    printf("look up             %6.1f ns each\n", (double)(dyn_now_ns() - start) / 1e6);
    dyn_series_unref(counter);
    dyn_series_unref(histogram);
    dyn_metrics_unref(registry);
    return 0;
}
