"""Where this installation keeps what, and what it was built with."""

import os
import platform
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def get_include() -> str:
    """The folder to pass as ``-I`` to compile against the C API (``#include "dynamo/hash.h"``)."""
    return os.path.join(_HERE, "include")


def get_library_dir() -> str:
    """The folder that holds libdynamo, to pass as ``-L`` and as run-time search path."""
    return _HERE


def show_config() -> None:
    """Print versions, build and machine: paste it into a bug report."""
    from dynamo import __version__

    print(f"dynamo {__version__}, Python {platform.python_version()} on {platform.platform()} {platform.machine()}")
    print(f"installed in {_HERE}")
    for name in ("numpy", "msgspec", "tokenizers", "jinja2", "xllamacpp", "uvloop"):
        try:
            from importlib.metadata import version

            print(f"{name} {version(name)}")
        except Exception:
            print(f"{name} not installed")
    _show_machine()
    sys.stdout.flush()


def _show_machine() -> None:
    from dynamo._topology import Topology, simd_level

    t = Topology()
    caches = ", ".join(f"{name} {_size(n)}" for name, n in (("L1d", t.l1d), ("L2", t.l2), ("L3", t.l3)) if n)
    print(f"SIMD level {simd_level()}; cache line {t.line} B; {caches}")
    print(
        f"{t.packages} packages, {t.nodes} memory nodes with {_size(t.memory)}, {t.cores} cores, {t.threads} threads "
        f"of which {t.usable} are usable here"
    )


def _size(bytes_: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if bytes_ >> shift:
            return f"{bytes_ / (1 << shift):.4g} {unit}"
    return f"{bytes_} B"
