/* metrics.c -- see dynamo/metrics.h and metrics_internal.h: defining, finding, counting. */
#include <math.h>

#include "metrics/metrics_internal.h"

/* ---- registry ---------------------------------------------------------------------------------- */

int dyn_metrics_new(dyn_metrics **out, size_t max_series)
{
    dyn_metrics *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    atomic_init(&self->refs, 1);
    self->max_series = max_series != 0 ? max_series : 10000;
    pthread_mutex_init(&self->lock, NULL);
    pthread_mutex_init(&self->calls_lock, NULL);
    *out = self;
    return DYN_OK;
}

dyn_metrics *dyn_metrics_ref(dyn_metrics *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

static void free_series(dyn_series *series)
{
    dyn__free(series->label_text);
    dyn__free(series->key);
    dyn__free(series);
}

static void free_metric(dyn_metric *metric)
{
    for (size_t i = 0; i < metric->label_count && metric->labels != NULL; i++) dyn__free(metric->labels[i]);
    dyn__free(metric->labels);
    dyn__free(metric->name);
    dyn__free(metric->help);
    dyn__free(metric->bounds);
    dyn__free(metric->table);
    pthread_mutex_destroy(&metric->lock);
    dyn__free(metric);
}

/* The metrics' own series do not hold the registry: they go with it. */
void dyn_metrics_unref(dyn_metrics *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    for (size_t i = 0; i < self->count; i++) {
        dyn_metric *metric = self->metrics[i];
        for (size_t slot = 0; slot < metric->slots; slot++)
            if (metric->table[slot] != NULL) free_series(metric->table[slot]);
        if (metric->hidden != NULL) free_series(metric->hidden);
        free_metric(metric);
    }
    dyn__free(self->metrics);
    dyn__free(self->calls);
    pthread_mutex_destroy(&self->lock);
    pthread_mutex_destroy(&self->calls_lock);
    dyn__free(self);
}

/* ---- metrics ----------------------------------------------------------------------------------- */

static bool good_name(const char *name, bool colon)
{
    if (*name == 0 || (*name >= '0' && *name <= '9')) return false;
    for (; *name != 0; name++) {
        char c = *name;
        bool word = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' || (colon && c == ':');
        if (!word) return false;
    }
    return true;
}

static int check_definition(enum dyn_metric_kind kind, const char *name, const char *const *labels, size_t label_count,
                            const double *bounds, size_t bound_count)
{
    if (!good_name(name, true))
        return dyn__fail(DYN_EINVAL, "metric name \"%.100s\": use letters, digits, '_' and ':'", name);
    for (size_t i = 0; i < label_count; i++) {
        if (!good_name(labels[i], false) || strncmp(labels[i], "__", 2) == 0 ||
            (kind == DYN_HISTOGRAM && strcmp(labels[i], "le") == 0))
            return dyn__fail(DYN_EINVAL, "label name \"%.100s\" of %.100s: use letters, digits and '_'", labels[i],
                             name);
        for (size_t j = 0; j < i; j++)
            if (strcmp(labels[i], labels[j]) == 0)
                return dyn__fail(DYN_EINVAL, "%.100s has the label %.100s twice", name, labels[i]);
    }
    if (kind != DYN_HISTOGRAM && bound_count != 0)
        return dyn__fail(DYN_EINVAL, "%.100s has bounds but is no histogram", name);
    for (size_t i = 0; i < bound_count; i++)
        if (!isfinite(bounds[i]) || (i > 0 && bounds[i] <= bounds[i - 1]))
            return dyn__fail(DYN_EINVAL, "the bounds of %.100s must be finite and rise", name);
    return DYN_OK;
}

static bool same_definition(const dyn_metric *metric, enum dyn_metric_kind kind, const char *const *labels,
                            size_t label_count, const double *bounds, size_t bound_count)
{
    if (metric->kind != kind || metric->label_count != label_count || metric->bound_count != bound_count) return false;
    for (size_t i = 0; i < label_count; i++)
        if (strcmp(metric->labels[i], labels[i]) != 0) return false;
    return bound_count == 0 || memcmp(metric->bounds, bounds, bound_count * sizeof(*bounds)) == 0;
}

static dyn_metric *make_metric(dyn_metrics *registry, enum dyn_metric_kind kind, const char *name, const char *help,
                               const char *const *labels, size_t label_count, const double *bounds, size_t bound_count)
{
    dyn_metric *metric = dyn__calloc(1, sizeof(*metric));
    if (metric == NULL) return NULL;
    pthread_mutex_init(&metric->lock, NULL);
    metric->registry = registry;
    metric->kind = kind;
    metric->label_count = label_count;
    metric->bound_count = bound_count;
    metric->slots = 8;
    if ((metric->name = dyn__strdup(name)) == NULL) goto no_memory;
    if (help != NULL && (metric->help = dyn__strdup(help)) == NULL) goto no_memory;
    if ((metric->table = dyn__calloc(metric->slots, sizeof(*metric->table))) == NULL) goto no_memory;
    if (label_count > 0 && (metric->labels = dyn__calloc(label_count, sizeof(*metric->labels))) == NULL) goto no_memory;
    for (size_t i = 0; i < label_count; i++)
        if ((metric->labels[i] = dyn__strdup(labels[i])) == NULL) goto no_memory;
    if (bound_count > 0) {
        if ((metric->bounds = dyn__malloc(bound_count * sizeof(*bounds))) == NULL) goto no_memory;
        memcpy(metric->bounds, bounds, bound_count * sizeof(*bounds));
    }
    return metric;
no_memory:
    free_metric(metric);
    return NULL;
}

const double *dyn_metrics_seconds(size_t *count)
{
    static const double bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
    if (count != NULL) *count = DYN__COUNT(bounds);
    return bounds;
}

int dyn_metrics_define(dyn_metrics *self, enum dyn_metric_kind kind, const char *name, const char *help,
                       const char *const *labels, size_t label_count, const double *bounds, size_t bound_count,
                       dyn_metric **out)
{
    if (kind == DYN_HISTOGRAM && bounds == NULL) bounds = dyn_metrics_seconds(&bound_count);
    int rc = check_definition(kind, name, labels, label_count, bounds, bound_count);
    if (rc < 0) return rc;
    pthread_mutex_lock(&self->lock);
    dyn_metric *metric = NULL;
    for (size_t i = 0; i < self->count && metric == NULL; i++)
        if (strcmp(self->metrics[i]->name, name) == 0) metric = self->metrics[i];
    if (metric != NULL) {
        if (!same_definition(metric, kind, labels, label_count, bounds, bound_count))
            rc = dyn__fail(DYN_EEXIST, "the metric %.100s is defined already, with another kind, labels or bounds",
                           name);
        goto done;
    }
    rc = DYN_ENOMEM;
    if (self->count == self->room) {
        size_t room = self->room == 0 ? 16 : 2 * self->room;
        dyn_metric **metrics = dyn__realloc(self->metrics, room * sizeof(*metrics));
        if (metrics == NULL) goto done;
        self->metrics = metrics;
        self->room = room;
    }
    metric = make_metric(self, kind, name, help, labels, label_count, bounds, bound_count);
    if (metric == NULL) goto done;
    self->metrics[self->count++] = metric;
    rc = DYN_OK;
done:
    pthread_mutex_unlock(&self->lock);
    if (rc == DYN_OK) *out = metric;
    return rc;
}

enum dyn_metric_kind dyn_metric_kind_of(const dyn_metric *self)
{
    return self->kind;
}
size_t dyn_metric_label_count(const dyn_metric *self)
{
    return self->label_count;
}
size_t dyn_metric_series_count(dyn_metric *self)
{
    pthread_mutex_lock(&self->lock);
    size_t shown = self->shown;
    pthread_mutex_unlock(&self->lock);
    return shown;
}

/* ---- series ------------------------------------------------------------------------------------ */

static uint64_t hash_values(const char *const *values, size_t count, size_t *length)
{
    uint64_t hash = 0xcbf29ce484222325u;
    *length = 0;
    for (size_t i = 0; i < count; i++) {
        const char *at = values[i];
        do {
            hash = (hash ^ (unsigned char)*at) * 0x100000001b3u;
            ++*length;
        } while (*at++ != 0);
    }
    return hash ^ hash >> 32;
}

static bool same_values(const dyn_series *series, const char *const *values, size_t count)
{
    const char *at = series->key;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(at, values[i]) != 0) return false;
        at += strlen(at) + 1;
    }
    return true;
}

