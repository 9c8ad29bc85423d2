"""Build libdynamo from csrc once, then one extension for each dynamo/_*.pyx and dynamo/_*.c.

Nothing is listed here: a new file under its naming rule is built. DYN_VARIANT=asan or tsan builds the
library and the extensions for that sanitizer.
"""

import glob
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = os.path.dirname(os.path.abspath(__file__))
os.chdir(ROOT)
DARWIN = sys.platform == "darwin"
LIBRARY = "libdynamo.dylib" if DARWIN else "libdynamo.so"
VARIANT = os.environ.get("DYN_VARIANT", "release")
JOBS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SANITIZE = {"asan": ["-fsanitize=address"], "tsan": ["-fsanitize=thread"]}.get(VARIANT, [])


def extension(path: str) -> Extension:
    name = "dynamo." + os.path.splitext(os.path.basename(path))[0]
    return Extension(
        name,
        [path],
        include_dirs=["csrc/include", "."],  # the second for dynamo/_*.h
        libraries=["dynamo"],
        runtime_library_dirs=["@loader_path" if DARWIN else "$ORIGIN"],
        extra_compile_args=["-O1" if SANITIZE else "-O2", "-g", "-Wno-unused-function", *SANITIZE],
        extra_link_args=SANITIZE,
        depends=glob.glob("csrc/include/dynamo/*.h") + glob.glob("dynamo/_*.h"),
    )


def strict(extensions: list[Extension]) -> list[Extension]:
    """Make the C that Cython wrote strict about integers: __index__ only, and a refusal names the type that came.

    By itself it takes whatever has __int__, so that 1.5 would be worker 1. tests/binding holds that it works.
    """
    for path in (source for ext in extensions for source in ext.sources if source.endswith(".c")):
        with open(path) as file:
            text = file.read()
        better = (
            text.replace("m && m->nb_int)", "m && m->nb_index)")
            .replace("res = m->nb_int(x);", "res = m->nb_index(x);")
            .replace("res = PyNumber_Long(x);", "res = PyNumber_Index(x);")
        )
        better = re.sub(
            r'PyErr_SetString\(PyExc_TypeError,\s*"an integer is required"\)',
            'PyErr_Format(PyExc_TypeError, "an int is required, not %.200s", Py_TYPE(x)->tp_name)',
            better,
        )
        if better != text:
            with open(path, "w") as file:
                file.write(better)
    return extensions


class BuildExt(build_ext):
    """build_ext that makes libdynamo first and puts it and the public headers beside the extensions."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or JOBS
        if self.editable_mode:
            # pip names folders of its own; with the usual ones `build_ext --inplace` has nothing left to do.
            tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
            self.build_lib, self.build_temp = f"build/lib.{tag}", f"build/temp.{tag}"

    def run(self) -> None:
        try:
            subprocess.run(
                ["make", "--no-print-directory", "-C", "csrc", f"-j{JOBS}", f"VARIANT={VARIANT}", "lib"], check=True
            )
        except subprocess.CalledProcessError as error:
            raise SystemExit("dynamo: the C library did not build; the line above says what is missing") from error
        built = os.path.join("csrc", "build", VARIANT, LIBRARY)
        here = self.inplace or getattr(self, "editable_mode", False)
        package = "dynamo" if here else os.path.join(self.build_lib, "dynamo")
        headers = os.path.join(package, "include", "dynamo")
        os.makedirs(headers, exist_ok=True)
        for header in glob.glob("csrc/include/dynamo/*.h"):
            shutil.copy2(header, headers)
        # Replace, do not overwrite: a process that has the old library mapped keeps it.
        shutil.copy2(built, os.path.join(package, LIBRARY + ".new"))
        os.replace(os.path.join(package, LIBRARY + ".new"), os.path.join(package, LIBRARY))
        for ext in self.extensions:
            ext.library_dirs.append(os.path.dirname(built))
        super().run()


setup(
    ext_modules=strict(
        cythonize(
            [extension(path) for path in sorted(glob.glob("dynamo/_*.pyx"))],
            build_dir="build/cython",
            # Where processes are not forked, each would run this file again.
            nthreads=JOBS if multiprocessing.get_start_method() == "fork" else 0,
            # auto_pickle: who can be pickled says how; the others refuse by name instead of copying what they can.
            compiler_directives={"language_level": 3, "binding": True, "embedsignature": False, "auto_pickle": False},
            # The directives stand in this file, and Cython looks at the dates of its own.
            force=any(os.path.getmtime(c) < os.path.getmtime("setup.py") for c in glob.glob("build/cython/dynamo/*.c")),
        )
    )
    + [extension(path) for path in sorted(glob.glob("dynamo/_*.c"))],
    cmdclass={"build_ext": BuildExt},
)
