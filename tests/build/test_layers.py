"""The house keeps its arrows: areas of csrc, Python packages, exported symbols."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# What an area of csrc may include, beside itself and common (docs/design/overview.md has the picture).
AREAS = {
    "common": set(),
    "topology": set(),
    "hash": set(),
    "index": {"hash"},
    "router": {"hash"},
    "events": {"hash", "metrics"},
    "tensor": set(),
    "tokens": set(),
    "metrics": set(),
    "wire": set(),
    "net": {"metrics"},
    "discovery": {"net"},
    "service": {"wire", "net", "discovery", "metrics"},
    "serve": {"tokens", "service", "net", "metrics", "router"},
    "mocker": {"hash", "index", "router", "events"},
}
# Headers whose name is not their area's.
HEADER_AREA = {
    "mailbox": "common",
    "loop": "net",
    "http": "net",
    "http_client": "net",
    "tls": "net",
    "zstd": "wire",
    "kv_sink": "events",
    "replay": "mocker",
    "tensor_frames": "tensor",
    "dlpack": "tensor",
    "safetensors": "tensor",
}
# Lower packages first: a package may import those before it.
PACKAGES = ["runtime", "llm", "engines", "replay", "frontend", "cli"]
# They stand beside that row and beside each other: what each may import of the packages.
BESIDE = {
    "quill": {"runtime"},
    "langgraph": {"runtime", "graphs"},
    "graphs": {"runtime", "llm", "langgraph"},
    "channels": {"langgraph"},
}


def area_of_header(name):
    return HEADER_AREA.get(name, name)


@pytest.mark.parametrize("area", sorted(p.name for p in (ROOT / "csrc/src").iterdir() if p.is_dir()))
def test_an_area_includes_only_what_stands_below_it(area):
    assert area in AREAS, f"the area {area} is new: say here, and in docs/design/overview.md, what it may include"
    allowed = AREAS[area] | {area, "common"}
    for file in (ROOT / "csrc/src" / area).glob("*.[ch]"):
        for header in re.findall(r'#include "([^"]+)"', file.read_text()):
            parts = header.split("/")
            other = area_of_header(parts[1][:-2]) if parts[0] == "dynamo" else parts[0]
            if len(parts) > 1:
                assert other in allowed, f"{file.relative_to(ROOT)} includes {header}"


def test_no_area_knows_python():
    for file in (ROOT / "csrc").rglob("*.[ch]"):
        assert "Python.h" not in file.read_text(), file


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_below_it(package):
    above = PACKAGES[PACKAGES.index(package) + 1 :]
    for file in (ROOT / "dynamo" / package).rglob("*.py"):
        text = file.read_text()
        for other in above:
            assert not re.search(rf"^\s*(from|import) dynamo\.{other}\b", text, re.M), f"{file} imports dynamo.{other}"
        assert not re.search(r"\bdynamo\.c_", text), f"{file} imports a c_ module"


@pytest.mark.parametrize("package", sorted(BESIDE))
def test_a_package_beside_the_row_imports_only_what_it_may(package):
    others = {path.parent.name for path in (ROOT / "dynamo").glob("*/__init__.py")} - BESIDE[package] - {package}
    for file in (ROOT / "dynamo" / package).rglob("*.py"):
        for other in sorted(others):
            found = re.search(rf"^\s*(from|import) dynamo\.{other}\b", file.read_text(), re.M)
            assert not found, f"{file} imports dynamo.{other}"


def test_langgraph_knows_of_its_neighbour_in_two_places_and_late():
    # What a client becomes as a node, and how a graph draws itself: inside functions, so that nothing comes along.
    found = [
        (file.relative_to(ROOT / "dynamo/langgraph").as_posix(), line)
        for file in sorted((ROOT / "dynamo/langgraph").rglob("*.py"))
        for line in re.findall(r"^.*(?:from|import) dynamo\.graphs\b.*$", file.read_text(), re.M)
    ]
    assert [file for file, _ in found] == ["_internal/_runnable.py", "pregel/main.py"]
    assert all(line.startswith("        from dynamo.graphs.") for _, line in found)


def test_every_package_has_its_place():
    here = {path.parent.name for path in (ROOT / "dynamo").glob("*/__init__.py")}
    assert here == {*PACKAGES, *BESIDE}


def test_exported_symbols_are_the_declared_ones():
    library = next((ROOT / "dynamo").glob("libdynamo.*"))
    listed = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    exported = {line.split()[2] for line in listed.splitlines() if line.split()[1] in "TDBR"}
    exported = {name for name in exported if not re.match(r"__(asan|tsan|ubsan|odr)|_init$|_fini$", name)}
    declared = set()
    for header in (ROOT / "csrc/include/dynamo").glob("*.h"):
        text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
        for statement in re.findall(r"^DYN_API[^;{]*", text, re.M):
            statement = re.sub(r"DYN_PRINTF\([^)]*\)", "", statement)
            declared.add(re.search(r"(\w+)\s*(?:\(|$|\[)", statement.replace("\n", " ")).group(1))
    assert exported == declared, f"not declared: {exported - declared}; not defined: {declared - exported}"
