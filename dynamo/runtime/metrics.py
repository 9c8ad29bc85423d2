"""What a worker counts: Prometheus metrics of its endpoints, and those that a handler's author adds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dynamo._metrics import Counter, Gauge, Histogram, Registry, default_registry

if TYPE_CHECKING:
    from dynamo._runtime import Serving
    from dynamo.runtime.distributed import Endpoint

_LABELS = ("dynamo_namespace", "dynamo_component", "dynamo_endpoint", "model")


class RuntimeMetrics:
    """Metrics with the names of one endpoint, in the registry that ``/metrics`` shows.

    The labels ``dynamo_namespace``, ``dynamo_component``, ``dynamo_endpoint`` and ``model`` come before one's own.
    """

    def __init__(self, endpoint: Endpoint, registry: Registry | None = None) -> None:
        self.registry = registry or default_registry()
        model = dict(endpoint.metrics_labels).get("model", "")
        self._values = (endpoint.namespace, endpoint.component, endpoint.name, model)

    def _labels(self, labels: Iterable[str]) -> tuple[str, ...]:
        return (*_LABELS, *labels)

    def counter(self, name: str, help: str = "", labels: Iterable[str] = ()) -> Counter:
        """A counter. With labels of one's own, their values are given to `Counter.labels` after ours."""
        labels = tuple(labels)
        metric = self.registry.counter(name, help, self._labels(labels))
        return metric if labels else metric.labels(*self._values)

    def gauge(self, name: str, help: str = "", labels: Iterable[str] = ()) -> Gauge:
        """A gauge, as `counter`."""
        labels = tuple(labels)
        metric = self.registry.gauge(name, help, self._labels(labels))
        return metric if labels else metric.labels(*self._values)

    def histogram(
        self, name: str, help: str = "", labels: Iterable[str] = (), buckets: Iterable[float] | None = None
    ) -> Histogram:
        """A histogram, as `counter`."""
        labels = tuple(labels)
        metric = self.registry.histogram(name, help, self._labels(labels), buckets)
        return metric if labels else metric.labels(*self._values)

    @property
    def label_values(self) -> tuple[str, str, str, str]:
        """The values of our labels, for metrics with labels of one's own."""
        return self._values

    def follow(self, serving: Serving) -> None:
        """Count the requests of a served endpoint."""
        prefix = "dynamo_component_"
        errors = self.registry.counter(prefix + "errors_total", "Failed requests.", self._labels(("error_type",)))
        serving.count_in(
            self.registry,
            self.counter(prefix + "requests_total", "Requests."),
            self.counter(prefix + "request_bytes_total", "Bytes of requests."),
            self.counter(prefix + "response_bytes_total", "Bytes of items."),
            self.gauge(prefix + "inflight_requests", "Requests that run."),
            self.histogram(prefix + "request_duration_seconds", "Time from a request to its end."),
            errors.labels(*self._values, "generate"),
            errors.labels(*self._values, "cancelled"),
            errors.labels(*self._values, "other"),
        )
