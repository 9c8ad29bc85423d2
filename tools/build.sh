#!/bin/sh
# Build in place and make the environment know the package and its command.
set -eu
cd "$(dirname "$0")/.."
py=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$py" setup.py -q build_ext --inplace >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
# An editable install once; after that only the extensions change.
if ! "$py" - "$PWD" <<'EOF' 2>/dev/null
import importlib.metadata, json, sys
url = json.loads(importlib.metadata.distribution("dynamo").read_text("direct_url.json"))["url"]
sys.exit(url != "file://" + sys.argv[1])
EOF
then
    "$py" -m pip install -q --no-build-isolation --no-deps -e . >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
fi
