"""Graphs run in threads and event loops at once, cancelled, failing, broken off: nothing may hang, grow or be left.

usage: python tests/langgraph/stress.py [SECONDS] [--threads 4] [--seed N]
       python tests/langgraph/stress.py --runs 100000     the same small graph again and again: memory stays flat

Every thread has its own event loop and all use the same compiled graphs and one saver. A thread that does not finish
anything for a minute counts as hung: the stacks of all threads are printed.
"""

import argparse
import asyncio
import collections
import faulthandler
import gc
import operator
import os
import random
import sys
import threading
import time
import uuid
from contextlib import suppress
from typing import Annotated

from typing_extensions import TypedDict

from dynamo.langgraph.checkpoint.memory import InMemorySaver
from dynamo.langgraph.config import get_stream_writer
from dynamo.langgraph.errors import GraphRecursionError, NodeTimeoutError
from dynamo.langgraph.func import entrypoint, task
from dynamo.langgraph.graph import END, START, StateGraph
from dynamo.langgraph.types import Command, RetryPolicy, Send, interrupt

MODES = ["values", "updates", "custom", "tasks", "debug", "checkpoints"]
PATIENCE = 60.0


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[int], operator.add]


class Broken(Exception):
    pass


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ------------------------------------------------------------------ the graphs
def step(state):
    return {"n": state["n"] + 1, "log": [state["n"]]}


async def astep(state):
    await asyncio.sleep(0)
    return {"n": state["n"] + 1, "log": [state["n"]]}


def note(state):
    return {"log": [state["n"]]}


async def anote(state):
    await asyncio.sleep(0)
    return {"log": [state["n"]]}


def rounds(node, count, **compiled):
    graph = StateGraph(State)
    graph.add_node("step", node)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: END if state["n"] >= count else "step")
    return graph.compile(**compiled)


def fan(node, width):
    graph = StateGraph(State)
    graph.add_node("work", node)
    graph.add_conditional_edges(START, lambda state: [Send("work", {"n": n}) for n in range(width)], ["work"])
    graph.add_edge("work", END)
    return graph.compile()


def nested(node, depth, **compiled):
    graph = rounds(node, 3)
    for level in range(depth):
        outer = StateGraph(State)
        outer.add_node("inner", graph)
        outer.add_edge(START, "inner")
        graph = outer.compile(**(compiled if level == depth - 1 else {}))
    return graph


def sometimes(state):
    if random.random() < 0.3:
        raise Broken("now and then")
    get_stream_writer()(state["n"])
    return {"log": [state["n"]]}


async def slow(state):
    await asyncio.sleep(random.random() * 0.004)
    return {"log": [1]}


def ask(state):
    return {"log": [interrupt("how many?")]}


def asking(saver):
    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("other", step)
    for name in ("ask", "other"):
        graph.add_edge(START, name)
    outer = StateGraph(State)
    outer.add_node("inner", graph.compile())
    outer.add_edge(START, "inner")
    return outer.compile(checkpointer=saver)


def retried():
    graph = StateGraph(State)
    policy = RetryPolicy(max_attempts=2, initial_interval=0.0001, jitter=False, retry_on=Broken)
    graph.add_node("sometimes", sometimes, retry_policy=policy)
    graph.add_edge(START, "sometimes")
    return graph.compile()


def timed():
    graph = StateGraph(State)
    graph.add_node("slow", slow, timeout=0.002)
    graph.add_node("step", step)
    for name in ("slow", "step"):
        graph.add_edge(START, name)
    return graph.compile()


def around(inner):
    """A graph whose nodes call others as functions, one of them in a thread of its own."""

    def calls(state):
        return inner.invoke({"n": 0, "log": []})

    async def acalls(state):
        done = await asyncio.gather(*(inner.ainvoke({"n": 0, "log": []}) for _ in range(3)))
        return done[0]

    both = []
    for node in (calls, acalls):
        graph = StateGraph(State)
        graph.add_node("calls", node)
        graph.add_edge(START, "calls")
        both.append(graph.compile())
    return both


@task
def double(x):
    if x == 13:
        raise Broken("thirteen")
    return 2 * x


@entrypoint()
def flow(xs):
    return [future.result() for future in [double(x) for x in xs]]


