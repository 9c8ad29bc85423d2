"""Build libdynamo from csrc once, then one extension for each dynamo/_*.pyx and dynamo/_*.c.

Nothing is listed here: a new file under its naming rule is built. DYN_VARIANT=asan or tsan builds the
library and the extensions for that sanitizer.
"""

import glob
import multiprocessing
import os
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
    ext_modules=cythonize(
        [extension(path) for path in sorted(glob.glob("dynamo/_*.pyx"))],
        build_dir="build/cython",
        # Where processes are not forked, each would run this file again.
        nthreads=JOBS if multiprocessing.get_start_method() == "fork" else 0,
        compiler_directives={"language_level": 3, "binding": True, "embedsignature": False},
    )
    + [extension(path) for path in sorted(glob.glob("dynamo/_*.c"))],
    cmdclass={"build_ext": BuildExt},
)
