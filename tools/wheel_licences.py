"""Put the licence texts of grafted libraries into a repaired wheel.

usage: python tools/wheel_licences.py REPAIRED.whl OUTPUT_FOLDER
"""

import base64
import hashlib
import pathlib
import re
import subprocess
import sys
import zipfile


def debian_copyright(library: str) -> tuple[str, bytes]:
    """The Debian package of a library such as libuv.so.1.0.0, and its copyright file."""
    stem = re.sub(r"-[0-9a-f]{8}(?=\.)", "", library, count=1)  # before the first dot, as in libpgm-5-0123abcd.3.so.0
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    stem = stem.split(".so")[0] + ".so"
    paths = [line.split(" => ")[1] for line in known.splitlines() if line.strip().startswith(stem)]
    for path in paths:
        for form in (str(pathlib.Path(path).resolve()), path, path.replace("/usr", "", 1), "/usr" + path):
            found = subprocess.run(["dpkg", "-S", form], capture_output=True, text=True)
            if found.returncode == 0:
                package = found.stdout.split(":")[0]
                return package, pathlib.Path(f"/usr/share/doc/{package}/copyright").read_bytes()
    sys.exit(f"no licence text for {library}: which package has it?")


def record(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}"


def main(wheel: pathlib.Path, folder: pathlib.Path) -> None:
    folder.mkdir(exist_ok=True)
    source = zipfile.ZipFile(wheel)
    names = source.namelist()
    info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
    texts = {}
    for name in names:
        if re.match(r"dynamo\.libs/.*\.so", name):
            package, text = debian_copyright(name.split("/")[1])
            texts[f"{info}/licenses/{package}.txt"] = text
    llhttp = pathlib.Path("/usr/share/doc/node-llhttp/copyright")
    if llhttp.exists():  # compiled in, not grafted
        texts[f"{info}/licenses/node-llhttp.txt"] = llhttp.read_bytes()
    with zipfile.ZipFile(folder / wheel.name, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for name in names:
            data = source.read(name)
            if name == f"{info}/RECORD":
                lines = data.decode().rstrip("\n").split("\n") + [record(n, t) for n, t in texts.items()]
                data = ("\n".join(lines) + "\n").encode()
            target.writestr(source.getinfo(name), data, zipfile.ZIP_DEFLATED, 9)
        for name, text in texts.items():
            target.writestr(name, text)
    print(f"{len(texts)} licence texts added")


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
