#include <math.h>
#include <pthread.h>

#include "dynamo/metrics.h"
#include "test.h"

static dyn_metrics *registry;
static char shown[1 << 16];
static void scrape(void)
{
    dyn_buf *text = NULL;
    size_t length = 0;
    CHECK_EQ(dyn_metrics_text(registry, &text, &length), DYN_OK);
    memcpy(shown, dyn_buf_data(text), length);
    shown[length] = 0;
    dyn_buf_unref(text);
}
static bool has(const char *text)
{
    if (strstr(shown, text) != NULL) return true;
    fprintf(stderr, "no \"%s\" in:\n%s\n", text, shown);
    return false;
}
static dyn_series *series(dyn_metric *metric, const char *value)
{
    dyn_series *out = NULL;
    dyn_metric_series(metric, &value, &out);
    return out;
}

static void each_kind_is_shown_as_prometheus_reads_it(void)
{
    const char *labels[] = {"model"};
    const double bounds[] = {0.5, 1, 2.5};
    dyn_metric *counter, *gauge, *histogram, *again;
    CHECK_EQ(dyn_metrics_new(&registry, 0), DYN_OK);
    CHECK_EQ(dyn_metrics_define(registry, DYN_COUNTER, "a_total", "counts\nthings \\", labels, 1, NULL, 0, &counter),
             DYN_OK);
    CHECK_EQ(dyn_metrics_define(registry, DYN_GAUGE, "b", NULL, NULL, 0, NULL, 0, &gauge), DYN_OK);
    CHECK_EQ(dyn_metrics_define(registry, DYN_HISTOGRAM, "c_seconds", "lasts", labels, 1, bounds, 3, &histogram),
             DYN_OK);
    CHECK_EQ(dyn_metrics_define(registry, DYN_COUNTER, "a_total", "other help", labels, 1, NULL, 0, &again), DYN_OK);
    CHECK(again == counter);
    CHECK_EQ(dyn_metrics_define(registry, DYN_GAUGE, "a_total", NULL, labels, 1, NULL, 0, &again), DYN_EEXIST);

    dyn_series *a = series(counter, "x\"y\\z\n\xff\xc3\xa9"), *c = series(histogram, "m"), *b;
    CHECK_EQ(dyn_metric_series(gauge, NULL, &b), DYN_OK);
    dyn_series_count(a, 3);
    dyn_series_add(a, -1);
    dyn_series_set(b, 1.25);
    dyn_series_add(b, -2);
    dyn_series_observe(c, 0.5);
    dyn_series_observe(c, 2);
    dyn_series_observe(c, 100);
    dyn_series_observe(c, NAN);
    scrape();
    CHECK(has(
        "# HELP a_total counts\\nthings \\\\\n# TYPE a_total counter\na_total{model=\"x\\\"y\\\\z\\n?\xc3\xa9\"} 3\n"));
    CHECK(has("# TYPE b gauge\nb -0.75\n"));
    CHECK(has("c_seconds_bucket{model=\"m\",le=\"0.5\"} 1\nc_seconds_bucket{model=\"m\",le=\"1\"} 1\n"
              "c_seconds_bucket{model=\"m\",le=\"2.5\"} 2\nc_seconds_bucket{model=\"m\",le=\"+Inf\"} 3\n"
              "c_seconds_sum{model=\"m\"} 102.5\nc_seconds_count{model=\"m\"} 3\n"));
    dyn_series_add(a, 0.5);
    CHECK(dyn_series_value(a) == 3.5);
    dyn_series_set(b, INFINITY);
    scrape();
    CHECK(has("} 3.5\n") && has("b +Inf\n"));
    dyn_series_unref(a);
    dyn_series_unref(b);
    dyn_metrics_unref(registry);
    dyn_series_observe(c, 1); /* a series keeps its registry */
    dyn_series_unref(c);
}

static void bad_definitions_are_refused(void)
{
    const char *bad_label[] = {"a-b"}, *le[] = {"le"}, *twice[] = {"a", "a"};
    const double falling[] = {2, 1};
    dyn_metric *metric;
    CHECK_EQ(dyn_metrics_new(&registry, 0), DYN_OK);
    CHECK_EQ(dyn_metrics_define(registry, DYN_COUNTER, "1a", NULL, NULL, 0, NULL, 0, &metric), DYN_EINVAL);
    CHECK_EQ(dyn_metrics_define(registry, DYN_COUNTER, "", NULL, NULL, 0, NULL, 0, &metric), DYN_EINVAL);
    CHECK_EQ(dyn_metrics_define(registry, DYN_COUNTER, "a", NULL, bad_label, 1, NULL, 0, &metric), DYN_EINVAL);
    CHECK_EQ(dyn_metrics_define(registry, DYN_HISTOGRAM, "a", NULL, le, 1, NULL, 0, &metric), DYN_EINVAL);
    CHECK_EQ(dyn_metrics_define(registry, DYN_GAUGE, "a", NULL, twice, 2, NULL, 0, &metric), DYN_EINVAL);
    CHECK_EQ(dyn_metrics_define(registry, DYN_HISTOGRAM, "a", NULL, NULL, 0, falling, 2, &metric), DYN_EINVAL);
    CHECK_EQ(dyn_metrics_define(registry, DYN_GAUGE, "a", NULL, NULL, 0, falling, 2, &metric), DYN_EINVAL);
    dyn_metrics_unref(registry);
}

