"""Runs in threads and event loops at once leave nothing, do not hang and do not grow; see stress.py."""

import os
import subprocess
import sys

import pytest

from ..conftest import ROOT

pytest.importorskip("langgraph.checkpoint.memory", reason="the extra langgraph is not installed")

from dynamo.langgraph.graph import START, StateGraph


def stress(*arguments):
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(ROOT / "tests/langgraph/stress.py"), *arguments],
        env=dict(os.environ, PYTHONPATH=str(ROOT), LANGSMITH_TRACING="false"),
        capture_output=True,
        text=True,
        timeout=110,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    return said


@pytest.mark.slow
def test_runs_side_by_side_leave_nothing():
    said = stress("10")
    assert "left of runs: nothing; in the saver: 0" in said
    assert "was never awaited" not in said, said


@pytest.mark.slow
def test_memory_is_flat_over_many_runs():
    assert stress("--runs", "1000").count("left: nothing") == 3


def test_a_stream_of_subgraphs_needs_no_thread_beside_the_one_it_may_have():
    inner = StateGraph(dict).add_node("leaf", lambda state: {"n": 1}).add_edge(START, "leaf").compile()
    graph = StateGraph(dict).add_node("inner", inner).add_edge(START, "inner").compile()
    config = {"max_concurrency": 1}
    shown = list(graph.stream({"n": 0}, config, stream_mode=["updates", "custom"], subgraphs=True))
    assert [(len(space), mode, update) for space, mode, update in shown] == [
        (1, "updates", {"leaf": {"n": 1}}),
        (0, "updates", {"inner": {"n": 1}}),
    ]
