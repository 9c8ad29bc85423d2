"""Run one benchmark script under a peer's interpreter and ours by turns, and print a table of medians and ratios.

usage: python benchmarks/compare.py SCRIPT.py PEER_PYTHON OUR_PYTHON [--rounds 3] [--cpu 1] [--only hash,radix]

The script prints one JSON line for each figure: {"section", "figure", "value", "unit", ...}; `mode` and `loop`, where
present, are part of the figure's name. Both packages may be called `dynamo`, so they live in two environments.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

LOWER_IS_BETTER = {"ms", "us", "MB", "bytes/unique block", "s"}


def figures(python, script, label, only, cpu):
    """One run: {(section, name, unit): value}."""
    command = [python, script, "--label", label] + (["--only", only] if only else [])
    if cpu is not None:
        command = ["taskset", "-c", str(cpu), *command]
    with tempfile.TemporaryDirectory() as folder:  # neither package is found in the current folder
        out = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=dict(os.environ, DYN_LOG="error"))
    found = {}
    for line in out.stdout.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row.get("value"), int | float):
            print(f"{label}: {row.get('section')} {row.get('figure')}: {row.get('error')}", file=sys.stderr)
            continue
        name = " ".join(str(row[key]) for key in ("figure", "mode", "loop") if row.get(key))
        found[row["section"], name, row["unit"]] = row["value"]
        if "p50_us" in row:
            found[row["section"], name + " p50", "us"] = row["p50_us"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script")
    parser.add_argument("peer")
    parser.add_argument("ours")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", help="pin client and server to these CPUs (taskset)")
    parser.add_argument("--only")
    args = parser.parse_args()
    runs = {"peer": [], "ours": []}
    for number in range(args.rounds):
        for label, python in (("peer", args.peer), ("ours", args.ours)):
            runs[label].append(figures(python, os.path.abspath(args.script), label, args.only, args.cpu))
            print(f"round {number + 1} {label}: {len(runs[label][-1])} figures", file=sys.stderr)
    print("| section | figure | unit | peer | ours | ratio |\n|---|---|---|---:|---:|---:|")
    for key in runs["peer"][0]:
        section, name, unit = key
        values = {label: [run[key] for run in runs[label] if key in run] for label in runs}
        peer = statistics.median(values["peer"])
        if not values["ours"]:
            print(f"| {section} | {name} | {unit} | {peer:,.6g} | - | - |")
            continue
        ours = statistics.median(values["ours"])
        over, under = (peer, ours) if unit in LOWER_IS_BETTER else (ours, peer)
        ratio = over / under if under else float("nan")
        print(f"| {section} | {name} | {unit} | {peer:,.6g} | {ours:,.6g} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