static void a_metric_has_no_more_series_than_its_limit(void)
{
    const char *labels[] = {"id"};
    char name[16];
    const char *value = name;
    dyn_metric *metric;
    CHECK_EQ(dyn_metrics_new(&registry, 100), DYN_OK);
    CHECK_EQ(dyn_metrics_define(registry, DYN_COUNTER, "a_total", NULL, labels, 1, NULL, 0, &metric), DYN_OK);
    for (int i = 0; i < 150; i++) {
        dyn_series *each;
        snprintf(name, sizeof(name), "%d", i);
        CHECK_EQ(dyn_metric_series(metric, &value, &each), i < 100 ? DYN_OK : DYN_ELIMIT);
        dyn_series_count(each, 1);
        dyn_series_unref(each);
    }
    CHECK_EQ(dyn_metric_series_count(metric), 100);
    scrape();
    CHECK(has("dynamo_metrics_series_refused_total{metric=\"a_total\"} 50"));
    CHECK(strstr(shown, "id=\"100\"") == NULL);
    for (int i = 0; i < 100; i += 2) { /* every other one goes; the rest is still found */
        snprintf(name, sizeof(name), "%d", i);
        CHECK_EQ(dyn_metric_remove(metric, &value), DYN_OK);
        CHECK_EQ(dyn_metric_remove(metric, &value), DYN_ENOENT);
    }
    for (int i = 1; i < 100; i += 2) {
        snprintf(name, sizeof(name), "%d", i);
        dyn_series *each = series(metric, name);
        CHECK(dyn_series_value(each) == 1);
        dyn_series_unref(each);
    }
    CHECK_EQ(dyn_metric_series_count(metric), 50);
    dyn_metrics_unref(registry);
}

static void *count_much(void *arg)
{
    dyn_series **both = arg;
    for (int i = 0; i < 50000; i++) {
        dyn_series_count(both[0], 1);
        dyn_series_observe(both[1], i % 2);
    }
    return NULL;
}
static void threads_lose_no_count(void)
{
    pthread_t threads[4];
    dyn_metric *counter, *histogram;
    dyn_series *both[2];
    CHECK_EQ(dyn_metrics_new(&registry, 0), DYN_OK);
    CHECK_EQ(dyn_metrics_define(registry, DYN_COUNTER, "a_total", NULL, NULL, 0, NULL, 0, &counter), DYN_OK);
    CHECK_EQ(dyn_metrics_define(registry, DYN_HISTOGRAM, "h", NULL, NULL, 0, NULL, 0, &histogram), DYN_OK);
    CHECK_EQ(dyn_metric_series(counter, NULL, &both[0]), DYN_OK);
    CHECK_EQ(dyn_metric_series(histogram, NULL, &both[1]), DYN_OK);
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, count_much, both);
    scrape();
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK(dyn_series_value(both[0]) == 200000 && dyn_series_value(both[1]) == 200000 &&
          dyn_series_sum(both[1]) == 100000);
    dyn_series_unref(both[0]);
    dyn_series_unref(both[1]);
    dyn_metrics_unref(registry);
}

static void at_scrape(void *user)
{
    dyn_series_set(user, 7);
}
static void callbacks_and_the_process_are_read_at_the_scrape(void)
{
    dyn_metric *gauge;
    dyn_series *g;
    CHECK_EQ(dyn_metrics_new(&registry, 0), DYN_OK);
    CHECK_EQ(dyn_metrics_define(registry, DYN_GAUGE, "g", NULL, NULL, 0, NULL, 0, &gauge), DYN_OK);
    CHECK_EQ(dyn_metric_series(gauge, NULL, &g), DYN_OK);
    CHECK_EQ(dyn_metrics_on_scrape(registry, at_scrape, g), DYN_OK);
    CHECK_EQ(dyn_metrics_add_process(registry), DYN_OK);
    CHECK_EQ(dyn_metrics_add_process(registry), DYN_OK);
    scrape();
    CHECK(has("g 7\n") && has("process_cpu_seconds_total ") && has("process_resident_memory_bytes "));
    CHECK_EQ(dyn_metrics_off_scrape(registry, at_scrape, g), DYN_OK);
    CHECK_EQ(dyn_metrics_off_scrape(registry, at_scrape, g), DYN_ENOENT);
    dyn_series_unref(g);
    dyn_metrics_unref(registry);
}

static void every_failed_allocation_is_survived(void)
{
    const char *labels[] = {"a", "b"}, *values[] = {"1", "2"};
    EACH_ALLOCATION_FAILS {
        dyn_metric *metric;
        dyn_series *one = NULL;
        dyn_buf *text = NULL;
        size_t length;
        if ((rc = dyn_metrics_new(&registry, 1)) < 0) continue;
        rc = dyn_metrics_define(registry, DYN_HISTOGRAM, "h", "help", labels, 2, NULL, 0, &metric);
        if (rc == DYN_OK) rc = dyn_metric_series(metric, values, &one);
        dyn_series_unref(one);
        if (rc == DYN_OK) rc = dyn_metrics_add_process(registry);
        if (rc == DYN_OK) rc = dyn_metrics_text(registry, &text, &length);
        dyn_buf_unref(text);
        dyn_metrics_unref(registry);
    }
}

TEST_MAIN(TEST(each_kind_is_shown_as_prometheus_reads_it), TEST(bad_definitions_are_refused),
          TEST(a_metric_has_no_more_series_than_its_limit), TEST(threads_lose_no_count),
          TEST(callbacks_and_the_process_are_read_at_the_scrape), TEST(every_failed_allocation_is_survived))
