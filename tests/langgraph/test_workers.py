"""Threads that are kept between runs: reused, limited, forgetful, and gone when nobody needs them."""

import concurrent.futures
import contextvars
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest

from dynamo._workers import Crew, keeper

PATIENT = 30.0


def later(crew, fn, *args, **kwargs):
    future = concurrent.futures.Future()
    crew.submit(future, fn, args, kwargs)
    return future


@pytest.fixture
def crew():
    made = Crew(3)
    yield made
    made.close()


@pytest.fixture
def impatient():
    before, keeper.patience = keeper.patience, 0.05
    yield
    keeper.patience = before


def test_a_limit_of_no_threads_is_refused():
    with pytest.raises(ValueError, match="0: it must be at least 1"):
        Crew(0)


def test_work_is_done_in_order_by_no_more_threads_than_allowed(crew):
    guard, running, most, order = threading.Lock(), 0, 0, []

    def work(number):
        nonlocal running, most
        with guard:
            order.append(number)
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with guard:
            running -= 1
        return number

    futures = [later(crew, work, number) for number in range(30)]
    assert [future.result(PATIENT) for future in futures] == list(range(30))
    assert order[:3] and most <= 3
    assert all(abs(number - at) < 3 for at, number in enumerate(order))


def test_as_many_jobs_run_beside_one_another_as_the_limit_allows(crew):
    together = threading.Barrier(3)
    assert sorted(f.result(PATIENT) for f in [later(crew, together.wait, PATIENT) for _ in range(3)]) == [0, 1, 2]


def test_failures_and_cancellations_reach_the_future():
    crew, hold, begun = Crew(1), threading.Event(), threading.Event()
    first = later(crew, lambda: (begun.set(), hold.wait(PATIENT)))
    second, third, last = later(crew, int), later(crew, int, "no number"), later(crew, sys.exit, 3)
    assert begun.wait(PATIENT) and second.cancel() and not first.cancel()
    hold.set()
    assert isinstance(third.exception(PATIENT), ValueError)
    assert isinstance(last.exception(PATIENT), SystemExit)
    assert second.cancelled()
    crew.close()


def test_closing_waits_for_everything_and_lets_nothing_more_in():
    crew, done = Crew(2), []
    for number in range(8):
        later(crew, lambda number=number: (time.sleep(0.002), done.append(number)))
    crew.close()
    assert sorted(done) == list(range(8))
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        later(crew, int)


def test_threads_are_used_again_by_the_next_run():
    seen = set()
    for _ in range(20):
        crew = Crew(2)
        seen.add(later(crew, threading.get_ident).result(PATIENT))
        crew.close()
    assert len(seen) == 1


def test_a_thread_has_a_name_and_is_known_to_threading(crew):
    thread = later(crew, threading.current_thread).result(PATIENT)
    assert type(thread) is threading.Thread and thread.name.startswith("dynamo-worker-") and not thread.daemon


def test_threads_that_nobody_needs_end(impatient):
    crew = Crew(3)
    together = threading.Barrier(3)
    threads = [later(crew, lambda: (together.wait(PATIENT), threading.current_thread())[1]) for _ in range(3)]
    threads = [future.result(PATIENT) for future in threads]
    crew.close()
    for thread in threads:
        thread.join(PATIENT)
        assert not thread.is_alive()


def test_a_crew_that_is_dropped_gives_its_threads_back(impatient):
    crew = Crew(1)
    thread = later(crew, threading.current_thread).result(PATIENT)
    del crew
    gc.collect()
    thread.join(PATIENT)
    assert not thread.is_alive()


def test_nothing_of_a_run_stays_in_a_thread_that_waits():
    class Thing:
        pass

    variable, local = contextvars.ContextVar("variable", default=None), threading.local()
    thing = Thing()
    alive = weakref.ref(thing)

    def work(given):
        assert not hasattr(local, "thing") and variable.get() is outer
        local.thing = given
        variable.set(given)
        return threading.get_ident()

    threads, outer = [], None
    for _ in range(2):
        crew = Crew(1)
        threads.append(later(crew, work, thing).result(PATIENT))
        crew.close()
    del thing
    assert threads[0] == threads[1] and alive() is None


def test_what_a_job_raised_does_not_stay_either():
    crew = Crew(1)

    class Failure(Exception):
        pass

    def fail():
        raise Failure

    future = later(crew, fail)
    alive = weakref.ref(future.exception(PATIENT))
    crew.close()
    del future
    gc.collect()
    assert alive() is None


def test_a_job_sees_the_context_of_who_gave_it(crew):
    variable = contextvars.ContextVar("variable")
    variable.set("mine")
    inside = later(crew, lambda: (variable.get(), variable.set("its"))[0])
    assert inside.result(PATIENT) == "mine" == variable.get()


