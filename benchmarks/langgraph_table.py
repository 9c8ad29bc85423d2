"""The table of docs/performance.md: dynamo.langgraph, langgraph and no engine at all, by turns, case after case.

usage: python benchmarks/langgraph_table.py [--official DIR] [--rounds 3] [--seconds 0.25] [--wall] [--only WORD,WORD]

One process each for `dynamo.langgraph`, for `langgraph` (where it is installed) and for the floor; while one measures,
the others wait. A figure is the best of all rounds, in CPU time of the process unless --wall asks for the clock's.
DIR is the unpacked source distribution of langgraph 1.2.22, for the graphs of its own bench/.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import warnings

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from benchmarks import langgraph_cases  # noqa: E402

OURS, PEER, FLOOR = "dynamo.langgraph", "langgraph", "floor"

# what it is called, (case, mode) or a slope of two, what counts, the bar
ROWS = [
    ("superstep, async", ("ring 1000", "ring 100", "ainvoke"), "overhead", 15),
    ("superstep, sync", ("ring 1000", "ring 100", "invoke"), "overhead", 15),
    ("superstep, async, `updates` streamed", ("ring 1000", "ring 100", "astream"), "overhead", None),
    ("superstep, async, InMemorySaver", ("ring 1000, saver", "ring 100, saver", "ainvoke"), "overhead", 7),
    ("superstep, sync, InMemorySaver", ("ring 1000, saver", "ring 100, saver", "invoke"), "overhead", 5),
    ("Send fan-out of 100, async", ("fan 100", "ainvoke"), "overhead", 10),
    ("Send fan-out of 1,000, async", ("fan 1000", "ainvoke"), "overhead", 14),
    ("subgraphs, 5 levels, async", ("nest 5", "ainvoke"), "overhead", 12),
    ("subgraphs, 5 levels, sync", ("nest 5", "invoke"), "overhead", 12),
    ("1,000 nodes in a row, async", ("row 1000", "ainvoke"), "overhead", 20),
    ("1,000 nodes in a row, sync", ("row 1000", "invoke"), "overhead", 20),
    ("a run of one superstep, async", ("ring 1", "ainvoke"), "total", None),
    ("a run of one superstep, sync", ("ring 1", "invoke"), "total", None),
]
OFFICIAL = [
    ("fanout_to_subgraph_10x, async", ("fanout_to_subgraph", "astream"), "total", 10),
    ("fanout_to_subgraph_10x, sync", ("fanout_to_subgraph", "stream"), "total", None),
    ("wide_state_25x300, sync", ("wide_state", "stream"), "total", 4),
    ("wide_state_25x300, async", ("wide_state", "astream"), "total", None),
    ("react_agent_10x, async", ("react_agent", "astream"), "total", 2.5),
    ("react_agent_10x, sync", ("react_agent", "stream"), "total", 2.5),
    ("pydantic_state_25x300, sync", ("pydantic_state", "stream"), "total", 1.8),
    ("pydantic_state_25x300, async", ("pydantic_state", "astream"), "total", 1.8),
]
OFFICIAL_CASES = {row[1][0] for row in OFFICIAL}


# ------------------------------------------------------------------ the process that measures


def official(folder, case, mode, alone=False):
    """A graph of langgraph's own bench/; or the calls of its nodes' functions `alone`, as a run made them."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import importlib

    import uvloop

    if case == "react_agent":
        from bench.react_agent import react_agent
        from langchain_core.messages import HumanMessage

        graph, given = react_agent(10, None), {"messages": [HumanMessage("hi?")]}
    else:
        module = importlib.import_module("bench." + case)
        if case == "fanout_to_subgraph":
            build = module.fanout_to_subgraph if mode == "astream" else module.fanout_to_subgraph_sync
            graph, given = build().compile(), {"subjects": ["s" * 1000 for _ in range(10)]}
        else:
            graph = getattr(module, case)(300).compile()
            item = ["hi?" * 10, True, 1, 6327816386138, None] * 5
            given = {"messages": [{str(a) * 10: {str(b) * 10: item for b in range(5)} for a in range(5)}]}
    config = {"recursion_limit": 10**9}
    loop = uvloop.new_event_loop()

    async def stream():
        async for _ in graph.astream(given, config, durability="exit"):
            pass

    def run():
        if mode == "astream":
            loop.run_until_complete(stream())
        else:
            for _ in graph.stream(given, config, durability="exit"):
                pass

    return calls_alone(graph, run, loop) if alone else run


