#!/bin/sh
# Every check runs, also after one has failed; the status says whether all were clean.
cd "$(dirname "$0")/.." || exit 1
bin=$(cd "$1" && pwd)
PATH="$bin:$PATH"
status=0
run() {
    echo "== $1"
    shift
    "$@" || status=1
}
run ruff "$bin/ruff" check .
run "ruff format" "$bin/ruff" format --check -q .
run cython-lint "$bin/cython-lint" dynamo
# shellcheck disable=SC2046
run clang-format "$bin/clang-format" --dry-run -Werror $(git ls-files 'csrc/*.c' 'csrc/*.h' 'dynamo/*.c')
run mypy "$bin/mypy"
run "mypy examples" "$bin/mypy" --explicit-package-bases examples
# shellcheck disable=SC2046
run stubtest "$bin/stubtest" --mypy-config-file pyproject.toml --allowlist tools/stubtest-allowlist.txt \
    --ignore-unused-allowlist --concise $(cd dynamo && ls _*.pyi | sed 's/\.pyi$//; s/^/dynamo./')
exit $status
