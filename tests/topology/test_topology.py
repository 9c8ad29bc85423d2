import os

import pytest

import dynamo
from dynamo._topology import Topology, simd_level


def test_the_numbers_hang_together():
    t = Topology()
    assert 1 <= t.cores <= t.threads and 1 <= t.usable <= t.threads
    assert t.nodes >= 1 and t.packages >= 1 and t.line >= 16
    assert str(t.cores) in repr(t)
    assert simd_level() in ("avx512", "avx2", "neon", "scalar")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be pinned here")
def test_a_thread_is_pinned_and_let_go():
    t, before = Topology(), os.sched_getaffinity(0)
    t.pin(0)
    assert len(os.sched_getaffinity(0)) == 1
    t.pin()
    assert os.sched_getaffinity(0) == before
    with pytest.raises(ValueError, match=str(t.usable)):
        t.pin(t.usable)


def test_a_touched_buffer_has_a_node():
    t = Topology()
    try:
        node = t.node_of(bytearray(b"x" * 100_000))
    except NotImplementedError:
        pytest.skip("this system does not tell")
    assert node is None or 0 <= node < t.nodes
    with pytest.raises(ValueError):
        t.node_of(b"")


def test_show_config_names_the_machine(capsys):
    dynamo.show_config()
    text = capsys.readouterr().out
    assert f"dynamo {dynamo.__version__}" in text and "SIMD level" in text and "cores" in text
