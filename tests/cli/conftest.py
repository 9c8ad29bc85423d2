import pytest

from ..conftest import ROOT


@pytest.fixture
def dynamo(run_python):
    """Run `dynamo ARGS`; returns (exit code, output)."""

    def run(*args, timeout=60, **kwargs):
        process = run_python("-m", "dynamo", *map(str, args), **kwargs)
        out, _ = process.communicate(timeout=timeout)
        return process.returncode, out

    return run


@pytest.fixture
def parrot(run_python):
    """The address of the example's OpenAI server."""
    process = run_python(str(ROOT / "examples/openai_service/server.py"), "--port", "0")
    line = process.stdout.readline()
    assert line.startswith("listening on "), line + process.stdout.read()
    return line.split()[-1]
