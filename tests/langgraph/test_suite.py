"""The fast share of LangGraph's own tests, and those of what is built on it; `make test-langgraph` runs them all."""

import subprocess
import sys

import pytest

from ..conftest import ROOT

pytest.importorskip("langgraph.checkpoint.memory", reason="the extra langgraph is not installed")
pytest.importorskip("syrupy", reason="the extra test-langgraph is not installed")
TOOL = [sys.executable, str(ROOT / "tools/langgraph_suite.py")]


def fetched(*names):
    """What a suite needs of PyPI is there, or the test is skipped."""
    done = subprocess.run([*TOOL, "--fetch", *names], capture_output=True, text=True, timeout=240)
    if done.returncode == 75:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr


AGENTS = "tests/unit_tests/agents/"
SHARES = {
    "langgraph": ("--fast",),
    "prebuilt": (),
    "supervisor": (),
    "agents": (
        "--",
        "tests/unit_tests/agents/test_react_agent.py",
        "tests/unit_tests/agents/test_subagent_streaming.py",
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(540)
@pytest.mark.parametrize("name", SHARES)
def test_their_tests_pass_on_our_core(name):
    fetched(name)
    done = subprocess.run([*TOOL, name, *SHARES[name]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