/* The slot of these values, or the free one where they would go. With the lock held. */
static size_t slot_of(const dyn_metric *self, uint64_t hash, const char *const *values)
{
    size_t slot = hash & (self->slots - 1);
    while (self->table[slot] != NULL &&
           (self->table[slot]->hash != hash || !same_values(self->table[slot], values, self->label_count)))
        slot = (slot + 1) & (self->slots - 1);
    return slot;
}

/* Bytes of the UTF-8 character at `at`, 0 when it is none. */
static size_t character(const unsigned char *at)
{
    if (at[0] < 0x80) return 1;
    size_t length = at[0] >= 0xf0 && at[0] <= 0xf4  ? 4
                    : at[0] >= 0xe0 && at[0] < 0xf0 ? 3
                    : at[0] >= 0xc2 && at[0] < 0xe0 ? 2
                                                    : 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    if (length == 3 && ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f))) return 0;
    if (length == 4 && ((at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f))) return 0;
    return length;
}

static char *put_label(char *to, const char *name, const char *value, bool first)
{
    if (!first) *to++ = ',';
    size_t length = strlen(name);
    memcpy(to, name, length);
    to += length;
    *to++ = '=', *to++ = '"';
    for (const unsigned char *at = (const unsigned char *)value; *at != 0;) {
        size_t bytes = character(at);
        if (*at == '\n') {
            *to++ = '\\', *to++ = 'n';
        } else if (*at == '"' || *at == '\\') {
            *to++ = '\\', *to++ = (char)*at;
        } else if (bytes == 0) {
            *to++ = '?';
        } else {
            memcpy(to, at, bytes);
            to += bytes;
        }
        at += bytes != 0 ? bytes : 1;
    }
    *to++ = '"';
    return to;
}

