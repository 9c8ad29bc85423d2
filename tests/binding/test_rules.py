"""The rules of the border (docs/design/binding.md), held for every public extension type that the modules have."""

import gc
import itertools
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref

import pytest

from ..conftest import ROOT
from . import rows
from .rows import ROWS, Row

TYPES = rows.extension_types()
FINAL = rows.final_types()


def named(condition):
    """Parametrise over the types whose row meets a condition."""
    return pytest.mark.parametrize("name", sorted(name for name in TYPES if name in ROWS and condition(ROWS[name])))


def test_every_type_has_a_row():
    assert set(TYPES) == set(ROWS), "new types get a row in tests/binding/rows.py, and the rules then hold for them"


class Wrong:
    """What nobody expects as an argument."""


@named(lambda row: row.wrong)
def test_a_wrong_argument_is_a_type_error_that_names_what_came(name):
    for number, call in enumerate(ROWS[name].wrong):
        with pytest.raises(TypeError) as error:
            call(Wrong())
        assert "Wrong" in str(error.value), f"call {number} says: {error.value}"


@named(lambda row: row.refused)
def test_refusals_come_through_the_one_table(name):
    for number, call in enumerate(ROWS[name].refused):
        with pytest.raises(Exception) as error:
            call()
        assert isinstance(error.value, rows.TABLE), f"call {number} raised {error.value!r}"
        assert not isinstance(error.value, TypeError) and len(str(error.value)) > 5


@pytest.mark.parametrize("name", sorted(TYPES))
def test_a_type_is_final_exactly_when_its_stub_says_so(name):
    row = ROWS.get(name, Row())
    if name in FINAL or row.sealed:
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Sub", (TYPES[name],), {})
        return
    sub = type("Sub", (TYPES[name],), {})
    made = row.make and row.make()
    if made is not None and type(made) is TYPES[name] and not row.inside:
        try:
            instance = sub()
        except TypeError:
            return  # it needs arguments
        assert isinstance(instance, TYPES[name])


@named(lambda row: row.value)
def test_a_value_survives_pickling(name):
    made = ROWS[name].make()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(made, protocol))
        assert type(back) is type(made)
        if type(made).__eq__ is not object.__eq__ and name != "_tensor.Tensor":
            assert back == made
        assert repr(back) == repr(made)


@named(lambda row: not row.value)
def test_what_is_no_value_refuses_to_be_pickled_by_name(name):
    cls = TYPES[name]
    if issubclass(cls, dict):
        pytest.skip("it pickles as the dict that it is")
    try:
        made = ROWS[name].make() if ROWS[name].make else cls.__new__(cls)
    except TypeError:
        pytest.skip("nobody can make one without its arguments")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match=rf"(pickle.*{cls.__name__}|{cls.__name__}.*pickled)"):
            pickle.dumps(made, protocol)


@named(lambda row: row.make is not None and not row.inside)
def test_what_people_see_says_what_it_is(name):
    text = repr(ROWS[name].make())
    assert TYPES[name].__name__ in text and " at 0x" not in text


@named(lambda row: row.cycle)
def test_a_cycle_through_it_is_collected(name):
    class Holder:
        pass

    holder = Holder()
    holder.made = ROWS[name].cycle(holder)
    seen = weakref.ref(holder)
    del holder
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("name", sorted(n for n in set(TYPES) - FINAL if n not in ROWS or not ROWS[n].sealed))
def test_a_subclass_in_a_cycle_is_collected(name):
    sub = type("Sub", (TYPES[name],), {})
    try:
        made = sub.__new__(sub)
    except TypeError:
        pytest.skip("nobody can make one without its arguments")
    made.me = made
    seen = weakref.ref(made)
    del made
    gc.collect()
    assert seen() is None


@named(lambda row: row.view)
def test_memory_stays_while_a_view_of_it_lives(name):
    import numpy as np

    made = ROWS[name].make()
    view = ROWS[name].view(made)
    before = np.asarray(view).tobytes()
    del made
    gc.collect()
    rubbish = [bytes(len(before)) for _ in range(1000)]
    assert np.asarray(view).tobytes() == before and len(rubbish) == 1000