def calls_alone(graph, run, loop):
    """Make the calls again that a run made, one after another and without an engine.

    Functions that are no coroutine functions are called on a thread from an event loop, as they have to be there.
    """
    calls = []

    def noting(function):
        def call(*args, **kwargs):
            calls.append((function, args, kwargs))
            return function(*args, **kwargs)

        return call

    def note(graph):
        for node in graph.builder.nodes.values():
            step = node.runnable
            if hasattr(step, "builder"):
                note(step)
            else:
                step.func, step.afunc = noting(step.func), noting(step.afunc)

    note(graph)
    run()
    made = list(calls)

    async def again():
        for function, args, kwargs in made:
            result = function(*args, **kwargs)
            if asyncio.iscoroutine(result):
                await result

    return lambda: loop.run_until_complete(again())


def serve(name, folder, clock):
    """Answer orders: a JSON list of case, mode and seconds a line."""
    warnings.simplefilter("ignore")
    if name != PEER and folder:
        from dynamo.langgraph import install

        install()
    runners = {}
    loop = asyncio.new_event_loop()
    for line in sys.stdin:
        case, mode, seconds = json.loads(line)
        if (case, mode) not in runners:
            runners.clear()
            gc.collect()
            if name == FLOOR and case in OFFICIAL_CASES:
                made = official(folder, case, mode, alone=True)
            elif name == FLOOR:
                made = langgraph_cases.floor(case, mode, loop)
            elif case in langgraph_cases.CASES:
                made = langgraph_cases.CASES[case].runner(name, mode, loop)
            else:
                made = official(folder, case, mode)
            made()
            made()
            runners[case, mode] = made
        run, took, end = runners[case, mode], [], time.perf_counter() + seconds
        while len(took) < 3 or (time.perf_counter() < end and len(took) < 2000):
            if len(took) % 16 == 0:
                gc.collect()
            began = clock()
            run()
            took.append(clock() - began)
        print(json.dumps([min(took), statistics.median(took)]), flush=True)


# ------------------------------------------------------------------ the one that asks


