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
status=0
asv run --python=same --set-commit-hash "$(git rev-parse HEAD)" --quick --show-stderr "$@" >"$log" 2>&1 || status=$?
cat "$log"
# asv ends with 2 when a benchmark failed; say which, last.
grep -E '(^|[[:space:]])failed([[:space:]]|$)' "$log" && status=1
asv publish >/dev/null 2>&1 && echo "tables and plots: .asv/html/index.html (asv preview shows them)"
exit $status