@named(lambda row: row.long)
def test_other_threads_run_during_long_work(name):
    work = ROWS[name].long()
    work()  # what is made on first use is made
    # On a busy machine the other thread may get no processor; while the GIL is held it never would.
    until = time.monotonic() + 20
    while time.monotonic() < until:
        ticks, ready, stop = [], threading.Event(), threading.Event()

        def tick(ticks=ticks, ready=ready, stop=stop):
            while not stop.is_set():
                ticks.append(time.monotonic())
                ready.set()
                time.sleep(0.0005)

        thread = threading.Thread(target=tick)
        thread.start()
        ready.wait(10)
        start = time.monotonic()
        work()
        took = time.monotonic() - start
        stop.set()
        thread.join()
        during = [start, *(at for at in ticks if start < at < start + took), start + took]
        gap = max(b - a for a, b in itertools.pairwise(during))
        if took > 0.005 and gap < took / 2:
            return
    pytest.fail(f"of {took * 1e3:.0f} ms nobody else ran for {gap * 1e3:.0f}")


def run(code, *args, cwd, timeout=100):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DYN_LOG": "error"}
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
        cwd=cwd,
    )


EMPTY = """
import importlib, inspect, sys
kind = getattr(importlib.import_module("dynamo." + sys.argv[1]), sys.argv[2])
try:
    made = kind.__new__(kind)
except TypeError:
    sys.exit(0)
SKIP = {"wait", "__class__", "__init__", "__init_subclass__", "__subclasshook__", "__new__"}
for args in ((), (1,), ("x",), (None,), (object(),), ([1, 2],), (1, 2), ("a", "b"), (b"abc",), ([1], 1), (1, 2, 3)):
    for name in dir(kind):
        if name in SKIP:
            continue
        try:
            value = getattr(made, name)
            if callable(value):
                print(name, args, flush=True)
                value = value(*args)
                if inspect.iscoroutine(value):
                    value.close()
        except Exception:
            pass
for look in (repr, str, bool, len, list, memoryview, hash):
    try:
        print(look, flush=True)
        look(made)
    except Exception:
        pass
del made
print("whole")
"""


@pytest.mark.parametrize("name", sorted(TYPES))
def test_one_that_was_never_initialised_does_no_harm(name, tmp_path):
    # A subclass whose __init__ forgets super().__init__() must get an exception, not the end of the process.
    done = run(EMPTY, *name.split("."), cwd=tmp_path)  # some write where they are told to
    assert done.returncode == 0, f"after {done.stdout.splitlines()[-1:]}: {done.stderr[:500]}"


EXIT = """
import gc, os, sys
sys.path.insert(0, {root!r})
from tests.binding.rows import ROWS
made = {{name: row.make() for name, row in ROWS.items() if row.make}}
class Node: pass
node = Node(); node.me = node; node.all = list(made.values())
child = os.fork()
if child == 0:
    for one in made.values():
        repr(one)
    made.clear()
    del node
    gc.collect()
    os._exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
import atexit
atexit.register(lambda: [repr(one) for one in made.values()])
print(len(made))
"""


@pytest.mark.skipif("TSAN_OPTIONS" in os.environ, reason="it cannot follow a fork beside threads")
def test_a_forked_child_may_look_and_drop_and_the_interpreter_may_exit_with_all_of_them_alive(tmp_path):
    done = run(EXIT.format(root=str(ROOT)), cwd=tmp_path)
    assert done.returncode == 0 and int(done.stdout) >= 30, done.stdout + done.stderr
    assert "Error" not in done.stderr, done.stderr


def test_a_capsule_frees_its_array_exactly_once():
    import numpy as np

    class Array(np.ndarray):
        pass

    for consume in (False, True):
        freed = []
        array = np.ones(8, np.float32).view(Array)
        weakref.finalize(array, freed.append, 1)
        tensor = rows.of("_tensor", "Tensor").from_numpy(array, copy=False)
        if not hasattr(tensor, "__dlpack__"):
            pytest.skip("no DLPack here")
        del array
        capsule = tensor.__dlpack__()
        if consume:

            class Producer:
                def __dlpack__(self, *, capsule=capsule, **_):
                    return capsule

                def __dlpack_device__(self):
                    return (1, 0)

            taken = np.from_dlpack(Producer())
            del Producer
            gc.collect()
            del tensor, capsule
            gc.collect()
            assert freed == [] and taken.sum() == 8
            del taken
        else:
            del tensor
            assert freed == []
            del capsule
        gc.collect()
        assert freed == [1]


@named(lambda row: row.make is not None and row.value)
def test_what_is_dropped_leaves_nothing_behind(name):
    row: Row = ROWS[name]

    def some():
        for _ in range(500):
            made = row.make()
            repr(made)
            pickle.loads(pickle.dumps(made, 4))
        del made
        gc.collect()
        return sys.getallocatedblocks()

    some()
    assert some() - some() < 100 and some() - some() < 100