class Work:
    """What threads do, over and over."""

    def __init__(self):
        self.saver = InMemorySaver()
        self.loop, self.aloop = rounds(step, 6), rounds(astep, 6)
        self.kept, self.akept = rounds(step, 4, checkpointer=self.saver), rounds(astep, 4, checkpointer=self.saver)
        self.fan, self.afan = fan(note, 8), fan(anote, 8)
        self.nested, self.anested = nested(step, 3, checkpointer=self.saver), nested(astep, 3, checkpointer=self.saver)
        self.asking, self.retried, self.timed = asking(self.saver), retried(), timed()
        self.calls, self.acalls = around(self.nested)

    def thread_id(self):
        return {"configurable": {"thread_id": uuid.uuid4().hex}}

    def forget(self, config):
        self.saver.delete_thread(config["configurable"]["thread_id"])

    # ---- in a thread
    def rounds_end(self):
        assert self.loop.invoke({"n": 0, "log": []}) == {"n": 6, "log": list(range(6))}

    def too_many(self):
        try:
            self.loop.invoke({"n": 0, "log": []}, {"recursion_limit": 3})
        except GraphRecursionError:
            return
        raise AssertionError("no limit")

    def all_at_once(self):
        done = self.fan.invoke({"n": 0, "log": []}, {"max_concurrency": random.choice([None, 1, 3])})
        assert sorted(done["log"]) == list(range(8))

    def kept_and_forgotten(self):
        config = self.thread_id()
        for _ in range(2):
            assert self.kept.invoke({"n": 0}, config)["n"] == 4
        assert len(list(self.kept.get_state_history(config))) == 12
        self.forget(config)

    def levels(self):
        config = self.thread_id()
        assert self.nested.invoke({"n": 0, "log": []}, config)["n"] == 3
        self.forget(config)

    def answered(self):
        config = self.thread_id()
        assert self.asking.invoke({"n": 0, "log": []}, config)["__interrupt__"]
        assert 7 in self.asking.invoke(Command(resume=7), config)["log"]
        self.forget(config)

    def now_and_then(self):
        with suppress(Broken):
            list(self.retried.stream({"n": 0, "log": []}, stream_mode=["custom", "updates"]))

    def broken_off(self):
        config = self.thread_id()
        stream = self.nested.stream({"n": 0, "log": []}, config, stream_mode=MODES, subgraphs=True)
        for _, _ in zip(range(random.randrange(12)), stream, strict=False):
            pass
        stream.close()
        self.forget(config)

    def one_slot(self):
        config = {"max_concurrency": 1, **self.thread_id()}
        assert list(self.nested.stream({"n": 0, "log": []}, config, stream_mode=MODES, subgraphs=True))
        self.forget(config)

    def functions(self):
        assert flow.invoke([1, 2, 3]) == [2, 4, 6]
        with suppress(Broken):
            flow.invoke([1, 13])

    def inside(self):
        config = self.thread_id()
        assert self.calls.invoke({"n": 0, "log": []}, config)["n"] == 3
        self.forget(config)

    # ---- in an event loop
    def runs(self):
        """Coroutines, and how to forget what they kept."""
        first, second, third = self.thread_id(), self.thread_id(), self.thread_id()
        begin = {"n": 0, "log": []}
        yield self.aloop.ainvoke(begin), None
        yield self.loop.ainvoke(begin), None
        yield self.afan.ainvoke(begin, {"max_concurrency": random.choice([None, 1, 3])}), None
        yield self.fan.ainvoke(begin), None
        yield self.timed.ainvoke(begin), None
        yield self.acalls.ainvoke(begin, first), first
        yield self.akept.ainvoke(begin, second, durability=random.choice(["sync", "async", "exit"])), second
        yield self.shown(random.randrange(20), third), third
        yield self.retried.ainvoke(begin), None

    async def shown(self, count, config):
        stream = self.anested.astream({"n": 0, "log": []}, config, stream_mode=MODES, subgraphs=True)
        try:
            async for _ in stream:
                count -= 1
                if not count:
                    break
        finally:
            await stream.aclose()

    async def together(self):
        runs = random.sample(list(self.runs()), 9)
        tasks = [asyncio.create_task(run) for run, _ in runs]
        for _ in range(random.randrange(12)):
            await asyncio.sleep(0)
        for each in random.sample(tasks, 3):
            each.cancel()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(done, (dict, type(None), Broken, NodeTimeoutError, asyncio.CancelledError)):
                raise AssertionError(f"a run ended with {done!r}") from (
                    done if isinstance(done, BaseException) else None
                )
        # A run that is cancelled while it ends goes on ending by itself.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others and (await asyncio.wait(others, timeout=PATIENCE / 2))[1]:
            raise AssertionError(f"tasks that do not end: {others}")
        for _, config in runs:
            if config:
                self.forget(config)


