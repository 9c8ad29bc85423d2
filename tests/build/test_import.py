"""What a cold import costs: the modules it loads are held against a list, since milliseconds vary."""

import json
import subprocess
import sys

import pytest

from ..conftest import ROOT

CODE = """
import sys, json
before = set(sys.modules)
import {module}
after = set(sys.modules) - before
print(json.dumps(sorted(after)))
"""

# Nothing outside the standard library may come with an import, and of it nothing that is slow to load.
HEAVY = {
    "numpy",
    "ml_dtypes",
    "msgspec",
    "jinja2",
    "tokenizers",
    "rich",
    "pydantic",
    "xllamacpp",
    "gguf",
    "ctypes",
    "http",
    "email",
    "importlib.metadata",
    "typing_extensions",
    "unittest",
    "multiprocessing",
    "xml",
}
ALLOWED_BARE = {
    "dynamo",
    "dynamo._lazy",
    "importlib",
    "importlib._bootstrap",
    "importlib._bootstrap_external",
    "warnings",
    "collections",
    "collections.abc",
    "typing",
}


def loaded_by(module):
    out = subprocess.run(
        [sys.executable, "-S", "-c", CODE.format(module=module)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(json.loads(out.stdout))


def test_import_dynamo_loads_next_to_nothing():
    extra = {name for name in loaded_by("dynamo") if name.startswith("dynamo")} - ALLOWED_BARE
    assert not extra
    assert not HEAVY & loaded_by("dynamo")


@pytest.mark.parametrize(
    "module",
    [
        "dynamo.runtime",
        "dynamo.llm",
        "dynamo._core",
        "dynamo.cli",
        "dynamo._tensor",
        "dynamo.quill.client",
        "dynamo.graphs",
    ],
)
def test_no_heavy_module_comes_with_a_package(module):
    assert not HEAVY & loaded_by(module)