def test_a_debugger_that_came_later_sees_the_threads():
    crew = Crew(1)
    before = later(crew, threading.get_ident).result(PATIENT)
    crew.close()
    seen = []
    old = threading.getprofile()
    threading.setprofile(lambda frame, *_: seen.append(frame.f_code.co_name))
    try:
        crew = Crew(1)
        after = later(crew, lambda: (lambda: threading.get_ident())()).result(PATIENT)
        crew.close()
    finally:
        threading.setprofile(old)
    assert "<lambda>" in seen
    assert before != after or seen


def test_many_crews_at_once():
    def one(number):
        crew = Crew(1 + number % 4)
        try:
            return sum(f.result(PATIENT) for f in [later(crew, int, n) for n in range(number)])
        finally:
            crew.close()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(30):
            assert list(pool.map(one, range(20))) == [sum(range(n)) for n in range(20)]


# ------------------------------------------------------------------ processes

PROGRAM = """
import operator, os, signal, sys, threading, time
from typing import Annotated
from typing_extensions import TypedDict
from dynamo._workers import keeper
from dynamo.langgraph.graph import START, StateGraph

class State(TypedDict):
    log: Annotated[list, operator.add]

def graph(*nodes):
    made = StateGraph(State)
    for number, node in enumerate(nodes):
        made.add_node(f"n{number}", node)
        made.add_edge(START, f"n{number}")
    return made.compile()

quick = graph(*[lambda s, n=n: {"log": [n]} for n in range(4)])
"""


def play(program, **options):
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        **options,
    )


def said(process):
    out, errors = process.communicate(timeout=PATIENT)
    assert process.returncode == 0, errors
    return out


def test_the_interpreter_exits_at_once_while_threads_wait():
    began = time.monotonic()
    assert said(play("keeper.patience = 3600; print(quick.invoke({'log': []}))")) == "{'log': [0, 1, 2, 3]}\n"
    assert time.monotonic() - began < PATIENT / 2


def test_work_under_way_is_finished_before_the_interpreter_exits():
    process = play(
        """
        keeper.patience = 3600
        started, release = threading.Event(), threading.Event()
        def slow(state):
            started.set()
            release.wait()
            sys.stdout.write("written\\n")
            sys.stdout.flush()
            return {"log": [1]}
        app = graph(slow, slow)
        stream = app.stream({"log": []})         # nobody goes on with it
        threading.Thread(target=lambda: sys.stdout.write(f"{list(stream)}\\n")).start()
        started.wait()
        threading.Timer(0.05, release.set).start()
        """
    )
    lines = said(process).splitlines()
    assert lines[:2] == ["written", "written"] and "n0" in lines[2] and "n1" in lines[2]


def test_a_run_that_was_broken_off_does_not_keep_the_interpreter():
    process = play(
        """
        keeper.patience = 3600
        app = graph(*[lambda s, n=n: {"log": [n]} for n in range(12)])
        stream = app.stream({"log": []})
        print(len(next(stream)))
        """
    )
    assert said(process) == "1\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_graphs_run_in_a_child_of_fork():
    process = play(
        """
        print(quick.invoke({"log": []}), keeper.threads > 0, flush=True)
        for _ in range(3):
            child = os.fork()
            if not child:
                ok = keeper.threads == 0 and quick.invoke({"log": []}) == {"log": [0, 1, 2, 3]}
                os._exit(0 if ok else 1)
            assert os.waitpid(child, 0)[1] == 0
        print(quick.invoke({"log": []}))
        """
    )
    assert said(process) == "{'log': [0, 1, 2, 3]} True\n{'log': [0, 1, 2, 3]}\n"


def test_control_c_ends_a_run_that_waits_for_its_threads():
    process = play(
        """
        keeper.patience = 3600
        release = threading.Event()
        def slow(state):
            sys.stdout.write("slow\\n")
            sys.stdout.flush()
            release.wait(30)
            return {"log": [1]}
        import faulthandler; faulthandler.dump_traceback_later(25, exit=True)
        def stop(*_):
            release.set()
            raise KeyboardInterrupt
        signal.signal(signal.SIGINT, stop)
        try:
            graph(slow, slow).invoke({"log": []})
        except KeyboardInterrupt:
            print("stopped", quick.invoke({"log": []}))
        """
    )
    assert process.stdout.readline() == "slow\n" and process.stdout.readline() == "slow\n"
    process.send_signal(signal.SIGINT)
    assert said(process) == "stopped {'log': [0, 1, 2, 3]}\n"
