"""Run LangGraph's own test suite, unmodified, on dynamo.langgraph.

usage: python tools/langgraph_suite.py [--fast] [--fetch] [-n 2] [--peer] [-- PYTEST ARGUMENTS]

  --fetch   only fetch the suite (the sdist of langgraph 1.2.22, pinned by hash) into build/langgraph/
  --fast    the files that take seconds, for `make test`
  --peer    on the langgraph that is installed instead, to see what the suite itself does here
  --package prebuilt    the suite of langgraph-prebuilt, on our core

The suite runs in a temporary folder with dynamo.langgraph.install() in force from the first import on. It counts as
passed when nothing failed and no module of the original's core was imported. Postgres and Redis are left out, as
its NO_DOCKER=true does.
"""

import argparse
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITES = {
    "langgraph": ("1.2.22", "32700dc34b5cf9ebb397258c2e56392f017d4dbc51c9591339225c3c1b7b5126"),
    "prebuilt": ("1.1.2", "8ad6353b16ea76b04b1e35fdc9ed4ead469346f80730ca346e08f26549e7b56a"),
}
# What takes long are runs that wait for time-outs, and every saver times every test.
SLOW = (
    "test_pregel",
    "test_large_cases",
    "test_delta_channel",
    "test_time_travel",
    "test_retry",
    "test_interrupt_state",
)

PLUGIN = """
import os
if os.environ["SUITE_TARGET"] == "dynamo.langgraph":
    import dynamo.langgraph
    from dynamo.langgraph import _install
    dynamo.langgraph.install()

    def pytest_sessionfinish(session, exitstatus):
        leaks = _install.foreign()
        if leaks:
            raise SystemExit("modules of the original were imported: " + ", ".join(leaks))
"""


def fetch(package: str) -> pathlib.Path:
    """The folder of an unpacked sdist; it is downloaded once."""
    version, wanted = SUITES[package]
    name = "langgraph" if package == "langgraph" else f"langgraph-{package}"
    folder = ROOT / "build" / "langgraph"
    unpacked = next(folder.glob(f"langgraph*{package if package != 'langgraph' else ''}-{version}/tests"), None)
    if unpacked:
        return unpacked.parent
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    subprocess.run([*command, f"{name}=={version}"], check=True)
    archive = next(path for path in folder.glob("*.tar.gz") if version in path.name)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != wanted:
        raise SystemExit(f"{archive.name} has SHA-256 {found}, not the pinned {wanted}: remove it, or look into it")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder)
    return next(folder.glob(f"*-{version}/tests")).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--package", choices=sorted(SUITES), default="langgraph")
    parser.add_argument("-n", type=int, default=0, metavar="PROCESSES", help="with pytest-xdist")
    parser.add_argument("rest", nargs="*", metavar="PYTEST ARGUMENTS")
    given = parser.parse_args()
    source = fetch(given.package)
    if given.fetch:
        return 0
    with tempfile.TemporaryDirectory(prefix="suite-") as temporary:
        work = pathlib.Path(temporary)
        # Without the sources that lie beside the tests: they would be imported instead of ours.
        shutil.copytree(source / "tests", work / "tests")
        (work / "suite_plugin.py").write_text(PLUGIN)
        mode = "asyncio_mode = auto\n" if "asyncio_mode" in (source / "pyproject.toml").read_text() else ""
        (work / "pytest.ini").write_text("[pytest]\n" + mode)
        env = dict(
            os.environ,
            NO_DOCKER="true",
            LANGSMITH_TRACING="false",
            SUITE_TARGET="langgraph" if given.peer else "dynamo.langgraph",
            PYTHONPATH=os.pathsep.join([str(work), str(ROOT)]),
        )
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "suite_plugin", "-p", "no:cacheprovider"]
        if given.n:
            command += ["-n", str(given.n), "--dist", "worksteal"]
        files = [str(path.relative_to(work)) for path in sorted((work / "tests").glob("test_*.py"))]
        if given.fast:
            files = [file for file in files if not pathlib.Path(file).name.startswith(SLOW)]
        if not any("::" in word or word.endswith(".py") for word in given.rest):
            command += files
        return subprocess.run([*command, *given.rest], cwd=work, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
