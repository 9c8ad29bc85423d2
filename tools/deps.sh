#!/bin/sh
# Install what is missing, and only that: system packages (apt), then the Python environment.
#   tools/deps.sh PYTHON VENV [EXTRA...]
# With the extra "test" also what only the tests use (a browser). Says nothing when nothing is missing.
set -eu
cd "$(dirname "$0")/.."
python=$1 venv=$2
shift 2
extras=$*

build_packages="gcc libc6-dev make pkg-config libuv1-dev libzmq3-dev libjansson-dev libhwloc-dev libxxhash-dev
                libmsgpack-dev libzstd-dev libssl-dev node-llhttp"
test_packages="chromium curl ca-certificates nginx-light"

packages=$build_packages
case " $extras " in *" test "*) packages="$packages $test_packages" ;; esac

if command -v dpkg-query >/dev/null 2>&1; then
    # A Python that is not Debian's brings its own headers and venv.
    command -v "$python" >/dev/null 2>&1 || packages="$packages python3"
    "$python" -c 'import sysconfig, os, sys; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' \
        2>/dev/null || packages="$packages python3-dev"
    "$python" -c 'import venv, ensurepip' 2>/dev/null || packages="$packages python3-venv"
    missing=
    for package in $packages; do
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
    done
    if [ -n "$missing" ]; then
        sudo=
        if [ "$(id -u)" != 0 ]; then
            command -v sudo >/dev/null 2>&1 || {
                echo "These packages are missing and there is no sudo. As root: apt-get install -y$missing" >&2
                exit 1
            }
            sudo=sudo
        fi
        echo "Installing system packages:$missing"
        log=$(mktemp)
        # shellcheck disable=SC2086
        { $sudo apt-get update -q &&
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing; } \
            >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
        rm -f "$log"
    fi
else
    for name in libuv libzmq jansson hwloc libxxhash msgpack-c libzstd openssl; do
        pkg-config --exists "$name" 2>/dev/null || missing="${missing:-} $name"
    done
    if [ -n "${missing:-}" ]; then
        echo "Missing:${missing}. On macOS: brew install pkg-config libuv zeromq jansson hwloc xxhash msgpack zstd openssl llhttp" >&2
        exit 1
    fi
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "Python 3.10 or newer is needed, $python is $("$python" -V 2>&1). Name another: make PYTHON=python3.11 ..." >&2
    exit 1
}
[ -x "$venv/bin/python" ] || {
    echo "Making the environment $venv with $("$python" -V)"
    "$python" -m venv "$venv"
}
# shellcheck disable=SC2086
wanted=$("$venv/bin/python" tools/requirements.py $extras)
stamp="$venv/.requirements"
# One stamp holds all that was ever asked for, so that serve and test do not take turns installing.
if [ ! -f "$stamp" ] || [ -n "$(echo "$wanted" | grep -vxFf "$stamp")" ]; then
    echo "Installing Python packages into $venv"
    echo "$wanted" | "$venv/bin/python" -m pip install -q --disable-pip-version-check --upgrade -r /dev/stdin
    { cat "$stamp" 2>/dev/null || true; echo "$wanted"; } | sort -u >"$stamp.new"
    mv "$stamp.new" "$stamp"
fi
