"""Nothing stays behind of what was made and dropped."""

import os
import subprocess
import sys

import pytest

from ..conftest import ROOT


@pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ, reason="they have a malloc of their own"
)
def test_no_operation_leaves_anything_behind():
    # `python -m tests.binding.leaks` does each a million times: a minute or two.
    done = subprocess.run(
        [sys.executable, "-m", "tests.binding.leaks", "4000"],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("blocks") > 40
