"""Counters, gauges and histograms whose counting is one atomic addition in C, shown as Prometheus text."""
from libc.stdlib cimport free, malloc

from dynamo._errors cimport check
from dynamo.c_common cimport DYN_ELIMIT, dyn_buf, dyn_buf_data, dyn_buf_unref, dyn_error_clear
from dynamo.c_metrics cimport (
    DYN_COUNTER, DYN_GAUGE, DYN_HISTOGRAM, DYN_METRICS_CONTENT_TYPE, dyn_metric_kind, dyn_metric_remove,
    dyn_metric_series, dyn_metrics_add_process, dyn_metrics_define, dyn_metrics_new, dyn_metrics_text,
    dyn_metrics_unref, dyn_series_add, dyn_series_observe, dyn_series_set, dyn_series_sum, dyn_series_unref,
    dyn_series_value)

CONTENT_TYPE = DYN_METRICS_CONTENT_TYPE.decode()


# The texts as an array of C strings; `keep` holds the bytes. To be given to free().
cdef const char **strings(object texts, list keep) except NULL:
    cdef Py_ssize_t count = len(texts), i
    cdef const char **array = <const char **>malloc((count + 1) * sizeof(char *))
    if array == NULL:
        raise MemoryError()
    try:
        for i in range(count):
            keep.append(str(texts[i]).encode("utf-8", "replace").replace(b"\0", b"?"))
            array[i] = <bytes>keep[i]
    except BaseException:
        free(array)
        raise
    return array


cdef class Registry:
    """Metrics that are scraped together.

    Parameters
    ----------
    max_series : most label sets of one metric; more are counted but not shown (0: 10,000)
    """

    def __cinit__(self, size_t max_series=0):
        check(dyn_metrics_new(&self.ptr, max_series))

    def __dealloc__(self):
        dyn_metrics_unref(self.ptr)

    def __repr__(self):
        return f"Registry({self.text().count(b'# TYPE ')} metrics)"

    cdef Metric define(self, Metric made, dyn_metric_kind kind, str name, str help_, object labels, object bounds):
        cdef list keep = []
        cdef double *limits = NULL
        cdef const char **names = NULL
        cdef size_t i, bound_count = 0
        cdef bytes raw_name = name.encode(), raw_help = help_.encode() if help_ else b""
        cdef const char *help_text = raw_help
        made.registry = self
        made.name = name
        made.label_names = tuple(labels)
        names = strings(made.label_names, keep)
        try:
            if bounds is not None:
                bounds = [float(bound) for bound in bounds if bound != float("inf")]
                bound_count = len(bounds)
                limits = <double *>malloc((bound_count + 1) * sizeof(double))
                if limits == NULL:
                    raise MemoryError()
                for i in range(bound_count):
                    limits[i] = bounds[i]
            check(dyn_metrics_define(self.ptr, kind, raw_name, help_text if help_ else NULL, names,
                                     len(made.label_names), limits, bound_count, &made.metric))
        finally:
            free(names)
            free(limits)
        if not made.label_names:
            check(dyn_metric_series(made.metric, NULL, &made.series))
        return made

    def counter(self, str name, str help="", labels=()):
        """A count that only rises. Defining the same metric again gives the same one."""
        return self.define(Counter.__new__(Counter), DYN_COUNTER, name, help, labels, None)

    def gauge(self, str name, str help="", labels=()):
        """A number that rises and falls."""
        return self.define(Gauge.__new__(Gauge), DYN_GAUGE, name, help, labels, None)

    def histogram(self, str name, str help="", labels=(), buckets=None):
        """Observations by size; `buckets` are rising upper bounds (default: 1 ms to 60 s, for seconds)."""
        return self.define(Histogram.__new__(Histogram), DYN_HISTOGRAM, name, help, labels, buckets)

    def add_process(self):
        """Also show what the process uses: memory, CPU, open files."""
        check(dyn_metrics_add_process(self.ptr))

    def text(self):
        """All of it in Prometheus' text form (bytes)."""
        cdef dyn_buf *text
        cdef size_t length
        cdef int rc
        with nogil:
            rc = dyn_metrics_text(self.ptr, &text, &length)
        check(rc)
        try:
            return (<char *>dyn_buf_data(text))[:length]
        finally:
            dyn_buf_unref(text)


cdef class Metric:
    """A metric, or, once its labels are given, one of its series."""

    def __init__(self, *args, **kwargs):
        raise TypeError("make a metric with Registry.counter, .gauge or .histogram")

    def __dealloc__(self):
        dyn_series_unref(self.series)

    cdef object label_values(self, tuple values, dict named):
        if named:
            if values or set(named) != set(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, got {tuple(named)}")
            return [named[name] for name in self.label_names]
        if len(values) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}, got {len(values)} values")
        return values

    def labels(self, *values, **named):
        """The series for these label values. Keep it: looking it up costs more than counting."""
        cdef Metric one = type(self).__new__(type(self))
        cdef list keep = []
        cdef const char **texts = strings(self.label_values(values, named), keep)
        cdef int rc = dyn_metric_series(self.metric, texts, &one.series)
        free(texts)
        if rc == DYN_ELIMIT:
            dyn_error_clear()       # counted by the registry; the caller counts on, unseen
        else:
            check(rc)
        one.registry = self.registry
        one.name = self.name
        one.label_names = self.label_names
        one.metric = self.metric
        return one

    def remove(self, *values, **named):
        """Stop showing the series for these label values; False when there was none."""
        cdef list keep = []
        cdef const char **texts = strings(self.label_values(values, named), keep)
        cdef int rc = dyn_metric_remove(self.metric, texts)
        free(texts)
        return rc == 0

    cdef int ready(self) except -1:
        if self.series == NULL:
            raise ValueError(f"{self.name} has the labels {self.label_names}: give them with .labels() first")
        return 0

    @property
    def value(self):
        """What it shows now; a histogram's number of observations."""
        self.ready()
        return dyn_series_value(self.series)

    def __repr__(self):
        if self.series == NULL:
            return f"<{type(self).__name__} {self.name}{{{', '.join(self.label_names)}}}>"
        return f"<{type(self).__name__} {self.name} = {self.value:g}>"


cdef class Counter(Metric):
    """A count that only rises."""

    def inc(self, double amount=1):
        self.ready()
        if amount < 0:
            raise ValueError(f"counter {self.name} cannot fall (by {amount})")
        dyn_series_add(self.series, amount)


cdef class Gauge(Metric):
    """A number that rises and falls."""

    def set(self, double value):
        self.ready()
        dyn_series_set(self.series, value)

    def inc(self, double amount=1):
        self.ready()
        dyn_series_add(self.series, amount)

    def dec(self, double amount=1):
        self.ready()
        dyn_series_add(self.series, -amount)


cdef class Histogram(Metric):
    """Observations by size."""

    def observe(self, double value):
        self.ready()
        dyn_series_observe(self.series, value)

    @property
    def sum(self):
        """The sum of the observations."""
        self.ready()
        return dyn_series_sum(self.series)


cdef Registry _default = None


cpdef Registry default_registry():
    """The registry of the process: what /metrics shows."""
    global _default
    if _default is None:
        _default = Registry()
        check(dyn_metrics_add_process(_default.ptr))
    return _default
