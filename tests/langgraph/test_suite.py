"""The fast share of LangGraph's own tests, and those of what is built on it; `make test-langgraph` runs them all."""

import subprocess

import pytest

from .original import TOOL, fetched

pytest.importorskip("langgraph.checkpoint.memory", reason="the extra langgraph is not installed")
pytest.importorskip("syrupy", reason="the extra test-langgraph is not installed")
AGENTS = "tests/unit_tests/agents/"
SHARES = {
    "langgraph": ("--fast",),
    "prebuilt": (),
    "supervisor": (),
    "agents": (
        "--",
        f"{AGENTS}test_react_agent.py",
        f"{AGENTS}test_subagent_streaming.py",
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(540)
@pytest.mark.parametrize("name", SHARES)
def test_their_tests_pass_on_our_core(name):
    fetched(name)
    done = subprocess.run([*TOOL, name, *SHARES[name]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
