"""Run inside an environment that has only the wheel: does everything import, from inside the wheel alone?"""

import importlib
import pathlib
import pkgutil

import dynamo

SYSTEM = "libc.so libm.so libdl.so librt.so libpthread.so libresolv.so libgcc_s libstdc++ ld-linux libz.so"
EXTRAS = "jinja2 tokenizers rich xllamacpp gguf matplotlib langgraph langchain_core xxhash typing_extensions"
for module in pkgutil.walk_packages(dynamo.__path__, "dynamo."):
    # The C library lies among the modules and ends like one.
    if module.name.endswith("__main__") or module.name == "dynamo.libdynamo":
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS.split():
            raise
here = str(pathlib.Path(dynamo.__file__).parent.parent)
foreign = set()
for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
    path = line.split()[-1]
    if ".so" in path and not path.startswith(here) and "python" not in path.lower() and "numpy" not in path:
        foreign.add(path)
foreign = {path for path in foreign if not pathlib.Path(path).name.startswith(tuple(SYSTEM.split()))}
foreign = {path for path in foreign if "lib-dynload" not in path and "site-packages" not in path}
# What the interpreter itself links is not ours.
own = {"libcrypto", "libssl", "libffi", "libexpat", "libbz2", "liblzma", "libuuid", "libsqlite3", "libmpdec"}
left = {path for path in foreign if not any(pathlib.Path(path).name.startswith(name) for name in own)}
if left:
    raise SystemExit(f"loaded from outside the wheel: {sorted(left)}")
root = pathlib.Path(dynamo.__file__).parent
for pattern in ("*.pyi", "*.pxd", "py.typed", "include/dynamo/hash.h"):
    assert list(root.glob(pattern)), f"the wheel has no {pattern}"
print("the wheel imports alone")
