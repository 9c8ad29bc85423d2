"""What a type checker says of programs that use the package."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT

pytest.importorskip("langgraph.checkpoint")
pytest.importorskip("mypy")

PROGRAMS = Path(__file__).parent / "typed"


@pytest.fixture(scope="module")
def told():
    """What mypy says, by file and line."""
    files = [str(PROGRAMS / name) for name in ("accepted.py", "refused.py")]
    how = ["--config-file", "pyproject.toml", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    out = subprocess.run([sys.executable, "-m", "mypy", *how, *files], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode in (0, 1), out.stdout + out.stderr
    said = {}
    for path, line, text in re.findall(r"^(.+?):(\d+): error: (.*)$", out.stdout, re.M):
        said.setdefault(Path(path).name, {}).setdefault(int(line), []).append(text)
    return said


def test_the_package_says_that_it_is_typed():
    (place,) = importlib.util.find_spec("dynamo").submodule_search_locations
    assert (Path(place) / "py.typed").exists()


def test_a_correct_program_is_accepted(told):
    assert told.get("accepted.py", {}) == {}
    assert set(told) <= {"accepted.py", "refused.py"}  # and nothing is wrong in what it imports


def test_mistakes_are_refused_and_nothing_else(told):
    lines = (PROGRAMS / "refused.py").read_text().splitlines()
    marked = {n: line.partition("# refused: ")[2] for n, line in enumerate(lines, 1) if "# refused: " in line}
    said = told.get("refused.py", {})
    assert sorted(said) == sorted(marked)
    for number, words in marked.items():
        assert words in " ".join(said[number]), (lines[number - 1], said[number])
