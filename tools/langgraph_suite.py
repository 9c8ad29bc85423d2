"""Run LangGraph's own test suite, and those of what is built on it, unmodified, on dynamo.langgraph.

usage: python tools/langgraph_suite.py [NAME ...] [--fast] [--fetch] [--peer] [-n 2] [-- PYTEST ARGUMENTS]

  NAME      langgraph (unless said), remote, prebuilt, supervisor, agents (langchain's), or all
  --fast    the files of it that take seconds, for `make test`
  --fetch   only fetch what it needs from PyPI, pinned by hash, into build/langgraph/; exits with 75 if that is offline
  --peer    on the original, to see what the suite itself does here
  -n        processes (pytest-xdist); what fails beside others is run again, alone

A suite runs in a temporary folder with dynamo.langgraph.install() in force from the first import on. It has passed
when nothing failed, no module of the original's core was imported, and, if it was not narrowed, as many tests ran as
are known to be in it. Postgres and Redis are left out, as its NO_DOCKER=true does.

What comes from PyPI stays out of the environment: langchain, once installed, adds itself to the metadata of every
model's run, which the suite compares; and the original's core must never be found by accident.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "langgraph"
OFFLINE = 75  # EX_TEMPFAIL of sysexits.h

SOURCES = {
    "langgraph": ("1.2.22", "32700dc34b5cf9ebb397258c2e56392f017d4dbc51c9591339225c3c1b7b5126"),
    "langgraph-prebuilt": ("1.1.2", "8ad6353b16ea76b04b1e35fdc9ed4ead469346f80730ca346e08f26549e7b56a"),
    "langgraph-supervisor": ("0.0.31", "0f71d5098fa1ac274423eff08750345450045c1e0dd2480ab7f3e5c1848f6016"),
    "langchain": ("1.4.7", "818275348cd707f7fbbe92ece0a725c25823140a054cf29865f420e0200fa2af"),
}


@dataclass(frozen=True)
class Suite:
    """Tests of a source distribution.

    Parameters
    ----------
    source
        The distribution.
    tests
        How many there are, skipped ones too; a parametrised one counts once a parameter.
    folder
        Where in it.
    on_path
        Whether the package under test is not in the environment: it is taken from the distribution, too.
    without
        Files that need what the environment does not have: a server, a recorder of HTTP.
    deselect
        Tests that fail on the original, too, or need a server.
    slow
        Files that --fast leaves out.
    only
        The only files to run; with what they would otherwise leave out because of NO_DOCKER.
    """

    source: str
    tests: int
    folder: str = "tests"
    on_path: bool = False
    without: tuple[str, ...] = ()
    deselect: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


SUITES = {
    # These two wait, for time-outs and for nodes that sleep.
    "langgraph": Suite("langgraph", 2984, slow=("test_pregel.py", "test_pregel_async.py")),
    # Skipped as a whole by NO_DOCKER, though two of its tests alone need a server of langgraph-cli.
    "remote": Suite(
        "langgraph",
        36,
        only=("test_remote_graph.py",),
        deselect=(
            "test_remote_graph.py::test_remote_graph_basic_invoke",
            "test_remote_graph.py::test_remote_graph_stream_messages_tuple",
        ),
    ),
    "prebuilt": Suite("langgraph-prebuilt", 260),
    "supervisor": Suite("langgraph-supervisor", 13, on_path=True),
    "agents": Suite(
        "langchain",
        1005,
        "tests/unit_tests/agents",
        on_path=True,
        without=("test_model_fallback.py", "test_summarization.py"),
        # Pictures of another version of langgraph-prebuilt, which does not show the tools.
        deselect=(
            "middleware/core/test_framework.py::test_create_agent_jump[memory]",
            "middleware/core/test_framework.py::test_simple_agent_graph",
            "middleware/core/test_framework.py::test_agent_graph_with_jump_to_end_as_after_agent",
            "test_return_direct_graph.py::test_agent_graph_without_return_direct_tools",
            "test_return_direct_graph.py::test_agent_graph_with_return_direct_tool",
            "test_return_direct_graph.py::test_agent_graph_with_mixed_tools",
        ),
    ),
}

PLUGIN = """
import json, os
import dynamo.langgraph
from dynamo.langgraph import _install
dynamo.langgraph.install()

def pytest_sessionfinish(session):
    with open(os.environ["SUITE_FOREIGN"], "a") as file:
        print(json.dumps(_install.foreign()), file=file)
