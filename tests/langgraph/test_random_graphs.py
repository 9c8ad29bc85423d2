"""Graphs made by chance do here what they do on the original: results, streams, histories and stored checkpoints."""

import json
import os
import subprocess
import sys

import pytest

from ..conftest import ROOT
from .original import ORIGINAL, fetched

pytest.importorskip("pytest_asyncio", reason="the extra test-langgraph is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
FIRST, NUMBER = 0, 200


def test_random_graphs_do_the_same_on_both_sides():
    fetched()
    started = []
    for who, paths in (("ours", [ROOT]), ("theirs", [ROOT, ORIGINAL])):
        command = [sys.executable, str(ROOT / "tests/langgraph/random_graphs.py"), who, str(FIRST), str(NUMBER)]
        env = dict(
            os.environ, PYTHONPATH=os.pathsep.join(map(str, paths)), LANGSMITH_TRACING="false", PYTHONHASHSEED="0"
        )
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=env, text=True, **pipes))
    outcomes = []
    try:
        for process in started:
            said, complaints = process.communicate(timeout=240)
            assert process.returncode == 0, complaints[-4000:]
            outcomes.append([json.loads(line) for line in said.splitlines()])
    finally:
        for process in started:
            process.kill()
            process.wait(10)
    assert [seed for seed, _ in outcomes[0]] == list(range(FIRST, FIRST + NUMBER))
    for ours, theirs in zip(*outcomes, strict=True):
        assert ours == theirs, f"seed {ours[0]}"
