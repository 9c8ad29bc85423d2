"""examples/channels: what the two programs print."""

import os
import subprocess
import sys

import pytest

from ..conftest import ROOT


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("word_count.py", "33 words; the commonest: the row but\n"),
        ("state.py", "133 ['left', 'right'] False\n"),
    ],
)
def test_the_programs_print_what_they_say(program, printed):
    command = [sys.executable, str(ROOT / "examples" / "channels" / program)]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=env)
    assert (done.stdout, done.returncode) == (printed, 0), done.stderr