"""


def fetch(name: str) -> pathlib.Path:
    """The folder of an unpacked sdist; it is downloaded once."""
    version, wanted = SOURCES[name]
    folder = FOLDER / f"{name.replace('-', '_')}-{version}"
    if folder.is_dir():
        return folder
    FOLDER.mkdir(parents=True, exist_ok=True)
    archive = FOLDER / f"{folder.name}.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--retries", "1", "--no-deps", "--no-binary", ":all:"]
        done = subprocess.run([*command, "-d", str(FOLDER), f"{name}=={version}"], capture_output=True, text=True)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            print(f"{name} {version} could not be fetched from PyPI; with a network it is, once", file=sys.stderr)
            sys.exit(OFFLINE)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != wanted:
        sys.exit(f"{archive.name} has SHA-256 {found}, not the pinned {wanted}: remove it, or look into it")
    with tempfile.TemporaryDirectory(dir=FOLDER) as half:
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extraction_filter = tarfile.data_filter
            tar.extractall(half)
        (pathlib.Path(half) / folder.name).rename(folder)
    return folder


def paths(suite: Suite, peer: bool) -> list[str]:
    """What a run of it needs beside the environment."""
    sources = [suite.source] if suite.on_path else []
    if peer:
        sources.append("langgraph")
    found = [str(ROOT)]
    for name in dict.fromkeys(sources):
        # Without its tests: pytest would find them under the same name.
        packages = FOLDER / f"packages-{name}"
        if not packages.is_dir():
            package = name.replace("-", "_")
            shutil.copytree(fetch(name) / package, packages / package)
        found.append(str(packages))
    return found


def run(name: str, given: argparse.Namespace) -> bool:
    suite = SUITES[name]
    source = fetch(suite.source)
    with tempfile.TemporaryDirectory(prefix="suite-") as temporary:
        work = pathlib.Path(temporary)
        # Without the sources that lie beside the tests: they would be imported instead of ours.
        leave = shutil.ignore_patterns("__pycache__", *suite.without)
        shutil.copytree(source / suite.folder, work / suite.folder, ignore=leave)
        for package in pathlib.Path(suite.folder).parents:
            if (source / package / "__init__.py").exists():
                shutil.copy(source / package / "__init__.py", work / package)
        (work / "suite_plugin.py").write_text(PLUGIN)
        theirs = (source / "pyproject.toml").read_text()
        options = "--strict-markers --strict-config" + " --snapshot-warn-unused" * ("--snapshot-warn-unused" in theirs)
        mode = "asyncio_mode = auto\n" * ("asyncio_mode" in theirs)
        (work / "pytest.ini").write_text(f"[pytest]\naddopts = {options}\n{mode}")
        report, foreign = work / "report.xml", work / "foreign"
        env = dict(
            os.environ,
            NO_DOCKER="false" if suite.only else "true",
            LANGSMITH_TRACING="false",
            SUITE_FOREIGN=str(foreign),
            PYTHONPATH=os.pathsep.join([str(work), *paths(suite, given.peer)]),
        )
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short"]
        if not given.peer:
            command += ["-p", "suite_plugin"]
        command += [f"--deselect={suite.folder}/{test}" for test in suite.deselect]
        if not any("::" in word or word.endswith(".py") for word in given.rest):
            left = suite.slow if given.fast else ()
            for path in sorted((work / suite.folder).rglob("test_*.py")):
                if path.name not in left and (path.name in suite.only or not suite.only):
                    command.append(str(path.relative_to(work)))
        command += given.rest
        beside = ["-n", str(given.n), "--dist", "worksteal"] if given.n else []
        status = subprocess.run([*command, *beside, "--junitxml", str(report)], cwd=work, env=env).returncode
        if status == 1 and beside:
            print(f"{name}: what failed beside others is run again, alone: some of its tests measure time", flush=True)
            status = subprocess.run([*command, "--last-failed"], cwd=work, env=env).returncode
        if status not in (0, 1):
            print(f"{name}: pytest ended with {status}", file=sys.stderr)
            return False
        leaks = (
            {leak for line in foreign.read_text().splitlines() for leak in json.loads(line)} if not given.peer else ()
        )
        if leaks:
            print(f"{name}: of the original were imported: {', '.join(sorted(leaks))}", file=sys.stderr)
        counted = sum(int(part.get("tests", 0)) for part in ElementTree.parse(report).getroot().iter("testsuite"))
        short = not (given.fast or given.rest) and counted != suite.tests
        if short:
            print(f"{name}: {counted} tests ran, not the {suite.tests} that it has", file=sys.stderr)
        return not (status or leaks or short)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=["langgraph"])
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("-n", type=int, default=0, metavar="PROCESSES")
    words, rest = sys.argv[1:], []
    if "--" in words:
        words, rest = words[: words.index("--")], words[words.index("--") + 1 :]
    given = parser.parse_args(words)
    given.rest = rest
    names = list(SUITES) if "all" in given.names else given.names
    unknown = set(names) - set(SUITES)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(SUITES)}, all")
    for name in names:
        fetch(SUITES[name].source)
    if given.fetch:
        return 0
    passed = [run(name, given) for name in names]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
