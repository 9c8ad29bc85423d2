#!/bin/sh
# asv's benchmarks on this checkout, each run once, and their tables:  tools/bench.sh PYTHON [arguments of asv run]
set -eu
cd "$(dirname "$0")/.."
py=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
cd benchmarks
PATH="$(dirname "$py"):$PATH"
asv machine --yes >/dev/null
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# One launch of each, the shortest that times it at all: this asks whether they run. For figures to compare, asv run.
code=0
{
    asv run --python=same --set-commit-hash "$(git rev-parse HEAD)" --quick --show-stderr "$@" 2>&1 || code=$?
    echo "status $code"
} | tee "$log"
status=$(sed -n 's/^status //p' "$log" | tail -n 1)
# asv ends with 0 or 2 when a benchmark has failed: say which, last.
if grep -E '(^|[[:space:]])failed([[:space:]]|$)' "$log" >&2; then status=1; fi
asv publish >/dev/null 2>&1 && echo "tables and plots: .asv/html/index.html (cd benchmarks && asv preview)"
exit "$status"
