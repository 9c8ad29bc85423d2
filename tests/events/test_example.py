"""examples/kv_events, as its README says."""

import pathlib

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "kv_events"


def test_a_watcher_hears_what_a_worker_holds(run_python):
    watcher = run_python(str(EXAMPLE / "watcher.py"))
    worker = run_python(str(EXAMPLE / "worker.py"))
    out, _ = watcher.communicate(timeout=60)
    assert "holds 3 of 4 blocks" in out, out
    out, _ = worker.communicate(timeout=60)
    assert "and dropped the last" in out
    assert worker.returncode == watcher.returncode == 0