class Worker:
    def __init__(self, name, options):
        command = [sys.executable, str(HERE / "langgraph_table.py"), "--worker", name]
        command += ["--official", options.official] if options.official else []
        command += ["--wall"] if options.wall else []
        env = dict(os.environ, LANGSMITH_TRACING="false")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ask(self, case, mode, seconds):
        self.process.stdin.write(json.dumps([case, mode, seconds]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process for {self.process.args[3]} ended during {case} {mode}")
        return json.loads(line)[0]


def best(workers, names, case, mode, options):
    """The best time of one run, for each of `names`, by turns."""
    found = {}
    for _ in range(options.rounds):
        for name in names:
            took = workers[name].ask(case, mode, options.seconds)
            found[name] = min(took, found.get(name, took))
    return found


def table(workers, rows, options):
    known = {}

    def figure(case, mode, names):
        missing = [name for name in names if (case, mode, name) not in known]
        for name, took in best(workers, missing, case, mode, options).items():
            known[case, mode, name] = took
        return {name: known[case, mode, name] for name in names}

    print("| case | peer, us | ours, us | floor, us | ratio | bar |\n|---|---:|---:|---:|---:|---:|")
    for title, what, counts, bar in rows:
        if options.only and not any(word in title for word in options.only.split(",")):
            continue
        mode, cases = what[-1], what[:-1]
        names = [name for name in workers if name != FLOOR or counts == "overhead" or cases[0] in OFFICIAL_CASES]
        times = [figure(case, mode, names) for case in cases]
        steps = [getattr(langgraph_cases.CASES.get(case), "steps", 1) for case in cases]
        if len(cases) == 2:
            of = {name: (times[0][name] - times[1][name]) / (steps[0] - steps[1]) * 1e6 for name in names}
        else:
            of = {name: times[0][name] / steps[0] * 1e6 for name in names}
        floor = of.get(FLOOR)
        free = floor if counts == "overhead" else 0.0
        ratio = (of[PEER] - free) / (of[OURS] - free) if PEER in of else float("nan")
        shown = "" if floor is None else f"{floor:,.2f}"
        wanted = "" if bar is None else f"{bar:g}"
        print(f"| {title} | {of.get(PEER, 0):,.1f} | {of[OURS]:,.1f} | {shown} | {ratio:.1f} | {wanted} |", flush=True)
    return figure


def idle_key(figure, workers):
    names = [name for name in workers if name != FLOOR]
    for mode in ("ainvoke", "invoke"):
        many, few = figure("one of 101 keys", mode, names), figure("ring 100", mode, names)
        each = ", ".join(f"{name} {(many[name] - few[name]) * 1e6 / 100 / 100:.3f}" for name in names)
        print(f"idle state key per superstep, us, {mode}: {each}")


def children():
    """CPU seconds of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def cold(name, statement, rounds, clock):
    took = []
    for _ in range(rounds):
        began = clock()
        path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", statement.format(name)]
        subprocess.run(command, check=True, env=dict(os.environ, PYTHONPATH=path, LANGSMITH_TRACING="false"))
        took.append(clock() - began)
    return statistics.median(took) * 1e3


HELLO = """
from {0}.graph import StateGraph
g = StateGraph(dict)
g.add_node("n", lambda s: s)
g.set_entry_point("n")
g.compile().invoke({{"a": 1}})
"""


def starts(names, wall, rounds=7):
    clock = time.perf_counter if wall else children
    bare = cold("", "pass", rounds, clock)
    for title, statement in (("import of StateGraph", "from {0}.graph import StateGraph"), ("first result", HELLO)):
        for name in names:
            print(
                f"cold {title}, ms above a bare interpreter, {name}: {cold(name, statement, rounds, clock) - bare:.0f}"
            )


def memory(runs=100_000):
    """Resident memory during many runs."""

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    run = langgraph_cases.CASES["ring 1"].runner(OURS, "invoke")
    arun = langgraph_cases.CASES["ring 1"].runner(OURS, "ainvoke")
    seen = []
    for i in range(runs):
        (run if i % 2 else arun)()
        if i in (runs // 100, runs // 2, runs - 1):
            seen.append(f"{resident():.1f}")
    print(f"{runs:,} runs, resident MiB after 1 %, half, all: {', '.join(seen)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", default="", help="the unpacked source distribution of langgraph")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.25, help="for each figure in each round")
    parser.add_argument("--wall", action="store_true", help="the clock instead of CPU time")
    parser.add_argument("--only", default="", help="rows whose title has one of these words")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return serve(options.worker, options.official, time.perf_counter if options.wall else time.process_time)
    import importlib.util

    names = [OURS, FLOOR]
    with contextlib.suppress(ModuleNotFoundError):
        names += [PEER] if importlib.util.find_spec("langgraph.pregel") else []
    workers = {name: Worker(name, options) for name in names}
    kind = "clock" if options.wall else "CPU"
    print(f"load {os.getloadavg()[0]:.1f}, {kind} time, best of {options.rounds} rounds\n")
    figure = table(workers, ROWS + (OFFICIAL if options.official else []), options)
    if not options.only:
        print()
        idle_key(figure, workers)
        starts([name for name in names if name != FLOOR], options.wall)
        memory()
    for worker in workers.values():
        worker.process.stdin.close()
        worker.process.wait()


if __name__ == "__main__":
    main()