static dyn_series *make_series(dyn_metric *metric, const char *const *values, uint64_t hash, size_t key_length)
{
    size_t buckets = metric->kind == DYN_HISTOGRAM ? metric->bound_count + 1 : 0, names = 0;
    dyn_series *series = dyn__calloc(1, sizeof(*series) + buckets * sizeof(series->buckets[0]));
    if (series == NULL) return NULL;
    for (size_t i = 0; i < metric->label_count; i++) names += strlen(metric->labels[i]) + 4;
    atomic_init(&series->refs, 1);
    series->metric = metric;
    series->registry = metric->registry;
    series->hash = hash;
    series->key_length = key_length;
    series->key = dyn__malloc(key_length + 1);
    series->label_text = dyn__malloc(names + 2 * key_length + 1);
    if (series->key == NULL || series->label_text == NULL) {
        free_series(series);
        return NULL;
    }
    char *key = series->key, *text = series->label_text;
    for (size_t i = 0; i < metric->label_count && values != NULL; i++) {
        size_t length = strlen(values[i]) + 1;
        memcpy(key, values[i], length);
        key += length;
        text = put_label(text, metric->labels[i], values[i], i == 0);
    }
    series->label_length = (size_t)(text - series->label_text);
    return series;
}

static int grow(dyn_metric *self)
{
    size_t slots = self->slots * 2;
    dyn_series **table = dyn__calloc(slots, sizeof(*table));
    if (table == NULL) return DYN_ENOMEM;
    for (size_t i = 0; i < self->slots; i++) {
        if (self->table[i] == NULL) continue;
        size_t slot = self->table[i]->hash & (slots - 1);
        while (table[slot] != NULL) slot = (slot + 1) & (slots - 1);
        table[slot] = self->table[i];
    }
    dyn__free(self->table);
    self->table = table;
    self->slots = slots;
    return DYN_OK;
}

static int find_or_make(dyn_metric *self, const char *const *values, dyn_series **out)
{
    size_t length;
    uint64_t hash = hash_values(values, self->label_count, &length);
    size_t slot = slot_of(self, hash, values);
    if ((*out = self->table[slot]) != NULL) return DYN_OK;
    if (self->shown >= self->registry->max_series) {
        atomic_fetch_add_explicit(&self->refused, 1, memory_order_relaxed);
        if (self->hidden == NULL) self->hidden = make_series(self, NULL, 0, 0);
        *out = self->hidden;
        return self->hidden != NULL ? DYN_ELIMIT : DYN_ENOMEM;
    }
    if ((self->shown + 1) * 4 > self->slots * 3) {
        if (grow(self) < 0) return DYN_ENOMEM;
        slot = slot_of(self, hash, values);
    }
    if ((*out = make_series(self, values, hash, length)) == NULL) return DYN_ENOMEM;
    self->table[slot] = *out;
    self->shown++;
    return DYN_OK;
}

