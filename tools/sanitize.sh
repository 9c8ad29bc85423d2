#!/bin/sh
# Python tests under a sanitizer:  tools/sanitize.sh asan|tsan PYTHON [pytest arguments]
# Builds a copy apart, so that no object of other flags is reused; then reads the log, because pytest can
# pass over a report.
set -eu
cd "$(dirname "$0")/.."
variant=$1 py=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
shift 2
copy=build/$variant
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard | grep -zEv '^(docs|models)/' | xargs -0 tar cf - | tar xf - -C "$copy"
cd "$copy"
DYN_VARIANT=$variant "$py" setup.py -q build_ext --inplace
library=$(ls dynamo/libdynamo.*)
nm -D "$library" | grep -q "__${variant}_" || { echo "$library was not built for $variant" >&2; exit 1; }
rm -f report.*
case $variant in
asan) preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
      export ASAN_OPTIONS="detect_leaks=0:log_path=$PWD/report:handle_segv=1" UBSAN_OPTIONS="print_stacktrace=1:log_path=$PWD/report" ;;
tsan) preload="$(gcc -print-file-name=libtsan.so)"
      export TSAN_OPTIONS="log_path=$PWD/report:suppressions=$PWD/csrc/tsan.supp:report_signal_unsafe=0:ignore_noninstrumented_modules=1" ;;
esac
export PYTHONMALLOC=malloc PYTHONPATH=$PWD DYN_SANITIZER=$variant
status=0
LD_PRELOAD=$preload "$py" -m pytest -q -p no:cacheprovider -m "not slow and not browser" tests "$@" || status=$?
if ls report.* >/dev/null 2>&1; then
    echo "$variant reported:" >&2
    head -n 60 report.* >&2
    exit 1
fi
exit $status
