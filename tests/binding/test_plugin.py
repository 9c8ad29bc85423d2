"""Plug-ins: the example is built and run, older ones load, newer ones are refused with a reason."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig

import pytest

import dynamo

from ..conftest import ROOT

EXAMPLE = ROOT / "examples" / "plugin"


def build(folder, source, name, include=None, flags=()):
    """Compile one C file into an extension in `folder`, as anybody's build would."""
    out = folder / (name + sysconfig.get_config_var("EXT_SUFFIX"))
    compiler = shlex.split(os.environ.get("CC", "cc"))
    done = subprocess.run(
        [
            *(*compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *flags),
            f"-I{include or dynamo.get_include()}",
            f"-I{sysconfig.get_paths()['include']}",
            *("-o", str(out), str(source)),
        ],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return out


def run(folder, code):
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.fixture(scope="module")
def sticky(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    build(folder, EXAMPLE / "sticky.c", "sticky")
    return folder


def test_the_example_runs(sticky):
    done = run(sticky, (EXAMPLE / "use.py").read_text())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "blocks held by the best worker: 4",
        "a tensor of the plug-in: [0. 1. 2. 3.]",
        "unpacked: [ 0. -1.]",
        "a config that routes with it: sticky",
    ]


CHOICES = """
import numpy as np
from dynamo._router import SelectionCore
from dynamo.llm import KvRouterConfig, compute_block_hashes, compute_sequence_hashes
import sticky
core = SelectionCore(16, KvRouterConfig(router_cost_formula=FORMULA))
for worker in (1, 2):
    core.put_worker(worker)
ids = np.arange(16 * 8, dtype=np.uint32)
local = compute_block_hashes(ids, 16)
core.stored(1, compute_sequence_hashes(local), local)
tails = [np.arange(5000 + 640 * i, 5640 + 640 * i, dtype=np.uint32) for i in range(12)]
print([core.pick(np.concatenate([ids, tail]), f"r{i}").worker_id for i, tail in enumerate(tails)])
other = np.arange(1000, 1000 + 16 * 8, dtype=np.uint32)
print(core.pick(other).worker_id, core.explain(ids)[0]["cost"] < -7e6)
"""


def test_a_custom_cost_really_chooses(sticky):
    # Who holds the first part gets all twelve, whatever waits there; what nobody holds goes to the idle one.
    done = run(sticky, f"FORMULA = 'sticky'\n{CHOICES}")
    assert done.stdout.splitlines() == [str([1] * 12), "2 True"], done.stdout + done.stderr
    usual = run(sticky, f"FORMULA = 'credit'\n{CHOICES}")
    assert usual.stdout.splitlines()[0] != str([1] * 12), usual.stdout + usual.stderr


def test_a_cost_that_nobody_registered_is_refused(sticky):
    done = run(sticky, "from dynamo.llm import KvRouterConfig; KvRouterConfig(router_cost_formula='sticky')")
    assert "must be one of credit, weight, product" in done.stderr


def test_what_is_wrong_for_a_plug_in_is_an_exception(sticky):
    done = run(
        sticky,
        """
import sticky, numpy as np
from dynamo import quill, Tensor
from dynamo._plugin import cost_names, kernel_names
assert cost_names() == ["sticky"] and kernel_names() == ["unpack4"]
for call, kind, word in [
    (lambda: sticky.covered(5, b""), TypeError, "RadixTree is needed, not int"),
    (lambda: sticky.ramp(-1), ValueError, ""),
    (lambda: quill.convert(Tensor([1.0]), "unpack4"), ValueError, "takes uint8, not float32"),
    (lambda: quill.convert(Tensor([1.0]), "nothing"), LookupError, "no plug-in has registered"),
    (lambda: quill.convert([1.0], "unpack4"), TypeError, "list"),
    (lambda: Tensor([1.0]).astype("unpack4"), ValueError, "takes uint8, not float32"),
    (lambda: Tensor([1.0]).astype("unpack5"), TypeError, "no dtype is called 'unpack5'"),
]:
    try:
        call()
    except kind as error:
        assert word in str(error), error
    else:
        raise SystemExit("no error")
strided = Tensor.from_numpy(np.arange(8, dtype=np.uint8)[::2], copy=False)
for made in (quill.convert(strided, "unpack4"), strided.astype("unpack4")):
    assert made.to_numpy().tolist() == [0, 2, 4, 6] and made.dtype.name == "float32"
assert Tensor([1.0]).astype("f8").dtype.name == "float64"
for _ in range(1000):
    sticky.ramp(100)
print("whole")
""",
    )
    assert done.stdout == "whole\n", done.stdout + done.stderr


OLD = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "dynamo/plugin.h"
static const dyn_plugin_api *dyn;
static PyObject *hash(PyObject *self, PyObject *unused)
{
    uint32_t ids[4] = {1, 2, 3, 4};
    uint64_t out[1];
    (void)self, (void)unused;
    dyn->hash_blocks(ids, 4, 4, false, NUMBER, out);
    return Py_BuildValue("(kIi)", (unsigned long)out[0], dyn->version, DYN_PLUGIN_TARGET);
}
static PyMethodDef methods[] = {{"hash", hash, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "NAME", NULL, -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_NAME(void)
{
    if ((dyn = dyn_plugin_import()) == NULL) return NULL;
    return PyModule_Create(&module);
}
"""


def source(folder, name):
    path = folder / f"{name}.c"
    path.write_text(OLD.replace("NAME", name).replace("NUMBER", "1337"))
    return path


def test_a_plug_in_for_an_older_table_runs_and_one_for_a_newer_is_refused(tmp_path):
    build(tmp_path, source(tmp_path, "older"), "older", flags=["-DDYN_PLUGIN_TARGET=1"])
    build(tmp_path, source(tmp_path, "same"), "same")
    # The header of the next version: one function more at the end.
    include = tmp_path / "include"
    (include / "dynamo").mkdir(parents=True)
    for header in (ROOT / "csrc/include/dynamo").glob("*.h"):
        text = header.read_text()
        if header.name == "plugin.h":
            version = int(re.search(r"#define DYN_PLUGIN_VERSION (\d+)", text).group(1))
            text = text.replace(f"#define DYN_PLUGIN_VERSION {version}", f"#define DYN_PLUGIN_VERSION {version + 1}")
            text = text.replace("} dyn_plugin_api;", "    int (*one_more)(void);\n} dyn_plugin_api;")
        (include / "dynamo" / header.name).write_text(text)
    build(tmp_path, source(tmp_path, "newer"), "newer", include=include)

    done = run(tmp_path, "import older, same; print(older.hash(), same.hash(), older.hash()[0] == same.hash()[0])")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.endswith("True\n") and f"{version}, 1)" in done.stdout and f"{version}, {version})" in done.stdout
    )
    done = run(tmp_path, "import newer")
    assert done.returncode == 1
    assert f"needs version {version + 1} of dynamo's C table, the installed dynamo has version {version}" in done.stderr


def test_the_capsule_has_the_name_that_python_looks_for():
    from dynamo import _core

    assert re.fullmatch(r'<capsule object "dynamo\._core\._C_API" at 0x\w+>', repr(_core._C_API))


def test_the_router_of_the_network_takes_the_cost_too(sticky):
    done = run(
        sticky,
        """
import sticky
from dynamo.llm import KvRouterConfig
from dynamo._router import SelectionCore
config = KvRouterConfig(router_cost_formula="sticky")
import copy, pickle
assert copy.copy(config).router_cost_formula == "sticky"
core = SelectionCore(16, config)
core.configure(KvRouterConfig(router_cost_formula="weight"))
core.configure(config)
print(core.config.router_cost_formula)
""",
    )
    assert done.stdout == "sticky\n", done.stdout + done.stderr


def test_a_kv_router_sends_real_requests_by_a_custom_cost(sticky):
    # A burst of prompts that share their beginning: the usual cost spreads it over the four workers, this one does not.
    done = run(
        sticky,
        """
import sticky, asyncio
from dynamo.llm import KvRouter
from tests.router.test_kv_router import Cluster, approximate

async def burst(formula):
    cluster = Cluster()
    try:
        for _ in range(4):
            await cluster.worker()
        router = KvRouter(cluster.endpoint, 16, approximate(router_cost_formula=formula))
        shared = list(range(64))
        async def one(i):
            return [item async for item in router.generate(shared + [1000 * i + j for j in range(1, 641)], "m")]
        await one(1)
        assert all([len(items) == 3 for items in await asyncio.gather(*(one(i) for i in range(2, 34)))])
        return len({worker for worker, _ in cluster.requests}), len(cluster.requests)
    finally:
        await cluster.close()

print(asyncio.run(burst("sticky")), asyncio.run(burst("credit")))
""",
    )
    assert done.stdout == "(1, 33) (4, 33)\n", done.stdout + done.stderr
