import threading

import pytest

from dynamo._metrics import CONTENT_TYPE, Counter, Registry, default_registry


def test_a_registry_shows_what_was_counted():
    registry = Registry()
    requests = registry.counter("requests_total", "Requests.", ["model", "status"])
    requests.labels("m", "ok").inc()
    requests.labels(status="ok", model="m").inc(2)
    queue = registry.gauge("queue")
    queue.set(5)
    queue.dec(2)
    seconds = registry.histogram("seconds", buckets=[0.1, 1, float("inf")])
    seconds.observe(0.05)
    seconds.observe(3)
    assert requests.labels("m", "ok").value == 3
    assert (queue.value, seconds.value, seconds.sum) == (3, 2, 3.05)
    text = registry.text().decode()
    assert (
        '# HELP requests_total Requests.\n# TYPE requests_total counter\nrequests_total{model="m",status="ok"} 3\n'
        in text
    )
    assert "queue 3\n" in text
    assert 'seconds_bucket{le="0.1"} 1\nseconds_bucket{le="1"} 1\nseconds_bucket{le="+Inf"} 2\n' in text
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_wrong_use_is_refused():
    registry = Registry()
    counter = registry.counter("a_total", labels=["x"])
    with pytest.raises(ValueError, match="give them with"):
        counter.inc()
    with pytest.raises(ValueError, match="got 2 values"):
        counter.labels("1", "2")
    with pytest.raises(ValueError, match="labels"):
        counter.labels(y="1")
    with pytest.raises(ValueError, match="cannot fall"):
        counter.labels("1").inc(-1)
    with pytest.raises(ValueError, match="defined already"):
        registry.gauge("a_total")
    with pytest.raises(ValueError, match="metric name"):
        registry.counter("a b")
    with pytest.raises(TypeError):
        Counter()


def test_a_removed_series_is_not_shown_and_the_limit_is_counted():
    registry = Registry(max_series=2)
    gauge = registry.gauge("g", labels=["worker"])
    held = gauge.labels(1)
    held.set(1)
    gauge.labels(2).set(2)
    gauge.labels(3).set(3)
    text = registry.text().decode()
    assert 'g{worker="3"}' not in text
    assert 'dynamo_metrics_series_refused_total{metric="g"} 1' in text
    assert gauge.remove(1) and not gauge.remove(1)
    held.set(9)
    assert 'worker="1"' not in registry.text().decode()


def test_label_values_are_escaped():
    registry = Registry()
    registry.counter("a_total", labels=["v"]).labels('q"b\\n\nü\ud800').inc()
    assert 'a_total{v="q\\"b\\\\n\\nü?"} 1\n' in registry.text().decode()


def test_a_series_outlives_its_registry():
    counter = Registry().counter("a_total")
    counter.inc()
    assert counter.value == 1


def test_threads_lose_no_count():
    registry = Registry()
    counter = registry.counter("a_total")

    def count() -> None:
        for _ in range(20000):
            counter.inc()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    registry.text()
    for thread in threads:
        thread.join()
    assert counter.value == 80000


def test_the_default_registry_shows_the_process():
    assert default_registry() is default_registry()
    assert b"process_resident_memory_bytes" in default_registry().text()
