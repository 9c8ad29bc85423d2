#!/bin/sh
# Python tests under a sanitizer:  tools/sanitize.sh asan|tsan PYTHON [pytest arguments]
# Builds a copy apart, so that no object of other flags is reused; then reads the logs, because pytest can
# pass over a report. One run of pytest for each folder of tests (or one in all when arguments are given), each
# ended after LIMIT seconds (600), so that what hangs is named and the others are still tested.
# The sanitizer is preloaded into Python programs alone: curl, for one, hangs with it. So it is not in the
# environment: the tests start Python through the script $copy/python (tests/conftest.py makes it sys.executable).
set -eu
cd "$(dirname "$0")/.."
variant=$1 py=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
shift 2
copy=$PWD/build/$variant
case $variant in
asan) preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" ;;
tsan) preload=$(gcc -print-file-name=libtsan.so) ;;
*) echo "$0: asan or tsan, not $variant" >&2; exit 2 ;;
esac

mkdir -p "$copy"
# What was removed or renamed since the last time must go; what was built stays.
find "$copy" \( -path "$copy/build" -o -path "$copy/csrc/build" \) -prune -o -type f ! -name '*.so' -exec rm -f {} +
git ls-files -z --cached --others --exclude-standard | grep -zEv '^(docs|models)/' |
    tar cf - --null --ignore-failed-read -T - | tar xf - -C "$copy"
cd "$copy"
DYN_VARIANT=$variant "$py" setup.py -q build_ext --inplace >build.log 2>&1 || { tail -n 40 build.log >&2; exit 1; }
library=$(ls dynamo/libdynamo.*)
nm -D "$library" | grep -q "__${variant}_" || { echo "$library was not built for $variant" >&2; exit 1; }
printf '#!/bin/sh\nLD_PRELOAD="%s" exec "%s" "$@"\n' "$preload" "$py" >python
chmod +x python

rm -f report.*
# Leaks are for the C tests to find: an interpreter never gives everything back.
export ASAN_OPTIONS="detect_leaks=0:log_path=$copy/report" UBSAN_OPTIONS="print_stacktrace=1:log_path=$copy/report"
export TSAN_OPTIONS="log_path=$copy/report:suppressions=$copy/csrc/tsan.supp:report_signal_unsafe=0\
:ignore_noninstrumented_modules=1:die_after_fork=0"
export PYTHONMALLOC=malloc PYTHONPATH="$copy" DYN_SANITIZER="$variant" DYN_SANITIZER_PYTHON="$copy/python"
status=0 tested=0
run() { # name, pytest arguments
    name=$1 rc=0
    shift
    # INT: pytest ends what the tests started. In the foreground, so that Ctrl-C reaches it too.
    timeout --foreground -s INT -k 20 "${LIMIT:-600}" ./python -m pytest -q -p no:cacheprovider --durations=5 --durations-min=10 \
        -m "not slow and not browser" "$@" >"log.$name" 2>&1 || rc=$?
    # 5: none of its tests is selected.
    [ $rc != 5 ] || rc=0
    passed=$(sed -n 's/.*[^0-9]\([0-9][0-9]*\) passed.*/\1/p; s/^\([0-9][0-9]*\) passed.*/\1/p' "log.$name" | tail -n 1)
    tested=$((tested + ${passed:-0}))
    echo "$variant $name: $(tail -n 1 "log.$name")"
    [ $rc != 0 ] || return 0
    status=$rc
    cat "log.$name" >&2
    case $rc in 124 | 137) echo "$variant: the tests of $name did not end within ${LIMIT:-600} s" >&2 ;; esac
    [ $rc != 2 ] && [ $rc != 130 ] || exit $rc # Ctrl-C, or nothing that could be run
}
rm -f log.*
if [ $# -gt 0 ]; then
    run all "$@"
else
    for area in tests/*/ tests/test_*.py; do
        find "$area" -name 'test_*.py' 2>/dev/null | grep -q . || continue
        area=${area%/}
        run "${area##*/}" "$area"
    done
fi
if ls report.* >/dev/null 2>&1; then
    head -n 60 report.* >&2
    echo "$variant: $(ls report.* | wc -l) programs reported; the logs are $copy/report.*" >&2
    exit 1
fi
if [ $status = 0 ]; then
    echo "$variant: no reports, $tested tests passed"
else
    echo "$variant: no reports, but tests failed (pytest ended with $status); the logs are $copy/log.*" >&2
fi
exit $status
