"""What every test may use. Nothing here sleeps, binds beyond loopback or leaves a process behind."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.tiny_gguf import tiny_bpe_gguf, tiny_gguf  # noqa: F401 -- fixtures

if os.environ.get("DYN_SANITIZER"):  # tools/sanitize.sh
    # Python loads the sanitizer, other programs cannot: they must not inherit it.
    os.environ.pop("LD_PRELOAD", None)
    sys.executable = os.environ["DYN_SANITIZER_PYTHON"]
    # Tests of the real engine are skipped: llama.cpp is not ours to check, and too slow so.
    sys.modules["xllamacpp"] = None  # type: ignore[assignment]

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"


@pytest.fixture(scope="session")
def vectors():
    """The golden vectors of Dynamo's hashes and tree."""
    return json.loads((DATA / "dynamo_vectors.json").read_text())


@pytest.fixture(autouse=True)
def _own_discovery_store(tmp_path, monkeypatch):
    # Programs under test must not meet each other, or a user's own store, through the default folder.
    monkeypatch.setenv("DYN_FILE_KV", str(tmp_path / "store"))


@pytest.fixture
def run_python(tmp_path):
    """Start `python -c code` or `python file args...` with this checkout importable; killed at the end of the test."""
    started = []

    def run(*args, **kwargs):
        env = dict(os.environ, PYTHONPATH=str(ROOT), **kwargs.pop("env", {}))
        kwargs.setdefault("stdout", subprocess.PIPE)
        kwargs.setdefault("stderr", subprocess.STDOUT)
        kwargs.setdefault("text", True)
        process = subprocess.Popen([sys.executable, *args], env=env, cwd=tmp_path, **kwargs)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        for pipe in (process.stdout, process.stderr, process.stdin):
            if pipe:
                pipe.close()
