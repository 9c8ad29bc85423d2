"""Hold our sources against another project's, line by line: what do they share?

usage: python tools/compare_sources.py OURS THEIRS [--show 20]

Reads *.py and *.pyx below both folders; comments, docstrings and code all count, with white space evened out. A line
counts when it says something of its own: not when it is one that Python's standard library has too (`if value is
None:`), nor when it only declares an interface (imports, decorators, signatures, annotated fields, type aliases,
__all__). Fails when a run of six or more lines stands in both, or when more than 2 % of our lines stand in theirs.
"""

import argparse
import ast
import pathlib
import re
import sys
import sysconfig

RUN, SHARE = 6, 0.02
DECLARES = re.compile(
    r"^(from|import|@|def|async def|class|cdef|cpdef|ctypedef|cimport)\b"
    r"|^if (typing\.)?TYPE_CHECKING:$"  # what follows are imports
    r"|^\w+: [^=]+( = .*)?$"
)
TYPES = {"TypeAliasType", "TypeVar", "ParamSpec", "NewType"}


def even(line: str) -> str:
    return " ".join(line.split())


def idioms() -> set[str]:
    """What anybody writes: the lines of the standard library."""
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in library.rglob("*.py") if "site-packages" not in path.parts]
    return {even(line) for path in paths for line in path.read_text(errors="replace").splitlines()}


def declaration_lines(text: str) -> set[int]:
    """Numbers of the lines of signatures, imports, decorators and annotated fields, over several lines too."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # Cython
        return set()
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            only = node.body[0]
            bare = isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant) and only.value.value is ...
            lines.update(range(first, only.lineno + bare))  # a bare signature ends in "..."
        elif isinstance(node, (ast.Import, ast.ImportFrom, ast.AnnAssign)) or (
            isinstance(node, ast.Assign)
            and (
                any(getattr(target, "id", "") == "__all__" for target in node.targets)
                or getattr(getattr(node.value, "func", None), "id", "") in TYPES
            )
        ):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def lines_of(folder: pathlib.Path, common: set[str]) -> list[tuple[pathlib.Path, list[tuple[int, str]]]]:
    found = []
    paths = [folder] if folder.is_file() else sorted([*folder.rglob("*.py"), *folder.rglob("*.pyx")])
    for path in paths:
        text = path.read_text()
        declared = declaration_lines(text)
        kept = []
        for number, line in enumerate(text.splitlines(), 1):
            line = even(line)
            if (
                re.search(r"\w\w\w", line)
                and number not in declared
                and line not in common
                and not DECLARES.match(line)
            ):
                kept.append((number, line))
        found.append((path, kept))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=pathlib.Path, nargs="+", help="our folders or files, then theirs")
    parser.add_argument("theirs", type=pathlib.Path)
    parser.add_argument("--show", type=int, default=20, help="how many shared lines and runs to print")
    given = parser.parse_args()
    common = idioms()
    theirs = lines_of(given.theirs, common)
    known = {line for _, lines in theirs for _, line in lines}
    runs_of_theirs = {
        tuple(line for _, line in lines[i : i + RUN]) for _, lines in theirs for i in range(len(lines) - RUN + 1)
    }
    total, shared, runs = 0, [], []
    for folder in given.ours:
        for path, lines in lines_of(folder, common):
            total += len(lines)
            shared += [(path, number, line) for number, line in lines if line in known]
            runs += [
                (path, lines[i][0])
                for i in range(len(lines) - RUN + 1)
                if tuple(line for _, line in lines[i : i + RUN]) in runs_of_theirs
            ]
    for path, number, line in shared[: given.show]:
        print(f"{path}:{number}: {line}")
    for path, number in runs[: given.show]:
        print(f"{path}:{number}: a run of {RUN} lines")
    part = len(shared) / max(total, 1)
    print(f"{len(shared)} of {total} lines ({part:.2%}) and {len(runs)} runs of {RUN} lines stand in both")
    return 1 if runs or part > SHARE else 0


if __name__ == "__main__":
    sys.exit(main())
