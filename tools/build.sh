#!/bin/sh
# Build in place and make the environment know the package and its command.
set -eu
cd "$(dirname "$0")/.."
py=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
ls dynamo/libdynamo.* >/dev/null 2>&1 || echo "Building the C library and the extensions: some minutes the first time"
# An editable install once, which builds too; after that only what has changed.
if "$py" - "$PWD" <<'EOF' 2>/dev/null
import importlib.metadata, json, sys
origin = json.loads(importlib.metadata.distribution("dynamo").read_text("direct_url.json"))
sys.exit(origin["url"] != "file://" + sys.argv[1] or not origin["dir_info"].get("editable"))
EOF
then
    set -- setup.py -q build_ext --inplace
else
    set -- -m pip install -q --no-build-isolation --no-deps -e .
fi
"$py" "$@" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