IN_A_THREAD = (
    Work.rounds_end,
    Work.too_many,
    Work.all_at_once,
    Work.kept_and_forgotten,
    Work.levels,
    Work.answered,
    Work.now_and_then,
    Work.broken_off,
    Work.one_slot,
    Work.functions,
    Work.inside,
)


class Worker(threading.Thread):
    """Works until it is time."""

    def __init__(self, work, until, seed):
        super().__init__(daemon=True)
        self.work, self.until, self.random = work, until, random.Random(seed)
        self.count, self.failure, self.alive = collections.Counter(), None, time.monotonic()

    def run(self):
        loop = asyncio.new_event_loop()
        try:
            while time.monotonic() < self.until:
                if self.random.random() < 0.3:
                    what = Work.together
                    loop.run_until_complete(self.work.together())
                else:
                    what = self.random.choice(IN_A_THREAD)
                    what(self.work)
                self.count[what.__name__] += 1
                self.alive = time.monotonic()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()


def left():
    """How many objects of runs there are."""
    from dynamo import _pregel, _superstep
    from dynamo.langgraph.pregel import _loop, _runner
    from dynamo.langgraph.types import PregelExecutableTask

    kinds = (
        _loop.PregelLoop,
        _runner.PregelRunner,
        _pregel.PregelScratchpad,
        _pregel.LocalRead,
        _pregel.Preparer,
        _superstep.LoopCore,
        PregelExecutableTask,
    )
    gc.collect()
    return collections.Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds))


def stress(seconds, threads, seed):
    work, begun = Work(), time.monotonic()
    workers = [Worker(work, begun + seconds, seed + number) for number in range(threads)]
    for worker in workers:
        worker.start()
    sizes, shown = [], begun
    while any(worker.is_alive() for worker in workers):
        time.sleep(min(0.2, seconds / 20))
        now = time.monotonic()
        if now - shown >= seconds / 10:
            shown = now
            sizes.append(resident())
            done = sum(sum(worker.count.values()) for worker in workers)
            print(f"{now - begun:6.0f} s  {done:8d} rounds  {sizes[-1] / 2**20:6.1f} MiB", flush=True)
        if any(worker.is_alive() and now - worker.alive > PATIENCE for worker in workers):
            print("hung:", file=sys.stderr)
            faulthandler.dump_traceback()
            return 1
    counts = sum((worker.count for worker in workers), collections.Counter())
    print(dict(sorted(counts.items())))
    failures = [worker.failure for worker in workers if worker.failure]
    still, kept = left(), len(work.saver.storage) + len(work.saver.writes) + len(work.saver.blobs)
    grown = sizes[-1] - sizes[len(sizes) // 3] if sizes else 0
    print(
        f"left of runs: {dict(still) or 'nothing'}; in the saver: {kept}; grown since a third: {grown / 2**20:.1f} MiB"
    )
    return 1 if failures or still or kept or grown > 24 * 2**20 else 0


def flat(runs):
    """Memory of many short runs, without a saver and with one whose threads are dropped."""
    work, worst = Work(), 0
    begin = {"n": 0, "log": []}

    def kept():
        config = work.thread_id()
        work.kept.invoke(begin, config)
        work.forget(config)

    async def many(count):
        for _ in range(count):
            await work.aloop.ainvoke(begin)

    def times(what):
        def repeat(count):
            for _ in range(count):
                what()

        return repeat

    ways = {
        "invoke": times(lambda: work.loop.invoke(begin)),
        "ainvoke": lambda count: asyncio.run(many(count)),
        "invoke, InMemorySaver": times(kept),
    }
    for name, repeat in ways.items():
        repeat(runs // 10)
        gc.collect()
        before = resident(), sys.getallocatedblocks()
        begun = time.process_time()
        repeat(runs)
        took = time.process_time() - begun
        gc.collect()
        grown, blocks = resident() - before[0], sys.getallocatedblocks() - before[1]
        worst = max(worst, blocks)
        print(
            f"{name:22s} {runs} runs, {1e6 * took / runs:6.1f} us each: {grown / 2**20:+.2f} MiB of "
            f"{before[0] / 2**20:.1f}, {blocks:+d} blocks; left: {dict(left()) or 'nothing'}",
            flush=True,
        )
    return 1 if worst > 500 or left() else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int)
    given = parser.parse_args()
    return flat(given.runs) if given.runs else stress(given.seconds, given.threads, given.seed)


if __name__ == "__main__":
    sys.exit(main())
