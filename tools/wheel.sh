#!/bin/sh
# A wheel with the libraries it needs grafted in, and their licence texts:  tools/wheel.sh PYTHON
set -eu
cd "$(dirname "$0")/.."
py=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
bin=$(dirname "$py")
rm -rf build/wheel wheelhouse
"$py" -m build -q --wheel --outdir build/wheel
# OpenSSL stays outside: each system with this glibc has OpenSSL 3, and keeps it patched, which a copy would not be.
PATH="$bin:$PATH" "$bin/auditwheel" repair --strip --exclude libssl.so.3 --exclude libcrypto.so.3 -w build/wheel/repaired build/wheel/*.whl
"$py" tools/wheel_licences.py build/wheel/repaired/*.whl wheelhouse
size=$(stat -c %s wheelhouse/*.whl)
echo "$(ls wheelhouse/*.whl): $size bytes"
[ "$size" -lt 6000000 ] || { echo "the wheel is over 6 MB" >&2; exit 1; }
# It must import where none of the -dev packages' files is reachable: nothing but libc, libm, libstdc++, OpenSSL and
# the like may come from outside.
rm -rf build/wheel/venv
"$py" -m venv build/wheel/venv
build/wheel/venv/bin/pip install -q wheelhouse/*.whl
cd build/wheel && venv/bin/python ../../tools/wheel_check.py
