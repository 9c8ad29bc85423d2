"""The original's source distribution, and what else of PyPI its suites need: fetched once, never installed."""

import subprocess
import sys

import pytest

from ..conftest import ROOT

TOOL = [sys.executable, str(ROOT / "tools/langgraph_suite.py")]
ORIGINAL = ROOT / "build/langgraph/langgraph-1.2.22"
OFFLINE = 75  # as the tool exits then


def fetched(*names):
    """What these suites need of PyPI is there (langgraph's own if none is named), or the test is skipped."""
    done = subprocess.run([*TOOL, "--fetch", *names], capture_output=True, text=True, timeout=240)
    if done.returncode == OFFLINE:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