int dyn_metric_series(dyn_metric *self, const char *const *values, dyn_series **out)
{
    *out = NULL;
    pthread_mutex_lock(&self->lock);
    int rc = find_or_make(self, values, out);
    if (*out != NULL) dyn_series_ref(*out);
    pthread_mutex_unlock(&self->lock);
    return rc == DYN_ELIMIT ? dyn__fail(rc, "%.100s has %zu series already", self->name, self->registry->max_series)
                            : rc;
}

int dyn_metric_remove(dyn_metric *self, const char *const *values)
{
    size_t length;
    uint64_t hash = hash_values(values, self->label_count, &length);
    pthread_mutex_lock(&self->lock);
    size_t slot = slot_of(self, hash, values), mask = self->slots - 1;
    dyn_series *gone = self->table[slot];
    if (gone != NULL) {
        self->shown--;
        self->table[slot] = NULL;
        /* Close the gap: whoever probed past it moves back. */
        for (size_t next = (slot + 1) & mask; self->table[next] != NULL; next = (next + 1) & mask) {
            size_t home = self->table[next]->hash & mask;
            if (((next - home) & mask) < ((next - slot) & mask)) continue;
            self->table[slot] = self->table[next];
            self->table[next] = NULL;
            slot = next;
        }
    }
    pthread_mutex_unlock(&self->lock);
    if (gone == NULL) return DYN_ENOENT;
    if (atomic_fetch_sub_explicit(&gone->refs, 1, memory_order_acq_rel) == 1) free_series(gone);
    return DYN_OK;
}

/* A series has one reference of its metric, which keeps nothing alive, and those of users, each of which keeps the
 * registry. */
dyn_series *dyn_series_ref(dyn_series *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    dyn_metrics_ref(self->registry);
    return self;
}

void dyn_series_unref(dyn_series *self)
{
    if (self == NULL) return;
    dyn_metrics *registry = self->registry;
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) == 1) free_series(self);
    dyn_metrics_unref(registry);
}

/* ---- counting ---------------------------------------------------------------------------------- */

double dyn__metrics_double(const _Atomic uint64_t *bits)
{
    uint64_t raw = atomic_load_explicit(bits, memory_order_relaxed);
    double value;
    memcpy(&value, &raw, sizeof(value));
    return value;
}

static void add_double(_Atomic uint64_t *bits, double amount)
{
    uint64_t old = atomic_load_explicit(bits, memory_order_relaxed), raw;
    do {
        double value;
        memcpy(&value, &old, sizeof(value));
        value += amount;
        memcpy(&raw, &value, sizeof(raw));
    } while (!atomic_compare_exchange_weak_explicit(bits, &old, raw, memory_order_relaxed, memory_order_relaxed));
}

void dyn_series_count(dyn_series *self, uint64_t n)
{
    atomic_fetch_add_explicit(&self->whole, n, memory_order_relaxed);
}

void dyn_series_add(dyn_series *self, double amount)
{
    if (self->metric->kind == DYN_COUNTER && !(amount >= 0)) return;
    add_double(&self->part, amount);
}

void dyn_series_set(dyn_series *self, double value)
{
    uint64_t raw;
    if (self->metric->kind != DYN_GAUGE) return;
    memcpy(&raw, &value, sizeof(raw));
    atomic_store_explicit(&self->part, raw, memory_order_relaxed);
}

void dyn_series_observe(dyn_series *self, double value)
{
    const dyn_metric *metric = self->metric;
    if (metric->kind != DYN_HISTOGRAM || isnan(value)) return;
    size_t low = 0, high = metric->bound_count;
    while (low < high) { /* the first bound that is not below the value */
        size_t middle = (low + high) / 2;
        if (metric->bounds[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    add_double(&self->part, value);
    atomic_fetch_add_explicit(&self->buckets[low], 1, memory_order_relaxed);
}

double dyn_series_value(const dyn_series *self)
{
    const dyn_metric *metric = self->metric;
    if (metric->kind != DYN_HISTOGRAM)
        return (double)atomic_load_explicit(&self->whole, memory_order_relaxed) + dyn__metrics_double(&self->part);
    uint64_t count = 0;
    for (size_t i = 0; i <= metric->bound_count; i++)
        count += atomic_load_explicit(&self->buckets[i], memory_order_relaxed);
    return (double)count;
}

double dyn_series_sum(const dyn_series *self)
{
    return self->metric->kind == DYN_HISTOGRAM ? dyn__metrics_double(&self->part) : 0;
}
