cimport cython

from dynamo.c_metrics cimport dyn_metric, dyn_metric_kind, dyn_metrics, dyn_series


@cython.final
cdef class Registry:
    cdef dyn_metrics *ptr       # a reference
    cdef Metric define(self, Metric made, dyn_metric_kind kind, str name, str help_, object labels, object bounds)


cdef class Metric:
    cdef readonly Registry registry
    cdef readonly str name
    cdef readonly tuple label_names
    cdef dyn_metric *metric     # the registry's
    cdef dyn_series *series     # a reference; NULL while the labels are not given
    cdef int ready(self) except -1
    cdef object label_values(self, tuple values, dict named)


cdef class Counter(Metric):
    pass


cdef class Gauge(Metric):
    pass


cdef class Histogram(Metric):
    pass


cpdef Registry default_registry()
